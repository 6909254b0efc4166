"""The artifact store: a layer becomes visible when its pointer is replaced, and not before.

Layout below the root::

    {clip_id}/{layer}/{version_id}/...      files of one version, never changed
    {clip_id}/{layer}/artifact.json         names the current version; replaced in one atomic write
    .staging/...                            versions that are being made (local roots only)

A process that is killed at any instant leaves the previous version readable and at worst an unused folder.

In a bucket the files of a version are uploaded first, each complete or invisible, then their sizes are compared, and
the pointer is written last.

Versions are removed on demand only. What shows personal data: :meth:`ArtifactStore.revoke` takes the pointer away, and
:meth:`ArtifactStore.move_version` the files. A clip as a whole: :meth:`ArtifactStore.erase`. What no pointer names any
more: :meth:`ArtifactStore.superseded` finds it, :meth:`ArtifactStore.remove_version` removes it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from stat import S_ISDIR
from typing import Any, BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

from ego_assets import __version__
from ego_assets.media.uploads import is_clip_id
from ego_assets.schema.artifact import ArtifactDocument, FileEntry, data_version_of, digest_of
from ego_assets.schema.buckets import BucketAccess, is_bucket_url
from ego_assets.schema.detections import BackendInfo
from ego_assets.schema.errors import ArtifactCorrupted, ArtifactMissing, TransientError
from resources.buckets import Bucket

POINTER = "artifact.json"
STAGING = ".staging"
#: What a killed process left in the staging area counts as abandoned after this time.
ABANDONED_S = 24 * 3600.0

_LAYER = re.compile(r"[a-z_]+")
_VERSION_ID = re.compile(r"[0-9a-f]{16}")
_REMOTE_STAGING_PREFIX = "ego-assets-staging-"
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class StoreVersion:
    """One version of a layer as it lies in the store.

    Attributes:
        clip_id: The clip.
        layer: The layer.
        version_id: Name of the version's folder.
        bytes: What its files take.
        modified_at: When the last of them was written, UTC.
    """

    clip_id: str
    layer: str
    version_id: str
    bytes: int
    modified_at: dt.datetime


class ArtifactStore:
    """Committed layers of all clips, in a folder or in a bucket.

    Every method of a store in a bucket may raise the errors of :class:`resources.buckets.Bucket`.

    Args:
        root: A local path, a ``file://`` URL, or the URL of a bucket such as ``s3://bucket/prefix``.
        access: How the bucket is reached.
    """

    def __init__(self, root: str, access: BucketAccess | None = None) -> None:
        local = _local_path_of(root)
        self._files: _Files = _RemoteFiles(Bucket(root, access)) if local is None else _LocalFiles(local)

    @property
    def local_root(self) -> Path | None:
        """The folder, or ``None`` for a remote store."""
        return self._files.local_root

    @contextlib.contextmanager
    def stage(self, clip_id: str, layer: str) -> Iterator[StagedLayer]:
        """A folder to make a version in; it is removed at the end unless it was committed.

        Raises:
            ValueError: ``clip_id`` is no UUID or ``layer`` no name in lower-case letters and underscores.
        """
        key = _layer_key(clip_id, layer)
        folder = self._files.new_staging_folder(clip_id)
        try:
            yield StagedLayer(
                clip_id=clip_id,
                layer=layer,
                folder=folder,
                publish=self._publish,
                key=key,
                stays_on_disk=self.local_root is not None,
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _publish(self, folder: Path, document: ArtifactDocument) -> None:
        """Make a staged version the current one."""
        key = _version_key(document)
        if self._is_intact(document):
            self._files.keep(key)
        else:
            self._files.publish(folder, key, document.files)
        pointer = f"{_layer_key(document.clip_id, document.layer)}/{POINTER}"
        self._files.replace(pointer, document.to_json().encode())

    def _is_intact(self, document: ArtifactDocument) -> bool:
        """Whether the version's folder exists with all its content."""
        try:
            self.verify(document)
        except ArtifactCorrupted:
            return False
        return True

    def document(self, clip_id: str, layer: str) -> ArtifactDocument | None:
        """The document of the current version, or ``None`` when nothing is committed.

        Raises:
            ArtifactCorrupted: The pointer cannot be read, or belongs to another clip or layer.
        """
        content = self._files.read(f"{_layer_key(clip_id, layer)}/{POINTER}")
        if content is None:
            return None
        try:
            document = ArtifactDocument.from_json(content.decode())
            _version_key(document)
            for entry in document.files:
                _checked_name(entry.name)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactCorrupted(
                f"{POINTER} of layer {layer} of clip {clip_id} cannot be read ({error}). "
                f"{_remedy(clip_id, layer)}"
            ) from error
        if (document.clip_id, document.layer) != (clip_id, layer):
            raise ArtifactCorrupted(
                f"{POINTER} of layer {layer} of clip {clip_id} describes layer {document.layer} of clip "
                f"{document.clip_id}. {_remedy(clip_id, layer)}"
            )
        return document

    def documents(
        self, *, on_error: Callable[[ArtifactCorrupted], None] | None = None
    ) -> Iterator[ArtifactDocument]:
        """The documents of all current versions, sorted by clip and layer.

        ``on_error`` hears of a pointer that cannot be read, which is then passed over; without it the error
        is raised.
        """
        for clip_id, layer in self._files.layers():
            try:
                document = self.document(clip_id, layer)
            except ArtifactCorrupted as error:
                if on_error is None:
                    raise
                on_error(error)
                continue
            if document is not None:
                yield document

    def open(self, document: ArtifactDocument, name: str) -> BinaryIO:
        """Open one file of a version for reading; the stream is seekable.

        Raises:
            KeyError: The document names no such file.
            ArtifactMissing: The file is gone from the store.
        """
        key = self._file_key(document, name)
        try:
            return self._files.open(key)
        except FileNotFoundError as error:
            raise _missing(document, name) from error

    def read_bytes(self, document: ArtifactDocument, name: str) -> bytes:
        """The content of one file of a version, compared with its digest.

        Raises:
            ArtifactCorrupted: It differs.
            KeyError: The document names no such file.
            ArtifactMissing: The file is gone from the store.
        """
        with self.open(document, name) as file:
            content = file.read()
        _require_digest(document, name, hashlib.sha256(content).hexdigest())
        return content

    def read_range(self, document: ArtifactDocument, name: str, start: int, size: int) -> bytes:
        """``size`` bytes of one file from ``start`` on; in a bucket this is one request. Errors as :meth:`open`."""
        key = self._file_key(document, name)
        try:
            return self._files.read_range(key, start, size)
        except FileNotFoundError as error:
            raise _missing(document, name) from error

    @contextlib.contextmanager
    def local_path(self, document: ArtifactDocument, name: str) -> Iterator[Path]:
        """A local path of one file of a version, for reading only; a remote file is downloaded for so long.

        The content is compared with its digest first, which costs little beside what it is read for.

        Raises:
            ArtifactCorrupted: It differs.
            KeyError: The document names no such file.
            ArtifactMissing: The file is gone from the store.
        """
        key = self._file_key(document, name)
        with contextlib.ExitStack() as stack:
            try:
                path = stack.enter_context(self._files.local_path(key))
            except FileNotFoundError as error:
                raise _missing(document, name) from error
            with path.open("rb") as file:
                _require_digest(document, name, _sha256(file))
            yield path

    def uri(self, document: ArtifactDocument) -> str:
        """Where the version lies: a path or a URL."""
        return self._files.uri(_version_key(document))

    def verify(self, document: ArtifactDocument) -> None:
        """Read every file of a version and compare it with its digest.

        Raises:
            ArtifactCorrupted: A file is absent or differs; the message says which, and how to make it anew.
        """
        for entry in document.files:
            try:
                with self._files.open(self._file_key(document, entry.name)) as file:
                    actual = _sha256(file)
            except FileNotFoundError:
                actual = "no file"
            _require_digest(document, entry.name, actual)

    # --- what must not be readable any more -----------------------------------------------------------

    def revoke(self, clip_id: str, layer: str) -> bool:
        """Take the pointer away, so that the layer has no current version; returns whether there was one.

        The versions stay where they are until :meth:`move_version` or :meth:`discard` takes them.
        """
        return self._files.remove(f"{_layer_key(clip_id, layer)}/{POINTER}")

    def version_ids(self, clip_id: str, layer: str) -> list[str]:
        """Names of all version folders of a layer, the current one and those that are named no longer."""
        return self._files.versions(_layer_key(clip_id, layer))

    def move_version(
        self, clip_id: str, layer: str, version_id: str, *, take: Callable[[Path], None]
    ) -> None:
        """Take one version out of the store; it is gone from there when this returns.

        Args:
            clip_id: The clip.
            layer: The layer.
            version_id: The version, which no pointer may name any more.
            take: Called with a local folder of all its files, which it must have taken into its keeping when it
                returns. For a remote store that folder is a complete download, sizes compared.

        Raises:
            TransientError: The version is the current one, or a download is incomplete; it is still there.
        """
        self._require_not_current(clip_id, layer, version_id)
        self._files.move_out(f"{_layer_key(clip_id, layer)}/{_checked_name(version_id)}", take)

    def discard(self, document: ArtifactDocument) -> None:
        """Remove a version that was published and must not be: its pointer first, then its files."""
        current = self._readable(document.clip_id, document.layer)
        if current is None or current.version_id == document.version_id:
            self.revoke(document.clip_id, document.layer)
        self._files.move_out(_version_key(document), None)

    def discard_staging(self, clip_id: str) -> int:
        """Remove what is being made of a clip at the moment, on this machine; returns the number of folders.

        Who is making it fails at its next file and starts anew. Downloads from a remote store go too, those that a
        killed process left as well.
        """
        found = [path for path in self._files.staging_folders() if _staged_clip(path) == clip_id]
        for folder in found:
            _remove(folder)
        return len(found)

    def erase(self, clip_id: str) -> int:
        """Remove everything of a clip for good: pointers, all versions, and what is being made of it on this machine.

        In a bucket that keeps earlier versions of its objects those go as well.

        Returns:
            The number of files that were removed; 0 when nothing was there.
        """
        if not is_clip_id(clip_id):
            raise ValueError(f"clip_id: expected a lower-case UUID, got {clip_id!r}")
        self.discard_staging(clip_id)
        # Nothing may be readable through a pointer while its files go.
        for layer in self._files.layers_of(clip_id):
            self.revoke(clip_id, layer)
        return self._files.erase(clip_id)

    def superseded(self) -> Iterator[StoreVersion]:
        """Versions that no pointer names: earlier ones, and what a killed process had not published yet.

        A version that is being published at this moment is among them until its pointer is written; judge by
        ``modified_at``. Layers whose pointer cannot be read are passed over, because it may mean any of them.
        """
        for clip_id, layer in self._files.layers():
            try:
                current = self.document(clip_id, layer)
            except ArtifactCorrupted:
                continue
            for version_id in self.version_ids(clip_id, layer):
                if current is None or version_id != current.version_id:
                    found = self._files.described(f"{_layer_key(clip_id, layer)}/{version_id}")
                    if found is not None:
                        yield StoreVersion(clip_id, layer, version_id, *found)

    def remove_version(self, clip_id: str, layer: str, version_id: str) -> None:
        """Remove a version that no pointer names; nothing happens when it is not there.

        Raises:
            TransientError: It is the current one.
            ArtifactCorrupted: The pointer cannot be read, so that it may be the current one.
        """
        current = self.document(clip_id, layer)
        if current is not None and current.version_id == version_id:
            raise _is_current(clip_id, layer, version_id)
        self._files.move_out(f"{_layer_key(clip_id, layer)}/{_checked_name(version_id)}", None)

    def _require_not_current(self, clip_id: str, layer: str, version_id: str) -> None:
        current = self._readable(clip_id, layer)
        if current is not None and current.version_id == version_id:
            raise _is_current(clip_id, layer, version_id)

    def _readable(self, clip_id: str, layer: str) -> ArtifactDocument | None:
        try:
            return self.document(clip_id, layer)
        except ArtifactCorrupted:
            return None

    # --- housekeeping ---------------------------------------------------------------------------------

    def clean_staging(self, *, older_than_s: float = ABANDONED_S) -> int:
        """Remove what killed processes left behind.

        Args:
            older_than_s: Folders in which something changed within this time are left alone.

        Returns:
            The number of folders removed, and in a bucket of unfinished uploads.
        """
        removed = self._files.abort_uploads(older_than_s)
        for folder, _ in self.abandoned_staging(older_than_s=older_than_s):
            _remove(folder)
            removed += 1
        return removed

    def abandoned_staging(self, *, older_than_s: float = ABANDONED_S) -> list[tuple[Path, int]]:
        """The folders that :meth:`clean_staging` removes, each with what it takes in bytes."""
        found = []
        for folder in self._files.staging_folders():
            newest = _newest_change(folder)
            if newest is not None and time.time() - newest >= older_than_s:
                files = [path for path in folder.rglob("*") if path.is_file()]
                found.append((folder, sum(path.lstat().st_size for path in files)))
        return found

    def _file_key(self, document: ArtifactDocument, name: str) -> str:
        return f"{_version_key(document)}/{_checked_name(document.file(name).name)}"


