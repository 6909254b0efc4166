"""What every backend of task ``actions`` must do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest

from ego_assets.schema.actions import ActionRecognizer
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.hands import HandObjectTracks, HandSide, HandTrack
from ego_assets.schema.motion import CameraMotion
from ego_assets_tests.checkpoints import small_backend
from resources.models.backends import BACKENDS

Scores = npt.NDArray[np.float32]


@pytest.fixture(scope="module", params=sorted(BACKENDS["actions"]))
def recognizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ActionRecognizer:
    built: ActionRecognizer = small_backend("actions", request.param, tmp_path_factory.mktemp("models"))
    return built


def video_times(count: int) -> npt.NDArray[np.int64]:
    return np.arange(count, dtype=np.int64) * 40_000_000


def frames_for(
    recognizer: ActionRecognizer, count: int, size: tuple[int, int], *, black: bool = False
) -> list[ClipFrame]:
    """Frames at the rate that the backend wants; none where it wants none."""
    if recognizer.frames_per_second is None:
        return []
    step = max(1, round(25 / recognizer.frames_per_second))
    rng = np.random.default_rng(1)
    times = video_times(count)
    return [
        ClipFrame(
            index,
            int(times[index]),
            np.zeros((size[1], size[0], 3), np.uint8)
            if black
            else rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8),
        )
        for index in range(0, count, step)
    ]


def hands_on(count: int, size: tuple[int, int], *, visible: bool) -> HandObjectTracks:
    def track(side: HandSide) -> HandTrack:
        box = np.array([0.2, 0.5, 0.4, 0.9], np.float32) * np.array([*size, *size], np.float32)
        return HandTrack(
            side=side,
            visible=np.full(count, visible),
            boxes_xyxy=np.tile(box if visible else np.full(4, np.nan, np.float32), (count, 1)),
            scores=np.full(count, 0.9, np.float32),
            landmarks_xy=np.full((count, 21, 2), np.nan, np.float32),
            states=("grasp" if visible else None,) * count,
            state_scores=np.full(count, 0.9, np.float32),
            contact_boxes_xyxy=np.full((count, 4), np.nan, np.float32),
            contact_scores=np.zeros(count, np.float32),
        )

    return HandObjectTracks(
        frame_index=np.arange(count, dtype=np.int64),
        timestamps_ns=video_times(count),
        resolution=size,
        left=track("left"),
        right=track("right"),
        other_hands=np.zeros(count, np.int64),
    )


def score(
    recognizer: ActionRecognizer,
    *,
    count: int = 75,
    times_ns: npt.NDArray[np.int64] | None = None,
    size: tuple[int, int] = (321, 179),
    hands: HandObjectTracks | None = None,
    motion: CameraMotion | None = None,
    black: bool = False,
) -> Scores:
    if times_ns is None:
        times_ns = np.array([500_000_000, 1_500_000_000, 2_500_000_000], np.int64)
    if motion is None:
        steps = np.random.default_rng(2).normal(0, 1.5, (count, 2))
        motion = CameraMotion(
            positions_xy=steps.cumsum(axis=0),
            change=np.full(count, 0.02, np.float32),
            is_cut=np.zeros(count, bool),
        )
    return recognizer.score(
        times_ns,
        frames=frames_for(recognizer, count, size, black=black),
        hands=hands,
        motion=motion,
        timestamps_ns=video_times(count),
        resolution=size,
    )


def assert_probabilities(recognizer: ActionRecognizer, scores: Scores, steps: int) -> None:
    assert scores.dtype == np.float32 and scores.shape == (steps, len(recognizer.labels))
    assert np.isfinite(scores).all() and np.all((scores >= 0) & (scores <= 1))
    assert np.allclose(scores.sum(axis=1), 1, atol=1e-4)


def test_it_says_what_it_is(recognizer: ActionRecognizer) -> None:
    assert recognizer.info.task == "actions" and recognizer.info.backend in BACKENDS["actions"]
    assert recognizer.info.model
    assert recognizer.labels and len(set(recognizer.labels)) == len(recognizer.labels)
    assert recognizer.frames_per_second is None or recognizer.frames_per_second > 0


@pytest.mark.parametrize("size", [(321, 179), (180, 320), (33, 35)])
def test_probabilities_at_odd_sizes(recognizer: ActionRecognizer, size: tuple[int, int]) -> None:
    assert_probabilities(recognizer, score(recognizer, size=size), 3)


@pytest.mark.parametrize("visible", [True, False])
def test_probabilities_with_hands(recognizer: ActionRecognizer, visible: bool) -> None:
    hands = hands_on(75, (321, 179), visible=visible)
    assert_probabilities(recognizer, score(recognizer, hands=hands), 3)


def test_no_times_give_no_rows(recognizer: ActionRecognizer) -> None:
    assert_probabilities(recognizer, score(recognizer, times_ns=np.zeros(0, np.int64)), 0)


def test_one_frame(recognizer: ActionRecognizer) -> None:
    times = np.array([20_000_000], np.int64)
    assert_probabilities(
        recognizer, score(recognizer, count=1, times_ns=times, motion=CameraMotion.still(1)), 1
    )
    hands = hands_on(1, (321, 179), visible=True)
    assert_probabilities(recognizer, score(recognizer, count=1, times_ns=times, hands=hands), 1)


def test_black_frames_that_never_change(recognizer: ActionRecognizer) -> None:
    assert_probabilities(recognizer, score(recognizer, motion=CameraMotion.still(75), black=True), 3)


def test_two_calls_give_the_same_and_nothing_is_remembered(recognizer: ActionRecognizer) -> None:
    first = score(recognizer)
    score(recognizer, hands=hands_on(75, (321, 179), visible=True), motion=CameraMotion.still(75))
    assert np.array_equal(score(recognizer), first)


def test_nothing_that_was_given_is_changed(recognizer: ActionRecognizer) -> None:
    times = np.array([500_000_000, 1_500_000_000], np.int64)
    score(recognizer, times_ns=times)
    assert times.tolist() == [500_000_000, 1_500_000_000]


def test_two_threads_get_what_one_would(recognizer: ActionRecognizer) -> None:
    alone = score(recognizer)
    with ThreadPoolExecutor(2) as threads:
        for found in threads.map(lambda _: score(recognizer), range(3)):
            assert np.array_equal(found, alone)


def test_pictures_of_one_pixel(recognizer: ActionRecognizer) -> None:
    assert_probabilities(recognizer, score(recognizer, size=(1, 1)), 3)


def test_times_beyond_the_frames_are_answered(recognizer: ActionRecognizer) -> None:
    times = np.array([100_000_000, 2_900_000_000, 9_000_000_000], np.int64)
    assert_probabilities(recognizer, score(recognizer, times_ns=times), 3)
