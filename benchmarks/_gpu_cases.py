"""The networks that the GPU benchmark measures: alone, and in the layer that uses them.

The clip was taken in and de-identified before. A backend of the registry is built on a checkpoint of the true size,
and does its task on the clip's frames; its largest batch is kept on the device and repeated: that is the model alone.
Then the layer runs as in a run of the platform; the runs after the first are for the record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _gpu_checkpoints as checkpoints
import yaml
from _enrichment_throughput import run_one
from _gpu_timing import BusyShare, NetworkCall, median_seconds, recorded_calls
from _harness import Better

if TYPE_CHECKING:
    from ego_assets.media.sampling import SampledFrames
    from ego_assets.project import Project

#: Runs that count, and runs before them.
_RUNS, _WARM_UP = 10, 3
_QUICK_RUNS, _QUICK_WARM_UP = 3, 1
#: A layer is run again until so much time has passed, so that the driver's windows tell of nothing else.
_SHORTEST_LAYER_S = 5.0
#: Frames of the clip that a backend is driven with: three batches of the largest size that is chosen by itself.
_DRIVEN_FRAMES = 192

#: Frames that SAM 2.1 is measured on, and the objects that it follows there.
_FOLLOWED_FRAMES = 96
_FOLLOWED_OBJECTS = 10
#: Width and height of the pictures between which flow is measured.
_FLOW_SIZE = (960, 540)

#: Tells a metric of the case: (metric, value, reason).
Tell = Callable[[str, float | None, str], None]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One row that a case gives."""

    name: str
    unit: str
    better: Better
    target: float | None = None


