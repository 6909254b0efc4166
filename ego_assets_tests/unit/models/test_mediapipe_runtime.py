"""What the backends that run MediaPipe graphs share."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from resources.models import masks
from resources.models.mediapipe_runtime import joint_digest, without_start_messages
from resources.models.registry import POSE_DETECTION, POSE_LANDMARKS_FULL, SELFIE_SEGMENTATION

CARDS = (SELFIE_SEGMENTATION, POSE_DETECTION, POSE_LANDMARKS_FULL)


@pytest.mark.parametrize("changed", range(len(CARDS)))
def test_the_joint_digest_changes_with_every_file(changed: int) -> None:
    others = list(CARDS)
    others[changed] = replace(CARDS[changed], sha256="0" * 64)
    assert len(joint_digest(CARDS)) == 64 and joint_digest(others) != joint_digest(CARDS)


def test_another_pose_network_changes_what_is_recorded_of_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mediapipe", reason="people are found with mediapipe")
    tracker = masks.RegionsFlowTracker()
    before = tracker.info
    assert all(card.name in before.model for card in CARDS)
    other = replace(POSE_LANDMARKS_FULL, sha256="0" * 64)
    monkeypatch.setattr(masks, "_PERSON_WEIGHTS", (SELFIE_SEGMENTATION, POSE_DETECTION, other))
    assert tracker.info.weights_sha256 != before.weights_sha256
    assert masks.RegionsFlowTracker(people=False).info.weights_sha256 == ""


def test_start_messages_are_kept_out_of_standard_error_and_others_are_not(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with without_start_messages():
        os.write(2, b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\nsomething broke\n")
    assert capfd.readouterr().err == "something broke\n"
