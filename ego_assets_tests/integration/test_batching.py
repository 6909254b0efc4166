"""Runs over many clips: events and checks per clip, and no clip pays for another one's failure."""

from __future__ import annotations

import dataclasses
import uuid
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from dagster import AssetCheckKey, AssetKey
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus as Status

from ego_assets.batching import MAX_PICTURE_BYTES, build_layer_assets, estimating, picture_metadata
from ego_assets.execution import ClipWork, LayerDraft
from ego_assets.schema.clip import Clip
from ego_assets.schema.layers import LayerSpec
from ego_assets.settings import Settings

from .conftest import NO_WAIT, SPECS, Bench

MakeBench = Callable[[int], Bench]


def materialized(bench: Bench, layer: str) -> set[str]:
    return set(bench.instance.get_materialized_partitions(AssetKey(layer)))


def materialization_count(bench: Bench, layer: str) -> Counter[str | None]:
    records = bench.instance.fetch_materializations(AssetKey(layer), limit=1000).records
    return Counter(record.partition_key for record in records)


def check_statuses(bench: Bench, layer: str, check: str) -> dict[str | None, Status]:
    history = bench.instance.event_log_storage.get_asset_check_execution_history(
        AssetCheckKey(AssetKey(layer), check), limit=1000
    )
    return {record.partition: record.status for record in reversed(history)}


def evaluation(bench: Bench, layer: str, check: str, clip_id: str) -> Any:
    history = bench.instance.event_log_storage.get_asset_check_execution_history(
        AssetCheckKey(AssetKey(layer), check), limit=1000
    )
    return next(r.evaluation for r in history if r.partition == clip_id and r.evaluation)


def test_one_bad_clip_in_ten_costs_the_others_nothing(make_bench: MakeBench) -> None:
    bench = make_bench(10)
    bad = bench.clip_ids[4]
    bench.behaviour.set("gate", bad, "unfit")
    result = bench.run_range(bench.clip_ids[0], bench.clip_ids[-1])

    good = set(bench.clip_ids) - {bad}
    assert not result.success
    assert materialized(bench, "intake") == set(bench.clip_ids)
    for layer in ("gate", "frames", "depth_maps", "manifest"):
        assert materialized(bench, layer) == good, layer
        assert set(materialization_count(bench, layer).values()) == {1}, f"{layer}: one event per clip"
    statuses = check_statuses(bench, "gate", "fit")
    assert set(statuses) == set(bench.clip_ids)
    assert {clip for clip, status in statuses.items() if status is Status.FAILED} == {bad}
    failure = next(event for event in result.all_events if event.is_step_failure)
    assert failure.step_key == "manifest"
    assert bad in failure.step_failure_data.user_failure_data.description


def test_the_failed_gate_is_a_fact_that_refuses_later_runs(make_bench: MakeBench) -> None:
    bench = make_bench(1)
    clip = bench.clip_ids[0]
    bench.behaviour.set("gate", clip, "unfit")
    assert not bench.run_clip(clip).success
    result = bench.run_clip(clip, asset_selection=[AssetKey("frames")])
    assert not result.success
    assert ("frames", clip) not in bench.behaviour.calls
    assert "frames" not in {state.layer for state in bench.database.layer_states(clip)}
    assert bench.database.clip(clip).failed


def test_evaluations_point_at_their_materialization(make_bench: MakeBench) -> None:
    bench = make_bench(3)
    assert bench.run_range(bench.clip_ids[0], bench.clip_ids[-1]).success
    for clip in bench.clip_ids:
        target = evaluation(bench, "gate", "fit", clip).target_materialization_data
        record = bench.instance.fetch_materializations(AssetKey("gate"), limit=100).records
        assert target.storage_id in {r.storage_id for r in record if r.partition_key == clip}


