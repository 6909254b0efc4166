"""An incident from its opening to its resolution, and what happens when it is interrupted."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import logging
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import pytest
from dagster import AssetCheckKey, AssetKey, DagsterRun, DagsterRunStatus, SensorEvaluationContext
from sqlalchemy import update
from typer.testing import CliRunner

from ego_assets.assets import LAYERS
from ego_assets.delivering import select_clips
from ego_assets.execution import ClipWork, LayerDraft, LayerOutcome, LayerState, Services, run_layer
from ego_assets.incidents import (
    IncidentDesk,
    IncidentRefused,
    IncidentReport,
    incident_desk,
    layers_that_show,
)
from ego_assets.planning import ClipPlan, plan_clip
from ego_assets.project import Project
from ego_assets.schema.clip import PRIVACY_LAYER, Clip
from ego_assets.schema.corrections import CORRECTIONS_INPUT, Correction
from ego_assets.schema.errors import ConfigurationError, TransientError, UnknownClip
from ego_assets.schema.gates import GateSpec
from ego_assets.schema.incidents import INCIDENT_WITHDRAWAL, Incident, IncidentState
from ego_assets.schema.layers import LayerSpec, RetryPolicySpec
from ego_assets.schema.vocabulary import PrivacyStatus, ReviewKind, ReviewRisk, VaultPurpose
from ego_assets.settings import Settings, load_settings
from ego_assets_tests.clips import write_clip
from resources.corrections import CorrectionLog
from resources.database import Database, IncidentRow

CLIP = "00000000-0000-4000-8000-000000000001"
OTHER = "00000000-0000-4000-8000-000000000002"
SECRET = "a face in the clear"
CLEAN = GateSpec(name="clean", description="", blocking=True)
ONCE = RetryPolicySpec(max_retries=0, delay_s=0.0)

#: A chain like the real one, whose layers copy what the privacy layer shows.
SPECS = (
    LayerSpec(
        name="raw_clip", group="t", description="", stage=0, essential=True, reads_original=True, retry=ONCE
    ),
    LayerSpec(
        name=PRIVACY_LAYER,
        group="t",
        description="",
        stage=2,
        inputs=("raw_clip",),
        gates=(CLEAN,),
        essential=True,
        reads_original=True,
        follows_corrections=True,
        publish_when_blocked=False,
        retry=ONCE,
    ),
    LayerSpec(name="frames", group="t", description="", stage=3, inputs=(PRIVACY_LAYER,), retry=ONCE),
    LayerSpec(
        name="manifest",
        group="t",
        description="",
        stage=6,
        inputs=(PRIVACY_LAYER,),
        optional_inputs=("frames",),
        retry=ONCE,
    ),
    LayerSpec(name="clip_package", group="t", description="", stage=7, inputs=("manifest",), retry=ONCE),
)
SHOWING = [PRIVACY_LAYER, "frames", "manifest", "clip_package"]


class Platform:
    """A chain on real services, without Dagster."""

    def __init__(self, folder: Path, *, store_url: str = "") -> None:
        settings = Settings(data_dir=folder, store_url=store_url, free_disk_reserve_bytes=0)
        self.project = Project(settings)
        self.settings, self.database = settings, self.project.database
        self.store, self.vault = self.project.store, self.project.vault
        self.services = Services(
            settings=settings, database=self.database, store=self.store, models=cast(Any, None)
        )
        self.without_pictures: list[tuple[str, list[str]]] = []
        #: Called while a layer is made, by layer.
        self.during: dict[str, Callable[[], object]] = {}
        #: What the leak check of the next rendering finds left, if it finds anything.
        self.leaks: list[Correction] = []
        for clip_id in (CLIP, OTHER):
            self.database.add_clip(
                Clip(clip_id=clip_id, source_name="clip.mp4", frame_count=30, width=64, height=48)
            )

    @property
    def desk(self) -> IncidentDesk:
        def remove_pictures(clip_id: str, layers: Sequence[str]) -> None:
            self.without_pictures.append((clip_id, list(layers)))

        return IncidentDesk(
            settings=self.settings,
            specs=SPECS,
            database=self.database,
            store=self.store,
            vault=self.vault,
            remove_pictures=remove_pictures,
        )

    def make(self, work: ClipWork, staged: Any) -> LayerDraft:
        name = work.spec.name
        during = self.during.pop(name, None)
        if name == "raw_clip":
            content, updates = "original", {}
        elif name == PRIVACY_LAYER:
            covered = [f"{order.first_frame}-{order.last_frame}" for order in work.corrections]
            content = f"covered {', '.join(covered)}" if covered else SECRET
            content = f"{content} in {work.clip.clip_id}"
            updates = {"privacy_status": PrivacyStatus.BLURRED}
        else:
            content = work.store.read_bytes(work.input(work.spec.inputs[0]), "result.txt").decode()
            updates = {}
        if during is not None:
            during()
        staged.path("result.txt").write_text(content)
        if name == PRIVACY_LAYER and self.leaks:
            leaks, self.leaks = self.leaks, []
            return LayerDraft(gates=[CLEAN.failed("1 face is in the clear.")], corrections=leaks)
        return LayerDraft(gates=[gate.passed("Fine.") for gate in work.spec.gates], clip_updates=updates)

    def run(self, clip_id: str, layer: str, *, max_retries: int = 0) -> LayerOutcome:
        [spec] = [spec for spec in SPECS if spec.name == layer]
        spec = replace(spec, retry=RetryPolicySpec(max_retries=max_retries, delay_s=0.0))
        return run_layer(
            spec,
            self.make,
            clip_id,
            services=self.services,
            run_id="test",
            log=logging.getLogger("test"),
            ancestors=[s.name for s in SPECS if s.essential and s.stage < spec.stage],
        )

    def plan(self, clip_id: str, *, retry_failed: bool = False) -> ClipPlan:
        return plan_clip(clip_id, SPECS, database=self.database, store=self.store, retry_failed=retry_failed)

    def run_pending(self, clip_id: str, *, retry_failed: bool = False) -> list[str]:
        pending = self.plan(clip_id, retry_failed=retry_failed).pending
        for layer in pending:
            assert self.run(clip_id, layer).state is LayerState.COMMITTED
        return pending

    def deliver(self, version: str, *clip_ids: str) -> Path:
        folder = self.settings.deliveries / "dataset" / version
        for clip_id in clip_ids:
            (folder / clip_id / "rgb").mkdir(parents=True)
            (folder / clip_id / "rgb" / "0.jpg").write_text(f"{SECRET} in {clip_id}")
            os.link(folder / clip_id / "rgb" / "0.jpg", folder / f"{clip_id}.tar.gz")
        return folder

    def places(self, text: str) -> list[str]:
        """Files outside the vault that hold the text."""
        return [
            str(path.relative_to(self.settings.root))
            for path in sorted(self.settings.root.rglob("*"))
            if path.is_file()
            and not path.is_relative_to(self.settings.vault)
            and text.encode() in path.read_bytes()
        ]


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    made = Platform(tmp_path / "data")
    made.run_pending(CLIP)
    made.run_pending(OTHER)
    return made


REPORT = IncidentReport(clip_id=CLIP, kind="faces", first_frame=3, last_frame=9, note="at the door")


def opened(platform: Platform, report: IncidentReport = REPORT) -> Incident:
    return platform.desk.open(report, actor="someone")


def quarantined_files(platform: Platform) -> list[Path]:
    """Without the wrapped keys beside them."""
    found = (platform.settings.vault / "quarantine").rglob("*")
    return [path for path in found if path.is_file() and not path.name.endswith(".key.json")]


# --- corrections --------------------------------------------------------------------------------------


def test_an_order_makes_the_privacy_layer_and_all_after_it_pending(platform: Platform) -> None:
    assert platform.plan(CLIP).pending == []
    platform.services.corrections.add(Correction(clip_id=CLIP, kind="faces", first_frame=3, last_frame=9))
    assert platform.plan(CLIP).pending == SHOWING
    assert platform.plan(OTHER).pending == []
    platform.run_pending(CLIP)
    assert platform.plan(CLIP).pending == []
    document = platform.store.document(CLIP, PRIVACY_LAYER)
    assert document is not None and CORRECTIONS_INPUT in document.inputs
    assert platform.store.read_bytes(document, "result.txt").startswith(b"covered 3-9")


def test_only_a_layer_that_says_so_reads_corrections(platform: Platform) -> None:
    [frames] = [spec for spec in SPECS if spec.name == "frames"]
    work = ClipWork(
        spec=frames,
        clip=platform.database.clip(CLIP),
        services=platform.services,
        run_id="",
        log=logging.getLogger(),
    )
    with pytest.raises(ConfigurationError, match="does not declare"):
        _ = work.corrections


@pytest.mark.parametrize("layer", [PRIVACY_LAYER, "frames"])
def test_what_was_made_while_somebody_ordered_more_is_dropped(platform: Platform, layer: str) -> None:
    before = platform.store.document(CLIP, layer)
    order = Correction(clip_id=CLIP, kind="faces", first_frame=0, last_frame=0)
    platform.during[layer] = lambda: platform.services.corrections.add(order)
    outcome = platform.run(CLIP, layer)
    assert outcome.state is LayerState.REFUSED and "ordered" in outcome.reason
    assert platform.store.document(CLIP, layer) == before


def test_an_order_between_publishing_and_recording_takes_the_version_back(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = Correction(clip_id=CLIP, kind="faces", first_frame=0, last_frame=0)
    transaction, published = platform.database.transaction, []

    def order_first() -> Any:
        monkeypatch.setattr(platform.database, "transaction", transaction)
        published.append(platform.store.document(CLIP, "frames"))
        CorrectionLog(Database(platform.settings.database)).add(order)
        return transaction()

    monkeypatch.setattr(platform.database, "transaction", order_first)
    outcome = platform.run(CLIP, "frames")
    assert outcome.state is LayerState.REFUSED and "ordered" in outcome.reason
    assert published[0] is not None, "it was published already"
    assert platform.store.document(CLIP, "frames") is None
    assert platform.store.version_ids(CLIP, "frames") == []
    assert platform.services.corrections.of_clip(CLIP) == [order]
    assert platform.plan(CLIP).pending == SHOWING


# --- a failure while the clip is taken away -----------------------------------------------------------


def fails_after(change: Callable[[], object], calls: list[int]) -> Callable[[], None]:
    def during() -> None:
        calls.append(1)
        change()
        raise TransientError("the file is gone")

    return during


def open_without_quarantine(platform: Platform) -> None:
    """Open an incident in a process that is killed before anything is in quarantine."""
    revive = kill_at("resources.storage.ArtifactStore.revoke", 0)
    with pytest.raises(Killed):
        opened(platform)
    revive()


@pytest.mark.parametrize("layer", ["raw_clip", PRIVACY_LAYER, "frames"])
@pytest.mark.parametrize("max_retries", [0, 2])
def test_nothing_is_tried_again_before_the_quarantine_is_finished(
    platform: Platform, layer: str, max_retries: int
) -> None:
    calls: list[int] = []
    platform.during[layer] = fails_after(lambda: open_without_quarantine(platform), calls)
    before = platform.store.version_ids(CLIP, layer)
    outcome = platform.run(CLIP, layer, max_retries=max_retries)
    if layer == "raw_clip" and not max_retries:
        assert outcome.state is LayerState.POSTPONED, "what is before the privacy pass is not taken away"
        return
    assert outcome.state is LayerState.REFUSED
    assert calls == [1] and platform.store.version_ids(CLIP, layer) == before
    states = {state.layer for state in platform.database.layer_states(CLIP)}
    assert layer == "raw_clip" or layer not in states, (
        "it did not fail, so nothing keeps it from running again"
    )
    assert opened(platform).state is IncidentState.QUARANTINED
    assert platform.run_pending(CLIP) == SHOWING


@pytest.mark.parametrize("layer", ["raw_clip", PRIVACY_LAYER, "frames"])
def test_nothing_is_tried_again_once_the_clip_is_withdrawn(platform: Platform, layer: str) -> None:
    calls: list[int] = []

    def withdraw() -> None:
        platform.database.update_clip(CLIP, withdrawn=True, withdrawn_reason="the collector asked for it")

    platform.during[layer] = fails_after(withdraw, calls)
    outcome = platform.run(CLIP, layer, max_retries=3)
    assert outcome.state is LayerState.REFUSED and "the collector asked" in outcome.reason
    assert calls == [1]


def test_an_incident_between_reading_the_orders_and_asking_is_noticed(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    standing = platform.database.standing

    def opened_and_quarantined_first(clip_id: str) -> Any:
        monkeypatch.setattr(platform.database, "standing", standing)
        opened(platform)
        return standing(clip_id)

    monkeypatch.setattr(platform.database, "standing", opened_and_quarantined_first)
    assert platform.run(CLIP, PRIVACY_LAYER).state is LayerState.REFUSED
    assert platform.store.version_ids(CLIP, PRIVACY_LAYER) == []


def test_a_version_that_is_published_during_the_quarantine_goes_with_the_others(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    discard = platform.store.discard_staging

    def publish_first(clip_id: str) -> int:
        with platform.store.stage(clip_id, "frames") as staged:
            staged.path("result.txt").write_text(f"{SECRET} in {clip_id}, once more")
            staged.commit(config={}, inputs={})
        return discard(clip_id)

    monkeypatch.setattr(platform.store, "discard_staging", publish_first)
    assert opened(platform).state is IncidentState.QUARANTINED
    assert platform.store.document(CLIP, "frames") is None
    assert [place for place in platform.places(SECRET) if CLIP in place] == []
    assert len(quarantined_files(platform)) == 4 + 1


def test_a_version_that_is_published_at_every_look_makes_one_incident_wait(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_without_quarantine(platform)
    monkeypatch.setattr(platform.store, "revoke", lambda clip_id, layer: False)
    heard: list[Exception] = []
    [incident] = platform.desk.advance_all(on_error=lambda _, error: heard.append(error))
    assert incident.state is IncidentState.OPEN and "Try again" in str(heard[0])


# --- the window ---------------------------------------------------------------------------------------


def test_everything_that_shows_the_leak_is_out_of_reach_at_once(platform: Platform) -> None:
    folders = [platform.deliver("v0001", CLIP, OTHER), platform.deliver("v0002", OTHER)]
    (platform.settings.deliveries / "dataset" / ".staging-left" / CLIP).mkdir(parents=True)
    (platform.settings.deliveries / "dataset" / ".staging-left" / CLIP / "0.jpg").write_text(SECRET)
    review = platform.settings.reports / "reviews" / CLIP / "1"
    review.mkdir(parents=True)
    (review / "large.jpg").write_text(f"{SECRET} in {CLIP}")
    (platform.settings.reports / "quality_report.html").write_text(f"{SECRET} in {CLIP}")
    kept = [place for place in platform.places(SECRET) if OTHER in place]
    incident = opened(platform)
    assert incident.state is IncidentState.QUARANTINED
    assert platform.places(SECRET) == kept and len(kept) == 4 + 4
    assert [(d.name, d.version) for d in incident.deliveries] == [("dataset", "v0001")]
    assert [version.layer for version in incident.quarantined] == sorted(SHOWING)
    assert all(len(version.data_version) == 64 for version in incident.quarantined)
    recalled = json.loads((folders[0] / "RECALLED.json").read_text())["recalled"]
    assert [(entry["clip_id"], entry["incident"]) for entry in recalled] == [(CLIP, incident.id)]
    assert not (folders[1] / "RECALLED.json").exists()
    assert platform.without_pictures == [(CLIP, SHOWING)]
    # 4 versions, folder and archive of one delivery, and what a killed delivery had left.
    files = quarantined_files(platform)
    assert len(files) == 4 + 2 + 1
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    original = platform.store.document(CLIP, "raw_clip")
    assert original is not None, "what comes before the privacy pass stays"


def test_the_clip_is_withdrawn_and_its_layers_run_again_in_order_only(platform: Platform) -> None:
    incident = opened(platform)
    clip = platform.database.clip(CLIP)
    assert clip.withdrawn and str(incident.id) in clip.withdrawn_reason
    assert clip.privacy_status is PrivacyStatus.PENDING
    [item] = platform.database.review_items("open", CLIP)
    assert (item.kind, item.risk) == (ReviewKind.PII_LEAK, ReviewRisk.HIGH)
    assert select_clips(platform.database, platform.store).left_out[CLIP].startswith("it was withdrawn")
    assert platform.run(CLIP, "frames").state is LayerState.REFUSED
    assert platform.plan(CLIP).pending == SHOWING
    assert [entry.action for entry in platform.database.audit_log(CLIP)] == [
        "incident.open",
        "incident.quarantine",
    ]


def test_a_layer_that_was_running_publishes_nothing(platform: Platform) -> None:
    platform.during["frames"] = lambda: opened(platform)
    assert not platform.run(CLIP, "frames").lets_clip_pass
    assert platform.store.document(CLIP, "frames") is None
    assert [place for place in platform.places(SECRET) if CLIP in place] == []


def test_a_store_on_a_bucket_is_emptied_too(tmp_path: Path) -> None:
    platform = Platform(tmp_path / "data", store_url=f"memory://{tmp_path.name}/store")
    platform.run_pending(CLIP)
    incident = opened(platform)
    assert all(platform.store.version_ids(CLIP, layer) == [] for layer in SHOWING)
    assert len(incident.quarantined) == len(quarantined_files(platform)) == 4
    platform.run_pending(CLIP)
    assert platform.desk.advance(incident.id).state is IncidentState.CORRECTED
    assert quarantined_files(platform) == []


# --- interrupted --------------------------------------------------------------------------------------

STEPS = [
    ("resources.storage.ArtifactStore.revoke", 0),
    ("resources.storage.ArtifactStore.revoke", 2),
    ("resources.storage.ArtifactStore.move_version", 0),
    ("resources.storage.ArtifactStore.move_version", 3),
    ("resources.vault.Quarantine.take", 2),
    ("ego_assets.delivery.recall._note", 0),
    ("resources.vault.Quarantine.take", 5),
    ("ego_assets.incidents.IncidentDesk._remove_reports", 0),
    ("resources.incidents.IncidentLog.record_quarantined", 0),
]


class Killed(BaseException):
    """The process ended here."""


def kill_at(target: str, after: int) -> Callable[[], None]:
    """Let a call raise after it was made ``after`` times; returns what takes that back."""
    patch = pytest.MonkeyPatch()
    owner, _, name = target.rpartition(".")
    module, _, attribute = owner.rpartition(".")
    holder = __import__(owner, fromlist=["x"]) if owner.islower() else None
    holder = holder or getattr(__import__(module, fromlist=["x"]), attribute)
    real, calls = getattr(holder, name), []

    def dying(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) > after:
            raise Killed
        return real(*args, **options)

    patch.setattr(holder, name, dying)
    return patch.undo


@pytest.mark.parametrize(("target", "after"), STEPS, ids=lambda value: str(value).rpartition(".")[2])
def test_what_was_interrupted_is_completed_by_the_same_command(
    platform: Platform, target: str, after: int
) -> None:
    platform.deliver("v0001", CLIP)
    revive = kill_at(target, after)
    with pytest.raises(Killed):
        opened(platform)
    revive()
    [incident] = platform.desk.log.incidents()
    assert incident.state is IncidentState.OPEN
    assert "incident list" in platform.desk.what_is_left(incident)[0]
    assert platform.database.clip(CLIP).withdrawn
    assert platform.plan(CLIP).pending == [], "nothing runs before all is in quarantine"
    for layer in SHOWING:
        assert platform.run(CLIP, layer).state is LayerState.REFUSED

    again = opened(platform)
    assert again.id == incident.id and again.state is IncidentState.QUARANTINED
    assert len(platform.services.corrections.of_clip(CLIP)) == 1
    assert [version.layer for version in again.quarantined] == sorted(SHOWING)
    assert [delivery.version for delivery in again.deliveries] == ["v0001"]
    recalled = json.loads((platform.settings.deliveries / "dataset/v0001/RECALLED.json").read_text())
    assert len(recalled["recalled"]) == 1
    assert [place for place in platform.places(SECRET) if CLIP in place] == []
    assert platform.run_pending(CLIP) == SHOWING


def test_a_kill_before_the_first_step_leaves_nothing_on_record(platform: Platform) -> None:
    revive = kill_at("resources.corrections.CorrectionLog.add", 0)
    with pytest.raises(Killed):
        opened(platform)
    revive()
    assert platform.desk.log.incidents() == []
    assert not platform.database.clip(CLIP).withdrawn
    assert platform.plan(CLIP).pending == []


def test_a_purge_that_was_interrupted_goes_on(platform: Platform) -> None:
    incident = opened(platform)
    platform.run_pending(CLIP)
    revive = kill_at("resources.vault.Quarantine.purge", 0)
    with pytest.raises(Killed):
        platform.desk.advance(incident.id)
    revive()
    waiting = platform.desk.log.incident(incident.id)
    assert (waiting.state, waiting.purged_at) == (IncidentState.CORRECTED, None)
    assert "not purged" in platform.desk.what_is_left(waiting)[0]
    assert len(quarantined_files(platform)) == 4
    assert platform.desk.resolve(incident.id, note="ok", actor="x").state is IncidentState.RESOLVED
    assert quarantined_files(platform) == []


def test_what_a_killed_run_left_is_purged_too(platform: Platform) -> None:
    incident = opened(platform)
    left = Path(platform.settings.store) / CLIP / "frames" / ("0" * 16)
    left.mkdir(parents=True)
    (left / "result.txt").write_text(f"{SECRET} in {CLIP}")
    platform.run_pending(CLIP)
    platform.desk.advance(incident.id)
    assert [place for place in platform.places(SECRET) if CLIP in place] == []
    assert quarantined_files(platform) == []
    assert platform.plan(CLIP).pending == []


# --- the end ------------------------------------------------------------------------------------------


def test_an_incident_is_resolved_only_when_all_was_made_anew(platform: Platform) -> None:
    incident = opened(platform)
    with pytest.raises(IncidentRefused, match="To be made anew: blurred_video"):
        platform.desk.resolve(incident.id, note="fine", actor="someone")
    assert platform.run(CLIP, PRIVACY_LAYER).state is LayerState.COMMITTED
    with pytest.raises(IncidentRefused, match="frames"):
        platform.desk.resolve(incident.id, note="fine", actor="someone")
    assert len(quarantined_files(platform)) == 4, "nothing is purged before"
    platform.run_pending(CLIP)
    clip = platform.database.clip(CLIP)
    assert clip.withdrawn and clip.privacy_status is PrivacyStatus.BLURRED
    done = platform.desk.resolve(incident.id, note="fine", actor="someone")
    clip = platform.database.clip(CLIP)
    assert done.state is IncidentState.RESOLVED and not clip.withdrawn and clip.withdrawn_reason == ""
    assert platform.database.review_items("open", CLIP) == []
    assert [entry.action for entry in platform.database.audit_log(CLIP)] == [
        "incident.open",
        "incident.quarantine",
        "incident.correct",
        "incident.purge",
        "incident.resolve",
    ]
    moments = [done.opened_at, done.quarantined_at, done.corrected_at, done.purged_at, done.resolved_at]
    assert moments == sorted(cast(Any, moments))


def test_who_makes_the_clip_anew_is_what_the_last_command_said(platform: Platform) -> None:
    assert platform.desk.open(REPORT, background=True, actor="someone").background
    again = platform.desk.open(REPORT, background=False, actor="someone")
    assert (again.id, again.background) == (1, False)


def test_the_clip_stays_withdrawn_while_another_incident_is_open(platform: Platform) -> None:
    first = opened(platform)
    second = opened(platform, replace(REPORT, kind="text"))
    assert second.id != first.id
    assert len(platform.services.corrections.of_clip(CLIP)) == 2
    platform.run_pending(CLIP)
    platform.desk.resolve(first.id, note="fine", actor="someone")
    clip = platform.database.clip(CLIP)
    assert clip.withdrawn and clip.withdrawn_reason.endswith(f" {second.id}")
    assert len(platform.database.review_items("open", CLIP)) == 1
    platform.desk.resolve(second.id, note="fine", actor="someone")
    assert not platform.database.clip(CLIP).withdrawn
    assert platform.database.review_items("open", CLIP) == []


def test_what_was_corrected_and_leaks_again_is_another_incident(platform: Platform) -> None:
    first = opened(platform)
    platform.run_pending(CLIP)
    platform.desk.advance(first.id)
    again = opened(platform)
    assert again.id != first.id and again.state is IncidentState.QUARANTINED
    assert platform.run_pending(CLIP) == SHOWING, "the same order given twice is another state of the orders"


def test_a_clip_that_was_withdrawn_for_another_reason_stays_withdrawn(platform: Platform) -> None:
    platform.database.update_clip(CLIP, withdrawn=True, withdrawn_reason="the collector asked for it")
    incident = opened(platform)
    assert incident.state is IncidentState.CORRECTED, "nothing is made of it, so the quarantine is the answer"
    corrected = [entry.detail for entry in platform.database.audit_log(CLIP) if "correct" in entry.action]
    assert len(corrected) == 1 and "nothing is made anew" in corrected[0] and "the collector" in corrected[0]
    assert platform.run(CLIP, PRIVACY_LAYER).state is LayerState.REFUSED
    assert [place for place in platform.places(SECRET) if CLIP in place] == []
    platform.desk.resolve(incident.id, note="gone", actor="someone")
    clip = platform.database.clip(CLIP)
    assert (clip.withdrawn, clip.withdrawn_reason) == (True, "the collector asked for it")


@pytest.mark.parametrize(
    ("error", "state"),
    [(RuntimeError, LayerState.GIVEN_UP), (TransientError, LayerState.POSTPONED)],
)
def test_a_layer_that_is_given_up_or_postponed_counts_as_done(
    platform: Platform, error: type[Exception], state: LayerState
) -> None:
    incident = opened(platform)
    platform.run(CLIP, PRIVACY_LAYER)

    def fails() -> None:
        raise error("no such model")

    platform.during["frames"] = fails
    assert platform.run(CLIP, "frames").state is state
    platform.run(CLIP, "manifest")
    platform.run(CLIP, "clip_package")
    assert platform.desk.advance(incident.id).state is IncidentState.CORRECTED
    [entry] = [entry for entry in platform.database.audit_log(CLIP) if entry.action == "incident.correct"]
    assert entry.detail.endswith("made anew: blurred_video, manifest, clip_package; given up: frames"), (
        entry.detail
    )


def test_a_privacy_layer_that_fails_keeps_the_incident_open(platform: Platform) -> None:
    incident = opened(platform)

    def fails() -> None:
        raise TransientError("no such model")

    platform.during[PRIVACY_LAYER] = fails
    assert platform.run(CLIP, PRIVACY_LAYER).state is LayerState.POSTPONED
    after = platform.desk.advance(incident.id)
    assert after.state is IncidentState.QUARANTINED and len(quarantined_files(platform)) == 4
    assert "no such model" in platform.desk.what_is_left(after)[0]


def test_leaks_that_remain_are_covered_by_the_next_try(platform: Platform) -> None:
    incident = opened(platform)
    left = Correction(clip_id=CLIP, kind="faces", first_frame=20, last_frame=20, origin="leak_check")
    platform.leaks = [left]
    assert platform.run(CLIP, PRIVACY_LAYER).state is LayerState.BLOCKED
    after = platform.desk.advance(incident.id)
    assert after.state is IncidentState.QUARANTINED and len(quarantined_files(platform)) == 4
    [advice] = platform.desk.what_is_left(after)
    assert "in the clear" in advice and f"`ego-assets run --retry-failed --clip {CLIP}`" in advice
    other = platform.desk.settings.model_copy(update={"profile": "mine.yaml"})
    [advice] = replace(platform.desk, settings=other).what_is_left(after)
    assert f"`ego-assets run --retry-failed --clip {CLIP} --profile mine.yaml`" in advice
    assert platform.plan(CLIP).pending == [], "only who asks for it tries again"
    assert platform.desk.layers_to_run(after) == SHOWING
    assert opened(platform).id == incident.id
    assert platform.run_pending(CLIP, retry_failed=True) == SHOWING
    document = platform.store.document(CLIP, PRIVACY_LAYER)
    assert document is not None
    assert platform.store.read_bytes(document, "result.txt").startswith(b"covered 3-9, 20-20")
    corrected = platform.desk.advance(incident.id)
    assert corrected.state is IncidentState.CORRECTED and quarantined_files(platform) == []
    assert platform.desk.layers_to_run(corrected) == []


def test_a_delivery_of_the_same_name_elsewhere_is_not_recalled(platform: Platform, tmp_path: Path) -> None:
    mine = platform.deliver("v0001", OTHER)
    elsewhere = tmp_path / "elsewhere" / "dataset" / "v0001"
    elsewhere.parent.mkdir(parents=True)
    shutil.move(platform.deliver("v0002", CLIP), elsewhere)
    platform.database.add_delivery(
        name="dataset", version="v0001", uri=str(elsewhere), definition={}, bytes=0, clips={CLIP: {}}
    )
    incident = opened(platform)
    assert [(entry.name, entry.version) for entry in incident.deliveries] == [("dataset", "v0001")]
    assert (elsewhere / "RECALLED.json").exists() and not (elsewhere / CLIP).exists()
    assert not (mine / "RECALLED.json").exists() and (mine / OTHER).exists()


def test_one_incident_that_has_to_wait_does_not_hold_up_the_others(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = opened(platform), opened(platform, replace(REPORT, clip_id=OTHER))
    platform.run_pending(OTHER)
    heard = []
    real = IncidentDesk.advance

    def advance(self: IncidentDesk, incident_id: int) -> Incident:
        if incident_id == first.id:
            raise TransientError("the store is away")
        return real(self, incident_id)

    monkeypatch.setattr(IncidentDesk, "advance", advance)
    found = platform.desk.advance_all(on_error=lambda incident, error: heard.append(incident.id))
    assert [item.state for item in found] == [IncidentState.QUARANTINED, IncidentState.CORRECTED]
    assert heard == [first.id] and found[1].id == second.id


# --- wrong reports ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"last_frame": 30}, "has 30 frames, numbered 0 to 29"),
        ({"box_xyxy": (0.0, 0.0, 65.0, 40.0)}, "64 x 48 pixels"),
        ({"box_xyxy": (-1.0, 0.0, 6.0, 40.0)}, "64 x 48 pixels"),
    ],
)
def test_a_report_that_cannot_be_right_changes_nothing(
    platform: Platform, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(IncidentRefused, match=message):
        opened(platform, replace(REPORT, **change))
    assert platform.desk.log.incidents() == []
    assert platform.plan(CLIP).pending == []


def test_a_clip_that_shows_nothing_yet_has_no_incident(tmp_path: Path) -> None:
    platform = Platform(tmp_path / "data")
    platform.run(CLIP, "raw_clip")
    with pytest.raises(IncidentRefused, match="nothing of it can have leaked"):
        opened(platform)
    with pytest.raises(UnknownClip):
        opened(platform, replace(REPORT, clip_id="00000000-0000-4000-8000-0000000000ff"))


def test_the_layers_that_show_a_clip_are_those_after_the_privacy_pass() -> None:
    assert [spec.name for spec in layers_that_show([spec for spec, _ in LAYERS])][:2] == [
        PRIVACY_LAYER,
        "frames",
    ]
    names = {spec.name for spec in layers_that_show([spec for spec, _ in LAYERS])}
    assert {spec.name for spec, _ in LAYERS} - names == {"raw_clip", "clip_quality"}


# --- end to end ---------------------------------------------------------------------------------------


def copy_without_blur(work: ClipWork, staged: Any) -> LayerDraft:
    """A privacy layer that misses everything, except where a person ordered it to cover whole frames."""
    import av
    import cv2
    import numpy as np
    import pyarrow.parquet

    from ego_assets.media.encode import VideoWriter
    from ego_assets.media.motion_table import MOTION_FILE, motion_table
    from ego_assets.schema.motion import CameraMotion

    work.input("clip_quality")
    covered = {n for order in work.corrections for n in range(order.first_frame, order.last_frame + 1)}
    with work.open_original(VaultPurpose.DEIDENTIFY) as original, av.open(original) as container:
        images = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    images = [np.zeros_like(image) if n in covered else image for n, image in enumerate(images)]
    height, width = images[0].shape[:2]
    with VideoWriter(
        staged.path("proxy.mp4"),
        width=width,
        height=height,
        time_base=Fraction(1, 15360),
        frame_rate=Fraction(6),
    ) as writer:
        for n, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
            writer.write(frame, timestamp_ns=round(n * 1e9 / 6))
    shutil.copy(staged.path("proxy.mp4"), staged.path("video.mp4"))
    stamps = (np.arange(len(images)) * 1e9 / 6).astype(np.int64)
    size = (width, height)
    motion = motion_table(CameraMotion.still(len(images)), stamps, measured_on=size, resolution=size)
    pyarrow.parquet.write_table(motion, staged.path(MOTION_FILE))
    sheet = cv2.imencode(".jpg", np.hstack(images[:3]))[1].tobytes()
    staged.path("contact_sheet.jpg").write_bytes(sheet)
    return LayerDraft(
        gates=[gate.passed("Fine.", value=0.0) for gate in work.spec.gates],
        counts={"frames": len(images)},
        resolution=(width, height),
        clip_updates={"privacy_status": PrivacyStatus.BLURRED},
        pictures={"blurred frames": "contact_sheet.jpg"},
    )


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A real project, whose privacy layer is replaced."""
    layers = [
        (spec, copy_without_blur if spec.name == PRIVACY_LAYER else function) for spec, function in LAYERS
    ]
    monkeypatch.setattr("ego_assets.definitions.LAYERS", layers)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("EGO_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("EGO_FREE_DISK_RESERVE_BYTES", "0")
    load_settings.cache_clear()
    yield Project(load_settings())
    load_settings.cache_clear()


def cli(*arguments: str) -> Any:
    from ego_assets.cli import app

    return CliRunner().invoke(app, [*arguments])


def test_a_rendering_that_leaks_again_is_tried_again_with_what_was_found(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaks_once(work: ClipWork, staged: Any) -> LayerDraft:
        draft = copy_without_blur(work, staged)
        if not work.corrections or any(order.origin == "leak_check" for order in work.corrections):
            return draft
        left = Correction(
            clip_id=work.clip.clip_id, kind="faces", first_frame=5, last_frame=5, origin="leak_check"
        )
        gates = [
            gate.failed("1 face is in the clear.", value=1) if gate.name == "no_leak" else verdict
            for gate, verdict in zip(work.spec.gates, draft.gates, strict=True)
        ]
        return replace(draft, gates=gates, corrections=[left])

    layers = [(spec, leaks_once if spec.name == PRIVACY_LAYER else make) for spec, make in LAYERS]
    monkeypatch.setattr("ego_assets.definitions.LAYERS", layers)
    clip_id = project.ingest(tmp_path, write_clip(tmp_path / "clip.mp4", frames=6, rate=6), {}).clip_id
    up_to = [spec.name for spec in project.specs if spec.stage <= 3]
    assert project.run_clip(clip_id, up_to).success
    arguments = ["incident", "open", clip_id, "--frames", "0-2", "--kind", "face", "--note", "seen", "--json"]
    blocked = cli(*arguments)
    assert blocked.exit_code == 1
    shown = json.loads(cli("incident", "show", "1", "--json").stdout)
    for entry in (json.loads(blocked.stdout), shown, *json.loads(cli("incident", "list", "--json").stdout)):
        assert entry["state"] == "quarantined" and PRIVACY_LAYER in entry["left_to_do"][0]
        assert f"`ego-assets run --retry-failed --clip {clip_id}`" in entry["left_to_do"][0]
    again = cli(*arguments)
    assert again.exit_code == 0, again.output
    assert (json.loads(again.stdout)["id"], json.loads(again.stdout)["state"]) == (1, "corrected")


def contents(project: Project) -> dict[str, str]:
    """Digest of every file outside the vault and outside Dagster's folder, by path."""
    root = project.settings.root
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
        and not path.is_relative_to(project.settings.vault)
        and not path.is_relative_to(project.settings.dagster_home)
        and path.suffix not in (".db", ".db-wal", ".db-shm")
    }


def test_an_incident_end_to_end(project: Project, tmp_path: Path) -> None:
    clip = project.ingest(tmp_path, write_clip(tmp_path / "clip.mp4", frames=6, rate=6), {})
    clip_id = clip.clip_id
    assert project.run_clip(clip_id, [spec.name for spec in project.specs]).success
    assert project.run_collection() == ""
    showing = [spec.name for spec in layers_that_show(project.specs)]
    leaking = {
        path: digest
        for path, digest in contents(project).items()
        if clip_id in path and any(f"/{layer}/" in path or "deliveries" in path for layer in showing)
    }
    # Records of hands and maps of depth are alike with and without what was covered.
    pictures = {
        digest
        for path, digest in leaking.items()
        if Path(path).suffix in (".mp4", ".jpg", ".gz") or Path(path).name == "frames.tar"
    }
    documents = {layer: project.store.document(clip_id, layer) for layer in showing}
    sheet = project.store.read_bytes(cast(Any, documents[PRIVACY_LAYER]), "contact_sheet.jpg")
    # A database spreads a long value over pages: pieces shorter than one are looked for.
    picture = base64.b64encode(sheet)
    pieces = [picture[start : start + 300] for start in range(900, len(picture) - 300, 900)]

    def places_of_the_picture() -> set[str]:
        return {
            path.suffix
            for path in project.settings.root.rglob("*")
            if path.is_file() and not path.is_relative_to(project.settings.vault)
            if any(piece in path.read_bytes() for piece in (*pieces, sheet))
        }

    assert {".html", ".jpg", ".db"} <= places_of_the_picture() and len(pictures) > 5

    options = ["--frames", "0-5", "--kind", "face", "--note", "at the door", "--json"]
    result = cli("incident", "open", clip_id, *options, "--no-run")
    assert result.exit_code == 0, result.output
    incident = json.loads(result.stdout)
    assert incident["state"] == "quarantined" and incident["kind"] == "faces" and not incident["overdue"]
    assert {version["layer"] for version in incident["quarantined"]} == set(showing)
    assert [delivery["version"] for delivery in incident["deliveries"]] == ["v0001"]
    assert not any(Path(path).exists() for path in leaking)
    assert not pictures & set(contents(project).values()), "no copy either"
    assert places_of_the_picture() == set(), "nor in the report or in Dagster's event log"
    assert project.database.clip(clip_id).withdrawn
    assert project.run_collection() == ""
    assert project.database.delivery_clips(project.database.deliveries()[-1].id) == []
    assert project.database.deliveries()[-1].version == "v0002"
    assert cli("incident", "resolve", "1", "--note", "too early").exit_code == 1

    result = cli("incident", "open", clip_id, *options)
    assert result.exit_code == 0, result.output
    corrected = json.loads(result.stdout)
    assert (corrected["id"], corrected["state"]) == (1, "corrected") and corrected["purged_at"]
    assert list((project.settings.vault / "quarantine").rglob("*")) == []
    assert project.database.delivery_clips(project.database.deliveries()[-1].id) == [], "not before a person"
    assert places_of_the_picture() == set() and not pictures & set(contents(project).values())

    result = cli("incident", "resolve", "1", "--note", "all covered", "--json")
    assert json.loads(result.stdout)["state"] == "resolved"
    assert project.run_collection() == ""
    [delivered] = project.database.delivery_clips(project.database.deliveries()[-1].id)
    rebuilt = project.store.document(clip_id, PRIVACY_LAYER)
    assert rebuilt is not None and delivered.data_versions[PRIVACY_LAYER] == rebuilt.data_version
    assert not pictures & set(contents(project).values())
    assert json.loads(cli("incident", "list", "--json").stdout) == []
    assert [entry["id"] for entry in json.loads(cli("incident", "list", "--all", "--json").stdout)] == [1]
    shown = cli("incident", "show", "1").stdout
    assert "all covered" in shown and "recalled from: dataset v0001" in shown
    assert list(project.settings.vault.rglob("original.mp4"))


# --- the check and the daemon -------------------------------------------------------------------------


def leave_open(project: Project, *, hours: float, quarantined: bool = True) -> int:
    """An incident that was opened so long ago, of a clip that has nothing else."""
    log = incident_desk(project).log
    if project.database.find_clip(CLIP) is None:
        project.database.add_clip(Clip(clip_id=CLIP, source_name="clip.mp4"))
    number = log.add(
        CLIP,
        kind="faces",
        first_frame=0,
        last_frame=1,
        box_xyxy=None,
        note="",
        layers=["frames"],
        background=True,
        actor="someone",
    )
    project.database.update_clip(CLIP, withdrawn=True, withdrawn_reason=f"{INCIDENT_WITHDRAWAL} {number}")
    if quarantined:
        log.record_quarantined(number, versions=[], deliveries=[])
    with project.database.write_session() as session:
        opened_at = dt.datetime.now(dt.UTC) - dt.timedelta(hours=hours)
        session.execute(update(IncidentRow).where(IncidentRow.id == number).values(opened_at=opened_at))
    return number


def test_the_check_is_judged_with_every_delivery(project: Project) -> None:
    def judged() -> tuple[bool, str, str]:
        assert project.run_collection() == ""
        key = AssetCheckKey(AssetKey("dataset_manifest"), "incidents_resolved")
        storage = project.instance.event_log_storage
        record = storage.get_latest_asset_check_execution_by_key([key])[key]
        evaluation = record.event.dagster_event.asset_check_evaluation_data
        return evaluation.passed, evaluation.severity.value, evaluation.description or ""

    assert judged()[0]
    leave_open(project, hours=1)
    assert judged()[:2] == (False, "WARN")
    overdue = leave_open(project, hours=25)
    passed, severity, message = judged()
    assert (passed, severity) == (False, "ERROR") and f"incident {overdue} (" in message
    result = cli("incident", "list", "--json")
    assert result.exit_code == 1
    assert [entry["overdue"] for entry in json.loads(result.stdout)] == [False, True]
    assert "overdue" in cli("incident", "list").stdout


def tick(project: Project, cursor: str | None = None) -> Any:
    """One tick of the incidents sensor, as the daemon evaluates it."""
    repository = project.definitions.get_repository_def()
    resources = repository.get_top_level_resources()
    names = ("settings", "database", "store", "vault")
    with SensorEvaluationContext(
        instance_ref=project.instance.get_ref(),
        instance=project.instance,
        last_tick_completion_time=None,
        last_run_key=None,
        cursor=cursor,
        repository_name=repository.name,
        repository_def=repository,
        resources={key: resources[key] for key in names},
    ) as context:
        return repository.get_sensor_def("incidents_sensor").evaluate_tick(context)


def test_the_daemon_finishes_the_quarantine_and_makes_the_clip_anew(project: Project) -> None:
    quiet = tick(project)
    assert not quiet.run_requests and "No privacy incident" in quiet.skip_message
    leave_open(project, hours=1, quarantined=False)
    first = tick(project, quiet.cursor)
    assert [incident.state for incident in incident_desk(project).log.incidents()] == [
        IncidentState.QUARANTINED
    ]
    process, collection = first.run_requests
    assert (process.job_name, process.partition_key) == ("process_clip", CLIP)
    assert {AssetKey(PRIVACY_LAYER), AssetKey("clip_package")} <= set(process.asset_selection)
    assert collection.job_name == "collection"
    again = tick(project, first.cursor)
    assert [request.run_key for request in again.run_requests] == [process.run_key], (
        "launched once by its key"
    )


def test_a_run_that_failed_is_followed_by_another_one_after_a_while(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = leave_open(project, hours=1)
    cursor = tick(project).cursor

    def requested() -> list[str]:
        return [request.run_key for request in tick(project, cursor).run_requests or []]

    def has_run(status: DagsterRunStatus) -> DagsterRun:
        run = DagsterRun(job_name="process_clip", status=status, tags={"ego_assets/incident": str(number)})
        return project.instance.add_run(run)

    [key] = requested()
    killed_before_it_started = has_run(DagsterRunStatus.NOT_STARTED)
    assert requested() == [key]
    project.instance.delete_run(killed_before_it_started.run_id)
    running = has_run(DagsterRunStatus.STARTED)
    assert requested() == []
    project.instance.delete_run(running.run_id)
    has_run(DagsterRunStatus.FAILURE)
    assert requested() == [], "not at once"
    monkeypatch.setattr("ego_assets.sensors.FIRST_WAIT_S", -1.0)
    [second] = requested()
    has_run(DagsterRunStatus.CANCELED)
    [third] = requested()
    assert len({key, second, third}) == 3
    monkeypatch.setattr("ego_assets.sensors.FIRST_WAIT_S", 1e9)
    assert requested() == []
    monkeypatch.setattr("ego_assets.sensors.LONGEST_WAIT_S", -1.0)
    assert requested() == [third]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--frames", "9-3", "--kind", "face"], "first frame before the last"),
        (["--frames", "x", "--kind", "face"], "expected frame numbers"),
        (["--frames", "1-2", "--kind", "hand"], "--kind"),
        (["--frames", "1-2", "--kind", "face", "--box", "1,2,3"], "expected LEFT,TOP,RIGHT,BOTTOM"),
        (["--frames", "1-2", "--kind", "face", "--box", "5,2,3,4"], "left < right"),
        (["--frames", "1-2", "--kind", "face", "--box", "1,2,nan,4"], "finite"),
    ],
)
def test_wrong_arguments_are_named(project: Project, arguments: list[str], message: str) -> None:
    result = cli("incident", "open", CLIP, *arguments, "--note", "seen")
    assert result.exit_code == 2 and message in " ".join(result.output.split())
    assert incident_desk(project).log.incidents() == []
