"""Synthetic clips with faces whose boxes are known on every frame: moving, entering, leaving, occluded, growing.

Portraits from scikit-image's wheel stand in a textured world that a camera pans, turns and shakes over. A moving
picture is the mean of three instants within the shutter's opening, so what moves fast is blurred.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.media.encode import VideoWriter
from ego_assets.schema.timeline import NANOSECONDS
from ego_assets.synth.textures import (
    Texture,
    ceramic_tiles,
    cupboard_doors,
    package,
    portrait,
    small_person,
    tiled,
    tinted,
    wood,
)

UInt8Array = npt.NDArray[np.uint8]

FRAME_RATE = Fraction(30)
#: The world is drawn for pictures of this size; other sizes are scaled.
WORLD_WIDTH, WORLD_HEIGHT = 1920, 1080
#: Opening of the shutter as a share of the frame interval, and the instants that are averaged.
_SHUTTER = 0.5
_INSTANTS = 3
#: The background reaches this far beyond the picture on each side, in world pixels.
_BACKGROUND_MARGIN = 1500


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Where something is at one instant, in world pixels of a 1080p picture.

    Attributes:
        x: Centre, to the right.
        y: Centre, downwards.
        size: Height of the face, or height of an occluder, in pixels.
        turn_deg: Clockwise turn.
    """

    x: float
    y: float
    size: float
    turn_deg: float = 0.0


#: Time in seconds -> pose; ``None`` while it is not there.
Path3 = Callable[[float], Pose | None]


@dataclass(frozen=True, kw_only=True)
class Person:
    """One person; ``path`` moves the centre of the face. ``look`` chooses the picture."""

    path: Path3
    look: int = 0


