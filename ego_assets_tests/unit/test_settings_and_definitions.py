"""What is configured, and what Dagster is told: a change here is a change for every user."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import AssetKey, DagsterInstance, DefaultScheduleStatus, DefaultSensorStatus, Definitions

from ego_assets.definitions import build_definitions
from ego_assets.execution import ProcessDied
from ego_assets.partitions import clip_partitions
from ego_assets.project import prepare_dagster_home
from ego_assets.schema.errors import ConfigurationError
from ego_assets.settings import Settings, load_settings, same_profile_command

ROOT = Path(__file__).resolve().parents[2]

ENRICHMENT = {"frames", "hand_object", "depth_maps", "embeddings", "masks", "actions", "captions"}

#: Group, inputs and checks of every asset; checks in capitals block.
EXPECTED: dict[str, tuple[str, set[str], set[str]]] = {
    "raw_clip": ("ingest", set(), {"COMPLETED"}),
    "clip_quality": (
        "ingest",
        {"raw_clip"},
        {
            "COMPLETED",
            "PARSE",
            "COMPLETENESS",
            "blur",
            "blur_working_scale",
            "exposure",
            "shake",
            "lens_covered",
            "camera_tilt",
            "camera_worn",
            "smudges",
        },
    ),
    "blurred_video": (
        "privacy",
        {"raw_clip", "clip_quality"},
        {"COMPLETED", "DEIDENTIFIED", "NO_LEAK", "low_confidence", "pii_density"},
    ),
    "frames": ("enrich", {"blurred_video"}, {"completed", "DECODABLE", "FRAME_COUNT"}),
    "hand_object": (
        "enrich",
        {"blurred_video"},
        {"completed", "SCHEMA", "BOXES_INSIDE", "states", "hands_visible"},
    ),
    "depth_maps": ("enrich", {"blurred_video"}, {"completed", "NOT_EMPTY", "RANGE", "validity", "stability"}),
    "embeddings": ("enrich", {"blurred_video"}, {"completed", "VECTOR", "frames"}),
    "masks": (
        "enrich",
        {"blurred_video", "hand_object"},
        {"completed", "SEGMENTED_AREA", "LARGEST_INSTANCE", "hand_presence", "hand_area", "consistency"},
    ),
    "actions": ("enrich", {"blurred_video", "hand_object"}, {"completed", "SEGMENTS", "confidence"}),
    "captions": (
        "enrich",
        {"blurred_video", "hand_object", "masks", "actions"},
        {"completed", "ANSWERED", "RELEVANCE", "length"},
    ),
    "manifest": ("curate", {"clip_quality", "blurred_video", *ENRICHMENT}, {"completed", "score"}),
    "clip_package": ("deliver", {"clip_quality", "blurred_video", "manifest", *ENRICHMENT}, {"completed"}),
    "quality_summary": ("collection", {"manifest"}, {"audit_chain_intact", "measured_recall"}),
    "dataset_manifest": (
        "collection",
        {"clip_package"},
        {"deliveries_open", "incidents_resolved", "measured_recall", "nothing_private_inside"},
    ),
}
COLLECTION = {"quality_summary", "dataset_manifest"}


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the caller, and no `.env` of the working directory."""
    import os

    for name in [name for name in os.environ if name.startswith("EGO_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def definitions(tmp_path: Path) -> Definitions:
    return build_definitions(Settings(data_dir=tmp_path / "data"))


# --- settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_variable_is_described(name: str) -> None:
    description = Settings.model_fields[name].description or ""
    assert len(description) > 20 and description.endswith(".")


def test_variables_that_texts_name_exist() -> None:
    texts = [ROOT / "README.md", ROOT / "Makefile", ROOT / "dagster.yaml"]
    for folder in ("docs", "ego_assets", "resources"):
        texts += [path for suffix in ("md", "py", "yaml") for path in (ROOT / folder).rglob(f"*.{suffix}")]
    named = {found: path for path in texts for found in re.findall(r"\bEGO_[A-Z_]*[A-Z]\b", path.read_text())}
    known = {f"EGO_{name.upper()}" for name in Settings.model_fields} | {
        "EGO_TESTDATA",
        "EGO_TEST_FAULTS",
        "EGO_TEST_DELIVERY",
        "EGO_TEST_REFERENCE",
        "EGO_DELIVERY_PYTHON",
    }
    assert {name: path for name, path in named.items() if name not in known} == {}
    assert len(named) > 5, "nothing was searched"


def test_all_data_lies_below_one_folder(tmp_path: Path) -> None:
    settings = Settings(data_dir=Path("data"))
    root = tmp_path / "data"
    assert settings.root == root
    places = [settings.vault, settings.uploads, settings.deliveries, settings.reports, settings.dagster_home]
    places += [Path(settings.store), Path(settings.database.removeprefix("sqlite:///"))]
    assert all(place.is_absolute() and place.parent == root for place in places)
    assert len({*places}) == len(places)


def test_each_place_can_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EGO_VAULT_DIR", str(tmp_path / "safe"))
    monkeypatch.setenv("EGO_UPLOADS_DIR", "")
    monkeypatch.setenv("EGO_STORE_URL", "s3://bucket/prefix")
    monkeypatch.setenv("EGO_DATABASE_URL", "postgresql://host/name")
    (tmp_path / ".env").write_text("EGO_HOLD_FLAGGED=true\nOTHER=1\n")
    settings = Settings()
    assert settings.vault == tmp_path / "safe"
    assert settings.uploads == settings.root / "uploads", "empty means unset"
    assert (settings.store, settings.database) == ("s3://bucket/prefix", "postgresql://host/name")
    assert settings.hold_flagged


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EGO_FRAMES_PER_SECOND", "0"),
        ("EGO_FRAMES_PER_SECOND", "fast"),
        ("EGO_FRAMES_INPUT", "proxy.mp4"),
        ("EGO_UPLOADS_PER_TICK", "0"),
        ("EGO_HOLD_FLAGGED", "perhaps"),
    ],
)
def test_wrong_values_are_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    load_settings.cache_clear()
    with pytest.raises(ConfigurationError, match=name):
        load_settings()