class StagedLayer:
    """A version that is being made; nobody else sees it before :meth:`commit`."""

    def __init__(
        self,
        *,
        clip_id: str,
        layer: str,
        folder: Path,
        publish: Callable[[Path, ArtifactDocument], None],
        key: str,
        stays_on_disk: bool,
    ) -> None:
        self.clip_id = clip_id
        self.layer = layer
        self.folder = folder
        self._publish = publish
        self._key = key
        self._stays_on_disk = stays_on_disk
        self._committed = False

    def path(self, name: str) -> Path:
        """Where to write the file ``name`` (forward slashes; folders are made).

        Raises:
            ValueError: The name leads out of the version.
        """
        target = self.folder / _checked_name(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def commit(
        self,
        *,
        config: Mapping[str, Any],
        inputs: Mapping[str, str],
        backends: Sequence[BackendInfo] = (),
        attempts: Sequence[Mapping[str, Any]] = (),
        counts: Mapping[str, float] | None = None,
        resolution: tuple[int, int] | None = None,
        facts: Mapping[str, Any] | None = None,
        pictures: Mapping[str, str] | None = None,
    ) -> ArtifactDocument:
        """Publish what was written as the current version of the layer.

        The same content made from the same configuration and inputs keeps its version.

        Args:
            config: The settings that made the layer; values that are no JSON are stored as text.
            inputs: Data version of every input layer that was read.
            backends: Models that took part.
            attempts: What a fallback ladder tried, oldest first.
            counts: Plain numbers, such as ``frames``.
            resolution: Width and height in pixels that rasters and boxes refer to.
            facts: What a reader has to know before using the files; JSON-serialisable.
            pictures: Files that show people what was made, by title.

        Returns:
            The document as stored.

        Raises:
            ValueError: Nothing was written, or something that is no ordinary file.
            RuntimeError: It was committed before.
        """
        if self._committed:
            raise RuntimeError(f"{self._key} was committed already: stage it again for another version")
        files = tuple(self._entries())
        if not files:
            raise ValueError(f"{self._key}: nothing was written, so there is nothing to commit")
        stored_config = json.loads(json.dumps(dict(config), default=str))
        config_digest = digest_of(stored_config)
        data_version = data_version_of(files, config_digest, inputs)
        document = ArtifactDocument(
            clip_id=self.clip_id,
            layer=self.layer,
            data_version=data_version,
            version_id=data_version[:16],
            files=files,
            config=stored_config,
            config_digest=config_digest,
            inputs=dict(inputs),
            backends=tuple(backends),
            attempts=tuple(attempts),
            counts=dict(counts or {}),
            resolution=resolution,
            facts=dict(facts or {}),
            pictures=dict(pictures or {}),
            software=f"ego_assets {__version__}",
            committed_at=dt.datetime.now(dt.UTC).isoformat(),
        )
        # What is returned is what a later reader gets; this also finds values that cannot be stored
        # before anything is published.
        stored = ArtifactDocument.from_json(document.to_json())
        self._publish(self.folder, stored)
        self._committed = True
        return stored

    def _entries(self) -> Iterator[FileEntry]:
        paths = sorted(self.folder.rglob("*"), key=lambda path: path.relative_to(self.folder).as_posix())
        for path in paths:
            name = path.relative_to(self.folder).as_posix()
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise ValueError(f"{self._key}: {name} is no ordinary file")
            if path.is_file():
                # The disk is waited for while the digest is computed.
                meanwhile = _synced_meanwhile(path) if self._stays_on_disk else contextlib.nullcontext()
                with meanwhile, path.open("rb") as file:
                    digest = _sha256(file)
                    size = os.fstat(file.fileno()).st_size
                yield FileEntry(name=name, bytes=size, sha256=digest)


# --- where the files lie ------------------------------------------------------------------------------


class _Files(Protocol):
    """Files by key: a path relative to the root, with forward slashes."""

    @property
    def local_root(self) -> Path | None: ...

    def new_staging_folder(self, clip_id: str) -> Path: ...

    def staging_folders(self) -> list[Path]: ...

    def publish(self, folder: Path, key: str, files: Sequence[FileEntry]) -> None: ...

    def keep(self, key: str) -> None: ...

    def replace(self, key: str, content: bytes) -> None: ...

    def read(self, key: str) -> bytes | None: ...

    def remove(self, key: str) -> bool: ...

    def versions(self, key: str) -> list[str]: ...

    def move_out(self, key: str, take: Callable[[Path], None] | None) -> None: ...

    def erase(self, key: str) -> int: ...

    def described(self, key: str) -> tuple[int, dt.datetime] | None: ...

    def abort_uploads(self, older_than_s: float) -> int: ...

    def open(self, key: str) -> BinaryIO: ...

    def read_range(self, key: str, start: int, size: int) -> bytes: ...

    def local_path(self, key: str) -> AbstractContextManager[Path]: ...

    def layers(self) -> Iterator[tuple[str, str]]: ...

    def layers_of(self, clip_id: str) -> list[str]: ...

    def uri(self, key: str) -> str: ...


class _LocalFiles:
    """A folder: versions are renamed into place, so that publishing moves no data."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def local_root(self) -> Path | None:
        return self._root

    def new_staging_folder(self, clip_id: str) -> Path:
        folder = self._root / STAGING / f"{clip_id}.{uuid.uuid4().hex}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        # What lies here was not judged yet: nobody else may read it.
        folder.parent.chmod(0o700)
        folder.mkdir()
        return folder

    def staging_folders(self) -> list[Path]:
        staging = self._root / STAGING
        return sorted(staging.iterdir()) if staging.is_dir() else []

    def publish(self, folder: Path, key: str, files: Sequence[FileEntry]) -> None:
        for path in sorted(folder.rglob("*"), reverse=True):
            _fsync(path)
        _fsync(folder)
        target = self._root / key
        _make_durable_folder(target.parent, below=self._root)
        try:
            folder.rename(target)
        except OSError:
            if not target.is_dir():
                raise
            # A damaged copy of this very version: its files are replaced one by one, so that a reader
            # finds each of them at any time.
            for entry in files:
                (target / entry.name).parent.mkdir(parents=True, exist_ok=True)
                (folder / entry.name).replace(target / entry.name)
            for path in sorted(target.rglob("*"), reverse=True):
                _fsync(path)
            _fsync(target)
        _fsync(target.parent)

    def keep(self, key: str) -> None:
        # Housekeeping judges by the time: a version that becomes the current one again is not old.
        os.utime(self._root / key)

    def replace(self, key: str, content: bytes) -> None:
        temporary = self._root / STAGING / f"{uuid.uuid4().hex}.json"
        temporary.parent.mkdir(parents=True, exist_ok=True)
        target = self._root / key
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        _fsync(target.parent)

    def read(self, key: str) -> bytes | None:
        try:
            return (self._root / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def remove(self, key: str) -> bool:
        try:
            (self._root / key).unlink()
        except (FileNotFoundError, NotADirectoryError):
            return False
        _fsync((self._root / key).parent)
        return True

    def versions(self, key: str) -> list[str]:
        try:
            found = list((self._root / key).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(path.name for path in found if path.name != POINTER)

    def move_out(self, key: str, take: Callable[[Path], None] | None) -> None:
        folder = self._root / key
        if folder.exists():
            if take is not None:
                take(folder)
            _remove(folder)
        if folder.exists():
            raise OSError(f"{folder} cannot be removed")
        if folder.parent.is_dir():
            _fsync(folder.parent)

    def erase(self, key: str) -> int:
        folder = self._root / key
        removed = sum(not path.is_dir() or path.is_symlink() for path in folder.rglob("*"))
        self.move_out(key, None)
        return removed

    def described(self, key: str) -> tuple[int, dt.datetime] | None:
        folder = self._root / key
        try:
            found = [path.lstat() for path in (folder, *folder.rglob("*"))]
        except FileNotFoundError:
            return None
        newest = max(stat.st_mtime for stat in found)
        files = sum(stat.st_size for stat in found if not S_ISDIR(stat.st_mode))
        return files, dt.datetime.fromtimestamp(newest, dt.UTC)

    def abort_uploads(self, older_than_s: float) -> int:
        return 0

    def open(self, key: str) -> BinaryIO:
        return (self._root / key).open("rb")

    def read_range(self, key: str, start: int, size: int) -> bytes:
        with (self._root / key).open("rb", buffering=0) as file:
            return os.pread(file.fileno(), size, start)

    @contextlib.contextmanager
    def local_path(self, key: str) -> Iterator[Path]:
        path = self._root / key
        if not path.is_file():
            raise FileNotFoundError(path)
        yield path

    def layers(self) -> Iterator[tuple[str, str]]:
        if not self._root.is_dir():
            return
        for clip in sorted(self._root.iterdir()):
            if is_clip_id(clip.name):
                for layer in self.layers_of(clip.name):
                    yield clip.name, layer

    def layers_of(self, clip_id: str) -> list[str]:
        folder = self._root / clip_id
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        return [path.name for path in found if _LAYER.fullmatch(path.name)]

    def uri(self, key: str) -> str:
        return str(self._root / key)


class _RemoteFiles:
    """A bucket: versions are uploaded under their final keys, which nothing names yet."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    @property
    def local_root(self) -> Path | None:
        return None

    def new_staging_folder(self, clip_id: str) -> Path:
        return Path(tempfile.mkdtemp(prefix=f"{_REMOTE_STAGING_PREFIX}{clip_id}."))

    def staging_folders(self) -> list[Path]:
        found = sorted(Path(tempfile.gettempdir()).glob(f"{_REMOTE_STAGING_PREFIX}*"))
        return [folder for folder in found if folder.lstat().st_uid == os.getuid()]

    def publish(self, folder: Path, key: str, files: Sequence[FileEntry]) -> None:
        for entry in files:
            self._bucket.put_file(folder / entry.name, f"{key}/{entry.name}")
        found = {item.key: item.bytes for item in self._bucket.list(key)}
        for entry in files:
            actual = found.get(f"{key}/{entry.name}")
            if actual != entry.bytes:
                raise TransientError(
                    f"{self._bucket.uri(f'{key}/{entry.name}')}: expected {entry.bytes} bytes after the upload, "
                    f"found {actual}. Try again."
                )

    def keep(self, key: str) -> None:
        pass

    def replace(self, key: str, content: bytes) -> None:
        self._bucket.put(key, content)

    def read(self, key: str) -> bytes | None:
        return self._bucket.get(key)

    def remove(self, key: str) -> bool:
        return self._bucket.remove(key)

    def versions(self, key: str) -> list[str]:
        return self._bucket.folders(key)

    def move_out(self, key: str, take: Callable[[Path], None] | None) -> None:
        if take is not None:
            with self._download_folder(key) as temporary:
                folder = Path(temporary) / "version"
                for item in self._bucket.list(key):
                    target = folder / _checked_name(item.key[len(key) + 1 :])
                    target.parent.mkdir(parents=True, exist_ok=True)
                    self._get_file(item.key, target)
                if folder.exists():
                    take(folder)
        self._bucket.erase(key)

    def _get_file(self, key: str, target: Path) -> None:
        try:
            self._bucket.get_file(key, target)
        except FileNotFoundError as error:
            raise TransientError(f"{self._bucket.uri(key)} vanished while it was read. Try again.") from error

    def erase(self, key: str) -> int:
        return self._bucket.erase(key)

    def described(self, key: str) -> tuple[int, dt.datetime] | None:
        found = list(self._bucket.list(key))
        if not found:
            return None
        return sum(item.bytes for item in found), max(item.modified_at for item in found)

    def abort_uploads(self, older_than_s: float) -> int:
        return self._bucket.abort_uploads(older_than_s=older_than_s)

    def open(self, key: str) -> BinaryIO:
        return self._bucket.open(key)

    def read_range(self, key: str, start: int, size: int) -> bytes:
        return self._bucket.get_range(key, start, size)

    @contextlib.contextmanager
    def local_path(self, key: str) -> Iterator[Path]:
        with self._download_folder(key) as folder:
            path = Path(folder) / PurePosixPath(key).name
            self._bucket.get_file(key, path)
            yield path

    def layers(self) -> Iterator[tuple[str, str]]:
        for clip in self._bucket.folders():
            if is_clip_id(clip):
                for layer in self.layers_of(clip):
                    yield clip, layer

    def layers_of(self, clip_id: str) -> list[str]:
        return [name for name in self._bucket.folders(clip_id) if _LAYER.fullmatch(name)]

    def _download_folder(self, key: str) -> tempfile.TemporaryDirectory[str]:
        """A folder among those for staging, so that what a killed process leaves there is found by its clip."""
        return tempfile.TemporaryDirectory(prefix=f"{_REMOTE_STAGING_PREFIX}{key.partition('/')[0]}.")

    def uri(self, key: str) -> str:
        return self._bucket.uri(key)


# --- helpers ------------------------------------------------------------------------------------------


def _staged_clip(folder: Path) -> str:
    """The clip that a staging folder belongs to; empty for a pointer that is being written."""
    return folder.name.removeprefix(_REMOTE_STAGING_PREFIX).rpartition(".")[0]


def _local_path_of(root: str) -> Path | None:
    if root.startswith("file://"):
        return Path(unquote(urlsplit(root).path)).absolute()
    return None if is_bucket_url(root) else Path(root).expanduser().absolute()


def _layer_key(clip_id: str, layer: str) -> str:
    if not is_clip_id(clip_id):
        raise ValueError(f"clip_id: expected a lower-case UUID, got {clip_id!r}")
    if _LAYER.fullmatch(layer) is None:
        raise ValueError(f"layer: expected lower-case letters and underscores, got {layer!r}")
    return f"{clip_id}/{layer}"


def _version_key(document: ArtifactDocument) -> str:
    if _VERSION_ID.fullmatch(document.version_id) is None:
        raise ValueError(f"version_id: expected 16 hexadecimal digits, got {document.version_id!r}")
    return f"{_layer_key(document.clip_id, document.layer)}/{document.version_id}"


def _checked_name(name: str) -> str:
    """``name``, which must stay below the folder it is used in."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in name or "\0" in name:
        raise ValueError(f"name: expected a relative path with forward slashes, got {name!r}")
    return name


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(_BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()


def _is_current(clip_id: str, layer: str, version_id: str) -> TransientError:
    return TransientError(
        f"Version {version_id} of layer {layer} of clip {clip_id} is the current one: it was published a "
        "moment ago. Try again."
    )


def _require_digest(document: ArtifactDocument, name: str, actual: str) -> None:
    expected = document.file(name).sha256
    if actual != expected:
        raise ArtifactCorrupted(
            f"{name} of layer {document.layer} of clip {document.clip_id} is damaged: expected sha256 {expected}, "
            f"found {actual}. {_remedy(document.clip_id, document.layer)}"
        )


def _missing(document: ArtifactDocument, name: str) -> ArtifactMissing:
    return ArtifactMissing(
        f"{name} of layer {document.layer} of clip {document.clip_id} is gone from the store. "
        f"{_remedy(document.clip_id, document.layer)}"
    )


def _remedy(clip_id: str, layer: str) -> str:
    return f"Make it again with `ego-assets run --clip {clip_id} --layer {layer} --again`."


def _fsync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _synced_meanwhile(path: Path) -> Iterator[None]:
    """Wait for the disk in another thread while the block runs; what goes wrong there is raised at its end."""
    with ThreadPoolExecutor(max_workers=1) as waiting:
        synced = waiting.submit(_fsync, path)
        yield
        synced.result()


def _make_durable_folder(folder: Path, *, below: Path) -> None:
    """Make a folder and its parents, and see to it that their names survive a power failure."""
    missing = [path for path in (folder, *folder.parents) if path.is_relative_to(below) and not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        _fsync(path.parent)


def _newest_change(path: Path) -> float | None:
    """When anything in a staging folder last changed; ``None`` when it vanished meanwhile."""
    try:
        return max(item.lstat().st_mtime for item in (path, *path.rglob("*")))
    except FileNotFoundError:
        return None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
