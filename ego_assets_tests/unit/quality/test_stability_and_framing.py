"""Faults put into a picture of noise that a camera pans over."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ego_assets.quality.framing import TileDetail, ViewMeter, ViewSamples

WIDTH, HEIGHT = 320, 180
RNG = np.random.default_rng(11)


def world():
    """A large picture with detail of several sizes everywhere."""
    layers = [
        cv2.resize(RNG.integers(0, 256, (900 // step, 1600 // step)).astype(np.float32), (1600, 900))
        for step in (4, 12, 40)
    ]
    mixed = sum(layers) / 3
    return np.clip(128 + 2.2 * (mixed - 128), 20, 235).astype(np.uint8)


WORLD = world()


def view(x=0.0, y=0.0, turn_deg=0.0):
    """What a camera sees that was moved by shares of the picture's width, from the middle of the world."""
    matrix = cv2.getRotationMatrix2D((800 + x * WIDTH, 450 + y * WIDTH), turn_deg, 1.0)
    matrix[:, 2] += (WIDTH / 2 - 800 - x * WIDTH, HEIGHT / 2 - 450 - y * WIDTH)
    return cv2.warpAffine(WORLD, matrix, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT)


def worn(time_s):
    """The slow sway of somebody at work."""
    return view(0.25 * np.sin(0.7 * time_s), 0.12 * np.sin(1.1 * time_s))


def measure(show, *, duration_s=8.0, rate_hz=30, rotation_deg=0):
    meter = ViewMeter(rotation_deg=rotation_deg, gain=1.0, black=0, working_short_side_px=360)
    for index in range(round(duration_s * rate_hz)):
        stamp_ns = round(index * 1e9 / rate_hz)
        if meter.due(stamp_ns):
            meter.add(stamp_ns, show(index / rate_hz))
    return meter.samples(duration_s), meter.tile_detail()


@pytest.mark.parametrize("rate_hz", [24, 30, 60, 120])
def test_shake_is_the_same_at_every_frame_rate(rate_hz):
    def shaken(time_s):
        swing = 0.006 * np.sin(2 * np.pi * 5.5 * time_s)
        return view(0.25 * np.sin(0.7 * time_s) + swing, 0.12 * np.sin(1.1 * time_s) + swing)

    smooth, _ = measure(worn, duration_s=4, rate_hz=rate_hz)
    shaking, _ = measure(shaken, duration_s=4, rate_hz=rate_hz)
    assert np.nanmax(smooth.shake) < 0.001
    assert np.nanmin(shaking.shake) > 0.003
    assert np.nanmax(shaking.shake) < 0.01


def test_steps_and_turns_of_the_head_are_no_shake():
    def walking(time_s):
        look = 0.2 / (1 + np.exp(-12 * (time_s - 2)))
        return view(look, 0.01 * np.sin(2 * np.pi * 1.9 * time_s))

    samples, _ = measure(walking, duration_s=4)
    assert np.nanmax(samples.shake) < 0.003


def test_shake_cannot_be_told_at_ten_frames_a_second():
    samples, _ = measure(worn, duration_s=4, rate_hz=10)
    assert np.isnan(samples.shake).all()
    assert np.isfinite(samples.speed).all()


@pytest.mark.parametrize("luma", [12, 70])
def test_a_covered_lens_in_a_lit_clip(luma):
    noise = np.random.default_rng(2)

    def covered(time_s):
        if not 3 <= time_s < 6:
            return worn(time_s)
        flat = np.full((HEIGHT, WIDTH), luma) + noise.normal(0, 1.5, (HEIGHT, WIDTH))
        return np.clip(flat, 0, 255).astype(np.uint8)

    samples, _ = measure(covered)
    assert samples.covered.tolist() == [False] * 3 + [True] * 3 + [False] * 2
    assert samples.longest(samples.covered).start_s == 3
    assert not samples.still.any()
    assert not samples.handled[samples.covered].any()


def test_a_clip_that_is_black_throughout_is_not_called_covered():
    samples, _ = measure(lambda time_s: np.full((HEIGHT, WIDTH), 6, np.uint8))
    assert samples.too_dark_to_tell.all()
    assert not samples.covered.any()


