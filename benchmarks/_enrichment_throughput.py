"""What every enrichment layer costs on a 1080p clip at 30 frames/s, and how much of it is decoding.

The clip goes through ingest and the privacy pass once; then each layer runs alone, through the same code as in a run,
on the committed proxy. CPU seconds are those of the whole process, all threads included.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _harness import Reporter, cpu_seconds

if TYPE_CHECKING:
    from ego_assets.project import Project
    from ego_assets.schema.layers import LayerSpec

#: CPU seconds for a second of video that the whole enrichment may cost, and the share of it that decoding may.
TARGET_COST = 6.0
TARGET_DECODE_SHARE = 0.15

#: Which task's frames a layer decodes; the others are told apart below.
_TASKS = {"depth_maps": "depth", "hand_object": "hands", "masks": "masks"}


def run(reporter: Reporter, *, quick: bool, clip: Path | None) -> None:
    from ego_assets.assets import ENRICHMENT, LAYERS
    from ego_assets.project import Project
    from ego_assets.settings import Settings

    logging.disable(logging.CRITICAL)
    runs = 1 if quick else 3
    with tempfile.TemporaryDirectory(prefix="enrichment-benchmark-") as folder:
        source = clip or synthetic_clip(Path(folder) / "clips", duration_s=3.0 if quick else 10.0)
        project = Project(Settings(data_dir=Path(folder) / "data", free_disk_reserve_bytes=0))
        known = source.parent.resolve()
        clip_id = project.register_and_take(known, known / source.name, {}).clip_id
        chain = sorted(LAYERS, key=lambda item: item[0].stage)
        first_enrichment = min(spec.stage for spec, _ in ENRICHMENT)
        for spec, make in chain:
            if spec.stage < first_enrichment:
                run_one(project, spec, make, clip_id)
        registered = project.database.clip(clip_id)
        duration_s, frame_count = float(registered.duration_s or 0), int(registered.frame_count or 0)
        size = f"{registered.width}x{registered.height} at {registered.fps:g} frames/s, {duration_s:.1f} s"
        layers = [(spec, make) for spec, make in chain if spec in [item for item, _ in ENRICHMENT]]
        total, total_decoding, total_wall = [], [], []
        for spec, make in layers:
            # Loads the models, and makes what later layers read.
            run_one(project, spec, make, clip_id)
        for spec, make in layers:
            cost, wall = [], []
            for _ in range(runs):
                started = time.perf_counter()
                cost.append(cpu_seconds(lambda: run_one(project, spec, make, clip_id)))  # noqa: B023
                wall.append(time.perf_counter() - started)
            decoding = statistics.median(decoding_cost(project, spec, clip_id) for _ in range(runs))
            layer_cost, layer_wall = statistics.median(cost), statistics.median(wall)
            total.append(layer_cost)
            total_decoding.append(decoding)
            total_wall.append(layer_wall)
            name = f"{spec.name} ({size})"
            reporter.report(f"{name}: cost", layer_cost / duration_s, "CPU seconds a second of video")
            reporter.report(f"{name}: throughput", frame_count / layer_wall, "frames of the video/s")
            reporter.report(f"{name}: decoding", decoding / layer_cost, "share of the cost")
        reporter.report(
            f"whole enrichment ({size}): cost",
            sum(total) / duration_s,
            "CPU seconds a second of video",
            target=TARGET_COST,
        )
        reporter.report(
            f"whole enrichment ({size}): throughput", frame_count / sum(total_wall), "frames of the video/s"
        )
        reporter.report(
            f"whole enrichment ({size}): decoding",
            sum(total_decoding) / sum(total),
            "share of the cost",
            target=TARGET_DECODE_SHARE,
        )


def run_one(
    project: Project, spec: LayerSpec, make: Any, clip_id: str, *, given_up_is_fine: bool = False
) -> None:
    """Run one layer on the clip as a run does, and insist that it was made."""
    from ego_assets.batching import essential_ancestors
    from ego_assets.execution import run_layer

    specs = {item.name: item for item in project.specs}
    outcome = run_layer(
        spec,
        make,
        clip_id,
        services=project.services_with_vault() if spec.reads_original else project.services,
        run_id="benchmark",
        log=logging.getLogger("benchmark"),
        ancestors=essential_ancestors(spec.name, specs),
    )
    if not outcome.lets_clip_pass or (outcome.document is None and not given_up_is_fine):
        raise RuntimeError(f"{spec.name} was not made: {outcome.reason}")


def decoding_cost(project: Project, spec: LayerSpec, clip_id: str) -> float:
    """CPU seconds of decoding, and converting, the frames that the layer looks at; nothing else is done with them."""
    from ego_assets.media.sampling import sample_frames

    document = project.store.document(clip_id, "blurred_video")
    assert document is not None
    rate = _rate(project, spec.name)
    if rate == 0:
        return 0.0
    with project.store.local_path(document, "proxy.mp4") as path:
        sampled = sample_frames(path, frames_per_second=rate)
        indices = None
        if spec.name == "embeddings":
            count = sampled.timeline.frame_count
            indices = sorted({round(step * (count - 1) / 4) for step in range(5)})

        def decode() -> None:
            for _ in sampled.stream(indices=indices):
                pass

        return cpu_seconds(decode)


def _rate(project: Project, layer: str) -> float | None:
    """Frames a second that the layer decodes; 0 where it decodes none."""
    settings = project.settings.for_enrichment()
    if layer in _TASKS:
        return project.services.models.frames_per_second(_TASKS[layer])
    if layer == "frames":
        return settings.frames_per_second
    if layer == "captions":
        return 1 / settings.captions.interval_s
    return None if layer == "embeddings" else 0.0


def synthetic_clip(folder: Path, *, duration_s: float) -> Path:
    """A 1080p clip at 30 frames/s with hands and a moving camera."""
    from ego_assets.synth.render import render_clip
    from ego_assets.synth.spec import SceneSpec

    folder.mkdir(parents=True)
    path = folder / "synthetic_1080p.mp4"
    spec = SceneSpec(seed=3, width=1920, height=1080, frame_rate=Fraction(30), duration_s=duration_s, faces=1)
    render_clip(spec, path)
    return path
