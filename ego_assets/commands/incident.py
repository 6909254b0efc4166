"""``ego-assets incident``: what to do when something personal was left uncovered."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from ego_assets.commands.parsing import KINDS_HELP, parse_box, parse_kind, parse_range, parsed
from ego_assets.terminal import (
    STOPPED,
    USAGE,
    JsonOption,
    ProfileOption,
    actor,
    console,
    messages,
    open_project,
    print_json,
    stop,
)

if TYPE_CHECKING:
    from ego_assets.incidents import IncidentDesk
    from ego_assets.schema.incidents import Incident

app = typer.Typer(
    name="incident",
    help="Answer a privacy incident: quarantine, make anew, purge, record.",
    no_args_is_help=True,
)

IncidentArgument = Annotated[int, typer.Argument(metavar="ID", help="Number of the incident.")]


@app.command("open")
def open_(
    clip: Annotated[str, typer.Argument(help="The clip.")],
    frames: Annotated[
        str, typer.Option(help="Frames in which it shows, numbered in the blurred video: A-B, or one number.")
    ],
    kind: Annotated[str, typer.Option(help=f"What was left uncovered: {KINDS_HELP}.")],
    note: Annotated[str, typer.Option(help="What was seen; kept in the record.")],
    box: Annotated[
        str,
        typer.Option(
            help="Where: LEFT,TOP,RIGHT,BOTTOM in pixels of the full-size picture. Without it these frames are "
            "covered whole."
        ),
    ] = "",
    run: Annotated[
        bool, typer.Option("--run/--no-run", help="Make the clip anew now, or leave that to the daemon.")
    ] = True,
    profile: ProfileOption = "",
    as_json: JsonOption = False,
) -> None:
    """Quarantine what leaked, withdraw the clip, make it anew and purge the quarantine.

    Interrupted at any point, the same command goes on. It also tries again when the leak check stops the new
    video, with what it found covered.
    """
    from ego_assets.incidents import IncidentReport, incident_desk
    from ego_assets.partitions import require_clip_id
    from ego_assets.processing import process_clips

    clip_id = require_clip_id(clip)
    first, last = parsed("--frames", parse_range, frames)
    report = IncidentReport(
        clip_id=clip_id,
        kind=parsed("--kind", parse_kind, kind),
        first_frame=first,
        last_frame=first if last is None else last,
        box_xyxy=parsed("--box", parse_box, box) if box else None,
        note=note,
    )
    if not note.strip():
        stop("--note says what was seen; it may not be empty.", USAGE)
    project = open_project(profile)
    desk = incident_desk(project)
    incident = desk.open(report, background=not run, actor=actor())
    if not as_json:
        console.print(
            f"Incident {incident.id}: {len(incident.quarantined)} version(s) of clip {clip_id} are in quarantine, "
            f"and the clip is withdrawn. {_recalled(incident)}",
            soft_wrap=True,
        )
    error = ""
    if run:
        process_clips(project, clip_ids=[clip_id], retry_failed=True, quiet=as_json)
        incident = desk.advance(incident.id)
        error = project.run_collection()
    _show(desk, [incident], as_json=as_json, single=True)
    if error:
        stop(error, STOPPED)
    if run and incident.corrected_at is None:
        raise typer.Exit(STOPPED)


@app.command("list")
def list_(
    all_: Annotated[bool, typer.Option("--all", help="Show resolved incidents, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show incidents, their age and what is left to do; finish what can be finished.

    The exit status is 1 when an incident is overdue.
    """
    from ego_assets.gates.collection import is_overdue
    from ego_assets.incidents import incident_desk

    def waits(incident: Incident, error: Exception) -> None:
        messages.print(f"[red]incident {incident.id}: {escape(str(error))}[/red]", soft_wrap=True)

    desk = incident_desk(open_project())
    incidents = desk.advance_all(on_error=waits)
    if all_:
        incidents = desk.log.incidents()
    _show(desk, incidents, as_json=as_json)
    now = dt.datetime.now(dt.UTC)
    raise typer.Exit(STOPPED if any(is_overdue(item, now) for item in incidents) else 0)


