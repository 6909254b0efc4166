"""The captions layer in the chain: templates without an endpoint, an endpoint, and an endpoint that is down."""

from __future__ import annotations

import io
import json
import logging
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from dagster import AssetKey

from ego_assets.assets import PRIVACY_CHAIN, captions, clip_package, manifest
from ego_assets.assets import frames as frames_asset
from ego_assets.batching import essential_ancestors
from ego_assets.choosing import clips_where
from ego_assets.delivery.card import models_section
from ego_assets.doctor import examine
from ego_assets.execution import ClipWork, LayerFunction, LayerOutcome, LayerState, run_layer
from ego_assets.labels.prompts import DEFAULT_PROMPTS
from ego_assets.planning import ClipPlan, LayerPlan, plan_clip
from ego_assets.project import Project
from ego_assets.schema.captions import CaptionAnswer, CaptionRequest, CaptionSource
from ego_assets.schema.clip import Clip
from ego_assets.schema.detections import BackendInfo
from ego_assets.schema.errors import BackendUnavailable, ConfigurationError, DeviceMemoryExhausted
from ego_assets.schema.gates import GateOutcome
from ego_assets.schema.ladder import Rung
from ego_assets.schema.layers import LayerSpec
from ego_assets.schema.vocabulary import ReviewRisk
from ego_assets.settings import Settings, load_settings
from ego_assets_tests.caption_server import SENTENCE, CaptionServer, caption_server, completion, failure
from ego_assets_tests.clips import write_clip
from resources.captioner import EndpointOptions
from resources.endpoint import shared_state
from resources.platform import ProfileModels
from resources.profiles import load_profile

_ENRICHMENT = ((frames_asset.SPEC, frames_asset.make), (captions.SPEC, captions.make))
# The manifest waits for these as well; here nobody makes them.
_ABSENT = tuple(
    LayerSpec(name=name, group="enrich", description="", stage=3)
    for name in ("depth_maps", "masks", "hand_object", "actions", "embeddings")
)
_SPECS = (*(spec for spec, _ in _ENRICHMENT), *_ABSENT)
CHAIN: tuple[tuple[LayerSpec, LayerFunction], ...] = (
    *PRIVACY_CHAIN,
    *_ENRICHMENT,
    manifest.layer(_SPECS),
    clip_package.layer(_SPECS),
)
KEY = "sk-very-secret"


#: Layers that are the same in every test, made once.
_BEFORE = ("raw_clip", "clip_quality", "blurred_video", "frames")


class Bench:
    """A project whose chain has captions, run layer by layer."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.root = root
        self.project = self._open(**settings)
        self.waits: list[float] = []
        self.models: ProfileModels | None = None

    @property
    def clip(self) -> Clip:
        [clip] = self.project.database.clips()
        return clip

    def _open(self, **settings: Any) -> Project:
        given = {"caption_max_retries": 0, "frames_per_second": 2.0, **settings}
        return Project(Settings(data_dir=self.root / "data", free_disk_reserve_bytes=0, **given))

    def plan(self, **options: Any) -> ClipPlan:
        return plan_clip(
            self.clip.clip_id,
            [spec for spec, _ in CHAIN],
            database=self.project.database,
            store=self.project.store,
            **options,
        )

    def run(self, layers: Sequence[str] | None = None) -> dict[str, LayerOutcome]:
        """What `ego-assets run` does: everything pending, in order."""
        pending = self.plan().pending if layers is None else layers
        services = self.project.services_with_vault()
        if self.models is not None:
            services = replace(services, models=self.models)
        specs = {spec.name: spec for spec, _ in CHAIN}
        return {
            spec.name: run_layer(
                spec,
                make,
                self.clip.clip_id,
                services=services if spec.reads_original else replace(services, vault=None, intake=None),
                run_id="test",
                log=logging.getLogger("test"),
                ancestors=essential_ancestors(spec.name, specs),
                sleep=self.waits.append,
            )
            for spec, make in CHAIN
            if spec.name in pending
        }

    def document(self, layer: str) -> Any:
        return self.project.store.document(self.clip.clip_id, layer)

    def versions(self) -> dict[str, str]:
        return {
            spec.name: document.data_version for spec, _ in CHAIN if (document := self.document(spec.name))
        }

    def captions(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            self.project.store.read_bytes(self.document("captions"), "captions.json")
        )
        return found

    def delivered(self) -> set[str]:
        document = self.document("clip_package")
        data = self.project.store.read_bytes(document, f"{self.clip.clip_id}.tar.gz")
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            return {name.partition("/")[2] for name in archive.getnames()}


@pytest.fixture(scope="module")
def processed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose one clip waits for captions."""
    bench = Bench(tmp_path_factory.mktemp("processed"))
    path = write_clip(bench.root / "in" / "clip.mp4", frames=75)
    bench.project.register_and_take(path.parent, path, {"location_type": "kitchen"})
    outcomes = bench.run(_BEFORE)
    assert {outcome.state for outcome in outcomes.values()} == {LayerState.COMMITTED}
    return bench.root


