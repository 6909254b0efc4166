"""Embeddings from the video to the database, the delivery and the command line."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from ego_assets.assets import PRIVACY_CHAIN
from ego_assets.assets import embeddings as asset
from ego_assets.batching import essential_ancestors
from ego_assets.cli import main
from ego_assets.execution import LayerOutcome, LayerState, run_layer
from ego_assets.labels.embeddings import read_embedding
from ego_assets.project import Project
from ego_assets.schema.embeddings import EMBEDDING_DIMENSIONS, Embedding
from ego_assets.schema.errors import TransientError
from ego_assets.schema.gates import GateOutcome
from ego_assets.schema.layers import RetryPolicySpec
from ego_assets.schema.vocabulary import ReviewKind
from ego_assets.settings import load_settings
from ego_assets_tests.clips import write_clip
from resources import profiles
from resources.embeddings import EmbeddingIndex

SPECS = {spec.name: spec for spec in (*(spec for spec, _ in PRIVACY_CHAIN), asset.SPEC)}


@dataclass(frozen=True)
class Bench:
    """A project whose clips went through the privacy pass."""

    project: Project
    folder: Path

    @property
    def index(self) -> EmbeddingIndex:
        return EmbeddingIndex(self.project.database)

    def clip(self, *, seed: int, frames: int = 15) -> str:
        path = write_clip(self.folder / f"{seed}_{frames}.mp4", seed=seed, frames=frames)
        clip_id = self.project.register_and_take(self.folder, path, {}).clip_id
        for spec, make in PRIVACY_CHAIN:
            assert self.run(spec, make, clip_id).state is LayerState.COMMITTED
        return clip_id

    def embed(self, clip_id: str) -> LayerOutcome:
        return self.run(replace(asset.SPEC, retry=RetryPolicySpec(max_retries=0)), asset.make, clip_id)

    def run(self, spec: Any, make: Any, clip_id: str) -> LayerOutcome:
        return run_layer(
            spec,
            make,
            clip_id,
            services=self.project.services_with_vault() if spec.reads_original else self.project.services,
            run_id="test",
            log=logging.getLogger("test"),
            ancestors=essential_ancestors(spec.name, SPECS),
        )

    def command(self, *arguments: object) -> tuple[int, str, str]:
        """Exit status, output and errors of ``ego-assets``, on one line each."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.object(sys, "argv", ["ego-assets", *map(str, arguments)]))
            stack.enter_context(contextlib.redirect_stdout(out))
            stack.enter_context(contextlib.redirect_stderr(err))
            stopped = stack.enter_context(pytest.raises(SystemExit))
            main()
        return (
            int(stopped.value.code or 0),
            " ".join(out.getvalue().split()),
            " ".join(err.getvalue().split()),
        )


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("EGO_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("EGO_FREE_DISK_RESERVE_BYTES", "0")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "data" / "dagster_home"))
    load_settings.cache_clear()
    yield Bench(Project(load_settings()), tmp_path / "uploads")
    load_settings.cache_clear()


def gate(outcome: LayerOutcome, name: str) -> Any:
    return next(verdict for verdict in outcome.gates if verdict.spec.name == name)


def test_a_clip_gets_one_vector_in_file_database_and_delivery(bench: Bench) -> None:
    clip_id = bench.clip(seed=1)
    outcome = bench.embed(clip_id)
    assert outcome.state is LayerState.COMMITTED and outcome.is_complete and outcome.document is not None
    assert {verdict.outcome for verdict in outcome.gates} == {GateOutcome.PASSED}
    store, document = bench.project.store, outcome.document
    stored = read_embedding(store.read_bytes(document, "embedding.parquet"))
    assert stored.space == "appearance-v1" and len(stored.frame_index) == 5
    indexed = bench.index.get(clip_id)
    assert indexed is not None and indexed.data_version == document.data_version
    assert np.array_equal(indexed.embedding.vector, stored.vector)
    assert [backend.backend for backend in document.backends] == ["appearance"]
    members = asset.deliver(document, lambda name: store.read_bytes(document, name))
    assert [(member.path, member.file) for member in members] == [("embedding.parquet", "embedding.parquet")]
    [picture] = outcome.pictures.values()
    assert len(picture) < 50_000
    assert bench.embed(clip_id).document == replace(document, committed_at=mock.ANY)


def test_only_five_frames_are_asked_for(bench: Bench) -> None:
    from ego_assets.media.sampling import SampledFrames

    clip_id = bench.clip(seed=2, frames=60)
    asked: list[Any] = []
    stream = SampledFrames.stream

    def counted(self: SampledFrames, **options: Any) -> Any:
        asked.append(options["indices"])
        return stream(self, **options)

    with mock.patch.object(SampledFrames, "stream", counted):
        bench.embed(clip_id)
    assert [len(indices) for indices in asked] == [5]


def test_a_clip_of_two_frames_has_a_vector_and_a_warning(bench: Bench) -> None:
    clip_id = bench.clip(seed=3, frames=2)
    outcome = bench.embed(clip_id)
    assert outcome.state is LayerState.COMMITTED and outcome.is_complete
    assert gate(outcome, "frames").outcome is GateOutcome.WARNED
    assert bench.index.get(clip_id) is not None


def test_a_backend_that_gives_no_numbers_is_given_up_and_leaves_no_vector(bench: Bench) -> None:
    from resources.models.embeddings import AppearanceEmbedder

    clip_id = bench.clip(seed=4)
    bench.embed(clip_id)
    assert bench.index.get(clip_id) is not None

    def broken(self: AppearanceEmbedder, images: Any) -> Any:
        return np.full((len(images), 768), np.nan, np.float32)

    with mock.patch.object(AppearanceEmbedder, "embed_images", broken):
        outcome = bench.embed(clip_id)
    assert outcome.state is LayerState.GIVEN_UP and gate(outcome, "vector").outcome is GateOutcome.FAILED
    assert outcome.draft is not None and len(outcome.draft.attempts) == 1
    assert bench.index.get(clip_id) is None
    assert ReviewKind.GATE_FAILED in {i.kind for i in bench.project.database.review_items(clip_id=clip_id)}
    bench.project.reindex()
    assert bench.index.get(clip_id) is None, "what the gate refused does not come back"


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (RuntimeError("fell over"), LayerState.GIVEN_UP),
        (TransientError("out of reach"), LayerState.POSTPONED),
    ],
)
def test_a_model_that_raises_takes_the_vector_along(
    bench: Bench, error: Exception, state: LayerState
) -> None:
    from resources.models.embeddings import AppearanceEmbedder

    clip_id = bench.clip(seed=5)
    bench.embed(clip_id)
    assert bench.index.get(clip_id) is not None
    with mock.patch.object(AppearanceEmbedder, "embed_images", side_effect=error):
        outcome = bench.embed(clip_id)
    assert outcome.state is state and str(error) in outcome.reason
    assert bench.index.get(clip_id) is None
    # The version before is still in the store, and the clip goes on without it.
    bench.project.reindex()
    assert bench.index.get(clip_id) is None
    document = bench.embed(clip_id).document
    indexed = bench.index.get(clip_id)
    assert document is not None and indexed is not None and indexed.data_version == document.data_version


