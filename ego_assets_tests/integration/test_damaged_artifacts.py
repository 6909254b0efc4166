"""What is damaged is named and made again by the next run; a full disk is nobody's fault; a deadly clip is flagged."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ego_assets.batching import essential_ancestors
from ego_assets.execution import (
    MAX_DEATHS,
    LayerOutcome,
    LayerState,
    Services,
    forget_notes,
    run_layer,
)
from ego_assets.planning import ClipPlan, LayerPlan, plan_clip
from ego_assets.schema.artifact import ArtifactDocument
from ego_assets.schema.clip import Clip
from ego_assets.schema.errors import ArtifactCorrupted, MediaError
from ego_assets.settings import Settings
from ego_assets.verifying import verify_layers, verify_originals
from resources.platform import build_resources

from .conftest import SPECS, Behaviour

CLIP = "00000000-0000-4000-8000-000000000001"
BY_NAME = {spec.name: spec for spec in SPECS}


class Chain:
    """The small chain on a real store and database, without Dagster."""

    def __init__(self, folder: Path) -> None:
        settings = Settings(data_dir=folder, free_disk_reserve_bytes=0)
        resources = build_resources(settings)
        self.database = resources["database"].get()
        self.store = resources["store"].get()
        self.database.add_clip(Clip(clip_id=CLIP, source_name="clip.mp4"))
        self.behaviour = Behaviour()
        self.before: dict[str, Callable[[], None]] = {}
        self._services = Services(
            settings=settings, database=self.database, store=self.store, models=resources["models"].get()
        )

    def run(self, layer: str) -> LayerOutcome:
        def make(work: Any, staged: Any) -> Any:
            draft = self.behaviour.make(work, staged)
            for name in work.spec.inputs:
                work.store.read_bytes(work.input(name), "result.txt")
            self.before.get(layer, lambda: None)()
            return draft

        return run_layer(
            BY_NAME[layer],
            make,
            CLIP,
            services=self._services,
            run_id="run",
            log=logging.getLogger("test"),
            ancestors=essential_ancestors(layer, BY_NAME),
            sleep=lambda delay_s: None,
        )

    def plan(self, **options: Any) -> ClipPlan:
        return plan_clip(CLIP, SPECS, database=self.database, store=self.store, **options)

    def run_pending(self) -> list[str]:
        pending = self.plan().pending
        for layer in pending:
            self.run(layer)
        return pending

    def document(self, layer: str) -> ArtifactDocument:
        document: ArtifactDocument | None = self.store.document(CLIP, layer)
        assert document is not None
        return document

    def file(self, layer: str) -> Path:
        return Path(self.store.uri(self.document(layer))) / "result.txt"

    def verify(self) -> list[Any]:
        clips = self.database.clips()
        return list(verify_layers(clips, SPECS, database=self.database, store=self.store))


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    made = Chain(tmp_path / "data")
    made.run_pending()
    assert made.plan().pending == []
    return made


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_layer_makes_nothing_of_a_damaged_input(chain: Chain) -> None:
    version = chain.document("follow_up")
    spoil(chain.file("masks"))
    outcome = chain.run("follow_up")
    assert outcome.state is LayerState.REFUSED and "result.txt of layer masks" in outcome.reason
    assert chain.document("follow_up") == version
    assert chain.plan().pending == ["masks"], "what was made from it before stands"
    assert chain.run_pending() == ["masks"]
    assert chain.plan().pending == [] and chain.verify() == []
    assert chain.run("follow_up").state is LayerState.COMMITTED


def test_a_failure_is_laid_to_a_damaged_input_whatever_it_looks_like(chain: Chain) -> None:
    def cannot_decode() -> None:
        raise MediaError("unreadable", "the video cannot be decoded")

    chain.before["manifest"] = cannot_decode
    chain.file("frames").unlink()
    outcome = chain.run("manifest")
    assert outcome.state is LayerState.REFUSED and "result.txt of layer frames" in outcome.reason
    chain.run("frames")
    assert chain.run("manifest").state is LayerState.GIVEN_UP, "its own failure is its own"


def test_what_nobody_reads_is_found_by_verify(chain: Chain) -> None:
    spoil(chain.file("depth_maps"))
    [damage] = chain.verify()
    assert (damage.clip_id, damage.name, damage.made_again) == (CLIP, "depth_maps", True)
    assert "result.txt" in damage.message
    assert chain.run_pending() == ["depth_maps"] and chain.verify() == []


def test_a_pointer_that_is_damaged_or_gone_is_found(chain: Chain) -> None:
    pointer = chain.file("frames").parents[1] / "artifact.json"
    content = json.loads(pointer.read_text())
    pointer.write_text(json.dumps({**content, "counts": {"frames": 1_000_000}}))
    with pytest.raises(ArtifactCorrupted, match="sha256"):
        chain.store.document(CLIP, "frames")
    assert [damage.name for damage in chain.verify()] == ["frames"]
    chain.run_pending()
    assert chain.verify() == []
    pointer.unlink()
    assert [damage.name for damage in chain.verify()] == ["frames"]
    chain.run_pending()
    assert chain.verify() == [] and chain.plan().pending == []


def test_a_layer_that_was_given_up_is_not_made_again_because_its_old_files_are_damaged(chain: Chain) -> None:
    chain.behaviour.set("masks", CLIP, "crash")
    chain.run("masks")
    spoil(chain.file("masks"))
    [damage] = chain.verify()
    assert not damage.made_again and "masks" not in chain.plan().pending


def test_a_damaged_essential_layer_stops_what_follows_until_it_is_made_again(chain: Chain) -> None:
    spoil(chain.file("gate"))
    assert chain.run("frames").state is LayerState.REFUSED
    assert chain.plan().pending == ["gate"] and chain.run_pending() == ["gate"]
    assert chain.run("frames").state is LayerState.COMMITTED


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "no space"), MemoryError(), OSError(errno.EROFS, "")]
)
def test_what_says_nothing_about_a_clip_is_tried_again_by_the_next_run(
    tmp_path: Path, error: Exception
) -> None:
    chain = Chain(tmp_path / "data")

    def fail() -> None:
        raise error

    chain.before["gate"] = fail
    assert chain.run("intake").lets_clip_pass
    outcome = chain.run("gate")
    assert outcome.state is LayerState.POSTPONED and not outcome.lets_clip_pass
    assert chain.run("frames").state is LayerState.REFUSED
    clip = chain.database.clip(CLIP)
    assert clip.failed and chain.database.review_items("open", CLIP), "a person sees it all the same"
    assert chain.plan(retry_postponed=False).layers["gate"] is LayerPlan.STOPPED
    del chain.before["gate"]
    assert chain.run_pending()[0] == "gate"
    assert chain.plan().pending == [] and not chain.database.clip(CLIP).failed
    assert chain.database.review_items("open", CLIP) == []


def test_what_a_codec_says_about_memory_may_come_from_the_clip(chain: Chain) -> None:
    import av

    def fail() -> None:
        raise av.error.MemoryError(errno.ENOMEM, "cannot allocate")

    chain.before["gate"] = fail
    assert chain.run("gate").state is LayerState.FAILED


def test_what_was_published_and_not_recorded_is_in_the_index(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resources.database import Database

    real, calls = Database.record_artifact, []

    def fails_first(self: Database, *arguments: Any, **options: Any) -> None:
        calls.append(arguments)
        if len(calls) <= 1 + BY_NAME["frames"].retry.max_retries:
            raise RuntimeError("the connection broke")
        real(self, *arguments, **options)

    monkeypatch.setattr(Database, "record_artifact", fails_first)
    assert chain.run("frames").state is LayerState.GIVEN_UP
    indexed = {found.layer: found.data_version for found in chain.database.artifacts(CLIP)}
    assert indexed["frames"] == chain.document("frames").data_version


def test_a_changed_original_is_named(tmp_path: Path) -> None:
    from ego_assets.project import Project
    from ego_assets_tests.clips import write_clip

    project = Project(
        Settings(data_dir=tmp_path / "data", free_disk_reserve_bytes=0, vault_encryption="off")  # type: ignore[arg-type]
    )
    upload = write_clip(tmp_path / "clip.mp4")
    clip = project.register_and_take(tmp_path, upload, {})

    def look() -> list[Any]:
        clips = [project.database.clip(clip.clip_id)]
        return list(verify_originals(clips, vault=project.vault, actor="test"))

    assert look() == []
    [original] = (tmp_path / "data" / "vault" / "originals").rglob("original.mp4")
    original.chmod(0o600)
    spoil(original)
    [damage] = look()
    assert damage.kind == "original" and "backup" in damage.message and not damage.made_again
    audited = project.database.audit_log(clip.clip_id, action="vault.open")
    assert {entry.purpose for entry in audited} == {"verification"}


def test_a_clip_that_kills_whoever_works_on_it_is_flagged_in_the_end(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "data")

    def killed() -> None:
        child = os.fork()
        if not child:
            chain.before["gate"] = lambda: os.kill(os.getpid(), signal.SIGKILL)
            try:
                chain.run("gate")
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL

    assert chain.run("intake").lets_clip_pass
    for _ in range(MAX_DEATHS):
        assert chain.plan().pending[0] == "gate"
        chain.database.close()
        killed()
    outcome = chain.run("gate")
    assert outcome.state is LayerState.FAILED and "--retry-failed" in outcome.reason
    assert chain.plan().pending == [] and chain.database.review_items("open", CLIP)
    # Whoever asks for another try gets all of them.
    assert chain.plan(retry_failed=True).pending[0] == "gate"
    assert chain.run("gate").state is LayerState.COMMITTED


def test_ctrl_c_is_no_death(chain: Chain, tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    chain.before["gate"] = interrupt
    for _ in range(MAX_DEATHS + 1):
        with pytest.raises(KeyboardInterrupt):
            chain.run("gate")
    assert list((tmp_path / "data" / "running").iterdir()) == []


def test_old_notes_are_forgotten(tmp_path: Path) -> None:
    note = tmp_path / f"{CLIP}.gate"
    note.touch()
    assert forget_notes(tmp_path) == 0
    os.utime(note, (0, 0))
    assert forget_notes(tmp_path) == 1 and not note.exists()
