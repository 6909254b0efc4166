"""The description of a synthetic clip."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.synth import SceneSpec


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 8}, "width: expected 32 to 7680, got 8"),
        ({"faces": 7}, "faces: expected 0 to 6, got 7"),
        ({"duration_s": 0.0}, "duration_s"),
        ({"rotation_deg": 45}, "rotation_deg: expected one of"),
        ({"camera_motion": "crawl"}, "camera_motion: expected one of"),
        ({"location": "moon"}, "location: expected one of"),
        ({"dropped_frames": (500,)}, "dropped_frames: expected numbers from 0 to 179"),
        ({"duration_s": 0.1, "dropped_frames": (0, 1, 2)}, "at least one frame"),
        ({"brightness": float("nan")}, "brightness"),
    ],
)
def test_wrong_values_are_refused_with_what_was_expected(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SceneSpec(**values)  # type: ignore[arg-type]


@given(
    frame_rate=st.fractions(1, 240, max_denominator=1001),
    dropped=st.lists(st.integers(0, 9), max_size=5, unique=True),
    seed=st.integers(0, 2**31),
    brightness=st.floats(0, 4),
)
def test_json_keeps_every_value(
    frame_rate: Fraction, dropped: list[int], seed: int, brightness: float
) -> None:
    spec = SceneSpec(
        frame_rate=frame_rate,
        duration_s=11 / float(frame_rate),
        dropped_frames=tuple(dropped),
        seed=seed,
        brightness=brightness,
    )
    assert SceneSpec.from_json_dict(spec.to_json_dict()) == spec
