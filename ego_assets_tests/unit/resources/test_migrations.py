"""Every migration, forward and back, with rows in every table, on both databases."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory

from ego_assets.schema.embeddings import EMBEDDING_DIMENSIONS
from resources.database import SCHEMA_REVISION, Base, Database

ROOT = Path(__file__).resolve().parents[3]
CLIP_ID = str(uuid.uuid4())
MOMENT = dt.datetime(2026, 5, 1, 12, 30, 15, 250_000, tzinfo=dt.UTC)

pytestmark = pytest.mark.filterwarnings("ignore:Did not recognize type 'vector'")

Rows = dict[str, list[dict[str, Any]]]


def revisions() -> list[str]:
    """All revisions, oldest first."""
    config = Config()
    config.set_main_option("script_location", str(ROOT / "resources" / "migrations"))
    return [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()][::-1]


OLDER = revisions()[:-1]


@pytest.fixture(params=["sqlite", "postgres"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without tables."""
    if request.param == "sqlite":
        database = Database(f"sqlite:///{tmp_path / 'm.db'}")
    else:
        database = Database(request.getfixturevalue("empty_postgres_url"))
    yield database
    database.close()


def migrate(database: Database, revision: str) -> None:
    database._migrate("upgrade", revision)


def tables(database: Database) -> list[sa.Table]:
    """The tables as they are in the database, those that others refer to first."""
    metadata = sa.MetaData()
    metadata.reflect(database.engine)
    return [table for table in metadata.sorted_tables if table.name != "alembic_version"]


def rows(database: Database) -> Rows:
    """Everything that is in the database."""
    with database.engine.connect() as connection:
        return {
            table.name: [
                {
                    name: bytes(value) if isinstance(value, memoryview) else value
                    for name, value in row._mapping.items()
                }
                for row in connection.execute(sa.select(table).order_by(*table.primary_key.columns))
            ]
            for table in tables(database)
        }


def fill(database: Database) -> None:
    """Put a row into every table that has none."""
    present = rows(database)
    with database.engine.execution_options(ego_assets_writes=True).begin() as connection:
        for table in tables(database):
            if not present[table.name]:
                values = {
                    column.name: value(column)
                    for column in table.columns
                    if not (
                        column.primary_key and isinstance(column.type, sa.Integer) and not column.foreign_keys
                    )
                }
                connection.execute(table.insert(), values)


def value(column: sa.Column[Any]) -> Any:
    """Something that fits into a column, and is not what it would be by default."""
    if column.name == "clip_id":
        return CLIP_ID
    if column.foreign_keys:
        return 1
    known = Base.metadata.tables[column.table.name].columns.get(column.name)
    if known is not None and isinstance(known.type, sa.Enum):
        return known.type.enums[-1]
    kind = column.type
    vector = [0.0] * (EMBEDDING_DIMENSIONS - 1) + [1.0]
    if isinstance(kind, sa.types.NullType):
        return str(vector)
    choices: list[tuple[type[Any], Any]] = [
        (sa.JSON, {"text": "é", "list": [1, None, 2.5]}),
        (sa.Boolean, True),
        (sa.DateTime, MOMENT),
        (sa.Date, MOMENT.date()),
        (sa.Float, 0.25),
        (sa.Integer, 7),
        (sa.LargeBinary, bytes(range(256))),
        (sa.String, f"é {column.name}"[: getattr(kind, "length", None) or 99]),
    ]
    return next(made for found, made in choices if isinstance(kind, found))


def shared(before: Rows, after: Rows) -> tuple[Rows, Rows]:
    """What both have columns for."""

    def kept(of: Rows, other: Rows) -> Rows:
        return {
            name: [
                {
                    column: value
                    for column, value in row.items()
                    if not other[name] or column in other[name][0]
                }
                for row in found
            ]
            for name, found in of.items()
            if name in other
        }

    return kept(before, after), kept(after, before)


