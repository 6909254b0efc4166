"""How the camera moved between two pictures, and whether they show any parallax at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.geometry.robust import robust_least_squares
from ego_assets.schema.camera import PinholeCamera

FloatArray = npt.NDArray[np.float64]

#: What two pictures tell: a rotation and a direction of travel; only a rotation; or nothing.
TwoViewKind = Literal["moved", "rotation_only", "failed"]

#: Correspondences of dense flow scatter by about this many pixels.
FLOW_NOISE_PX = 0.4
#: Distance from the model within which a correspondence agrees with it.
INLIER_PX = 1.5
#: Fewer correspondences than this say nothing.
MIN_POINTS = 60
#: Share of the correspondences that an accepted motion must explain.
_MIN_INLIER_SHARE = 0.5
#: Share of the picture that must contradict a mere rotation. A hand in front of a still background moves less of it.
_MIN_PARALLAX_SHARE = 0.35
#: A wrong motion puts more of the points that moved behind the camera than this share.
_MAX_BEHIND_SHARE = 0.1
#: What contradicts a mere rotation, in pixels.
_PARALLAX_PX = 1.5


@dataclass(frozen=True, eq=False, kw_only=True)
class TwoView:
    """The motion between two pictures.

    Attributes:
        kind: What can be said.
        rotation: ``float64 [3, 3]``, takes directions in the first camera's axes to the second's.
        direction: ``float64 [3]``, unit vector: where the first camera's centre lies in the second's axes (the
            translation of ``x_b = R x_a + t``, whose length pictures alone do not tell). Zero unless ``kind`` is
            ``moved``.
        parallax_px: Median shift that remains when the rotation is undone.
    """

    kind: TwoViewKind
    rotation: FloatArray
    direction: FloatArray
    parallax_px: float = 0.0


def relative_pose(points_a: FloatArray, points_b: FloatArray, camera: PinholeCamera) -> TwoView:
    """The motion of the camera between two pictures, from points that correspond.

    An essential matrix is found by MAGSAC (Barath et al. 2020, in OpenCV) and refined on the Sampson distance with
    Cauchy weights. A motion is only believed where a rotation cannot explain the picture, not even one of a camera
    with another focal length than assumed: then a good part of the picture shows parallax.

    Args:
        points_a: ``float64 [N, 2]``, pixels of the first picture.
        points_b: ``float64 [N, 2]``, the same in the second.
        camera: The camera of both.
    """
    nothing = TwoView(kind="failed", rotation=np.eye(3), direction=np.zeros(3))
    if len(points_a) < MIN_POINTS:
        return nothing
    rotation = rotation_between(points_a, points_b, camera)
    only_rotation = TwoView(kind="rotation_only", rotation=rotation, direction=np.zeros(3))
    if unexplained_by_rotation(points_a, points_b, rotation, camera) < _MIN_PARALLAX_SHARE:
        return only_rotation
    matrix = camera.matrix
    essential, mask = cv2.findEssentialMat(
        points_a, points_b, matrix, method=cv2.USAC_MAGSAC, prob=0.9999, threshold=1.0
    )
    if essential is None or essential.shape != (3, 3) or mask is None or int(mask.sum()) < MIN_POINTS:
        return nothing
    _, start_rotation, start_direction, _ = cv2.recoverPose(
        essential, points_a, points_b, matrix, mask=mask.copy()
    )
    rays_a, rays_b = rays(points_a, camera), rays(points_b, camera)
    rotation, direction = _refined(
        rays_a,
        rays_b,
        np.asarray(start_rotation, np.float64),
        np.asarray(start_direction, np.float64).ravel(),
        camera,
    )
    distance = sampson_px(rays_a, rays_b, rotation, direction, camera)
    inliers = distance < INLIER_PX
    if inliers.mean() < _MIN_INLIER_SHARE:
        return nothing
    inverse_depth = _inverse_depth(rays_a, rays_b, rotation, direction)
    if (inverse_depth[inliers] < 0).mean() > 0.5:
        direction, inverse_depth = -direction, -inverse_depth
    # Far points scatter about zero: only those that moved are asked on which side of the camera they lie.
    moved_px = np.linalg.norm(_rotated(rays_a, rotation, camera) - points_b, axis=1)
    parallax = float(np.median(moved_px[inliers]))
    near = inliers & (moved_px > _PARALLAX_PX)
    if near.mean() < _MIN_PARALLAX_SHARE / 2:
        return only_rotation
    if (inverse_depth[near] <= 0).mean() > _MAX_BEHIND_SHARE:
        return nothing
    return TwoView(kind="moved", rotation=rotation, direction=direction, parallax_px=parallax)


def rotation_between(points_a: FloatArray, points_b: FloatArray, camera: PinholeCamera) -> FloatArray:
    """The rotation that explains most of two pictures.

    Args:
        points_a: ``float64 [N, 2]``, pixels of the first picture.
        points_b: ``float64 [N, 2]``, the same in the second.
        camera: The camera of both.

    Returns:
        ``float64 [3, 3]``, first to second camera.
    """
    rays_a = rays(points_a, camera)
    turn = np.zeros(3)
    # From coarse to fine, so that the search does not end at what is near the start.
    for noise in (16 * FLOW_NOISE_PX, 2 * FLOW_NOISE_PX):
        turn = robust_least_squares(
            lambda vector: pixels(rays_a @ rotation_of(vector).T, camera) - points_b, turn, noise=noise
        )
    return rotation_of(turn)


def unexplained_by_rotation(
    points_a: FloatArray, points_b: FloatArray, rotation: FloatArray, camera: PinholeCamera
) -> float:
    """Share of two pictures' correspondences that no rotation explains, even if the focal length is wrong.

    Args:
        points_a: ``float64 [N, 2]``, pixels of the first picture.
        points_b: ``float64 [N, 2]``, the same in the second.
        rotation: The best one for the camera as it is.
        camera: The camera of both.
    """
    rays_a = rays(points_a, camera)

    def residuals(parameters: FloatArray) -> FloatArray:
        zoom = np.array([np.exp(parameters[3])] * 2 + [1.0])
        turned = (rays_a / zoom) @ (rotation_of(parameters[:3]) @ rotation).T
        return pixels(turned * zoom, camera) - points_b

    best = robust_least_squares(residuals, np.zeros(4), noise=2 * FLOW_NOISE_PX)
    return float((np.linalg.norm(residuals(best), axis=1) > _PARALLAX_PX).mean())


@dataclass(frozen=True, eq=False, kw_only=True)
class KnownPoints:
    """Points of one picture whose depth is known, and where they lie in another.

    Attributes:
        points: ``float64 [N, 2]``, pixels of the first picture.
        inverse_depth: ``float64 [N]``, along the first camera's optical axis.
        targets: ``float64 [N, 2]``, pixels of the second picture.
        T_anchor_first: ``float64 [4, 4]``, takes the first camera's axes to those in which the pose is wanted.
    """

    points: FloatArray
    inverse_depth: FloatArray
    targets: FloatArray
    T_anchor_first: FloatArray


def pose_from_depth(
    views: list[KnownPoints], start: FloatArray, camera: PinholeCamera
) -> tuple[FloatArray, float]:
    """Where a camera is that sees points whose depth other pictures have given.

    Args:
        views: What other pictures know.
        start: ``float64 [4, 4]``, takes anchor axes to those of the camera sought: where the search begins.
        camera: The camera of all pictures.

    Returns:
        The pose in the same form, and the share of the points that agree with it.
    """
    # Homogeneous: points far away have an inverse depth of nearly 0 and still tell the rotation.
    homogeneous, targets = [], []
    for view in views:
        direction = rays(view.points, camera)
        points = np.concatenate([direction, view.inverse_depth[:, None]], axis=1)
        homogeneous.append(points @ view.T_anchor_first.T)
        targets.append(view.targets)
    points, wanted = np.concatenate(homogeneous), np.concatenate(targets)
    turned = points @ start.T

    def residuals(parameters: FloatArray) -> FloatArray:
        seen = turned[:, :3] @ rotation_of(parameters[:3]).T + turned[:, 3:] * parameters[3:]
        return pixels(seen, camera) - wanted

    best = robust_least_squares(residuals, np.zeros(6), noise=2 * FLOW_NOISE_PX, iterations=12)
    agree = np.linalg.norm(residuals(best), axis=1) < INLIER_PX
    correction = np.eye(4)
    correction[:3, :3], correction[:3, 3] = rotation_of(best[:3]), best[3:]
    return correction @ start, float(agree.mean())


def rays(points: FloatArray, camera: PinholeCamera) -> FloatArray:
    """Directions of pixels with a third component of 1, ``float64 [N, 3]``."""
    centre, focal = np.array([camera.cx, camera.cy]), np.array([camera.fx, camera.fy])
    return np.concatenate([(points - centre) / focal, np.ones((len(points), 1))], axis=1)


def rotation_of(vector: FloatArray) -> FloatArray:
    """The rotation about a vector by its length in radians, ``float64 [3, 3]``."""
    return np.asarray(cv2.Rodrigues(np.asarray(vector, np.float64))[0])


def rigid_inverse(transform: FloatArray) -> FloatArray:
    """The inverse of a rotation and a shift, ``float64 [4, 4]``."""
    inverse = np.eye(4)
    inverse[:3, :3] = transform[:3, :3].T
    inverse[:3, 3] = -transform[:3, :3].T @ transform[:3, 3]
    return inverse


def sampson_px(
    rays_a: FloatArray, rays_b: FloatArray, rotation: FloatArray, direction: FloatArray, camera: PinholeCamera
) -> FloatArray:
    """Distance from the epipolar geometry to first order, in pixels, ``float64 [N]``."""
    return np.asarray(np.abs(signed_sampson_px(rays_a, rays_b, rotation, direction, camera)))


def signed_sampson_px(
    rays_a: FloatArray, rays_b: FloatArray, rotation: FloatArray, direction: FloatArray, camera: PinholeCamera
) -> FloatArray:
    """The same with a sign that tells the side of the epipolar line."""
    essential = _cross(direction) @ rotation
    lines_b, lines_a = rays_a @ essential.T, rays_b @ essential
    algebraic = (lines_b * rays_b).sum(axis=1)
    focal = np.array([camera.fx, camera.fy])
    slope = ((lines_a[:, :2] / focal) ** 2).sum(axis=1) + ((lines_b[:, :2] / focal) ** 2).sum(axis=1)
    return np.asarray(algebraic / np.sqrt(np.maximum(slope, 1e-18)))


def _refined(
    rays_a: FloatArray, rays_b: FloatArray, rotation: FloatArray, direction: FloatArray, camera: PinholeCamera
) -> tuple[FloatArray, FloatArray]:
    across = np.linalg.svd(direction[None])[2][1:]

    def pose(parameters: FloatArray) -> tuple[FloatArray, FloatArray]:
        moved = direction + parameters[3:] @ across
        return rotation_of(parameters[:3]) @ rotation, moved / np.linalg.norm(moved)

    def residuals(parameters: FloatArray) -> FloatArray:
        return signed_sampson_px(rays_a, rays_b, *pose(parameters), camera)[:, None]

    return pose(robust_least_squares(residuals, np.zeros(5), noise=FLOW_NOISE_PX, iterations=15))


def _inverse_depth(
    rays_a: FloatArray, rays_b: FloatArray, rotation: FloatArray, direction: FloatArray
) -> FloatArray:
    turned = rays_a @ rotation.T
    slope = rays_b[:, :2] * direction[2] - direction[:2]
    offset = turned[:, :2] - rays_b[:, :2] * turned[:, 2:]
    return np.asarray((slope * offset).sum(axis=1) / np.maximum((slope**2).sum(axis=1), 1e-12))


def _rotated(rays_a: FloatArray, rotation: FloatArray, camera: PinholeCamera) -> FloatArray:
    return pixels(rays_a @ rotation.T, camera)


def pixels(directions: FloatArray, camera: PinholeCamera) -> FloatArray:
    """Where directions or points in the camera's axes are seen, ``float64 [N, 2]``."""
    depth = np.where(np.abs(directions[:, 2:]) < 1e-6, 1e-6, directions[:, 2:])
    return np.asarray(
        directions[:, :2] / depth * np.array([camera.fx, camera.fy]) + np.array([camera.cx, camera.cy])
    )


def _cross(vector: FloatArray) -> FloatArray:
    x, y, z = vector
    return np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
