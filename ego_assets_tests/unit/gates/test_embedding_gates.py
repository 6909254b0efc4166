from __future__ import annotations

import numpy as np
import pytest

from ego_assets.gates.embeddings import GATES, judge_embedding
from ego_assets.schema.gates import GateOutcome

UNIT = np.full(768, 1 / np.sqrt(768), np.float32)


def test_a_unit_vector_of_five_frames_passes() -> None:
    verdicts = judge_embedding(UNIT, used_frames=5, clip_frames=300)
    assert tuple(verdict.spec for verdict in verdicts) == GATES
    assert {verdict.outcome for verdict in verdicts} == {GateOutcome.PASSED}
    assert verdicts[1].value == 5


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (np.where(np.arange(768) == 3, np.nan, UNIT), "767 finite"),
        (np.where(np.arange(768) == 3, np.inf, UNIT), "767 finite"),
        (UNIT[:512], "shape [512]"),
        (UNIT * 1.01, "length 1.01"),
        (UNIT * 0, "length 0"),
    ],
)
def test_what_cannot_be_compared_fails_and_blocks(vector: np.ndarray, message: str) -> None:
    verdict, _ = judge_embedding(vector, used_frames=5, clip_frames=300)
    assert verdict.outcome is GateOutcome.FAILED and verdict.blocks
    assert message in verdict.message


def test_rounding_is_no_failure() -> None:
    verdict, _ = judge_embedding(UNIT * np.float32(1 + 1e-5), used_frames=5, clip_frames=300)
    assert verdict.outcome is GateOutcome.PASSED and verdict.value == pytest.approx(1e-5, rel=0.1)


def test_a_short_clip_and_lost_frames_warn_with_the_reason() -> None:
    short = judge_embedding(UNIT, used_frames=2, clip_frames=2)[1]
    lost = judge_embedding(UNIT, used_frames=4, clip_frames=300)[1]
    assert short.outcome is lost.outcome is GateOutcome.WARNED
    assert "has only 2" in short.message and "could not be decoded" in lost.message
    assert not lost.blocks


def test_without_any_frame_there_is_no_vector() -> None:
    verdict, frames = judge_embedding(np.zeros(768, np.float32), used_frames=0, clip_frames=30)
    assert verdict.blocks and "No frame could be decoded" in verdict.message
    assert frames.outcome is GateOutcome.WARNED
