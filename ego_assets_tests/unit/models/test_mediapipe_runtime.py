"""What the backends that run MediaPipe graphs share."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from resources.models import masks
from resources.models.mediapipe_runtime import without_start_messages
from resources.models.registry import POSE_DETECTION, POSE_LANDMARKS_FULL, SELFIE_SEGMENTATION
from resources.models.weights import joint_digest

CARDS = (SELFIE_SEGMENTATION, POSE_DETECTION, POSE_LANDMARKS_FULL)


@pytest.mark.parametrize("changed", range(len(CARDS)))
def test_the_joint_digest_changes_with_every_file(changed: int) -> None:
    digests = [card.sha256 for card in CARDS]
    others = ["0" * 64 if place == changed else digest for place, digest in enumerate(digests)]
    assert len(joint_digest(digests)) == 64 and joint_digest(others) != joint_digest(digests)


def test_another_pose_network_changes_what_is_recorded_of_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mediapipe", reason="people are found with mediapipe")
    tracker = masks.RegionsFlowTracker()
    before = tracker.info
    assert all(card.name in before.model for card in CARDS)
    (file,) = POSE_LANDMARKS_FULL.files
    other = replace(POSE_LANDMARKS_FULL, files=(replace(file, sha256="0" * 64),))
    monkeypatch.setattr(masks, "_PERSON_WEIGHTS", (SELFIE_SEGMENTATION, POSE_DETECTION, other))
    assert tracker.info.weights_sha256 != before.weights_sha256
    assert masks.RegionsFlowTracker(people=False).info.weights_sha256 == ""


def test_start_messages_are_kept_out_of_standard_error_and_others_are_not(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with without_start_messages():
        os.write(2, b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\nsomething broke\n")
    assert capfd.readouterr().err == "something broke\n"
