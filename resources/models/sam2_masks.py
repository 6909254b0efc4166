"""Instance masks by SAM 2.1, with categories from pictures and words and the wearer's hands from the hand layer.

A clip is followed in chunks. A chunk begins with the masks that the one before ends with, on its last frame and on one
a little earlier, so that what was hidden on the last is not lost; the network's memory holds nothing older. Where
instances are searched anew, masks of the whole picture are joined with those that are followed by their overlap.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.labels.mask_categories import CategoryJudge, instance_crop
from ego_assets.labels.mask_hands import INNER_LANDMARKS, SeenHand, seen_hands
from ego_assets.labels.mask_joining import join_by_overlap, whole_objects
from ego_assets.labels.mask_tracking import HAND_IDS
from ego_assets.schema.detections import BackendInfo, BgrImage
from ego_assets.schema.embeddings import Embedder
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.hands import HandObjectTracks
from ego_assets.schema.masks import HAND_CATEGORY, MASK_CATEGORIES, UNKNOWN_CATEGORY, MaskFrame, MaskInstance
from ego_assets.schema.timeline import NANOSECONDS
from resources.models.backends import BACKENDS
from resources.models.images import check_image
from resources.models.registry import OWN_LICENCE, ModelCard
from resources.models.sam2_network import (
    BOX,
    CERTAIN_LOGIT,
    INSIDE,
    PADDING,
    Features,
    LoadedSam2,
    Memory,
    Proposals,
    Sam2Network,
    build_network,
)
from resources.models.setting_checks import Compile, Precision
from resources.models.torch_device import torch_device
from resources.models.torch_runtime import compiles, shared_network
from resources.models.weights import card_digest, located_folder

#: Configurations in the package ``sam2`` by checkpoint.
CONFIGURATIONS = {"large": "l", "base_plus": "b+", "small": "s", "tiny": "t"}
_FIRST_FREE_ID, _LAST_ID = max(HAND_IDS.values()) + 1, 65535
#: A hand that the hand layer loses is followed for this long.
_HAND_MEMORY_S = 1.0
#: What lies in a hand of the wearer by this share of its pixels was that hand.
_IN_HAND = 0.7
#: Lost coverage asks for a new search at most this often.
_REST_S = 0.5
#: Pictures of a new instance, and frames from one to the next; results wait until the last was taken.
_LOOKS, _LOOK_STEP = 3, 2
#: An instance is told from this many pixels of a frame on, and from this share of it.
_SPECK_PX, _SPECK_SHARE = 4, 2e-5

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Sam2Options:
    """How instances are found and followed.

    Attributes:
        points_per_side: Points in a row and in a column of the grid that proposes instances.
        predicted_iou_threshold: Proposals whose foreseen quality is below are dropped, 0-1.
        stability_threshold: Proposals that depend on the cut-off by more are dropped, 0-1.
        min_share: Smallest instance that is taken up, as share of the picture.
        max_objects: Most instances that are followed at once, besides hands.
        reseed_interval_s: Instances are searched anew after this time at the latest.
        lost_coverage: They are searched anew when the share of the picture without instance grew by this much.
        chunk_frames: A chunk ends after this many frames at the latest.
        overlap_frames: How many frames back a chunk begins.
    """

    points_per_side: int
    predicted_iou_threshold: float
    stability_threshold: float
    min_share: float
    max_objects: int
    reseed_interval_s: float
    lost_coverage: float
    chunk_frames: int
    overlap_frames: int


class Sam2MaskTracker:
    """SAM 2.1 (Ravi et al., 2024) over a clip of any length.

    Implements :class:`ego_assets.schema.masks.MaskTracker`.

    Args:
        models_dir: Folder of the weights.
        embeddings: Turns pictures and words into vectors, for categories; without a text side all is ``object``.
        checkpoint: ``large``, ``base_plus``, ``small``, ``tiny``, or ``own``, which is ``own-masks/model.pt`` with
            ``model.yaml``.
        points_per_side: Points in a row and in a column of the grid that proposes instances; cost grows with its
            square.
        predicted_iou_threshold: Proposals whose foreseen quality is below are dropped, 0-1; higher values give fewer,
            clearer instances.
        stability_threshold: Proposals that depend on the cut-off of the mask by more are dropped, 0-1.
        min_share: Smallest instance that is taken up, as share of the picture.
        max_objects: Most instances that are followed at once, besides hands; the time for a frame grows with them. With
            both hands, the default makes 32, a number that the compiled network needs not fill up.
        reseed_interval_s: Instances are searched anew after this time at the latest.
        lost_coverage: They are searched anew when the share of the picture without instance grew by this much.
        chunk_frames: The network's memory begins anew with the latest masks after this many frames at the latest.
        overlap_frames: How many frames back it then begins as well, for what is hidden on the latest.
        category_threshold: An instance whose best category is less probable is ``object``.
        vos_optimized: Whether all components are compiled; ``auto`` does on a GPU. The first frames take minutes.
        device: As of :func:`resources.models.torch_device.torch_device`.
        precision: Arithmetic; ``auto`` is bfloat16 on a GPU that has it.
        batch_size: Most pictures, points or instances in one call; 0 takes 8 pictures, 64 points and 64 instances. Less
            where memory does not hold them.
        licence: Licence of your own weights.
        licence_permits_commercial_use: Whether it does; the profile asks.

    Raises:
        BackendUnavailable: The weights are missing or damaged, or the device is not there.
        ValueError: A setting has a wrong value.
    """

    def __init__(
        self,
        *,
        models_dir: Path | None = None,
        embeddings: Embedder,
        checkpoint: str = "large",
        points_per_side: int = 32,
        predicted_iou_threshold: float = 0.8,
        stability_threshold: float = 0.92,
        min_share: float = 0.001,
        max_objects: int = 30,
        reseed_interval_s: float = 2.0,
        lost_coverage: float = 0.15,
        chunk_frames: int = 120,
        overlap_frames: int = 6,
        category_threshold: float = 0.4,
        vos_optimized: Compile = "auto",
        device: str = "auto",
        precision: Precision = "auto",
        batch_size: int = 0,
        licence: str = OWN_LICENCE,
        licence_permits_commercial_use: bool = False,
    ) -> None:
        spec = BACKENDS["masks"]["sam2"]
        spec.check_arguments(locals())
        (card,) = spec.models_for({"checkpoint": checkpoint})
        self._options = Sam2Options(
            points_per_side=points_per_side,
            predicted_iou_threshold=predicted_iou_threshold,
            stability_threshold=stability_threshold,
            min_share=min_share,
            max_objects=max_objects,
            reseed_interval_s=reseed_interval_s,
            lost_coverage=lost_coverage,
            chunk_frames=chunk_frames,
            overlap_frames=overlap_frames,
        )
        configuration, weights = _files(card, checkpoint, models_dir)
        digest = card_digest(card, models_dir)
        loaded = shared_network(
            card,
            # Configurations that ship with the package belong to their checkpoints.
            weights,
            digest,
            lambda _: _load(card, configuration, weights, device=device, vos_optimized=vos_optimized),
            device=device,
            # Arithmetic below it is a matter of each call: parameters are float32 always.
            precision="float32",
            compile=vos_optimized,
        )
        self._network = Sam2Network(loaded, precision=precision, batch_size=batch_size)
        self._judge = CategoryJudge(embeddings, threshold=category_threshold)
        self._said_nothing_to_judge = threading.Event()
        self._info = BackendInfo(
            task="masks",
            backend="sam2",
            model=card.name,
            weights_sha256=digest,
            licence=card.licence_stated(licence),
        )
        _log.info(
            "%s on %s, %s, %s",
            card.name,
            self._network.device,
            self._network.precision,
            "compiled" if self._network.is_compiled else "not compiled",
        )

    @property
    def info(self) -> BackendInfo:
        """What runs."""
        return self._info

    @property
    def category_info(self) -> BackendInfo | None:
        """The embeddings backend, where its words decide what instances are."""
        return self._judge.info

    def track(
        self,
        frames: Iterable[ClipFrame],
        *,
        hands: HandObjectTracks | None = None,
        vocabulary: Sequence[str] = MASK_CATEGORIES,
        cuts: frozenset[int] = frozenset(),
    ) -> Iterator[MaskFrame]:
        """One result per frame, in order; the wearer's hands are 1 (left) and 2 (right).

        A few frames are taken ahead of the results: those that are encoded together, and those on which a new instance
        is looked at before its category is decided.

        Raises:
            ValueError: The vocabulary lacks ``object``, or frames differ in size.
        """
        if UNKNOWN_CATEGORY not in vocabulary:
            raise ValueError(f"vocabulary: expected {UNKNOWN_CATEGORY!r} in it, got {', '.join(vocabulary)}")
        if not self._judge.can_judge and not self._said_nothing_to_judge.is_set():
            self._said_nothing_to_judge.set()
            _log.info("the embeddings backend of the profile knows no words: every instance is an object")
        return self._track(frames, hands, vocabulary, cuts)

    def _track(
        self,
        frames: Iterable[ClipFrame],
        hands: HandObjectTracks | None,
        vocabulary: Sequence[str],
        cuts: frozenset[int],
    ) -> Iterator[MaskFrame]:
        clip = _Clip(
            self._network,
            self._judge,
            self._options,
            hands=hands if HAND_CATEGORY in vocabulary else None,
            vocabulary=vocabulary,
            cuts=cuts,
        )
        with self._network.reporting_loss():
            for frame, features in self._network.encode(_checked(frames)):
                yield from clip.step(frame, features)
            yield from clip.finish()


@dataclass(frozen=True, eq=False, kw_only=True)
class _Seen:
    """One frame that a chunk may begin with.

    Attributes:
        position: Its position in the clip.
        features: What the image encoder says of it.
        ids: Instances.
        logits: Their masks, ``[len(ids), side, side]``.
    """

    position: int
    features: Features
    ids: list[int]
    logits: Any


@dataclass(frozen=True, eq=False, kw_only=True)
class _Drawn:
    """The instances of a frame at its size.

    Attributes:
        labels: ``uint16 [h, w]``, their ids.
        shown: Those that have a pixel.
        uncovered: Share of the pixels that belong to none.
    """

    labels: npt.NDArray[np.uint16]
    shown: tuple[int, ...]
    uncovered: float


@dataclass(frozen=True, eq=False, kw_only=True)
class _Waiting:
    """A result that waits for the categories of its new instances."""

    frame_index: int
    timestamp_ns: int
    drawn: _Drawn
    hand_scores: dict[int, float]
    reseeded: bool

    def result(self, said: dict[int, tuple[str, float]]) -> MaskFrame:
        sides = {number: side for side, number in HAND_IDS.items()}
        instances = [
            MaskInstance(
                instance_id=number, category=HAND_CATEGORY, score=self.hand_scores[number], side=sides[number]
            )
            if number in sides
            else MaskInstance(instance_id=number, category=said[number][0], score=said[number][1])
            for number in sorted(self.drawn.shown)
        ]
        return MaskFrame(
            frame_index=self.frame_index,
            timestamp_ns=self.timestamp_ns,
            instance_ids=self.drawn.labels,
            instances=tuple(instances),
            reseeded=self.reseeded,
        )


@dataclass(eq=False)
class _Looks:
    """Pictures of new instances, until there are enough to decide what they are."""

    crops: dict[int, list[BgrImage]] = field(default_factory=dict)
    taken: int = 0
    next_position: int = 0

    def take(self, position: int, image: BgrImage, labels: npt.NDArray[np.uint16]) -> None:
        if not self.crops or position < self.next_position:
            return
        for number, pictures in self.crops.items():
            crop = instance_crop(image, labels == number)
            if crop is not None:
                pictures.append(crop)
        self.taken += 1
        self.next_position = position + _LOOK_STEP


class _Clip:
    """What is known of a clip up to the present frame."""

    def __init__(
        self,
        network: Sam2Network,
        judge: CategoryJudge,
        options: Sam2Options,
        *,
        hands: HandObjectTracks | None,
        vocabulary: Sequence[str],
        cuts: frozenset[int],
    ) -> None:
        self._network, self._judge, self._options = network, judge, options
        self._hand_tracks, self._vocabulary, self._cuts = hands, vocabulary, cuts
        self._position = -1
        self._memory: Memory | None = None
        self._ids: list[int] = []
        self._recent: deque[_Seen] = deque(maxlen=options.overlap_frames)
        self._next_id = _FIRST_FREE_ID
        self._chunk_began = 0
        self._seeded_ns: int | None = None
        self._uncovered = 0.0
        self._hands_seen: dict[int, tuple[int, float]] = {}
        self._said: dict[int, tuple[str, float]] = {}
        self._looks = _Looks()
        self._waiting: list[_Waiting] = []

    def step(self, frame: ClipFrame, features: Features) -> Iterator[MaskFrame]:
        """Take the next frame; gives the results that are certain by then."""
        self._position += 1
        if frame.frame_index in self._cuts:
            self._forget()
        ids, logits = self._followed(features)
        hands = self._find_hands(frame, features, ids, logits)
        objects = [place for place, number in enumerate(ids) if number >= _FIRST_FREE_ID]
        ids, logits = [ids[place] for place in objects], logits[objects]
        drawn = self._draw(frame, ids, logits, hands)
        reseed = self._should_reseed(frame.timestamp_ns, drawn.uncovered)
        if reseed:
            self._decide()
            ids, logits = self._reseed(features, ids, logits, hands)
            drawn = self._draw(frame, ids, logits, hands)
            self._seeded_ns, self._uncovered = frame.timestamp_ns, drawn.uncovered
        self._recent.append(self._with_hands(features, ids, logits, hands))
        if reseed or self._position - self._chunk_began >= self._options.chunk_frames:
            self._begin_chunk()
        self._looks.take(self._position, frame.image, drawn.labels)
        self._waiting.append(
            _Waiting(
                frame_index=frame.frame_index,
                timestamp_ns=frame.timestamp_ns,
                drawn=drawn,
                hand_scores={number: self._hands_seen[number][1] for number in hands},
                reseeded=reseed,
            )
        )
        if self._looks.taken >= _LOOKS:
            self._decide()
        if not self._looks.crops:
            yield from self._certain()

    def finish(self) -> Iterator[MaskFrame]:
        """The results that were still waiting."""
        self._decide()
        yield from self._certain()

    def _certain(self) -> list[MaskFrame]:
        results = [waiting.result(self._said) for waiting in self._waiting]
        self._waiting.clear()
        return results

    def _forget(self) -> None:
        """A new scene begins: nothing of the one before is followed."""
        self._decide()
        self._memory, self._ids, self._seeded_ns = None, [], None
        self._recent.clear()

    # ------------------------------------------------------------------ from frame to frame

    def _followed(self, features: Features) -> tuple[list[int], Any]:
        if self._memory is None:
            side = self._network.mask_side
            return [], self._network.on_device(np.zeros((0, side, side), np.bool_))
        logits = self._network.follow(self._memory, self._position, features)
        return self._ids, logits[: len(self._ids)]

    def _should_reseed(self, time_ns: int, uncovered: float) -> bool:
        if self._seeded_ns is None:
            return True
        passed_s = (time_ns - self._seeded_ns) / NANOSECONDS
        lost = uncovered - self._uncovered
        return passed_s >= self._options.reseed_interval_s or (
            passed_s >= _REST_S and lost > self._options.lost_coverage
        )

    def _draw(
        self, frame: ClipFrame, ids: list[int], logits: Any, hands: dict[int, npt.NDArray[np.bool_]]
    ) -> _Drawn:
        width, height = frame.size
        places = self._network.index_map(logits, width=width, height=height)
        for place, mask in enumerate(hands.values(), len(ids) + 1):
            places[mask] = place
        # On bytes this takes a tenth of the time of counting and indexing with NumPy.
        sizes = cv2.calcHist([places], [0], None, [256], [0, 256]).ravel()
        numbers = np.zeros(256, np.uint16)
        numbers[1 : len(ids) + len(hands) + 1] = [*ids, *hands]
        specks = sizes < max(_SPECK_PX, _SPECK_SHARE * places.size)
        specks[len(ids) + 1 :] = sizes[len(ids) + 1 :] == 0
        numbers[specks] = 0
        return _Drawn(
            labels=np.asarray(cv2.LUT(places, numbers), dtype=np.uint16),
            shown=tuple(numbers[numbers > 0].tolist()),
            uncovered=float(sizes[numbers == 0].sum()) / places.size,
        )

    # ------------------------------------------------------------------ hands

    def _find_hands(
        self, frame: ClipFrame, features: Features, ids: list[int], logits: Any
    ) -> dict[int, npt.NDArray[np.bool_]]:
        """Masks of the wearer's hands at the frame's size, no two on one pixel.

        The hand layer says where they are; one that it loses is followed for a while.
        """
        width, height = frame.size
        seen = seen_hands(self._hand_tracks, frame.frame_index, width=width, height=height)
        masks: dict[int, npt.NDArray[np.bool_]] = {}
        for hand, mask in zip(seen, self._prompted(seen, features, width, height), strict=True):
            number = HAND_IDS[hand.side]
            masks[number] = mask
            self._hands_seen[number] = frame.timestamp_ns, hand.score
        for place, number in enumerate(ids):
            if number >= _FIRST_FREE_ID or number in masks or number not in self._hands_seen:
                continue
            if frame.timestamp_ns - self._hands_seen[number][0] <= _HAND_MEMORY_S * NANOSECONDS:
                masks[number] = self._network.drawn(logits[place][None], width=width, height=height)[0]
        taken = np.zeros((height, width), np.bool_)
        free = {}
        # Of two hands that overlap, the smaller is on top, or nothing of it might be left.
        for number, mask in sorted(masks.items(), key=lambda item: int(item[1].sum())):
            own = mask & ~taken
            if own.any():
                free[number] = own
                taken |= own
        return free

    def _prompted(
        self, seen: Sequence[SeenHand], features: Features, width: int, height: int
    ) -> list[npt.NDArray[np.bool_]]:
        if not seen:
            return []
        points = np.zeros((len(seen), 2 + len(INNER_LANDMARKS), 2), np.float32)
        labels = np.full(points.shape[:2], PADDING, np.int32)
        for place, hand in enumerate(seen):
            inner = hand.inner_points_xy
            points[place, :2] = hand.box_xyxy.reshape(2, 2)
            points[place, 2 : 2 + len(inner)] = inner
            labels[place, :2] = BOX
            labels[place, 2 : 2 + len(inner)] = INSIDE
        logits = self._network.prompted(features, points / np.array([width, height], np.float32), labels)
        drawn = self._network.drawn(logits, width=width, height=height)
        return [hand.accepted(mask) for hand, mask in zip(seen, drawn, strict=True)]

    def _with_hands(
        self, features: Features, ids: list[int], logits: Any, hands: dict[int, npt.NDArray[np.bool_]]
    ) -> _Seen:
        import torch  # type: ignore[import-not-found,unused-ignore]

        masks = self._on_network(hands)
        return _Seen(
            position=self._position,
            features=features,
            ids=[*hands, *ids],
            logits=torch.cat([masks, logits]),
        )

    def _on_network(self, hands: dict[int, npt.NDArray[np.bool_]]) -> Any:
        side = self._network.mask_side
        masks = np.stack(list(hands.values())) if hands else np.zeros((0, side, side), np.bool_)
        return self._network.on_device(masks)

    # ------------------------------------------------------------------ chunks

    def _begin_chunk(self) -> None:
        """Begin to remember anew, with the latest masks and those of the oldest frame that is still there."""
        import torch  # type: ignore[import-not-found,unused-ignore]

        ends = [self._recent[0], self._recent[-1]] if len(self._recent) > 1 else [self._recent[-1]]
        alive = {
            number
            for seen in ends
            for number, shown in zip(seen.ids, (seen.logits > 0).any(-1).any(-1).tolist(), strict=True)
            if shown
        }
        # Those that the latest frame does not hold any more were given up on purpose.
        self._ids = [number for number in self._recent[-1].ids if number in alive]
        self._chunk_began = self._position
        self._memory = None
        if not self._ids:
            return
        begun = []
        for seen in ends:
            rows = {number: row for row, number in enumerate(seen.ids)}
            nothing = torch.full_like(self._recent[-1].logits[0], -CERTAIN_LOGIT)
            masks = [seen.logits[rows[number]] if number in rows else nothing for number in self._ids]
            begun.append((seen.position, seen.features, torch.stack(masks)))
        self._memory = self._network.begin(begun)

    def _reseed(
        self, features: Features, ids: list[int], logits: Any, hands: dict[int, npt.NDArray[np.bool_]]
    ) -> tuple[list[int], Any]:
        """Search the whole picture; gives the instances from here on with their masks."""
        import torch  # type: ignore[import-not-found,unused-ignore]

        network, options = self._network, self._options
        hand_masks = self._on_network(hands) > 0
        in_hand = network.shared_pixels(logits > 0, hand_masks).sum(axis=1)
        sizes = (logits > 0).sum((-1, -2)).cpu().numpy()
        kept = [
            place for place in range(len(ids)) if not sizes[place] or in_hand[place] < _IN_HAND * sizes[place]
        ]
        ids, logits = [ids[place] for place in kept], logits[kept]
        found = self._searched(features)
        masks, known = found.logits > 0, self._exclusive(logits, hand_masks)
        areas = masks.sum((-1, -2)).cpu().numpy()
        known_areas = known.sum((-1, -2)).cpu().numpy()
        joined = join_by_overlap(
            network.shared_pixels(masks, known), areas, known_areas, pixels=network.mask_side**2
        )
        for row, column in enumerate(joined.known.tolist()):
            place = column - len(hands)
            # What came out from behind something, or was followed only in part, is taken as it shows now.
            if 0 <= place < len(ids) and areas[row] > known_areas[column]:
                logits[place] = found.logits[row]
        # What is hidden at present takes no one's place; it is given up soon unless it shows again.
        room = max(0, options.max_objects - int((sizes[kept] > 0).sum()))
        rows = np.flatnonzero(joined.is_new)[: min(room, _LAST_ID + 1 - self._next_id)].tolist()
        for row in rows:
            self._take_up(ids, float(found.scores[row]))
        return ids, torch.cat([logits, found.logits[rows]])

    def _searched(self, features: Features) -> Proposals:
        """The whole objects among what a search of the picture proposes."""
        network, options = self._network, self._options
        proposals = network.propose(
            features,
            points_per_side=options.points_per_side,
            predicted_iou_threshold=options.predicted_iou_threshold,
            stability_threshold=options.stability_threshold,
        )
        masks = proposals.logits > 0
        chosen = whole_objects(
            network.shared_pixels(masks, masks),
            proposals.scores,
            pixels=network.mask_side**2,
            min_share=options.min_share,
            max_count=options.max_objects,
        )
        return Proposals(logits=proposals.logits[chosen.tolist()], scores=proposals.scores[chosen])

    def _exclusive(self, logits: Any, hand_masks: Any) -> Any:
        """``bool [hands + instances, side, side]``: each pixel is of one of them, hands before instances."""
        import torch  # type: ignore[import-not-found,unused-ignore]

        side = self._network.mask_side
        indices = torch.from_numpy(self._network.index_map(logits, width=side, height=side))
        indices = indices.to(hand_masks.device)
        instances = [(indices == place + 1) & ~hand_masks.any(0) for place in range(logits.shape[0])]
        nothing = torch.zeros((side, side), dtype=torch.bool, device=hand_masks.device)
        return torch.stack([*hand_masks, *instances] or [nothing])

    def _take_up(self, ids: list[int], quality: float) -> None:
        """Give the next id to a new instance."""
        number = self._next_id
        self._next_id += 1
        ids.append(number)
        self._said[number] = UNKNOWN_CATEGORY, min(1.0, max(0.0, quality))
        if self._judge.can_judge:
            self._looks.crops[number] = []

    # ------------------------------------------------------------------ categories

    def _decide(self) -> None:
        """Decide what the new instances are, from the pictures that there are."""
        if self._looks.crops:
            self._said |= self._judge.judge(self._looks.crops, self._vocabulary)
        self._looks = _Looks()


def _load(
    card: ModelCard, configuration: Path, weights: Path, *, device: str, vos_optimized: Compile
) -> LoadedSam2:
    place = torch_device(device)
    is_compiled = compiles(vos_optimized, place)
    with _current(place):
        network = build_network(configuration, weights, vos_optimized=is_compiled)
    return LoadedSam2(network, device=device, is_compiled=is_compiled, name=card.name)


def _current(place: Any) -> AbstractContextManager[Any]:
    """A GPU as the current one: the package makes tables of positions on that one as soon as it builds a network."""
    if place.type != "cuda":
        return nullcontext()
    import torch  # type: ignore[import-not-found,unused-ignore]

    context: AbstractContextManager[Any] = torch.cuda.device(place)
    return context


def _files(card: ModelCard, checkpoint: str, models_dir: Path | None) -> tuple[Path, Path]:
    """Configuration and weights."""
    weights = located_folder(card, models_dir) / card.files[0].path
    if checkpoint == "own":
        return weights.with_name(card.files[1].path), weights
    return published_configuration(checkpoint), weights


def published_configuration(checkpoint: str) -> Path:
    """Configuration of a published checkpoint, as the package ``sam2`` ships it."""
    import sam2  # type: ignore[import-not-found,unused-ignore]

    folder = Path(sam2.__file__).parent / "configs" / "sam2.1"
    return folder / f"sam2.1_hiera_{CONFIGURATIONS[checkpoint]}.yaml"


def _checked(frames: Iterable[ClipFrame]) -> Iterator[ClipFrame]:
    size = None
    for frame in frames:
        check_image(frame.image)
        size = size or frame.size
        if frame.size != size:
            raise ValueError(f"frames: expected one size, got {list(size)} and then {list(frame.size)}")
        yield frame