def test_a_dim_room_is_not_covered():
    samples, _ = measure(lambda time_s: (worn(time_s) // 8).astype(np.uint8), duration_s=4)
    assert not samples.featureless.any()


def test_a_camera_that_lies_still_before_it_is_worn_and_after():
    noise = np.random.default_rng(3)

    def shown(time_s):
        picture = worn(0.0 if time_s < 4 else min(time_s, 9.0))
        return np.clip(picture + noise.normal(0, 2, picture.shape), 0, 255).astype(np.uint8)

    samples, _ = measure(shown, duration_s=14)
    beginning, end = samples.not_worn()
    assert 3 <= beginning <= 4
    assert 4 <= end <= 5
    assert not samples.stands_throughout


def test_a_camera_on_a_stand_and_one_that_is_worn():
    stand, _ = measure(lambda time_s: view())
    assert stand.stands_throughout
    assert stand.not_worn() == (8, 0)
    on_head, _ = measure(worn)
    assert on_head.not_worn() == (0, 0)
    assert not on_head.still.any()


def test_a_tumbling_camera_at_the_beginning():
    def shown(time_s):
        return worn(time_s) if time_s >= 4 else view(0.1 * time_s, 0, 200 * time_s)

    samples, _ = measure(shown, duration_s=10)
    assert samples.not_worn() == (4, 0)


def test_a_beginning_ends_at_the_middle_of_the_clip():
    columns = {name: np.zeros(10) for name in ViewSamples.__annotations__}
    columns["reach"] = np.array([0.0] * 7 + [0.1] * 3)
    assert ViewSamples(**columns).not_worn() == (5, 0)


@pytest.mark.parametrize("down_deg", [-60, -20, 0, 30, 60])
def test_the_tilt_shows_in_turns(down_deg):
    """A turn about the vertical: its part about the lens turns the picture, the rest slides it."""
    turned_deg = 20 * np.sin(2 * np.pi * np.arange(0, 20) / 8)
    steps = np.diff(turned_deg, prepend=0.0)
    columns = {name: np.zeros(20) for name in ViewSamples.__annotations__}
    columns["slide"] = np.radians(steps * np.cos(np.radians(down_deg))) * 0.6
    columns["turn_deg"] = steps * np.sin(np.radians(down_deg))
    columns["reach"] += 0.1
    (tilt,) = ViewSamples(**columns).tilts()
    assert tilt.down_deg == pytest.approx(down_deg, abs=0.5)
    assert tilt.points_away is (down_deg == -60)
    narrow = ViewSamples(**columns).tilts(focal_share=1.2)
    assert [abs(found.down_deg) >= abs(down_deg) for found in narrow] in ([True], [])


def test_turns_about_different_axes_tell_no_tilt():
    columns = {name: np.zeros(20) for name in ViewSamples.__annotations__}
    columns["slide"] = 0.15 * np.tile([1, 0], 10)
    columns["turn_deg"] = 12.0 * np.tile([0, 1], 10)
    assert ViewSamples(**columns).tilts() == []


def test_a_smudge_stays_where_it_is():
    def smudged(time_s):
        picture = worn(time_s).astype(np.float32)
        picture[20:80, 30:110] = cv2.GaussianBlur(picture, (0, 0), 5)[20:80, 30:110]
        return picture.astype(np.uint8)

    _, clean = measure(worn, duration_s=14)
    _, dirty = measure(smudged, duration_s=14)
    assert clean.moved_enough
    assert dirty.moved_enough
    assert not clean.largest_smudge().any()
    smudge = dirty.largest_smudge()
    assert 4 <= smudge.sum() <= 20
    assert dirty.place(smudge) == "upper left"
    _, turned = measure(smudged, duration_s=14, rotation_deg=90)
    assert turned.detail.shape == (16, 9)
    assert turned.place(turned.largest_smudge()) == "upper right"


def test_a_soft_thing_before_a_camera_that_hardly_moves_is_no_smudge():
    _, tiles = measure(lambda time_s: view(0.01 * np.sin(time_s)), duration_s=14)
    assert not tiles.moved_enough
    assert not TileDetail.empty().moved_enough


def test_a_camera_on_its_side_slides_and_turns_as_the_upright_one():
    upright, _ = measure(lambda t: view(0.2 * t, 0, 5 * t), duration_s=3)
    lying, _ = measure(
        lambda t: np.ascontiguousarray(np.rot90(view(0.2 * t, 0, 5 * t))), duration_s=3, rotation_deg=90
    )
    np.testing.assert_allclose(lying.slide, upright.slide, atol=0.01)
    np.testing.assert_allclose(lying.turn_deg, upright.turn_deg, atol=0.7)
    assert upright.slide.min() < -0.1
    assert abs(upright.turn_deg).min() > 3


def test_frames_that_are_left_out_are_not_compared():
    meter = ViewMeter(rotation_deg=0, gain=1.0, black=0, working_short_side_px=360)
    for time_s in (0.0, 0.1, 2.0, 2.1):
        meter.add(round(time_s * 1e9), worn(time_s))
    samples = meter.samples(3.0)
    assert samples.lost_share.tolist()[0] == 0
    assert np.isnan(samples.lost_share[1])
    assert samples.lost_share[2] == 0.5
