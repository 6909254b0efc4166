"""VideoMAE: preprocessing, windows, label maps, what its checkpoints may hold, memory; and SlowFast beside it."""

from __future__ import annotations

import inspect
import json
import logging
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest
import yaml

from ego_assets.gates.actions import least_score
from ego_assets.labels.actions import ActionSteps, action_segments, chosen_labels
from ego_assets.schema.actions import OTHER_ACTION, ActionRecognizer
from ego_assets.schema.detections import BackendInfo
from ego_assets.schema.errors import BackendUnavailable, ConfigurationError, DeviceMemoryExhausted
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.motion import CameraMotion
from ego_assets_tests.checkpoints import any_digest, nothing_loaded
from resources.models import registry
from resources.models.backends import BACKENDS
from resources.models.label_maps import LabelMap, label_map_names, load_label_map
from resources.models.raft import RaftFlow
from resources.models.torch_runtime import HeldNetwork
from resources.models.video_actions import VideoMAERecognizer, VideoWindowRecognizer, WindowInput, smoothed
from resources.models.weights import LOCK_FILE
from resources.profiles import BackendConfig, Profile, load_profile

torch = pytest.importorskip("torch", reason="VideoMAE runs on PyTorch: pip install 'ego-assets[reference]'")
transformers = pytest.importorskip("transformers", reason="pip install 'ego-assets[reference]'")

from ego_assets_tests.checkpoints.actions import (  # noqa: E402
    SIDE,
    kinetics_classes,
    make_videomae,
    save_videomae,
)

SECOND = 1_000_000_000
OWN = registry.OWN_CHECKPOINTS["actions"][0]


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_videomae(folder)
    save_videomae(folder, OWN, ["sawing", "gluing", "resting"], frames=8)
    return folder


def videomae(models_dir: Path, **settings: Any) -> VideoMAERecognizer:
    with any_digest():
        return VideoMAERecognizer(models_dir=models_dir, **settings)


def clip(seconds: float, *, rate: float = 7.5, size: tuple[int, int] = (80, 48)) -> list[ClipFrame]:
    rng = np.random.default_rng(3)
    return [
        ClipFrame(
            number,
            round(number / rate * SECOND),
            rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8),
        )
        for number in range(round(seconds * rate))
    ]


def scored(recognizer: ActionRecognizer, frames: Any, times_s: Sequence[float]) -> npt.NDArray[np.float32]:
    return recognizer.score(
        np.array([round(time * SECOND) for time in times_s], np.int64),
        frames=frames,
        hands=None,
        motion=CameraMotion.still(1),
        timestamps_ns=np.zeros(1, np.int64),
        resolution=(80, 48),
    )


