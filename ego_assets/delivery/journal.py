"""Remembers which files of a delivery are finished, so that writing goes on where it was interrupted.

The journal lies beside the files while they are written and names each one with size and digest once it is on the disk.
What it does not name is written again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from ego_assets.schema.artifact import FileEntry, digest_of

JOURNAL = ".journal.jsonl"
_TEMPORARY = ".part"
#: Large enough that hashing a block and writing it take longer than handing it over, and small enough that it is still
#: in the processor's cache when both read it: blocks of 4 MiB take three times as long.
_BLOCK_BYTES = 1 << 20
#: Most pieces that the system takes at once.
_MOST_PIECES = 1024


class HashedFile:
    """A new file whose digest is known when it is closed: a block is hashed while it is written.

    Args:
        path: The file; replaced where it exists.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._digest = hashlib.sha256()
        self._hasher = ThreadPoolExecutor(max_workers=1)
        self._hashing: Future[None] | None = None
        #: Kept apart: gathering them in one buffer would copy everything once more.
        self._pieces: list[bytes] = []
        self._waiting = 0
        self.bytes = 0

    def write(self, data: bytes | memoryview) -> int:
        """Append ``data``; returns its size."""
        # A copy of what may change before it is written; of bytes this makes none.
        piece = bytes(data)
        size = len(piece)
        self._pieces.append(piece)
        self._waiting += size
        self.bytes += size
        if self._waiting >= _BLOCK_BYTES or len(self._pieces) == _MOST_PIECES:
            self._flush()
        return size

    @property
    def sha256(self) -> str:
        """Digest of the content, hexadecimal; complete once the file is closed."""
        return self._digest.hexdigest()

    def close(self) -> None:
        """Finish the file and wait until it is on the disk."""
        try:
            self._flush()
            if self._hashing is not None:
                self._hashing.result()
            os.fsync(self._file.fileno())
        finally:
            self._hasher.shutdown()
            self._file.close()

    def _flush(self) -> None:
        if self._hashing is not None:
            self._hashing.result()
        pieces, size = self._pieces, self._waiting
        self._pieces, self._waiting = [], 0
        self._hashing = self._hasher.submit(self._hash, pieces)
        written = os.writev(self._file.fileno(), pieces) if pieces else 0
        if written < size:
            # The system took a part of it only; what is left says why.
            left = memoryview(b"".join(pieces))[written:]
            while left:
                left = left[self._file.write(left) :]

    def _hash(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            self._digest.update(piece)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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
    def create(
        self, name: str, *, accept: Callable[[str], None] = lambda sha256: None
    ) -> Iterator[HashedFile]:
        """A file to write; it appears under its name, finished, when the ``with`` ends without an error.

        Args:
            name: Path relative to the delivery.
            accept: Called with the digest of what was written; what it raises keeps the file from appearing.
        """
        with self._temporary(name) as path:
            with HashedFile(path) as file:
                yield file
            accept(file.sha256)
            path.replace(self._folder / name)
        self._note(FileEntry(name=name, bytes=file.bytes, sha256=file.sha256))

    @contextmanager
    def create_path(self, name: str) -> Iterator[Path]:
        """As :meth:`create`, for writers that want a path; it ends as the file's name does."""
        with self._temporary(name) as path:
            yield path
            path.replace(self._folder / name)
        self.add(name)

    def add(self, name: str) -> None:
        """Note a file that is there already as finished."""
        path = self._folder / name
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        self._note(FileEntry(name=name, bytes=path.stat().st_size, sha256=digest))

    @contextmanager
    def create_tree(self, name: str) -> Iterator[Path]:
        """As :meth:`create_path`, for a folder of many small files, which is one entry: ``name/``."""
        target = self._folder / name
        temporary = target.with_name(f"{_TEMPORARY}-{target.name}")
        for left in (temporary, target):
            shutil.rmtree(left, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            entry = tree_entry(temporary, name)
            temporary.replace(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._note(entry)

    def adopt(self, entry: FileEntry) -> None:
        """Note a file or folder that is there already, whose digest is known."""
        self._note(entry)

    @contextmanager
    def _temporary(self, name: str) -> Iterator[Path]:
        target = self._folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{_TEMPORARY}-{target.name}")
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def _note(self, entry: FileEntry) -> None:
        with self._path.open("a", encoding="utf-8") as journal:
            journal.write(json.dumps([entry.name, entry.bytes, entry.sha256]) + "\n")
            journal.flush()
            os.fsync(journal.fileno())
        self._entries[entry.name] = entry

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


def tree_entry(folder: Path, name: str) -> FileEntry:
    """A folder as one entry: the digest of the sorted list of its files' paths and digests."""
    files, size = [], 0
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                files.append(
                    [path.relative_to(folder).as_posix(), hashlib.file_digest(file, "sha256").hexdigest()]
                )
            size += path.stat().st_size
    return FileEntry(name=f"{name}/", bytes=size, sha256=digest_of(files))


def _is_there(folder: Path, entry: FileEntry) -> bool:
    path = folder / entry.name
    if entry.name.endswith("/"):
        # It got its name when all of it was there.
        return path.is_dir()
    return path.is_file() and path.stat().st_size == entry.bytes
