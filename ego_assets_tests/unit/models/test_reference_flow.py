"""RAFT: the published files, its agreement with torchvision, real weights against known flow, memory."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from ego_assets.schema.camera import PinholeCamera
from ego_assets.schema.errors import BackendUnavailable, ConfigurationError, DeviceMemoryExhausted
from ego_assets.schema.frames import ClipFrame
from ego_assets.synth import SceneSpec
from ego_assets.synth.scene import Scene
from ego_assets.synth.trajectory import trajectory_of
from ego_assets_tests.checkpoints import any_digest, nothing_loaded, small_backend
from ego_assets_tests.checkpoints.flow import make_raft
from resources.models import registry
from resources.models.flow import DisFlow
from resources.models.raft import RaftFlow, torchvision_name
from resources.profiles import BackendConfig, Profile, build_backend

torch = pytest.importorskip("torch", reason="RAFT runs on PyTorch: pip install 'ego-assets[reference]'")
pytest.importorskip("torchvision", reason="RAFT is torchvision's: pip install 'ego-assets[reference]'")

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Pair = tuple[Image, Image]
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_raft(folder)
    make_raft(folder, size="large")
    return folder


@pytest.fixture(scope="module")
def real_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights with the file that RAFT's authors published."""
    folder = Path(os.environ.get("EGO_TESTDATA", str(ROOT.parent / "shared" / "testdata")))
    path = folder / "weights" / "raft" / "raft-small.pth"
    if not path.is_file():
        pytest.skip(f"there is no {path.name} below EGO_TESTDATA")
    models = tmp_path_factory.mktemp("real")
    target = models / registry.RAFT_SMALL_PRINCETON.file
    target.parent.mkdir(parents=True)
    target.symlink_to(path.resolve())
    return models


def raft(models_dir: Path, **settings: Any) -> RaftFlow:
    with any_digest():
        return RaftFlow(models_dir=models_dir, **{"checkpoint": "small", "iterations": 2, **settings})


def noise(count: int, width: int = 64, height: int = 48) -> list[Pair]:
    rng = np.random.default_rng(4)
    pictures = rng.integers(0, 255, (count + 1, height, width, 3), dtype=np.uint8)
    return list(itertools.pairwise(pictures))


