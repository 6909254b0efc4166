"""What the camera's motion and the hands say about each second of a clip, in units that no resolution changes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from ego_assets.labels.hands import MAX_GAP_S
from ego_assets.schema.arrays import hold_arrays
from ego_assets.schema.hands import HandObjectTracks, HandState
from ego_assets.schema.motion import CameraMotion
from ego_assets.schema.timeline import NANOSECONDS

#: Rhythm in which the view of a walking person goes up and down, in Hz: 1.7 for slow, 2.0 for normal and 2.3 for fast
#: walking (Bachmann and Ammann, "Vibrations in Structures", 1987), and slower in small rooms.
STEP_FREQUENCY_HZ = (1.4, 2.5)
#: Window in which a rhythm is looked for: six to ten steps, so that it stands out from single nods.
BOB_WINDOW_S = 4.0
#: Less than this holds no two steps.
MIN_BOB_WINDOW_S = 1.5
#: Window of everything else: a second and its surroundings.
STEP_WINDOW_S = 2.0

#: Rate at which the motion is sampled: four times the highest step frequency, and more.
_SAMPLES_PER_S = 20
#: Frequencies that are compared; what is slower is turning.
_FREQUENCIES_HZ = np.arange(9, 51) / 10
#: What the window of the spectrum spreads one frequency over, to each side.
_PEAK_WIDTH_HZ = 0.45

#: Speeds in the picture are in shares of its longer side per second. A head at rest moves the picture by a few
#: hundredths: below this the camera counts as still.
STILL_SPEED = 0.06
#: From where to where a drift of the view grows from how a head moves over a task to a turn to something else. With a
#: field of view of 90 degrees 0.15 is 17 and 0.4 is 46 degrees a second.
TURN_SPEED = (0.15, 0.40)
#: A hand moves from here on. One that rests on a table or in the lap jitters by less in the boxes of detectors.
MOVING_HAND_SPEED = 0.15

#: States in which a hand deals with an object.
_CONTACT_STATES: frozenset[HandState] = frozenset({"pre-grasp", "grasp", "post-release"})


@dataclass(frozen=True, eq=False, kw_only=True)
class StepFeatures:
    """Evidence per step, each ``float64 [T]``.

    Attributes:
        turn_speed: How fast the view drifts, in shares of the picture's longer side per second.
        bob_share: How much of the vertical motion above 0.9 Hz lies around one step frequency, 0-1; 0 where no
            frequency stands out.
        bob_speed: Amplitude of that vertical motion, in shares of the longer side per second.
        residual_rate: What the drift does not explain (coming nearer, passing by, moving things): the sum over a
            second of the square roots of ``CameraMotion.change``.
        seen_motion: Share of the frames whose picture shows enough to measure motion by, 0-1.
        visible_hands: Share of the looked-at frames with a hand of the wearer, 0-1.
        active_hands: Share of the looked-at frames on which a hand is at an object or moves, 0-1.
        holding_hands: Share of the looked-at frames on which a hand grasps something, 0-1.
        hand_speed: Mean speed of the hands that are at an object, in shares of the longer side per second.
    """

    turn_speed: npt.NDArray[np.float64]
    bob_share: npt.NDArray[np.float64]
    bob_speed: npt.NDArray[np.float64]
    residual_rate: npt.NDArray[np.float64]
    seen_motion: npt.NDArray[np.float64]
    visible_hands: npt.NDArray[np.float64]
    active_hands: npt.NDArray[np.float64]
    holding_hands: npt.NDArray[np.float64]
    hand_speed: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        count = self.turn_speed.size
        hold_arrays(self, **{field.name: (count,) for field in fields(self)})


def step_features(
    times_ns: npt.NDArray[np.int64],
    *,
    motion: CameraMotion,
    timestamps_ns: npt.NDArray[np.int64],
    hands: HandObjectTracks | None,
    resolution: tuple[int, int],
) -> StepFeatures:
    """Measure the evidence around each time.

    Args:
        times_ns: ``int64 [T]``, centres of the steps, ascending.
        motion: How the picture moved, in pixels of ``resolution``.
        timestamps_ns: ``int64 [N]``, presentation times of its frames.
        hands: The wearer's hands; ``None`` counts as no hand ever seen.
        resolution: Width and height in pixels.

    Raises:
        ValueError: There are not as many times as frames, or the hands refer to another resolution.
    """
    if timestamps_ns.shape != (motion.frame_count,):
        raise ValueError(f"timestamps_ns: expected [{motion.frame_count}], got {list(timestamps_ns.shape)}")
    if hands is not None and hands.resolution != resolution:
        raise ValueError(f"hands: expected a resolution of {resolution}, got {hands.resolution}")
    side = float(max(resolution))
    origin_ns = int(timestamps_ns[0]) if timestamps_ns.size else 0
    centres_s = (times_ns - origin_ns) / NANOSECONDS
    seconds = (timestamps_ns - origin_ns) / NANOSECONDS
    velocity = _velocity(motion.positions_xy / side, seconds)
    bob_share, bob_speed = _bob(velocity[:, 1], centres_s)
    looks = _hands(hands, centres_s, origin_ns=origin_ns, side=side)
    return StepFeatures(
        turn_speed=_turn_speed(velocity, centres_s),
        bob_share=bob_share,
        bob_speed=bob_speed,
        residual_rate=_residual_rate(motion.change, seconds, centres_s),
        seen_motion=_seen_motion(motion, seconds, centres_s),
        visible_hands=looks[0],
        active_hands=looks[1],
        holding_hands=looks[2],
        hand_speed=looks[3],
    )


def _velocity(
    positions: npt.NDArray[np.float64], seconds: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Velocity on a regular grid that starts at the first frame, ``float64 [M, 2]``, per second."""
    if seconds.size < 2:
        return np.zeros((0, 2))
    grid = np.arange(int(seconds[-1] * _SAMPLES_PER_S) + 1) / _SAMPLES_PER_S
    sampled = np.stack([np.interp(grid, seconds, positions[:, axis]) for axis in (0, 1)], axis=1)
    return np.asarray(np.diff(sampled, axis=0) * _SAMPLES_PER_S)


