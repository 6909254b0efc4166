"""``ego-assets gc``: remove what nobody needs any more."""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated

import typer
from rich.markup import escape

from ego_assets.housekeeping import Housekeeping, Waste, WasteKind
from ego_assets.terminal import STOPPED, JsonOption, actor, console, messages, open_project, print_json

_SECONDS_PER_DAY = 24 * 3600.0


def gc(
    apply: Annotated[
        bool, typer.Option("--apply", help="Remove; without it everything is only listed.")
    ] = False,
    days: Annotated[
        float, typer.Option(min=0, help="Keep what was superseded or written within so many days.")
    ] = 7.0,
    orphans: Annotated[
        bool, typer.Option("--orphans", help="Layers of clips that are not registered, too.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List superseded versions, unfinished work and unrecorded deliveries; with --apply remove them.

    Current versions, originals, recorded deliveries and what an open incident is about are never touched.
    """
    project = open_project()
    keeper = Housekeeping(
        database=project.database,
        store=project.store,
        vault=project.vault,
        deliveries=project.settings.deliveries,
    )
    found = list(keeper.find(older_than_s=days * _SECONDS_PER_DAY, orphans=orphans))
    failed: list[str] = []
    if apply:
        for waste in found:
            try:
                waste.remove()
            except Exception as error:
                # One thing that cannot be removed must not keep the others.
                failed.append(f"{waste.place}: {error}")
        if found:
            project.database.write_audit(
                actor=actor(), action="gc", detail=f"removed {len(found) - len(failed)} of {len(found)}"
            )
    if as_json:
        print_json({"found": [waste.as_dict() for waste in found], "removed": apply, "failed": failed})
    else:
        _show(found, removed=apply)
        for problem in failed:
            messages.print(f"[red]{escape(problem)}[/red]", soft_wrap=True)
    raise typer.Exit(STOPPED if failed else 0)


def _show(found: list[Waste], *, removed: bool) -> None:
    if not found:
        console.print("There is nothing to remove.")
        return
    by_kind: dict[WasteKind, list[Waste]] = defaultdict(list)
    for waste in found:
        by_kind[waste.kind].append(waste)
    for kind, wastes in by_kind.items():
        size = sum(waste.bytes or 0 for waste in wastes)
        console.print(f"[bold]{kind}[/bold]: {len(wastes)}, {size / 1e6:.1f} MB")
        if not removed:
            for waste in wastes:
                console.print(f"  {escape(waste.place)}", soft_wrap=True)
    if not removed:
        console.print("Nothing was removed. Remove it with `ego-assets gc --apply`.")
