"""The daily file of a collector says what to do better, and nothing about anybody else."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass, replace

import pytest

from ego_assets.curation.collector_files import collector_folder, write_collector_files
from ego_assets.schema.clip import Clip

DAY = dt.date(2026, 5, 14)


@dataclass(frozen=True)
class Gate:
    clip_id: str
    gate: str
    outcome: str
    layer: str = "clip_quality"
    blocking: bool = False
    value: float | None = 0.5
    threshold: float | None = 0.3
    message: str = "Wipe the lens."


def clip(name, collector="ann", **fields):
    return Clip(clip_id=name, source_name=f"{name}.mp4", collector_id=collector, recording_date=DAY, **fields)


CLIPS = [
    clip("good"),
    clip("soft"),
    clip("cut"),
    clip("new"),
    clip("other", "bob"),
    clip("gone", withdrawn=True),
]
GATES = [
    Gate("good", "blur", "passed"), Gate("good", "camera_tilt", "not_evaluated"),
    Gate("good", "blur_working_scale", "warned"), Gate("good", "pii_density", "warned", layer="blurred_video"),
    Gate("soft", "blur", "warned"), Gate("soft", "smudges", "warned", message="Soft in the <upper> | left."),
    Gate("cut", "exposure", "warned", message="Too dark."), Gate("cut", "parse", "failed", message="Cut off."),
    Gate("other", "shake", "warned", message="Bob shakes."), Gate("gone", "blur", "warned", message="Withdrawn."),
]  # fmt: skip


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_day_says_what_was_flagged_why_and_how_many_were_good(tmp_path):
    written = write_collector_files(tmp_path, CLIPS, GATES)
    assert written == [tmp_path / "ann" / "2026-05-14.md", tmp_path / "bob" / "2026-05-14.md"]
    found = json.loads((tmp_path / "ann" / "2026-05-14.json").read_text())
    assert (found["format"], found["collector_id"], found["day"]) == (1, "ann", "2026-05-14")
    assert (found["clips"], found["good"], found["unchecked"]) == (4, 1, 1)
    assert {clip["clip_id"]: [r["gate"] for r in clip["reasons"]] for clip in found["flagged"]} == {
        "cut": ["parse", "exposure"],
        "soft": ["blur", "smudges"],
    }
    assert found["flagged"][0]["reasons"][0]["message"] == "Cut off."
    readable = written[0].read_text()
    assert "1 of 4 clips good, 2 to do better, 1 not examined yet." in readable
    assert "(the clip cannot be used)**" not in readable
    assert "**Parse** (the clip cannot be used): Cut off." in readable
    assert "\\<upper\\> \\| left" in readable


def test_a_file_tells_nothing_about_others_and_holds_no_picture(tmp_path):
    write_collector_files(tmp_path, CLIPS, GATES)
    ann = "".join(text for name, text in files(tmp_path).items() if name.startswith("ann/"))
    for foreign in ("bob", "Bob", "other", "gone", "Withdrawn", "data:", "!["):
        assert foreign not in ann


def test_writing_twice_changes_nothing(tmp_path):
    write_collector_files(tmp_path, CLIPS, GATES)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    write_collector_files(tmp_path, list(reversed(CLIPS)), list(reversed(GATES)))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_what_was_erased_vanishes_and_foreign_files_stay(tmp_path):
    write_collector_files(tmp_path, CLIPS, GATES)
    (tmp_path / "ann" / "my notes.txt").write_text("mine")
    (tmp_path / "ann" / ".2026-05-14.md.part").write_text("cut off while it was written: soft.mp4")
    left = [one for one in CLIPS if one.clip_id == "good"]
    write_collector_files(tmp_path, left, GATES)
    assert set(files(tmp_path)) == {"ann/2026-05-14.json", "ann/2026-05-14.md", "ann/my notes.txt"}
    assert "soft" not in "".join(files(tmp_path).values())
    write_collector_files(tmp_path, [], [])
    assert set(files(tmp_path)) == {"ann/my notes.txt"}


def test_one_collector_or_day_leaves_the_others_alone(tmp_path):
    later = replace(CLIPS[0], clip_id="later", recording_date=dt.date(2026, 5, 15))
    write_collector_files(tmp_path, [*CLIPS, later], GATES)
    before = files(tmp_path)
    assert write_collector_files(tmp_path, [], [], collector_id="bob") == []
    assert set(files(tmp_path)) == {name for name in before if not name.startswith("bob/")}
    write_collector_files(tmp_path, [], [], collector_id="ann", day=DAY)
    assert set(files(tmp_path)) == {"ann/2026-05-15.json", "ann/2026-05-15.md"}


def test_without_a_day_of_recording_that_of_the_registration_counts(tmp_path):
    created = dt.datetime(2026, 6, 1, 1, 30, tzinfo=dt.timezone(dt.timedelta(hours=5)))
    unknown = replace(CLIPS[0], recording_date=None, created_at=created)
    write_collector_files(tmp_path, [unknown], GATES)
    assert set(files(tmp_path)) == {"ann/2026-05-31.json", "ann/2026-05-31.md"}


NAMES = [
    "..",
    ".",
    "",
    "a/b",
    "../../etc",
    "a\\b",
    "a\0b",
    "~",
    "-rf",
    "Zoë 手",
    "a%2Fb",
    "x" * 400,
    "x" * 399 + "y",
    "\n",
]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_leads_out_of_the_folder(tmp_path, name):
    folder = tmp_path / "collectors"
    write_collector_files(folder, [clip("good", name)], GATES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["collectors"]
    assert [path.parent.parent for path in folder.rglob("*.json")] == [folder]
    assert json.loads(next(folder.rglob("*.json")).read_text())["collector_id"] == name
    write_collector_files(folder, [], [])
    assert list(folder.iterdir()) == []


def test_different_names_have_different_folders(tmp_path):
    assert len({collector_folder(tmp_path, name) for name in NAMES}) == len(NAMES)
