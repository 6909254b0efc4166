"""The artifact store: a layer becomes visible when its pointer is replaced, and not before.

Layout below the root::

    {clip_id}/{layer}/{version_id}/...      files of one version, never changed
    {clip_id}/{layer}/artifact.json         names the current version; replaced in one atomic write
    .staging/...                            versions that are being made (local roots only)

A process that is killed at any instant leaves the previous version readable and at worst an unused folder.

Versions are never removed, with one exception: what shows personal data. :meth:`ArtifactStore.revoke` takes the
pointer away, and :meth:`ArtifactStore.move_version` the files.
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
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol, cast
from urllib.parse import unquote, urlsplit

from ego_assets import __version__
from ego_assets.media.uploads import is_clip_id
from ego_assets.schema.artifact import ArtifactDocument, FileEntry, data_version_of, digest_of
from ego_assets.schema.detections import BackendInfo
from ego_assets.schema.errors import ArtifactCorrupted, ArtifactMissing, TransientError

POINTER = "artifact.json"
STAGING = ".staging"
#: What a killed process left in the staging area counts as abandoned after this time.
ABANDONED_S = 24 * 3600.0

_LAYER = re.compile(r"[a-z_]+")
_VERSION_ID = re.compile(r"[0-9a-f]{16}")
_REMOTE_STAGING_PREFIX = "ego-assets-staging-"
_BLOCK_BYTES = 1 << 20


class ArtifactStore:
    """Committed layers of all clips, in a folder or at an fsspec URL.

    Args:
        root: A local path, a ``file://`` URL, or any other fsspec URL such as ``s3://bucket/prefix``.
    """

    def __init__(self, root: str) -> None:
        local = _local_path_of(root)
        self._files: _Files = _RemoteFiles(root) if local is None else _LocalFiles(local)

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
            yield StagedLayer(clip_id=clip_id, layer=layer, folder=folder, publish=self._publish, key=key)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _publish(self, folder: Path, document: ArtifactDocument) -> None:
        """Make a staged version the current one."""
        key = _version_key(document)
        if not self._is_intact(document):
            self._files.publish(folder, key, [entry.name for entry in document.files])
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
        """The content of one file of a version; errors as :meth:`open`."""
        with self.open(document, name) as file:
            return file.read()

    @contextlib.contextmanager
    def local_path(self, document: ArtifactDocument, name: str) -> Iterator[Path]:
        """A local path of one file of a version, for reading only; a remote file is downloaded for so long.

        Raises:
            KeyError: The document names no such file.
            ArtifactMissing: The file is gone from the store.
        """
        key = self._file_key(document, name)
        with contextlib.ExitStack() as stack:
            try:
                path = stack.enter_context(self._files.local_path(key))
            except FileNotFoundError as error:
                raise _missing(document, name) from error
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
            if actual != entry.sha256:
                raise ArtifactCorrupted(
                    f"{entry.name} of layer {document.layer} of clip {document.clip_id} is damaged: expected "
                    f"sha256 {entry.sha256}, found {actual}. {_remedy(document.clip_id, document.layer)}"
                )

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
        self._files.move_out(_version_key(document), lambda folder: None)

    def discard_staging(self, clip_id: str) -> int:
        """Remove what is being made of a clip at the moment, on this machine; returns the number of folders.

        Who is making it fails at its next file and starts anew. Downloads from a remote store go too, those that a
        killed process left as well.
        """
        found = [path for path in self._files.staging_folders() if _staged_clip(path) == clip_id]
        for folder in found:
            _remove(folder)
        return len(found)

    def _require_not_current(self, clip_id: str, layer: str, version_id: str) -> None:
        current = self._readable(clip_id, layer)
        if current is not None and current.version_id == version_id:
            raise TransientError(
                f"Version {version_id} of layer {layer} of clip {clip_id} is the current one: it was published a "
                "moment ago. Try again."
            )

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
            The number of folders removed.
        """
        removed = 0
        for folder in self._files.staging_folders():
            newest = _newest_change(folder)
            if newest is not None and time.time() - newest >= older_than_s:
                _remove(folder)
                removed += 1
        return removed

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
    ) -> None:
        self.clip_id = clip_id
        self.layer = layer
        self.folder = folder
        self._publish = publish
        self._key = key
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
                with path.open("rb") as file:
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

    def publish(self, folder: Path, key: str, names: Sequence[str]) -> None: ...

    def replace(self, key: str, content: bytes) -> None: ...

    def read(self, key: str) -> bytes | None: ...

    def remove(self, key: str) -> bool: ...

    def versions(self, key: str) -> list[str]: ...

    def move_out(self, key: str, take: Callable[[Path], None]) -> None: ...

    def open(self, key: str) -> BinaryIO: ...

    def local_path(self, key: str) -> AbstractContextManager[Path]: ...

    def layers(self) -> Iterator[tuple[str, str]]: ...

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

    def publish(self, folder: Path, key: str, names: Sequence[str]) -> None:
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
            for name in names:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).replace(target / name)
            for path in sorted(target.rglob("*"), reverse=True):
                _fsync(path)
            _fsync(target)
        _fsync(target.parent)

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

    def move_out(self, key: str, take: Callable[[Path], None]) -> None:
        folder = self._root / key
        if folder.exists():
            take(folder)
            _remove(folder)
        if folder.exists():
            raise OSError(f"{folder} cannot be removed")
        if folder.parent.is_dir():
            _fsync(folder.parent)

    def open(self, key: str) -> BinaryIO:
        return (self._root / key).open("rb")

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
                for layer in sorted(clip.iterdir()):
                    if _LAYER.fullmatch(layer.name):
                        yield clip.name, layer.name

    def uri(self, key: str) -> str:
        return str(self._root / key)


