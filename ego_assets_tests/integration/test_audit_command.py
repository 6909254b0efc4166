"""``ego-assets audit``: its lists and summaries, and how a changed record is found."""

from __future__ import annotations

import csv
import datetime as dt
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import AssetCheckKey, AssetKey
from sqlalchemy import text

from ego_assets.assets.quality_summary import AUDIT_HEAD
from ego_assets.project import Project
from ego_assets.schema.clip import Clip
from ego_assets_tests.integration.test_command_line import CommandLine, command_line
from resources import audit
from resources.audit import NO_HEAD, AuditLog

FIRST, SECOND = "3b241101-e2bb-4255-8caf-4136c566a962", "5c1c4d0e-1111-4222-8333-444455556666"
#: When, who, what, why, which clip.
ROWS = (
    ("2026-05-13T08:00", "cli:ingest", "vault.take", "", FIRST),
    ("2026-05-14T09:30", "asset:blurred_video", "vault.open", "deidentify", FIRST),
    ("2026-05-14T23:59", "cli:ann", "vault.open", "review", SECOND),
    ("2026-05-15T00:00", "cli:ann", "vault.open", "review", FIRST),
    ("2026-05-16T10:00", "cli:ann", "release", "", ""),
)


@pytest.fixture
def ego(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CommandLine]:
    with command_line(tmp_path / "data") as command:
        database = command.project.database
        for clip_id, name, collector in ((FIRST, "one.mp4", "c-1"), (SECOND, "two.mp4", "c-2")):
            database.add_clip(Clip(clip_id=clip_id, source_name=name, collector_id=collector))
        for at, actor, action, purpose, clip_id in ROWS:
            moment = dt.datetime.fromisoformat(at).replace(tzinfo=dt.UTC)
            with monkeypatch.context() as patch:
                patch.setattr(audit, "utc_now", lambda moment=moment: moment)
                database.write_audit(actor=actor, action=action, purpose=purpose, clip_id=clip_id)
        yield command


def tamper(project: Project, *statements: str) -> None:
    with project.database.engine.execution_options(ego_assets_writes=True).begin() as connection:
        for change in ("update", "delete"):
            connection.execute(text(f"DROP TRIGGER IF EXISTS audit_log_no_{change}"))
        for statement in statements:
            connection.execute(text(statement))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], [1, 2, 3, 4, 5]),
        (["--opens"], [2, 3, 4]),
        (["--opens", "--collector", "c-1"], [2, 4]),
        (["--purpose", "review"], [3, 4]),
        (["--actor", "ANN", "--action", "rel"], [5]),
        (["--clip", SECOND.upper()], [3]),
        (["--until", "2026-05-14"], [1, 2, 3]),
        (["--until", "2026-05-14T09:30"], [1]),
        (["--since", "2026-05-14", "--until", "2026-05-14"], [2, 3]),
        (["--since", "2026-05-14T11:30+02:00", "--until", "2026-05-15"], [2, 3, 4]),
        (["--collector", "nobody"], []),
    ],
)
def test_who_opened_what_when_and_why(ego: CommandLine, options: list[str], expected: list[int]) -> None:
    assert [row["id"] for row in ego("audit", *options, "--json").json] == expected
    lines = ego("audit", *options, "--csv").out
    assert lines.startswith("at,actor,action,purpose,clip_id,source_name,")
    assert lines.count("2026-05-1") == len(expected)


def test_each_entry_comes_with_all_it_holds(ego: CommandLine) -> None:
    [row] = ego("audit", "--action", "take", "--json").json
    [entry] = ego.project.database.audit_log(action="take")
    assert row == {
        "id": 1, "at": "2026-05-13 08:00:00+00:00", "actor": "cli:ingest", "action": "vault.take", "purpose": "",
        "clip_id": FIRST, "source_name": "one.mp4", "detail": "", "run_id": "", "previous_digest": "0" * 64,
        "digest": entry.digest,
    }  # fmt: skip
    shown = ego("audit", "--opens").out
    assert "one.mp4" in shown and "deidentify" in shown and "23:59:00" in shown


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("actor", [("cli:ann", 3), ("asset:blurred_video", 1), ("cli:ingest", 1)]),
        ("clip", [(FIRST, 3), ("", 1), (SECOND, 1)]),
        ("purpose", [("", 2), ("review", 2), ("deidentify", 1)]),
        ("day", [("2026-05-13", 1), ("2026-05-14", 2), ("2026-05-15", 1), ("2026-05-16", 1)]),
    ],
)
def test_summaries(ego: CommandLine, by: str, expected: list[tuple[str, int]]) -> None:
    rows = ego("audit", "--by", by, "--json").json
    assert [(row[by], row["entries"]) for row in rows] == expected
    table = ego("audit", "--by", by).out
    # A narrow terminal breaks what is long.
    assert all(key[:8] in table for key, _ in expected)
    header = ego("audit", "--by", by, "--csv").out.split()[0]
    assert header == (f"{by},source_name,entries,first,last" if by == "clip" else f"{by},entries,first,last")


