"""Captions of a clip: which moments are described, which answers are good enough, and the document of them."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ego_assets.labels.prompts import Prompt
from ego_assets.labels.scene_facts import word_count
from ego_assets.schema.captions import CaptionAnswer, Captioner, CaptionRequest
from ego_assets.schema.detections import BackendInfo, BgrImage
from ego_assets.schema.errors import EgoAssetsError
from ego_assets.schema.ladder import MAX_FURTHER_ATTEMPTS, Rung
from ego_assets.schema.timeline import NANOSECONDS, Timeline

#: Raised whenever the meaning of a field of ``captions.json`` changes.
CAPTIONS_FORMAT = 1

#: A single caption outside of these is asked for again. Ours: half and one and a half of the bounds that the guide
#: sets for the mean (frequent questions: 15-40 words).
SHORTEST_WORDS, LONGEST_WORDS = 8, 60

#: Frames held in memory at a time.
BATCH_SIZE = 16

_QUOTES = "\"'\u201c\u201d"
_THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL)
_REFUSAL = re.compile(
    r"(i['\u2019]?m sorry|i am sorry|sorry|i apologi[sz]e|unfortunately,? i|as an ai\b|"
    r"i (can(['\u2019]t|not| not)|am unable|am not able|won['\u2019]t)|i['\u2019]m (unable|not able))",
    re.IGNORECASE,
)

#: Cosine between each picture and its text, ``float [N]``.
Similarity = Callable[[Sequence[BgrImage], Sequence[str]], npt.NDArray[np.floating[Any]]]


@dataclass(frozen=True, kw_only=True)
class CaptionMoment:
    """A frame to describe, and the stretch of the clip that it stands for.

    Attributes:
        frame_index: The frame.
        timestamp_ns: Its presentation time.
        start_ns: Where the stretch begins.
        end_ns: Where it ends; the next one begins there.
    """

    frame_index: int
    timestamp_ns: int
    start_ns: int
    end_ns: int

    def __post_init__(self) -> None:
        if self.end_ns <= self.start_ns:
            raise ValueError(f"end_ns: expected more than {self.start_ns}, got {self.end_ns}")


def caption_moments(timeline: Timeline, *, interval_s: float) -> tuple[CaptionMoment, ...]:
    """Divide a clip into stretches of equal length and choose the frame nearest to the middle of each.

    The last stretch reaches to the end of the clip: it is up to half as long or one and a half as long as the others.
    A clip with a frame has at least one; stretches in which the video stands on one frame are joined.

    Args:
        timeline: Frames of the video.
        interval_s: Length of a stretch in seconds.
    """
    if interval_s <= 0:
        raise ValueError(f"interval_s: expected more than 0, got {interval_s}")
    if timeline.frame_count == 0:
        return ()
    first, interval = int(timeline.timestamps_ns[0]), max(1, round(interval_s * NANOSECONDS))
    end = first + max(1, timeline.duration_ns)
    # Half an interval or more at the end is a stretch of its own.
    count = max(1, (2 * (end - first) + interval) // (2 * interval))
    moments: list[CaptionMoment] = []
    for place in range(count):
        start = first + place * interval
        stop = end if place == count - 1 else start + interval
        middle = min(start + interval // 2, (start + stop) // 2)
        frame = int(timeline.nearest_frames(np.array([middle], np.int64))[0])
        if moments and moments[-1].frame_index == frame:
            start = moments.pop().start_ns
        moments.append(
            CaptionMoment(
                frame_index=frame,
                timestamp_ns=int(timeline.timestamps_ns[frame]),
                start_ns=start,
                end_ns=stop,
            )
        )
    return tuple(moments)


def clean_text(text: str) -> str:
    """A model's answer as one line, without its spelled-out thoughts and the quotes around it."""
    line = " ".join(_THOUGHTS.sub(" ", text).split())
    if len(line) > 1 and line[0] in _QUOTES and line[-1] in _QUOTES:
        line = line[1:-1].strip()
    return line


def looks_like_refusal(text: str) -> bool:
    """Whether a model says that it will not answer instead of answering."""
    return _REFUSAL.match(text) is not None


@dataclass(frozen=True, kw_only=True)
class Caption:
    """What is said of one moment.

    Attributes:
        moment: The moment.
        text: The sentence; empty where no attempt gave one.
        refused: Why the sentence is not good enough, or why there is none; empty where it is.
        source: ``model`` where a model looked at the picture, ``template`` where a sentence was built.
        model: Model that answered.
        prompt: Name of the prompt; empty for a template.
        attempt: Attempt that gave it, from 1.
        similarity: Cosine between picture and text; ``None`` where nobody can tell.
    """

    moment: CaptionMoment
    text: str
    refused: str
    source: str
    model: str
    prompt: str
    attempt: int
    similarity: float | None = None

    @property
    def words(self) -> int:
        """Number of words."""
        return word_count(self.text)


