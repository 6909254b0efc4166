from __future__ import annotations

import datetime as dt
import json
import os
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ego_assets.media.uploads import (
    SIDECAR_ALIASES,
    SidecarModel,
    UploadDescription,
    UploadObservation,
    describe_upload,
    find_uploads,
    is_clip_id,
    is_ignored,
    parse_date,
    parse_fields,
    read_sidecar,
    settled,
    sidecar_of,
)
from ego_assets.schema.clip import Clip
from ego_assets.schema.errors import UploadRejected
from ego_assets.schema.vocabulary import ConsentScope, LocationType, SourceCamera

CLIP = "3b241101-e2bb-4255-8caf-4136c566a962"


def upload(root: Path, name: str, content: bytes = b"video") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def sidecar(root: Path, values: object, name: str = f"{CLIP}.json") -> Path:
    return upload(root, name, values if isinstance(values, bytes) else json.dumps(values).encode())


def rejection(root: Path, path: Path) -> UploadRejected:
    with pytest.raises(UploadRejected) as caught:
        describe_upload(root, path)
    return caught.value


# --- names and folders ---


def test_the_layout_of_the_guide(tmp_path: Path) -> None:
    path = upload(tmp_path, f"raw/c07/2026-05-04/{CLIP}.mp4")
    described = describe_upload(tmp_path, path)
    assert described == UploadDescription(
        path=path,
        clip_id=CLIP,
        source_name=f"{CLIP}.mp4",
        size_bytes=5,
        collector_id="c07",
        recording_date=dt.date(2026, 5, 4),
        fields={"collector_id": "c07", "recording_date": dt.date(2026, 5, 4)},
    )


@pytest.mark.parametrize(
    ("folder", "collector", "date"),
    [
        ("raw/c07/20260504", "c07", "2026-05-04"),
        ("c07/2026-05-04", "c07", "2026-05-04"),
        ("team a/raw/c 07é/2026-05-04", "c 07é", "2026-05-04"),
        ("raw/2026-05-04", None, "2026-05-04"),
        ("2026-05-04", None, "2026-05-04"),
        ("videos", None, None),
        ("raw/c07", None, None),
        ("raw/c07/2026-02-30", None, None),
        ("raw/c07/2026-05", None, None),
        ("", None, None),
    ],
)
def test_folders(tmp_path: Path, folder: str, collector: str | None, date: str | None) -> None:
    described = describe_upload(tmp_path, upload(tmp_path, f"{folder}/a.mp4".lstrip("/")))
    assert described.collector_id == collector
    assert described.recording_date == (dt.date.fromisoformat(date) if date else None)
    assert set(described.fields) == ({"collector_id"} if collector else set()) | (
        {"recording_date"} if date else set()
    )


@pytest.mark.parametrize("name", [f"{CLIP}.mp4", f"{CLIP.upper()}.MP4", f"{CLIP}.Mov", f"{CLIP}.mkv"])
def test_a_uuid_in_the_name_is_the_clip_id(tmp_path: Path, name: str) -> None:
    assert describe_upload(tmp_path, upload(tmp_path, name)).clip_id == CLIP


@pytest.mark.parametrize(
    "name", ["holiday.mp4", f"{CLIP} copy.mp4", f"{{{CLIP}}}.mp4", CLIP.replace("-", "") + ".mp4"]
)
def test_other_names_get_an_id_that_stays(tmp_path: Path, name: str) -> None:
    path = upload(tmp_path, name)
    first = describe_upload(tmp_path, path)
    assert is_clip_id(first.clip_id) and first.clip_id != CLIP
    assert describe_upload(tmp_path, path) == first
    assert first.source_name == name
    ids = {first.clip_id}
    ids.add(describe_upload(tmp_path, upload(tmp_path, f"sub/{name}")).clip_id)
    path.write_bytes(b"longer video")
    ids.add(describe_upload(tmp_path, path).clip_id)
    os.utime(path, ns=(0, 1))
    ids.add(describe_upload(tmp_path, path).clip_id)
    assert len(ids) == 4


def test_the_fields_are_fields_of_a_clip(tmp_path: Path) -> None:
    path = upload(tmp_path, "raw/c07/2026-05-04/GX020001.MP4")
    sidecar(path.parent, {"camera": "gopro_hero12"}, "GX020001.json")
    described = describe_upload(tmp_path, path)
    clip = Clip(clip_id=described.clip_id, source_name=described.source_name, **described.fields)
    assert (clip.collector_id, clip.source_camera, clip.chapter) == ("c07", SourceCamera.GOPRO_HERO12, 2)


