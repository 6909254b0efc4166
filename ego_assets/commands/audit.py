"""``ego-assets audit``: who opened what, when and why."""

from __future__ import annotations

import csv
import datetime as dt
import sys
from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ego_assets.terminal import USAGE, JsonOption, console, open_project, print_json, stop

COLUMNS = ("at", "actor", "action", "purpose", "clip_id", "source_name", "detail", "run_id")
#: Characters of a particular that the table shows.
MAX_SHOWN_DETAIL = 120


def audit(
    clip: Annotated[str, typer.Option(help="Only this clip.")] = "",
    actor: Annotated[str, typer.Option(help="Only actors whose name contains this.")] = "",
    action: Annotated[
        str, typer.Option(help="Only actions whose name contains this, such as vault.open.")
    ] = "",
    since: Annotated[
        str, typer.Option(help="Only from this day or moment on (UTC), such as 2026-05-14.")
    ] = "",
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV and nothing else.")] = False,
) -> None:
    """Show who opened or changed what, when and why, oldest first."""
    from ego_assets.partitions import require_clip_id

    if as_json and as_csv:
        stop("--json and --csv exclude each other.", USAGE)
    start = _moment(since) if since else None
    database = open_project().database
    entries = database.audit_log(
        require_clip_id(clip) if clip else None, actor=actor, action=action, since=start
    )
    names = database.source_names(entry.clip_id for entry in entries)
    rows = [{**asdict(entry), "source_name": names.get(entry.clip_id, "")} for entry in entries]
    if as_json:
        print_json(rows)
        return
    if as_csv:
        writer = csv.DictWriter(sys.stdout, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "at": row["at"].isoformat()} for row in rows)
        return
    if not rows:
        console.print("The audit log has no such entry.")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("when (UTC)", "who", "what", "why", "clip"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        name = f"{row['source_name']}\n{row['clip_id']}" if row["source_name"] else row["clip_id"]
        what = f"{row['action']}\n{_short(row['detail'])}" if row["detail"] else row["action"]
        shown = (f"{row['at']:%Y-%m-%d %H:%M:%S}", row["actor"], what, row["purpose"], name)
        table.add_row(*map(escape, shown))
    console.print(table)


def _short(detail: str) -> str:
    """The beginning of a long particular; JSON and CSV have all of it."""
    return detail if len(detail) <= MAX_SHOWN_DETAIL else f"{detail[:MAX_SHOWN_DETAIL]}..."


def _moment(text: str) -> dt.datetime:
    """A day or a moment; UTC where it names no zone."""
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        stop(f"--since {text!r}: expected a day or a moment, such as 2026-05-14 or 2026-05-14T09:30.", USAGE)
    return found if found.tzinfo is not None else found.replace(tzinfo=dt.UTC)
