from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.media.recording import Chapter, Recording, group_chapters, parse_chapter


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


@given(st.permutations(["GX100007.MP4", "GX010007.MP4", "gx020007.mp4", "GX010008.MP4", "other.mp4"]))
def test_groups_are_ordered_by_chapter_number(names: list[str]) -> None:
    assert group_chapters(names) == (
        Recording("GX0007", ("GX010007.MP4", "gx020007.mp4", "GX100007.MP4"), (1, 2, 10)),
        Recording("GX0008", ("GX010008.MP4",), (1,)),
    )


def test_equal_names_in_two_folders_are_two_recordings() -> None:
    names = ["a/GX010001.MP4", "b/GX010001.MP4", "b/GX020001.MP4"]
    assert [recording.names for recording in group_chapters(names)] == [tuple(names[:1]), tuple(names[1:])]


def test_older_cameras_begin_with_another_name() -> None:
    recordings = group_chapters(["GP020009.MP4", "GOPR0009.MP4", "GP010009.MP4"])
    assert [recording.names for recording in recordings] == [("GOPR0009.MP4", "GP010009.MP4", "GP020009.MP4")]
