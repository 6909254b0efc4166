"""The way in: registers uploads as clips, takes them into the vault and recognises what is there already."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ego_assets.media.uploads import UploadDescription, UploadFacts, sidecar_of, upload_path, vanished
from ego_assets.schema.buckets import is_bucket_url
from ego_assets.schema.clip import Clip
from ego_assets.schema.erasures import ERASED_UPLOAD
from ego_assets.schema.errors import (
    ClipErased,
    ConfigurationError,
    DuplicateUpload,
    UploadRejected,
)
from resources.database import ClipExists, Database
from resources.erasures import ErasureLog
from resources.uploads import BucketUploads
from resources.vault import Vault

if TYPE_CHECKING:
    from resources.buckets import ObjectInfo


class Intake:
    """Brings uploads into the platform.

    Args:
        database: Where clips are registered.
        vault: Where originals go.
        uploads: The bucket that is watched, or that uploads may be copied from.
        uploads_folder: The folder that is watched.
    """

    def __init__(
        self,
        database: Database,
        vault: Vault,
        *,
        uploads: BucketUploads | None = None,
        uploads_folder: Path | None = None,
    ) -> None:
        self._database = database
        self._vault = vault
        self._uploads = uploads
        self._uploads_folder = uploads_folder

    def register(self, description: UploadFacts, *, upload_uri: str) -> Clip:
        """Register an upload as a clip; doing so again returns the same clip.

        What sidecar and path say is brought up to date until the original is in the vault.

        Args:
            description: The upload.
            upload_uri: Where it lies: a path, a ``file://`` URL, or the address of an object in a bucket, whose
                content is compared only when it is taken.

        Raises:
            UploadRejected: code ``clip_id_taken``: a clip with this id has other content, or waits for
                another upload, or was erased; code ``erased``: the content was erased; code ``vanished``: the upload
                is gone.
            TransientError: The bucket does not answer.
        """
        fields = dict(description.fields)
        known = self._database.find_clip(description.clip_id)
        if known is None:
            clip = Clip(
                clip_id=description.clip_id,
                source_name=description.source_name,
                upload_uri=upload_uri,
                **fields,
            )
            try:
                self._database.add_clip(clip)
            except ClipExists:
                return self.register(description, upload_uri=upload_uri)
            return clip
        if self._database.is_erased(known.clip_id):
            raise self._refused_id(description)
        if known.raw_sha256:
            if isinstance(description, UploadDescription):
                self._require_same_content(known, description)
                return known
            # Where `clear_upload` finds what has to be compared.
            return self._database.update_clip(known.clip_id, upload_uri=upload_uri)
        if known.upload_uri != upload_uri and self._exists(known.upload_uri):
            raise UploadRejected(
                "clip_id_taken",
                f"{description.source_name!r} has the same clip_id as {known.source_name!r}, which is registered "
                "from another place and not processed yet. Rename one of the two files and upload it again.",
            )
        with self._database.transaction():
            self._database.lock_clip(known.clip_id)
            if not self._database.clip(known.clip_id).raw_sha256:
                return self._database.update_clip(
                    known.clip_id, source_name=description.source_name, upload_uri=upload_uri, **fields
                )
        # Its original was taken meanwhile.
        return self.register(description, upload_uri=upload_uri)

    def take(
        self, clip_id: str, source: Path, *, move: bool, actor: str, run_id: str = "", origin: str = ""
    ) -> Clip:
        """Bring the upload of a registered clip into the vault; doing so again is harmless.

        Args:
            clip_id: The clip.
            source: The upload.
            move: Take it out of its folder once its content is safe.
            actor: Who, for the audit log.
            run_id: Dagster run, for the audit log.
            origin: Where the upload came from, for the records, where ``source`` is a private copy of it.

        Returns:
            The clip with its original noted.

        Raises:
            UnknownClip: The clip is not registered.
            DuplicateUpload: Another clip has the same content. The clip's ``duplicate_of`` names it, and with
                ``move`` the upload lies in ``rejected/`` of the vault.
            UploadRejected: It cannot be taken; see :meth:`resources.vault.Vault.take`.
            TransientError: It is still being written.
        """
        clip = self._database.clip(clip_id)
        if clip.duplicate_of and not os.path.lexists(source):
            raise DuplicateUpload(clip.duplicate_of, clip.source_name)

        def accept(sha256: str) -> None:
            if self._database.is_erased(clip_id) or self._erasures.is_erased_content(sha256):
                raise _erased()
            first = self._database.clip_with_digest(sha256)
            if first is not None and first.clip_id != clip_id:
                raise DuplicateUpload(first.clip_id, clip.source_name)

        try:
            stored = self._vault.take(clip_id, source, move=move, actor=actor, run_id=run_id, accept=accept)
        except UploadRejected as rejection:
            if rejection.code == ERASED_UPLOAD:
                # What was registered of it is to go as well; the incidents sensor finishes that.
                self._erasures.begin(clip_id, reason="The same content was erased before.", actor=actor)
                if move:
                    self._discard(source)
                raise
            if not isinstance(rejection, DuplicateUpload):
                raise
            duplicate = rejection
            self._database.update_clip(clip_id, duplicate_of=duplicate.first_clip_id)
            if move:
                self.reject(source, duplicate, move=True, actor=actor, clip_id=clip_id, origin=origin)
            raise
        try:
            taken = self._database.record_original(
                clip_id, raw_key=stored.key, raw_sha256=stored.sha256, raw_bytes=stored.bytes
            )
        except ClipErased:
            # Erased while it was taken; the one who erases may have looked into the vault before.
            self._vault.erase(clip_id)
            raise
        if taken.duplicate_of:
            # Another process took the same content between the two looks at the database.
            late = DuplicateUpload(taken.duplicate_of, clip.source_name)
            self._vault.reject_stored(clip_id, code=late.code, reason=str(late), actor=actor)
            raise late
        return taken

    def take_upload(
        self,
        clip_id: str,
        *,
        actor: str,
        run_id: str = "",
        move: bool = True,
        given: Mapping[str, Any] | None = None,
    ) -> Clip:
        """Bring the upload of a registered clip into the vault from wherever it lies; doing so again is harmless.

        Args:
            clip_id: The clip.
            actor: Who, for the audit log.
            run_id: Dagster run, for the audit log.
            move: Take it out of the watched folder or bucket once its content is safe; from any other place it is
                copied.
            given: Fields of the clip that win over the sidecar of an object.

        Raises:
            ConfigurationError: It lies in a bucket that the settings do not say how to reach.
            DuplicateUpload: As for :meth:`take`.
            UploadRejected: It cannot be taken; it stays where it is.
            TransientError: The bucket does not answer, or the upload was overwritten meanwhile.
            InsufficientDisk: There is no room for it.
        """
        uri = self._database.clip(clip_id).upload_uri
        if is_bucket_url(uri):
            return self._take_object(clip_id, uri, actor=actor, run_id=run_id, move=move, given=given or {})
        path = upload_path(uri)
        watched = self._uploads_folder is not None and path.is_relative_to(self._uploads_folder)
        return self.take(clip_id, path, move=move and watched, actor=actor, run_id=run_id)

    def clear_upload(self, clip_id: str, *, actor: str, run_id: str = "") -> UploadRejected | None:
        """Clear away an object of the watched bucket that is there although its clip is in the vault already.

        A run that was killed in between leaves it, and so does the same upload made once more. Its content is compared
        with the original before it is removed; other content under a used ``clip_id`` goes to ``rejected/``.

        Returns:
            Why it was rejected; ``None`` when it was not, or when there was nothing to do.

        Raises:
            TransientError: The bucket does not answer.
            InsufficientDisk: There is no room for it.
        """
        uri = self._database.clip(clip_id).upload_uri
        uploads, key, watched = self._object(uri) if is_bucket_url(uri) else (None, "", False)
        if uploads is None or not watched:
            return None
        info = uploads.info(key)
        # Cameras give the next card's files the same names: those are clips of their own.
        if info is None or not _describes(uploads, info, clip_id):
            return None
        with uploads.fetched(key) as fetched:
            if fetched is None:
                return None
            rejection: UploadRejected | None = None
            try:
                self.take(clip_id, fetched.path, move=True, actor=actor, run_id=run_id, origin=uri)
            except DuplicateUpload as duplicate:
                rejection = duplicate
            except UploadRejected as found:
                rejection = found
                self.reject(fetched.path, found, move=True, actor=actor, clip_id=clip_id, origin=uri)
            uploads.remove(fetched)
            return rejection

    def _take_object(
        self, clip_id: str, uri: str, *, actor: str, run_id: str, move: bool, given: Mapping[str, Any]
    ) -> Clip:
        uploads, key, watched = self._object(uri)
        move = move and watched
        with uploads.fetched(key) as fetched:
            if fetched is None:
                # The vault may hold it already; a duplicate lies in rejected/.
                missing = uploads.missing_file(key)
                return self.take(clip_id, missing, move=False, actor=actor, run_id=run_id, origin=uri)
            # A sidecar may have come after its video.
            fields = {**uploads.facts(fetched).fields, **given}
            if fields:
                self._database.update_clip(clip_id, **fields)
            try:
                clip = self.take(clip_id, fetched.path, move=move, actor=actor, run_id=run_id, origin=uri)
            except UploadRejected as rejection:
                if move and (isinstance(rejection, DuplicateUpload) or rejection.code == ERASED_UPLOAD):
                    uploads.remove(fetched)
                raise
            if move:
                uploads.remove(fetched)
            return clip

    def reject_object(
        self, uploads: BucketUploads, info: ObjectInfo, rejection: UploadRejected, *, actor: str
    ) -> None:
        """Move an object that cannot be accepted, and its sidecar, to ``rejected/`` of the vault.

        Raises:
            TransientError: The bucket does not answer, or the object was overwritten meanwhile.
            InsufficientDisk: There is no room for it.
        """
        with uploads.fetched(info.key) as fetched:
            if fetched is not None:
                uri = uploads.uri(info.key)
                self.reject(fetched.path, rejection, move=True, actor=actor, origin=uri)
                uploads.remove(fetched)

    def reject_unread(self, uri: str, rejection: UploadRejected, *, actor: str) -> None:
        """Record why an object cannot be accepted that stays where it is."""
        name = Path(uri.rpartition("/")[2] or "upload")
        self.reject(name, rejection, move=False, actor=actor, origin=uri)

    def reject_content(
        self, name: str, content: bytes, rejection: UploadRejected, *, origin: str, actor: str
    ) -> None:
        """Keep something that came by another way than a file, such as a notification, in ``rejected/``."""
        uploads = self._uploads
        if uploads is None:
            raise ConfigurationError("No bucket of uploads is configured. Set EGO_UPLOADS_URL.")
        with uploads.private_file(name, content) as path:
            self.reject(path, rejection, move=True, actor=actor, origin=origin)

    def reject(
        self,
        path: Path,
        rejection: UploadRejected,
        *,
        move: bool,
        actor: str,
        clip_id: str = "",
        origin: str = "",
    ) -> str:
        """Keep an upload that cannot be accepted in ``rejected/``, see :meth:`resources.vault.Vault.reject`.

        What was erased is not kept: with ``move`` the file and its sidecar are removed, and without it nothing is
        written. Then there is no key.
        """
        if self._was_erased(path):
            if move:
                self._discard(path)
            self._database.write_audit(
                actor=actor,
                action="erase.refuse",
                clip_id=clip_id,
                detail="the same content was uploaded again",
            )
            return ""
        return self._vault.reject(
            path,
            code=rejection.code,
            reason=str(rejection),
            move=move,
            actor=actor,
            clip_id=clip_id,
            origin=origin,
        )

    @property
    def _erasures(self) -> ErasureLog:
        return ErasureLog(self._database)

    def _refused_id(self, description: UploadFacts) -> UploadRejected:
        """Why an upload is refused whose id is that of an erased clip."""
        if isinstance(description, UploadDescription) and self._was_erased(description.path):
            return _erased()
        return UploadRejected(
            "clip_id_taken",
            f"{description.source_name!r} has the clip_id of a clip that was erased, and a clip_id is never reused. "
            "Upload the recording under a new name.",
        )

    def _was_erased(self, path: Path) -> bool:
        """Whether a file has content that was erased; nothing is read while nothing ever was."""
        if not self._erasures.has_content() or path.is_symlink() or not path.is_file():
            return False
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return False
        return self._erasures.is_erased_content(digest)

    def _discard(self, path: Path) -> None:
        """Remove an upload of erased content, and its sidecar, which are not kept anywhere."""
        sidecar = sidecar_of(path)
        for one in (sidecar, path):
            if one is not None and not one.is_symlink():
                one.unlink(missing_ok=True)

    def _require_same_content(self, known: Clip, description: UploadDescription) -> None:
        """Refuse another recording under the id of a clip whose original is in the vault."""
        if description.size_bytes == known.raw_bytes:
            try:
                with description.path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
            except FileNotFoundError:
                raise vanished(description.path) from None
            if digest == known.raw_sha256:
                return
        raise UploadRejected(
            "clip_id_taken",
            f"{description.source_name!r} has the clip_id of {known.source_name!r}, whose original is in the vault "
            "and has other content; a clip_id is never reused. Upload the recording under a new name.",
        )

    def _object(self, uri: str) -> tuple[BucketUploads, str, bool]:
        """Access to an object, its key, and whether it lies in the bucket that is watched."""
        if self._uploads is None:
            raise ConfigurationError(
                f"{uri} lies in a bucket, but none is configured to take uploads from. Set EGO_UPLOADS_URL."
            )
        key = self._uploads.key_of(uri)
        if key is not None:
            return self._uploads, key, True
        return self._uploads.at(uri.rpartition("/")[0]), uri.rpartition("/")[2], False

    def _exists(self, upload_uri: str) -> bool:
        """Whether an upload is still where it was registered from."""
        if not upload_uri:
            return False
        if is_bucket_url(upload_uri):
            uploads, key, _ = self._object(upload_uri)
            return uploads.info(key) is not None
        return os.path.lexists(upload_path(upload_uri))


def _erased() -> UploadRejected:
    """Without the name of the upload, which would stay in the log of the run."""
    return UploadRejected(
        ERASED_UPLOAD,
        "This recording was erased for good and is not taken again. Where its wearer agrees to it now, record it anew.",
    )


def _describes(uploads: BucketUploads, info: ObjectInfo, clip_id: str) -> bool:
    """Whether an object is the upload that gave a clip its id."""
    try:
        return uploads.describe(info).clip_id == clip_id
    except UploadRejected:
        return False
