"""Splits one picture into regions of similar colour and texture, without a trained model."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.schema.arrays import read_only
from ego_assets.schema.detections import BgrImage

LabelMap = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]

#: Weights of the three parts of a merge's cost, which is in units of CIELAB (about 2 is a just visible difference):
#: colour means, colour step across the common border, texture.
_COLOUR, _BORDER, _TEXTURE = 0.45, 0.55, 0.4
#: Pictures are smoothed by this much before they are compared, in pixels.
_SIGMA_PX = 1.0
#: Lightness counts less than colour: it varies with shading inside one thing.
_LIGHTNESS = 0.7
#: A region of this share of the picture is merged at the plain cost; smaller ones more readily, larger ones less.
_REFERENCE_SHARE = 0.01
_SIZE_EXPONENT = 0.3
_SIZE_FACTORS = (0.3, 1.4)
#: Pixels per pixel of border below which a region is a sliver along an edge and not a thing: half its width.
_SLIVER = 2.5
#: What was one instance before stays one, and what was two stays two, unless the picture speaks clearly against it.
_SAME_PRIOR, _OTHER_PRIOR = 0.5, 1.5
#: The outline of a thing in a hand is expected where its box ends.
_ACROSS_BOX = 1.5


@dataclass(frozen=True, kw_only=True)
class RegionOptions:
    """How finely a picture is split.

    Attributes:
        superpixel_px: Side of the smallest parts that are merged, in pixels of the picture given.
        merge_threshold: Neighbours merge while their difference, in units of CIELAB, is below.
        min_share: Regions below this share of the picture are merged into the neighbour most like them.
        max_regions: More regions than this are merged whatever they cost.
    """

    superpixel_px: int = 9
    merge_threshold: float = 8.0
    min_share: float = 0.004
    max_regions: int = 40

    def __post_init__(self) -> None:
        if self.superpixel_px < 3:
            raise ValueError(f"superpixel_px: expected 3 or more, got {self.superpixel_px}")
        if not self.merge_threshold > 0:
            raise ValueError(f"merge_threshold: expected more than 0, got {self.merge_threshold}")
        if not 0 <= self.min_share < 1:
            raise ValueError(f"min_share: expected 0 up to 1, got {self.min_share}")
        if self.max_regions < 1:
            raise ValueError(f"max_regions: expected 1 or more, got {self.max_regions}")


@dataclass(frozen=True, eq=False, kw_only=True)
class Regions:
    """The regions of one picture.

    Attributes:
        labels: ``int32 [h, w]``, region of each pixel from 0; -1 where there is none.
        contrast: ``float32 [N]``, difference of each region to the neighbour most like it, in units of CIELAB; infinite
            for a region without neighbours.
    """

    labels: LabelMap
    contrast: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        for name in ("labels", "contrast"):
            object.__setattr__(self, name, read_only(getattr(self, name)))

    def __len__(self) -> int:
        return int(self.contrast.size)


def segment_regions(
    image: BgrImage,
    *,
    options: RegionOptions,
    prior: LabelMap | None = None,
    exclude: Mask | None = None,
    boxes_xyxy: npt.NDArray[np.float32] | None = None,
) -> Regions:
    """Split a picture: superpixels (SLIC, Achanta et al. 2012), merged most similar first.

    Args:
        image: ``uint8 [h, w, 3]``, BGR.
        options: How finely.
        prior: ``int32 [h, w]``, what is known from the frame before; 0 for nothing. Parts of one instance merge more
            readily, parts of two less.
        exclude: ``bool [h, w]``, pixels that are already taken.
        boxes_xyxy: ``float32 [B, 4]``, things in a hand: what lies inside one merges less readily with what is outside.
    """
    height, width = image.shape[:2]
    # Noise would look like steps across every border.
    smooth = np.asarray(cv2.GaussianBlur(image, (0, 0), _SIGMA_PX), dtype=np.uint8)
    lab = np.asarray(cv2.cvtColor(smooth.astype(np.float32) / 255, cv2.COLOR_BGR2Lab), dtype=np.float32)
    parts = _superpixels(smooth, options.superpixel_px)
    if exclude is not None:
        parts = np.where(exclude, -1, parts)
    parts, count = _compact(parts)
    if count == 0:
        return Regions(labels=np.full((height, width), -1, np.int32), contrast=np.zeros(0, np.float32))
    graph = _RegionGraph(lab, parts, count, pixels=height * width)
    if prior is not None:
        graph.prior = _dominant(parts, prior, count)
    if boxes_xyxy is not None and len(boxes_xyxy):
        graph.inside = _inside(parts, boxes_xyxy, count)
    graph.merge(
        threshold=options.merge_threshold,
        min_pixels=options.min_share * height * width,
        max_regions=options.max_regions,
    )
    numbers, contrast = graph.result()
    labels = np.append(numbers, np.int32(-1))[parts]
    return Regions(labels=labels, contrast=contrast)


def used_labels(labels: LabelMap) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The labels that occur, ascending, ``int64 [N]``, and the place of each pixel's among them, ``int64 [h, w]``.

    Labels are 0 or more.
    """
    used = np.bincount(labels.ravel()) > 0
    return np.flatnonzero(used), (np.cumsum(used) - 1)[labels]


