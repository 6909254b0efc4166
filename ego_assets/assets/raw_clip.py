"""``raw_clip``: the original goes into the vault, its container is probed and its time stamps are read."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ego_assets.execution import ClipWork, LayerDraft
from ego_assets.schema.errors import EgoAssetsError, MediaError
from ego_assets.schema.layers import LayerSpec, RetryPolicySpec
from ego_assets.schema.vocabulary import VaultPurpose

if TYPE_CHECKING:
    from ego_assets.schema.media import MediaProbe
    from ego_assets.schema.timeline import Timeline
    from resources.storage import StagedLayer

SPEC = LayerSpec(
    name="raw_clip",
    group="ingest",
    description=(
        "Takes the upload into the vault, digest verified, and records container, streams and time stamps. "
        "A file that cannot be read is kept in the vault and fails `clip_quality`. Shows numbers only: no "
        "picture of an original leaves the vault."
    ),
    stage=0,
    essential=True,
    reads_original=True,
    runs_when_held=True,
    retry=RetryPolicySpec(max_retries=3, delay_s=2.0),
    pool="ingest",
)

#: Who opens and takes originals here, for the audit log.
ACTOR = f"asset:{SPEC.name}"


def make(work: ClipWork, staged: StagedLayer) -> LayerDraft:
    """Move an upload into the vault where that has not happened yet, then probe the original."""
    from ego_assets.media.plots import interval_plot
    from ego_assets.media.probe import probe
    from ego_assets.media.timeline import read_timeline

    clip = work.clip
    if not clip.raw_key:
        clip = work.intake.take_upload(clip.clip_id, actor=ACTOR, run_id=work.run_id)
    else:
        _clear_upload(work)
    found: MediaProbe | None = None
    timeline: Timeline | None = None
    problem: MediaError | None = None
    with work.open_original(VaultPurpose.INGEST) as original:
        try:
            found = probe(original, name=work.clip.source_name)
            timeline = read_timeline(original)
        except MediaError as error:
            problem = error
    document: dict[str, Any] = {
        "probe": _probe_json(found),
        "timeline": _timeline_json(timeline),
        "error": {"code": problem.code, "message": str(problem)} if problem else None,
    }
    staged.path("probe.json").write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
    updates: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    pictures: dict[str, str] = {}
    if found is not None and timeline is not None:
        updates = {
            "duration_s": timeline.duration_s,
            "width": found.width,
            "height": found.height,
            "fps": float(timeline.frame_rate),
            "frame_count": timeline.frame_count,
            "rotation_deg": found.rotation_deg,
        }
        metadata = {
            "duration_s": round(timeline.duration_s, 3),
            "frame_count": timeline.frame_count,
            "frame_rate": str(timeline.frame_rate),
            "variable_rate": timeline.is_variable,
            "resolution": f"{found.width}x{found.height}",
            "codec": found.codec,
            "other_streams": [f"{stream.kind} {stream.codec}" for stream in found.other_streams],
        }
        staged.path("intervals.png").write_bytes(interval_plot(timeline))
        pictures = {"time between frames": "intervals.png"}
    if problem is not None:
        metadata["problem"] = str(problem)
    return LayerDraft(
        clip_updates=updates,
        metadata=metadata,
        pictures=pictures,
        config={"original_sha256": clip.raw_sha256},
    )


def _clear_upload(work: ClipWork) -> None:
    """Finish what a killed run left in the bucket of uploads; the layer does not depend on it."""
    try:
        rejection = work.intake.clear_upload(work.clip.clip_id, actor=ACTOR, run_id=work.run_id)
    except EgoAssetsError as error:
        work.log.warning("%s stays in the bucket for now: %s", work.clip.upload_uri, error)
    else:
        if rejection is not None:
            work.log.warning("rejected %s (%s): %s", work.clip.upload_uri, rejection.code, rejection)


def _probe_json(found: MediaProbe | None) -> dict[str, Any] | None:
    return None if found is None else {**asdict(found), "frame_rate": str(found.frame_rate)}


def _timeline_json(timeline: Timeline | None) -> dict[str, Any] | None:
    if timeline is None:
        return None
    return {
        "frame_count": timeline.frame_count,
        "frame_rate": str(timeline.frame_rate),
        "time_base": str(timeline.time_base),
        "first_timestamp_ns": int(timeline.timestamps_ns[0]) if timeline.frame_count else None,
        "duration_s": timeline.duration_s,
        "is_variable": timeline.is_variable,
        "missing_count": timeline.missing_count,
        "duplicate_count": timeline.duplicate_count,
        "stepped_back_count": timeline.stepped_back_count,
    }
