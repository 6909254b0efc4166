"""The rules of the upload folder, for the keys of objects."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest

from ego_assets.media.uploads import (
    MAX_SIDECAR_BYTES,
    UploadFacts,
    describe_object,
    describe_upload,
    is_clip_id,
    is_ignored,
    is_ignored_key,
    sidecar_key,
)
from ego_assets.schema.errors import UploadRejected

CLIP = "3b241101-e2bb-4255-8caf-4136c566a962"


def describe(key: str, **options: Any) -> UploadFacts:
    given = {"size_bytes": 5, "version": "etag", "folder": "drop", "sidecar": None, **options}
    return describe_object(key, **given)


@pytest.mark.parametrize(
    "name",
    [
        f"raw/c07/2026-05-04/{CLIP}.mp4",
        "raw/c07/20260504/GX020001.MP4",
        "GX020001.MP4",
        "team a/raw/c 07é/2026-05-04/台所 + 😀.mp4",
        "videos/-rf.mov",
    ],
)
@pytest.mark.parametrize("sidecar", [None, {"collector_id": "c09", "camera": "aria"}])
def test_an_object_is_what_the_file_of_the_same_name_is(
    tmp_path: Path, name: str, sidecar: dict[str, str] | None
) -> None:
    root = tmp_path / "drop"
    path = root / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"video")
    if sidecar is not None:
        path.with_suffix(".json").write_text(json.dumps(sidecar))
    file = describe_upload(root, path)
    content = None if sidecar is None else json.dumps(sidecar).encode()
    found = describe(name, sidecar=content)
    for attribute in (
        "source_name",
        "size_bytes",
        "collector_id",
        "recording_date",
        "fields",
        "recording_id",
    ):
        assert getattr(found, attribute) == getattr(file, attribute), attribute
    assert found.chapter == file.chapter
    assert (found.clip_id == file.clip_id) is is_clip_id(path.stem)


def test_an_assigned_id_follows_key_size_and_version() -> None:
    first = describe("a/b.mp4")
    assert describe("a/b.mp4") == first and first.clip_id != CLIP
    others = {
        describe("a/c.mp4").clip_id,
        describe("a/b.mp4", size_bytes=6).clip_id,
        describe("a/b.mp4", version="other").clip_id,
    }
    assert len(others | {first.clip_id}) == 4


@pytest.mark.parametrize(
    ("key", "options", "code"),
    [
        ("raw/../a.mp4", {}, "name"),
        ("raw/..", {}, "name"),
        ("..", {}, "name"),
        ("raw//a.mp4", {}, "name"),
        ("/a.mp4", {}, "name"),
        ("./a.mp4", {}, "name"),
        ("bell\a.mp4", {}, "name"),
        ("a\n/b.mp4", {}, "name"),
        ("a.txt", {}, "extension"),
        ("clip", {}, "extension"),
        ("a.mp4.zip", {}, "extension"),
        ("a.mp4.part", {}, "unfinished"),
        ("a.mp4", {"size_bytes": 0}, "empty"),
        ("a.mp4", {"sidecar": b"{"}, "sidecar"),
        ("a.mp4", {"sidecar": b" " * (MAX_SIDECAR_BYTES + 1)}, "sidecar"),
        ("a.mp4", {"sidecar": b'{"clip_id": "b"}'}, "sidecar"),
    ],
)
def test_keys_that_are_rejected(key: str, options: dict[str, Any], code: str) -> None:
    with pytest.raises(UploadRejected) as caught:
        describe(key, **options)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)


def test_a_sidecar_wins_over_the_folders() -> None:
    found = describe("raw/c07/2026-05-04/a.mp4", sidecar=b'{"collector_id": "c08", "clip_id": "A"}')
    assert (found.collector_id, found.recording_date) == ("c08", dt.date(2026, 5, 4))


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("raw/c07/", True),
        ("raw/c07/2026-05-04/", True),
        (".hidden/a.mp4", True),
        ("raw/.cache/a.mp4", True),
        ("raw/a.json", True),
        ("raw/../a.mp4", False),
        ("raw/..", False),
        ("a.mp4", False),
        ("/a.mp4", False),
        ("a/notes.txt", False),
    ],
)
def test_keys_that_are_none_of_our_business(key: str, expected: bool) -> None:
    assert is_ignored_key(key) is expected


@pytest.mark.parametrize(
    "name", ["a.mp4.PART", "a.tmp", "~$a.mp4", ".x", "a.JSON", "GX01.THM", "a.mp4", "x.txt"]
)
def test_names_are_ignored_as_in_a_folder(name: str) -> None:
    assert is_ignored_key(f"raw/{name}") is is_ignored(Path("raw") / name)


@pytest.mark.parametrize(
    ("key", "expected"),
    [("raw/a.mp4", "raw/a.json"), ("a.b.MOV", "a.b.json"), ("raw//a", "raw//a.json"), ("/a.mp4", "/a.json")],
)
def test_where_the_sidecar_of_an_object_lies(key: str, expected: str) -> None:
    assert sidecar_key(key) == expected
