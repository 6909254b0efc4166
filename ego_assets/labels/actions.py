"""Activities by rules over hands and ego-motion, and segments of them.

Three questions are asked of each second: does the view turn, does the wearer walk, are the hands busy? Each is answered
by a probability, and their products are the probabilities of five activities. A question without evidence is answered
by what is usual, so that no activity gets the better half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ego_assets.labels.action_features import TURN_SPEED, StepFeatures
from ego_assets.schema.actions import ActionSegment
from ego_assets.schema.arrays import read_only
from ego_assets.schema.errors import ConfigurationError
from ego_assets.schema.timeline import NANOSECONDS

MANIPULATING, CARRYING, WALKING, LOOKING_AROUND, IDLE = (
    "manipulating",
    "carrying",
    "walking",
    "looking around",
    "idle",
)
#: Activities that the rules know, in the order of their probabilities.
ACTION_LABELS = (MANIPULATING, CARRYING, WALKING, LOOKING_AROUND, IDLE)
#: Those that cannot be told without hands.
HAND_LABELS = (MANIPULATING, CARRYING)

#: Version of ``actions.json``.
ACTIONS_FORMAT = 1
#: Steps per second of the layer (collection guide).
RATE_HZ = 1

#: Least probability of an activity when segments are made, and the cost of changing it, as a factor. One second that
#: looks different gains at most 1 / _FLOOR = 50, and costs two changes, 30 x 30: an interruption of an activity lasts
#: two seconds or more, or is not told.
_FLOOR = 0.02
_CHANGE_FACTOR = 30.0


@dataclass(frozen=True, kw_only=True)
class MotionRules:
    """From where to where evidence grows from none to full: (none, full).

    The values are this project's own choice, made on synthetic clips and on what the quantities mean, not fitted to
    footage.

    Attributes:
        turn_speed: Shares of the longer side per second.
        bob_share: Share of the vertical motion in one step rhythm. Without rhythm the peak and what the window spreads
            it over hold about a quarter.
        bob_speed: Shares of the longer side per second. Heads go up and down by 2-5 cm in each step, which is 0.03-0.08
            at 2 m; stabilised cameras leave a fifth of it.
        residual_rate: Walking changes the view by more than its drift all the time.
        seen_motion: Share of frames in which motion could be measured.
        visible_hands: Share of frames. Hands that are never seen say nothing: they may rest beside the picture, or work
            where no detector finds them.
        active_hands: Share of frames. Detectors lose hands on some frames, so half of them is enough.
        holding_hands: The same.
        working_speed: Shares of the longer side per second. A hand that carries keeps its place in the picture; one
            that stirs or wipes does not, and its rhythm is not that of steps.
        certainty: How sure a question can be answered at most.
        usual_turning: Probability that the view turns, where nothing is seen to measure by.
        usual_walking: The same for walking.
        usual_work: Probability that hands which nobody sees are busy.
    """

    turn_speed: tuple[float, float] = TURN_SPEED
    bob_share: tuple[float, float] = (0.30, 0.60)
    bob_speed: tuple[float, float] = (0.005, 0.020)
    residual_rate: tuple[float, float] = (1.5, 3.0)
    seen_motion: tuple[float, float] = (0.0, 0.5)
    visible_hands: tuple[float, float] = (0.0, 0.25)
    active_hands: tuple[float, float] = (0.10, 0.50)
    holding_hands: tuple[float, float] = (0.20, 0.60)
    working_speed: tuple[float, float] = (0.20, 0.50)
    certainty: float = 0.95
    usual_turning: float = 0.30
    usual_walking: float = 0.50
    usual_work: float = 0.45

    def __post_init__(self) -> None:
        for name in (
            "turn_speed",
            "bob_share",
            "bob_speed",
            "residual_rate",
            "seen_motion",
            "visible_hands",
            "active_hands",
            "holding_hands",
            "working_speed",
        ):
            none, full = getattr(self, name)
            if not 0 <= none < full:
                raise ValueError(f"{name}: expected 0 or more, rising, got {none} and {full}")
        if not 0.5 < self.certainty < 1:
            raise ValueError(f"certainty: expected between 0.5 and 1, got {self.certainty}")
        for name in ("usual_turning", "usual_walking", "usual_work"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name}: expected between 0 and 1, got {getattr(self, name)}")


def rule_probabilities(
    features: StepFeatures, *, rules: MotionRules | None = None
) -> npt.NDArray[np.float32]:
    """``float32 [T, 5]``, the probability of each of :data:`ACTION_LABELS` at each step; rows sum to 1.

    Where no hand is seen, idle and manipulating have about the same probability, and neither a good one.

    Args:
        features: The evidence.
        rules: Thresholds.
    """
    rules = rules or MotionRules()
    has_motion = _ramp(features.seen_motion, rules.seen_motion)
    has_hands = _ramp(features.visible_hands, rules.visible_hands)

    def certain(evidence: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return (1 - rules.certainty) + evidence * (2 * rules.certainty - 1)

    def answer(
        evidence: npt.NDArray[np.float64], *, known: npt.NDArray[np.float64], usual: float
    ) -> npt.NDArray[np.float64]:
        return known * certain(evidence) + (1 - known) * usual

    turning = _ramp(features.turn_speed, rules.turn_speed)
    rhythm = _ramp(features.bob_share, rules.bob_share) * _ramp(features.bob_speed, rules.bob_speed)
    # A hand that works moves the camera too, in a rhythm of its own.
    working = _ramp(features.hand_speed, rules.working_speed)
    stepping = rhythm * _ramp(features.residual_rate, rules.residual_rate) * (1 - working)
    busy = answer(_ramp(features.active_hands, rules.active_hands), known=has_hands, usual=rules.usual_work)
    # What is carried is mostly seen.
    holding = certain(_ramp(features.holding_hands, rules.holding_hands))
    # Who turns with something in the hand is moving it, whatever else there is to see.
    looks = answer(turning, known=has_motion, usual=rules.usual_turning) * (1 - holding)
    walks = answer(stepping, known=has_motion, usual=rules.usual_walking)
    rest = 1 - looks
    columns = {
        MANIPULATING: rest * (1 - walks) * busy,
        CARRYING: rest * walks * holding,
        WALKING: rest * walks * (1 - holding),
        LOOKING_AROUND: looks,
        IDLE: rest * (1 - walks) * (1 - busy),
    }
    table = np.stack([columns[label] for label in ACTION_LABELS], axis=1)
    return np.asarray(table / table.sum(axis=1, keepdims=True), dtype=np.float32)


def _ramp(values: npt.NDArray[np.float64], limits: tuple[float, float]) -> npt.NDArray[np.float64]:
    none, full = limits
    return np.clip((values - none) / (full - none), 0.0, 1.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class ActionSteps:
    """The steps of a clip: a second each, the last one between half a second and one and a half.

    Attributes:
        edges_ns: ``int64 [T + 1]``, where the steps begin, and where the last one ends.
    """

    edges_ns: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.edges_ns.ndim != 1 or self.edges_ns.size < 2 or np.any(np.diff(self.edges_ns) <= 0):
            raise ValueError(f"edges_ns: expected two ascending times or more, got {list(self.edges_ns[:5])}")
        object.__setattr__(self, "edges_ns", read_only(self.edges_ns))

    @classmethod
    def of(cls, timestamps_ns: npt.NDArray[np.int64]) -> ActionSteps:
        """The steps of a video with these frames; the last frame lasts as long as most.

        Raises:
            ValueError: There is no frame.
        """
        if not timestamps_ns.size:
            raise ValueError("timestamps_ns: expected one frame or more, got none")
        gaps = np.diff(timestamps_ns)
        gaps = gaps[gaps > 0]
        last_ns = int(np.median(gaps)) if gaps.size else NANOSECONDS // 30
        start, end = int(timestamps_ns[0]), int(timestamps_ns[-1]) + last_ns
        count = max(1, round((end - start) * RATE_HZ / NANOSECONDS))
        edges = start + np.arange(count + 1, dtype=np.int64) * (NANOSECONDS // RATE_HZ)
        edges[-1] = end
        return cls(edges_ns=edges)

    @property
    def times_ns(self) -> npt.NDArray[np.int64]:
        """``int64 [T]``, centres of the steps."""
        return np.asarray((self.edges_ns[:-1] + self.edges_ns[1:]) // 2, dtype=np.int64)

    @property
    def start_ns(self) -> int:
        """Where the clip begins."""
        return int(self.edges_ns[0])

    @property
    def end_ns(self) -> int:
        """Where the clip ends."""
        return int(self.edges_ns[-1])


def chosen_labels(wanted: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The activities to report, in the backend's order; all of them where none is named.

    Raises:
        ConfigurationError: An activity is not known to the backend.
    """
    unknown = [name for name in dict.fromkeys(wanted) if name not in known]
    if unknown:
        raise ConfigurationError(
            f"EGO_ACTION_LABELS names {', '.join(map(repr, unknown))}, which the actions backend does not know. "
            f"It knows: {', '.join(known)}."
        )
    return tuple(label for label in known if not wanted or label in wanted)


