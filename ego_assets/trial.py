"""``ego-assets try``: any one layer on one file, outside a project."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ego_assets.batching import ancestors_of, essential_ancestors
from ego_assets.execution import (
    ClipWork,
    LayerDraft,
    LayerFunction,
    LayerOutcome,
    LayerState,
    listen_to_progress,
    run_layer,
)
from ego_assets.schema.clip import PRIVACY_LAYER
from ego_assets.schema.errors import BackendUnavailable, ConfigurationError, EgoAssetsError
from ego_assets.settings import load_settings

if TYPE_CHECKING:
    from ego_assets.schema.artifact import ArtifactDocument
    from ego_assets.schema.gates import GateResult
    from resources.storage import ArtifactStore, StagedLayer


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a layer made of one file.

    Attributes:
        files: The artifact's files and its ``artifact.json``.
        gates: Its verdicts.
        attempts: What was tried and refused before, oldest first.
    """

    files: tuple[Path, ...]
    gates: tuple[GateResult, ...]
    attempts: tuple[Mapping[str, Any], ...]

    def as_dict(self) -> dict[str, Any]:
        """The answer for ``--json``."""
        return {
            "files": [str(path) for path in self.files],
            "gates": [
                {
                    "gate": verdict.spec.name,
                    "outcome": verdict.outcome.value,
                    "blocking": verdict.spec.blocking,
                    "value": verdict.value,
                    "threshold": verdict.spec.threshold,
                    "message": verdict.message,
                }
                for verdict in self.gates
            ],
            "attempts": [dict(attempt) for attempt in self.attempts],
        }


def try_layer(
    layer: str,
    file: Path,
    out: Path,
    *,
    profile: str = "",
    already_deidentified: bool = False,
    on_progress: Callable[[str, float], None] = lambda layer, done: None,
) -> Trial:
    """Run one layer, and what it needs, on one file.

    The work happens in a temporary project that is removed afterwards, the copy of the original included.

    Args:
        layer: Name of the layer.
        file: One video.
        out: Folder for the artifact's files and its ``artifact.json``; made where it does not exist.
        profile: Profile to use instead of the configured one.
        already_deidentified: Skip detection; every document then says so.
        on_progress: Hears the name of the running layer and the share of all work that is done.

    Returns:
        The files written to ``out``, and what the gates say of them.

    Raises:
        ConfigurationError: There is no such layer, or a setting is wrong.
        BackendUnavailable: This machine lacks something that a layer needs, or cannot reach it.
        EgoAssetsError: The file was rejected, or a layer was stopped; the message says why.
    """
    from ego_assets.assets import LAYERS
    from ego_assets.project import Project

    specs = {spec.name: spec for spec, _ in LAYERS}
    if layer not in specs:
        raise ConfigurationError(f"No layer {layer!r}. There are: {', '.join(specs)}.")
    if not file.is_file():
        raise ConfigurationError(f"{file} is not a file. Give the path of one video.")
    wanted = {layer, *ancestors_of(layer, specs), *specs[layer].optional_inputs}
    chain = [(spec, make) for spec, make in LAYERS if spec.name in wanted]
    with tempfile.TemporaryDirectory(prefix="ego-assets-try-") as folder:
        update: dict[str, object] = {"data_dir": Path(folder), "database_url": "", "store_url": ""}
        update |= {"vault_dir": None, "uploads_dir": None, "deliveries_dir": None, "hold_flagged": False}
        update |= {"vault_url": "", "uploads_url": "", "uploads_queue_url": "", "deliveries_url": ""}
        # The key file of the project is not made for a trial.
        update |= {"vault_key_file": None}
        if profile:
            update["profile"] = profile
        project = Project(load_settings().model_copy(update=update))
        folder_of_file = file.parent.resolve()
        clip = project.register_and_take(folder_of_file, folder_of_file / file.name, {})
        document: ArtifactDocument | None = None
        gates: tuple[GateResult, ...] = ()
        for position, (spec, make) in enumerate(chain):

            def heard(name: str, clip_id: str, units: int, total: int, position: int = position) -> None:
                inside = min(units / total, 1.0) if total else 0.0
                on_progress(name, (position + inside) / len(chain))

            function = _without_detection(make, spec.name) if already_deidentified else make
            with listen_to_progress(heard):
                outcome = run_layer(
                    spec,
                    function,
                    clip.clip_id,
                    services=project.services_with_vault() if spec.reads_original else project.services,
                    run_id="try",
                    log=logging.getLogger("ego_assets.try"),
                    ancestors=essential_ancestors(spec.name, specs),
                )
            document, gates = outcome.document, outcome.gates
            is_there = document is not None if spec.name == layer else outcome.lets_clip_pass
            if not is_there:
                raise _failure(outcome, f"{spec.name} of {file.name}: {outcome.reason}")
        assert document is not None
        on_progress(layer, 1.0)
        files = _export(project.store, document, out)
        return Trial(files=tuple(files), gates=gates, attempts=document.attempts)


def _failure(outcome: LayerOutcome, message: str) -> EgoAssetsError:
    """Why a layer is not there: a wrong setting, something that this machine lacks, or the file."""
    if outcome.error is not None and issubclass(outcome.error, ConfigurationError):
        return ConfigurationError(message)
    if outcome.state is LayerState.POSTPONED:
        return BackendUnavailable(message)
    return EgoAssetsError(message)


def _without_detection(make: LayerFunction, layer: str) -> LayerFunction:
    """The layer's function for footage that its owner declares to be de-identified."""

    def recorded(work: ClipWork, staged: StagedLayer) -> LayerDraft:
        if layer == PRIVACY_LAYER:
            from ego_assets.assets.blurred_video import render

            draft = render(work, staged, detectors={}, leak_detectors={})
        else:
            draft = make(work, staged)
        return replace(draft, config={**draft.config, "already_deidentified": True})

    return recorded


def _export(store: ArtifactStore, document: ArtifactDocument, out: Path) -> list[Path]:
    """Copy a committed artifact and its document into a plain folder."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for entry in document.files:
        target = out / entry.name
        target.parent.mkdir(parents=True, exist_ok=True)
        with store.open(document, entry.name) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        written.append(target)
    (out / "artifact.json").write_text(document.to_json())
    return [*written, out / "artifact.json"]
