"""Gates of ``captions``: every moment is described, in a sentence of the right length that is about the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ego_assets.schema.gates import GateOutcome, GateResult, GateSpec

#: Mean number of words of a clip's captions (collection guide, frequent questions: 15-40).
FEWEST_WORDS, MOST_WORDS = 15, 40
#: A caption less like its frame is probably made up (collection guide, frequent questions: CLIP similarity of 0.25).
MIN_SIMILARITY = 0.25
#: How the spaces begin that this number was chosen for: what a cosine of words and pictures means differs by model.
CHOSEN_FOR = "clip-vit-l-14"
#: A single caption outside of these is none, and is asked for again. Ours: half and one and a half of the bounds of the
#: mean.
SHORTEST_WORDS, LONGEST_WORDS = 8, 60

ANSWERED = GateSpec(
    name="answered",
    description=f"The moments of the clip have a caption of {SHORTEST_WORDS} to {LONGEST_WORDS} words.",
    blocking=True,
    threshold=0.9,
    unit="share of moments with a caption",
    source="ours: nine in ten; the guide names no share",
)
LENGTH = GateSpec(
    name="length",
    description=f"Captions have {FEWEST_WORDS} to {MOST_WORDS} words on average.",
    threshold=FEWEST_WORDS,
    unit=f"words in the mean, at least; at most {MOST_WORDS}",
    source="collection guide, frequent questions",
)
RELEVANCE = GateSpec(
    name="relevance",
    description=f"Captions are about their frames: the cosine of text and picture is at least {MIN_SIMILARITY:g}.",
    blocking=True,
    threshold=0.5,
    unit=f"share of captions with a similarity of at least {MIN_SIMILARITY:g}",
    source="collection guide, frequent questions, for one caption; the share is ours: half",
)

#: All gates of the layer, in the order in which they are judged.
GATES = (ANSWERED, LENGTH, RELEVANCE)


def is_answer(words: int) -> bool:
    """Whether so many words count as a caption."""
    return SHORTEST_WORDS <= words <= LONGEST_WORDS


def judge_caption(*, words: int, similarity: float | None) -> dict[str, GateOutcome]:
    """The verdict on one caption by criterion.

    Args:
        words: Number of words; 0 where there is no caption.
        similarity: Cosine between text and picture; ``None`` where nobody can tell.
    """
    if words == 0:
        missing = GateOutcome.NOT_EVALUATED
        return {"answered": GateOutcome.FAILED, "length": missing, "relevance": missing}
    answered = GateOutcome.PASSED if is_answer(words) else GateOutcome.FAILED
    length = GateOutcome.PASSED if FEWEST_WORDS <= words <= MOST_WORDS else GateOutcome.WARNED
    relevance = GateOutcome.NOT_EVALUATED
    if similarity is not None:
        relevance = GateOutcome.PASSED if similarity >= MIN_SIMILARITY else GateOutcome.FAILED
    return {"answered": answered, "length": length, "relevance": relevance}


def judge_captions(
    *,
    words: Sequence[int],
    similarities: Sequence[float | None],
    refusals: Sequence[str] = (),
    no_similarity: str = "",
    space: str = "",
) -> list[GateResult]:
    """Judge the captions of a clip; one verdict per gate, in the order of :data:`GATES`.

    Args:
        words: Number of words per moment; 0 where there is no caption.
        similarities: Cosine between text and picture per moment; ``None`` where nobody can tell.
        refusals: Why captions were refused, for the message.
        no_similarity: Why nobody can tell.
        space: Space in which text and picture were compared.
    """
    said = [count for count in words if count]
    return [
        _judge_answered(len(words), sum(map(is_answer, words)), refusals),
        _judge_length(said),
        _judge_relevance(
            [value for value in similarities if value is not None], len(said), no_similarity, space
        ),
    ]


def _judge_answered(moments: int, answered: int, refusals: Sequence[str]) -> GateResult:
    if moments == 0:
        return ANSWERED.failed("The clip has no frame to describe. Look at the clip.", value=0.0)
    share = answered / moments
    seen = f"{answered} of {moments} moments have a caption."
    details: dict[str, object] = {"moments": moments, "captions": answered, "refusals": list(refusals[:20])}
    if share < ANSWERED.limit:
        last = f" The last one was refused: {refusals[-1]}." if refusals else ""
        return ANSWERED.failed(
            f"{seen}{last} Look at the clip, or set other prompts or models (in the profile, or of an endpoint with "
            "EGO_CAPTION_PROMPTS_FILE and EGO_CAPTION_MODELS) and use `ego-assets run --retry-failed` with "
            "the same profile.",
            value=share,
            **details,
        )
    return ANSWERED.passed(seen, value=share, **details)


def _judge_length(words: Sequence[int]) -> GateResult:
    if not words:
        return LENGTH.not_evaluated("There is no caption.")
    mean = math.fsum(words) / len(words)
    seen = f"Captions have {mean:.1f} words on average"
    details: dict[str, object] = {"shortest": min(words), "longest": max(words)}
    if FEWEST_WORDS <= mean <= MOST_WORDS:
        return LENGTH.passed(f"{seen}.", value=mean, **details)
    return LENGTH.warned(
        f"{seen}, expected {FEWEST_WORDS} to {MOST_WORDS}. Name the length in the prompt.",
        value=mean,
        **details,
    )


def _judge_relevance(similarities: Sequence[float], said: int, no_similarity: str, space: str) -> GateResult:
    if said == 0:
        return RELEVANCE.not_evaluated("There is no caption.")
    if not similarities:
        reason = no_similarity or "No backend compares texts with pictures."
        return RELEVANCE.not_evaluated(f"{reason} Use a profile whose embeddings backend reads texts.")
    good = sum(value >= MIN_SIMILARITY for value in similarities)
    share = good / len(similarities)
    seen = f"{good} of {len(similarities)} captions are like their frames (similarity of {MIN_SIMILARITY:g} or more)."
    details: dict[str, object] = {
        "mean_similarity": math.fsum(similarities) / len(similarities),
        "lowest_similarity": min(similarities),
    }
    if share < RELEVANCE.limit:
        advice = "The others may be made up: look at them."
        if space and not space.startswith(CHOSEN_FOR):
            advice = (
                f"The limit was chosen for CLIP ViT-L/14, and these were compared in the space {space}, where captions "
                "that fit may be less like their frames: look at them, or use the checkpoint vit_l_14 for embeddings."
            )
        return RELEVANCE.failed(f"{seen} {advice}", value=share, **details)
    return RELEVANCE.passed(seen, value=share, **details)
