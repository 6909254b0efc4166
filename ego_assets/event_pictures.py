"""Takes the pictures of a clip out of Dagster's event log, which is meant to keep everything."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from dagster import AssetKey, DagsterInstance
from dagster._core.storage.event_log.schema import AssetKeyTable, SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from sqlalchemy import ColumnElement, Connection, select, update

from ego_assets.schema.errors import ConfigurationError

#: Gives the Dagster instance when it is needed: opening one takes time.
InstanceSource = Callable[[], DagsterInstance]

#: A picture as :func:`ego_assets.batching.picture_metadata` embeds it.
_PICTURE = re.compile(r"!\[picture\]\(data:image/[a-z]+;base64,[A-Za-z0-9+/=]+\)")
_REMOVED = "The picture was removed because of a privacy incident."


def remove_pictures(instance: DagsterInstance, clip_id: str, layers: Sequence[str]) -> int:
    """Replace the embedded pictures in all events of these layers of a clip by a remark.

    Dagster has no call for this, so the rows of its event log are changed; the events themselves, with their
    numbers and times, stay.

    Args:
        instance: The Dagster instance.
        clip_id: The clip.
        layers: The layers.

    Returns:
        The number of stored events that were changed; the SQLite log stores an event twice.

    Raises:
        ConfigurationError: The instance keeps its events in something else than a SQL database.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        raise ConfigurationError(
            f"Dagster keeps its events in a {type(storage).__name__}, from which pictures cannot be removed. "
            f"Remove the events of clip {clip_id} there by hand, and use an SQL storage."
        )
    keys = [AssetKey(layer).to_string() for layer in layers]
    changed = 0
    with storage.index_connection() as connection:
        _overwrite_what_is_removed(connection)
        events = _events_of(clip_id, keys)
        runs = connection.scalars(select(SqlEventLogStorageTable.c.run_id).where(*events).distinct()).all()
        changed += _strip_events(connection, events)
        _strip_newest(connection, clip_id, keys)
    for run_id in runs:
        with storage.run_connection(run_id) as connection:
            _overwrite_what_is_removed(connection)
            changed += _strip_events(connection, [*events, SqlEventLogStorageTable.c.run_id == run_id])
    return changed


def _overwrite_what_is_removed(connection: Connection) -> None:
    """SQLite would only mark the pages of a removed value as free; its log of changes is emptied by later writers."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA secure_delete=ON")


def _events_of(clip_id: str, keys: Sequence[str]) -> list[ColumnElement[bool]]:
    events = SqlEventLogStorageTable.c
    return [events.partition == clip_id, events.asset_key.in_(keys)]


def _strip_events(connection: Connection, conditions: Sequence[ColumnElement[bool]]) -> int:
    events = SqlEventLogStorageTable.c
    changed = 0
    found = connection.execute(select(events.id, events.event).where(*conditions)).all()
    for number, event in found:
        stripped = _PICTURE.sub(_REMOVED, event)
        if stripped != event:
            connection.execute(
                update(SqlEventLogStorageTable).where(events.id == number).values(event=stripped)
            )
            changed += 1
    return changed


def _strip_newest(connection: Connection, clip_id: str, keys: Sequence[str]) -> None:
    """The copy of the newest materialization that Dagster keeps beside the asset."""
    assets = AssetKeyTable.c
    found = connection.execute(
        select(assets.id, assets.last_materialization).where(assets.asset_key.in_(keys))
    ).all()
    for number, event in found:
        if event and clip_id in event:
            connection.execute(
                update(AssetKeyTable)
                .where(assets.id == number)
                .values(last_materialization=_PICTURE.sub(_REMOVED, event))
            )