def test_chapters_of_one_recording_belong_together(tmp_path: Path) -> None:
    names = ["a/GX010001.MP4", "a/GX020001.MP4", "b/GX010001.MP4", "GX010001.MP4", "a/clip.mp4"]
    one, two, elsewhere, flat, single = (describe_upload(tmp_path, upload(tmp_path, name)) for name in names)
    assert (one.chapter, two.chapter, single.chapter) == (1, 2, 0)
    assert one.recording_id == two.recording_id != ""
    assert len({one.recording_id, elsewhere.recording_id, flat.recording_id, single.recording_id}) == 4
    assert single.recording_id == ""
    other_card = tmp_path / "other card"
    assert describe_upload(other_card, upload(other_card, "GX010001.MP4")).recording_id != flat.recording_id


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("notes.txt", "extension"),
        ("clip", "extension"),
        ("clip.mp4.zip", "extension"),
        ("clip.avi", "extension"),
        ("clip.mp4.part", "unfinished"),
        (".clip.mp4", "unfinished"),
        ("clip.json", "unfinished"),
        ("bell\a.mp4", "name"),
        ("new\nline/clip.mp4", "name"),
    ],
)
def test_names_that_are_rejected(tmp_path: Path, name: str, code: str) -> None:
    found = rejection(tmp_path, upload(tmp_path, name))
    assert found.code == code
    assert "\n" not in str(found) and "\a" not in str(found)


@pytest.mark.parametrize("name", ["a b.mp4", "台所 é 😀.mp4", "-rf.mp4", "a'b\".mp4", "x" * 251 + ".mp4"])
def test_names_that_are_fine(tmp_path: Path, name: str) -> None:
    assert describe_upload(tmp_path, upload(tmp_path, name)).source_name == name


def test_a_name_that_is_no_utf8_is_made_text(tmp_path: Path) -> None:
    path = upload(tmp_path, os.fsdecode(b"caf\xe9/clip\xff.mp4"))
    described = describe_upload(tmp_path, path)
    assert described.source_name == "clip\\xff.mp4"
    assert "\udcff" not in repr(described.fields)


def test_empty_files_and_folders(tmp_path: Path) -> None:
    assert rejection(tmp_path, upload(tmp_path, "a.mp4", b"")).code == "empty"
    (tmp_path / "folder.mp4").mkdir()
    assert rejection(tmp_path, tmp_path / "folder.mp4").code == "not_a_file"
    assert rejection(tmp_path, tmp_path / "gone.mp4").code == "vanished"