@dataclass(frozen=True, kw_only=True)
class Case:
    """One network.

    Attributes:
        title: What rows call it.
        part: Part of the benchmark.
        task: Task of the profile whose backend holds the network.
        backends: Task to the entry of the profile.
        layer: Layer that is run as a whole.
        write: Writes the checkpoint below a folder of weights.
        target: Least frames a second of the model alone.
        frames_per_item: Frames that an item of a batch has.
        frames_per_second: Task to the rate at which the layer looks at the clip; all frames where left out.
        layer_target: Least share of the speed of the model alone that the whole layer reaches.
        layer_frames: Frames that the layer gives to the network; 0 for all of the clip.
        layer_note: What has to be known of the layer's row.
        in_quick: Whether ``--quick`` measures it.
        also_square: Whether the model alone is measured on square pictures as well, the middle of the others.
    """

    title: str
    part: str
    task: str
    backends: Mapping[str, Mapping[str, Any]]
    layer: str
    write: Callable[[Path], object]
    target: float | None = None
    frames_per_item: int = 1
    frames_per_second: Mapping[str, float] = field(default_factory=dict)
    layer_target: float | None = None
    layer_frames: int = 0
    layer_note: str = ""
    in_quick: bool = False
    also_square: bool = False

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The rows, in order."""
        return (
            Metric(name="model alone", unit="frames/s", better="higher", target=self.target),
            *(
                [Metric(name=_SQUARE, unit="frames/s", better="higher", target=self.target)]
                if self.also_square
                else []
            ),
            Metric(name="memory peak of the model alone", unit="GiB", better="lower"),
            Metric(name="whole layer", unit="frames/s", better="higher"),
            Metric(name="whole layer / model alone", unit="ratio", better="higher", target=self.layer_target),
            Metric(name="share of the layer's time in which the GPU computes", unit="share", better="higher"),
        )


_SQUARE = "model alone, square pictures"
_EMBEDDINGS = {"embeddings": {"backend": "open_clip", "settings": {"checkpoint": "vit_l_14"}}}

#: Random weights foresee no quality, so every proposal counts, up to the number of objects that the target names.
_SAM2_SETTINGS = {
    "predicted_iou_threshold": 0.0,
    "stability_threshold": 0.0,
    "min_share": 0.0,
    "max_objects": _FOLLOWED_OBJECTS,
}


def _write_masks_and_clip(folder: Path, checkpoint: str) -> None:
    checkpoints.write_sam2(folder, checkpoint)
    checkpoints.write_clip(folder)


CASES = (
    *(
        Case(
            title=f"depth, Depth Anything V2 ViT-{size[0].upper()}",
            part="depth",
            task="depth",
            backends={"depth": {"backend": "depth_anything_v2", "settings": {"checkpoint": size}}},
            layer="depth_maps",
            write=lambda folder, size=size: checkpoints.write_depth_anything(folder, size),
            target=300.0 if size == "large" else None,
            layer_target=0.7,
            in_quick=size == "small",
            also_square=True,
        )
        for size in ("small", "base", "large")
    ),
    *(
        Case(
            title=f"masks, SAM 2.1 {title}",
            part="masks",
            task="masks",
            backends={
                "masks": {"backend": "sam2", "settings": {"checkpoint": checkpoint, **_SAM2_SETTINGS}},
                **_EMBEDDINGS,
            },
            layer="masks",
            write=lambda folder, checkpoint=checkpoint: _write_masks_and_clip(folder, checkpoint),
            target=60.0 if checkpoint == "large" else None,
            layer_target=0.7,
            layer_note="every frame, search every 2 s, categories by CLIP ViT-L/14",
            in_quick=checkpoint == "tiny",
        )
        for title, checkpoint in (("tiny", "tiny"), ("base+", "base_plus"), ("large", "large"))
    ),
    Case(
        title="embeddings, CLIP ViT-L/14",
        part="embeddings",
        task="embeddings",
        backends=_EMBEDDINGS,
        layer="embeddings",
        write=checkpoints.write_clip,
        target=3000.0,
        layer_frames=5,
        layer_note="five frames a clip: seeking and the commit take the time",
    ),
    Case(
        title="actions, VideoMAE base",
        part="actions",
        task="actions",
        backends={"actions": {"backend": "videomae", "settings": {"checkpoint": "kinetics"}}},
        layer="actions",
        write=checkpoints.write_videomae,
        frames_per_item=16,
        layer_note="frames of the video; windows of 16 frames overlap or leave frames out, so the two rates differ",
    ),
    Case(
        title="flow, RAFT large",
        part="flow",
        task="flow",
        backends={
            "flow": {"backend": "raft", "settings": {"checkpoint": "large"}},
            "depth": {"backend": "depth_from_motion"},
        },
        layer="depth_maps",
        write=checkpoints.write_raft,
        frames_per_second={"depth": 5.0},
        layer_note="depth from motion at 5 frames/s with this flow: most of it is geometry on the CPU",
        in_quick=True,
    ),
)


def profile_file(case: Case, folder: Path, *, device: str, settings: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write the profile of a case; the networks' device is named, so that nothing runs elsewhere silently."""
    from resources.models.backends import BACKENDS

    chosen: dict[str, Any] = {}
    for task, entry in case.backends.items():
        own = {"device": device} if BACKENDS[task][entry["backend"]].uses_gpu else {}
        own = {**entry.get("settings", {}), **own, **settings.get(task, {})}
        chosen[task] = {"backend": entry["backend"], "settings": own}
    chosen.setdefault("flow", {"backend": "dis"})
    chosen.setdefault("embeddings", {"backend": "appearance"})
    path = folder / "profile.yaml"
    path.write_text(yaml.safe_dump({"backends": chosen, "frames_per_second": dict(case.frames_per_second)}))
    return path


