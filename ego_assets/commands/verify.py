"""``ego-assets verify``: is everything still as it was written?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from ego_assets.processing import Outcome, process_clips
from ego_assets.terminal import (
    STOPPED,
    JsonOption,
    actor,
    console,
    open_project,
    print_json,
    progress_bar,
)

if TYPE_CHECKING:
    from ego_assets.project import Project
    from ego_assets.schema.clip import Clip
    from ego_assets.verifying import Damage


def verify(
    clip: Annotated[
        list[str] | None, typer.Option(help="Only this clip; may be given more than once.")
    ] = None,
    originals: Annotated[
        bool, typer.Option("--originals", help="Compare the originals in the vault too; each is audited.")
    ] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Make damaged layers again right away.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Read everything that is kept and compare it with its digests.

    Damaged layers are named and made again by the next `ego-assets run`, or now with --repair. Without --clip the
    versions of all deliveries are compared as well.
    """
    from ego_assets.partitions import require_clip_id

    project = open_project()
    clip_ids = list(dict.fromkeys(map(require_clip_id, clip or [])))
    clips = [project.database.clip(clip_id) for clip_id in clip_ids] or project.database.clips()
    found = _look(project, clips, originals=originals, deliveries=not clip_ids, quiet=as_json)
    layers = sorted({damage.name for damage in found if damage.made_again})
    outcome = Outcome()
    if repair and layers:
        concerned = sorted({damage.clip_id for damage in found if damage.made_again})
        outcome = process_clips(project, clip_ids=concerned, layers=layers, quiet=as_json)
    if as_json:
        print_json({"clips": len(clips), "damaged": [damage.as_dict() for damage in found]})
    else:
        for damage in found:
            console.print(f"[red]{escape(damage.message)}[/red]", soft_wrap=True)
        console.print(f"{len(clips)} clip(s) compared, {len(found)} part(s) damaged.")
        if layers and not repair:
            console.print("The next `ego-assets run` makes the damaged layers again.")
    left = [damage for damage in found if not (repair and damage.made_again)]
    raise typer.Exit(STOPPED if left else outcome.exit_status)


def _look(
    project: Project, clips: list[Clip], *, originals: bool, deliveries: bool, quiet: bool
) -> list[Damage]:
    from ego_assets.verifying import verify_deliveries, verify_layers, verify_originals

    folders: list[Path] = []
    if deliveries:
        folders = sorted(project.settings.deliveries.glob("*/v[0-9]*"))
    with progress_bar(quiet) as progress:
        task = progress.add_task("layers", total=len(clips))

        def on_progress(done: int) -> None:
            progress.update(task, completed=done)

        found = list(
            verify_layers(
                clips, project.specs, database=project.database, store=project.store, on_progress=on_progress
            )
        )
        if originals:
            progress.update(task, description="originals", completed=0)
            found += verify_originals(clips, vault=project.vault, actor=actor(), on_progress=on_progress)
        progress.update(task, description="deliveries", total=len(folders), completed=0)
        found += verify_deliveries(folders, on_progress=on_progress)
    return found
