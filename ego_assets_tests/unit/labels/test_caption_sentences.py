"""Template sentences say what the layers found, in 15 to 30 words, and nothing else."""

from __future__ import annotations

import dataclasses
import io
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.labels.prompts import FEWEST_WORDS, MOST_WORDS
from ego_assets.labels.scene_facts import (
    MaskRows,
    SceneSources,
    describe,
    reliable_segments,
    scene_facts,
    word_count,
)
from ego_assets.schema.actions import ActionSegment
from ego_assets.schema.captions import SceneFacts
from ego_assets.schema.hands import HAND_STATES, HandObjectTracks, HandSide, HandState, HandTrack
from ego_assets.schema.masks import MASK_CATEGORIES
from ego_assets.schema.motion import CameraMotion

S = 1_000_000_000


def hand(state: str, *, category: str = "") -> dict[str, str]:
    return {"state": state, "category": category}


def test_a_rich_scene() -> None:
    facts = SceneFacts(
        hands={"left": hand("free"), "right": hand("grasp", category="tool")},
        objects={"container": 2, "object": 7},
        activity="manipulating",
        camera="still",
        location="kitchen",
    )
    assert describe(facts) == (
        "The camera wearer works with the hands in a kitchen; the right hand holds a tool and the left hand is free; "
        "two containers and several objects are in view."
    )


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (
            SceneFacts(hands={}, activity="walking", camera="moving", location="outdoor"),
            "The camera wearer walks outdoors, as seen in first person from the wearer's own point of view; no hand "
            "was found; the camera moves.",
        ),
        (
            SceneFacts(hands={"right": hand("pre-grasp")}, camera="turning"),
            "The camera wearer faces a scene; the right hand reaches for an object and the left hand was not found; "
            "the view turns.",
        ),
        (
            SceneFacts(
                hands={side: hand("grasp", category="food") for side in ("left", "right")},
                objects={"person": 2},
                location="office",
            ),
            "The camera wearer is in an office; both hands hold food; two people are in view.",
        ),
        (
            SceneFacts(hands={"left": hand("grasp", category="appliance")}, activity="washing dishes"),
            "The camera wearer is washing dishes; the left hand holds an appliance and the right hand was not found.",
        ),
    ],
)
def test_sentences(facts: SceneFacts, expected: str) -> None:
    assert describe(facts) == expected


def test_a_hand_that_nobody_looked_for_is_not_said_to_be_absent() -> None:
    assert "hand" not in describe(SceneFacts(hands=None, location="kitchen", camera="still"))


def test_every_combination_has_the_right_length() -> None:
    sides = [
        None,
        hand("free"),
        *(hand(state, category="appliance") for state in HAND_STATES[1:]),
        hand("grasp"),
    ]
    pairs = [
        {name: found for name, found in (("left", a), ("right", b)) if found}
        for a, b in product(sides, sides)
    ]
    objects = [
        {},
        {"object": 1},
        {"furniture": 1},
        {"person": 3, "object": 9},
        {"appliance": 2, "container": 12},
    ]
    wrong = []
    for hands, seen, activity, camera, location in product(
        [None, *pairs],
        objects,
        ("", "manipulating", "idle", "cut"),
        ("", "still", "turning", "moving"),
        ("", "kitchen", "outdoor"),
    ):
        facts = SceneFacts(hands=hands, objects=seen, activity=activity, camera=camera, location=location)
        text = describe(facts)
        if not FEWEST_WORDS <= word_count(text) <= MOST_WORDS or not text.endswith(".") or "  " in text:
            wrong.append(text)
    assert wrong == []


@given(
    activity=st.text(max_size=40),
    location=st.text(max_size=10),
    objects=st.dictionaries(st.sampled_from(MASK_CATEGORIES), st.integers(1, 500)),
)
def test_strange_labels_still_make_a_sentence(activity: str, location: str, objects: dict[str, int]) -> None:
    text = describe(SceneFacts(activity=activity, location=location, objects=objects))
    assert text.startswith("The camera wearer") and word_count(text) >= FEWEST_WORDS


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("The wearer's re-used cup.", 4),
        ("Über 3 Äpfel — rot", 4),
        ("the wearer\u2019s cup", 3),
        ("...", 0),
    ],
)
def test_words_are_counted_as_people_count_them(text: str, count: int) -> None:
    assert word_count(text) == count


# --- facts ---------------------------------------------------------------------------------------------