@pytest.fixture
def root(processed: Path, tmp_path: Path) -> Path:
    shutil.copytree(processed / "data", tmp_path / "data")
    return tmp_path


@pytest.fixture
def server() -> Iterator[CaptionServer]:
    with caption_server() as running:
        yield running
    shared_state.cache_clear()


def endpoint(server: CaptionServer, **settings: Any) -> dict[str, Any]:
    return {
        "caption_base_url": server.base_url,
        "caption_api_key": KEY,
        "caption_models": "first-model, second-model",
        **settings,
    }


def test_without_an_endpoint_sentences_are_built_and_marked(root: Path) -> None:
    bench = Bench(root)
    outcome = bench.run()["captions"]
    assert outcome.state is LayerState.COMMITTED
    assert {gate.spec.name: gate.outcome for gate in outcome.gates} == {
        "completed": GateOutcome.PASSED,
        "answered": GateOutcome.PASSED,
        "length": GateOutcome.PASSED,
        "relevance": GateOutcome.NOT_EVALUATED,
    }
    # Nobody could compare texts and pictures, so the layer does not count as complete.
    assert not outcome.is_complete
    found = bench.captions()
    assert found["format"] == 1 and found["source"] == "template" and found["prompts"] == []
    assert found["usage"] == {"requests": 0, "prompt_tokens": 0, "completion_tokens": 0, "cost_usd": None}
    stretches = [(entry["start_ns"], entry["end_ns"]) for entry in found["captions"]]
    assert len(stretches) == 3 and stretches[0][1] == stretches[1][0] == 2_000_000_000
    assert all(
        "in a kitchen" in entry["text"] and entry["source"] == "template" for entry in found["captions"]
    )
    rows = pq.read_table(
        io.BytesIO(bench.project.store.read_bytes(bench.document("captions"), "verdicts.parquet"))
    )
    assert rows["relevance"].to_pylist() == ["not_evaluated"] * 3
    assert rows["frame_index"].to_pylist() == [entry["frame_index"] for entry in found["captions"]]
    assert rows["similarity"].null_count == 3
    assert outcome.document is not None
    assert not {"caption_relevance", "cost_usd"} & set(outcome.document.counts)
    assert 0 < len(outcome.pictures["captions"]) <= 50_000
    assert "captions.json" in bench.delivered()


def test_the_same_work_gives_the_same_version(root: Path) -> None:
    bench = Bench(root)
    bench.run()
    before = bench.versions()
    assert bench.plan().pending == []
    spec, make = CHAIN[4]
    assert spec.name == "captions"
    again = run_layer(
        spec,
        make,
        bench.clip.clip_id,
        services=bench.project.services,
        run_id="again",
        log=logging.getLogger("test"),
        ancestors=[],
    )
    assert again.document is not None and again.document.data_version == before["captions"]


