"""Two runs that make the same layer of the same clip, on both databases: one after the other, never mixed up."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ego_assets.execution import ClipWork, LayerDraft, LayerOutcome, LayerState, Services, run_layer
from ego_assets.schema.clip import Clip
from ego_assets.schema.errors import TransientError
from ego_assets.schema.gates import GateSpec
from ego_assets.schema.layers import LayerSpec, RetryPolicySpec
from ego_assets.settings import Settings
from resources import database as module
from resources.database import Database
from resources.storage import ArtifactStore

GATE = GateSpec(name="fit", description="", blocking=True)
SPEC = LayerSpec(
    name="frames",
    group="t",
    description="",
    stage=3,
    gates=(GATE,),
    retry=RetryPolicySpec(max_retries=2, delay_s=0.0),
)
OTHER = LayerSpec(name="masks", group="t", description="", stage=3, gates=(GATE,))
LOG = logging.getLogger("two runs")


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path / 'm.db'}"


@pytest.fixture
def services(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    monkeypatch.setattr(module, "_ASK_AGAIN_S", 0.01)
    database = Database(url)
    database.upgrade()
    models: Any = None
    yield Services(
        settings=Settings(data_dir=tmp_path),
        database=database,
        store=ArtifactStore(str(tmp_path / "store")),
        models=models,
    )
    database.close()


@pytest.fixture
def clip_id(services: Services) -> str:
    clip = Clip(clip_id=str(uuid.uuid4()), source_name="clip.mp4")
    services.database.add_clip(clip)
    return clip.clip_id


def run(
    services: Services, clip_id: str, make: Any, spec: LayerSpec = SPEC, run_id: str = ""
) -> LayerOutcome:
    return run_layer(
        spec, make, clip_id, services=services, run_id=run_id, log=LOG, ancestors=(), sleep=lambda _: None
    )


def in_threads(*work: Any) -> list[BaseException]:
    errors: list[BaseException] = []

    def guarded(call: Any) -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(call,)) for call in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return errors


def test_the_second_run_waits_for_the_first(
    services: Services, clip_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[tuple[str, str]] = []
    both_asked = threading.Event()
    caplog.handler.addFilter(lambda record: both_asked.set() or True if "waiting" in record.msg else True)

    def make(work: ClipWork, staged: Any) -> LayerDraft:
        events.append(("begin", work.run_id))
        assert both_asked.wait(30), "the other run did not wait"
        staged.path("a.txt").write_text(f"made by {work.run_id}")
        events.append(("end", work.run_id))
        return LayerDraft(gates=[GATE.passed("")])

    with caplog.at_level(logging.INFO, LOG.name):
        errors = in_threads(*(lambda n=n: run(services, clip_id, make, run_id=n) for n in ("a", "b")))
    assert errors == []
    first, second = events[0][1], events[2][1]
    assert events == [("begin", first), ("end", first), ("begin", second), ("end", second)]
    document = services.store.document(clip_id, "frames")
    assert document is not None
    assert services.store.read_bytes(document, "a.txt") == f"made by {second}".encode()
    [state] = services.database.layer_states(clip_id)
    assert (state.state, state.run_id) == ("committed", second)
    assert {gate.data_version for gate in services.database.gates(clip_id)} == {document.data_version}
    assert [item.version_id for item in services.database.artifacts(clip_id)] == [document.version_id]


def test_another_layer_and_another_clip_do_not_wait(services: Services, clip_id: str) -> None:
    other = Clip(clip_id=str(uuid.uuid4()), source_name="clip.mp4")
    services.database.add_clip(other)
    together = threading.Barrier(3, timeout=30)

    def make(work: ClipWork, staged: Any) -> LayerDraft:
        together.wait()
        staged.path("a.txt").write_text("content")
        return LayerDraft(gates=[GATE.passed("")])

    errors = in_threads(
        lambda: run(services, clip_id, make),
        lambda: run(services, clip_id, make, OTHER),
        lambda: run(services, other.clip_id, make),
    )
    assert errors == []
    assert {state.state for state in services.database.layer_states()} == {"committed"}


def test_many_runs_end_in_one_version_that_everybody_agrees_on(services: Services, clip_id: str) -> None:
    inside: list[str] = []
    failed: set[str] = set()

    def make(work: ClipWork, staged: Any) -> LayerDraft:
        assert inside == [], "two runs make it at once"
        inside.append(work.run_id)
        try:
            staged.path("a.txt").write_text(work.run_id)
            if work.run_id not in failed:
                failed.add(work.run_id)
                raise TransientError("try again")
            return LayerDraft(gates=[GATE.passed("")])
        finally:
            inside.clear()

    outcomes: list[LayerOutcome] = []
    errors = in_threads(
        *(
            lambda number=number: outcomes.append(run(services, clip_id, make, run_id=str(number)))
            for number in range(6)
        )
    )
    assert errors == []
    assert [(outcome.state, outcome.attempts) for outcome in outcomes] == [(LayerState.COMMITTED, 2)] * 6
    document = services.store.document(clip_id, "frames")
    [state] = services.database.layer_states(clip_id)
    assert document is not None
    assert services.store.read_bytes(document, "a.txt").decode() == state.run_id
    assert {gate.data_version for gate in services.database.gates(clip_id)} == {document.data_version}


def test_a_run_that_fails_lets_the_next_one_in(services: Services, clip_id: str) -> None:
    def fail(work: ClipWork, staged: Any) -> LayerDraft:
        raise RuntimeError("fell over")

    def make(work: ClipWork, staged: Any) -> LayerDraft:
        staged.path("a.txt").write_text("content")
        return LayerDraft(gates=[GATE.passed("")])

    assert run(services, clip_id, fail).state is LayerState.GIVEN_UP
    assert run(services, clip_id, make).state is LayerState.COMMITTED
