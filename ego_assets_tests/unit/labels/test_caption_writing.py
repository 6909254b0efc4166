"""Which moments are described, what is asked again, and what the documents hold."""

from __future__ import annotations

import json
import logging
import weakref
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.labels.caption_sheet import SHOWN, caption_sheet, shown_places, thumbnail
from ego_assets.labels.captions import (
    Caption,
    CaptionMoment,
    CaptionRun,
    FrameSimilarity,
    caption_moments,
    captions_document,
    clean_text,
    compare_frames,
    compared_frames,
    looks_like_refusal,
    one_line,
    read_answer,
    write_captions,
)
from ego_assets.labels.prompts import DEFAULT_PROMPTS, shipped_prompts
from ego_assets.schema.captions import CaptionAnswer, CaptionRequest, SceneFacts
from ego_assets.schema.detections import BackendInfo
from ego_assets.schema.documents import json_document
from ego_assets.schema.errors import (
    BackendUnavailable,
    ClipRefused,
    ConfigurationError,
    DeviceMemoryExhausted,
    InsufficientDisk,
    TransientError,
)
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.gates import GateOutcome
from ego_assets.schema.ladder import Rung
from ego_assets.schema.timeline import Timeline

S = 1_000_000_000
GOOD = "The wearer cuts a red pepper on a wooden board with a small knife in a bright kitchen near the sink."
JUDGED: dict[str, Any] = {"min_similarity": 0.25, "words": (8, 60), "log": logging.getLogger("test")}


def timeline(stamps_ns: Sequence[int], rate: int = 30) -> Timeline:
    return Timeline(
        timestamps_ns=np.array(stamps_ns, np.int64), frame_rate=Fraction(rate), time_base=Fraction(1, 90_000)
    )


def regular(frames: int, rate: int = 30, start_ns: int = 0) -> Timeline:
    return timeline([start_ns + round(index * S / rate) for index in range(frames)], rate)


def test_moments_are_the_middles_of_two_second_stretches() -> None:
    moments = caption_moments(regular(180, start_ns=S), interval_s=2.0)
    assert [(m.start_ns, m.end_ns) for m in moments] == [(S, 3 * S), (3 * S, 5 * S), (5 * S, 7 * S)]
    assert [m.frame_index for m in moments] == [30, 90, 150]


@pytest.mark.parametrize(
    ("frames", "ends"),
    [
        (1, [0.0333]),
        (15, [0.5]),
        (89, [2.9667]),
        (90, [2.0, 3.0]),
        (149, [2.0, 4.9667]),
        (150, [2.0, 4.0, 5.0]),
    ],
)
def test_the_last_stretch_reaches_to_the_end(frames: int, ends: list[float]) -> None:
    moments = caption_moments(regular(frames), interval_s=2.0)
    assert [m.end_ns / S for m in moments] == pytest.approx(ends, abs=1e-3)


def test_no_frame_no_moment() -> None:
    assert caption_moments(timeline([]), interval_s=2.0) == ()


