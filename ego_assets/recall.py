"""Recall of the privacy pass over clips of the database, from what reviewers found on their random samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ego_assets.schema.clip import PRIVACY_LAYER
from ego_assets.schema.recall import RecallEstimate

if TYPE_CHECKING:
    from resources.database import Database
    from resources.frame_reviews import FrameReview


def collection_recall(database: Database) -> dict[str, RecallEstimate]:
    """Recall over all clips, by kind."""
    versions = {
        artifact.clip_id: artifact.data_version
        for artifact in database.artifacts()
        if artifact.layer == PRIVACY_LAYER
    }
    return recall_of({clip.clip_id: versions.get(clip.clip_id, "") for clip in database.clips()}, database)


def delivery_recall(database: Database, delivery_id: int) -> dict[str, RecallEstimate]:
    """Recall over the clips of a delivery, by kind."""
    return recall_of(
        {
            entry.clip_id: entry.data_versions.get(PRIVACY_LAYER, "")
            for entry in database.delivery_clips(delivery_id)
        },
        database,
    )


def recall_of(versions: Mapping[str, str], database: Database) -> dict[str, RecallEstimate]:
    """Recall over some clips, by kind, from the frames of the random samples.

    Where the given rendering of a clip was not reviewed, the latest one that was counts instead. Leaving the clip out
    would leave out just those clips that were rendered anew because something had been missed in them.

    Args:
        versions: Data version of ``blurred_video`` by clip.
        database: The metadata database.
    """
    from ego_assets.privacy.recall import measure_recall
    from resources.frame_reviews import FrameReviewLog

    by_clip: dict[str, list[FrameReview]] = {}
    for review in FrameReviewLog(database).sampled(versions):
        by_clip.setdefault(review.clip_id, []).append(review)
    counted = []
    for clip_id, reviews in by_clip.items():
        reviewed = {review.data_version for review in reviews}
        version = versions[clip_id] if versions[clip_id] in reviewed else reviews[-1].data_version
        counted += [review.counts for review in reviews if review.data_version == version]
    return measure_recall(counted)