@pytest.mark.parametrize("size", ["small", "large"])
def test_the_result_is_that_of_torchvision(models_dir: Path, size: str) -> None:
    (first, second), flow = noise(1, 200, 136)[0], raft(models_dir, checkpoint=size, iterations=3)
    network = flow._held.network.raft

    def prepared(picture: Image) -> Any:
        return torch.from_numpy(picture[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1

    with torch.inference_mode():
        expected = network(prepared(first), prepared(second), num_flow_updates=3)[-1]
    found = flow.flow([(first, second)])[0]
    assert found == pytest.approx(expected[0].permute(1, 2, 0).numpy(), abs=1e-3)
    assert np.abs(found).max() > 0.1, "a field of zeros would agree by chance"


@pytest.mark.parametrize("size", ["small", "large"])
def test_pictures_are_continued_on_all_sides_and_fields_cut_back_to_them(models_dir: Path, size: str) -> None:
    (first, second), flow = noise(1, 141, 90)[0], raft(models_dir, checkpoint=size)

    def continued(picture: Image) -> Any:
        values = torch.from_numpy(picture[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        # Left, right, above and below, to 144 x 128 pixels.
        return torch.nn.functional.pad(values, (1, 2, 19, 19), mode="replicate")

    with torch.inference_mode():
        expected = flow._held.network.raft(continued(first), continued(second), num_flow_updates=2)[-1]
    inside = expected[0, :, 19 : 19 + 90, 1 : 1 + 141].permute(1, 2, 0).numpy()
    (found,) = flow.flow([(first, second)])
    assert found.shape == (90, 141, 2)
    np.testing.assert_allclose(found, inside, atol=1e-3)
    # Otherwise a field that is cut out beside its place would agree.
    assert np.abs(np.diff(inside, axis=1)).max() > 0.02 < np.abs(np.diff(inside, axis=0)).max()


def test_it_says_what_it_runs_and_where(models_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "resources.models"), nothing_loaded():
        flow = raft(models_dir, device="cpu")
    assert "RAFT small, torchvision C+T on cpu, float32, not compiled" in caplog.text
    assert flow.info.model == "RAFT small, torchvision C+T"
    assert flow.info.licence == "BSD-3-Clause"
    assert len(flow.info.weights_sha256) == 64


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"checkpoint": "huge"}, "checkpoint: expected one of large, small, small_princeton, got 'huge'"),
        ({"iterations": 0}, "iterations: expected 1 or more, got 0"),
        ({"batch_size": -1}, "batch_size: expected 0 or more, got -1"),
        ({"precision": "int8"}, "precision: expected one of auto, .*, got 'int8'"),
        ({"compile": "maybe"}, "compile: expected one of auto, always, never, got 'maybe'"),
        ({"device": "abacus"}, "device: expected auto, cpu"),
    ],
)
def test_wrong_settings_are_named(models_dir: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        raft(models_dir, **settings)


def test_a_profile_with_a_wrong_setting_says_where() -> None:
    with pytest.raises(
        ConfigurationError, match=r"settings of flow backend 'raft': checkpoint: expected one of"
    ):
        Profile(name="p", backends={"flow": BackendConfig(backend="raft", settings={"checkpoint": "huge"})})


def test_weights_of_another_network_are_refused(models_dir: Path, tmp_path: Path) -> None:
    target = tmp_path / registry.RAFT_LARGE.file
    target.parent.mkdir()
    target.write_bytes((models_dir / registry.RAFT_SMALL.file).read_bytes())
    with pytest.raises(BackendUnavailable, match=f"{target.name} does not hold (the )?weights"):
        raft(tmp_path, checkpoint="large")


def test_another_digest_than_the_published_one_is_refused(models_dir: Path) -> None:
    with pytest.raises(BackendUnavailable, match="expected 01064c6d"):
        RaftFlow(models_dir=models_dir, checkpoint="small")


def test_missing_weights_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match="models pull raft-large"):
        RaftFlow(models_dir=tmp_path)


def test_nothing_is_downloaded(models_dir: Path) -> None:
    with mock.patch("torch.hub.load_state_dict_from_url", side_effect=AssertionError("downloads")):
        assert raft(models_dir).flow(noise(1))


def test_running_out_of_memory_loses_nothing(models_dir: Path) -> None:
    pairs = noise(7)
    expected = raft(models_dir, batch_size=1).flow(pairs)
    flow, sizes = raft(models_dir, batch_size=8), []
    with crowded(flow, limit=2, sizes=sizes):
        found = flow.flow(pairs)
    assert max(sizes) == 7 and sizes[-1] <= 2
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-3)


def test_a_pair_that_does_not_fit_says_so(models_dir: Path) -> None:
    flow = raft(models_dir)
    with crowded(flow, limit=0, sizes=[]), pytest.raises(DeviceMemoryExhausted, match="does not fit"):
        flow.flow(noise(1))


@contextmanager
def crowded(flow: RaftFlow, *, limit: int, sizes: list[int]) -> Iterator[None]:
    """A device on which no more than so many pairs fit."""
    run = flow._run

    def attempt(pairs: Sequence[Pair]) -> Any:
        sizes.append(len(pairs))
        if len(pairs) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(pairs)

    with mock.patch.object(flow, "_run", attempt):
        yield


def test_bfloat16_runs_with_a_correlation_in_float32(models_dir: Path) -> None:
    exact = raft(models_dir).flow(noise(1, 160, 90))[0]
    (field,) = raft(models_dir, precision="bfloat16").flow(noise(1, 160, 90))
    assert field.dtype == np.float32 and np.isfinite(field).all()
    assert np.abs(field - exact).max() > 0, "it ran in another precision"


@pytest.mark.parametrize(("compile", "count"), [("always", 1), ("auto", 0), ("never", 0)])
def test_on_a_cpu_it_is_compiled_only_where_asked_for(models_dir: Path, compile: str, count: int) -> None:
    calls: list[object] = []
    with mock.patch("torch.compile", lambda call, **options: calls.append(call) or call):
        flow = raft(models_dir, compile=compile, device="cpu")
    assert len(calls) == count
    assert flow.flow(noise(1))[0] == pytest.approx(raft(models_dir).flow(noise(1))[0], abs=1e-3)


