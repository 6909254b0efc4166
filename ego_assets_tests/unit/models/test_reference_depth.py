"""Depth Anything V2 on small checkpoints: units, places, sizes, memory, and files that are missing or damaged."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from ego_assets.schema.camera import PinholeCamera, Scale
from ego_assets.schema.depth import MEASURED_FROM, DepthFrame
from ego_assets.schema.errors import BackendUnavailable
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.vocabulary import LocationType

torch = pytest.importorskip("torch", reason="the reference environment has PyTorch")
pytest.importorskip("transformers", reason="the reference environment has transformers")

from ego_assets.media.depth_archive import depth_values, write_depth_archive  # noqa: E402
from ego_assets.media.frame_archive import FrameArchiveIndex, read_member  # noqa: E402
from ego_assets.media.rasters import decode_png  # noqa: E402
from ego_assets.schema.errors import DeviceMemoryExhausted  # noqa: E402
from ego_assets_tests.checkpoints import any_digest, nothing_loaded  # noqa: E402
from ego_assets_tests.checkpoints.depth import MAX_DEPTH_M, write_depth_anything  # noqa: E402
from resources.models import depth_anything, torch_runtime  # noqa: E402
from resources.models.depth_anything import (  # noqa: E402
    FARTHEST_RELATIVE,
    DepthNetwork,
    MetricDepthAnything,
    RelativeDepthAnything,
    metric_depth,
    network_input_size,
    relative_depth,
)
from resources.models.registry import (  # noqa: E402
    DEPTH_ANYTHING_METRIC,
    DEPTH_ANYTHING_RELATIVE,
    ModelCard,
)
from resources.models.torch_runtime import HeldNetwork  # noqa: E402

INDOOR, OUTDOOR = DEPTH_ANYTHING_METRIC["small"]
(RELATIVE,) = DEPTH_ANYTHING_RELATIVE["small"]
#: Settings with which small networks answer quickly.
QUICK: dict[str, Any] = {"checkpoint": "small", "input_side": 42, "device": "cpu"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks that say 1.5 m indoors and 12 m outdoors, and a random one without a scale."""
    folder = tmp_path_factory.mktemp("models")
    for card, max_depth, metres in zip((INDOOR, OUTDOOR), MAX_DEPTH_M, (1.5, 12.0), strict=True):
        write_depth_anything(folder, card, max_depth=max_depth, says=metres)
    write_depth_anything(folder, RELATIVE)
    return folder


@pytest.fixture(autouse=True)
def _any_digest() -> Iterator[None]:
    with any_digest():
        yield


def pictures(count: int, *, width: int = 64, height: int = 48) -> list[ClipFrame]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (count, height, width, 3), dtype=np.uint8)
    return [ClipFrame(3 * number, 100 * number, image) for number, image in enumerate(images)]


def maps(estimator: Any, frames: list[ClipFrame], **options: Any) -> list[DepthFrame]:
    width, height = frames[0].size
    camera = PinholeCamera(width=width, height=height, fx=width, fy=width, cx=width / 2, cy=height / 2)
    return list(estimator.estimate(frames, camera=camera, **options))


