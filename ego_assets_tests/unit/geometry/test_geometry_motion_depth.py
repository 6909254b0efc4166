from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from ego_assets.geometry.completion import complete_between, enlarge
from ego_assets.geometry.correspondence import DenseMatcher, has_texture
from ego_assets.geometry.motion_depth import DepthFromMotion, MotionDepthConfig, _View
from ego_assets.schema.camera import CameraTrajectory, PinholeCamera, Scale
from ego_assets.schema.depth import MEASURED_FROM
from ego_assets.schema.frames import ClipFrame
from ego_assets.synth import SceneSpec
from ego_assets.synth.scene import Scene
from ego_assets.synth.trajectory import trajectory_of
from resources.models.flow import DisFlow

Array = npt.NDArray[np.float64]
Truth = tuple[npt.NDArray[np.float32], ...]
CONFIG = MotionDepthConfig(max_side=320, window_frames=4)


@cache
def clip(*, hands: bool = False, count: int = 7) -> tuple[list[ClipFrame], Truth, PinholeCamera, Array]:
    spec = SceneSpec(seed=3, width=480, height=270, hands=hands)
    scene = Scene(spec)
    renderings = [scene.frame(number / 5, number).rendering for number in range(count)]
    frames = [ClipFrame(n, n * 200_000_000, rendering.image) for n, rendering in enumerate(renderings)]
    truth = tuple(1 / np.maximum(rendering.inverse_depth, 1e-6) for rendering in renderings)
    matrix = scene.intrinsics
    camera = PinholeCamera(
        width=480,
        height=270,
        fx=matrix[0, 0],
        fy=matrix[1, 1],
        cx=matrix[0, 2],
        cy=matrix[1, 2],
        source="sidecar",
    )
    return frames, truth, camera, trajectory_of(spec).poses(np.arange(count) / 5)


def engine(camera: PinholeCamera, **options: object) -> DepthFromMotion:
    return DepthFromMotion(DenseMatcher(DisFlow()), camera=camera, config=CONFIG, **options)  # type: ignore[arg-type]


def poses_of(matrices: Array, *, scale: Scale = Scale.METRIC) -> CameraTrajectory:
    count = len(matrices)
    return CameraTrajectory(
        frame_index=np.arange(count),
        timestamps_ns=np.arange(count) * 200_000_000,
        T_world_camera=matrices,
        segment=np.zeros(count, np.int64),
        scale=scale,
    )


def test_supplied_poses_make_metres() -> None:
    frames, truth, camera, matrices = clip()
    results = list(engine(camera, poses=poses_of(matrices)).run(frames))
    assert {result.scale for result in results} == {Scale.METRIC}
    for result, true in zip(results, truth, strict=True):
        known = result.depth > 0
        assert known.mean() > 0.2
        assert np.median(np.abs(result.depth[known] / true[known] - 1)) < 0.1


def test_frames_without_a_pose_say_nothing() -> None:
    frames, _, camera, matrices = clip()
    unknown = matrices.copy()
    unknown[:3] = np.nan
    results = list(engine(camera, poses=poses_of(unknown)).run(frames))
    assert [result.status for result in results[:3]] == ["failed"] * 3
    assert results[-1].status == "estimated"


def test_estimated_poses_follow_the_true_ones_and_scale_stays() -> None:
    frames, truth, camera, matrices = clip()
    work = engine(camera)
    results = list(work.run(frames))
    found = work.trajectory()
    assert found.frame_index.tolist() == list(range(len(frames)))
    assert set(found.segment.tolist()) == {results[0].segment}
    relative = np.linalg.inv(found.T_world_camera[0]) @ found.T_world_camera[-1]
    true = np.linalg.inv(matrices[0]) @ matrices[-1]
    off = np.arccos(np.clip((np.trace(relative[:3, :3].T @ true[:3, :3]) - 1) / 2, -1, 1))
    assert np.degrees(off) < 2
    cosine = relative[:3, 3] @ true[:3, 3] / np.linalg.norm(relative[:3, 3]) / np.linalg.norm(true[:3, 3])
    assert cosine > 0.95
    scales = []
    for result, depth in zip(results, truth, strict=True):
        known = result.confidence >= 128
        scales.append(np.median(depth[known] / result.depth[known]))
    assert np.std(scales) / np.mean(scales) < 0.1


def walk_then_stop(still: int = 10) -> tuple[list[ClipFrame], Truth, PinholeCamera, float]:
    frames, truth, camera, matrices = clip(count=7)
    stopped = [ClipFrame(7 + n, (7 + n) * 200_000_000, frames[-1].image) for n in range(still)]
    baseline_m = float(np.median(np.linalg.norm(np.diff(matrices[:, :3, 3], axis=0), axis=1)))
    return [*frames, *stopped], (*truth, *[truth[-1]] * still), camera, baseline_m