# --- instance and workspace ---------------------------------------------------------------------------


def test_both_ways_to_find_the_code_say_the_same() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    [entry] = yaml.safe_load((ROOT / "workspace.yaml").read_text())["load_from"]
    assert entry["python_module"] == {
        "module_name": project["dagster"]["module_name"],
        "location_name": project["dagster"]["code_location_name"],
    }
    dg = project["dg"]["project"]
    assert dg["code_location_target_module"] == project["dagster"]["module_name"]
    assert dg["code_location_name"] == project["dagster"]["code_location_name"]


def test_dagster_yaml_is_accepted_and_does_what_it_says(tmp_path: Path) -> None:
    shutil.copy(ROOT / "dagster.yaml", tmp_path)
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        assert not instance.telemetry_enabled
        assert instance.run_monitoring_enabled
        assert instance.run_retries_enabled and not instance.run_retries_retry_on_asset_or_op_failure
        assert instance.run_retries_max_retries == 2
        queue = instance.get_concurrency_config().run_queue_config
        assert queue is not None and queue.max_concurrent_runs == 2


def test_the_instance_folder_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    assert prepare_dagster_home(Settings(data_dir=tmp_path / "data")) == home
    assert (home / "dagster.yaml").read_text() == (ROOT / "dagster.yaml").read_text()
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    prepare_dagster_home(Settings(data_dir=tmp_path / "data"))
    assert "concurrency" not in (home / "dagster.yaml").read_text(), "what a user changed stays"


# --- definitions --------------------------------------------------------------------------------------


def test_the_definitions_are_valid(definitions: Definitions) -> None:
    Definitions.validate_loadable(definitions)


