"""Dependencies point one way, and importing the definitions loads no model."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: What each package of the project may import from the project.
ALLOWED = {
    "ego_assets.schema": {"ego_assets.schema"},
    "ego_assets.media": {"ego_assets.schema", "ego_assets.media"},
    "ego_assets.quality": {"ego_assets.schema", "ego_assets.quality"},
    "ego_assets.privacy": {"ego_assets.schema", "ego_assets.media", "ego_assets.privacy"},
    "ego_assets.geometry": {"ego_assets.schema", "ego_assets.geometry"},
    "ego_assets.labels": {
        "ego_assets.schema",
        "ego_assets.media",
        "ego_assets.geometry",
        "ego_assets.labels",
    },
    "ego_assets.gates": {"ego_assets.schema", "ego_assets.quality", "ego_assets.gates"},
    "ego_assets.curation": {"ego_assets.schema", "ego_assets.quality", "ego_assets.curation"},
    "ego_assets.delivery": {
        "ego_assets.schema",
        "ego_assets.media",
        "ego_assets.curation",
        "ego_assets.delivery",
    },
    "ego_assets.synth": {"ego_assets.schema", "ego_assets.media", "ego_assets.synth"},
    # Backends without weights are thin covers of domain code.
    "resources": {
        "ego_assets.schema",
        "ego_assets.media",
        "ego_assets.geometry",
        "ego_assets.labels",
        "resources",
    },
}

DOMAIN = [name for name in ALLOWED if name.startswith("ego_assets.") and name != "ego_assets.schema"]

#: The modules that may know Dagster.
DAGSTER_MODULES = {
    "ego_assets.assets",
    "ego_assets.backfills",
    "ego_assets.batching",
    "ego_assets.definitions",
    "ego_assets.event_pictures",
    "ego_assets.jobs",
    "ego_assets.partitions",
    "ego_assets.project",
    "ego_assets.sensors",
    "resources.platform",
}

#: The modules that may touch the vault: the vault itself, its wiring, and the layers up to the privacy pass.
VAULT_MODULES = {
    "ego_assets.execution",
    "ego_assets.project",
    "resources.intake",
    "resources.platform",
    "resources.vault",
}

#: Files that deliveries ship: they run where the platform is not.
SHIPPED = {"ego_assets.delivery.egodata", "ego_assets.delivery.ego_clips"}

NETWORK = {"socket", "http", "urllib.request", "requests", "httpx", "aiohttp", "boto3", "ftplib"}


def modules() -> Iterator[tuple[str, Path]]:
    for package in ("ego_assets", "resources"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imported(path: Path, *, runtime_only: bool = False) -> set[str]:
    """Absolute names of everything a module imports, also inside functions."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    skipped: set[int] = set()
    if runtime_only:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                skipped |= {id(child) for child in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
    return found


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_packages_import_only_what_they_may(package: str) -> None:
    checked = 0
    for name, path in modules():
        if not within(name, package) or name == "resources.platform":
            continue
        checked += 1
        # `from ego_assets import __version__` is free for all.
        own = {n for n in imported(path) if within(n, "ego_assets") or within(n, "resources")} - {
            "ego_assets"
        }
        wrong = {n for n in own if not any(within(n, allowed) for allowed in ALLOWED[package])}
        assert not wrong, f"{name} must not import {sorted(wrong)}"
    assert checked, f"{package} has no modules: correct ALLOWED"


@pytest.mark.parametrize("package", DOMAIN)
def test_domain_packages_know_neither_dagster_nor_network(package: str) -> None:
    for name, path in modules():
        if within(name, package) and name not in SHIPPED:
            names = imported(path)
            assert not any(within(n, "dagster") for n in names), f"{name} imports dagster"
            assert not any(within(n, other) for n in names for other in NETWORK), f"{name} uses the network"


def test_only_the_edge_imports_dagster() -> None:
    users = {name for name, path in modules() if any(within(n, "dagster") for n in imported(path))}
    outside = {name for name in users if not any(within(name, allowed) for allowed in DAGSTER_MODULES)}
    assert not outside


def test_no_enrichment_module_can_reach_the_vault() -> None:
    from ego_assets.assets import LAYERS

    readers = {make.__module__ for spec, make in LAYERS if spec.reads_original}
    assert readers == {
        "ego_assets.assets.raw_clip",
        "ego_assets.assets.clip_quality",
        "ego_assets.assets.blurred_video",
    }
    for name, path in modules():
        imports = imported(path, runtime_only=True)
        may_reach = any(within(name, module) for module in VAULT_MODULES)
        if not may_reach:
            ways = ("resources.vault", "resources.intake")
            assert not any(within(n, way) for n in imports for way in ways), name
        if name not in readers and not may_reach:
            assert "open_original" not in path.read_text(), f"{name} opens originals"


def test_only_layers_up_to_the_privacy_pass_require_the_vault() -> None:
    from ego_assets.definitions import defs

    repository = defs.get_repository_def()
    for asset in repository.assets_defs_by_key.values():
        needs = "vault" in asset.required_resource_keys
        reads = asset.key.to_user_string() in {"raw_clip", "clip_quality", "blurred_video"}
        assert needs == reads, f"{asset.key} requires {sorted(asset.required_resource_keys)}"


def test_definitions_load_no_model_and_no_heavy_library() -> None:
    code = (
        "import json, sys\n"
        "import ego_assets.definitions\n"
        "heavy = ['torch', 'mediapipe', 'onnxruntime', 'av', 'pandas', 'matplotlib', 'skimage', 'rapidocr']\n"
        "print(json.dumps([name for name in heavy if name in sys.modules]))\n"
    )
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    )
    assert json.loads(out.stdout.splitlines()[-1]) == []