def test_a_standing_picture_is_described_once() -> None:
    # Nothing between 0.1 s and 9 s: four stretches lie nearest to the same frames.
    moments = caption_moments(timeline([0, S // 10, 9 * S, 9 * S + S // 10], 10), interval_s=2.0)
    assert [m.frame_index for m in moments] == [1, 2]
    assert moments[0].start_ns == 0 and moments[0].end_ns == moments[1].start_ns


@given(
    steps=st.lists(st.integers(1, 3 * S), max_size=60),
    interval_s=st.floats(0.05, 20),
    start=st.integers(-S, 10 * S),
)
def test_stretches_cover_the_clip_without_gap_and_hold_ascending_frames(
    steps: list[int], interval_s: float, start: int
) -> None:
    line = timeline(np.cumsum([start, *steps]).tolist())
    moments = caption_moments(line, interval_s=interval_s)
    assert moments[0].start_ns == start and moments[-1].end_ns == start + line.duration_ns
    assert all(a.end_ns == b.start_ns and a.frame_index < b.frame_index for a, b in pairwise(moments))


# --- the ladder ----------------------------------------------------------------------------------------


class Scripted:
    """A backend that answers as told and notes what it was asked."""

    def __init__(self, name: str, answer: Callable[[int], str | CaptionAnswer | Exception]) -> None:
        self.name, self.answer = name, answer
        self.asked: list[list[int]] = []

    @property
    def info(self) -> BackendInfo:
        return BackendInfo(task="captions", backend="scripted", model=self.name)

    source = "model"

    def caption(self, requests: Sequence[CaptionRequest]) -> list[CaptionAnswer]:
        self.asked.append([request.frame.frame_index for request in requests])
        answers = []
        for request in requests:
            found = self.answer(request.frame.frame_index)
            if isinstance(found, Exception):
                raise found
            if isinstance(found, str):
                found = CaptionAnswer(text=found, prompt_tokens=10, completion_tokens=2, requests=3)
            answers.append(found)
        return answers


class Unopened:
    """A backend that cannot be opened, and how often that was tried."""

    def __init__(self, name: str, error: Exception) -> None:
        self.name, self.error = name, error
        self.tried = 0

    def open(self) -> Any:
        self.tried += 1
        raise self.error


def run(
    count: int,
    *backends: Scripted | Unopened,
    similarity: Callable[..., Any] | None = None,
    batch_size: int = 16,
) -> CaptionRun:
    moments = [
        CaptionMoment(frame_index=n, timestamp_ns=n * S, start_ns=n * S, end_ns=(n + 1) * S)
        for n in range(count)
    ]
    picture = np.zeros((4, 4, 3), np.uint8)
    requests = (CaptionRequest(frame=ClipFrame(n, n * S, picture), facts=SceneFacts()) for n in range(count))
    rungs = [
        Rung(
            name=backend.name,
            open=backend.open if isinstance(backend, Unopened) else lambda backend=backend: backend,
            config={"model": backend.name, "prompt": f"p{n}"},
        )
        for n, backend in enumerate(backends)
    ]
    return write_captions(moments, requests, rungs, similarity=similarity, batch_size=batch_size, **JUDGED)


def refused(reason: str) -> CaptionAnswer:
    return CaptionAnswer(text="", refused=reason, prompt_tokens=7)


def test_only_what_was_refused_is_asked_again() -> None:
    first = Scripted("a", lambda n: refused("refusal: no") if n in (1, 3) else GOOD)
    second = Scripted("b", lambda n: "Too short." if n == 3 else GOOD)
    third = Scripted("c", lambda n: GOOD)
    made = run(5, first, second, third)
    assert (first.asked, second.asked, third.asked) == ([[0, 1, 2, 3, 4]], [[1, 3]], [[3]])
    assert [caption.model for caption in made.captions] == ["a", "b", "a", "c", "a"]
    assert [caption.attempt for caption in made.captions] == [1, 2, 1, 3, 1]
    assert [caption.prompt for caption in made.captions] == ["p0", "p1", "p0", "p2", "p0"]
    assert not any(caption.refused for caption in made.captions)
    assert [attempt["refused"] for attempt in made.attempts] == [
        "2 of 5 captions: refusal (2)",
        "1 of 2 captions: too short (1)",
    ]
    assert made.usage == {
        "requests": 3 * 6,
        "prompt_tokens": 3 * 10 + 2 * 7 + 2 * 10 + 10,
        "completion_tokens": 12,
    }
    assert [info.model for info in made.backends] == ["a", "b", "c"]


def test_after_two_further_attempts_nothing_more_is_tried() -> None:
    backends = [Scripted(name, lambda n: refused("empty answer: no choice")) for name in "abcd"]
    made = run(1, *backends)
    assert backends[3].asked == [] and len(made.attempts) == 3
    assert made.captions[0].text == "" and made.captions[0].refused == "empty answer: no choice"


def test_later_attempts_are_not_opened_without_need() -> None:
    def never() -> Any:
        raise AssertionError("opened")

    moments = [CaptionMoment(frame_index=0, timestamp_ns=0, start_ns=0, end_ns=S)]
    asked = CaptionRequest(frame=ClipFrame(0, 0, np.zeros((4, 4, 3), np.uint8)), facts=SceneFacts())
    rungs = [Rung(name="a", open=lambda: Scripted("a", lambda n: GOOD)), Rung(name="b", open=never)]
    made = write_captions(moments, [asked], rungs, similarity=None, **JUDGED)
    assert made.captions[0].text == GOOD and made.attempts == ()


def test_a_model_that_raises_refuses_what_it_was_asked() -> None:
    made = run(2, Scripted("a", lambda n: RuntimeError("out of memory")), Scripted("b", lambda n: GOOD))
    assert [caption.attempt for caption in made.captions] == [2, 2]
    assert made.attempts[0]["refused"] == "2 of 2 captions: RuntimeError (2)"


def test_an_endpoint_out_of_reach_is_raised_at_once() -> None:
    second = Scripted("b", lambda n: GOOD)
    with pytest.raises(TransientError):
        run(2, Scripted("a", lambda n: TransientError("down")), second)
    assert second.asked == []


SMALL = DeviceMemoryExhausted("One picture does not fit.")
UNINSTALLED = BackendUnavailable("install it")


@pytest.mark.parametrize(
    "first", [Scripted("a", lambda n: SMALL), Unopened("a", SMALL), Unopened("a", RuntimeError("torn file"))]
)
def test_what_does_not_fit_or_does_not_load_is_tried_in_the_next_way(first: Scripted | Unopened) -> None:
    made = run(2, first, Scripted("b", lambda n: GOOD))
    assert [(caption.text, caption.attempt) for caption in made.captions] == [(GOOD, 2)] * 2
    error = first.error if isinstance(first, Unopened) else SMALL
    assert [attempt["attempt"] for attempt in made.attempts] == ["a"]
    assert made.attempts[0]["refused"] == f"2 of 2 captions: {type(error).__name__} (2)"
    # Who was never there wrote nothing.
    assert [info.model for info in made.backends] == (["b"] if isinstance(first, Unopened) else ["a", "b"])


@pytest.mark.parametrize(
    "error", [UNINSTALLED, ConfigurationError("no such model"), OSError("unreadable"), SMALL]
)
@pytest.mark.parametrize("opens", [False, True])
def test_a_later_way_that_cannot_be_used_is_passed_over(error: Exception, opens: bool) -> None:
    first = Scripted("a", lambda n: refused("refusal: no") if n else GOOD)
    second = Scripted("b", lambda n: error) if opens else Unopened("b", error)
    made = run(3, first, second, Scripted("c", lambda n: GOOD))
    assert [(caption.text, caption.attempt) for caption in made.captions] == [(GOOD, 1), (GOOD, 3), (GOOD, 3)]
    assert [attempt["refused"] for attempt in made.attempts] == [
        "2 of 3 captions: refusal (2)",
        f"2 of 2 captions: {type(error).__name__} (2)",
    ]


def test_a_later_way_that_cannot_be_used_takes_no_answer_away() -> None:
    first = Scripted("a", lambda n: (GOOD, "Too short.", refused("refusal: no"))[n])
    made = run(3, first, Unopened("b", UNINSTALLED))
    assert [caption.text for caption in made.captions] == [GOOD, "Too short.", ""]
    assert {caption.attempt for caption in made.captions} == {1}
    assert made.captions[1].refused.startswith("too short") and made.captions[2].refused == "refusal: no"


@pytest.mark.parametrize("error", [UNINSTALLED, ConfigurationError("wrong key"), OSError("unreadable")])
@pytest.mark.parametrize("opens", [False, True])
def test_a_first_way_that_is_not_there_is_no_verdict(error: Exception, opens: bool) -> None:
    second = Scripted("b", lambda n: GOOD)
    with pytest.raises(type(error)):
        run(2, Scripted("a", lambda n: error) if opens else Unopened("a", error), second)
    assert second.asked == []


@pytest.mark.parametrize(
    "error", [TransientError("down"), ClipRefused("withdrawn"), InsufficientDisk("full")]
)
@pytest.mark.parametrize("opens", [False, True])
def test_what_is_worth_retrying_or_forbids_the_work_is_raised_by_every_way(
    error: Exception, opens: bool
) -> None:
    first = Scripted("a", lambda n: refused("refusal: no") if n else GOOD)
    with pytest.raises(type(error)):
        run(
            2,
            first,
            Scripted("b", lambda n: error) if opens else Unopened("b", error),
            Scripted("c", lambda n: GOOD),
        )


@pytest.mark.parametrize(
    ("backends", "raised"),
    [
        ([Scripted("a", lambda n: SMALL), Scripted("b", lambda n: refused("refusal: no"))], SMALL),
        ([Scripted("a", lambda n: refused("refusal: no")), Unopened("b", UNINSTALLED)], UNINSTALLED),
        ([Unopened("a", SMALL), Unopened("b", UNINSTALLED)], SMALL),
        ([Unopened("a", RuntimeError("torn file")), Unopened("b", UNINSTALLED)], UNINSTALLED),
        ([Unopened("a", RuntimeError("torn file"))], RuntimeError("torn file")),
    ],
)
def test_where_nothing_was_said_the_reason_is_raised_in_the_end(
    backends: list[Scripted | Unopened], raised: Exception
) -> None:
    with pytest.raises(type(raised), match=str(raised)):
        run(2, *backends)


def test_what_cannot_be_opened_is_tried_once_for_all_batches() -> None:
    first = Unopened("a", SMALL)
    made = run(5, first, Scripted("b", lambda n: GOOD), batch_size=2)
    assert first.tried == 1
    assert made.attempts[0]["refused"] == "5 of 5 captions: DeviceMemoryExhausted (5)"


def test_a_refused_way_holds_nothing_while_the_next_one_runs() -> None:
    class Tensor:
        """Stands for memory of a GPU."""

    held: list[weakref.ref[Tensor]] = []

    def fill(index: int) -> str:
        tensor = Tensor()
        held.append(weakref.ref(tensor))
        raise SMALL

    def write(index: int) -> str:
        assert [reference() for reference in held] == [None]
        return GOOD

    assert run(1, Scripted("a", fill), Scripted("b", write)).captions[0].text == GOOD


def test_captions_unlike_their_picture_are_asked_again_and_the_best_one_stays() -> None:
    scores = {"a": 0.1, "b": 0.2, "c": 0.15}

    def similarity(images: Sequence[Any], texts: Sequence[str]) -> Any:
        assert len(images) == len(texts)
        return np.array([scores.get(text[0], 0.3) for text in texts], np.float32)

    backends = [Scripted(name, lambda n, name=name: (name if n == 0 else "x") + GOOD) for name in "abc"]
    made = run(2, *backends, similarity=similarity)
    kept, good = made.captions
    assert kept.text.startswith("b") and kept.attempt == 2
    assert kept.similarity == pytest.approx(0.2) and kept.refused.startswith(
        "unlike the picture: similarity 0.20"
    )
    assert (good.refused, good.attempt) == ("", 1) and good.similarity == pytest.approx(0.3)


def test_a_text_that_is_not_good_enough_is_better_than_none() -> None:
    made = run(1, Scripted("a", lambda n: "word " * 80), Scripted("b", lambda n: refused("refusal: no")))
    assert made.captions[0].words == 80 and made.captions[0].refused.startswith("too long")


@pytest.mark.parametrize(("words", "accepted"), [(7, False), (8, True), (60, True), (61, False)])
def test_bounds_of_one_caption(words: int, accepted: bool) -> None:
    made = run(1, Scripted("a", lambda n: " ".join(["word"] * words)))
    assert (made.captions[0].refused == "") == accepted


def test_frames_are_taken_in_batches() -> None:
    first = Scripted("a", lambda n: refused("refusal: no") if n == 4 else GOOD)
    second = Scripted("b", lambda n: GOOD)
    made = run(5, first, second, batch_size=2)
    assert first.asked == [[0, 1], [2, 3], [4]] and second.asked == [[4]]
    assert made.attempts[0]["refused"] == "1 of 5 captions: refusal (1)"
    assert [caption.moment.frame_index for caption in made.captions] == [0, 1, 2, 3, 4]


def test_a_backend_is_opened_once_for_all_batches() -> None:
    backend, opened = Scripted("a", lambda n: GOOD), []

    def open_it() -> Scripted:
        opened.append(1)
        return backend

    moments = [CaptionMoment(frame_index=n, timestamp_ns=n, start_ns=n, end_ns=n + 1) for n in range(5)]
    picture = np.zeros((4, 4, 3), np.uint8)
    asked = [CaptionRequest(frame=ClipFrame(n, n, picture), facts=SceneFacts()) for n in range(5)]
    write_captions(moments, asked, [Rung(name="a", open=open_it)], similarity=None, batch_size=2, **JUDGED)
    assert len(backend.asked) == 3 and opened == [1]


def test_a_similarity_that_is_no_number_says_nothing() -> None:
    made = run(1, Scripted("a", lambda n: GOOD), similarity=lambda images, texts: np.array([np.nan]))
    assert made.captions[0].similarity is None and made.captions[0].refused == ""


def test_a_missing_frame_is_not_passed_over() -> None:
    moments = [CaptionMoment(frame_index=0, timestamp_ns=0, start_ns=0, end_ns=S)]
    rungs = [Rung(name="a", open=lambda: Scripted("a", lambda n: GOOD))]
    with pytest.raises(ValueError, match="expected 1, got 0"):
        write_captions(moments, [], rungs, similarity=None, **JUDGED)


# --- answers and documents -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  A hand\n holds   a cup. ", "A hand holds a cup."),
        ('"A hand holds a cup."', "A hand holds a cup."),
        ("<think>It might\nbe red.</think> A cup.", "A cup."),
        ("It might be red.</think> A cup.", "A cup."),
        ("<think>a</think> no <think>b</think> A cup.", "A cup."),
        ("<think>It goes on and on", ""),
        ("A cup \ud83d\x00\x1b and\x85a hand.", "A cup and a hand."),
        ('The word "cup"', 'The word "cup"'),
        ("", ""),
        ('"', '"'),
    ],
)
def test_clean_text(text: str, expected: str) -> None:
    assert clean_text(text) == expected


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("I'm sorry, but I can't assist with that.", True),
        ("I\u2019m unable to describe people.", True),
        ("I cannot see the image.", True),
        ("Unfortunately, I do not see a picture.", True),
        ("As an AI language model I have no eyes.", True),
        ("The wearer is sorry-looking and cannot reach the shelf.", False),
        ("Sorry-looking boots stand by the door.", False),
        ("Sorry, no.", True),
        ("I can see two hands peeling a potato.", False),
    ],
)
def test_refusals_in_words(text: str, refusal: bool) -> None:
    assert looks_like_refusal(text) == refusal


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (' "A hand holds\na knife." ', ("A hand holds a knife.", "")),
        ("<think>What is it?</think> A knife.", ("A knife.", "")),
        ("I'm sorry, I can't.", ("", "refusal: I'm sorry, I can't.")),
        (" \n ", ("", "empty answer: no text")),
        ("<think>It never ends", ("", "empty answer: no text")),
    ],
)
def test_answers_are_read(answer: str, expected: tuple[str, str]) -> None:
    assert read_answer(answer) == expected


