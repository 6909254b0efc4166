"""Interrupted work takes minutes: it runs with `make test-faults`, which sets EGO_TEST_FAULTS."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ego_assets_tests.bucket_server import serve_s3
from ego_assets_tests.faults.harness import Ground
from ego_assets_tests.faults.remote import BucketGround, PostgresGround
from ego_assets_tests.postgres_server import PostgresServer

if os.environ.get("EGO_TEST_FAULTS") != "1":
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips, rendered once."""
    from ego_assets_tests.faults.material import render

    folder = tmp_path_factory.mktemp("material")
    render(folder)
    return folder


@pytest.fixture(scope="session")
def ground(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """A project on this machine."""
    made = Ground(tmp_path_factory.mktemp("ground"))
    made.prepare(material)
    return made


@pytest.fixture(scope="session")
def bucket_ground(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """A project whose store lies in a bucket."""
    with serve_s3() as server:
        made = BucketGround(tmp_path_factory.mktemp("bucket_ground"), server=server)
        made.prepare(material)
        yield made


@pytest.fixture(scope="session")
def postgres_ground(
    material: Path, tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer
) -> Iterator[Ground]:
    """A project whose metadata lies on a Postgres of its own."""
    made = PostgresGround(tmp_path_factory.mktemp("postgres_ground"), server=postgres_server)
    made.prepare(material)
    yield made
    made.close()


@pytest.fixture
def ground_of(request: pytest.FixtureRequest) -> Callable[[str], Ground]:
    """The ground that a kind of fault needs."""

    def find(needs: str) -> Ground:
        name = f"{needs}_ground" if needs else "ground"
        found: Ground = request.getfixturevalue(name)
        return found

    return find
