"""What every detector of faces, text and plates must do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from skimage import data

from ego_assets.schema.detections import Detections, RegionDetector
from ego_assets.schema.errors import DeviceMemoryExhausted
from ego_assets_tests.checkpoints import small_backend
from resources.models.backends import BACKENDS

Image = npt.NDArray[np.uint8]

CASES = [(task, backend) for task in ("faces", "text", "plates") for backend in sorted(BACKENDS[task])]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(case))
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str, RegionDetector]:
    task, backend = request.param
    return task, backend, small_backend(task, backend, tmp_path_factory.mktemp("models"))


@pytest.fixture
def detector(case: tuple[str, str, RegionDetector]) -> RegionDetector:
    return case[2]


def pictures() -> list[Image]:
    """Of several sizes: something of everything, too small for anything, odd, black, and a crop that is no copy."""
    scene = np.full((180, 320, 3), 90, np.uint8)
    portrait = cv2.resize(cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR), (160, 160))
    scene[10:170, 150:310] = portrait
    scene[20:60, 20:120] = 0, 0, 255
    scene[100:120, 20:130] = 255
    cv2.putText(scene, "EXIT 27", (22, 117), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 2)
    dot, odd = np.full((1, 1, 3), 200, np.uint8), scene[:67, :91].copy()
    return [scene, dot, odd, np.zeros((90, 160, 3), np.uint8), scene[20:150, 100:300], scene[:, ::-1].copy()]


def assert_same(found: Detections, expected: Detections) -> None:
    """Equal but for the last bits, which depend on how many pictures shared a call."""
    assert len(found) == len(expected)
    assert found.boxes_xyxy == pytest.approx(expected.boxes_xyxy, abs=0.05)
    assert found.scores == pytest.approx(expected.scores, abs=1e-3)


def test_it_says_what_it_is(case: tuple[str, str, RegionDetector]) -> None:
    task, backend, detector = case
    assert isinstance(detector, RegionDetector)
    assert (detector.info.task, detector.info.backend) == (task, backend)
    assert detector.info.model and detector.info.licence
    assert len(detector.info.weights_sha256) == 64


def test_no_pictures_give_no_answers(detector: RegionDetector) -> None:
    assert detector.detect([]) == [] and detector.detect([], strict=True) == []


@pytest.mark.parametrize("strict", [False, True])
def test_boxes_lie_in_their_pictures(detector: RegionDetector, strict: bool) -> None:
    images = pictures()
    found = detector.detect(images, strict=strict)
    assert len(found) == len(images)
    for image, one in zip(images, found, strict=True):
        height, width = image.shape[:2]
        left, top, right, bottom = one.boxes_xyxy.T
        assert np.all((left >= 0) & (top >= 0) & (right <= width) & (bottom <= height))
        assert np.all((right > left) & (bottom > top))
        assert np.all((one.scores > 0) & (one.scores <= 1))


def test_a_picture_gets_the_same_answer_in_any_company(detector: RegionDetector) -> None:
    images = pictures()
    together = detector.detect(images)
    for image, found in zip(images, together, strict=True):
        assert_same(detector.detect([image])[0], found)
    backwards = detector.detect(images[::-1])
    for found, expected in zip(backwards[::-1], together, strict=True):
        assert_same(found, expected)


@pytest.mark.parametrize("room", [1, 2, 0])
def test_want_of_memory_loses_no_picture(
    case: tuple[str, str, RegionDetector], monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    task, backend, detector = case
    if not BACKENDS[task][backend].uses_gpu:
        pytest.skip("it runs on the CPU only")
    run = detector._predict if backend == "paddleocr" else detector._run  # type: ignore[attr-defined]
    sizes: list[int] = []

    def limited(pictures: Any, **options: Any) -> Any:
        sizes.append(len(pictures))
        if len(pictures) > room:
            raise RuntimeError("CUDA error: out of memory")
        return run(pictures, **options)

    images = [pictures()[0], pictures()[5], pictures()[0][:, ::-1].copy()]
    expected = detector.detect(images)
    monkeypatch.setattr(detector, run.__name__, limited)
    # The size that was found is kept for the process.
    monkeypatch.setattr(detector._batches, "_limit", 4)  # type: ignore[attr-defined]
    if not room:
        with pytest.raises(DeviceMemoryExhausted, match="One picture does not fit"):
            detector.detect(images)
        return
    for found, one in zip(detector.detect(images), expected, strict=True):
        assert_same(found, one)
    assert max(sizes) == 3 and sizes[-1] <= room


def test_the_same_call_gives_the_same_answer(detector: RegionDetector) -> None:
    images = pictures()
    first, second = detector.detect(images), detector.detect(images)
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a.boxes_xyxy, b.boxes_xyxy) and np.array_equal(a.scores, b.scores)


def test_strict_finds_no_less(detector: RegionDetector) -> None:
    images = pictures()
    for ordinary, strict in zip(detector.detect(images), detector.detect(images, strict=True), strict=True):
        assert len(strict) >= len(ordinary)


def test_pictures_stay_as_they_are(detector: RegionDetector) -> None:
    images = pictures()
    for image in images:
        image.flags.writeable = False
    detector.detect(images)
    assert all(np.array_equal(image, before) for image, before in zip(images, pictures(), strict=True))


def test_two_threads_do_not_disturb_each_other(detector: RegionDetector) -> None:
    images = pictures()
    expected = detector.detect(images)
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(detector.detect, [images] * 4):
            for one, other in zip(found, expected, strict=True):
                assert_same(one, other)


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((0, 8, 3), np.uint8)],
    ids=["grey", "float", "empty"],
)
def test_what_is_no_picture_is_refused(detector: RegionDetector, image: Image) -> None:
    with pytest.raises(ValueError, match="expected"):
        detector.detect([image])
