"""Activities by rules over hands and ego-motion: no weights, nothing to decode."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from ego_assets.labels.action_features import step_features
from ego_assets.labels.actions import ACTION_LABELS, MotionRules, rule_probabilities
from ego_assets.schema.detections import BackendInfo
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.hands import HandObjectTracks
from ego_assets.schema.motion import CameraMotion
from resources.models.backends import BACKENDS


class MotionRulesRecognizer:
    """Tells manipulating, carrying, walking, looking around and idle by how the camera and the hands move.

    Args:
        certainty: How sure each of its questions can be answered at most, between 0.5 and 1.

    Raises:
        ValueError: ``certainty`` is out of range.
    """

    def __init__(self, *, certainty: float = MotionRules.certainty) -> None:
        BACKENDS["actions"]["motion_rules"].check_arguments(locals())
        self._rules = MotionRules(certainty=certainty)

    @property
    def info(self) -> BackendInfo:
        """What runs."""
        return BackendInfo(task="actions", backend="motion_rules", model="hands and ego-motion, rules 2")

    @property
    def labels(self) -> tuple[str, ...]:
        """The activities it knows, in the order of the scores."""
        return ACTION_LABELS

    @property
    def frames_per_second(self) -> float | None:
        """It wants no frames."""
        return None

    def score(
        self,
        times_ns: npt.NDArray[np.int64],
        *,
        frames: Iterable[ClipFrame],
        hands: HandObjectTracks | None,
        motion: CameraMotion,
        timestamps_ns: npt.NDArray[np.int64],
        resolution: tuple[int, int],
    ) -> npt.NDArray[np.float32]:
        """``float32 [T, 5]``, the probability of every label at every time; rows sum to 1.

        Where no hand is seen, idle and manipulating cannot be told apart, and neither gets the better half.

        Args:
            times_ns: ``int64 [T]``, centres of the steps, ascending.
            frames: Not looked at.
            hands: The wearer's hands, in pixels of ``resolution``.
            motion: How the picture moved, in the same pixels.
            timestamps_ns: ``int64 [N]``, presentation times of its frames.
            resolution: Width and height in pixels.

        Raises:
            ValueError: Times or resolutions do not fit together.
        """
        features = step_features(
            times_ns, motion=motion, timestamps_ns=timestamps_ns, hands=hands, resolution=resolution
        )
        return rule_probabilities(features, rules=self._rules)
