from __future__ import annotations

import io
import struct

import pytest

from ego_assets.media.mp4 import has_movie_index, is_mp4, is_still_picture, top_level_boxes


def box(kind: bytes, payload: int, size: int | None = None) -> bytes:
    return struct.pack(">I4s", 8 + payload if size is None else size, kind) + bytes(payload)


LARGE_MDAT = struct.pack(">I4sQ", 1, b"mdat", 16 + 40) + bytes(40)


@pytest.mark.parametrize(
    ("content", "kinds", "indexed"),
    [
        (box(b"ftyp", 8) + box(b"mdat", 50) + box(b"moov", 20), [b"ftyp", b"mdat", b"moov"], True),
        (box(b"ftyp", 8) + LARGE_MDAT + box(b"moov", 20), [b"ftyp", b"mdat", b"moov"], True),
        (box(b"ftyp", 8) + box(b"moov", 20, size=0), [b"ftyp", b"moov"], True),
        (box(b"ftyp", 8) + box(b"mdat", 50), [b"ftyp", b"mdat"], False),
        (box(b"ftyp", 8) + box(b"mdat", 50, size=0) + box(b"moov", 20), [b"ftyp", b"mdat"], False),
        (box(b"ftyp", 8) + box(b"moov", 20, size=999), [b"ftyp", b"moov"], False),
        (box(b"ftyp", 8) + box(b"mdat", 50, size=3) + box(b"moov", 20), [b"ftyp", b"mdat"], False),
        (b"", [], False),
        (bytes(7), [], False),
    ],
)
def test_boxes_at_the_top_level(content: bytes, kinds: list[bytes], indexed: bool) -> None:
    file = io.BytesIO(content)
    assert [found.kind for found in top_level_boxes(file)] == kinds
    assert has_movie_index(file) is indexed


def test_boxes_inside_others_do_not_count() -> None:
    hidden = box(b"moov", 20)
    assert not has_movie_index(
        io.BytesIO(box(b"ftyp", 8) + struct.pack(">I4s", 8 + len(hidden), b"free") + hidden)
    )


def test_signatures() -> None:
    assert is_mp4(box(b"ftyp", 8)) and is_mp4(box(b"mdat", 8))
    assert not is_mp4(b"\x1a\x45\xdf\xa3" + bytes(12)) and not is_mp4(b"")
    assert is_still_picture(struct.pack(">I4s4s", 24, b"ftyp", b"avif"))
    assert not is_still_picture(struct.pack(">I4s4s", 24, b"ftyp", b"isom"))
