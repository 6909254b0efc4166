"""``hand_object``: the wearer's hands, what state they are in and what they hold, one JSON per frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ego_assets.execution import ClipWork, LayerDraft, ReviewRequest
from ego_assets.gates.hand_object import GATES, HANDS_VISIBLE, frame_verdicts, judge_hand_object
from ego_assets.gates.handling import contact_share, is_about_handling
from ego_assets.ladder import blocking_refusal, climb
from ego_assets.schema.artifact import ArtifactDocument
from ego_assets.schema.clip import PRIVACY_LAYER, Clip
from ego_assets.schema.gates import GateOutcome
from ego_assets.schema.layers import LayerSpec, RetryPolicySpec
from ego_assets.schema.vocabulary import ReviewKind, ReviewRisk

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from ego_assets.labels.hand_records import RecordCheck
    from ego_assets.media.sampling import SampledFrames
    from ego_assets.schema.gates import GateResult
    from ego_assets.schema.hands import HandDetector, HandObjectTracks
    from ego_assets.schema.ladder import Rung
    from ego_assets.schema.layers import DeliveryMember
    from ego_assets.settings import EnrichmentSettings
    from resources.storage import StagedLayer

TASK = "hands"
_PICTURE = "contact_sheet.jpg"
_TILES = 12


def _estimate_bytes(clip: Clip, settings: EnrichmentSettings) -> int:
    """About 1.5 KB a record with two hands."""
    return int(settings.pictures(clip, TASK) * 1500)


def deliver(document: ArtifactDocument, read: Callable[[str], bytes]) -> list[DeliveryMember]:
    """The records go into ``hand_object/``, with the verdicts per frame."""
    from ego_assets.delivery.layers import archive_members
    from ego_assets.labels.hand_object import ARCHIVE, INDEX
    from ego_assets.media.verdict_table import VERDICTS_FILE
    from ego_assets.schema.layers import DeliveryMember

    records = archive_members(document, read, folder="hand_object", archive=ARCHIVE, index=INDEX)
    return [
        *records,
        DeliveryMember(path=f"hand_object/{VERDICTS_FILE}", layer=document.layer, file=VERDICTS_FILE),
    ]


SPEC = LayerSpec(
    name="hand_object",
    group="enrich",
    description=(
        "The wearer's left and right hand per frame: state (free, pre-grasp, grasp, post-release), contacted object "
        "box, landmarks, boxes and scores, as one JSON per frame in one indexed tar."
    ),
    stage=3,
    inputs=(PRIVACY_LAYER,),
    gates=GATES,
    retry=RetryPolicySpec(max_retries=2, delay_s=2.0),
    tasks=(TASK,),
    pool="enrich",
    estimate_bytes=_estimate_bytes,
    deliver=deliver,
)


def make(work: ClipWork, staged: StagedLayer) -> LayerDraft:
    """Find the hands, follow them, judge their states and write the records."""
    from ego_assets.labels.hand_object import ARCHIVE, INDEX, find_hand_objects, read_records, write_tracks
    from ego_assets.labels.hand_pictures import draw_sheet_tiles, frames_to_show
    from ego_assets.labels.hand_records import check_records
    from ego_assets.media.contact_sheet import contact_sheet
    from ego_assets.media.verdict_table import VERDICTS_FILE, write_verdict_table

    with work.sampled_frames(work.frames_per_second(TASK)) as frames:
        cuts = _cuts(work, frames)

        def attempt(
            rung: Rung[HandDetector],
        ) -> tuple[HandObjectTracks, RecordCheck, list[GateResult]]:
            tracks = find_hand_objects(frames.stream(), rung.open(), resolution=frames.size, cuts=cuts)
            write_tracks(tracks, staged.path(ARCHIVE), staged.path(INDEX))
            # What is judged is what was stored.
            check = check_records(read_records(lambda name: staged.path(name).read_bytes()))
            return tracks, check, _judge(work, tracks, check)

        climbed = climb(
            work.models.ladder(TASK),
            attempt,
            refusal=lambda made: _refusal(made[2]),
            # The more hands the better; a clip without any is one all the same.
            usable=lambda made: 0.0 if blocking_refusal(made[2]) else 1.0 + made[1].hand_share,
            log=work.log,
        )
        tracks, check, verdicts = climbed.result
        write_verdict_table(
            staged.path(VERDICTS_FILE),
            frame_index=tracks.frame_index,
            timestamps_ns=tracks.timestamps_ns,
            measurements={"has_hand": check.has_hand},
            verdicts=_frame_verdicts(work, tracks, check),
        )
        shown = [int(tracks.frame_index[place]) for place in frames_to_show(tracks, _TILES)]
        tiles = draw_sheet_tiles(frames.stream(indices=shown), tracks)
    pictures = {}
    if tiles:
        staged.path(_PICTURE).write_bytes(contact_sheet(tiles))
        pictures["hands, their states and what they hold"] = _PICTURE
    left, right = (float(track.visible.mean()) if track.visible.size else 0.0 for track in tracks.tracks)
    return LayerDraft(
        gates=verdicts,
        config={"frames_per_second": work.frames_per_second(TASK), **climbed.rung.config},
        backends=(climbed.rung.open().info,),
        attempts=climbed.attempts,
        counts={
            "frames": tracks.frame_index.size,
            "hand_share": check.hand_share,
            "left_share": left,
            "right_share": right,
            "other_hands_mean": float(tracks.other_hands.mean()) if tracks.other_hands.size else 0.0,
            **{f"{state}_count": count for state, count in check.state_counts.items()},
        },
        resolution=frames.size,
        reviews=_reviews(climbed.accepted, verdicts),
        facts={"frames_per_second": work.frames_per_second(TASK)},
        metadata={
            "frames": int(tracks.frame_index.size),
            "frames with the left hand": f"{left:.0%}",
            "frames with the right hand": f"{right:.0%}",
            "states": ", ".join(f"{state} {count}" for state, count in check.state_counts.items()),
        },
        pictures=pictures,
    )


def _cuts(work: ClipWork, frames: SampledFrames) -> npt.NDArray[np.bool_] | None:
    """On which of the sampled frames a new scene begins; ``None`` where the privacy pass did not say."""
    import numpy as np

    motion, _ = work.camera_motion(frames.size)
    if motion.frame_count <= int(frames.frame_index.max(initial=-1)):
        return None
    scenes = motion.scenes[frames.frame_index]
    return np.concatenate([[False], np.diff(scenes) > 0])[: scenes.size]


def _judge(work: ClipWork, tracks: HandObjectTracks, check: RecordCheck) -> list[GateResult]:
    return judge_hand_object(
        records=check.is_valid.size,
        valid_records=int(check.is_valid.sum()),
        first_problem=check.first_problem,
        boxes=check.boxes,
        boxes_outside=check.boxes_outside,
        steps=check.steps,
        illegal_steps=check.illegal_steps,
        state_counts=check.state_counts,
        hand_share=check.hand_share,
        contact_share=contact_share(tracks),
        activity=work.clip.activity_category,
        frames_per_second=work.frames_per_second(TASK) or work.clip.fps or 30.0,
    )


def _frame_verdicts(
    work: ClipWork, tracks: HandObjectTracks, check: RecordCheck
) -> Mapping[str, tuple[GateOutcome, ...]]:
    activity = work.clip.activity_category
    return frame_verdicts(
        is_valid=check.is_valid,
        boxes_inside=check.boxes_inside,
        has_step=check.has_step,
        step_is_legal=check.step_is_legal,
        has_hand=check.has_hand,
        about_handling=is_about_handling(activity, contact_share=contact_share(tracks)),
    )


def _few_hands(verdicts: Sequence[GateResult]) -> str:
    return " ".join(
        verdict.message
        for verdict in verdicts
        if verdict.spec is HANDS_VISIBLE and verdict.outcome is GateOutcome.WARNED
    )


def _refusal(verdicts: Sequence[GateResult]) -> str:
    """Why to try another way: the layer is unusable, or shows few hands where many are expected."""
    return " ".join(part for part in (blocking_refusal(verdicts), _few_hands(verdicts)) if part)


def _reviews(accepted: bool, verdicts: Sequence[GateResult]) -> list[ReviewRequest]:
    """A person looks where every attempt found few hands; what failed a blocking gate is asked for anyway."""
    if accepted or blocking_refusal(verdicts):
        return []
    return [ReviewRequest(kind=ReviewKind.GATE_FAILED, risk=ReviewRisk.NORMAL, reason=_few_hands(verdicts))]
