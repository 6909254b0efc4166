from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from ego_assets.privacy.coverage import covered_share
from ego_assets.privacy.redaction import expand_boxes
from ego_assets.schema.detections import Detections, RegionDetector
from resources.models.packages import is_installed
from resources.models.plates import PlateDetector, plates_among_lines
from resources.models.text import text_session

pytestmark = pytest.mark.skipif(not is_installed("rapidocr"), reason="needs the extra `local`")

TESTDATA = Path(os.environ.get("EGO_TESTDATA", Path(__file__).parents[4] / "shared" / "testdata"))
US = TESTDATA / "privacy_faces_plates" / "openalpr_us"


@pytest.fixture(scope="module")
def plates() -> PlateDetector:
    return PlateDetector(threads=1)


def test_the_detector_implements_the_protocol_and_shares_the_text_network(plates: PlateDetector) -> None:
    assert isinstance(plates, RegionDetector)
    assert plates.info.task == "plates"
    assert plates.detect([]) == []
    assert plates._text._session is text_session(1)


@pytest.mark.parametrize("strict", [False, True])
def test_a_plate_is_covered_to_its_border(plates: PlateDetector, strict: bool) -> None:
    image = np.full((400, 640, 3), 70, np.uint8)
    truth = np.array([[240, 180, 400, 230]], np.float32)
    cv2.rectangle(image, (240, 180), (400, 230), (235, 235, 235), -1)
    cv2.putText(image, "KX 4821", (252, 217), cv2.FONT_HERSHEY_SIMPLEX, 1.05, (20, 20, 20), 3)
    (found,) = plates.detect([image], strict=strict)
    redaction = expand_boxes(found.boxes_xyxy, margin=0.2, width=640, height=400)
    assert covered_share(truth, redaction).min() >= 0.9
    assert (redaction[:, 2:] - redaction[:, :2]).prod(axis=1).sum() < 5 * 160 * 50


def test_only_lines_of_a_plates_shape_are_taken() -> None:
    line, tower, plate, poster = [0, 0, 500, 20], [0, 30, 20, 90], [100, 100, 200, 130], [0, 150, 600, 380]
    lines = Detections(
        np.array([line, tower, plate, poster], np.float32), np.array([0.9, 0.9, 0.7, 0.9], np.float32)
    )
    found = plates_among_lines(lines, width=640, height=400)
    assert found.scores.tolist() == [pytest.approx(0.7)]
    left, top, right, bottom = found.boxes_xyxy[0]
    assert left < 100 and top < 100 and right > 200 and bottom > 130


def test_grown_boxes_stay_inside_the_picture() -> None:
    lines = Detections(np.array([[0, 0, 100, 40], [560, 370, 640, 400]], np.float32), np.ones(2, np.float32))
    boxes = plates_among_lines(lines, width=640, height=400).boxes_xyxy
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 640 and boxes[:, 3].max() <= 400
    assert len(plates_among_lines(Detections.empty(), width=640, height=400)) == 0


@pytest.mark.testdata
@pytest.mark.skipif(not US.is_dir(), reason=f"no photographs in {US} (EGO_TESTDATA)")
@pytest.mark.parametrize("name", ["car5", "car19"])
def test_plates_in_photographs_are_covered(plates: PlateDetector, name: str) -> None:
    image = cv2.imread(str(US / f"{name}.jpg"))
    left, top, width, height = (float(value) for value in (US / f"{name}.txt").read_text().split()[1:5])
    (found,) = plates.detect([image])
    redaction = expand_boxes(found.boxes_xyxy, margin=0.2, width=image.shape[1], height=image.shape[0])
    truth = np.array([[left, top, left + width, top + height]], np.float32)
    assert covered_share(truth, redaction).min() >= 0.9