def test_reindex_reads_files_before_it_locks_the_database(bench: Bench) -> None:
    clip_id = bench.clip(seed=8)
    bench.embed(clip_id)
    events: list[str] = []
    store, database = bench.project.store, bench.project.database
    read, replace_index = store.read_bytes, database.replace_artifact_index

    def noted_read(*arguments: Any) -> bytes:
        events.append("read")
        return read(*arguments)

    def noted_replace(*arguments: Any) -> Any:
        events.append("write")
        return replace_index(*arguments)

    with (
        mock.patch.object(store, "read_bytes", noted_read),
        mock.patch.object(database, "replace_artifact_index", noted_replace),
    ):
        bench.project.reindex()
    assert events == ["read", "write"]


def test_the_command_line_shows_what_looks_alike(bench: Bench) -> None:
    first, copy, other, gone = (
        bench.clip(seed=1),
        bench.clip(seed=1, frames=12),
        bench.clip(seed=2),
        bench.clip(seed=1, frames=13),
    )
    code, _, err = bench.command("similar", first)
    assert code == 1 and "has no embedding" in err and f"--clip {first} --layer embeddings" in err
    for clip_id in (first, copy, other, gone):
        bench.embed(clip_id)
    bench.project.database.update_clip(gone, withdrawn=True)

    code, out, _ = bench.command("similar", first, "--json")
    found = json.loads(out)
    assert code == 0 and found["space"] == "appearance-v1" and found["clip_id"] == first
    assert [row["clip_id"] for row in found["similar"]] == [copy, other]
    assert found["similar"][0]["similarity"] > 0.9 > found["similar"][1]["similarity"]
    assert found["similar"][0]["source_name"] == "1_12.mp4"
    assert [row["near_duplicate"] for row in found["similar"]] == [True, False]

    code, out, _ = bench.command("similar", first)
    assert code == 0 and "appearance-v1" in out and out.index(copy) < out.index(other)
    assert "may be a copy" in out and out.index("yes") < out.index(copy) and out.count("yes") == 1
    assert other not in bench.command("similar", first, "--min-similarity", 0.9)[1]
    assert other not in bench.command("similar", first, "--limit", 1)[1]
    code, out, _ = bench.command("similar", other, "--min-similarity", 0.99)
    assert code == 0 and "No other clip" in out and "appearance-v1" in out
    assert bench.command("similar", first, "--min-similarity", 2)[0] == 2
    assert bench.command("similar", "no-id")[0] == 2
    code, _, err = bench.command("similar", "3b241101-e2bb-4255-8caf-4136c566a962")
    assert code == 1 and "No clip" in err


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What an embedder that reads texts knows: a text's vector."""
    from resources.models.embeddings import AppearanceEmbedder

    known: dict[str, Any] = {}
    monkeypatch.setattr(AppearanceEmbedder, "embeds_text", property(lambda self: True))
    monkeypatch.setattr(
        AppearanceEmbedder,
        "embed_texts",
        lambda self, texts: np.array([known[text] for text in texts], np.float32),
    )
    return known


