"""What reviewers do: look at frames, record what was missed, close the item. Free of Dagster and of the terminal."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ego_assets.schema.artifact import ArtifactDocument
from ego_assets.schema.clip import PRIVACY_LAYER, Clip
from ego_assets.schema.corrections import (
    CORRECTIONS_INPUT,
    KIND_WORDS,
    Box,
    Correction,
    PiiKind,
    corrections_version,
    why_outside,
)
from ego_assets.schema.errors import EgoAssetsError
from ego_assets.schema.progress import ProgressCallback, ignore_progress
from ego_assets.schema.vocabulary import PrivacyStatus, ReviewKind, ReviewRisk

if TYPE_CHECKING:
    from resources.database import Database, ReviewItem
    from resources.frame_reviews import FrameReview
    from resources.storage import ArtifactStore

#: Kinds of review items that concern personal data.
_ABOUT_PRIVACY = frozenset(
    {
        ReviewKind.PII_DENSITY,
        ReviewKind.PII_LOW_CONFIDENCE,
        ReviewKind.PII_LEAK,
        ReviewKind.RANDOM_AUDIT,
    }
)

#: Frames on one page at most. Of a longer random sample the next page shows the rest; of other frames evenly spread
#: ones are shown.
MAX_PAGE_FRAMES = 300
#: Frames by which a single missed frame is extended to both sides: the stretch that one sampled frame stands for.
REACH_FRAMES = 19


class ReviewRefused(EgoAssetsError):
    """A review cannot be opened, recorded or closed as asked; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class MissedRegion:
    """Something that is not covered.

    Attributes:
        kind: What it is.
        first_frame: First frame in which it shows.
        last_frame: Last frame in which it shows; ``None`` when the reviewer gave one frame only.
        box_xyxy: Where, in pixels of the upright full-size picture.
    """

    kind: PiiKind
    first_frame: int
    last_frame: int | None
    box_xyxy: Box

    def shows_in(self, frame: int) -> bool:
        """Whether the reviewer says that it shows in this frame."""
        last = self.first_frame if self.last_frame is None else self.last_frame
        return self.first_frame <= frame <= last


@dataclass(frozen=True, kw_only=True)
class FalseRegions:
    """Covered regions of one frame that show no personal data.

    Attributes:
        frame_index: The frame.
        kind: Kind under which they were covered.
        count: How many.
    """

    frame_index: int
    kind: PiiKind
    count: int


@dataclass(frozen=True, kw_only=True)
class RecordedReview:
    """What recording a finding did.

    Attributes:
        clip_id: The clip.
        frames: Frames that were recorded.
        missed: Uncovered regions in these frames.
        corrections: What the next rendering will cover.
        incident_commands: Commands to run instead, because consumers hold the clip as it is.
        delivered_before: Whether consumers hold an earlier rendering of the clip, which may show the same.
        remaining_frames: Frames of the item that nobody has recorded yet.
    """

    clip_id: str
    frames: tuple[int, ...]
    missed: int
    corrections: tuple[Correction, ...]
    incident_commands: tuple[str, ...]
    delivered_before: bool
    remaining_frames: int


# --- looking ------------------------------------------------------------------------------------------


