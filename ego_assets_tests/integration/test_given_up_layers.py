"""Layers that a clip can do without: refused, or made and not judged."""

from __future__ import annotations

from collections.abc import Callable

from dagster import AssetKey

from ego_assets.curation.completeness import has_layer
from ego_assets.planning import plan_clip
from ego_assets.schema.vocabulary import ReviewRisk

from .conftest import SPECS, Bench


def test_a_refused_layer_is_handed_to_nobody_and_the_clip_may_be_delivered(
    make_bench: Callable[[int], Bench],
) -> None:
    bench = make_bench(1)
    clip_id = bench.clip_ids[0]
    bench.behaviour.set("masks", clip_id, "unfit")
    bench.run_clip(clip_id)
    assert bench.behaviour.given[("manifest", clip_id)] == {"frames", "depth_maps"}
    assert bench.store.document(clip_id, "masks") is not None, "what was refused can be looked at"
    clip = bench.database.clip(clip_id)
    assert not clip.failed and not has_layer(clip.completeness, "masks")
    reviews = bench.database.review_items(clip_id=clip_id)
    assert {item.risk for item in reviews} == {ReviewRisk.NORMAL}
    assert {item.layer for item in reviews} == {"masks", "follow_up"}


def test_a_layer_nobody_judged_is_handed_on_without_its_completeness_bit(
    make_bench: Callable[[int], Bench],
) -> None:
    bench = make_bench(1)
    clip_id = bench.clip_ids[0]
    bench.behaviour.set("masks", clip_id, "unjudged")
    bench.run_clip(clip_id)
    assert "masks" in bench.behaviour.given[("manifest", clip_id)]
    clip = bench.database.clip(clip_id)
    assert not has_layer(clip.completeness, "masks") and has_layer(clip.completeness, "depth_maps")
    assert bench.database.review_items(clip_id=clip_id) == []


def test_the_version_before_a_layer_was_given_up_is_no_input_any_more(
    make_bench: Callable[[int], Bench],
) -> None:
    bench = make_bench(1)
    clip_id = bench.clip_ids[0]
    bench.run_clip(clip_id)
    made_of = dict(bench.store.document(clip_id, "manifest").inputs)
    assert "masks" in made_of
    bench.behaviour.set("masks", clip_id, "unfit")
    bench.run_clip(clip_id)
    assert set(bench.store.document(clip_id, "manifest").inputs) == {"gate", "frames", "depth_maps"}
    bench.behaviour.rules.clear()
    bench.run_clip(clip_id, asset_selection=[AssetKey("masks")])
    plan = plan_clip(clip_id, SPECS, database=bench.database, store=bench.store)
    assert "manifest" in plan.pending, "the layer is back, and the manifest was made without it"
    bench.run_clip(clip_id)
    assert dict(bench.store.document(clip_id, "manifest").inputs) == made_of


def test_what_is_not_the_clip_s_own_fault_is_tried_again_without_being_asked_for(
    make_bench: Callable[[int], Bench],
) -> None:
    bench = make_bench(1)
    clip_id = bench.clip_ids[0]
    bench.behaviour.set("masks", clip_id, "misconfigured")
    bench.run_clip(clip_id)
    states = {state.layer: state.state for state in bench.database.layer_states(clip_id)}
    assert states["masks"] == "postponed" and states["manifest"] == "committed"
    assert bench.behaviour.calls.count(("masks", clip_id)) == 1, "another try would find the same settings"
    bench.behaviour.rules.clear()
    plan = plan_clip(clip_id, SPECS, database=bench.database, store=bench.store)
    assert set(plan.pending) == {"masks", "follow_up", "manifest"}