def assert_kept(before: Rows, after: Rows) -> None:
    old, new = shared(before, after)
    assert old and new == old
    assert all(len(row) > 1 for found in new.values() for row in found), "hardly a column is left"


def test_rows_survive_every_step_up_and_down(empty: Database) -> None:
    steps: list[Rows] = []
    for revision in revisions():
        before = rows(empty)
        migrate(empty, revision)
        if before:
            assert_kept(before, rows(empty))
            assert set(before) <= set(rows(empty))
        fill(empty)
        steps.append(rows(empty))
    assert set(steps[-1]) == set(Base.metadata.tables)
    assert all(steps[-1].values()), "a table is empty"
    assert [clip.clip_id for clip in empty.clips()] == [CLIP_ID]

    for revision, expected in zip(OLDER[::-1], steps[-2::-1], strict=True):
        before = rows(empty)
        empty.downgrade(revision)
        assert set(rows(empty)) == set(expected), "exactly the newer tables are gone"
        assert_kept(before, rows(empty))
    empty.upgrade()
    assert_kept(steps[0], rows(empty))
    assert {name for name, found in rows(empty).items() if not found} == set(steps[-1]) - set(steps[0])
    empty.downgrade("base")
    assert rows(empty) == {}


@pytest.mark.parametrize("revision", OLDER)
def test_every_older_database_is_brought_up_to_date_at_once(empty: Database, revision: str) -> None:
    migrate(empty, revision)
    fill(empty)
    before = rows(empty)
    empty.upgrade()
    assert_kept(before, rows(empty))
    assert empty._revision() == SCHEMA_REVISION
    assert empty.clip(CLIP_ID).created_at == MOMENT
    assert [entry.at for entry in empty.audit_log()] == [MOMENT]
    # What the platform itself writes finds its place beside what was there.
    empty.update_clip(CLIP_ID, chapter=8)
    empty.write_audit(actor="test", action="look", clip_id=CLIP_ID)
    assert len(empty.audit_log(CLIP_ID)) == 2


def program(url: str, body: str) -> subprocess.Popen[str]:
    code = f"from resources.database import Database\ndatabase = Database({url!r})\n{body}"
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def whole_url(database: Database) -> str:
    return database._url.render_as_string(hide_password=False)


def test_several_processes_upgrade_an_older_database_at_once(empty: Database) -> None:
    migrate(empty, OLDER[0])
    fill(empty)
    before = rows(empty)
    url = whole_url(empty)
    processes = [program(url, "input()\ndatabase.upgrade()") for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    errors: list[BaseException] = []

    def upgrade() -> None:
        try:
            Database(url).upgrade()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=upgrade) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for process in processes:
        with process:
            assert process.wait(60) == 0
    assert_kept(before, rows(empty))
    assert empty._revision() == SCHEMA_REVISION


READER = """
import threading
from sqlalchemy import text

stop = threading.Event()
threading.Thread(target=lambda: (input(), stop.set())).start()
seen, rounds = set(), 0
while True:
    with database.engine.connect() as connection:
        seen.add(connection.scalar(text("SELECT count(*) FROM clips")))
        seen.add(connection.scalar(text("SELECT count(*) FROM audit_log")))
    if rounds == 0:
        print("reading", flush=True)
    rounds += 1
    if stop.is_set():
        break
print("seen", sorted(seen), flush=True)
"""


def test_a_process_that_reads_meanwhile_notices_nothing(empty: Database) -> None:
    migrate(empty, OLDER[0])
    fill(empty)
    with program(whole_url(empty), READER) as reader:
        assert reader.stdin is not None and reader.stdout is not None
        assert reader.stdout.readline() == "reading\n"
        empty.upgrade()
        empty.downgrade(OLDER[0])
        empty.upgrade()
        reader.stdin.write("stop\n")
        reader.stdin.flush()
        assert reader.wait(60) == 0
        assert reader.stdout.readline() == "seen [1]\n"
