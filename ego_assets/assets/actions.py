"""``actions``: what the wearer does, in segments made of one-second steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ego_assets.execution import ClipWork, LayerDraft
from ego_assets.gates.actions import GATES, judge_actions, least_score
from ego_assets.ladder import blocking_refusal, climb
from ego_assets.schema.artifact import ArtifactDocument
from ego_assets.schema.clip import PRIVACY_LAYER, Clip
from ego_assets.schema.documents import json_document
from ego_assets.schema.layers import DeliveryMember, LayerSpec, RetryPolicySpec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import numpy.typing as npt

    from ego_assets.labels.actions import ActionSteps
    from ego_assets.schema.actions import ActionRecognizer, ActionSegment
    from ego_assets.schema.gates import GateResult
    from ego_assets.schema.hands import HandObjectTracks
    from ego_assets.schema.motion import CameraMotion
    from ego_assets.settings import EnrichmentSettings
    from resources.storage import StagedLayer

HANDS_LAYER = "hand_object"


def _estimate_bytes(clip: Clip, _settings: EnrichmentSettings) -> int:
    """About 150 bytes for each second, and a picture."""
    return 50_000 + int(150 * clip.estimated_duration_s)


def deliver(document: ArtifactDocument, _read: Callable[[str], bytes]) -> list[DeliveryMember]:
    """The segments go into the clip folder as they are."""
    return [DeliveryMember(path="actions.json", layer=document.layer, file="actions.json")]


SPEC = LayerSpec(
    name="actions",
    group="enrich",
    description=(
        "What the wearer does, at 1 Hz, as segments with scores that cover the clip: manipulating, carrying, walking, "
        "looking around or idle from hands and ego-motion, or what a video network knows (EGO_ACTION_LABELS)."
    ),
    stage=4,
    inputs=(PRIVACY_LAYER,),
    optional_inputs=(HANDS_LAYER,),
    gates=GATES,
    retry=RetryPolicySpec(max_retries=2, delay_s=2.0),
    tasks=("actions",),
    pool="enrich",
    estimate_bytes=_estimate_bytes,
    deliver=deliver,
)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Evidence:
    """What there is to judge by."""

    hands: HandObjectTracks | None
    motion: CameraMotion
    timestamps_ns: npt.NDArray[np.int64]
    resolution: tuple[int, int]
    steps: ActionSteps


@dataclass(frozen=True, eq=False, kw_only=True)
class _Result:
    """What one attempt found."""

    recognizer: ActionRecognizer
    labels: tuple[str, ...]
    probabilities: npt.NDArray[np.float32]
    segments: Sequence[ActionSegment]
    gates: list[GateResult]


def make(work: ClipWork, staged: StagedLayer) -> LayerDraft:
    """Tell what the wearer does at each second."""
    from ego_assets.labels.action_chart import action_chart
    from ego_assets.labels.actions import actions_document

    evidence = _evidence(work)
    climbed = climb(
        work.models.ladder("actions"),
        lambda rung: _attempt(work, rung.open(), evidence),
        refusal=lambda result: blocking_refusal(result.gates),
        log=work.log,
    )
    result, steps = climbed.result, evidence.steps
    has_hands = bool(_hand_share(evidence.hands))
    known_labels = len(result.recognizer.labels)
    document = actions_document(
        result.probabilities,
        result.segments,
        steps=steps,
        labels=result.labels,
        known_labels=known_labels,
        has_hands=has_hands,
    )
    staged.path("actions.json").write_bytes(json_document(document))
    chart = action_chart(
        result.segments,
        result.probabilities,
        steps=steps,
        labels=result.labels,
        least_score=least_score(known_labels),
    )
    staged.path("timeline.png").write_bytes(chart)
    seconds = dict.fromkeys(result.labels, 0.0)
    for segment in result.segments:
        seconds[segment.label] += (segment.end_ns - segment.start_ns) / 1e9
    return LayerDraft(
        gates=result.gates,
        config={**climbed.rung.config, "labels": list(result.labels), "rate_hz": document["rate_hz"]},
        backends=(result.recognizer.info,),
        attempts=climbed.attempts,
        counts={"segments": len(result.segments), "steps": len(document["steps"])},
        facts={"rate_hz": document["rate_hz"], "hands": has_hands},
        metadata={
            "segments": len(result.segments),
            "hands": has_hands,
            **{f"{label}_s": round(duration, 1) for label, duration in seconds.items() if duration},
        },
        pictures={"activities": "timeline.png"},
    )


def _evidence(work: ClipWork) -> _Evidence:
    """Hands, where there are any, and the camera's motion in the same pixels."""
    from ego_assets.labels.actions import ActionSteps

    hands = work.hand_tracks()
    with work.sampled_frames(None) as sampled:
        resolution = hands.resolution if hands is not None else sampled.size
    motion, timestamps_ns = work.camera_motion(resolution)
    return _Evidence(
        hands=hands,
        motion=motion,
        timestamps_ns=timestamps_ns,
        resolution=resolution,
        steps=ActionSteps.of(timestamps_ns),
    )


def _hand_share(hands: HandObjectTracks | None) -> float | None:
    """Share of the frames of the hand layer that show a hand; ``None`` without that layer."""
    if hands is None:
        return None
    seen = hands.left.visible | hands.right.visible
    return float(seen.mean()) if seen.size else 0.0


def _attempt(work: ClipWork, recognizer: ActionRecognizer, evidence: _Evidence) -> _Result:
    """The segments that one backend finds; frames are decoded only where it wants them."""
    from ego_assets.labels.actions import HAND_LABELS, action_segments, chosen_labels

    known = recognizer.labels
    labels = chosen_labels(work.settings.action_labels, known)
    rate = recognizer.frames_per_second
    with work.sampled_frames(rate) as sampled:
        scores = recognizer.score(
            evidence.steps.times_ns,
            frames=() if rate is None else sampled.stream(),
            hands=evidence.hands,
            motion=evidence.motion,
            timestamps_ns=evidence.timestamps_ns,
            resolution=evidence.resolution,
        )
    # What was not asked for keeps its share, so that scores do not look surer than they are.
    probabilities = scores[:, [known.index(label) for label in labels]]
    segments = action_segments(probabilities, steps=evidence.steps, labels=labels)
    verdicts = judge_actions(
        segments,
        labels=labels,
        known_labels=len(known),
        start_ns=evidence.steps.start_ns,
        end_ns=evidence.steps.end_ns,
        hand_share=_hand_share(evidence.hands),
        # A backend that looks at frames sees hands by itself.
        needs_hands=recognizer.frames_per_second is None and any(label in HAND_LABELS for label in labels),
    )
    return _Result(
        recognizer=recognizer, labels=labels, probabilities=probabilities, segments=segments, gates=verdicts
    )