def test_metres_stay_metres_when_the_camera_stops() -> None:
    frames, truth, camera, baseline_m = walk_then_stop()
    scales = []
    for result, depth in zip(engine(camera, baseline_m=baseline_m).run(frames), truth, strict=True):
        known = result.depth > 0
        assert known.any() and result.scale is Scale.METRIC
        scales.append(float(np.median(result.depth[known] / depth[known])))
    assert scales == pytest.approx([1.0] * len(frames), abs=0.15)
    assert max(scales) / min(scales) < 1.1


def test_the_motion_of_the_camera_is_that_since_the_frame_before() -> None:
    frames, _, camera, baseline_m = walk_then_stop()
    moved = [result.camera_motion for result in engine(camera, baseline_m=baseline_m).run(frames)]
    assert np.isnan(moved[0])
    assert moved[1:7] == pytest.approx([baseline_m] * 6, rel=0.6)
    assert max(moved[8:]) < 0.1 * baseline_m


def test_a_still_stretch_does_not_spoil_the_unit_that_follows() -> None:
    frames, truth, camera, baseline_m = walk_then_stop(0)
    images = [frame.image for frame in frames]
    images[2:2] = [images[1]] * 5
    later = [ClipFrame(n, n * 200_000_000, image) for n, image in enumerate(images)]
    result = list(engine(camera, baseline_m=baseline_m).run(later))[-1]
    known = result.depth > 0
    assert np.median(result.depth[known] / truth[-1][known]) == pytest.approx(1.0, abs=0.15)


def test_frames_that_cannot_be_compared_failed() -> None:
    frames, _, camera, _ = clip()
    rooms = [Scene(SceneSpec(seed=seed, width=480, height=270, hands=False)) for seed in range(1, 6)]
    pictures = [room.frame(0.0, 0).rendering.image for room in rooms]
    unrelated = [ClipFrame(n, n * 200_000_000, picture) for n, picture in enumerate(pictures)]
    assert {result.status for result in engine(camera).run(unrelated)} == {"failed"}
    still = [ClipFrame(n, n * 200_000_000, frames[0].image) for n in range(4)]
    assert {result.status for result in engine(camera).run(still)} == {"no_parallax"}


def test_nothing_is_compared_across_a_cut() -> None:
    frames, _, camera, _ = clip()
    whole = list(engine(camera, cuts=frozenset({4})).run(frames))
    assert {result.segment for result in whole[:4]}.isdisjoint(result.segment for result in whole[4:])
    for part in (slice(0, 4), slice(4, None)):
        alone = list(engine(camera).run(frames[part]))
        for one, other in zip(whole[part], alone, strict=True):
            assert np.array_equal(one.depth, other.depth)
    # With poses that are known, too.
    *_, matrices = clip()
    cut = list(engine(camera, poses=poses_of(matrices), cuts=frozenset(range(7))).run(frames))
    assert not any(result.depth.any() for result in cut)


def test_frames_looked_at_for_calibration_are_let_go() -> None:
    frames, _, camera, _ = clip()
    alive: list[weakref.ref[np.ndarray]] = []

    def stream() -> Iterator[ClipFrame]:
        for number in range(45):
            image = frames[number % len(frames)].image.copy()
            alive.append(weakref.ref(image))
            yield ClipFrame(number, number * 200_000_000, image)

    results = engine(replace(camera, source="assumed")).run(stream())
    for _ in range(38):
        next(results)
    assert sum(one() is not None for one in alive[:30]) == 0


def test_what_was_measured_stays_that_share_at_the_frames_size() -> None:
    camera = PinholeCamera(width=240, height=160, fx=200, fy=200, cx=120, cy=80, source="sidecar")
    work = DepthFromMotion(DenseMatcher(DisFlow()), camera=camera, config=MotionDepthConfig(max_side=80))
    view = _View(ClipFrame(0, 0, plain(240, 160)), (80, 53))
    measured = np.random.default_rng(0).random((53, 80)) < 0.25
    view.gathered.inverse_depth[measured] = 0.5
    view.gathered.variance[measured] = 1e-4
    result = work._map(view, measured, "estimated")
    # What lies between is completed, and blended with measurements where the map is enlarged.
    assert (result.confidence > 0).mean() > 0.6
    assert (result.confidence >= MEASURED_FROM).mean() == pytest.approx(measured.mean(), abs=0.005)


def test_a_wrong_assumed_focal_length_is_corrected_and_said() -> None:
    frames, _, camera, _ = clip()
    wrong = replace(camera, fx=camera.fx * 1.25, fy=camera.fy * 1.25, source="assumed")
    results = list(engine(wrong).run(frames))
    used = {result.camera for result in results}
    assert len(used) == 1 and None not in used
    found = used.pop()
    assert found.source == "estimated"
    assert abs(found.fx / camera.fx - 1) < 0.1
    assert all(result.camera is None for result in engine(replace(camera, source="sidecar")).run(frames))


def test_a_cut_begins_a_new_segment() -> None:
    frames, _, camera, _ = clip()
    turned = [
        ClipFrame(
            len(frames) + f.frame_index, f.timestamp_ns + 2_000_000_000, np.ascontiguousarray(f.image[::-1])
        )
        for f in frames[:3]
    ]
    results = list(engine(camera).run([*frames[:3], *turned]))
    assert results[0].segment != results[-1].segment


