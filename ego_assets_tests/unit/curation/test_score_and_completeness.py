import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.curation.completeness import bitfield_of, has_layer, layers_in
from ego_assets.curation.score import (
    WEIGHTS,
    QualityScore,
    ScoreParts,
    blur_part,
    caption_relevance_part,
    exposure_part,
    mask_coverage_part,
    score_clip,
)
from ego_assets.schema.layers import COMPLETENESS_BITS

UNIT = st.floats(0, 1)
PARTS = st.fixed_dictionaries({name: st.none() | UNIT for name in WEIGHTS})
LAYERS = st.sets(st.sampled_from(sorted(COMPLETENESS_BITS)))


def test_weights_are_those_of_the_parts_and_sum_to_one():
    assert set(WEIGHTS) == set(ScoreParts().to_dict())
    assert math.fsum(WEIGHTS.values()) == pytest.approx(1)


@given(PARTS)
def test_the_score_lies_between_its_parts(parts):
    score = score_clip(ScoreParts(**parts))
    evaluated = [part for part in parts.values() if part is not None]
    if not evaluated:
        assert (score.value, score.confidence) == (None, 0)
        return
    assert min(evaluated) - 1e-6 <= score.value <= max(evaluated) + 1e-6
    expected = math.fsum(WEIGHTS[name] for name, part in parts.items() if part is not None)
    assert score.confidence == pytest.approx(expected)


@given(PARTS, st.sampled_from(sorted(WEIGHTS)), UNIT)
def test_a_better_part_never_lowers_the_score(parts, name, better):
    before = {**parts, name: min(parts[name] or 0.0, better)}
    after = {**parts, name: max(parts[name] or 0.0, better)}
    assert score_clip(ScoreParts(**after)).value >= score_clip(ScoreParts(**before)).value - 1e-6


@given(UNIT, PARTS)
def test_equal_parts_give_that_score_whatever_is_missing(level, parts):
    same = {name: None if part is None else level for name, part in parts.items()}
    score = score_clip(ScoreParts(**same))
    assert score.value is None or score.value == pytest.approx(level, abs=1e-6)


def test_an_example():
    score = score_clip(ScoreParts(blur=1.0, exposure=0.5))
    assert score.value == pytest.approx((0.25 + 0.075) / 0.4)
    assert score.confidence == pytest.approx(0.4)
    assert score.to_dict()["version"] == "v1"
    assert QualityScore.from_dict(score.to_dict()) == score


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan")])
def test_parts_outside_the_range_are_refused(wrong):
    with pytest.raises(ValueError, match="blur"):
        ScoreParts(blur=wrong)


def test_how_measurements_become_parts():
    assert blur_part([0, 50, 100, 900]) == pytest.approx(0.625)
    assert blur_part([]) is None
    assert exposure_part(0.2) == pytest.approx(0.8)
    assert mask_coverage_part(0.2) == pytest.approx(0.5)
    assert mask_coverage_part(0.9) == 1
    assert caption_relevance_part(np.array([0.2, 0.4, 0.6, -0.1])) == pytest.approx(0.625)
    assert [exposure_part(None), mask_coverage_part(None), caption_relevance_part(None)] == [None] * 3
    assert caption_relevance_part([]) is None


@given(LAYERS)
def test_bitfields_and_layers_are_two_forms_of_the_same(layers):
    bitfield = bitfield_of(layers)
    assert set(layers_in(bitfield)) == layers
    assert bitfield < 2**31
    assert all(has_layer(bitfield, layer) is (layer in layers) for layer in COMPLETENESS_BITS)


def test_positions_are_fixed():
    assert bitfield_of(["frames", "captions"]) == 0b100001


def test_unknown_layers_and_bits_are_refused():
    with pytest.raises(ValueError, match="blurred_video"):
        bitfield_of(["blurred_video"])
    with pytest.raises(ValueError, match="bits"):
        layers_in(1 << 20)
