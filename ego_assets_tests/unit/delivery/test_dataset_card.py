"""What the dataset card says about privacy: measured figures, or that there are none yet."""

from __future__ import annotations

from typing import Any

import pytest

from ego_assets.delivery.card import BENCHMARK_RECALL, BenchmarkRecall, dataset_card
from ego_assets.privacy.coverage import wilson_interval
from ego_assets.schema.recall import RecallEstimate


def row(status: str) -> dict[str, Any]:
    return {
        "duration_s": 3.0,
        "enrichment_completeness": 1,
        "step_count": 90,
        "licence": "",
        "consent_scope": "unknown",
        "environment_type": "kitchen",
        "activity_category": "",
        "privacy_status": status,
    }


def faces(covered: int, missed: int) -> RecallEstimate:
    interval = {"low": 0.9, "high": 1.0} if covered + missed else {}
    return RecallEstimate(
        kind="faces", covered=covered, missed=missed, frames=40, clips=7, clips_with_regions=7, **interval
    )


def line(card: str, kind: str) -> str:
    [found] = [text for text in card.splitlines() if text.startswith(f"| {kind} ")]
    return found


def test_without_reviews_the_card_says_so() -> None:
    card = dataset_card([row("blurred")], benchmark_recall={})
    assert line(card, "faces") == "| faces | not measured yet | not measured |"
    assert "0 of 1 clips was reviewed" in card


def test_measured_figures_stand_beside_the_benchmarks() -> None:
    benchmark = {
        "faces": BenchmarkRecall(recall=0.985, low=0.97, high=0.993, regions=500, material="photographs"),
        "text": BenchmarkRecall(recall=0.96, low=0.95, high=0.97, regions=900, material="photo|graphs"),
    }
    card = dataset_card(
        [row("blurred"), row("reviewed")],
        measured_recall={"faces": faces(99, 1)},
        benchmark_recall=benchmark,
    )
    assert "1 of 2 clips was reviewed" in card
    shown = line(card, "faces")
    assert (
        "0.990 (95 % interval 0.900-1.000; 99 of 100 regions in 40 reviewed frame(s) of 7 clip(s))" in shown
    )
    assert "0.985 (95 % interval 0.970-0.993; 500 regions, photographs)" in shown
    assert line(card, "text").startswith("| text | not measured yet | 0.960") and "photo/graphs" in card


def test_reviewed_frames_without_a_face_are_no_recall() -> None:
    card = dataset_card([row("reviewed")], measured_recall={"faces": faces(0, 0)}, benchmark_recall={})
    assert "no region in 40 reviewed frame(s)" in line(card, "faces")


def provenance(*backends: dict[str, str]) -> dict[str, Any]:
    return {"data_version": "a" * 64, "backends": list(backends)}


VIDEOMAE = {
    "task": "actions",
    "backend": "videomae",
    "model": "VideoMAE base",
    "licence": "CC-BY-NC-4.0",
    "weights_sha256": "0123456789abcdef" * 4,
}
CLIP = {**VIDEOMAE, "task": "embeddings", "model": "CLIP | L", "licence": "MIT"}
RULES = {
    "task": "actions",
    "backend": "motion_rules",
    "model": "rules 2",
    "licence": "",
    "weights_sha256": "",
}


def test_every_model_stands_on_the_card_once_with_its_licence() -> None:
    clips = [
        {"masks": provenance(CLIP), "actions": provenance(VIDEOMAE), "frames": provenance()},
        {"actions": provenance(VIDEOMAE), "embeddings": provenance(CLIP)},
        {"actions": provenance(RULES), "manifest": {}},
    ]
    card = dataset_card([row("blurred")] * 3, layers=iter(clips))
    section = card.partition("## Models and their licences")[2].partition("## ")[0]
    assert [text for text in section.splitlines() if text.startswith("|")] == [
        "| layer | model | licence | weights |",
        "| --- | --- | --- | --- |",
        "| actions | VideoMAE base | CC-BY-NC-4.0 | `0123456789ab` |",
        "| actions | rules 2 | - | - |",
        "| embeddings, masks | CLIP / L | MIT | `0123456789ab` |",
    ]


def test_other_weights_of_one_model_are_another_row() -> None:
    other = {**VIDEOMAE, "weights_sha256": "f" * 64}
    card = dataset_card([row("blurred")], layers=[{"actions": provenance(VIDEOMAE, other)}])
    assert card.count("| actions | VideoMAE base | CC-BY-NC-4.0 |") == 2 and "`ffffffffffff`" in card


def test_without_recorded_models_there_is_no_table_of_them() -> None:
    assert "licences" not in dataset_card([row("blurred")], layers=[{"frames": provenance()}])


def test_a_benchmark_figure_needs_its_interval_and_number() -> None:
    for wrong in ({"low": 0.99}, {"high": 0.9}, {"regions": 0}):
        with pytest.raises(ValueError, match="benchmark"):
            BenchmarkRecall(
                **{"recall": 0.95, "low": 0.9, "high": 0.97, "regions": 9, "material": "x", **wrong}
            )


@pytest.mark.parametrize("kind", ["faces", "text", "plates"])
def test_the_stated_benchmark_figures_are_those_of_whole_regions(kind: str) -> None:
    figure = BENCHMARK_RECALL[kind]
    covered = round(figure.recall * figure.regions)
    low, high = wilson_interval(covered, figure.regions)
    rounding = 0.0005
    assert figure.recall == pytest.approx(covered / figure.regions, abs=rounding)
    assert (figure.low, figure.high) == (pytest.approx(low, abs=rounding), pytest.approx(high, abs=rounding))
    assert f"{figure.regions} regions, {figure.material}" in line(dataset_card([row("blurred")]), kind)