def _windows(
    count: int, centres_s: npt.NDArray[np.float64], width_s: float
) -> tuple[npt.NDArray[np.int64], int]:
    """First samples and length of the windows around times, moved inwards at the ends of the clip."""
    length = min(count, round(width_s * _SAMPLES_PER_S))
    first = np.rint(centres_s * _SAMPLES_PER_S - length / 2).astype(np.int64)
    return np.clip(first, 0, count - length), length


def _turn_speed(
    velocity: npt.NDArray[np.float64], centres_s: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Mean speed of the motion that a running mean over half a second leaves: steps and shaking are gone."""
    if not velocity.shape[0]:
        return np.zeros(centres_s.size)
    smooth = _running_mean(velocity, _SAMPLES_PER_S // 2)
    total = np.concatenate([[0.0], np.cumsum(np.hypot(smooth[:, 0], smooth[:, 1]))])
    first, length = _windows(velocity.shape[0], centres_s, STEP_WINDOW_S)
    return np.asarray((total[first + length] - total[first]) / length)


def _running_mean(values: npt.NDArray[np.float64], width: int) -> npt.NDArray[np.float64]:
    """Centred mean over ``width`` samples, of fewer at the ends."""
    total = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
    place = np.arange(values.shape[0])
    start = np.maximum(place - width // 2, 0)
    end = np.minimum(place - width // 2 + width, values.shape[0])
    return np.asarray((total[end] - total[start]) / (end - start)[:, None])


def _bob(
    vertical: npt.NDArray[np.float64], centres_s: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Share and amplitude of the strongest rhythm among the step frequencies."""
    none = np.zeros(centres_s.size)
    if vertical.size < MIN_BOB_WINDOW_S * _SAMPLES_PER_S or not centres_s.size:
        return none, none
    first, length = _windows(vertical.size, centres_s, BOB_WINDOW_S)
    pieces = vertical[first[:, None] + np.arange(length)]
    pieces = pieces - pieces.mean(axis=1, keepdims=True)
    taper = np.hanning(length + 2)[1:-1]
    turns = np.arange(length) / _SAMPLES_PER_S
    waves = np.exp(-2j * np.pi * _FREQUENCIES_HZ[None] * turns[:, None])
    power = np.abs((pieces * taper) @ waves) ** 2 * (2 / taper.sum()) ** 2
    low, high = STEP_FREQUENCY_HZ
    allowed = np.abs(_FREQUENCIES_HZ - (low + high) / 2) <= (high - low) / 2 + 1e-9
    peak = np.where(allowed, power, -1.0).argmax(axis=1)
    rows = np.arange(centres_s.size)
    height = power[rows, peak]
    # On the flank of a slower or a faster motion the strongest allowed frequency is no peak.
    is_peak = (height >= power[rows, peak - 1]) & (height >= power[rows, peak + 1]) & (height > 0)
    near = np.abs(_FREQUENCIES_HZ[None] - _FREQUENCIES_HZ[peak][:, None]) <= _PEAK_WIDTH_HZ + 1e-9
    share = (power * near).sum(axis=1) / np.maximum(power.sum(axis=1), 1e-18)
    return np.where(is_peak, share, 0.0), np.where(is_peak, np.sqrt(height), 0.0)


def _residual_rate(
    change: npt.NDArray[np.float32],
    seconds: npt.NDArray[np.float64],
    centres_s: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Sum of the square roots of the change around each time, per second.

    The residual of a motion grows with the square of the time between frames: with the root the sum is the same for
    every frame rate.
    """
    if seconds.size < 2:
        return np.zeros(centres_s.size)
    total = np.concatenate([[0.0], np.cumsum(np.sqrt(change.astype(np.float64)))])
    width = min(STEP_WINDOW_S, float(seconds[-1]))
    start = np.clip(centres_s - width / 2, 0.0, max(0.0, float(seconds[-1]) - width))
    first = np.searchsorted(seconds, start, side="right")
    last = np.searchsorted(seconds, start + width, side="right")
    return np.asarray((total[last] - total[first]) / max(width, 1e-3))


def _seen_motion(
    motion: CameraMotion, seconds: npt.NDArray[np.float64], centres_s: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    return _window_mean(~np.asarray(motion.unseen), seconds, centres_s)


def _window_mean(
    values: npt.NDArray[Any],
    seconds: npt.NDArray[np.float64],
    centres_s: npt.NDArray[np.float64],
    *,
    weights: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.float64]:
    """Mean over the frames around each time; 0 where there is none."""
    first = np.searchsorted(seconds, centres_s - STEP_WINDOW_S / 2, side="left")
    last = np.searchsorted(seconds, centres_s + STEP_WINDOW_S / 2, side="right")
    if weights is None:
        weights = np.ones(seconds.size)
    above, below = (np.concatenate([[0.0], np.cumsum(each, dtype=np.float64)]) for each in (values, weights))
    return np.asarray((above[last] - above[first]) / np.maximum(below[last] - below[first], 1.0))


def _hands(
    hands: HandObjectTracks | None,
    centres_s: npt.NDArray[np.float64],
    *,
    origin_ns: int,
    side: float,
) -> tuple[npt.NDArray[np.float64], ...]:
    """Shares of frames with a visible, an active and a holding hand, and the speed of hands at objects, per step."""
    if hands is None or not hands.frame_index.size:
        return (np.zeros(centres_s.size),) * 4
    seconds = (hands.timestamps_ns - origin_ns) / NANOSECONDS
    count = seconds.size
    visible, active, holding = (np.zeros(count, bool) for _ in range(3))
    speed_sum, speed_count = np.zeros(count), np.zeros(count)
    for track in hands.tracks:
        contact = np.array([state in _CONTACT_STATES for state in track.states], bool)
        speed = _hand_speed(track.boxes_xyxy / side, track.visible, seconds)
        moving = np.nan_to_num(speed) >= MOVING_HAND_SPEED
        visible |= track.visible
        active |= track.visible & (contact | moving)
        holding |= np.array([state == "grasp" for state in track.states], bool)
        known = contact & np.isfinite(speed)
        speed_sum += np.where(known, speed, 0.0)
        speed_count += known
    return (
        _window_mean(visible, seconds, centres_s),
        _window_mean(active, seconds, centres_s),
        _window_mean(holding, seconds, centres_s),
        _window_mean(speed_sum, seconds, centres_s, weights=speed_count),
    )


def _hand_speed(
    boxes: npt.NDArray[np.float32], visible: npt.NDArray[np.bool_], seconds: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Speed of a hand since the frame before, ``float64 [N]``; NaN where it was not seen on both."""
    centres = (boxes[:, :2].astype(np.float64) + boxes[:, 2:]) / 2
    gap = np.diff(seconds)
    known = visible[1:] & visible[:-1] & (gap > 0) & (gap <= MAX_GAP_S)
    moved = np.hypot(*np.diff(centres, axis=0).T)
    speed = np.full(seconds.size, np.nan)
    speed[1:][known] = moved[known] / gap[known]
    return speed
