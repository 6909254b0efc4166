"""Scripted models with the interface of EgoBlur Gen2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_SCRIPT = Path(__file__).with_name("egoblur_script.py")


def write_egoblur(path: Path) -> None:
    """A model that takes red for faces and blue for plates, saved by another process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-W", "ignore", str(_SCRIPT), str(path)], check=True)
