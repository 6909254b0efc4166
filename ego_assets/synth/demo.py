"""The three clips of the demo."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from ego_assets.schema.artifact import digest_of
from ego_assets.schema.progress import ProgressCallback, ignore_progress
from ego_assets.schema.vocabulary import ConsentScope, LocationType, SourceCamera
from ego_assets.synth.ground_truth import GroundTruth, GroundTruthUnreadable
from ego_assets.synth.render import render_clip
from ego_assets.synth.spec import RENDERER_VERSION, SceneSpec

#: Folder beside the clips that holds a folder of ground truth for each.
GROUND_TRUTH_FOLDER = "ground_truth"

_SPECS: Mapping[str, SceneSpec] = MappingProxyType(
    {
        "good": SceneSpec(seed=11, location="kitchen"),
        "people_and_text": SceneSpec(
            seed=12,
            location="office",
            faces=2,
            text_panels=2,
            plates=1,
            audio=True,
            location_metadata=True,
        ),
        "dark_and_blurred": SceneSpec(seed=14, location="workshop", brightness=0.12, blur_sigma_px=3.5),
    }
)
_ACTIVITIES = {"good": "cooking", "people_and_text": "desk work", "dark_and_blurred": "assembling"}
_LOCATIONS = {
    "good": LocationType.KITCHEN,
    "people_and_text": LocationType.OFFICE,
    "dark_and_blurred": LocationType.WORKSHOP,
}
_COLLECTORS = {"good": "demo_01", "people_and_text": "demo_02", "dark_and_blurred": "demo_01"}


@dataclass(frozen=True, eq=False)
class DemoClip:
    """One clip of the demo.

    Attributes:
        path: The video file.
        name: ``good``, ``people_and_text`` or ``dark_and_blurred``.
        sidecar: What a collector would say about it; also written beside the clip as JSON.
        ground_truth: What is true of it.
    """

    path: Path
    name: str
    sidecar: Mapping[str, str]
    ground_truth: GroundTruth


def demo_specs(*, quick: bool = False) -> dict[str, SceneSpec]:
    """The specs of the three clips; ``quick`` makes them 2 s at 640x360 instead of 6 s at 1280x720."""
    if not quick:
        return dict(_SPECS)
    return {
        name: replace(spec, width=640, height=360, duration_s=2.0, blur_sigma_px=spec.blur_sigma_px / 2)
        for name, spec in _SPECS.items()
    }


def demo_clips(
    folder: Path, *, quick: bool = False, progress: ProgressCallback = ignore_progress
) -> list[DemoClip]:
    """Render the demo's clips into ``folder``, or find them there.

    A clip that was rendered from the same spec before is not rendered again. A clip appears under its name
    only when it is complete.

    Args:
        folder: Where the clips go; it is made if need be.
        quick: Small and short clips.
        progress: Told the number of frames done of all three clips.
    """
    folder.mkdir(parents=True, exist_ok=True)
    specs = demo_specs(quick=quick)
    total = sum(spec.nominal_frame_count for spec in specs.values())
    clips = []
    finished = 0
    for name, spec in specs.items():

        def report(done: int, _: int, before: int = finished) -> None:
            progress(before + done, total)

        path = folder / f"{name}.mp4"
        truth = _rendered_before(folder, name, spec) or _render(folder, name, spec, report)
        sidecar = _sidecar(name)
        (folder / f"{name}.json").write_text(json.dumps(sidecar, indent=2) + "\n", encoding="utf-8")
        clips.append(DemoClip(path, name, MappingProxyType(sidecar), truth))
        finished += spec.nominal_frame_count
        progress(finished, total)
    return clips


def _fingerprint(spec: SceneSpec) -> str:
    return digest_of({"renderer": RENDERER_VERSION, "spec": spec.to_json_dict()})


def _rendered_before(folder: Path, name: str, spec: SceneSpec) -> GroundTruth | None:
    truth_folder = folder / GROUND_TRUTH_FOLDER / name
    recorded = truth_folder / "fingerprint"
    if not (folder / f"{name}.mp4").is_file() or not recorded.is_file():
        return None
    if recorded.read_text(encoding="utf-8").strip() != _fingerprint(spec):
        return None
    try:
        return GroundTruth.load(truth_folder)
    except GroundTruthUnreadable:
        return None


def _render(folder: Path, name: str, spec: SceneSpec, progress: ProgressCallback) -> GroundTruth:
    truth_folder = folder / GROUND_TRUTH_FOLDER / name
    truth_folder.mkdir(parents=True, exist_ok=True)
    recorded = truth_folder / "fingerprint"
    # Written last and removed first: with it, clip and truth are known to belong together.
    recorded.unlink(missing_ok=True)
    unfinished = truth_folder / "unfinished.mp4"
    truth = render_clip(spec, unfinished, progress=progress)
    truth.save(truth_folder)
    unfinished.replace(folder / f"{name}.mp4")
    recorded.write_text(_fingerprint(spec) + "\n", encoding="utf-8")
    return truth


def _sidecar(name: str) -> dict[str, str]:
    return {
        "collector_id": _COLLECTORS[name],
        "recording_date": "2026-01-15",
        "source_camera": SourceCamera.OTHER.value,
        "location_type": _LOCATIONS[name].value,
        "activity_category": _ACTIVITIES[name],
        "consent_scope": ConsentScope.RESEARCH.value,
        "licence": "CC0-1.0",
    }
