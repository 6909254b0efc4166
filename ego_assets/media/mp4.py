"""Just enough of the MP4 and QuickTime box structure to say why such a file cannot be opened."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

#: Boxes that a file may begin with (ISO/IEC 14496-12, QuickTime File Format).
LEADING_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"uuid"})

#: Brands of still pictures that share the container (HEIF, AVIF).
STILL_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2", b"avif"})

_MAX_BOXES = 10_000


@dataclass(frozen=True)
class Mp4Box:
    """One box at the top level of a file.

    Attributes:
        kind: Four-character code.
        offset: Position of the first header byte.
        size: Declared size in bytes, header included.
        complete: Whether the file is long enough to hold it.
    """

    kind: bytes
    offset: int
    size: int
    complete: bool


def is_mp4(header: bytes) -> bool:
    """Whether the first bytes of a file (8 or more) look like MP4 or QuickTime."""
    return header[4:8] in LEADING_BOXES


def is_still_picture(header: bytes) -> bool:
    """Whether the first bytes of a file (12 or more) declare a HEIF or AVIF picture."""
    return header[4:8] == b"ftyp" and header[8:12] in STILL_BRANDS


def top_level_boxes(file: BinaryIO) -> tuple[Mp4Box, ...]:
    """The boxes at the top level, read from the start of a seekable file.

    Stops at the first box that is malformed or reaches beyond the end of the file, which is included.
    """
    end = file.seek(0, 2)
    boxes: list[Mp4Box] = []
    offset = 0
    while offset + 8 <= end and len(boxes) < _MAX_BOXES:
        file.seek(offset)
        header = file.read(16)
        size, kind = struct.unpack(">I4s", header[:8])
        if size == 1 and len(header) == 16:
            size = struct.unpack(">Q", header[8:16])[0]
        elif size == 0:
            size = end - offset
        complete = size >= 8 and offset + size <= end
        boxes.append(Mp4Box(kind, offset, size, complete))
        if not complete:
            break
        offset += size
    return tuple(boxes)


def has_movie_index(file: BinaryIO) -> bool:
    """Whether the file holds a complete ``moov`` box, without which no frame can be located."""
    return any(box.kind == b"moov" and box.complete for box in top_level_boxes(file))
