"""State of a hand over time: free, pre-grasp, grasp, post-release.

Contact is decided first, over a whole stretch of frames: evidence of single frames is weak and often missing, so a
two-state Markov chain carries it over time (forward-backward), and two thresholds keep it from flickering. Contact
begins only upon evidence: a hand of which nothing is known is free, with a low score. Reaching for the object and
withdrawing from it follow from how the hand moves against the place of contact. As the chain also carries evidence into
the ways to a contact and from it, those are cut off where their own frames do not speak for contact. A small state
machine then walks through the frames, so that every sequence is one that a hand can go through:

====================  ==================================================================================
from                  to
====================  ==================================================================================
free                  pre-grasp (it sets out for an object), grasp (contact without a reach that was seen)
pre-grasp             grasp (contact), free (gives up)
grasp                 post-release (lets go and withdraws), free (drops it and stays)
post-release          free (has withdrawn), pre-grasp (sets out again), grasp (takes hold again)
====================  ==================================================================================

A hand that comes into view may be in any state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from ego_assets.labels.hands import FloatArray
from ego_assets.schema.hands import HandState

#: State -> states that the next frame may have, itself included.
TRANSITIONS: Mapping[HandState, frozenset[HandState]] = MappingProxyType(
    {
        "free": frozenset({"free", "pre-grasp", "grasp"}),
        "pre-grasp": frozenset({"pre-grasp", "grasp", "free"}),
        "grasp": frozenset({"grasp", "post-release", "free"}),
        "post-release": frozenset({"post-release", "free", "pre-grasp", "grasp"}),
    }
)

# Rate at which contact begins or ends, per second: grasps of daily life last about a second and more.
_CHANGES_PER_S = 1.0
# Contact begins where its probability rises above the first value and lasts until it falls below the second, which
# takes evidence against it: without any, the probability fades to a half.
_CONTACT_BEGINS, _CONTACT_ENDS = 0.6, 0.45
# Weights of the evidence in log-odds per frame. What moves together says most, and the more the faster the hand moves.
# A hand that stays in its place in the scene while the camera moves rests on something or holds it. Fingers and colours
# lean one way or the other and never decide alone against motion.
_TOGETHER_WEIGHT, _TOGETHER_NEUTRAL, _FULL_SPEED_PALMS = 5.0, 0.18, 0.12
_ANCHORED, _ANCHOR_MAX_SPEED_PALMS, _FULL_CAMERA_PALMS = 1.0, 0.08, 0.2
_BENT_WEIGHT, _STRAIGHT_WEIGHT, _FLEXION_NEUTRAL = 2.0, 1.0, 0.2
_DISTINCT_WEIGHT, _DISTINCT_NEUTRAL = 0.8, 0.25
_MAX_LOG_ODDS = 4.0
# Neighbouring frames repeat the same mistake, so each counts less than it would on its own; posture and colours hardly
# change while a hand rests, and many frames of them are worth little more than one.
_MOTION_INDEPENDENCE, _LOOKS_INDEPENDENCE = 0.5, 0.15
# The same for a detector's own opinion, which is very sure in a frame and wrong in the next ones too.
_OPINION_INDEPENDENCE = 0.5
# Before anything is known: a wearer's hand in view more often touches something than not. Below the value at which
# contact begins: the prior alone is no grasp.
_PRIOR = 0.55

#: A reach is at most this long, and so is a withdrawal: reaches for things at arm's length take 0.5-1 s.
REACH_S, WITHDRAWAL_S = 0.8, 0.8
# Time stamps are rounded.
_ROUNDING_S = 0.005
# Frames that together say less than this, in log-odds, leave open when contact begins.
_UNDECIDED = 0.2
# A hand that held something goes on holding it, unless a way of it says this much against: one frame in which what is
# around the fingers clearly stayed behind.
_SPEAKS_AGAINST = -0.4
# Distance in palms that a hand has to cover to be reaching or withdrawing, and how far it may fall back meanwhile.
# Within a second, landmarks and the camera's fitted motion let a resting hand drift by up to half a palm.
_MIN_TRAVEL_PALMS, _JITTER_PALMS = 0.6, 0.08
# From here on a reach has begun: farther away the hand may still be on its way to anything.
_FARTHEST_PALMS = 6.0


@dataclass(frozen=True, eq=False, kw_only=True)
class HandSignals:
    """What is known of one hand over a stretch of frames without interruption; NaN where unknown.

    Attributes:
        times_s: ``float64 [N]``, ascending.
        places_xy: ``float64 [N, 2]``, middle of the palm against the scene: the camera's motion is taken out.
        palm_px: Length of the palm in pixels, median over the stretch.
        flexion: ``float64 [N]``, mean bend of the fingers, 0-1.
        together: ``float64 [N]``, see :class:`ego_assets.labels.contact.ContactEvidence`.
        speed_palms: ``float64 [N]``, as there.
        camera_palms: ``float64 [N]``, as there.
        distinct: ``float64 [N]``, as there.
        contact_scores: ``float64 [N]``, a detector's own opinion about contact, 0-1; used instead of the rest.
    """

    times_s: FloatArray
    places_xy: FloatArray
    palm_px: float
    flexion: FloatArray
    together: FloatArray
    speed_palms: FloatArray
    camera_palms: FloatArray
    distinct: FloatArray
    contact_scores: FloatArray

    def __post_init__(self) -> None:
        count = self.times_s.size
        if self.places_xy.shape != (count, 2):
            raise ValueError(f"places_xy: expected [{count}, 2], got {list(self.places_xy.shape)}")
        for name in ("flexion", "together", "speed_palms", "camera_palms", "distinct", "contact_scores"):
            if getattr(self, name).shape != (count,):
                raise ValueError(f"{name}: expected [{count}], got {list(getattr(self, name).shape)}")


@dataclass(frozen=True, eq=False, kw_only=True)
class HandStates:
    """States of one hand over a stretch of frames.

    Attributes:
        states: One per frame.
        state_scores: ``float64 [N]``, how sure it is that a grasp has contact and a free hand has none, 0-1. NaN in
            pre-grasp and post-release, which follow from a way that the hand covers or does not: a rule without a
            probability.
        contact_scores: ``float64 [N]``, probability of contact; at most 0.5 on a way to a contact or from it.
    """

    states: tuple[HandState, ...]
    state_scores: FloatArray
    contact_scores: FloatArray


def judge_states(signals: HandSignals) -> HandStates:
    """States of a hand over one stretch of frames; every step is one of :data:`TRANSITIONS`."""
    if signals.times_s.size == 0:
        return HandStates(states=(), state_scores=np.zeros(0), contact_scores=np.zeros(0))
    log_odds = _log_odds(signals)
    probability = contact_probability(log_odds, signals.times_s)
    carried = _with_hysteresis(probability)
    contact = _without_ways(carried, log_odds, signals)
    # On a way, contact is only what evidence of other frames was carried over: no more likely than not.
    on_a_way = carried & ~contact
    probability[on_a_way] = np.minimum(probability[on_a_way], 0.5)
    reaching, withdrawing = _reaches(signals, contact), _withdrawals(signals, contact)
    states: list[HandState] = []
    for touches, reaches, withdraws in zip(contact, reaching, withdrawing, strict=True):
        states.append(_step(states[-1] if states else None, bool(touches), bool(reaches), bool(withdraws)))
    sure = np.where(contact, probability, 1 - probability)
    sure[[state in ("pre-grasp", "post-release") for state in states]] = np.nan
    return HandStates(states=tuple(states), state_scores=sure, contact_scores=probability)


def _step(before: HandState | None, touches: bool, reaches: bool, withdraws: bool) -> HandState:
    """The next state. Contact outranks motion; a withdrawal follows only upon contact."""
    if touches:
        return "grasp"
    if withdraws and before in (None, "grasp", "post-release"):
        return "post-release"
    # After a grasp there is at least one frame of letting go before the hand sets out again.
    if reaches:
        return "post-release" if before == "grasp" else "pre-grasp"
    return "free"


def is_legal(before: HandState | None, after: HandState | None) -> bool:
    """Whether a hand may be in these states in two neighbouring frames; ``None`` where it is not visible."""
    return before is None or after is None or after in TRANSITIONS[before]


def contact_probability(log_odds: FloatArray, times_s: FloatArray) -> FloatArray:
    """Probability of contact per frame from the evidence of all frames (forward-backward over two states).

    Args:
        log_odds: ``float64 [N]``, evidence of each frame; 0 where it says nothing.
        times_s: ``float64 [N]``, ascending.
    """
    count = log_odds.size
    likelihood = np.stack([np.exp(-np.maximum(log_odds, 0)), np.exp(np.minimum(log_odds, 0))], axis=1)
    stays = (1 + np.exp(-2 * _CHANGES_PER_S * np.diff(times_s))) / 2
    forward, backward = np.empty((count, 2)), np.ones((count, 2))
    forward[0] = likelihood[0] * (1 - _PRIOR, _PRIOR)
    forward[0] /= forward[0].sum()
    for step in range(1, count):
        stay = stays[step - 1]
        carried = stay * forward[step - 1] + (1 - stay) * forward[step - 1, ::-1]
        forward[step] = carried * likelihood[step]
        forward[step] /= forward[step].sum()
    for step in range(count - 2, -1, -1):
        stay, after = stays[step], backward[step + 1] * likelihood[step + 1]
        backward[step] = stay * after + (1 - stay) * after[::-1]
        backward[step] /= backward[step].sum()
    both = forward * backward
    return np.asarray(both[:, 1] / both.sum(axis=1))


def _log_odds(signals: HandSignals) -> FloatArray:
    """Evidence of contact in each frame."""
    weight = np.clip(signals.speed_palms / _FULL_SPEED_PALMS, 0.0, 1.0)
    moved = _TOGETHER_WEIGHT * weight * (signals.together - _TOGETHER_NEUTRAL)
    closed = signals.flexion - _FLEXION_NEUTRAL
    bent = np.where(closed > 0, _BENT_WEIGHT, _STRAIGHT_WEIGHT) * closed
    foreign = _DISTINCT_WEIGHT * (signals.distinct - _DISTINCT_NEUTRAL)
    still = signals.speed_palms < _ANCHOR_MAX_SPEED_PALMS
    camera = np.nan_to_num(np.clip(signals.camera_palms / _FULL_CAMERA_PALMS, 0.0, 1.0))
    anchored = np.where(still, _ANCHORED * camera, 0.0)
    motion = _MOTION_INDEPENDENCE * (np.nan_to_num(moved) + anchored)
    looks = _LOOKS_INDEPENDENCE * (np.nan_to_num(bent) + np.nan_to_num(foreign))
    told = np.clip(signals.contact_scores, 0.02, 0.98)
    opinion = _OPINION_INDEPENDENCE * np.log(told / (1 - told))
    evidence = np.where(np.isfinite(opinion), opinion, motion + looks)
    return np.asarray(np.clip(evidence, -_MAX_LOG_ODDS, _MAX_LOG_ODDS))


def _with_hysteresis(probability: FloatArray) -> npt.NDArray[np.bool_]:
    """Where there is contact; a stretch begins without, so that what only the prior says is no grasp."""
    contact = np.zeros(probability.size, np.bool_)
    touching = False
    for frame, value in enumerate(probability):
        touching = bool(value > _CONTACT_ENDS) if touching else bool(value >= _CONTACT_BEGINS)
        contact[frame] = touching
    return contact


def _without_ways(
    contact: npt.NDArray[np.bool_], log_odds: FloatArray, signals: HandSignals
) -> npt.NDArray[np.bool_]:
    """Contact without the ways to it and from it.

    Carrying evidence over time makes contact begin too early and end too late. At either end, frames whose own evidence
    does not speak for contact are given back where the hand covers a way in them.
    """
    kept = contact.copy()
    edges = np.diff(np.concatenate([[False], contact, [False]]).astype(np.int8))
    begins, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    for number, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        rows = np.arange(begin, end)
        before = np.arange(ends[number - 1] if number else 0, begin)[::-1]
        after = np.arange(end, begins[number + 1] if number + 1 < begins.size else contact.size)
        first = _first_touch(rows, before, log_odds, signals, longest_s=REACH_S, at_most=0.0)
        kept[rows[:first]] = False
        left = rows[first:][::-1]
        last = _first_touch(left, after, log_odds, signals, longest_s=WITHDRAWAL_S, at_most=_SPEAKS_AGAINST)
        kept[left[:last]] = False
    return kept


def _first_touch(
    rows: npt.NDArray[np.int64],
    outside: npt.NDArray[np.int64],
    log_odds: FloatArray,
    signals: HandSignals,
    *,
    longest_s: float,
    at_most: float,
) -> int:
    """How many frames at one end of a contact are still way and not touch.

    Args:
        rows: Frames of the contact, beginning at that end.
        outside: Frames without contact beyond that end, the nearest first: the way may go on there.
        log_odds: ``float64 [N]``, evidence of each frame of the hand.
        signals: Of the hand.
        longest_s: Duration of the longest way.
        at_most: The frames of a way together say no more than this for contact, in log-odds.
    """
    times = np.abs(signals.times_s[rows] - signals.times_s[rows[0]])
    # The touch itself stays: at least one frame.
    limit = min(int(np.searchsorted(times, longest_s, side="right")), rows.size - 1)
    together = np.cumsum(log_odds[rows[:limit]])
    if not together.size or together.min() > at_most:
        return 0
    # The last frame up to which the evidence is about as low as it gets.
    count = int(np.flatnonzero(together <= together.min() + _UNDECIDED)[-1]) + 1
    way = np.concatenate([rows[:count][::-1], outside])
    return count if _leg(signals, int(rows[count]), way, longest_s).size else 0


def _reaches(signals: HandSignals, contact: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Frames in which the hand is on its way to where the next contact begins."""
    begins = np.flatnonzero(contact & ~np.concatenate([[True], contact[:-1]]))
    reaching = np.zeros(contact.size, np.bool_)
    for begin in begins:
        before = np.flatnonzero(contact[:begin])
        first = int(before[-1]) + 1 if before.size else 0
        reaching[_leg(signals, begin, np.arange(first, begin)[::-1], REACH_S)] = True
    return reaching