@pytest.mark.parametrize(
    ("frame_count", "expected"),
    [(120, (0, 40, 80, 119)), (1, (0, 0, 0, 0)), (2, (0, 0, 1, 1)), (5, (0, 1, 3, 4))],
)
def test_frames_to_compare(frame_count: int, expected: tuple[int, ...]) -> None:
    assert compared_frames(frame_count) == expected
    with pytest.raises(ValueError, match="expected 1 or more, got 0"):
        compared_frames(0)


class Words:
    """Vectors along axes: a picture's is its level, a text's is its number of words."""

    info = BackendInfo(task="embeddings", backend="words", model="test")
    space = "words"
    embeds_text = True

    def embed_images(self, images: Sequence[Any]) -> Any:
        return np.eye(768, dtype=np.float32)[[int(image[0, 0, 0]) for image in images]]

    def embed_texts(self, texts: Sequence[str]) -> Any:
        return 0.5 * np.eye(768, dtype=np.float32)[[len(text.split()) for text in texts]]


def test_frames_are_compared_with_the_caption_of_their_stretch() -> None:
    # Six frames, a second apart, and stretches of two: three words, no words, four words.
    frames = {n: ClipFrame(n, n * S, np.full((2, 2, 3), 3 if n < 4 else 4, np.uint8)) for n in range(6)}
    told = [
        Caption(
            moment=CaptionMoment(
                frame_index=2 * n, timestamp_ns=2 * n * S, start_ns=2 * n * S, end_ns=2 * (n + 1) * S
            ),
            text=text,
            refused="" if text else "refusal",
            source="model",
            model="m",
            prompt="p",
            attempt=1,
        )
        for n, text in enumerate(("one two three", "", "one two three four"))
    ]
    found = compare_frames(Words(), frames, told, frame_count=6)
    assert found == FrameSimilarity(
        space="words", frame_index=(0, 2, 4, 5), text=(0.5, None, 0.5, 0.5), picture=(1.0, 0.0, 0.0)
    )
    document = captions_document(
        told, interval_s=2.0, prompts=(), usage={}, verdicts=[{}] * 3, frame_similarity=found
    )
    assert json.loads(json_document(document))["frame_similarity"] == {
        "space": "words",
        "frame_index": [0, 2, 4, 5],
        "text": [0.5, None, 0.5, 0.5],
        "picture": [1.0, 0.0, 0.0],
    }


