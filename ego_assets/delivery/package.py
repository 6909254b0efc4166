"""Packs the delivered folder of a clip as an archive, from committed layers without re-encoding.

The tree below ``{clip_id}/`` holds what the layers deliver (``rgb/frame_000000.jpg`` and so on) beside
``metadata.json``. Equal content gives an equal archive, byte for byte.
"""

from __future__ import annotations

import gzip
import io
import itertools
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from ego_assets.schema.artifact import ArtifactDocument
from ego_assets.schema.errors import ArtifactCorrupted, EgoAssetsError
from ego_assets.schema.layers import DeliveryMember

#: Images do not compress further: the lowest level keeps the archive a matter of copying.
_COMPRESSION_LEVEL = 1
_FILE_MODE = 0o644
_READ_BYTES = 1 << 18
_CLIP_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

#: Reads ``size`` bytes at ``offset`` of a layer's file, in pieces: ``(layer, file, offset, size)``.
RangeReader = Callable[[str, str, int, int], Iterable[bytes]]


class DeliveryError(EgoAssetsError):
    """A delivery cannot be built from what the layers contribute."""


@dataclass(frozen=True, kw_only=True)
class PackageMember:
    """One file of the delivered folder.

    Attributes:
        path: Relative path with forward slashes, such as ``rgb/frame_000000.jpg``.
        size: Number of bytes.
        chunks: Yields the bytes in pieces; called once per archive that is written.
    """

    path: str
    size: int
    chunks: Callable[[], Iterable[bytes]]

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.path).parts
        if not parts or self.path.startswith("/") or ".." in parts or "\\" in self.path or "\0" in self.path:
            raise ValueError(f"path: expected a relative path inside the clip folder, got {self.path!r}")
        if self.size < 0:
            raise ValueError(f"size of {self.path}: expected 0 or more bytes, got {self.size}")


@dataclass(frozen=True, kw_only=True)
class PackageSummary:
    """What was written.

    Attributes:
        bytes: Size of the archive.
        file_count: Number of files inside.
    """

    bytes: int
    file_count: int


def resolve_members(
    members: Iterable[DeliveryMember], *, artifacts: Mapping[str, ArtifactDocument], read: RangeReader
) -> Iterator[PackageMember]:
    """Turn what layers contribute into members that can be written.

    Args:
        members: Contributions.
        artifacts: Committed layers by name.
        read: Reads a range of a layer's file.

    Raises:
        DeliveryError: A contribution names a layer or file that is not committed, or a range outside it.
    """
    for member in members:
        document = artifacts.get(member.layer)
        if document is None:
            raise DeliveryError(
                f"{member.path} comes from {member.layer}, which is not committed: materialize it, "
                "or deliver without it."
            )
        try:
            available = document.file(member.file).bytes
        except KeyError as error:
            raise DeliveryError(str(error.args[0])) from error
        size = available - member.offset if member.size is None else member.size
        if member.offset < 0 or size < 0 or member.offset + size > available:
            raise DeliveryError(
                f"{member.path}: expected a range within the {available} bytes of {member.layer}/{member.file} "
                f"of clip {document.clip_id}, got {size} bytes at {member.offset}. Materialize {member.layer} "
                "again."
            )

        def chunks(found: DeliveryMember = member, length: int = size) -> Iterable[bytes]:
            return read(found.layer, found.file, found.offset, length)

        yield PackageMember(path=member.path, size=size, chunks=chunks)


def write_package(
    out: BinaryIO,
    *,
    clip_id: str,
    members: Iterable[PackageMember],
    documents: Mapping[str, bytes] | None = None,
) -> PackageSummary:
    """Write the clip folder as a ``.tar.gz``; memory holds one piece of one file at a time.

    Args:
        out: Where to write; stays open.
        clip_id: Name of the folder inside the archive.
        members: Files, in any order.
        documents: Small files by path, such as ``metadata.json``.

    Raises:
        DeliveryError: Two files have the same path, or ``clip_id`` is no folder name.
        ArtifactCorrupted: A member yields more or fewer bytes than it states.
    """
    ordered = _ordered(clip_id, members, documents or {})
    counted = _CountingWriter(out)
    with (
        gzip.GzipFile(
            filename="", mode="wb", fileobj=counted, compresslevel=_COMPRESSION_LEVEL, mtime=0
        ) as compressed,
        tarfile.open(fileobj=compressed, mode="w|", format=tarfile.GNU_FORMAT) as tar,
    ):
        for member in ordered:
            entry = tarfile.TarInfo(f"{clip_id}/{member.path}")
            entry.size, entry.mode, entry.mtime = member.size, _FILE_MODE, 0
            with _opened(member) as reader:
                tar.addfile(entry, reader)
    return PackageSummary(bytes=counted.bytes, file_count=len(ordered))


def _ordered(
    clip_id: str, members: Iterable[PackageMember], documents: Mapping[str, bytes]
) -> list[PackageMember]:
    """All files sorted by path, each path once."""
    if not _CLIP_ID.fullmatch(clip_id):
        raise DeliveryError(f"clip_id: expected a UUID, got {clip_id!r}")
    written = [_document(path, content) for path, content in documents.items()]
    ordered = sorted([*members, *written], key=lambda member: member.path)
    for first, second in itertools.pairwise(ordered):
        if first.path == second.path:
            raise DeliveryError(f"Clip {clip_id}: two layers deliver the same file {first.path!r}.")
    return ordered


def _document(path: str, content: bytes) -> PackageMember:
    return PackageMember(path=path, size=len(content), chunks=lambda: (content,))


class _MemberReader(io.RawIOBase):
    """Reads a member's pieces as a stream of exactly the stated size."""

    def __init__(self, member: PackageMember) -> None:
        super().__init__()
        self._member = member
        self._pieces = iter(member.chunks())
        self._rest = memoryview(b"")
        self._missing = member.size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._rest and self._missing:
            piece = next(self._pieces, None)
            if piece is None or len(piece) > self._missing:
                raise self._wrong_size("fewer" if piece is None else "more")
            self._rest = memoryview(piece)
            self._missing -= len(piece)
        taken = min(len(buffer), len(self._rest))
        buffer[:taken] = self._rest[:taken]
        self._rest = self._rest[taken:]
        return taken

    def require_end(self) -> None:
        """Raise unless all pieces were used up."""
        if any(self._pieces):
            raise self._wrong_size("more")

    def _wrong_size(self, found: str) -> ArtifactCorrupted:
        return ArtifactCorrupted(
            f"{self._member.path} has {found} bytes than the {self._member.size} its index states: "
            "materialize the layer it comes from again."
        )


@contextmanager
def _opened(member: PackageMember) -> Iterator[BinaryIO]:
    """The member's bytes as a buffered stream; checks at the end that there were no more than stated."""
    raw = _MemberReader(member)
    with io.BufferedReader(raw, _READ_BYTES) as reader:
        yield reader
        raw.require_end()


class _CountingWriter(io.RawIOBase):
    """Passes bytes on and counts them."""

    def __init__(self, out: BinaryIO) -> None:
        super().__init__()
        self._out = out
        self.bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._out.write(data)
        self.bytes += len(data)
        return len(data)
