from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.media.uploads import UploadObservation
from ego_assets.watching import (
    UploadScan,
    observations_from_cursor,
    observations_to_cursor,
    scan_uploads,
)

Observations = dict[str, UploadObservation]


def drop(root: Path, name: str, content: bytes = b"pictures") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (time.time() - 3600,) * 2)
    return path


def scan(
    root: Path,
    previous: Observations | None = None,
    *,
    at_most: int = 100,
    is_known: Callable[[str], bool] = lambda uri: False,
) -> UploadScan:
    return scan_uploads(root, previous or {}, quiet_s=5.0, at_most=at_most, is_known=is_known)


def test_a_folder_that_does_not_exist_is_empty(tmp_path: Path) -> None:
    assert scan(tmp_path / "missing") == UploadScan()


def test_an_upload_needs_two_equal_looks(tmp_path: Path) -> None:
    path = drop(tmp_path, "a/b.mp4")
    first = scan(tmp_path)
    assert (first.accepted, first.waiting) == ([], 1)
    assert first.observations == {"a/b.mp4": UploadObservation.of(path)}
    second = scan(tmp_path, first.observations)
    assert [description.path for description in second.accepted] == [path] and second.waiting == 0
    path.write_bytes(b"more pictures")
    grown = scan(tmp_path, first.observations)
    assert (grown.accepted, grown.waiting) == ([], 1)


def test_beyond_the_cap_uploads_wait_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("c.mp4", "a.mp4", "b.mp4"):
        drop(tmp_path, name)
    looked = scan(tmp_path, scan(tmp_path).observations, at_most=2)
    assert [description.source_name for description in looked.accepted] == ["a.mp4", "b.mp4"]
    assert looked.waiting == 1 and set(looked.observations) == {"a.mp4", "b.mp4", "c.mp4"}


def test_the_cap_does_not_keep_rejections_back(tmp_path: Path) -> None:
    drop(tmp_path, "a.mp4")
    (tmp_path / "b.mp4").symlink_to(tmp_path / "a.mp4")
    looked = scan(tmp_path, scan(tmp_path).observations, at_most=1)
    assert len(looked.accepted) == 1
    assert [(path.name, reason.code) for path, reason in looked.rejected] == [("b.mp4", "symlink")]


def test_what_is_rejected_is_watched_no_longer(tmp_path: Path) -> None:
    drop(tmp_path, "empty.mp4", b"")
    first = scan(tmp_path)
    assert first.rejected == [], "a file that was just made is empty too"
    second = scan(tmp_path, first.observations)
    assert [reason.code for _, reason in second.rejected] == ["empty"]
    assert second.observations == {} and second.waiting == 0


def test_links_are_rejected_at_once_wherever_they_lead(tmp_path: Path) -> None:
    root = tmp_path / "uploads"
    drop(tmp_path, "outside/a.mp4")
    root.mkdir()
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "file.mp4").symlink_to(tmp_path / "outside" / "a.mp4")
    (root / "nowhere.mp4").symlink_to(tmp_path / "nowhere")
    looked = scan(root)
    assert {path.name: reason.code for path, reason in looked.rejected} == dict.fromkeys(
        ("folder", "file.mp4", "nowhere.mp4"), "symlink"
    )
    assert looked.observations == {}


def test_known_uploads_are_passed_over(tmp_path: Path) -> None:
    known, new = drop(tmp_path, "a.mp4"), drop(tmp_path, "b c.mp4")
    asked: list[str] = []

    def is_known(uri: str) -> bool:
        asked.append(uri)
        return uri == known.as_uri()

    looked = scan(tmp_path, scan(tmp_path).observations, is_known=is_known)
    assert [description.path for description in looked.accepted] == [new]
    assert set(looked.observations) == {"b c.mp4"}
    assert asked == [known.as_uri(), new.as_uri()]


def test_a_sidecar_that_is_still_written_holds_its_video_back(tmp_path: Path) -> None:
    drop(tmp_path, "a.mp4")
    sidecar = drop(tmp_path, "a.json", b'{"collector_id": "c0')
    before = scan(tmp_path).observations
    drop(tmp_path, "a.json", b'{"collector_id": "c042"}')
    looked = scan(tmp_path, previous=before)
    assert looked.accepted == [] and looked.rejected == [], "not rejected for half a sidecar"
    looked = scan(tmp_path, previous=looked.observations)
    assert [upload.fields["collector_id"] for upload in looked.accepted] == ["c042"]
    assert sidecar.exists()


def test_a_file_that_vanishes_during_the_look_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(tmp_path, "a.mp4")
    drop(tmp_path, "b.mp4")

    def gone(uri: str) -> bool:
        if uri.endswith("a.mp4"):
            (tmp_path / "a.mp4").unlink()
        return False

    looked = scan(tmp_path, is_known=gone)
    assert set(looked.observations) == {"b.mp4"} and looked.rejected == []


@given(
    st.dictionaries(
        st.text(max_size=20),
        st.builds(UploadObservation, size=st.integers(0, 2**62), mtime_ns=st.integers(0, 2**62)),
        max_size=5,
    )
)
def test_the_cursor_keeps_every_observation(observations: Observations) -> None:
    assert observations_from_cursor(observations_to_cursor(observations)) == observations


@given(st.text(max_size=60) | st.none())
def test_any_other_cursor_gives_nothing(cursor: str | None) -> None:
    assert all(isinstance(value, UploadObservation) for value in observations_from_cursor(cursor).values())
