"""Where the vault's files lie: a folder, or the objects below a URL. Neither knows what is in them.

Keys are paths relative to the vault, with ``/``. What is written becomes visible complete or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

from ego_assets.schema.buckets import BucketAccess

if TYPE_CHECKING:
    from resources.database import Database

FOLDER_MODE = 0o700
FILE_MODE = 0o600

#: How names of files begin that are being written.
UNFINISHED = ".incoming-"
#: No upload of one file takes that long.
_ABANDONED_AFTER_S = 86_400.0


class VaultPlace(Protocol):
    """What the vault needs of the place that it is in."""

    def exclusive(self, key: str) -> AbstractContextManager[None]:
        """Keep other processes and threads out of what follows for this part of the vault."""

    def staged(self, key: str) -> AbstractContextManager[Path]:
        """A free local path; the file that is made there becomes ``key`` when the ``with`` ends without an error."""

    def put(self, key: str, content: bytes) -> None:
        """Write or replace a small file."""

    def get(self, key: str) -> bytes | None:
        """A small file; ``None`` where there is none."""

    def open(self, key: str) -> BinaryIO:
        """A file, seekable and unbuffered; ``FileNotFoundError`` where there is none."""

    def size(self, key: str) -> int | None:
        """Size of a file in bytes; ``None`` where there is none."""

    def keys(self, prefix: str = "") -> Iterator[str]:
        """All files below ``prefix``, which is empty or ends with ``/``, sorted."""

    def remove(self, key: str) -> bool:
        """Remove a file; whether there was one."""

    def rename(self, key: str, new_key: str) -> None:
        """Give a file another key, without a moment at which it exists nowhere."""

    def adopt(self, source: Path, key: str) -> bool:
        """Take in a local file or folder by renaming it, or say no where that is impossible."""

    def settle(self, prefix: str) -> int:
        """Give everything below ``prefix`` the modes of the vault, and remove what was never finished.

        The caller holds that part, so that whoever wrote there is dead. Returns the number of files removed.
        """

    def unfinished(self) -> list[str]:
        """What was never finished, or is being written."""

    def remove_all(self, prefix: str) -> None:
        """Remove everything below ``prefix``, folders too; what cannot be removed stays."""


class FolderPlace:
    """A folder: folders have mode 0700, files 0600, and everything is on the disk before it counts.

    Args:
        root: The folder; made when something is written.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @contextlib.contextmanager
    def exclusive(self, key: str) -> Iterator[None]:
        """Held by the folder ``key``, and let go when the process dies."""
        descriptor = os.open(self._folder(key), os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def staged(self, key: str) -> Iterator[Path]:
        """A path in the folder of ``key``."""
        target = self._target(key)
        temporary = target.with_name(f"{UNFINISHED}{uuid.uuid4().hex}")
        try:
            yield temporary
            temporary.rename(target)
            _fsync(target.parent)
        finally:
            temporary.unlink(missing_ok=True)

    def put(self, key: str, content: bytes) -> None:
        """Written beside, then renamed."""
        with self.staged(key) as path:
            write_private(path, content)

    def get(self, key: str) -> bytes | None:
        """The whole file."""
        try:
            return (self._root / key).read_bytes()
        except FileNotFoundError:
            return None

    def open(self, key: str) -> BinaryIO:
        """A descriptor without a path, so that it does not say where it lies; links are not followed."""
        descriptor = os.open(self._root / key, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        return cast(BinaryIO, open(descriptor, "rb", buffering=0))  # noqa: PTH123 (a descriptor, not a path)

    def size(self, key: str) -> int | None:
        """As the file system says."""
        try:
            return (self._root / key).lstat().st_size
        except FileNotFoundError:
            return None

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Without what is being written."""
        for folder, folders, names in os.walk(self._root / prefix):
            folders[:] = sorted(name for name in folders if not name.startswith(UNFINISHED))
            relative = Path(folder).relative_to(self._root)
            for name in sorted(names):
                if not name.startswith(UNFINISHED):
                    yield (relative / name).as_posix()

    def remove(self, key: str) -> bool:
        """The folder stays."""
        try:
            (self._root / key).unlink()
        except FileNotFoundError:
            return False
        _fsync((self._root / key).parent)
        return True

    def rename(self, key: str, new_key: str) -> None:
        """Within the folder."""
        source, target = self._root / key, self._target(new_key)
        source.rename(target)
        target.chmod(FILE_MODE)
        _fsync(target.parent)
        _fsync(source.parent)

    def adopt(self, source: Path, key: str) -> bool:
        """Not from another file system."""
        target = self._target(key)
        try:
            source.rename(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            return False
        _restrict(target)
        _fsync(target.parent)
        if source.parent.is_dir():
            _fsync(source.parent)
        return True

    def settle(self, prefix: str) -> int:
        """Only files that are being written have such names."""
        folder = self._root / prefix
        left = self._unfinished(folder)
        for path in left:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        if folder.is_dir():
            _restrict(folder)
        return len(left)

    def unfinished(self) -> list[str]:
        """Below the folders of the vault: its own description is written in a moment."""
        return [
            path.relative_to(self._root).as_posix()
            for path in self._unfinished(self._root)
            if path.parent != self._root
        ]

    def _unfinished(self, folder: Path) -> list[Path]:
        return sorted(folder.rglob(f"{UNFINISHED}*"))

    def remove_all(self, prefix: str) -> None:
        """The folder, too."""
        folder = self._root / prefix
        shutil.rmtree(folder, ignore_errors=True)
        if folder.parent.is_dir():
            _fsync(folder.parent)

    def _target(self, key: str) -> Path:
        """The path of a file that will be written; its folders are made."""
        *folders, name = key.split("/")
        return self._folder("/".join(folders)) / name

    def _folder(self, key: str) -> Path:
        """A folder of the vault, made where it does not exist."""
        self._root.mkdir(parents=True, exist_ok=True)
        if stat.S_IMODE(self._root.stat().st_mode) != FOLDER_MODE:
            self._root.chmod(FOLDER_MODE)
        folder = self._root
        for part in filter(None, key.split("/")):
            folder = folder / part
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=FOLDER_MODE)
                _fsync(folder.parent)
        return folder


class BucketPlace:
    """The objects below a URL, reached with the vault's own credentials.

    What is being written is prepared in a temporary local folder of mode 0700: encrypted, where the vault is.

    Args:
        url: Such as ``s3://bucket/prefix``.
        access: How the bucket is reached.
        database: Keeps processes apart on all machines.
    """

    def __init__(self, url: str, access: BucketAccess, database: Database) -> None:
        from resources.buckets import Bucket

        self._bucket = Bucket(url, access)
        self._database = database

    @contextlib.contextmanager
    def exclusive(self, key: str) -> Iterator[None]:
        """Held by the database."""
        with self._database.exclusive(f"vault/{key}"):
            yield

    @contextlib.contextmanager
    def staged(self, key: str) -> Iterator[Path]:
        """A path in a temporary folder."""
        with tempfile.TemporaryDirectory(prefix="ego_assets-vault-") as folder:
            path = Path(folder) / "content"
            yield path
            self._bucket.put_file(path, key)

    def put(self, key: str, content: bytes) -> None:
        """One object."""
        self._bucket.put(key, content)

    def get(self, key: str) -> bytes | None:
        """The whole object."""
        return self._bucket.get(key)

    def open(self, key: str) -> BinaryIO:
        """Read by ranges."""
        return self._bucket.open(key)

    def size(self, key: str) -> int | None:
        """As the bucket says."""
        found = self._bucket.info(key)
        return None if found is None else found.bytes

    def keys(self, prefix: str = "") -> Iterator[str]:
        """From the bucket's listing."""
        return (found.key for found in self._bucket.list(prefix))

    def remove(self, key: str) -> bool:
        """The present version; a bucket that keeps versions keeps the others."""
        return self._bucket.remove(key)

    def rename(self, key: str, new_key: str) -> None:
        """Copied through this machine, as it is, then removed."""
        with self.staged(new_key) as path:
            self._bucket.get_file(key, path)
        self._bucket.remove(key)

    def adopt(self, source: Path, key: str) -> bool:
        """Never: it is not in the bucket."""
        return False

    def settle(self, prefix: str) -> int:
        """Objects have no modes; uploads that were never completed are invisible, and removed after a day."""
        return self._bucket.abort_uploads(older_than_s=_ABANDONED_AFTER_S, prefix=prefix)

    def unfinished(self) -> list[str]:
        """None that could be listed: a bucket's objects are complete."""
        return []

    def remove_all(self, prefix: str) -> None:
        """Earlier versions too, in a bucket that keeps them."""
        self._bucket.erase(prefix)


def write_private(path: Path, content: bytes) -> None:
    """Write a new file of mode 0600 and wait until it is on the disk."""
    with created(path) as file:
        view = memoryview(content)
        while view:
            view = view[file.write(view) :]


@contextlib.contextmanager
def created(path: Path) -> Iterator[BinaryIO]:
    """A new file of mode 0600, unbuffered; it is on the disk when the ``with`` ends."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    with open(descriptor, "wb", buffering=0) as file:  # noqa: PTH123 (a descriptor, not a path)
        yield cast(BinaryIO, file)
        os.fsync(descriptor)


def _restrict(path: Path) -> None:
    """Folders 0700 and files 0600, from the top down."""
    for item in (path, *path.rglob("*")):
        if not item.is_symlink():
            item.chmod(FOLDER_MODE if item.is_dir() else FILE_MODE)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
