"""Captions of a clip: which moments are described, which answers are good enough, and the document of them."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from ego_assets.labels.prompts import Prompt
from ego_assets.labels.scene_facts import word_count
from ego_assets.schema.captions import CaptionAnswer, Captioner, CaptionRequest
from ego_assets.schema.detections import BackendInfo, BgrImage
from ego_assets.schema.embeddings import Embedder
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.gates import GateOutcome
from ego_assets.schema.ladder import (
    MAX_FURTHER_ATTEMPTS,
    Rung,
    forget_locals,
    is_of_surroundings,
    refuses_attempt,
)
from ego_assets.schema.timeline import NANOSECONDS, Timeline

#: Raised whenever the meaning of a field of ``captions.json`` changes.
CAPTIONS_FORMAT = 1

#: Frames held in memory at a time.
BATCH_SIZE = 16

_QUOTES = "\"'\u201c\u201d"
_THOUGHTS = "<think>", "</think>"
_REFUSAL = re.compile(
    r"(i['\u2019]?m sorry|i am sorry|sorry(?![\w-])|i apologi[sz]e|unfortunately,? i|as an ai\b|"
    r"i (can(['\u2019]t|not| not)|am unable|am not able|won['\u2019]t)|i['\u2019]m (unable|not able))",
    re.IGNORECASE,
)

#: Frames that a clip's sentences and pictures are compared on: the first, those after a third and two thirds, the last.
COMPARED_FRAMES = 4

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


def one_line(text: str) -> str:
    """A text of strangers as one line that every file and database takes: no control characters, no half characters."""
    whole = text.encode("utf-8", errors="ignore").decode()
    return " ".join(
        "".join(character for character in whole if character.isprintable() or character.isspace()).split()
    )


def clean_text(text: str) -> str:
    """A model's answer as one line, without its spelled-out thoughts and the quotes around it."""
    begin, end = _THOUGHTS
    # Some servers leave out where thoughts begin; where they do not end, there is no answer after them.
    line = one_line(text.rpartition(end)[2].partition(begin)[0])
    if len(line) > 1 and line[0] in _QUOTES and line[-1] in _QUOTES:
        line = line[1:-1].strip()
    return line


def looks_like_refusal(text: str) -> bool:
    """Whether a model says that it will not answer instead of answering."""
    return _REFUSAL.match(text) is not None