@pytest.mark.parametrize("as_range", [False, True])
def test_a_layer_that_crashes_is_given_up_and_the_clip_goes_on(make_bench: MakeBench, as_range: bool) -> None:
    bench = make_bench(3)
    clip = bench.clip_ids[1]
    bench.behaviour.set("depth_maps", clip, "crash")
    result = bench.run_range(bench.clip_ids[0], bench.clip_ids[2]) if as_range else bench.run_clip(clip)

    assert result.success
    assert bench.behaviour.calls.count(("depth_maps", clip)) == 3, "one attempt and two retries"
    assert clip in materialized(bench, "manifest")
    assert check_statuses(bench, "depth_maps", "completed")[clip] is Status.FAILED
    row = bench.database.clip(clip)
    assert not row.failed and row.needs_review and row.completeness == 0b101, "frames and masks"
    assert bench.store.document(clip, "depth_maps") is None
    assert [item.layer for item in bench.database.review_items("open", clip)] == ["depth_maps"]


def test_a_flaky_layer_is_retried_per_clip(make_bench: MakeBench) -> None:
    bench = make_bench(3)
    bench.behaviour.set("frames", bench.clip_ids[0], "flaky")
    assert bench.run_range(bench.clip_ids[0], bench.clip_ids[-1]).success
    attempts = Counter(clip for layer, clip in bench.behaviour.calls if layer == "frames")
    assert attempts == {bench.clip_ids[0]: 3, bench.clip_ids[1]: 1, bench.clip_ids[2]: 1}
    assert bench.database.review_items("open") == []


def test_an_essential_layer_that_crashes_stops_its_clip_only(make_bench: MakeBench) -> None:
    bench = make_bench(2)
    bad, good = bench.clip_ids
    bench.behaviour.set("intake", bad, "crash")
    assert not bench.run_range(bad, good).success
    assert materialized(bench, "manifest") == {good}
    assert bench.database.clip(bad).failed_reason.startswith(
        "intake: intake failed after 3 attempt(s): RuntimeError"
    )
    assert not bench.database.clip(good).failed


def test_a_clip_that_recovers_is_no_longer_failed(make_bench: MakeBench) -> None:
    bench = make_bench(1)
    clip = bench.clip_ids[0]
    bench.behaviour.set("gate", clip, "unfit")
    bench.run_clip(clip)
    assert bench.database.clip(clip).needs_review
    bench.behaviour.rules.clear()
    assert bench.run_clip(clip).success
    row = bench.database.clip(clip)
    assert not row.failed and not row.needs_review
    assert check_statuses(bench, "gate", "fit")[clip] is Status.SUCCEEDED


@pytest.mark.parametrize(("rule", "outcome"), [("ugly", "warned"), ("unknown", "not_evaluated")])
def test_only_passed_is_shown_as_passed(make_bench: MakeBench, rule: str, outcome: str) -> None:
    bench = make_bench(1)
    clip = bench.clip_ids[0]
    bench.behaviour.set("gate", clip, rule)
    assert bench.run_clip(clip).success, "a warning stops nothing"
    shown = evaluation(bench, "gate", "pretty", clip)
    assert not shown.passed
    assert shown.severity.value == "WARN"
    assert shown.metadata["outcome"].value == outcome


def test_a_backfill_gives_every_stage_runs_of_its_own(make_bench: MakeBench) -> None:
    bench = make_bench(1)
    policies = {
        asset.key.to_user_string(): asset.backfill_policy
        for asset in bench.definitions.get_repository_def().assets_defs_by_key.values()
    }
    assert policies["frames"] == policies["depth_maps"], "one stage, one run"
    stages = {spec.stage for spec in SPECS}
    assert len(set(policies.values())) == len(stages)


def test_the_data_version_is_that_of_the_artifact(make_bench: MakeBench) -> None:
    bench = make_bench(1)
    clip = bench.clip_ids[0]
    bench.run_clip(clip)
    before = bench.store.document(clip, "frames")
    bench.run_clip(clip, asset_selection=[AssetKey("frames")])
    after = bench.store.document(clip, "frames")
    assert before.data_version == after.data_version, "the same work gives the same version"
    assert before.version_id == after.version_id
    record = bench.instance.fetch_materializations(AssetKey("frames"), limit=1).records[0]
    tags = record.asset_materialization.tags
    assert tags["dagster/data_version"] == after.data_version


