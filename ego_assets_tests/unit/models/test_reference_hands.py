"""The 100DOH detector on constructed weights of its true size, and what it makes of published files.

`ego_assets_tests/checkpoints/hands.py` says what the constructed weights see. The published weights were not at hand:
names and shapes are those that the public code makes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ego_assets.schema.errors import BackendUnavailable
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.hands import HandDetections, HandDetector
from ego_assets_tests.checkpoints import any_digest, nothing_loaded
from ego_assets_tests.checkpoints.hands import (
    HAND_SHARE,
    MAKERS,
    OFFSET_PX,
    PROPOSAL_PX,
    published,
    recorded_shapes,
    seeing_state,
)
from resources.models.registry import HANDS_100DOH

torch = pytest.importorskip("torch", reason="PyTorch belongs to the extra reference")
pytest.importorskip("torchvision", reason="torchvision belongs to the extra reference")

Image = npt.NDArray[np.uint8]

RED, RED_RIGHT, BLUE = (0, 0, 255), (0, 50, 255), (255, 0, 0)
HEIGHT, WIDTH = 96, 160


def build(models_dir: Path, **settings: Any) -> Any:
    from resources.models.hands_100doh import HundredDaysOfHandsDetector

    options = {
        "shorter_side": HEIGHT,
        "proposals": 6,
        "max_hands": 3,
        "device": "cpu",
        "precision": "float32",
    } | settings
    with any_digest():
        return HundredDaysOfHandsDetector(models_dir=models_dir, **options)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small pictures gain nothing from more, and threads that wait for one another cost a lot on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hands_100doh")
    MAKERS["hands_100doh"](folder)
    return folder


@pytest.fixture(scope="module")
def detector(models_dir: Path) -> Any:
    return build(models_dir)


def cells(*squares: tuple[int, int, tuple[int, int, int]], scale: int = 1) -> Image:
    """Black with squares of 12 pixels at the beginning of cells (row, column)."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for row, column, colour in squares:
        image[16 * row : 16 * row + 12, 16 * column : 16 * column + 12] = colour
    return np.repeat(np.repeat(image, scale, axis=0), scale, axis=1)


def look(detector: HandDetector, *images: Image) -> list[HandDetections]:
    return list(detector.detect(ClipFrame(n, n * 100_000_000, image) for n, image in enumerate(images)))


# --- the chain from pixels to boxes -------------------------------------------------------------------------


def test_hand_side_contact_and_object_are_where_they_are_drawn(detector: Any) -> None:
    """Worked out by hand from the published conventions; the network sees the picture at its own size."""
    assert isinstance(detector, HandDetector)
    # Contact shows at the hand; of the objects the one nearest to 50 pixels to the right is touched.
    left = cells((2, 2, RED), (3, 3, BLUE), (2, 6, BLUE))
    right = cells((3, 5, RED_RIGHT))
    touching, free, nothing = look(detector, left, right, cells())
    proposal = np.array([16, 16, 48, 48])
    # A proposal from 16 to 48 counts as 33 pixels wide, so its middle is at 32.5.
    width = HAND_SHARE * (PROPOSAL_PX + 1)
    expected = [32.5 - width / 2, 32.5 - width / 2, 32.5 + width / 2, 32.5 + width / 2]
    assert touching.boxes_xyxy.tolist() == [pytest.approx(expected, abs=0.01)]
    touched = proposal + np.array([64, 0, 65, 1])
    assert touching.contact_boxes_xyxy.tolist() == [pytest.approx(touched.tolist(), abs=0.01)]
    assert touching.contact_scores[0] > 0.9 and touching.right_scores[0] < 0.05
    assert free.boxes_xyxy.tolist() == [
        pytest.approx(
            [side + shift for side, shift in zip(expected, (48, 16, 48, 16), strict=True)], abs=0.01
        )
    ]
    # N, S, O, P and F with the logits 3, -9, -9, 0 and -9.
    logits = np.exp([3.0, -9, -9, 0, -9])
    assert free.contact_scores[0] == pytest.approx(logits[3:].sum() / logits.sum(), rel=1e-3)
    assert free.right_scores[0] > 0.95 and np.isnan(free.contact_boxes_xyxy).all()
    assert np.isnan(touching.landmarks_xy).all() and touching.landmarks_xy.shape == (1, 21, 2)
    assert len(nothing) == 0


