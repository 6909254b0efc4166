from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.privacy.config import PrivacyConfig
from ego_assets.privacy.motion import FrameMotion
from ego_assets.privacy.schedule import Look, LookSchedule
from ego_assets.schema.detections import Detections
from ego_assets.schema.timeline import NANOSECONDS

KINDS = ("faces", "text", "plates")
STILL = FrameMotion()
TURN = FrameMotion(shift_x=50.0, change=0.02)
CUT = FrameMotion(change=1.0, is_cut=True)
NOTHING = Detections.empty()
LARGE = Detections(np.array([[800, 300, 1000, 500]], np.float32), np.ones(1, np.float32))
SMALL = Detections(np.array([[800, 300, 830, 330]], np.float32), np.ones(1, np.float32))
MILLISECONDS = 1_000_000


def looks_of(
    stamps_ns: Sequence[int],
    motions: Sequence[FrameMotion],
    *,
    kinds: Sequence[str] = KINDS,
    config: PrivacyConfig | None = None,
    frame_rate: Fraction = Fraction(30),
    found: Detections = NOTHING,
) -> dict[str, dict[int, Look]]:
    """Kind -> frame -> look over a whole clip, the last frame included."""
    schedule = LookSchedule(
        kinds,
        config=config or PrivacyConfig(),
        frame_rate=frame_rate,
        picture_size=(1920, 1080),
    )
    looks: dict[str, dict[int, Look]] = {kind: {} for kind in kinds}
    for index, (stamp_ns, motion) in enumerate(zip(stamps_ns, motions, strict=True)):
        for kind, look in schedule.due(index, stamp_ns, motion).items():
            looks[kind][index] = look
            schedule.found(kind, found)
    for kind, look in schedule.owed_at_end().items():
        looks[kind][len(stamps_ns) - 1] = look
    return looks


def at_30_fps(frames: int) -> list[int]:
    return [round(i * NANOSECONDS / 30) for i in range(frames)]


motions = st.builds(
    FrameMotion,
    shift_x=st.floats(-300, 300),
    shift_y=st.floats(-300, 300),
    change=st.floats(0, 1),
    is_cut=st.booleans(),
)


@given(frames=st.lists(st.tuples(st.integers(0, 1500), motions), min_size=1, max_size=150))
def test_no_second_goes_by_without_a_look(frames: list[tuple[int, FrameMotion]]) -> None:
    stamps_ns, now_ns = [], 0
    for interval_ms, _ in frames:
        now_ns += interval_ms * MILLISECONDS
        stamps_ns.append(now_ns)
    looks = looks_of(stamps_ns, [motion for _, motion in frames])
    for by_frame in looks.values():
        examined = sorted(by_frame)
        assert examined[0] == 0 and by_frame[0] == "fine"
        assert examined[-1] == len(frames) - 1
        for earlier, later in itertools.pairwise(examined):
            # Nobody can look between two frames: a gap that is longer than that has no frame inside.
            assert stamps_ns[later - 1] - stamps_ns[earlier] <= NANOSECONDS
            # Thirty repeated time stamps count as a second.
            assert later - earlier <= 30 or stamps_ns[later - 1] > stamps_ns[earlier]
        for index, (_, motion) in enumerate(frames):
            assert not motion.is_cut or by_frame[index] == "fine"


@given(frames=st.lists(motions, min_size=31, max_size=150))
def test_looks_are_no_denser_than_the_fastest_rate(frames: list[FrameMotion]) -> None:
    calm = [FrameMotion(shift_x=m.shift_x, shift_y=m.shift_y, change=m.change) for m in frames]
    looks = looks_of(at_30_fps(len(calm)), calm)
    for kind, least in (("faces", 3), ("text", 5), ("plates", 6)):
        examined = sorted(looks[kind])[:-1]
        assert all(b - a >= least for a, b in itertools.pairwise(examined))


def test_a_still_picture_is_looked_at_as_rarely_as_allowed() -> None:
    looks = looks_of(at_30_fps(300), [STILL] * 300, config=PrivacyConfig(faces_min_per_s=1))
    for kind in KINDS:
        assert sorted(looks[kind]) == [*range(0, 300, 30), 299]


def test_a_turning_camera_is_looked_at_as_often_as_allowed() -> None:
    looks = looks_of(at_30_fps(301), [TURN] * 301)
    assert len(looks["faces"]) == pytest.approx(75, abs=2)
    faster = FrameMotion(shift_x=200.0)
    looks = looks_of(at_30_fps(301), [faster] * 301)
    assert sorted(looks["faces"]) == list(range(0, 301, 3))
    assert sorted(looks["text"]) == list(range(0, 301, 5))
    assert sorted(looks["plates"]) == list(range(0, 301, 6))


