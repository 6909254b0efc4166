"""Follows instances through a clip: regions of key frames, carried by optical flow, with ids that stay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.geometry.flow import (
    DisPreset,
    PixelMap,
    dense_flow,
    inside,
    pixel_grid,
    there_and_back,
)
from ego_assets.labels.masks import (
    FoundPerson,
    LearntColours,
    PersonFinder,
    at_frame_size,
    hand_mask,
    held_mask,
)
from ego_assets.labels.regions import (
    LabelMap,
    Mask,
    RegionOptions,
    fill_lines,
    segment_regions,
    used_labels,
)
from ego_assets.media.resize import shrink
from ego_assets.schema.detections import BgrImage
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.hands import HandObjectTracks, HandTrack
from ego_assets.schema.masks import (
    HAND_CATEGORY,
    PERSON_CATEGORY,
    UNKNOWN_CATEGORY,
    MaskFrame,
    MaskInstance,
)
from ego_assets.schema.timeline import NANOSECONDS

#: Ids of the wearer's hands; all others come after them.
HAND_IDS = {"left": 1, "right": 2}
_FIRST_FREE_ID = 3
_LAST_ID = 65535

#: A flow that does not lead back to where it began by this many pixels, and this share of its length, is not believed.
_RETURN_PX, _RETURN_SHARE = 1.5, 0.1
#: Nor is one that leads to a pixel this much lighter or darker (of 255).
_LIGHT_STEP = 45.0
#: Less believable flow than this, and the picture is a new scene.
_CUT_BELOW = 0.25
#: Known pixels this close to a border are asked again where the border is.
_BAND_PX = 2
#: Pieces of an instance smaller than this are not carried on.
_SPECK_PX = 12
#: Instances grow at most this far, as share of the longer side, into what came into view at the border of the picture,
#: and into what was hidden before: beyond lies something new.
_FLOOD_ENTERED, _FLOOD_HIDDEN = 0.03, 0.12
#: A region is the instance it shares this much of the smaller of the two with.
_SAME_SHARE = 0.4
#: New instances need this share of the picture, known ones are kept down to the second.
_NEW_SHARE, _KEPT_SHARE = 0.004, 0.0005
#: Part of a region that has to lie in the box of the thing in a hand, and part of the box that such regions must fill.
_IN_BOX, _BOX_FILLED = 0.75, 0.25
#: A region is an instance that was lost when their mean colours differ by less than this (units of CIELAB), the smaller
#: has this share of the other's area, and it lies within this share of the longer side of where that would be now.
_RECALL_COLOUR, _RECALL_AREA, _RECALL_REACH = 10.0, 0.4, 0.25
#: How the picture moved as a whole is told from every so many pixels.
_SPARSE = 6
#: Score of contact from which the thing in a hand is looked for.
_CONTACT_SCORE = 0.5
#: How sure a thing is that only its colours tell from what is around its box.
_CUT_OUT_SCORE = 0.5
#: A person is believed when found at two looks in a row that overlap this much, and kept for as many without.
_PERSON_OVERLAP, _PERSON_LOOKS = 0.3, 2
#: Who covers more of the picture, or of a hand of the wearer, is the wearer, or no person.
_PERSON_SHARE, _PERSON_HAND = 0.5, 0.4
#: A contrast of this many units of CIELAB makes half sure that a region is a thing of its own.
_HALF_SURE_CONTRAST = 6.0


@dataclass(frozen=True, kw_only=True)
class TrackingOptions:
    """How instances are found and followed.

    Attributes:
        max_side: Longer side in pixels at which pictures are segmented and followed.
        regions: How finely key frames are split.
        reseed_interval_s: Regions are searched anew after this time at the latest.
        min_covered: They are searched anew when less than this share of the picture belongs to an instance.
        min_reliable: They are searched anew when less than this share of the flow is believable.
        hand_memory_s: A hand that the hand layer loses is followed by flow for this long.
        person_interval_s: Time between two looks for people.
        id_memory_s: An instance that comes back within this time gets its old id.
    """

    max_side: int = 480
    regions: RegionOptions = field(default_factory=RegionOptions)
    reseed_interval_s: float = 2.0
    min_covered: float = 0.9
    min_reliable: float = 0.6
    hand_memory_s: float = 1.0
    person_interval_s: float = 0.6
    id_memory_s: float = 4.0

    def __post_init__(self) -> None:
        if self.max_side < 64:
            raise ValueError(f"max_side: expected 64 or more, got {self.max_side}")
        for name in ("reseed_interval_s", "person_interval_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected more than 0, got {getattr(self, name)}")
        for name in ("hand_memory_s", "id_memory_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected 0 or more, got {getattr(self, name)}")
        for name in ("min_covered", "min_reliable"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected 0 to 1, got {getattr(self, name)}")


def track_masks(
    frames: Iterable[ClipFrame],
    *,
    hands: HandObjectTracks | None = None,
    people: PersonFinder | None = None,
    vocabulary: Sequence[str],
    options: TrackingOptions | None = None,
    cuts: frozenset[int] = frozenset(),
) -> Iterator[MaskFrame]:
    """Instances of every frame, in order.

    Hands come from their landmarks. People are believed where two looks in a row find them. The rest is split into
    regions on key frames, carried to the next frames by dense flow and fitted to the picture's edges there; at the next
    key frame, regions take the ids of the instances they overlap. What a region is nobody can tell here: its category
    is ``object``.

    Args:
        frames: Frames of one clip in order of time.
        hands: The wearer's hands, boxes in any resolution.
        people: Finds people; without it nobody is ``person``.
        vocabulary: Categories that may be given; without ``hand`` and ``person`` such instances are left out.
        options: How instances are found and followed.
        cuts: Indices of frames on which a new scene begins; those that the pictures show are found besides.

    Raises:
        ValueError: The vocabulary lacks ``object``.
    """
    if UNKNOWN_CATEGORY not in vocabulary:
        raise ValueError(f"vocabulary: expected {UNKNOWN_CATEGORY!r} in it, got {', '.join(vocabulary)}")
    tracker = _Tracker(
        hands=hands if HAND_CATEGORY in vocabulary else None,
        contacts=hands,
        people=people if PERSON_CATEGORY in vocabulary else None,
        options=options or TrackingOptions(),
        cuts=cuts,
    )
    for frame in frames:
        yield tracker.step(frame)


def trace_back(
    before: npt.NDArray[np.uint8], now: npt.NDArray[np.uint8], *, preset: DisPreset
) -> tuple[PixelMap, Mask]:
    """Where every pixel of the later of two pictures was in the earlier one.

    Args:
        before: ``uint8 [h, w]``, the earlier picture.
        now: ``uint8 [h, w]``, the later one.
        preset: How thoroughly flow is computed.

    Returns:
        ``float32 [h, w, 2]``, places (x, y) in the earlier picture, and ``bool [h, w]``, where that is believable: the
        place lies in the picture, flow leads back from it, and it is as light.
    """
    places, believable = there_and_back(
        dense_flow(now, before, preset=preset),
        dense_flow(before, now, preset=preset),
        max_error_px=_RETURN_PX,
        max_error_share=_RETURN_SHARE,
    )
    seen = cv2.remap(
        before, places[..., 0], places[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    step = cv2.blur(cv2.absdiff(seen, now), (3, 3))
    return places, np.asarray(believable & (step < _LIGHT_STEP), dtype=np.bool_)


def nearest_pixels(places: PixelMap) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Rows and columns of the pixels nearest to places (x, y), ``intp [h, w]`` each; those outside, of the border."""
    height, width = places.shape[:2]
    rows = np.clip(np.rint(places[..., 1]), 0, height - 1).astype(np.intp)
    columns = np.clip(np.rint(places[..., 0]), 0, width - 1).astype(np.intp)
    return rows, columns


