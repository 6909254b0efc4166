"""PNG of depth, confidence and masks: what is stored is what is read."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from ego_assets.media.rasters import decode_png, encode_indexed_png, encode_png8, encode_png16
from ego_assets.schema.errors import ArtifactCorrupted

SHAPES = arrays.array_shapes(min_dims=2, max_dims=2, max_side=40)
PALETTE = np.random.default_rng(0).integers(0, 256, (256, 3), dtype=np.uint8)


@given(arrays.arrays(np.uint16, SHAPES))
def test_16_bits_come_back(values: np.ndarray) -> None:
    read = decode_png(encode_png16(values))
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, values)


@given(
    arrays.arrays(np.uint8, SHAPES),
    st.sampled_from([encode_png8, lambda ids: encode_indexed_png(ids, PALETTE)]),
)
def test_8_bits_and_ids_come_back(values: np.ndarray, encode: object) -> None:
    read = decode_png(encode(values))  # type: ignore[operator]
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, values)


def test_equal_values_give_equal_bytes_however_they_lie_in_memory() -> None:
    values = np.random.default_rng(1).integers(0, 65536, (90, 160), dtype=np.uint16)
    turned = np.asfortranarray(values)
    wide = np.zeros((90, 320), np.uint16)
    wide[:, ::2] = values
    assert encode_png16(values) == encode_png16(turned) == encode_png16(wide[:, ::2])
    ids = (values >> 8).astype(np.uint8)
    assert encode_png8(ids) == encode_png8(np.asfortranarray(ids))
    assert encode_indexed_png(ids, PALETTE) == encode_indexed_png(np.asfortranarray(ids), PALETTE)


def test_a_map_of_one_value_is_encoded_as_if_written_out() -> None:
    for value in (0, 128):
        constant = np.broadcast_to(np.uint8(value), (90, 160))
        assert encode_png8(constant) == encode_png8(np.full((90, 160), value, np.uint8))
        assert encode_png8(constant) is encode_png8(np.broadcast_to(np.uint8(value), (90, 160)))
    assert encode_png16(np.broadcast_to(np.uint16(7), (9, 16))) == encode_png16(
        np.full((9, 16), 7, np.uint16)
    )


def test_other_programs_see_16_bits() -> None:
    values = np.random.default_rng(2).integers(0, 65536, (33, 47), dtype=np.uint16)
    with Image.open(io.BytesIO(encode_png16(values))) as image:
        image.verify()
    with Image.open(io.BytesIO(encode_png16(values))) as image:
        assert image.size == (47, 33) and image.mode.startswith("I")
        np.testing.assert_array_equal(np.asarray(image).astype(np.uint16), values)


def test_other_programs_see_a_palette() -> None:
    ids = np.arange(256, dtype=np.uint8).reshape(16, 16)
    with Image.open(io.BytesIO(encode_indexed_png(ids, PALETTE))) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")).reshape(-1, 3), PALETTE)


def test_smooth_maps_are_stored_smaller_than_they_are() -> None:
    rows, columns = np.mgrid[:360, :640]
    depth = (2000 + rows * 2 + columns).astype(np.uint16)
    assert len(encode_png16(depth)) < depth.nbytes / 5


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((4, 4), np.int32),
        np.zeros((4, 4), np.float32),
        np.zeros((4, 4, 3), np.uint16),
        np.zeros((0, 4), np.uint16),
    ],
)
def test_what_is_no_map_is_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="values: expected uint16"):
        encode_png16(values)
    with pytest.raises(ValueError, match="values: expected uint8"):
        encode_png8(values)
    with pytest.raises(ValueError, match="ids: expected uint8"):
        encode_indexed_png(values, PALETTE)  # type: ignore[arg-type]


def test_a_palette_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \[256, 3\], got uint8 \[8, 3\]"):
        encode_indexed_png(np.zeros((2, 2), np.uint8), PALETTE[:8])


@pytest.mark.parametrize("kind", ["depth", "confidence", "ids"])
def test_a_damaged_file_is_found(kind: str) -> None:
    values = np.random.default_rng(2).integers(0, 256, (40, 60), dtype=np.uint8)
    data = {
        "depth": encode_png16(values.astype(np.uint16) * 200),
        "confidence": encode_png8(values),
        "ids": encode_indexed_png(values, PALETTE),
    }[kind]
    for size in (0, 7, 8, 20, 40, len(data) // 2, len(data) - 1):
        with pytest.raises(ArtifactCorrupted):
            decode_png(data[:size])
    # Short, but with the right ends.
    with pytest.raises(ArtifactCorrupted):
        decode_png(data[:8] + data[-8:])
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 0xFF
    with pytest.raises(ArtifactCorrupted):
        decode_png(bytes(flipped))


def test_a_picture_with_colours_is_no_map() -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    with pytest.raises(ArtifactCorrupted):
        decode_png(file.getvalue())