def test_the_graph_is_the_documented_one(definitions: Definitions) -> None:
    graph = definitions.get_repository_def().asset_graph
    found: dict[str, Any] = {}
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        checks = {
            check.name.upper() if graph.get(check).blocking else check.name for check in node.check_keys
        }
        found[key.to_user_string()] = (
            node.group_name,
            {parent.to_user_string() for parent in node.parent_keys},
            checks,
        )
    assert found == EXPECTED


def test_clips_are_the_partitions_of_assets_and_checks(definitions: Definitions) -> None:
    graph = definitions.get_repository_def().asset_graph
    for key in graph.get_all_asset_keys():
        per_clip = key.to_user_string() not in COLLECTION
        assert graph.get(key).partitions_def == (clip_partitions if per_clip else None)
    for check in graph.asset_check_keys:
        per_clip = check.asset_key.to_user_string() not in COLLECTION
        assert graph.get(check).partitions_def == (clip_partitions if per_clip else None)
    assert all(graph.get(key).description for key in graph.get_all_asset_keys())


def test_stages_never_share_a_backfill_run(definitions: Definitions) -> None:
    graph = definitions.get_repository_def().asset_graph
    sizes = {}
    for name in set(EXPECTED) - COLLECTION:
        policy = graph.get(AssetKey(name)).backfill_policy
        assert policy is not None and policy.max_partitions_per_run is not None
        sizes[name] = policy.max_partitions_per_run
    assert max(sizes.values()) == 50
    assert all(sizes[parent] > sizes[name] for name in sizes for parent in EXPECTED[name][1])


def test_enrichment_is_not_handed_the_vault(definitions: Definitions) -> None:
    needs = {
        key.to_user_string(): set(assets.required_resource_keys)
        for assets in definitions.get_repository_def().assets_defs_by_key.values()
        for key in assets.keys
    }
    assert {name for name, keys in needs.items() if "vault" in keys} == {
        "raw_clip",
        "clip_quality",
        "blurred_video",
    }


def test_jobs_schedules_and_sensors(definitions: Definitions) -> None:
    repository = definitions.get_repository_def()
    jobs = {job.name: job for job in repository.get_all_jobs() if not job.name.startswith("__")}
    assert set(jobs) == {"process_clip", "collection", "deliver"}
    jobs.pop("deliver")
    executed = {
        name: {key.to_user_string() for key in job.asset_layer.executable_asset_keys}
        for name, job in jobs.items()
    }
    assert executed == {"process_clip": set(EXPECTED) - COLLECTION, "collection": COLLECTION}
    [schedule] = repository.schedule_defs
    assert (schedule.name, schedule.job_name) == ("daily_quality_summary", "collection")
    assert schedule.default_status is DefaultScheduleStatus.RUNNING
    sensors = {
        sensor.name: {target.job_name for target in sensor.targets} for sensor in repository.sensor_defs
    }
    assert sensors == {
        "uploads_sensor": {"process_clip"},
        "incidents_sensor": {"process_clip", "collection"},
    }
    assert all(sensor.default_status is DefaultSensorStatus.RUNNING for sensor in repository.sensor_defs)


def test_a_command_names_the_profile_where_nothing_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EGO_PROFILE", "reference")
    load_settings.cache_clear()
    try:
        assert same_profile_command("run", load_settings()) == "ego-assets run"
        mine = load_settings().model_copy(update={"profile": "my own.yaml"})
        assert same_profile_command("run", mine) == "ego-assets run --profile 'my own.yaml'"
        died = ProcessDied("frames", "c", 3, settings=mine)
        assert "`ego-assets run --retry-failed --clip c --profile 'my own.yaml'`" in str(died)
    finally:
        load_settings.cache_clear()


def test_a_profile_file_is_the_same_from_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings(profile="./mine.yaml").profile_place == str(tmp_path / "mine.yaml")
    assert Settings(profile="reference").profile_place == "reference"
