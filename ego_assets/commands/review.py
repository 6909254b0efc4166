"""``ego-assets review``: what a person should look at, and what was found."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ego_assets.commands.parsing import KINDS_HELP, parse_false, parse_frames, parse_missed, parsed
from ego_assets.schema.vocabulary import ReviewKind
from ego_assets.terminal import (
    STOPPED,
    USAGE,
    JsonOption,
    actor,
    console,
    open_project,
    print_json,
    progress_bar,
    stop,
)

app = typer.Typer(
    name="review",
    help="List what a person should look at, look at it, record what was missed, close it.",
    invoke_without_command=True,
)

ItemArgument = Annotated[int, typer.Argument(metavar="ID", help="Number of the item.")]


@app.callback()
def review(context: typer.Context) -> None:
    """List what a person should look at, look at it, record what was missed, close it."""
    if context.invoked_subcommand is None:
        list_items()


@app.command("list")
def list_items(
    every: Annotated[bool, typer.Option("--all", help="Closed items too.")] = False,
    kind: Annotated[ReviewKind | None, typer.Option(help="Only items of this kind.")] = None,
    clip: Annotated[str, typer.Option(help="Only items of this clip.")] = "",
    as_json: JsonOption = False,
) -> None:
    """List the items that wait for a person, those that hold a clip back first."""
    from ego_assets.partitions import require_clip_id
    from ego_assets.schema.vocabulary import ReviewRisk

    clip_id = require_clip_id(clip) if clip else None
    items = [
        item
        for item in open_project().database.review_items(None if every else "open", clip_id)
        if kind is None or item.kind is kind
    ]
    items.sort(key=lambda item: (item.resolved_at is not None, item.risk is not ReviewRisk.HIGH, item.id))
    if as_json:
        print_json([asdict(item) for item in items])
        return
    if not items:
        console.print("Nothing is waiting for a review.")
    for item in items:
        console.print(f"[bold]{item.id}[/bold] {item.clip_id} {item.layer}: {item.kind} ({item.risk} risk)")
        console.print(f"    {escape(item.reason)}", soft_wrap=True)
        if item.resolved_at is not None:
            closed = f"closed {item.resolved_at:%Y-%m-%d %H:%M} UTC by {item.resolved_by}: {item.resolution}"
            console.print(f"    [dim]{escape(closed)}[/dim]", soft_wrap=True)
    if any(item.resolved_at is None for item in items):
        console.print("Look at one with `ego-assets review open ID`.")


@app.command("open")
def open_item(
    item: ItemArgument,
    out: Annotated[
        Path | None, typer.Option(help="Empty folder for the page; by default below reports/reviews.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a page that shows the frames of an item, blurred, with what is covered in them."""
    from ego_assets.reviewing import write_review_page

    project = open_project()
    with progress_bar(as_json) as progress:
        task = progress.add_task("writing pictures", total=None)
        page = write_review_page(
            item,
            database=project.database,
            store=project.store,
            reports=project.settings.reports,
            actor=actor(),
            out=out.resolve() if out is not None else None,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    if as_json:
        print_json({"page": str(page)})
        return
    console.print(escape(str(page)), soft_wrap=True)
    console.print("Open it in a browser; it says what to run when you have looked.")


@app.command("record")
def record(
    item: ItemArgument,
    missed: Annotated[
        list[str] | None,
        typer.Option(
            help="What is not covered: FRAME:KIND:LEFT,TOP,RIGHT,BOTTOM or FIRST-LAST:KIND:..., in pixels. Kinds: "
            f"{KINDS_HELP}."
        ),
    ] = None,
    false: Annotated[
        list[str] | None,
        typer.Option("--false", help="Covered regions that show nothing of the kind: FRAME:KIND:COUNT."),
    ] = None,
    frames: Annotated[
        str, typer.Option(help="Frames that you looked at, A,B,C; by default all of the item.")
    ] = "",
    version: Annotated[str, typer.Option(help="The version that the page showed.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Record what you found. Without --missed: everything that should be covered is covered."""
    from ego_assets.reviewing import record_review

    found = [parsed("--missed", parse_missed, text) for text in missed or []]
    wrong = [parsed("--false", parse_false, text) for text in false or []]
    looked_at = parsed("--frames", parse_frames, frames) if frames else None
    project = open_project()
    recorded = record_review(
        item,
        database=project.database,
        store=project.store,
        reviewer=actor(),
        missed=found,
        false_regions=wrong,
        frames=looked_at,
        version=version,
    )
    if as_json:
        print_json(asdict(recorded))
    else:
        console.print(f"{len(recorded.frames)} frame(s) recorded.")
        for order in recorded.corrections:
            box = ", ".join(f"{edge:g}" for edge in order.box_xyxy or ())
            console.print(
                f"To be covered: {order.kind} at {box}, frames {order.first_frame}-{order.last_frame}."
            )
        if recorded.corrections:
            console.print("The next `ego-assets run` renders the clip anew. It is not delivered before.")
        if recorded.delivered_before:
            console.print(
                "[yellow]Consumers hold an earlier rendering of this clip. Where it shows the same, open an incident: "
                f"`ego-assets incident open {recorded.clip_id} --help`.[/yellow]",
                soft_wrap=True,
            )
        if recorded.incident_commands:
            console.print(
                "[red]This rendering was delivered, so consumers hold what was missed. Open an incident now:[/red]"
            )
            for command in recorded.incident_commands:
                console.print(f"  {escape(command)}", soft_wrap=True)
        elif recorded.remaining_frames:
            console.print(f"{recorded.remaining_frames} frame(s) of the item are left to look at.")
        elif not recorded.corrections:
            console.print(
                f"All frames are recorded. Close it: `ego-assets review resolve {item} --note TEXT`."
            )
    raise typer.Exit(STOPPED if recorded.incident_commands else 0)


@app.command("resolve")
def resolve(
    item: ItemArgument,
    note: Annotated[str, typer.Option(help="What was found.")],
    as_json: JsonOption = False,
) -> None:
    """Close an item."""
    from ego_assets.reviewing import resolve_review

    if not note.strip():
        stop("--note is empty: say what was found.", USAGE)
    project = open_project()
    closed = resolve_review(
        item,
        note=note,
        database=project.database,
        store=project.store,
        reports=project.settings.reports,
        actor=actor(),
    )
    status = project.database.clip(closed.clip_id).privacy_status
    if as_json:
        print_json({**asdict(closed), "privacy_status": status.value})
    else:
        console.print(f"Item {closed.id} is closed; clip {closed.clip_id} is {status.value}.")