def test_files_outside_the_folder(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", upload(tmp_path, "outside/a.mp4")
    root.mkdir()
    (root / "link.mp4").symlink_to(outside)
    (root / "dangling.mp4").symlink_to(tmp_path / "nothing")
    (root / "folder").symlink_to(outside.parent)
    upload(root, "inside.mp4")
    (root / "inner.mp4").symlink_to("inside.mp4")
    for name in ("link.mp4", "dangling.mp4", "folder/a.mp4", "inner.mp4", "folder"):
        assert rejection(root, root / name).code == "symlink", name
    assert rejection(root, root / ".." / "outside" / "a.mp4").code == "name"
    assert rejection(root, outside).code == "name"


def test_the_upload_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    upload(tmp_path, "real/a.mp4")
    (tmp_path / "root").symlink_to("real")
    assert describe_upload(tmp_path / "root", tmp_path / "root" / "a.mp4").size_bytes == 5


def test_what_is_found(tmp_path: Path) -> None:
    for name in (
        "b/2.mp4",
        "a/1.MOV",
        "a/1.json",
        "a/.hidden.mp4",
        ".cache/x.mp4",
        "a/x.part",
        "a/~x.mp4",
        "notes.txt",
    ):
        upload(tmp_path, name)
    (tmp_path / "link.mp4").symlink_to(tmp_path / "b" / "2.mp4")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = [path.relative_to(tmp_path).as_posix() for path in find_uploads(tmp_path)]
    assert found == ["link.mp4", "loop", "notes.txt", "a/1.MOV", "b/2.mp4"]
    assert list(find_uploads(tmp_path / "nothing")) == []


@pytest.mark.parametrize("name", ["a.mp4.PART", "a.tmp", "a.mp4~", ".x", "~$a.mp4", "a.JSON", "a.crdownload"])
def test_ignored(name: str) -> None:
    assert is_ignored(Path("folder") / name)


# --- sidecars ---


def test_every_key_of_a_sidecar(tmp_path: Path) -> None:
    given_values = {
        "collector_id": " c01 ",
        "recording_date": "20260504",
        "source_camera": "GoPro_Hero13",
        "location_type": "workshop",
        "activity_category": "sawing 木",
        "consent_scope": "research",
        "licence": "CC-BY-4.0",
        "camera_intrinsics": {"fx": 900.5, "k": [0.1, 0]},
    }
    assert set(given_values) == set(SidecarModel.model_fields)
    assert read_sidecar(sidecar(tmp_path, given_values)) == {
        "collector_id": "c01",
        "recording_date": dt.date(2026, 5, 4),
        "source_camera": SourceCamera.GOPRO_HERO13,
        "location_type": LocationType.WORKSHOP,
        "activity_category": "sawing 木",
        "consent_scope": ConsentScope.RESEARCH,
        "licence": "CC-BY-4.0",
        "camera_intrinsics": {"fx": 900.5, "k": [0.1, 0]},
    }


def test_aliases(tmp_path: Path) -> None:
    values = {
        "environment_type": "kitchen",
        "camera": "aria",
        "date": "2026-05-04",
        "activity": "x",
        "license": "y",
    }
    assert read_sidecar(sidecar(tmp_path, values)) == {
        "location_type": LocationType.KITCHEN,
        "source_camera": SourceCamera.ARIA,
        "recording_date": dt.date(2026, 5, 4),
        "activity_category": "x",
        "licence": "y",
    }
    assert set(SIDECAR_ALIASES.values()) <= set(SidecarModel.model_fields)
    with pytest.raises(UploadRejected, match="location_type is given twice"):
        read_sidecar(sidecar(tmp_path, {"location": "kitchen", "environment_type": "kitchen"}))


def test_absent_values(tmp_path: Path) -> None:
    assert read_sidecar(sidecar(tmp_path, {})) == {}
    assert read_sidecar(sidecar(tmp_path, {"licence": None, "license": "MIT"})) == {"licence": "MIT"}
    assert read_sidecar(sidecar(tmp_path, b'\xef\xbb\xbf{"licence": "MIT"}')) == {"licence": "MIT"}


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"collector_id": 7}, ["collector_id", "7", "a number", "text"]),
        ({"collector_id": ""}, ["collector_id", "1 to 200"]),
        ({"collector_id": "a\nb"}, ["collector_id", "one line"]),
        ({"licence": "nul\0"}, ["licence", "one line"]),
        ({"recording_date": 20260504}, ["recording_date", "20260504", "YYYY-MM-DD"]),
        ({"recording_date": "4 May"}, ["recording_date", "4 May", "text", "YYYY-MM-DD"]),
        ({"recording_date": "2026-13-01"}, ["recording_date", "2026-13-01"]),
        ({"source_camera": "iphone"}, ["source_camera", "iphone", "gopro_hero12"]),
        ({"environment_type": ["kitchen"]}, ["location_type", "a list", "kitchen, office"]),
        ({"consent_scope": True}, ["consent_scope", "true or false", "research"]),
        ({"camera_intrinsics": [1, 2]}, ["camera_intrinsics", "a list", "an object"]),
        ({"activity": "x" * 501}, ["activity_category", "500"]),
        ({"colour": "red", "collector_id": "a"}, ["colour", "collector_id", "environment_type"]),
        ({"clip_id": "other"}, ["clip_id", "other", "name of its file"]),
        ({"clip_id": 7}, ["clip_id", "7"]),
        ([1], ["a JSON object", "[1]"]),
        (b"{", ["not JSON"]),
        (b'{"a": "\xff"}', ["not JSON in UTF-8"]),
        (b"[" * 100_000, ["not JSON"]),
        (b" " * 1_000_001, ["1000000 bytes"]),
    ],
)
def test_wrong_sidecars(tmp_path: Path, values: object, parts: list[str]) -> None:
    path = sidecar(tmp_path, values)
    with pytest.raises(UploadRejected) as caught:
        read_sidecar(path)
    assert caught.value.code == "sidecar"
    for part in [path.name, *parts]:
        assert part in str(caught.value)
    assert len(str(caught.value)) < 500
    video = upload(tmp_path, f"{CLIP}.mp4")
    assert rejection(tmp_path, video).code == "sidecar"