class _RemoteFiles:
    """An fsspec file system: versions are uploaded under their final keys, which nothing names yet."""

    def __init__(self, root: str) -> None:
        # Most stores are local, and importing the file systems takes time.
        import fsspec

        # A listing kept from before would hide what other processes commit.
        self._fs, path = fsspec.core.url_to_fs(root, use_listings_cache=False)
        self._root = path.rstrip("/")

    @property
    def local_root(self) -> Path | None:
        return None

    def new_staging_folder(self, clip_id: str) -> Path:
        return Path(tempfile.mkdtemp(prefix=f"{_REMOTE_STAGING_PREFIX}{clip_id}."))

    def staging_folders(self) -> list[Path]:
        found = sorted(Path(tempfile.gettempdir()).glob(f"{_REMOTE_STAGING_PREFIX}*"))
        return [folder for folder in found if folder.lstat().st_uid == os.getuid()]

    def publish(self, folder: Path, key: str, names: Sequence[str]) -> None:
        with _network_errors(self.uri(key)):
            for name in names:
                target = self._path(f"{key}/{name}")
                self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
                self._fs.put_file(str(folder / name), target)

    def replace(self, key: str, content: bytes) -> None:
        with _network_errors(self.uri(key)):
            self._fs.pipe_file(self._path(key), content)

    def read(self, key: str) -> bytes | None:
        with _network_errors(self.uri(key)):
            try:
                return cast(bytes, self._fs.cat_file(self._path(key)))
            except FileNotFoundError:
                return None

    def remove(self, key: str) -> bool:
        with _network_errors(self.uri(key)):
            try:
                self._fs.rm_file(self._path(key))
            except FileNotFoundError:
                return False
            return True

    def versions(self, key: str) -> list[str]:
        return [name for name in self._names(self._path(key)) if name != POINTER]

    def move_out(self, key: str, take: Callable[[Path], None]) -> None:
        root = self._path(key)
        with self._download_folder(key) as temporary:
            with _network_errors(self.uri(key)):
                found = self._fs.find(root, detail=True)
                for path, described in found.items():
                    target = Path(temporary) / "version" / _checked_name(path[len(root) + 1 :])
                    target.parent.mkdir(parents=True, exist_ok=True)
                    self._fs.get_file(path, str(target))
                    if target.stat().st_size != described["size"]:
                        raise TransientError(
                            f"The download of {self._fs.unstrip_protocol(path)} is incomplete. Try again."
                        )
            if found:
                take(Path(temporary) / "version")
            with _network_errors(self.uri(key)):
                for path in found:
                    self._fs.rm_file(path)
                # File systems that have folders keep an empty one.
                with contextlib.suppress(FileNotFoundError, NotImplementedError):
                    if self._fs.isdir(root):
                        self._fs.rm(root, recursive=True)

    def open(self, key: str) -> BinaryIO:
        with _network_errors(self.uri(key)):
            return cast(BinaryIO, self._fs.open(self._path(key), "rb"))

    @contextlib.contextmanager
    def local_path(self, key: str) -> Iterator[Path]:
        with self._download_folder(key) as folder:
            path = Path(folder) / PurePosixPath(key).name
            with _network_errors(self.uri(key)):
                self._fs.get_file(self._path(key), str(path))
            yield path

    def layers(self) -> Iterator[tuple[str, str]]:
        for clip in self._names(self._root):
            if is_clip_id(clip):
                for layer in self._names(f"{self._root}/{clip}"):
                    if _LAYER.fullmatch(layer):
                        yield clip, layer

    def _download_folder(self, key: str) -> tempfile.TemporaryDirectory[str]:
        """A folder among those for staging, so that what a killed process leaves there is found by its clip."""
        return tempfile.TemporaryDirectory(prefix=f"{_REMOTE_STAGING_PREFIX}{key.partition('/')[0]}.")

    def _names(self, path: str) -> list[str]:
        with _network_errors(path):
            try:
                return sorted(
                    str(item).rstrip("/").rpartition("/")[2] for item in self._fs.ls(path, detail=False)
                )
            except FileNotFoundError:
                return []

    def uri(self, key: str) -> str:
        return str(self._fs.unstrip_protocol(self._path(key)))

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"


# --- helpers ------------------------------------------------------------------------------------------


def _staged_clip(folder: Path) -> str:
    """The clip that a staging folder belongs to; empty for a pointer that is being written."""
    return folder.name.removeprefix(_REMOTE_STAGING_PREFIX).rpartition(".")[0]


def _local_path_of(root: str) -> Path | None:
    if root.startswith("file://"):
        return Path(unquote(urlsplit(root).path)).absolute()
    return None if "://" in root else Path(root).expanduser().absolute()


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


def _missing(document: ArtifactDocument, name: str) -> ArtifactMissing:
    return ArtifactMissing(
        f"{name} of layer {document.layer} of clip {document.clip_id} is gone from the store. "
        f"{_remedy(document.clip_id, document.layer)}"
    )


def _remedy(clip_id: str, layer: str) -> str:
    return f"Make it again with `ego-assets run --clip {clip_id} --layer {layer} --again`."


@contextlib.contextmanager
def _network_errors(where: str) -> Iterator[None]:
    try:
        yield
    except (ConnectionError, TimeoutError) as error:
        raise TransientError(f"The store cannot be reached at {where} ({error}). Try again later.") from error


def _fsync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
