"""The partitions: one per clip, added when a clip is registered and never reused."""

from __future__ import annotations

import uuid

from dagster import DagsterInstance, DynamicPartitionsDefinition

from ego_assets.schema.errors import ConfigurationError

#: Every artifact of a clip is an asset with these partitions.
clip_partitions = DynamicPartitionsDefinition(name="clip_id")


def require_clip_id(value: str) -> str:
    """The canonical form of a clip id.

    Raises:
        ConfigurationError: The value is not a UUID.
    """
    try:
        return str(uuid.UUID(value))
    except ValueError:
        raise ConfigurationError(
            f"{value!r} is not a clip id: expected a UUID such as 3b241101-e2bb-4255-8caf-4136c566a962."
        ) from None


def add_partitions(instance: DagsterInstance, clip_ids: list[str]) -> None:
    """Make the clips known to Dagster; ones that it knows already are left alone."""
    if clip_ids:
        instance.add_dynamic_partitions(clip_partitions.name or "", [require_clip_id(c) for c in clip_ids])
