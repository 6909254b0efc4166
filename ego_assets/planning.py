"""Works out what is left to do for a clip, so that a second run does nothing twice."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from ego_assets.execution import LayerState, input_versions, layers_done_without
from ego_assets.schema.errors import ArtifactCorrupted
from ego_assets.schema.layers import LayerSpec

if TYPE_CHECKING:
    from ego_assets.schema.artifact import ArtifactDocument
    from resources.database import Database
    from resources.storage import ArtifactStore


class LayerPlan(StrEnum):
    """What stands at a layer of a clip."""

    DONE = "done"
    PENDING = "pending"
    STOPPED = "stopped"


@dataclass(frozen=True, kw_only=True)
class ClipPlan:
    """What stands at every layer of one clip, in the order of the chain.

    Attributes:
        clip_id: The clip.
        layers: Plan per layer.
        reason: Why the clip cannot go on; empty when it can.
        withdrawn: Whether it was withdrawn for another reason than a privacy incident, so that nothing is made
            of it any more.
    """

    clip_id: str
    layers: Mapping[str, LayerPlan]
    reason: str = ""
    withdrawn: bool = False

    @property
    def pending(self) -> list[str]:
        """Layers to run now, in order."""
        return [name for name, plan in self.layers.items() if plan is LayerPlan.PENDING]


def _readable_document(store: ArtifactStore, clip_id: str, layer: str) -> ArtifactDocument | None:
    """The committed version; ``None`` also where its document is damaged, so that the layer is made again."""
    try:
        return store.document(clip_id, layer)
    except ArtifactCorrupted:
        return None


def plan_clip(
    clip_id: str,
    specs: Sequence[LayerSpec],
    *,
    database: Database,
    store: ArtifactStore,
    retry_failed: bool = False,
    retry_postponed: bool = True,
    leave: Collection[str] = (),
) -> ClipPlan:
    """Compare what is committed and judged with what the chain asks for.

    A layer is done when its committed version was made from the present versions of its inputs, corrections
    among them, and its gates were judged on that very version. A layer that failed or was given up stays so, unless
    ``retry_failed`` asks for another try; one that was given up is also tried again when an input is pending. One that
    was postponed is pending, unless ``retry_postponed`` is false: then it counts as given up, or as failed where
    everything depends on it. One that is damaged is pending. Of layers that were not made, those in ``leave`` stay so,
    whatever else asks for them.
    """
    from resources.corrections import CorrectionLog

    standing = database.standing(clip_id)
    standing_states = database.layer_states(clip_id)
    states = {state.layer: state.state for state in standing_states}
    judged = {gate.layer: gate.data_version for gate in standing.gates}
    documents = {spec.name: _readable_document(store, clip_id, spec.name) for spec in specs}
    usable = {**documents, **dict.fromkeys(layers_done_without(standing_states))}
    corrections = CorrectionLog(database).of_clip(clip_id)
    plans: dict[str, LayerPlan] = {}
    # Damaged layers are expected to come out as they were: what was made from them stands.
    repaired: set[str] = set()
    for spec in sorted(specs, key=lambda item: item.stage):
        name, document = spec.name, documents[spec.name]
        inputs_stopped = any(plans.get(layer) is LayerPlan.STOPPED for layer in spec.inputs)
        inputs_pending = any(
            plans.get(layer) is LayerPlan.PENDING and layer not in repaired
            for layer in (*spec.inputs, *spec.optional_inputs)
        )
        state = states.get(name)
        done_without = LayerPlan.STOPPED if spec.essential or inputs_stopped else LayerPlan.DONE
        if name in leave:
            plans[name] = done_without
        elif state in (LayerState.FAILED, LayerState.BLOCKED):
            plans[name] = LayerPlan.PENDING if retry_failed and not inputs_stopped else LayerPlan.STOPPED
        elif inputs_stopped:
            plans[name] = LayerPlan.STOPPED
        elif inputs_pending:
            plans[name] = LayerPlan.PENDING
        elif state == LayerState.GIVEN_UP:
            plans[name] = LayerPlan.PENDING if retry_failed else LayerPlan.DONE
        elif state == LayerState.POSTPONED:
            plans[name] = LayerPlan.PENDING if retry_failed or retry_postponed else done_without
        elif state == LayerState.DAMAGED:
            plans[name] = LayerPlan.PENDING
            repaired.add(name)
        elif document is None or judged.get(name) != document.data_version:
            plans[name] = LayerPlan.PENDING
        else:
            current = input_versions(spec, usable, corrections)
            plans[name] = LayerPlan.DONE if dict(document.inputs) == current else LayerPlan.PENDING
    # A refused layer that the clip can go on without is no reason to stop.
    essential = [spec.name for spec in specs if spec.essential]
    reason = standing.refusal(inputs=essential) or ""
    if standing.clip.held and not standing.clip.failed:
        plans = {
            spec.name: plans[spec.name]
            if spec.runs_when_held or plans[spec.name] is LayerPlan.DONE
            else LayerPlan.STOPPED
            for spec in specs
        }
    if standing.is_stopped:
        plans = dict.fromkeys(plans, LayerPlan.STOPPED)
    return ClipPlan(clip_id=clip_id, layers=plans, reason=reason, withdrawn=standing.withdrawn)
