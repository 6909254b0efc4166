from __future__ import annotations

import cv2
import numpy as np
import pytest

from ego_assets.media.contact_sheet import contact_sheet, encode_jpeg


def noise(seed: int, width: int = 640, height: int = 360) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


def decode(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_layout(count: int) -> None:
    pictures = [np.full((90, 160, 3), 20 * (index + 1), np.uint8) for index in range(count)]
    sheet = decode(contact_sheet(pictures, columns=4, tile_width=80))
    columns, rows = min(4, count), -(-count // 4)
    assert sheet.shape == (rows * 47 - 2, columns * 82 - 2, 3)
    for index in range(count):
        row, column = divmod(index, 4)
        assert abs(int(sheet[row * 47 + 22, column * 82 + 40, 0]) - 20 * (index + 1)) <= 3


@pytest.mark.parametrize("max_bytes", [50_000, 12_000, 3_000])
def test_the_worst_pictures_stay_below_the_limit(max_bytes: int) -> None:
    data = contact_sheet([noise(seed) for seed in range(8)], max_bytes=max_bytes)
    assert len(data) <= max_bytes
    assert decode(data).std() > 5


def test_pictures_of_another_shape_are_fitted() -> None:
    white = np.full((100, 100, 3), 255, np.uint8)
    sheet = decode(contact_sheet([np.zeros((50, 100, 3), np.uint8), white], tile_width=100))
    assert sheet.shape == (50, 202, 3)
    assert sheet[25, 152].min() > 240
    assert sheet[25, 110].max() < 30


def test_jpeg_keeps_the_picture() -> None:
    picture = cv2.GaussianBlur(noise(0), (31, 31), 9)
    assert np.abs(decode(encode_jpeg(picture)).astype(int) - picture).mean() < 2
    assert len(encode_jpeg(picture, quality=30)) < len(encode_jpeg(picture))


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([])
    with pytest.raises(ValueError, match="columns"):
        contact_sheet([noise(0)], columns=0)
    with pytest.raises(ValueError, match="max_bytes"):
        contact_sheet([noise(0)], max_bytes=10)
    with pytest.raises(ValueError, match="expected uint8"):
        encode_jpeg(np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match="quality"):
        encode_jpeg(noise(0), quality=0)
