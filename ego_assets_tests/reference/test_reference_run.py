"""``ego-assets run --profile reference`` from uploads to deliveries, on small checkpoints in EGO_MODELS_DIR."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ego_assets.execution import RUNNING_FOLDER, LayerState
from ego_assets.media.frame_archive import FrameArchiveIndex, read_member
from ego_assets.media.rasters import decode_png
from ego_assets.synth import SceneSpec, render_clip
from ego_assets_tests.reference.command import Outcome, ego, open_project, small_checkpoints
from ego_assets_tests.reference.small_profile import write_small_profile
from resources.models.backends import BACKENDS
from resources.models.registry import ModelCard
from resources.models.vlm_captions import folder_digest
from resources.models.weights import LOCK_FILE, card_digest, joint_digest
from resources.profiles import Profile, load_profile, profile_models

if TYPE_CHECKING:
    from ego_assets.schema.artifact import ArtifactDocument

pytestmark = pytest.mark.skipif(
    not os.environ.get("EGO_TEST_REFERENCE"), reason="`make test-reference` runs these in their environment"
)

ROOT = Path(__file__).resolve().parents[2]
WIDTH, HEIGHT, RATE = 256, 144, 10
#: Layer to the tasks that make it.
TASKS = {
    "blurred_video": ("faces", "text", "plates"),
    "hand_object": ("hands",),
    "depth_maps": ("depth",),
    "masks": ("masks",),
    "actions": ("actions",),
    "captions": ("captions",),
    "embeddings": ("embeddings",),
}
#: How a reason begins where no gate judged, but something broke.
_BROKEN = re.compile(r"\w+(Error|Exception|Unavailable|Exhausted|Expired|Missing): ")


@dataclass(frozen=True)
class Machine:
    """A machine with weights: a profile on small checkpoints, and uploads."""

    profile: Path
    models: Path
    uploads: Path


@dataclass(frozen=True)
class Processed:
    """What the reference profile made of the uploads."""

    machine: Machine
    data: Path
    ran: Outcome

    @property
    def profile(self) -> Profile:
        return load_profile(self.machine.profile)


def use(monkeypatch: pytest.MonkeyPatch, *, data: Path, models: Path) -> None:
    """Let the commands work on this project, with these weights."""
    for name, value in environment(data=data, models=models).items():
        monkeypatch.setenv(name, value)


def environment(*, data: Path, models: Path) -> dict[str, str]:
    return {
        "EGO_DATA_DIR": str(data),
        "EGO_MODELS_DIR": str(models),
        "EGO_FREE_DISK_RESERVE_BYTES": "0",
        "DAGSTER_HOME": str(data / "dagster_home"),
        "HF_HUB_OFFLINE": "1",
    }


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("machine")
    profile = write_small_profile(folder)
    uploads = folder / "uploads"
    uploads.mkdir()
    # Two kinds of places: plates are looked for outdoors only, and metric depth has weights for each.
    for seed, place in enumerate(("kitchen", "outdoor")):
        path = uploads / f"{place}.mp4"
        spec = SceneSpec(seed=seed + 1, width=WIDTH, height=HEIGHT, duration_s=1.0, frame_rate=Fraction(RATE))
        render_clip(spec, path)
        sidecar = {"collector_id": "c1", "activity_category": "cooking", "location_type": place}
        path.with_suffix(".json").write_text(json.dumps(sidecar))
    with pytest.MonkeyPatch.context() as patch:
        use(patch, data=folder / "data", models=folder / "models")
        recorded = ego("models", "verify", "--profile", profile, "--record", "--json")
        assert recorded.code == 0, recorded
    yield Machine(profile=profile, models=folder / "models", uploads=uploads)
    # Hundreds of megabytes, which nobody needs afterwards.
    shutil.rmtree(folder / "models")


@pytest.fixture(scope="module")
def processed(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processed]:
    data = tmp_path_factory.mktemp("processed") / "data"
    with pytest.MonkeyPatch.context() as patch:
        use(patch, data=data, models=machine.models)
        assert ego("ingest", machine.uploads).code == 0
        ran = ego("run", "--profile", machine.profile, "--json")
        yield Processed(machine, data, ran)


def documents(layer: str) -> dict[str, ArtifactDocument]:
    """The committed version of a layer by the name of its clip."""
    project = open_project()
    found = {
        clip.source_name: project.store.document(clip.clip_id, layer) for clip in project.database.clips()
    }
    return {name: document for name, document in found.items() if document is not None}


def test_every_layer_of_every_clip_is_committed_or_judged(processed: Processed) -> None:
    assert processed.ran.code == 0, processed.ran
    project = open_project()
    clips = project.database.clips()
    assert len(clips) == 2
    for clip in clips:
        states = {state.layer: state for state in project.database.layer_states(clip.clip_id)}
        for spec in project.specs:
            if spec.name not in states:
                assert project.store.document(clip.clip_id, spec.name) is not None, spec.name
                continue
            state = states[spec.name]
            assert state.state in (LayerState.COMMITTED, LayerState.GIVEN_UP), state
            document = project.store.document(clip.clip_id, spec.name)
            assert document is not None, state
            for attempt in document.attempts:
                assert not _BROKEN.match(attempt["refused"]), (spec.name, attempt)


def test_a_second_run_finds_nothing_to_do(processed: Processed) -> None:
    before = {name: document.version_id for name, document in documents("depth_maps").items()}
    again = ego("run", "--profile", processed.machine.profile)
    assert again.code == 0 and "Nothing is pending" in again.err
    assert {name: document.version_id for name, document in documents("depth_maps").items()} == before


@pytest.mark.parametrize("layer", TASKS)
def test_the_documents_name_what_ran(processed: Processed, layer: str) -> None:
    """Each backend of the profile, its checkpoint, the digest of its weights and its licence."""
    made, models = documents(layer), profile_models(processed.profile)
    assert len(made) == 2
    ran = [info for document in made.values() for info in document.backends]
    for task in TASKS[layer]:
        backend = processed.profile.backends[task].backend
        infos = [info for info in ran if (info.task, info.backend) == (task, backend)]
        assert infos, f"{task}: {ran}"
        cards = [model for model in models if (model.task, model.backend) == (task, backend)]
        with small_checkpoints():
            # What a chat model does is said by its templates as well.
            digests = [
                folder_digest(processed.machine.models / model.card.folder)
                if task == "captions"
                else card_digest(model.card, processed.machine.models)
                for model in cards
            ]
        # Of several checkpoints, such as those for indoors and outdoors, all together are named.
        known = digests[0] if len(digests) == 1 else joint_digest(digests)
        assert {(info.weights_sha256, info.licence) for info in infos} == {(known, cards[0].licence)}


def test_depth_maps_are_there_as_pictures_each_from_the_weights_for_its_place(processed: Processed) -> None:
    medians = {}
    for name, document in documents("depth_maps").items():
        store = open_project().store
        index = FrameArchiveIndex.read(io.BytesIO(store.read_bytes(document, "depth.parquet")))
        assert index.frame_indices.tolist() == list(range(RATE)), "every frame"
        archive = io.BytesIO(store.read_bytes(document, "depth.tar"))
        maps = [decode_png(read_member(archive, index.entry(int(frame)))) for frame in index.frame_indices]
        assert all(depth.dtype == np.uint16 and depth.shape == (HEIGHT, WIDTH) for depth in maps)
        medians[name] = np.median(maps)
    # Random answers lie in the middle of what a network can say: 20 m indoors, 80 m outdoors.
    assert 5_000 < medians["kitchen.mp4"] < 15_000 and 20_000 < medians["outdoor.mp4"] < 60_000


def test_nobody_was_asked_for_anything(processed: Processed) -> None:
    assert processed.ran.asked == ()


def test_the_weights_are_there_and_what_they_were(processed: Processed) -> None:
    verified = ego("models", "verify", "--profile", processed.machine.profile, "--json")
    assert verified.code == 0, verified
    findings = ego("doctor", "--profile", processed.machine.profile, "--json").json
    rows = {finding["subject"]: finding for finding in findings}
    for task, config in processed.profile.backends.items():
        row = next(row for subject, row in rows.items() if subject.startswith(f"{task}: {config.backend}"))
        assert row["state"] == "ok", row


def linked(models: Path, folder: Path) -> Path:
    """A folder of weights with links to those of another; the record of their digests is a copy."""
    shutil.copytree(models, folder, copy_function=os.link)
    lock = folder / LOCK_FILE
    content = lock.read_bytes()
    lock.unlink()
    lock.write_bytes(content)
    return folder


def weights_of(profile: Profile, task: str) -> ModelCard:
    config = profile.backends[task]
    return BACKENDS[task][config.backend].models_for(config.settings)[0]


def test_weights_that_changed_are_refused_before_anything_starts(
    processed: Processed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = weights_of(processed.profile, "depth")
    models = linked(processed.machine.models, tmp_path / "models")
    content = bytearray((models / card.file).read_bytes())
    content[-1] ^= 1
    (models / card.file).unlink()
    (models / card.file).write_bytes(content)
    use(monkeypatch, data=tmp_path / "data", models=models)
    assert ego("ingest", processed.machine.uploads).code == 0
    refused = ego("run", "--profile", processed.machine.profile)
    assert refused.code == 3
    assert card.name in refused.err and "expected" in refused.err and f"models pull {card.key}" in refused.err
    assert documents("clip_quality") == {}, "nothing was made"
    assert ego("models", "verify", card.key).code == 1


def test_published_weights_are_known_without_any_record(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The small checkpoint of a card whose digest is stated is not the published one."""
    use(monkeypatch, data=tmp_path / "data", models=linked(machine.models, tmp_path / "models"))
    (tmp_path / "models" / LOCK_FILE).unlink()
    assert ego("ingest", machine.uploads).code == 0
    refused = ego("run", "--profile", machine.profile, published=True)
    assert refused.code == 3 and "expected" in refused.err


