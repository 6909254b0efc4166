"""The way in: registers uploads as clips, takes them into the vault and recognises what is there already."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ego_assets.media.uploads import UploadDescription, upload_path, vanished
from ego_assets.schema.clip import Clip
from ego_assets.schema.errors import DuplicateUpload, UploadRejected
from resources.database import ClipExists, Database
from resources.vault import Vault


class Intake:
    """Brings uploads into the platform.

    Args:
        database: Where clips are registered.
        vault: Where originals go.
    """

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    def register(self, description: UploadDescription, *, upload_uri: str) -> Clip:
        """Register an upload as a clip; doing so again returns the same clip.

        What sidecar and path say is brought up to date until the original is in the vault.

        Args:
            description: The upload.
            upload_uri: Where it lies: a path or a ``file://`` URL.

        Raises:
            UploadRejected: code ``clip_id_taken``: a clip with this id has other content, or waits for
                another upload; code ``vanished``: the upload is gone.
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
        if known.raw_sha256:
            self._require_same_content(known, description)
            return known
        if known.upload_uri != upload_uri and _exists(known.upload_uri):
            raise UploadRejected(
                "clip_id_taken",
                f"{description.source_name!r} has the same clip_id as {known.source_name!r}, which is registered "
                "from another folder and not processed yet. Rename one of the two files and upload it again.",
            )
        return self._database.update_clip(
            known.clip_id, source_name=description.source_name, upload_uri=upload_uri, **fields
        )

    def take(self, clip_id: str, source: Path, *, move: bool, actor: str, run_id: str = "") -> Clip:
        """Bring the upload of a registered clip into the vault; doing so again is harmless.

        Args:
            clip_id: The clip.
            source: The upload.
            move: Take it out of its folder once its content is safe.
            actor: Who, for the audit log.
            run_id: Dagster run, for the audit log.

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
            first = self._database.clip_with_digest(sha256)
            if first is not None and first.clip_id != clip_id:
                raise DuplicateUpload(first.clip_id, clip.source_name)

        try:
            stored = self._vault.take(clip_id, source, move=move, actor=actor, run_id=run_id, accept=accept)
        except DuplicateUpload as duplicate:
            self._database.update_clip(clip_id, duplicate_of=duplicate.first_clip_id)
            if move:
                self.reject(source, duplicate, move=True, actor=actor, clip_id=clip_id)
            raise
        taken = self._database.record_original(
            clip_id, raw_key=stored.key, raw_sha256=stored.sha256, raw_bytes=stored.bytes
        )
        if taken.duplicate_of:
            # Another process took the same content between the two looks at the database.
            late = DuplicateUpload(taken.duplicate_of, clip.source_name)
            self._vault.reject_stored(clip_id, code=late.code, reason=str(late), actor=actor)
            raise late
        return taken

    def reject(
        self, path: Path, rejection: UploadRejected, *, move: bool, actor: str, clip_id: str = ""
    ) -> Path:
        """Keep an upload that cannot be accepted in ``rejected/``, see :meth:`resources.vault.Vault.reject`."""
        return self._vault.reject(
            path, code=rejection.code, reason=str(rejection), move=move, actor=actor, clip_id=clip_id
        )

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


def _exists(upload_uri: str) -> bool:
    """Whether the local file that a path or ``file://`` URL names is still there."""
    return bool(upload_uri) and os.path.lexists(upload_path(upload_uri))
