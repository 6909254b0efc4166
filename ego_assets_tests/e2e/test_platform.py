"""The whole platform as a user runs it: webserver, daemon, sensor, backfills, read through GraphQL."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from ego_assets.assets import LAYERS
from ego_assets.project import Project
from ego_assets.settings import Settings
from ego_assets_tests.clips import write_clip, write_renamed_picture, write_truncated_clip

from .conftest import Platform

pytestmark = pytest.mark.e2e

LAYER_NAMES = [spec.name for spec, _ in LAYERS]

PARTITIONS = """
query($keys: [AssetKeyInput!]) {
  assetNodes(assetKeys: $keys) {
    assetKey { path }
    assetPartitionStatuses { ... on DefaultPartitionStatuses { materializedPartitions failedPartitions } }
  }
}
"""

CHECKS = """
query($key: AssetKeyInput!, $name: String!) {
  assetCheckExecutions(assetKey: $key, checkName: $name, limit: 500) {
    status
    evaluation { partition success metadataEntries { label ... on TextMetadataEntry { text } } }
  }
}
"""


def materialized(platform: Platform) -> dict[str, set[str]]:
    """Materialized partitions by layer."""
    keys = [{"path": [name]} for name in LAYER_NAMES]
    nodes = platform.query(PARTITIONS, keys=keys)["assetNodes"]
    return {
        node["assetKey"]["path"][0]: set(node["assetPartitionStatuses"].get("materializedPartitions") or [])
        for node in nodes
    }


def evaluations(platform: Platform, layer: str, check: str) -> dict[str, bool]:
    """Verdicts by partition; the newest wins."""
    rows = platform.query(CHECKS, key={"path": [layer]}, name=check)["assetCheckExecutions"]
    found = [row["evaluation"] for row in reversed(rows) if row["evaluation"]]
    return {evaluation["partition"]: evaluation["success"] for evaluation in found}


def runs_in_progress(platform: Platform) -> list[Any]:
    query = (
        "{ runsOrError(filter: {statuses: [QUEUED, STARTING, STARTED]}) { ... on Runs { results { id } } } }"
    )
    return list(platform.query(query)["runsOrError"]["results"])


def test_uploads_become_assets_and_a_bad_one_fails_its_own_checks_only(
    platform: Platform, tmp_path: Path
) -> None:
    folder = platform.data / "uploads" / "raw" / "collector_1" / "2026-05-14"
    good = [str(uuid.uuid4()) for _ in range(2)]
    bad = str(uuid.uuid4())
    for number, clip_id in enumerate(good):
        write_clip(folder / f"{clip_id}.mp4", seed=number)
    write_truncated_clip(folder / f"{bad}.mp4", seed=9)
    (folder / "empty.mp4").touch()

    def done() -> bool:
        if not set(good) <= materialized(platform)["clip_package"]:
            return False
        return bad in evaluations(platform, "clip_quality", "completeness") and not runs_in_progress(platform)

    platform.wait("processing of the uploads", done, timeout_s=300)

    made = materialized(platform)
    for layer in LAYER_NAMES:
        assert set(good) <= made[layer], layer
    assert [layer for layer in LAYER_NAMES if bad in made[layer]] == ["raw_clip"]
    completeness = evaluations(platform, "clip_quality", "completeness")
    assert completeness == {good[0]: True, good[1]: True, bad: False}
    for spec, _ in LAYERS:
        # The pictures are noise: there is no depth and no region in them, and the clips go on without.
        for gate in spec.gates if spec.essential else ():
            if gate.blocking:
                verdicts = evaluations(platform, spec.name, gate.name)
                assert all(verdicts[clip_id] for clip_id in good), f"{spec.name}: {gate.name}"
    originals = platform.data / "vault" / "originals"
    assert {path.name for path in originals.iterdir()} == {*good, bad}
    assert not list(folder.glob("*.mp4")), "the uploads were moved into the vault"
    reasons = list((platform.data / "vault" / "rejected").rglob("*.reason.json"))
    assert len(reasons) == 1 and "0 bytes" in reasons[0].read_text()


def test_a_backfill_of_fifty_clips_with_two_bad_ones_completes_forty_eight(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(platform.data / "dagster_home"))
    project = Project(Settings(data_dir=platform.data))
    sources = tmp_path / "sources"
    clip_ids, bad = [], set()
    for number in range(50):
        path = sources / f"clip{number:02d}.mp4"
        if number == 13:
            write_truncated_clip(path, seed=number)
        elif number == 31:
            write_renamed_picture(path, seed=number)
        else:
            write_clip(path, seed=number, frames=6, rate=6)
        clip = project.ingest(sources, path, {})
        clip_ids.append(clip.clip_id)
        if number in (13, 31):
            bad.add(clip.clip_id)

    launch_backfill(platform, LAYER_NAMES, clip_ids)
    made = materialized(platform)
    expected = set(clip_ids) - bad
    assert made["raw_clip"] == set(clip_ids)
    for layer in LAYER_NAMES[1:]:
        assert made[layer] == expected, layer
    assert len(expected) == 48
    for check, broken in (("parse", clip_ids[31]), ("completeness", clip_ids[13])):
        verdicts = evaluations(platform, "clip_quality", check)
        assert set(verdicts) == set(clip_ids)
        failed = {clip_id for clip_id, passed in verdicts.items() if not passed}
        # The picture under a video's name has no completeness that could be judged.
        assert failed - {clip_ids[31]} == {broken} - {clip_ids[31]}
        assert broken in failed
    assert all(project.database.clip(clip_id).failed == (clip_id in bad) for clip_id in clip_ids)

    before, runs_before = versions(project, expected), runs_of(project, expected)
    wait_for_backfill(platform, project.request_backfill(["hand_object"], sorted(expected), only=True))
    after, runs_after = versions(project, expected), runs_of(project, expected)
    assert after == before, "the same work gives the same versions, and no other layer is touched"
    again = {
        layer for (clip_id, layer), run_id in runs_after.items() if run_id != runs_before[clip_id, layer]
    }
    assert again == {"hand_object"}


def launch_backfill(platform: Platform, layers: list[str], clip_ids: list[str]) -> None:
    """Launch a backfill as the UI does, and wait for its end."""
    wait_for_backfill(platform, start_backfill(platform, layers, clip_ids))


def start_backfill(platform: Platform, layers: list[str], clip_ids: list[str]) -> str:
    """Launch a backfill as the UI does; returns its id."""
    mutation = """
    mutation($params: LaunchBackfillParams!) {
      launchPartitionBackfill(backfillParams: $params) {
        __typename
        ... on LaunchBackfillSuccess { backfillId }
        ... on PythonError { message }
      }
    }
    """
    params = {"assetSelection": [{"path": [name]} for name in layers], "partitionNames": clip_ids}
    launched = platform.query(mutation, params=params)["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched
    return str(launched["backfillId"])


def wait_for_backfill(platform: Platform, backfill_id: str) -> None:
    status = """
    query($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }
    """

    def finished() -> str | None:
        answer = platform.query(status, id=backfill_id)["partitionBackfillOrError"]["status"]
        return answer if answer not in ("REQUESTED", "FAILING", "CANCELING") else None

    platform.wait("the backfill", finished, timeout_s=900)


def versions(project: Project, clip_ids: set[str]) -> dict[tuple[str, str], str]:
    """Data version of every committed layer."""
    documents = (
        (clip_id, name, project.store.document(clip_id, name)) for clip_id in clip_ids for name in LAYER_NAMES
    )
    return {(clip_id, name): document.data_version for clip_id, name, document in documents if document}


def runs_of(project: Project, clip_ids: set[str]) -> dict[tuple[str, str], str]:
    """The run that last made every layer."""
    states = (state for clip_id in clip_ids for state in project.database.layer_states(clip_id))
    return {(state.clip_id, state.layer): state.run_id for state in states}