def test_clips_are_found_by_words(bench: Bench, words: dict[str, Any]) -> None:
    first, second, gone = bench.clip(seed=1), bench.clip(seed=2), bench.clip(seed=1, frames=13)
    code, _, err = bench.command("similar", "--text", "the clip 2")
    assert code == 1 and "No clip has an embedding in the space appearance-v1" in err
    assert "--profile" not in err and "`ego-assets run --layer embeddings --again`" in err
    for clip_id in (first, second, gone):
        bench.embed(clip_id)
    for name, clip_id in (("the clip 1", first), ("the clip 2", second)):
        indexed = bench.index.get(clip_id)
        assert indexed is not None
        words[name] = indexed.embedding.vector
    bench.project.database.update_clip(gone, withdrawn=True)
    code, out, _ = bench.command("similar", "--text", " the clip 2 ", "--json")
    found = json.loads(out)
    assert code == 0 and found["text"] == "the clip 2" and found["space"] == "appearance-v1"
    assert [row["clip_id"] for row in found["similar"]] == [second, first]
    assert set(found["similar"][0]) == {"clip_id", "source_name", "similarity"}
    code, out, _ = bench.command("similar", "--text", "the clip 1", "--limit", 1)
    assert code == 0 and first in out and second not in out and "copy" not in out
    words["nothing of the kind"] = -words["the clip 1"]
    code, out, _ = bench.command("similar", "--text", "nothing of the kind", "--min-similarity", 0.5)
    assert code == 0 and "No clip with an embedding" in out


@pytest.mark.usefixtures("words")
def test_words_are_compared_with_vectors_of_their_space_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resources.models.embeddings import AppearanceEmbedder

    bench.embed(bench.clip(seed=1))
    monkeypatch.setattr(AppearanceEmbedder, "space", "another-space")
    code, out, err = bench.command("similar", "--text", "the clip 1")
    assert code == 1 and not out and "in the space another-space" in err and "appearance-v1 (1)" in err
    named, again = err.index("with --profile"), err.index("`ego-assets run --layer embeddings --again`")
    assert named < again, "the cheap way comes first"


def test_a_backend_that_reads_no_words_is_named(bench: Bench) -> None:
    bench.embed(bench.clip(seed=1))
    code, _, err = bench.command("similar", "--text", "a person pours water")
    assert code == 1 and "appearance of the profile 'local' reads no words" in err and "open_clip" in err
    assert "other spaces" not in err, "no other profile made any"
    code, _, err = bench.command("similar", "--text", "a person pours water", "--profile", "nothing")
    assert code == 2 and "There is no profile 'nothing'" in err


def test_vectors_that_another_profile_made_are_named(bench: Bench) -> None:
    for seed in (1, 2):
        clip_id = bench.clip(seed=seed)
        vector = np.eye(EMBEDDING_DIMENSIONS, dtype=np.float32)[seed]
        bench.index.put(clip_id, Embedding("clip-vit-l-14-0a1b", vector), data_version="v")
    code, _, err = bench.command("similar", "--text", "a person pours water")
    assert code == 1 and "clip-vit-l-14-0a1b (2)" in err
    assert err.index("with --profile") < err.index("make them anew")


def test_a_clip_without_a_vector_gets_the_command_for_the_profile_of_the_call(
    bench: Bench, tmp_path: Path
) -> None:
    clip_id = bench.clip(seed=1)
    mine = tmp_path / "of mine.yaml"
    mine.write_text((Path(profiles.__file__).parent / "local.yaml").read_text())
    make = f"`ego-assets run --clip {clip_id} --layer embeddings"
    assert f"{make}`" in bench.command("similar", clip_id)[2]
    assert f"{make} --profile '{mine}'`" in bench.command("similar", clip_id, "--profile", mine)[2]


@pytest.mark.parametrize(
    "arguments", [(), ("3b241101-e2bb-4255-8caf-4136c566a962", "--text", "x"), ("--text", " ")]
)
def test_either_a_clip_or_words(bench: Bench, arguments: tuple[str, ...]) -> None:
    code, _, err = bench.command("similar", *arguments)
    assert code == 2 and "either a CLIP_ID or --text" in err


def test_reindex_brings_the_vectors_back(bench: Bench) -> None:
    clip_id, damaged = bench.clip(seed=6), bench.clip(seed=7)
    bench.embed(clip_id)
    document = bench.embed(damaged).document
    before = bench.index.get(clip_id)
    assert before is not None and document is not None
    root = bench.project.store.local_root
    assert root is not None
    file = root / damaged / "embeddings" / document.version_id / "embedding.parquet"
    file.chmod(0o600)
    file.write_bytes(b"damaged")
    for each in (clip_id, damaged):
        bench.index.remove(each)
    code, _, _ = bench.command("reindex")
    after = bench.index.get(clip_id)
    assert code == 0 and after is not None and after.data_version == before.data_version
    assert np.array_equal(after.embedding.vector, before.embedding.vector)
    assert bench.index.get(damaged) is None
