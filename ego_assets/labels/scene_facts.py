"""What the other layers found at one moment of a clip, and a plain sentence that says it."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from ego_assets.labels.action_features import STILL_SPEED
from ego_assets.labels.actions import HAND_LABELS, IDLE
from ego_assets.labels.prompts import FEWEST_WORDS, MOST_WORDS
from ego_assets.schema.actions import OTHER_ACTION, ActionSegment
from ego_assets.schema.arrays import hold_arrays
from ego_assets.schema.captions import SceneFacts
from ego_assets.schema.detections import iou_matrix
from ego_assets.schema.hands import HandObjectTracks, HandTrack
from ego_assets.schema.masks import BACKGROUND_CATEGORY, HAND_CATEGORY, PERSON_CATEGORY, UNKNOWN_CATEGORY
from ego_assets.schema.motion import CameraMotion

#: Samples of a layer further than this from a moment say nothing of it; hands move on within a third of a second.
NEAR_NS = 300_000_000

#: From this overlap (IOU) on, a mask is what the hand holds.
CONTACT_IOU = 0.3

#: Smaller regions, as a share of the picture, are not worth a word.
SMALLEST_SHARE = 0.005

#: Share of the path that ends up as distance from which on it is one turn and not a shaking.
TURN_SHARE = 0.7
#: Share of the frames of a stretch from which on the whole of it counts as showing nothing.
MOSTLY = 0.5
_MOTION_STEP_NS = 200_000_000

_PLACES = {
    "kitchen": "in a kitchen",
    "office": "in an office",
    "workshop": "in a workshop",
    "outdoor": "outdoors",
}
_ACTIVITIES = {
    "manipulating": "works with the hands",
    "carrying": "carries something",
    "walking": "walks",
    "looking around": "looks around",
    "idle": "stays idle",
}
_CAMERA = {
    "still": "no camera movement was found",
    "turning": "the view turns",
    "moving": "the camera moves",
}
_DOES = {"grasp": "holds", "pre-grasp": "reaches for", "post-release": "lets go of"}
_DO = {"grasp": "hold", "pre-grasp": "reach for", "post-release": "let go of"}
_NUMBERS = ("no", "one", "two", "three", "four", "five")
_NOT_THINGS = (HAND_CATEGORY, BACKGROUND_CATEGORY)
#: Categories whose English names take no article and no plural.
_MASS_NOUNS = ("food", "furniture")
_UNSEEN = "The picture is too dark or too plain at this moment to tell what the camera wearer does"
_PADDING = "as seen in first person from the wearer's own point of view"
_WORD = re.compile(r"\w+(?:['\u2019-]\w+)*")


@dataclass(frozen=True, eq=False, kw_only=True)
class MaskRows:
    """The track table of the masks: one row per instance and frame, in order of time.

    Attributes:
        timestamps_ns: ``int64 [N]``.
        categories: Category per row.
        boxes_xyxy: ``float32 [N, 4]`` in pixels of ``resolution``.
        area_share: ``float32 [N]``, share of the picture.
        resolution: Width and height in pixels.
    """

    timestamps_ns: npt.NDArray[np.int64]
    categories: tuple[str, ...]
    boxes_xyxy: npt.NDArray[np.float32]
    area_share: npt.NDArray[np.float32]
    resolution: tuple[int, int]

    def __post_init__(self) -> None:
        count = len(self.categories)
        hold_arrays(self, timestamps_ns=(count,), boxes_xyxy=(count, 4), area_share=(count,))
        if np.any(np.diff(self.timestamps_ns) < 0):
            raise ValueError("timestamps_ns: expected rows in order of time, got a step back")

    @classmethod
    def read(cls, table: bytes, *, resolution: tuple[int, int]) -> MaskRows:
        """Read ``tracks.parquet`` of the masks layer."""
        corners = ["left", "top", "right", "bottom"]
        rows = pq.read_table(io.BytesIO(table), columns=["timestamp_ns", "category", *corners, "area_share"])
        stamps = np.asarray(rows["timestamp_ns"], np.int64)
        order = np.argsort(stamps, kind="stable")
        categories = rows["category"].to_pylist()
        boxes = np.stack([np.asarray(rows[name], np.float32) for name in corners], axis=1)
        return cls(
            timestamps_ns=stamps[order],
            categories=tuple(categories[row] for row in order),
            boxes_xyxy=boxes[order],
            area_share=np.asarray(rows["area_share"], np.float32)[order],
            resolution=resolution,
        )

    def near(self, timestamp_ns: int) -> npt.NDArray[np.int64]:
        """``int64 [M]``, rows of the frame nearest to a time, none where it is far."""
        place = _nearest(self.timestamps_ns, timestamp_ns)
        if place is None:
            return np.zeros(0, np.int64)
        return np.flatnonzero(self.timestamps_ns == self.timestamps_ns[place])


@dataclass(frozen=True, eq=False, kw_only=True)
class SceneSources:
    """The layers that facts are taken from; ``None`` and empty where a layer is missing.

    Attributes:
        hands: The wearer's hands.
        masks: What was segmented.
        segments: Activity segments that can be relied on; there may be gaps between them.
        motion: How the picture moved, on every frame.
        motion_timestamps_ns: ``int64 [N]``, times of these frames.
        motion_longer_side: Longer side in pixels of the picture that ``motion`` refers to.
        location: Kind of place as the collector stated it.
    """

    hands: HandObjectTracks | None = None
    masks: MaskRows | None = None
    segments: Sequence[ActionSegment] = ()
    motion: CameraMotion | None = None
    motion_timestamps_ns: npt.NDArray[np.int64] | None = None
    motion_longer_side: int = 1
    location: str = ""


def reliable_segments(content: Mapping[str, Any], *, least_score: float) -> tuple[ActionSegment, ...]:
    """The segments of ``actions.json`` whose activity can be stated.

    Where no hand was seen, nobody knows what hands did, nor that they did nothing. What is none of the known activities
    has no name.

    Args:
        content: The document.
        least_score: Score from which on a label counts.
    """
    unknown = (OTHER_ACTION,) if content["hands"] else (OTHER_ACTION, *HAND_LABELS, IDLE)
    return tuple(
        ActionSegment(
            start_ns=item["start_ns"], end_ns=item["end_ns"], label=item["label"], score=item["score"]
        )
        for item in content["segments"]
        if item["score"] >= least_score and item["label"] not in unknown
    )


def scene_facts(sources: SceneSources, *, timestamp_ns: int, start_ns: int, end_ns: int) -> SceneFacts:
    """What the layers found at a moment.

    Args:
        sources: The layers.
        timestamp_ns: The moment, for hands, objects and activity.
        start_ns: First time of the stretch over which the camera is looked at.
        end_ns: Its end.
    """
    activity = next(
        (item.label for item in sources.segments if item.start_ns <= timestamp_ns < item.end_ns), ""
    )
    return SceneFacts(
        hands=_hands(sources, timestamp_ns),
        objects=_objects(sources.masks, timestamp_ns),
        activity=activity,
        camera=_camera(sources, start_ns, end_ns),
        location=sources.location,
    )


def word_count(text: str) -> int:
    """Number of words; an apostrophe or a hyphen inside a word does not part it."""
    return len(_WORD.findall(text))


def describe(facts: SceneFacts) -> str:
    """A sentence of 15 to 30 words that says what the facts say, and nothing else."""
    if facts.camera == "unseen":
        # In the dark nobody finds a hand or a movement, and that says nothing of them.
        place = _PLACES.get(facts.location, "")
        return " ".join(f"{_UNSEEN} {place}".split()) + "."
    words = [_subject(facts)]
    hands = _hands_clause(facts)
    # What comes later is left out first where the sentence would grow too long.
    for clause in (hands, _objects_clause(facts), _CAMERA.get(facts.camera, "")):
        if clause and sum(map(word_count, (*words, clause))) <= MOST_WORDS:
            words.append(clause)
    if sum(map(word_count, words)) < FEWEST_WORDS:
        words.insert(1, _PADDING)
    if sum(map(word_count, words)) < FEWEST_WORDS:
        words.append("nothing else was found")
    return "; ".join(words).replace(f"; {_PADDING}", f", {_PADDING}") + "."


def _nearest(stamps: npt.NDArray[np.int64], timestamp_ns: int) -> int | None:
    """Place of the nearest of ascending time stamps; ``None`` where none is near."""
    if stamps.size == 0:
        return None
    right = min(int(np.searchsorted(stamps, timestamp_ns)), stamps.size - 1)
    place = min((max(right - 1, 0), right), key=lambda index: abs(int(stamps[index]) - timestamp_ns))
    return place if abs(int(stamps[place]) - timestamp_ns) <= NEAR_NS else None


def _hands(sources: SceneSources, timestamp_ns: int) -> dict[str, dict[str, str]] | None:
    tracks = sources.hands
    if tracks is None or (place := _nearest(tracks.timestamps_ns, timestamp_ns)) is None:
        return None
    found: dict[str, dict[str, str]] = {}
    for track in tracks.tracks:
        state = track.states[place]
        if state is not None:
            held = state == "grasp"
            category = _held(track, place, tracks.resolution, sources.masks, timestamp_ns) if held else ""
            found[track.side] = {"state": state, "category": category}
    return found


def _held(
    track: HandTrack, place: int, resolution: tuple[int, int], masks: MaskRows | None, timestamp_ns: int
) -> str:
    """Category of the mask at the contact box; empty where there is none."""
    box = track.contact_boxes_xyxy[place]
    if masks is None or not np.isfinite(box).all():
        return ""
    rows = [
        row
        for row in masks.near(timestamp_ns)
        if masks.categories[row] not in (*_NOT_THINGS, PERSON_CATEGORY)
    ]
    if not rows:
        return ""
    scale = np.array(masks.resolution * 2, np.float32) / np.array(resolution * 2, np.float32)
    overlaps = iou_matrix((box * scale)[None].astype(np.float32), masks.boxes_xyxy[rows])[0]
    best = int(np.argmax(overlaps))
    category = masks.categories[rows[best]]
    return category if overlaps[best] >= CONTACT_IOU and category != UNKNOWN_CATEGORY else ""


def _objects(masks: MaskRows | None, timestamp_ns: int) -> dict[str, int]:
    """Categories by the area they cover, largest first, with the number of instances."""
    if masks is None:
        return {}
    rows = [
        row
        for row in masks.near(timestamp_ns)
        if masks.categories[row] not in _NOT_THINGS and masks.area_share[row] >= SMALLEST_SHARE
    ]
    counts = Counter(masks.categories[row] for row in rows)
    areas = {
        name: sum(masks.area_share[row] for row in rows if masks.categories[row] == name) for name in counts
    }
    return {name: counts[name] for name in sorted(counts, key=lambda name: (-areas[name], name))}


def _camera(sources: SceneSources, start_ns: int, end_ns: int) -> str:
    """Whether the picture stood, went one way, or went to and fro."""
    motion, stamps = sources.motion, sources.motion_timestamps_ns
    if motion is None or stamps is None or stamps.size < 2:
        return ""
    inside = (stamps >= start_ns) & (stamps < end_ns)
    if inside.sum() < 2:
        return ""
    if motion.unseen_share(np.flatnonzero(inside)) > MOSTLY:
        return "unseen"
    times = stamps[inside]
    steps = np.arange(int(times[0]), int(times[-1]) + 1, _MOTION_STEP_NS)
    if steps[-1] != times[-1]:
        steps = np.append(steps, times[-1])
    positions = np.stack(
        [np.interp(steps, times, motion.positions_xy[inside, axis]) for axis in (0, 1)], axis=1
    )
    path = float(np.linalg.norm(np.diff(positions, axis=0), axis=1).sum())
    seconds = max((int(times[-1]) - int(times[0])) / 1e9, 1e-9)
    if path / sources.motion_longer_side / seconds < STILL_SPEED:
        return "still"
    distance = float(np.linalg.norm(positions[-1] - positions[0]))
    return "turning" if distance >= TURN_SHARE * path else "moving"


def _subject(facts: SceneFacts) -> str:
    place = _PLACES.get(facts.location, "")
    label = facts.activity.replace("_", " ").strip()
    if label:
        does = _ACTIVITIES.get(label.lower())
        if does is None:
            does = f"is {label}" if label.split()[0].endswith("ing") else f"does something called {label}"
    else:
        does = "is" if place else "faces a scene"
    return " ".join(part for part in ("The camera wearer", does, place) if part)


def _hands_clause(facts: SceneFacts) -> str:
    if facts.hands is None:
        return ""
    if not facts.hands:
        return "no hand was found"
    if len(facts.hands) == 2:
        left, right = facts.hands["left"], facts.hands["right"]
        if left == right:
            return f"both hands {_doing(left, plural=True)}"
        # The hand that does something comes first.
        order = ("left", "right") if right["state"] == "free" else ("right", "left")
        return " and ".join(f"the {side} hand {_doing(facts.hands[side])}" for side in order)
    [(side, hand)] = facts.hands.items()
    other = "left" if side == "right" else "right"
    return f"the {side} hand {_doing(hand)} and the {other} hand was not found"


def _doing(hand: Mapping[str, str], *, plural: bool = False) -> str:
    state = hand["state"]
    if state == "free":
        return "are free" if plural else "is free"
    return f"{(_DO if plural else _DOES)[state]} {_thing(hand['category'])}"


def _thing(category: str) -> str:
    name = category or UNKNOWN_CATEGORY
    if name in _MASS_NOUNS:
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _objects_clause(facts: SceneFacts) -> str:
    """At most two categories, the largest ones; those that the backend could not name come last."""
    names = sorted(facts.objects, key=lambda name: name == UNKNOWN_CATEGORY)[:2]
    if not names:
        return ""
    counted = [_counted(name, facts.objects[name]) for name in names]
    one = len(names) == 1 and (facts.objects[names[0]] == 1 or names[0] in _MASS_NOUNS)
    return f"{' and '.join(counted)} {'is' if one else 'are'} in view"


def _counted(name: str, count: int) -> str:
    if name in _MASS_NOUNS:
        return name
    number = _NUMBERS[count] if count < len(_NUMBERS) else "several"
    if count == 1:
        return f"{number} {name}"
    return f"{number} people" if name == PERSON_CATEGORY else f"{number} {name}s"
