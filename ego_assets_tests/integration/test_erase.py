"""An erasure from its beginning to its end, and what happens when it is interrupted or a layer runs meanwhile."""

from __future__ import annotations

import base64
import hashlib
import importlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ego_assets import erasing
from ego_assets.delivering import select_clips
from ego_assets.delivery.corrections import CORRECTIONS, read_corrections
from ego_assets.erasing import Eraser, ErasureRefused, ErasureUnfinished
from ego_assets.event_pictures import ErasedEvents
from ego_assets.execution import LayerState
from ego_assets.schema.clip import PRIVACY_LAYER
from ego_assets.schema.errors import TransientError
from ego_assets.schema.vocabulary import VaultPurpose
from ego_assets_tests.clips import write_clip
from ego_assets_tests.integration.test_command_line import CommandLine, command_line
from ego_assets_tests.integration.test_incidents import CLIP, OTHER, SECRET, SPECS, Platform, opened

COLLECTOR, NAME, NOTE = "Marisol-Quellbach", "heron_tattoo_0001.mp4", "a loupe with the number 7731"


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    made = Platform(tmp_path / "data")
    made.run_pending(CLIP)
    made.run_pending(OTHER)
    return made


def eraser(platform: Platform, **found: Any) -> Eraser:
    nothing: dict[str, Any] = {"runs": 0, "events": 0, "changed": 0, "running": (), "files": ()}
    return Eraser(
        settings=platform.settings,
        specs=SPECS,
        database=platform.database,
        store=platform.store,
        vault=platform.vault,
        uploads=None,
        remove_events=lambda clip_ids, texts: ErasedEvents(**{**nothing, **found}),
    )


def erased(platform: Platform) -> Any:
    [tombstone] = eraser(platform).erase([CLIP], reason="asked for", actor="ann")
    return tombstone


def files(platform: Platform) -> dict[str, str]:
    """Digest by path of everything in the store."""
    root = Path(platform.settings.store)
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


# --- what is removed ----------------------------------------------------------------------------------


def test_the_clip_goes_and_the_other_stays(platform: Platform) -> None:
    folder = platform.deliver("v0001", CLIP, OTHER)
    before = files(platform)
    page = platform.settings.reports / "reviews" / CLIP / "3" / "index.html"
    report = platform.settings.reports / "collectors" / COLLECTOR / "today.csv"
    for path in (page, report):
        path.parent.mkdir(parents=True)
        path.write_text(SECRET)
    tombstone = erased(platform)
    assert tombstone.completed_at is not None and tombstone.removed["layer files"] > 0
    assert [(held.name, held.version) for held in tombstone.deliveries] == [("dataset", "v0001")]
    assert not page.exists() and not report.exists()
    assert files(platform) == {name: digest for name, digest in before.items() if not name.startswith(CLIP)}
    assert [clip.clip_id for clip in platform.database.clips()] == [OTHER]
    assert not (folder / CLIP).exists() and not (folder / f"{CLIP}.tar.gz").exists()
    assert (folder / OTHER).exists()
    assert CLIP in (folder / "RECALLED.json").read_text()
    [told] = read_corrections(folder.parent / CORRECTIONS)
    assert (told.clip_id, told.action, told.version) == (CLIP, "withdrawn", "v0002")
    assert CLIP not in select_clips(platform.database, platform.store).left_out
    assert eraser(platform).advance() == []
    with pytest.raises(ErasureRefused, match="already"):
        eraser(platform).plan(clip_ids=[CLIP])


def test_an_open_incident_is_over_and_its_quarantine_empty(platform: Platform) -> None:
    incident = opened(platform)
    assert incident.quarantined
    erased(platform)
    assert not [path for path in (platform.settings.vault / "quarantine").rglob("*") if path.is_file()]
    [closed] = platform.desk.log.incidents(clip_id=CLIP)
    assert closed.resolved_at is not None and closed.note == "" and not closed.quarantined
    assert platform.desk.advance_all(on_error=lambda incident, error: pytest.fail(str(error))) == []


def test_duplicates_of_the_content_go_too(platform: Platform) -> None:
    platform.database.update_clip(OTHER, duplicate_of=CLIP)
    plan = eraser(platform).plan(clip_ids=[CLIP])
    assert plan.clip_ids == (CLIP, OTHER) and plan.same_content == (OTHER,)
    assert eraser(platform).plan(clip_ids=[OTHER]).kept_content == (CLIP,)
    with pytest.raises(ErasureRefused, match="nobody"):
        eraser(platform).plan(collector_id="nobody")


# --- interrupted --------------------------------------------------------------------------------------

