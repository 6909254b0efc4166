"""Image-text models on this machine: what they are asked, how answers are read, and what is refused."""

from __future__ import annotations

import json
import logging
import shutil
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ego_assets.labels.prompts import DEFAULT_PROMPTS
from ego_assets.labels.scene_facts import describe
from ego_assets.schema.captions import CaptionAnswer, CaptionRequest, SceneFacts
from ego_assets.schema.errors import BackendUnavailable, ConfigurationError
from ego_assets.schema.frames import ClipFrame
from ego_assets_tests.checkpoints import captions
from resources.models import registry
from resources.profiles import BackendConfig, Profile

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from ego_assets.schema.errors import DeviceMemoryExhausted  # noqa: E402
from resources.models import vlm_captions  # noqa: E402
from resources.models.vlm_captions import VisionLanguageCaptioner  # noqa: E402

FACTS = SceneFacts(
    hands={"right": {"state": "grasp", "category": "tool"}}, objects={"container": 2}, location="kitchen"
)
SIZES = ((640, 360), (90, 160), (33, 33), (200, 60), (321, 179))


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights as LLaVA-OneVision 0.5B, and weights that say one sentence as one's own."""
    folder = tmp_path_factory.mktemp("models")
    captions.make_transformers_vlm(folder)
    captions.write_llava_onevision(folder / "own-captions", says=captions.SENTENCE)
    return folder


def random_weights(models_dir: Path, **settings: Any) -> VisionLanguageCaptioner:
    return VisionLanguageCaptioner(
        models_dir=models_dir, **{**captions.make_transformers_vlm(models_dir), **settings}
    )


def talker(models_dir: Path, **settings: Any) -> VisionLanguageCaptioner:
    given: dict[str, Any] = {"checkpoint": "own", "device": "cpu", "max_side": 64, "batch_size": 4}
    return VisionLanguageCaptioner(models_dir=models_dir, **{**given, **settings})


def ask(number: int, *, facts: SceneFacts = FACTS) -> CaptionRequest:
    width, height = SIZES[number % len(SIZES)]
    image = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return CaptionRequest(frame=ClipFrame(number, number * 1_000_000_000, image), facts=facts)


def copied(models_dir: Path, target: Path, name: str = "own-captions") -> Path:
    shutil.copytree(models_dir / name, target / "own-captions")
    return target / "own-captions"


def test_a_sentence_is_read_and_counted(models_dir: Path) -> None:
    captioner = talker(models_dir, licence="CC0-1.0")
    [answer] = captioner.caption([ask(0)])
    assert answer.text == captions.SENTENCE and not answer.refused and answer.prompt == "guide"
    # One token a word, and the end.
    assert answer.completion_tokens == len(captions.SENTENCE.split()) + 1
    assert answer.prompt_tokens > len(DEFAULT_PROMPTS[0].text.split())
    assert captioner.source == "model" and captioner.info.model == "own image-text model"
    assert captioner.info.licence == "CC0-1.0"


def test_a_sentence_that_does_not_end_is_refused(models_dir: Path) -> None:
    [answer] = talker(models_dir, max_new_tokens=5).caption([ask(0)])
    assert answer == CaptionAnswer(
        text="",
        refused="truncated: the answer was cut off",
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=5,
        prompt="guide",
    )


@pytest.mark.parametrize("prompt", DEFAULT_PROMPTS, ids=lambda prompt: prompt.name)
def test_the_model_is_asked_with_the_prompts_for_endpoints(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch, prompt: Any
) -> None:
    asked: list[str] = []
    generate = vlm_captions._Model.generate

    def noted(self: Any, texts: Sequence[str], pictures: Sequence[Any], **options: Any) -> Any:
        asked.extend(texts)
        assert [picture.mode for picture in pictures] == ["RGB"] * len(texts)
        return generate(self, texts, pictures, **options)

    monkeypatch.setattr(vlm_captions._Model, "generate", noted)
    talker(models_dir, prompt=prompt.name).caption([ask(0), ask(1, facts=SceneFacts())])
    for text, facts in zip(asked, (FACTS, SceneFacts()), strict=True):
        assert prompt.fill(describe(facts)) in text and text.count("<image>") == 1
        assert text.endswith("<|im_start|>assistant")


