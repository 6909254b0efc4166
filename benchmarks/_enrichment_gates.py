"""Whether the gates of the enrichment layers tell good clips from bad ones, on real footage.

Every clip goes through the whole chain, the privacy pass without detection included: what comes after it is what is
judged here.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from _enrichment_throughput import run_one
from _harness import Reporter
from _privacy_material import TESTDATA

#: First-person clips with hands at work in good light, and clips that should not pass for such.
GOOD = (
    "ego_video/hawor_video_0.mp4",
    "ego_video/epic_tile_r0c0.mp4",
    "ego_video/epic_tile_r1c1.mp4",
    "ego_video/epic_tile_r2c1.mp4",
    "ego_video/epic_tile_r3c1.mp4",
    "ego_video/ego4d_georgiatech.mp4",
)
BAD = {
    "nearly black": "neg_quality_video/FEQ-gdkTN4Q_000008_000018.mp4",
    "static camera, no hands": "neg_quality_video/sample-5s.mp4",
    "third person, no hands": "neg_quality_video/05_default_juggle.mp4",
    "pan over a harbour, no hands": "neg_quality_video/17734.mp4",
}


def run(reporter: Reporter, *, quick: bool, clip: Path | None) -> None:
    good = {Path(name).stem: TESTDATA / name for name in (GOOD[:1] if quick else GOOD)}
    bad = {what: TESTDATA / name for what, name in (list(BAD.items())[:1] if quick else list(BAD.items()))}
    if not all(path.is_file() for path in (*good.values(), *bad.values())):
        reporter.report("gates on good and bad clips", None, "share", reason=f"no footage in {TESTDATA}")
        return
    logging.disable(logging.CRITICAL)
    flagged_good = report_clips(reporter, "good", good)
    flagged_bad = report_clips(reporter, "bad", bad)
    total = f"of {len(good)} good clips"
    reporter.report(
        f"share {total} that an enrichment gate flags", flagged_good / len(good), "share", target=0.2
    )
    total = f"of {len(bad)} bad clips"
    reporter.report(
        f"share {total} that an enrichment gate flags",
        flagged_bad / len(bad),
        "share",
        target=1.0,
        better="higher",
    )


def report_clips(reporter: Reporter, kind: str, clips: Mapping[str, Path]) -> int:
    """Report every clip's verdicts; how many clips were flagged."""
    flagged = 0
    for name, path in clips.items():
        verdicts = enrichment_verdicts(path)
        words = [f"{gate}: {outcome}" for gate, outcome in sorted(verdicts.items()) if outcome in FLAGS]
        unclear = [gate for gate, outcome in sorted(verdicts.items()) if outcome == "not_evaluated"]
        flagged += bool(words)
        reporter.report(
            f"{kind} clip, {name}: gates that warned or failed of {len(verdicts)}",
            len(words),
            "gates",
            reason=f"{'; '.join(words) or 'none'} (not evaluated: {', '.join(unclear) or 'none'})",
        )
    return flagged


#: Outcomes that tell a person to look.
FLAGS = ("failed", "warned")


def enrichment_verdicts(clip: Path) -> dict[str, str]:
    """Outcome of every gate of the enrichment layers on a clip."""
    from ego_assets.assets import ENRICHMENT, LAYERS
    from ego_assets.project import Project
    from ego_assets.schema.clip import PRIVACY_LAYER
    from ego_assets.settings import Settings

    with tempfile.TemporaryDirectory(prefix="enrichment-benchmark-") as folder:
        project = Project(Settings(data_dir=Path(folder) / "data", free_disk_reserve_bytes=0))
        known = clip.parent.resolve()
        clip_id = project.register_and_take(known, known / clip.name, {}).clip_id
        last = max(spec.stage for spec, _ in ENRICHMENT)
        for spec, make in sorted(LAYERS, key=lambda item: item[0].stage):
            if spec.stage <= last:
                function = without_detection if spec.name == PRIVACY_LAYER else make
                run_one(project, spec, function, clip_id, given_up_is_fine=True)
        layers = {spec.name for spec, _ in ENRICHMENT} - {"frames"}
        return {
            f"{gate.layer}.{gate.gate}": str(gate.outcome)
            for gate in project.database.gates(clip_id)
            if gate.layer in layers and gate.gate != "completed"
        }


def without_detection(work: Any, staged: Any) -> Any:
    """The privacy pass as on footage that its owner declares to be de-identified."""
    from ego_assets.assets.blurred_video import render

    draft = render(work, staged, detectors={}, leak_detectors={})
    return replace(draft, config={**draft.config, "already_deidentified": True})