@app.command()
def show(incident_id: IncidentArgument, as_json: JsonOption = False) -> None:
    """Show one incident with everything on record; finish what can be finished."""
    from ego_assets.incidents import incident_desk

    desk = incident_desk(open_project())
    _show(desk, [desk.advance(incident_id)], as_json=as_json, single=True)


@app.command()
def resolve(
    incident_id: IncidentArgument,
    note: Annotated[str, typer.Option(help="What was found in the new video; kept in the record.")],
    as_json: JsonOption = False,
) -> None:
    """Close an incident whose clip was made anew, and let the clip into deliveries again."""
    from ego_assets.incidents import incident_desk

    if not note.strip():
        stop("--note says what was found; it may not be empty.", USAGE)
    project = open_project()
    desk = incident_desk(project)
    incident = desk.resolve(incident_id, note=note, actor=actor())
    _show(desk, [incident], as_json=as_json, single=True)
    reason = project.left_out_of_delivery().get(incident.clip_id)
    if reason:
        messages.print(f"The clip stays out of deliveries: {escape(reason)}", soft_wrap=True)
    else:
        messages.print("The clip is in the next delivery again: `ego-assets run` writes it.")


def _show(desk: IncidentDesk, incidents: list[Incident], *, as_json: bool, single: bool = False) -> None:
    """A table of incidents, or everything on record of a single one."""
    from ego_assets.gates.collection import is_overdue

    now = dt.datetime.now(dt.UTC)
    described = [
        {
            **incident.as_dict(),
            "age_h": round(incident.age_h(now), 2),
            "overdue": is_overdue(incident, now),
            "left_to_do": desk.what_is_left(incident),
        }
        for incident in incidents
    ]
    if as_json:
        print_json(described[0] if single else described)
        return
    if not incidents:
        console.print("No privacy incident is open.")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("incident", "clip", "state", "age", "what"):
        table.add_column(heading, overflow="fold", min_width=36 if heading == "clip" else None)
    for incident, entry in zip(incidents, described, strict=True):
        what = f"{incident.kind} in {incident.first_frame}-{incident.last_frame}"
        table.add_row(
            f"[bold]{incident.id}[/bold]",
            incident.clip_id,
            incident.state.value,
            f"{entry['age_h']:.1f} h",
            what,
        )
    console.print(table)
    for incident, entry in zip(incidents, described, strict=True):
        if entry["overdue"]:
            console.print(
                f"  {incident.id}: [red]overdue: a privacy incident is resolved within a day.[/red]"
            )
        if single:
            _particulars(incident)
        for line in entry["left_to_do"]:
            console.print(f"  {incident.id}: {escape(line)}", soft_wrap=True)


def _particulars(incident: Incident) -> None:
    """Times, versions and deliveries of one incident."""
    console.print(f"  seen: {escape(incident.note)}", soft_wrap=True)
    moments: dict[str, Any] = {
        f"opened by {incident.opened_by}": incident.opened_at,
        "quarantined": incident.quarantined_at,
        "corrected": incident.corrected_at,
        "purged": incident.purged_at,
        f"resolved by {incident.resolved_by}": incident.resolved_at,
    }
    for what, moment in moments.items():
        if moment is not None:
            console.print(f"  {escape(what)}: {moment:%Y-%m-%d %H:%M:%S} UTC", soft_wrap=True)
    for version in incident.quarantined:
        console.print(f"  quarantined: {version.layer} {version.version_id}", soft_wrap=True)
    for delivery in incident.deliveries:
        console.print(f"  recalled from: {delivery.name} {delivery.version}", soft_wrap=True)
    if incident.resolution:
        console.print(f"  found: {escape(incident.resolution)}", soft_wrap=True)


def _recalled(incident: Incident) -> str:
    """Which deliveries held the clip."""
    if not incident.deliveries:
        return "No delivery holds it."
    names = ", ".join(f"{delivery.name} {delivery.version}" for delivery in incident.deliveries)
    return f"It was taken out of {names}: tell whoever has a copy."