def action_segments(
    probabilities: npt.NDArray[np.float32], *, steps: ActionSteps, labels: Sequence[str]
) -> list[ActionSegment]:
    """The most likely sequence of activities, where every change has its price (Viterbi); covers the clip.

    Args:
        probabilities: ``float32 [T, L]``. Rows may sum to less than 1, where activities were left out.
        steps: The T steps.
        labels: The L activities.

    Returns:
        Segments in order, each beginning where the one before ends; a score is the mean probability.

    Raises:
        ValueError: The table does not fit the steps and labels.
    """
    expected = (steps.times_ns.size, len(labels))
    if probabilities.shape != expected or not labels:
        raise ValueError(f"probabilities: expected {list(expected)}, got {list(probabilities.shape)}")
    path = _likeliest_path(np.log(np.maximum(probabilities.astype(np.float64), _FLOOR)))
    starts = np.flatnonzero(np.concatenate([[True], path[1:] != path[:-1]]))
    ends = np.append(starts[1:], path.size)
    segments = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        label = int(path[start])
        score = float(probabilities[start:end, label].mean(dtype=np.float64))
        segments.append(
            ActionSegment(
                start_ns=int(steps.edges_ns[start]),
                end_ns=int(steps.edges_ns[end]),
                label=labels[label],
                score=min(max(score, 0.0), 1.0),
            )
        )
    return segments