def read_answer(text: str) -> tuple[str, str]:
    """A model's answer as a caption, or the reason why it is none; one of both is empty."""
    line = clean_text(text)
    if not line:
        return "", "empty answer: no text"
    if looks_like_refusal(line):
        return "", f"refusal: {line[:200]}"
    return line, ""


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
        usage: ``requests`` to an endpoint, ``prompt_tokens`` and ``completion_tokens`` of all attempts.
    """

    captions: tuple[Caption, ...]
    attempts: tuple[Mapping[str, Any], ...]
    backends: tuple[BackendInfo, ...]
    usage: Mapping[str, int]


@dataclass
class _Attempt:
    """One way to ask, opened at its first use, and what it came to over all batches.

    Attributes:
        rung: The way.
        is_first: Whether it is the first one.
        backend: One for all batches, because it may have learned what the endpoint takes.
        failure: Why it could not be opened.
        unavailable: First error of the surroundings that refused it.
        asked: Captions that it was asked for.
        requests: Requests to an endpoint.
        prompt_tokens: Tokens that were sent.
        completion_tokens: Tokens that came back.
        reasons: How often it was refused, by the kind of reason.
    """

    rung: Rung[Captioner]
    is_first: bool
    backend: Captioner | None = None
    failure: Exception | None = None
    unavailable: Exception | None = None
    asked: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def ask(self, requests: Sequence[CaptionRequest], log: logging.Logger) -> list[CaptionAnswer]:
        """One answer per request; an exception that refuses the attempt is the reason why there is none.

        What could not be opened is not opened again for the next batch.
        """
        error = self.failure
        if error is None:
            try:
                if self.backend is None:
                    self.backend = self.rung.open()
                answers = self.backend.caption(requests)
            except Exception as raised:
                if not refuses_attempt(raised, is_first=self.is_first):
                    raise
                error = raised
                self._note(error, log)
            else:
                if len(answers) != len(requests):
                    name = self.backend.info.backend
                    raise ValueError(f"{name}: expected {len(requests)} answers, got {len(answers)}")
                return answers
        return [CaptionAnswer(text="", refused=f"{type(error).__name__}: {error}")] * len(requests)

    def _note(self, error: Exception, log: logging.Logger) -> None:
        """Keep what the end of the ladder has to know of an exception."""
        if self.backend is None:
            self.failure = error
        if is_of_surroundings(error):
            self.unavailable = self.unavailable or error
        forget_locals(error)
        log.warning("%s refused: %s: %s", self.rung.name, type(error).__name__, error)

    def count(self, answer: CaptionAnswer, refused: str) -> None:
        """Count an answer and, where it was refused, the kind of reason."""
        self.asked += 1
        self.requests += answer.requests
        self.prompt_tokens += answer.prompt_tokens
        self.completion_tokens += answer.completion_tokens
        if refused:
            self.reasons[refused] += 1

    @property
    def told(self) -> str:
        """How many were refused and why, in words."""
        reasons = ", ".join(f"{reason} ({count})" for reason, count in sorted(self.reasons.items()))
        return f"{sum(self.reasons.values())} of {self.asked} captions: {reasons}"


@dataclass(frozen=True, kw_only=True)
class _Judge:
    """Says which answers are good enough."""

    similarity: Similarity | None
    min_similarity: float
    words: tuple[int, int]

    def scores(self, images: Sequence[BgrImage], answers: Sequence[CaptionAnswer]) -> list[float | None]:
        """How alike each picture and its text are; ``None`` where nobody can tell."""
        told = [place for place, answer in enumerate(answers) if answer.text]
        scores: list[float | None] = [None] * len(answers)
        if self.similarity is not None and told:
            cosines = self.similarity(
                [images[place] for place in told], [answers[place].text for place in told]
            )
            for place, cosine in zip(told, map(float, cosines), strict=True):
                scores[place] = round(cosine, 6) if math.isfinite(cosine) else None
        return scores

    def refusal(self, answer: CaptionAnswer, similarity: float | None) -> tuple[str, str]:
        """Kind of and reason for a refusal; empty where the caption is good enough."""
        if answer.refused:
            return answer.refused.partition(":")[0], answer.refused
        (shortest, longest), words = self.words, word_count(answer.text)
        if words < shortest:
            return "too short", f"too short: {words} words, expected at least {shortest}"
        if words > longest:
            return "too long", f"too long: {words} words, expected at most {longest}"
        if similarity is not None and similarity < self.min_similarity:
            reason = (
                f"unlike the picture: similarity {similarity:.2f}, expected at least {self.min_similarity:g}"
            )
            return "unlike the picture", reason
        return "", ""


def write_captions(
    moments: Sequence[CaptionMoment],
    requests: Iterable[CaptionRequest],
    rungs: Sequence[Rung[Captioner]],
    *,
    similarity: Similarity | None,
    min_similarity: float,
    words: tuple[int, int],
    log: logging.Logger,
    batch_size: int = BATCH_SIZE,
) -> CaptionRun:
    """Ask for a caption of every moment; what is refused is asked for again in the next way, and nothing else.

    An exception of a model refuses the captions it was to write; :func:`~ego_assets.schema.ladder.refuses_attempt` says
    which other errors do, and which are raised at once. Where no caption has a text, the first error of the
    surroundings that refused an attempt is raised in the end; where none could be opened, the first one's error is.

    Args:
        moments: The moments.
        requests: One per moment, in order; read in batches.
        rungs: The attempts, at least one; at most two after the first count.
        similarity: Cosine between pictures and texts, where there is a backend that can tell.
        min_similarity: Captions below it are asked for again.
        words: Fewest and most words; captions outside of them are asked for again.
        log: Where refusals are told.
        batch_size: Moments handed to a backend at once.

    Raises:
        TransientError: An endpoint could not be reached after all retries.
        EgoAssetsError: The first attempt cannot run here, or no attempt gave a text and one could not run.
        ValueError: There are not as many requests as moments.
    """
    judge = _Judge(similarity=similarity, min_similarity=min_similarity, words=words)
    attempts = [
        _Attempt(rung=rung, is_first=place == 0)
        for place, rung in enumerate(rungs[: MAX_FURTHER_ATTEMPTS + 1])
    ]
    captions: list[Caption] = []
    for batch in _batches(requests, batch_size):
        batch_moments = moments[len(captions) : len(captions) + len(batch)]
        if len(batch_moments) < len(batch):
            raise ValueError(f"requests: expected {len(moments)}, got more")
        captions += _write_batch(batch_moments, batch, attempts, judge, log)
    if len(captions) < len(moments):
        raise ValueError(f"requests: expected {len(moments)}, got {len(captions)}")
    if not any(caption.text for caption in captions):
        _raise_unavailable(attempts)
    return CaptionRun(
        captions=tuple(captions),
        attempts=tuple(
            {"attempt": each.rung.name, "config": dict(each.rung.config), "refused": each.told}
            for each in attempts
            if each.reasons
        ),
        backends=tuple(dict.fromkeys(each.backend.info for each in attempts if each.backend is not None)),
        usage={
            name: sum(getattr(each, name) for each in attempts)
            for name in ("requests", "prompt_tokens", "completion_tokens")
        },
    )


def _write_batch(
    moments: Sequence[CaptionMoment],
    requests: Sequence[CaptionRequest],
    attempts: Sequence[_Attempt],
    judge: _Judge,
    log: logging.Logger,
) -> list[Caption]:
    """Climb the ladder with one batch."""
    best: dict[int, Caption] = {}
    pending = list(range(len(requests)))
    for number, attempt in enumerate(attempts, 1):
        answers, rung = attempt.ask([requests[place] for place in pending], log), attempt.rung
        if attempt.backend is None:
            # There is nobody of whom a caption could be.
            for answer in answers:
                attempt.count(answer, judge.refusal(answer, None)[0])
            continue
        backend = attempt.backend
        scores = judge.scores([requests[place].frame.image for place in pending], answers)
        refused = []
        for place, answer, score in zip(pending, answers, scores, strict=True):
            kind, reason = judge.refusal(answer, score)
            attempt.count(answer, kind)
            caption = Caption(
                moment=moments[place],
                text=answer.text,
                refused=reason,
                source=backend.source,
                model=answer.model or str(rung.config.get("model", "")) or backend.info.model,
                prompt=answer.prompt or str(rung.config.get("prompt", "")),
                attempt=number,
                similarity=score,
            )
            if place not in best or _preference(caption) >= _preference(best[place]):
                best[place] = caption
            if reason:
                refused.append(place)
        if refused:
            log.warning("%s: %d of %d caption(s) refused", rung.name, len(refused), len(pending))
        pending = refused
        if not pending:
            break
    if not best:
        _raise_unavailable(attempts)
        raise next(attempt.failure for attempt in attempts if attempt.failure is not None)
    return [best[place] for place in range(len(requests))]


def _raise_unavailable(attempts: Sequence[_Attempt]) -> None:
    """Raise the error of the surroundings that refused an attempt, the first one's where there are several."""
    for attempt in attempts:
        if attempt.unavailable is not None:
            raise attempt.unavailable


