"""After the privacy pass originals are out of reach: by import, through what a layer is handed, and by purpose."""

from __future__ import annotations

import inspect
import logging
import types
import uuid
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ego_assets.assets import ENRICHMENT, LAYERS, PRIVACY_CHAIN
from ego_assets.execution import ClipWork, Services
from ego_assets.schema.clip import Clip
from ego_assets.schema.errors import ConfigurationError
from ego_assets.schema.layers import LayerSpec
from ego_assets.schema.vocabulary import VaultPurpose
from ego_assets.settings import Settings
from ego_assets_tests.unit.test_architecture import imported, modules, within
from resources.database import Database
from resources.intake import Intake
from resources.platform import open_vault
from resources.storage import ArtifactStore
from resources.vault import Vault

#: Modules from which the vault can be had.
WAYS_IN = (
    "resources.vault",
    "resources.keys",
    "resources.intake",
    "resources.platform",
    "ego_assets.project",
)

AFTER_THE_PRIVACY_PASS = [spec for spec, _ in LAYERS if not spec.reads_original]
CLIP = str(uuid.UUID(int=1, version=4))


class NoModels:
    """No layer is run here."""

    def detector(self, task: str) -> Any:
        raise NotImplementedError(task)

    def settings(self, tasks: Any) -> dict[str, Any]:
        return {}


@pytest.fixture
def services(tmp_path: Path) -> Services:
    """Everything that a layer after the privacy pass may be handed."""
    settings = Settings(data_dir=tmp_path / "data")
    database = Database(settings.database)
    database.upgrade()
    database.add_clip(Clip(clip_id=CLIP, source_name="clip.mp4"))
    return Services(
        settings=settings, database=database, store=ArtifactStore(settings.store), models=NoModels()
    )


def work_of(spec: LayerSpec, services: Services) -> ClipWork:
    clip = services.database.clip(CLIP)
    return ClipWork(spec=spec, clip=clip, services=services, run_id="", log=logging.getLogger("test"))


def attributes(value: Any, *, private: bool) -> Iterator[tuple[str, Any]]:
    """What can be had from an object: attributes, properties, bound objects and closures of functions."""
    if isinstance(value, dict):
        yield from ((f"[{key!r}]", item) for key, item in value.items())
        return
    if isinstance(value, list | tuple | set | frozenset):
        yield from ((f"[{number}]", item) for number, item in enumerate(value))
        return
    if isinstance(value, types.MethodType):
        yield "__self__", value.__self__
    if isinstance(value, types.FunctionType):
        cells = inspect.getclosurevars(value).nonlocals
        yield from ((f"<{name}>", item) for name, item in cells.items())
        return
    for name in dir(value):
        # Pydantic warns of its own `model_` attributes.
        if name.startswith(("__", "model_")) or (name.startswith("_") and not private):
            continue
        try:
            yield f".{name}", getattr(value, name)
        except Exception:
            continue  # A property that refuses gives nothing.


def reachable(root: Any, *, private: bool) -> Iterator[tuple[str, Any]]:
    """Everything that leads from an object to another, without what belongs to other packages."""
    seen: set[int] = set()
    kept: list[Any] = []
    queue = deque([("work", root)])
    while queue:
        path, value = queue.popleft()
        if id(value) in seen or path.count(".") > 6:
            continue
        seen.add(id(value))
        kept.append(value)
        yield path, value
        own = isinstance(value, dict | list | tuple | set | frozenset | types.MethodType | types.FunctionType)
        module = type(value).__module__
        if own or within(module, "ego_assets") or within(module, "resources") or module == __name__:
            queue.extend((path + step, found) for step, found in attributes(value, private=private))


@pytest.mark.parametrize("spec", AFTER_THE_PRIVACY_PASS, ids=lambda spec: spec.name)
def test_no_attribute_of_its_work_leads_to_the_vault(spec: LayerSpec, services: Services) -> None:
    work = work_of(spec, services)
    # Even what is private: there is no vault behind it.
    found = list(reachable(work, private=True))
    assert len(found) > 100, "nothing was searched"
    assert not [path for path, value in found if isinstance(value, Vault | Intake)]
    vault = str(services.settings.vault)
    told = [path for path, value in reachable(work, private=False) if isinstance(value, str | Path)]
    assert told, "nothing was searched"
    assert not [
        path
        for path, value in reachable(work, private=False)
        if isinstance(value, str | Path) and vault in str(value)
    ]


def test_the_search_finds_a_vault_that_is_there(services: Services) -> None:
    vault = open_vault(services.settings, services.database)
    spec, _ = PRIVACY_CHAIN[0]
    work = work_of(spec, replace(services, vault=vault, intake=Intake(services.database, vault)))
    paths = [path for path, value in reachable(work, private=True) if isinstance(value, Vault)]
    assert any("_services" in path for path in paths)
    public = [value for _, value in reachable(work, private=False)]
    assert any(isinstance(value, Intake) for value in public)
    assert str(services.settings.vault) in {str(value) for value in public}


@pytest.mark.parametrize("spec", AFTER_THE_PRIVACY_PASS, ids=lambda spec: spec.name)
@pytest.mark.parametrize("purpose", list(VaultPurpose))
def test_no_purpose_opens_an_original_afterwards(
    spec: LayerSpec, purpose: VaultPurpose, services: Services
) -> None:
    # Handed the vault by mistake, it still may not.
    handed = replace(services, vault=open_vault(services.settings, services.database))
    with pytest.raises(ConfigurationError, match="no access to the vault"):
        work_of(spec, handed).open_original(purpose)
    assert services.database.audit_log() == []


@pytest.mark.parametrize("layer", ENRICHMENT, ids=lambda layer: layer[0].name)
def test_nothing_that_an_enrichment_layer_imports_leads_to_the_vault(layer: Any) -> None:
    paths = dict(modules())
    frontier, seen = [layer[1].__module__], set()
    while frontier:
        name = frontier.pop()
        if name in seen or name not in paths:
            continue
        seen.add(name)
        names = imported(paths[name], runtime_only=True)
        wrong = [n for n in names if any(within(n, way) for way in WAYS_IN)]
        assert not wrong, f"{name} imports {wrong}"
        source = paths[name].read_text()
        assert "import_module" not in source and "__import__" not in source, f"{name} imports by name"
        frontier += [n for n in names if within(n, "ego_assets") or within(n, "resources")]
    assert {"ego_assets.execution", layer[1].__module__} <= seen


def test_an_original_cannot_be_opened_without_a_purpose() -> None:
    for opener in (Vault.open, ClipWork.open_original):
        purpose = inspect.signature(opener).parameters["purpose"]
        assert purpose.default is inspect.Parameter.empty, "there is no purpose by default"
        assert "VaultPurpose" in str(purpose.annotation)
    assert inspect.signature(Vault.open).parameters["purpose"].kind is inspect.Parameter.KEYWORD_ONLY
    assert {purpose.value for purpose in VaultPurpose} == {
        "ingest",
        "raw_quality",
        "deidentify",
        "review",
        "verification",
    }


def test_only_the_vault_opens_files_below_its_folder() -> None:
    # The folder is known to the settings, to the wiring, and to whoever measures its disk or says where it is.
    users = {
        name
        for name, path in modules()
        if "settings.vault" in path.read_text() and not within(name, "ego_assets.settings")
    }
    assert users <= {
        "ego_assets.commands.vault",
        "ego_assets.project",
        "ego_assets.doctor",
        "ego_assets.incidents",
        "resources.platform",
    } | {make.__module__ for spec, make in LAYERS if spec.reads_original}
