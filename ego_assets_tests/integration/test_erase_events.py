"""What an erasure takes out of Dagster's storage, where runs go over several clips."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from dagster import AssetKey, DagsterRunStatus

from ego_assets.event_pictures import Words, remove_clips
from ego_assets_tests.integration.conftest import Bench
from resources.erasures import compact_sqlite

MARKER = 'Marisol "Quellbach" é.mp4'


def holding(folder: Path, text: str) -> list[str]:
    return [
        path.name
        for path in sorted(folder.rglob("*"))
        if path.is_file() and text.encode() in path.read_bytes()
    ]


def test_words_are_replaced_as_a_whole_and_in_every_spelling() -> None:
    words = Words(["c1", MARKER, ""])
    assert words.found_in("raw/c1/x") and not words.found_in("c12 and abc1")
    for text in (MARKER, json.dumps(MARKER), json.dumps(json.dumps({"a": MARKER}))):
        assert words.found_in(text) and "Quellbach" not in words.replaced(text)
    record = {"__class__": "c1", "run_id": "c1", "tags": {"who": "c1"}, "list": [1, None, "at c1"]}
    changed = json.loads(words.replaced(json.dumps(record)))
    assert changed == {
        "__class__": "c1", "run_id": "c1", "tags": {"who": "(erased)"}, "list": [1, None, "at (erased)"],
    }  # fmt: skip
    assert Words([]).replaced("c1") == "c1" and not Words([]).found_in("c1")


def test_of_a_run_over_several_clips_the_others_stay(
    make_bench: Callable[[int], Bench], tmp_path: Path
) -> None:
    bench = make_bench(3)
    first, second, third = bench.clip_ids
    bench.behaviour.set("gate", second, "unfit")
    ran = bench.run_range(first, third)
    single = bench.run_clip(second)
    instance = bench.instance
    found = remove_clips(instance, [second], Words(["Unfit"]))
    assert found.runs == 1 and found.events > 0 and found.running == () and found.files
    for path in found.files:
        compact_sqlite(path)
    assert instance.get_run_by_id(single.run_id) is None
    kept = instance.get_run_by_id(ran.run_id)
    assert kept is not None and kept.is_finished
    assert holding(tmp_path / "dagster", "Unfit") == []
    text = "".join(entry.to_json() for entry in instance.all_logs(ran.run_id))
    assert f"{first}" in text and f"{third}" in text
    assert not instance.has_dynamic_partition("clip_id", second)
    assert instance.has_dynamic_partition("clip_id", first)

    made = instance.get_materialized_partitions(AssetKey("intake"))
    assert made == {first, third}
    assert remove_clips(instance, [second], Words(["Unfit"])).events == 0
    again = bench.run_range(first, first)
    assert again.success, "the storage can be used as before"


def test_a_run_that_has_not_ended_is_named_and_left(make_bench: Callable[[int], Bench]) -> None:
    bench = make_bench(1)
    [clip_id] = bench.clip_ids
    run = bench.instance.create_run_for_job(
        bench.definitions.resolve_job_def("chain"),
        status=DagsterRunStatus.STARTED,
        tags={"dagster/partition": clip_id},
    )
    found = remove_clips(bench.instance, [clip_id], Words([]))
    assert found.running == (run.run_id,) and found.runs == 0
    assert bench.instance.get_run_by_id(run.run_id) is not None