class Numbers(torch.nn.Module):  # type: ignore[misc,unused-ignore]
    """A network without weights that keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def forward(self, windows: Any) -> Any:
        self.seen.append(windows)
        return windows.mean(dim=(1, 3, 4))


def bare(
    *, frames: int = 4, window_s: float = 2.0, smoothing_s: float = 0.0, **options: Any
) -> tuple[Any, Numbers]:
    """Three classes, which are the mean of each colour, over windows of a few pixels."""
    network = Numbers()
    recognizer = VideoWindowRecognizer(
        held=HeldNetwork(network, device="cpu"),
        window=WindowInput(
            frames=frames, shorter_side=2, crop=(2, 2), mean=(0.0, 0.0, 0.0), deviation=(1.0, 1.0, 1.0)
        ),
        classes=("red", "green", "blue"),
        label_map=None,
        info=BackendInfo(task="actions", backend="bare", model="bare"),
        window_s=window_s,
        smoothing_s=smoothing_s,
        **{"batch_size": 3, **options},
    )
    return recognizer, network


def numbered(count: int, *, rate: float) -> Iterator[ClipFrame]:
    """Frames whose grey is their number."""
    for number in range(count):
        yield ClipFrame(number, round(number / rate * SECOND), np.full((4, 6, 3), number, np.uint8))


# Windows.


def test_pictures_are_prepared_as_the_published_processor_does(models_dir: Path) -> None:
    recognizer, seen = videomae(models_dir, smoothing_s=0.0), []
    frames = clip(4, size=(123, 77))

    def kept(network: Any, windows: Any) -> Any:
        seen.append(windows)
        return network(pixel_values=windows).logits

    with mock.patch.object(recognizer, "_logits", kept):
        scored(recognizer, frames, [2.0])
    processor = transformers.VideoMAEImageProcessor.from_pretrained(
        models_dir / registry.VIDEOMAE_KINETICS.folder
    )
    # 16 frames of 7.5 in a second around the second second.
    chosen = [frame.image[..., ::-1].copy() for frame in frames[7:23]]
    expected = processor(chosen, return_tensors="pt")["pixel_values"]
    assert seen[0].shape == expected.shape == (1, 16, 3, SIDE, SIDE)
    assert float((seen[0] - expected).abs().max()) < 0.01


def test_each_moment_of_a_window_gets_the_nearest_frame() -> None:
    recognizer, network = bare()
    scored(recognizer, numbered(20, rate=2), [5.0, 6.0])
    assert recognizer.frames_per_second == 2
    numbers = (network.seen[0][:, :, 0, 0, 0] * 255).round().int().tolist()
    # Moments 4.25, 4.75, 5.25, 5.75 s lie between two frames: the earlier one counts.
    assert numbers == [[8, 9, 10, 11], [10, 11, 12, 13]]


def test_the_ends_of_a_clip_are_repeated() -> None:
    recognizer, network = bare()
    scored(recognizer, numbered(4, rate=2), [0.0, 2.0])
    numbers = (network.seen[0][:, :, 0, 0, 0] * 255).round().int().tolist()
    assert numbers == [[0, 0, 0, 1], [2, 3, 3, 3]]


def test_red_is_red() -> None:
    recognizer, _ = bare()
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[..., 2] = 255
    assert scored(recognizer, [ClipFrame(0, 0, picture)], [0.0])[0].argmax() == 0


@pytest.mark.parametrize("wrong", [{"window_s": 0}, {"smoothing_s": -1}, {"batch_size": -1}])
def test_a_network_of_ones_own_is_refused_what_no_window_can_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected"):
        bare(**wrong)


def test_times_without_frames_are_refused() -> None:
    recognizer, _ = bare()
    with pytest.raises(ValueError, match="frames: expected one or more, got none"):
        scored(recognizer, [], [1.0])


def test_memory_does_not_grow_with_the_clip() -> None:
    recognizer, _ = bare(frames=16, window_s=2.0, batch_size=2)
    small, alive, most = recognizer._small, weakref.WeakValueDictionary[int, Any](), []

    class Kept(np.ndarray):  # type: ignore[type-arg]
        pass

    def counted(image: Any) -> Any:
        picture = small(image).view(Kept)
        alive[len(most)] = picture
        most.append(len(alive))
        return picture

    with mock.patch.object(recognizer, "_small", counted):
        found = scored(recognizer, numbered_forever(8 * 240), list(np.arange(240) + 0.5))
    assert found.shape == (240, 3) and len(most) > 1800
    # Two windows of 16 that overlap by half, the two of the batch before, and the frame after.
    assert max(most) < 70


def numbered_forever(count: int) -> Iterator[ClipFrame]:
    for number in range(count):
        yield ClipFrame(number, number * SECOND // 8, np.full((4, 4, 3), number % 250, np.uint8))


@pytest.mark.parametrize("width_s", [0.0, 1.0, 2.0])
def test_smoothing_of_less_than_a_step_to_each_side_changes_nothing(width_s: float) -> None:
    table = np.eye(4, dtype=np.float32)
    assert np.array_equal(smoothed(table, np.arange(4) * SECOND, width_s=width_s), table)


def test_smoothing_mixes_neighbours_by_distance() -> None:
    table = np.eye(3, dtype=np.float32)
    found = smoothed(table, np.arange(3) * SECOND, width_s=3.0)
    assert found[1] == pytest.approx([0.2, 0.6, 0.2])
    assert found[0] == pytest.approx([0.75, 0.25, 0])
    assert smoothed(table, np.arange(3) * 9 * SECOND, width_s=3.0) == pytest.approx(table)


def test_a_recognizer_smooths_what_its_network_says() -> None:
    times = [0.5, 1.5, 2.5, 3.5]
    plain = scored(bare(window_s=1.0)[0], clip(4), times)
    smooth = scored(bare(window_s=1.0, smoothing_s=3.0)[0], clip(4), times)
    expected = smoothed(plain, np.array(times) * SECOND, width_s=3.0)
    assert smooth == pytest.approx(expected, abs=1e-6)
    assert np.abs(smooth - plain).max() > 1e-4


# Label maps.


def test_the_map_that_ships_fits_kinetics() -> None:
    classes = kinetics_classes()
    for name in label_map_names():
        label_map = load_label_map(name)
        assert {"cooking", "cleaning", "assembling", "walking"} <= set(label_map.labels)
        assert label_map.labels[-1] == OTHER_ACTION
        table = label_map.matrix(classes)
        assert table.shape == (400, len(label_map.labels)) and np.all(table.sum(axis=1) == 1)
        # A draw among all classes must not pass for an activity: its score would be the share of the classes.
        assert table[:, :-1].mean(axis=0).max() < least_score(len(label_map.labels))
        spelled = {each for names in label_map.classes.values() for each in names}
        assert spelled <= set(classes), "they are spelled as published"


def test_probabilities_are_summed_by_label(models_dir: Path) -> None:
    frames = clip(4)
    mine = scored(videomae(models_dir), frames, [1.0, 2.0])
    plain = videomae(models_dir, label_map="identity")
    assert plain.labels == tuple(kinetics_classes())
    expected = scored(plain, frames, [1.0, 2.0]) @ load_label_map("ego4d").matrix(kinetics_classes())
    assert mine == pytest.approx(expected, abs=1e-5)
    assert len(np.unique(mine.argmax(axis=1))) >= 1 and mine.std() > 0.01


def test_a_map_of_ones_own(models_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "kitchen.yaml"
    path.write_text(yaml.safe_dump({"tea": ["Making_Tea"], "dishes": ["washing dishes"]}, sort_keys=False))
    recognizer = videomae(models_dir, label_map=str(path))
    assert recognizer.labels == ("tea", "dishes", "other")
    assert np.allclose(scored(recognizer, clip(3), [1.0]).sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"tea": ["making tea", "boiling water"]}, "names 1 class.*'boiling water'"),
        ({"tea": ["boiling water"], "a": ["yoga"]}, "'boiling water'; nothing is left of tea"),
        ({"tea": []}, "tea has no class"),
        ({"tea": ["making tea"], "more": ["making tea"]}, "'making tea' belongs to 'tea' and 'more'"),
        ({"other": ["making tea"]}, "'other' stands for all classes that belong to no activity"),
        ({}, "expected at least one activity"),
        (["making tea"], "expected activities, each with a list of class names"),
        ({"tea": "making tea"}, "expected activities, each with a list of class names"),
    ],
)
def test_wrong_maps_say_what_is_wrong(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load_label_map(str(path)).matrix(kinetics_classes())


def test_a_map_that_does_not_exist_names_those_that_do() -> None:
    with pytest.raises(ValueError, match=r"no 'charades'.*auto, identity, .*ego4d"):
        load_label_map("charades")


def test_the_labels_of_the_setting_are_those_of_the_backend(models_dir: Path) -> None:
    recognizer = videomae(models_dir)
    assert chosen_labels(["walking", "cooking"], recognizer.labels) == ("cooking", "walking")
    with pytest.raises(
        ConfigurationError, match=r"'manipulating', which the actions backend does not know.*cooking"
    ):
        chosen_labels(["manipulating"], recognizer.labels)


def test_its_scores_make_segments(models_dir: Path) -> None:
    recognizer, frames = videomae(models_dir), clip(10)
    steps = ActionSteps.of(np.array([frame.timestamp_ns for frame in frames]))
    table = scored(recognizer, frames, (steps.times_ns / SECOND).tolist())
    segments = action_segments(table, steps=steps, labels=recognizer.labels)
    assert segments[0].start_ns == steps.start_ns and segments[-1].end_ns == steps.end_ns


# Checkpoints.


def test_own_weights_have_their_own_labels_frames_and_licence(models_dir: Path) -> None:
    recognizer = videomae(models_dir, checkpoint="own", licence="CC-BY-4.0", window_s=4.0)
    assert recognizer.labels == ("sawing", "gluing", "resting")
    assert recognizer.frames_per_second == 2
    assert recognizer.info.licence == "CC-BY-4.0" and recognizer.info.model == OWN.name
    assert scored(recognizer, clip(3), [0.5, 1.5]).shape == (2, 3)
    assert videomae(models_dir).info.licence == "CC-BY-NC-4.0"


def test_a_profile_for_commerce_refuses_the_published_weights() -> None:
    def profile(**settings: Any) -> Profile:
        config = BackendConfig(backend="videomae", settings=settings)
        return Profile(name="p", backends={"actions": config}, commercial_use=True)

    with pytest.raises(ConfigurationError, match=r"CC-BY-NC-4\.0 forbids it.*own with weights you may use"):
        profile()
    with pytest.raises(ConfigurationError, match="licence_permits_commercial_use"):
        profile(checkpoint="own")
    profile(checkpoint="own", licence="MIT", licence_permits_commercial_use=True)


@pytest.mark.parametrize(("task", "built"), [("actions", VideoMAERecognizer), ("flow", RaftFlow)])
def test_the_reference_profile_shows_the_defaults(task: str, built: type) -> None:
    config = load_profile("reference").backends[task]
    parameters = inspect.signature(built).parameters
    defaults = {name: each.default for name, each in parameters.items() if name != "models_dir"}
    assert dict(config.settings) == defaults
    assert tuple(defaults) == tuple(BACKENDS[task][config.backend].settings)


def test_weights_without_a_head_are_refused(tmp_path: Path) -> None:
    folder = save_videomae(tmp_path, OWN, ["a", "b"])
    network = transformers.VideoMAEForVideoClassification.from_pretrained(folder)
    network.videomae.save_pretrained(folder)
    with pytest.raises(BackendUnavailable, match=r"missing or of another shape .*: classifier.*fine-tune"):
        videomae(tmp_path, checkpoint="own")


def test_published_names_of_biases_are_read(tmp_path: Path) -> None:
    """The published file has q_bias and v_bias, as its authors named them."""
    from safetensors.torch import load_file, save_file  # type: ignore[import-not-found,unused-ignore]

    folder = save_videomae(tmp_path, OWN, ["a", "b"])
    before = scored(videomae(tmp_path, checkpoint="own"), clip(3), [1.0])
    state = load_file(folder / "model.safetensors")
    published = {
        name.replace("query.bias", "q_bias").replace("value.bias", "v_bias"): value
        + (0.5 if "bias" in name else 0)
        for name, value in state.items()
    }
    assert any(name.endswith("attention.attention.q_bias") for name in published)
    save_file(published, folder / "model.safetensors", metadata={"format": "pt"})
    after = scored(videomae(tmp_path, checkpoint="own"), clip(3), [1.0])
    assert np.abs(after - before).max() > 1e-3


def test_preprocessing_of_an_earlier_release_tells_one_size_for_both(tmp_path: Path) -> None:
    folder = save_videomae(tmp_path, OWN, ["a", "b"])
    expected = scored(videomae(tmp_path, checkpoint="own"), clip(3), [1.0])
    path = folder / "preprocessor_config.json"
    content = json.loads(path.read_text())
    del content["crop_size"]
    content["size"] = content["size"]["shortest_edge"]
    path.write_text(json.dumps(content))
    found = scored(videomae(tmp_path, checkpoint="own", batch_size=2), clip(3), [1.0])
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"do_normalize": False}, "do_normalize: expected true, got False"),
        ({"do_rescale": False}, "do_rescale: expected true"),
        ({"do_resize": None}, "do_resize: expected true, got None"),
        ({"do_center_crop": False}, "do_center_crop: expected true"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor: expected 1/255, got 0.0078"),
        ({"resample": 3}, r"resample: expected 2 \(bilinear\), got 3"),
    ],
)
def test_preprocessing_of_another_kind_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    folder = save_videomae(tmp_path, OWN, ["a", "b"])
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BackendUnavailable, match=said):
        videomae(tmp_path, checkpoint="own")


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "preprocessor_config.json"])
def test_damaged_and_missing_files_are_named(tmp_path: Path, file: str) -> None:
    folder = save_videomae(tmp_path, OWN, ["a", "b"])
    (folder / file).write_bytes(b"{}")
    with pytest.raises(BackendUnavailable, match="own-actions"):
        videomae(tmp_path, checkpoint="own")
    (folder / file).unlink()
    with pytest.raises(BackendUnavailable, match=f"there is no .*{file}"):
        videomae(tmp_path, checkpoint="own")


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    save_videomae(tmp_path, OWN, ["a", "b"])
    files = {f"{OWN.folder}/config.json": {"sha256": "0" * 64, "size_bytes": 1}}
    (tmp_path / LOCK_FILE).write_text(json.dumps({"format": 1, "files": files}))
    with pytest.raises(BackendUnavailable, match=f"expected {'0' * 64}"):
        VideoMAERecognizer(models_dir=tmp_path, checkpoint="own")


def test_nothing_is_fetched(models_dir: Path) -> None:
    with mock.patch("socket.socket.connect", side_effect=AssertionError("goes online")):
        scored(videomae(models_dir), clip(2), [1.0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"checkpoint": "somethings"}, "checkpoint: expected one of kinetics, own, got 'somethings'"),
        ({"window_s": 0}, "window_s: expected a number above 0 and at most 60, got 0"),
        ({"smoothing_s": -1}, "smoothing_s: expected a number at least 0 and at most 60, got -1"),
        ({"label_map": "nothing"}, "label_map: there is no 'nothing'"),
        ({"precision": "int4"}, "precision: expected one of"),
        ({"compile": "maybe"}, "compile: expected one of"),
        ({"batch_size": -2}, "batch_size: expected 0 or more, got -2"),
        ({"batch_size": "many"}, "batch_size: expected a whole number, got 'many'"),
        ({"batch_size": True}, "batch_size: expected a whole number, got True"),
        ({"window_s": "two"}, "window_s: expected a number above 0 and at most 60, got 'two'"),
        ({"smoothing_s": False}, "smoothing_s: expected a number at least 0 and at most 60, got False"),
        ({"device": "gpu"}, "device: expected auto, cpu, cuda or cuda:N, got 'gpu'"),
    ],
)
def test_wrong_settings_are_named(models_dir: Path, settings: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        videomae(models_dir, **settings)


def test_it_says_where_it_runs_and_draws_no_bar(
    models_dir: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, "resources.models"), nothing_loaded():
        videomae(models_dir, device="cpu")
    assert "on cpu, float32, not compiled" in caplog.text and "label map ego4d" in caplog.text
    assert "Loading weights" not in capfd.readouterr().err


# Memory.


def test_running_out_of_memory_loses_nothing(models_dir: Path) -> None:
    frames, times = clip(9), [0.5 + second for second in range(9)]
    expected = scored(videomae(models_dir, batch_size=1), frames, times)
    recognizer, sizes = videomae(models_dir, batch_size=8), []
    with crowded(recognizer, limit=3, sizes=sizes):
        found = scored(recognizer, frames, times)
    assert max(sizes) == 8 and sizes[-1] <= 3
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_window_that_does_not_fit_says_so(models_dir: Path) -> None:
    recognizer = videomae(models_dir)
    with crowded(recognizer, limit=0, sizes=[]), pytest.raises(DeviceMemoryExhausted, match="does not fit"):
        scored(recognizer, clip(2), [1.0])


@contextmanager
def crowded(recognizer: VideoWindowRecognizer, *, limit: int, sizes: list[int]) -> Iterator[None]:
    """A device on which no more than so many windows fit."""
    run = recognizer._logits

    def attempt(network: Any, windows: Any) -> Any:
        sizes.append(len(windows))
        if len(windows) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(network, windows)

    with mock.patch.object(recognizer, "_logits", attempt):
        yield


def test_broken_answers_are_no_probabilities() -> None:
    recognizer, _ = bare()
    with (
        mock.patch.object(
            recognizer, "_logits", lambda _, windows: windows.mean(dim=(1, 3, 4)) * float("nan")
        ),
        pytest.raises(ValueError, match="bare: expected finite probabilities"),
    ):
        scored(recognizer, numbered(4, rate=2), [1.0])


# Another architecture.


class TwoPathways(torch.nn.Module):  # type: ignore[misc,unused-ignore]
    """The interface of SlowFast (Feichtenhofer et al., 2019) as PyTorchVideo has it: a list of two clips."""

    def __init__(self) -> None:
        super().__init__()
        self.slow, self.fast = torch.nn.Conv3d(3, 4, 1), torch.nn.Conv3d(3, 2, 1)
        self.head = torch.nn.Linear(6, 400)

    def forward(self, pathways: Any) -> Any:
        slow, fast = pathways
        assert slow.shape[1] == fast.shape[1] == 3 and fast.shape[2] == 4 * slow.shape[2] == 32
        return self.head(torch.cat([self.slow(slow).mean((2, 3, 4)), self.fast(fast).mean((2, 3, 4))], 1))


class SlowFastRecognizer(VideoWindowRecognizer):
    """What a backend of SlowFast has to add."""

    def _logits(self, network: Any, windows: Any) -> Any:
        fast = windows.transpose(1, 2)
        return network([fast[:, :, ::4], fast])


def test_slow_fast_fits_with_a_few_lines() -> None:
    recognizer = SlowFastRecognizer(
        held=HeldNetwork(TwoPathways(), device="cpu"),
        window=WindowInput(
            frames=32, shorter_side=24, crop=(24, 24), mean=(0.45,) * 3, deviation=(0.225,) * 3
        ),
        classes=kinetics_classes(),
        label_map=load_label_map("ego4d"),
        info=BackendInfo(task="actions", backend="slowfast", model="SlowFast"),
        window_s=64 / 30,
        smoothing_s=3.0,
        batch_size=0,
    )
    assert isinstance(recognizer, ActionRecognizer) and recognizer.frames_per_second == pytest.approx(15)
    found = scored(recognizer, clip(3, rate=15), [0.5, 1.5, 2.5])
    assert found.shape == (3, len(recognizer.labels)) and np.allclose(found.sum(axis=1), 1, atol=1e-5)


def test_a_label_map_of_two_activities() -> None:
    label_map = LabelMap(name="two", classes={"a": ("x",), "b": ("y", "z")})
    assert label_map.matrix(["x", "w", "z", "y"]).tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 0]]


def test_recognizers_that_smooth_otherwise_share_the_network(models_dir: Path) -> None:
    first = videomae(models_dir, device="cpu")
    second = videomae(models_dir, device="cpu", smoothing_s=0.0, window_s=1.0, label_map="identity")
    assert second._held is first._held
    assert videomae(models_dir, device="cpu", checkpoint="own")._held is not first._held
    assert videomae(models_dir, device="cpu", precision="bfloat16")._held is not first._held