def held(answer: Callable[[Any], Any]) -> HeldNetwork:
    """A network that answers as told: ``[N, 3, h, w]`` to ``[N, h, w]``."""

    class Told(torch.nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def forward(self, values: Any) -> Any:
            return SimpleNamespace(predicted_depth=answer(values))

    return HeldNetwork(Told(), device="cpu", name="told")


def runner(answer: Callable[[Any], Any], **options: Any) -> DepthNetwork:
    return DepthNetwork(
        held(answer),
        partial(metric_depth, farthest_m=20.0),
        scale=Scale.METRIC,
        input_side=42,
        **options,
    )


def test_metres_are_stored_as_exact_millimetres(models: Path) -> None:
    estimator = MetricDepthAnything(models_dir=models, **QUICK)
    for location, millimetres in ((LocationType.KITCHEN, 1500), (LocationType.OUTDOOR, 12000)):
        for found in maps(estimator, pictures(3), location=location):
            assert found.scale is Scale.METRIC and found.status == "estimated" and found.segment == 0
            assert (depth_values(found.depth) == millimetres).all()
            assert (found.confidence == MEASURED_FROM).all()


def test_the_archive_holds_those_millimetres(models: Path, tmp_path: Path) -> None:
    estimator = MetricDepthAnything(models_dir=models, batch_size=2, **QUICK)
    frames = pictures(5)
    camera = PinholeCamera(width=64, height=48, fx=64, fy=64, cx=32, cy=24)
    archive = write_depth_archive(
        frames,
        lambda taken: estimator.estimate(taken, camera=camera),
        frame_index=np.array([frame.frame_index for frame in frames]),
        path=tmp_path.joinpath,
    )
    assert archive.measurements.scale is Scale.METRIC and (archive.measurements.measured_share == 1).all()
    for kind, value in (("depth", 1500), ("confidence", MEASURED_FROM)):
        index = FrameArchiveIndex.read(tmp_path / f"{kind}.parquet")
        assert len(index) == 5
        with (tmp_path / f"{kind}.tar").open("rb") as file:
            assert {int(v) for entry in index for v in np.unique(decode_png(read_member(file, entry)))} == {
                value
            }


def test_only_places_outdoors_take_the_network_for_streets_and_each_is_loaded_when_needed(
    models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loaded: list[str] = []
    load = depth_anything._network

    def counted(card: ModelCard, folder: Path, *, kind: str) -> Any:
        loaded.append(card.key)
        return load(card, folder, kind=kind)

    monkeypatch.setattr(depth_anything, "_network", counted)
    estimator = MetricDepthAnything(models_dir=models, **QUICK)
    assert maps_of_nothing(estimator) == [] and loaded == []
    with caplog.at_level(logging.INFO), nothing_loaded():
        for location in LocationType:
            (found,) = maps(estimator, pictures(1), location=location)
            assert found.depth.max() == pytest.approx(12.0 if location is LocationType.OUTDOOR else 1.5)
    assert loaded == [INDOOR.key, OUTDOOR.key]
    said = [record.getMessage() for record in caplog.records if record.name == torch_runtime.__name__]
    assert said == [f"{card.name} on cpu, float32, not compiled" for card in (INDOOR, OUTDOOR)]
    (found,) = maps(estimator, pictures(1))
    assert found.depth.max() == pytest.approx(1.5), "a place that is not stated counts as a room"


def test_other_sides_share_the_network_and_other_checkpoints_do_not(models: Path) -> None:
    settings = {name: value for name, value in QUICK.items() if name != "input_side"}
    first, second = (MetricDepthAnything(models_dir=models, input_side=side, **settings) for side in (28, 42))
    assert first._network(0)._held is second._network(0)._held
    assert first._network(0)._held is not first._network(1)._held
    sizes: list[tuple[int, ...]] = []
    network = first._network(0)._held.network
    hook = network.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[-2:])))
    try:
        assert maps(first, pictures(1))[0].depth.shape == maps(second, pictures(1))[0].depth.shape
    finally:
        hook.remove()
    assert [min(size) for size in sizes] == [28, 42]
    coarse = MetricDepthAnything(models_dir=models, precision="bfloat16", **QUICK)
    assert coarse._network(0)._held is not first._network(0)._held


@pytest.mark.parametrize(
    ("size", "most"), [((1920, 1080), 32), ((1280, 720), 72), ((7680, 4320), 2), ((20_000, 10_000), 1)]
)
def test_the_maps_of_a_batch_take_256_megabytes_at_most(size: tuple[int, int], most: int) -> None:
    frame = SimpleNamespace(size=size)
    assert runner(brightness)._most(frame) == most  # type: ignore[arg-type]
    assert most == 1 or most * 4 * size[0] * size[1] <= 2**28
    assert runner(brightness, batch_size=64)._most(frame) is None, "as it is told"  # type: ignore[arg-type]


def test_large_frames_go_in_smaller_batches_where_the_memory_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depth_anything, "_MAX_MAP_BYTES", 3 * 4 * 64 * 48)
    sizes: list[int] = []

    def noted(values: Any) -> Any:
        sizes.append(values.shape[0])
        return brightness(values)

    chosen = runner(noted)
    # As if 8 frames fitted into the device's memory.
    chosen._batches._limit = 8
    assert len(list(chosen.run(pictures(7)))) == 7
    assert sizes == [3, 3, 1]
    assert list(chosen.run(iter(()))) == []


def maps_of_nothing(estimator: Any) -> list[DepthFrame]:
    camera = PinholeCamera(width=4, height=3, fx=4, fy=4, cx=2, cy=1.5)
    return list(estimator.estimate(iter(()), camera=camera, location=LocationType.OUTDOOR))


