"""The motion of the camera as a Parquet table, so that every layer can use what the privacy pass has measured."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ego_assets.schema.errors import ArtifactCorrupted
from ego_assets.schema.motion import CameraMotion

#: Name of the table among the files of ``blurred_video``.
MOTION_FILE = "camera_motion.parquet"

MOTION_SCHEMA = pa.schema(
    [
        pa.field("frame_index", pa.int64(), nullable=False),
        pa.field("timestamp_ns", pa.int64(), nullable=False),
        pa.field("x_px", pa.float64(), nullable=False),
        pa.field("y_px", pa.float64(), nullable=False),
        pa.field("change", pa.float32(), nullable=False),
        pa.field("is_cut", pa.bool_(), nullable=False),
        pa.field("unseen", pa.bool_(), nullable=False),
    ]
)

_RESOLUTION_KEY = b"resolution"


def motion_table(
    motion: CameraMotion,
    timestamps_ns: npt.NDArray[np.int64],
    *,
    measured_on: tuple[int, int],
    resolution: tuple[int, int],
) -> pa.Table:
    """One row per frame: where a point of the still scene lies relative to the first frame, and how much changed.

    Args:
        motion: What was measured.
        timestamps_ns: ``int64 [N]``, presentation times of the frames.
        measured_on: Width and height in pixels of the upright pictures that ``motion`` refers to.
        resolution: Width and height in pixels that the table refers to, stated in its metadata: those of the proxy.

    Raises:
        ValueError: There are not as many times as frames, or a size below 1 pixel.
    """
    _expect_sizes(measured_on=measured_on, resolution=resolution)
    count = motion.frame_count
    if timestamps_ns.shape != (count,):
        raise ValueError(f"timestamps_ns: expected [{count}], got {list(timestamps_ns.shape)}")
    positions = _scaled(motion.positions_xy, measured_on, resolution)
    columns = (
        np.arange(count, dtype=np.int64),
        timestamps_ns,
        positions[:, 0],
        positions[:, 1],
        motion.change,
        motion.is_cut,
        motion.unseen,
    )
    arrays = [pa.array(column, field.type) for column, field in zip(columns, MOTION_SCHEMA, strict=True)]
    stated = MOTION_SCHEMA.with_metadata({_RESOLUTION_KEY: json.dumps(resolution).encode()})
    return pa.Table.from_arrays(arrays, schema=stated)


def read_motion(
    data: bytes, *, resolution: tuple[int, int] | None = None
) -> tuple[CameraMotion, npt.NDArray[np.int64]]:
    """The camera's motion and the frames' presentation times, ``int64 [N]``, from a stored table.

    Args:
        data: The Parquet file.
        resolution: Width and height in pixels that the motion should refer to; by default what the table states.

    Raises:
        ArtifactCorrupted: The file is not such a table.
        ValueError: ``resolution`` is below 1 pixel.
    """
    try:
        table = pq.read_table(io.BytesIO(data))
        width, height = json.loads(table.schema.metadata[_RESOLUTION_KEY])
        column = {name: table[name].to_numpy() for name in MOTION_SCHEMA.names}
        motion = CameraMotion(
            positions_xy=np.stack([column["x_px"], column["y_px"]], axis=1).astype(np.float64),
            change=column["change"].astype(np.float32),
            is_cut=column["is_cut"].astype(np.bool_),
            unseen=column["unseen"].astype(np.bool_),
        )
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise ArtifactCorrupted(
            f"{MOTION_FILE} cannot be read ({error}): make blurred_video again."
        ) from error
    if resolution is not None:
        _expect_sizes(resolution=resolution)
        motion = replace(motion, positions_xy=_scaled(motion.positions_xy, (width, height), resolution))
    return motion, column["timestamp_ns"].astype(np.int64)


def _scaled(
    positions_xy: npt.NDArray[np.float64], before: tuple[int, int], after: tuple[int, int]
) -> npt.NDArray[np.float64]:
    return np.asarray(positions_xy * np.array([after[0] / before[0], after[1] / before[1]]))


def _expect_sizes(**sizes: tuple[int, int]) -> None:
    for name, (width, height) in sizes.items():
        if width < 1 or height < 1:
            raise ValueError(f"{name}: expected 1 pixel or more, got {width}x{height}")