def test_colours_reach_the_model_in_their_order(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def noted(self: Any, texts: Sequence[str], pictures: Sequence[Any], **options: Any) -> Any:
        seen.extend(pictures)
        return [([2], 1)] * len(texts)

    monkeypatch.setattr(vlm_captions._Model, "generate", noted)
    blue = np.zeros((48, 96, 3), np.uint8)
    blue[..., 0] = 255
    talker(models_dir).caption([CaptionRequest(frame=ClipFrame(0, 0, blue), facts=FACTS)])
    assert seen[0].size == (64, 32) and seen[0].getpixel((3, 3)) == (0, 0, 255)


@pytest.mark.parametrize("prompt", ["guide", "with_facts"])
def test_answers_do_not_depend_on_the_batch(models_dir: Path, prompt: str) -> None:
    # Prompts of different lengths and pictures of different sizes share a batch.
    requests = [ask(number, facts=FACTS if number % 2 else SceneFacts()) for number in range(7)]
    captioner = random_weights(models_dir, prompt=prompt, batch_size=4)
    together = captioner.caption(requests)
    assert [captioner.caption([request])[0] for request in requests] == together
    assert len({answer.text for answer in together if answer.text}) > 1, "the model has to see something"


def test_the_published_files_and_those_of_today_give_the_same(models_dir: Path, tmp_path: Path) -> None:
    captions.write_llava_onevision(tmp_path / "own-captions")
    requests = [ask(number) for number in range(3)]
    settings = {"max_new_tokens": 24, "max_side": 64}
    today = talker(tmp_path, **settings).caption(requests)
    assert today == random_weights(models_dir, **settings).caption(requests)


def test_attempts_with_other_prompts_share_the_model(models_dir: Path) -> None:
    first, second = talker(models_dir), talker(models_dir, prompt="plain", max_new_tokens=64)
    assert first._model is second._model
    assert talker(models_dir, precision="bfloat16")._model is not first._model


def test_two_threads_may_ask_at_once(models_dir: Path) -> None:
    captioner = random_weights(models_dir)
    requests = [ask(number) for number in range(5)]
    expected = captioner.caption(requests)
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(captioner.caption, [requests] * 3)) == [expected] * 3


