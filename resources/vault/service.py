"""What the vault does: takes originals in, hands them out, keeps what was rejected, and erases."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import io
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from ego_assets.media.uploads import is_clip_id, sidecar_of, vanished
from ego_assets.schema.buckets import BucketAccess, is_bucket_url
from ego_assets.schema.errors import ArtifactMissing, ConfigurationError, TransientError, UploadRejected
from ego_assets.schema.vocabulary import VaultPurpose
from resources.database import Database
from resources.keys import VaultKeys
from resources.vault.files import (
    ENVELOPE_SUFFIX,
    VaultError,
    VaultFiles,
    regular,
    require_unchanged,
    sha256_of,
)
from resources.vault.places import UNFINISHED, BucketPlace, FolderPlace, VaultPlace
from resources.vault.quarantine import Quarantine

ORIGINALS = "originals"
REJECTED = "rejected"
QUARANTINE = "quarantine"
#: Where the vault keeps what came from outside.
ROOMS = (ORIGINALS, REJECTED, QUARANTINE)

#: Longest file name that common file systems take, in bytes.
_MAX_NAME_BYTES = 255
#: Characters that a read of a demuxer is served from.
_BUFFER_BYTES = 1 << 20
_DESCRIPTION = "original.json"
_SIDECAR = "sidecar.json"
_REASON_SUFFIX = ".reason.json"
_SIDECAR_SUFFIX = ".sidecar.json"
#: Longer endings of names are no extensions.
_MAX_EXTENSION_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class StoredOriginal:
    """An original in the vault.

    Attributes:
        key: Its path relative to the vault.
        sha256: Digest of its content, hexadecimal.
        bytes: Size of its content.
    """

    key: str
    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class VaultStatus:
    """How the vault's files lie there; key envelopes and descriptions do not count.

    Attributes:
        encrypted: Number of encrypted files by the id of the key that opens them.
        clear: Number of files that are not encrypted.
        without_key: Encrypted files that nobody can read: their envelope is missing or damaged.
    """

    encrypted: Mapping[str, int]
    clear: int
    without_key: tuple[str, ...]


class Vault:
    """Takes originals in, and hands them out for a stated purpose.

    Args:
        root: The vault's folder, made with mode 0700 at the first upload; or the URL of a bucket.
        database: Keeps the audit log, and keeps processes apart where the vault is a bucket.
        keys: What its files are encrypted with.
        access: How the bucket is reached.
    """

    def __init__(
        self,
        root: Path | str,
        database: Database,
        *,
        keys: VaultKeys,
        access: BucketAccess | None = None,
    ) -> None:
        self._database = database
        self._keys = keys
        if isinstance(root, str) and is_bucket_url(root):
            self._place: VaultPlace = BucketPlace(root, access or BucketAccess(), database)
        else:
            self._place = FolderPlace(Path(root))
        self._files = VaultFiles(self._place, keys)

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
        completed. With ``move`` the upload is removed once its content was read back from the vault and compared.

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
            KeyMissing: The vault's key is not known here.
        """
        _require_clip_id(clip_id)

        def accepted(digest: str) -> None:
            if accept is not None:
                accept(digest)
            # Before the original is in its place: a process that dies in between must not leave it unrecorded.
            self._database.write_audit(
                actor=actor,
                action="vault.take",
                clip_id=clip_id,
                detail=f"content {_bound_digest(clip_id, digest)}",
                run_id=run_id,
            )

        folder = f"{ORIGINALS}/{clip_id}"
        with self._place.exclusive(folder):
            self._place.settle(folder)
            stored = self._stored(clip_id)
            try:
                before = regular(source)
            except FileNotFoundError:
                if stored is None:
                    raise vanished(source) from None
                return stored
            if stored is None:
                try:
                    stored = self._bring_in(clip_id, source, before, accepted=accepted)
                except FileNotFoundError:
                    if os.path.lexists(source):
                        raise
                    raise vanished(source) from None
            elif sha256_of(source) != stored.sha256:
                raise UploadRejected(
                    "clip_id_taken",
                    f"{source.name!r} belongs to clip {clip_id}, whose original has other content, and a "
                    "clip_id is never reused. Upload the recording under a new name.",
                )
            elif move:
                self._require_safe(clip_id, stored)
            self._bring_in_sidecar(clip_id, source, move=move)
            if move:
                source.unlink(missing_ok=True)
            return stored

    def _bring_in(
        self, clip_id: str, source: Path, before: os.stat_result, *, accepted: Callable[[str], None]
    ) -> StoredOriginal:
        """Copy the upload into its place, read it back, then describe it: what is not described is not there."""
        key = f"{ORIGINALS}/{clip_id}/original{source.suffix.lower()}"
        digest = self._files.keep(source, key, before=before, accepted=accepted)
        try:
            # Reading it back took a while.
            require_unchanged(source, before)
        except TransientError:
            self._files.remove(key)
            raise
        stored = StoredOriginal(key=key, sha256=digest, bytes=before.st_size)
        self._describe(
            f"{ORIGINALS}/{clip_id}/{_DESCRIPTION}",
            {"name": _printable(source.name), "taken_at": _now_text(), **asdict(stored)},
        )
        return stored

    def _bring_in_sidecar(self, clip_id: str, source: Path, *, move: bool) -> None:
        sidecar = sidecar_of(source)
        if sidecar is None or sidecar.is_symlink():
            return
        key = f"{ORIGINALS}/{clip_id}/{_SIDECAR}"
        if self._place.size(key) is None:
            self._files.keep(sidecar, key)
        if move and sha256_of(sidecar) == self._files.sha256(key, what=f"The sidecar of clip {clip_id}"):
            sidecar.unlink()

    def _stored(self, clip_id: str) -> StoredOriginal | None:
        """What the vault holds for a clip; ``None`` when there is nothing, or only a torn attempt."""
        described = self._described(f"{ORIGINALS}/{clip_id}/{_DESCRIPTION}")
        if described is None:
            return None
        stored = StoredOriginal(key=described["key"], sha256=described["sha256"], bytes=described["bytes"])
        return None if self._place.size(stored.key) is None else stored

    def _require_safe(self, clip_id: str, stored: StoredOriginal) -> None:
        """Compare the original in the vault with its digest before the upload is removed."""
        with self._open_stored(clip_id, stored):
            pass
        actual = self._files.sha256(stored.key, what=f"The original of clip {clip_id}")
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

        The stream is seekable and buffered, and its ``name`` says nothing about where it lies. An encrypted original
        is decrypted as it is read; no clear copy of it is written anywhere.

        Args:
            clip_id: The clip.
            purpose: Why.
            actor: Who.
            run_id: Dagster run.

        Raises:
            TypeError: ``purpose`` is no :class:`~ego_assets.schema.vocabulary.VaultPurpose`.
            ArtifactMissing: The vault holds no original of this clip.
            KeyMissing: The key that it is encrypted with is not known here.
            VaultError: Now or while it is read: it was changed or damaged.
        """
        _require_purpose(purpose)
        _require_clip_id(clip_id)
        self._database.write_audit(
            actor=actor, action="vault.open", purpose=purpose.value, clip_id=clip_id, run_id=run_id
        )
        stored = self._stored(clip_id)
        if stored is None:
            raise ArtifactMissing(
                f"The vault holds no original of clip {clip_id}. Materialize raw_clip, or ingest the file again."
            )
        with self._open_stored(clip_id, stored) as original:
            yield original

    @contextlib.contextmanager
    def open_rejected(self, key: str, *, purpose: VaultPurpose, actor: str) -> Iterator[BinaryIO]:
        """Open a rejected upload for reading; the audit row is written before.

        Args:
            key: Its key, as :meth:`reject` returned it.
            purpose: Why.
            actor: Who.

        Raises:
            ArtifactMissing: There is none.
        """
        _require_purpose(purpose)
        parts = key.split("/")
        if parts[0] != REJECTED or len(parts) != 3 or not _is_name(parts[1]) or not _is_name(parts[2]):
            raise ValueError(f"key: expected {REJECTED}/DATE/NAME, got {key!r}")
        reason = self._described(key.removesuffix(_SIDECAR_SUFFIX) + _REASON_SUFFIX) or {}
        clip_id = str(reason.get("clip_id", ""))
        self._database.write_audit(
            actor=actor,
            action="vault.open",
            purpose=purpose.value,
            clip_id=clip_id,
            detail=_nameless(key),
        )
        try:
            source = self._files.open(key, what=f"The rejected upload {key}")
        except FileNotFoundError:
            raise ArtifactMissing(f"The vault holds no {key}.") from None
        with _Stream(source, name=parts[2]) as stream:
            yield cast(BinaryIO, stream)

    def _open_stored(self, clip_id: str, stored: StoredOriginal) -> _Stream:
        source = self._files.open(stored.key, what=f"The original of clip {clip_id}")
        size = source.seek(0, io.SEEK_END)
        source.seek(0)
        if size != stored.bytes:
            source.close()
            raise VaultError(
                f"The original of clip {clip_id} has {size} bytes in the vault, expected {stored.bytes}: it was "
                "changed or damaged. Restore the vault from its backup."
            )
        return _Stream(source, name=stored.key.rpartition("/")[2])

    # --- rejected -------------------------------------------------------------------------------------

    def reject(
        self,
        path: Path,
        *,
        code: str,
        reason: str,
        move: bool,
        actor: str,
        clip_id: str = "",
        origin: str = "",
    ) -> str:
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
            clip_id: The clip it was registered as, for the audit log and for :meth:`erase`.
            origin: Where it came from, where ``path`` is a private copy of it.

        Returns:
            Key of the file in ``rejected/``: the upload where it was moved, otherwise its ``.reason.json``.
        """
        link_target = _printable(str(path.readlink())) if path.is_symlink() else None
        status = path.lstat() if os.path.lexists(path) else None
        moves = move and status is not None and link_target is None
        described: dict[str, Any] = {
            "code": code,
            "reason": reason,
            "source": origin or _printable(str(path)),
            "name": _printable(path.name),
            "bytes": status.st_size if status else None,
            "mtime_ns": status.st_mtime_ns if status else None,
            "link_target": link_target,
            "kept": moves,
        }
        with self._rejected(described["name"], described, clip_id=clip_id) as (key, is_new):
            if is_new and moves:
                digest = self._files.keep(path, key)
                self._note_digest(key, digest)
                sidecar = sidecar_of(path)
                if sidecar is not None and sidecar != path and not sidecar.is_symlink():
                    self._files.keep(sidecar, key + _SIDECAR_SUFFIX)
                    sidecar.unlink()
                path.unlink()
            elif is_new and move and link_target is not None:
                path.unlink()
        if is_new:
            self._audit_rejection(described, clip_id=clip_id, actor=actor)
        return key if moves else key + _REASON_SUFFIX

    def reject_stored(self, clip_id: str, *, code: str, reason: str, actor: str) -> str:
        """Move an original that is in the vault already to ``rejected/``; returns its key there.

        Raises:
            ArtifactMissing: The vault holds no original of this clip.
        """
        folder = f"{ORIGINALS}/{clip_id}"
        with self._place.exclusive(folder):
            self._place.settle(folder)
            stored = self._stored(clip_id)
            if stored is None:
                raise ArtifactMissing(f"The vault holds no original of clip {clip_id}.")
            described = {
                "code": code,
                "reason": reason,
                "source": stored.key,
                "name": (self._described(f"{folder}/{_DESCRIPTION}") or {})["name"],
                "bytes": stored.bytes,
                "mtime_ns": None,
                "link_target": None,
                "kept": True,
            }
            what = f"The original of clip {clip_id}"
            with self._rejected(described["name"], described, clip_id=clip_id) as (key, _):
                self._note_digest(key, stored.sha256)
                self._files.move(stored.key, key, what=what)
                if self._place.size(f"{folder}/{_SIDECAR}") is not None:
                    sidecar = f"The sidecar of clip {clip_id}"
                    self._files.move(f"{folder}/{_SIDECAR}", key + _SIDECAR_SUFFIX, what=sidecar)
                if self._keys.encrypts:
                    self._files.encrypt(key, what=what, sha256=stored.sha256)
            self._place.remove(f"{folder}/{_DESCRIPTION}")
        self._audit_rejection(described, clip_id=clip_id, actor=actor)
        return key

    @contextlib.contextmanager
    def _rejected(
        self, name: str, described: Mapping[str, Any], *, clip_id: str
    ) -> Iterator[tuple[str, bool]]:
        """A free key in ``rejected/`` whose reason is written, or that of the same reason, which is not new."""
        folder = f"{REJECTED}/{dt.datetime.now(dt.UTC).date().isoformat()}"
        with self._place.exclusive(folder):
            key, is_new = self._free_key(folder, name, described)
            if is_new:
                self._describe(
                    key + _REASON_SUFFIX, {**described, "clip_id": clip_id, "rejected_at": _now_text()}
                )
            yield key, is_new

    def _free_key(self, folder: str, name: str, described: Mapping[str, Any]) -> tuple[str, bool]:
        """A key for a rejected file that is free, or holds this very reason already."""
        clean = "".join("_" if unicodedata.category(character) == "Cc" else character for character in name)
        # What the vault itself writes has such names.
        if clean.endswith((_REASON_SUFFIX, _SIDECAR_SUFFIX, ENVELOPE_SUFFIX)):
            clean += "_"
        if clean.startswith(UNFINISHED):
            clean = f"_{clean}"
        stem, suffix = Path(clean).stem, Path(clean).suffix
        if len(suffix.encode()) > _MAX_EXTENSION_BYTES:
            stem, suffix = clean, ""
        number = 1
        while True:
            ending = suffix if number == 1 else f"-{number}{suffix}"
            longest = max(len(_REASON_SUFFIX), len(_SIDECAR_SUFFIX)) + len(ENVELOPE_SUFFIX)
            room = _MAX_NAME_BYTES - len(ending.encode()) - longest
            key = f"{folder}/{_shortened(stem, room)}{ending}"
            known = self._described(key + _REASON_SUFFIX)
            if known is None and self._place.size(key) is None:
                return key, True
            if (
                known is not None
                and not described["kept"]
                and {name: known.get(name) for name in described} == described
            ):
                return key, False
            number += 1

    def _note_digest(self, key: str, sha256: str) -> None:
        """Say in the reason what content was kept, so that it is found when that has to be erased."""
        described = self._described(key + _REASON_SUFFIX) or {}
        self._describe(key + _REASON_SUFFIX, {**described, "sha256": sha256})

    def _audit_rejection(self, described: Mapping[str, Any], *, clip_id: str, actor: str) -> None:
        self._database.write_audit(
            actor=actor,
            action="vault.reject",
            clip_id=clip_id,
            # Without its name: rows of the log are never removed, and an upload may have to be erased.
            detail=described["code"],
        )

    # --- quarantine -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def quarantine(self, incident_id: int) -> Iterator[Quarantine]:
        """The quarantine of one incident; others wait until the ``with`` ends.

        They wait for the quarantine of any incident: two may be about the same clip, whose versions only one of
        them can move.
        """
        with self._place.exclusive(QUARANTINE):
            yield Quarantine(
                f"{QUARANTINE}/{int(incident_id)}",
                place=self._place,
                files=self._files,
                encrypts=self._keys.encrypts,
            )

    # --- erasure --------------------------------------------------------------------------------------

    def erase(self, clip_id: str) -> int:
        """Remove every file of a clip for good; returns how many there were, descriptions and envelopes not counted.

        These are its original, its sidecar, and rejected uploads that carry its id, that are named after it, or that
        have the content of its original. Doing so again is harmless, and completes a call that was killed. The
        caller writes the audit row. The quarantine of an incident is purged by :meth:`Quarantine.purge`.
        """
        _require_clip_id(clip_id)
        folder = f"{ORIGINALS}/{clip_id}"
        with self._place.exclusive(folder):
            self._place.settle(folder)
            stored = self._described(f"{folder}/{_DESCRIPTION}")
            removed = self._erase_rejected(clip_id, stored)
            for key in list(self._contents(f"{folder}/")):
                removed += self._files.remove(key)
            # The description last: it says what the rejected uploads are compared with.
            self._place.remove_all(folder)
            left = list(self._place.keys(f"{folder}/"))
            if left:
                raise VaultError(
                    f"{len(left)} file(s) of clip {clip_id} cannot be removed from the vault. Check its permissions."
                )
        return removed

    def _erase_rejected(self, clip_id: str, stored: Mapping[str, Any] | None) -> int:
        removed = 0
        for date in sorted({key.split("/")[1] for key in self._place.keys(f"{REJECTED}/")}):
            folder = f"{REJECTED}/{date}"
            with self._place.exclusive(folder):
                for reason_key in list(self._place.keys(f"{folder}/")):
                    if not reason_key.endswith(_REASON_SUFFIX):
                        continue
                    key = reason_key.removesuffix(_REASON_SUFFIX)
                    if self._is_of_clip(key, self._described(reason_key) or {}, clip_id, stored):
                        removed += self._files.remove(key) + self._files.remove(key + _SIDECAR_SUFFIX)
                        self._place.remove(reason_key)
        return removed

    def _is_of_clip(
        self, key: str, reason: Mapping[str, Any], clip_id: str, stored: Mapping[str, Any] | None
    ) -> bool:
        if clip_id in (reason.get("clip_id"), Path(str(reason.get("name", ""))).stem):
            return True
        if stored is None or not reason.get("kept") or reason.get("bytes") != stored["bytes"]:
            return False
        digest = reason.get("sha256")
        if digest is None and self._place.size(key) is not None:
            digest = self._files.sha256(key, what=f"The rejected upload {key}")
        return bool(digest == stored["sha256"])

    def clip_ids(self) -> set[str]:
        """The clips of which it holds something."""
        return {key.split("/")[1] for key in self._place.keys(f"{ORIGINALS}/")}

    def unfinished(self) -> list[str]:
        """What killed processes left: files that were being written, and key envelopes without a file.

        What another process is writing at the moment is among them.
        """
        return [
            *(key for key in self._place.unfinished() if key.split("/")[0] in ROOMS),
            *(key for room in ROOMS for key in self._place.keys(f"{room}/") if self._is_orphan(key)),
        ]

    def remove_unfinished(self) -> int:
        """Remove what killed processes left, and nothing that somebody is writing; returns the number of files."""
        count = 0
        for part in sorted({_part_of(key) for key in self.unfinished()}):
            with self._place.exclusive(part):
                count += self._place.settle(part)
                for key in list(self._place.keys(f"{part}/")):
                    if self._is_orphan(key):
                        count += self._place.remove(key)
        return count

    def _is_orphan(self, key: str) -> bool:
        """Whether it is a key envelope without a file."""
        return key.endswith(ENVELOPE_SUFFIX) and self._place.size(key.removesuffix(ENVELOPE_SUFFIX)) is None

    # --- keys -----------------------------------------------------------------------------------------

    def status(self) -> VaultStatus:
        """Count the files of the vault by the key that opens them."""
        encrypted: Counter[str] = Counter()
        clear, without_key = 0, []
        for key in self._contents():
            try:
                state = self._files.state(key)
            except FileNotFoundError:
                continue  # Removed or moved meanwhile.
            if not state.encrypted:
                clear += 1
            elif state.key_id:
                encrypted[state.key_id] += 1
            else:
                without_key.append(key)
        return VaultStatus(
            encrypted=dict(sorted(encrypted.items())), clear=clear, without_key=tuple(without_key)
        )

    def encrypt(self, *, actor: str, on_file: Callable[[str], None] | None = None) -> int:
        """Encrypt the clear files of the vault in their place; returns how many there were.

        Each is compared with its digest and read back before it replaces the clear one. Killed at any instant, every
        file stays readable, and another call goes on. On an ordinary disk the blocks of the clear file are free
        afterwards, not overwritten.

        Args:
            actor: Who, for the audit log.
            on_file: Called with the key of every file that was encrypted.

        Raises:
            ConfigurationError: Encryption is switched off.
            VaultError: An original has not the digest that was recorded; it stays as it is.
        """
        if not self._keys.encrypts:
            raise ConfigurationError(
                "EGO_VAULT_ENCRYPTION is off. Remove that setting first, or new files would be clear again."
            )

        def encrypt(key: str, what: str, sha256: str) -> bool:
            if self._files.state(key).encrypted:
                # An envelope may be left to finish.
                return self._files.encrypt(key, what=what)
            self._audit_key_change("vault.encrypt", key, actor=actor)
            return self._files.encrypt(key, what=what, sha256=sha256)

        return self._for_every_file(encrypt, on_file)

    def rotate(
        self,
        *,
        actor: str,
        new_key: bool = False,
        contents_too: bool = False,
        on_file: Callable[[str], None] | None = None,
    ) -> int:
        """Let the present key open everything that is encrypted; returns how many files were changed.

        Only the wrapped data keys are written anew, one file after the other, each at once or not at all. Afterwards
        earlier keys are needed for backups only.

        Args:
            actor: Who, for the audit log.
            new_key: Make a new present key first, where the key file gives it.
            contents_too: Encrypt the contents with new data keys, too: where an earlier key and its envelopes may have
                been seen by somebody. Reads and writes everything.
            on_file: Called with the key of every file that was changed.

        Raises:
            KeyMissing: An earlier key is not known here.
            VaultError: A file was changed or damaged; it stays as it is.
        """
        if contents_too and not self._keys.encrypts:
            raise ConfigurationError("EGO_VAULT_ENCRYPTION is off. Remove that setting first.")
        if new_key:
            made = self._files.new_key()
            self._database.write_audit(actor=actor, action="vault.new_key", detail=made.key_id)
        present = self._keys.present()
        if present is None:
            return 0
        self._database.write_audit(actor=actor, action="vault.rotate", detail=present.key_id)

        def rotate(key: str, what: str, sha256: str) -> bool:
            state = self._files.state(key)
            if not state.encrypted:
                return False
            if not contents_too:
                return self._files.rewrap(key, what=what)
            self._audit_key_change("vault.encrypt", key, actor=actor)
            self._files.encrypt_anew(key, what=what, sha256=sha256)
            return True

        return self._for_every_file(rotate, on_file)

    def _for_every_file(
        self, change: Callable[[str, str, str], bool], on_file: Callable[[str], None] | None
    ) -> int:
        """Apply a change to every file, nobody else being in its part of the vault."""
        count = 0
        for key in list(self._contents()):
            with self._place.exclusive(_part_of(key)):
                # Another process may have moved or removed it.
                if self._place.size(key) is not None and change(key, *self._expected(key)):
                    count += 1
                    if on_file is not None:
                        on_file(key)
        return count

    def _expected(self, key: str) -> tuple[str, str]:
        """What a file is, for errors, and its digest where one was recorded."""
        room, name, *rest = key.split("/")
        if room == ORIGINALS and rest != [_SIDECAR]:
            described = self._described(f"{room}/{name}/{_DESCRIPTION}") or {}
            return (
                f"The original of clip {name}",
                described.get("sha256", "") if described.get("key") == key else "",
            )
        if room == REJECTED:
            reason = self._described(key + _REASON_SUFFIX) or {}
            return f"The rejected upload {key}", str(reason.get("sha256", ""))
        return f"{key} in the vault", ""

    def _audit_key_change(self, action: str, key: str, *, actor: str) -> None:
        parts = key.split("/")
        clip_id = parts[1] if parts[0] == ORIGINALS else ""
        # Of a rejected upload without its name, as above.
        detail = _nameless(key) if parts[0] == REJECTED else key
        self._database.write_audit(actor=actor, action=action, clip_id=clip_id, detail=detail)

    def _contents(self, prefix: str = "") -> Iterator[str]:
        """The files that came from outside, of which the vault knows what they are."""
        for room in [prefix] if prefix else [f"{room}/" for room in ROOMS]:
            for key in self._place.keys(room):
                described = (
                    key.endswith(ENVELOPE_SUFFIX)
                    or (key.startswith(f"{ORIGINALS}/") and key.endswith(f"/{_DESCRIPTION}"))
                    or (key.startswith(f"{REJECTED}/") and key.endswith(_REASON_SUFFIX))
                )
                if not described:
                    yield key

    # --- descriptions ---------------------------------------------------------------------------------

    def _describe(self, key: str, value: Mapping[str, Any]) -> None:
        self._place.put(key, json.dumps(value, indent=2, sort_keys=True).encode() + b"\n")

    def _described(self, key: str) -> dict[str, Any] | None:
        content = self._place.get(key)
        if content is None:
            return None
        try:
            described = json.loads(content)
            if isinstance(described, dict):
                return described
        except ValueError:
            pass
        raise VaultError(
            f"{key} in the vault was changed or damaged. Restore it from the backup of the vault."
        )


