from __future__ import annotations

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ego_assets.media.decode import DecodedFrame
from ego_assets.media.orientation import upright_size
from ego_assets.privacy.motion import FrameMotion, MotionMeter
from ego_assets.schema.motion import CameraMotion

WIDTH, HEIGHT = 640, 360

Picture = npt.NDArray[np.uint8]


def scene(seed: int) -> Picture:
    """Smooth random blobs, three times as large as the picture."""
    noise = np.random.default_rng(seed).random((3 * HEIGHT // 20, 3 * WIDTH // 20)).astype(np.float32)
    enlarged = cv2.resize(noise, (3 * WIDTH, 3 * HEIGHT), interpolation=cv2.INTER_CUBIC)
    return np.clip(40 + 170 * enlarged, 0, 255).astype(np.uint8)


def view(world: Picture, x: int, y: int) -> Picture:
    """What a camera sees that moved ``x`` to the right and ``y`` down."""
    return world[HEIGHT + y : 2 * HEIGHT + y, WIDTH + x : 2 * WIDTH + x]


def decoded(grey: Picture, index: int, rotation_deg: int = 0) -> DecodedFrame:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(grey), format="gray")
    return DecodedFrame(index, index * 33_000_000, frame.reformat(format="yuv420p"), rotation_deg)


def measured(pictures: list[Picture], rotation_deg: int = 0) -> tuple[list[FrameMotion], CameraMotion]:
    meter = MotionMeter()
    motions = [meter.measure(decoded(picture, i, rotation_deg)) for i, picture in enumerate(pictures)]
    return motions, meter.camera_motion()


@settings(max_examples=25, deadline=None)
@given(x=st.integers(-120, 120), y=st.integers(-70, 70), seed=st.integers(0, 50))
def test_a_shift_of_the_camera_is_measured_in_full_size_pixels(x: int, y: int, seed: int) -> None:
    world = scene(seed)
    (_, motion), camera = measured([view(world, 0, 0), view(world, x, y)])
    # The camera moves right, so the scene moves left.
    assert motion.shift_x == pytest.approx(-x, abs=2.0)
    assert motion.shift_y == pytest.approx(-y, abs=2.0)
    assert motion.change < 0.05
    assert not motion.is_cut
    assert camera.positions_xy[1].tolist() == [motion.shift_x, motion.shift_y]


@pytest.mark.parametrize("rotation_deg", [0, 90, 180, 270])
def test_shifts_are_those_of_the_upright_picture(rotation_deg: int) -> None:
    turns = {0: None, 90: cv2.ROTATE_90_COUNTERCLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_CLOCKWISE}
    world, turn = scene(3), turns[rotation_deg]
    upright = [view(world, 0, 0), view(world, 30, -12)]
    coded = upright if turn is None else [np.asarray(cv2.rotate(p, turn), np.uint8) for p in upright]
    assert upright_size(*coded[0].shape[::-1], rotation_deg) == (WIDTH, HEIGHT)
    (_, motion), _ = measured(coded, rotation_deg)
    assert (motion.shift_x, motion.shift_y) == pytest.approx((-30, 12), abs=2.0)


def test_positions_add_up_over_a_turn_there_and_back() -> None:
    world = scene(1)
    places = [round(150 * np.sin(step / 40 * 2 * np.pi)) for step in range(41)]
    _, camera = measured([view(world, x, 0) for x in places])
    assert camera.positions_xy[:, 0] == pytest.approx(-np.array(places), abs=4.0)
    assert not camera.is_cut.any()


def test_something_that_moves_before_a_still_camera_is_change_and_no_shift() -> None:
    world = scene(2)
    pictures = []
    for step in range(4):
        picture = view(world, 0, 0).copy()
        picture[100:180, 100 + 20 * step : 180 + 20 * step] = 255
        pictures.append(picture)
    motions, _ = measured(pictures)
    for motion in motions[1:]:
        assert abs(motion.shift_x) < 1 and abs(motion.shift_y) < 1
        assert 0.005 < motion.change < 0.5


def test_a_cut_is_seen_once_and_has_no_shift() -> None:
    first, second = scene(4), scene(5)
    pictures = [view(first, 2 * i, 0) for i in range(5)] + [view(second, 2 * i, 0) for i in range(5)]
    _, camera = measured(pictures)
    assert np.nonzero(camera.is_cut)[0].tolist() == [5]
    assert camera.positions_xy[5].tolist() == camera.positions_xy[4].tolist()
    assert camera.scenes.tolist() == [0] * 5 + [1] * 5


def test_brightness_and_noise_are_no_change() -> None:
    world = scene(6)
    generator = np.random.default_rng(0)

    def noisy(gain: float) -> Picture:
        values = view(world, 0, 0) + gain + generator.normal(0, 6, (HEIGHT, WIDTH))
        return np.clip(values, 0, 255).astype(np.uint8)

    motions, camera = measured([noisy(0), noisy(0), noisy(20), noisy(20)])
    assert max(motion.change for motion in motions) < 0.02
    assert np.abs(camera.positions_xy).max() < 1.0


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_a_picture_without_any_structure_neither_moves_nor_changes(grey: int) -> None:
    plain = np.full((HEIGHT, WIDTH), grey, np.uint8)
    motions, _ = measured([plain, plain.copy(), plain.copy()])
    assert all(motion == FrameMotion() for motion in motions)


def test_light_that_goes_on_is_a_cut() -> None:
    dark = np.zeros((HEIGHT, WIDTH), np.uint8)
    motions, _ = measured([dark, dark, view(scene(7), 0, 0)])
    assert motions[2].is_cut


@pytest.mark.parametrize(("width", "height"), [(16, 16), (2, 2), (33, 501), (1000, 40)])
def test_odd_and_tiny_sizes_are_measured(width: int, height: int) -> None:
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 255, (height, width)).astype(np.uint8) for _ in range(3)]
    frames = [av.VideoFrame.from_ndarray(picture, format="gray") for picture in pictures]
    meter = MotionMeter()
    for index, frame in enumerate(frames):
        assert np.isfinite(meter.measure(DecodedFrame(index, index, frame, 0)).shift_x)
    assert meter.camera_motion().frame_count == 3