def test_a_hand_without_contact_has_no_object_wherever_one_lies(detector: Any) -> None:
    free, alone = look(detector, cells((3, 5, RED_RIGHT), (1, 9, BLUE)), cells((1, 9, BLUE)))
    assert len(free) == 1 and len(alone) == 0
    assert free.contact_scores[0] < 0.5 and np.isnan(free.contact_boxes_xyxy).all()


def test_boxes_are_in_pixels_of_the_frame(detector: Any) -> None:
    squares = ((2, 2, RED), (3, 3, BLUE))
    ((small,), (large,)) = look(detector, cells(*squares)), look(detector, cells(*squares, scale=3))
    assert large.boxes_xyxy == pytest.approx(3 * small.boxes_xyxy, abs=0.1)
    assert large.contact_boxes_xyxy == pytest.approx(3 * small.contact_boxes_xyxy, abs=0.1)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 90), (300, 2)])
def test_pictures_of_hardly_any_pixels(detector: Any, width: int, height: int) -> None:
    (found,) = look(detector, np.full((height, width, 3), RED, np.uint8))
    assert (found.boxes_xyxy >= 0).all() and (found.boxes_xyxy <= [width, height, width, height]).all()


def test_batches_change_nothing(models_dir: Path) -> None:
    images = [cells((2, 2 + n, RED), (3, 3 + n, BLUE)) for n in range(2)] + [cells()]
    singly, together = (look(build(models_dir, batch_size=size), *images) for size in (1, 3))
    assert [len(each) for each in together] == [1, 1, 0]
    for one, other in zip(singly, together, strict=True):
        assert one.boxes_xyxy == pytest.approx(other.boxes_xyxy, abs=1e-3)
        assert one.contact_scores == pytest.approx(other.contact_scores, abs=1e-4)


def test_out_of_memory_halves_batches_and_loses_nothing(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = build(models_dir, batch_size=4)
    images = [cells((2, 2 + n, RED)) for n in range(4)]
    expected = look(detector, *images)
    tried: list[int] = []
    forward = type(detector._held.network).forward

    def short_of_memory(self: Any, pictures: Any, options: Any) -> Any:
        tried.append(len(pictures))
        if len(pictures) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, pictures, options)

    monkeypatch.setattr(type(detector._held.network), "forward", short_of_memory)
    found = look(detector, *images)
    assert tried == [4, 2, 1, 1, 1, 1]
    for one, other in zip(found, expected, strict=True):
        assert one.boxes_xyxy == pytest.approx(other.boxes_xyxy, abs=1e-3)


