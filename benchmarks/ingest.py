"""Ingest plus quality against a bare decode of the same clip, in CPU seconds; what the framing gates find and cost."""

from __future__ import annotations

import logging
import statistics
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import _ingest_framing
from _harness import Reporter, alternate, cpu_seconds, median_ratio, parse_arguments

from ego_assets.schema.errors import EgoAssetsError

if TYPE_CHECKING:
    from ego_assets.project import Project

PARTS = ("cost", "framing")
RATIO = "ingest and quality / bare decode"
TARGET_RATIO = 1.5


def main() -> None:
    options = parse_arguments(__doc__, parts=PARTS)
    parts = options.part or PARTS
    reporter = Reporter("ingest")
    if "cost" in parts:
        measure_cost(reporter, options.clip, quick=options.quick)
    if "framing" in parts:
        _ingest_framing.run(reporter, quick=options.quick)


def measure_cost(reporter: Reporter, real_clip: Path | None, *, quick: bool) -> None:
    """What taking in and measuring a clip costs."""
    with tempfile.TemporaryDirectory() as folder:
        clip = real_clip or render(Path(folder), quick=quick)
        try:
            measure_ingest(clip, Path(folder) / "trial")
        except (EgoAssetsError, OSError, RuntimeError) as error:
            reporter.report(RATIO, None, "ratio", target=TARGET_RATIO, reason=str(error))
            return
        counter = iter(range(1_000))
        values = alternate(
            {
                "bare decode": lambda: cpu_seconds(lambda: bare_decode(clip)),
                "ingest and quality": lambda: measure_ingest(clip, Path(folder) / f"project{next(counter)}"),
            },
            runs=3 if quick else 7,
        )
        _ingest_framing.cost(reporter, clip, quick=quick)
    for name, samples in values.items():
        reporter.report(name, statistics.median(samples), "CPU seconds")
    ratio = median_ratio(values["ingest and quality"], values["bare decode"])
    reporter.report(RATIO, ratio, "ratio", target=TARGET_RATIO)


def render(folder: Path, *, quick: bool) -> Path:
    """A 1080p synthetic clip."""
    from ego_assets.synth import SceneSpec, render_clip

    path = folder / "clip.mp4"
    duration_s = 4.0 if quick else 10.0
    render_clip(SceneSpec(width=1920, height=1080, frame_rate=Fraction(30), duration_s=duration_s), path)
    return path


def bare_decode(clip: Path) -> None:
    """The least that reading every frame costs."""
    import av

    with av.open(str(clip)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for _ in container.decode(video=0):
            pass


def measure_ingest(clip: Path, folder: Path) -> float:
    """CPU seconds of ingest and quality in a new project; its database is made beforehand."""
    from ego_assets.project import Project
    from ego_assets.settings import Settings

    project = Project(Settings(data_dir=folder))
    project.database.clips()
    return cpu_seconds(lambda: ingest_and_judge(clip, project))


def ingest_and_judge(clip: Path, project: Project) -> None:
    """Copy into the vault, probe, decode, measure, judge, commit, record."""
    from ego_assets.assets import PRIVACY_CHAIN
    from ego_assets.execution import LayerState, run_layer

    registered = project.register_and_take(clip.absolute().parent, clip.absolute(), {})
    for spec, make in PRIVACY_CHAIN[:2]:
        outcome = run_layer(
            spec,
            make,
            registered.clip_id,
            services=project.services_with_vault(),
            run_id="benchmark",
            log=logging.getLogger("benchmark"),
            ancestors=(),
        )
        if outcome.state is not LayerState.COMMITTED:
            raise RuntimeError(f"{spec.name}: {outcome.reason}")


if __name__ == "__main__":
    main()
