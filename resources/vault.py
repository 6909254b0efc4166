"""The vault: the only place where originals lie.

Layout below the root, folders with mode 0700 and files with 0600::

    originals/{clip_id}/original.mp4        as uploaded, never changed
    originals/{clip_id}/original.json       name, digest, size, time
    originals/{clip_id}/sidecar.json        the upload's sidecar, where it had one
    rejected/{date}/{name}                  uploads that could not be accepted
    rejected/{date}/{name}.reason.json      why
    quarantine/{incident}/...               what leaked, until it is purged

Opening an original takes a purpose and leaves a row in the audit log first. No upload is ever deleted: it is
removed from its folder only when its content, digest compared, is on the vault's disk. What is purged is the
quarantine of an incident, once everything in it was made anew.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
import stat
import unicodedata
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from ego_assets.media.uploads import is_clip_id, sidecar_of, vanished
from ego_assets.schema.errors import ArtifactMissing, EgoAssetsError, TransientError, UploadRejected
from ego_assets.schema.vocabulary import VaultPurpose
from resources.database import Database

ORIGINALS = "originals"
REJECTED = "rejected"
QUARANTINE = "quarantine"

_FOLDER_MODE = 0o700
_FILE_MODE = 0o600
_BLOCK_BYTES = 1 << 20
#: Longest file name that common file systems take, in bytes.
_MAX_NAME_BYTES = 255
_REASON_SUFFIX = ".reason.json"
_SIDECAR_SUFFIX = ".sidecar.json"
#: Longer endings of names are no extensions.
_MAX_EXTENSION_BYTES = 16


class VaultError(EgoAssetsError):
    """The vault holds something else than was expected; nothing was removed."""


@dataclass(frozen=True, kw_only=True)
class StoredOriginal:
    """An original in the vault.

    Attributes:
        key: Its path relative to the vault.
        sha256: Digest of its content, hexadecimal.
        bytes: Its size.
    """

    key: str
    sha256: str
    bytes: int


class Vault:
    """Takes originals in, and hands them out for a stated purpose.

    Args:
        root: The vault's folder; made with mode 0700 at the first upload.
        database: Keeps the audit log.
    """

    def __init__(self, root: Path, database: Database) -> None:
        self._root = root
        self._database = database

    # --- in -------------------------------------------------------------------------------------------

    def take(
        self,
        clip_id: str,
        source: Path,
        *,
        move: bool,
        actor: str,
        run_id: str = "",
        accept: Callable[[str], None] | None = None,
    ) -> StoredOriginal:
        """Bring an upload and its sidecar into the vault.

        Doing so again is harmless: what is there with the same content stays, and a call that was killed is
        completed. With ``move`` the upload is removed once its content is safe; a file that another process
        could still write to, or that has further links, is copied for that.

        Args:
            clip_id: The clip it becomes the original of.
            source: The upload.
            move: Remove the upload afterwards.
            actor: Who, for the audit log.
            run_id: Dagster run, for the audit log.
            accept: Called with the digest before the original is put in its place; what it raises leaves
                upload and vault as they were.

        Raises:
            UploadRejected: codes ``symlink``, ``not_a_file``, ``vanished`` and ``clip_id_taken`` (the clip has
                another original already).
            TransientError: The file changed while it was read.
        """
        if not is_clip_id(clip_id):
            raise ValueError(f"clip_id: expected a lower-case UUID, got {clip_id!r}")

        def accepted(digest: str) -> None:
            if accept is not None:
                accept(digest)
            # Before the original is in its place: a process that dies in between must not leave it unrecorded.
            self._database.write_audit(
                actor=actor, action="vault.take", clip_id=clip_id, detail=digest, run_id=run_id
            )

        folder = self._folder(ORIGINALS, clip_id)
        with _exclusive(folder):
            stored = self._stored(clip_id)
            try:
                before = _regular(source)
            except FileNotFoundError:
                if stored is None:
                    raise vanished(source) from None
                return stored
            if stored is None:
                try:
                    stored = self._bring_in(folder, clip_id, source, before, move=move, accepted=accepted)
                except FileNotFoundError:
                    if os.path.lexists(source):
                        raise
                    raise vanished(source) from None
            elif _sha256(source) != stored.sha256:
                raise UploadRejected(
                    "clip_id_taken",
                    f"{source.name!r} belongs to clip {clip_id}, whose original has other content, and a "
                    "clip_id is never reused. Upload the recording under a new name.",
                )
            elif move:
                self._require_safe(stored)
            self._bring_in_sidecar(folder, source, move=move)
            if move:
                source.unlink(missing_ok=True)
            return stored

    def _bring_in(
        self,
        folder: Path,
        clip_id: str,
        source: Path,
        before: os.stat_result,
        *,
        move: bool,
        accepted: Callable[[str], None],
    ) -> StoredOriginal:
        """Hash the upload, and copy it into its place, digest verified, or rename it."""
        target = folder / f"original{source.suffix.lower()}"
        temporary = folder / f".incoming-{uuid.uuid4().hex}"
        renames = move and _may_be_renamed(before, folder)
        try:
            digest = _sha256(source) if renames else _copy(source, temporary)
            _require_unchanged(source, before)
            accepted(digest)
            stored = StoredOriginal(
                key=f"{ORIGINALS}/{clip_id}/{target.name}", sha256=digest, bytes=before.st_size
            )
            # The description comes first: an original without one could not be told from a torn copy.
            _write_json(
                folder / "original.json",
                {"name": _printable(source.name), "taken_at": _now_text(), **asdict(stored)},
            )
            if renames:
                source.rename(target)
                try:
                    _require_unchanged(target, before)
                except TransientError:
                    target.rename(source)
                    raise
                target.chmod(_FILE_MODE)
                _fsync(target)
                _fsync(source.parent)
            else:
                if _sha256(temporary) != digest:
                    raise VaultError(
                        f"The copy of {source.name!r} in the vault differs from the upload, which was left "
                        "where it is. Check the vault's disk and try again."
                    )
                temporary.rename(target)
            _fsync(folder)
        finally:
            temporary.unlink(missing_ok=True)
        return stored

    def _bring_in_sidecar(self, folder: Path, source: Path, *, move: bool) -> None:
        sidecar = sidecar_of(source)
        if sidecar is None or sidecar.is_symlink():
            return
        target = folder / "sidecar.json"
        if not target.exists():
            temporary = folder / f".incoming-{uuid.uuid4().hex}"
            _copy(sidecar, temporary)
            temporary.rename(target)
            _fsync(folder)
        if move and _sha256(sidecar) == _sha256(target):
            sidecar.unlink()

    def _stored(self, clip_id: str) -> StoredOriginal | None:
        """What the vault holds for a clip; ``None`` when there is nothing, or only a torn attempt."""
        try:
            described = json.loads(
                (self._root / ORIGINALS / clip_id / "original.json").read_text(encoding="utf-8")
            )
        except FileNotFoundError:
            return None
        stored = StoredOriginal(key=described["key"], sha256=described["sha256"], bytes=described["bytes"])
        try:
            size = (self._root / stored.key).lstat().st_size
        except FileNotFoundError:
            return None
        if size != stored.bytes:
            raise VaultError(
                f"The original of clip {clip_id} has {size} bytes in the vault, expected {stored.bytes}: it was "
                "changed or damaged. Restore the vault from its backup."
            )
        return stored

    def _require_safe(self, stored: StoredOriginal) -> None:
        """Compare the original on the vault's disk with its digest before the upload is removed."""
        actual = _sha256(self._root / stored.key)
        if actual != stored.sha256:
            raise VaultError(
                f"{stored.key} in the vault has sha256 {actual}, expected {stored.sha256}, so the upload was left "
                "where it is. Restore the vault from its backup."
            )

    # --- out ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def open(
        self, clip_id: str, *, purpose: VaultPurpose, actor: str, run_id: str = ""
    ) -> Iterator[BinaryIO]:
        """Open an original for reading; the audit row is written before.

        The stream is seekable and buffered, and its ``name`` says nothing about where it lies.

        Args:
            clip_id: The clip.
            purpose: Why.
            actor: Who.
            run_id: Dagster run.

        Raises:
            TypeError: ``purpose`` is no :class:`~ego_assets.schema.vocabulary.VaultPurpose`.
            ArtifactMissing: The vault holds no original of this clip.
        """
        if not isinstance(purpose, VaultPurpose):
            raise TypeError(f"purpose: expected one of {', '.join(VaultPurpose)}, got {purpose!r}")
        if not is_clip_id(clip_id):
            raise ValueError(f"clip_id: expected a lower-case UUID, got {clip_id!r}")
        self._database.write_audit(
            actor=actor, action="vault.open", purpose=purpose.value, clip_id=clip_id, run_id=run_id
        )
        stored = self._stored(clip_id)
        if stored is None:
            raise ArtifactMissing(
                f"The vault holds no original of clip {clip_id}. Materialize raw_clip, or ingest the file again."
            )
        path = self._root / stored.key
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with _Original(descriptor, name=path.name) as original:
            yield cast(BinaryIO, original)

    # --- rejected -------------------------------------------------------------------------------------

    def reject(
        self, path: Path, *, code: str, reason: str, move: bool, actor: str, clip_id: str = ""
    ) -> Path:
        """Record why an upload cannot be accepted and, with ``move``, keep it and its sidecar in the vault.

        Without ``move`` the upload stays where it is and only the reason is written; the same reason for the
        same file is written once. Of a link only its target's name is kept, in the reason. A file that
        vanished meanwhile leaves its reason too.

        Args:
            path: The upload.
            code: Machine-readable reason.
            reason: What is wrong and what to do, for people.
            move: Take the file out of its folder.
            actor: Who, for the audit log.
            clip_id: The clip it was registered as, for the audit log.

        Returns:
            The file in ``rejected/``: the upload where it was moved, otherwise its ``.reason.json``.
        """
        return self._keep_rejected(
            path,
            name=path.name,
            sidecar=sidecar_of(path),
            code=code,
            reason=reason,
            move=move,
            actor=actor,
            clip_id=clip_id,
        )

    def reject_stored(self, clip_id: str, *, code: str, reason: str, actor: str) -> Path:
        """Move an original that is in the vault already to ``rejected/``; returns its path there.

        Raises:
            ArtifactMissing: The vault holds no original of this clip.
        """
        folder = self._folder(ORIGINALS, clip_id)
        with _exclusive(folder):
            stored = self._stored(clip_id)
            if stored is None:
                raise ArtifactMissing(f"The vault holds no original of clip {clip_id}.")
            sidecar = folder / "sidecar.json"
            kept = self._keep_rejected(
                self._root / stored.key,
                name=json.loads((folder / "original.json").read_text(encoding="utf-8"))["name"],
                sidecar=sidecar if sidecar.exists() else None,
                code=code,
                reason=reason,
                move=True,
                actor=actor,
                clip_id=clip_id,
            )
            (folder / "original.json").unlink()
            return kept

    def _keep_rejected(
        self,
        path: Path,
        *,
        name: str,
        sidecar: Path | None,
        code: str,
        reason: str,
        move: bool,
        actor: str,
        clip_id: str,
    ) -> Path:
        folder = self._folder(REJECTED, dt.datetime.now(dt.UTC).date().isoformat())
        link_target = _printable(str(path.readlink())) if path.is_symlink() else None
        status = path.lstat() if os.path.lexists(path) else None
        moves = move and status is not None and link_target is None
        described: dict[str, Any] = {
            "code": code,
            "reason": reason,
            "source": _printable(str(path)),
            "name": _printable(name),
            "bytes": status.st_size if status else None,
            "mtime_ns": status.st_mtime_ns if status else None,
            "link_target": link_target,
            "kept": moves,
        }
        with _exclusive(folder):
            target, reason_path = _free_names(folder, name, described)
            if reason_path.exists():
                return reason_path
            _write_json(reason_path, {**described, "rejected_at": _now_text()})
            if moves:
                _move(path, target)
                if sidecar is not None and not sidecar.is_symlink():
                    _move(sidecar, target.with_name(target.name + _SIDECAR_SUFFIX))
            elif move and link_target is not None:
                path.unlink()
        self._database.write_audit(
            actor=actor, action="vault.reject", clip_id=clip_id, detail=f"{code}: {described['name']}"
        )
        return target if moves else reason_path

    # --- quarantine -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def quarantine(self, incident_id: int) -> Iterator[Quarantine]:
        """The quarantine of one incident; others wait until the ``with`` ends.

        They wait for the quarantine of any incident: two may be about the same clip, whose versions only one of
        them can move.
        """
        root = self._folder(QUARANTINE)
        with _exclusive(root):
            yield Quarantine(root / str(int(incident_id)), make_folder=self._folder)

    def _folder(self, *parts: str) -> Path:
        """A folder of the vault, made where it does not exist."""
        self._root.mkdir(parents=True, exist_ok=True)
        folder = self._root
        if stat.S_IMODE(folder.stat().st_mode) != _FOLDER_MODE:
            folder.chmod(_FOLDER_MODE)
        for part in parts:
            folder = folder / part
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=_FOLDER_MODE)
                _fsync(folder.parent)
        return folder