@dataclass(frozen=True, kw_only=True)
class Occluder:
    """Something in front of persons: a pillar of a certain width, as high as its size."""

    path: Path3
    width: float


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One clip.

    Attributes:
        name: For rows of the benchmark.
        persons: Persons, the farthest first.
        occluders: Things in front of all of them.
        camera: Time in seconds -> centre of the picture in the world and roll; ``size`` is not used.
        duration_s: Length.
        cut_s: Time at which another background appears.
        background: Number of the background.
    """

    name: str
    persons: Sequence[Person]
    camera: Callable[[float], Pose]
    occluders: Sequence[Occluder] = ()
    duration_s: float = 4.0
    cut_s: float = math.inf
    background: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class FaceTruth:
    """One person's face on all frames.

    Attributes:
        boxes_xyxy: ``float64 [frames, 4]``, in pixels, clipped to the picture.
        sizes: ``float64 [frames]``, height of the whole face in pixels of the picture.
        visible: ``float64 [frames]``, share of the face that is inside the picture and not occluded.
        smear: ``float64 [frames]``, how far the face moves in the picture while the shutter is open, relative to
            the face's height.
    """

    boxes_xyxy: npt.NDArray[np.float64]
    sizes: npt.NDArray[np.float64]
    visible: npt.NDArray[np.float64]
    smear: npt.NDArray[np.float64]


@dataclass(eq=False)
class _Layer:
    texture: Texture
    face: tuple[float, float, float, float] = field(default=(0.0, 0.0, 1.0, 1.0))


def frame_count(scene: Scene) -> int:
    """Frames of a scene."""
    return round(scene.duration_s * FRAME_RATE)


def write_scene(scene: Scene, path: Path, *, width: int, height: int) -> list[FaceTruth]:
    """Render a scene to a video; returns the truth for each person."""
    with VideoWriter(
        path, width=width, height=height, time_base=Fraction(1, 90_000), frame_rate=FRAME_RATE, crf=20
    ) as writer:
        for index, picture in enumerate(pictures(scene, width=width, height=height)):
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
            writer.write(frame, timestamp_ns=round(index * NANOSECONDS / FRAME_RATE))
    return truths(scene, width=width, height=height)


def pictures(scene: Scene, *, width: int, height: int) -> Iterator[UInt8Array]:
    """The frames of a scene, ``uint8 [height, width, 3]``, BGR."""
    for index in range(frame_count(scene)):
        time_s = index / float(FRAME_RATE)
        mixed = np.zeros((height, width, 3), np.uint16)
        for instant in range(_INSTANTS):
            offset_s = (instant / (_INSTANTS - 1) - 0.5) * _SHUTTER / float(FRAME_RATE)
            # Nothing is seen through the shutter of a scene that has ended.
            shown_s = time_s + offset_s
            if (shown_s >= scene.cut_s) != (time_s >= scene.cut_s):
                shown_s = time_s
            mixed += _instant(scene, max(0.0, shown_s), width, height)
        yield (mixed // _INSTANTS).astype(np.uint8)


def truths(scene: Scene, *, width: int, height: int) -> list[FaceTruth]:
    """Boxes, sizes and visible shares of every person's face."""
    count = frame_count(scene)
    scale = height / WORLD_HEIGHT
    results = []
    for number, person in enumerate(scene.persons):
        boxes = np.zeros((count, 4))
        sizes, visible, smear = np.zeros(count), np.zeros(count), np.zeros(count)
        for index in range(count):
            time_s = index / float(FRAME_RATE)
            pose = person.path(time_s)
            if pose is None:
                continue
            camera = scene.camera(time_s)
            corners = _face_corners(person, pose, camera, width, height)
            box = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
            clipped = np.clip(box, 0, (width, height, width, height))
            sizes[index] = pose.size * scale
            boxes[index] = clipped
            area = float((box[2:] - box[:2]).prod())
            # On a grid over the face: the share that lies inside and behind nothing.
            grid_x, grid_y = np.meshgrid(np.linspace(box[0], box[2], 24), np.linspace(box[1], box[3], 24))
            open_cells = (grid_x >= 0) & (grid_x < width) & (grid_y >= 0) & (grid_y < height)
            for occluder in scene.occluders:
                open_cells &= ~_inside_occluder(occluder, time_s, camera, grid_x, grid_y, width, height)
            for other in scene.persons[number + 1 :]:
                other_pose = other.path(time_s)
                if other_pose is not None:
                    open_cells &= ~_inside_person(other, other_pose, camera, grid_x, grid_y, width, height)
            visible[index] = float(open_cells.mean()) if area > 0 else 0.0
            smear[index] = _smear(scene, person, time_s, width, height) / (pose.size * scale)
        results.append(FaceTruth(boxes_xyxy=boxes, sizes=sizes, visible=visible, smear=smear))
    return results


def _smear(scene: Scene, person: Person, time_s: float, width: int, height: int) -> float:
    """Pixels by which the middle of a face moves while the shutter is open."""
    middles = []
    for sign in (-0.5, 0.5):
        instant_s = max(0.0, time_s + sign * _SHUTTER / float(FRAME_RATE))
        pose = person.path(instant_s)
        if pose is not None:
            corners = _face_corners(person, pose, scene.camera(instant_s), width, height)
            middles.append(corners.mean(axis=0))
    return float(np.hypot(*(middles[1] - middles[0]))) if len(middles) == 2 else 0.0


def _instant(scene: Scene, time_s: float, width: int, height: int) -> UInt8Array:
    camera = scene.camera(time_s)
    background = _background(scene.background + (1 if time_s >= scene.cut_s else 0))
    to_world = _world_from_picture(camera, width, height)
    to_world[:, 2] += _BACKGROUND_MARGIN
    picture = cv2.warpAffine(
        background,
        to_world,
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT,
    ).astype(np.uint8, copy=False)
    for person in scene.persons:
        pose = person.path(time_s)
        if pose is not None:
            _draw_person(picture, person, pose, camera, width, height)
    for occluder in scene.occluders:
        pose = occluder.path(time_s)
        if pose is not None:
            _draw_occluder(picture, occluder, pose, camera, width, height)
    return picture


