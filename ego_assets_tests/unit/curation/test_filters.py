"""Filters over clips: what they mean, and what they say about what cannot be read."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.curation.filters import FIELD_ALIASES, FUNCTIONS, ClipFacts, ClipFilter, FilterError
from ego_assets.schema.clip import Clip
from ego_assets.schema.vocabulary import LocationType

LAYERS = ("clip_quality", "blurred_video", "depth_maps", "masks", "captions", "manifest")
CLIP = Clip(
    clip_id="00000000-0000-4000-8000-000000000001",
    source_name="GX010001.MP4",
    collector_id="c042",
    activity_category="cooking",
    location_type=LocationType.KITCHEN,
    recording_date=dt.date(2026, 5, 14),
    duration_s=12.5,
    completeness=0b110,
    needs_review=True,
)
FACTS = ClipFacts(
    clip=CLIP,
    states={"depth_maps": "committed", "captions": "postponed"},
    backends={"depth_maps": ("motion",)},
    software={"depth_maps": "ego_assets 0.1.0"}.get,
    outcomes={("masks", "hand_presence"): "failed"},
)


def fits(text: str, facts: ClipFacts = FACTS) -> bool:
    return ClipFilter(text, layers=LAYERS).fits(facts)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "activity == 'cooking'",
        "activity_category == 'cooking' and duration >= 12.5",
        "activity in ('cleaning', 'cooking')",
        "collector not in ['c001']",
        "location == 'kitchen' or quality > 0.9",
        "not failed",
        "needs_review == True",
        "complete('depth', 'masks')",
        "complete('depth_maps')",
        "not complete('captions')",
        "state('captions') == 'postponed'",
        "state('masks') == None",
        "backend('depth') == 'motion'",
        "software('depth') != 'ego_assets 9.9.9'",
        "gate('masks', 'hand_presence') == 'failed'",
        "date >= '2026-05-01' and date < '2026-06-01'",
        "10 < duration <= 13",
        "quality == None",
        "duration > -1",
        "width == None",
    ],
)
def test_fits(text: str) -> None:
    assert fits(text)


@pytest.mark.parametrize(
    "text",
    [
        "activity == 'Cooking'",
        "quality >= 0.8",
        "quality < 0.8",
        "quality != 0.5",
        "complete('depth', 'captions')",
        "failed",
        "state('masks') != 'committed'",
        "backend('masks') == 'motion'",
        "gate('masks', 'largest') == 'passed'",
        "duration < 12.5 or duration > 12.5",
        "not (activity == 'cooking')",
    ],
)
def test_does_not_fit(text: str) -> None:
    """What is not known fits no comparison, neither way."""
    assert not fits(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("activty == 'cooking'", "did you mean 'activity'"),
        ("activity = 'cooking'", "cannot be read"),
        ("complete('dept')", "did you mean 'depth'"),
        ("complete('manifest')", "completeness is kept of"),
        ("complete(depth)", "is not how this function is used"),
        ("complete()", "is not how this function is used"),
        ("gate('masks')", "gate('masks', 'hand_presence')"),
        ("completed('depth')", "did you mean 'complete'"),
        ("location == 'kichen'", "kitchen, office"),
        ("gate('masks', 'x') == 'bad'", "passed"),
        ("quality >= 'high'", "a number"),
        ("failed == 'yes'", "True or False"),
        ("failed > True", "only true or false"),
        ("activity == 3", "text"),
        ("date > 'May'", "'2026-05-14'"),
        ("quality > None", "against None"),
        ("activity", "is no condition"),
        ("activity in 'cooking'", "needs a list"),
        ("activity == ('cooking',)", "needs a list"),
        ("activity is 'cooking'", "comparison that filters do not have"),
        ("quality + 1 > 2", "nothing that filters know"),
        ("__import__('os').system('true')", "no function"),
        ("activity.upper() == 'A'", "no function"),
        ("camera_intrinsics == None", "no field"),
        ("(lambda: True)()", "no function"),
        ("duration > [1][0]", "nothing that filters know"),
        ("quality in (open('x'),)", "no plain value"),
    ],
)
def test_what_cannot_be_read_is_explained(text: str, said: str) -> None:
    with pytest.raises(FilterError) as error:
        ClipFilter(text, layers=LAYERS)
    assert said in str(error.value)


def test_a_deeply_nested_filter_is_an_error_and_no_crash() -> None:
    with pytest.raises(FilterError):
        ClipFilter("(" * 5000 + "failed" + ")" * 5000, layers=LAYERS)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        outcome = fits(text)
    except FilterError as error:
        assert str(error)
    else:
        assert outcome in (True, False)


@given(st.floats(0, 1), st.floats(0, 1))
def test_numbers_compare_as_in_python(quality: float, limit: float) -> None:
    facts = ClipFacts(clip=Clip(clip_id=CLIP.clip_id, source_name="a.mp4", quality_score=quality))
    assert fits(f"quality >= {limit!r}", facts) == (quality >= limit)
    assert fits(f"quality < {limit!r}", facts) == (quality < limit)


def test_aliases_name_fields_that_exist() -> None:
    for alias in FIELD_ALIASES:
        ClipFilter(f"{alias} == None", layers=LAYERS)
    assert all(use.startswith(f"{name}(") for name, use in FUNCTIONS.items())
