"""Takes pictures, or all that is said of a clip, out of Dagster's storage, which is meant to keep everything."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dagster import AssetKey, DagsterEventType, DagsterInstance, DagsterRun, RunsFilter
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    AssetKeyTable,
    SqlEventLogStorageMetadata,
    SqlEventLogStorageTable,
)
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.runs.schema import RunStorageSqlMetadata, RunTagsTable
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage
from dagster._core.storage.schedules.schema import ScheduleStorageSqlMetadata
from dagster._core.storage.schedules.sql_schedule_storage import SqlScheduleStorage
from dagster._core.storage.tags import PARTITION_NAME_TAG
from sqlalchemy import ColumnElement, Connection, MetaData, String, Table, Text, delete, select, update

from ego_assets.partitions import clip_partitions
from ego_assets.schema.errors import ConfigurationError

#: Gives the Dagster instance when it is needed: opening one takes time.
InstanceSource = Callable[[], DagsterInstance]

#: A picture as :func:`ego_assets.batching.picture_metadata` embeds it.
_PICTURE = re.compile(r"!\[picture\]\(data:image/[a-z]+;base64,[A-Za-z0-9+/=]+\)")
_REMOVED = "The picture was removed because of a privacy incident."
_ERASED = "(erased)"
#: Names the clip on the runs that a sensor asked for.
_CLIP_TAG = "ego_assets/clip"
_CLIP_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
#: Rows that are in memory at a time.
_PAGE = 500
#: Fields of serialized records that name parts of the project, never a person.
_STRUCTURE = frozenset(
    {
        "__class__", "__enum__", "asset_key", "asset_check_key", "check_name", "event_type_value", "event_type",
        "job_name", "pipeline_name", "logging_tags", "node_handle", "run_id", "status", "step_handle", "step_key",
        "remote_job_origin", "job_snapshot_id", "execution_plan_snapshot_id", "asset_selection", "op_name", "pid",
    }
)  # fmt: skip


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


# --- erasure ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ErasedEvents:
    """What was taken out of Dagster's storage.

    Attributes:
        runs: Runs that were about these clips alone; they are gone.
        events: Events about these clips that were removed from runs over more clips.
        changed: Other records in which texts or pictures were replaced.
        running: Runs about these clips that have not ended, or were never ended: what they may still write has to
            be taken out later.
        files: SQLite files that were changed, for :func:`resources.erasures.compact_sqlite`.
    """

    runs: int
    events: int
    changed: int
    running: tuple[str, ...]
    files: tuple[Path, ...]


class Words:
    """Texts to be replaced, as they may be written inside records.

    Args:
        texts: The texts; empty ones are left out.
    """

    def __init__(self, texts: Collection[str]) -> None:
        self._texts = sorted({text for text in texts if text.strip()}, key=len, reverse=True)

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        """Whole words only: ``c1`` is no part of ``c12``."""
        forms: dict[str, None] = {}
        for text in self._texts:
            escaped = json.dumps(text)[1:-1]
            for form in (
                text,
                escaped,
                json.dumps(escaped)[1:-1],
                json.dumps(text, ensure_ascii=False)[1:-1],
                quote(text),
            ):
                start = r"(?<![\w-])" if form[0].isalnum() else ""
                end = r"(?![\w-])" if form[-1].isalnum() else ""
                forms[f"{start}{re.escape(form)}{end}"] = None
        return re.compile("|".join(forms)) if forms else None

    def found_in(self, text: str) -> bool:
        """Whether any of them stands in a text."""
        return self._pattern is not None and self._pattern.search(text) is not None

    def replaced(self, text: str) -> str:
        """The text without them; a serialized record keeps its structure."""
        if self._pattern is None:
            return text
        try:
            record = json.loads(text)
        except ValueError:
            return self._pattern.sub(_ERASED, text)
        if not isinstance(record, dict | list):
            return self._pattern.sub(_ERASED, text)
        return json.dumps(self._without(record))

    def _without(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {
                self._plain(key): item if key in _STRUCTURE else self._without(item)
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [self._without(item) for item in value]
        return self._plain(value) if isinstance(value, str) else value

    def _plain(self, text: str) -> str:
        assert self._pattern is not None
        return text if text in _STRUCTURE else self._pattern.sub(_ERASED, text)


def remove_clips(instance: DagsterInstance, clip_ids: Collection[str], words: Words) -> ErasedEvents:
    """Take everything about some clips out of Dagster's storage for good; doing so again is harmless.

    Runs over one of these clips go as a whole, with their logs. Of runs over more clips the events about these go, and
    of what is left the words and the pictures of collection-wide plots. The partitions go too.

    Args:
        instance: The Dagster instance.
        clip_ids: The clips.
        words: What else describes them.

    Raises:
        ConfigurationError: The instance keeps its records in something else than SQL databases.
    """
    storage, runs, schedules = instance.event_log_storage, instance.run_storage, instance.schedule_storage
    for kept, expected in (
        (storage, SqlEventLogStorage),
        (runs, SqlRunStorage),
        (schedules, SqlScheduleStorage),
    ):
        if not isinstance(kept, expected):
            raise ConfigurationError(
                f"Dagster keeps records in a {type(kept).__name__}, from which a clip cannot be erased. Remove what it "
                "holds of the clip by hand, and use an SQL storage."
            )
    assert isinstance(storage, SqlEventLogStorage)
    assert isinstance(runs, SqlRunStorage) and isinstance(schedules, SqlScheduleStorage)
    ids, files = frozenset(clip_ids), set[Path]()
    for clip_id in sorted(ids):
        instance.delete_dynamic_partition(clip_partitions.name or "", clip_id)
    own = _runs_of(instance, runs, ids)
    running = [run.run_id for run in own if not run.is_finished]
    ended = [run.run_id for run in own if run.is_finished]
    for run_id in ended:
        _delete_run(instance, storage, run_id)
    events = changed = 0
    with storage.index_connection() as connection:
        _overwrite_what_is_removed(connection)
        connection.execute(
            delete(AssetCheckExecutionsTable).where(AssetCheckExecutionsTable.c.run_id.in_(ended))
        )
        removed, silenced = _remove_events(connection, ids)
        _replace_newest(connection, ids, _sorted_keys(connection))
        changed += silenced + _replace_words(connection, SqlEventLogStorageMetadata, words)
        changed += _strip_collection_plots(connection)
        _note_file(connection, files)
        events += removed
    if isinstance(storage, SqliteEventLogStorage):
        for run_id in storage.get_all_run_ids():
            with storage.run_connection(run_id) as connection:
                _overwrite_what_is_removed(connection)
                removed, silenced = _remove_events(connection, ids)
                replaced = silenced + _replace_words(connection, SqlEventLogStorageMetadata, words)
                replaced += _strip_collection_plots(connection)
                if removed or replaced:
                    _note_file(connection, files)
                changed += replaced
    for records, tables in ((runs, RunStorageSqlMetadata), (schedules, ScheduleStorageSqlMetadata)):
        with records.connect() as connection:
            _overwrite_what_is_removed(connection)
            changed += _replace_words(connection, tables, words)
            _note_file(connection, files)
    changed += _replace_in_logs(instance, words)
    return ErasedEvents(
        runs=len(ended), events=events, changed=changed, running=tuple(running), files=tuple(sorted(files))
    )


def _runs_of(instance: DagsterInstance, runs: SqlRunStorage, clip_ids: frozenset[str]) -> list[DagsterRun]:
    """Runs over one of the clips alone."""
    with runs.connect() as connection:
        found: set[str] = set()
        wanted = sorted(clip_ids)
        for start in range(0, len(wanted), _PAGE):
            found.update(
                connection.scalars(
                    select(RunTagsTable.c.run_id).where(
                        RunTagsTable.c.key.in_([PARTITION_NAME_TAG, _CLIP_TAG]),
                        RunTagsTable.c.value.in_(wanted[start : start + _PAGE]),
                    )
                )
            )
    run_ids = sorted(found)
    return [
        run
        for start in range(0, len(run_ids), _PAGE)
        for run in instance.get_runs(RunsFilter(run_ids=run_ids[start : start + _PAGE]))
    ]


def _delete_run(instance: DagsterInstance, storage: SqlEventLogStorage, run_id: str) -> None:
    # Its events first: a process that is killed in between finds the run again.
    storage.delete_events(run_id)
    instance.compute_log_manager.delete_logs(prefix=[run_id])
    with contextlib.suppress(NotImplementedError, TypeError):
        shutil.rmtree(Path(instance.storage_directory()) / run_id, ignore_errors=True)
    if isinstance(storage, SqliteEventLogStorage):
        shard = Path(storage.path_for_shard(run_id))
        for path in (shard, *(shard.with_name(shard.name + end) for end in ("-wal", "-shm", "-journal"))):
            path.unlink(missing_ok=True)
    instance.run_storage.delete_run(run_id)


def _remove_events(connection: Connection, clip_ids: frozenset[str]) -> tuple[int, int]:
    """Remove the events whose partition is one of the clips, and the messages that name one.

    What other events say of the clips, such as why a run failed or a delivery left them out, goes as well.

    Returns:
        How many were removed, and how many changed.
    """
    events, removed, changed = SqlEventLogStorageTable.c, list[int](), 0
    for row in _pages(connection, SqlEventLogStorageTable, ("event", "partition", "dagster_event_type")):
        is_message = row.dagster_event_type is None
        named = clip_ids.intersection(_CLIP_ID.findall(row.event))
        if row.partition in clip_ids or (is_message and named):
            removed.append(row.id)
        elif named and (silent := _silent_about(row.event, named)) != row.event:
            connection.execute(
                update(SqlEventLogStorageTable).where(events.id == row.id).values(event=silent)
            )
            changed += 1
    for start in range(0, len(removed), _PAGE):
        part = removed[start : start + _PAGE]
        connection.execute(delete(SqlEventLogStorageTable).where(events.id.in_(part)))
        connection.execute(delete(AssetEventTagsTable).where(AssetEventTagsTable.c.event_id.in_(part)))
    checks = [
        row.id
        for row in _pages(connection, AssetCheckExecutionsTable, ("partition", "evaluation_event"))
        if row.partition in clip_ids or clip_ids.intersection(_partitions_in(row.evaluation_event or ""))
    ]
    for start in range(0, len(checks), _PAGE):
        connection.execute(
            delete(AssetCheckExecutionsTable).where(
                AssetCheckExecutionsTable.c.id.in_(checks[start : start + _PAGE])
            )
        )
    return len(removed), changed


def _silent_about(event: str, clip_ids: frozenset[str]) -> str:
    """The event without what it says of the clips: values under their ids, and lines of text that name one."""

    def silent(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: _ERASED if key in clip_ids else item if key in _STRUCTURE else silent(item)
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [silent(item) for item in value]
        if (
            not isinstance(value, str)
            or " " not in value
            or not clip_ids.intersection(_CLIP_ID.findall(value))
        ):
            return value
        lines = [
            f"{found[0]} {_ERASED}"
            if (found := sorted(clip_ids.intersection(_CLIP_ID.findall(line)))) and " " in line
            else line
            for line in value.split("\n")
        ]
        return "\n".join(lines)

    try:
        record = json.loads(event)
    except ValueError:
        return event
    cleaned = silent(record)
    return event if cleaned == record else json.dumps(cleaned)


def _partitions_in(event: str) -> set[str]:
    return set(re.findall(r'"partition": "([^"]+)"', event))


def _sorted_keys(connection: Connection) -> list[str]:
    return sorted(key for key in connection.scalars(select(AssetKeyTable.c.asset_key)) if key)


def _replace_newest(connection: Connection, clip_ids: frozenset[str], keys: Sequence[str]) -> None:
    """Put another clip's newest materialization where Dagster keeps a copy of one that is gone."""
    assets, events = AssetKeyTable.c, SqlEventLogStorageTable.c
    for key in keys:
        kept = connection.scalar(select(assets.last_materialization).where(assets.asset_key == key))
        values: dict[str, Any] = {"cached_status_data": None}
        if kept and clip_ids.intersection(_CLIP_ID.findall(kept)):
            values["last_materialization"] = connection.scalar(
                select(events.event)
                .where(
                    events.asset_key == key,
                    events.dagster_event_type == DagsterEventType.ASSET_MATERIALIZATION.value,
                )
                .order_by(events.id.desc())
                .limit(1)
            )
        connection.execute(update(AssetKeyTable).where(assets.asset_key == key).values(**values))