def _withdrawals(signals: HandSignals, contact: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Frames in which the hand leaves the place where the last contact ended."""
    ends = np.flatnonzero(contact & ~np.concatenate([contact[1:], [True]]))
    withdrawing = np.zeros(contact.size, np.bool_)
    for end in ends:
        after = np.flatnonzero(contact[end + 1 :])
        last = int(end) + 1 + int(after[0]) if after.size else contact.size
        withdrawing[_leg(signals, end, np.arange(end + 1, last), WITHDRAWAL_S)] = True
    return withdrawing


def _leg(
    signals: HandSignals, touch: int, frames: npt.NDArray[np.int64], longest_s: float
) -> npt.NDArray[np.int64]:
    """The frames next to a touch over which the distance to it grows steadily; none where it hardly grows.

    Args:
        signals: Of the hand.
        touch: Frame of contact.
        frames: Frames without contact, from the touch on.
        longest_s: How far from the touch they may be.
    """
    reached, farthest = 0, 0.0
    for count, frame in enumerate(frames, start=1):
        if abs(signals.times_s[frame] - signals.times_s[touch]) > longest_s + _ROUNDING_S:
            break
        distance = float(np.linalg.norm(signals.places_xy[frame] - signals.places_xy[touch]))
        distance /= max(signals.palm_px, 1.0)
        if math.isnan(distance) or distance > _FARTHEST_PALMS or distance < farthest - _JITTER_PALMS:
            break
        # Frames at the end in which it stays where it is belong to rest, not to the leg.
        if distance > farthest + _JITTER_PALMS:
            reached, farthest = count, distance
    return frames[: reached if farthest >= _MIN_TRAVEL_PALMS else 0]
