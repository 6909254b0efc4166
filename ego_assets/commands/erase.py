"""``ego-assets erase``: remove clips, or everything of one person who wore the camera, for good."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from ego_assets.terminal import (
    STOPPED,
    USAGE,
    JsonOption,
    actor,
    console,
    messages,
    open_project,
    print_json,
    stop,
)

if TYPE_CHECKING:
    from ego_assets.erasing import ErasurePlan
    from ego_assets.schema.erasures import Erasure


def erase(
    clip: Annotated[
        list[str] | None, typer.Option(help="Clip to erase; may be given more than once.")
    ] = None,
    collector: Annotated[str, typer.Option(help="Erase all clips of this collector.")] = "",
    reason: Annotated[
        str, typer.Option(help="Why. It stays for good: say nothing in it that identifies anybody.")
    ] = "",
    resume: Annotated[
        bool, typer.Option("--resume", help="Only finish erasures that were interrupted.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be erased.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Erase clips: original, layers, records, pictures, copies in deliveries; a tombstone stays.

    It cannot be undone. Interrupted at any point, the same command or --resume finishes it. Copies of deliveries that
    others have, and backups, are out of its reach: the deliveries are listed.
    """
    from ego_assets.erasing import eraser_of
    from ego_assets.partitions import require_clip_id
    from ego_assets.schema.errors import ConfigurationError, EgoAssetsError

    asked = [bool(clip), bool(collector), resume]
    if sum(asked) != 1:
        stop("Give one of --clip, --collector and --resume.", USAGE)
    if not resume and not dry_run and not reason.strip():
        stop("--reason says why; it may not be empty.", USAGE)
    project = open_project()
    eraser = eraser_of(project)
    try:
        if resume:
            waiting = eraser.log.erasures(unfinished_only=True)
            if dry_run:
                _show(waiting, as_json=as_json)
                return
            _show(eraser.advance(on_wait=_waits), as_json=as_json)
            return
        wanted = [require_clip_id(clip_id) for clip_id in clip or ()]
        if collector:
            wanted = [item.clip_id for item in project.database.clips(collector_id=collector)]
            begun = eraser.begun_of(collector)
        else:
            begun = [clip_id for clip_id in wanted if eraser.log.find(clip_id) is not None]
        fresh = [clip_id for clip_id in wanted if clip_id not in begun]
        if begun and not fresh and not dry_run:
            # The same command once more.
            eraser.advance(begun, on_wait=_waits)
            _show([item for one in begun if (item := eraser.log.find(one))], as_json=as_json)
            return
        plan = eraser.plan(clip_ids=wanted if dry_run else fresh, collector_id=collector)
        if dry_run:
            _show_plan(plan, as_json=as_json)
            return
        if not yes:
            _confirm(plan)
        erased = eraser.erase([*begun, *plan.clip_ids], reason=reason, actor=actor(), on_wait=_waits)
    except ConfigurationError:
        raise
    except EgoAssetsError as error:
        stop(f"{error} What has begun is finished by `ego-assets erase --resume`.", STOPPED)
    _show(erased, as_json=as_json)


def _confirm(plan: ErasurePlan) -> None:
    """Ask, where somebody is there to answer."""
    _describe(plan, to_messages=True)
    if not sys.stdin.isatty():
        stop("Nobody can be asked here. Add --yes when this is what you want.", USAGE)
    if not typer.confirm("Erase this for good?", err=True):
        stop("Nothing was erased.", STOPPED)


def _describe(plan: ErasurePlan, *, to_messages: bool = False) -> None:
    out = messages if to_messages else console
    same = f" ({len(plan.same_content)} of them uploads of the same content)" if plan.same_content else ""
    out.print(
        f"{len(plan.clip_ids)} clip(s){same}, {plan.layers} layer(s), {plan.raw_bytes / 1e9:.2f} GB of originals; in "
        f"{len(plan.deliveries)} version(s) of deliveries.",
        soft_wrap=True,
    )
    if plan.kept_content:
        out.print(
            f"[yellow]The same recording is kept as clip {', '.join(plan.kept_content)}: erase that, too, where it has "
            "to go.[/yellow]",
            soft_wrap=True,
        )


def _show_plan(plan: ErasurePlan, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "clips": list(plan.clip_ids),
                "same_content": list(plan.same_content),
                "kept_content": list(plan.kept_content),
                "layers": plan.layers,
                "raw_bytes": plan.raw_bytes,
                "deliveries": [f"{item.name} {item.version}" for item in plan.deliveries],
            }
        )
        return
    for clip_id in plan.clip_ids:
        console.print(clip_id)
    _describe(plan)


def _show(erasures: list[Erasure], *, as_json: bool) -> None:
    if as_json:
        print_json([item.as_dict() for item in erasures])
        return
    if not erasures:
        console.print("No erasure is unfinished.")
        return
    for item in erasures:
        state = "erased" if item.completed_at is not None else "not complete"
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(item.removed.items()) if count)
        console.print(f"{item.clip_id}  {state}: {escape(counts) or 'nothing was left'}", soft_wrap=True)
    held = sorted({(item.name, item.version) for one in erasures for item in one.deliveries})
    if held:
        names = ", ".join(f"{name} {version}" for name, version in held)
        console.print(f"Recalled from {escape(names)}: tell whoever has a copy.", soft_wrap=True)


def _waits(message: str) -> None:
    messages.print(escape(message), soft_wrap=True)