def test_the_ui_tells_what_is_out_of_date(make_bench: MakeBench) -> None:
    from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
    from dagster._core.loader import LoadingContextForTest

    bench = make_bench(1)
    clip = bench.clip_ids[0]
    bench.behaviour.set("depth_maps", clip, "crash")
    assert bench.run_clip(clip).success

    def statuses() -> dict[str, StaleStatus]:
        graph = bench.definitions.resolve_asset_graph()
        resolver = CachingStaleStatusResolver(bench.instance, graph, LoadingContextForTest(bench.instance))
        return {spec.name: resolver.get_status(AssetKey(spec.name), clip) for spec in SPECS}

    assert set(statuses().values()) == {StaleStatus.FRESH}
    bench.behaviour.rules.clear()
    assert bench.run_clip(clip, asset_selection=[AssetKey("depth_maps")]).success
    assert statuses()["manifest"] is StaleStatus.STALE
    assert statuses()["frames"] is StaleStatus.FRESH


def test_too_little_disk_space_stops_before_anything_runs(make_bench: MakeBench) -> None:
    bench = make_bench(2)
    hungry = LayerSpec(
        name="hungry",
        group="t",
        description="",
        stage=0,
        reads_original=True,
        estimate_bytes=lambda clip, settings: 10**18,
    )
    from dagster import Definitions, define_asset_job

    bench.definitions = Definitions(
        assets=build_layer_assets([(hungry, bench.behaviour.make)]),
        resources=bench.definitions.resources,
        jobs=[define_asset_job("chain", selection="*")],
    )
    result = bench.run_range(*bench.clip_ids)
    assert not result.success
    failure = next(event for event in result.all_events if event.is_step_failure)
    message = failure.step_failure_data.user_failure_data.description
    assert "GB" in message and "Free some space" in message
    assert bench.behaviour.calls == []
    assert bench.database.layer_states() == []


@pytest.mark.parametrize(
    ("profile_rate", "set_rate", "expected"),
    [(None, None, 30), (5.0, None, 5), (5.0, 2.0, 2), (None, 2.0, 2)],
)
def test_disk_space_is_estimated_at_the_rate_that_layers_look_at(
    profile_rate: float | None, set_rate: float | None, expected: float
) -> None:
    stated = {"depth_frames_per_second": set_rate} if set_rate else {}
    services = SimpleNamespace(
        settings=Settings(**stated),
        models=SimpleNamespace(frames_per_second=lambda task: profile_rate),
    )
    spec = LayerSpec(name="d", group="t", description="", stage=0, tasks=("depth",))
    clip = Clip(clip_id=str(uuid.uuid4()), source_name="a.mp4", duration_s=10.0)
    found = estimating(services, [spec])  # type: ignore[arg-type]
    assert found.pictures(clip, "depth") == 10 * expected
    if set_rate is None and profile_rate is None:
        assert found.pictures(dataclasses.replace(clip, fps=60.0), "depth") == 600


def test_layers_must_depend_on_earlier_stages() -> None:
    first = LayerSpec(name="first", group="t", description="", stage=1)
    second = LayerSpec(name="second", group="t", description="", stage=1, inputs=("first",))
    with pytest.raises(ValueError, match="earlier stages"):
        build_layer_assets([(first, lambda w, s: None), (second, lambda w, s: None)])  # type: ignore[arg-type]
    lost = LayerSpec(name="lost", group="t", description="", stage=1, inputs=("nowhere",))
    with pytest.raises(ValueError, match="nowhere"):
        build_layer_assets([(lost, lambda w, s: None)])  # type: ignore[arg-type]