def test_an_endpoint_captions_and_its_cost_is_counted(root: Path, server: CaptionServer) -> None:
    prices = {
        "caption_usd_per_million_prompt_tokens": 2.0,
        "caption_usd_per_million_completion_tokens": 10.0,
    }
    bench = Bench(root, **endpoint(server, **prices))
    outcome = bench.run()["captions"]
    assert outcome.state is LayerState.COMMITTED, outcome.reason
    found = bench.captions()
    assert found["source"] == "model" and {entry["text"] for entry in found["captions"]} == {SENTENCE}
    assert {entry["model"] for entry in found["captions"]} == {"served-model"}
    assert found["usage"]["prompt_tokens"] == 3000 and found["usage"]["completion_tokens"] == 75
    assert found["usage"]["cost_usd"] == pytest.approx((3000 * 2 + 75 * 10) / 1e6)
    document = bench.document("captions")
    assert document.counts["captions"] == 3 and document.counts["cost_usd"] == found["usage"]["cost_usd"]
    assert document.config["ladder"][0]["model"] == "first-model"
    assert set(server.prompts()) == {DEFAULT_PROMPTS[0].text}
    for path in (root / "data").rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(("price", "cost"), [("", None), ("0", 0.0)])
def test_no_price_is_no_cost(root: Path, server: CaptionServer, price: str, cost: float | None) -> None:
    bench = Bench(root, **endpoint(server, caption_usd_per_million_prompt_tokens=price))
    bench.run()
    assert bench.captions()["usage"]["cost_usd"] == cost
    assert ("cost_usd" in bench.document("captions").counts) == (cost is not None)


def test_refused_moments_alone_are_asked_again(root: Path, server: CaptionServer) -> None:
    def respond(body: dict[str, Any], number: int) -> Any:
        return completion(None, refusal="No.") if number == 1 else completion()

    server.respond = respond
    bench = Bench(root, **endpoint(server, caption_concurrency=1))
    assert bench.run()["captions"].state is LayerState.COMMITTED
    assert [entry["prompt"] for entry in bench.captions()["captions"]] == ["guide", "plain", "guide"]
    assert server.prompts() == [DEFAULT_PROMPTS[0].text] * 3 + [DEFAULT_PROMPTS[1].text]
    [attempt] = bench.document("captions").attempts
    assert attempt["attempt"] == "first-model, prompt guide"
    assert attempt["refused"] == "1 of 3 captions: refusal (1)"


def test_an_endpoint_that_refuses_everything_gives_the_layer_up(root: Path, server: CaptionServer) -> None:
    server.script(completion(None, refusal="No."))
    bench = Bench(root, **endpoint(server))
    outcomes = bench.run()
    assert outcomes["captions"].state is LayerState.GIVEN_UP
    assert [body["model"] for body in server.requests] == ["first-model"] * 6 + ["second-model"] * 3
    assert outcomes["clip_package"].state is LayerState.COMMITTED
    assert "captions.json" not in bench.delivered()
    # It is not asked again and again.
    assert bench.plan().pending == []


def test_a_wrong_key_postpones_the_layer_and_is_in_no_message(root: Path, server: CaptionServer) -> None:
    server.script(failure(401, f"bad key {KEY}"))
    bench = Bench(root, **endpoint(server))
    outcome = bench.run()["captions"]
    assert outcome.state is LayerState.POSTPONED and KEY not in outcome.reason
    assert bench.waits == [] and bench.plan().pending[0] == "captions"


