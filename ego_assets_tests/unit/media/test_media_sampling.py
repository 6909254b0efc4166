"""The frames a layer looks at: on the grid, upright, in order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ego_assets.media.decode import decode_frames
from ego_assets.media.sampling import sample_frames

MakeClip = Callable[..., Path]


def test_rates_that_divide_the_base_grid_share_its_frames(make_clip: MakeClip) -> None:
    video = make_clip(frames=60)
    base = sample_frames(video, frames_per_second=10)
    coarse = sample_frames(video, frames_per_second=5)
    assert base.frame_index.tolist() == list(range(0, 60, 3))
    assert set(coarse.frame_index.tolist()) <= set(base.frame_index.tolist())
    assert base.size == (64, 48)
    assert np.array_equal(base.timestamps_ns, base.timeline.timestamps_ns[::3])


def test_every_frame_without_a_rate(make_clip: MakeClip) -> None:
    sampled = sample_frames(make_clip(frames=20), frames_per_second=None)
    assert [frame.frame_index for frame in sampled.stream()] == list(range(20))


def test_streams_are_decoded_anew_and_report_progress(make_clip: MakeClip) -> None:
    heard: list[tuple[int, int]] = []
    sampled = sample_frames(
        make_clip(frames=20), frames_per_second=10, progress=lambda done, total: heard.append((done, total))
    )
    for _ in range(2):
        frames = list(sampled.stream())
        assert [frame.frame_index for frame in frames] == [0, 3, 6, 9, 12, 15, 18]
        # Frame i is a flat grey of luma 20 + 3 * i: its picture says which frame it is.
        assert all(np.ptp(frame.image) <= 3 for frame in frames)
        assert [frame.timestamp_ns for frame in frames] == sampled.timestamps_ns.tolist()
    assert heard == [(done, 7) for done in range(1, 8)] * 2


def test_chosen_frames_instead_of_the_grid(make_clip: MakeClip) -> None:
    sampled = sample_frames(make_clip(frames=20), frames_per_second=10)
    frames = list(sampled.stream(indices=[19, 4, 4]))
    assert [frame.frame_index for frame in frames] == [4, 19]
    assert frames[0].image.mean() < frames[1].image.mean()
    assert frames[0].size == (64, 48)


def test_a_wrong_rate_is_refused(make_clip: MakeClip) -> None:
    with pytest.raises(ValueError, match="frames_per_second"):
        sample_frames(make_clip(frames=3), frames_per_second=0)


def test_the_decoder_asked_for_decodes(make_clip: MakeClip, monkeypatch: pytest.MonkeyPatch) -> None:
    from ego_assets.media import sampling

    heard = []

    def spied(video, *, indices, decoder):
        heard.append(decoder)
        return decode_frames(video, indices=indices)

    monkeypatch.setattr(sampling, "decode_frames", spied)
    path = make_clip(frames=6)
    for decoder in ("cpu", "cuda"):
        assert len(list(sample_frames(path, frames_per_second=None, decoder=decoder).stream())) == 6
    assert heard == ["cpu", "cuda"]