def test_faces_that_are_about_are_looked_at_more_often() -> None:
    without = looks_of(at_30_fps(300), [STILL] * 300, kinds=("faces",))
    present = looks_of(at_30_fps(300), [STILL] * 300, kinds=("faces",), found=LARGE)
    config = PrivacyConfig()
    assert len(without["faces"]) == pytest.approx(10 * config.faces_min_per_s, abs=3)
    assert len(present["faces"]) == pytest.approx(10 * config.faces_present_per_s, abs=5)


def test_fine_looks_come_about_once_a_second_whatever_the_rate() -> None:
    for motion in (STILL, TURN):
        looks = looks_of(at_30_fps(300), [motion] * 300)
        for kind in KINDS:
            fine = [index for index, look in looks[kind].items() if look == "fine"]
            assert len(fine) == pytest.approx(10, abs=1)
            assert max(b - a for a, b in itertools.pairwise(fine)) <= 36


def test_a_cut_is_looked_at_at_once_and_again_shortly_after() -> None:
    frames = [STILL] * 10 + [CUT] + [STILL] * 30
    looks = looks_of(at_30_fps(41), frames, config=PrivacyConfig(faces_min_per_s=1))
    for kind in KINDS:
        assert looks[kind][10] == "fine"
        assert [index for index in looks[kind] if 10 < index < 24] == [15, 22]


def test_a_line_of_text_does_not_make_every_look_a_fine_one() -> None:
    line = Detections(np.array([[200, 500, 500, 540]], np.float32), np.array([0.9], np.float32))
    moving = [FrameMotion(shift_x=30.0) for _ in range(90)]
    looks = looks_of(at_30_fps(90), moving, kinds=("text",), found=line)["text"]
    assert len(looks) >= 15
    assert list(looks.values()).count("fine") <= 4


def test_a_clip_of_one_frame_is_looked_at_once() -> None:
    assert looks_of([0], [STILL]) == {kind: {0: "fine"} for kind in KINDS}


def test_repeated_time_stamps_do_not_stop_the_looks() -> None:
    looks = looks_of([5] * 91, [STILL] * 91, kinds=("faces",), config=PrivacyConfig(faces_min_per_s=1))
    assert sorted(looks["faces"]) == [0, 30, 60, 90]


def test_a_slow_clip_is_examined_on_every_frame() -> None:
    stamps_ns = [2 * i * NANOSECONDS for i in range(5)]
    looks = looks_of(stamps_ns, [STILL] * 5, frame_rate=Fraction(1, 2))
    assert all(sorted(by_frame) == [0, 1, 2, 3, 4] for by_frame in looks.values())


def test_an_unstarted_schedule_owes_nothing() -> None:
    schedule = LookSchedule(KINDS, config=PrivacyConfig(), frame_rate=Fraction(30), picture_size=(640, 360))
    assert schedule.owed_at_end() == {}


def test_frames_out_of_order_are_refused() -> None:
    schedule = LookSchedule(
        ("faces",), config=PrivacyConfig(), frame_rate=Fraction(30), picture_size=(640, 360)
    )
    schedule.due(0, 100, STILL)
    with pytest.raises(ValueError, match="after 0"):
        schedule.due(0, 200, STILL)
    with pytest.raises(ValueError, match="100 ns"):
        schedule.due(1, 50, STILL)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="faces, text, plates"):
        looks_of([0], [STILL], kinds=("hands",))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("faces_min_per_s", 0.5),
        ("faces_present_per_s", 0.5),
        ("faces_max_per_s", 0.5),
        ("text_every_frames", 0),
        ("plates_min_per_s", 0.0),
        ("plates_max_per_s", 0.5),
        ("fine_looks_per_s", 0.0),
        ("look_after_shift", 0.0),
        ("look_after_change", -1.0),
        ("looks_after_cut_s", (0.0,)),
        ("box_margin", 0.1),
        ("blur_min_sigma", 10.0),
        ("track_iou", 0.0),
        ("track_weak_gap_s", -1.0),
        ("widen_per_s", -0.1),
        ("proxy_crf", 60),
        ("margin_after_s", -0.1),
        ("encoder_threads", 0),
    ],
)
def test_settings_below_the_guides_floor_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        PrivacyConfig(**{name: value})  # type: ignore[arg-type]


def schedule_of_faces(config: PrivacyConfig | None = None) -> LookSchedule:
    return LookSchedule(
        ("faces",),
        config=config or PrivacyConfig(),
        frame_rate=Fraction(30),
        picture_size=(1920, 1080),
    )


