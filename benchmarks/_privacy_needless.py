"""What users see of needless redaction: the redacted share of whole clips in which there is nothing to hide.

The first pass and its tracks, with all detectors; nothing is rendered.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from _harness import Reporter
from _privacy_cost import detectors
from _privacy_material import TESTDATA, no_material, pass_over

from ego_assets.schema.detections import RegionDetector

TARGET = 0.02

#: First-person clips without a face, readable text, a screen or a readable plate, by eye on eight frames of each;
#: clip -> what is seen. Clips with labelled bottles, packets, papers or displays are left out, readable or not.
NOTHING_TO_HIDE = {
    "ego_video/ego4d_cmuafrica.mp4": "hands scrub a red mat outdoors",
    "gopro_imu/hero7.mp4": "a walk along a building, cars far away",
    "ego_video/epic_tile_r3c2.mp4": "a frying pan on a stove",
    "ego_video/epic_tile_r0c1.mp4": "washing up in a sink",
    "ego_video/epic_tile_r1c1.mp4": "reaching into a dark cupboard",
}
QUICK_CLIPS = 3
#: The only clip at 1080p: a can and two bottles carry print, so its share is an upper bound.
LITTLE_TO_HIDE = "ego_video/hawor_video_0.mp4"


def run(reporter: Reporter, *, quick: bool, clip: Path | None) -> None:
    """Report the redacted share per clip, by kind and on average; ``clip`` plays no part."""
    metric = "redacted share over time, clips with nothing to hide, mean"
    if not TESTDATA.is_dir():
        reporter.report(metric, None, "share", target=TARGET, reason=no_material())
        return
    using = detectors(threads=1)
    names = list(NOTHING_TO_HIDE)[: QUICK_CLIPS if quick else None]
    shares = []
    by_kind: dict[str, list[float]] = {}
    for name in names:
        share, kinds = _shares(reporter, name, using, how=NOTHING_TO_HIDE[name], target=TARGET)
        shares.append(share)
        for kind, part in kinds.items():
            by_kind.setdefault(kind, []).append(part)
    for kind, parts in by_kind.items():
        reporter.report(f"{metric}, {kind} alone", float(np.mean(parts)), "share")
    reporter.report(metric, float(np.mean(shares)), "share", target=TARGET, reason=", ".join(names))
    if not quick:
        _shares(reporter, LITTLE_TO_HIDE, using, how="1080p; a can and two bottles carry print", target=None)


def _shares(
    reporter: Reporter, name: str, using: Mapping[str, RegionDetector], *, how: str, target: float | None
) -> tuple[float, dict[str, float]]:
    """The redacted share of one clip, and that of each kind."""
    passed = pass_over(TESTDATA / name, using)
    kinds = {kind: passed.redacted_share([kind]) for kind in passed.tracks}
    share = passed.redacted_share()
    parts = ", ".join(
        f"{kind} {part:.4f} in {len(passed.tracks[kind])} tracks" for kind, part in kinds.items()
    )
    reporter.report(
        f"redacted share over time, {Path(name).stem}",
        share,
        "share",
        target=target,
        reason=f"{how}; {parts}",
    )
    return share, kinds
