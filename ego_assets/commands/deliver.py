"""``ego-assets deliver``: make a version of a delivery, or say what it would be."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from ego_assets.delivery.definition import DEFAULT_SHARD_BYTES, FORMATS, DeliveryDefinition, SplitShares
from ego_assets.terminal import STOPPED, JsonOption, console, messages, open_project, print_json, progress_bar

if TYPE_CHECKING:
    from ego_assets.assembling import Preview


def deliver(
    name: Annotated[str, typer.Option(help="Name of the delivery, such as kitchen-v1.")],
    where: Annotated[
        str,
        typer.Option(
            help="Only clips that fit, such as \"activity == 'cooking' and quality >= 0.8 and complete('depth')\"."
        ),
    ] = "",
    formats: Annotated[str, typer.Option(help=f"Some of {','.join(FORMATS)}.")] = "folder",
    split: Annotated[
        str, typer.Option(help="Shares of train/validation/test by collector, such as 0.9/0.05/0.05.")
    ] = "",
    include_unreviewed: Annotated[
        bool,
        typer.Option(
            "--include-unreviewed", help="Clips too of which a privacy review of normal risk is open."
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Decides the order of samples and the splits.")] = 0,
    shard_size: Annotated[int, typer.Option(help="Bytes at which a shard is full.")] = DEFAULT_SHARD_BYTES,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be in it, what not and why, and how large.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the clips that fit in the formats that are asked for, as the next version of a delivery.

    The same call goes on where it was interrupted. Where nothing changed, the version that exists is named.
    """
    from ego_assets.assembling import require_name
    from ego_assets.delivery.verify import check_formats

    definition = DeliveryDefinition(
        name=name,
        where=where,
        formats=tuple(part.strip() for part in formats.split(",") if part.strip()),
        split=SplitShares.parse(split) if split else None,
        include_unreviewed=include_unreviewed,
        seed=seed,
        shard_bytes=shard_size,
    )
    require_name(definition)
    maker = open_project().deliveries
    if dry_run:
        _show_preview(maker.preview(definition), as_json=as_json)
        return
    with progress_bar(as_json) as progress:
        task = progress.add_task(f"writing {name}", total=1.0)

        def on_progress(done: int, total: int) -> None:
            progress.update(task, total=total or 1, completed=done)

        made = maker.make_named(definition, progress=on_progress)
    problems = list(check_formats(made.written.folder))
    if as_json:
        print_json(
            {
                "name": name,
                "version": made.written.version,
                "new": made.written.is_new,
                "folder": str(made.written.folder),
                "published": made.published,
                "clips": [chosen.clip.clip_id for chosen in made.selection.clips],
                "bytes": made.written.bytes,
                "counts": made.written.counts,
                "left_out": dict(made.selection.left_out),
                "problems": problems,
            }
        )
    else:
        state = "written" if made.written.is_new else "there already, with the same content"
        console.print(
            f"{name} {made.written.version} is {state}: {len(made.selection.clips)} clip(s), "
            f"{made.written.bytes / 1e6:.1f} MB.",
            soft_wrap=True,
        )
        console.print(escape(made.published or str(made.written.folder)), soft_wrap=True)
        for clip_id, reason in made.selection.left_out.items():
            console.print(f"  left out {clip_id}: {escape(reason)}", soft_wrap=True)
        for problem in problems:
            messages.print(f"[red]{escape(problem)}[/red]", soft_wrap=True)
    raise typer.Exit(STOPPED if problems else 0)


def _show_preview(preview: Preview, *, as_json: bool) -> None:
    selection = preview.selection
    hours = sum(chosen.clip.duration_s or 0.0 for chosen in selection.clips) / 3600
    counted = Counter(omission.kind.value for omission in selection.omitted.values())
    if as_json:
        print_json(
            {
                "clips": [chosen.clip.clip_id for chosen in selection.clips],
                "hours": hours,
                "bytes": dict(preview.bytes),
                "splits": {
                    chosen.clip.clip_id: preview.splits.get(chosen.clip.collector_id)
                    for chosen in selection.clips
                },
                "left_out": dict(selection.left_out),
                "left_out_counts": dict(counted),
            }
        )
        return
    console.print(
        f"{len(selection.clips)} clip(s), {hours:.3f} hours, would be delivered; nothing is written."
    )
    for chosen in selection.clips:
        split = preview.splits.get(chosen.clip.collector_id, "")
        console.print(f"  {chosen.clip.clip_id}  {split}  {escape(chosen.clip.source_name)}", soft_wrap=True)
    for format_name, size in preview.bytes.items():
        console.print(f"about {size / 1e6:.1f} MB as {format_name}")
    for clip_id, reason in selection.left_out.items():
        console.print(f"left out {clip_id}: {escape(reason)}", soft_wrap=True)
    if outside := counted["outside the filter"]:
        console.print(f"{outside} clip(s) do not fit the filter.")
