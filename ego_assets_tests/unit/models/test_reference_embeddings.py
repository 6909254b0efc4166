"""Models of OpenCLIP: what they are given, what is refused, and what happens where memory is short."""

from __future__ import annotations

import json
import logging
import socket
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from ego_assets.schema.embeddings import Embedding
from ego_assets.schema.errors import BackendUnavailable, ConfigurationError
from ego_assets_tests.checkpoints import any_digest, embeddings, nothing_loaded
from resources.models import registry
from resources.models.weights import LOCK_FILE
from resources.profiles import BackendConfig, Profile

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")

from ego_assets.schema.errors import DeviceMemoryExhausted  # noqa: E402
from resources.models.open_clip_embeddings import OpenClipEmbedder, _Preparation  # noqa: E402

Image = npt.NDArray[np.uint8]
CPU: Mapping[str, Any] = {"device": "cpu", "compile": "never"}


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    embeddings.make_open_clip(folder)
    embeddings.make_siglip(folder)
    embeddings.make_mobileclip(folder)
    return folder


@pytest.fixture(scope="module")
def clip(models_dir: Path) -> OpenClipEmbedder:
    return OpenClipEmbedder(models_dir=models_dir, **CPU)


def scene(seed: int = 0, *, width: int = 640, height: int = 360) -> Image:
    """Edges, textures and gradients, as a camera sees them."""
    rng = np.random.default_rng(seed)
    image = np.linspace(rng.integers(40, 90, 3), rng.integers(140, 220, 3), width).astype(np.uint8)
    image = np.tile(image, (height, 1, 1))
    for _ in range(25):
        colour = rng.integers(0, 256, 3).tolist()
        middle = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        cv2.circle(image, middle, int(rng.integers(1, max(2, height // 5))), colour, -1, cv2.LINE_AA)
        cv2.putText(image, "kettle", middle, cv2.FONT_HERSHEY_SIMPLEX, 0.6, colour[::-1], 1, cv2.LINE_AA)
    noisy: Image = np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
    return noisy


def own(folder: Path, **changes: Any) -> Path:
    """Put a checkpoint of one's own with a changed configuration into a folder of weights."""
    config = json.loads(json.dumps(embeddings.VIT_CONFIG))
    config["model_cfg"].update(changes)
    embeddings.write_open_clip(folder / "own-embeddings", config)
    return folder


@pytest.mark.parametrize("size", [(640, 360), (360, 641), (300, 300), (63, 57), (50, 30)])
@pytest.mark.parametrize(
    ("resize_mode", "interpolation", "side"),
    [
        ("shortest", "bicubic", 56),
        ("shortest", "bilinear", 56),
        ("squash", "bicubic", 56),
        ("longest", "bicubic", 56),
        ("shortest", "bicubic", (48, 56)),
    ],
)
def test_pictures_are_prepared_as_open_clip_prepares_them(
    size: tuple[int, int], resize_mode: str, interpolation: str, side: Any
) -> None:
    from open_clip.transform import (  # type: ignore[import-not-found,unused-ignore]
        PreprocessCfg,
        image_transform_v2,
    )
    from PIL import Image as Pictures  # type: ignore[import-not-found,unused-ignore]

    config = PreprocessCfg(size=side, resize_mode=resize_mode, interpolation=interpolation, fill_color=17)
    image = scene(width=size[0], height=size[1])
    expected = image_transform_v2(config, is_train=False)(Pictures.fromarray(image[..., ::-1]))
    prepare = _Preparation(vars(config))
    found = prepare([image], device=torch.device("cpu"), dtype=torch.float32)[0]
    assert found.shape == expected.shape
    # A step of 1 in 255, and a rounding more, by the deviation of the channels.
    assert (found - expected).abs().max() < 2.5 / 255 / 0.26
    assert torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.9999


def test_vectors_are_those_of_open_clip(clip: OpenClipEmbedder, models_dir: Path) -> None:
    import open_clip  # type: ignore[import-not-found,unused-ignore]
    from PIL import Image as Pictures  # type: ignore[import-not-found,unused-ignore]

    name = f"local-dir:{models_dir / registry.CLIP_VIT_L_14.folder}"
    network, _, transform = open_clip.create_model_and_transforms(name)
    images, texts = [scene(seed) for seed in range(3)], ["a person pours water", "Two HANDS"]
    with torch.inference_mode():
        stacked = torch.stack([transform(Pictures.fromarray(image[..., ::-1])) for image in images])
        seen = network.eval().encode_image(stacked, normalize=True).numpy()
        read = network.encode_text(open_clip.get_tokenizer(name)(texts), normalize=True).numpy()
    assert ((clip.embed_images(images) * seen).sum(axis=1) > 0.999).all()
    assert np.allclose(clip.embed_texts(texts), read, atol=1e-5)


def test_openai_s_weights_run_with_their_activation(clip: OpenClipEmbedder) -> None:
    kinds = {type(module).__name__ for module in clip._held.network.modules()}
    assert "QuickGELU" in kinds and "GELU" not in kinds


@pytest.mark.parametrize(("checkpoint", "numbers"), [("siglip_b_16", 64), ("mobileclip_s2", 512)])
def test_smaller_vectors_are_filled_up_with_zeros(models_dir: Path, checkpoint: str, numbers: int) -> None:
    embedder = OpenClipEmbedder(models_dir=models_dir, checkpoint=checkpoint, **CPU)
    pictures = embedder.embed_images([scene(1), scene(2)])
    words = embedder.embed_texts(["a person pours water from a kettle", "white walls"])
    for vectors in (pictures, words):
        assert vectors[:, numbers:].max() == vectors[:, numbers:].min() == 0
        assert np.abs(vectors[:, :numbers]).min(axis=0).max() > 0
        for vector in vectors:
            Embedding(embedder.space, vector)
        assert vectors[0] @ vectors[1] < 0.9999


def test_different_weights_are_different_spaces(models_dir: Path, tmp_path: Path) -> None:
    made = {
        OpenClipEmbedder(models_dir=models_dir, checkpoint=checkpoint, **CPU).space
        for checkpoint in ("vit_l_14", "siglip_b_16", "mobileclip_s2")
    }
    embeddings.write_open_clip(tmp_path / registry.CLIP_VIT_L_14.folder, embeddings.VIT_CONFIG, seed=1)
    other = OpenClipEmbedder(models_dir=tmp_path, **CPU)
    assert len(made | {other.space}) == 4
    assert other.space.startswith("clip-vit-l-14-") and other.space[14:] == other.info.weights_sha256[:12]
    assert OpenClipEmbedder(models_dir=tmp_path, precision="bfloat16", **CPU).space == other.space


def test_bfloat16_gives_nearly_the_same_unit_vectors(clip: OpenClipEmbedder, models_dir: Path) -> None:
    coarse = OpenClipEmbedder(models_dir=models_dir, precision="bfloat16", **CPU)
    images = [scene(seed) for seed in range(3)]
    for exact, found in (
        (clip.embed_images(images), coarse.embed_images(images)),
        (clip.embed_texts(["one", "two"]), coarse.embed_texts(["one", "two"])),
    ):
        assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
        assert ((exact * found).sum(axis=1) > 0.995).all()


def test_a_long_text_counts_by_its_beginning(clip: OpenClipEmbedder) -> None:
    short, long, other = clip.embed_texts(["word " * 76, "word " * 500, "word " * 40 + "knife " * 100])
    assert np.allclose(short, long, atol=1e-6) and not np.allclose(short, other, atol=1e-4)


def test_batches_that_do_not_fit_are_halved_and_nothing_is_lost(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    embedder = OpenClipEmbedder(models_dir=models_dir, batch_size=8, **CPU)
    images = [scene(seed, width=90 + seed % 3) for seed in range(11)]
    texts = [f"word {number}" for number in range(9)]
    expected = embedder.embed_images(images), embedder.embed_texts(texts)
    network, sizes = embedder._held.network, []

    def small(**inputs: Any) -> Any:
        (items,) = inputs.values()
        sizes.append(len(items))
        if len(items) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return network(**inputs)

    monkeypatch.setattr(embedder._held, "_call", small)
    assert np.allclose(embedder.embed_images(images), expected[0], atol=1e-5)
    assert sizes[:3] == [8, 4, 2] and "out of memory" in caplog.text
    assert np.allclose(embedder.embed_texts(texts), expected[1], atol=1e-5)

    def nothing_fits(**inputs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(embedder._held, "_call", nothing_fits)
    with pytest.raises(DeviceMemoryExhausted):
        embedder.embed_images(images[:1])


@pytest.mark.parametrize(("width", "height"), [(1, 2000), (2000, 1), (4000, 3)])
def test_a_strip_is_not_blown_up(clip: OpenClipEmbedder, width: int, height: int) -> None:
    prepared = clip._preparation(
        [scene(width=width, height=height)], device=torch.device("cpu"), dtype=torch.float32
    )
    assert prepared.shape == (1, 3, 56, 56) and torch.isfinite(prepared).all()


def test_no_host_is_asked_for_anything(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("asked a host")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for checkpoint in ("vit_l_14", "siglip_b_16", "mobileclip_s2"):
        OpenClipEmbedder(models_dir=models_dir, checkpoint=checkpoint, **CPU).embed_texts(["a corridor"])


def test_what_runs_is_logged_once(models_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="resources.models")
    with nothing_loaded():
        embedder = OpenClipEmbedder(models_dir=models_dir, **CPU)
        OpenClipEmbedder(models_dir=models_dir, **CPU, batch_size=2)
    embedder.embed_images([scene()])
    assert [record.message for record in caplog.records if record.name.startswith("resources")] == [
        "CLIP ViT-L/14, OpenAI on cpu, float32, not compiled"
    ]


def test_a_network_is_shared_and_another_checkpoint_is_another(
    clip: OpenClipEmbedder, models_dir: Path
) -> None:
    assert OpenClipEmbedder(models_dir=models_dir, batch_size=3, **CPU)._held is clip._held
    for other in ({"checkpoint": "siglip_b_16"}, {"precision": "bfloat16"}):
        assert OpenClipEmbedder(models_dir=models_dir, **other, **CPU)._held is not clip._held


def test_own_weights_carry_the_licence_the_user_states(tmp_path: Path) -> None:
    embedder = OpenClipEmbedder(models_dir=own(tmp_path), checkpoint="own", licence="MIT", **CPU)
    assert embedder.info.licence == "MIT" and embedder.space.startswith("own-embeddings-")
    settings = {"checkpoint": "own"}
    with pytest.raises(ConfigurationError, match="licence_permits_commercial_use"):
        Profile(
            name="p",
            backends={"embeddings": BackendConfig(backend="open_clip", settings=settings)},
            commercial_use=True,
        )
    stated = BackendConfig(backend="open_clip", settings={**settings, "licence_permits_commercial_use": True})
    assert Profile(name="p", backends={"embeddings": stated}, commercial_use=True)


def test_mobileclip_is_refused_for_commercial_use() -> None:
    mobile = BackendConfig(backend="open_clip", settings={"checkpoint": "mobileclip_s2"})
    with pytest.raises(ConfigurationError, match="Use checkpoint: vit_l_14"):
        Profile(name="p", backends={"embeddings": mobile}, commercial_use=True)


def test_more_than_768_numbers_are_refused(tmp_path: Path) -> None:
    own(tmp_path, embed_dim=1024)
    with pytest.raises(ValueError, match="vectors of 1024 numbers, expected at most 768"):
        OpenClipEmbedder(models_dir=tmp_path, checkpoint="own", **CPU)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("model_cfg", {"multimodal_cfg": {"width": 32}}),
        ("text_cfg", {"hf_model_name": "roberta-base"}),
        ("text_cfg", {"hf_tokenizer_name": "x/y", "tokenizer_kwargs": {"trust_remote_code": True}}),
    ],
)
def test_models_with_parts_from_elsewhere_are_refused(tmp_path: Path, part: str, change: Any) -> None:
    own(tmp_path)
    path = tmp_path / "own-embeddings" / "open_clip_config.json"
    config = json.loads(path.read_text())
    (config if part == "model_cfg" else config["model_cfg"])[part].update(change)
    path.write_text(json.dumps(config))
    with pytest.raises(BackendUnavailable, match="two towers OpenCLIP builds itself"):
        OpenClipEmbedder(models_dir=tmp_path, checkpoint="own", **CPU)


@pytest.mark.parametrize("content", ["{}", "[broken", '{"model_cfg": {"embed_dim": "768"}}', "[]"])
def test_another_configuration_is_refused(tmp_path: Path, content: str) -> None:
    own(tmp_path)
    (tmp_path / "own-embeddings" / "open_clip_config.json").write_text(content)
    with pytest.raises(BackendUnavailable, match="no configuration of OpenCLIP"):
        OpenClipEmbedder(models_dir=tmp_path, checkpoint="own", **CPU)


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("model_cfg", {"quick_gelu": False}, r"says quick_gelu: \[False\].*trained with \[True\]"),
        ("preprocess_cfg", {"mean": [0.5, 0.5, 0.5]}, r"says mean: .*0\.5"),
        ("preprocess_cfg", {"std": [1.0, 1.0, 1.0]}, "says std: "),
    ],
)
def test_published_weights_work_and_see_as_they_were_trained(
    tmp_path: Path, part: str, change: Any, said: str
) -> None:
    embeddings.make_open_clip(tmp_path)
    path = tmp_path / registry.CLIP_VIT_L_14.folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config[part].update(change)
    path.write_text(json.dumps(config))
    with any_digest(), pytest.raises(BackendUnavailable, match=said):
        OpenClipEmbedder(models_dir=tmp_path, **CPU)
    config[part].pop(next(iter(change)))
    if part == "preprocess_cfg":
        # What is not said is OpenAI's.
        path.write_text(json.dumps(config))
        with any_digest():
            assert OpenClipEmbedder(models_dir=tmp_path, **CPU)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    own(tmp_path)
    path = tmp_path / "own-embeddings" / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["vision_cfg"]["layers"] = 3
    path.write_text(json.dumps(config))
    with pytest.raises(BackendUnavailable, match=r"cannot be loaded.*of one"):
        OpenClipEmbedder(models_dir=tmp_path, checkpoint="own", **CPU)


def test_siglip_without_its_tokenizer_is_refused(models_dir: Path, tmp_path: Path) -> None:
    embeddings.make_siglip(tmp_path)
    tokenizer = tmp_path / registry.SIGLIP_B_16.folder / "tokenizer.json"
    tokenizer.unlink()
    with pytest.raises(BackendUnavailable, match=r"there is no .*tokenizer\.json"):
        OpenClipEmbedder(models_dir=tmp_path, checkpoint="siglip_b_16", **CPU)
    # Of one's own weights it is not in the list of files: the backend misses it itself.
    own_folder = tmp_path / "own-embeddings"
    (tmp_path / registry.SIGLIP_B_16.folder).rename(own_folder)
    with pytest.raises(BackendUnavailable, match=r"need the tokenizer of timm/ViT-B-16-SigLIP"):
        OpenClipEmbedder(models_dir=tmp_path, checkpoint="own", **CPU)
    tokenizer = own_folder / "tokenizer.json"
    tokenizer.write_text("{}")
    with pytest.raises(BackendUnavailable, match="holds no tokenizer"):
        OpenClipEmbedder(models_dir=tmp_path, checkpoint="own", **CPU)


def test_another_file_than_the_recorded_one_is_refused(models_dir: Path, tmp_path: Path) -> None:
    embeddings.make_open_clip(tmp_path)
    entry = {f"{registry.CLIP_VIT_L_14.folder}/open_clip_config.json": {"sha256": "0" * 64, "size_bytes": 1}}
    (tmp_path / LOCK_FILE).write_text(json.dumps({"format": 1, "files": entry}))
    with pytest.raises(BackendUnavailable, match="expected 0000"):
        OpenClipEmbedder(models_dir=tmp_path, **CPU)
    with any_digest():
        OpenClipEmbedder(models_dir=tmp_path, **CPU)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"checkpoint": "vit_h_14"}, "checkpoint: expected one of vit_l_14"),
        ({"precision": "int8"}, "precision: expected one of"),
        ({"compile": "maybe"}, "compile: expected one of"),
        ({"batch_size": -1}, "batch_size: expected 0 or more"),
        ({"batch_size": 2.5}, "batch_size: expected a whole number, got 2.5"),
        ({"device": "gpu9"}, "device: expected auto, cpu"),
    ],
)
def test_wrong_settings_are_named_before_weights_are_read(
    tmp_path: Path, settings: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        OpenClipEmbedder(models_dir=tmp_path, **{**CPU, **settings})


def test_the_command_line_finds_clips_by_words_in_the_space_of_the_profile(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from ego_assets.cli import app
    from ego_assets.project import Project
    from ego_assets.schema.clip import Clip
    from ego_assets.settings import load_settings
    from resources.embeddings import EmbeddingIndex

    profile = tmp_path / "mine.yaml"
    settings = {"backend": "open_clip", "settings": {**CPU, "checkpoint": "siglip_b_16"}}
    profile.write_text(json.dumps({"backends": {"embeddings": settings}}))
    for name, value in (("DATA_DIR", tmp_path), ("MODELS_DIR", models_dir), ("PROFILE", profile)):
        monkeypatch.setenv(f"EGO_{name}", str(value))
    load_settings.cache_clear()
    embedder = OpenClipEmbedder(models_dir=models_dir, checkpoint="siglip_b_16", **CPU)
    project = Project(load_settings())
    index = EmbeddingIndex(project.database)
    texts = ["a person pours water from a kettle", "white walls"]
    clips = [Clip(clip_id=str(uuid.uuid4()), source_name="clip.mp4") for _ in texts]
    for clip_, vector in zip(clips, embedder.embed_texts(texts), strict=True):
        project.database.add_clip(clip_)
        index.put(clip_.clip_id, Embedding(embedder.space, vector), data_version="d" * 64)
    try:
        done = CliRunner().invoke(app, ["similar", "--text", texts[1], "--json"])
    finally:
        load_settings.cache_clear()
    found = json.loads(done.stdout)
    assert found["space"] == embedder.space
    assert [row["clip_id"] for row in found["similar"]] == [clips[1].clip_id, clips[0].clip_id]
    assert found["similar"][0]["similarity"] == pytest.approx(1, abs=1e-3)