@dataclass(frozen=True, kw_only=True)
class CaptionRun:
    """The captions of a clip.

    Attributes:
        captions: One per moment, in order.
        attempts: Attempts of which answers were refused, for ``artifact.json``.
        backends: Who wrote captions or tried to.
        usage: ``requests``, ``prompt_tokens`` and ``completion_tokens`` of all attempts.
    """

    captions: tuple[Caption, ...]
    attempts: tuple[Mapping[str, Any], ...]
    backends: tuple[BackendInfo, ...]
    usage: Mapping[str, int]


@dataclass
class _Tally:
    """What one attempt came to, over all batches."""

    asked: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    info: BackendInfo | None = None


def write_captions(
    moments: Sequence[CaptionMoment],
    requests: Iterable[CaptionRequest],
    rungs: Sequence[Rung[Captioner]],
    *,
    similarity: Similarity | None,
    min_similarity: float,
    log: logging.Logger,
    batch_size: int = BATCH_SIZE,
) -> CaptionRun:
    """Ask for a caption of every moment; what is refused is asked for again in the next way, and nothing else.

    An exception of a model refuses the captions it was to write. The platform's own errors, and those of the operating
    system, are raised at once.

    Args:
        moments: The moments.
        requests: One per moment, in order; read in batches.
        rungs: The attempts, at least one; at most two after the first count.
        similarity: Cosine between pictures and texts, where there is a backend that can tell.
        min_similarity: Captions below it are asked for again.
        log: Where refusals are told.
        batch_size: Moments handed to a backend at once.

    Raises:
        TransientError: An endpoint could not be reached after all retries.
        ValueError: There are not as many requests as moments.
    """
    rungs = rungs[: MAX_FURTHER_ATTEMPTS + 1]
    tallies = [_Tally() for _ in rungs]
    captions: list[Caption] = []
    for batch in _batches(requests, batch_size):
        batch_moments = moments[len(captions) : len(captions) + len(batch)]
        if len(batch_moments) < len(batch):
            raise ValueError(f"requests: expected {len(moments)}, got more")
        captions += _write_batch(
            batch_moments,
            batch,
            rungs,
            tallies,
            similarity=similarity,
            min_similarity=min_similarity,
            log=log,
        )
    if len(captions) < len(moments):
        raise ValueError(f"requests: expected {len(moments)}, got {len(captions)}")
    return CaptionRun(
        captions=tuple(captions),
        attempts=tuple(
            {"attempt": rung.name, "config": dict(rung.config), "refused": _told(tally)}
            for rung, tally in zip(rungs, tallies, strict=True)
            if tally.reasons
        ),
        backends=tuple(dict.fromkeys(tally.info for tally in tallies if tally.info is not None)),
        usage={
            "requests": sum(tally.asked for tally in tallies),
            "prompt_tokens": sum(tally.prompt_tokens for tally in tallies),
            "completion_tokens": sum(tally.completion_tokens for tally in tallies),
        },
    )


def _write_batch(
    moments: Sequence[CaptionMoment],
    requests: Sequence[CaptionRequest],
    rungs: Sequence[Rung[Captioner]],
    tallies: Sequence[_Tally],
    *,
    similarity: Similarity | None,
    min_similarity: float,
    log: logging.Logger,
) -> list[Caption]:
    """Climb the ladder with one batch."""
    best: dict[int, Caption] = {}
    pending = list(range(len(requests)))
    for attempt, (rung, tally) in enumerate(zip(rungs, tallies, strict=True), 1):
        backend = rung.open()
        tally.info = backend.info
        tally.asked += len(pending)
        answers = _ask(backend, [requests[place] for place in pending])
        scores = _scores(similarity, [requests[place].frame.image for place in pending], answers)
        refused = []
        for place, answer, score in zip(pending, answers, scores, strict=True):
            tally.prompt_tokens += answer.prompt_tokens
            tally.completion_tokens += answer.completion_tokens
            kind, reason = _refusal(answer, score, min_similarity)
            caption = Caption(
                moment=moments[place],
                text=answer.text,
                refused=reason,
                source=backend.source,
                model=answer.model or str(rung.config.get("model", "")) or backend.info.model,
                prompt=str(rung.config.get("prompt", "")),
                attempt=attempt,
                similarity=score,
            )
            if place not in best or _preference(caption) >= _preference(best[place]):
                best[place] = caption
            if reason:
                tally.reasons[kind] += 1
                refused.append(place)
        if refused:
            log.warning("%s: %d of %d caption(s) refused", rung.name, len(refused), len(pending))
        pending = refused
        if not pending:
            break
    return [best[place] for place in range(len(requests))]


