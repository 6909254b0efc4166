"""The page on which a person looks at frames: what it shows, and that it shows nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from ego_assets.media.timeline import read_timeline
from ego_assets.privacy.recall import CoveredRegion
from ego_assets.privacy.review_page import (
    ReviewFrame,
    ReviewSubject,
    render_review_page,
    write_pictures,
)
from ego_assets_tests.clips import write_clip

HOSTILE = '</script><script>alert("1")</script>.mp4'
FACE = CoveredRegion(track_id=7, kind="faces", box_xyxy=(10, 20, 30, 60), counted=True, group=7)


def subject(**changes: object) -> ReviewSubject:
    values: dict[str, object] = {
        "item_id": 3,
        "kind": "random_audit",
        "reason": "Look.",
        "clip_id": "3b241101-e2bb-4255-8caf-4136c566a962",
        "source_name": "clip.mp4",
        "version": "0123456789abcdef",
        "width": 192,
        "height": 108,
        "frame_count": 30,
        "item_frames": 3,
        **changes,
    }
    return ReviewSubject(**values)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[ReviewFrame]]:
    folder = tmp_path_factory.mktemp("page")
    video = write_clip(folder / "video.mp4", frames=30, rate=15)
    stamps = read_timeline(video).timestamps_ns
    frames = write_pictures(
        video, [29, 2, 14], folder, timestamps_ns=stamps, regions={14: [FACE]}, notes={2: "unsure"}
    )
    return folder, frames


def test_each_frame_is_shown_with_what_comes_before_and_after(
    written: tuple[Path, list[ReviewFrame]],
) -> None:
    folder, frames = written
    assert [frame.frame_index for frame in frames] == [2, 14, 29]
    first, middle, last = frames
    assert first.before is None and last.after is None
    assert middle.before is not None and middle.after is not None
    assert (middle.before.frame_index, middle.after.frame_index) == (6, 22)
    assert middle.before.offset_s == pytest.approx(-8 / 15, abs=0.001)
    assert middle.time_s == pytest.approx(14 / 15, abs=0.001)
    assert (first.note, middle.note, list(middle.regions)) == ("unsure", "", [FACE])
    picture = cv2.imread(str(folder / middle.picture))
    assert picture is not None and picture.shape == (108, 192, 3)


def test_the_pictures_are_those_of_their_frames(written: tuple[Path, list[ReviewFrame]]) -> None:
    from ego_assets.media.decode import decode_frames

    folder, frames = written
    decoded = {frame.index: frame.bgr() for frame in decode_frames(folder / "video.mp4")}
    for frame in frames:
        shown = cv2.imread(str(folder / frame.picture))
        assert shown is not None
        error = {index: float(np.abs(shown.astype(int) - image).mean()) for index, image in decoded.items()}
        assert min(error, key=error.__getitem__) == frame.frame_index


def test_a_page_refers_to_its_own_pictures_only(written: tuple[Path, list[ReviewFrame]]) -> None:
    folder, frames = written
    page = render_review_page(subject(), frames, box_margin=0.2)
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == 7 and all((folder / source).is_file() for source in sources)
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    assert "default-src 'none'" in page


def test_outlines_show_what_is_covered_with_its_margin(written: tuple[Path, list[ReviewFrame]]) -> None:
    _, frames = written
    page = render_review_page(subject(), frames, box_margin=0.5)
    assert '"box": [0.0, 0.0, 40.0, 80.0]' in page, "20 pixels wide and 40 high, cut at the picture's edge"
    assert '"group": "14:7"' in page


def test_what_came_from_outside_is_escaped(written: tuple[Path, list[ReviewFrame]]) -> None:
    page = render_review_page(subject(source_name=HOSTILE, reason=HOSTILE), written[1], box_margin=0.2)
    assert HOSTILE not in page and page.count("<script") == 1


def test_frames_outside_the_video_are_refused(tmp_path: Path) -> None:
    video = write_clip(tmp_path / "video.mp4", frames=5)
    stamps = read_timeline(video).timestamps_ns
    with pytest.raises(ValueError, match="expected 0 to 4"):
        write_pictures(video, [5], tmp_path, timestamps_ns=stamps, regions={})
