"""``verdicts.parquet``: what was found frame by frame (or caption by caption), in one form for all layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ego_assets.schema.gates import GateOutcome

#: Name of the file in every layer that judges frames.
VERDICTS_FILE = "verdicts.parquet"


def write_verdict_table(
    path: Path,
    *,
    frame_index: npt.NDArray[np.int64],
    timestamps_ns: npt.NDArray[np.int64],
    measurements: Mapping[str, npt.NDArray[Any] | Sequence[Any]],
    verdicts: Mapping[str, Sequence[GateOutcome]],
) -> None:
    """Write one row per frame: what was measured, then the verdict of every criterion as a word.

    Args:
        path: File to write.
        frame_index: ``int64 [N]``.
        timestamps_ns: ``int64 [N]``, presentation times in nanoseconds.
        measurements: Column to ``N`` values; what is not finite, or ``None``, becomes null.
        verdicts: Criterion to ``N`` outcomes.

    Raises:
        ValueError: A column has another number of rows, or a criterion is named as a measurement is.
    """
    columns: dict[str, pa.Array] = {
        "frame_index": pa.array(frame_index, pa.int64()),
        "timestamp_ns": pa.array(timestamps_ns, pa.int64()),
    }
    twice = sorted(set(verdicts) & {*measurements, *columns})
    if twice:
        raise ValueError(f"verdicts: expected names that no measurement has, got {twice}")
    for name, values in measurements.items():
        columns[name] = _column(values)
    for name, outcomes in verdicts.items():
        columns[name] = pa.array([outcome.value for outcome in outcomes], pa.string())
    for name, column in columns.items():
        if len(column) != frame_index.size:
            raise ValueError(f"{name}: expected {frame_index.size} rows, got {len(column)}")
    pq.write_table(pa.table(columns), path)


def _column(values: npt.NDArray[Any] | Sequence[Any]) -> pa.Array:
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        return pa.array(values, mask=~np.isfinite(values))
    return pa.array(values)
