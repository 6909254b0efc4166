"""RetinaFace and EgoBlur, on small weights of the real architectures, and on the real weights where they are."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from skimage import data

from ego_assets.schema.detections import Detections, RegionDetector, iou_matrix
from ego_assets.schema.errors import BackendUnavailable
from ego_assets_tests.checkpoints import any_digest
from ego_assets_tests.checkpoints.egoblur import write_egoblur
from ego_assets_tests.checkpoints.faces import answer_alike, write_retinaface_resnet50
from resources.models.registry import EGOBLUR_FACES, EGOBLUR_PLATES, RETINAFACE_MOBILENET, RETINAFACE_RESNET50

torch = pytest.importorskip("torch", reason="PyTorch belongs to the extra reference")

TESTDATA = Path(os.environ.get("EGO_TESTDATA", Path(__file__).parents[4] / "shared" / "testdata"))
WEIGHTS = TESTDATA / "weights" / "retinaface_1mb" / RETINAFACE_MOBILENET.file
ROOT = Path(__file__).resolve().parents[3]

needs_testdata = pytest.mark.skipif(
    not WEIGHTS.is_file(), reason=f"no real weights in {TESTDATA} (EGO_TESTDATA)"
)

Image = npt.NDArray[np.uint8]


# --- RetinaFace ResNet-50 -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Weights of the real architecture that see a face of 64 pixels in every cell of 16."""
    pytest.importorskip("retinaface.network", reason="retinaface-pytorch belongs to the extra reference")
    folder = tmp_path_factory.mktemp("resnet")
    path = folder / RETINAFACE_RESNET50.file
    write_retinaface_resnet50(path, level=1, prior=0)
    with any_digest():
        yield folder
    # A hundred megabytes, which nobody needs afterwards.
    path.unlink()


def test_the_published_network_is_loaded_run_and_decoded(resnet_models: Path) -> None:
    from resources.models.retinaface import RetinaFaceResNet50Detector

    detector = RetinaFaceResNet50Detector(
        models_dir=resnet_models, device="cpu", max_side=64, large_face_side=0, nms_iou=0.99
    )
    assert isinstance(detector, RegionDetector)
    black = np.zeros((64, 128, 3), np.uint8)
    wide, alike, small = detector.detect([black, black + 200, black[:32, :32].copy()])
    # At half the size: 2 rows of 4 cells of 16 pixels, each with a face of 64 pixels; cut at the edges, both rows are
    # the same. The first centre is at 8, so the first face ends at 8 + 32 there and at 80 in the picture.
    assert sorted(wide.boxes_xyxy.tolist()) == [
        [0, 0, 80, 64],
        [0, 0, 112, 64],
        [16, 0, 128, 64],
        [48, 0, 128, 64],
    ]
    assert wide.scores == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-5)
    assert np.array_equal(alike.boxes_xyxy, wide.boxes_xyxy)
    assert len(small) >= 1
    digest = hashlib.sha256((resnet_models / RETINAFACE_RESNET50.file).read_bytes()).hexdigest()
    assert detector.info.weights_sha256 == digest
    assert detector.detect([]) == []


def test_large_faces_get_a_second_look(resnet_models: Path) -> None:
    from resources.models.retinaface import RetinaFaceResNet50Detector

    image = np.zeros((256, 256, 3), np.uint8)
    widths = {}
    for side in (0, 64):
        detector = RetinaFaceResNet50Detector(
            models_dir=resnet_models, device="cpu", max_side=256, large_face_side=side, nms_iou=0.99
        )
        found = detector.detect([image])[0].boxes_xyxy
        widths[side] = (found[:, 2] - found[:, 0]).max()
    # 64 pixels of a picture at its size, and at a quarter of it, where some are cut at the edge.
    assert widths[0] == 64 and widths[64] > 150


def test_an_answer_that_is_no_number_is_an_error_and_not_a_picture_without_faces(
    resnet_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resources.models.retinaface import RetinaFaceResNet50Detector

    detector = RetinaFaceResNet50Detector(models_dir=resnet_models, device="cpu", max_side=32)
    with torch.no_grad():
        detector._held.network.ClassHead[0].conv1x1.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="finite"):
        detector.detect([np.zeros((32, 32, 3), np.uint8)])


