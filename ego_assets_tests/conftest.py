"""Settings of the whole suite."""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterator

import pytest
from hypothesis import HealthCheck, settings

from ego_assets_tests.bucket_server import BucketServer, serve_s3
from ego_assets_tests.postgres_server import NoPostgres, PostgresServer, start_server

# Timing never decides a test: machines that run the suite are shared and slow at times.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

# Nothing that runs in a test asks a model hub, whatever a library would like to.
os.environ.setdefault("HF_HUB_OFFLINE", "1")


#: What reasons for leaving a test out say where a package of the reference models is missing.
_MISSING_REFERENCE = re.compile(
    r"extra reference|ego-assets\[reference\]"
    r"|could not import '(torch|torchvision|transformers|sam2|open_clip|retinaface|paddle|paddleocr|onnxruntime)\b"
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In the environment of the reference models nothing is left out because one of their packages is missing."""
    report = yield
    _refuse_missing_reference(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for whole files."""
    report = yield
    _refuse_missing_reference(report)
    return report


def _refuse_missing_reference(report: pytest.TestReport | pytest.CollectReport) -> None:
    if (
        not report.skipped
        or not os.environ.get("EGO_TEST_REFERENCE")
        or not isinstance(report.longrepr, tuple)
    ):
        return
    reason = report.longrepr[2]
    if _MISSING_REFERENCE.search(reason):
        report.outcome = "failed"
        report.longrepr = f"{reason}. Nothing of the kind may be missing where EGO_TEST_REFERENCE is set."


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real Postgres for the whole session."""
    try:
        server = start_server()
    except NoPostgres as error:
        pytest.skip(str(error))
    yield server
    server.remove()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A database on it with the newest tables and nothing in them."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture
def empty_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A database on it without tables."""
    with postgres_server.database(migrated=False) as url:
        yield url


@pytest.fixture(scope="session")
def _bucket_server() -> Iterator[BucketServer]:
    with serve_s3() as server:
        yield server


@pytest.fixture
def bucket_server(_bucket_server: BucketServer) -> Iterator[BucketServer]:
    """S3 and SQS on loopback; no faults before and after each test."""
    _bucket_server.faults.reset()
    yield _bucket_server
    _bucket_server.faults.reset()