def fill_lines(labels: LabelMap) -> LabelMap:
    """Labels of a watershed with its lines (-1) given to a neighbour, ``int32 [h, w]``."""
    filled = labels.astype(np.float32)
    while np.any(lines := filled < 0):
        grown = cv2.dilate(filled, np.ones((3, 3), np.uint8))
        if grown.max() < 0:
            return np.zeros_like(labels)
        filled[lines] = grown[lines]
    return filled.astype(np.int32)


def _superpixels(image: BgrImage, side: int) -> LabelMap:
    height, width = image.shape[:2]
    if min(height, width) < 2 * side:
        return np.zeros((height, width), np.int32)
    slic = cv2.ximgproc.createSuperpixelSLIC(
        cv2.cvtColor(image, cv2.COLOR_BGR2Lab), cv2.ximgproc.SLIC, side, 12.0
    )
    slic.iterate(4)
    slic.enforceLabelConnectivity(25)
    return np.asarray(slic.getLabels(), dtype=np.int32)


def _compact(parts: LabelMap) -> tuple[LabelMap, int]:
    """Labels from 0 without gaps; negative ones become -1."""
    used = np.bincount(parts[parts >= 0].ravel()) > 0
    numbers = np.append(np.where(used, np.cumsum(used) - 1, -1), -1).astype(np.int32)
    return numbers[np.maximum(parts, -1)], int(used.sum())


def _dominant(parts: LabelMap, prior: LabelMap, count: int) -> list[int]:
    """The id that covers most of each part, or 0 where none covers half of it."""
    ids, places = used_labels(prior)
    valid = parts >= 0
    pairs = parts[valid].astype(np.int64) * ids.size + places[valid]
    table = np.bincount(pairs, minlength=count * ids.size).reshape(count, ids.size)
    best = table.argmax(axis=1)
    sure = table.max(axis=1) * 2 >= table.sum(axis=1)
    return [int(value) for value in np.where(sure, ids[best], 0)]


def _inside(parts: LabelMap, boxes: npt.NDArray[np.float32], count: int) -> list[int]:
    """Number of the box, from 1, that most of each part lies in; 0 for none."""
    height, width = parts.shape
    painted = np.zeros((height, width), np.int32)
    for number, (left, top, right, bottom) in enumerate(boxes, 1):
        painted[
            max(0, round(float(top))) : max(0, round(float(bottom))),
            max(0, round(float(left))) : max(0, round(float(right))),
        ] = number
    return _dominant(parts, painted, count)


