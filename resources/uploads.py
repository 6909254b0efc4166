"""Uploads that arrive in a bucket: what lies there, and how one of them comes to this machine.

The bucket keeps an object until its content is safe in the vault. Until then nothing of it lies on this machine but,
for the moments of taking it, a private copy in a folder of its own, which is removed however that ends.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import os
import shutil
import unicodedata
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ego_assets.media.uploads import (
    MAX_SIDECAR_BYTES,
    UploadFacts,
    describe_object,
    is_ignored_key,
    is_plain_key,
    sidecar_key,
)
from ego_assets.schema.buckets import BucketAccess
from ego_assets.schema.errors import TransientError

if TYPE_CHECKING:
    from resources.buckets import Bucket, ObjectInfo

_FOLDER_MODE = 0o700
_FILE_MODE = 0o600
_LOCK = ".lock"
#: Room for the endings that the vault adds to the 255 bytes of a file name.
_MAX_NAME_BYTES = 200
#: Longer endings of names are no extensions.
_MAX_EXTENSION_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class FetchedUpload:
    """The private copy of an object, for as long as it is needed.

    Attributes:
        path: The copy; its sidecar, where the object has one, lies beside it.
        info: The object as it was before and after it was copied.
        sidecar: Content of the sidecar, or ``None``.
    """

    path: Path
    info: ObjectInfo
    sidecar: bytes | None


class BucketUploads:
    """The objects below one prefix that are to become clips.

    Args:
        url: The prefix, such as ``s3://bucket/prefix``.
        access: How it is reached.
        workspace: Folder of the private copies; made with mode 0700 when it is needed.
        require_space: Called with a number of bytes and what they are for, before they are written; raises when the
            disk cannot take them.
        bucket: The objects, where they are open already.
    """

    def __init__(
        self,
        url: str,
        access: BucketAccess,
        *,
        workspace: Path,
        require_space: Callable[[int, str], None],
        bucket: Bucket | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.access = access
        self._workspace = workspace
        self._require_space = require_space
        self._opened = bucket

    @property
    def bucket(self) -> Bucket:
        """The objects, by key relative to the prefix."""
        if self._opened is None:
            from resources.buckets import Bucket

            self._opened = Bucket(self.url, self.access)
        return self._opened

    def uri(self, key: str) -> str:
        """Address of an object, as clips and messages name it."""
        return f"{self.url}/{key}"

    def key_of(self, uri: str) -> str | None:
        """Key of the object with this address, or ``None`` when it does not lie below the prefix."""
        prefix = self.url + "/"
        return uri.removeprefix(prefix) if uri.startswith(prefix) and uri != prefix else None

    def at(self, url: str) -> BucketUploads:
        """The same access to the objects below another prefix."""
        return BucketUploads(url, self.access, workspace=self._workspace, require_space=self._require_space)

    def found(self, url: str) -> tuple[BucketUploads, list[ObjectInfo]]:
        """The objects that a URL names, with the access to them: one, or all uploads below a prefix.

        Raises:
            TransientError: The bucket does not answer.
            ConfigurationError: There is no such bucket, or it may not be read.
        """
        folder, _, name = url.rstrip("/").rpartition("/")
        # Without a path the URL names a bucket and no object.
        if urlsplit(url).path.strip("/"):
            beside = self.at(folder)
            info = beside.info(name)
            if info is not None:
                return beside, [info]
        below = self.at(url)
        return below, [info for info in below.bucket.list() if not is_ignored_key(info.key)]

    def info(self, key: str) -> ObjectInfo | None:
        """What the bucket says of an object; ``None`` when it is gone, or has a key that cannot be asked for."""
        return self.bucket.info(key) if is_plain_key(key) else None

    def describe(self, info: ObjectInfo) -> UploadFacts:
        """What an object is, with its sidecar.

        Raises:
            UploadRejected: It cannot be accepted.
            TransientError: The bucket does not answer.
        """
        return self._describe(info, self._sidecar(info.key))

    def facts(self, fetched: FetchedUpload) -> UploadFacts:
        """As :meth:`describe`, from the copy."""
        return self._describe(fetched.info, fetched.sidecar)

    def _describe(self, info: ObjectInfo, sidecar: bytes | None) -> UploadFacts:
        parts = urlsplit(self.url)
        folder = PurePosixPath(parts.path).name or parts.netloc
        return describe_object(
            info.key, size_bytes=info.bytes, version=_etag(info), folder=folder, sidecar=sidecar
        )

    @contextlib.contextmanager
    def fetched(self, key: str) -> Iterator[FetchedUpload | None]:
        """A private copy of an object and its sidecar; ``None`` when the object is gone.

        Raises:
            TransientError: The bucket does not answer, or the object was overwritten meanwhile.
            InsufficientDisk: There is no room for it.
        """
        info = self.info(key)
        if info is None:
            yield None
            return
        # The private copy, and the one that the vault makes of it.
        self._require_space(2 * info.bytes, f"Taking {self.uri(key)} into the vault")
        with self._private_folder() as folder:
            path = folder / _file_name(key)
            with contextlib.suppress(FileNotFoundError):
                self.bucket.get_file(key, path)
                path.chmod(_FILE_MODE)
            after = self.bucket.info(key)
            if not path.exists() or after is None or identity(after) != identity(info):
                raise TransientError(
                    f"{self.uri(key)} was overwritten or removed while it was copied. It is tried again."
                )
            sidecar = self._sidecar(key)
            if sidecar is not None:
                beside = path.with_suffix(".json")
                _touch(beside)
                beside.write_bytes(sidecar)
            yield FetchedUpload(path=path, info=info, sidecar=sidecar)

    def remove(self, fetched: FetchedUpload) -> None:
        """Remove an object whose content is safe; one that was overwritten since stays.

        Its sidecar goes with it where the vault took it out of the private folder.
        """
        key = fetched.info.key
        taken = fetched.sidecar is not None and not fetched.path.with_suffix(".json").exists()
        # The sidecar first: without its video nobody would look at it again.
        if taken and self._sidecar(key) == fetched.sidecar:
            self.bucket.remove(sidecar_key(key))
        now = self.bucket.info(key)
        if now is not None and identity(now) == identity(fetched.info):
            self.bucket.remove(key)

    @contextlib.contextmanager
    def private_file(self, name: str, content: bytes) -> Iterator[Path]:
        """A private file with this content, for the vault to take."""
        with self._private_folder() as folder:
            path = folder / _file_name(name)
            _touch(path)
            path.write_bytes(content)
            yield path

    def missing_file(self, key: str) -> Path:
        """A path under which nothing lies, named as the copy of the object would be."""
        return self._workspace / uuid.uuid4().hex / _file_name(key)

    def _sidecar(self, key: str) -> bytes | None:
        beside = sidecar_key(key)
        info = self.info(beside) if beside != key else None
        if info is None:
            return None
        if info.bytes > MAX_SIDECAR_BYTES:
            # One byte too many is enough to be refused with the right words.
            return self.bucket.get_range(beside, 0, MAX_SIDECAR_BYTES + 1)
        return self.bucket.get(beside)

    @contextlib.contextmanager
    def _private_folder(self) -> Iterator[Path]:
        """A folder that nobody else sees and that is gone afterwards; those of killed processes go as well."""
        self._workspace.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        self._workspace.mkdir(mode=_FOLDER_MODE, exist_ok=True)
        # The lock on the workspace keeps the sweep of another process away until the own folder is locked.
        with _locked(self._workspace):
            for left in self._workspace.iterdir():
                _remove_unlocked(left)
            folder = self._workspace / uuid.uuid4().hex
            folder.mkdir(mode=_FOLDER_MODE)
            _touch(folder / _LOCK)
            lock = os.open(folder / _LOCK, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def identity(info: ObjectInfo) -> str:
    """Short digest of key, ETag and size: the same for the same version of the same object."""
    text = f"{info.key}\0{_etag(info)}\0{info.bytes}"
    digest = hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=9).digest()
    return base64.urlsafe_b64encode(digest).decode()


def _etag(info: ObjectInfo) -> str:
    return info.etag.strip('"')


def _file_name(key: str) -> str:
    """The last part of a key as the name of a file: no control characters, and short enough."""
    name = key.rpartition("/")[2]
    clean = "".join("_" if unicodedata.category(c) in ("Cc", "Cs") else c for c in name)
    stem, suffix = PurePosixPath(clean).stem, PurePosixPath(clean).suffix
    if clean in ("", ".", "..") or len(suffix.encode()) > _MAX_EXTENSION_BYTES:
        stem, suffix = clean.strip(".") or "upload", ""
    room = _MAX_NAME_BYTES - len(suffix.encode())
    return stem.encode()[:room].decode(errors="ignore") + suffix


def _touch(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE))


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_unlocked(folder: Path) -> None:
    """Remove what a process left that is no more."""
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(descriptor)