@pytest.fixture(scope="module")
def small_faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MobileNet weights that see a face of 10 pixels in every cell of 8."""
    from resources.models.retinaface_network import RetinaFaceMobileNet

    state = RetinaFaceMobileNet().state_dict()
    answer_alike(state, level=0, prior=0)
    folder = tmp_path_factory.mktemp("mobilenet")
    torch.save(state, folder / RETINAFACE_MOBILENET.file)
    return folder


def small_faces_detector(models_dir: Path, **settings: Any) -> Any:
    from resources.models.retinaface import RetinaFaceMobileNetDetector

    with any_digest():
        return RetinaFaceMobileNetDetector(
            models_dir=models_dir, device="cpu", large_face_side=0, nms_iou=0.99, **settings
        )


def test_boxes_are_stretched_back_in_each_direction_by_its_own_scale(small_faces: Path) -> None:
    detector = small_faces_detector(small_faces, max_side=96)
    # The network looks at 96 x 32 pixels, in cells of 8.
    (found,) = detector.detect([np.zeros((40, 100, 3), np.uint8)])
    expected = [
        [
            max(0, x - 5) * 100 / 96,
            max(0, y - 5) * 40 / 32,
            min(96, x + 5) * 100 / 96,
            min(32, y + 5) * 40 / 32,
        ]
        for x in range(4, 96, 8)
        for y in range(4, 32, 8)
    ]
    assert sorted(found.boxes_xyxy.tolist()) == [pytest.approx(box, abs=0.01) for box in expected]


def test_the_mobilenet_subtracts_the_means_of_its_training_in_bgr(small_faces: Path) -> None:
    detector = small_faces_detector(small_faces, max_side=64)
    seen: list[Any] = []
    hook = detector._held.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    try:
        detector.detect([np.full((64, 64, 3), (104, 117, 123), np.uint8)])
    finally:
        hook.remove()
    assert seen[0].shape == (1, 3, 64, 64) and not seen[0].any()


# --- weights ------------------------------------------------------------------------------------------


def small_network() -> Any:
    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))


def test_weights_are_taken_from_a_zip_and_with_the_prefix_of_several_gpus(tmp_path: Path) -> None:
    from resources.models.torch_weights import load_weights

    published, loaded = small_network(), small_network()
    torch.save(
        {f"module.{name}": value for name, value in published.state_dict().items()}, tmp_path / "net.pth"
    )
    with zipfile.ZipFile(tmp_path / "net.zip", "w") as archive:
        archive.write(tmp_path / "net.pth", "weights.pth")
    for file in ("net.pth", "net.zip"):
        loaded = small_network()
        load_weights(loaded, tmp_path / file)
        assert torch.equal(loaded[0].weight, published[0].weight)


@pytest.mark.parametrize("file", ["net.pth", "net.zip"])
def test_a_damaged_archive_is_refused_and_does_not_pass_for_a_bad_answer(tmp_path: Path, file: str) -> None:
    from resources.models.torch_weights import load_weights

    torch.save(small_network().state_dict(), tmp_path / "net.pth")
    with zipfile.ZipFile(tmp_path / "net.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "net.pth", "weights.pth")
    content = bytearray((tmp_path / file).read_bytes())
    # The list of the archive of PyTorch; the packed file of the other one.
    content[content.rindex(b"PK\x01\x02") if file == "net.pth" else len(content) // 2] ^= 0xFF
    (tmp_path / file).write_bytes(content)
    with pytest.raises(BackendUnavailable, match=f"{file} does not hold weights that PyTorch can read"):
        load_weights(small_network(), tmp_path / file)


def test_a_parameter_too_few_or_too_many_is_refused(tmp_path: Path) -> None:
    from resources.models.torch_weights import load_weights

    state = small_network().state_dict()
    torch.save({**state, "2.weight": torch.zeros(1)}, tmp_path / "more.pth")
    del state["0.bias"]
    torch.save(state, tmp_path / "less.pth")
    for file, parameter in (("more.pth", "2.weight"), ("less.pth", "0.bias")):
        with pytest.raises(
            BackendUnavailable, match=rf"(?s)does not hold the weights of Sequential.*{parameter}"
        ):
            load_weights(small_network(), tmp_path / file)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    from resources.models.torch_weights import load_weights

    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"0.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(BackendUnavailable, match="holds more than tensors") as caught:
        load_weights(small_network(), tmp_path / "trap.pth")
    assert "weights_only" not in str(caught.value), "PyTorch's advice is to let the file run its code"
    assert not (tmp_path / "sprung").exists()


def test_a_device_that_is_not_there_says_so() -> None:
    from resources.models.torch_device import torch_device

    assert torch_device("auto").type in ("cpu", "cuda")
    with pytest.raises(BackendUnavailable, match=r"PyTorch sees [0-9]+ CUDA device"):
        torch_device("cuda:99")
    # PyTorch knows some of these; nobody tried them, and `meta` computes nothing.
    for name in ("quantum", "mps", "meta", "cuda:", "cpu:0", ""):
        with pytest.raises(ValueError, match="expected auto, cpu"):
            torch_device(name)


# --- RetinaFace MobileNet 0.25 with its real weights ---------------------------------------------------


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from resources.models.retinaface import RetinaFaceMobileNetDetector

    folder = tmp_path_factory.mktemp("weights")
    shutil.copy(WEIGHTS, folder)
    return RetinaFaceMobileNetDetector(models_dir=folder, device="cpu")


@pytest.mark.testdata
@needs_testdata
@pytest.mark.parametrize("scale", [0.25, 1.0, 2.5])
def test_the_real_weights_find_the_portrait_where_it_is(mobilenet: Any, scale: float) -> None:
    portrait = cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR)
    image = cv2.resize(portrait, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    (found,) = mobilenet.detect([image])
    truth = np.array([[182, 59, 270, 177]], np.float32) * scale
    assert iou_matrix(found.boxes_xyxy[:1], truth)[0, 0] > 0.75
    assert found.scores[0] > 0.9


@pytest.mark.testdata
@needs_testdata
def test_the_real_weights_cover_the_labelled_faces(mobilenet: Any) -> None:
    folder = TESTDATA / "privacy_faces_plates"
    seen = 0
    for labels in (folder / "mmpose_wflw" / "test_wflw.json", folder / "mmpose_300w" / "test_300w.json"):
        content = json.loads(labels.read_text())
        names = {image["id"]: image["file_name"] for image in content["images"]}
        for label in content["annotations"]:
            image = cv2.imread(str(labels.parent / names[label["image_id"]]))
            landmarks = np.array(label["keypoints"], np.float32).reshape(-1, 3)[:, :2]
            truth = np.concatenate([landmarks.min(axis=0), landmarks.max(axis=0)])[None]
            (found,) = mobilenet.detect([image])
            assert iou_matrix(found.boxes_xyxy, truth).max(initial=0) > 0.5, names[label["image_id"]]
            seen += 1
    assert seen >= 5


@pytest.mark.testdata
@needs_testdata
def test_a_batch_gives_the_same_as_one_by_one(mobilenet: Any) -> None:
    portrait = cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR)
    images = [portrait, portrait[:256, :384].copy(), portrait[:, ::-1].copy()]
    for image, together in zip(images, mobilenet.detect(images), strict=True):
        (alone,) = mobilenet.detect([image])
        assert together.boxes_xyxy == pytest.approx(alone.boxes_xyxy, abs=0.01)


@pytest.mark.testdata
@needs_testdata
def test_strict_finds_more(mobilenet: Any) -> None:
    image = cv2.imread(
        str(TESTDATA / "privacy_faces_plates" / "mmpose_wflw" / "7_Cheering_Cheering_7_16.jpg")
    )
    (normal,), (strict,) = mobilenet.detect([image]), mobilenet.detect([image], strict=True)
    assert len(strict) > len(normal) and strict.scores.min() < 0.3 <= normal.scores.min()


# --- EgoBlur ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def egoblur_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both models, saved by another process, so that their classes are unknown to this one, as with the real files."""
    folder = tmp_path_factory.mktemp("egoblur")
    write_egoblur(folder / EGOBLUR_FACES.file)
    shutil.copy(folder / EGOBLUR_FACES.file, folder / EGOBLUR_PLATES.file)
    return folder


