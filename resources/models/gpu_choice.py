"""Which of several GPUs a process takes: one that no other process of this platform has."""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

_lock = threading.Lock()
#: Number and open lock file of the GPU that this process took; the lock goes with the process.
_taken: dict[tuple[str, ...], tuple[int, int]] = {}


def take_gpu(identities: Sequence[str], folder: Path | None = None) -> int:
    """Number of a GPU for this process, the same at every call.

    Takes the first that no other process of the same user holds. Where there are more processes than GPUs, they are
    spread by process number.

    Args:
        identities: What tells the GPUs apart on this machine, such as their UUIDs, in PyTorch's order; at least one.
        folder: Where the locks lie; a folder of this user among the temporary ones by default.
    """
    key = tuple(identities)
    with _lock:
        if key not in _taken:
            _taken[key] = _free_gpu(key, folder or _default_folder())
        return _taken[key][0]


def _default_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"ego-assets-gpus-{os.getuid()}"


def _free_gpu(identities: tuple[str, ...], folder: Path) -> tuple[int, int]:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for number, identity in enumerate(identities):
        # Not handed on to child processes: they take one of their own.
        descriptor = os.open(folder / f"{identity}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
        else:
            return number, descriptor
    return os.getpid() % len(identities), -1