def test_two_clips_at_once(detector: Any) -> None:
    clips = [[cells((2, column, RED)) for _ in range(2)] for column in (2, 6)]
    found: dict[int, list[HandDetections]] = {}
    threads = [
        threading.Thread(target=lambda n=n: found.update({n: look(detector, *clips[n])})) for n in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lefts = [[each.boxes_xyxy[0, 0] for each in found[n]] for n in range(2)]
    assert lefts == [pytest.approx([24.25] * 2, abs=0.01), pytest.approx([88.25] * 2, abs=0.01)]


def test_reduced_precision_keeps_the_boxes(models_dir: Path, detector: Any) -> None:
    image = cells((2, 2, RED), (3, 3, BLUE), (2, 6, BLUE))
    ((exact,), (coarse,)) = look(detector, image), look(build(models_dir, precision="bfloat16"), image)
    assert coarse.boxes_xyxy == pytest.approx(exact.boxes_xyxy, abs=0.5)
    assert coarse.contact_boxes_xyxy == pytest.approx(exact.contact_boxes_xyxy, abs=0.5)


@pytest.mark.parametrize(
    "part",
    ["RCNN_cls_score", "RCNN_rpn.RPN_bbox_pred", "RCNN_rpn.RPN_cls_score", "extension_layer.hand_dydx_layer"],
)
def test_a_network_that_broke_down_is_an_error_and_no_picture_without_hands(
    models_dir: Path, part: str
) -> None:
    detector = build(models_dir)
    # Other detectors share the network.
    bias = detector._held.network.get_submodule(part).bias
    sound = bias.clone()
    with torch.no_grad():
        bias.fill_(float("nan"))
    try:
        with pytest.raises(ValueError, match="finite"):
            look(detector, cells())
    finally:
        with torch.no_grad():
            bias.copy_(sound)


@pytest.mark.parametrize(
    "wrong",
    [
        {"shorter_side": 8},
        {"score_threshold": 0.0},
        {"object_threshold": 1.0},
        {"nms_iou": 2},
        {"max_hands": 0},
        {"proposals": 0},
        {"batch_size": -1},
        {"precision": "double"},
        {"compile": "maybe"},
        {"device": "quantum"},
    ],
)
def test_settings_that_cannot_be(models_dir: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected"):
        build(models_dir, **wrong)


def test_says_what_runs(detector: Any, models_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    import hashlib

    content = (models_dir / HANDS_100DOH.file).read_bytes()
    assert detector.info.weights_sha256 == hashlib.sha256(content).hexdigest()
    assert detector.info.licence == HANDS_100DOH.licence and detector.info.backend == "hands_100doh"
    with caplog.at_level("INFO"), nothing_loaded():
        build(models_dir)
    assert "on cpu, float32, not compiled" in caplog.text


def test_attempts_with_other_thresholds_share_the_network(detector: Any, models_dir: Path) -> None:
    settings = {"score_threshold": 0.3, "object_threshold": 0.3, "max_hands": 1, "batch_size": 3}
    other = build(models_dir, **settings)
    assert other._held is detector._held
    image = cells((2, 3, RED), (3, 8, RED))
    # Each keeps its own settings.
    assert [len(look(each, image)[0]) for each in (detector, other, detector)] == [2, 1, 2]
    assert build(models_dir, precision="bfloat16")._held is not detector._held


# --- parts --------------------------------------------------------------------------------------------------


def test_sizes_at_which_the_network_looks() -> None:
    from resources.models.hands_100doh import input_size

    assert input_size(1080, 1920, shorter_side=600) == (562, 1000)
    assert input_size(480, 640, shorter_side=600) == (600, 800)
    assert input_size(640, 480, shorter_side=600) == (800, 600)
    assert input_size(1, 1, shorter_side=600) == (600, 600)
    # The first stages need a few pixels.
    assert input_size(2, 2000, shorter_side=600) == (16, 1000)


def test_anchors_are_those_of_faster_r_cnn() -> None:
    """Those that Ren et al. list for scales 8, 16 and 32, less 1, as pixels are counted from 0."""
    from resources.models.hands_100doh_network import anchors

    known = [
        [-83, -39, 100, 56],
        [-175, -87, 192, 104],
        [-359, -183, 376, 200],
        [-55, -55, 72, 72],
        [-119, -119, 136, 136],
        [-247, -247, 264, 264],
        [-35, -79, 52, 96],
        [-79, -167, 96, 184],
        [-167, -343, 184, 360],
    ]
    cell = anchors(1, 1)
    assert cell.shape == (12, 4)
    assert cell[[0, 1, 2, 4, 5, 6, 8, 9, 10]].tolist() == (np.array(known) - 1).tolist()
    assert cell[7].tolist() == [-504, -504, 519, 519]
    grid = anchors(2, 3).reshape(2, 3, 12, 4)
    assert (grid[1, 2] - cell).tolist() == [[32, 16, 32, 16]] * 12


def test_boxes_are_moved_scaled_and_cut() -> None:
    from resources.models.hands_100doh_network import clipped, decoded

    boxes = torch.tensor([[0.0, 0, 15, 15]])
    assert decoded(boxes, torch.zeros(1, 4)).tolist() == [[0, 0, 16, 16]]
    shifts = torch.tensor([[0.5, -0.25, np.log(2), 0]])
    assert decoded(boxes, shifts)[0].tolist() == pytest.approx([0, -4, 32, 12])
    assert torch.isfinite(decoded(boxes, torch.full((1, 4), 500.0))).all()
    far = torch.tensor([[-5.0, -5, 500, 500], [30, 2, 70, 9]])
    assert clipped(far, height=40, width=60).tolist() == [[0, 0, 59, 39], [30, 2, 59, 9]]


def test_suppression_counts_pixels() -> None:
    from resources.models.hands_100doh_network import suppressed

    # 10 pixels each of which 5 are shared: a third; as lines it would be 4 of 14.
    boxes = torch.tensor([[0.0, 0, 9, 9], [5, 0, 14, 9]])
    scores = torch.tensor([0.4, 0.6])
    assert suppressed(boxes, scores, iou=0.34).tolist() == [1, 0]
    assert suppressed(boxes, scores, iou=0.33).tolist() == [1]


def test_the_margin_for_contact_keeps_the_limits_of_training() -> None:
    from resources.models.hands_100doh_network import enlarged

    boxes = torch.tensor([[20.0, 10, 40, 30], [0, 0, 100, 50], [90, 80, 99, 89]])
    # The height, 60, limits the right edge and the width, 100, the lower one.
    assert enlarged(boxes, height=60, width=100).tolist() == [
        pytest.approx([14, 4, 46, 36]),
        pytest.approx([0, 0, 60, 65]),
        pytest.approx([87.3, 77.3, 60, 91.7]),
    ]


def told(**other: Any) -> dict[str, Any]:
    """What the network says of a picture with a right hand from 10 to 30 that holds something."""
    found = {
        "hand_counts": np.array(1),
        "hand_boxes": np.array([[10, 10, 30, 30], [0, 0, 0, 0]], np.float32),
        "hand_scores": np.array([0.9, 0], np.float32),
        "right_scores": np.array([0.8, 0], np.float32),
        "contact_scores": np.array([[0.1, 0, 0, 0.9, 0], [1, 0, 0, 0, 0]], np.float32),
        "offsets": np.array([[40, 0], [0, 0]], np.float32),
        "object_counts": np.array(2),
        "object_boxes": np.array([[30, 10, 50, 30], [50, 10, 70, 30]], np.float32),
    }
    return {**found, **other}


def detections(found: dict[str, Any], *, scale: float = 1.0) -> HandDetections:
    from resources.models.hands_100doh import _detections

    return _detections(found, np.full(4, scale, np.float32), width=100, height=60)


@pytest.mark.parametrize(
    ("portable", "stationary", "is_held"),
    [(0.9, 0, True), (0, 0.6, True), (0.3, 0.25, True), (0.2, 0.25, False), (0, 0, False)],
)
def test_a_hand_holds_what_it_touches_portable_or_not(
    portable: float, stationary: float, is_held: bool
) -> None:
    # The rest is contact with its owner, which is none with an object.
    states = np.array([[0, 1 - portable - stationary, 0, portable, stationary]], np.float32)
    found = detections(told(contact_scores=states))
    assert found.contact_scores == pytest.approx(portable + stationary)
    assert np.isfinite(found.contact_boxes_xyxy).all() == is_held


def test_boxes_end_with_the_picture() -> None:
    boxes = np.array([[-20, -8, 230, 140]], np.float32)
    found = detections(told(hand_boxes=boxes, object_boxes=boxes, object_counts=np.array(1)), scale=2)
    assert found.boxes_xyxy.tolist() == found.contact_boxes_xyxy.tolist() == [[0, 0, 100, 60]]


def test_offsets_are_in_pixels_of_the_picture_whatever_the_size_of_the_input() -> None:
    doubled = {name: 2 * told()[name] for name in ("hand_boxes", "object_boxes")}
    for found, scale in ((told(), 1), (told(**doubled), 2)):
        # 40 pixels to the right, not 20.
        assert detections(found, scale=scale).contact_boxes_xyxy.tolist() == [[50, 10, 70, 30]]


def test_only_the_direction_of_an_offset_is_told_by_its_last_two_values(
    detector: Any,
) -> None:
    """The weights say 0.05 thousands of pixels and (2, 0) for the direction."""
    with detector._held.in_use() as network:
        pictures, _ = detector._prepared([cells((2, 2, RED), (3, 3, BLUE))])
        answer = network(pictures, detector._options)
    assert answer.hand_counts.tolist() == [1]
    assert answer.offsets[0, 0].tolist() == pytest.approx([OFFSET_PX, 0], abs=1e-3)


def test_places_that_only_fill_up_a_picture_are_not_looked_at() -> None:
    from resources.models.hands_100doh_network import HandObjectOptions

    options = HandObjectOptions(
        proposals=3, score_threshold=0.5, object_threshold=0.5, nms_iou=0.3, max_hands=3
    )
    two = torch.tensor([[[10.0, 10, 30, 30], [40, 10, 60, 30]]])
    boxes, valid = network()._proposed(torch.tensor([[0.9, 0.8]]), two, options)
    assert boxes[0, :2].tolist() == two[0].tolist() and valid.tolist() == [[True, True, False]]
    kept = network()._kept_of(valid, torch.tensor([[0.6, 0.7, 0.9]]), boxes, options, threshold=0.5)
    assert kept.counts.tolist() == [2] and kept.indices.tolist() == [[1, 0, 0]]


def test_of_equal_objects_the_one_the_hand_points_at_is_touched() -> None:
    from resources.models.hands_100doh import touched_objects

    hands = np.array([[0, 0, 20, 20]] * 3, np.float32)
    objects = np.array([[OFFSET_PX, 0, 70, 20], [0, 50, 20, 70]], np.float32)
    offsets = np.array([[40, 5], [5, 40], [5, 40]], np.float32)
    found = touched_objects(hands, objects, offsets, touches=np.array([True, True, False]))
    assert found[:2].tolist() == objects.tolist() and np.isnan(found[2]).all()
    assert np.isnan(touched_objects(hands, objects[:0], offsets, touches=np.ones(3, bool))).all()


# --- published files ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    return seeing_state()


def network() -> Any:
    from resources.models.hands_100doh_network import HandObjectNetwork

    # Without memory of its own, which is not looked at.
    with torch.device("meta"):
        return HandObjectNetwork()


def test_parameters_map_one_to_one_onto_the_recorded_state_dict() -> None:
    own = {name: list(value.shape) for name, value in network().state_dict().items()}
    recorded = recorded_shapes()
    assert len(recorded) == 642
    assert own == recorded


Change = Callable[[dict[str, Any]], Any]


def loaded(content: Any, folder: Path) -> dict[str, Any]:
    from resources.models.hands_100doh import load_published
    from resources.models.hands_100doh_network import HandObjectNetwork

    torch.save(content, folder / "net.pth")
    with torch.device("meta"):
        filled = HandObjectNetwork()
    load_published(filled, folder / "net.pth")
    return dict(filled.state_dict())


@pytest.mark.parametrize(
    "change",
    [
        published,
        lambda state: state,
        lambda state: published({f"module.{name}": value for name, value in state.items()}),
        lambda state: published({n: v for n, v in state.items() if "num_batches_tracked" not in n}),
    ],
    ids=["as published", "plain", "several GPUs", "old PyTorch"],
)
def test_forms_of_the_file(state: dict[str, Any], change: Change, tmp_path: Path) -> None:
    found = loaded(change(state), tmp_path)
    names = [
        "RCNN_rpn.RPN_bbox_pred.bias",
        "extension_layer.hand_lr_layer.weight",
        "RCNN_base.1.running_mean",
    ]
    for name in names:
        assert state[name].any() and torch.equal(found[name], state[name])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda state: published({n: v for n, v in state.items() if not n.startswith("extension_layer")}),
            "it lacks extension_layer.*and 5 more",
        ),
        (
            lambda state: published(state | {"RCNN_cls_score.bias": torch.zeros(21)}),
            r"\[21\] instead of \[3\]",
        ),
        (
            lambda state: published(state | {"RCNN_top.1.weight": torch.zeros(2)}),
            "it also has RCNN_top.1.weight",
        ),
        (lambda state: published(state) | {"pooling_mode": "crop"}, "pooling_mode 'align', got 'crop'"),
        (lambda state: published(state) | {"class_agnostic": True}, "class_agnostic False, got True"),
        (lambda state: [1, 2], "expected {'model': state_dict"),
        (lambda state: {"model": 3}, "expected {'model': state_dict"),
    ],
)
def test_other_files_are_refused(state: dict[str, Any], change: Change, said: str, tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match=said):
        loaded(change(state), tmp_path)


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 no archive"])
def test_damaged_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / HANDS_100DOH.file).write_bytes(content)
    with pytest.raises(BackendUnavailable, match=f"{HANDS_100DOH.file} does not hold weights"):
        build(tmp_path)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"model": Sequence}, tmp_path / HANDS_100DOH.file)
    with pytest.raises(BackendUnavailable, match="holds more than tensors"):
        build(tmp_path)


def test_the_digest_is_demanded(models_dir: Path) -> None:
    from resources.models.hands_100doh import HundredDaysOfHandsDetector

    with pytest.raises(BackendUnavailable, match="expected 3444e3b9"):
        HundredDaysOfHandsDetector(models_dir=models_dir)


def test_without_the_file_the_message_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match=r"ddshan/hand_object_detector"):
        build(tmp_path)