class Quarantine:
    """Where the leaking files of one incident lie until they are purged.

    Args:
        root: Its folder.
        make_folder: Makes a folder of the vault from its parts.
    """

    def __init__(self, root: Path, *, make_folder: Callable[..., Path]) -> None:
        self._root = root
        self._make_folder = make_folder

    def take(self, source: Path, *parts: str) -> None:
        """Move a file or a folder with everything in it to ``parts`` below the quarantine.

        What is there already under that name stays beside it. When this returns, ``source`` is gone; a call
        that was killed leaves it where it was or completes when it is made again.

        Raises:
            VaultError: The copy differs; the source is left where it is.
        """
        folder = self._make_folder(QUARANTINE, self._root.name, *parts[:-1])
        target, number = folder / parts[-1], 1
        while os.path.lexists(target):
            number += 1
            target = folder / f"{parts[-1]}-{number}"
        try:
            source.rename(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy_tree(source, target)
            shutil.rmtree(source) if source.is_dir() else source.unlink()
        _restrict(target)
        _fsync(folder)
        if source.parent.is_dir():
            _fsync(source.parent)

    def names(self) -> list[str]:
        """Everything that lies in it, as relative paths."""
        return sorted(
            path.relative_to(self._root).as_posix() for path in self._root.rglob("*") if path.is_file()
        )

    def restrict(self) -> None:
        """Give everything in it the modes of the vault, also what a killed process had moved only."""
        if self._root.is_dir():
            _restrict(self._root)

    def purge(self) -> int:
        """Remove everything in it for good; returns the number of files.

        Raises:
            VaultError: Something is left.
        """
        count = len(self.names())
        shutil.rmtree(self._root, ignore_errors=True)
        if self._root.exists():
            raise VaultError(
                f"The quarantine {self._root.name} cannot be removed from the vault. Check its permissions."
            )
        if self._root.parent.is_dir():
            _fsync(self._root.parent)
        return count


class _Original(io.BufferedReader):
    """A plain buffered file whose name is not its path."""

    def __init__(self, descriptor: int, *, name: str) -> None:
        super().__init__(io.FileIO(descriptor, "rb"), buffer_size=_BLOCK_BYTES)
        self._shown_name = name

    @property
    def name(self) -> str:
        """File name without folder, which tells demuxers the container."""
        return self._shown_name


# --- helpers ------------------------------------------------------------------------------------------


def _regular(path: Path) -> os.stat_result:
    """The status of an ordinary file; ``FileNotFoundError`` when it is gone."""
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise UploadRejected(
            "symlink", f"{path.name!r} is a link; links are not followed. Upload the file itself."
        )
    if not stat.S_ISREG(status.st_mode):
        raise UploadRejected("not_a_file", f"{path.name!r} is no ordinary file. Upload the video itself.")
    return status


def _may_be_renamed(status: os.stat_result, folder: Path) -> bool:
    """Whether renaming gives the vault a file that it alone owns."""
    alone = status.st_nlink == 1 and status.st_uid == os.geteuid()
    return alone and status.st_dev == folder.stat().st_dev


def _require_unchanged(path: Path, before: os.stat_result) -> None:
    after = path.lstat()
    if (after.st_size, after.st_mtime_ns, after.st_ino) != (
        before.st_size,
        before.st_mtime_ns,
        before.st_ino,
    ):
        raise TransientError(
            f"{path.name!r} changed while it was read: it is still being written. Wait until the upload is "
            "complete, then try again."
        )


def _blocks(path: Path) -> Iterator[bytes]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 (a descriptor, not a path)
        while block := file.read(_BLOCK_BYTES):
            yield block


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    for block in _blocks(path):
        digest.update(block)
    return digest.hexdigest()


def _copy(source: Path, target: Path) -> str:
    """Copy to a new file of mode 0600, wait until it is on the disk, and return its digest."""
    digest = hashlib.sha256()
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
    with open(descriptor, "wb", buffering=0) as file:  # noqa: PTH123 (a descriptor, not a path)
        for block in _blocks(source):
            digest.update(block)
            view = memoryview(block)
            while view:
                view = view[file.write(view) :]
        os.fsync(descriptor)
    return digest.hexdigest()


def _move(source: Path, target: Path) -> None:
    """Move a file, over the borders of file systems too, without a moment at which it exists nowhere."""
    status = source.lstat()
    if _may_be_renamed(status, target.parent):
        source.rename(target)
        target.chmod(_FILE_MODE)
        _fsync(source.parent)
    else:
        temporary = target.with_name(f".incoming-{uuid.uuid4().hex}")
        try:
            digest = _copy(source, temporary)
            if _sha256(temporary) != digest:
                raise VaultError(f"The copy of {source.name!r} in the vault differs; check the vault's disk.")
            temporary.rename(target)
            _fsync(target.parent)
        finally:
            temporary.unlink(missing_ok=True)
        _require_unchanged(source, status)
        source.unlink()
    _fsync(target.parent)


def _copy_tree(source: Path, target: Path) -> None:
    """Copy a file or folder from another file system, contents compared, complete or not at all."""
    temporary = target.with_name(f".incoming-{uuid.uuid4().hex}")
    try:
        for path in (source, *source.rglob("*")):
            made = temporary / path.relative_to(source)
            if path.is_dir():
                made.mkdir(mode=_FOLDER_MODE)
            elif _copy(path, made) != _sha256(made):
                raise VaultError(f"The copy of {path.name!r} in the vault differs; check the vault's disk.")
        temporary.rename(target)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def _restrict(path: Path) -> None:
    """Folders 0700 and files 0600, from the top down."""
    for item in (path, *path.rglob("*")):
        if not item.is_symlink():
            item.chmod(_FOLDER_MODE if item.is_dir() else _FILE_MODE)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    temporary = path.with_name(f".incoming-{uuid.uuid4().hex}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
    with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 (a descriptor, not a path)
        json.dump(value, file, indent=2, sort_keys=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _fsync(path.parent)


def _free_names(folder: Path, name: str, described: dict[str, Any]) -> tuple[Path, Path]:
    """Names for a rejected file and its reason that are free, or hold this very reason already."""
    clean = "".join("_" if unicodedata.category(character) == "Cc" else character for character in name)
    stem, suffix = Path(clean).stem, Path(clean).suffix
    if len(os.fsencode(suffix)) > _MAX_EXTENSION_BYTES:
        stem, suffix = clean, ""
    number = 1
    while True:
        ending = suffix if number == 1 else f"-{number}{suffix}"
        room = _MAX_NAME_BYTES - len(os.fsencode(ending)) - max(len(_REASON_SUFFIX), len(_SIDECAR_SUFFIX))
        target = folder / f"{_shortened(stem, room)}{ending}"
        reason_path = target.with_name(target.name + _REASON_SUFFIX)
        if not os.path.lexists(target) and not reason_path.exists():
            return target, reason_path
        if not described["kept"] and reason_path.exists():
            known = json.loads(reason_path.read_text(encoding="utf-8"))
            if {key: known.get(key) for key in described} == described:
                return target, reason_path
        number += 1


def _shortened(text: str, room: int) -> str:
    """``text`` cut to at most ``room`` bytes, between two characters."""
    encoded = os.fsencode(text)
    return text if len(encoded) <= room else encoded[:room].decode("utf-8", "ignore")


@contextlib.contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Keep other processes and threads out of what follows for this folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _printable(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _now_text() -> str:
    return dt.datetime.now(dt.UTC).isoformat()