def test_batches_that_do_not_fit_are_halved_and_nothing_is_lost(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = random_weights(models_dir, batch_size=4, max_new_tokens=8)
    requests = [ask(number) for number in range(6)]
    expected = captioner.caption(requests)
    network, sizes = captioner._model.held.network, []
    generate = network.generate

    def small(**inputs: Any) -> Any:
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(**inputs)

    monkeypatch.setattr(network, "generate", small)
    assert captioner.caption(requests) == expected
    assert sizes[:3] == [4, 2, 1]

    def nothing_fits(**inputs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(network, "generate", nothing_fits)
    with pytest.raises(DeviceMemoryExhausted):
        captioner.caption(requests[:1])


def test_positions_keep_their_precision(models_dir: Path) -> None:
    network = talker(models_dir, precision="bfloat16")._model.held.network
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}
    angles = [buffer for name, buffer in network.named_buffers() if name.endswith("inv_freq")]
    assert angles and all(buffer.dtype == torch.float32 for buffer in angles)
    [answer] = talker(models_dir, precision="bfloat16").caption([ask(0)])
    assert answer.text == captions.SENTENCE


def test_chance_that_a_repository_asks_for_is_left_out(models_dir: Path, tmp_path: Path) -> None:
    folder = copied(models_dir, tmp_path, registry.LLAVA_ONEVISION_0_5B.folder)
    path = folder / "generation_config.json"
    chance = {"do_sample": True, "temperature": 5.0, "top_k": 50, "top_p": 0.9, "num_beams": 2}
    path.write_text(json.dumps({**json.loads(path.read_text()), **chance}))
    requests = [ask(number) for number in range(3)]
    settings = {"max_new_tokens": 24}
    expected = random_weights(models_dir).caption(requests)
    assert talker(tmp_path, **settings).caption(requests) == expected


def test_weights_in_several_files_are_all_part_of_the_digest(models_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText  # type: ignore[import-not-found,unused-ignore]

    folder = copied(models_dir, tmp_path)
    network = AutoModelForImageTextToText.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    network.save_pretrained(folder, max_shard_size="60KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    captioner = talker(tmp_path)
    assert captioner.caption([ask(0)])[0].text == captions.SENTENCE
    before = captioner.info.weights_sha256
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("user", "users") + " ")
    changed = talker(tmp_path).info.weights_sha256
    shards[-1].write_bytes(shards[-1].read_bytes()[:-4] + b"\0\0\0\1")
    assert len({before, changed, talker(tmp_path).info.weights_sha256}) == 3


def test_no_host_is_asked_for_anything(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("asked a host")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    talker(models_dir, batch_size=1).caption([ask(0)])


def test_what_runs_is_logged_and_no_bar_is_drawn(
    models_dir: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, logger="resources.models")
    talker(models_dir, batch_size=7)
    assert [record.message for record in caplog.records if record.name.startswith("resources")] == [
        "own image-text model on cpu, float32, not compiled"
    ]
    assert "Loading" not in capfd.readouterr().err


def test_licences_are_asked_for_where_commercial_use_is_demanded() -> None:
    def profile(**settings: Any) -> Profile:
        config = BackendConfig(backend="transformers_vlm", settings=settings)
        return Profile(name="p", backends={"captions": config}, commercial_use=True)

    assert profile() and profile(checkpoint="own", licence_permits_commercial_use=True)
    with pytest.raises(ConfigurationError, match="licence_permits_commercial_use"):
        profile(checkpoint="own")


def test_a_folder_without_a_chat_template_is_refused(models_dir: Path, tmp_path: Path) -> None:
    folder = copied(models_dir, tmp_path)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(BackendUnavailable, match="has no chat template"):
        talker(tmp_path)


def test_weights_that_lack_tensors_are_refused(models_dir: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file  # type: ignore[import-not-found,unused-ignore]

    folder = copied(models_dir, tmp_path)
    state = load_file(folder / "model.safetensors")
    gone = next(name for name in state if name.endswith("o_proj.weight"))
    del state[gone]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        BackendUnavailable, match=r"missing or of another shape \(1\): .*o_proj.*save_pretrained"
    ):
        talker(tmp_path)


@pytest.mark.parametrize(
    "file", ["config.json", "model.safetensors", "tokenizer.json", "processor_config.json"]
)
@pytest.mark.parametrize("content", ["", "{}"])
def test_damaged_files_are_refused(models_dir: Path, tmp_path: Path, file: str, content: str) -> None:
    folder = copied(models_dir, tmp_path)
    (folder / file).write_text(content)
    with pytest.raises(BackendUnavailable, match=str(folder)):
        talker(tmp_path)


def test_missing_files_of_a_known_checkpoint_are_named(models_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(models_dir / registry.LLAVA_ONEVISION_0_5B.folder, tmp_path / "llava-onevision-0.5b")
    (tmp_path / "llava-onevision-0.5b" / "preprocessor_config.json").unlink()
    with pytest.raises(BackendUnavailable, match=r"no .*preprocessor_config\.json"):
        VisionLanguageCaptioner(models_dir=tmp_path, checkpoint="llava_onevision_0_5b", device="cpu")


def test_a_model_that_sees_nothing_is_refused(tmp_path: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM  # type: ignore[import-not-found,unused-ignore]

    folder = tmp_path / "own-captions"
    captions._tokenizer().save_pretrained(folder)
    Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
    ).save_pretrained(folder)
    with pytest.raises(BackendUnavailable, match="image-text model"):
        talker(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"checkpoint": "gpt"}, "checkpoint: expected one of llava_onevision_7b"),
        ({"prompt": "rude"}, "prompt: expected one of guide, plain, with_facts, got 'rude'"),
        ({"max_new_tokens": 0}, "max_new_tokens: expected 1 or more"),
        ({"max_side": 8}, "max_side: expected 32 or more"),
        ({"precision": "int4"}, "precision: expected one of"),
        ({"batch_size": -1}, "batch_size: expected 0 or more"),
    ],
)
def test_wrong_settings_are_named_before_weights_are_read(
    tmp_path: Path, settings: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        VisionLanguageCaptioner(models_dir=tmp_path, **settings)
