"""What every backend of the task ``hands`` must do, whatever runs behind it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ego_assets.schema.detections import BackendInfo
from ego_assets.schema.errors import BackendUnavailable
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.hands import HandDetections, HandDetector
from ego_assets.synth.scene import Scene
from ego_assets.synth.spec import SceneSpec
from ego_assets_tests.checkpoints import small_backend
from resources.models.backends import BACKENDS
from resources.profiles import BackendConfig, Profile, build_backend

TASK = "hands"
Image = npt.NDArray[np.uint8]


@pytest.fixture(scope="module", params=sorted(BACKENDS[TASK]))
def detector(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HandDetector]:
    backend: HandDetector = small_backend(TASK, request.param, tmp_path_factory.mktemp(request.param))
    assert isinstance(backend, HandDetector) and backend.info.backend == request.param
    torch = sys.modules.get("torch")
    if torch is None:
        yield backend
        return
    # Threads that wait for one another cost more than small pictures gain from them.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield backend
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def scene() -> list[Image]:
    """Two rendered hands over a table."""
    spec = SceneSpec(seed=5, width=640, height=360, duration_s=5.0, camera_motion="still")
    rendered = Scene(spec)
    return [rendered.frame(3.0 + number / 10, 90 + 3 * number).rendering.image for number in range(5)]


def frames(images: Sequence[Image]) -> Iterator[ClipFrame]:
    return (ClipFrame(3 * n, n * 100_000_000, image) for n, image in enumerate(images))


def noise(width: int, height: int) -> Image:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def black() -> Image:
    return np.zeros((180, 320, 3), np.uint8)


def check(found: HandDetections, width: int, height: int) -> None:
    for values in (
        found.boxes_xyxy,
        found.scores,
        found.right_scores,
        found.landmarks_xy,
        found.contact_scores,
        found.contact_boxes_xyxy,
    ):
        assert values.dtype == np.float32
    boxes = found.boxes_xyxy
    assert np.isfinite(boxes).all() and (boxes[:, :2] <= boxes[:, 2:]).all()
    assert (boxes >= 0).all() and (boxes <= np.array([width, height, width, height])).all()
    assert ((found.scores >= 0) & (found.scores <= 1)).all()
    assert (np.diff(found.scores) <= 0).all(), "surest first"
    for scores in (found.right_scores, found.contact_scores):
        known = scores[np.isfinite(scores)]
        assert ((known >= 0) & (known <= 1)).all()
    for each in found.landmarks_xy:
        assert np.isfinite(each).all() or np.isnan(each).all()
        if np.isfinite(each).all():
            inside = (each >= 0) & (each <= (width, height))
            assert inside.all(axis=1).mean() >= 0.5, "most of a hand is in the picture"
    for each in found.contact_boxes_xyxy:
        assert np.isfinite(each).all() or np.isnan(each).all()


def equal(a: Sequence[HandDetections], b: Sequence[HandDetections]) -> bool:
    names = (
        "boxes_xyxy",
        "scores",
        "right_scores",
        "landmarks_xy",
        "contact_scores",
        "contact_boxes_xyxy",
    )
    return len(a) == len(b) and all(
        np.array_equal(getattr(x, name), getattr(y, name), equal_nan=True)
        for x, y in zip(a, b, strict=True)
        for name in names
    )


def test_says_what_it_is(detector: HandDetector) -> None:
    info = detector.info
    assert isinstance(info, BackendInfo) and info.task == TASK and info.model and info.licence


def test_one_result_per_frame_in_pixels_of_the_frame(detector: HandDetector, scene: list[Image]) -> None:
    found = list(detector.detect(frames(scene)))
    assert len(found) == len(scene)
    for each in found:
        check(each, 640, 360)


def test_answers_while_frames_come_in(detector: HandDetector, scene: list[Image]) -> None:
    """A stream is taken in pieces, so that a long clip needs no more memory than a short one."""
    taken = 0

    def endless() -> Iterator[ClipFrame]:
        nonlocal taken
        while True:
            taken += 1
            yield ClipFrame(taken, taken * 100_000_000, scene[0])

    stream = detector.detect(endless())
    next(stream)
    assert taken <= 128


def test_no_frames(detector: HandDetector) -> None:
    assert list(detector.detect(iter(()))) == []


@pytest.mark.parametrize(("width", "height"), [(321, 179), (179, 321), (64, 48), (33, 33), (17, 401)])
def test_odd_sizes(detector: HandDetector, width: int, height: int) -> None:
    found = list(detector.detect(frames([noise(width, height), noise(width, height)])))
    assert len(found) == 2
    for each in found:
        check(each, width, height)


def test_one_frame(detector: HandDetector, scene: list[Image]) -> None:
    (found,) = detector.detect(frames(scene[:1]))
    check(found, 640, 360)


def test_black_frames_show_no_hands(detector: HandDetector) -> None:
    assert [len(each) for each in detector.detect(frames([black()] * 3))] == [0, 0, 0]


def test_equal_input_gives_equal_results(detector: HandDetector, scene: list[Image]) -> None:
    assert equal(list(detector.detect(frames(scene))), list(detector.detect(frames(scene))))


def test_nothing_is_remembered_between_calls(detector: HandDetector, scene: list[Image]) -> None:
    fresh = list(detector.detect(frames(scene[:1])))
    list(detector.detect(frames([scene[-1], noise(640, 360)])))
    unfinished = detector.detect(frames(scene))
    next(unfinished)
    assert equal(list(detector.detect(frames(scene[:1]))), fresh)
    assert [len(each) for each in detector.detect(frames([black()]))] == [0]


def test_a_stream_that_breaks_off_passes_its_error_on(detector: HandDetector, scene: list[Image]) -> None:
    def breaking() -> Iterator[ClipFrame]:
        yield ClipFrame(0, 0, scene[0])
        raise OSError("the video ends here")

    with pytest.raises(OSError, match="the video ends here"):
        list(detector.detect(breaking()))


def test_pictures_of_another_kind_are_refused(detector: HandDetector) -> None:
    wrong: Any = np.zeros((20, 20), np.uint8)
    with pytest.raises(ValueError, match="expected uint8"):
        list(detector.detect(frames([wrong])))


# --- MediaPipe in particular ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mediapipe() -> HandDetector:
    profile = Profile(name="t", backends={TASK: BackendConfig(backend="mediapipe_hands")})
    try:
        backend: HandDetector = build_backend(profile, TASK)
    except BackendUnavailable as error:
        pytest.skip(str(error))
    return backend


def test_mediapipe_finds_hands_and_starts_silently(
    mediapipe: HandDetector, scene: list[Image], capfd: pytest.CaptureFixture[str]
) -> None:
    found = list(mediapipe.detect(frames(scene)))
    assert max(len(each) for each in found) >= 1
    heard = capfd.readouterr()
    assert heard.out == "" and heard.err == ""


def test_mediapipe_sides_are_those_of_the_wearer(mediapipe: HandDetector, scene: list[Image]) -> None:
    """A mirrored picture shows the other hand; MediaPipe itself would say so the other way round."""
    mirrored = [np.ascontiguousarray(image[:, ::-1]) for image in scene]
    for images, right_is_on_the_right in ((scene, True), (mirrored, True)):
        votes = [
            (points[:, 0].mean() > 320) == (float(side) > 0.5)
            for each in mediapipe.detect(frames(images))
            for points, side in zip(each.landmarks_xy, each.right_scores, strict=True)
        ]
        assert votes and (np.mean(votes) > 0.5) == right_is_on_the_right


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_hands": 0},
        {"max_side": 0},
        {"model_complexity": 2},
        {"detection_confidence": 0.0},
        {"tracking_confidence": 1.5},
    ],
)
def test_mediapipe_refuses_settings_that_cannot_be(wrong: dict[str, Any]) -> None:
    from resources.models.hands import MediaPipeHandDetector

    with pytest.raises(ValueError, match=next(iter(wrong))):
        MediaPipeHandDetector(**wrong)


def test_mediapipe_gives_no_more_hands_than_asked_for(mediapipe: HandDetector, scene: list[Image]) -> None:
    from resources.models.hands import MediaPipeHandDetector

    found = list(MediaPipeHandDetector(max_hands=1, detection_confidence=0.2).detect(frames(scene)))
    assert max(len(each) for each in found) == 1