def test_while_the_endpoint_is_down_the_other_layers_finish_and_captions_catch_up(
    root: Path, server: CaptionServer
) -> None:
    server.script(failure(503, "overloaded"))
    bench = Bench(root, **endpoint(server))
    outcomes = bench.run()
    assert outcomes["captions"].state is LayerState.POSTPONED and outcomes["captions"].lets_clip_pass
    assert "503" in outcomes["captions"].reason
    # The layer was tried twice more, with growing waits.
    assert bench.waits == [0.5, 1.0] and outcomes["captions"].attempts == 3
    done = [name for name, outcome in outcomes.items() if outcome.state is LayerState.COMMITTED]
    assert done == ["manifest", "clip_package"]
    assert "captions.json" not in bench.delivered() and "metadata.json" in bench.delivered()
    row = bench.project.database.clip(bench.clip.clip_id)
    assert not row.failed
    reviews = bench.project.database.review_items("open", bench.clip.clip_id)
    assert [(item.layer, item.risk) for item in reviews if item.layer == "captions"] == [
        ("captions", ReviewRisk.NORMAL)
    ]
    before = bench.versions()

    plan = bench.plan()
    assert plan.pending == ["captions", "manifest", "clip_package"]
    # For those who wait only for what can be made now, it counts as given up.
    assert bench.plan(retry_postponed=False).layers["captions"] is LayerPlan.DONE
    assert bench.plan(retry_postponed=False).pending == []
    # Still down: the same again, and nothing that was there is lost.
    assert bench.run()["captions"].state is LayerState.POSTPONED
    assert bench.versions() == before

    server.script(completion())
    # Another process asks at once.
    shared_state.cache_clear()
    outcomes = bench.run()
    assert {name: outcome.state for name, outcome in outcomes.items()} == dict.fromkeys(
        ("captions", "manifest", "clip_package"), LayerState.COMMITTED
    )
    after = bench.versions()
    assert {name: after[name] for name in _BEFORE} == {name: before[name] for name in _BEFORE}
    assert after["clip_package"] != before["clip_package"] and after["manifest"] != before["manifest"]
    assert "captions.json" in bench.delivered()
    assert bench.plan().pending == []
    open_items = bench.project.database.review_items("open", bench.clip.clip_id)
    assert not [item for item in open_items if item.layer == "captions"]


class LookAlike:
    """An embedder that reads texts: a text about ``wheat`` is unlike every picture."""

    info = BackendInfo(
        task="embeddings",
        backend="look_alike",
        model="test",
        weights_sha256="7" * 64,
        licence="research only",
    )
    space = "test"
    embeds_text = True

    def embed_images(self, images: Sequence[Any]) -> Any:
        return np.tile(np.eye(1, 768, dtype=np.float32), (len(images), 1))

    def embed_texts(self, texts: Sequence[str]) -> Any:
        cosines = [0.1 if "wheat" in text else 0.3 for text in texts]
        rest = np.zeros((len(texts), 766), np.float32)
        return np.column_stack([cosines, [(1 - c * c) ** 0.5 for c in cosines], rest]).astype(np.float32)