def test_the_name_says_both_checkpoints_and_the_digest_covers_both(models: Path, tmp_path: Path) -> None:
    info = MetricDepthAnything(models_dir=models, **QUICK).info
    assert info.backend == "depth_anything_v2" and info.licence == "Apache-2.0"
    assert "indoor" in info.model and "outdoor" in info.model
    other = shutil.copytree(models, tmp_path / "other")
    write_depth_anything(other, OUTDOOR, max_depth=80, says=13.0)
    assert MetricDepthAnything(models_dir=other, **QUICK).info.weights_sha256 != info.weights_sha256
    info = RelativeDepthAnything(models_dir=models, **QUICK).info
    assert info.backend == "depth_anything_v2_relative" and "relative" in info.model


def test_a_relative_network_has_no_unit_and_every_map_its_own(models: Path) -> None:
    found = maps(RelativeDepthAnything(models_dir=models, **QUICK), pictures(3))
    assert [one.segment for one in found] == [0, 1, 2]
    for one in found:
        assert one.scale is Scale.UNKNOWN and one.status == "estimated"
        assert np.median(one.depth) == pytest.approx(1, rel=0.02) and one.depth.max() <= FARTHEST_RELATIVE


def same_size(values: Any) -> Any:
    return values


def test_inverse_depth_becomes_depth() -> None:
    disparity = torch.full((1, 8, 8), 2.0)
    disparity[0, 0] = 8.0
    disparity[0, 1] = 0.5
    disparity[0, 2] = 0.0
    disparity[0, 3] = float("inf")
    depth = relative_depth(disparity, same_size)[0]
    assert (depth[4:] == 1).all() and (depth[0] == 0.25).all() and (depth[1] == 4).all()
    assert (depth[2] == np.float32(FARTHEST_RELATIVE)).all() and depth[3].isnan().all()
    # Mostly sky: what is left sets the unit.
    sky = torch.zeros((1, 16, 16))
    sky[0, 12:] = 3.0
    depth = relative_depth(sky, same_size)[0]
    assert (depth[12:] == 1).all() and (depth[:12] == np.float32(FARTHEST_RELATIVE)).all()


def test_maps_that_say_nothing_have_failed(tmp_path: Path) -> None:
    write_depth_anything(tmp_path, RELATIVE, says=-1.0)
    for found in maps(RelativeDepthAnything(models_dir=tmp_path, **QUICK), pictures(2)):
        assert found.status == "failed" and not found.depth.any() and not found.confidence.any()


def test_answers_that_are_no_depth_are_unknown_with_what_lies_next_to_them() -> None:
    def broken(values: Any) -> Any:
        answer = torch.full((values.shape[0], *values.shape[2:]), 2.0)
        answer[:, 10, 10], answer[:, 20, 20], answer[:, 30, 30] = float("nan"), 0.0, float("inf")
        return answer

    (as_answered,) = runner(broken).run(pictures(1, width=42, height=42))
    assert np.argwhere(as_answered.depth == 0).tolist() == [[10, 10], [20, 20], [30, 30]]
    (larger,) = runner(broken).run(pictures(1, width=126, height=126))
    assert larger.status == "estimated"
    assert set(np.unique(larger.depth).round(5)) == {np.float32(0), np.float32(2)}, "nothing is mixed with 0"
    np.testing.assert_array_equal(larger.confidence, np.where(larger.depth > 0, MEASURED_FROM, 0))
    assert 0.98 < (larger.depth > 0).mean() < 1
    (nothing,) = runner(lambda values: values[:, 0] * float("nan")).run(pictures(1))
    assert nothing.status == "failed" and not nothing.depth.any()


def test_depth_never_exceeds_what_the_network_can_say() -> None:
    (found,) = runner(lambda values: torch.full((1, *values.shape[2:]), 20.0)).run(
        pictures(1, width=301, height=199)
    )
    assert found.depth.max() <= 20.0


@pytest.mark.parametrize("size", [(126, 84), (30, 42)])
def test_maps_are_resized_corner_to_corner(size: tuple[int, int]) -> None:
    def ramps(values: Any) -> Any:
        rows, columns = values.shape[2:]
        across, down = torch.linspace(1, 5, columns), torch.linspace(0, 2, rows)
        return (across + down[:, None]).expand(values.shape[0], rows, columns)

    width, height = size
    (found,) = runner(ramps).run(pictures(1, width=width, height=height))
    expected = np.linspace(1, 5, width) + np.linspace(0, 2, height)[:, None]
    np.testing.assert_allclose(found.depth, expected, atol=1e-4)


