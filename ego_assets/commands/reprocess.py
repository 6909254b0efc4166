"""``ego-assets reprocess``: make a layer of many clips anew."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from ego_assets.processing import Outcome, process_clips
from ego_assets.terminal import (
    STOPPED,
    USAGE,
    JsonOption,
    ProfileOption,
    console,
    open_project,
    print_json,
    stop,
)


def reprocess(
    layer: Annotated[list[str], typer.Option(help="Layer to make anew; may be given more than once.")],
    where: Annotated[
        str,
        typer.Option(
            help="Only clips that fit, such as \"activity == 'cooking' and backend('depth') == 'motion'\"."
        ),
    ] = "",
    clip: Annotated[
        list[str] | None, typer.Option(help="Only this clip; may be given more than once.")
    ] = None,
    only: Annotated[
        bool, typer.Option("--only", help="Leave what depends on the layer to the next `ego-assets run`.")
    ] = False,
    background: Annotated[
        bool,
        typer.Option(
            "--background",
            help="Ask the Dagster daemon for a backfill instead of working here; see it in the UI.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the clips.")] = False,
    profile: ProfileOption = "",
    as_json: JsonOption = False,
) -> None:
    """Make a layer of all clips that fit anew, then what depends on it.

    Clips that may not be processed (withdrawn, duplicates, stopped at a gate) are left alone. Where a layer turns out
    the same as before, nothing that depends on it is made again. With --background everything downstream is.
    """
    from ego_assets.choosing import clips_where
    from ego_assets.partitions import require_clip_id

    project = open_project(profile)
    known = {spec.name: spec for spec in project.specs}
    unknown = [name for name in layer if name not in known]
    if unknown:
        stop(f"No layer {', '.join(unknown)}. There are: {', '.join(known)}.", USAGE)
    if background and profile:
        stop(
            "--background uses the profile of the daemon: set EGO_PROFILE there instead of --profile.", USAGE
        )
    clips = (
        [project.database.clip(require_clip_id(clip_id)) for clip_id in clip]
        if clip
        else project.database.clips()
    )
    fitting = clips_where(where, clips, layers=list(known), database=project.database, store=project.store)
    ready = [one for one in fitting if project.may_run(one, layer)]
    left_alone = len(fitting) - len(ready)
    clip_ids = [one.clip_id for one in ready]
    summary = {"clips": clip_ids, "layers": layer, "left_alone": left_alone}
    if not as_json:
        for one in ready if dry_run else ():
            console.print(f"{one.clip_id}  {escape(one.source_name)}", soft_wrap=True)
        note = f"; {left_alone} more fit(s) and may not be processed" if left_alone else ""
        console.print(f"{len(clip_ids)} clip(s) fit{note}.")
    outcome = Outcome()
    if clip_ids and not dry_run:
        if background:
            backfill = project.request_backfill(layer, clip_ids, only=only)
            summary["backfill"] = backfill
            if not as_json:
                console.print(f"Backfill {backfill} waits for the daemon: see Runs > Backfills in the UI.")
        else:
            outcome = process_clips(
                project, clip_ids=clip_ids, layers=layer, again=True, retry_failed=True, quiet=as_json
            )
            if not only:
                after = process_clips(project, clip_ids=clip_ids, quiet=as_json)
                if error := project.run_collection():
                    stop(error, STOPPED)
                outcome = Outcome(
                    ran=max(outcome.ran, after.ran),
                    stopped=outcome.stopped + after.stopped,
                    crashed=outcome.crashed + after.crashed,
                    # What the first pass postponed was tried again by the second.
                    postponed=after.postponed,
                    left=max(outcome.left, after.left),
                )
    if as_json:
        counts = {"stopped": outcome.stopped, "postponed": outcome.postponed, "left": outcome.left}
        print_json({**summary, **counts})
    raise typer.Exit(outcome.exit_status)
