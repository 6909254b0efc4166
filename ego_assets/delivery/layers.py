"""What a committed layer adds to a delivered clip folder."""

from __future__ import annotations

import io
from collections.abc import Callable

from ego_assets.media.frame_archive import FrameArchiveIndex
from ego_assets.schema.artifact import ArtifactDocument
from ego_assets.schema.layers import DeliveryMember


def archive_members(
    document: ArtifactDocument,
    read: Callable[[str], bytes],
    *,
    folder: str,
    archive: str,
    index: str,
) -> list[DeliveryMember]:
    """The members of a frame archive as files of one folder.

    Args:
        document: The committed layer.
        read: Returns the bytes of one of its files.
        folder: Folder inside the clip folder.
        archive: Name of the tar inside the artifact.
        index: Name of its index.
    """
    entries = FrameArchiveIndex.read(io.BytesIO(read(index)))
    return [
        DeliveryMember(
            path=f"{folder}/{entry.name}",
            layer=document.layer,
            file=archive,
            offset=entry.offset,
            size=entry.size,
        )
        for entry in entries
    ]
