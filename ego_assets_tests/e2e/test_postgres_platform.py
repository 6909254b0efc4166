"""The platform with the metadata database and Dagster's own storage on a real Postgres."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from ego_assets.project import Project
from ego_assets.settings import Settings
from ego_assets_tests.clips import write_clip, write_truncated_clip
from ego_assets_tests.postgres_server import PostgresServer

from .conftest import Platform, running_platform
from .test_platform import evaluations, materialized, runs_in_progress, start_backfill

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
#: Each stage waits for a tick of the backfill daemon, which comes every 30 seconds.
LAYERS = ["raw_clip", "clip_quality"]


@pytest.fixture
def dagster_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A database for Dagster's own storage."""
    with postgres_server.database(migrated=False) as url:
        yield url


@pytest.fixture
def platform(
    tmp_path: Path, empty_postgres_url: str, dagster_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Platform]:
    """`ego-assets ui` as an operator sets it up, with ``deploy/dagster.postgres.yaml``."""
    home = tmp_path / "dagster_home"
    home.mkdir()
    shutil.copy(ROOT / "deploy" / "dagster.postgres.yaml", home / "dagster.yaml")
    variables = {
        "DAGSTER_HOME": str(home),
        "DAGSTER_POSTGRES_URL": dagster_url,
        "EGO_DATABASE_URL": empty_postgres_url,
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with running_platform(tmp_path, **variables) as running:
        yield running


def test_a_backfill_with_everything_on_postgres(platform: Platform, dagster_url: str, tmp_path: Path) -> None:
    project = Project(Settings(data_dir=platform.data))
    assert not project.database.is_sqlite
    sources = tmp_path / "sources"
    paths = [write_clip(sources / f"clip{n}.mp4", seed=n, frames=6, rate=6) for n in range(3)]
    paths.append(write_truncated_clip(sources / "clip3.mp4", seed=3))
    clip_ids = [project.ingest(sources, path, {}).clip_id for path in paths]
    *good, bad = clip_ids

    start_backfill(platform, LAYERS, clip_ids)

    def judged() -> bool:
        return set(evaluations(platform, "clip_quality", "completeness")) == set(clip_ids) and not (
            runs_in_progress(platform)
        )

    platform.wait("the verdicts on all clips", judged, timeout_s=300)
    made = materialized(platform)
    assert made["raw_clip"] == set(clip_ids) and made["clip_quality"] == set(good)
    verdicts = evaluations(platform, "clip_quality", "completeness")
    assert verdicts == {**dict.fromkeys(good, True), bad: False}
    for clip_id in good:
        clip = project.database.clip(clip_id)
        assert (clip.failed, clip.width, clip.frame_count) == (False, 192, 6)
        assert {state.state for state in project.database.layer_states(clip_id)} == {"committed"}
    clip = project.database.clip(bad)
    assert clip.failed and "clip_quality" in clip.failed_reason
    states = {state.layer: state.state for state in project.database.layer_states(bad)}
    assert states == {"raw_clip": "committed", "clip_quality": "blocked"}

    engine = create_engine(dagster_url)
    with engine.connect() as connection:
        runs = connection.execute(text("SELECT status FROM runs ORDER BY id")).scalars().all()
        assert connection.scalar(text("SELECT count(*) FROM event_logs")) > len(clip_ids) * len(LAYERS)
    engine.dispose()
    # A run per stage; the one in which a gate stopped a clip says so.
    assert runs == ["SUCCESS", "FAILURE"]
    left = [path.name for path in (tmp_path / "dagster_home").rglob("*") if path.suffix in (".db", ".sqlite")]
    assert left == [], "nothing is kept beside Postgres"
    # What runs print stands there too, and the bad clip is an error to them.
    daemon = [
        line for line in platform.log.read_text(errors="replace").splitlines() if "dagster.daemon" in line
    ]
    assert len(daemon) > 5 and not [line for line in daemon if "ERROR" in line]
    assert not re.search("OperationalError|too many clients", platform.log.read_text(errors="replace"))
