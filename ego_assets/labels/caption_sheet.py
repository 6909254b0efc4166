"""Pictures with a sentence under each, for people to judge captions by."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ego_assets.media.contact_sheet import contact_sheet
from ego_assets.schema.detections import BgrImage

#: Captions shown of one clip.
SHOWN = 6

_COLUMNS, _WIDTH, _TALLEST = 2, 400, 300
_MOST_LINES, _LINE_HEIGHT, _FONT_SIZE, _MARGIN = 5, 17, 14, 6
_INK, _PAPER = (20, 20, 20), (255, 255, 255)


def shown_places(count: int) -> list[int]:
    """Which of so many captions are shown: evenly spread, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, SHOWN))})


def thumbnail(image: BgrImage) -> BgrImage:
    """A picture as large as a tile of the sheet, small enough to be kept."""
    scale = min(_WIDTH / image.shape[1], _TALLEST / image.shape[0])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def caption_sheet(pictures: Sequence[BgrImage], texts: Sequence[str]) -> bytes:
    """Thumbnails of one size, each above its text, as one JPEG below 50 KB. Long texts end in an ellipsis.

    Raises:
        ValueError: There is no picture, or not as many texts.
    """
    font = ImageFont.load_default(_FONT_SIZE)
    wrapped = [_wrapped(text, font) for text in texts]
    lines = max(map(len, wrapped), default=1)
    tiles = [_tile(picture, text, lines, font) for picture, text in zip(pictures, wrapped, strict=True)]
    if len(tiles) > 1 and len(tiles) % _COLUMNS:
        tiles.append(np.full_like(tiles[0], 255))
    return contact_sheet(tiles, columns=_COLUMNS, tile_width=_WIDTH)


def _tile(
    picture: BgrImage, text: Sequence[str], lines: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> BgrImage:
    height, width = picture.shape[:2]
    tile = np.full((height + lines * _LINE_HEIGHT + 2 * _MARGIN, _WIDTH, 3), _PAPER, np.uint8)
    left = (_WIDTH - width) // 2
    tile[:height, left : left + width] = picture
    canvas = Image.fromarray(tile)
    draw = ImageDraw.Draw(canvas)
    for place, line in enumerate(text):
        draw.text((_MARGIN, height + _MARGIN + place * _LINE_HEIGHT), line, font=font, fill=_INK)
    return np.asarray(canvas, np.uint8)


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Lines that fit the tile; the last one says with an ellipsis that there is more."""
    room = _WIDTH - 2 * _MARGIN
    lines: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > room:
            lines.append(line)
            line = word
        else:
            line = longer
    lines.append(line)
    if len(lines) > _MOST_LINES:
        lines = lines[:_MOST_LINES]
        lines[-1] += " ..."
    return lines