def _world_from_picture(camera: Pose, width: int, height: int) -> npt.NDArray[np.float64]:
    """``float64 [2, 3]``: picture pixels to world pixels."""
    scale = WORLD_HEIGHT / height
    angle = math.radians(camera.turn_deg)
    cosine, sine = math.cos(angle) * scale, math.sin(angle) * scale
    matrix = np.array([[cosine, -sine, 0], [sine, cosine, 0]], np.float64)
    matrix[:, 2] = np.array([camera.x, camera.y]) - matrix[:, :2] @ np.array([width / 2, height / 2])
    return matrix


def _picture_from_texture(
    person: Person, pose: Pose, camera: Pose, width: int, height: int
) -> npt.NDArray[np.float64]:
    """``float64 [3, 3]``: pixels of the finest texture to picture pixels."""
    layer = _person_layer(person.look)
    texture_height, texture_width = layer.texture.levels[0].shape[:2]
    left, top, right, bottom = np.array(layer.face) * (
        texture_width,
        texture_height,
        texture_width,
        texture_height,
    )
    scale = pose.size / (bottom - top)
    angle = math.radians(pose.turn_deg)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) * scale
    to_world = np.eye(3)
    to_world[:2, :2] = turn
    to_world[:2, 2] = np.array([pose.x, pose.y]) - turn @ np.array([(left + right) / 2, (top + bottom) / 2])
    world_from_picture = np.vstack([_world_from_picture(camera, width, height), [0, 0, 1]])
    return np.asarray(np.linalg.inv(world_from_picture) @ to_world, dtype=np.float64)


def _face_corners(
    person: Person, pose: Pose, camera: Pose, width: int, height: int
) -> npt.NDArray[np.float64]:
    layer = _person_layer(person.look)
    texture_height, texture_width = layer.texture.levels[0].shape[:2]
    left, top, right, bottom = np.array(layer.face) * (
        texture_width,
        texture_height,
        texture_width,
        texture_height,
    )
    corners = np.array([[left, top, 1], [right, top, 1], [left, bottom, 1], [right, bottom, 1]])
    return (corners @ _picture_from_texture(person, pose, camera, width, height).T)[:, :2]


def _draw_person(
    picture: UInt8Array, person: Person, pose: Pose, camera: Pose, width: int, height: int
) -> None:
    texture = _person_layer(person.look).texture
    matrix = _picture_from_texture(person, pose, camera, width, height)
    scale = math.sqrt(abs(np.linalg.det(matrix[:2, :2])))
    level = min(len(texture.levels) - 1, max(0, math.floor(math.log2(1 / max(scale, 1e-6)))))
    pixels = texture.levels[level]
    cutout = (
        texture.cutout if texture.cutout is not None else np.full(texture.levels[0].shape[:2], 255, np.uint8)
    )
    cutout = cv2.resize(
        (cutout > 0).astype(np.uint8) * 255, pixels.shape[1::-1], interpolation=cv2.INTER_AREA
    )
    factor = texture.levels[0].shape[1] / pixels.shape[1]
    matrix = matrix @ np.diag([factor, factor, 1.0])
    _paste(picture, pixels, np.asarray(cutout, dtype=np.uint8), matrix)


def _paste(
    picture: UInt8Array, pixels: UInt8Array, mask: UInt8Array, matrix: npt.NDArray[np.float64]
) -> None:
    """Draw ``pixels`` where ``mask`` is not zero, in place, only where they can land."""
    height, width = pixels.shape[:2]
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]]) @ matrix.T
    low = np.maximum(np.floor(corners[:, :2].min(axis=0)).astype(int), 0)
    high = np.minimum(np.ceil(corners[:, :2].max(axis=0)).astype(int) + 1, picture.shape[1::-1])
    if np.any(high <= low):
        return
    moved = matrix[:2].copy()
    moved[:, 2] -= low
    size = (int(high[0] - low[0]), int(high[1] - low[1]))
    drawn = cv2.warpAffine(pixels, moved, size, flags=cv2.INTER_LINEAR).astype(np.float32)
    weight = cv2.warpAffine(mask, moved, size, flags=cv2.INTER_LINEAR).astype(np.float32)[:, :, None] / 255
    under = picture[low[1] : high[1], low[0] : high[0]]
    under[:] = (drawn * weight + under * (1 - weight)).astype(np.uint8)