def track(
    side: HandSide, states: list[HandState | None], *, contact: float = 0.0, box: tuple[float, ...] = ()
) -> HandTrack:
    count = len(states)
    contact_box = np.full((count, 4), np.nan, np.float32)
    if box:
        contact_box[:] = box
    return HandTrack(
        side=side,
        visible=np.array([state is not None for state in states]),
        boxes_xyxy=np.zeros((count, 4), np.float32),
        scores=np.ones(count, np.float32),
        landmarks_xy=np.full((count, 21, 2), np.nan, np.float32),
        states=tuple(states),
        state_scores=np.ones(count, np.float32),
        contact_boxes_xyxy=contact_box,
        contact_scores=np.full(count, contact, np.float32),
    )


def tracks(left: HandTrack, right: HandTrack, *, step_ns: int = S // 10) -> HandObjectTracks:
    count = left.visible.size
    return HandObjectTracks(
        frame_index=np.arange(count, dtype=np.int64) * 3,
        timestamps_ns=np.arange(count, dtype=np.int64) * step_ns,
        resolution=(100, 50),
        left=left,
        right=right,
        other_hands=np.zeros(count, np.int64),
    )


def mask_table(rows: list[tuple[int, str, tuple[float, float, float, float], float]]) -> bytes:
    out = io.BytesIO()
    columns = {
        "timestamp_ns": pa.array([row[0] for row in rows], pa.int64()),
        "category": pa.array([row[1] for row in rows]),
        "area_share": pa.array([row[3] for row in rows], pa.float32()),
    }
    for place, name in enumerate(("left", "top", "right", "bottom")):
        columns[name] = pa.array([row[2][place] for row in rows], pa.float32())
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def test_the_hand_holds_the_mask_at_its_contact_box() -> None:
    hands = tracks(track("left", [None]), track("right", ["grasp"], contact=0.9, box=(10, 10, 30, 30)))
    masks = MaskRows.read(
        mask_table(
            [
                (0, "hand", (20, 20, 60, 60), 0.1),
                (0, "container", (22, 20, 60, 60), 0.05),
                (0, "tool", (100, 20, 160, 60), 0.2),
                (0, "background", (0, 0, 200, 100), 0.6),
                (0, "food", (0, 0, 4, 4), 0.001),
            ]
        ),
        resolution=(200, 100),
    )
    facts = scene_facts(
        SceneSources(hands=hands, masks=masks, location="office"), timestamp_ns=0, start_ns=0, end_ns=S
    )
    assert facts.hands == {"right": hand("grasp", category="container")}
    assert facts.objects == {"tool": 1, "container": 1} and list(facts.objects) == ["tool", "container"]
    assert (facts.activity, facts.camera, facts.location) == ("", "", "office")


def test_a_mask_elsewhere_or_without_a_name_names_nothing() -> None:
    hands = tracks(track("left", ["grasp"], box=(10, 10, 30, 30)), track("right", ["free"]))
    rows = [(0, "object", (10.0, 10.0, 30.0, 30.0), 0.2), (0, "tool", (60.0, 10.0, 90.0, 40.0), 0.2)]
    masks = MaskRows.read(mask_table(rows), resolution=(100, 50))
    facts = scene_facts(SceneSources(hands=hands, masks=masks), timestamp_ns=0, start_ns=0, end_ns=S)
    assert facts.hands is not None and facts.hands["left"]["category"] == ""


def test_no_hand_in_view_differs_from_no_hand_layer() -> None:
    hands = tracks(track("left", [None, None]), track("right", [None, "free"]))
    at = dict(start_ns=0, end_ns=2 * S)
    assert scene_facts(SceneSources(hands=hands), timestamp_ns=0, **at).hands == {}
    assert scene_facts(SceneSources(hands=hands), timestamp_ns=S // 10, **at).hands == {"right": hand("free")}
    # Half a second further on nobody looked.
    assert scene_facts(SceneSources(hands=hands), timestamp_ns=S // 10 + S // 2, **at).hands is None
    assert scene_facts(SceneSources(), timestamp_ns=0, **at).hands is None


def actions_json(*segments: tuple[str, float], hands: bool = True) -> dict[str, Any]:
    """Segments of a second each."""
    return {
        "hands": hands,
        "segments": [
            {
                "start_ns": place * S,
                "end_ns": (place + 1) * S,
                "label": label,
                "score": score,
                "start_s": place,
            }
            for place, (label, score) in enumerate(segments)
        ],
    }


def test_the_activity_is_the_segment_that_contains_the_moment() -> None:
    segments = reliable_segments(actions_json(("idle", 0.5)), least_score=0.4)
    assert segments == (ActionSegment(start_ns=0, end_ns=S, label="idle", score=0.5),)
    sources = SceneSources(segments=segments)
    assert scene_facts(sources, timestamp_ns=S - 1, start_ns=0, end_ns=S).activity == "idle"
    assert scene_facts(sources, timestamp_ns=S, start_ns=0, end_ns=S).activity == ""


@pytest.mark.parametrize(
    ("label", "score", "hands", "stated"),
    [
        ("walking", 0.39, True, False),
        ("walking", 0.4, True, True),
        ("walking", 0.4, False, True),
        ("idle", 0.9, False, False),
        ("manipulating", 0.9, False, False),
        ("carrying", 0.9, False, False),
        ("idle", 0.9, True, True),
    ],
)
def test_an_activity_that_nobody_could_tell_is_not_stated(
    label: str, score: float, hands: bool, stated: bool
) -> None:
    segments = reliable_segments(actions_json((label, score), hands=hands), least_score=0.4)
    sources = SceneSources(segments=segments, location="kitchen")
    facts = scene_facts(sources, timestamp_ns=0, start_ns=0, end_ns=S)
    assert facts.activity == (label if stated else "")
    assert stated != describe(facts).startswith("The camera wearer is in a kitchen")


@given(
    hands=st.sampled_from([None, {}, {"left": hand("free")}, {"right": hand("grasp")}]),
    camera=st.sampled_from(["", "still", "moving"]),
)
def test_what_was_not_found_is_not_said_to_be_absent(
    hands: dict[str, dict[str, str]] | None, camera: str
) -> None:
    text = describe(SceneFacts(hands=hands, camera=camera))
    assert not any(claim in text for claim in ("no hand is", "out of view", "camera is still"))


def test_a_free_hand_near_an_object_is_not_said_to_touch_it() -> None:
    hands = tracks(track("left", ["free"], contact=0.9, box=(10, 10, 30, 30)), track("right", [None]))
    masks = MaskRows.read(mask_table([(0, "tool", (10.0, 10.0, 30.0, 30.0), 0.2)]), resolution=(100, 50))
    facts = scene_facts(SceneSources(hands=hands, masks=masks), timestamp_ns=0, start_ns=0, end_ns=S)
    assert facts.hands == {"left": hand("free")} and "the left hand is free" in describe(facts)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("still", "still"), ("jitter", "still"), ("pan", "turning"), ("shake", "moving")],
)
def test_camera_words(name: str, expected: str) -> None:
    seconds = np.arange(60) / 30
    x = {
        "still": np.zeros(60),
        "jitter": np.where(np.arange(60) % 2, 2.0, 0.0),
        "pan": 300 * seconds,
        "shake": 200 * np.sin(2 * np.pi * seconds),
    }[name]
    motion = CameraMotion(
        positions_xy=np.stack([x, np.zeros(60)], axis=1),
        change=np.zeros(60, np.float32),
        is_cut=np.zeros(60, np.bool_),
    )
    stamps = np.round(seconds * S).astype(np.int64)
    sources = SceneSources(motion=motion, motion_timestamps_ns=stamps, motion_longer_side=1280)
    assert scene_facts(sources, timestamp_ns=0, start_ns=0, end_ns=2 * S).camera == expected


def test_one_frame_says_nothing_of_the_camera() -> None:
    sources = SceneSources(
        motion=CameraMotion.still(1), motion_timestamps_ns=np.zeros(1, np.int64), motion_longer_side=100
    )
    assert scene_facts(sources, timestamp_ns=0, start_ns=0, end_ns=S).camera == ""


def test_an_empty_mask_table_is_read() -> None:
    masks = MaskRows.read(mask_table([]), resolution=(10, 10))
    assert scene_facts(SceneSources(masks=masks), timestamp_ns=0, start_ns=0, end_ns=S).objects == {}


def test_in_the_dark_nothing_is_said_of_hands_or_camera() -> None:
    stamps = np.arange(60, dtype=np.int64) * 33_333_333
    unseen = np.ones(60, np.bool_)
    motion = dataclasses.replace(CameraMotion.still(60), unseen=unseen)
    sources = SceneSources(motion=motion, motion_timestamps_ns=stamps, motion_longer_side=1280)
    facts = scene_facts(sources, timestamp_ns=10**9, start_ns=0, end_ns=2 * 10**9)
    assert facts.camera == "unseen"
    for place in ("", "kitchen"):
        facts = SceneFacts(hands={}, activity="idle", camera="unseen", location=place)
        text = describe(facts)
        assert "too dark" in text and "hand" not in text and "idle" not in text
        assert FEWEST_WORDS <= word_count(text) <= MOST_WORDS
    half = dataclasses.replace(motion, unseen=np.arange(60) % 2 == 0)
    lit = dataclasses.replace(sources, motion=half)
    assert scene_facts(lit, timestamp_ns=10**9, start_ns=0, end_ns=2 * 10**9).camera == "still"
