from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from ego_assets.privacy.coverage import covered_share
from ego_assets.privacy.redaction import expand_boxes
from resources.models.packages import is_installed
from resources.models.text import PPOCRTextDetector, TextLines, text_session

pytestmark = pytest.mark.skipif(not is_installed("rapidocr"), reason="needs the extra `local`")

Image = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def text() -> PPOCRTextDetector:
    return PPOCRTextDetector(threads=1)


def words(*, angle_deg: float) -> tuple[Image, npt.NDArray[np.float32]]:
    """A turned line of text on grey, and the upright box of its ink."""
    ink = np.zeros((320, 480), np.uint8)
    cv2.putText(ink, "Jane Example", (60, 170), cv2.FONT_HERSHEY_SIMPLEX, 1.6, (255,), 3)
    turn = cv2.getRotationMatrix2D((240, 160), angle_deg, 1)
    ink = np.asarray(cv2.warpAffine(ink, turn, (480, 320)), np.uint8)
    rows, columns = np.nonzero(ink > 100)
    box = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32)
    grey = np.rint(225 - 200 * (ink / 255.0)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2), box


@pytest.mark.parametrize("angle_deg", [0, 12, -25])
def test_slanted_words_are_covered_to_their_corners(text: PPOCRTextDetector, angle_deg: float) -> None:
    image, truth = words(angle_deg=angle_deg)
    (found,) = text.detect([image])
    redaction = expand_boxes(found.boxes_xyxy, margin=0.2, width=480, height=320)
    assert covered_share(truth, redaction).min() >= 0.9


def test_strict_keeps_what_is_found_and_takes_weaker_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = PPOCRTextDetector(threads=1)
    probability = np.zeros((320, 320), np.float32)
    probability[20:28, 20:120] = 0.9
    probability[60:68, 20:120] = 0.19

    class Network:
        def run(self, names: Any, feed: Any) -> list[npt.NDArray[np.float32]]:
            height, width = next(iter(feed.values())).shape[2:]
            same = (height, width) == probability.shape
            return [probability[None, None] if same else np.zeros((1, 1, height, width), np.float32)]

    monkeypatch.setattr(detector, "_session", Network())
    image = np.zeros((320, 320, 3), np.uint8)
    (ordinary,), (strict,) = detector.detect([image]), detector.detect([image], strict=True)
    assert len(ordinary) == 1 and len(strict) == 2
    assert ordinary.boxes_xyxy[0].tolist() in strict.boxes_xyxy.tolist()


def test_a_large_line_that_only_the_coarse_look_finds_is_added_once(
    text: PPOCRTextDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, sure = [100.0, 100.0, 400.0, 200.0], 0.8

    def lines(found: list[list[float]], score: float) -> TextLines:
        boxes = np.array(found, np.float32).reshape(-1, 4)
        return TextLines(boxes, np.full(len(boxes), score, np.float32), boxes[:, 3] - boxes[:, 1])

    def looks(fine: list[list[float]], coarse_score: float) -> Any:
        return lambda image, *, max_side, strict: (
            lines(fine, 0.5) if max_side == 640 else lines([large], coarse_score)
        )

    image = np.zeros((360, 640, 3), np.uint8)
    monkeypatch.setattr(text, "_lines", looks([], sure))
    assert text.detect([image])[0].boxes_xyxy.tolist() == [large]
    monkeypatch.setattr(text, "_lines", looks([], 0.6))
    assert len(text.detect([image])[0]) == 0
    monkeypatch.setattr(text, "_lines", looks([large], sure))
    assert len(text.detect([image])[0]) == 1


def test_the_network_is_loaded_once() -> None:
    assert text_session(1) is text_session(1)


def test_pictures_are_examined_in_the_size_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = PPOCRTextDetector(max_side=1920, threads=1)
    sides: list[int] = []

    def lines(image: Image, *, max_side: int, strict: bool) -> TextLines:
        sides.append(max_side)
        return TextLines(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.float32))

    monkeypatch.setattr(detector, "_lines", lines)
    detector.detect([np.zeros((360, 640, 3), np.uint8), np.zeros((1440, 2560, 3), np.uint8)])
    assert sides == [640, 256, 1920, 384]


@pytest.mark.parametrize(
    "options", [{"strict_score_threshold": 0.5}, {"strict_score_threshold": 0.0}, {"pixel_threshold": 1.0}]
)
def test_thresholds_out_of_order_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        PPOCRTextDetector(**options)
