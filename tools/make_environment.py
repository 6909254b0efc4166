"""Make a virtual environment beside the project's: pinned packages and nothing of the project.

Runs with nothing but the standard library. For packages that cannot share the project's environment, such as those
that open deliveries.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

GB = 10**9


def main() -> int:
    """Create or update the environment; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--venv", type=Path, required=True, help="folder of the environment")
    parser.add_argument("--constraints", type=Path, required=True, help="file with the pinned versions")
    add_disk_options(parser)
    parser.add_argument("packages", nargs="+", help="what to install")
    options = parser.parse_args()

    python = environment(options.venv, size_gb=options.size_gb, download_gb=options.download_gb)
    print(f"Installing {', '.join(options.packages)}; this may take some minutes ...", flush=True)
    command = [python, "-m", "pip", "install", "--quiet", "-c", str(options.constraints), *options.packages]
    try:
        subprocess.run(command, check=True, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    except subprocess.CalledProcessError as error:
        print(f"{options.venv} is not complete: pip ended with status {error.returncode}.")
        return 1
    return 0


def add_disk_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how much disk space an environment takes."""
    parser.add_argument("--size-gb", type=float, required=True, help="size of the finished environment")
    parser.add_argument(
        "--download-gb", type=float, required=True, help="what pip downloads before it unpacks it"
    )


def environment(folder: Path, *, size_gb: float, download_gb: float) -> Path:
    """The Python of the environment in ``folder``, which is made if there is none.

    Raises:
        SystemExit: There is less disk space than it still takes, or the environment could not be made.
    """
    require_disk_space(folder, size_gb=size_gb, download_gb=download_gb)
    python = folder / "bin" / "python"
    if python.exists():
        return python
    print(f"Making {folder} ...", flush=True)
    try:
        venv.create(folder, with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"The environment could not be made: {error}. On Debian: apt install python3-venv")
    return python


def require_disk_space(folder: Path, *, size_gb: float, download_gb: float) -> None:
    """Raise SystemExit if a disk would be full before the environment in ``folder`` is complete."""
    there_gb = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()) / GB
    missing = max(0.0, 1 - there_gb / size_gb)
    parent = next(parent for parent in folder.absolute().parents if parent.is_dir())
    downloads = Path(tempfile.gettempdir())
    needed_gb = {parent: missing * size_gb, downloads: missing * download_gb}
    if parent.stat().st_dev == downloads.stat().st_dev:
        needed_gb = {parent: missing * (size_gb + download_gb)}
    for place, gigabytes in needed_gb.items():
        free_gb = shutil.disk_usage(place).free / GB
        if free_gb < gigabytes:
            sys.exit(
                f"Making {folder.name} takes {gigabytes:.1f} GB in {place}, and {free_gb:.1f} GB are free there. "
                "Free some, or set TMPDIR to a folder on another disk: that is where the downloads go. pip's cache "
                "(PIP_CACHE_DIR) comes on top; PIP_NO_CACHE_DIR=1 does without."
            )


if __name__ == "__main__":
    sys.exit(main())
