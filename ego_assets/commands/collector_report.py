"""``ego-assets collector-report``: the daily files for collectors."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import typer
from rich.markup import escape

from ego_assets.terminal import USAGE, JsonOption, console, open_project, print_json, stop


def collector_report(
    collector: Annotated[str, typer.Option(help="Only this collector.")] = "",
    date: Annotated[
        str, typer.Option(help="Only this day of recording, or of upload where it is not known.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Write the daily files for collectors: flagged clips, reasons and advice."""
    from ego_assets.curation.collector_files import write_collector_files

    try:
        day = dt.date.fromisoformat(date) if date else None
    except ValueError:
        stop(f"--date {date!r}: expected a day such as 2026-05-14.", USAGE)
    project = open_project()
    paths = write_collector_files(
        project.settings.collector_reports,
        project.database.clips(),
        project.database.gates(),
        collector_id=collector or None,
        day=day,
    )
    if as_json:
        print_json([str(path) for path in paths])
        return
    if not paths:
        console.print("There are no clips of this collector and day.")
    for path in paths:
        console.print(escape(str(path)), soft_wrap=True)
