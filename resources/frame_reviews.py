"""What reviewers found on frames of blurred videos: one row per frame, data version and reviewer."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import delete, select

from ego_assets.schema.corrections import PII_KINDS
from ego_assets.schema.recall import ReviewedFrame
from resources.database import Database, FrameReviewRow, record_of, utc_now

#: Action of the audit rows that keep every recorded finding, also those that were replaced later.
RECORDED = "review.record"

#: Of a reviewer's name; the column is that wide.
_LONGEST_REVIEWER = 200

_ORDERED = select(FrameReviewRow).order_by(
    FrameReviewRow.clip_id, FrameReviewRow.reviewed_at, FrameReviewRow.frame_index, FrameReviewRow.id
)


@dataclass(frozen=True, kw_only=True)
class FrameReview:
    """What one reviewer found on one frame of one rendering.

    Attributes:
        clip_id: The clip.
        data_version: Data version of the ``blurred_video`` that was looked at.
        frame_index: The frame.
        reviewer: Who looked.
        item_id: The review item that asked for it.
        sampled: Whether the frame belongs to the random sample; only those measure recall.
        covered: Redacted regions by kind, as the artifact lists them.
        false_regions: How many of these show no personal data, by kind.
        missed: Uncovered regions, each with ``kind`` and ``box_xyxy`` in pixels of the upright full-size picture.
        reviewed_at: When (UTC).
    """

    clip_id: str
    data_version: str
    frame_index: int
    reviewer: str
    item_id: int
    sampled: bool
    covered: Mapping[str, int]
    false_regions: Mapping[str, int]
    missed: Sequence[Mapping[str, Any]] = ()
    reviewed_at: dt.datetime | None = None

    def __post_init__(self) -> None:
        if not self.reviewer or not self.data_version:
            raise ValueError(
                f"frame review: expected a reviewer and a data version, got {self.reviewer!r} and "
                f"{self.data_version!r}"
            )
        if len(self.reviewer) > _LONGEST_REVIEWER:
            raise ValueError(
                f"reviewer: expected at most {_LONGEST_REVIEWER} characters, got {len(self.reviewer)}"
            )
        if self.frame_index < 0:
            raise ValueError(f"frame_index: expected 0 or more, got {self.frame_index}")
        for kind, count in self.false_regions.items():
            if not 0 <= count <= self.covered.get(kind, 0):
                raise ValueError(
                    f"false_regions: expected 0 to {self.covered.get(kind, 0)} {kind}, got {count}"
                )
        for region in self.missed:
            if region.get("kind") not in PII_KINDS or len(region.get("box_xyxy") or ()) != 4:
                raise ValueError(f"missed: expected a kind and a box of four numbers, got {dict(region)}")

    @property
    def counts(self) -> ReviewedFrame:
        """The finding as counts, for recall."""
        covered = {kind: count - self.false_regions.get(kind, 0) for kind, count in self.covered.items()}
        missed = Counter(str(region["kind"]) for region in self.missed)
        return ReviewedFrame(
            clip_id=self.clip_id, frame_index=self.frame_index, covered=covered, missed=dict(missed)
        )


class FrameReviewLog:
    """Reads and writes ``frame_reviews``.

    Args:
        database: The metadata database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, reviews: Sequence[FrameReview]) -> None:
        """Store findings; those of the same reviewer on the same frame and rendering are replaced.

        Every call writes one audit row per clip with all it records, so that nothing that was once recorded is lost.

        Raises:
            UnknownClip: A clip is not registered.
            ValueError: Two findings are about the same frame, rendering and reviewer.
        """
        keys = [_key(review) for review in reviews]
        if len(set(keys)) != len(keys):
            raise ValueError("reviews: expected one finding per frame, rendering and reviewer")
        now = utc_now()
        with self._database.write_session() as session:
            # All of them before the first audit row, for which others wait.
            clip_ids = sorted({review.clip_id for review in reviews})
            self._database.lock_clips(clip_ids)
            for clip_id in clip_ids:
                mine = [review for review in reviews if review.clip_id == clip_id]
                for version, reviewer in dict.fromkeys((item.data_version, item.reviewer) for item in mine):
                    group = [i for i in mine if (i.data_version, i.reviewer) == (version, reviewer)]
                    frames = [item.frame_index for item in group]
                    # In slices: the number of bound values of one statement is limited.
                    for start in range(0, len(frames), 500):
                        session.execute(
                            delete(FrameReviewRow).where(
                                FrameReviewRow.clip_id == clip_id,
                                FrameReviewRow.data_version == version,
                                FrameReviewRow.reviewer == reviewer,
                                FrameReviewRow.frame_index.in_(frames[start : start + 500]),
                            )
                        )
                    session.add_all(
                        FrameReviewRow(
                            **{
                                **{field.name: getattr(item, field.name) for field in fields(FrameReview)},
                                "covered": dict(item.covered),
                                "false_regions": dict(item.false_regions),
                                "missed": [dict(region) for region in item.missed],
                                "reviewed_at": item.reviewed_at or now,
                            }
                        )
                        for item in group
                    )
                    self._database.write_audit(
                        actor=reviewer, action=RECORDED, clip_id=clip_id, detail=_audit_detail(version, group)
                    )
            session.flush()

    def reviews(self, *, clip_id: str | None = None, data_version: str | None = None) -> list[FrameReview]:
        """Findings of all clips and renderings or of the given ones, by clip, time and frame."""
        query = _ORDERED
        if clip_id is not None:
            query = query.where(FrameReviewRow.clip_id == clip_id)
        if data_version is not None:
            query = query.where(FrameReviewRow.data_version == data_version)
        with self._database.read_session() as session:
            return [record_of(FrameReview, row) for row in session.scalars(query)]

    def sampled(self, clip_ids: Iterable[str]) -> list[FrameReview]:
        """Findings on frames of the random samples of some clips, by clip, time and frame."""
        wanted = sorted({*clip_ids})
        found: list[FrameReview] = []
        with self._database.read_session() as session:
            for start in range(0, len(wanted), 500):
                query = _ORDERED.where(
                    FrameReviewRow.sampled, FrameReviewRow.clip_id.in_(wanted[start : start + 500])
                )
                found += [record_of(FrameReview, row) for row in session.scalars(query)]
        return found


def _key(review: FrameReview) -> tuple[str, str, int, str]:
    return (review.clip_id, review.data_version, review.frame_index, review.reviewer)


def _audit_detail(version: str, reviews: Iterable[FrameReview]) -> str:
    """What was recorded, as JSON; frames on which nothing was found only by number."""
    listed = list(reviews)
    found = [
        {
            "frame": review.frame_index,
            "missed": [dict(region) for region in review.missed],
            "false": dict(review.false_regions),
        }
        for review in listed
        if review.missed or review.false_regions
    ]
    frames = sorted(review.frame_index for review in listed)
    return json.dumps(
        {"data_version": version, "item": listed[0].item_id, "frames": frames, "findings": found}
    )