def _draw_occluder(
    picture: UInt8Array, occluder: Occluder, pose: Pose, camera: Pose, width: int, height: int
) -> None:
    pixels = _pillar()
    scale = np.diag([occluder.width / pixels.shape[1], pose.size / pixels.shape[0], 1.0])
    to_world = np.eye(3)
    to_world[:2, 2] = (pose.x - occluder.width / 2, pose.y - pose.size / 2)
    inverse = np.linalg.inv(np.vstack([_world_from_picture(camera, width, height), [0, 0, 1]]))
    _paste(picture, pixels, np.full(pixels.shape[:2], 255, np.uint8), inverse @ to_world @ scale)


def _inside_occluder(
    occluder: Occluder,
    time_s: float,
    camera: Pose,
    grid_x: npt.NDArray[np.float64],
    grid_y: npt.NDArray[np.float64],
    width: int,
    height: int,
) -> npt.NDArray[np.bool_]:
    pose = occluder.path(time_s)
    if pose is None:
        return np.zeros(grid_x.shape, np.bool_)
    matrix = _world_from_picture(camera, width, height)
    x = matrix[0, 0] * grid_x + matrix[0, 1] * grid_y + matrix[0, 2]
    y = matrix[1, 0] * grid_x + matrix[1, 1] * grid_y + matrix[1, 2]
    inside = (np.abs(x - pose.x) <= occluder.width / 2) & (np.abs(y - pose.y) <= pose.size / 2)
    return np.asarray(inside, dtype=np.bool_)


def _inside_person(
    person: Person,
    pose: Pose,
    camera: Pose,
    grid_x: npt.NDArray[np.float64],
    grid_y: npt.NDArray[np.float64],
    width: int,
    height: int,
) -> npt.NDArray[np.bool_]:
    cutout = _person_layer(person.look).texture.cutout
    assert cutout is not None
    inverse = np.linalg.inv(_picture_from_texture(person, pose, camera, width, height))
    x = (inverse[0, 0] * grid_x + inverse[0, 1] * grid_y + inverse[0, 2]).round().astype(int)
    y = (inverse[1, 0] * grid_x + inverse[1, 1] * grid_y + inverse[1, 2]).round().astype(int)
    inside = (x >= 0) & (y >= 0) & (x < cutout.shape[1]) & (y < cutout.shape[0])
    result = np.zeros(grid_x.shape, np.bool_)
    result[inside] = cutout[y[inside], x[inside]] > 0
    return result


@lru_cache(maxsize=16)
def _person_layer(look: int) -> _Layer:
    """Odd numbers are the portrait in several tints, even ones the small persons around other faces."""
    if look % 3 != 2:
        tints = ((1.0, 1.0, 1.0), (0.82, 0.86, 0.95), (1.1, 1.02, 0.95), (0.7, 0.75, 0.85))
        texture, face = portrait(mirrored=look % 2 == 1, tint=tints[look % 4])
    else:
        texture, face = small_person(look, np.random.default_rng(look))
    return _Layer(texture, face)


@lru_cache(maxsize=1)
def _pillar() -> UInt8Array:
    return wood(256, 512, np.random.default_rng(5), colour=(70, 110, 140), plank_px=64)


@lru_cache(maxsize=2)
def _background(number: int) -> UInt8Array:
    """A wall, a floor and things before them, larger than the picture by a margin."""
    generator = np.random.default_rng(100 + number)
    width, height = WORLD_WIDTH + 2 * _BACKGROUND_MARGIN, WORLD_HEIGHT + 2 * _BACKGROUND_MARGIN
    if number % 2:
        wall = tinted(tiled("brick.png", width, height, 700), (120, 140, 170), 0.9)
    else:
        wall = ceramic_tiles(width, height, generator, colour=(178, 190, 196), tile_px=150)
    floor_top = _BACKGROUND_MARGIN + int(0.72 * WORLD_HEIGHT)
    wall[floor_top:] = wood(width, height - floor_top, generator, colour=(80, 118, 150), plank_px=170)
    for _ in range(46):
        item_width, item_height = (int(value) for value in generator.integers(70, 420, 2))
        left = int(generator.integers(0, width - item_width))
        top = int(generator.integers(0, height - item_height))
        if generator.random() < 0.6:
            item = package(item_width, item_height, generator)
        else:
            item = cupboard_doors(item_width, item_height, generator, colour=(90, 130, 160))
        wall[top : top + item_height, left : left + item_width] = item
    return np.ascontiguousarray(wall)