def test_no_frames_and_one_frame() -> None:
    assert MotionMeter().camera_motion().frame_count == 0
    motions, camera = measured([view(scene(0), 0, 0)])
    assert motions == [FrameMotion()]
    assert camera.positions_xy.tolist() == [[0, 0]]


def test_a_still_camera_has_one_scene() -> None:
    still = CameraMotion.still(3)
    assert still.frame_count == 3
    assert still.scenes.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "fields",
    [{"shift_x": float("nan")}, {"shift_y": float("inf")}, {"change": -0.1}, {"change": 2.5}],
)
def test_impossible_motion_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        FrameMotion(**fields)  # type: ignore[arg-type]


def test_arrays_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="positions_xy"):
        CameraMotion(
            positions_xy=np.zeros((2, 2)), change=np.zeros(3, np.float32), is_cut=np.zeros(3, np.bool_)
        )
    with pytest.raises(ValueError, match="is_cut"):
        CameraMotion(
            positions_xy=np.zeros((3, 2)), change=np.zeros(3, np.float32), is_cut=np.zeros(2, np.bool_)
        )


def test_a_picture_that_shows_nothing_is_told_apart_from_a_camera_that_does_not_move() -> None:
    rng = np.random.default_rng(0)
    scene = cv2.GaussianBlur(rng.integers(0, 255, (90, 160), np.uint8), (0, 0), 3)
    lit, dark = cv2.normalize(scene, None, 30, 220, cv2.NORM_MINMAX), scene // 40
    for picture, unseen in ((lit, False), (dark, True)):
        meter = MotionMeter()
        for index in range(3):
            meter.measure(grey(index, picture))
        motion = meter.camera_motion()
        assert motion.unseen.tolist() == [unseen] * 3
        assert motion.unseen_share(np.arange(3)) == float(unseen)
        assert motion.change.tolist() == [0.0] * 3


def grey(index: int, picture: np.ndarray) -> DecodedFrame:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="gray")
    return DecodedFrame(index, index * 33_333_333, frame, 0)