def test_a_turning_camera_says_nothing() -> None:
    frames, _, camera, _ = clip()
    image = frames[0].image
    turned = []
    for number in range(5):
        rotation = cv2.Rodrigues(np.array([0.0, 0.05 * number, 0.0]))[0]
        warp = camera.matrix @ rotation @ np.linalg.inv(camera.matrix)
        picture = cv2.warpPerspective(image, warp, camera_size := (480, 270))[:, 130:480]
        turned.append(ClipFrame(number, number, np.ascontiguousarray(picture)))
        assert camera_size == (camera.width, camera.height)
    part = PinholeCamera(
        width=350, height=270, fx=camera.fx, fy=camera.fy, cx=camera.cx - 130, cy=camera.cy, source="sidecar"
    )
    results = list(engine(part).run(turned))
    assert {result.status for result in results} == {"no_parallax"}
    assert not any(result.depth.any() for result in results)


def test_moving_hands_get_hardly_any_depth() -> None:
    frames, _, camera, _ = clip(hands=True)
    scene = Scene(SceneSpec(seed=3, width=480, height=270, hands=True))
    results = list(engine(camera).run(frames))
    on_hand = total = 0
    for number, result in enumerate(results):
        hand = scene.frame(number / 5, number).rendering.owner <= -2
        on_hand, total = on_hand + int((hand & (result.depth > 0)).sum()), total + int(hand.sum())
    assert total > 1000
    assert on_hand / total < 0.25


def test_frames_of_another_size_and_wrong_settings_are_refused() -> None:
    _, _, camera, _ = clip()
    with pytest.raises(ValueError, match="as the camera"):
        list(engine(camera).run([ClipFrame(0, 0, np.zeros((10, 10, 3), np.uint8))]))
    with pytest.raises(ValueError, match="baseline_m"):
        engine(camera, baseline_m=-1.0)
    with pytest.raises(ValueError, match="max_side"):
        MotionDepthConfig(max_side=1)
    with pytest.raises(ValueError, match="window_frames"):
        MotionDepthConfig(window_frames=1)


def plain(width: int = 60, height: int = 40) -> npt.NDArray[np.uint8]:
    return np.full((height, width, 3), 120, np.uint8)


def test_gaps_are_filled_between_but_never_beyond() -> None:
    known = np.zeros((40, 60), bool)
    known[:, 20:24] = known[:, 27:31] = True
    values = np.where(known, np.float32(0.5), np.float32(0))
    filled, sure = complete_between(values, known, np.zeros_like(known), plain())
    assert filled[:, 24:27] == pytest.approx(0.5)
    assert (sure[:, 24:27] > 0).all()
    assert not sure[:, :20].any()
    assert not sure[:, 31:].any()


def test_gaps_between_surfaces_behind_edges_or_under_hands_stay_open() -> None:
    known = np.zeros((40, 60), bool)
    known[:, :28] = known[:, 31:] = True
    near = np.where(np.arange(60) < 29, 0.5, 0.9).astype(np.float32)
    nothing = np.zeros_like(known)
    assert not complete_between(np.where(known, near, 0).astype(np.float32), known, nothing, plain())[1].any()
    flat = np.where(known, np.float32(0.5), np.float32(0))
    assert not complete_between(flat, known, ~known, plain())[1].any()
    edge = plain()
    edge[:, 29:] = 250
    assert not complete_between(flat, known, nothing, edge)[1].any()


def test_a_footprint_stays_near_its_measurement() -> None:
    known = np.zeros((40, 60), bool)
    known[20, 30] = True
    values = np.where(known, np.float32(2), np.float32(0))
    filled, sure = complete_between(values, known, np.zeros_like(known), plain(), footprint_px=3)
    assert sure[20, 33] > 0
    assert filled[20, 33] == pytest.approx(2)
    assert not sure[20, 36:].any()


def test_enlarging_keeps_depth_edges_at_picture_edges() -> None:
    large = np.zeros((80, 120, 3), np.uint8)
    large[:, 61:] = 200
    small = cv2.resize(large, (30, 20), interpolation=cv2.INTER_AREA)
    values = np.where(np.arange(30) < 15, 0.2, 1.0).astype(np.float32)[None].repeat(20, axis=0)
    certainty = np.ones_like(values)
    certainty[:, :4] = values[:, :4] = 0
    result, sure = enlarge(values, certainty, np.asarray(small, np.uint8), large)
    assert ((result > 0) == (sure > 0)).all()
    assert not sure[:, :13].any()
    assert result[:, 20:58] == pytest.approx(0.2, abs=0.05)
    assert result[:, 68:] == pytest.approx(1.0, abs=0.05)


def test_texture() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 60), dtype=np.uint8)
    assert has_texture(noise).all()
    assert not has_texture(plain()[..., 0]).any()