def test_each_checkpoint_has_its_own_farthest_depth(tmp_path: Path) -> None:
    for card, max_depth, metres in zip((INDOOR, OUTDOOR), MAX_DEPTH_M, (1.5, 48.0), strict=True):
        write_depth_anything(tmp_path, card, max_depth=max_depth, says=metres)
    estimator = MetricDepthAnything(models_dir=tmp_path, **QUICK)
    (found,) = maps(estimator, pictures(1), location=LocationType.OUTDOOR)
    assert found.depth == pytest.approx(48, abs=1e-3)


def test_what_exceeds_the_farthest_depth_is_cut_off() -> None:
    answered = runner(lambda values: torch.full((1, *values.shape[2:]), 25.0))
    (found,) = answered.run(pictures(1))
    assert (found.depth == 20).all()


def test_edges_do_not_overshoot_what_a_picture_can_hold() -> None:
    image = np.zeros((30, 40, 3), np.uint8)
    image[::4], image[:, ::5] = 255, 255
    uploaded = depth_anything._uploaded([ClipFrame(0, 0, image)], torch.device("cpu"))
    for size in ((84, 70), (28, 14)):
        prepared = depth_anything._prepared(uploaded, size)[0]
        for channel, mean, deviation in zip(
            prepared, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True
        ):
            values = channel * deviation + mean
            assert values.min() > -1e-5 and values.max() < 1 + 1e-5


def brightness(values: Any) -> Any:
    """A depth that depends on the picture, and on each picture alone."""
    return values.mean(dim=1) + 3


@pytest.mark.parametrize("fits", [1, 2, 3])
def test_out_of_memory_halves_the_batch_and_loses_nothing(fits: int) -> None:
    sizes: list[int] = []

    def limited(values: Any) -> Any:
        sizes.append(values.shape[0])
        if values.shape[0] > fits:
            raise torch.OutOfMemoryError("injected")
        return brightness(values)

    frames = pictures(11)
    expected = list(runner(brightness, batch_size=1).run(frames))
    found = list(runner(limited, batch_size=8).run(iter(frames)))
    assert [one.frame_index for one in found] == [frame.frame_index for frame in frames]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.depth, other.depth)
    assert sizes[0] == 8 and max(sizes[-2:]) <= fits


def test_a_picture_that_does_not_fit_alone_says_so() -> None:
    def never(values: Any) -> Any:
        raise torch.OutOfMemoryError("injected")

    with pytest.raises(DeviceMemoryExhausted, match="smaller input"):
        list(runner(never, batch_size=4).run(pictures(2)))


