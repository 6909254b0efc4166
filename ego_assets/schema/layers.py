"""What a layer is, which ones there are positions for, and how they depend on one another."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ego_assets.schema.artifact import ArtifactDocument
from ego_assets.schema.clip import Clip
from ego_assets.schema.gates import GateSpec
from ego_assets.schema.vocabulary import ProcessingStatus

#: Fixed positions in ``enrichment_completeness``. A position is never given to another layer.
COMPLETENESS_BITS: Mapping[str, int] = MappingProxyType(
    {
        "frames": 0,
        "depth_maps": 1,
        "masks": 2,
        "hand_object": 3,
        "actions": 4,
        "captions": 5,
        "embeddings": 6,
        "kinematics": 7,
        "cleansing": 8,
    }
)


#: Gate that every layer has: whether it was made. It blocks where the layer is essential.
COMPLETED = "completed"


@dataclass(frozen=True, kw_only=True)
class RetryPolicySpec:
    """How often a layer is tried again on one clip after a transient failure.

    Attributes:
        max_retries: Further attempts after the first.
        delay_s: Wait before the first retry; it doubles with every further one.
    """

    max_retries: int = 3
    delay_s: float = 2.0

    def __post_init__(self) -> None:
        if self.max_retries < 0 or self.delay_s < 0:
            raise ValueError(f"retry policy: expected values of 0 or more, got {self}")

    def delay_before(self, retry: int) -> float:
        """Seconds to wait before retry number ``retry`` (from 1)."""
        return float(self.delay_s * 2 ** (retry - 1))


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """One layer: registering it yields an asset, its checks, a completeness bit and a delivery folder.

    Attributes:
        name: Name of the asset, and of the folder in the store.
        group: Group in the Dagster UI.
        description: One paragraph for the UI.
        stage: Position in the chain. Assets of one stage depend on nothing in it; stages run in
            separate runs in backfills, so that one bad clip never holds up the others.
        inputs: Layers that must be committed with their blocking gates passed.
        optional_inputs: Layers that are waited for, and may have been given up.
        gates: Gates judged after every attempt; each becomes an asset check.
        essential: A failure, or a failed blocking gate, stops the clip. Otherwise the layer is given up:
            its completeness bit stays clear, and the clip goes to review and on without it.
        reads_original: May open the original in the vault. Only true up to the privacy pass.
        follows_corrections: The result depends on what people ordered to be covered: a new order makes the layer
            pending, and everything after it.
        runs_when_held: Runs on clips that ``hold_flagged`` stopped; true up to the privacy pass, so that
            a reviewer has something to look at.
        publish_when_blocked: Publish the version although a blocking gate failed. False for the privacy
            layer: what failed its gate must never become readable.
        retry: Retries per clip.
        tasks: Tasks of the profile whose backends the layer runs.
        pool: Dagster concurrency pool, where none of these backends runs on a GPU.
        code_version: Raised when the same inputs give another result.
        estimate_bytes: Disk space that the layer will need for a clip under the enrichment settings.
        deliver: Lists what the layer adds to a delivered clip folder, or ``None``.
    """

    name: str
    group: str
    description: str
    stage: int
    inputs: tuple[str, ...] = ()
    optional_inputs: tuple[str, ...] = ()
    gates: tuple[GateSpec, ...] = ()
    essential: bool = False
    reads_original: bool = False
    follows_corrections: bool = False
    runs_when_held: bool = False
    publish_when_blocked: bool = True
    retry: RetryPolicySpec = RetryPolicySpec()
    tasks: tuple[str, ...] = ()
    pool: str = "cpu"
    code_version: str = "1"
    estimate_bytes: Callable[[Clip, Any], int] = lambda clip, settings: 0
    deliver: DeliveryWriter | None = None

    def __post_init__(self) -> None:
        names = [gate.name for gate in self.all_gates]
        if len(names) != len(set(names)):
            raise ValueError(f"layer {self.name}: expected unique gate names, got {names}")

    @property
    def completed_gate(self) -> GateSpec:
        """The gate every layer has: whether it was made at all."""
        return GateSpec(
            name=COMPLETED,
            description="The layer was made. "
            + (
                "A failure stops the clip."
                if self.essential
                else "The clip goes on without a layer that was given up."
            ),
            blocking=self.essential,
        )

    @property
    def all_gates(self) -> tuple[GateSpec, ...]:
        """The completed gate and the layer's own."""
        return (self.completed_gate, *self.gates)

    @property
    def bit(self) -> int | None:
        """Position in the completeness bitfield, or ``None`` for a layer that has none."""
        return COMPLETENESS_BITS.get(self.name)


@dataclass(frozen=True, kw_only=True)
class DeliveryMember:
    """One file of a delivered clip folder, copied from a committed layer without re-encoding.

    Attributes:
        path: Path inside the clip folder, such as ``rgb/frame_000000.jpg``.
        layer: Layer it comes from.
        file: File of that artifact.
        offset: First byte inside ``file``.
        size: Number of bytes; ``None`` for the whole file.
    """

    path: str
    layer: str
    file: str
    offset: int = 0
    size: int | None = None


#: Lists what a layer adds to a delivered clip folder. ``read`` returns the bytes of one of its files.
DeliveryWriter = Callable[[ArtifactDocument, Callable[[str], bytes]], "list[DeliveryMember]"]

#: Layer whose commit lifts a clip to the status, in the order of the guide.
_STATUS_LAYERS: tuple[tuple[ProcessingStatus, str], ...] = (
    (ProcessingStatus.INGESTED, "raw_clip"),
    (ProcessingStatus.FRAMES_EXTRACTED, "frames"),
    (ProcessingStatus.DEPTH_COMPLETE, "depth_maps"),
    (ProcessingStatus.SEGMENTATION_COMPLETE, "masks"),
    (ProcessingStatus.CAPTIONS_COMPLETE, "captions"),
)


def derive_processing_status(committed: Collection[str], *, delivered: bool) -> ProcessingStatus | None:
    """The display status of a clip with these committed layers; ``None`` before ingest."""
    if delivered:
        return ProcessingStatus.DELIVERED
    reached = [status for status, layer in _STATUS_LAYERS if layer in committed]
    return reached[-1] if reached else None
