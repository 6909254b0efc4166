"""The hands of one time step as numbers, for formats that want arrays of one shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ego_assets.schema.hands import HAND_SIDES, HAND_STATES, LANDMARK_COUNT, HandSide

#: State of a hand that is not visible, or of a step that has no record.
NOT_VISIBLE = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class HandValues:
    """One hand at one step; boxes and landmarks in pixels of the record's resolution, NaN where there is none.

    Attributes:
        state: Position in :data:`~ego_assets.schema.hands.HAND_STATES`, or :data:`NOT_VISIBLE`.
        box_xyxy: ``float32 [4]``.
        contact_box_xyxy: ``float32 [4]``, the object in contact.
        landmarks_xy: ``float32 [21, 2]``.
        score: 0-1, or NaN.
    """

    state: int
    box_xyxy: npt.NDArray[np.float32]
    contact_box_xyxy: npt.NDArray[np.float32]
    landmarks_xy: npt.NDArray[np.float32]
    score: float


def hand_values(record: Mapping[str, Any] | None) -> dict[HandSide, HandValues]:
    """Both hands of a record of the hand-object layer; ``None`` for a step that has none."""
    return {side: _hand(record or {}, side) for side in HAND_SIDES}


def _hand(record: Mapping[str, Any], side: HandSide) -> HandValues:
    def numbers(name: str, *shape: int) -> npt.NDArray[np.float32]:
        value = record.get(f"{side}_{name}")
        return (
            np.full(shape, np.nan, np.float32)
            if value is None
            else np.array(value, np.float32).reshape(shape)
        )

    state = record.get(f"{side}_hand_state")
    score = record.get(f"{side}_hand_score")
    return HandValues(
        state=NOT_VISIBLE if state is None else HAND_STATES.index(state),
        box_xyxy=numbers("hand_bbox", 4),
        contact_box_xyxy=numbers("contact_object_bbox", 4),
        landmarks_xy=numbers("landmarks", LANDMARK_COUNT, 2),
        score=float("nan") if score is None else float(score),
    )
