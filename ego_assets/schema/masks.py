"""Instance masks and the protocol of the backends that make them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ego_assets.schema.arrays import hold_arrays, read_only
from ego_assets.schema.detections import BackendInfo
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.hands import HandObjectTracks

#: The guide's categories (collection guide, step 4), and what a backend says that cannot tell which one it is.
UNKNOWN_CATEGORY = "object"
HAND_CATEGORY = "hand"
PERSON_CATEGORY = "person"
BACKGROUND_CATEGORY = "background"
MASK_CATEGORIES = (
    HAND_CATEGORY,
    "tool",
    "food",
    "container",
    "appliance",
    "furniture",
    PERSON_CATEGORY,
    BACKGROUND_CATEGORY,
    UNKNOWN_CATEGORY,
)

#: Vocabularies by name; the second adds the category that the guide's frequent questions name beside objects.
MASK_VOCABULARIES = {"default": MASK_CATEGORIES, "surfaces": (*MASK_CATEGORIES, "surface")}


@dataclass(frozen=True, kw_only=True)
class MaskInstance:
    """One instance, which keeps its id through the clip.

    Attributes:
        instance_id: 1-65535.
        category: Out of the vocabulary.
        score: How sure the category is, 0-1.
        side: ``left`` or ``right`` for a hand of the wearer, otherwise empty.
    """

    instance_id: int
    category: str
    score: float
    side: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.instance_id <= 65535:
            raise ValueError(f"instance_id: expected 1 to 65535, got {self.instance_id}")
        if not 0 <= self.score <= 1:
            raise ValueError(f"score: expected 0 to 1, got {self.score}")


@dataclass(frozen=True, eq=False, kw_only=True)
class MaskFrame:
    """The instances seen in one frame.

    Attributes:
        frame_index: The frame.
        timestamp_ns: Its presentation time.
        instance_ids: ``uint16 [height, width]`` at the frame's size; 0 where nothing was segmented.
        instances: Those that have a pixel in this frame.
        reseeded: Whether instances were searched anew on this frame instead of being followed to it.
    """

    frame_index: int
    timestamp_ns: int
    instance_ids: npt.NDArray[np.uint16]
    instances: tuple[MaskInstance, ...]
    reseeded: bool = False

    def __post_init__(self) -> None:
        ids = self.instance_ids
        if ids.ndim != 2 or ids.dtype != np.uint16:
            raise ValueError(f"instance_ids: expected uint16 [h, w], got {ids.dtype} {list(ids.shape)}")
        # Counting is several times as fast as sorting.
        shown = set(np.flatnonzero(np.bincount(ids.ravel())).tolist()) - {0}
        named = {item.instance_id for item in self.instances}
        if shown != named:
            raise ValueError(
                f"instances: expected those in the picture, {sorted(shown)}, got {sorted(named)}"
            )
        object.__setattr__(self, "instance_ids", read_only(ids))


@runtime_checkable
class MaskTracker(Protocol):
    """Finds instances in a clip and follows them."""

    @property
    def info(self) -> BackendInfo:
        """What runs."""
        ...

    @property
    def category_info(self) -> BackendInfo | None:
        """Another model that decides what instances are; ``None`` where the tracker needs none for that."""
        ...

    def track(
        self,
        frames: Iterable[ClipFrame],
        *,
        hands: HandObjectTracks | None = None,
        vocabulary: Sequence[str] = MASK_CATEGORIES,
        cuts: frozenset[int] = frozenset(),
    ) -> Iterator[MaskFrame]:
        """One result per frame, in order; nothing is remembered from one call to the next.

        An instance has one category and one side in all frames of a call.

        Args:
            frames: Frames of one clip in order of time.
            hands: The wearer's hands, where the hand layer has them; boxes are scaled to the frames' size.
            vocabulary: Categories that may be given.
            cuts: Indices of those frames on which a new scene begins: nothing is followed into them.
        """
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class MaskMeasurements:
    """What was measured on the masks of one clip: one value a frame, for gates and records.

    Attributes:
        frame_index: ``int64 [N]``, ascending.
        timestamps_ns: ``int64 [N]``.
        segmented_share: ``float64 [N]``, share of the pixels that belong to an instance, 0-1.
        largest_share: ``float64 [N]``, share of the pixels that belong to the largest instance, 0-1.
        hand_share: ``float64 [N]``, share of the pixels that belong to a hand of the wearer, 0-1.
        consistency: ``float64 [N]``, intersection over union of each frame's instances with those of the frame before
            after the picture's motion was taken out, mean over instances by their area; NaN where the two pictures
            cannot be compared.
    """

    frame_index: npt.NDArray[np.int64]
    timestamps_ns: npt.NDArray[np.int64]
    segmented_share: npt.NDArray[np.float64]
    largest_share: npt.NDArray[np.float64]
    hand_share: npt.NDArray[np.float64]
    consistency: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        count = self.frame_index.size
        hold_arrays(self, **{name: (count,) for name in self.__dataclass_fields__})

    def __len__(self) -> int:
        return int(self.frame_index.size)

    @property
    def has_hand(self) -> npt.NDArray[np.bool_]:
        """``bool [N]``, whether a hand of the wearer is segmented."""
        return self.hand_share > 0
