"""Depth maps, confidence maps and masks as PNG (ISO/IEC 15948)."""

from __future__ import annotations

import io
import struct
import zlib
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from ego_assets.schema.errors import ArtifactCorrupted

# Run lengths with adaptive row filters are the cheapest way to write such maps, and make them smaller than level 1
# of the general search does. The level still has to be set: it keeps the encoder from dropping the filters.
_LEVEL = 2
_CV2_OPTIONS = (
    cv2.IMWRITE_PNG_COMPRESSION,
    _LEVEL,
    cv2.IMWRITE_PNG_STRATEGY,
    cv2.IMWRITE_PNG_STRATEGY_RLE,
)
_ZLIB_RLE = 3
# Millimetres of a surface fill both bytes, and runs are short. One filter for all rows (RFC 2083, 6.4: the difference
# from the row above) with the quickest search takes two thirds of the time of the above, and the files are smaller.
_FILTER_UP = 2
_LEVEL_16 = 1
_GREY = 0
# Both ends are looked for: OpenCV fills what is missing of a cut file with zeros and says nothing.
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END = b"IEND\xaeB`\x82"
# Colour type 3 of the header says that pixels are palette indices.
_COLOUR_TYPE_BYTE, _INDEXED = 25, 3


def encode_png16(values: npt.NDArray[np.uint16]) -> bytes:
    """``uint16 [height, width]`` as 16-bit greyscale PNG. Equal values give equal bytes."""
    _check(values, np.dtype(np.uint16), "values")
    height, width = values.shape
    rows = np.ascontiguousarray(values, ">u2").view(np.uint8)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = _FILTER_UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 16, _GREY, 0, 0, 0)
    data = zlib.compress(filtered.data, _LEVEL_16)
    return b"".join((_SIGNATURE, *_chunk(b"IHDR", header), *_chunk(b"IDAT", data), *_chunk(b"IEND", b"")))


def encode_png8(values: npt.NDArray[np.uint8]) -> bytes:
    """``uint8 [height, width]`` as 8-bit greyscale PNG. Equal values give equal bytes.

    A map of one value, as :func:`numpy.broadcast_to` makes it, is encoded once and remembered.
    """
    if values.ndim == 2 and values.size and values.dtype == np.uint8 and values.strides == (0, 0):
        return _encode_constant(int(values[0, 0]), *values.shape)
    return _encode_grey(values, np.dtype(np.uint8))


def encode_indexed_png(ids: npt.NDArray[np.uint8], palette: npt.NDArray[np.uint8]) -> bytes:
    """Instance ids as 8-bit PNG with a palette: programs show colours, and the pixels stay ids.

    Args:
        ids: ``uint8 [height, width]``.
        palette: ``uint8 [256, 3]``, RGB colour of every id.
    """
    _check(ids, np.dtype(np.uint8), "ids")
    if palette.shape != (256, 3) or palette.dtype != np.uint8:
        raise ValueError(f"palette: expected uint8 [256, 3], got {palette.dtype} {list(palette.shape)}")
    image = Image.fromarray(ids)
    image.putpalette(palette.tobytes())
    encoded = io.BytesIO()
    image.save(encoded, "PNG", compress_level=_LEVEL, compress_type=_ZLIB_RLE)
    return encoded.getvalue()


def decode_png(data: bytes) -> npt.NDArray[Any]:
    """The values that one of the functions above encoded: ``[height, width]``, 16 bits and palette ids kept.

    Raises:
        ArtifactCorrupted: It is not a whole PNG with one value a pixel.
    """
    values: npt.NDArray[Any] | None = None
    if len(data) > _COLOUR_TYPE_BYTE and data.startswith(_SIGNATURE) and data.endswith(_END):
        if data[_COLOUR_TYPE_BYTE] == _INDEXED:
            try:
                with Image.open(io.BytesIO(data)) as image:
                    values = np.array(image)
            except (OSError, SyntaxError, ValueError):
                values = None
        else:
            values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.ndim != 2:
        raise ArtifactCorrupted("A PNG cannot be read as a map of one value a pixel: make the layer again.")
    return values


def _chunk(kind: bytes, content: bytes) -> tuple[bytes, ...]:
    """Length, name, content and checksum."""
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return struct.pack(">I", len(content)), kind, content, struct.pack(">I", checksum)


def _encode_grey(values: npt.NDArray[Any], dtype: np.dtype[Any]) -> bytes:
    _check(values, dtype, "values")
    done, encoded = cv2.imencode(".png", values, _CV2_OPTIONS)
    if not done:
        raise ValueError(f"values: {values.shape[1]}x{values.shape[0]} pixels cannot be encoded as PNG")
    return encoded.tobytes()


@lru_cache(maxsize=8)
def _encode_constant(value: int, height: int, width: int) -> bytes:
    return _encode_grey(np.full((height, width), value, np.uint8), np.dtype(np.uint8))


def _check(values: npt.NDArray[Any], dtype: np.dtype[Any], name: str) -> None:
    if values.ndim != 2 or values.dtype != dtype or not values.size:
        raise ValueError(
            f"{name}: expected {dtype} [height, width] with at least one pixel, got {values.dtype} "
            f"{list(values.shape)}"
        )
