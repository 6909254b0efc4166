"""Pictures of the hand-object layer for people."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

from ego_assets.labels.hands import BONES
from ego_assets.media.overlays import RgbColour, draw_box, draw_label
from ego_assets.media.resize import shrink
from ego_assets.schema.detections import BgrImage
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.hands import HandObjectTracks, HandSide, HandTrack

#: Blue and orange: told apart by people who do not tell red from green (Okabe and Ito, 2008).
SIDE_COLOURS: dict[HandSide, RgbColour] = {"left": (86, 180, 233), "right": (230, 159, 0)}
OBJECT_COLOUR: RgbColour = (240, 228, 66)


def frames_to_show(tracks: HandObjectTracks, count: int) -> list[int]:
    """Places of up to ``count`` covered frames, ascending: evenly over those with a hand, or over all without one."""
    seen = np.flatnonzero(tracks.left.visible | tracks.right.visible)
    pool = seen if seen.size else np.arange(tracks.frame_index.size)
    if not pool.size:
        return []
    chosen = np.linspace(0, pool.size - 1, min(count, pool.size)).round().astype(int)
    return [int(pool[place]) for place in chosen]


def draw_hands(image: BgrImage, tracks: HandObjectTracks, position: int) -> BgrImage:
    """A copy of a frame with the hands' landmarks, boxes, sides and states, and the objects they hold."""
    picture = image
    for track in tracks.tracks:
        if track.visible[position]:
            picture = _draw_hand(picture, track, position)
    states = [
        f"{track.side[0].upper()} {track.states[position]}"
        for track in tracks.tracks
        if track.visible[position]
    ]
    return draw_label(picture, "  ".join(states) or "no hand of the wearer found")


def draw_sheet_tiles(
    frames: Iterable[ClipFrame], tracks: HandObjectTracks, *, max_side: int = 480
) -> list[BgrImage]:
    """Covered frames as tiles of a contact sheet, with what is known of their hands drawn in."""
    tiles = []
    for frame in frames:
        position = tracks.position(frame.frame_index)
        if position is None:
            continue
        tiles.append(shrink(draw_hands(frame.image, tracks, position), max_side))
    return tiles


def _draw_hand(image: BgrImage, track: HandTrack, position: int) -> BgrImage:
    colour = SIDE_COLOURS[track.side]
    picture = image.copy()
    held = track.contact_boxes_xyxy[position]
    if np.isfinite(held).all():
        picture = draw_box(picture, held, OBJECT_COLOUR)
    points = track.landmarks_xy[position]
    if np.isfinite(points).all():
        size = max(1, round(image.shape[1] / 400))
        corners = np.rint(np.clip(points, -1e4, 1e4)).astype(int).tolist()
        for a, b in BONES:
            cv2.line(picture, corners[a], corners[b], (255, 255, 255), size, cv2.LINE_AA)
        for corner in corners:
            cv2.circle(picture, corner, round(1.5 * size), colour[::-1], cv2.FILLED, cv2.LINE_AA)
    return draw_box(picture, track.boxes_xyxy[position], colour, track.side[0].upper())
