"""Recall of the privacy pass as people measure it on sampled frames of the blurred video.

What counts as covered is a region that was redacted and that the reviewer did not call a false one. Nobody can see
what lies under the blur, so a false region that nobody recognises as one counts as covered, and recall comes out a
little too high. Against that, the safety margin before a region's first and after its last sighting never counts
as covered: most of it shows nothing.

Regions are no independent observations: one face is seen in many frames, and one badly lit clip has most of the
misses. The interval allows for it by the design effect, see :func:`measure_recall`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from ego_assets.privacy.coverage import wilson_interval
from ego_assets.schema.recall import RecallEstimate, ReviewedFrame


@dataclass(frozen=True, kw_only=True)
class CoveredRegion:
    """One redacted region on one frame.

    Attributes:
        track_id: Its track.
        kind: Such as ``faces``.
        box_xyxy: Left, top, right, bottom in pixels of the upright full-size picture, without the blur's margin.
        counted: Whether it lies between the first and the last sighting of its track, so that it counts as
            covered; the safety margins at both ends do not.
        group: Regions of one frame with the same group show one thing, so that they count once.
    """

    track_id: int
    kind: str
    box_xyxy: tuple[float, float, float, float]
    counted: bool
    group: int


def covered_regions(tracks: pa.Table, frames: Iterable[int]) -> dict[int, list[CoveredRegion]]:
    """The redacted regions of some frames.

    Counted regions of one kind that lie over each other are one group: what a person ordered to be covered often
    lies over what the detectors found.

    Args:
        tracks: ``tracks.parquet`` of a blurred video, see :func:`ego_assets.privacy.report.tracks_table`.
        frames: Frame indices.

    Returns:
        Regions by frame, an empty list where there are none.
    """
    found: dict[int, list[CoveredRegion]] = {int(frame): [] for frame in frames}
    columns = {name: tracks.column(name).to_numpy() for name in ("track_id", "frame_index", "observed")}
    track_ids, indices, observed = (columns[name] for name in ("track_id", "frame_index", "observed"))
    sighted: dict[int, tuple[int, int]] = {}
    for track_id, frame in zip(track_ids[observed].tolist(), indices[observed].tolist(), strict=True):
        first, last = sighted.get(track_id, (frame, frame))
        sighted[track_id] = (min(first, frame), max(last, frame))
    wanted = np.flatnonzero(np.isin(indices, list(found)))
    for row in tracks.take(pa.array(wanted)).to_pylist():
        frame, track_id = int(row["frame_index"]), int(row["track_id"])
        # A track without any sighting has no margins.
        first, last = sighted.get(track_id, (frame, frame))
        region = CoveredRegion(
            track_id=track_id,
            kind=str(row["kind"]),
            box_xyxy=(float(row["left"]), float(row["top"]), float(row["right"]), float(row["bottom"])),
            counted=first <= frame <= last,
            group=track_id,
        )
        found[frame].append(_grouped(region, found[frame]))
    return found


def counts_by_kind(regions: Iterable[CoveredRegion]) -> dict[str, int]:
    """How many things of each kind count as covered: groups of regions, see :func:`covered_regions`."""
    groups = {(region.kind, region.group) for region in regions if region.counted}
    return dict(Counter(kind for kind, _ in groups))


def measure_recall(frames: Iterable[ReviewedFrame]) -> dict[str, RecallEstimate]:
    """Recall of every kind that was seen, and of faces in any case.

    Where several people reviewed a frame, the review that found most uncovered regions of the kind counts.

    The interval is Wilson's at 95 %, at the effective number of regions: the number of regions divided by the design
    effect. That is the variance of the ratio estimate between clips over the variance of as many independent
    regions (W. G. Cochran, *Sampling Techniques*, 3rd edition, chapters 6 and 9A; used with Wilson's interval as by
    E. L. Korn and B. I. Graubard, 1998), and never less than the mean number of regions on a frame that has any,
    because regions on one frame are missed together. One clip alone shows no variance between clips: its interval
    allows for the frames only.

    Args:
        frames: Reviewed frames of a random sample; frames that somebody chose would bias the figure.

    Returns:
        Estimates by kind, in alphabetical order.
    """
    by_frame: dict[tuple[str, int], list[ReviewedFrame]] = defaultdict(list)
    for frame in frames:
        by_frame[(frame.clip_id, frame.frame_index)].append(frame)
    kinds = {"faces"}
    for reviews in by_frame.values():
        kinds |= {kind for review in reviews for kind in (*review.covered, *review.missed)}
    return {kind: _estimate(kind, by_frame) for kind in sorted(kinds)}


def _grouped(region: CoveredRegion, before: Iterable[CoveredRegion]) -> CoveredRegion:
    """The region, in the group of the first one that it lies over."""
    for other in before:
        leads = other.counted and other.group == other.track_id and other.kind == region.kind
        if region.counted and leads and _same_place(region, other):
            return replace(region, group=other.group)
    return region


def _same_place(a: CoveredRegion, b: CoveredRegion) -> bool:
    """Whether two regions show one thing: at least half of the smaller one lies in the other."""
    overlap_x = min(a.box_xyxy[2], b.box_xyxy[2]) - max(a.box_xyxy[0], b.box_xyxy[0])
    overlap_y = min(a.box_xyxy[3], b.box_xyxy[3]) - max(a.box_xyxy[1], b.box_xyxy[1])
    smaller = min((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (a.box_xyxy, b.box_xyxy))
    return overlap_x > 0 and overlap_y > 0 and overlap_x * overlap_y >= 0.5 * smaller


def _estimate(kind: str, by_frame: Mapping[tuple[str, int], Sequence[ReviewedFrame]]) -> RecallEstimate:
    covered: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    frames_with_regions = 0
    for (clip_id, _), reviews in by_frame.items():
        review = max(reviews, key=lambda item: (item.missed.get(kind, 0), -item.covered.get(kind, 0)))
        covered[clip_id] += review.covered.get(kind, 0)
        missed[clip_id] += review.missed.get(kind, 0)
        frames_with_regions += bool(review.covered.get(kind, 0) + review.missed.get(kind, 0))
    clips = sorted(covered)
    hits = np.array([covered[clip_id] for clip_id in clips], dtype=np.float64)
    regions = np.array([covered[clip_id] + missed[clip_id] for clip_id in clips], dtype=np.float64)
    total = int(regions.sum())
    low = high = None
    if total:
        effective = total / _design_effect(hits, regions, regions_per_frame=total / frames_with_regions)
        low, high = wilson_interval(hits.sum() / total * effective, effective)
    return RecallEstimate(
        kind=kind,
        covered=int(hits.sum()),
        missed=total - int(hits.sum()),
        frames=len(by_frame),
        clips=len(clips),
        clips_with_regions=int(np.count_nonzero(regions)),
        low=low,
        high=high,
    )


def _design_effect(
    hits: np.ndarray[tuple[int], np.dtype[np.float64]],
    regions: np.ndarray[tuple[int], np.dtype[np.float64]],
    *,
    regions_per_frame: float,
) -> float:
    """By how much the variance exceeds that of independent regions, 1 or more."""
    shown = regions > 0
    clips, total = int(np.count_nonzero(shown)), float(regions.sum())
    recall = float(hits.sum()) / total
    independent = recall * (1 - recall) / total
    if clips < 2 or independent == 0:
        return max(1.0, regions_per_frame)
    residuals = hits[shown] - recall * regions[shown]
    between = clips / (clips - 1) * float(np.square(residuals).sum()) / total**2
    # Never more than one observation is left of all clips together.
    return min(max(1.0, regions_per_frame, between / independent), total)