def test_numbers_of_values_are_checked() -> None:
    with pytest.raises(ValueError, match="expected 4, 4 and 3 values, got 4, 3, 3"):
        FrameSimilarity(space="s", frame_index=(0, 1, 2, 3), text=(0.1,) * 3, picture=(0.1,) * 3)


def test_the_prompt_that_a_backend_names_is_recorded() -> None:
    made = run(1, Scripted("a", lambda n: CaptionAnswer(text=GOOD, prompt="plain")))
    assert [caption.prompt for caption in made.captions] == ["plain"]
    assert [prompt.name for prompt in shipped_prompts(["plain", "", "guide", "mine"])] == ["guide", "plain"]


@given(text=st.text(alphabet=st.characters()))
def test_any_text_becomes_a_line_that_files_take(text: str) -> None:
    line = one_line(text)
    assert line.encode().decode() == line == line.strip() and "  " not in line and line.isprintable()


def test_document() -> None:
    made = run(2, Scripted("a", lambda n: GOOD if n else refused("refusal: no")))
    verdicts = [{"answered": GateOutcome.FAILED}, {"answered": GateOutcome.PASSED}]
    document = captions_document(
        made.captions, interval_s=1.0, prompts=DEFAULT_PROMPTS[:1], usage={"requests": 2}, verdicts=verdicts
    )
    assert document["source"] == "model" and document["prompts"][0]["name"] == "guide"
    assert document["frame_similarity"] is None
    assert document["captions"][1] == {
        "time_s": 1.0,
        "timestamp_ns": S,
        "start_ns": S,
        "end_ns": 2 * S,
        "frame_index": 1,
        "text": GOOD,
        "source": "model",
        "model": "a",
        "prompt": "p0",
        "attempt": 1,
        "words": 21,
        "similarity": None,
        "refused": "",
        "verdicts": {"answered": "passed"},
    }
    assert json_document(document)