def _preference(caption: Caption) -> tuple[bool, bool, float]:
    """What is kept when no attempt is accepted: a text, and of several the one most like the picture."""
    similarity = -1.0 if caption.similarity is None else caption.similarity
    return not caption.refused, bool(caption.text), similarity


def _batches(requests: Iterable[CaptionRequest], size: int) -> Iterator[list[CaptionRequest]]:
    stream = iter(requests)
    while batch := list(islice(stream, size)):
        yield batch


@dataclass(frozen=True, kw_only=True)
class FrameSimilarity:
    """How a clip's sentences go with its frames, and how much those change: EgoVid-5M's ``ti_sim`` and ``ii_sim``.

    Attributes:
        space: Space of the vectors that were compared.
        frame_index: The frames, see :func:`compared_frames`.
        text: Cosine of each frame and the caption of the stretch that it lies in; ``None`` where that has no text.
        picture: Cosine of the first frame and each of the others.
    """

    space: str
    frame_index: tuple[int, ...]
    text: tuple[float | None, ...]
    picture: tuple[float | None, ...]

    def __post_init__(self) -> None:
        lengths = len(self.frame_index), len(self.text), len(self.picture)
        if lengths != (COMPARED_FRAMES, COMPARED_FRAMES, COMPARED_FRAMES - 1):
            raise ValueError(
                f"frame_index, text, picture: expected {COMPARED_FRAMES}, {COMPARED_FRAMES} and {COMPARED_FRAMES - 1} "
                f"values, got {', '.join(map(str, lengths))}"
            )


