"""``ego-assets audit``: who opened what, when and why, and whether the record of it is whole."""

from __future__ import annotations

import csv
import datetime as dt
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from ego_assets.terminal import STOPPED, USAGE, JsonOption, console, open_project, print_json, stop

if TYPE_CHECKING:
    from ego_assets.project import Project
    from resources.audit import AuditFilter, AuditHead

COLUMNS = (
    "at",
    "actor",
    "action",
    "purpose",
    "clip_id",
    "source_name",
    "detail",
    "run_id",
    "id",
    "previous_digest",
    "digest",
)
#: Characters of a particular that the table shows.
MAX_SHOWN_DETAIL = 120
#: Names of clips that are looked up at a time.
_SLICE = 500

app = typer.Typer(
    name="audit",
    help="Show who opened or changed what, when and why, oldest first; verify that nobody changed the record.",
    invoke_without_command=True,
)
CsvOption = Annotated[bool, typer.Option("--csv", help="Print CSV and nothing else.")]


class Grouping(StrEnum):
    """What a summary has one line for."""

    ACTOR = "actor"
    CLIP = "clip"
    PURPOSE = "purpose"
    DAY = "day"


@dataclass(kw_only=True)
class _Group:
    """One line of a summary."""

    entries: int
    first: dt.datetime
    last: dt.datetime


