from __future__ import annotations

import pytest

from ego_assets.media.recording import Chapter, parse_chapter


@pytest.mark.parametrize(
    ("name", "chapter"),
    [
        ("GX010001.MP4", Chapter("GX0001", 1)),
        ("GX020001.MP4", Chapter("GX0001", 2)),
        ("gx120034.mp4", Chapter("GX0034", 12)),
        ("GH010001.MP4", Chapter("GH0001", 1)),
        ("GOPR0001.MP4", Chapter("GP0001", 1)),
        ("GP010001.MP4", Chapter("GP0001", 2)),
        ("gp020001.Mp4", Chapter("GP0001", 3)),
        ("day 1/GX010001.MP4", Chapter("day 1/GX0001", 1)),
        ("GX000001.MP4", None),
        ("GX010001.LRV", None),
        ("GX010001", None),
        ("GX01000.MP4", None),
        ("GX0100011.MP4", None),
        ("copy of GX010001.MP4", None),
        ("GX010001 (1).MP4", None),
        ("kitchen.mp4", None),
    ],
)
def test_names(name: str, chapter: Chapter | None) -> None:
    assert parse_chapter(name) == chapter
