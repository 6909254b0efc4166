"""Gate over a collection or a delivery: recall of the privacy pass as people measured it."""

from __future__ import annotations

from collections.abc import Mapping

from ego_assets.schema.gates import GateResult, GateSpec
from ego_assets.schema.recall import RecallEstimate

MEASURED_RECALL = GateSpec(
    name="measured_recall",
    description=(
        "Of the faces in the frames that people reviewed, enough were covered. Measured on a random 5 % sample of "
        "the frames of the blurred videos."
    ),
    threshold=0.98,
    unit="share of faces covered in reviewed frames",
    source="collection guide, pitfalls: 5 % of blurred frames reviewed, above 98 % face detection recall",
)

#: Kind that is judged; the guide states no figure for the others, which are reported beside it.
JUDGED_KIND = "faces"
#: Fewest faces in reviewed frames. With fewer than 189 the 95 % Wilson interval reaches below the threshold even when
#: every face was covered, so that no result could show that the threshold is met.
MIN_REGIONS = 200
#: Fewest clips that show a face. Faces of one clip are missed for the same reasons: from fewer clips the spread
#: between clips, on which the interval rests, cannot be told.
MIN_CLIPS = 5


def judge_recall(estimates: Mapping[str, RecallEstimate]) -> GateResult:
    """Judge recall by the estimate itself; the message gives its interval.

    Args:
        estimates: Estimates by kind, see :func:`ego_assets.privacy.recall.measure_recall`.
    """
    details: dict[str, object] = {
        kind: {
            "recall": found.recall,
            "low": found.low,
            "high": found.high,
            "covered": found.covered,
            "missed": found.missed,
            "frames": found.frames,
            "clips": found.clips,
            "clips_with_regions": found.clips_with_regions,
        }
        for kind, found in estimates.items()
    }
    faces = estimates.get(JUDGED_KIND)
    if faces is None or not faces.frames:
        return MEASURED_RECALL.not_evaluated(
            "Nobody has reviewed a sampled frame yet. See `ego-assets review list --kind random_audit`.",
            **details,
        )
    if faces.regions < MIN_REGIONS or faces.clips_with_regions < MIN_CLIPS or faces.recall is None:
        return MEASURED_RECALL.not_evaluated(
            f"{faces.regions} face(s) of {faces.clips_with_regions} clip(s) in {faces.frames} reviewed frame(s); at "
            f"least {MIN_REGIONS} of {MIN_CLIPS} clips are needed. Review more sampled frames: "
            "`ego-assets review list --kind random_audit`.",
            **details,
        )
    seen = f"Recall of faces {faces.described()}."
    if faces.recall < MEASURED_RECALL.limit:
        return MEASURED_RECALL.failed(
            f"{seen} Correct what was missed and find its cause before anything is delivered: lower thresholds in the "
            "profile, a denser schedule, or another detector.",
            value=faces.recall,
            **details,
        )
    proven = faces.low is not None and faces.low >= MEASURED_RECALL.limit
    rest = (
        "" if proven else " The interval reaches below the threshold: more reviewed frames make it narrower."
    )
    return MEASURED_RECALL.passed(seen + rest, value=faces.recall, **details)
