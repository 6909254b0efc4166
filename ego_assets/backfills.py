"""Asks the Dagster daemon for a backfill, as the UI does."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagster import DagsterInstance, Definitions


def request_backfill(
    instance: DagsterInstance,
    definitions: Definitions,
    *,
    layers: Sequence[str],
    clip_ids: Sequence[str],
    title: str,
) -> str:
    """Leave a backfill for the daemon and return its id; it runs as soon as a daemon does.

    Args:
        instance: Where the daemon finds it; the clips must be among its partitions.
        definitions: The assets.
        layers: What is materialized.
        clip_ids: For which clips.
        title: What the UI shows.
    """
    from dagster import AssetKey
    from dagster._core.execution.backfill import PartitionBackfill

    backfill = PartitionBackfill.from_asset_partitions(
        backfill_id=uuid.uuid4().hex[:8],
        asset_graph=definitions.resolve_asset_graph(),
        partition_names=list(clip_ids),
        asset_selection=[AssetKey(layer) for layer in layers],
        backfill_timestamp=time.time(),
        tags={},
        dynamic_partitions_store=instance,
        all_partitions=False,
        title=title,
        description=None,
        run_config=None,
    )
    instance.add_backfill(backfill)
    return backfill.backfill_id