def measure(
    case: Case,
    *,
    data_dir: Path,
    clip_id: str,
    folder: Path,
    tell: Tell,
    device: str = "cuda",
    quick: bool = False,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Measure one network.

    Args:
        case: The network.
        data_dir: Data folder of a project with one de-identified clip.
        clip_id: That clip.
        folder: Empty folder for the checkpoint and the profile.
        tell: Hears every row as soon as it is known.
        device: ``cuda``, or ``cpu`` to try this code where there is no GPU.
        quick: Fewer runs.
        settings: Task to settings of its backend, besides those of the case.
    """
    from ego_assets.project import Project
    from ego_assets.settings import Settings

    models_dir = folder / "models"
    models_dir.mkdir()
    case.write(models_dir)
    profile = profile_file(case, folder, device=device, settings=settings or {})
    project = Project(
        Settings(data_dir=data_dir, models_dir=models_dir, profile=str(profile), free_disk_reserve_bytes=0)
    )
    with checkpoints.any_digest():
        rate = _model_alone(case, project, clip_id, tell=tell, quick=quick)
        _whole_layer(case, project, clip_id, alone=rate, tell=tell, device=device)


@dataclass(frozen=True, eq=False, kw_only=True)
class Alone:
    """The work of a network without the layer around it.

    Attributes:
        work: Does it once.
        frames: Frames that it works on.
        device: Where it runs.
        how: Batch, shapes and arithmetic.
        square: The same on square pictures, for models whose input keeps the shape of the picture.
    """

    work: Callable[[], object]
    frames: int
    device: Any
    how: str
    square: Alone | None = None


def _model_alone(case: Case, project: Project, clip_id: str, *, tell: Tell, quick: bool) -> float:
    import torch  # type: ignore[import-not-found,unused-ignore]

    backend = project.services.models.ladder(case.task)[0].open()
    with _proxy(project, clip_id) as sampled:
        alone = DRIVERS[case.task](backend, sampled, project, clip_id, case)
        on_gpu = alone.device.type == "cuda"
        if on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(alone.device)
        runs, warm_up = (_QUICK_RUNS, _QUICK_WARM_UP) if quick else (_RUNS, _WARM_UP)
        seconds = median_seconds(alone.device, alone.work, runs=runs, warm_up=warm_up)
        peak = torch.cuda.max_memory_allocated(alone.device) / 2**30 if on_gpu else None
        rate = alone.frames / seconds
        tell("model alone", rate, f"{alone.how}, n={runs}")
        if (square := alone.square) is not None:
            seconds = median_seconds(square.device, square.work, runs=runs, warm_up=warm_up)
            tell(_SQUARE, square.frames / seconds, f"{square.how}, n={runs}")
    tell("memory peak of the model alone", peak, alone.how if on_gpu else "not counted on a CPU")
    return float(rate)


def _largest_batch(case: Case, drive: Callable[[], object]) -> Alone:
    """The largest batch that a backend gives to its network while it works, to be repeated on the device."""
    with recorded_calls() as recorder:
        drive()
    call: NetworkCall | None = recorder.largest
    if call is None or not call.items:
        raise RuntimeError("the backend called no network")
    square = _alone(replace(call, arguments=_squares(call.arguments)), case) if case.also_square else None
    return replace(_alone(call, case), square=square)


def _alone(call: NetworkCall, case: Case) -> Alone:
    shapes = " and ".join(str(list(shape[1:])) for shape in call.shapes)
    dtype = str(call.held.dtype).removeprefix("torch.")
    compiled = "compiled" if call.held.is_compiled else "not compiled"
    return Alone(
        work=call.repeat,
        frames=call.items * case.frames_per_item,
        device=call.held.device,
        how=f"batch {call.items}, input {shapes}, {dtype}, {compiled}",
    )


def _squares(pictures: tuple[Any, ...]) -> tuple[Any, ...]:
    """Tensors ``[..., height, width]`` cut to their shorter side."""
    return tuple(
        picture[..., : min(picture.shape[-2:]), : min(picture.shape[-2:])].contiguous()
        for picture in pictures
    )


def _whole_layer(
    case: Case, project: Project, clip_id: str, *, alone: float, tell: Tell, device: str
) -> None:
    from ego_assets.assets import LAYERS

    spec, make = next((spec, make) for spec, make in LAYERS if spec.name == case.layer)
    # Loads what else the layer needs, and compiles for its batches.
    run_one(project, spec, make, clip_id)
    shortest_s = 0.0 if device == "cpu" else _SHORTEST_LAYER_S
    runs, spent = 0, 0.0
    with BusyShare(_uuid(device)) as busy:
        started = time.perf_counter()
        while not runs or spent < shortest_s:
            run_one(project, spec, make, clip_id)
            runs, spent = runs + 1, time.perf_counter() - started
    wall = spent / runs
    with _proxy(project, clip_id) as sampled:
        seen = case.layer_frames or int(sampled.timeline.frame_count)
        if (rate := case.frames_per_second.get("depth")) is not None:
            seen = len(sampled.timeline.frames_at_rate(rate))
    note = f"{seen} frames in {wall:.2f} s, mean of {runs}, from the de-identified proxy to the committed artifact"
    tell("whole layer", seen / wall, f"{note}; {case.layer_note}" if case.layer_note else note)
    tell("whole layer / model alone", seen / wall / alone, case.layer_note)
    tell("share of the layer's time in which the GPU computes", busy.share, busy.reason or "as NVML counts")


def _uuid(device: str) -> str:
    if device == "cpu":
        return ""
    import torch  # type: ignore[import-not-found,unused-ignore]

    return str(torch.cuda.get_device_properties(torch.device(device)).uuid)


@contextmanager
def _proxy(project: Project, clip_id: str) -> Iterator[SampledFrames]:
    """The frames of the clip's proxy, every one of them."""
    from ego_assets.media.sampling import sample_frames

    document = project.store.document(clip_id, "blurred_video")
    if document is None:
        raise RuntimeError("the clip has no de-identified video")
    with project.store.local_path(document, "proxy.mp4") as path:
        yield sample_frames(path, frames_per_second=None)


def _frames(sampled: SampledFrames, count: int = _DRIVEN_FRAMES) -> list[Any]:
    return list(sampled.stream(indices=sampled.frame_index[:count].tolist()))


def _depth_alone(backend: Any, sampled: SampledFrames, project: Project, clip_id: str, case: Case) -> Alone:
    from ego_assets.geometry.camera import camera_for

    camera = camera_for(None, project.database.clip(clip_id).source_camera, *sampled.size)
    frames = _frames(sampled)
    return _largest_batch(case, lambda: list(backend.estimate(iter(frames), camera=camera)))


def _embeddings_alone(
    backend: Any, sampled: SampledFrames, project: Project, clip_id: str, case: Case
) -> Alone:
    images = [frame.image for frame in _frames(sampled)]
    return _largest_batch(case, lambda: backend.embed_images(images))


def _flow_alone(backend: Any, sampled: SampledFrames, project: Project, clip_id: str, case: Case) -> Alone:
    import cv2

    pictures = [
        cv2.resize(frame.image, _FLOW_SIZE, interpolation=cv2.INTER_AREA) for frame in _frames(sampled)
    ]
    return _largest_batch(case, lambda: backend.flow(list(pairwise(pictures))))


def _actions_alone(backend: Any, sampled: SampledFrames, project: Project, clip_id: str, case: Case) -> Alone:
    import numpy as np

    from ego_assets.media.motion_table import MOTION_FILE, read_motion

    document = project.store.document(clip_id, "blurred_video")
    assert document is not None
    motion, stamps = read_motion(project.store.read_bytes(document, MOTION_FILE), resolution=sampled.size)
    rate = backend.frames_per_second
    grid = sampled.timeline.frames_at_rate(rate) if rate else sampled.frame_index
    # A step every 100 ms instead of every second: enough windows for a full batch.
    times = np.arange(stamps[0], stamps[-1], 100_000_000, dtype=np.int64)
    return _largest_batch(
        case,
        lambda: backend.score(
            times,
            frames=sampled.stream(indices=grid.tolist()),
            hands=None,
            motion=motion,
            timestamps_ns=stamps,
            resolution=sampled.size,
        ),
    )


def _masks_alone(backend: Any, sampled: SampledFrames, project: Project, clip_id: str, case: Case) -> Alone:
    """SAM 2.1 encodes every frame and follows objects that begin as rectangles: no search, no categories."""
    import numpy as np

    network, frames = backend._network, _frames(sampled, _FOLLOWED_FRAMES)
    side, columns = network.mask_side, _FOLLOWED_OBJECTS // 2
    width, height = side // columns, side // 2
    masks = np.zeros((_FOLLOWED_OBJECTS, side, side), dtype=np.bool_)
    for place in range(_FOLLOWED_OBJECTS):
        top, left = place // columns * height, place % columns * width
        masks[place, top + height // 4 : top + height, left + width // 4 : left + width] = True
    logits = network.on_device(masks)

    def work() -> None:
        memory = None
        for position, (_, features) in enumerate(network.encode(frames)):
            if memory is None:
                memory = network.begin([(position, features, logits)])
            else:
                network.follow(memory, position, features)

    compiled = "compiled" if network.is_compiled else "not compiled"
    how = f"{len(frames)} frames, {_FOLLOWED_OBJECTS} objects, uploaded as uint8, {network.precision}, {compiled}"
    return Alone(work=work, frames=len(frames), device=network.device, how=how)


#: Task -> the work of its network alone, on the frames of the clip.
DRIVERS: Mapping[str, Callable[[Any, Any, Any, str, Case], Alone]] = {
    "depth": _depth_alone,
    "masks": _masks_alone,
    "embeddings": _embeddings_alone,
    "flow": _flow_alone,
    "actions": _actions_alone,
}