def _likeliest_path(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """``int64 [T]``, the states with the highest sum of ``scores [T, L]`` less the price of changes."""
    count, states = scores.shape
    price = np.log(_CHANGE_FACTOR) * (1 - np.eye(states))
    best = scores[0].copy()
    before = np.zeros((count, states), np.int64)
    for step in range(1, count):
        ways = best[:, None] - price
        before[step] = ways.argmax(axis=0)
        best = ways.max(axis=0) + scores[step]
    path = np.empty(count, np.int64)
    path[-1] = best.argmax()
    for step in range(count - 1, 0, -1):
        path[step - 1] = before[step, path[step]]
    return path


def actions_document(
    probabilities: npt.NDArray[np.float32],
    segments: Sequence[ActionSegment],
    *,
    steps: ActionSteps,
    labels: Sequence[str],
    known_labels: int,
    has_hands: bool,
) -> dict[str, Any]:
    """``actions.json``.

    Args:
        probabilities: ``float32 [T, L]``.
        segments: The segments.
        steps: The T steps.
        labels: The L activities.
        known_labels: How many activities the backend tells apart, those that were not asked for included.
        has_hands: Whether hands were there to judge by.
    """
    return {
        "format": ACTIONS_FORMAT,
        "labels": list(labels),
        "known_labels": known_labels,
        "rate_hz": RATE_HZ,
        "hands": has_hands,
        "steps": [
            {
                "time_ns": time_ns,
                **{label: round(value, 4) for label, value in zip(labels, row, strict=True)},
            }
            for time_ns, row in zip(steps.times_ns.tolist(), probabilities.tolist(), strict=True)
        ],
        "segments": [
            {
                "start_ns": segment.start_ns,
                "end_ns": segment.end_ns,
                "start_s": segment.start_ns / NANOSECONDS,
                "end_s": segment.end_ns / NANOSECONDS,
                "label": segment.label,
                "score": round(segment.score, 4),
            }
            for segment in segments
        ],
    }