@app.callback()
def audit(
    context: typer.Context,
    clip: Annotated[str, typer.Option(help="Only this clip.")] = "",
    actor: Annotated[str, typer.Option(help="Only actors whose name contains this.")] = "",
    action: Annotated[
        str, typer.Option(help="Only actions whose name contains this, such as vault.open.")
    ] = "",
    purpose: Annotated[
        str, typer.Option(help="Only purposes whose name contains this, such as deidentify.")
    ] = "",
    collector: Annotated[str, typer.Option(help="Only clips of this collector.")] = "",
    since: Annotated[
        str, typer.Option(help="Only from this day or moment on (UTC), such as 2026-05-14.")
    ] = "",
    until: Annotated[
        str, typer.Option(help="Only up to this day, which is included, or before this moment (UTC).")
    ] = "",
    opens: Annotated[bool, typer.Option("--opens", help="Only opened originals.")] = False,
    by: Annotated[
        Grouping | None, typer.Option(help="Count the entries, with the first and the last of each.")
    ] = None,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Show who opened or changed what, when and why, oldest first; verify that nobody changed the record."""
    from ego_assets.partitions import require_clip_id
    from resources.audit import AuditFilter

    if context.invoked_subcommand is not None:
        if any(context.params.values()):
            stop(
                f"Options of `audit {context.invoked_subcommand}` stand behind it, and it has no others.",
                USAGE,
            )
        return
    if as_json and as_csv:
        stop("--json and --csv exclude each other.", USAGE)
    wanted = AuditFilter(
        clip_id=require_clip_id(clip) if clip else None,
        collector_id=collector or None,
        actor=actor,
        action=action,
        purpose=purpose,
        opens_only=opens,
        since=_moment("--since", since) if since else None,
        until=_moment("--until", until, end=True) if until else None,
    )
    project = open_project()
    if by is not None:
        _show_summary(project, wanted, by, as_json=as_json, as_csv=as_csv)
    elif as_json:
        _print_json_list(_rows(project, wanted))
    elif as_csv:
        _print_csv(COLUMNS, _rows(project, wanted))
    else:
        _show_table(_rows(project, wanted))


@app.command()
def head(as_json: JsonOption = False) -> None:
    """Print ID:DIGEST of the newest entry, to be kept where nobody who could change the database can write."""
    from resources.audit import AuditLog

    found = AuditLog(open_project().database).head()
    if as_json:
        print_json(asdict(found))
    else:
        print(found)


@app.command()
def verify(
    expect: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID:DIGEST", help="What `audit head` printed at some time; may be given more than once."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare every entry with its digest and with the entry before it.

    The exit status is 1 when one was altered, removed, inserted or moved. That the newest entries were cut off, or all
    digests computed anew, only shows against a head from before: give it with --expect.
    """
    from resources.audit import AuditLog

    expected = [_parsed_head(text) for text in expect or ()]
    found = AuditLog(open_project().database).verify(expected)
    if as_json:
        print_json(
            {
                "intact": found.intact,
                "rows": found.rows,
                "head": str(found.head),
                "expected": found.expected,
                "broken_rows": found.broken_rows,
                "findings": [asdict(finding) for finding in found.findings],
            }
        )
        raise typer.Exit(0 if found.intact else STOPPED)
    for finding in found.findings:
        console.print(f"[red]{escape(finding.message)}[/red]", soft_wrap=True)
    if not found.intact:
        console.print(
            f"{found.rows} entries read, {found.broken_rows} of them with something wrong. Compare the first with a "
            "backup of the database."
        )
        raise typer.Exit(STOPPED)
    console.print(f"{found.rows} entries, each follows the one before. Head {found.head}", soft_wrap=True)
    if found.expected:
        console.print(f"{found.expected} expected head(s) found.")
    else:
        console.print(
            "Entries cut off at the end, or a chain computed anew, show only against a head from before: give one "
            "with --expect."
        )


def _parsed_head(text: str) -> AuditHead:
    from resources.audit import AuditHead

    try:
        return AuditHead.parse(text)
    except ValueError as error:
        stop(f"--expect: {error}.", USAGE)


# --- entries ------------------------------------------------------------------------------------------


def _rows(project: Project, wanted: AuditFilter) -> Iterator[dict[str, Any]]:
    """The entries with the names of their clips, some at a time."""
    from resources.audit import AuditLog

    entries = AuditLog(project.database).entries(wanted)
    while some := list(islice(entries, _SLICE)):
        names = project.database.source_names(entry.clip_id for entry in some)
        for entry in some:
            yield {**asdict(entry), "source_name": names.get(entry.clip_id, "")}


def _show_table(rows: Iterable[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("when (UTC)", "who", "what", "why", "clip"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        what = f"{row['action']}\n{_short(row['detail'])}" if row["detail"] else row["action"]
        clip = _named(row["clip_id"], row["source_name"])
        table.add_row(*map(escape, (_shown(row["at"]), row["actor"], what, row["purpose"], clip)))
    _show(table)


def _short(detail: str) -> str:
    """The beginning of a long particular; JSON and CSV have all of it."""
    return detail if len(detail) <= MAX_SHOWN_DETAIL else f"{detail[:MAX_SHOWN_DETAIL]}..."


# --- summaries ----------------------------------------------------------------------------------------


def _show_summary(
    project: Project, wanted: AuditFilter, by: Grouping, *, as_json: bool, as_csv: bool
) -> None:
    lines = _summary(project, wanted, by)
    if as_json:
        print_json(lines)
        return
    names = ("source_name",) if by is Grouping.CLIP else ()
    if as_csv:
        _print_csv((by.value, *names, "entries", "first", "last"), lines)
        return
    table = Table(box=None, pad_edge=False)
    for heading in (by.value, "entries", "first (UTC)", "last (UTC)"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "entries" else "left")
    for line in lines:
        what = _named(line[by.value], line.get("source_name", "")) or "-"
        shown = (what, str(line["entries"]), _shown(line["first"]), _shown(line["last"]))
        table.add_row(*map(escape, shown))
    _show(table)


def _summary(project: Project, wanted: AuditFilter, by: Grouping) -> list[dict[str, Any]]:
    """One line per group: days in their order, others from the most entries to the fewest."""
    from resources.audit import AuditLog

    groups: dict[str, _Group] = {}
    for entry in AuditLog(project.database).entries(wanted):
        key = {
            Grouping.ACTOR: entry.actor,
            Grouping.CLIP: entry.clip_id,
            Grouping.PURPOSE: entry.purpose,
            Grouping.DAY: entry.at.date().isoformat(),
        }[by]
        group = groups.setdefault(key, _Group(entries=0, first=entry.at, last=entry.at))
        group.entries += 1
        group.first, group.last = min(group.first, entry.at), max(group.last, entry.at)
    order = sorted(groups, key=lambda key: (0 if by is Grouping.DAY else -groups[key].entries, key))
    names = project.database.source_names(groups) if by is Grouping.CLIP else {}
    return [
        {
            by.value: key,
            **({"source_name": names.get(key, "")} if by is Grouping.CLIP else {}),
            **asdict(groups[key]),
        }
        for key in order
    ]


# --- output -------------------------------------------------------------------------------------------


def _show(table: Table) -> None:
    console.print(table if table.row_count else "The audit log has no such entry.")


def _named(clip_id: str, source_name: str) -> str:
    return f"{source_name}\n{clip_id}" if source_name else clip_id


def _shown(moment: dt.datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def _print_csv(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    writer = csv.DictWriter(sys.stdout, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                key: value.isoformat() if isinstance(value, dt.datetime) else value
                for key, value in row.items()
            }
        )


def _print_json_list(rows: Iterable[dict[str, Any]]) -> None:
    """One entry per line, without all of them in memory."""
    before = "[\n"
    for row in rows:
        print(before, json.dumps(row, default=str), sep="", end="")
        before = ",\n"
    print("[]" if before == "[\n" else "\n]")


def _moment(option: str, text: str, *, end: bool = False) -> dt.datetime:
    """A day or a moment; UTC where it names no zone. With ``end`` a day means its end."""
    try:
        found = dt.datetime.fromisoformat(text)
        if end and _is_day(text):
            found += dt.timedelta(days=1)
    except (ValueError, OverflowError):
        stop(f"{option} {text!r}: expected a day or a moment, such as 2026-05-14 or 2026-05-14T09:30.", USAGE)
    return found if found.tzinfo is not None else found.replace(tzinfo=dt.UTC)


def _is_day(text: str) -> bool:
    try:
        dt.date.fromisoformat(text)
    except ValueError:
        return False
    return True