@dataclass(eq=False)
class _Hand:
    """One of the wearer's hands while the clip is followed."""

    colours: LearntColours = field(default_factory=LearntColours)
    seen_ns: int | None = None
    score: float = 0.0
    in_contact: bool = False


@dataclass(eq=False)
class _Person:
    """Somebody found once or more; gets an id when found again."""

    mask: Mask
    score: float
    instance_id: int = 0
    missed: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class _Look:
    """What an area looks like, and where it lies.

    Attributes:
        lab: ``float64 [3]``, its mean colour in CIELAB.
        area: Its pixels.
        centre_xy: ``float64 [2]``, the mean of its pixels' places.
    """

    lab: npt.NDArray[np.float64]
    area: int
    centre_xy: npt.NDArray[np.float64]

    @classmethod
    def of(cls, work: BgrImage, mask: Mask) -> _Look:
        rows, columns = np.nonzero(mask)
        pixels = work[rows, columns].astype(np.float32)[None] / 255
        lab = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2Lab)[0].mean(axis=0), np.float64)
        return cls(lab=lab, area=rows.size, centre_xy=np.array([columns.mean(), rows.mean()]))

    def difference(self, other: _Look, *, longer_side: int) -> float:
        """How unlike two areas are, 0 to 1; infinite where they cannot be the same thing."""
        colour = float(np.linalg.norm(self.lab - other.lab)) / _RECALL_COLOUR
        distance = float(np.linalg.norm(self.centre_xy - other.centre_xy)) / (_RECALL_REACH * longer_side)
        areas = sorted((self.area, other.area))
        if colour > 1 or distance > 1 or areas[0] < _RECALL_AREA * areas[1]:
            return float("inf")
        return (colour + distance) / 2


