"""Weights that ship in no package: where they are looked for, what is checked, and what profiles demand of them."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ego_assets.schema.errors import BackendUnavailable, ConfigurationError
from ego_assets.settings import Settings
from resources.models import registry
from resources.models.backends import BACKENDS
from resources.models.registry import (
    EGOBLUR_FACES,
    HYPERLPR_PLATES,
    RAFT_SMALL,
    RETINAFACE_MOBILENET,
    YOLO_PLATES,
)
from resources.models.weights import locate, weights_digest
from resources.platform import ProfileModels, build_resources
from resources.profiles import (
    PROTOCOLS,
    BackendConfig,
    Profile,
    backend_report,
    build_backend,
    load_profile,
)

ROOT = Path(__file__).resolve().parents[3]


def put(folder: Path, file: str, content: bytes = b"weights") -> Path:
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_supplied_file_is_found_and_its_digest_known(tmp_path: Path) -> None:
    path = put(tmp_path, EGOBLUR_FACES.file)
    assert locate(EGOBLUR_FACES, tmp_path) == path
    assert weights_digest(path) == hashlib.sha256(b"weights").hexdigest()


def test_a_changed_file_has_another_digest(tmp_path: Path) -> None:
    path = put(tmp_path, "net.onnx")
    before = weights_digest(path)
    put(tmp_path, "net.onnx", b"another")
    os.utime(path, ns=(1, 1))
    assert weights_digest(path) != before


def test_a_stated_digest_is_demanded(tmp_path: Path) -> None:
    for card, advice in (
        (RETINAFACE_MOBILENET, "run `ego-assets models pull retinaface-mobilenet`"),
        (HYPERLPR_PLATES, "get it again from"),
    ):
        put(tmp_path, card.file)
        with pytest.raises(BackendUnavailable, match=f"expected {card.sha256}.*{advice}"):
            locate(card, tmp_path)


def test_a_missing_file_says_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(
        BackendUnavailable, match=rf"projectaria.*put it there as {EGOBLUR_FACES.file}; EGO_MODELS_DIR"
    ):
        locate(EGOBLUR_FACES, tmp_path)
    with pytest.raises(BackendUnavailable, match="set EGO_MODELS_DIR to that folder"):
        locate(EGOBLUR_FACES)
    with pytest.raises(BackendUnavailable, match=r"Run `ego-assets models pull raft-small`, or put it there"):
        locate(RAFT_SMALL, tmp_path)


def test_only_supplied_files_may_have_no_digest() -> None:
    with pytest.raises(ValueError, match="sha256"):
        dataclasses.replace(registry.CENTERFACE, files=(registry.ModelFile(path="centerface.onnx"),))


def test_the_folder_comes_from_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings(data_dir=tmp_path).models == tmp_path / "models"
    monkeypatch.setenv("EGO_MODELS_DIR", str(tmp_path / "weights"))
    settings = Settings(data_dir=tmp_path)
    assert settings.models == tmp_path / "weights"
    assert build_resources(settings)["models"].models_dir == str(tmp_path / "weights")


def test_the_folder_reaches_the_backend(tmp_path: Path) -> None:
    profile = Profile(name="mine", backends={"plates": BackendConfig(backend="hyperlpr")})
    with pytest.raises(BackendUnavailable, match=f"there is no {tmp_path / 'y5fu_640x_sim.onnx'}"):
        ProfileModels(profile, models_dir=tmp_path).detector("plates")
    with pytest.raises(BackendUnavailable, match="set EGO_MODELS_DIR"):
        build_backend(profile, "plates")


def test_every_reference_backend_is_reported_with_what_to_do(tmp_path: Path) -> None:
    rows = {(row.task, row.backend): row for row in backend_report(tmp_path)}
    for specs in BACKENDS.values():
        for spec in specs.values():
            if not spec.from_models_dir:
                continue
            row = rows[spec.task, spec.backend]
            assert not row.available
            assert "pip install 'ego-assets[reference]'" in row.detail or "EGO_MODELS_DIR" in row.detail


def test_a_backend_with_its_files_is_available(tmp_path: Path) -> None:
    put(tmp_path, YOLO_PLATES.file)
    rows = {(row.task, row.backend): row for row in backend_report(tmp_path)}
    assert rows["plates", "yolo_plates"].available
    assert rows["plates", "yolo_plates"].detail == "YOLO number plates (not stated)"


def test_the_report_of_a_profile_judges_with_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resources.profiles.building.is_installed", lambda package: True)
    own = {"checkpoint": "own", "licence": "bought"}
    backends = {
        "plates": BackendConfig(backend="yolo_plates", settings={"licence": "my own"}),
        "embeddings": BackendConfig(
            backend="open_clip",
            settings={"checkpoint": "siglip_b_16"},
            fallbacks=(BackendConfig(backend="open_clip", settings=own),),
        ),
    }
    put(tmp_path, YOLO_PLATES.file)
    for file in registry.OWN_CHECKPOINTS["embeddings"][0].files:
        put(tmp_path, f"own-embeddings/{file.path}")
    rows = backend_report(tmp_path, profile=Profile(name="mine", backends=backends))
    [plates] = [row for row in rows if row.backend == "yolo_plates"]
    assert (plates.role, plates.detail) == ("used", "YOLO number plates (my own)")
    used, fallback = [row for row in rows if row.backend == "open_clip"]
    assert (used.role, used.checkpoint, used.available) == ("used", "siglip_b_16", False)
    assert "models pull siglip-vit-b-16" in used.detail
    assert (fallback.role, fallback.detail) == ("fallback", "own CLIP (bought)")
    assert {row.role for row in rows if row.task == "depth"} == {"other"}


def test_weights_that_the_profile_does_not_use_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resources.profiles.building.is_installed", lambda package: True)
    read: list[Path] = []
    monkeypatch.setattr("resources.models.weights.weights_digest", lambda path: read.append(path) or "0" * 64)
    put(tmp_path, RAFT_SMALL.file)
    settings = {"checkpoint": "small"}
    profile = Profile(name="mine", backends={"flow": BackendConfig(backend="raft", settings=settings)})
    put(tmp_path, YOLO_PLATES.file)
    backend_report(tmp_path, profile=profile)
    supplied = {path for path in read if path.is_relative_to(tmp_path)}
    assert supplied == {tmp_path / RAFT_SMALL.file}


def test_the_reference_profile_serves_each_task() -> None:
    profile = load_profile("reference")
    served = {task: config.backend for task, config in profile.backends.items()}
    assert set(served) == set(PROTOCOLS)
    # Either is a choice of its own: docs/models.md compares them.
    assert served.pop("flow") in BACKENDS["flow"]
    assert served == {
        "faces": "retinaface_resnet50",
        "text": "paddleocr",
        "plates": "yolo_plates",
        "depth": "depth_anything_v2",
        "masks": "sam2",
        "hands": "hands_100doh",
        "actions": "videomae",
        "captions": "transformers_vlm",
        "embeddings": "open_clip",
    }


def test_the_reference_profile_shows_the_defaults() -> None:
    import importlib
    import inspect

    for task, config in load_profile("reference").backends.items():
        spec = BACKENDS[task][config.backend]
        backend_class = getattr(importlib.import_module(spec.module), spec.class_name)
        defaults = {name: p.default for name, p in inspect.signature(backend_class).parameters.items()}
        assert config.settings == {name: defaults[name] for name in spec.settings}


def test_commercial_use_needs_the_users_word_for_their_own_weights() -> None:
    silent = {"plates": BackendConfig(backend="yolo_plates")}
    with pytest.raises(
        ConfigurationError, match=r"licence is not stated.*licence_permits_commercial_use: true"
    ):
        Profile(name="mine", backends=silent, commercial_use=True)
    stated = BackendConfig(backend="yolo_plates", settings={"licence_permits_commercial_use": True})
    assert Profile(name="mine", backends={"plates": stated}, commercial_use=True).commercial_use


def test_importing_the_backends_imports_no_heavy_library() -> None:
    modules = sorted({spec.module for specs in BACKENDS.values() for spec in specs.values()})
    heavy = {"torch", "torchvision", "transformers", "sam2", "open_clip", "retinaface", "paddleocr", "paddle"}
    code = (
        f"import importlib, sys; [importlib.import_module(name) for name in {modules!r}];"
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_weights_that_the_work_needs_are_read_before_it(tmp_path: Path) -> None:
    put(tmp_path, HYPERLPR_PLATES.file)
    put(tmp_path, RAFT_SMALL.file)
    profile = Profile(
        name="mine",
        backends={
            "plates": BackendConfig(backend="hyperlpr"),
            "depth": BackendConfig(backend="depth_from_motion"),
            "flow": BackendConfig(backend="raft", settings={"checkpoint": "small"}),
            "actions": BackendConfig(backend="motion_rules"),
        },
    )
    models = ProfileModels(profile, models_dir=tmp_path)
    models.require_intact({"actions"})
    with pytest.raises(BackendUnavailable, match=HYPERLPR_PLATES.name):
        models.require_intact({"plates", "actions"})
    # Depth has no weights of its own: those of the flow that it uses count.
    with pytest.raises(BackendUnavailable, match=r"RAFT small.*expected"):
        models.require_intact({"depth"})