class _RegionGraph:
    """Parts of a picture, their neighbours, and what merging them costs."""

    def __init__(self, lab: npt.NDArray[np.float32], parts: LabelMap, count: int, *, pixels: int) -> None:
        valid = parts >= 0
        flat, values = parts[valid], lab[valid]
        area = np.bincount(flat, minlength=count).astype(np.float64)
        sums = np.stack([np.bincount(flat, values[:, c], minlength=count) for c in range(3)], axis=1)
        sums = sums * np.array([_LIGHTNESS, 1, 1])
        squares = np.bincount(flat, values[:, 0].astype(np.float64) ** 2, minlength=count)
        self.area: list[float] = area.tolist()
        self.sums: list[list[float]] = sums.tolist()
        self.squares: list[float] = squares.tolist()
        self.prior = [0] * count
        self.inside = [0] * count
        self.parent = list(range(count))
        self.alive = count
        self.reference = _REFERENCE_SHARE * pixels
        self.border = [0.0] * count
        self.looks = [self._look(part) for part in range(count)]
        self.weight = [self._weight(part) for part in range(count)]
        self.neighbours: list[dict[int, list[float]]] = [{} for _ in range(count)]
        self._connect(lab, parts, count)

    def _connect(self, lab: npt.NDArray[np.float32], parts: LabelMap, count: int) -> None:
        """Length of each common border and the sum of colour steps along it, three pixels apart."""
        weighted = lab * np.array([_LIGHTNESS, 1, 1], np.float32)
        keys, steps = [], []
        for axis in (0, 1):
            # Two pixels either side of the border: the step of a soft edge spans several.
            ahead, behind = np.roll(weighted, -2, axis=axis), np.roll(weighted, 1, axis=axis)
            step = np.sqrt(((ahead - behind) ** 2).sum(axis=2))
            first = parts[:-1] if axis == 0 else parts[:, :-1]
            second = parts[1:] if axis == 0 else parts[:, 1:]
            inner = step[:-1] if axis == 0 else step[:, :-1]
            wrapped = np.zeros(inner.shape, np.bool_)
            wrapped[
                (slice(None, 1) if axis == 0 else slice(None), slice(None, 1) if axis else slice(None))
            ] = True
            wrapped[
                (slice(-1, None) if axis == 0 else slice(None), slice(-1, None) if axis else slice(None))
            ] = True
            border = (first != second) & (first >= 0) & (second >= 0) & ~wrapped
            low = np.minimum(first[border], second[border]).astype(np.int64)
            high = np.maximum(first[border], second[border]).astype(np.int64)
            keys.append(low * count + high)
            steps.append(inner[border])
        pairs, places = np.unique(np.concatenate(keys), return_inverse=True)
        lengths = np.bincount(places, minlength=pairs.size)
        totals = np.bincount(places, np.concatenate(steps), minlength=pairs.size)
        for pair, length, total in zip(pairs.tolist(), lengths.tolist(), totals.tolist(), strict=True):
            a, b = divmod(pair, count)
            self.neighbours[a][b] = self.neighbours[b][a] = [float(length), float(total)]
            self.border[a] += length
            self.border[b] += length

    def difference(self, a: int, b: int) -> float:
        """How unlike two neighbours are, in units of CIELAB."""
        l1, a1, b1, deviation1 = self.looks[a]
        l2, a2, b2, deviation2 = self.looks[b]
        colour = ((l1 - l2) ** 2 + (a1 - a2) ** 2 + (b1 - b2) ** 2) ** 0.5
        length, total = self.neighbours[a][b]
        return float(_COLOUR * colour + _BORDER * total / length + _TEXTURE * abs(deviation1 - deviation2))

    def _look(self, a: int) -> tuple[float, float, float, float]:
        """Mean colour of a region, and the deviation of its lightness."""
        area = self.area[a]
        lightness, green_red, blue_yellow = self.sums[a]
        variance = self.squares[a] / area - (lightness / _LIGHTNESS / area) ** 2
        return lightness / area, green_red / area, blue_yellow / area, max(variance, 0.0) ** 0.5

    def cost(self, a: int, b: int) -> float:
        """What merging two neighbours costs."""
        cost = self.difference(a, b) * min(self.weight[a], self.weight[b])
        if self.prior[a] and self.prior[b]:
            cost *= _SAME_PRIOR if self.prior[a] == self.prior[b] else _OTHER_PRIOR
        if self.inside[a] != self.inside[b]:
            cost *= _ACROSS_BOX
        return cost

    def _weight(self, a: int) -> float:
        """Small regions merge more readily, large ones less."""
        low, high = _SIZE_FACTORS
        return float(min(max((self.area[a] / self.reference) ** _SIZE_EXPONENT, low), high))

    def merge(self, *, threshold: float, min_pixels: float, max_regions: int) -> None:
        """Merge what is alike, then what is too small or thin, then what is too many; each time the cheapest first."""
        self._merge_while(lambda cost, a, b: cost <= threshold)
        self._merge_while(lambda cost, a, b: self._is_scrap(a, min_pixels) or self._is_scrap(b, min_pixels))
        self._merge_while(lambda cost, a, b: self.alive > max_regions)

    def _merge_while(self, wanted: Callable[[float, int, int], bool]) -> None:
        """Merge the cheapest pair of neighbours again and again, as long as there is one that is wanted."""
        heap = [
            (self.cost(a, b), a, b)
            for a, near in enumerate(self.neighbours)
            for b in near
            if a < b and wanted(self.cost(a, b), a, b)
        ]
        heapq.heapify(heap)
        while heap:
            cost, a, b = heapq.heappop(heap)
            if b not in self.neighbours[a]:
                continue
            actual = self.cost(a, b)
            if actual > cost * 1.0001 + 1e-9:
                heapq.heappush(heap, (actual, a, b))
                continue
            if not wanted(actual, a, b):
                continue
            kept = self._join(a, b)
            for near in self.neighbours[kept]:
                pair = (kept, near) if kept < near else (near, kept)
                new = self.cost(kept, near)
                if wanted(new, *pair):
                    heapq.heappush(heap, (new, *pair))

    def _is_scrap(self, a: int, min_pixels: float) -> bool:
        return self.area[a] < min_pixels or self.area[a] < _SLIVER * self.border[a]

    def _join(self, a: int, b: int) -> int:
        """Merge ``b`` into ``a``, the larger of the two; returns the one kept."""
        if self.area[b] > self.area[a]:
            a, b = b, a
        if not self.prior[a]:
            self.prior[a] = self.prior[b]
        self.area[a] += self.area[b]
        self.sums[a] = [x + y for x, y in zip(self.sums[a], self.sums[b], strict=True)]
        self.squares[a] += self.squares[b]
        self.looks[a], self.weight[a] = self._look(a), self._weight(a)
        self.parent[b] = a
        self.alive -= 1
        near = self.neighbours[a]
        self.border[a] += self.border[b] - 2 * near.pop(b)[0]
        for other, (length, total) in self.neighbours[b].items():
            if other == a:
                continue
            del self.neighbours[other][b]
            border = near.get(other)
            if border is None:
                near[other] = self.neighbours[other][a] = [length, total]
            else:
                border[0] += length
                border[1] += total
        self.neighbours[b] = {}
        return a

    def result(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Region of each part, from 0, and the contrast of each region."""
        roots = [part for part, parent in enumerate(self.parent) if part == parent]
        number = {root: place for place, root in enumerate(roots)}
        of_part = np.empty(len(self.parent), np.int32)
        for part in range(len(self.parent)):
            root = part
            while self.parent[root] != root:
                root = self.parent[root]
            of_part[part] = number[root]
        contrast = [
            min((self.difference(root, near) for near in self.neighbours[root]), default=np.inf)
            for root in roots
        ]
        return of_part, np.array(contrast, np.float32)