@dataclass(eq=False)
class _Unseen:
    """Instances that went out of sight, with how they looked, where they would be now, and when they were seen last."""

    memory_ns: int
    looks: dict[int, tuple[_Look, int]] = field(default_factory=dict)

    def move(self, offset_xy: npt.NDArray[np.float64], time_ns: int) -> None:
        """Take along what is remembered with the picture, and forget what is too long ago."""
        self.looks = {
            number: (replace(look, centre_xy=look.centre_xy + offset_xy), seen_ns)
            for number, (look, seen_ns) in self.looks.items()
            if time_ns - seen_ns <= self.memory_ns
        }

    def take(self, look: _Look, *, longer_side: int) -> int:
        """The id of the instance that a look fits best, which is unseen no more; 0 where it fits none."""
        fits = {
            number: look.difference(other, longer_side=longer_side)
            for number, (other, _) in self.looks.items()
        }
        best = min(fits, key=lambda number: fits[number], default=0)
        if not best or not np.isfinite(fits[best]):
            return 0
        del self.looks[best]
        return best


class _Tracker:
    """What is known of a clip up to the present frame."""

    def __init__(
        self,
        *,
        hands: HandObjectTracks | None,
        contacts: HandObjectTracks | None,
        people: PersonFinder | None,
        options: TrackingOptions,
        cuts: frozenset[int] = frozenset(),
    ) -> None:
        self._cuts = cuts
        self._hand_tracks, self._contact_tracks = hands, contacts
        self._people, self._options = people, options
        self._hands = {side: _Hand() for side in HAND_IDS}
        self._persons: list[_Person] = []
        self._scores: dict[int, float] = {}
        self._person_ids: set[int] = set()
        self._held: dict[str, int] = {}
        self._next_id = _FIRST_FREE_ID
        self._unseen = _Unseen(memory_ns=round(self._options.id_memory_s * NANOSECONDS))
        self._work: BgrImage | None = None
        self._grey: npt.NDArray[np.uint8] | None = None
        self._labels: LabelMap | None = None
        self._sources: tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]] | None = None
        self._entered: Mask = np.zeros((0, 0), np.bool_)
        self._seeded_ns = 0
        self._looked_ns: int | None = None

    def step(self, frame: ClipFrame) -> MaskFrame:
        """The instances of the next frame."""
        work, time_ns = shrink(frame.image, self._options.max_side), frame.timestamp_ns
        grey = np.asarray(cv2.cvtColor(work, cv2.COLOR_BGR2GRAY), dtype=np.uint8)
        carried, reliable = self._carry(grey, time_ns, is_cut=frame.frame_index in self._cuts)
        taken = self._place_hands(work, frame, carried)
        boxes, contact_began = self._contact_boxes(work, frame)
        labels = None
        if carried is not None:
            self._move_persons(carried)
            labels = self._fit(work, carried, reliable, taken)
        looked = self._look_for_people(frame, taken)
        reseed = labels is None or looked or contact_began or self._is_worn(labels, reliable, time_ns)
        if reseed:
            self._remember_lost(labels, time_ns)
            labels = self._seed(work, labels, taken, boxes)
            self._seeded_ns = time_ns
        assert labels is not None
        labels = self._without_specks(labels)
        self._remember_lost(labels, time_ns)
        self._work, self._grey, self._labels = work, grey, labels
        return self._result(frame, at_frame_size(labels, frame.image), reseeded=reseed)

    # ------------------------------------------------------------------ from frame to frame

    def _carry(
        self, grey: npt.NDArray[np.uint8], time_ns: int, *, is_cut: bool
    ) -> tuple[LabelMap | None, Mask]:
        """The labels of the frame before at their new places, and where that is believable."""
        nothing = np.zeros(grey.shape, np.bool_)
        if self._grey is None or self._labels is None:
            return None, nothing
        if self._grey.shape != grey.shape:
            raise ValueError(
                f"frames: expected one size, got {list(self._grey.shape)} and then {list(grey.shape)} when reduced"
            )
        places, reliable = trace_back(self._grey, grey, preset="medium")
        if is_cut or reliable.mean() < _CUT_BELOW:
            self._persons.clear()
            self._held.clear()
            self._unseen.looks.clear()
            self._labels = None
            for hand in self._hands.values():
                hand.seen_ns = None
            return None, nothing
        height, width = grey.shape
        moved = (pixel_grid(width, height) - places)[::_SPARSE, ::_SPARSE][reliable[::_SPARSE, ::_SPARSE]]
        self._unseen.move(np.median(moved, axis=0) if len(moved) else np.zeros(2), time_ns)
        self._entered = ~inside(places, width, height)
        self._sources = nearest_pixels(places)
        return self._labels[self._sources], reliable

    def _remember_lost(self, labels: LabelMap | None, time_ns: int) -> None:
        """Remember the instances of the frame before that are not there any more."""
        if self._labels is None or self._work is None:
            return
        before = np.flatnonzero(np.bincount(self._labels.ravel()))
        now = np.zeros(0, np.intp) if labels is None else np.flatnonzero(np.bincount(labels.ravel()))
        for number in np.setdiff1d(before, now).tolist():
            if number >= _FIRST_FREE_ID and number not in self._person_ids:
                self._unseen.looks[number] = _Look.of(self._work, self._labels == number), time_ns
        for number in now.tolist():
            self._unseen.looks.pop(number, None)

    def _fit(self, work: BgrImage, carried: LabelMap, reliable: Mask, taken: LabelMap) -> LabelMap:
        """Carried labels with their borders moved to the picture's edges; 0 where something new came into view."""
        as_float = carried.astype(np.float32)
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * _BAND_PX + 1,) * 2)
        inner = cv2.dilate(as_float, kernel) == cv2.erode(as_float, kernel)
        known = inner & reliable & (carried > 0)
        # The hand layer, not the flow, says where hands are.
        known &= carried >= _FIRST_FREE_ID
        pieces, places, stats, _ = cv2.connectedComponentsWithStats(known.astype(np.uint8), connectivity=4)
        small = stats[:pieces, cv2.CC_STAT_AREA] < _SPECK_PX
        known &= ~small[places]
        markers = np.where(known, carried, 0).astype(np.int32)
        markers[taken > 0] = taken[taken > 0]
        if not markers.any():
            return markers
        distance = cv2.distanceTransform((markers == 0).astype(np.uint8), cv2.DIST_L2, 3)
        borders = cv2.watershed(cv2.GaussianBlur(work, (3, 3), 0), markers.copy())
        flooded = fill_lines(np.asarray(borders, dtype=np.int32))
        limit = np.where(self._entered, _FLOOD_ENTERED, _FLOOD_HIDDEN) * max(work.shape)
        flooded[distance > limit] = 0
        # A hand ends where the hand layer says.
        wrong = (flooded > 0) & (flooded < _FIRST_FREE_ID) & (taken == 0)
        flooded[wrong] = 0
        flooded[taken > 0] = taken[taken > 0]
        return flooded

    def _is_worn(self, labels: LabelMap, reliable: Mask, time_ns: int) -> bool:
        options = self._options
        return bool(
            time_ns - self._seeded_ns >= options.reseed_interval_s * NANOSECONDS
            or (labels > 0).mean() < options.min_covered
            or reliable.mean() < options.min_reliable
        )

    # ------------------------------------------------------------------ hands

    def _place_hands(self, work: BgrImage, frame: ClipFrame, carried: LabelMap | None) -> LabelMap:
        """``int32 [h, w]``, id of the hand on each pixel, or 0."""
        taken = np.zeros(work.shape[:2], np.int32)
        tracks = self._hand_tracks
        if tracks is None:
            return taken
        place = tracks.position(frame.frame_index)
        scale = _scale_to(work, tracks)
        for track in tracks.tracks:
            hand, instance_id = self._hands[track.side], HAND_IDS[track.side]
            if place is not None and track.visible[place] and np.isfinite(track.boxes_xyxy[place]).all():
                mask = hand_mask(
                    work,
                    box_xyxy=track.boxes_xyxy[place] * np.tile(scale, 2),
                    landmarks_xy=track.landmarks_xy[place] * scale,
                    colours=hand.colours,
                )
                hand.seen_ns, hand.score = frame.timestamp_ns, float(np.clip(track.scores[place], 0, 1))
            elif carried is not None and self._may_follow(hand, frame.timestamp_ns):
                mask = _still_hand(work, carried == instance_id, hand.colours)
            else:
                continue
            taken[mask & (taken == 0)] = instance_id
        return taken

    def _may_follow(self, hand: _Hand, time_ns: int) -> bool:
        memory_ns = self._options.hand_memory_s * NANOSECONDS
        return hand.seen_ns is not None and time_ns - hand.seen_ns <= memory_ns

    def _contact_boxes(
        self, work: BgrImage, frame: ClipFrame
    ) -> tuple[dict[str, npt.NDArray[np.float32]], bool]:
        """Boxes of the things in the hands by side, and whether one was taken up just now."""
        tracks = self._contact_tracks
        boxes: dict[str, npt.NDArray[np.float32]] = {}
        place = None if tracks is None else tracks.position(frame.frame_index)
        if tracks is None or place is None:
            return boxes, False
        began = False
        for track in tracks.tracks:
            box = _contact_box(track, place)
            hand = self._hands[track.side]
            began |= box is not None and not hand.in_contact
            hand.in_contact = box is not None
            if box is None:
                self._held.pop(track.side, None)
            else:
                boxes[track.side] = box * np.tile(_scale_to(work, tracks), 2)
        return boxes, began

    # ------------------------------------------------------------------ people

    def _move_persons(self, carried: LabelMap) -> None:
        assert self._sources is not None
        rows, columns = self._sources
        for person in self._persons:
            person.mask = carried == person.instance_id if person.instance_id else person.mask[rows, columns]

    def _look_for_people(self, frame: ClipFrame, taken: LabelMap) -> bool:
        """Look for people when it is time; returns whether anything about them changed."""
        interval_ns = self._options.person_interval_s * NANOSECONDS
        due = self._looked_ns is None or frame.timestamp_ns - self._looked_ns >= interval_ns
        if self._people is None or not due:
            return False
        self._looked_ns = frame.timestamp_ns
        found = [_resized(person, taken) for person in self._people.find(frame.image)]
        found = [person for person in found if not _is_wearer(person[0], taken)]
        changed = False
        remaining = []
        for person in self._persons:
            overlaps = [_overlap(person.mask, mask) for mask, _ in found]
            best = int(np.argmax(overlaps)) if overlaps else -1
            if best >= 0 and overlaps[best] >= _PERSON_OVERLAP:
                person.mask, person.score = found.pop(best)
                person.missed = 0
                if not person.instance_id:
                    person.instance_id = self._new_id(person.score)
                    self._person_ids.add(person.instance_id)
                changed = True
            else:
                person.missed += 1
            keep = person.missed <= _PERSON_LOOKS if person.instance_id else person.missed == 0
            if keep:
                remaining.append(person)
            changed |= not keep and person.instance_id > 0
        self._persons = remaining + [_Person(mask=mask & (taken == 0), score=score) for mask, score in found]
        return changed

    # ------------------------------------------------------------------ key frames

    def _seed(
        self,
        work: BgrImage,
        labels: LabelMap | None,
        taken: LabelMap,
        boxes: dict[str, npt.NDArray[np.float32]],
    ) -> LabelMap:
        """Search regions anew, keep the people, and give regions the ids of what they were."""
        result = taken.copy()
        for person in self._persons:
            if person.instance_id:
                result[person.mask & (result == 0)] = person.instance_id
                self._scores[person.instance_id] = person.score
        prior = np.zeros_like(result) if labels is None else labels.copy()
        prior[np.isin(prior, [*HAND_IDS.values(), *self._person_ids])] = 0
        regions = segment_regions(
            work,
            options=self._options.regions,
            prior=prior,
            exclude=result > 0,
            boxes_xyxy=np.array(list(boxes.values()), np.float32).reshape(-1, 4),
        )
        ids = self._join(work, regions.labels, len(regions), prior)
        held = {side: self._hold(side, box, regions.labels, ids, taken) for side, box in boxes.items()}
        for instance_id, contrast in zip(ids.tolist(), regions.contrast.tolist(), strict=True):
            if instance_id:
                # A picture of one region says nothing about where that ends.
                contrast = contrast if np.isfinite(contrast) else 0.0
                self._scores[instance_id] = contrast / (contrast + _HALF_SURE_CONTRAST)
        free = result == 0
        result[free] = np.append(ids, 0)[regions.labels][free]
        for side, fits in held.items():
            if not fits:
                self._cut_out(side, work, boxes[side], result, free)
        return result

    def _join(self, work: BgrImage, labels: LabelMap, count: int, prior: LabelMap) -> npt.NDArray[np.int32]:
        """Id of each region: of the instance it overlaps most, one region each; of one that was lost; or a new one."""
        ids = np.zeros(count, np.int32)
        valid = labels >= 0
        areas = np.bincount(labels[valid], minlength=count)
        known, places = used_labels(prior)
        shared = np.bincount(
            labels[valid].astype(np.int64) * known.size + places[valid], minlength=count * known.size
        ).reshape(count, known.size)
        shared[:, known == 0] = 0
        sizes = np.bincount(places.ravel(), minlength=known.size)
        smaller = np.minimum(areas[:, None], sizes[None])
        region, instance = np.nonzero(shared > _SAME_SHARE * smaller)
        given: set[int] = set()
        for place in np.argsort(-shared[region, instance], kind="stable"):
            number, instance_id = int(region[place]), int(known[instance[place]])
            if not ids[number] and instance_id not in given:
                ids[number] = instance_id
                given.add(instance_id)
        for number in np.nonzero(ids == 0)[0]:
            dominant = int(shared[number].argmax())
            if areas[number] >= _NEW_SHARE * labels.size:
                look = _Look.of(work, labels == number)
                ids[number] = self._unseen.take(look, longer_side=max(labels.shape)) or self._new_id(0.0)
            elif shared[number, dominant] * 2 > areas[number]:
                ids[number] = known[dominant]
        return ids

    def _hold(
        self,
        side: str,
        box: npt.NDArray[np.float32],
        labels: LabelMap,
        ids: npt.NDArray[np.int32],
        taken: LabelMap,
    ) -> bool:
        """Make one instance of the regions that fill the box of the thing in a hand; returns whether some do."""
        height, width = labels.shape
        left, top, right, bottom = np.rint(box).astype(int)
        margin = max(2, round(0.08 * max(right - left, bottom - top)))
        window = (
            slice(max(0, top - margin), min(height, bottom + margin)),
            slice(max(0, left - margin), min(width, right + margin)),
        )
        areas = np.bincount(labels[labels >= 0], minlength=ids.size)
        inside = labels[window]
        contained = np.bincount(inside[inside >= 0], minlength=ids.size)
        fitting = np.nonzero((contained > 0) & (contained >= _IN_BOX * areas))[0]
        room = max(0, min(right, width) - max(left, 0)) * max(0, min(bottom, height) - max(top, 0))
        # What the hand hides of the box cannot be filled.
        room -= int((taken[window] > 0).sum())
        if not fitting.size or contained[fitting].sum() < _BOX_FILLED * max(room, 1):
            return False
        largest = int(fitting[contained[fitting].argmax()])
        before = self._held.get(side)
        others = set(self._held.values()) - {before}
        known = {int(ids[number]) for number in fitting} - {0}
        # Both hands hold one thing.
        if known & others:
            return True
        instance_id = before or int(ids[largest]) or self._new_id(0.0)
        elsewhere = ids == instance_id
        elsewhere[fitting] = False
        ids[fitting] = instance_id
        # What else took over that id is another thing.
        for number in np.nonzero(elsewhere)[0]:
            ids[number] = self._new_id(0.0) if areas[number] >= _NEW_SHARE * labels.size else 0
        self._held[side] = instance_id
        return True

    def _cut_out(
        self, side: str, work: BgrImage, box: npt.NDArray[np.float32], result: LabelMap, free: Mask
    ) -> None:
        """Cut the thing in a hand out of the regions it was merged with, where its colours tell it from them."""
        hands = (result > 0) & (result < _FIRST_FREE_ID)
        mask = held_mask(work, box_xyxy=box, hands=hands) & free
        if mask.sum() < _KEPT_SHARE * result.size:
            return
        instance_id = self._held.get(side)
        if instance_id is None or instance_id not in self._scores:
            look = _Look.of(work, mask)
            instance_id = self._unseen.take(look, longer_side=max(result.shape)) or self._new_id(
                _CUT_OUT_SCORE
            )
        result[result == instance_id] = 0
        result[mask] = instance_id
        self._held[side] = instance_id

    def _new_id(self, score: float) -> int:
        # A pixel has 16 bits: once a clip used up all ids, what is new stays without one.
        if self._next_id > _LAST_ID:
            return 0
        instance_id = self._next_id
        self._next_id += 1
        self._scores[instance_id] = score
        return instance_id

    # ------------------------------------------------------------------ what is told

    def _without_specks(self, labels: LabelMap) -> LabelMap:
        """Labels without instances of a few pixels."""
        counts = np.bincount(labels.ravel())
        lost = counts < max(4.0, _KEPT_SHARE * labels.size)
        lost[:_FIRST_FREE_ID] = False
        return np.where(lost[labels], 0, labels).astype(np.int32)

    def _result(self, frame: ClipFrame, labels: LabelMap, *, reseeded: bool) -> MaskFrame:
        shown, _ = used_labels(labels)
        return MaskFrame(
            frame_index=frame.frame_index,
            timestamp_ns=frame.timestamp_ns,
            instance_ids=labels.astype(np.uint16),
            instances=tuple(self._instance(int(number)) for number in shown if number),
            reseeded=reseeded,
        )

    def _instance(self, instance_id: int) -> MaskInstance:
        for side, hand_id in HAND_IDS.items():
            if instance_id == hand_id:
                score = self._hands[side].score
                return MaskInstance(instance_id=hand_id, category=HAND_CATEGORY, score=score, side=side)
        category = PERSON_CATEGORY if instance_id in self._person_ids else UNKNOWN_CATEGORY
        return MaskInstance(instance_id=instance_id, category=category, score=self._scores[instance_id])