def scene() -> Image:
    image = np.zeros((120, 160, 3), np.uint8)
    image[30:60, 40:80, 2] = 255
    image[80:100, 100:140, 0] = 100
    return image


def boxes(found: Detections) -> list[list[float]]:
    return [[round(side) for side in box] for box in found.boxes_xyxy.tolist()]


def test_egoblur_tells_faces_from_plates(egoblur_models: Path) -> None:
    from resources.models.egoblur import EgoBlurFaceDetector, EgoBlurPlateDetector

    faces = EgoBlurFaceDetector(models_dir=egoblur_models, device="cpu", longer_side=320)
    plates = EgoBlurPlateDetector(models_dir=egoblur_models, device="cpu", longer_side=320)
    assert isinstance(faces, RegionDetector) and isinstance(plates, RegionDetector)
    assert [boxes(found) for found in faces.detect([scene()])] == [[[40, 30, 80, 60]]]
    (found,) = plates.detect([scene()])
    assert boxes(found) == [[100, 80, 140, 100]]
    assert found.scores.tolist() == [pytest.approx(100 / 255)]
    digest = hashlib.sha256((egoblur_models / EGOBLUR_FACES.file).read_bytes()).hexdigest()
    assert (faces.info.task, plates.info.task, faces.info.weights_sha256) == ("faces", "plates", digest)


