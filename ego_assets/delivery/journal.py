"""Remembers which files of a delivery are finished, so that writing goes on where it was interrupted.

The journal lies beside the files while they are written and names each one with size and digest once it is on the disk.
What it does not name is written again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ego_assets.schema.artifact import FileEntry

JOURNAL = ".journal.jsonl"
_TEMPORARY = ".part"
_BLOCK_BYTES = 1 << 20


class Journal:
    """Writes the files of one delivery.

    Args:
        folder: The delivery that is being made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / JOURNAL
        self._entries = {entry.name: entry for entry in _read(self._path) if _is_there(folder, entry)}

    @property
    def entries(self) -> Mapping[str, FileEntry]:
        """The finished files by path relative to the delivery."""
        return dict(self._entries)

    def has(self, name: str) -> bool:
        """Whether a file is finished."""
        return name in self._entries

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """A file to write; it appears under its name, finished, when the ``with`` ends without an error."""
        with self.create_path(name) as path, path.open("wb", buffering=_BLOCK_BYTES) as file:
            yield file

    @contextmanager
    def create_path(self, name: str) -> Iterator[Path]:
        """As :meth:`create`, for writers that want a path; its name ends like the file's."""
        target = self._folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{_TEMPORARY}-{target.name}")
        try:
            yield temporary
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        self.add(name)

    def add(self, name: str) -> FileEntry:
        """Note a file that is there as finished."""
        path = self._folder / name
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        entry = FileEntry(name=name, bytes=path.stat().st_size, sha256=digest)
        with self._path.open("a", encoding="utf-8") as journal:
            journal.write(json.dumps([entry.name, entry.bytes, entry.sha256]) + "\n")
            journal.flush()
            os.fsync(journal.fileno())
        self._entries[name] = entry
        return entry

    def close(self) -> None:
        """Remove the journal: the delivery is whole."""
        self._path.unlink(missing_ok=True)


def _read(path: Path) -> Iterator[FileEntry]:
    """Entries of a journal; one that a killed process left unfinished is passed over."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            name, size, digest = json.loads(line)
        except ValueError:
            continue
        yield FileEntry(name=name, bytes=size, sha256=digest)


def _is_there(folder: Path, entry: FileEntry) -> bool:
    path = folder / entry.name
    return path.is_file() and path.stat().st_size == entry.bytes