class _Stream(io.BufferedReader):
    """A buffered file whose name is not its path."""

    def __init__(self, source: BinaryIO, *, name: str) -> None:
        super().__init__(cast(io.RawIOBase, source), buffer_size=_BUFFER_BYTES)
        self._shown_name = name

    @property
    def name(self) -> str:
        """File name without folder, which tells demuxers the container."""
        return self._shown_name


def _require_clip_id(clip_id: str) -> None:
    if not is_clip_id(clip_id):
        raise ValueError(f"clip_id: expected a lower-case UUID, got {clip_id!r}")


def _require_purpose(purpose: object) -> None:
    if not isinstance(purpose, VaultPurpose):
        raise TypeError(f"purpose: expected one of {', '.join(VaultPurpose)}, got {purpose!r}")


def _part_of(key: str) -> str:
    """The part of the vault that one holds to write this file."""
    room, name, *_ = key.split("/")
    return QUARANTINE if room == QUARANTINE else f"{room}/{name}"


def _is_name(part: str) -> bool:
    return part not in ("", ".", "..")


def _bound_digest(clip_id: str, sha256: str) -> str:
    """SHA-256 of clip_id and content digest for the audit log, whose rows outlive an erasure.

    It proves to whoever has the content that this clip was made of it; it cannot be looked up or compared.
    """
    return hashlib.sha256(f"{clip_id} {sha256}".encode()).hexdigest()


def _nameless(key: str) -> str:
    """A key in ``rejected/`` for the audit log: who has the file can find its row, and no row names an upload."""
    folder, _, name = key.rpartition("/")
    return f"{folder}/sha256:{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()[:16]}"


def _shortened(text: str, room: int) -> str:
    """``text`` cut to at most ``room`` bytes, between two characters."""
    encoded = text.encode()
    return text if len(encoded) <= room else encoded[:room].decode("utf-8", "ignore")


def _printable(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _now_text() -> str:
    return dt.datetime.now(dt.UTC).isoformat()
