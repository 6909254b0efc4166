"""Processing clips from the command line, with progress on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from ego_assets.execution import EARLIER_VERSION_UNUSED, RUNNING_FOLDER, LayerState, forget_notes
from ego_assets.planning import LayerPlan
from ego_assets.settings import command_with_profile, same_profile_command
from ego_assets.terminal import ENVIRONMENT, STOPPED, USAGE, messages, progress_bar

if TYPE_CHECKING:
    from ego_assets.project import Project
    from resources.database import LayerStateRecord

#: Advice names so many clips at most.
_FEW_CLIPS = 3


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a processing pass did.

    Attributes:
        ran: Number of clips of which layers ran.
        stopped: Number of these that did not come to the end, crashed ones among them.
        crashed: Number of these that no gate stopped.
        postponed: Number of these with layers that this machine could not make, and that the next run tries again.
        left: Number of clips with layers that were left as they are, because another profile was asked for them.
    """

    ran: int = 0
    stopped: int = 0
    crashed: int = 0
    postponed: int = 0
    left: int = 0

    @property
    def exit_status(self) -> int:
        """Of a command that did nothing else.

        1 where clips were stopped, else 2 where layers were left, else 3 where layers are postponed.
        """
        if self.stopped:
            return STOPPED
        if self.left:
            return USAGE
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
    """Run what is pending, clip by clip.

    Layers that were tried with another profile and not made are left as they are, unless this one was named for the
    command, or ``again`` names the layer. So is what cannot be made without them.
    """
    from ego_assets.batching import ancestors_of

    known = [project.database.clip(clip_id) for clip_id in clip_ids] if clip_ids else project.database.clips()
    clips = {clip.clip_id: clip for clip in known}
    specs = {spec.name: spec for spec in project.specs}
    chosen = set(specs if layers is None else layers)
    needed = chosen.union(*(ancestors_of(name, specs) for name in chosen))
    work = []
    left: dict[str, dict[str, list[str]]] = {}
    left_clips = 0
    for plan in project.plans(known, retry_failed=retry_failed):
        forced = chosen if again else set()
        others = project.tried_with_other_profiles(
            plan.clip_id, needed.intersection(plan.pending) - forced, retry_failed=retry_failed
        )
        if others:
            [plan] = project.plans([clips[plan.clip_id]], retry_failed=retry_failed, leave=others)
            left_clips += 1
            forced = {name for name in forced if plan.layers[name] is not LayerPlan.STOPPED}
            for layer, profile in others.items():
                left.setdefault(profile, {}).setdefault(layer, []).append(plan.clip_id)
        pending = needed.intersection(plan.pending) | forced
        wanted = [name for name in specs if name in pending]
        if wanted:
            work.append((plan.clip_id, wanted))
    options = ["--retry-failed"] * retry_failed + ["--again"] * again
    options += [f"--layer {name}" for name in layers or ()]
    _say_what_is_left(project, left, arguments=" ".join(["run", *options]), of_all_clips=not clip_ids)
    if not work:
        if not quiet and not left:
            messages.print("Nothing is pending.")
        return Outcome(left=left_clips)
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
            # Behind a layer that everything depends on the clip waits as well: nothing is wrong with it.
            if not result.success and not any(specs[state.layer].essential for state in missed):
                stopped += 1
                crashed += not project.database.clip(clip_id).failed
                progress.console.print(f"[yellow]{escape(result.error)}[/yellow]", soft_wrap=True)
    _say_what_waits(project, [state for states in postponed.values() for state in states])
    return Outcome(ran=len(work), stopped=stopped, crashed=crashed, postponed=len(postponed), left=left_clips)


def _say_what_is_left(
    project: Project,
    left: Mapping[str, Mapping[str, Sequence[str]]],
    *,
    arguments: str,
    of_all_clips: bool,
) -> None:
    """One line for each other profile: its layers, and how either profile is chosen.

    Args:
        project: The project.
        left: Profile -> layer -> clips.
        arguments: Of the command that asks for the same work, but for its clips and its profile.
        of_all_clips: Whether no clips were chosen.
    """
    for profile, layers in left.items():
        clip_ids = dict.fromkeys(clip_id for ids in layers.values() for clip_id in ids)
        few = len(clip_ids) <= _FEW_CLIPS
        command = " ".join([arguments, *(f"--clip {one}" for one in clip_ids if few and not of_all_clips)])
        hint = "" if of_all_clips or few else " Name the clips with --clip."
        counted = ", ".join(f"{layer} of {len(ids)} clip(s)" for layer, ids in layers.items())
        here = project.settings.profile
        message = (
            f"Left as it is: {counted}, last tried with the profile {profile}. This run has {here}, which was not "
            f"named for it and may make something else. Go on with `{command_with_profile(command, profile)}`, or "
            f"choose this one with `{command_with_profile(command, here)}`.{hint}"
        )
        messages.print(f"[red]{escape(message)}[/red]", soft_wrap=True)


def _say_what_waits(project: Project, postponed: Sequence[LayerStateRecord]) -> None:
    """One line for each reason to postpone layers, however many layers and clips wait for it; then what to do."""
    reasons: dict[str, dict[str, list[LayerStateRecord]]] = {}
    for state in postponed:
        reason = state.reason.replace(state.clip_id, "...").rstrip(".") + "."
        reasons.setdefault(reason, {}).setdefault(state.layer, []).append(state)
    for reason, layers in reasons.items():
        counted = ", ".join(f"{layer} of {len(states)} clip(s)" for layer, states in layers.items())
        had_it = any(
            project.store.document(state.clip_id, state.layer) is not None
            for states in layers.values()
            for state in states
        )
        was = "was" if len(layers) == 1 else "were"
        earlier = f" {EARLIER_VERSION_UNUSED}" if had_it else ""
        message = f"{counted} {was} postponed: {reason}{earlier}"
        messages.print(f"[yellow]{escape(message)}[/yellow]", soft_wrap=True)
    if reasons:
        again, doctor = (same_profile_command(words, project.settings) for words in ("run", "doctor"))
        message = f"The next `{again}` tries again. `{doctor}` lists all that is missing."
        messages.print(f"[yellow]{escape(message)}[/yellow]", soft_wrap=True)