def write_review_page(
    item_id: int,
    *,
    database: Database,
    store: ArtifactStore,
    reports: Path,
    actor: str,
    out: Path | None = None,
    progress: ProgressCallback = ignore_progress,
) -> Path:
    """Write the page on which a person looks at the frames of a review item.

    It shows pictures of the blurred video only, at most :data:`MAX_PAGE_FRAMES` frames; of the random sample those
    that nobody has recorded yet, and all once everything is recorded. Below ``reports`` it is removed when the item is
    closed.

    Args:
        item_id: The item.
        database: The metadata database.
        store: The artifact store.
        reports: Folder of the reports.
        actor: Who opens it, for the audit log.
        out: Folder to write instead; it must be empty or not exist.
        progress: Hears pictures done and in total.

    Returns:
        Path of the page.

    Raises:
        ReviewRefused: There is nothing that may be shown.
    """
    import io

    import pyarrow.parquet

    from ego_assets.media.probe import probe
    from ego_assets.media.timeline import read_timeline
    from ego_assets.privacy.recall import covered_regions
    from ego_assets.privacy.review_page import ReviewSubject, render_review_page, write_pictures

    item = database.review_item(item_id)
    clip = database.clip(item.clip_id)
    document = _rendering(item, store)
    all_frames = frames_of(item, document, database)
    shown = _shown(item, all_frames, document, database)
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ReviewRefused(f"{out} is not an empty folder. Give one that is empty or does not exist.")
    folder = out or page_folder(reports, clip.clip_id) / str(item.id)
    if out is None:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    tracks = pyarrow.parquet.read_table(io.BytesIO(store.read_bytes(document, "tracks.parquet")))
    unsure = item.kind is ReviewKind.PII_LOW_CONFIDENCE and bool(item.details.get("frames"))
    try:
        with store.local_path(document, "video.mp4") as video:
            found, timeline = probe(video), read_timeline(video)
            frames = write_pictures(
                video,
                shown,
                folder,
                timestamps_ns=timeline.timestamps_ns,
                regions=covered_regions(tracks, shown),
                notes=dict.fromkeys(shown, "a detector was unsure here") if unsure else {},
                progress=progress,
            )
        subject = ReviewSubject(
            item_id=item.id,
            kind=item.kind.value,
            reason=item.reason,
            clip_id=clip.clip_id,
            source_name=clip.source_name,
            version=document.version_id,
            width=found.width,
            height=found.height,
            frame_count=timeline.frame_count,
            item_frames=len(all_frames),
        )
        page = folder / "index.html"
        page.write_text(
            render_review_page(subject, frames, box_margin=float(document.config.get("box_margin", 0.0))),
            encoding="utf-8",
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    database.write_audit(
        actor=actor,
        action="review.open",
        clip_id=clip.clip_id,
        detail=f"item {item.id}, {len(shown)} frame(s) of {document.version_id}",
    )
    return page


def page_folder(reports: Path, clip_id: str) -> Path:
    """Where the review pages of a clip lie."""
    return reports / "reviews" / clip_id


def remove_review_pages(reports: Path, clip_id: str) -> None:
    """Remove all review pages of a clip: they hold pictures of a rendering that may have leaked something."""
    folder = page_folder(reports, clip_id)
    if folder.exists():
        shutil.rmtree(folder)


def frames_of(item: ReviewItem, document: ArtifactDocument, database: Database) -> tuple[int, ...]:
    """The frames that an item asks a person to look at; where it names none, the rendering's random sample."""
    return _named_frames(item, document) or sampled_frames(item.clip_id, document, database)


def sampled_frames(clip_id: str, document: ArtifactDocument, database: Database) -> tuple[int, ...]:
    """The random sample of a rendering: what is found on these frames measures recall, whatever item is recorded."""
    from ego_assets.privacy.sampling import audit_sample

    audits = _audits(document, database.review_items(clip_id=clip_id))
    named = _named_frames(audits[-1], document) if audits else ()
    return named or tuple(audit_sample(clip_id, _frame_count(document)).tolist())


# --- recording ----------------------------------------------------------------------------------------


def record_review(
    item_id: int,
    *,
    database: Database,
    store: ArtifactStore,
    reviewer: str,
    missed: Sequence[MissedRegion] = (),
    false_regions: Sequence[FalseRegions] = (),
    frames: Collection[int] | None = None,
    version: str = "",
) -> RecordedReview:
    """Record what a reviewer found on frames of the present rendering.

    What was missed is ordered to be covered, so that the next run renders the clip anew; until then the clip stays
    out of deliveries. When a delivery holds this very rendering, nothing is ordered: the commands that open an
    incident are returned instead, because consumers hold the leak.

    Args:
        item_id: The item.
        database: The metadata database.
        store: The artifact store.
        reviewer: Who looked.
        missed: What is not covered.
        false_regions: Covered regions that show no personal data.
        frames: Frames that were looked at; all frames of the item by default.
        version: Start of the data version that was looked at; checked where it is given.

    Raises:
        ReviewItemError: There is no such item.
        ReviewRefused: The item is closed, the clip was rendered anew, or something lies outside the clip.
    """
    import io

    import pyarrow.parquet

    from ego_assets.privacy.recall import counts_by_kind, covered_regions
    from resources.corrections import CorrectionLog
    from resources.frame_reviews import FrameReview, FrameReviewLog

    item = database.review_item(item_id)
    clip, document = database.clip(item.clip_id), _open_rendering(item, version, store)
    wanted = frames_of(item, document, database)
    sample = set(sampled_frames(clip.clip_id, document, database))
    looked_at = set(wanted if frames is None else frames)
    looked_at |= {entry.frame_index for entry in false_regions}
    looked_at |= {
        region.first_frame for region in missed if not any(region.shows_in(frame) for frame in looked_at)
    }
    _require_inside(clip, document, looked_at, missed)
    tracks = pyarrow.parquet.read_table(io.BytesIO(store.read_bytes(document, "tracks.parquet")))
    covered = {
        frame: counts_by_kind(regions) for frame, regions in covered_regions(tracks, looked_at).items()
    }
    wrong: dict[int, dict[str, int]] = {}
    for entry in false_regions:
        there = covered[entry.frame_index].get(entry.kind, 0)
        claimed = wrong.setdefault(entry.frame_index, {})
        claimed[entry.kind] = claimed.get(entry.kind, 0) + entry.count
        if claimed[entry.kind] > there:
            raise ReviewRefused(
                f"Frame {entry.frame_index} has {there} covered region(s) of kind {entry.kind}, so "
                f"{claimed[entry.kind]} of them cannot be false."
            )
    reviews = [
        FrameReview(
            clip_id=clip.clip_id,
            data_version=document.data_version,
            frame_index=frame,
            reviewer=reviewer,
            item_id=item.id,
            sampled=frame in sample,
            covered=covered[frame],
            false_regions=wrong.get(frame, {}),
            missed=tuple(
                {"kind": region.kind, "box_xyxy": list(region.box_xyxy)}
                for region in missed
                if region.shows_in(frame)
            ),
        )
        for frame in sorted(looked_at)
    ]
    orders = tuple(_order(region, item, document, looked_at, missed, actor=reviewer) for region in missed)
    log, corrections = FrameReviewLog(database), CorrectionLog(database)
    with database.transaction():
        database.lock_clip(clip.clip_id)
        # Once more, now that nobody can close, render or deliver anything in between.
        item = database.review_item(item_id)
        _open_rendering(item, document.version_id, store)
        held = delivered_versions(clip.clip_id, database)
        delivered = document.data_version in held
        before = log.reviews(clip_id=clip.clip_id, data_version=document.data_version)
        log.record(reviews)
        added: list[Correction] = []
        if not delivered:
            known = corrections.of_clip(clip.clip_id)
            for region, order in zip(missed, orders, strict=True):
                same = {_content(order)} & {_content(other) for other in (*known, *added)}
                if not same and not _is_ordered(region, order, known, before):
                    corrections.add(order)
                    added.append(order)
        if missed:
            database.add_review_item(
                clip.clip_id,
                layer=item.layer,
                kind=item.kind,
                risk=ReviewRisk.HIGH,
                reason=f"A reviewer found {len(missed)} region(s) that are not covered.",
                details=item.details,
            )
        settle_privacy_status(clip.clip_id, database=database, store=store)
        left = _left(item, wanted, document, database)
    return RecordedReview(
        clip_id=clip.clip_id,
        frames=tuple(sorted(looked_at)),
        missed=sum(len(review.missed) for review in reviews),
        corrections=tuple(added),
        incident_commands=tuple(map(_incident_command, orders)) if delivered else (),
        delivered_before=bool(held) and not delivered,
        remaining_frames=len(left),
    )


def resolve_review(
    item_id: int, *, note: str, database: Database, store: ArtifactStore, reports: Path, actor: str
) -> ReviewItem:
    """Close an item.

    An item about personal data stays open while something that a reviewer found is not covered yet, and the random
    sample until each of its frames was recorded.

    Raises:
        ReviewItemError: There is no such item, or it is closed already.
        ReviewRefused: It has to stay open; the message says what to do.
    """
    item = database.review_item(item_id)
    with database.transaction():
        # From here on nobody can find or order anything in between.
        database.lock_clip(item.clip_id)
        item = database.review_item(item_id)
        document = store.document(item.clip_id, PRIVACY_LAYER)
        if item.resolved_at is None and document is not None:
            _require_settled(item, document, database)
        closed = database.resolve_review_item(item_id, resolution=note, actor=actor)
        database.write_audit(
            actor=actor, action="review.resolve", clip_id=item.clip_id, detail=f"{item.kind}: item {item.id}"
        )
        settle_privacy_status(item.clip_id, database=database, store=store)
    shutil.rmtree(page_folder(reports, item.clip_id) / str(item.id), ignore_errors=True)
    return closed


def settle_privacy_status(clip_id: str, *, database: Database, store: ArtifactStore) -> PrivacyStatus:
    """Set ``privacy_status`` to ``reviewed`` or back to ``blurred``, as the reviews of the present rendering say.

    It is ``reviewed`` when the random sample of the present rendering was closed, no item about personal data and no
    incident is open, and nothing waits to be covered. A clip that is not de-identified stays so.
    """
    clip = database.clip(clip_id)
    document = store.document(clip_id, PRIVACY_LAYER)
    if clip.privacy_status is PrivacyStatus.PENDING or document is None:
        return clip.privacy_status
    items = database.review_items(clip_id=clip_id)
    pending = (
        any(item.resolved_at is None and item.kind in _ABOUT_PRIVACY for item in items)
        or database.open_incident(clip_id) is not None
        or correction_pending(clip_id, document, database)
    )
    done = bool(_audits(document, items)) and not pending
    status = PrivacyStatus.REVIEWED if done else PrivacyStatus.BLURRED
    if status is not clip.privacy_status:
        database.update_clip(clip_id, privacy_status=status)
    return status


def correction_pending(clip_id: str, document: ArtifactDocument, database: Database) -> bool:
    """Whether something was ordered to be covered that the rendering was made without."""
    from resources.corrections import CorrectionLog

    orders = CorrectionLog(database).of_clip(clip_id)
    return document.inputs.get(CORRECTIONS_INPUT) != (corrections_version(orders) if orders else None)


def delivered_versions(clip_id: str, database: Database) -> set[str]:
    """Data versions of the clip's ``blurred_video`` that deliveries hold."""
    return {entry.data_versions.get(PRIVACY_LAYER, "") for _, entry in database.deliveries_of(clip_id)}


# --- helpers ------------------------------------------------------------------------------------------


def _rendering(item: ReviewItem, store: ArtifactStore) -> ArtifactDocument:
    """The blurred video that may be looked at."""
    document = store.document(item.clip_id, PRIVACY_LAYER)
    if document is None:
        raise ReviewRefused(
            f"Clip {item.clip_id} has no blurred video that may be shown: {item.reason} Correct the cause and run "
            "`ego-assets run --retry-failed` with the same profile."
        )
    return document


def _open_rendering(item: ReviewItem, version: str, store: ArtifactStore) -> ArtifactDocument:
    """The blurred video that an open item is about, of a version that starts so."""
    if item.resolved_at is not None:
        raise ReviewRefused(
            f"Review item {item.id} was closed by {item.resolved_by}. What is found now is an incident: "
            f"`ego-assets incident open {item.clip_id} --help`."
        )
    document = _rendering(item, store)
    if not document.data_version.startswith(version):
        raise ReviewRefused(
            f"Clip {item.clip_id} was rendered anew since version {version} was looked at (now "
            f"{document.version_id}). Look again: `ego-assets review open {item.id}`."
        )
    return document


def _audits(document: ArtifactDocument, items: Sequence[ReviewItem]) -> list[ReviewItem]:
    """The items that ask for the random sample of a rendering: those that were not closed before it was made."""
    rendered_at = dt.datetime.fromisoformat(document.committed_at)
    return [
        item
        for item in items
        if item.kind is ReviewKind.RANDOM_AUDIT
        and (item.resolved_at is None or item.resolved_at >= rendered_at)
    ]


def _named_frames(item: ReviewItem, document: ArtifactDocument) -> tuple[int, ...]:
    """The frames that an item names, as far as the rendering has them."""
    named = sorted({int(frame) for frame in item.details.get("frames") or ()})
    return tuple(frame for frame in named if 0 <= frame < _frame_count(document))


def _frame_count(document: ArtifactDocument) -> int:
    return int(document.counts["frames"])


def _shown(
    item: ReviewItem, frames: Sequence[int], document: ArtifactDocument, database: Database
) -> tuple[int, ...]:
    """The frames of an item that a page shows: of the random sample those that nobody has recorded yet."""
    if item.kind is not ReviewKind.RANDOM_AUDIT:
        return _spread(frames, MAX_PAGE_FRAMES)
    left = _left(item, frames, document, database)
    return tuple((left or frames)[:MAX_PAGE_FRAMES])


def _left(
    item: ReviewItem, frames: Sequence[int], document: ArtifactDocument, database: Database
) -> list[int]:
    """The frames of an item that nobody has recorded yet; for the random sample only what measures recall counts."""
    from resources.frame_reviews import FrameReviewLog

    reviews = FrameReviewLog(database).reviews(clip_id=item.clip_id, data_version=document.data_version)
    sample_only = item.kind is ReviewKind.RANDOM_AUDIT
    recorded = {review.frame_index for review in reviews if review.sampled or not sample_only}
    return [frame for frame in frames if frame not in recorded]


def _spread(frames: Sequence[int], most: int) -> tuple[int, ...]:
    """At most so many of the frames, evenly spread."""
    if len(frames) <= most:
        return tuple(frames)
    return tuple(frames[position * len(frames) // most] for position in range(most))


def _require_inside(
    clip: Clip, document: ArtifactDocument, frames: Collection[int], missed: Sequence[MissedRegion]
) -> None:
    reason = why_outside(
        clip,
        last_frame=max((*frames, *(region.last_frame or 0 for region in missed)), default=0),
        boxes_xyxy=[region.box_xyxy for region in missed],
        frame_count=_frame_count(document),
    )
    if reason:
        raise ReviewRefused(f"{reason} Nothing was recorded.")


def _order(
    region: MissedRegion,
    item: ReviewItem,
    document: ArtifactDocument,
    looked_at: Collection[int],
    missed: Sequence[MissedRegion],
    *,
    actor: str,
) -> Correction:
    """What is to be covered. A single frame stands for the stretch up to the next frames without the finding."""
    first, last = region.first_frame, region.last_frame
    if last is None:
        same = [other for other in missed if other.kind == region.kind]
        clean = [frame for frame in looked_at if not any(other.shows_in(frame) for other in same)]
        before = [frame + 1 for frame in clean if frame < first]
        after = [frame - 1 for frame in clean if frame > first]
        last = min([first + REACH_FRAMES, _frame_count(document) - 1, *after])
        first = max([first - REACH_FRAMES, 0, *before])
    return Correction(
        clip_id=item.clip_id,
        kind=region.kind,
        first_frame=first,
        last_frame=last,
        box_xyxy=region.box_xyxy,
        origin=f"review:{item.id}",
        actor=actor,
        note=item.reason,
    )


def _content(order: Correction) -> tuple[object, ...]:
    return (order.kind, order.first_frame, order.last_frame, order.box_xyxy, order.origin)


def _is_ordered(
    region: MissedRegion, order: Correction, known: Sequence[Correction], before: Sequence[FrameReview]
) -> bool:
    """Whether this finding was ordered to be covered before, whatever other frames were looked at then.

    A single frame stands for a stretch, so that an order over the frame is that of the finding only where the
    finding was recorded there.
    """
    found = {"kind": region.kind, "box_xyxy": list(region.box_xyxy)}
    last = region.first_frame if region.last_frame is None else region.last_frame
    recorded = region.last_frame is not None or any(
        review.frame_index == last and found in map(dict, review.missed) for review in before
    )
    return recorded and any(
        (other.kind, other.box_xyxy, other.origin) == (order.kind, order.box_xyxy, order.origin)
        and other.first_frame <= region.first_frame
        and last <= other.last_frame
        for other in known
    )


def _incident_command(order: Correction) -> str:
    box = ",".join(f"{edge:g}" for edge in order.box_xyxy or ())
    return (
        f"ego-assets incident open {order.clip_id} --frames {order.first_frame}-{order.last_frame} --kind "
        f'{KIND_WORDS[order.kind]} --box {box} --note "found in review {order.origin.partition(":")[2]}"'
    )


def _require_settled(item: ReviewItem, document: ArtifactDocument, database: Database) -> None:
    """Refuse to close an item about personal data too early."""
    from resources.frame_reviews import FrameReviewLog

    if item.kind not in _ABOUT_PRIVACY:
        return
    reviews = FrameReviewLog(database).reviews(clip_id=item.clip_id, data_version=document.data_version)
    if correction_pending(item.clip_id, document, database):
        raise ReviewRefused(
            f"Clip {item.clip_id} is to be rendered anew because something was missed: `ego-assets run`, then look at "
            f"it again with `ego-assets review open {item.id}`."
        )
    uncovered = sorted({review.frame_index for review in reviews if review.missed})
    if uncovered:
        raise ReviewRefused(
            f"Frame(s) {', '.join(map(str, uncovered[:8]))} of clip {item.clip_id} show something that is not covered, "
            f"in a rendering that was delivered. Open an incident: `ego-assets incident open {item.clip_id} --help`. "
            "Where this was a mistake, record these frames again without it."
        )
    if item.kind is ReviewKind.RANDOM_AUDIT:
        left = _left(item, frames_of(item, document, database), document, database)
        if left:
            raise ReviewRefused(
                f"{len(left)} frame(s) of review item {item.id} were not recorded yet, the first is {left[0]}. Look at "
                f"them with `ego-assets review open {item.id}` and run the command that the page shows."
            )