def scenes() -> list[Scene]:
    """The clips of the benchmark; sizes and speeds are those of a 1080p picture."""

    def at(x: float, y: float, size: float, turn_deg: float = 0.0) -> Path3:
        return lambda _: Pose(x=x, y=y, size=size, turn_deg=turn_deg)

    def held(time_s: float) -> Pose:
        """The head of somebody who stands: a slow sway."""
        return Pose(
            x=960 + 14 * math.sin(2.1 * time_s) + 5 * math.sin(7.7 * time_s),
            y=540 + 9 * math.sin(3.3 * time_s + 1),
            size=1,
            turn_deg=0.8 * math.sin(1.7 * time_s),
        )

    def walking(time_s: float) -> Pose:
        return Pose(
            x=960 + 130 * time_s + 26 * math.sin(2 * math.pi * 0.95 * time_s),
            y=540 + 34 * math.sin(2 * math.pi * 1.9 * time_s),
            size=1,
            turn_deg=2.5 * math.sin(2 * math.pi * 0.95 * time_s),
        )

    def turning(time_s: float) -> Pose:
        """Looks left and right, up to 2,200 pixels a second."""
        return Pose(
            x=960 + 700 * math.sin(2 * math.pi * 0.5 * time_s),
            y=540 + 60 * math.sin(2 * math.pi * 0.8 * time_s),
            size=1,
            turn_deg=4 * math.sin(2 * math.pi * 0.5 * time_s),
        )

    def shaking(time_s: float) -> Pose:
        return Pose(
            x=960 + 55 * math.sin(2 * math.pi * 3.1 * time_s) + 20 * math.sin(2 * math.pi * 7.3 * time_s),
            y=540 + 45 * math.sin(2 * math.pi * 4.3 * time_s + 1),
            size=1,
            turn_deg=2 * math.sin(2 * math.pi * 2.7 * time_s),
        )

    def crossing(y: float, size: float, start_s: float, length_s: float, *, to_left: bool = False) -> Path3:
        """From one side of the picture to the other, faster in the middle."""

        def path(time_s: float) -> Pose | None:
            share = (time_s - start_s) / length_s
            if not 0 <= share <= 1:
                return None
            eased = share - 0.12 * math.sin(2 * math.pi * share)
            x = -size + (1920 + 2 * size) * (1 - eased if to_left else eased)
            return Pose(
                x=x, y=y + 0.15 * size * math.sin(9 * time_s), size=size, turn_deg=6 * math.sin(4 * time_s)
            )

        return path

    def stepping_in(
        x: float, y: float, size: float, away: tuple[float, float], times: tuple[float, ...]
    ) -> Path3:
        """Comes from ``away`` between the first two times, leaves the same way between the last two."""

        def path(time_s: float) -> Pose | None:
            inside = float(np.interp(time_s, times, (0, 1, 1, 0)))
            if time_s < times[0] or time_s > times[-1]:
                return None
            eased = inside * inside * (3 - 2 * inside)
            return Pose(x=x + away[0] * (1 - eased), y=y + away[1] * (1 - eased), size=size)

        return path

    def growing(x: float, y: float, first: float, last: float) -> Path3:
        """Comes nearer at an even speed: the size is the inverse of a distance that falls in a straight line."""

        def path(time_s: float) -> Pose:
            distance = 1 / first + (1 / last - 1 / first) * min(1.0, time_s / 3.8)
            size = 1 / distance
            return Pose(x=x + 0.1 * size, y=y + 0.25 * size, size=size, turn_deg=3 * math.sin(5 * time_s))

        return path

    def wandering(x: float, y: float, size: float, phase: float) -> Path3:
        return lambda t: Pose(
            x=x + 3.2 * size * math.sin(1.3 * t + phase) + 0.8 * size * math.sin(4.1 * t + 2 * phase),
            y=y + 0.5 * size * math.sin(2.2 * t + phase),
            size=size * (1 + 0.25 * math.sin(0.9 * t + phase)),
            turn_deg=10 * math.sin(1.9 * t + phase),
        )

    def lasting(path: Path3, start_s: float, end_s: float) -> Path3:
        return lambda t: path(t) if start_s <= t < end_s else None

    return [
        Scene(
            name="fast crossing",
            camera=held,
            persons=[
                Person(path=crossing(330, 48, 0.2, 1.3), look=0),
                Person(path=crossing(640, 90, 1.2, 1.0, to_left=True), look=1),
                Person(path=crossing(540, 220, 2.4, 1.1), look=3),
            ],
        ),
        Scene(
            name="head turns",
            camera=turning,
            background=1,
            persons=[
                Person(path=at(420, 420, 26), look=0),
                Person(path=at(860, 520, 60), look=1),
                Person(path=at(1560, 560, 170), look=3),
                Person(path=at(2060, 460, 34), look=4),
            ],
        ),
        Scene(
            name="shake",
            camera=shaking,
            persons=[
                Person(path=at(380, 430, 30), look=0),
                Person(path=wandering(960, 480, 48, 0.4), look=4),
                Person(path=at(1500, 560, 120), look=1),
            ],
        ),
        Scene(
            name="enter and leave",
            camera=walking,
            background=1,
            persons=[
                Person(path=stepping_in(500, 330, 46, (-760, 0), (0.3, 0.9, 1.6, 2.1)), look=0),
                Person(path=stepping_in(1700, 420, 90, (700, 60), (0.8, 1.3, 2.4, 3.0)), look=1),
                Person(path=stepping_in(1150, 480, 150, (0, 900), (1.5, 2.0, 3.0, 3.5)), look=3),
            ],
        ),
        Scene(
            name="occlusion",
            camera=held,
            persons=[
                Person(path=crossing(420, 56, 0.0, 4.0), look=0),
                Person(path=crossing(640, 130, 0.0, 3.6, to_left=True), look=1),
            ],
            occluders=[
                Occluder(path=at(620, 540, 1400), width=170),
                Occluder(path=at(1330, 540, 1400), width=260),
            ],
        ),
        Scene(
            name="growing",
            camera=walking,
            persons=[
                Person(path=growing(760, 420, 24, 540), look=0),
                Person(path=growing(1560, 430, 300, 26), look=1),
            ],
        ),
        Scene(
            name="scene cut",
            camera=held,
            cut_s=2.03,
            persons=[
                Person(path=lasting(at(500, 460, 70), 0, 2.03), look=0),
                Person(path=lasting(wandering(1300, 520, 110, 1.0), 0, 2.03), look=1),
                Person(path=lasting(at(760, 500, 90), 2.03, 9), look=3),
                Person(path=lasting(wandering(1500, 430, 44, 2.0), 2.03, 9), look=4),
            ],
        ),
        Scene(
            name="crowd",
            camera=walking,
            background=1,
            persons=[
                Person(
                    path=wandering(500 + 270 * number, 380 + 20 * (number % 3), size, 1.7 * number),
                    look=number,
                )
                for number, size in enumerate((26, 32, 40, 56, 80, 110))
            ],
        ),
        Scene(
            name="small",
            camera=walking,
            persons=[
                Person(
                    path=at(300 + 330 * number, 380 + 60 * (number % 3), size), look=(0, 1, 3, 4)[number % 4]
                )
                for number, size in enumerate((12, 14, 16, 18, 20, 22, 23))
            ],
        ),
    ]