def test_a_batch_is_handed_over_before_the_one_before_is_taken() -> None:
    begun: list[int] = []

    def counted(values: Any) -> Any:
        begun.append(values.shape[0])
        return brightness(values)

    found = runner(counted, batch_size=2).run(pictures(6))
    next(found)
    assert begun == [2, 2]
    assert len(list(found)) == 5 and begun == [2, 2, 2]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1280, 720), (924, 518)),
        ((1920, 1080), (924, 518)),
        ((720, 1280), (518, 924)),
        ((640, 480), (686, 518)),
        ((518, 518), (518, 518)),
        ((320, 180), (924, 518)),
        ((1, 1), (518, 518)),
        ((5000, 2), (2072, 518)),
    ],
)
def test_the_shorter_side_is_as_told_and_sides_are_whole_patches(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert network_input_size(*size, input_side=518) == expected


@pytest.mark.parametrize("size", [(640, 480), (1280, 720), (924, 518)])
def test_pictures_are_prepared_as_the_published_processor_does(size: tuple[int, int]) -> None:
    from transformers import DPTImageProcessor  # type: ignore[import-not-found,unused-ignore]

    processor = DPTImageProcessor(
        size={"height": 518, "width": 518},
        keep_aspect_ratio=True,
        ensure_multiple_of=14,
        resample=3,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    # Noise overshoots, and the processor cuts that off between rows and columns.
    (frame,) = pictures(1, width=size[0], height=size[1])
    frame = replace(frame, image=cv2.GaussianBlur(frame.image, (0, 0), 3))
    expected = processor(frame.image[..., ::-1].copy(), return_tensors="pt")["pixel_values"]
    uploaded = depth_anything._uploaded([frame], torch.device("cpu"))
    ours = depth_anything._prepared(uploaded, network_input_size(*size, input_side=518))
    assert ours.shape == expected.shape
    # The processor rounds to whole grey values, twice; 0.0178 is one on the normalised scale of the widest channel.
    assert (ours - expected).abs().max() < 1.1 / 255 / 0.224
    assert ours.std() > 0.1, "the picture is not plain"


def test_odd_sizes_come_back_at_their_size(models: Path) -> None:
    estimator = RelativeDepthAnything(models_dir=models, **QUICK)
    for width, height in ((1, 1), (3, 40), (131, 77)):
        for found in maps(estimator, pictures(2, width=width, height=height)):
            assert found.depth.shape == (height, width) and (found.depth > 0).all()


def test_the_last_layer_stays_exact_in_bfloat16(tmp_path: Path) -> None:
    for card, max_depth in zip((INDOOR, OUTDOOR), MAX_DEPTH_M, strict=True):
        write_depth_anything(tmp_path, card, max_depth=max_depth, says=7.003)
    estimator = MetricDepthAnything(models_dir=tmp_path, precision="bfloat16", compile="never", **QUICK)
    (found,) = maps(estimator, pictures(1))
    # bfloat16 has 7.0 and 7.03125 here.
    assert (depth_values(found.depth) == 7003).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"checkpoint": "huge"}, "checkpoint: expected one of large, base, small, got 'huge'"),
        ({"input_side": 500}, "input_side: expected a multiple of 14, such as 504, got 500"),
        ({"input_side": 0}, "input_side: expected 14 or more, got 0"),
        ({"input_side": 51.8}, "input_side: expected a whole number, got 51.8"),
        ({"batch_size": -1}, "batch_size: expected 0 or more, got -1"),
        ({"precision": "int8"}, "precision: expected one of"),
        ({"compile": "maybe"}, "compile: expected one of"),
    ],
)
def test_wrong_settings_are_refused(models: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MetricDepthAnything(models_dir=models, **{**QUICK, **settings})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("cut", "does not hold"),
        ("empty", "does not hold"),
        ("no json", "does not describe"),
        ("relative", "expected depth_anything, metric, got depth_anything, relative"),
        ("other network", "got dpt, metric"),
        ("fewer weights", "weights are missing or of another shape"),
        ("other shapes", "does not hold"),
    ],
)
def test_damaged_files_are_refused_with_advice(models: Path, tmp_path: Path, damage: str, said: str) -> None:
    copied = shutil.copytree(models, tmp_path / "models")
    weights, config = copied / INDOOR.folder / "model.safetensors", copied / INDOOR.folder / "config.json"
    described = json.loads(config.read_text())
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "empty":
        weights.write_bytes(b"")
    elif damage == "no json":
        config.write_text("{")
    elif damage == "relative":
        config.write_text(json.dumps({**described, "depth_estimation_type": "relative"}))
    elif damage == "other network":
        config.write_text(json.dumps({**described, "model_type": "dpt"}))
    elif damage == "other shapes":
        config.write_text(json.dumps({**described, "head_hidden_size": 16}))
    else:
        from safetensors.torch import (  # type: ignore[import-not-found,unused-ignore]
            load_file,
            save_file,
        )

        state = load_file(weights)
        del state["head.conv3.weight"]
        save_file(state, weights, metadata={"format": "pt"})
    estimator = MetricDepthAnything(models_dir=copied, **QUICK)
    with pytest.raises(BackendUnavailable, match=said) as caught:
        maps(estimator, pictures(1))
    assert f"ego-assets models pull {INDOOR.key}" in str(caught.value)
    # The other checkpoint is whole.
    (found,) = maps(estimator, pictures(1), location=LocationType.OUTDOOR)
    assert found.depth.max() == pytest.approx(12.0)


def test_missing_files_are_named_before_anything_is_loaded(models: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(models, tmp_path / "models")
    (copied / OUTDOOR.folder / "config.json").unlink()
    with pytest.raises(BackendUnavailable, match="models pull depth-anything-v2-metric-outdoor-small"):
        MetricDepthAnything(models_dir=copied, **QUICK)
    with pytest.raises(BackendUnavailable, match="EGO_MODELS_DIR"):
        MetricDepthAnything(models_dir=None, **QUICK)
