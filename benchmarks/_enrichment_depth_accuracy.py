"""How true depth from motion is: on synthetic clips, RGB-D frames and EuRoC's poses; and what it costs."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from _harness import Reporter

from ego_assets.geometry.camera import camera_for
from ego_assets.geometry.correspondence import DenseMatcher
from ego_assets.geometry.motion_depth import DepthFromMotion
from ego_assets.schema.camera import PinholeCamera
from ego_assets.schema.depth import DepthEstimator, DepthFrame
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.vocabulary import SourceCamera
from ego_assets.synth import SceneSpec
from ego_assets.synth.scene import Scene
from resources.models.depth import MotionDepth, SparseMotionDepth
from resources.models.flow import DisFlow

TESTDATA = Path(os.environ.get("EGO_TESTDATA", Path(__file__).resolve().parents[2] / "shared" / "testdata"))
#: Frames per second at which the local profile looks for depth.
RATE = 5
#: CPU seconds per second of video that depth may cost.
CPU_TARGET = 1.0
#: Intrinsics of the sensor that recorded the RGB-D frames, as Open3D states them for PrimeSense cameras.
PRIMESENSE = PinholeCamera(width=640, height=480, fx=525, fy=525, cx=319.5, cy=239.5, source="sidecar")

Depth = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Material:
    """Frames with what is true of them: depth in metres, 0 where it is not known, and where hands are."""

    frames: Sequence[ClipFrame]
    depth: Sequence[Depth]
    camera: PinholeCamera
    hands: Sequence[npt.NDArray[np.bool_]] = ()


def run(reporter: Reporter, *, quick: bool, clip: Path | None) -> None:
    """Report accuracy and cost; ``clip`` is not used, since its depth is not known."""
    motions = ("walk", "still") if quick else ("walk", "look_around", "still")
    for motion in motions:
        for seed, location in (
            ((3, "kitchen"),) if quick else ((3, "kitchen"), (5, "office"), (7, "workshop"))
        ):
            material = _synthetic(motion, seed=seed, location=location, count=8 if quick else 15)
            name = f"depth {motion} {location}"
            known = _estimate(reporter, f"{name} known intrinsics", MotionDepth(flow=DisFlow()), material)
            if motion == "still":
                said = float(np.mean([result.depth.any() for result in known]))
                reporter.report(f"{name}: frames with invented depth", said, "share", target=0.0)
                continue
            assumed = camera_for(None, SourceCamera.OTHER, *material.frames[0].size)
            _estimate(
                reporter,
                f"{name} assumed intrinsics",
                MotionDepth(flow=DisFlow()),
                replace(material, camera=assumed),
            )
            _estimate(
                reporter,
                f"{name} assumed intrinsics, not corrected",
                MotionDepth(flow=DisFlow(), calibration=False),
                replace(material, camera=assumed),
            )
            _estimate(reporter, f"{name} sparse_motion", SparseMotionDepth(), material)
    _rgbd(reporter)
    _euroc(reporter)


def _synthetic(motion: str, *, seed: int, location: str, count: int) -> Material:
    spec = SceneSpec(seed=seed, camera_motion=motion, location=location)  # type: ignore[arg-type]
    scene = Scene(spec)
    frames, depths, hands = [], [], []
    for number in range(count):
        rendering = scene.frame(number / RATE, number * 6).rendering
        image = cv2.GaussianBlur(rendering.image, (0, 0), 0.5)
        coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
        seen = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
        frames.append(ClipFrame(number * 6, number * 10**9 // RATE, seen))
        inverse = rendering.inverse_depth
        depths.append(np.divide(1, inverse, out=np.zeros_like(inverse), where=inverse > 0))
        hands.append(rendering.owner <= -2)
    matrix = scene.intrinsics
    camera = PinholeCamera(
        width=spec.width,
        height=spec.height,
        fx=matrix[0, 0],
        fy=matrix[1, 1],
        cx=matrix[0, 2],
        cy=matrix[1, 2],
        source="sidecar",
    )
    return Material(frames, depths, camera, hands)


def _estimate(
    reporter: Reporter, name: str, estimator: DepthEstimator, material: Material
) -> list[DepthFrame]:
    start = time.process_time()
    results = list(estimator.estimate(material.frames, camera=material.camera))
    cost = (time.process_time() - start) * RATE / len(results)
    note = f"n={len(results)} frames at {RATE} per second"
    reporter.report(f"{name}: cost", cost, "CPU-s per video-s", target=CPU_TARGET, reason=note)
    for kind, lowest in (("measured", 128), ("all valid", 1)):
        share, errors, close, pixels = _accuracy(results, material.depth, lowest)
        note = (
            f"n={len(errors)} frames with depth of {len(results)}, {pixels} pixels; scale by median per frame"
        )
        reporter.report(f"{name}: {kind} share", share, "share", better="higher", reason=note)
        reporter.report(
            f"{name}: {kind} AbsRel", float(np.mean(errors)) if errors else None, "share", reason=note
        )
        reporter.report(
            f"{name}: {kind} delta 1.25",
            float(np.mean(close)) if close else None,
            "share",
            better="higher",
            reason=note,
        )
    hand = sum(int(mask.sum()) for mask in material.hands)
    if hand:
        on_hand = sum(
            int((mask & (result.depth > 0)).sum())
            for mask, result in zip(material.hands, results, strict=True)
        )
        reporter.report(
            f"{name}: hand pixels with a depth", on_hand / hand, "share", reason=f"n={hand} pixels"
        )
    return results


def _accuracy(
    results: Sequence[DepthFrame], truths: Sequence[Depth], lowest: int
) -> tuple[float, list[float], list[float], int]:
    shares, errors, close, pixels = [], [], [], 0
    for result, truth in zip(results, truths, strict=True):
        chosen = result.confidence >= lowest
        shares.append(float(chosen.mean()))
        chosen &= truth > 0
        if not chosen.any():
            continue
        estimated, true = result.depth[chosen], truth[chosen]
        estimated = estimated * np.median(true / estimated)
        errors.append(float(np.mean(np.abs(estimated - true) / true)))
        close.append(float(np.mean(np.maximum(estimated / true, true / estimated) < 1.25)))
        pixels += int(chosen.sum())
    return float(np.mean(shares)), errors, close, pixels


def _rgbd(reporter: Reporter) -> None:
    folder = TESTDATA / "rgbd_imu_traj" / "open3d_rgbd"
    paths = sorted((folder / "color").glob("*.jpg"))
    if not paths:
        reporter.report("depth RGB-D", None, "share", reason=f"no real material in {folder} (EGO_TESTDATA)")
        return
    frames = [
        ClipFrame(number, number * 33_333_333, np.asarray(cv2.imread(str(path)), np.uint8))
        for number, path in enumerate(paths)
    ]
    depths = [
        cv2.imread(str(folder / "depth" / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED).astype(np.float32) / 1000
        for path in paths
    ]
    material = Material(frames, depths, PRIMESENSE)
    _estimate(reporter, "depth RGB-D living room known intrinsics", MotionDepth(flow=DisFlow()), material)
    assumed = camera_for(None, SourceCamera.OTHER, 640, 480)
    _estimate(
        reporter,
        "depth RGB-D living room assumed intrinsics",
        MotionDepth(flow=DisFlow()),
        replace(material, camera=assumed),
    )
    _estimate(reporter, "depth RGB-D living room sparse_motion", SparseMotionDepth(), material)
    # Blocks of five lines: three numbers, then the pose.
    lines = (folder / "trajectory.log").read_text().splitlines()
    truth = [np.loadtxt(lines[start + 1 : start + 5]) for start in range(0, 5 * len(frames), 5)]
    engine = DepthFromMotion(DenseMatcher(DisFlow()), camera=PRIMESENSE)
    for _ in engine.run(frames):
        pass
    _report_poses(reporter, "depth RGB-D living room", engine, truth)


def _euroc(reporter: Reporter) -> None:
    folder = TESTDATA / "rgbd_imu_traj" / "euroc_v101"
    paths = sorted((folder / "cam0" / "data").glob("*.png"))
    if not paths:
        reporter.report("depth EuRoC", None, "deg", reason=f"no real material in {folder} (EGO_TESTDATA)")
        return
    # The calibration that lies beside the images.
    matrix = np.array([[458.654, 0, 367.215], [0, 457.296, 248.375], [0, 0, 1]])
    distortion = np.array([-0.28340811, 0.07395907, 0.00019359, 1.76187114e-05])
    body_from_camera = np.array(
        [
            [0.0148655429818, -0.999880929698, 0.00414029679422, -0.0216401454975],
            [0.999557249008, 0.0149672133247, 0.025715529948, -0.064676986768],
            [-0.0257744366974, 0.00375618835797, 0.999660727178, 0.00981073058949],
            [0, 0, 0, 1],
        ]
    )
    camera = PinholeCamera(
        width=752,
        height=480,
        fx=matrix[0, 0],
        fy=matrix[1, 1],
        cx=matrix[0, 2],
        cy=matrix[1, 2],
        source="sidecar",
    )
    table = np.loadtxt(folder / "V1_01_easy.csv", delimiter=",", comments="#", usecols=range(8))
    # Every fourth of 20 images per second.
    chosen = paths[::4]
    frames, poses = [], []
    for number, path in enumerate(chosen):
        row = table[np.argmin(np.abs(table[:, 0] - float(path.stem)))]
        poses.append(_pose(row[1:4], row[4:8]) @ body_from_camera)
        image = cv2.undistort(cv2.imread(str(path)), matrix, distortion)
        frames.append(ClipFrame(number, number * 200_000_000, np.asarray(image, np.uint8)))
    travelled = float(np.linalg.norm(poses[-1][:3, 3] - poses[0][:3, 3]))
    engine = DepthFromMotion(DenseMatcher(DisFlow()), camera=camera)
    said = float(np.mean([result.depth.any() for result in engine.run(frames)]))
    reporter.report(
        "depth EuRoC V1_01: frames with a depth",
        said,
        "share",
        reason=f"n={len(frames)} frames; by the ground truth the camera moves {1000 * travelled:.1f} mm in all, so "
        "that nothing can be said, and poses cannot be compared",
    )


def _report_poses(
    reporter: Reporter, name: str, engine: DepthFromMotion, truth: Sequence[npt.NDArray[np.float64]]
) -> None:
    """Rotation and direction between the first frame and each other one, for an engine that has run."""
    found = engine.trajectory()
    turns, directions = [], []
    for other in range(1, len(truth)):
        if found.segment[0] != found.segment[other]:
            continue
        estimated = np.linalg.inv(found.T_world_camera[0]) @ found.T_world_camera[other]
        if not np.isfinite(estimated).all():
            continue
        true = np.linalg.inv(truth[0]) @ truth[other]
        cosine = (np.trace(estimated[:3, :3].T @ true[:3, :3]) - 1) / 2
        turns.append(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
        lengths = np.linalg.norm(estimated[:3, 3]) * np.linalg.norm(true[:3, 3])
        directions.append(np.degrees(np.arccos(np.clip(estimated[:3, 3] @ true[:3, 3] / lengths, -1, 1))))
    note = f"n={len(turns)} of {len(truth) - 1} frames against the first; indicative"
    for what, values in (("rotation error", turns), ("direction error", directions)):
        reporter.report(
            f"{name}: median {what}", float(np.median(values)) if values else None, "deg", reason=note
        )


def _pose(position: npt.NDArray[np.float64], quaternion: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """``T_world_body`` from a position and a unit quaternion, its real part first."""
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = position
    return pose
