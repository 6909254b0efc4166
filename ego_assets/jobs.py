"""Jobs and schedules: what sensors, the command line and the clock launch."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from dagster import (
    AssetSelection,
    DefaultScheduleStatus,
    ScheduleDefinition,
    define_asset_job,
    in_process_executor,
)
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

# Stages differ in their backfill policy on purpose, see batching.py; a run of a whole job serves them all.
warnings.filterwarnings("ignore", message=".*varying BackfillPolicies", category=UserWarning)

#: Takes one clip through every layer, in one process.
PROCESS_CLIP_JOB = "process_clip"
#: Rebuilds what is made over the whole collection.
COLLECTION_JOB = "collection"


def build_jobs(layers: Sequence[str]) -> dict[str, UnresolvedAssetJobDefinition]:
    """All jobs, by name."""
    return {
        PROCESS_CLIP_JOB: define_asset_job(
            PROCESS_CLIP_JOB,
            selection=AssetSelection.assets(*layers),
            executor_def=in_process_executor,
            description="Takes one clip through every layer.",
        ),
        COLLECTION_JOB: define_asset_job(
            COLLECTION_JOB,
            selection=AssetSelection.groups("collection"),
            executor_def=in_process_executor,
            description="Rebuilds the quality summary and the dataset manifest.",
        ),
    }


def build_schedules(jobs: dict[str, UnresolvedAssetJobDefinition]) -> list[ScheduleDefinition]:
    """The daily quality dashboard of the guide."""
    return [
        ScheduleDefinition(
            name="daily_quality_summary",
            job=jobs[COLLECTION_JOB],
            cron_schedule="0 5 * * *",
            default_status=DefaultScheduleStatus.RUNNING,
            description="Rebuilds the quality summary and the manifest every morning.",
        )
    ]