def _ask(backend: Captioner, requests: Sequence[CaptionRequest]) -> list[CaptionAnswer]:
    try:
        answers = backend.caption(requests)
    except (EgoAssetsError, OSError):
        raise
    except Exception as error:
        return [CaptionAnswer(text="", refused=f"{type(error).__name__}: {error}")] * len(requests)
    if len(answers) != len(requests):
        raise ValueError(f"{backend.info.backend}: expected {len(requests)} answers, got {len(answers)}")
    return answers


def _scores(
    similarity: Similarity | None, images: Sequence[BgrImage], answers: Sequence[CaptionAnswer]
) -> list[float | None]:
    told = [place for place, answer in enumerate(answers) if answer.text]
    scores: list[float | None] = [None] * len(answers)
    if similarity is not None and told:
        cosines = similarity([images[place] for place in told], [answers[place].text for place in told])
        for place, cosine in zip(told, cosines, strict=True):
            scores[place] = round(float(cosine), 6)
    return scores


def _refusal(answer: CaptionAnswer, similarity: float | None, min_similarity: float) -> tuple[str, str]:
    """Kind of and reason for a refusal; empty where the caption is good enough."""
    if answer.refused:
        return answer.refused.partition(":")[0], answer.refused
    words = word_count(answer.text)
    if words < SHORTEST_WORDS:
        return "too short", f"too short: {words} words, expected at least {SHORTEST_WORDS}"
    if words > LONGEST_WORDS:
        return "too long", f"too long: {words} words, expected at most {LONGEST_WORDS}"
    if similarity is not None and similarity < min_similarity:
        reason = f"unlike the picture: similarity {similarity:.2f}, expected at least {min_similarity:g}"
        return "unlike the picture", reason
    return "", ""


def _preference(caption: Caption) -> tuple[bool, bool, float]:
    """What is kept when no attempt is accepted: a text, and of several the one most like the picture."""
    similarity = -1.0 if caption.similarity is None else caption.similarity
    return not caption.refused, bool(caption.text), similarity


def _told(tally: _Tally) -> str:
    reasons = ", ".join(f"{reason} ({count})" for reason, count in sorted(tally.reasons.items()))
    return f"{sum(tally.reasons.values())} of {tally.asked} captions: {reasons}"


def _batches(requests: Iterable[CaptionRequest], size: int) -> Iterator[list[CaptionRequest]]:
    stream = iter(requests)
    while batch := list(islice(stream, size)):
        yield batch


def captions_document(
    captions: Sequence[Caption],
    *,
    interval_s: float,
    prompts: Sequence[Prompt],
    usage: Mapping[str, float],
    verdicts: Sequence[Mapping[str, str]],
) -> dict[str, Any]:
    """What ``captions.json`` holds.

    Args:
        captions: The captions.
        interval_s: Time between two of them, in seconds.
        prompts: What models may have been asked.
        usage: Tokens, requests and cost.
        verdicts: Criterion to verdict, per caption.
    """
    sources = sorted({caption.source for caption in captions})
    return {
        "format": CAPTIONS_FORMAT,
        "source": sources[0] if len(sources) == 1 else "mixed",
        "interval_s": interval_s,
        "prompts": [{"name": prompt.name, "text": prompt.text} for prompt in prompts],
        "captions": [
            {
                "time_s": round(caption.moment.timestamp_ns / NANOSECONDS, 6),
                "timestamp_ns": caption.moment.timestamp_ns,
                "start_ns": caption.moment.start_ns,
                "end_ns": caption.moment.end_ns,
                "frame_index": caption.moment.frame_index,
                "text": caption.text,
                "source": caption.source,
                "model": caption.model,
                "prompt": caption.prompt,
                "attempt": caption.attempt,
                "words": caption.words,
                "similarity": caption.similarity,
                "refused": caption.refused,
                "verdicts": dict(verdict),
            }
            for caption, verdict in zip(captions, verdicts, strict=True)
        ],
        "usage": dict(usage),
    }


def verdict_table(captions: Sequence[Caption], verdicts: Sequence[Mapping[str, str]]) -> pa.Table:
    """The table of ``verdicts.parquet``: one row per caption, one column per criterion."""
    criteria = list(dict.fromkeys(name for verdict in verdicts for name in verdict))
    columns: dict[str, pa.Array] = {
        "frame_index": pa.array([caption.moment.frame_index for caption in captions], pa.int64()),
        "timestamp_ns": pa.array([caption.moment.timestamp_ns for caption in captions], pa.int64()),
        "words": pa.array([caption.words for caption in captions], pa.int32()),
        "similarity": pa.array([caption.similarity for caption in captions], pa.float32()),
    }
    for name in criteria:
        columns[name] = pa.array([verdict[name] for verdict in verdicts], pa.string())
    return pa.table(columns)
