"""Make a virtual environment beside the project's: pinned packages and nothing of the project.

Runs with nothing but the standard library. For packages that cannot share the project's environment, such as those
that open deliveries.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import venv
from pathlib import Path


def main() -> int:
    """Create or update the environment; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--venv", type=Path, required=True, help="folder of the environment")
    parser.add_argument("--constraints", type=Path, required=True, help="file with the pinned versions")
    parser.add_argument("packages", nargs="+", help="what to install")
    options = parser.parse_args()

    python = options.venv / "bin" / "python"
    if not python.exists():
        print(f"Making {options.venv} ...", flush=True)
        try:
            venv.create(options.venv, with_pip=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"The environment could not be made: {error}. On Debian: apt install python3-venv")
            return 1
    print(f"Installing {', '.join(options.packages)}; this may take some minutes ...", flush=True)
    command = [python, "-m", "pip", "install", "--quiet", "-c", str(options.constraints), *options.packages]
    try:
        subprocess.run(command, check=True, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    except subprocess.CalledProcessError as error:
        print(f"{options.venv} is not complete: pip ended with status {error.returncode}.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
