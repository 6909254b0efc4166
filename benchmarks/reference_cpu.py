"""What the layers around a network cost on the CPU: decoding, resizing, PNG and the commit, with a stand-in network.

The stand-in answers at once, so that what is left is the overhead of the layer. CPU milliseconds a frame are those of
the whole process, all threads included. ``depth: beside the network`` leaves out what a GPU does around the network
(the resizing before and after it); ``depth: everything on the CPU`` does that on the CPU as well, through the backend
of the reference profile.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from _harness import Reporter, cpu_seconds, parse_arguments

#: CPU milliseconds a frame that the overhead may cost at :data:`SIDE`.
TARGET_MS = 15.0
#: Shorter side in pixels at which the networks for depth look.
SIDE = 518
#: Width and height of the frames.
SIZES = {f"{SIDE} px (924x{SIDE})": (924, SIDE), "720p proxy": (1280, 720)}
#: Depth maps that differ; those of a clip are these again and again.
_MAPS = 8


def main() -> None:
    arguments = parse_arguments(__doc__)
    reporter = Reporter("reference_cpu")
    logging.disable(logging.CRITICAL)
    runs, count = (1, 60) if arguments.quick else (3, 240)
    with tempfile.TemporaryDirectory(prefix="reference-benchmark-") as folder:
        for name, size in SIZES.items():
            target = TARGET_MS if size[1] == SIDE else None
            bench = LayerBench(Path(folder) / name.split()[0], size=size, count=count)
            for what, estimator in estimators(size).items():
                label = f"depth: {what}, {name}"
                if isinstance(estimator, str):
                    reporter.report(
                        f"{label}: overhead", None, "CPU ms a frame", target=target, reason=estimator
                    )
                    continue
                bench.run_depth(estimator)
                cost, wall = [], []
                for _ in range(runs):
                    started = time.perf_counter()
                    cost.append(1000 * cpu_seconds(lambda: bench.run_depth(estimator)) / count)  # noqa: B023
                    wall.append(time.perf_counter() - started)
                reporter.report(
                    f"{label}: overhead", statistics.median(cost), "CPU ms a frame", target=target
                )
                reporter.report(
                    f"{label}: throughput", count / statistics.median(wall), "frames/s", better="higher"
                )
            for part, milliseconds in parts(bench, runs=max(runs, 3)).items():
                reporter.report(f"{part}, {name}", milliseconds, "CPU ms a frame")


class LayerBench:
    """A real store and database that hold one de-identified clip; ``depth_maps`` is made from it again and again."""

    def __init__(self, folder: Path, *, size: tuple[int, int], count: int) -> None:
        import uuid

        from ego_assets.execution import Services
        from ego_assets.schema.clip import PRIVACY_LAYER, Clip
        from ego_assets.schema.layers import LayerSpec
        from ego_assets.settings import Settings
        from resources.platform import build_resources

        self.size, self.count = size, count
        settings = Settings(data_dir=folder, free_disk_reserve_bytes=0)
        resources = build_resources(settings)
        self._models = StandInModels()
        self._services = Services(
            settings=settings,
            database=resources["database"].get(),
            store=resources["store"].get(),
            models=self._models,  # type: ignore[arg-type]
        )
        self._clip_id = str(uuid.UUID(int=1, version=4))
        self._services.database.add_clip(Clip(clip_id=self._clip_id, source_name="clip.mp4"))
        blurred = LayerSpec(name=PRIVACY_LAYER, group="benchmark", description="", stage=2, essential=True)
        self._run(blurred, self._make_blurred)
        self.video = next(folder.glob("**/proxy.mp4"))

    def run_depth(self, estimator: Any) -> None:
        """Make and commit ``depth_maps`` with an estimator in place of the profile's."""
        from ego_assets.assets.depth_maps import SPEC, make

        self._models.estimator = estimator
        self._run(SPEC, make)

    def _run(self, spec: Any, make: Callable[..., Any]) -> None:
        from ego_assets.execution import LayerState, run_layer

        outcome = run_layer(
            spec,
            make,
            self._clip_id,
            services=self._services,
            run_id="benchmark",
            log=logging.getLogger("benchmark"),
            ancestors=(),
        )
        if outcome.state is not LayerState.COMMITTED:
            raise RuntimeError(f"{spec.name} was not committed: {outcome.reason}")

    def _make_blurred(self, work: Any, staged: Any) -> Any:
        import pyarrow.parquet as pq

        from ego_assets.execution import LayerDraft
        from ego_assets.media.motion_table import MOTION_FILE, motion_table
        from ego_assets.media.timeline import read_timeline
        from ego_assets.schema.motion import CameraMotion
        from ego_assets.schema.vocabulary import PrivacyStatus

        path = write_video(staged.path("proxy.mp4"), size=self.size, count=self.count)
        table = motion_table(
            CameraMotion.still(self.count),
            read_timeline(path).timestamps_ns,
            measured_on=self.size,
            resolution=self.size,
        )
        pq.write_table(table, staged.path(MOTION_FILE))
        return LayerDraft(clip_updates={"privacy_status": PrivacyStatus.BLURRED}, resolution=self.size)