def compared_frames(frame_count: int) -> tuple[int, ...]:
    """The first frame, those after a third and two thirds of a clip, and the last; the same one twice in short clips.

    Raises:
        ValueError: There is no frame.
    """
    if frame_count < 1:
        raise ValueError(f"frame_count: expected 1 or more, got {frame_count}")
    return 0, frame_count // 3, 2 * frame_count // 3, frame_count - 1


def compare_frames(
    embedder: Embedder, frames: Mapping[int, ClipFrame], captions: Sequence[Caption], *, frame_count: int
) -> FrameSimilarity:
    """Compare the frames of :func:`compared_frames` with the captions of their stretches and with one another.

    Args:
        embedder: A backend that reads texts.
        frames: At least these frames, by their index.
        captions: The captions of the clip, in order.
        frame_count: Number of frames of the clip.
    """
    places = compared_frames(frame_count)
    pictures = embedder.embed_images([frames[place].image for place in places])
    texts = [_text_at(captions, frames[place].timestamp_ns) for place in places]
    told = list(dict.fromkeys(text for text in texts if text))
    vectors = dict(zip(told, embedder.embed_texts(told), strict=True))
    return FrameSimilarity(
        space=embedder.space,
        frame_index=places,
        text=tuple(
            _cosine(picture, vectors[text]) if text else None
            for picture, text in zip(pictures, texts, strict=True)
        ),
        picture=tuple(_cosine(pictures[0], picture) for picture in pictures[1:]),
    )


def _text_at(captions: Sequence[Caption], timestamp_ns: int) -> str:
    """What the caption says in whose stretch a time lies; the last stretch has no end."""
    begun = [caption for caption in captions if caption.moment.start_ns <= timestamp_ns]
    return begun[-1].text if begun else ""


def _cosine(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> float | None:
    value = float(first @ second)
    return round(value, 6) if math.isfinite(value) else None


def captions_document(
    captions: Sequence[Caption],
    *,
    interval_s: float,
    prompts: Sequence[Prompt],
    usage: Mapping[str, float | None],
    verdicts: Sequence[Mapping[str, GateOutcome]],
    frame_similarity: FrameSimilarity | None = None,
) -> dict[str, Any]:
    """What ``captions.json`` holds.

    Args:
        captions: The captions.
        interval_s: Time between two of them, in seconds.
        prompts: What models may have been asked.
        usage: Tokens, requests and cost; ``None`` for what nobody knows.
        verdicts: Criterion to verdict, per caption.
        frame_similarity: How sentences and frames go together, where somebody can tell.
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
                "verdicts": {criterion: outcome.value for criterion, outcome in verdict.items()},
            }
            for caption, verdict in zip(captions, verdicts, strict=True)
        ],
        "frame_similarity": None if frame_similarity is None else asdict(frame_similarity),
        "usage": dict(usage),
    }