def test_correlations_are_looked_up_without_what_cannot_be_compiled_on_a_gpu() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    from resources.models import raft_network

    # Tensors of a GPU without numbers, and with it the choice of operators: cuDNN's would ask for a driver.
    with FakeTensorMode():
        features = torch.empty((2, 64, 16, 20), device="cuda")
        pyramid = raft_network._correlations(features, features, levels=4)
        places = torch.empty((2, 2, 16, 20), device="cuda")
        found = raft_network._neighbourhoods(pyramid, places, radius=4)
    assert list(found.shape) == [2, 4 * 81, 16, 20] and found.device.type == "cuda"


@pytest.mark.parametrize(
    ("size", "expected"), [((320, 240), 1491), ((1280, 720), 10), ((1920, 1080), 2), ((3840, 2160), 1)]
)
def test_no_more_pairs_than_their_correlations_can_be_counted(
    models_dir: Path, size: tuple[int, int], expected: int
) -> None:
    from resources.models.raft_network import most_pairs

    assert most_pairs(*size) == expected
    flow, pairs = raft(models_dir, batch_size=5), noise(3)
    with (
        mock.patch("resources.models.raft_network.most_pairs", lambda width, height: 2),
        mock.patch.object(flow, "_run", side_effect=flow._run) as run,
    ):
        assert len(flow.flow(pairs)) == 3
    assert [len(call.args[0]) for call in run.call_args_list] == [2, 1]


def test_a_network_is_shared_until_its_file_changes(models_dir: Path, tmp_path: Path) -> None:
    make_raft(tmp_path)
    first, pairs = raft(tmp_path), noise(1)
    further = raft(tmp_path, iterations=3, batch_size=1)
    assert further._held is first._held
    assert not np.array_equal(further.flow(pairs)[0], first.flow(pairs)[0]), "it refined as often"
    assert raft(models_dir)._held is not first._held, "files of another folder"
    path = locate_small(tmp_path)
    state = torch.load(path, weights_only=True)
    torch.save({name: value * 2 for name, value in state.items()}, path)
    changed = raft(tmp_path)
    assert changed._held is not first._held
    assert changed.info.weights_sha256 != first.info.weights_sha256
    assert not np.array_equal(changed.flow(pairs)[0], first.flow(pairs)[0])


def locate_small(folder: Path) -> Path:
    (path,) = [path for path in folder.rglob("*") if path.is_file() and "small" in path.name]
    return path


def test_depth_from_motion_runs_on_it(tmp_path: Path) -> None:
    """With random flow there is nothing to measure, but everything fits together."""
    settings = make_raft(tmp_path)
    profile = Profile(
        name="p",
        backends={
            "depth": BackendConfig(
                backend="depth_from_motion", settings={"max_side": 160, "window_frames": 2}
            ),
            "flow": BackendConfig(backend="raft", settings=settings),
        },
    )
    frames, camera = clip(width=160, height=90, count=3)
    with any_digest():
        depth = build_backend(profile, "depth", models_dir=tmp_path)
    results = list(depth.estimate(frames, camera=camera))
    assert [result.frame_index for result in results] == [frame.frame_index for frame in frames]


# With the authors' weights.


def test_the_published_names_are_those_of_torchvision(real_weights: Path) -> None:
    path = real_weights / registry.RAFT_SMALL_PRINCETON.file
    published = torch.load(path, map_location="cpu", weights_only=True)
    from resources.models.raft_network import Raft

    ours = Raft("small").raft.state_dict()
    named = {torchvision_name(name.removeprefix("module.")): tuple(v.shape) for name, v in published.items()}
    assert len(named) == len(published) == 106
    assert named == {name: tuple(value.shape) for name, value in ours.items()}