def test_a_summary_has_the_first_and_the_last_moment(ego: CommandLine) -> None:
    [row] = ego("audit", "--opens", "--actor", "ann", "--by", "actor", "--json").json
    assert row == {
        "actor": "cli:ann",
        "entries": 2,
        "first": "2026-05-14 23:59:00+00:00",
        "last": "2026-05-15 00:00:00+00:00",
    }
    by_clip = ego("audit", "--by", "clip", "--json").json
    assert [row["source_name"] for row in by_clip] == ["one.mp4", "", "two.mp4"]
    assert ego("audit", "--by", "day", "--actor", "nobody", "--json").json == []
    assert "no such entry" in ego("audit", "--by", "day", "--actor", "nobody").out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--by", "weekday"],
        ["--since", "yesterday"],
        ["--until", "2026-13-01"],
        ["--until", "9999-12-31"],
        ["--json", "--csv"],
        ["--json", "verify"],
        ["--clip", FIRST, "head"],
        ["verify", "--expect", "5:abc"],
    ],
)
def test_wrong_calls(ego: CommandLine, arguments: list[str]) -> None:
    assert ego("audit", *arguments).code == 2


def test_a_whole_record_and_its_head(ego: CommandLine) -> None:
    head = ego("audit", "head").out
    number, digest = head.split(":")
    assert ego("audit", "head", "--json").json == {"id": int(number), "digest": digest} and number == "5"
    whole = ego("audit", "verify")
    assert whole.code == 0 and "5 entries" in whole.out and head in whole.out and "--expect" in whole.out
    ego.project.database.write_audit(actor="t", action="later")
    compared = ego("audit", "verify", "--expect", head, "--expect", str(NO_HEAD))
    assert compared.code == 0 and "6 entries" in compared.out and "1 expected head(s) found" in compared.out
    assert "--expect" not in compared.out


def test_an_altered_entry_is_named(ego: CommandLine) -> None:
    tamper(ego.project, "UPDATE audit_log SET actor = 'asset:raw_clip' WHERE id = 4")
    found = ego("audit", "verify")
    assert found.code == 1 and "Row 4 was altered" in found.out and "backup" in found.out
    as_json = ego("audit", "verify", "--json")
    assert as_json.code == 1 and as_json.json["intact"] is False and as_json.json["broken_rows"] == 1
    assert [(item["id"], item["fault"]) for item in as_json.json["findings"]] == [(4, "altered")]


def test_a_cut_off_record_is_found_with_its_head(ego: CommandLine) -> None:
    head = ego("audit", "head").out
    tamper(ego.project, "DELETE FROM audit_log WHERE id = 5")
    assert ego("audit", "verify").code == 0
    found = ego("audit", "verify", "--expect", head)
    assert found.code == 1 and "Row 5 is missing" in found.out
    assert ego("audit", "verify", "--expect", head, "--json").json["findings"][0]["fault"] == "missing"


def test_the_collection_job_records_heads_and_compares_with_them(ego: CommandLine) -> None:
    project = ego.project

    def judged() -> tuple[bool, str, str]:
        assert project.run_collection() == ""
        key = AssetCheckKey(AssetKey("quality_summary"), "audit_chain_intact")
        storage = project.instance.event_log_storage
        record = storage.get_latest_asset_check_execution_by_key([key])[key]
        evaluation = record.event.dagster_event.asset_check_evaluation_data
        return evaluation.passed, evaluation.severity.value, evaluation.description or ""

    head = str(AuditLog(project.database).head())
    passed, _, message = judged()
    assert passed and "1 earlier head(s) found" in message
    made = project.instance.get_latest_materialization_event(AssetKey("quality_summary"))
    assert made is not None and made.asset_materialization is not None
    assert made.asset_materialization.metadata[AUDIT_HEAD].value == head
    # A log that was cut off, and therefore is a whole chain.
    tamper(project, "DELETE FROM audit_log WHERE id = 5")
    passed, severity, message = judged()
    assert (passed, severity) == (False, "ERROR") and "Row 5 is missing" in message
    assert "ego-assets audit verify" in message


def test_csv_of_more_than_a_slice(ego: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ego_assets.commands.audit._SLICE", 2)
    assert [row["source_name"] for row in ego("audit", "--json").json] == [
        "one.mp4", "one.mp4", "two.mp4", "one.mp4", "",
    ]  # fmt: skip
    details = 'several\nlines, "quoted"'
    ego.project.database.write_audit(actor="t", action="a", detail=details)
    with pytest.MonkeyPatch.context() as patch:
        out = io.StringIO()
        patch.setattr("sys.stdout", out)
        from ego_assets.commands.audit import _print_csv, _rows

        _print_csv(("actor", "detail"), _rows(ego.project, audit.AuditFilter(actor="t")))
    rows = list(csv.DictReader(io.StringIO(out.getvalue())))
    assert rows[-1]["detail"] == details
