"""Chooses clips by a filter; what a filter may say is in :mod:`ego_assets.curation.filters`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ego_assets.curation.filters import ClipFacts, ClipFilter
from ego_assets.schema.embeddings import EMBEDDINGS_LAYER
from ego_assets.schema.errors import ArtifactCorrupted

if TYPE_CHECKING:
    from ego_assets.schema.clip import Clip
    from resources.database import Database
    from resources.storage import ArtifactStore

#: Task whose backend serves those of other layers as well.
_ASKED_TASK = "embeddings"


def clips_where(
    text: str, clips: Sequence[Clip], *, layers: Collection[str], database: Database, store: ArtifactStore
) -> list[Clip]:
    """The clips that fit a filter, in their order.

    Args:
        text: The filter; an empty one fits all.
        clips: The clips to choose from.
        layers: Names of all layers.
        database: What is known of them.
        store: Asked only where the filter asks what made a layer.

    Raises:
        FilterError: The filter cannot be read.
    """
    chosen = ClipFilter(text, layers=layers)
    if not chosen.text:
        return list(clips)
    states: dict[str, dict[str, str]] = defaultdict(dict)
    for state in database.layer_states():
        states[state.clip_id][state.layer] = state.state
    backends: dict[str, dict[str, list[str]]] = defaultdict(dict)
    for artifact in database.artifacts():
        # Whom the backend of another layer asked for words and similarities did not make that layer.
        backends[artifact.clip_id][artifact.layer] = [
            backend["backend"]
            for backend in artifact.backends
            if backend["task"] != _ASKED_TASK or artifact.layer == EMBEDDINGS_LAYER
        ]
    outcomes: dict[str, dict[tuple[str, str], str]] = defaultdict(dict)
    for gate in database.gates():
        outcomes[gate.clip_id][gate.layer, gate.gate] = gate.outcome
    return [
        clip
        for clip in clips
        if chosen.fits(
            ClipFacts(
                clip=clip,
                states=states[clip.clip_id],
                backends=backends[clip.clip_id],
                software=partial(_software, store, clip.clip_id),
                outcomes=outcomes[clip.clip_id],
            )
        )
    ]


def _software(store: ArtifactStore, clip_id: str, layer: str) -> str | None:
    """What made the committed version of a layer; ``None`` where there is none that can be read."""
    try:
        document = store.document(clip_id, layer)
    except ArtifactCorrupted:
        return None
    return None if document is None else document.software