class FullDevice(LookAlike):
    """Its device has no memory for it, or has none any more after so many batches of pictures."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def embed_images(self, images: Sequence[Any]) -> Any:
        self.batches -= 1
        if self.batches < 0:
            raise DeviceMemoryExhausted("Its weights do not fit.")
        return super().embed_images(images)


class WithLookAlike(ProfileModels):
    def ladder(self, task: str) -> Sequence[Rung[Any]]:
        return [Rung(name="look_alike", open=LookAlike)] if task == "embeddings" else super().ladder(task)


def test_captions_unlike_their_frames_are_asked_again_and_judged(root: Path, server: CaptionServer) -> None:
    made_up = "The wearer walks through a wide field of ripe wheat under a clear blue sky in late summer."
    bench = Bench(root, **endpoint(server, caption_concurrency=1))
    bench.models = WithLookAlike(load_profile("local"))
    # The first frame is never described, the second one with the second prompt.
    server.respond = lambda body, number: completion(SENTENCE if number in (2, 4) else made_up)
    outcome = bench.run()["captions"]
    assert outcome.state is LayerState.COMMITTED and outcome.is_complete
    entries = bench.captions()["captions"]
    assert [entry["similarity"] for entry in entries] == pytest.approx([0.1, 0.3, 0.3])
    assert [entry["prompt"] for entry in entries] == ["with_facts", "plain", "guide"]
    assert entries[0]["refused"].startswith("unlike the picture") and entries[0]["text"] == made_up
    [relevance] = [gate for gate in outcome.gates if gate.spec.name == "relevance"]
    assert relevance.outcome is GateOutcome.PASSED and relevance.value == pytest.approx(2 / 3)
    assert bench.document("captions").counts["caption_relevance"] == pytest.approx((0.25 + 0.75 + 0.75) / 3)
    compared = bench.captions()["frame_similarity"]
    frames = bench.clip.frame_count
    assert frames is not None
    assert compared["space"] == "test" and compared["frame_index"] == [
        0,
        frames // 3,
        2 * frames // 3,
        frames - 1,
    ]
    # The first frame lies in the stretch of the first caption, the last one in that of the last.
    assert compared["text"][0] == pytest.approx(0.1) and compared["text"][-1] == pytest.approx(0.3)
    assert compared["picture"] == [1.0, 1.0, 1.0]
    # Similarities are the embedder's work: its licence goes with them.
    made_by = bench.document("captions").backends
    assert [info.task for info in made_by][-1] == "embeddings" and made_by[-1] == LookAlike.info
    assert (
        models_section([{"captions": {"backends": [asdict(info) for info in made_by]}}]).count("| captions |")
        == 3
    )
    # The models behind the endpoint alone made the layer.
    assert chosen(bench, "backend('captions') == 'openai_compatible, openai_compatible'")


def chosen(bench: Bench, text: str) -> list[Clip]:
    database = bench.project.database
    return clips_where(
        text, database.clips(), layers=["captions"], database=database, store=bench.project.store
    )


class WithEmbedder(ProfileModels):
    """Opens the embeddings backend in a way of its own."""

    def __init__(self, opened: Callable[[], Any]) -> None:
        super().__init__(load_profile("local"))
        self.opened = opened

    def ladder(self, task: str) -> Sequence[Rung[Any]]:
        return [Rung(name="own", open=self.opened)] if task == "embeddings" else super().ladder(task)


def not_opened() -> Any:
    raise DeviceMemoryExhausted("Its weights do not fit.")


@pytest.mark.parametrize(
    ("opened", "batches", "why"),
    [
        (not_opened, 0, "No embeddings backend: Its weights do not fit."),
        (lambda: FullDevice(0), 0, "compared with their frames: Its weights do not fit."),
        (lambda: FullDevice(2), 2, "compared with their frames: Its weights do not fit."),
        (lambda: FullDevice(3), 3, ""),
    ],
)
def test_an_embeddings_backend_without_memory_costs_the_comparison_alone(
    root: Path, monkeypatch: pytest.MonkeyPatch, opened: Callable[[], Any], batches: int, why: str
) -> None:
    monkeypatch.setattr("ego_assets.labels.captions.BATCH_SIZE", 1)
    bench = Bench(root, caption_concurrency=1)
    bench.models = WithEmbedder(opened)
    outcome = bench.run()["captions"]
    assert outcome.state is LayerState.COMMITTED, outcome.reason
    [relevance] = [gate for gate in outcome.gates if gate.spec.name == "relevance"]
    # What is compared after the captions does not judge them.
    assert relevance.outcome is (GateOutcome.NOT_EVALUATED if why else GateOutcome.PASSED)
    assert why in relevance.message
    found = bench.captions()
    assert all(entry["text"] and not entry["refused"] for entry in found["captions"])
    known = [entry["similarity"] is not None for entry in found["captions"]]
    assert known == [place < batches for place in range(3)] and found["frame_similarity"] is None
    document = bench.document("captions")
    assert ("caption_relevance" in document.counts) == (not why)
    # Whom nobody could ask made nothing of it.
    assert ("embeddings" in [info.task for info in document.backends]) == (batches > 0)


def test_the_space_is_named_where_captions_are_refused_in_one_that_the_limit_was_not_chosen_for(
    root: Path, server: CaptionServer
) -> None:
    bench = Bench(root, **endpoint(server))
    bench.models = WithLookAlike(load_profile("local"))
    made_up = "The wearer walks through a wide field of ripe wheat under a clear blue sky in late summer."
    server.respond = lambda body, number: completion(made_up)
    [relevance] = [gate for gate in bench.run()["captions"].gates if gate.spec.name == "relevance"]
    assert relevance.blocks and "in the space test" in relevance.message


class WithModel(WithLookAlike):
    """A model of the profile, asked with two of the prompts that ship."""

    first: Callable[[], Any] = staticmethod(lambda: Model("guide"))

    def ladder(self, task: str) -> Sequence[Rung[Any]]:
        if task != "captions":
            return super().ladder(task)
        return [
            Rung(name="model", open=self.first, config={"backend": "model"}),
            Rung(name="model", open=lambda: Model("plain"), config={"backend": "model", "prompt": "plain"}),
        ]


class Model:
    info = BackendInfo(task="captions", backend="model", model="a model")
    source: CaptionSource = "model"

    def __init__(self, prompt: str) -> None:
        self.prompt = prompt

    def caption(self, requests: Sequence[CaptionRequest]) -> list[CaptionAnswer]:
        text = SENTENCE if self.prompt == "plain" else "Too short."
        return [CaptionAnswer(text=text, prompt_tokens=7, prompt=self.prompt) for _ in requests]


def test_prompts_of_a_model_of_the_profile_are_recorded(root: Path) -> None:
    bench = Bench(root)
    bench.models = WithModel(load_profile("local"))
    assert bench.run()["captions"].state is LayerState.COMMITTED
    document = bench.captions()
    assert document["source"] == "model" and document["usage"]["prompt_tokens"] == 42
    assert {(entry["prompt"], entry["attempt"]) for entry in document["captions"]} == {("plain", 2)}
    assert [prompt["name"] for prompt in document["prompts"]] == ["plain"]


def test_a_model_that_does_not_fit_leaves_the_captions_to_the_next_one(root: Path) -> None:
    bench = Bench(root)
    bench.models = WithModel(load_profile("local"))
    bench.models.first = not_opened
    assert bench.run()["captions"].state is LayerState.COMMITTED
    assert {(entry["prompt"], entry["attempt"]) for entry in bench.captions()["captions"]} == {("plain", 2)}
    [attempt] = bench.document("captions").attempts
    assert attempt["config"] == {"backend": "model"}
    assert attempt["refused"] == "3 of 3 captions: DeviceMemoryExhausted (3)"


def not_installed() -> Any:
    raise BackendUnavailable("install it")


def test_a_first_model_that_is_not_there_postpones_the_layer(root: Path) -> None:
    bench = Bench(root)
    bench.models = WithModel(load_profile("local"))
    bench.models.first = not_installed
    outcome = bench.run()["captions"]
    assert outcome.state is LayerState.POSTPONED and "install it" in outcome.reason


def test_a_clip_of_made_up_captions_goes_on_without_them(root: Path, server: CaptionServer) -> None:
    server.script(completion("The wearer walks through a wide field of ripe wheat under a clear blue sky."))
    bench = Bench(root, **endpoint(server))
    bench.models = WithLookAlike(load_profile("local"))
    outcomes = bench.run()
    assert outcomes["captions"].state is LayerState.GIVEN_UP and len(server.requests) == 9
    assert "captions.json" not in bench.delivered()


def test_a_dead_endpoint_costs_one_round_of_requests(root: Path, server: CaptionServer) -> None:
    server.script(failure(500))
    bench = Bench(root, **endpoint(server, caption_concurrency=1))
    # As many clips: the layer is tried three times on each.
    for _ in range(3):
        outcome = bench.run(["captions"])["captions"]
        assert outcome.state is LayerState.POSTPONED and outcome.attempts == 3
    # One picture may be the reason; two are not.
    assert len(server.requests) == 2
    assert max(bench.waits) <= 1


def test_while_the_endpoint_is_left_alone_nothing_is_decoded(
    root: Path, server: CaptionServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(root, **endpoint(server))
    EndpointOptions(base_url=server.base_url).shared.breaker.give_up("status 503")

    def decoded(*arguments: Any) -> Any:
        raise AssertionError("decoded")

    monkeypatch.setattr(ClipWork, "sampled_frames", decoded)
    outcome = bench.run(["captions"])["captions"]
    assert outcome.state is LayerState.POSTPONED and "left alone" in outcome.reason


def test_answers_paid_for_survive_a_failed_attempt(root: Path, server: CaptionServer) -> None:
    server.script(completion(), completion(), failure(429, Retry_After="600"), completion())
    bench = Bench(root, **endpoint(server, caption_concurrency=1))
    assert bench.run()["captions"].state is LayerState.POSTPONED
    assert len(server.requests) == 3
    # The pause is over.
    shared_state.cache_clear()
    assert bench.run()["captions"].state is LayerState.COMMITTED
    assert len(server.requests) == 4
    usage = bench.captions()["usage"]
    assert usage["requests"] == 4 and usage["prompt_tokens"] == 3000
    # Whoever orders the layer again wants new answers.
    assert bench.run(["captions"])["captions"].state is LayerState.COMMITTED
    assert len(server.requests) == 7


def test_short_answers_are_delivered_with_the_reason_and_do_not_count(
    root: Path, server: CaptionServer
) -> None:
    server.script(completion("Yes."))
    bench = Bench(root, **endpoint(server))
    outcome = bench.run()["captions"]
    assert outcome.state is LayerState.GIVEN_UP and "0 of 3 moments have a caption" in outcome.reason


def test_an_answer_with_half_a_character_is_stored(root: Path, server: CaptionServer) -> None:
    server.script(completion(f"{SENTENCE} \ud83d"))
    bench = Bench(root, **endpoint(server))
    assert bench.run()["captions"].state is LayerState.COMMITTED
    assert {entry["text"] for entry in bench.captions()["captions"]} == {SENTENCE}


@pytest.mark.parametrize("content", ["name: no list", "[broken"])
def test_wrong_prompts_are_named_before_anything_is_decoded(
    root: Path, server: CaptionServer, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    prompts = root / "prompts.yaml"
    prompts.write_text(content)
    bench = Bench(root, **endpoint(server, caption_prompts_file=prompts))
    monkeypatch.setattr(ClipWork, "sampled_frames", None)
    outcome = bench.run(["captions"])["captions"]
    assert outcome.state is LayerState.POSTPONED and "EGO_CAPTION_PROMPTS_FILE" in outcome.reason
    assert server.requests == []
    [finding] = [each for each in examine(bench.project.settings) if each.subject == "caption endpoint"]
    assert finding.state == "missing" and "EGO_CAPTION_PROMPTS_FILE" in finding.advice


def test_doctor_says_what_writes_captions(tmp_path: Path) -> None:
    for address, state, found in (
        ("", "ok", "none"),
        ("http://host:8000/v1", "ok", "not contacted"),
        ("http://host:8000/v1?key=secret", "missing", "-"),
    ):
        settings = Settings(data_dir=tmp_path, caption_base_url=address, caption_models="m")
        [finding] = [each for each in examine(settings) if each.subject == "caption endpoint"]
        assert finding.state == state and found in finding.found and "secret" not in str(finding)


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"BASE_URL": "http://host/v1"}, "EGO_CAPTION_MODELS"),
        ({"BASE_URL": "host/v1", "MODELS": "m"}, "EGO_CAPTION_BASE_URL"),
        ({"PROMPTS_FILE": "missing.yaml"}, "EGO_CAPTION_PROMPTS_FILE"),
    ],
)
def test_settings_that_cannot_be_are_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(f"EGO_CAPTION_{name}", value)
    load_settings.cache_clear()
    with pytest.raises(ConfigurationError, match=named):
        load_settings()


def test_a_postponed_layer_is_shown_as_such_and_the_clip_goes_on(make_bench: Callable[[int], Any]) -> None:
    bench = make_bench(1)
    [clip] = bench.clip_ids
    bench.behaviour.set("depth_maps", clip, "down")
    assert bench.run_clip(clip).success
    [record] = bench.instance.fetch_materializations(AssetKey("depth_maps"), limit=10).records
    assert record.asset_materialization.metadata["state"].value == "postponed"
    assert clip in bench.instance.get_materialized_partitions(AssetKey("manifest"))
    states = {state.layer: state.state for state in bench.database.layer_states(clip)}
    assert states["depth_maps"] == "postponed" and states["manifest"] == "committed"
    bench.behaviour.set("depth_maps", clip, "")
    assert bench.run_clip(clip, asset_selection=[AssetKey("depth_maps")]).success
    assert {state.layer: state.state for state in bench.database.layer_states(clip)}[
        "depth_maps"
    ] == "committed"
