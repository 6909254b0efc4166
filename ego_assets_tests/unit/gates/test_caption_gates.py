"""Gates of the captions: the guide's bounds, and nothing judged that nobody can tell."""

from __future__ import annotations

import pytest

from ego_assets.gates.captions import (
    CHOSEN_FOR,
    GATES,
    MIN_SIMILARITY,
    judge_caption,
    judge_captions,
)
from ego_assets.schema.gates import GateOutcome, GateResult
from resources.models.registry import CLIP_VIT_L_14


def verdicts(
    words: list[int], similarities: list[float | None] | None = None, **options: object
) -> dict[str, GateResult]:
    given = [None] * len(words) if similarities is None else similarities
    results = judge_captions(words=words, similarities=given, **options)  # type: ignore[arg-type]
    assert [result.spec for result in results] == list(GATES)
    return {result.spec.name: result for result in results}


@pytest.mark.parametrize(
    ("missing", "outcome"), [(0, GateOutcome.PASSED), (1, GateOutcome.PASSED), (2, GateOutcome.FAILED)]
)
def test_nine_of_ten_moments_need_a_caption(missing: int, outcome: GateOutcome) -> None:
    found = verdicts([0] * missing + [20] * (10 - missing))["answered"]
    assert found.outcome is outcome and found.value == pytest.approx(1 - missing / 10)
    assert found.blocks == (outcome is GateOutcome.FAILED)


def test_single_words_are_no_captions() -> None:
    found = verdicts([1, 20, 20, 20, 90], refusals=["too short: 1 words"])["answered"]
    assert found.outcome is GateOutcome.FAILED and found.value == pytest.approx(0.6)


def test_a_clip_without_any_caption_says_why() -> None:
    found = verdicts([0], refusals=["refusal: I'm sorry"])
    assert found["answered"].outcome is GateOutcome.FAILED and "I'm sorry" in found["answered"].message
    assert found["length"].outcome is GateOutcome.NOT_EVALUATED
    assert found["relevance"].outcome is GateOutcome.NOT_EVALUATED


def test_a_clip_without_a_frame_fails() -> None:
    assert verdicts([])["answered"].blocks


@pytest.mark.parametrize(
    ("words", "outcome"),
    [
        ([14, 15], GateOutcome.WARNED),
        ([15, 15], GateOutcome.PASSED),
        ([10, 60, 20], GateOutcome.PASSED),
        ([40], GateOutcome.PASSED),
        ([41], GateOutcome.WARNED),
        ([0, 20, 20, 20, 20, 20, 20, 20, 20, 20], GateOutcome.PASSED),
    ],
)
def test_mean_length(words: list[int], outcome: GateOutcome) -> None:
    assert verdicts(words)["length"].outcome is outcome


@pytest.mark.parametrize(
    ("space", "is_named"), [("clip-vit-l-14-0a1b", False), ("siglip-vit-b-16-0a1b", True)]
)
def test_a_space_that_the_limit_was_not_chosen_for_is_named(space: str, is_named: bool) -> None:
    found = verdicts([20, 20], [0.1, 0.1], space=space)["relevance"]
    assert found.outcome is GateOutcome.FAILED
    assert (space in found.message and "chosen for CLIP ViT-L/14" in found.message) == is_named
    assert ("may be made up" in found.message) != is_named


def test_the_limit_was_chosen_for_the_checkpoint_that_the_reference_profile_names() -> None:
    assert CLIP_VIT_L_14.key == CHOSEN_FOR


def test_relevance_is_not_evaluated_where_nobody_can_tell() -> None:
    found = verdicts([20, 20], no_similarity="The embeddings backend tiles reads no texts.")["relevance"]
    assert found.outcome is GateOutcome.NOT_EVALUATED and found.value is None
    assert found.message.startswith("The embeddings backend tiles reads no texts.")


@pytest.mark.parametrize(
    ("similarities", "outcome", "share"),
    [
        ([MIN_SIMILARITY, 0.1], GateOutcome.PASSED, 0.5),
        ([0.3, 0.1, 0.1], GateOutcome.FAILED, 1 / 3),
        ([0.24999], GateOutcome.FAILED, 0.0),
        ([0.3, None], GateOutcome.PASSED, 1.0),
    ],
)
def test_half_of_the_captions_must_be_like_their_frames(
    similarities: list[float | None], outcome: GateOutcome, share: float
) -> None:
    found = verdicts([20] * len(similarities), similarities)["relevance"]
    assert found.outcome is outcome and found.value == pytest.approx(share)
    assert found.blocks == (outcome is GateOutcome.FAILED)


@pytest.mark.parametrize(
    ("words", "similarity", "expected"),
    [
        (0, None, ("failed", "not_evaluated", "not_evaluated")),
        (20, None, ("passed", "passed", "not_evaluated")),
        (20, 0.3, ("passed", "passed", "passed")),
        (50, 0.1, ("passed", "warned", "failed")),
        (7, None, ("failed", "warned", "not_evaluated")),
        (8, None, ("passed", "warned", "not_evaluated")),
        (60, None, ("passed", "warned", "not_evaluated")),
        (61, None, ("failed", "warned", "not_evaluated")),
    ],
)
def test_verdicts_of_one_caption(words: int, similarity: float | None, expected: tuple[str, ...]) -> None:
    found = judge_caption(words=words, similarity=similarity)
    assert (found["answered"], found["length"], found["relevance"]) == expected
