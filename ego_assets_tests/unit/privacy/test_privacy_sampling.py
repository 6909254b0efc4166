"""The random sample: the same everywhere, spread over time, of the right size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.privacy.sampling import audit_sample

CLIP = "3b241101-e2bb-4255-8caf-4136c566a962"


def test_the_sample_is_the_same_in_every_version() -> None:
    assert audit_sample(CLIP, 100).tolist() == [8, 31, 47, 79, 95]
    assert audit_sample(CLIP, 100, salt="1").tolist() != audit_sample(CLIP, 100).tolist()


@given(frame_count=st.integers(1, 5000), clip_id=st.uuids().map(str))
def test_every_full_stretch_gives_one_frame(frame_count: int, clip_id: str) -> None:
    frames = audit_sample(clip_id, frame_count)
    assert frames.dtype == np.int64 and frames.size >= 1
    assert np.all(np.diff(frames) > 0) and frames[0] >= 0 and frames[-1] < frame_count
    full = frame_count // 20
    assert np.array_equal(np.unique(frames[frames < full * 20] // 20), np.arange(full))
    assert frames.size in (full, full + 1) or full == 0


@given(frame_count=st.integers(20, 400), salt=st.text(max_size=4))
def test_a_longer_clip_keeps_the_earlier_frames(frame_count: int, salt: str) -> None:
    shorter = audit_sample(CLIP, frame_count, salt=salt)
    longer = audit_sample(CLIP, frame_count + 37, salt=salt)
    assert set(shorter.tolist()) <= set(longer.tolist())


def test_the_share_holds_and_the_place_within_a_stretch_varies() -> None:
    frames = audit_sample(CLIP, 40_000)
    assert frames.size == 2000
    places = np.bincount(frames % 20, minlength=20)
    # 100 expected at each place, with a standard deviation of 10.
    assert places.min() > 50 and places.max() < 150


def test_a_clip_without_frames_has_no_sample() -> None:
    with pytest.raises(ValueError, match="frame_count"):
        audit_sample(CLIP, 0)