def first_frames(
    schedule: LookSchedule, frames: int, found: Mapping[int, Detections], motion: FrameMotion = STILL
) -> list[int]:
    """Frames that were looked at for faces."""
    looked = []
    for index, stamp_ns in enumerate(at_30_fps(frames)):
        if schedule.due(index, stamp_ns, motion):
            looked.append(index)
            schedule.found("faces", found.get(index, NOTHING))
    return looked


def moved(x: float) -> Detections:
    return Detections(LARGE.boxes_xyxy + np.array([x, 0, x, 0], np.float32), LARGE.scores)


def test_a_region_in_a_new_place_is_looked_at_again_on_the_next_frame() -> None:
    config = PrivacyConfig(faces_min_per_s=2, faces_present_per_s=2)
    still = first_frames(schedule_of_faces(config), 30, {0: LARGE, 1: LARGE, 16: LARGE})
    assert still == [0, 1, 16]
    fast = first_frames(
        schedule_of_faces(config), 30, {15: LARGE, 16: moved(250), 17: moved(500), 18: moved(510)}
    )
    assert fast == [0, 15, 16, 17, 18]


def test_a_region_that_moves_with_the_camera_is_in_its_old_place() -> None:
    turn = FrameMotion(shift_x=150.0)
    with_scene = {index: moved(150.0 * index) for index in range(30)}
    assert first_frames(schedule_of_faces(), 10, with_scene, turn) == [0, 1, 4, 7]
    in_hand = {index: LARGE for index in range(30)}
    assert first_frames(schedule_of_faces(), 10, in_hand, turn) == list(range(10))


def test_small_regions_are_in_focus_where_the_camera_shows_them() -> None:
    schedule = schedule_of_faces()
    turn = FrameMotion(shift_x=20.0, shift_y=-2.0)
    schedule.due(0, 0, STILL)
    assert schedule.focus("faces").shape == (0, 4)
    schedule.found("faces", SMALL)
    assert schedule.due(1, NANOSECONDS // 30, turn) == {"faces": "ordinary"}
    (part,) = schedule.focus("faces").tolist()
    left, top, right, bottom = SMALL.boxes_xyxy[0].tolist()
    assert part[0] < left + 20 - 60 and part[2] > right + 20 + 60
    assert part[1] < top - 60 and part[3] > bottom + 60
    assert part[2] - part[0] < 400


def test_large_regions_and_small_pictures_need_no_focus() -> None:
    schedule = schedule_of_faces()
    schedule.due(0, 0, STILL)
    schedule.found("faces", LARGE)
    schedule.due(1, NANOSECONDS // 30, STILL)
    assert schedule.focus("faces").shape == (0, 4)
    small_picture = LookSchedule(
        ("faces",), config=PrivacyConfig(), frame_rate=Fraction(30), picture_size=(640, 360)
    )
    small_picture.due(0, 0, STILL)
    small_picture.found("faces", SMALL)
    small_picture.due(1, NANOSECONDS // 30, STILL)
    assert small_picture.focus("faces").shape == (0, 4)


def test_what_the_camera_uncovers_is_in_focus() -> None:
    schedule = schedule_of_faces()
    schedule.due(0, 0, STILL)
    schedule.found("faces", NOTHING)
    # The scene moves left by 250 pixels: the right edge is new.
    schedule.due(1, NANOSECONDS // 30, FrameMotion(shift_x=-250.0))
    due = schedule.due(5, 5 * NANOSECONDS // 30, FrameMotion())
    assert due == {"faces": "ordinary"}
    (part,) = schedule.focus("faces").tolist()
    assert part[0] <= 1920 - 250 and part[1:] == [0, 1920, 1080]
    schedule.found("faces", NOTHING)
    schedule.due(20, 20 * NANOSECONDS // 30, STILL)
    assert schedule.focus("faces").shape == (0, 4)


def test_very_many_small_regions_make_the_look_a_fine_one() -> None:
    schedule = schedule_of_faces()
    schedule.due(0, 0, STILL)
    x, y = np.meshgrid(np.arange(30) * 64.0, np.arange(30) * 36.0)
    corner = np.stack([x.reshape(-1), y.reshape(-1)], axis=1)
    crowd = np.concatenate([corner, corner + 20], axis=1).astype(np.float32)
    schedule.found("faces", Detections(crowd, np.ones(len(crowd), np.float32)))
    assert schedule.due(1, NANOSECONDS // 30, STILL) == {"faces": "fine"}
