"""The EgoVid table of a delivery."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from ego_assets.delivery.clip_source import DeliveredClip
from ego_assets.delivery.definition import DeliveryDefinition
from ego_assets.delivery.egovid import COLUMNS, TABLE, check, write
from ego_assets.delivery.journal import Journal
from ego_assets_tests.delivered_clips import make_clip


def written(folder: Path, *clips: DeliveredClip) -> list[dict[str, Any]]:
    write(folder, clips, definition=DeliveryDefinition(formats=("egovid",)), journal=Journal(folder))
    with (folder / TABLE).open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_columns_hold_what_is_known_and_nothing_else(tmp_path: Path) -> None:
    clip = make_clip(1, steps=4, split="test")
    categories = {
        "instances": {"1": {"category": "tool"}, "2": {"category": "hand"}, "3": {"category": "object"}}
    }
    clip.files.contents["segmentation/categories.json"] = json.dumps(categories).encode()  # type: ignore[attr-defined]
    [row] = written(tmp_path, clip)
    assert tuple(row) == COLUMNS
    assert row["video_id"] == f"{clip.clip_id}_0_24"
    assert (row["frame_num"], row["fps"], row["split"]) == ("24", "30.0", "test")
    assert (row["noun_cls"], row["verb_cls"], row["name"]) == ("tool", "cooking", "cooking")
    assert row["llava_cap"] == "A hand holds an object. It is put down."
    assert {
        row[name] for name in COLUMNS if name.startswith(("flow", "ti_", "ii_", "dover", "egovideo"))
    } == {""}


@pytest.mark.parametrize(
    ("text", "picture", "expected"),
    [
        (
            [0.251, 0.24, 0.2333333, -0.01],
            [0.9, 0.8, 0.75],
            ("[25.10, 24.00, 23.33, -1.00]", "[90.00, 80.00, 75.00]"),
        ),
        ([0.251, None, 0.2, 0.2], [0.9, 0.8, 0.75], ("", "[90.00, 80.00, 75.00]")),
        ([None] * 4, [None] * 3, ("", "")),
    ],
)
def test_similarities_are_those_of_the_captions(
    tmp_path: Path, text: list[Any], picture: list[Any], expected: tuple[str, str]
) -> None:
    clip = make_clip(1)
    document = json.loads(clip.files.read("captions.json"))
    document["frame_similarity"] = {
        "space": "clip",
        "frame_index": [0, 8, 16, 23],
        "text": text,
        "picture": picture,
    }
    clip.files.contents["captions.json"] = json.dumps(document).encode()  # type: ignore[attr-defined]
    [row] = written(tmp_path, clip)
    assert (row["ti_sim"], row["ii_sim"]) == expected


def test_a_clip_without_labels_keeps_its_activity(tmp_path: Path) -> None:
    [row] = written(tmp_path, make_clip(layers=("frames",), activity='chopping, "fast"'))
    assert (row["name"], row["verb_cls"], row["llava_cap"]) == ('chopping, "fast"', "", "")


def test_rows_are_sorted_and_a_finished_table_stays(tmp_path: Path) -> None:
    clips = [make_clip(number) for number in (2, 0, 1)]
    rows = written(tmp_path, *clips)
    assert [row["video_id"] for row in rows] == sorted(row["video_id"] for row in rows)
    before = (tmp_path / TABLE).stat().st_ino
    written(tmp_path, *clips)
    assert (tmp_path / TABLE).stat().st_ino == before


@pytest.mark.parametrize("damage", ["gone", "columns", "cut"])
def test_damage_is_found(tmp_path: Path, damage: str) -> None:
    clips = [make_clip(number) for number in range(3)]
    written(tmp_path, *clips)
    expected = {clip.clip_id for clip in clips}
    assert check(tmp_path, expected_clips=expected) == []
    table = tmp_path / TABLE
    lines = table.read_text().splitlines()
    if damage == "gone":
        table.unlink()
    elif damage == "columns":
        table.write_text("\n".join(["a,b", *lines[1:]]))
    else:
        table.write_text("\n".join(lines[:-1]))
    assert check(tmp_path, expected_clips=expected)