def _scale_to(work: BgrImage, tracks: HandObjectTracks) -> npt.NDArray[np.float32]:
    """Factors from the tracks' resolution to the reduced picture, x and y."""
    width, height = tracks.resolution
    return np.array([work.shape[1] / width, work.shape[0] / height], np.float32)


def _contact_box(track: HandTrack, place: int) -> npt.NDArray[np.float32] | None:
    box = track.contact_boxes_xyxy[place]
    sure = np.isfinite(box).all() and track.contact_scores[place] >= _CONTACT_SCORE
    return box if sure and track.visible[place] else None


def _still_hand(work: BgrImage, carried: Mask, colours: LearntColours) -> Mask:
    """A carried hand while its pixels still look like one; otherwise nothing."""
    if carried.sum() < _SPECK_PX:
        return np.zeros(carried.shape, np.bool_)
    rows, columns = np.nonzero(carried)
    window = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
    lab = np.asarray(cv2.cvtColor(np.ascontiguousarray(work[window]), cv2.COLOR_BGR2Lab), dtype=np.uint8)
    looks_like_it = colours.odds(lab)[carried[window]] > 0
    return carried if looks_like_it.mean() > 0.6 else np.zeros(carried.shape, np.bool_)


def _resized(person: FoundPerson, like: LabelMap) -> tuple[Mask, float]:
    """Mask, at the size of a label map, and score."""
    height, width = like.shape
    grown = cv2.resize(person.mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(grown > 0.5, dtype=np.bool_), person.score


def _is_wearer(person: Mask, taken: LabelMap) -> bool:
    """Whether what was taken for a person includes a hand of the wearer, or too much of the picture."""
    hands = [taken == hand_id for hand_id in HAND_IDS.values()]
    shares = [float(person[hand].mean()) for hand in hands if hand.any()]
    return person.mean() > _PERSON_SHARE or any(share > _PERSON_HAND for share in shares)


def _overlap(a: Mask, b: Mask) -> float:
    """Intersection over union of two masks."""
    union = int((a | b).sum())
    return float((a & b).sum()) / union if union else 0.0
