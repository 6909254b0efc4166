"""Jobs and schedules: what sensors, the command line and the clock launch."""

import warnings
from collections.abc import Sequence

from dagster import (
    AssetSelection,
    Config,
    DefaultScheduleStatus,
    Failure,
    MetadataValue,
    OpExecutionContext,
    Out,
    ScheduleDefinition,
    define_asset_job,
    in_process_executor,
    job,
    op,
)
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from pydantic import Field

from ego_assets.delivery.definition import DEFAULT_SHARD_BYTES, FORMATS, DeliveryDefinition, SplitShares
from ego_assets.schema.errors import ConfigurationError

# Stages differ in their backfill policy on purpose, see batching.py; a run of a whole job serves them all.
warnings.filterwarnings("ignore", message=".*varying BackfillPolicies", category=UserWarning)

#: Takes one clip through every layer, in one process.
PROCESS_CLIP_JOB = "process_clip"
#: Rebuilds what is made over the whole collection.
COLLECTION_JOB = "collection"
#: Makes a version of a delivery that its run config defines.
DELIVER_JOB = "deliver"


class DeliverConfig(Config):
    """What `ego-assets deliver` takes as options; checked as a whole before anything is read."""

    name: str = Field(description="Name of the delivery, such as kitchen-v1.")
    where: str = Field(
        default="", description="Only clips that fit, such as activity == 'cooking' and quality >= 0.8."
    )
    formats: list[str] = Field(default=["folder"], description=f"Some of {', '.join(FORMATS)}.")
    split: str = Field(
        default="", description="Shares of train/validation/test by collector, such as 0.9/0.05/0.05."
    )
    include_unreviewed: bool = Field(
        default=False, description="Clips too of which a privacy review of normal risk is open."
    )
    seed: int = Field(default=0, description="Decides the order of samples and the splits.")
    shard_bytes: int = Field(default=DEFAULT_SHARD_BYTES, description="Size at which a shard is full.")

    def definition(self) -> DeliveryDefinition:
        """As the definition of a delivery.

        Raises:
            ConfigurationError: A value is wrong; the message says what exists.
        """
        return DeliveryDefinition(
            name=self.name,
            where=self.where,
            formats=tuple(self.formats),
            split=SplitShares.parse(self.split) if self.split else None,
            include_unreviewed=self.include_unreviewed,
            seed=self.seed,
            shard_bytes=self.shard_bytes,
        )


@op(required_resource_keys={"settings", "database", "store"}, out=Out(str))
def write_delivery(context: OpExecutionContext, config: DeliverConfig) -> str:
    """Write the next version of a delivery; the result is its folder."""
    from ego_assets.assembling import DeliveryMaker

    maker = DeliveryMaker(
        settings=context.resources.settings,
        database=context.resources.database.get(),
        store=context.resources.store.get(),
        log=context.log.warning,
    )
    try:
        made = maker.make_named(config.definition())
    except ConfigurationError as error:
        raise Failure(str(error), allow_retries=False) from error
    context.add_output_metadata(
        {
            "delivery": MetadataValue.path(str(made.written.folder)),
            "version": MetadataValue.text(made.written.version),
            "new": MetadataValue.bool(made.written.is_new),
            "clips": MetadataValue.int(len(made.selection.clips)),
            "size_bytes": MetadataValue.int(made.written.bytes),
            "left out": MetadataValue.json(dict(made.selection.left_out)),
        }
    )
    return str(made.written.folder)


@job(name=DELIVER_JOB, executor_def=in_process_executor)
def deliver_job() -> None:
    """Makes a version of a delivery: its run config says which clips, in which formats and splits."""
    write_delivery()


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
