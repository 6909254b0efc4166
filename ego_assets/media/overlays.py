"""Pictures for people: depth in colours, masks, boxes and names over frames.

Pictures are ``uint8 [height, width, 3]`` BGR; single colours and palettes are RGB, as palettes of PNG files are. Lines
and letters grow with the picture, so that they can be read once it is a tile of a contact sheet.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.schema.detections import BgrImage

#: An RGB colour, 0-255 each.
RgbColour = tuple[int, int, int]

# Ends of the range of colours, in percent of the known inverse depths: single wrong pixels must not darken the rest.
_DEPTH_PERCENTILES = (1.0, 99.0)
_UNKNOWN_BGR, _HATCH_BGR = (46, 46, 46), (96, 96, 96)
# Height of letters as share of the picture's width: 13 pixels in a tile of 240.
_TEXT_SHARE = 0.055
_FONT = cv2.FONT_HERSHEY_SIMPLEX
# Height of a capital letter of the font at scale 1, in pixels.
_FONT_HEIGHT = 22.0


def depth_picture(
    depth: npt.NDArray[np.float32] | npt.NDArray[np.uint16],
    valid: npt.NDArray[np.bool_],
    *,
    nearest: float | None = None,
    farthest: float | None = None,
) -> BgrImage:
    """Depth in a perceptually uniform colour map (plasma): near is yellow, far is blue, unknown is grey and hatched.

    Colours follow inverse depth, which spreads them over what is near.

    Args:
        depth: ``float32`` or ``uint16 [height, width]``, in any unit.
        valid: ``bool [height, width]``, where it is known.
        nearest: Depth that is yellow; by default nearly the smallest one of the picture.
        farthest: Depth that is blue; by default nearly the largest one.
    """
    if depth.ndim != 2 or valid.shape != depth.shape or valid.dtype != np.bool_:
        raise ValueError(
            f"depth, valid: expected [height, width] and bool of the same shape, got {list(depth.shape)} and "
            f"{valid.dtype} {list(valid.shape)}"
        )
    height, width = depth.shape
    picture = _hatched(height, width)
    known = valid & (depth > 0)
    if not known.any():
        return picture
    inverse = 1 / depth[known].astype(np.float32)
    low, high = np.percentile(inverse, _DEPTH_PERCENTILES)
    low = 1 / farthest if farthest else low
    high = 1 / nearest if nearest else high
    levels = np.full(inverse.shape, 0.5, np.float32) if high <= low else (inverse - low) / (high - low)
    colours = cv2.applyColorMap(
        np.rint(np.clip(levels, 0, 1) * 255).astype(np.uint8).reshape(-1, 1), cv2.COLORMAP_PLASMA
    )
    picture[known] = colours.reshape(-1, 3)
    return picture


def mask_overlay(
    image: BgrImage,
    ids: npt.NDArray[np.uint8],
    palette: npt.NDArray[np.uint8],
    *,
    opacity: float = 0.5,
) -> BgrImage:
    """Instances as coloured, outlined areas over a frame; id 0 leaves the frame as it is.

    Args:
        image: The frame.
        ids: ``uint8 [height, width]``, instance of every pixel of the frame.
        palette: ``uint8 [256, 3]``, RGB colour of every id.
        opacity: How much of the colour is seen, 0-1.
    """
    if ids.shape != image.shape[:2] or palette.shape != (256, 3):
        raise ValueError(
            f"ids, palette: expected {list(image.shape[:2])} and [256, 3], got {list(ids.shape)} and "
            f"{list(palette.shape)}"
        )
    colours = np.ascontiguousarray(palette[:, ::-1])[ids]
    mixed = cv2.addWeighted(image, 1 - opacity, colours, opacity, 0)
    # The outline: where the smallest and the largest id around a pixel differ.
    around = np.ones((2 * _line_width(image) + 1,) * 2, np.uint8)
    edge = cv2.erode(ids, around) != cv2.dilate(ids, around)
    covered = ids > 0
    picture = np.where(covered[..., None], mixed, image)
    picture[edge & covered] = colours[edge & covered]
    return np.asarray(picture, np.uint8)


def draw_box(
    image: BgrImage,
    box_xyxy: npt.ArrayLike,
    colour: RgbColour,
    label: str = "",
) -> BgrImage:
    """A copy of a picture with a box, and its name above or inside.

    Args:
        image: The picture.
        box_xyxy: Left, top, right, bottom in pixels.
        colour: RGB.
        label: Name of the box; empty for none.
    """
    left, top, right, bottom = (round(float(value)) for value in np.asarray(box_xyxy, np.float64).reshape(4))
    picture = image.copy()
    cv2.rectangle(picture, (left, top), (right, bottom), colour[::-1], _line_width(image), cv2.LINE_AA)
    if label:
        _, height = _text_size(label, _text_scale(image), _line_width(image))
        above = top - height
        _draw_text(picture, label, left, above if above >= 0 else top, colour)
    return picture


def draw_label(image: BgrImage, text: str, colour: RgbColour = (255, 255, 255)) -> BgrImage:
    """A copy of a picture with a line of text at the upper left, on a plate of its colour.

    Text that is too long for the picture is set smaller.
    """
    picture = image.copy()
    _draw_text(picture, text, 0, 0, colour)
    return picture


def side_by_side(*images: BgrImage) -> BgrImage:
    """Pictures in a row, scaled to the height of the first one, with a thin gap."""
    if not images:
        raise ValueError("images: expected at least one picture, got none")
    height = images[0].shape[0]
    gap = np.zeros((height, max(1, _line_width(images[0])), 3), np.uint8)
    row: list[BgrImage] = []
    for image in images:
        if image.shape[0] != height:
            width = max(1, round(image.shape[1] * height / image.shape[0]))
            shrinks = image.shape[0] > height
            image = np.asarray(
                cv2.resize(
                    image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
                ),
                np.uint8,
            )
        row += [gap, image] if row else [image]
    return np.concatenate(row, axis=1)


def _hatched(height: int, width: int) -> BgrImage:
    picture = np.full((height, width, 3), _UNKNOWN_BGR, np.uint8)
    period = max(6, width // 40)
    stripes = (np.arange(height)[:, None] + np.arange(width)[None]) % period < max(1, period // 5)
    picture[stripes] = _HATCH_BGR
    return picture


def _line_width(image: BgrImage) -> int:
    return max(1, round(image.shape[1] / 200))


def _text_scale(image: BgrImage) -> float:
    return max(0.3, image.shape[1] * _TEXT_SHARE / _FONT_HEIGHT)


def _text_size(text: str, scale: float, thickness: int) -> tuple[int, int]:
    """Width and height of the plate behind a text."""
    (width, height), baseline = cv2.getTextSize(text, _FONT, scale, thickness)
    return width + height // 2, height + baseline + height // 4


def _draw_text(picture: BgrImage, text: str, left: int, top: int, colour: RgbColour) -> None:
    """Write on a plate of the colour, moved and shrunk so that it lies inside the picture."""
    thickness, scale = _line_width(picture), _text_scale(picture)
    width, height = _text_size(text, scale, thickness)
    if width > picture.shape[1]:
        scale *= picture.shape[1] / width
        thickness = max(1, int(thickness * picture.shape[1] / width))
        width, height = _text_size(text, scale, thickness)
    left = max(0, min(left, picture.shape[1] - width))
    top = max(0, min(top, picture.shape[0] - height))
    cv2.rectangle(picture, (left, top), (left + width, top + height), colour[::-1], cv2.FILLED)
    (_, letters), _ = cv2.getTextSize(text, _FONT, scale, thickness)
    # Weights of ITU-R BT.601: dark letters on light plates, light ones on dark plates.
    is_light = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 127
    ink = (0, 0, 0) if is_light else (255, 255, 255)
    at = (left + letters // 4, top + letters + letters // 4)
    cv2.putText(picture, text, at, _FONT, scale, ink, thickness, cv2.LINE_AA)