def test_a_sidecar_may_repeat_the_clip_id(tmp_path: Path) -> None:
    assert read_sidecar(sidecar(tmp_path, {"clip_id": CLIP.upper(), "licence": "MIT"})) == {"licence": "MIT"}


def test_a_sidecar_wins_over_folders(tmp_path: Path) -> None:
    path = upload(tmp_path, f"raw/c07/2026-05-04/{CLIP}.mp4")
    assert sidecar_of(path) is None
    beside = sidecar(path.parent, {"collector_id": "c08", "date": "2026-01-01"})
    assert sidecar_of(path) == beside
    described = describe_upload(tmp_path, path)
    assert (described.clip_id, described.collector_id) == (CLIP, "c08")
    assert described.recording_date == dt.date(2026, 1, 1)
    assert described.sidecar_path == beside


def test_a_sidecar_that_is_a_link(tmp_path: Path) -> None:
    secret = upload(tmp_path, "secret", b'{"licence": "x"}')
    video = upload(tmp_path, "root/a.mp4")
    video.with_suffix(".json").symlink_to(secret)
    assert rejection(tmp_path / "root", video).code == "symlink"
    video.with_suffix(".json").unlink()
    video.with_suffix(".json").mkdir()
    assert rejection(tmp_path / "root", video).code == "sidecar"


def test_fields_from_elsewhere_name_their_source() -> None:
    assert parse_fields({"date": "2026-05-04", "camera": "aria"}, source="the options") == {
        "recording_date": dt.date(2026, 5, 4),
        "source_camera": SourceCamera.ARIA,
    }
    with pytest.raises(UploadRejected, match="the options: location_type is 'moon'"):
        parse_fields({"location": "moon"}, source="the options")


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    values=st.dictionaries(st.sampled_from([*SidecarModel.model_fields, *SIDECAR_ALIASES]), JSON, max_size=4)
)
def test_any_sidecar_is_read_or_rejected(tmp_path: Path, values: dict[str, object]) -> None:
    path = sidecar(tmp_path, values)
    try:
        fields = read_sidecar(path)
    except UploadRejected as error:
        assert error.code == "sidecar"
        assert path.name in str(error)
    else:
        Clip(clip_id=CLIP, source_name="a", **fields)
        assert set(fields) <= {SIDECAR_ALIASES.get(name, name) for name in values}


# --- complete or still growing ---

NOW = dt.datetime(2026, 5, 4, 12, tzinfo=dt.UTC)


def seen(size: int, age_s: float) -> UploadObservation:
    return UploadObservation(size=size, mtime_ns=int((NOW.timestamp() - age_s) * 1e9))


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (seen(10, 60), seen(10, 60), True),
        (seen(10, 60), seen(11, 60), False),
        (seen(10, 60), seen(10, 59), False),
        (seen(10, 3), seen(10, 3), False),
        (seen(10, 5), seen(10, 5), True),
        (seen(10, -3600), seen(10, -3600), True),
        (seen(10, -3600), seen(11, -3600), False),
        (seen(0, 60), seen(0, 60), True),
    ],
)
def test_settled(before: UploadObservation, now: UploadObservation, expected: bool) -> None:
    assert settled(before, now, quiet_s=5.0, at=NOW) is expected


def test_an_observation_is_of_the_file_itself(tmp_path: Path) -> None:
    path = upload(tmp_path, "a.mp4", b"12345")
    os.utime(path, ns=(0, 1_234_567_891))
    assert UploadObservation.of(path) == UploadObservation(size=5, mtime_ns=1_234_567_891)
    assert not settled(UploadObservation.of(path), UploadObservation(size=6, mtime_ns=0), quiet_s=0)
    assert settled(UploadObservation.of(path), UploadObservation.of(path), quiet_s=5)
    with pytest.raises(FileNotFoundError):
        UploadObservation.of(tmp_path / "gone")


# --- small parts ---


@given(st.uuids())
def test_clip_ids(value: uuid.UUID) -> None:
    assert is_clip_id(str(value))
    assert not is_clip_id(value.hex)
    assert not is_clip_id(f"{value}\n")


@given(st.dates())
def test_dates(day: dt.date) -> None:
    assert parse_date(day.isoformat()) == day
    assert parse_date(day.isoformat().replace("-", "")) == day


@pytest.mark.parametrize(
    "text", ["", "2026", "2026-5-4", "2026-W01-1", "20261301", "x2026-05-04", "2026-05-04T00"]
)
def test_no_dates(text: str) -> None:
    assert parse_date(text) is None
