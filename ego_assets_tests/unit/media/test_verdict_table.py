"""The table of verdicts: one form for all layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ego_assets.media.verdict_table import write_verdict_table
from ego_assets.schema.documents import json_document
from ego_assets.schema.gates import GateOutcome

FRAMES = np.array([0, 6], np.int64)
TIMES = np.array([0, 200_000_000], np.int64)


def test_measurements_and_words_side_by_side(tmp_path: Path) -> None:
    write_verdict_table(
        tmp_path / "v.parquet",
        frame_index=FRAMES,
        timestamps_ns=TIMES,
        measurements={"share": np.array([0.5, np.nan]), "similarity": [None, 0.25], "status": ["a", "b"]},
        verdicts={"area": [GateOutcome.PASSED, GateOutcome.NOT_EVALUATED]},
    )
    assert pq.read_table(tmp_path / "v.parquet").to_pydict() == {
        "frame_index": [0, 6],
        "timestamp_ns": [0, 200_000_000],
        "share": [0.5, None],
        "similarity": [None, 0.25],
        "status": ["a", "b"],
        "area": ["passed", "not_evaluated"],
    }


@pytest.mark.parametrize(
    ("measurements", "verdicts", "message"),
    [
        ({"share": np.zeros(3)}, {}, "share: expected 2 rows, got 3"),
        ({}, {"area": [GateOutcome.PASSED]}, "area: expected 2 rows, got 1"),
        ({"area": np.zeros(2)}, {"area": [GateOutcome.PASSED] * 2}, r"got \['area'\]"),
        ({}, {"frame_index": [GateOutcome.PASSED] * 2}, r"got \['frame_index'\]"),
    ],
)
def test_columns_that_do_not_fit_are_refused(
    tmp_path: Path, measurements: dict[str, object], verdicts: dict[str, list[GateOutcome]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_verdict_table(
            tmp_path / "v.parquet",
            frame_index=FRAMES,
            timestamps_ns=TIMES,
            measurements=measurements,  # type: ignore[arg-type]
            verdicts=verdicts,
        )
    assert not (tmp_path / "v.parquet").exists()


def test_documents_hold_only_numbers_that_every_reader_accepts() -> None:
    assert json_document({"b": 1, "a": "ü"}) == '{\n "a": "ü",\n "b": 1\n}\n'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_document({"a": float("nan")})
