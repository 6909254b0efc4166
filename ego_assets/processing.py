"""Processing clips from the command line, with progress on the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from ego_assets.execution import RUNNING_FOLDER, forget_notes
from ego_assets.terminal import messages, progress_bar

if TYPE_CHECKING:
    from ego_assets.project import Project


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a processing pass did.

    Attributes:
        ran: Number of clips of which layers ran.
        stopped: Number of these that did not come to the end, crashed ones among them.
        crashed: Number of these that no gate stopped.
    """

    ran: int = 0
    stopped: int = 0
    crashed: int = 0


def process_clips(
    project: Project,
    *,
    clip_ids: list[str] | None = None,
    layers: list[str] | None = None,
    retry_failed: bool = False,
    again: bool = False,
    quiet: bool,
) -> Outcome:
    """Run what is pending, clip by clip."""
    from ego_assets.batching import ancestors_of

    known = [project.database.clip(clip_id) for clip_id in clip_ids] if clip_ids else project.database.clips()
    clips = {clip.clip_id: clip for clip in known}
    specs = {spec.name: spec for spec in project.specs}
    chosen = set(specs if layers is None else layers)
    needed = chosen.union(*(ancestors_of(name, specs) for name in chosen))
    work = []
    for plan in project.plans(known, retry_failed=retry_failed):
        pending = needed.intersection(plan.pending) | (chosen if again else set())
        wanted = [name for name in specs if name in pending]
        if wanted:
            work.append((plan.clip_id, wanted))
    if not work:
        if not quiet:
            messages.print("Nothing is pending.")
        return Outcome()
    project.store.clean_staging()
    forget_notes(project.settings.root / RUNNING_FOLDER)
    project.require_intact_models()
    project.require_disk_space(work)
    project.add_partitions([clip_id for clip_id, _ in work])
    stopped = crashed = 0
    with progress_bar(quiet) as progress:
        overall = progress.add_task(f"{len(work)} clip(s)", total=len(work))
        for clip_id, wanted in work:
            name = escape(clips[clip_id].source_name)
            task = progress.add_task(name, total=1.0)

            def on_progress(layer: str, done: float, task: Any = task, name: str = name) -> None:
                progress.update(task, description=f"{name}: {layer}", completed=done)

            result = project.run_clip(clip_id, wanted, on_progress=on_progress)
            progress.update(task, description=name, completed=1.0)
            progress.advance(overall)
            if not result.success:
                stopped += 1
                crashed += not project.database.clip(clip_id).failed
                progress.console.print(f"[yellow]{escape(result.error)}[/yellow]", soft_wrap=True)
    return Outcome(ran=len(work), stopped=stopped, crashed=crashed)
