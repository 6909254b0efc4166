"""The room, what stands in it, and what is seen of it at a given time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.schema.hands import HandSide, HandState
from ego_assets.synth import textures
from ego_assets.synth.hands import SCHEDULES, draw_hand, visible_hand, wrist_at_rest
from ego_assets.synth.raster import (
    FloatArray,
    Quad,
    Rasterizer,
    Rendering,
    clip_polygon,
    polygon_mask,
    project,
)
from ego_assets.synth.spec import SceneSpec
from ego_assets.synth.textures import Bgr, Texture
from ego_assets.synth.trajectory import trajectory_of

ObjectKind = Literal["face", "text", "plate", "hand_left", "hand_right", "object"]

#: Half the longer side of the picture over the focal length: a horizontal field of view of 90 degrees.
_FOCAL_PER_LONGER_SIDE = 0.5

#: Texture resolution for a picture whose longer side has 1280 pixels; it scales with the picture.
_PIXELS_PER_METRE = 340.0

# The room in metres: x from left to right, y from back to front, z from floor to ceiling.
_ROOM_X, _ROOM_Y, _ROOM_Z = (-2.8, 2.8), (-2.2, 3.0), (0.0, 2.6)
_TABLE_X, _TABLE_Y, _TABLE_Z = (-1.3, 1.3), (0.35, 0.90), 1.0

# Where things stand: direction to the right of straight ahead in degrees, and distance in metres.
_PEOPLE = ((-20.0, 1.75), (56.0, 1.65), (4.0, 2.6), (-48.0, 2.4), (78.0, 2.3), (-78.0, 2.2))
_PLATES = ((31.0, 2.35), (-62.0, 2.0))

#: Wall, horizontal centre along it and height of the centre, in metres.
_PANELS = (("front", 0.95, 1.72), ("front", -2.05, 1.62), ("right", 0.9, 1.6), ("left", 0.6, 1.6))
_PANEL_SIZE_M = (1.15, 0.72)
_PLATE_SIZE_M = (0.52, 0.12)


_UP = np.array([0.0, 0.0, 1.0])

_HAND_KINDS: dict[HandSide, ObjectKind] = {"left": "hand_left", "right": "hand_right"}


@dataclass(frozen=True)
class FrameBox:
    """One thing that is visible in one frame.

    Attributes:
        frame_index: Frame in decoded order.
        kind: What it is. ``text`` is one line of text, ``object`` is what a hand reaches for.
        object_id: Number of the thing among its kind; stays the same through the clip.
        box_xyxy: Left, top, right, bottom in upright pixels, clipped to the picture; for hands around what is
            in the picture and not hidden, for everything else around parts hidden by others too.
        visible_fraction: Share of it that is in the picture and not hidden, above 0 up to 1.
    """

    frame_index: int
    kind: ObjectKind
    object_id: int
    box_xyxy: tuple[float, float, float, float]
    visible_fraction: float

    def __post_init__(self) -> None:
        left, top, right, bottom = self.box_xyxy
        if not (left < right and top < bottom):
            raise ValueError(f"box_xyxy: expected left < right and top < bottom, got {self.box_xyxy}")
        if not 0 < self.visible_fraction <= 1:
            raise ValueError(f"visible_fraction: expected above 0 up to 1, got {self.visible_fraction}")


@dataclass(frozen=True, eq=False)
class _Region:
    """A part of one quad, or several whole quads, whose box is ground truth."""

    kind: ObjectKind
    object_id: int
    quads: tuple[int, ...]
    rectangle: tuple[float, float, float, float] | None
    solid_fraction: float


@dataclass(frozen=True, eq=False)
class SceneFrame:
    """What the camera sees at one time.

    Attributes:
        rendering: Sharp, fully lit picture with depth.
        boxes: What is visible.
        hand_states: State of each hand.
    """

    rendering: Rendering
    boxes: tuple[FrameBox, ...]
    hand_states: dict[HandSide, HandState]


class Scene:
    """Everything a :class:`SceneSpec` describes, ready to be rendered at any time."""

    def __init__(self, spec: SceneSpec) -> None:
        self.spec = spec
        self.trajectory = trajectory_of(spec)
        focal = _FOCAL_PER_LONGER_SIDE * max(spec.width, spec.height)
        self.intrinsics: FloatArray = np.array(
            [[focal, 0, (spec.width - 1) / 2], [0, focal, (spec.height - 1) / 2], [0, 0, 1.0]]
        )
        self._generator = np.random.default_rng([spec.seed, 2])
        self._pixels_per_metre = float(
            np.clip(_PIXELS_PER_METRE * max(spec.width, spec.height) / 1280, 50, 510)
        )
        self._skin_tone = int(self._generator.integers(4))
        self._hand_phase_rad = float(self._generator.uniform(0, 2 * math.pi))
        self._quads: list[Quad] = []
        self._regions: list[_Region] = []
        self._objects: dict[HandSide, FloatArray] = {}
        self._build_room()
        self._build_furniture()
        self._build_people()
        self._build_panels()
        self._build_plates()
        if spec.hands:
            self._build_objects()
        self._rasterizer = Rasterizer(
            self._quads, width=spec.width, height=spec.height, intrinsics=self.intrinsics
        )

    def frame(self, time_s: float, frame_index: int) -> SceneFrame:
        """What is seen ``time_s`` after the first nominal frame; ``frame_index`` is put into the boxes."""
        pose = self.trajectory.poses(np.array([time_s]))[0]
        progress = time_s / self.spec.duration_s
        offsets = {f"object_{side}": self._lift(side, progress) for side in self._objects}
        rendering = self._rasterizer.render(pose, offsets)
        boxes: list[FrameBox] = []
        states: dict[HandSide, HandState] = {}
        if self.spec.hands:
            for side in SCHEDULES:
                states[side] = SCHEDULES[side].state(progress)
            drawn = {side: self._draw_hand(rendering, side, time_s, pose, offsets) for side in SCHEDULES}
            for side, pixel_count in drawn.items():
                hand = visible_hand(rendering, side, pixel_count)
                if hand is not None:
                    box = FrameBox(frame_index, _HAND_KINDS[side], 0, hand.box_xyxy, hand.visible_fraction)
                    boxes.append(box)
        boxes.extend(self._visible_regions(rendering, pose, offsets, frame_index))
        return SceneFrame(rendering, tuple(boxes), states)

    # ------------------------------------------------------------------ what moves

    def _lift(self, side: HandSide, progress: float) -> FloatArray:
        held = math.sin(math.pi * SCHEDULES[side].hold_fraction(progress)) ** 2
        sign = 1.0 if side == "right" else -1.0
        return np.array([-0.06 * sign * held, 0.0, 0.11 * held])

    def _draw_hand(
        self,
        rendering: Rendering,
        side: HandSide,
        time_s: float,
        pose: FloatArray,
        offsets: dict[str, FloatArray],
    ) -> int:
        schedule, progress = SCHEDULES[side], time_s / self.spec.duration_s
        rest = wrist_at_rest(side, time_s, self._hand_phase_rad)
        target_world = self._objects[side] + offsets[f"object_{side}"]
        target = (target_world - pose[:3, 3]) @ pose[:3, :3]
        sign = 1.0 if side == "right" else -1.0
        # Fingers, not the wrist, end at the object, and they close around it from above and outside.
        at_object = target + np.array([sign * 0.055, 0.035, -0.085])
        reach = schedule.reach_fraction(progress)
        wrist = rest + reach * (at_object - rest)
        open_hand, closed_hand = 0.22, 0.62
        curl = open_hand + (closed_hand - open_hand) * max(0.0, (reach - 0.85) / 0.15)
        return draw_hand(
            rendering, side=side, wrist=wrist, curl=curl, intrinsics=self.intrinsics, tone=self._skin_tone
        )

    # ------------------------------------------------------------------ what is visible

    def _visible_regions(
        self, rendering: Rendering, pose: FloatArray, offsets: dict[str, FloatArray], frame_index: int
    ) -> Iterator[FrameBox]:
        width, height = self.spec.width, self.spec.height
        for region in self._regions:
            corners = np.concatenate(
                [
                    self._quads[index].corners(region.rectangle)
                    + offsets.get(self._quads[index].group, np.zeros(3))
                    for index in region.quads
                ]
            )
            in_camera = (corners - pose[:3, 3]) @ pose[:3, :3]
            if len(region.quads) == 1:
                in_camera = clip_polygon(in_camera, np.zeros((0, 3)))
            elif np.any(in_camera[:, 2] < 0.1):
                continue
            if len(in_camera) < 3:
                continue
            pixels = project(in_camera, self.intrinsics)
            left, top = pixels.min(axis=0) + 0.5
            right, bottom = pixels.max(axis=0) + 0.5
            box = (
                float(max(left, 0.0)),
                float(max(top, 0.0)),
                float(min(right, width)),
                float(min(bottom, height)),
            )
            if box[2] - box[0] < 0.5 or box[3] - box[1] < 0.5:
                continue
            visible = _visible_fraction(rendering.owner, pixels, region.quads) / region.solid_fraction
            if visible > 0:
                yield FrameBox(frame_index, region.kind, region.object_id, box, min(visible, 1.0))

    # ------------------------------------------------------------------ building blocks

    def _pixels(self, metres: float) -> int:
        return max(8, round(metres * self._pixels_per_metre))

    def _plane(
        self, origin: FloatArray, edge_u: FloatArray, edge_v: FloatArray, texture: Texture, tile_m: float
    ) -> None:
        """Add a large surface as tiles, so that each is drawn at the resolution that suits its distance."""
        columns = max(1, round(float(np.linalg.norm(edge_u)) / tile_m))
        rows = max(1, round(float(np.linalg.norm(edge_v)) / tile_m))
        for row in range(rows):
            for column in range(columns):
                window = (column / columns, row / rows, (column + 1) / columns, (row + 1) / rows)
                self._quads.append(
                    Quad(origin=origin, edge_u=edge_u, edge_v=edge_v, texture=texture, window=window)
                )

    def _box(
        self,
        centre: tuple[float, float, float],
        size: tuple[float, float, float],
        picture: npt.NDArray[np.uint8],
        *,
        heading_deg: float = 0.0,
        group: str = "",
    ) -> tuple[int, ...]:
        """Add an upright box seen from outside; ``picture`` covers each side, shaded by its direction."""
        turn = math.radians(heading_deg)
        right = np.array([math.cos(turn), -math.sin(turn), 0.0])
        forward = np.array([math.sin(turn), math.cos(turn), 0.0])
        half_x, half_y, half_z = (0.5 * length for length in size)
        middle = np.array(centre)
        # Face normal, direction to the right and half extents as seen from outside.
        sides = (
            (-forward, right, _UP, half_y, half_x, half_z, 0.95),
            (forward, -right, _UP, half_y, half_x, half_z, 0.75),
            (right, forward, _UP, half_x, half_y, half_z, 0.82),
            (-right, -forward, _UP, half_x, half_y, half_z, 0.82),
            (_UP, right, forward, half_z, half_x, half_y, 1.08),
        )
        first = len(self._quads)
        for normal, across, upwards, depth, reach_u, reach_v, shade in sides:
            origin = middle + depth * normal - reach_u * across + reach_v * upwards
            self._quads.append(
                Quad(
                    origin=origin,
                    edge_u=2 * reach_u * across,
                    edge_v=-2 * reach_v * upwards,
                    texture=Texture.of(textures.shaded(picture, shade)),
                    group=group,
                )
            )
        return tuple(range(first, len(self._quads)))

    def _upright(
        self, centre: FloatArray, normal: FloatArray, width_m: float, height_m: float, texture: Texture
    ) -> int:
        """Add an upright rectangle seen from the side that ``normal`` points to; returns its index."""
        across = np.cross(_UP, normal)
        across = across / np.linalg.norm(across)
        origin = centre - 0.5 * width_m * across + 0.5 * height_m * _UP
        self._quads.append(
            Quad(origin=origin, edge_u=width_m * across, edge_v=-height_m * _UP, texture=texture)
        )
        return len(self._quads) - 1

    # ------------------------------------------------------------------ the room

    def _build_room(self) -> None:
        (x0, x1), (y0, y1), (z0, z1) = _ROOM_X, _ROOM_Y, _ROOM_Z
        length_x, length_y, length_z = x1 - x0, y1 - y0, z1 - z0
        floor = self._floor_picture(self._pixels(length_x), self._pixels(length_y))
        right, forward, down = (
            np.array([length_x, 0, 0]),
            np.array([0, length_y, 0]),
            np.array([0, 0, -length_z]),
        )
        self._plane(np.array([x0, y1, z0]), right, -forward, Texture.of(floor), 1.3)
        ceiling = textures.tinted(
            textures.tiled("grass.png", self._pixels(length_x), self._pixels(length_y), self._pixels(1.5)),
            (176, 180, 184),
            0.35,
        )
        self._plane(np.array([x0, y0, z1]), right, forward, Texture.of(ceiling), 1.7)
        walls = (
            (np.array([x0, y1, z1]), right, length_x, 1.0),
            (np.array([x1, y0, z1]), -right, length_x, 0.92),
            (np.array([x0, y0, z1]), forward, length_y, 0.86),
            (np.array([x1, y1, z1]), -forward, length_y, 0.86),
        )
        for origin, along, length, shade in walls:
            picture = textures.shaded(self._wall_picture(self._pixels(length), self._pixels(length_z)), shade)
            self._plane(origin, along, down, Texture.of(picture), 1.3)

    def _floor_picture(self, width: int, height: int) -> npt.NDArray[np.uint8]:
        if self.spec.location == "kitchen":
            return textures.wood(
                width, height, self._generator, colour=(78, 116, 156), plank_px=self._pixels(0.16)
            )
        colour: Bgr = (122, 104, 92) if self.spec.location == "office" else (118, 122, 124)
        return textures.tinted(textures.tiled("gravel.png", width, height, self._pixels(1.1)), colour)

    def _wall_picture(self, width: int, height: int) -> npt.NDArray[np.uint8]:
        if self.spec.location == "kitchen":
            return textures.ceramic_tiles(
                width, height, self._generator, colour=(160, 178, 184), tile_px=self._pixels(0.2)
            )
        if self.spec.location == "office":
            plaster = textures.tiled("gravel.png", width, height, self._pixels(0.7))
            return textures.tinted(plaster, (158, 168, 172), 0.3)
        # In the picture the courses run upwards.
        bricks = textures.tiled("brick.png", height, width, self._pixels(1.4)).T
        return textures.tinted(bricks, (96, 112, 150), 1.2)

    def _build_furniture(self) -> None:
        (x0, x1), (y0, y1) = _TABLE_X, _TABLE_Y
        length, breadth = x1 - x0, y1 - y0
        colour: Bgr = (112, 150, 186) if self.spec.location != "workshop" else (84, 108, 128)
        board = textures.wood(
            self._pixels(length),
            self._pixels(breadth),
            self._generator,
            colour=colour,
            plank_px=self._pixels(0.12),
        )
        self._box(((x0 + x1) / 2, (y0 + y1) / 2, _TABLE_Z - 0.02), (length, breadth, 0.04), board)
        for x in (x0 + 0.08, x1 - 0.08):
            for y in (y0 + 0.06, y1 - 0.06):
                self._box(
                    (x, y, (_TABLE_Z - 0.04) / 2),
                    (0.07, 0.07, _TABLE_Z - 0.04),
                    board[:, : self._pixels(0.1)],
                )
        cupboard = textures.wood(
            self._pixels(1.0),
            self._pixels(0.8),
            self._generator,
            colour=(92, 122, 148),
            plank_px=self._pixels(0.4),
        )
        doors = textures.cupboard_doors(
            self._pixels(1.1), self._pixels(0.5), self._generator, colour=(104, 138, 166)
        )
        self._box((-2.45, -0.6, 0.45), (0.6, 1.6, 0.9), cupboard)
        self._box((2.45, -0.4, 0.45), (0.6, 1.4, 0.9), cupboard)
        self._box((0.1, 2.72, 0.42), (1.7, 0.5, 0.84), cupboard)
        self._box((-0.3, 2.86, 2.18), (1.2, 0.26, 0.5), doors)
        self._box((2.66, 2.0, 1.45), (0.26, 1.1, 0.5), doors)
        self._box((-2.66, 2.1, 1.45), (0.26, 1.1, 0.5), doors)
        # Goods on the table and along the walls, clear of where the hands work.
        places = [
            (-1.12, 0.74, _TABLE_Z),
            (-0.82, 0.78, _TABLE_Z),
            (1.08, 0.74, _TABLE_Z),
            (0.84, 0.79, _TABLE_Z),
        ]
        places += [
            (-2.5, -1.1, 0.9),
            (2.5, -0.8, 0.9),
            (0.6, 2.7, 0.84),
            (-0.4, 2.74, 0.84),
            (0.05, 0.82, _TABLE_Z),
        ]
        for x, y, z in places:
            size = self._generator.uniform((0.10, 0.07, 0.10), (0.19, 0.12, 0.24))
            picture = textures.package(self._pixels(0.3), self._pixels(0.4), self._generator)
            self._box(
                (x, y, z + size[2] / 2),
                (float(size[0]), float(size[1]), float(size[2])),
                picture,
                heading_deg=float(self._generator.uniform(-35, 35)),
            )

    # ------------------------------------------------------------------ what must be found

    def _build_people(self) -> None:
        for number in range(self.spec.faces):
            direction_deg, distance_m = _PEOPLE[number]
            direction = math.radians(direction_deg + float(self._generator.uniform(-3, 3)))
            if number < 2:
                tint = ((1.0, 1.0, 1.0), (1.1, 0.95, 0.82))[number]
                texture, face = textures.portrait(mirrored=number == 1, tint=tint)
            else:
                texture, face = textures.small_person(number - 2, self._generator)
            side_m = self.spec.face_size_m / (face[3] - face[1])
            face_height_m = float(self._generator.uniform(1.5, 1.62))
            # The quad is a square; its centre lies below the face by the offset between the two.
            centre_z = face_height_m - (0.5 - (face[1] + face[3]) / 2) * side_m
            normal = np.array([-math.sin(direction), -math.cos(direction), 0.0])
            foot = -distance_m * normal
            index = self._upright(foot + centre_z * _UP, normal, side_m, side_m, texture)
            self._add_region("face", number, index, face)
            waist_m = centre_z - side_m / 2
            if waist_m > 0.05:
                cloth = textures.tinted(
                    textures.tiled("gravel.png", self._pixels(0.5), self._pixels(0.9), self._pixels(0.4)),
                    (74, 62, 56),
                    0.7,
                )
                self._upright(foot + waist_m / 2 * _UP, normal, 0.55 * side_m, waist_m, Texture.of(cloth))

    def _build_panels(self) -> None:
        width_m, height_m = _PANEL_SIZE_M
        # Signs keep this resolution at any picture size: lettering is drawn properly, then reduced.
        width, height = 736, 460
        line_number = 0
        for number in range(self.spec.text_panels):
            wall, along, z = _PANELS[number]
            centre, normal = _on_wall(wall, along, z)
            texture, lines = textures.notice(number + self.spec.seed, width, height)
            index = self._upright(centre, normal, width_m, height_m, texture)
            for line in lines:
                self._add_region("text", line_number, index, line)
                line_number += 1

    def _build_plates(self) -> None:
        width_m, height_m = _PLATE_SIZE_M
        for number in range(self.spec.plates):
            direction_deg, distance_m = _PLATES[number]
            direction = math.radians(direction_deg)
            normal = np.array([-math.sin(direction), -math.cos(direction), 0.0])
            foot = -distance_m * normal
            colour = ((150, 70, 40), (50, 50, 150))[number]
            body = textures.tinted(
                textures.tiled("gravel.png", self._pixels(1.0), self._pixels(0.5), self._pixels(0.6)),
                colour,
                0.25,
            )
            behind = foot - 0.26 * normal
            self._box((behind[0], behind[1], 0.45), (0.95, 0.5, 0.6), body, heading_deg=direction_deg)
            plate = textures.number_plate(number, self._generator, 520, 120)
            index = self._upright(foot + 0.6 * _UP, normal, width_m, height_m, plate)
            self._add_region("plate", number, index, (0.0, 0.0, 1.0, 1.0))

    def _build_objects(self) -> None:
        """Put one object for each hand where the camera looks at the table in the middle of the hold."""
        for number, side in enumerate(SCHEDULES):
            schedule = SCHEDULES[side]
            time_s = 0.5 * (schedule.hold + schedule.release) * self.spec.duration_s
            pose = self.trajectory.poses(np.array([time_s]))[0]
            sign = 1.0 if side == "right" else -1.0
            size = (0.07, 0.07, 0.12)
            ray = pose[:3, :3] @ np.array([sign * 0.12, 0.42, 1.0])
            level = _TABLE_Z + size[2] / 2
            place = pose[:3, 3] + ray * (level - pose[2, 3]) / ray[2]
            place[0] = np.clip(place[0], _TABLE_X[0] + 0.1, _TABLE_X[1] - 0.1)
            place[1] = np.clip(place[1], _TABLE_Y[0] + 0.08, _TABLE_Y[1] - 0.2)
            self._objects[side] = place
            picture = textures.package(self._pixels(0.3), self._pixels(0.4), self._generator)
            quads = self._box(
                (float(place[0]), float(place[1]), float(place[2])), size, picture, group=f"object_{side}"
            )
            self._regions.append(_Region("object", number, quads, None, 1.0))

    def _add_region(
        self, kind: ObjectKind, object_id: int, quad: int, rectangle: tuple[float, float, float, float]
    ) -> None:
        cutout = self._quads[quad].texture.cutout
        solid_fraction = 1.0
        if cutout is not None:
            height, width = cutout.shape
            left, top, right, bottom = rectangle
            part = cutout[
                round(top * height) : round(bottom * height), round(left * width) : round(right * width)
            ]
            solid_fraction = float(np.mean(part > 0))
        self._regions.append(_Region(kind, object_id, (quad,), rectangle, solid_fraction))


def _on_wall(wall: str, along: float, z: float) -> tuple[FloatArray, FloatArray]:
    """A point just in front of a wall and the direction into the room."""
    gap = 0.02
    if wall == "front":
        return np.array([along, _ROOM_Y[1] - gap, z]), np.array([0.0, -1.0, 0.0])
    if wall == "right":
        return np.array([_ROOM_X[1] - gap, along, z]), np.array([-1.0, 0.0, 0.0])
    return np.array([_ROOM_X[0] + gap, along, z]), np.array([1.0, 0.0, 0.0])


def _visible_fraction(owner: npt.NDArray[np.int16], pixels: FloatArray, quads: tuple[int, ...]) -> float:
    """Share of a region's outline, in view or not, that is filled by pixels of its quads."""
    height, width = owner.shape
    # A region that fills far more than the picture is cut off there: its share only gets smaller beyond.
    low = np.maximum(np.floor(pixels.min(axis=0)).astype(int), [-2 * width, -2 * height])
    high = np.minimum(np.ceil(pixels.max(axis=0)).astype(int) + 1, [3 * width, 3 * height])
    if np.any(high <= low):
        return 0.0
    hull = cv2.convexHull(pixels.astype(np.float32)).reshape(-1, 2).astype(np.float64)
    mask = polygon_mask(hull - low, int(high[0] - low[0]), int(high[1] - low[1]))
    left, top = np.maximum(low, 0)
    right, bottom = np.minimum(high, [width, height])
    if right <= left or bottom <= top:
        return 0.0
    inside = mask[top - low[1] : bottom - low[1], left - low[0] : right - low[0]] > 0
    seen = owner[top:bottom, left:right]
    matches = np.isin(seen, quads) if len(quads) > 1 else seen == quads[0]
    total = int(np.count_nonzero(mask))
    return float(np.count_nonzero(inside & matches)) / total if total else 0.0