def test_the_default_prompt_is_the_guides() -> None:
    assert DEFAULT_PROMPTS[0].text.endswith("Be specific and concise (15-30 words).")
    assert len(DEFAULT_PROMPTS) == 3 and [prompt.wants_facts for prompt in DEFAULT_PROMPTS] == [
        False,
        False,
        True,
    ]


# --- the picture ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 5, 6, 7, 400])
def test_shown_captions_are_spread_over_the_clip(count: int) -> None:
    places = shown_places(count)
    assert len(places) == min(count, SHOWN) and all(0 <= place < count for place in places)
    if count > 1:
        assert places[0] == 0 and places[-1] == count - 1


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (720, 1280), (33, 17), (1, 1)])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_sentence_is_drawn_under_the_picture(width: int, height: int, count: int) -> None:
    pictures = [thumbnail(np.full((height, width, 3), 90, np.uint8))] * count
    blank, written = (
        cv2.imdecode(np.frombuffer(caption_sheet(pictures, [text] * count), np.uint8), cv2.IMREAD_GRAYSCALE)
        for text in ("", GOOD)
    )
    below = pictures[0].shape[0] + 4
    blank, written = (picture[below : below + 15, :390] for picture in (blank, written))
    assert (blank > 240).all() and (written < 100).any()


def test_a_sheet_of_endless_texts_and_noise_is_small() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), dtype=np.uint8)
    sheet = caption_sheet([thumbnail(noise)] * SHOWN, [GOOD * 9] * SHOWN)
    assert sheet.startswith(b"\xff\xd8") and len(sheet) <= 50_000