def test_egoblur_takes_pictures_of_several_sizes_and_none(egoblur_models: Path) -> None:
    from resources.models.egoblur import EgoBlurFaceDetector

    detector = EgoBlurFaceDetector(models_dir=egoblur_models, device="cpu", longer_side=320, batch_size=2)
    images = [scene(), np.zeros((120, 160, 3), np.uint8), scene()[:, :100].copy(), scene()]
    found = [boxes(one) for one in detector.detect(images)]
    assert (found[0], found[1], found[3]) == ([[40, 30, 80, 60]], [], [[40, 30, 80, 60]])
    # 100 pixels become 267, and a border of one pixel is smeared over two.
    assert found[2][0] == pytest.approx([40, 30, 80, 60], abs=1)
    assert detector.detect([]) == []


def test_egoblur_stretches_boxes_back_in_each_direction_by_its_own_scale(
    egoblur_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resources.models.egoblur import EgoBlurFaceDetector

    detector = EgoBlurFaceDetector(models_dir=egoblur_models, device="cpu", longer_side=320)
    shapes: list[tuple[int, ...]] = []

    def run(pictures: Any) -> Any:
        shapes.extend(picture.shape for picture in pictures)
        return [(np.array([[16, 0, 32, 1]], np.float32), np.array([0.9], np.float32), np.array([0]))]

    monkeypatch.setattr(detector, "_run", run)
    # 5 rows become 1.6, which are 2.
    (found,) = detector.detect([np.zeros((5, 1000, 3), np.uint8)])
    assert shapes == [(3, 2, 320)] and found.boxes_xyxy.tolist() == [[50, 0, 100, 2.5]]


def test_egoblur_strict_has_its_own_threshold(egoblur_models: Path) -> None:
    from resources.models.egoblur import EgoBlurPlateDetector

    detector = EgoBlurPlateDetector(
        models_dir=egoblur_models, device="cpu", longer_side=320, score_threshold=0.5
    )
    assert [len(detector.detect([scene()], strict=strict)[0]) for strict in (False, True)] == [0, 1]


def test_a_scripted_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    from resources.models.egoblur import EgoBlurFaceDetector

    torch.jit.script(torch.nn.ReLU()).save(str(tmp_path / EGOBLUR_FACES.file))
    with pytest.raises(BackendUnavailable, match="is no EgoBlur Gen2 model"):
        EgoBlurFaceDetector(models_dir=tmp_path, device="cpu")
    (tmp_path / EGOBLUR_FACES.file).write_bytes(b"garbage")
    with pytest.raises(BackendUnavailable, match="is no EgoBlur Gen2 model"):
        EgoBlurFaceDetector(models_dir=tmp_path, device="cpu")