def test_large_pictures_stay_out_of_the_event_log() -> None:
    assert "left out" in str(picture_metadata(b"\xff" * (MAX_PICTURE_BYTES + 1)).value)
    assert "data:image/png;base64" in str(picture_metadata(b"\x89PNG....").value)


@pytest.mark.parametrize("as_range", [False, True])
def test_a_layer_that_its_gate_refuses_is_given_up_alone_and_in_a_range(
    make_bench: MakeBench, as_range: bool
) -> None:
    bench = make_bench(2)
    clip = bench.clip_ids[0]
    bench.behaviour.set("masks", clip, "unfit")
    result = bench.run_range(*bench.clip_ids) if as_range else bench.run_clip(clip)
    assert result.success
    assert clip in materialized(bench, "manifest")
    assert check_statuses(bench, "masks", "fit")[clip] is Status.FAILED
    row = bench.database.clip(clip)
    assert not row.failed and row.needs_review
    assert row.completeness == 0b011, "frames and depth, not masks"
    assert ("follow_up", clip) in bench.behaviour.calls
    assert bench.store.document(clip, "follow_up") is None, "it needs what was refused"


def test_a_later_success_does_not_hide_a_failed_gate(make_bench: MakeBench) -> None:
    bench = make_bench(1)
    clip = bench.clip_ids[0]
    bench.behaviour.set("gate", clip, "unfit")
    bench.run_clip(clip)
    assert bench.run_clip(clip, asset_selection=[AssetKey("intake")]).success
    assert bench.database.clip(clip).failed


def test_a_layer_run_too_early_leaves_no_trace(make_bench: MakeBench) -> None:
    bench = make_bench(1)
    clip = bench.clip_ids[0]
    for layer in ("gate", "frames"):
        assert not bench.run_clip(clip, asset_selection=[AssetKey(layer)]).success
    row = bench.database.clip(clip)
    assert not row.failed and not row.needs_review
    assert bench.database.layer_states(clip) == []
    assert bench.run_clip(clip).success
    assert clip in materialized(bench, "manifest")


def test_an_unregistered_partition_costs_the_others_nothing(make_bench: MakeBench) -> None:
    bench = make_bench(3)
    stray = "00000000-0000-4000-8000-00000000abcd"
    bench.instance.add_dynamic_partitions("clip_id", [stray])
    assert not bench.run_range(bench.clip_ids[0], stray).success
    assert materialized(bench, "manifest") == set(bench.clip_ids)


def test_layers_on_a_gpu_share_its_pool_look_ahead_and_give_memory_back(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dagster import Definitions, define_asset_job

    from ego_assets.batching import GPU_POOL
    from resources.platform import ProfileModels

    seeing = LayerSpec(name="seeing", group="t", description="", stage=0, tasks=("depth",), retry=NO_WAIT)
    blind = LayerSpec(name="blind", group="t", description="", stage=0, pool="enrich", retry=NO_WAIT)
    ahead: dict[str, list[bool]] = {"seeing": [], "blind": []}
    kept: list[bool] = []

    def make(work: ClipWork, staged: Any) -> LayerDraft:
        ahead[work.spec.name].append(work._services.lookahead is not None)
        staged.path("result.txt").write_text("done")
        return LayerDraft()

    monkeypatch.setattr(
        ProfileModels, "give_back_memory", lambda self, *, keep_networks: kept.append(keep_networks)
    )
    bench = make_bench(2)
    assets = build_layer_assets([(seeing, make), (blind, make)], gpu_tasks={"depth", "masks"})
    assert [asset.op.pool for asset in assets] == [GPU_POOL, "enrich"]
    bench.definitions = Definitions(
        assets=assets,
        resources=bench.definitions.resources,
        jobs=[define_asset_job("chain", selection="*")],
        executor=bench.definitions.executor,
    )
    assert bench.run_range(*bench.clip_ids).success
    assert bench.run_clip(bench.clip_ids[0]).success
    assert ahead == {"seeing": [True] * 3, "blind": [False] * 3}
    assert kept == [False, True]
