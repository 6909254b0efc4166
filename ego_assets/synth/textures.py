"""Pictures that cover the surfaces of the scene, made from the images in scikit-image's wheel and by drawing.

Everything is read from the installed package; nothing is ever downloaded.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import av
import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.schema.arrays import read_only
from ego_assets.schema.errors import EgoAssetsError

UInt8Array = npt.NDArray[np.uint8]
Bgr = tuple[int, int, int]

#: Brow to chin and cheek to cheek in ``astronaut.png`` (512x512): left, top, right, bottom.
PORTRAIT_FACE_XYXY = (182.0, 61.0, 270.0, 178.0)

#: Outline of the person in ``astronaut.png``, clockwise from the lower left.
_PORTRAIT_OUTLINE = (
    (22, 512), (24, 440), (32, 330), (45, 272), (95, 222), (112, 190), (118, 165), (178, 148), (172, 126),
    (157, 104), (152, 72), (165, 42), (190, 20), (225, 13), (262, 20), (290, 42), (301, 78), (296, 105),
    (278, 130), (264, 150), (262, 172), (290, 195), (306, 232), (335, 248), (355, 296), (364, 348),
    (400, 343), (440, 358), (478, 396), (497, 458), (504, 512),
)  # fmt: skip

#: Frontal, evenly lit faces among the first 100 of ``lfw_subset.npy``.
_FACE_CROPS = (19, 46, 30, 18)


class SceneDataMissing(EgoAssetsError):
    """The pictures that the synthetic scene is made of are not installed."""


@dataclass(frozen=True, eq=False)
class Texture:
    """A picture in several resolutions, each half the one before.

    Attributes:
        levels: ``uint8 [h, w, 3]`` each, BGR, finest first.
        cutout: ``uint8 [h, w]``, non-zero where the finest level is solid; ``None`` where all of it is.
    """

    levels: tuple[UInt8Array, ...]
    cutout: UInt8Array | None = None

    @classmethod
    def of(cls, picture: UInt8Array, cutout: UInt8Array | None = None) -> Texture:
        """Halve ``picture`` until its shorter side would fall below 8 pixels."""
        # OpenCV copies any other layout at every call.
        levels = [np.ascontiguousarray(picture)]
        while min(levels[-1].shape[:2]) >= 16:
            height, width = levels[-1].shape[:2]
            halved = cv2.resize(levels[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
            levels.append(halved.astype(np.uint8, copy=False))
        return cls(tuple(read_only(level) for level in levels), cutout)


@lru_cache(maxsize=8)
def _installed_bytes(name: str) -> bytes:
    try:
        return (resources.files("skimage") / "data" / name).read_bytes()
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise SceneDataMissing(
            f"The synthetic scene needs {name!r} from scikit-image's wheel, and it is not installed: "
            "run `pip install scikit-image` in this environment."
        ) from error


def installed_picture(name: str, *, grey: bool = False) -> UInt8Array:
    """A PNG of scikit-image's data folder, ``uint8``, BGR or grey.

    Raises:
        SceneDataMissing: scikit-image or the file is not installed.
    """
    with av.open(io.BytesIO(_installed_bytes(name)), mode="r", format="png_pipe") as container:
        frame = next(container.decode(video=0))
    return frame.to_ndarray(format="gray" if grey else "bgr24").astype(np.uint8, copy=False)


def face_crop(index: int) -> UInt8Array:
    """A face of ``lfw_subset.npy``, ``uint8 [25, 25]``.

    Raises:
        SceneDataMissing: scikit-image or the file is not installed.
    """
    faces = np.load(io.BytesIO(_installed_bytes("lfw_subset.npy")), allow_pickle=False)
    crop: UInt8Array = np.clip(faces[index] * 255, 0, 255).astype(np.uint8)
    return crop


def tinted(grey: npt.NDArray[np.generic], colour: Bgr, contrast: float = 1.0) -> UInt8Array:
    """Colour a grey picture so that its mean becomes ``colour``."""
    relative = grey.astype(np.float32) / max(float(np.mean(grey.astype(np.float32))), 1.0)
    relative = 1.0 + (relative - 1.0) * contrast
    return np.clip(relative[:, :, None] * np.array(colour, np.float32), 0, 255).astype(np.uint8)


def shaded(picture: UInt8Array, factor: float) -> UInt8Array:
    """The same picture, lighter or darker."""
    return np.clip(picture.astype(np.float32) * factor, 0, 255).astype(np.uint8)


def tiled(name: str, width: int, height: int, tile_px: int) -> UInt8Array:
    """A grey picture of scikit-image repeated over ``width`` x ``height`` pixels, mirrored at the seams."""
    tile = cv2.resize(installed_picture(name, grey=True), (tile_px, tile_px), interpolation=cv2.INTER_AREA)
    block = np.vstack([np.hstack([tile, tile[:, ::-1]]), np.hstack([tile[::-1], tile[::-1, ::-1]])])
    repeats = (-(-height // block.shape[0]), -(-width // block.shape[1]))
    return np.tile(block, repeats)[:height, :width].astype(np.uint8, copy=False)


def wood(
    width: int,
    height: int,
    generator: np.random.Generator,
    *,
    colour: Bgr,
    plank_px: int,
) -> UInt8Array:
    """Planks that run along the width, with grain and dark joints."""
    coarse = generator.random((max(2, height), max(2, width // 24)), dtype=np.float32)
    coarse_grain = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    fine = generator.random((height, max(2, width // 6)), dtype=np.float32)
    fine_grain = cv2.resize(fine, (width, height), interpolation=cv2.INTER_LINEAR)
    grain = np.asarray(0.86 + 0.2 * coarse_grain + 0.1 * fine_grain, np.float32)
    planks = max(1, height // max(plank_px, 1))
    for plank in range(planks):
        top, bottom = plank * height // planks, (plank + 1) * height // planks
        grain[top:bottom] *= generator.uniform(0.8, 1.08)
        grain[top : top + max(1, plank_px // 40)] *= 0.45
        joint = int(generator.integers(0, width))
        grain[top:bottom, joint : joint + max(1, plank_px // 40)] *= 0.45
    return np.clip(grain[:, :, None] * np.array(colour, np.float32), 0, 255).astype(np.uint8)


def ceramic_tiles(
    width: int, height: int, generator: np.random.Generator, *, colour: Bgr, tile_px: int
) -> UInt8Array:
    """Square wall tiles with speckles, small differences in tone and dark joints."""
    tile_px = max(tile_px, 4)
    tones = generator.uniform(0.85, 1.08, size=(-(-height // tile_px), -(-width // tile_px))).astype(
        np.float32
    )
    surface = np.repeat(np.repeat(tones, tile_px, axis=0), tile_px, axis=1)[:height, :width]
    speckles = cv2.GaussianBlur(generator.standard_normal((height, width), dtype=np.float32), (0, 0), 1.0)
    surface = surface * (1.0 + 0.14 * speckles)
    joint_px = max(1, tile_px // 22)
    for offset in range(joint_px):
        surface[offset::tile_px] *= 0.62
        surface[:, offset::tile_px] *= 0.62
    return np.clip(surface[:, :, None] * np.array(colour, np.float32), 0, 255).astype(np.uint8)


def cupboard_doors(width: int, height: int, generator: np.random.Generator, *, colour: Bgr) -> UInt8Array:
    """The front of a wall cupboard: two doors of wood, each with a sunk panel."""
    grained = wood(height, width, generator, colour=colour, plank_px=max(width // 6, 1))
    picture = np.ascontiguousarray(grained.transpose(1, 0, 2))
    door_px = width // 2
    rim = max(2, min(door_px, height) // 6)
    for left in (0, door_px):
        panel = picture[rim : height - rim, left + rim : left + door_px - rim]
        panel[:] = shaded(panel, 0.8)
    gap = max(1, width // 120)
    picture[:, door_px - gap : door_px + gap] //= 2
    return picture


#: Paper, cardboard, terracotta, olive and straw: strong colours are taken for lettering by text detectors.
_MATERIAL_COLOURS: tuple[Bgr, ...] = (
    (142, 168, 186),
    (96, 134, 166),
    (84, 112, 172),
    (84, 128, 122),
    (112, 160, 180),
)


def package(width: int, height: int, generator: np.random.Generator) -> UInt8Array:
    """The side of a box of goods: a rough material in a muted colour under a lid, without any lettering."""
    colour = _MATERIAL_COLOURS[int(generator.integers(len(_MATERIAL_COLOURS)))]
    name = ("gravel.png", "grass.png")[int(generator.integers(2))]
    picture = tinted(
        tiled(name, width, height, max(width, height)), colour, float(generator.uniform(0.6, 0.9))
    )
    edge = int(generator.uniform(0.2, 0.35) * height)
    picture[:edge] = shaded(picture[:edge], 0.85)
    picture[edge : edge + max(1, height // 60)] //= 2
    return picture


def portrait(
    *, mirrored: bool, tint: tuple[float, float, float]
) -> tuple[Texture, tuple[float, float, float, float]]:
    """The public-domain portrait in ``astronaut.png``, cut out.

    Args:
        mirrored: Flip left and right.
        tint: Factors on blue, green and red.

    Returns:
        The texture and the face's box in it as fractions of its width and height.
    """
    picture = installed_picture("astronaut.png")
    side = picture.shape[0]
    cutout = np.zeros((side, side), np.uint8)
    cv2.fillPoly(cutout, [np.array(_PORTRAIT_OUTLINE, np.int32)], (255,))
    left, top, right, bottom = (value / side for value in PORTRAIT_FACE_XYXY)
    picture = np.clip(picture * np.array(tint, np.float32), 0, 255).astype(np.uint8)
    if mirrored:
        picture, cutout = np.ascontiguousarray(picture[:, ::-1]), np.ascontiguousarray(cutout[:, ::-1])
        left, right = 1 - right, 1 - left
    return Texture.of(picture, cutout), (left, top, right, bottom)


def small_person(
    number: int, generator: np.random.Generator
) -> tuple[Texture, tuple[float, float, float, float]]:
    """A head and shoulders around one of the face crops of ``lfw_subset.npy``, cut out.

    Returns:
        The texture and the face's box in it as fractions of its width and height.
    """
    side, face_px = 512, 118
    centre = (256, 120)
    picture = np.empty((side, side, 3), np.uint8)
    cloth = cv2.resize(installed_picture("gravel.png", grey=True), (side, side))
    picture[:] = tinted(cloth, _random_colour(generator, 50, 170), 0.6)
    cutout = np.zeros((side, side), np.uint8)
    outline = np.array(
        [(40, 512), (60, 330), (110, 262), (215, 225), (297, 225), (402, 262), (452, 330), (472, 512)]
    )
    cv2.fillPoly(cutout, [outline.astype(np.int32)], (255,))
    crown = (centre[0], centre[1] - 12)
    cv2.ellipse(cutout, crown, (66, 88), 0, 0, 360, (255,), -1)
    cv2.ellipse(picture, crown, (66, 88), 0, 0, 360, (28, 34, 44), -1)

    # The crops are grey and square: colour them like skin and let them fade into the head at the rim.
    crop = face_crop(_FACE_CROPS[number % len(_FACE_CROPS)])
    enlarged = cv2.resize(crop, (face_px, face_px), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    skin = enlarged[:, :, None] / 255 * np.array([165, 195, 245], np.float32)
    tone = skin[face_px // 2 : face_px * 3 // 4, face_px // 4 : face_px * 3 // 4].mean(axis=(0, 1))
    colour = tuple(float(value) for value in tone)
    cv2.rectangle(picture, (centre[0] - 30, centre[1] + 40), (centre[0] + 30, centre[1] + 118), colour, -1)
    cutout[centre[1] + 40 : centre[1] + 118, centre[0] - 30 : centre[0] + 30] = 255
    cv2.ellipse(picture, centre, (52, 68), 0, 0, 360, colour, -1, cv2.LINE_AA)
    rim = np.zeros((face_px, face_px), np.float32)
    cv2.ellipse(rim, (face_px // 2, face_px // 2), (48, 58), 0, 0, 360, (1.0,), -1)
    weight = cv2.GaussianBlur(rim, (0, 0), 4.0)[:, :, None]
    left, top = centre[0] - face_px // 2, centre[1] - face_px // 2
    under = picture[top : top + face_px, left : left + face_px]
    picture[top : top + face_px, left : left + face_px] = np.clip(
        weight * skin + (1 - weight) * under, 0, 255
    )
    box = (centre[0] - 48, top, centre[0] + 48, top + face_px)
    fractions = (box[0] / side, box[1] / side, box[2] / side, box[3] / side)
    return Texture.of(picture, cutout), fractions


def _random_colour(generator: np.random.Generator, lowest: int, highest: int) -> Bgr:
    blue, green, red = (int(value) for value in generator.integers(lowest, highest, size=3))
    return blue, green, red


_FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
)

#: Invented names, addresses and numbers: 555-01xx numbers and example.org are reserved for fiction.
_NOTICES = (
    ("Meeting room 3", "Ms. A. Example", "Tel 555-0142", "a.example@example.org"),
    ("PAYROLL MARCH", "J. Sample 4210.00", "R. Muster 3985.50", "Account 000-1234"),
    ("Patient: T. Person", "Born 01/02/1970", "Ward 7, bed 12", "Allergy: none"),
    ("Delivery 88-1207", "12 Sample Street", "Springfield", "Ref. QX 4471"),
)


def notice(number: int, width: int, height: int) -> tuple[Texture, list[tuple[float, float, float, float]]]:
    """A sign or screen with lines of text.

    Returns:
        The texture and one box per line as fractions of its width and height.
    """
    dark = number % 2 == 1
    ground, ink = ((62, 48, 36), (235, 235, 230)) if dark else ((232, 238, 240), (38, 30, 28))
    picture = np.full((height, width, 3), ground, np.uint8)
    cv2.rectangle(picture, (0, 0), (width - 1, height - 1), (70, 70, 70), max(1, height // 40))
    lines = _NOTICES[number % len(_NOTICES)]
    pitch = height / (len(lines) + 0.6)
    boxes = []
    for row, line in enumerate(lines):
        font = _FONTS[(number + row) % len(_FONTS)]
        thickness = max(1, round(pitch / 22))
        (unit_width, unit_height), _ = cv2.getTextSize(line, font, 1.0, thickness)
        scale = min(0.62 * pitch / unit_height, 0.9 * width / unit_width)
        (text_width, text_height), below = cv2.getTextSize(line, font, scale, thickness)
        left, base = int(0.05 * width), int((row + 0.95) * pitch)
        cv2.putText(picture, line, (left, base), font, scale, ink, thickness, cv2.LINE_AA)
        box = (left, base - text_height, left + text_width, base + below // 2)
        boxes.append((box[0] / width, box[1] / height, box[2] / width, box[3] / height))
    return Texture.of(picture), boxes


def number_plate(number: int, generator: np.random.Generator, width: int, height: int) -> Texture:
    """A number plate with an invented registration."""
    letters = "ABCDEFGHJKLMNPRSTUVWXYZ"
    registration = (
        "".join(letters[int(generator.integers(len(letters)))] for _ in range(2))
        + f" {int(generator.integers(100, 1000))} "
        + letters[int(generator.integers(len(letters)))]
        + letters[number % len(letters)]
    )
    picture = np.full((height, width, 3), (235, 240, 240), np.uint8)
    cv2.rectangle(picture, (0, 0), (width - 1, height - 1), (30, 30, 30), max(1, height // 16))
    cv2.rectangle(picture, (0, 0), (width // 12, height - 1), (170, 80, 20), -1)
    thickness = max(1, height // 10)
    (unit_width, unit_height), _ = cv2.getTextSize(registration, cv2.FONT_HERSHEY_DUPLEX, 1.0, thickness)
    scale = min(0.58 * height / unit_height, 0.84 * width / unit_width)
    (_, text_height), _ = cv2.getTextSize(registration, cv2.FONT_HERSHEY_DUPLEX, scale, thickness)
    origin = (int(width * 0.12), (height + text_height) // 2)
    cv2.putText(
        picture, registration, origin, cv2.FONT_HERSHEY_DUPLEX, scale, (25, 25, 25), thickness, cv2.LINE_AA
    )
    return Texture.of(picture)