def write_video(path: Path, *, size: tuple[int, int], count: int) -> Path:
    """A rendered room; its first second is rendered, and shown forwards and backwards."""
    import av

    from ego_assets.media.encode import VideoWriter
    from ego_assets.synth import SceneSpec
    from ego_assets.synth.scene import Scene

    scene = Scene(SceneSpec(seed=3, width=size[0], height=size[1]))
    rendered = [scene.frame(number / 30, number).rendering.image for number in range(30)]
    order = [*range(30), *range(28, 0, -1)]
    rate = Fraction(30)
    with VideoWriter(
        path, width=size[0], height=size[1], time_base=1 / (rate * 512), frame_rate=rate
    ) as writer:
        for number in range(count):
            picture = av.VideoFrame.from_ndarray(rendered[order[number % len(order)]], format="bgr24")
            writer.write(picture.reformat(format="yuv420p"), timestamp_ns=round(number * 1e9 / 30))
    return path


def depth_of_scene(size: tuple[int, int]) -> Any:
    """``float32 [maps, height, width]`` in metres: true depth of a rendered room, with a network's soft unrest."""
    import cv2
    import numpy as np

    from ego_assets.synth import SceneSpec
    from ego_assets.synth.scene import Scene

    width, height = size
    scene = Scene(SceneSpec(seed=3, width=width, height=height))
    rng = np.random.default_rng(1)
    maps = []
    for number in range(_MAPS):
        inverse = scene.frame(number / 5, number * 6).rendering.inverse_depth
        unrest = rng.normal(1, 0.01, (height // 8 + 1, width // 8 + 1)).astype(np.float32)
        depth = np.clip(1 / np.maximum(inverse, 0.05), 0.3, 19.9).astype(np.float32)
        maps.append(depth * cv2.resize(unrest, size, interpolation=cv2.INTER_LINEAR))
    return np.stack(maps)


class StandInDepth:
    """An estimator whose network answers at once."""

    is_dense = True

    def __init__(self, give: Callable[[Iterable[Any]], Iterator[Any]]) -> None:
        from ego_assets.schema.detections import BackendInfo

        self._give = give
        self.info = BackendInfo(task="depth", backend="stand_in", model="none")

    def estimate(self, frames: Iterable[Any], **_: Any) -> Iterator[Any]:
        """One map per frame."""
        return self._give(frames)


def ready_maps(maps: Any) -> Callable[[Iterable[Any]], Iterator[Any]]:
    """Gives maps that were made before: what a layer costs beside its backend."""
    from ego_assets.schema.camera import Scale
    from ego_assets.schema.depth import DepthFrame, constant_confidence

    confidence = constant_confidence(*maps.shape[1:])

    def give(frames: Iterable[Any]) -> Iterator[Any]:
        for number, frame in enumerate(frames):
            yield DepthFrame(
                frame_index=frame.frame_index,
                timestamp_ns=frame.timestamp_ns,
                depth=maps[number % len(maps)],
                confidence=confidence,
                scale=Scale.METRIC,
            )

    return give


class StandInModels:
    """What a layer asks of the models: one attempt, every frame."""

    estimator: Any = None

    def ladder(self, task: str) -> Sequence[Any]:
        """One attempt."""
        from ego_assets.schema.ladder import Rung

        return [Rung(name="stand-in", open=lambda: self.estimator, config={"backend": "stand_in"})]

    def frames_per_second(self, task: str) -> float | None:
        """Every frame."""
        return None

    def settings(self, tasks: Iterable[str], *, leak_check: bool = False) -> Mapping[str, Mapping[str, Any]]:
        """None."""
        return {}

    def give_back_memory(self, *, keep_networks: bool) -> None:
        """Nothing is held."""


def estimators(size: tuple[int, int]) -> dict[str, Any]:
    """What stands in for the network, or why it cannot."""
    return {
        "beside the network": StandInDepth(ready_maps(depth_of_scene(size))),
        "everything on the CPU": reference_backend(size),
    }


def reference_backend(size: tuple[int, int]) -> Any:
    """The backend of the reference profile around a network that answers at once; a reason where it cannot run."""
    try:
        import torch  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        return f"needs the reference environment: {error}"
    # Threads that wait for the next step of a calculation spin, which is no work.
    torch.set_num_threads(1)
    from functools import partial
    from types import SimpleNamespace

    from ego_assets.schema.camera import Scale
    from resources.models.depth_anything import DepthNetwork, metric_depth, network_input_size
    from resources.models.torch_runtime import HeldNetwork

    answers = torch.from_numpy(depth_of_scene(network_input_size(*size, input_side=SIDE)))

    class Instant(torch.nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def forward(self, pixel_values: Any) -> Any:
            return SimpleNamespace(predicted_depth=answers[: len(pixel_values)])

    held = HeldNetwork(Instant(), device="cpu", precision="float32", compile="never", name="stand-in")
    to_depth = partial(metric_depth, farthest_m=20.0)
    network = DepthNetwork(held, to_depth, scale=Scale.METRIC, input_side=SIDE)
    return StandInDepth(lambda frames: network.run(frames))


def parts(bench: LayerBench, *, runs: int) -> dict[str, float]:
    """What single steps cost, alone."""
    import numpy as np

    from ego_assets.media.decode import decode_frames
    from ego_assets.media.depth_archive import depth_values
    from ego_assets.media.rasters import encode_indexed_png, encode_png16

    maps = depth_of_scene(bench.size)
    bands = np.linspace(0.3, 8, 12)
    ids = [np.digitize(depth, bands).astype(np.uint8) for depth in maps]
    colours = np.random.default_rng(0).integers(0, 255, (256, 3), dtype=np.uint8)

    def decode() -> None:
        for frame in decode_frames(bench.video):
            frame.bgr()

    def each(work: Callable[[Any], object], items: Iterable[Any]) -> Callable[[], None]:
        held = list(items)

        def run() -> None:
            for item in held:
                work(item)

        return run

    steps: dict[str, tuple[Callable[[], None], int]] = {
        "decoding to BGR": (decode, bench.count),
        "depth to a 16-bit PNG": (each(lambda depth: encode_png16(depth_values(depth)), maps), len(maps)),
        "a mask to an indexed PNG": (each(lambda mask: encode_indexed_png(mask, colours), ids), len(ids)),
    }
    found = {}
    for name, (work, count) in steps.items():
        work()
        found[name] = statistics.median(1000 * cpu_seconds(work) / count for _ in range(runs))
    return found


if __name__ == "__main__":
    main()