def _strip_collection_plots(connection: Connection) -> int:
    """Take the pictures out of events that are about no single clip: a plot may name a collector, in pixels."""
    events, changed = SqlEventLogStorageTable.c, 0
    for row in _pages(connection, SqlEventLogStorageTable, ("event", "partition")):
        if row.partition is None and (stripped := _PICTURE.sub(_ERASED, row.event)) != row.event:
            connection.execute(
                update(SqlEventLogStorageTable).where(events.id == row.id).values(event=stripped)
            )
            changed += 1
    assets = AssetKeyTable.c
    for row in _pages(connection, AssetKeyTable, ("last_materialization",)):
        kept = row.last_materialization or ""
        if '"partition": null' in kept and (stripped := _PICTURE.sub(_ERASED, kept)) != kept:
            connection.execute(
                update(AssetKeyTable).where(assets.id == row.id).values(last_materialization=stripped)
            )
            changed += 1
    return changed


def _replace_words(connection: Connection, tables: MetaData, words: Words) -> int:
    """Replace the words in every text of these tables; returns the number of rows that had them."""
    changed = 0
    for table in tables.sorted_tables:
        names = [column.name for column in table.columns if isinstance(column.type, String | Text)]
        if "id" not in table.columns or not names or not connection.dialect.has_table(connection, table.name):
            continue
        for row in _pages(connection, table, names):
            texts = {name: value for name in names if (value := row._mapping[name])}
            values = {name: words.replaced(value) for name, value in texts.items() if words.found_in(value)}
            values = {name: value for name, value in values.items() if value != texts[name]}
            if values:
                connection.execute(update(table).where(table.c.id == row.id).values(**values))
                changed += 1
    return changed


def _pages(connection: Connection, table: Table, names: Sequence[str]) -> Iterator[Any]:
    """These columns of all rows and their ids, a page at a time."""
    after = 0
    columns = [table.c.id, *(table.c[name] for name in names if name != "id")]
    while rows := connection.execute(
        select(*columns).where(table.c.id > after).order_by(table.c.id).limit(_PAGE)
    ).all():
        yield from rows
        after = rows[-1].id


def _replace_in_logs(instance: DagsterInstance, words: Words) -> int:
    """Replace the words in what steps and sensors printed, where that lies on this machine."""
    try:
        folder = Path(instance.storage_directory())
    except (NotImplementedError, TypeError):
        return 0
    changed = 0
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if path.suffix in (".out", ".err", ".log") and path.is_file() and not path.is_symlink():
            content = path.read_text(encoding="utf-8", errors="surrogateescape")
            if words.found_in(content):
                lines = [words.replaced(line) for line in content.split("\n")]
                path.write_text("\n".join(lines), encoding="utf-8", errors="surrogateescape")
                changed += 1
    return changed


def _note_file(connection: Connection, files: set[Path]) -> None:
    database = connection.engine.url.database
    if connection.dialect.name == "sqlite" and database and database != ":memory:":
        files.add(Path(database))
