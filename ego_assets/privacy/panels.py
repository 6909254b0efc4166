"""Screens, documents and signs: the panels that carry text.

A line of text that is found tells where to look for the sheet, screen or label around it, on which other lines may
be too small or too faint to be found. Lines that lie together are taken as one block. Around a block two kinds of
evidence are tried: an area of the background's own colour that ends on all sides, and a closed outline with four
corners. Either must look like a flat, four-sided thing that holds the block; a wall with a small sign on it does
not. Where neither is found, a block of several lines is covered as a whole, with the gaps between its lines.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.schema.detections import BgrImage, Detections

#: Longer side in pixels of the copy on which panels are sought: their outlines survive, letters mostly do not.
_SEARCH_SIDE = 480
#: Lines belong to one block where boxes grown by this many line heights on each side touch.
_BLOCK_REACH = 0.75
#: Blocks examined per picture, the largest first.
_MAX_BLOCKS = 8
#: A block is searched around within this many times its longer side on each side.
_WINDOW_REACH = 2.0
#: Greatest distance from the background's colour in OpenCV's 8-bit Lab: lightness varies with shading more than
#: colour does.
_COLOUR_TOLERANCE = (30, 12, 12)
#: Share of its smallest enclosing (slanted) rectangle that a panel fills.
_LEAST_RECTANGULARITY = 0.8
#: Share of the block's area that must lie on the panel.
_LEAST_HELD = 0.85
#: Sides of the picture that a panel may run across: a held sheet may leave the picture, a wall leaves it all over.
_MAX_CUT_SIDES = 2
#: Share of a panel that lines must fill where it is larger than ``max_share`` of the picture: a page held close may
#: fill the picture, a wall with a sign may not be covered.
_PAGE_FILL = 0.15
_LARGEST_PAGE_SHARE = 0.9
#: Lines from which a block without a panel is covered as a whole, and the share of it that lines must fill: text
#: is set close, signs across a street are not.
_BLOCK_LINES = 3
_BLOCK_FILL = 0.35

_Box = npt.NDArray[np.float32]


class _Block(NamedTuple):
    box: _Box
    score: float
    lines: _Box


def grow_to_panels(
    image: BgrImage, text: Detections, *, max_share: float = 0.3, max_growth: float = 40.0
) -> Detections:
    """The panels that carry these lines of text, as upright boxes.

    Args:
        image: ``uint8 [height, width, 3]``, the downscaled copy.
        text: Lines found on it, in its pixels.
        max_share: Largest panel as share of the picture. A page or a block full of text may be larger.
        max_growth: Largest panel relative to the area of its lines: a single price tag does not cover a wall.

    Returns:
        At most one box per block of lines, with the highest score of its lines; empty where no block lies on a
        panel and none has several lines.
    """
    if not len(text):
        return Detections.empty()
    height, width = image.shape[:2]
    scale = min(1.0, _SEARCH_SIDE / max(height, width))
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image
    picture = np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2LAB), dtype=np.uint8)
    factors = np.array([small.shape[1] / width, small.shape[0] / height] * 2, dtype=np.float32)
    boxes: list[_Box] = []
    scores: list[float] = []
    for block in _blocks(text.boxes_xyxy * factors, text.scores):
        found = _panel(picture, block, max_share=max_share, max_growth=max_growth)
        if found is None:
            found = _block_box(block, picture)
        if found is not None and not any(_held(found, other) > _LEAST_HELD for other in boxes):
            boxes.append(found)
            scores.append(block.score)
    if not boxes:
        return Detections.empty()
    return Detections(np.stack(boxes) / factors, np.array(scores, dtype=np.float32))


def _blocks(lines: _Box, scores: npt.NDArray[np.float32]) -> list[_Block]:
    """Lines that lie together, the block with the largest box first."""
    sizes = lines[:, 2:] - lines[:, :2]
    reach = _BLOCK_REACH * sizes.min(axis=1, keepdims=True)
    grown = np.concatenate([lines[:, :2] - reach, lines[:, 2:] + reach], axis=1)
    touching = np.all(
        np.minimum(grown[:, None, 2:], grown[None, :, 2:])
        > np.maximum(grown[:, None, :2], grown[None, :, :2]),
        axis=-1,
    )
    blocks = []
    free = np.ones(len(lines), dtype=bool)
    while free.any():
        members = np.zeros(len(lines), dtype=bool)
        members[np.argmax(free)] = True
        while True:
            reached = members | (touching[members].any(axis=0) & free)
            if bool(np.all(reached == members)):
                break
            members = reached
        free &= ~members
        own = lines[members]
        box = np.concatenate([own[:, :2].min(axis=0), own[:, 2:].max(axis=0)])
        blocks.append(_Block(box, float(scores[members].max()), own))
    return sorted(blocks, key=lambda block: -_area(block.box))[:_MAX_BLOCKS]


def _panel(picture: BgrImage, block: _Block, *, max_share: float, max_growth: float) -> _Box | None:
    """The smallest panel around a block; ``picture`` is in Lab."""
    height, width = picture.shape[:2]
    reach = _WINDOW_REACH * float((block.box[2:] - block.box[:2]).max())
    left, top = np.clip(np.floor(block.box[:2] - reach).astype(int), 0, None)
    right, bottom = np.minimum(np.ceil(block.box[2:] + reach).astype(int), (width, height))
    window = np.ascontiguousarray(picture[top:bottom, left:right])
    offset = np.array([left, top] * 2, dtype=np.float32)
    lines = block.lines - offset
    # Sides where the window ends before the picture does: what runs across them is larger than any panel.
    open_sides = (left > 0, top > 0, right < width, bottom < height)
    text_area = float(_areas(lines).sum())
    page = min(_LARGEST_PAGE_SHARE * width * height, text_area / _PAGE_FILL)
    largest = min(max(max_share * width * height, page), max_growth * text_area)
    candidates = [
        box
        for contour in (*_same_colour(window, lines), *_outlines(window, lines))
        if (box := _accepted(contour, window, block.box - offset, open_sides, largest)) is not None
    ]
    if not candidates:
        return None
    smallest = min(candidates, key=_area) + offset
    # A line may stand out over the edge of its label.
    sides = np.concatenate([np.minimum(smallest[:2], block.box[:2]), np.maximum(smallest[2:], block.box[2:])])
    return np.asarray(sides, dtype=np.float32)


def _same_colour(window: BgrImage, lines: _Box) -> list[npt.NDArray[np.int32]]:
    """Outline of the area around the lines that has the colour of their background."""
    on_lines = _mask(window, lines)
    ring = cv2.dilate(on_lines, np.ones((3, 3), np.uint8)) > on_lines
    if not ring.any():
        return []
    background = np.median(window[ring], axis=0)
    low = np.clip(background - _COLOUR_TOLERANCE, 0, 255)
    high = np.clip(background + _COLOUR_TOLERANCE, 0, 255)
    alike = np.asarray(cv2.inRange(window, low, high) > 0, dtype=np.uint8)
    # Opening cuts thin bridges to things of the same colour; the lines themselves belong to the area.
    opened = cv2.morphologyEx(alike | on_lines, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    alike = np.asarray(opened, dtype=np.uint8) | on_lines
    contours, _ = cv2.findContours(alike, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [np.asarray(contour, dtype=np.int32) for contour in contours]


def _outlines(window: BgrImage, lines: _Box) -> list[npt.NDArray[np.int32]]:
    """Closed outlines with four corners, such as the bezel of a screen that shows a picture."""
    edges = cv2.Canny(np.ascontiguousarray(window[..., 0]), 30, 90)
    edges[_mask(window, lines) > 0] = 0
    edges = cv2.dilate(edges, np.ones((3, 3), np.uint8))
    contours, _ = cv2.findContours(edges, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    # The outer side of an outline holds more than the block's longest line.
    least_px = 2 * float((lines[:, 2:] - lines[:, :2]).max())
    quadrilaterals = []
    for contour in contours:
        length = cv2.arcLength(contour, True)
        if length < least_px:
            continue
        corners = cv2.approxPolyDP(contour, 0.03 * length, True)
        if len(corners) == 4 and cv2.isContourConvex(corners):
            quadrilaterals.append(np.asarray(corners, dtype=np.int32))
    return quadrilaterals


def _accepted(
    contour: npt.NDArray[np.int32],
    window: BgrImage,
    block: _Box,
    open_sides: tuple[bool, bool, bool, bool],
    largest: float,
) -> _Box | None:
    """The upright box of an outline that is a plausible panel for the block."""
    left, top, across, down = cv2.boundingRect(contour)
    box = np.array([left, top, left + across, top + down], dtype=np.float32)
    if _area(box) > largest or _held(block, box) < _LEAST_HELD or _area(box) < 1.1 * _area(block):
        return None
    height, width = window.shape[:2]
    cut = (left <= 0, top <= 0, left + across >= width, top + down >= height)
    if any(c and o for c, o in zip(cut, open_sides, strict=True)) or sum(cut) > _MAX_CUT_SIDES:
        return None
    _, sides, _ = cv2.minAreaRect(contour)
    if cv2.contourArea(contour) < _LEAST_RECTANGULARITY * sides[0] * sides[1]:
        return None
    return box


def _block_box(block: _Block, picture: BgrImage) -> _Box | None:
    """The whole block, where it is several lines set close."""
    area = _area(block.box)
    if len(block.lines) < _BLOCK_LINES or area > _LARGEST_PAGE_SHARE * picture.shape[0] * picture.shape[1]:
        return None
    return block.box if float(_areas(block.lines).sum()) >= _BLOCK_FILL * area else None


def _mask(window: BgrImage, lines: _Box) -> npt.NDArray[np.uint8]:
    mask = np.zeros(window.shape[:2], dtype=np.uint8)
    for left, top, right, bottom in np.rint(np.clip(lines, 0, None)).astype(int):
        mask[top : bottom + 1, left : right + 1] = 1
    return mask


def _areas(boxes: _Box) -> npt.NDArray[np.float32]:
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), dtype=np.float32)


def _area(box: _Box) -> float:
    return float((box[2:] - box[:2]).prod())


def _held(inner: _Box, outer: _Box) -> float:
    """Share of ``inner`` that lies in ``outer``."""
    overlap = np.minimum(inner[2:], outer[2:]) - np.maximum(inner[:2], outer[:2])
    return float(np.clip(overlap, 0, None).prod()) / max(_area(inner), 1e-9)
