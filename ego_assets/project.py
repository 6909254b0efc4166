"""A project on this machine, as the command line drives it: settings, database, store and Dagster."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ego_assets.assembling import DeliveryMaker
from ego_assets.delivering import DATASET, DELIVERY_NAME
from ego_assets.disk import require_space
from ego_assets.execution import (
    PROFILE_DETAIL,
    LayerState,
    Services,
    layers_done_without,
    listen_to_progress,
)
from ego_assets.planning import ClipPlan, plan_clip
from ego_assets.schema.embeddings import EMBEDDINGS_LAYER
from ego_assets.schema.errors import ArtifactCorrupted, ArtifactMissing, TransientError
from ego_assets.schema.gates import GateOutcome
from ego_assets.schema.layers import COMPLETED, LayerSpec
from ego_assets.settings import Settings

if TYPE_CHECKING:
    from dagster import DagsterEvent, DagsterInstance, Definitions

    from ego_assets.schema.artifact import ArtifactDocument
    from ego_assets.schema.clip import Clip
    from ego_assets.schema.embeddings import Embedding
    from resources.buckets import ObjectInfo
    from resources.database import Database
    from resources.intake import Intake
    from resources.storage import ArtifactStore
    from resources.uploads import BucketUploads
    from resources.vault import Vault

#: The code location, under the same name as in pyproject.toml and workspace.yaml of the checkout: schedules and
#: sensors keep their state by that name.
WORKSPACE = {
    "load_from": [{"python_module": {"module_name": "ego_assets.definitions", "location_name": "ego_assets"}}]
}

#: Keeps Dagster's own log off the terminal; all of it is in the instance's event log.
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}

#: Called with (layer, fraction of the clip's pending layers that is done).
LayerListener = Callable[[str, float], None]


@dataclass(frozen=True, kw_only=True)
class ClipStatus:
    """One line of the status table.

    Attributes:
        clip_id: The clip.
        name: Name of the uploaded file.
        collector_id: Who wore the camera.
        processing_status: Derived status; empty before ingest.
        privacy_status: How far de-identification has come.
        passed: Number of gates passed.
        warned: Number of gates that warned.
        failed: Number of gates failed.
        not_evaluated: Number of gates that could not be judged.
        score: Quality score, or ``None`` before the manifest.
        layers: Committed layers that were not given up, in the order of the chain.
        pending: Layers that the next run will make.
        notes: What a person should know: why it stopped, what warned and what to do.
    """

    clip_id: str
    name: str
    collector_id: str
    processing_status: str
    privacy_status: str
    passed: int
    warned: int
    failed: int
    not_evaluated: int
    score: float | None
    layers: tuple[str, ...]
    pending: tuple[str, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The line for ``--json``."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class ClipRun:
    """How the run of one clip ended."""

    clip_id: str
    success: bool
    run_id: str
    error: str = ""


class Project:
    """Everything below one data folder, and the Dagster instance beside it.

    Args:
        settings: The settings.
        profile_is_named: Whether their profile was named for this very command.
    """

    def __init__(self, settings: Settings, *, profile_is_named: bool = False) -> None:
        self.settings = settings
        self.profile_is_named = profile_is_named

    @cached_property
    def specs(self) -> tuple[LayerSpec, ...]:
        """All layers, in the order of the chain."""
        from ego_assets.assets import LAYERS

        return tuple(sorted((spec for spec, _ in LAYERS), key=lambda spec: spec.stage))

    @cached_property
    def database(self) -> Database:
        """The metadata database."""
        from resources.platform import open_database

        return open_database(self.settings)

    @cached_property
    def store(self) -> ArtifactStore:
        """The artifact store."""
        from resources.platform import open_store

        return open_store(self.settings)

    @cached_property
    def vault(self) -> Vault:
        """The vault."""
        from resources.platform import open_vault

        return open_vault(self.settings, self.database)

    @cached_property
    def intake(self) -> Intake:
        """The way into the vault."""
        from resources.platform import open_intake

        return open_intake(self.settings, self.database, self.vault)

    @cached_property
    def deliveries(self) -> DeliveryMaker:
        """Makes deliveries."""
        return DeliveryMaker(settings=self.settings, database=self.database, store=self.store)

    @cached_property
    def services(self) -> Services:
        """The services that need no vault, for estimates."""
        from resources.platform import open_models

        return Services(
            settings=self.settings,
            database=self.database,
            store=self.store,
            models=open_models(self.settings.profile, self.settings.models),
        )

    def services_with_vault(self) -> Services:
        """The services of the layers that may open originals."""
        return replace(self.services, vault=self.vault, intake=self.intake)

    @cached_property
    def definitions(self) -> Definitions:
        """The Dagster definitions for these settings."""
        from ego_assets.definitions import build_definitions

        return build_definitions(self.settings)

    @cached_property
    def instance(self) -> DagsterInstance:
        """The Dagster instance that `ego-assets ui` shows.

        Runs of the command line print nothing that needs capturing, and the capture would take over the
        terminal: its copy of the settings leaves compute logs out.
        """
        from dagster import DagsterInstance

        home = prepare_dagster_home(self.settings)
        overrides = yaml.safe_load((home / "dagster.yaml").read_text()) or {}
        overrides["compute_logs"] = {
            "module": "dagster._core.storage.noop_compute_log_manager",
            "class": "NoOpComputeLogManager",
        }
        staged = home / f".command_line.{os.getpid()}.yaml"
        staged.write_text(yaml.safe_dump(overrides))
        staged.replace(home / "command_line.yaml")
        instance = DagsterInstance.from_config(str(home), "command_line.yaml")
        _limit_gpu_pool(instance)
        return instance

    def plans(
        self,
        clips: Sequence[Clip] | None = None,
        *,
        retry_failed: bool = False,
        leave: Collection[str] = (),
    ) -> list[ClipPlan]:
        """What is left to do, clip by clip; arguments as of :func:`ego_assets.planning.plan_clip`."""
        return [
            plan_clip(
                clip.clip_id,
                self.specs,
                database=self.database,
                store=self.store,
                retry_failed=retry_failed,
                leave=leave,
            )
            for clip in (self.database.clips() if clips is None else clips)
        ]

    def tried_with_other_profiles(
        self, clip_id: str, layers: Collection[str], *, retry_failed: bool = False
    ) -> dict[str, str]:
        """Which of some pending layers were last tried with another profile and not made.

        A profile that was named for this very command was chosen for whatever it makes: then there are none.

        Args:
            clip_id: The clip.
            layers: Its layers that a run would make.
            retry_failed: Whether the run tries layers again that failed or were given up.

        Returns:
            Layer to the other profile.
        """
        if self.profile_is_named or not layers:
            return {}
        tried_again = {LayerState.POSTPONED}
        if retry_failed:
            tried_again |= {LayerState.FAILED, LayerState.BLOCKED, LayerState.GIVEN_UP}
        waiting = {
            state.layer
            for state in self.database.layer_states(clip_id)
            if state.layer in layers and state.state in tried_again
        }
        if not waiting:
            return {}
        present = self.settings.profile_place
        tried = {
            gate.layer: str(gate.details.get(PROFILE_DETAIL, present))
            for gate in self.database.gates(clip_id)
            if gate.gate == COMPLETED and gate.layer in waiting
        }
        return {layer: profile for layer, profile in tried.items() if profile != present}

    def ingest(self, root: Path, path: Path, given: Mapping[str, Any]) -> Clip:
        """Copy one video into the vault and register it as a clip.

        Args:
            root: Folder that the path is described relative to.
            path: The video.
            given: Fields that win over the sidecar, under their names in a sidecar.

        Raises:
            UploadRejected: It cannot be accepted; the message says why.
        """
        clip = self.register_and_take(root, path, given)
        self.add_partitions([clip.clip_id])
        return clip

    def register_and_take(self, root: Path, path: Path, given: Mapping[str, Any]) -> Clip:
        """As :meth:`ingest`, without telling Dagster."""
        from ego_assets.media.uploads import describe_upload, parse_fields

        description = describe_upload(root, path)
        if given:
            fields = {**description.fields, **parse_fields(given, source="the options")}
            description = replace(description, fields=fields)
        # What goes to a bucket is prepared in a temporary folder.
        require_space(
            Path(tempfile.gettempdir()) if self.settings.vault_url else self.settings.vault,
            description.size_bytes,
            reserve_bytes=self.settings.free_disk_reserve_bytes,
            what=f"The copy of {description.source_name!r} in the vault",
        )
        clip = self.intake.register(description, upload_uri=path.absolute().as_uri())
        if not clip.raw_key:
            clip = self.intake.take(clip.clip_id, path, move=False, actor="cli:ingest")
        return clip

    def objects_at(self, url: str) -> tuple[BucketUploads, list[ObjectInfo]]:
        """The objects of a bucket that can be ingested, with the access to them: one, or all below a prefix."""
        from resources.platform import open_uploads

        return open_uploads(self.settings).found(url)

    def ingest_object(self, uploads: BucketUploads, info: ObjectInfo, given: Mapping[str, Any]) -> Clip:
        """As :meth:`ingest`, for an object of a bucket, where it stays.

        Raises:
            UploadRejected: It cannot be accepted; the message says why.
            TransientError: The bucket does not answer.
        """
        from ego_assets.media.uploads import parse_fields

        facts = uploads.describe(info)
        fields = parse_fields(given, source="the options")
        facts = replace(facts, fields={**facts.fields, **fields})
        clip = self.intake.register(facts, upload_uri=uploads.uri(info.key))
        clip = self.intake.take_upload(clip.clip_id, actor="cli:ingest", move=False, given=fields)
        self.add_partitions([clip.clip_id])
        return clip

    def release(self, clip_id: str) -> None:
        """Let a clip go on that ``hold_flagged`` stopped."""
        with self.database.transaction():
            self.database.update_clip(clip_id, held=False, held_reason="")
            self.database.write_audit(actor="cli:release", action="release", clip_id=clip_id)

    def reindex(self) -> int:
        """Rebuild the indexes of artifacts and embeddings from the store; returns how many artifacts there are."""
        from resources.embeddings import EmbeddingIndex

        # A damaged document has no place in the index; its layer is made again with the next run.
        readable = self.store.documents(on_error=lambda error: None)
        documents = [(document, self.store.uri(document)) for document in readable]
        # Read before the transaction: while it lasts, nobody else can write.
        embeddings = list(self._stored_embeddings(documents))
        with self.database.transaction():
            self.database.replace_artifact_index(documents)
            EmbeddingIndex(self.database).rebuild(embeddings)
        return len(documents)

    def _stored_embeddings(
        self, documents: Sequence[tuple[ArtifactDocument, str]]
    ) -> Iterator[tuple[str, Embedding, str]]:
        """Clip, vector and data version of every committed embedding that can be used."""
        from ego_assets.labels.embeddings import read_embedding

        left_out = {
            state.clip_id
            for state in self.database.layer_states()
            if state.layer == EMBEDDINGS_LAYER and layers_done_without([state])
        }
        for document, _ in documents:
            if document.layer == EMBEDDINGS_LAYER and document.clip_id not in left_out:
                # What is damaged, or was refused by its gate, has no place in the index either.
                with suppress(ArtifactCorrupted, ArtifactMissing, KeyError, ValueError):
                    content = self.store.read_bytes(document, "embedding.parquet")
                    yield document.clip_id, read_embedding(content).embedding, document.data_version

    def status(
        self, *, collector_id: str | None = None, clip_ids: Sequence[str] | None = None
    ) -> list[ClipStatus]:
        """One line per clip."""
        clips = self.database.clips(collector_id=collector_id)
        if clip_ids:
            clips = [clip for clip in clips if clip.clip_id in clip_ids]
        gates: dict[str, list[Any]] = {clip.clip_id: [] for clip in clips}
        for gate in self.database.gates():
            if gate.clip_id in gates:
                gates[gate.clip_id].append(gate)
        return [
            self._status_line(clip, plan, gates[clip.clip_id])
            for clip, plan in zip(clips, self.plans(clips), strict=True)
        ]

    def _status_line(self, clip: Clip, plan: ClipPlan, gates: Sequence[Any]) -> ClipStatus:
        counts = Counter(gate.outcome for gate in gates)
        order = [spec.name for spec in self.specs]
        committed = {artifact.layer for artifact in self.database.artifacts(clip.clip_id)}
        states = self.database.layer_states(clip.clip_id)
        committed -= layers_done_without(states)
        notes = [state.reason for state in states if state.state == LayerState.DAMAGED]
        notes += [plan.reason] if plan.reason else []
        if not plan.reason:
            notes += [
                f"{gate.layer}: {gate.message}"
                for gate in gates
                if gate.outcome in (GateOutcome.WARNED, GateOutcome.FAILED)
            ]
        return ClipStatus(
            clip_id=clip.clip_id,
            name=clip.source_name,
            collector_id=clip.collector_id,
            processing_status=clip.processing_status.value if clip.processing_status else "",
            privacy_status=clip.privacy_status.value,
            passed=counts[GateOutcome.PASSED],
            warned=counts[GateOutcome.WARNED],
            failed=counts[GateOutcome.FAILED],
            not_evaluated=counts[GateOutcome.NOT_EVALUATED],
            score=clip.quality_score,
            layers=tuple(name for name in order if name in committed),
            pending=tuple(plan.pending),
            notes=tuple(notes),
        )

    def result_paths(self) -> dict[str, str]:
        """Where the newest delivery and the report are."""
        paths = {}
        made = [delivery for delivery in self.database.deliveries() if delivery.name == DELIVERY_NAME]
        if made:
            paths["delivery"] = made[-1].uri
        report = self.settings.reports / "quality_report.html"
        if report.exists():
            paths["report"] = str(report)
        return paths

    def left_out_of_delivery(self) -> Mapping[str, str]:
        """Clips that may not be delivered now, with the reason."""
        return self.deliveries.select(DATASET).left_out

    def require_intact_models(self, layers: Collection[str]) -> None:
        """Stop before anything starts when weights that these layers load were damaged or replaced.

        Raises:
            BackendUnavailable: The message names the file and what to do.
        """
        from resources.platform import open_models

        tasks = {task for spec in self.specs if spec.name in layers for task in spec.tasks}
        open_models(self.settings.profile, self.settings.models).require_intact(tasks)

    def require_disk_space(self, work: Sequence[tuple[str, Sequence[str]]]) -> None:
        """Stop before anything starts when the disk cannot hold the results.

        Raises:
            InsufficientDisk: The message says how much is needed and how much there is.
        """
        from ego_assets.batching import estimating

        folder = self.store.local_root
        if folder is None:
            return
        specs = {spec.name: spec for spec in self.specs}
        settings = estimating(self.services, self.specs)
        clips = {clip_id: self.database.clip(clip_id) for clip_id, _ in work}
        require_space(
            folder,
            sum(
                specs[layer].estimate_bytes(clips[clip_id], settings)
                for clip_id, layers in work
                for layer in layers
            ),
            reserve_bytes=self.settings.free_disk_reserve_bytes,
            what=f"{len(work)} clip(s)",
        )

    def add_partitions(self, clip_ids: Sequence[str]) -> None:
        """Make clips known to Dagster."""
        from ego_assets.partitions import add_partitions

        add_partitions(self.instance, list(clip_ids))

    def run_clip(
        self, clip_id: str, layers: Sequence[str], *, on_progress: LayerListener | None = None
    ) -> ClipRun:
        """Run some layers of one clip in this process, as one Dagster run.

        Args:
            clip_id: The clip.
            layers: Names of the layers, in any order.
            on_progress: Hears how far the run is.
        """
        from dagster import AssetKey

        from ego_assets.jobs import PROCESS_CLIP_JOB

        job = self.definitions.resolve_job_def(PROCESS_CLIP_JOB)
        done: set[str] = set()

        def heard(layer: str, clip: str, units: int, total: int) -> None:
            if on_progress is not None:
                inside = min(units / total, 1.0) if total else 0.0
                on_progress(layer, (len(done) + inside) / len(layers))

        def step_event(event: DagsterEvent) -> None:
            if event.is_step_success or event.is_step_failure or event.is_step_skipped:
                done.add(event.step_key or "")
            if on_progress is not None and event.step_key:
                on_progress(event.step_key, len(done) / len(layers))

        with listen_to_progress(heard), self._step_events(step_event) as run_id:
            result = job.execute_in_process(
                instance=self.instance,
                partition_key=clip_id,
                asset_selection=[AssetKey(layer) for layer in layers],
                raise_on_error=False,
                run_id=run_id,
                run_config=_QUIET,
            )
        _raise_interrupt(result.all_events)
        return ClipRun(
            clip_id=clip_id,
            success=result.success,
            run_id=result.run_id,
            error=_step_errors(result.all_events),
        )

    def may_run(self, clip: Clip, layers: Sequence[str]) -> bool:
        """Whether these layers of a clip may be made: nothing stopped it before the first of them."""
        from ego_assets.batching import ancestors_of

        specs = {spec.name: spec for spec in self.specs}
        first = min((specs[name] for name in layers), key=lambda spec: spec.stage)
        essential = [name for name in ancestors_of(first.name, specs) if specs[name].essential]
        standing = self.database.standing(clip.clip_id)
        return standing.refusal(inputs=essential, held_stops=not first.runs_when_held) is None

    def request_backfill(self, layers: Sequence[str], clip_ids: Sequence[str], *, only: bool) -> str:
        """Ask the daemon to make layers of some clips anew; returns the backfill's id.

        Args:
            layers: The layers.
            clip_ids: The clips.
            only: Leave out what depends on the layers.
        """
        from ego_assets.backfills import request_backfill

        chosen = set(layers)
        if not only:
            for spec in self.specs:
                if chosen.intersection((*spec.inputs, *spec.optional_inputs)):
                    chosen.add(spec.name)
        self.add_partitions(clip_ids)
        return request_backfill(
            self.instance,
            self.definitions,
            layers=[spec.name for spec in self.specs if spec.name in chosen],
            clip_ids=clip_ids,
            title=f"Reprocess {', '.join(layers)}",
        )

    def run_collection(self) -> str:
        """Rebuild what is made over the whole collection; returns what went wrong, or nothing."""
        from ego_assets.jobs import COLLECTION_JOB

        result = self.definitions.resolve_job_def(COLLECTION_JOB).execute_in_process(
            instance=self.instance, raise_on_error=False, run_config=_QUIET
        )
        _raise_interrupt(result.all_events)
        return _step_errors(result.all_events)

    def delivery_is_current(self) -> bool:
        """Whether the default delivery is there and holds what may be delivered now, and no other needs correcting."""
        present = {
            chosen.clip.clip_id: dict(chosen.data_versions)
            for chosen in self.deliveries.select(DATASET).clips
        }
        made = [delivery for delivery in self.database.deliveries() if delivery.name == DELIVERY_NAME]
        if not made or not Path(made[-1].uri).is_dir():
            return False
        if not self._is_published(Path(made[-1].uri)) or self.deliveries.outdated():
            return False
        delivered = self.database.delivery_clips(made[-1].id)
        return present == {clip.clip_id: dict(clip.data_versions) for clip in delivered}

    def _is_published(self, folder: Path) -> bool:
        """Whether the bucket holds a whole copy of a delivery, where one is set."""
        if not self.settings.deliveries_url:
            return True
        from resources.deliveries import PublishedDeliveries

        published = PublishedDeliveries(self.settings.deliveries_url, self.settings.store_access)
        try:
            return published.is_published(folder)
        except TransientError:
            # The delivery is asked for once more, and says why the bucket cannot be reached.
            return False

    @contextmanager
    def _step_events(self, listener: Callable[[DagsterEvent], None]) -> Iterator[str]:
        """Let ``listener`` hear the step events of a run; yields the id that the run must have."""
        run_id = str(uuid.uuid4())

        def heard(entry: Any) -> None:
            if entry.dagster_event is not None and entry.dagster_event.is_step_event:
                listener(entry.dagster_event)

        self.instance.add_event_listener(run_id, heard)
        yield run_id


def _raise_interrupt(events: Sequence[DagsterEvent]) -> None:
    """Dagster turns Ctrl-C into a failed step; make it Ctrl-C again.

    Raises:
        KeyboardInterrupt: The run was interrupted.
    """
    for event in events:
        error = event.step_failure_data.error if event.is_step_failure else None
        if error is not None and error.cls_name in ("RunInterrupted", "DagsterExecutionInterruptedError"):
            raise KeyboardInterrupt


def _step_errors(events: Sequence[DagsterEvent]) -> str:
    """Why the steps of a run failed, in words for people."""
    errors = []
    for event in events:
        if event.is_step_failure:
            failure = event.step_failure_data
            described = failure.user_failure_data.description if failure.user_failure_data else None
            errors.append(described or failure.error_display_string)
    return "\n".join(errors)


def dagster_home(settings: Settings) -> Path:
    """``DAGSTER_HOME`` where it is set, otherwise a folder beside the data."""
    configured = os.environ.get("DAGSTER_HOME")
    return Path(configured) if configured else settings.dagster_home


def prepare_dagster_home(settings: Settings) -> Path:
    """Make the instance's folder, with the project's ``dagster.yaml`` where there is none."""
    home = dagster_home(settings)
    home.mkdir(parents=True, exist_ok=True)
    target = home / "dagster.yaml"
    if not target.exists():
        target.write_text(_default_instance_settings())
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def prepare_ui(settings: Settings) -> None:
    """Make the instance's folder and its limits, before Dagster's own processes open it."""
    from dagster import DagsterInstance

    with DagsterInstance.from_config(str(prepare_dagster_home(settings))) as instance:
        _limit_gpu_pool(instance)


def _limit_gpu_pool(instance: DagsterInstance) -> None:
    """Let one layer at a time run on the GPU, unless somebody chose another limit.

    Dagster's settings file knows one limit for all pools; single ones live in its database.
    """
    from ego_assets.batching import GPU_POOL

    storage = instance.event_log_storage
    chosen = {limit.name for limit in storage.get_pool_limits() if not limit.from_default}
    if GPU_POOL not in chosen:
        storage.set_concurrency_slots(GPU_POOL, 1)


def write_workspace(settings: Settings) -> Path:
    """Write the workspace file that `ego-assets ui` opens; it lies beside the data, not in ``DAGSTER_HOME``."""
    settings.root.mkdir(parents=True, exist_ok=True)
    path = settings.root / "workspace.yaml"
    path.write_text(yaml.safe_dump(WORKSPACE))
    return path


def _default_instance_settings() -> str:
    """The ``dagster.yaml`` of the checkout, or the copy inside the installed package."""
    package = Path(__file__).resolve().parent
    for candidate in (package.parent / "dagster.yaml", package / "dagster.yaml"):
        if candidate.exists():
            return candidate.read_text()
    return "telemetry:\n  enabled: false\n"
