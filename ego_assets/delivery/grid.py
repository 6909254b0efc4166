"""The time steps of a delivered clip: the frames that its layers have in common."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Mapping
from functools import reduce

import numpy as np
import numpy.typing as npt

from ego_assets.delivery.metadata import TimeGrid
from ego_assets.media.frame_archive import FrameArchiveIndex

#: Layer whose pictures every step has.
PICTURES = "frames"
#: Index of every layer that has an entry per frame.
_INDEXES: Mapping[str, str] = {
    PICTURES: "frames.parquet",
    "depth_maps": "depth.parquet",
    "masks": "masks.parquet",
    "hand_object": "hand_object.parquet",
}


def read_grids(layers: Collection[str], read: Callable[[str, str], bytes]) -> dict[str, TimeGrid]:
    """The frames of those layers that have an entry per frame, by name, at the rate at which they come on average.

    Args:
        layers: Layers that the clip has.
        read: Content of a layer's file.
    """
    grids = {}
    for name, file in _INDEXES.items():
        if name in layers:
            index = FrameArchiveIndex.read(io.BytesIO(read(name, file)))
            grids[name] = TimeGrid(
                name=name,
                rate_hz=_rate_hz(index.timestamps_ns),
                frame_index=index.frame_indices,
                timestamps_ns=index.timestamps_ns,
            )
    return grids


def common_grid(grids: Mapping[str, TimeGrid]) -> TimeGrid:
    """The frames that all layers of a clip have; its pictures' frames where they have none in common.

    Args:
        grids: Grids of the layers that have an entry per frame, by name; those of the pictures among them.
    """
    pictures = grids.get(PICTURES)
    if pictures is None:
        empty = np.zeros(0, np.int64)
        return TimeGrid(name="no pictures", rate_hz=0.0, frame_index=empty, timestamps_ns=empty)
    shared = reduce(np.intersect1d, (grid.frame_index for grid in grids.values()))
    if not shared.size:
        return TimeGrid(
            name=f"{PICTURES} (nothing in common with {', '.join(name for name in grids if name != PICTURES)})",
            rate_hz=pictures.rate_hz,
            frame_index=pictures.frame_index,
            timestamps_ns=pictures.timestamps_ns,
        )
    times_ns = pictures.timestamps_ns[np.searchsorted(pictures.frame_index, shared)]
    return TimeGrid(
        name=", ".join(grids),
        rate_hz=_rate_hz(times_ns),
        frame_index=shared.astype(np.int64),
        timestamps_ns=times_ns,
    )


def _rate_hz(timestamps_ns: npt.NDArray[np.int64]) -> float:
    """Steps a second; 0 for fewer than two steps."""
    if timestamps_ns.size < 2:
        return 0.0
    return round(float((timestamps_ns.size - 1) * 1e9 / (timestamps_ns[-1] - timestamps_ns[0])), 3)