STEPS = [
    "resources.storage.ArtifactStore.erase",
    "resources.vault.Vault.erase",
    "resources.vault.Vault.remove_unfinished",
    "resources.vault.quarantine.Quarantine.purge",
    "ego_assets.erasing.Eraser._stop_layers",
    "ego_assets.erasing.Eraser._recall",
    "ego_assets.delivery.recall.recall_clip",
    "ego_assets.erasing.Eraser._remove_reports",
    "ego_assets.erasing.Eraser._remove_events",
    "resources.erasures.ErasureLog.record",
    "resources.erasures.ErasureLog.forget",
    "resources.erasures.compact",
    "resources.erasures.ErasureLog.complete",
]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_the_next_attempt_finishes_it(
    platform: Platform, step: str, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(platform)
    platform.deliver("v0001", CLIP, OTHER)
    owner, _, name = step.rpartition(".")
    module, _, maybe_class = owner.rpartition(".")
    try:
        holder: Any = importlib.import_module(owner)
    except ModuleNotFoundError:
        holder = getattr(importlib.import_module(module), maybe_class)
    real = getattr(holder, name)

    def killed(*arguments: Any, **options: Any) -> Any:
        if after:
            real(*arguments, **options)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(holder, name, killed)
        with pytest.raises(Killed):
            erased(platform)
    assert platform.database.is_erased(CLIP)
    assert platform.run(CLIP, PRIVACY_LAYER).state is LayerState.REFUSED
    eraser(platform).advance(wait=False)
    done = eraser(platform).log.find(CLIP)
    assert done is not None and done.completed_at is not None and done.pending is None
    assert not (Path(platform.settings.store) / CLIP).exists()
    assert platform.places(f"{SECRET} in {CLIP}") == []
    assert not [path for path in (platform.settings.vault / "quarantine").rglob("*") if path.is_file()]
    assert len([row for row in platform.database.audit_log(CLIP) if row.action == "erase.complete"]) == 1


def test_the_same_command_finishes_what_was_interrupted(
    ego: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        path = write_clip(tmp_path / f"{number}.mp4", seed=number, frames=2)
        ego("ingest", path, "--collector", COLLECTOR)
    asked = ("erase", "--collector", COLLECTOR, "--reason", "asked for", "--yes", "--json")
    for step in ("_stop_layers", "_compact"):
        with monkeypatch.context() as patch:
            patch.setattr(Eraser, step, _failing)
            interrupted = ego(*asked)
        assert interrupted.code == 1 and "erase --resume" in interrupted.err
    done = ego(*asked)
    assert done.code == 0 and len(done.json) == 2 and all(item["completed_at"] for item in done.json)
    again = ego(*asked)
    assert again.code == 1 and "No clip of collector" in again.err


def _failing(*arguments: object, **options: object) -> None:
    raise TransientError("The disk is away.")


# --- a layer that runs meanwhile ----------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["raw_clip", PRIVACY_LAYER, "frames"])
def test_a_layer_that_runs_meanwhile_publishes_nothing(platform: Platform, layer: str) -> None:
    waits: list[str] = []
    done = threading.Event()

    def erase() -> None:
        other = Platform.__new__(Platform)
        other.__dict__.update(platform.__dict__)
        eraser(other).erase([CLIP], reason="r", actor="ann", on_wait=waits.append)
        done.set()

    thread = threading.Thread(target=erase)

    def during() -> None:
        thread.start()
        for _ in range(600):
            if waits:
                break
            done.wait(0.05)

    platform.during[layer] = during
    outcome = platform.run(CLIP, layer, max_retries=2)
    thread.join(60)
    assert done.is_set() and waits and layer in waits[0]
    assert outcome.state is LayerState.REFUSED and "erased" in outcome.reason
    assert not (Path(platform.settings.store) / CLIP).exists()
    assert platform.database.layer_states(CLIP) == [] == platform.database.gates(CLIP)


def test_a_version_that_is_published_after_the_erasure_began_is_taken_back(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    transaction = platform.database.transaction

    def begun_first() -> Any:
        monkeypatch.setattr(platform.database, "transaction", transaction)
        assert platform.store.version_ids(CLIP, "frames")
        eraser(platform).log.begin(CLIP, reason="r", actor="ann")
        return transaction()

    monkeypatch.setattr(platform.database, "transaction", begun_first)
    assert platform.run(CLIP, "frames").state is LayerState.REFUSED
    assert platform.store.document(CLIP, "frames") is None
    with pytest.raises(ErasureUnfinished), platform.database.exclusive(f"layer frames of clip {CLIP}"):
        _in_thread(lambda: eraser(platform).advance(wait=False))
    [complete] = eraser(platform).advance(wait=False)
    assert complete.completed_at is not None


def test_a_run_that_has_not_ended_holds_the_erasure_open(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = eraser(platform, running=("r1",))
    busy.log.begin(CLIP, reason="r", actor="ann")
    with pytest.raises(ErasureUnfinished, match="run"):
        busy.advance(wait=False)
    # A run that was killed never ends: nothing comes from it any more after a while.
    monkeypatch.setattr(erasing, "SETTLING_S", -1.0)
    assert busy.advance(wait=False)[0].completed_at is not None


def _in_thread(call: Callable[[], object]) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    if failures:
        raise failures[0]


# --- the whole platform -------------------------------------------------------------------------------


@pytest.fixture
def ego(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CommandLine]:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    with command_line(tmp_path / "data") as command:
        yield command


def everything(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def holding(root: Path, needle: bytes) -> list[str]:
    """Files that hold it; data in Parquet is compressed, so its cells are read."""
    import pyarrow.parquet as pq

    found = []
    for path, content in everything(root).items():
        texts = content
        if path.suffix == ".parquet":
            texts += str(pq.read_table(path).to_pylist()).encode()
        if needle in texts:
            found.append(str(path.relative_to(root)))
    return found


def test_nothing_of_a_person_is_left_below_the_data_folder(ego: CommandLine, tmp_path: Path) -> None:
    mine = write_clip(tmp_path / "in" / NAME, seed=1, frames=8)
    theirs = write_clip(tmp_path / "in" / "other.mp4", seed=2, frames=8)
    ids = []
    for path, collector in ((mine, COLLECTOR), (theirs, "somebody-else")):
        made = ego("ingest", path, "--collector", collector, "--json")
        ids.append(str(made.json["ingested"][0]["clip_id"]))
    ego("run")
    project = ego.project
    for layer in ("raw_clip", "clip_quality", PRIVACY_LAYER):
        assert project.store.document(ids[0], layer) is not None, layer
    project.database.update_clip(ids[0], withdrawn=True, withdrawn_reason=NOTE)
    ego("run")
    project.database.update_clip(ids[0], withdrawn=False, withdrawn_reason="")
    ego("run")
    kept = {
        path: content
        for path, content in everything(Path(project.settings.store)).items()
        if ids[1] in path.parts
    }
    theirs_encoded = b"".join(base64.b64encode(content) for content in kept.values())
    pictures = [
        middle
        for path, content in everything(Path(project.settings.store)).items()
        if ids[0] in path.parts and path.suffix in (".jpg", ".png")
        # Some plots of two short clips are the same.
        if (middle := base64.b64encode(content)[len(content) // 2 :][:100]) not in theirs_encoded
    ]
    assert len(pictures) > 3
    needles = [
        COLLECTOR.encode(),
        NAME.encode(),
        hashlib.sha256(mine.read_bytes()).hexdigest().encode(),
        *pictures,
    ]
    assert all(holding(ego.data, needle) for needle in needles[:3])
    assert any(holding(ego.data, needle) for needle in pictures), "no picture is in the event log"
    assert ego("erase", "--collector", COLLECTOR, "--reason", "asked for").code == 2, "nobody can be asked"
    planned = ego("erase", "--collector", COLLECTOR, "--dry-run", "--json").json
    assert planned["clips"] == [ids[0]] and project.database.clip(ids[0]).source_name == NAME
    outcome = ego("erase", "--collector", COLLECTOR, "--reason", "asked for", "--yes", "--json")
    assert outcome.code == 0, outcome.err
    [tombstone] = outcome.json
    assert tombstone["clip_id"] == ids[0] and tombstone["completed_at"] and "pending" not in tombstone
    for needle in [*needles, NOTE.encode()]:
        assert holding(ego.data, needle) == [], needle
    assert {path: path.read_bytes() for path in kept} == kept
    assert [row["clip_id"] for row in ego("status", "--json").json["clips"]] == [ids[1]]
    assert ego("run").code in (0, 1)
    for needle in needles:
        assert holding(ego.data, needle) == [], "made again"
    with project.vault.open(ids[1], purpose=VaultPurpose.INGEST, actor="test") as original:
        assert original.read() == theirs.read_bytes()
    assert not project.instance.has_dynamic_partition("clip_id", ids[0])
    assert project.instance.has_dynamic_partition("clip_id", ids[1])
    again = ego("erase", "--clip", ids[0], "--reason", "asked for", "--yes", "--json")
    assert again.json == [tombstone]
    refused = ego("ingest", mine, "--collector", COLLECTOR, "--json")
    assert refused.code == 1 and refused.json["rejected"][0]["code"] in ("erased", "clip_id_taken")
    ego("erase", "--resume")
    assert holding(ego.data, NAME.encode()) == []