def test_a_missing_checkpoint_says_what_to_pull(
    processed: Processed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = weights_of(processed.profile, "depth")
    models = linked(processed.machine.models, tmp_path / "models")
    (models / card.file).unlink()
    data = shutil.copytree(processed.data, tmp_path / "data")
    use(monkeypatch, data=data, models=models)
    ran = ego("run", "--profile", processed.machine.profile, "--layer", "depth_maps", "--again", "--json")
    assert ran.code == 3 and f"ego-assets models pull {card.key}" in ran.err
    assert f"ego-assets models pull {card.key}" in ran.out and "earlier version is not used" in ran.out
    assert f"The next `ego-assets run --profile {processed.machine.profile}` tries again" in ran.err
    # Depth from motion does not step in for the network because somebody left the profile out.
    left = ego("run", "--layer", "depth_maps")
    assert left.code == 2 and "Left as it is: depth_maps of 2 clip(s)" in left.err
    assert ego("run").code == 2 and "depth_maps" not in ego("run", "--json").json["clips"][0]["layers"]


def killed_during(layer: str, data: Path, *arguments: object, models: Path) -> int:
    """Run a command in a process of its own and kill it as soon as the layer runs; the exit status."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ego_assets_tests.reference.command", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment(data=data, models=models)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if any(layer in path.name for path in (data / RUNNING_FOLDER).glob("*")):
            process.send_signal(signal.SIGKILL)
        time.sleep(0.005)
    process.kill()
    return process.wait()


def files_of(document: ArtifactDocument) -> dict[str, Any]:
    return {file.name: file.sha256 for file in document.files}


def test_a_run_that_was_killed_goes_on_and_ends_the_same(
    processed: Processed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = {layer: documents(layer) for layer in ("depth_maps", "frames")}
    data, profile = tmp_path / "data", processed.machine.profile
    use(monkeypatch, data=data, models=processed.machine.models)
    assert ego("ingest", processed.machine.uploads / "kitchen.mp4").code == 0
    status = killed_during(
        "depth_maps",
        data,
        "run",
        "--profile",
        profile,
        "--layer",
        "depth_maps",
        models=processed.machine.models,
    )
    assert status == -signal.SIGKILL
    assert documents("depth_maps") == {} and documents("blurred_video"), "depth was being made"
    assert ego("run", "--profile", profile, "--layer", "depth_maps").code == 0
    assert ego("verify").code == 0
    assert not list((data / "store").rglob("*.part"))
    made = documents("depth_maps")["kitchen.mp4"]
    assert files_of(made) == files_of(undisturbed["depth_maps"]["kitchen.mp4"])
