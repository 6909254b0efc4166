"""The audit log as a chain: what it notices, and what only a head from before shows."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError

from ego_assets.schema.clip import Clip
from resources import audit
from resources.audit import (
    NO_DIGEST,
    NO_HEAD,
    AuditFault,
    AuditFilter,
    AuditHead,
    AuditLog,
    entry_digest,
)
from resources.database import Database

DATABASES = ("sqlite", "postgres")

NewClip = Callable[..., Clip]
COLUMNS = ("id", "at", "actor", "action", "purpose", "clip_id", "detail", "run_id")


@pytest.fixture
def log(database: Database) -> AuditLog:
    """A log of five rows."""
    made = AuditLog(database)
    for number in range(1, 6):
        made.append(actor="ann", action="vault.open", purpose="ingest", detail=f"row {number}")
    return made


def tamper(database: Database, *statements: str) -> None:
    """What somebody does who may do anything in the database."""
    if database.is_sqlite:
        unlocked = ["DROP TRIGGER audit_log_no_update", "DROP TRIGGER audit_log_no_delete"]
    else:
        unlocked = ["ALTER TABLE audit_log DISABLE TRIGGER ALL"]
    with database.engine.execution_options(ego_assets_writes=True).begin() as connection:
        for statement in (*unlocked, "DROP INDEX ix_audit_log_previous_digest", *statements):
            connection.execute(text(statement))


def rewrite(database: Database, *, since: int) -> None:
    """Compute all digests anew from a row on."""
    before = NO_DIGEST
    statements = []
    for entry in database.audit_log():
        if entry.id < since:
            before = entry.digest
            continue
        content = {name: getattr(entry, name) for name in COLUMNS}
        own = entry_digest(previous_digest=before, **content)
        statements.append(
            f"UPDATE audit_log SET previous_digest = '{before}', digest = '{own}' WHERE id = {entry.id}"
        )
        before = own
    with database.engine.execution_options(ego_assets_writes=True).begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def copied(number: str, **other: str) -> str:
    """A statement that adds a row like the third one."""
    names = (*COLUMNS, "previous_digest", "digest")
    values = [number if name == "id" else other.get(name, name) for name in names]
    return (
        f"INSERT INTO audit_log ({', '.join(names)}) SELECT {', '.join(values)} FROM audit_log WHERE id = 3"
    )


# --- what is written ----------------------------------------------------------------------------------


def test_every_row_follows_the_one_before(database: Database, log: AuditLog) -> None:
    entries = database.audit_log()
    assert [entry.previous_digest for entry in entries] == [NO_DIGEST, *(e.digest for e in entries[:-1])]
    assert log.head() == AuditHead(id=entries[-1].id, digest=entries[-1].digest)
    found = log.verify([log.head()])
    assert found.intact and (found.rows, found.head, found.expected) == (5, log.head(), 1)


def test_an_empty_log_is_whole(database: Database) -> None:
    found = AuditLog(database).verify([NO_HEAD])
    assert found.intact and (found.rows, found.head) == (0, NO_HEAD)
    assert AuditHead.parse(str(NO_HEAD)) == NO_HEAD


def test_the_digest_is_what_the_documentation_says() -> None:
    at = dt.datetime(2026, 5, 14, 11, 30, 0, 25, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    found = entry_digest(
        previous_digest="0" * 64, id=7, at=at, actor="ann \U0001f600", action="look", purpose="", clip_id="c",
        detail='a "b"\n', run_id="",
    )  # fmt: skip
    encoded = (
        '{"action":"look","actor":"ann \\ud83d\\ude00","at":"2026-05-14T09:30:00.000025+00:00","clip_id":"c",'
        '"detail":"a \\"b\\"\\n","format":1,"id":7,"previous_digest":"'
        + "0" * 64
        + '","purpose":"","run_id":""}'
    )
    assert json.loads(encoded)["actor"] == "ann \U0001f600"
    assert found == hashlib.sha256(encoded.encode()).hexdigest()


def test_a_row_has_the_same_digest_in_both_databases(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The last one is a moment without a fraction of a second, which some databases write shorter.
    moments = [dt.datetime(2026, 5, 14, 9, 30, 0, part, tzinfo=dt.UTC) for part in (1, 500_000, 0)]
    other = Database(f"sqlite:///{tmp_path / 'other.db'}")
    other.upgrade()
    for one in (database, other):
        left = list(moments)
        monkeypatch.setattr(audit, "utc_now", lambda left=left: left.pop(0))
        for odd in ("\0 and \ud800", "é \U0001f600\r\n '", " " * 3):
            one.write_audit(
                actor=f"a{odd}", action="b", clip_id=str(uuid.UUID(int=3)), detail=odd, run_id=odd
            )
    assert AuditLog(database).verify().intact
    assert AuditLog(database).head() == AuditLog(other).head()
    assert database.audit_log() == other.audit_log()


def test_what_is_rolled_back_leaves_no_gap_in_the_chain(database: Database, log: AuditLog) -> None:
    with pytest.raises(RuntimeError), database.transaction():
        database.write_audit(actor="t", action="lost")
        raise RuntimeError
    with database.transaction():
        database.write_audit(actor="t", action="first")
        database.write_audit(actor="t", action="second")
    assert [entry.action for entry in database.audit_log()][-2:] == ["first", "second"]
    assert log.verify().intact


def test_several_writers_make_one_chain(database: Database) -> None:
    other = Database(database._url.render_as_string(hide_password=False))
    errors: list[BaseException] = []
    start = threading.Barrier(4)

    def write(to: Database, name: str) -> None:
        try:
            start.wait(30)
            for number in range(15):
                with to.transaction():
                    to.write_audit(actor=name, action=str(number))
                    to.write_audit(actor=name, action=f"{number} again")
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=write, args=(to, f"{place} {number}"))
        for place, to in enumerate((database, other))
        for number in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    other.close()
    assert errors == []
    found = AuditLog(database).verify()
    assert found.intact and found.rows == 120


def test_the_database_refuses_a_second_row_after_the_same_one(database: Database, log: AuditLog) -> None:
    with pytest.raises(IntegrityError), database.engine.begin() as connection:
        connection.execute(text(copied("6")))
    assert log.verify().rows == 5


# --- what is noticed ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "actor = 'ben'",
        "action = 'vault.look'",
        "purpose = ''",
        "clip_id = 'other'",
        "detail = 'row 3 '",
        "run_id = 'r'",
        "at = '2020-01-01 00:00:00.000000'",
        "id = 33",
        "previous_digest = digest",
        "digest = previous_digest",
        "digest = 'none'",
    ],
)
def test_an_altered_row_is_named(database: Database, log: AuditLog, change: str) -> None:
    tamper(database, f"UPDATE audit_log SET {change} WHERE id = 3")
    found = log.verify()
    assert not found.intact and found.broken is not None and found.rows == 5
    moved = change.startswith("id")
    # A row with another number comes at another place.
    assert (found.broken.id, found.broken.fault) == (
        (4, AuditFault.UNLINKED) if moved else (3, AuditFault.ALTERED)
    )
    assert "Row 3 was altered" in found.broken.message or moved
    assert found.broken_rows >= 1


def test_a_changed_last_row_is_named(database: Database, log: AuditLog) -> None:
    tamper(database, "UPDATE audit_log SET id = 6 WHERE id = 5")
    broken = log.verify().broken
    assert broken is not None and (broken.id, broken.fault) == (6, AuditFault.ALTERED)


def test_a_rewritten_row_shows_at_the_next_one(database: Database, log: AuditLog) -> None:
    tamper(database, "UPDATE audit_log SET actor = 'ben' WHERE id = 3")
    [entry] = [entry for entry in database.audit_log() if entry.id == 3]
    own = entry_digest(
        previous_digest=entry.previous_digest, **{name: getattr(entry, name) for name in COLUMNS}
    )
    with database.engine.begin() as connection:
        connection.execute(text(f"UPDATE audit_log SET digest = '{own}' WHERE id = 3"))
    found = log.verify()
    assert found.broken is not None and found.broken_rows == 1
    assert (found.broken.id, found.broken.fault) == (4, AuditFault.UNLINKED)
    assert "does not follow row 3" in found.broken.message


@pytest.mark.parametrize(("removed", "named"), [(1, 2), (3, 4), (4, 5)])
def test_a_removed_row_is_named_by_the_next_one(
    database: Database, log: AuditLog, removed: int, named: int
) -> None:
    tamper(database, f"DELETE FROM audit_log WHERE id = {removed}")
    found = log.verify()
    assert found.broken is not None and (found.broken.id, found.broken.fault) == (named, AuditFault.UNLINKED)
    assert ("beginning of the log" in found.broken.message) == (removed == 1)


@pytest.mark.parametrize("number", ["-5000000000", "0", "6"])
def test_an_inserted_row_is_named(database: Database, log: AuditLog, number: str) -> None:
    if number == "-5000000000" and not database.is_sqlite:
        number = "-2147483648"
    tamper(database, copied(number))
    found = log.verify()
    assert found.broken is not None and found.rows == 6
    assert (found.broken.id, found.broken.fault) == (int(number), AuditFault.ALTERED)


def test_an_inserted_row_with_a_digest_of_its_own_does_not_fit_in(database: Database, log: AuditLog) -> None:
    tamper(database, "DELETE FROM audit_log WHERE id = 3")
    assert log.verify().broken is not None
    second = database.audit_log()[1]
    content = {**{name: getattr(second, name) for name in COLUMNS}, "id": 3, "detail": "forged"}
    own = entry_digest(previous_digest=second.digest, **content)
    with database.engine.begin() as connection:
        names = (*COLUMNS, "previous_digest", "digest")
        other = {
            "id": "3",
            "detail": "'forged'",
            "previous_digest": f"'{second.digest}'",
            "digest": f"'{own}'",
        }
        values = ", ".join(other.get(name, name) for name in names)
        connection.execute(
            text(f"INSERT INTO audit_log ({', '.join(names)}) SELECT {values} FROM audit_log WHERE id = 2")
        )
    found = log.verify()
    assert found.broken is not None and (found.broken.id, found.broken.fault) == (4, AuditFault.UNLINKED)


def test_rows_in_another_order_are_named(database: Database, log: AuditLog) -> None:
    tamper(
        database,
        "UPDATE audit_log SET id = 99 WHERE id = 2",
        "UPDATE audit_log SET id = 2 WHERE id = 4",
        "UPDATE audit_log SET id = 4 WHERE id = 99",
    )
    found = log.verify()
    assert found.broken is not None and (found.broken.id, found.broken.fault) == (2, AuditFault.ALTERED)
    # Even with digests that fit their new numbers.
    for entry in database.audit_log():
        own = entry_digest(
            previous_digest=entry.previous_digest, **{name: getattr(entry, name) for name in COLUMNS}
        )
        with database.engine.begin() as connection:
            connection.execute(text(f"UPDATE audit_log SET digest = '{own}' WHERE id = {entry.id}"))
    again = log.verify()
    assert again.broken is not None and (again.broken.id, again.broken.fault) == (2, AuditFault.UNLINKED)


def test_what_sqlite_takes_for_a_moment_is_no_row(database: Database, log: AuditLog) -> None:
    if not database.is_sqlite:
        pytest.skip("Postgres takes nothing but a moment there")
    tamper(database, "UPDATE audit_log SET at = 'soon' WHERE id = 2", "UPDATE audit_log SET actor = x'00'")
    found = log.verify()
    assert found.broken is not None and (found.broken.id, found.broken_rows) == (1, 5)


def test_rows_are_appended_to_a_broken_chain_too(database: Database, log: AuditLog) -> None:
    tamper(database, "UPDATE audit_log SET digest = 'none' WHERE id = 5")
    database.write_audit(actor="t", action="after")
    found = log.verify()
    assert found.broken is not None and (found.broken.id, found.broken_rows, found.rows) == (5, 1, 6)


# --- what only a head shows ---------------------------------------------------------------------------


def test_a_log_that_was_cut_off_is_whole_but_lacks_its_head(database: Database, log: AuditLog) -> None:
    head = log.head()
    tamper(database, "DELETE FROM audit_log WHERE id > 3")
    assert log.verify().intact
    found = log.verify([head])
    assert not found.intact and found.broken is None
    assert [(finding.id, finding.fault) for finding in found.findings] == [(5, AuditFault.MISSING)]
    assert "ends with row 3" in found.findings[0].message
    database.write_audit(actor="t", action="a")
    database.write_audit(actor="t", action="b")
    written_over = log.verify([head]).findings
    assert [(finding.id, finding.fault) for finding in written_over] == [(5, AuditFault.REPLACED)]
    tamper_all = log.verify([head, AuditHead(id=4, digest="a" * 64), AuditHead(id=2, digest="b" * 64)])
    assert [finding.id for finding in tamper_all.findings] == [2, 4, 5] and tamper_all.expected == 3


def test_a_chain_computed_anew_lacks_its_heads(database: Database, log: AuditLog) -> None:
    before = [AuditHead(id=entry.id, digest=entry.digest) for entry in database.audit_log()]
    tamper(database, "UPDATE audit_log SET actor = 'ben' WHERE id = 3")
    rewrite(database, since=3)
    assert log.verify().intact
    assert log.verify(before[:2]).intact, "the rows before are the same ones"
    found = log.verify(before)
    assert [(finding.id, finding.fault) for finding in found.findings] == [
        (number, AuditFault.REPLACED) for number in (3, 4, 5)
    ]


def test_everything_removed_is_noticed_by_a_head(database: Database, log: AuditLog) -> None:
    head = log.head()
    tamper(database, "DELETE FROM audit_log")
    found = log.verify([head])
    assert "the log is empty" in found.findings[0].message and log.verify().intact


@pytest.mark.parametrize("wrong", ["", "5", "5:abc", f"x:{'a' * 64}", f"-1:{'a' * 64}", f"5:{'g' * 64}"])
def test_what_is_no_head_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="ID:DIGEST"):
        AuditHead.parse(wrong)


# --- reading ------------------------------------------------------------------------------------------


def test_entries_are_filtered(database: Database, new_clip: NewClip, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = new_clip(collector_id="c-1"), new_clip(collector_id="c-10")
    database.add_clip(mine)
    database.add_clip(other)
    moments = [dt.datetime(2026, 5, day, 12, tzinfo=dt.UTC) for day in (1, 2, 3, 4)]
    left = list(moments)
    monkeypatch.setattr(audit, "utc_now", lambda: left.pop(0))
    for actor, action, purpose, clip_id in (
        ("asset:raw_clip", "vault.take", "", mine.clip_id),
        ("asset:blurred_video", "vault.open", "deidentify", mine.clip_id),
        ("cli:Ann", "vault.open_rejected", "review", ""),
        ("cli:Ann", "vault.open", "review", other.clip_id),
    ):
        database.write_audit(actor=actor, action=action, purpose=purpose, clip_id=clip_id)

    def found(**filters: object) -> list[int]:
        entries = AuditLog(database).entries(AuditFilter(**filters))  # type: ignore[arg-type]
        return [moments.index(entry.at) + 1 for entry in entries]

    assert found() == [1, 2, 3, 4]
    assert found(clip_id=mine.clip_id) == [1, 2] and found(collector_id="c-1") == [1, 2]
    assert found(actor="ann") == [3, 4] and found(purpose="REVIEW") == [3, 4]
    assert found(action="vault.open") == [2, 3, 4] and found(opens_only=True) == [2, 4]
    assert found(since=moments[1], until=moments[3]) == [2, 3]
    assert found(opens_only=True, collector_id="c-10", actor="Ann") == [4]


def test_more_rows_than_a_page(database: Database, log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    for page in (1, 2, 5, 6):
        monkeypatch.setattr(audit, "_PAGE", page)
        assert [entry.detail for entry in log.entries()] == [f"row {number}" for number in range(1, 6)]
        assert (log.verify().rows, log.verify().intact) == (5, True)


# --- migration ----------------------------------------------------------------------------------------


def test_rows_from_before_are_chained_and_stay_when_it_goes_back(database: Database, log: AuditLog) -> None:

    head = log.head()
    database.downgrade("0004")
    engine = create_engine(database._url)
    with engine.begin() as connection:
        moment = "2026-05-14 09:30:00.250000" if database.is_sqlite else "2026-05-14 11:30:00.25+02"
        # As the version before did it: the database numbers the row.
        names = "at, actor, action, purpose, clip_id, detail, run_id"
        connection.execute(
            text(f"INSERT INTO audit_log ({names}) VALUES ('{moment}', 'ann', 'old', '', '', 'é', '')")
        )
        for statement in ("DELETE FROM audit_log", "UPDATE audit_log SET actor = 'x'"):
            with pytest.raises(Exception, match="append-only"), connection.begin_nested():
                connection.execute(text(statement))
    engine.dispose()
    database.upgrade()
    assert [entry.id for entry in database.audit_log()] == [1, 2, 3, 4, 5, 6]
    found = log.verify([head])
    assert found.intact and found.rows == 6, "rows that were chained before get the same digests"
    database.write_audit(actor="t", action="new")
    assert log.verify([head]).intact
    for statement in ("DELETE FROM audit_log", "UPDATE audit_log SET actor = 'x'"):
        with pytest.raises(Exception, match="append-only"), database.engine.begin() as connection:
            connection.execute(text(statement))