@pytest.mark.parametrize(("right", "down", "size"), [(5, -3, (321, 179)), (0, 12, (180, 320))])
def test_real_weights_find_a_shift(real_weights: Path, right: int, down: int, size: tuple[int, int]) -> None:
    flow = RaftFlow(models_dir=real_weights, checkpoint="small_princeton")
    width, height = size
    coarse = np.random.default_rng(1).random((height // 6 + 12, width // 6 + 12))
    fine = cv2.GaussianBlur(np.kron(coarse, np.ones((6, 6))), (7, 7), 0)
    picture = np.repeat((fine * 255).astype(np.uint8)[..., None], 3, axis=2)
    first = picture[20 : 20 + height, 20 : 20 + width]
    second = picture[20 - down : 20 - down + height, 20 - right : 20 - right + width]
    field = flow.flow([(first, second)])[0]
    assert field.shape == (height, width, 2)
    middle = field[height // 4 : -height // 4, width // 4 : -width // 4].reshape(-1, 2)
    assert np.median(middle, axis=0) == pytest.approx([right, down], abs=0.5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_real_weights_err_less_than_dis_where_the_flow_is_known(real_weights: Path, precision: str) -> None:
    """Endpoint error against the flow that follows from depth and poses of rendered rooms, 0.2 s apart."""
    flow = RaftFlow(models_dir=real_weights, checkpoint="small_princeton", precision=precision)  # type: ignore[arg-type]
    ours, theirs = [], []
    for first, second, truth, visible in known_pairs():
        pair = (first, second)
        ours.append(np.linalg.norm(flow.flow([pair])[0] - truth, axis=-1)[visible])
        theirs.append(np.linalg.norm(DisFlow().flow([pair])[0] - truth, axis=-1)[visible])
    error, other = np.concatenate(ours), np.concatenate(theirs)
    assert error.mean() < 1.2 and np.median(error) < 0.7
    assert error.mean() < 0.8 * other.mean()
    assert (error > 3).mean() < 0.5 * (other > 3).mean()


def clip(*, width: int, height: int, count: int) -> tuple[list[ClipFrame], PinholeCamera]:
    scene = Scene(SceneSpec(seed=3, width=width, height=height, hands=False))
    frames = [
        ClipFrame(number, number * 200_000_000, scene.frame(number / 5, number).rendering.image)
        for number in range(count)
    ]
    matrix = scene.intrinsics
    camera = PinholeCamera(
        width=width,
        height=height,
        fx=matrix[0, 0],
        fy=matrix[1, 1],
        cx=matrix[0, 2],
        cy=matrix[1, 2],
        source="sidecar",
    )
    return frames, camera


@cache
def known_pairs() -> list[tuple[Image, Image, Floats, npt.NDArray[np.bool_]]]:
    """Two pictures, the true flow from the first, and which of its pixels the second shows as well."""
    found = []
    for seed, motion in ((3, "walk"), (11, "look_around")):
        spec = SceneSpec(seed=seed, width=480, height=270, hands=False, camera_motion=motion)  # type: ignore[arg-type]
        scene = Scene(spec)
        times = np.array([0.3, 0.5])
        one, two = (scene.frame(time, int(time * 30)).rendering for time in times.tolist())
        pose_one, pose_two = trajectory_of(spec).poses(times)
        y, x = np.mgrid[: spec.height, : spec.width].astype(np.float64)
        matrix = scene.intrinsics
        rays = np.stack(
            [(x - matrix[0, 2]) / matrix[0, 0], (y - matrix[1, 2]) / matrix[1, 1], np.ones_like(x)], -1
        )
        world = rays / np.maximum(one.inverse_depth, 1e-6)[..., None] @ pose_one[:3, :3].T + pose_one[:3, 3]
        seen = (world - pose_two[:3, 3]) @ pose_two[:3, :3]
        places = seen[..., :2] / seen[..., 2:] * matrix[[0, 1], [0, 1]] + matrix[:2, 2]
        near = np.rint(places).astype(int)
        inside = np.all((near >= 0) & (near < [spec.width, spec.height]), axis=-1) & (seen[..., 2] > 0.1)
        near = np.clip(near, 0, [spec.width - 1, spec.height - 1])
        hidden = np.abs(seen[..., 2] * two.inverse_depth[near[..., 1], near[..., 0]] - 1) > 0.03
        found.append((one.image, two.image, places - np.stack([x, y], axis=-1), inside & ~hidden))
    return found


def test_the_small_backend_of_the_suite_is_this_one(tmp_path: Path) -> None:
    assert small_backend("flow", "raft", tmp_path).info.backend == "raft"
