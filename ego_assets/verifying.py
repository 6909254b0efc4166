"""Compares everything that is kept with its digests: committed layers, originals and deliveries.

What is damaged in the store can be made again from what it was made of, so it is recorded as damaged and the next run
makes it again. An original cannot: it has to come back from a backup. A delivery is written once more.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ego_assets.delivery.verify import compare_digests
from ego_assets.execution import LayerState, record_damage
from ego_assets.schema.errors import ArtifactCorrupted, EgoAssetsError
from ego_assets.schema.vocabulary import VaultPurpose

if TYPE_CHECKING:
    from ego_assets.schema.clip import Clip
    from ego_assets.schema.layers import LayerSpec
    from resources.database import Database
    from resources.storage import ArtifactStore
    from resources.vault import Vault

_BLOCK_BYTES = 1 << 20
_CLIP_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

#: Called with how many parts were compared.
ProgressListener = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Damage:
    """Something that does not match its digest.

    Attributes:
        kind: ``layer``, ``original`` or ``delivery``.
        clip_id: The clip; empty for a delivery as a whole.
        name: The layer, the original's file or the version of the delivery.
        message: What differs and what to do.
        made_again: Whether the next `ego-assets run` makes it again.
    """

    kind: Literal["layer", "original", "delivery"]
    clip_id: str
    name: str
    message: str
    made_again: bool

    def as_dict(self) -> dict[str, Any]:
        """The entry for ``--json``."""
        return asdict(self)


def verify_layers(
    clips: Sequence[Clip],
    specs: Sequence[LayerSpec],
    *,
    database: Database,
    store: ArtifactStore,
    on_progress: ProgressListener = lambda done: None,
) -> Iterator[Damage]:
    """Read every file of every committed layer; what differs is recorded as damaged.

    Raises:
        TransientError: The store or the database is out of reach.
    """
    for done, clip in enumerate(clips):
        on_progress(done)
        indexed = {artifact.layer: artifact.data_version for artifact in database.artifacts(clip.clip_id)}
        states = {state.layer: state.state for state in database.layer_states(clip.clip_id)}
        for spec in specs:
            try:
                message = _wrong_in_layer(store, clip.clip_id, spec.name, indexed.get(spec.name))
            except ArtifactCorrupted as error:
                message = str(error)
            if message:
                # A layer that the clip goes on without is nobody's input, whatever lies in its folder.
                again = states.get(spec.name) in (LayerState.COMMITTED, LayerState.DAMAGED)
                if again:
                    record_damage(database, clip.clip_id, spec.name, message)
                yield Damage(
                    kind="layer", clip_id=clip.clip_id, name=spec.name, message=message, made_again=again
                )


def _wrong_in_layer(store: ArtifactStore, clip_id: str, layer: str, indexed: str | None) -> str:
    """Why a layer is not what was recorded; empty where it is."""
    document = store.document(clip_id, layer)
    if document is not None:
        store.verify(document)
    # Where both are there and differ, the version was published a moment ago, or a run was killed before it was
    # judged: that is not damage, and planning knows it.
    elif indexed is not None:
        return (
            f"The pointer of layer {layer} of clip {clip_id} is gone from the store. "
            f"Make it again with `ego-assets run --clip {clip_id} --layer {layer}`."
        )
    return ""


def verify_originals(
    clips: Sequence[Clip],
    *,
    vault: Vault,
    actor: str,
    on_progress: ProgressListener = lambda done: None,
) -> Iterator[Damage]:
    """Read every original and compare it with the digest it had when it came; each is audited.

    Raises:
        TransientError: The vault is out of reach.
    """
    for done, clip in enumerate(clips):
        on_progress(done)
        if not clip.raw_key:
            continue
        try:
            digest = hashlib.sha256()
            with vault.open(clip.clip_id, purpose=VaultPurpose.VERIFICATION, actor=actor) as original:
                while block := original.read(_BLOCK_BYTES):
                    digest.update(block)
            actual = digest.hexdigest()
            if actual == clip.raw_sha256:
                continue
            message = (
                f"The original of clip {clip.clip_id} has sha256 {actual} in the vault, expected {clip.raw_sha256}. "
                "Restore it from the vault's backup."
            )
        except EgoAssetsError as error:
            if error.transient:
                raise
            message = str(error)
        except OSError as error:
            message = f"The original of clip {clip.clip_id} cannot be read ({error.strerror}). Check the vault's disk."
        yield Damage(
            kind="original", clip_id=clip.clip_id, name=clip.source_name, message=message, made_again=False
        )


def verify_deliveries(
    folders: Sequence[Path], *, on_progress: ProgressListener = lambda done: None
) -> Iterator[Damage]:
    """Compare the files of versions of deliveries with the digests that they state; what was recalled is not missed."""
    for done, folder in enumerate(folders):
        on_progress(done)
        wrong = [(_clip_of(problem), problem) for problem in compare_digests(folder)]
        for clip_id, what in wrong:
            yield Damage(
                kind="delivery",
                clip_id=clip_id,
                name=folder.name,
                message=(
                    f"Delivery {folder.parent.name} {folder.name}: {what}. Take the folder away; `ego-assets run`, or "
                    "`ego-assets deliver` for a delivery with a name, writes the present clips as a new version."
                ),
                made_again=False,
            )


def _clip_of(problem: str) -> str:
    """The clip whose file a problem is about; empty where it is about the delivery."""
    found = _CLIP_ID.match(problem)
    return found.group() if found is not None else ""
