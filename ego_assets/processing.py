"""Processing clips from the command line, with progress on the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from ego_assets.execution import EARLIER_VERSION_UNUSED, RUNNING_FOLDER, LayerState, forget_notes
from ego_assets.terminal import ENVIRONMENT, STOPPED, messages, progress_bar

if TYPE_CHECKING:
    from ego_assets.project import Project
    from resources.database import LayerStateRecord


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a processing pass did.

    Attributes:
        ran: Number of clips of which layers ran.
        stopped: Number of these that did not come to the end, crashed ones among them.
        crashed: Number of these that no gate stopped.
        postponed: Number of these with layers that this machine could not make, and that the next run tries again.
    """

    ran: int = 0
    stopped: int = 0
    crashed: int = 0
    postponed: int = 0

    @property
    def exit_status(self) -> int:
        """Of a command that did nothing else: 1 where clips were stopped, else 3 where layers are postponed."""
        if self.stopped:
            return STOPPED
        return ENVIRONMENT if self.postponed else 0


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
    project.require_intact_models({name for _, wanted in work for name in wanted})
    project.require_disk_space(work)
    project.add_partitions([clip_id for clip_id, _ in work])
    stopped = crashed = 0
    postponed: dict[str, list[LayerStateRecord]] = {}
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
            missed = [
                state
                for state in project.database.layer_states(clip_id)
                if state.layer in wanted and state.state == LayerState.POSTPONED
            ]
            if missed:
                postponed[clip_id] = missed
            if not result.success:
                # Behind a layer that everything depends on the clip waits as well: nothing is wrong with it.
                if not any(specs[state.layer].essential for state in missed):
                    stopped += 1
                    crashed += not project.database.clip(clip_id).failed
                progress.console.print(f"[yellow]{escape(result.error)}[/yellow]", soft_wrap=True)
    _say_what_waits(project, [state for states in postponed.values() for state in states])
    return Outcome(ran=len(work), stopped=stopped, crashed=crashed, postponed=len(postponed))


def _say_what_waits(project: Project, postponed: list[LayerStateRecord]) -> None:
    """One line for each layer that was postponed for a reason, however many clips wait for it."""
    reasons: dict[tuple[str, str], list[LayerStateRecord]] = {}
    for state in postponed:
        reason = state.reason.replace(state.clip_id, "...").rstrip(".") + "."
        reasons.setdefault((state.layer, reason), []).append(state)
    for (layer, reason), states in reasons.items():
        had_it = any(project.store.document(state.clip_id, layer) is not None for state in states)
        earlier = f" {EARLIER_VERSION_UNUSED}" if had_it else ""
        messages.print(
            f"[yellow]{layer} of {len(states)} clip(s) was postponed: {escape(reason)} The next `ego-assets run` tries "
            f"again.{earlier}[/yellow]",
            soft_wrap=True,
        )
