"""Runs one layer on one clip: checks that it may run, retries, judges, commits and records.

Nothing here knows about Dagster; :mod:`ego_assets.batching` turns the outcomes into events.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from ego_assets.ladder import AllAttemptsFailed
from ego_assets.schema.artifact import ArtifactDocument
from ego_assets.schema.clip import PRIVACY_LAYER, BlurredClip, Clip
from ego_assets.schema.corrections import CORRECTIONS_INPUT, Correction, corrections_version
from ego_assets.schema.detections import BackendInfo, RegionDetector
from ego_assets.schema.embeddings import EMBEDDINGS_LAYER, Embedding
from ego_assets.schema.errors import (
    ArtifactCorrupted,
    ArtifactMissing,
    ClipErased,
    ClipRefused,
    ConfigurationError,
    DuplicateUpload,
    EgoAssetsError,
    UnknownClip,
)
from ego_assets.schema.gates import GateOutcome, GateResult
from ego_assets.schema.ladder import Rung
from ego_assets.schema.layers import COMPLETED, LayerSpec
from ego_assets.schema.vocabulary import ReviewKind, ReviewRisk, VaultPurpose
from ego_assets.settings import same_profile_command

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ego_assets.lookahead import Lookahead
    from ego_assets.media.sampling import SampledFrames
    from ego_assets.schema.hands import HandObjectTracks
    from ego_assets.schema.motion import CameraMotion
    from ego_assets.settings import EnrichmentSettings, Settings
    from resources.corrections import CorrectionLog
    from resources.database import Database, GateRecord, LayerStateRecord
    from resources.intake import Intake
    from resources.storage import ArtifactStore, StagedLayer
    from resources.vault import Vault

#: Who listens to the progress of the layer that runs: (layer, clip_id, done, total).
ProgressListener = Callable[[str, str, int, int], None]
progress_listener: ContextVar[ProgressListener | None] = ContextVar("progress_listener", default=None)

#: Errors of the disk and its mount, whoever met them: a full or read-only disk says nothing about a clip.
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})
#: Errors of the machine where the interpreter met them; from a codec they may come from the clip.
_MACHINE_ERRORS = _DISK_ERRORS | {
    errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT,
}  # fmt: skip


#: Folder below the data folder with a note for every layer that is being made.
RUNNING_FOLDER = "running"
#: So many processes may die in a row while they make a layer of a clip, before it counts as failed.
MAX_DEATHS = 3
#: A note that is older tells nothing any more.
NOTE_AGE_S = 30 * 24 * 3600.0


#: Detail of the gate ``completed`` of a layer that was not made, or that a gate refused: the profile that it was tried
#: with, for layers that run its backends.
PROFILE_DETAIL = "profile"

#: Said of a layer that was postponed although it had been made before.
EARLIER_VERSION_UNUSED = "Its earlier version is not used until it is made again."


class ProcessDied(EgoAssetsError):
    """Whoever made a layer of a clip was ended at once, time after time."""

    def __init__(self, layer: str, clip_id: str, deaths: int, *, settings: Settings) -> None:
        super().__init__(
            f"{layer} of clip {clip_id} was being made {deaths} times in a row when the process was ended at once: it "
            "probably needs more memory than there is, or its video crashes a decoder. Give it more memory and use "
            f"`{same_profile_command(f'run --retry-failed --clip {clip_id}', settings)}`."
        )


class Models(Protocol):
    """Hands out the backends of the active profile; a backend is loaded once per process."""

    def detector(self, task: str, *, leak_check: bool = False) -> RegionDetector:
        """The detection backend for ``faces``, ``text`` or ``plates``; or the one for the leak check."""
        ...

    def ladder(self, task: str) -> Sequence[Rung[Any]]:
        """The attempts at an enrichment task, in order, as implementations of the task's protocol in ``schema``."""
        ...

    def frames_per_second(self, task: str) -> float | None:
        """Rate at which the profile wants a task to look at a clip; ``None`` for every frame."""
        ...

    def settings(self, tasks: Iterable[str], *, leak_check: bool = False) -> Mapping[str, Mapping[str, Any]]:
        """The settings of the tasks' backends, for the records; or of those for the leak check."""
        ...

    def give_back_memory(self, *, keep_networks: bool) -> None:
        """Give unused memory of a GPU back, and unless they are kept, that of loaded networks."""
        ...


class LayerState(StrEnum):
    """How a layer ended on a clip."""

    COMMITTED = "committed"
    BLOCKED = "blocked"
    GIVEN_UP = "given_up"
    #: Not made for now, because something around it was out of reach; the next run tries again.
    POSTPONED = "postponed"
    #: Made and judged, but its files do not match their digests any more; the next run makes it again.
    DAMAGED = "damaged"
    FAILED = "failed"
    REFUSED = "refused"


@dataclass(frozen=True, kw_only=True)
class ReviewRequest:
    """A layer asks for a person to look at the clip."""

    kind: ReviewKind
    risk: ReviewRisk
    reason: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LayerDraft:
    """What a layer function made, before it is judged and published.

    Attributes:
        gates: Verdicts of the layer's own gates.
        config: Settings that decided the result, JSON-serialisable.
        backends: Models that took part.
        attempts: What a fallback ladder tried and why it was refused.
        counts: Plain numbers for the artifact document.
        resolution: Width and height that rasters and boxes refer to.
        clip_updates: Columns of the clip's row to set once the gates let the clip pass.
        reviews: Reasons for a person to look.
        corrections: What the next attempt has to cover, where this one was refused.
        facts: What a reader has to know before using the files, such as the unit of depth; JSON-serialisable. Delivered
            in ``metadata.json``.
        metadata: Plain values to show in the UI.
        pictures: Files of the artifact to show in the UI, by title; each below 50 KB.
        embedding: The clip's vector, for the database; ``None`` in all layers but the one of embeddings.
    """

    gates: Sequence[GateResult] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    backends: tuple[BackendInfo, ...] = ()
    attempts: tuple[Mapping[str, Any], ...] = ()
    counts: Mapping[str, float] = field(default_factory=dict)
    resolution: tuple[int, int] | None = None
    clip_updates: Mapping[str, Any] = field(default_factory=dict)
    reviews: Sequence[ReviewRequest] = ()
    corrections: Sequence[Correction] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, str] = field(default_factory=dict)
    embedding: Embedding | None = None


@dataclass(frozen=True, kw_only=True)
class LayerOutcome:
    """How one layer ended on one clip, with everything the UI shows of it."""

    clip_id: str
    state: LayerState
    reason: str = ""
    gates: tuple[GateResult, ...] = ()
    document: ArtifactDocument | None = None
    draft: LayerDraft | None = None
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    attempts: int = 1
    duration_s: float = 0.0
    #: What kind of error kept it from being made, where one did.
    error: type[Exception] | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the layer is there and everything was judged that decides whether it can be used."""
        judged = all(
            verdict.outcome is not GateOutcome.NOT_EVALUATED
            for verdict in self.gates
            if verdict.spec.blocking
        )
        return self.state is LayerState.COMMITTED and judged

    @property
    def lets_clip_pass(self) -> bool:
        """Whether later layers may go on with the clip."""
        stops = any(verdict.spec.name == COMPLETED and verdict.blocks for verdict in self.gates)
        return not stops and self.state in (LayerState.COMMITTED, LayerState.GIVEN_UP, LayerState.POSTPONED)


@dataclass(frozen=True, kw_only=True)
class Services:
    """The surroundings of a layer. ``vault`` and ``intake`` are present only up to the privacy pass.

    ``lookahead`` gets the next clip's frames ready, in runs over many clips whose layer runs on a GPU.
    """

    settings: Settings
    database: Database
    store: ArtifactStore
    models: Models
    vault: Vault | None = None
    intake: Intake | None = None
    lookahead: Lookahead | None = None

    @property
    def corrections(self) -> CorrectionLog:
        """What people ordered to be covered."""
        from resources.corrections import CorrectionLog

        return CorrectionLog(self.database)


def layers_done_without(states: Iterable[LayerStateRecord]) -> set[str]:
    """Layers of a clip that it goes on without; an older version of one that may still be there is no input."""
    return {state.layer for state in states if state.state in (LayerState.GIVEN_UP, LayerState.POSTPONED)}


def input_versions(
    spec: LayerSpec,
    documents: Mapping[str, ArtifactDocument | None],
    corrections: Sequence[Correction],
) -> dict[str, str]:
    """Data versions of what a layer is made from: its declared inputs and, where it follows them, corrections.

    Args:
        spec: The layer.
        documents: Committed layers by name; ``None`` and absent ones are left out. None of them was given up.
        corrections: All orders for the clip.
    """
    versions = {
        name: document.data_version
        for name in (*spec.inputs, *spec.optional_inputs)
        if (document := documents.get(name)) is not None
    }
    if spec.follows_corrections and corrections:
        versions[CORRECTIONS_INPUT] = corrections_version(corrections)
    return versions


class ClipWork:
    """One layer's view of one clip: its inputs, its services and nothing it must not touch.

    Args:
        spec: The layer.
        clip: The clip.
        services: Surroundings.
        run_id: Dagster run, for the records.
        log: Where to log.
        orders: Corrections of the clip as they were before it was asked whether the clip may go on; by default
            as they are now.
    """

    def __init__(
        self,
        *,
        spec: LayerSpec,
        clip: Clip,
        services: Services,
        run_id: str,
        log: logging.Logger,
        orders: Sequence[Correction] | None = None,
    ) -> None:
        self.spec = spec
        self.clip = clip
        self.run_id = run_id
        self.log = log
        self.database = services.database
        self.store = services.store
        self.models = services.models
        self._services = services
        declared = (*spec.inputs, *spec.optional_inputs)
        # Read before the inputs: an order that comes in between is found missing when the layer is published.
        self._orders = tuple(services.corrections.of_clip(clip.clip_id) if orders is None else orders)
        states = services.database.layer_states(clip.clip_id)
        left_out = layers_done_without(states)
        self._damaged = {state.layer: state.reason for state in states if state.state == LayerState.DAMAGED}
        present = {
            name: services.store.document(clip.clip_id, name) for name in declared if name not in left_out
        }
        self._inputs = {name: document for name, document in present.items() if document is not None}

    @property
    def input_versions(self) -> Mapping[str, str]:
        """Data versions of the declared inputs and of the corrections, as they are when the layer starts."""
        return input_versions(self.spec, self._inputs, self._orders)

    @property
    def corrections(self) -> tuple[Correction, ...]:
        """What people ordered to be covered, oldest first, for a layer that follows corrections.

        Raises:
            ConfigurationError: The layer does not declare that it follows them.
        """
        if not self.spec.follows_corrections:
            raise ConfigurationError(f"Layer {self.spec.name} does not declare that it follows corrections.")
        return self._orders

    def require_present_orders(self) -> None:
        """Refuse to go on when something was ordered to be covered since the layer started.

        What the layer made may show it then, whichever of its inputs it came from. Layers before the privacy
        pass are never shown, and go on.

        Raises:
            ClipRefused: There are new orders.
        """
        if self.spec.reads_original and not self.spec.follows_corrections:
            return
        if len(self._services.corrections.of_clip(self.clip.clip_id)) != len(self._orders):
            raise ClipRefused(
                f"Clip {self.clip.clip_id}: while {self.spec.name} ran, a person ordered something to be "
                f"covered, so what it made is dropped. Use `{self._command('run')}`."
            )

    def require_intact_inputs(self) -> None:
        """Compare the inputs with their digests when the layer failed: damaged files are no failure of the layer.

        A damaged input is recorded as such, so that the next run makes it again.

        Raises:
            ClipRefused: An input is damaged; the message names its file.
        """
        damaged = []
        for layer, document in self._inputs.items():
            try:
                self.store.verify(document)
            except ArtifactCorrupted as damage:
                record_damage(self.database, self.clip.clip_id, layer, str(damage), run_id=self.run_id)
                damaged.append(str(damage))
        if damaged:
            raise ClipRefused(f"Clip {self.clip.clip_id}: {self.spec.name} was not made: {' '.join(damaged)}")

    def _command(self, arguments: str) -> str:
        """A command as it is typed to get the profile of this run."""
        return same_profile_command(arguments, self._services.settings)

    @property
    def settings(self) -> EnrichmentSettings:
        """The settings that every layer may see: no folder of originals among them."""
        return self._services.settings.for_enrichment()

    @property
    def platform_settings(self) -> Settings:
        """All settings, up to the privacy pass."""
        if not self.spec.reads_original:
            raise ConfigurationError(f"Layer {self.spec.name} has no access to the platform's folders.")
        return self._services.settings

    @property
    def intake(self) -> Intake:
        """The way into the vault, for the ingest layer only."""
        if not self.spec.reads_original or self._services.intake is None:
            raise ConfigurationError(f"Layer {self.spec.name} has no access to the vault.")
        return self._services.intake

    def progress(self, done: int, total: int) -> None:
        """Report how far the layer is."""
        listener = progress_listener.get()
        if listener is not None:
            listener(self.spec.name, self.clip.clip_id, done, total)

    def input(self, layer: str) -> ArtifactDocument:
        """The committed version of an input layer.

        Raises:
            ClipRefused: It was not made yet, or not judged: this layer comes too early.
            ArtifactMissing: It was given up, so this layer cannot be made either.
        """
        document, refused = self._judged(layer)
        if refused:
            raise ArtifactMissing(
                f"Clip {self.clip.clip_id}: {self.spec.name} needs {layer}, which was given up: {refused}"
            )
        if document is None:
            raise ClipRefused(
                f"Clip {self.clip.clip_id}: {self.spec.name} needs {layer}, which has no committed version. "
                f"Materialize {layer} first, or use `{self._command('run')}`."
            )
        return document

    def optional_input(self, layer: str) -> ArtifactDocument | None:
        """The committed version of a layer, or ``None`` where there is none or it was given up.

        Raises:
            ClipRefused: Its committed version was not judged.
        """
        document, refused = self._judged(layer)
        return None if refused else document

    def _judged(self, layer: str) -> tuple[ArtifactDocument | None, str]:
        """The committed version of a layer, and why it was given up; an empty text where it was not."""
        if layer not in (*self.spec.inputs, *self.spec.optional_inputs):
            raise ConfigurationError(f"Layer {self.spec.name} does not declare {layer} as an input.")
        if layer in self._damaged:
            raise ClipRefused(
                f"Clip {self.clip.clip_id}: {self.spec.name} needs {layer}, which has to be made again first: "
                f"{self._damaged[layer]}"
            )
        document = self._inputs.get(layer)
        verdicts = self.database.gates(self.clip.clip_id, layer)
        refused = [
            verdict.message
            for verdict in verdicts
            if verdict.blocks or (verdict.gate == COMPLETED and verdict.outcome == GateOutcome.FAILED)
        ]
        if refused:
            return document, " ".join(refused)
        if document is not None and {verdict.data_version for verdict in verdicts} != {document.data_version}:
            raise ClipRefused(
                f"Clip {self.clip.clip_id}: {self.spec.name} needs {layer}, whose committed version was not "
                f"judged: the run that made it was interrupted. Materialize {layer} again, or use "
                f"`{self._command('run')}`."
            )
        return document, ""

    def read_json(self, document: ArtifactDocument, name: str) -> Any:
        """A JSON file of a committed layer."""
        return json.loads(self.store.read_bytes(document, name))

    def blurred(self) -> BlurredClip:
        """The de-identified clip; refused while the clip is not de-identified."""
        document = self.input(PRIVACY_LAYER)

        def local_path(name: str) -> AbstractContextManager[Path]:
            return self.store.local_path(document, name)

        return BlurredClip(clip=self.clip, artifact=document, local_path=local_path)

    def frames_per_second(self, task: str) -> float | None:
        """Rate at which a task looks at the clip; ``None`` for every frame."""
        rates = self.settings.layer_frames_per_second
        return rates[task] if task in rates else self.models.frames_per_second(task)

    @contextlib.contextmanager
    def sampled_frames(self, frames_per_second: float | None) -> Iterator[SampledFrames]:
        """The frames of the de-identified video on a time grid, ``None`` for every frame; reports progress."""
        from ego_assets.media.sampling import sample_frames

        settings = self.settings
        name = "video.mp4" if settings.enrichment_input == "full" else "proxy.mp4"
        blurred, lookahead = self.blurred(), self._services.lookahead
        if lookahead is not None:
            with lookahead.open(
                blurred.artifact,
                name,
                frames_per_second=frames_per_second,
                progress=self.progress,
                decoder=settings.decoder,
            ) as sampled:
                yield sampled
            return
        with blurred.local_path(name) as path:
            yield sample_frames(
                path,
                frames_per_second=frames_per_second,
                progress=self.progress,
                decoder=settings.decoder,
            )

    def camera_motion(self, resolution: tuple[int, int]) -> tuple[CameraMotion, npt.NDArray[np.int64]]:
        """How the camera moved, on every frame of the video, in pixels of pictures of this size.

        Returns:
            The motion, and ``int64 [N]``, the presentation times of the frames in nanoseconds.

        Raises:
            ArtifactMissing: An older version made the privacy layer, without it.
        """
        from ego_assets.media.motion_table import MOTION_FILE, read_motion

        document = self.blurred().artifact
        if MOTION_FILE not in {entry.name for entry in document.files}:
            raise ArtifactMissing(
                f"Clip {self.clip.clip_id}: its {PRIVACY_LAYER} has no {MOTION_FILE}, because an older version made "
                f"it. Make it again: `{self._command(f'run --layer {PRIVACY_LAYER} --again')}`."
            )
        return read_motion(self.store.read_bytes(document, MOTION_FILE), resolution=resolution)

    def hand_tracks(self) -> HandObjectTracks | None:
        """The wearer's hands, for a layer that declares ``hand_object``; ``None`` where it was not made."""
        from ego_assets.labels.hand_object import read_tracks

        document = self.optional_input("hand_object")
        return None if document is None else read_tracks(partial(self.store.read_bytes, document))

    def open_original(self, purpose: VaultPurpose) -> AbstractContextManager[BinaryIO]:
        """Open the original for a stated purpose; audited, and impossible after the privacy pass."""
        if not self.spec.reads_original or self._services.vault is None:
            raise ConfigurationError(f"Layer {self.spec.name} has no access to the vault.")
        return self._services.vault.open(
            self.clip.clip_id, purpose=purpose, actor=f"asset:{self.spec.name}", run_id=self.run_id
        )


#: Makes one layer of one clip: writes files into the staged folder and returns what to judge and record.
LayerFunction = Callable[[ClipWork, "StagedLayer"], LayerDraft]


def run_layer(
    spec: LayerSpec,
    make: LayerFunction,
    clip_id: str,
    *,
    services: Services,
    run_id: str,
    log: logging.Logger,
    ancestors: Sequence[str],
    sleep: Callable[[float], None] = time.sleep,
) -> LayerOutcome:
    """Run one layer on one clip and record how it ended.

    Failures of the clip are part of the outcome. Only failures of the surroundings that prevent
    recording it (the database is gone, for instance) are raised. Two runs never make the same layer of the same clip
    at once: the second one waits for the first.

    Args:
        spec: The layer.
        make: Its function.
        clip_id: The clip.
        services: Surroundings; the vault is handed on only where ``spec.reads_original``.
        run_id: Dagster run, for the records.
        log: Where to log.
        ancestors: Essential layers upstream; a failed blocking gate of any of them refuses the clip.
        sleep: Waits between retries.
    """
    with contextlib.ExitStack() as held:
        return _run_layer(
            spec,
            make,
            clip_id,
            services=services,
            run_id=run_id,
            log=log,
            ancestors=ancestors,
            sleep=sleep,
            held=held,
        )


def _run_layer(
    spec: LayerSpec,
    make: LayerFunction,
    clip_id: str,
    *,
    services: Services,
    run_id: str,
    log: logging.Logger,
    ancestors: Sequence[str],
    sleep: Callable[[float], None],
    held: contextlib.ExitStack,
) -> LayerOutcome:
    """As :func:`run_layer`; at its end the caller gives back what is ``held``: the layer of this clip."""
    started = time.monotonic()
    retry, is_held = 0, False
    while True:
        try:
            if not is_held:
                _hold(spec, clip_id, services.database, log=log, held=held)
                is_held, started = True, time.monotonic()
                deaths = held.enter_context(_noted(spec, clip_id, services.settings.root / RUNNING_FOLDER))
                if deaths >= MAX_DEATHS:
                    raise ProcessDied(spec.name, clip_id, deaths, settings=services.settings)
            # Before every attempt: while the last one ran, the clip may have been withdrawn. An incident that is
            # opened after this question is noticed by the order it adds, which is why orders are read first.
            orders = services.corrections.of_clip(clip_id)
            clip = _require_may_go_on(spec, clip_id, services.database, ancestors=ancestors)
            work = ClipWork(spec=spec, clip=clip, services=services, run_id=run_id, log=log, orders=orders)
            return _attempt(work, make, services, attempts=retry + 1, started=started)
        except (ClipRefused, DuplicateUpload, UnknownClip) as error:
            log.error("%s: %s", spec.name, error)
            return LayerOutcome(clip_id=clip_id, state=LayerState.REFUSED, reason=str(error))
        except Exception as error:
            expected = isinstance(error, EgoAssetsError)
            worth_retrying = error.transient if isinstance(error, EgoAssetsError) else True
            if worth_retrying and retry < spec.retry.max_retries:
                retry += 1
                delay = spec.retry.delay_before(retry)
                log.warning(
                    "%s of clip %s failed (%s: %s); retry %d of %d in %.1f s",
                    spec.name, clip_id, type(error).__name__, error, retry, spec.retry.max_retries, delay,
                )  # fmt: skip
                sleep(delay)
                continue
            log.error("%s of clip %s failed: %s", spec.name, clip_id, error, exc_info=not expected)
            try:
                return _record_failure(
                    spec,
                    clip_id,
                    error,
                    services=services,
                    run_id=run_id,
                    attempts=retry + 1,
                    started=started,
                )
            except ClipErased as erased:
                # It was taken away from under the layer: nothing is recorded of it any more.
                return LayerOutcome(clip_id=clip_id, state=LayerState.REFUSED, reason=str(erased))


def _hold(
    spec: LayerSpec, clip_id: str, database: Database, *, log: logging.Logger, held: contextlib.ExitStack
) -> None:
    """Keep other runs from making this layer of this clip at the same time, until ``held`` is closed.

    Each run makes what it was asked for, one after the other: of equal work the store keeps one version.
    """
    name = f"layer {spec.name} of clip {clip_id}"
    if not held.enter_context(database.exclusive(name, wait=False)):
        log.info("%s of clip %s is being made by another run; waiting for it", spec.name, clip_id)
        held.enter_context(database.exclusive(name))


@contextlib.contextmanager
def _noted(spec: LayerSpec, clip_id: str, folder: Path) -> Iterator[int]:
    """Leave a note on this machine while a layer is made; yields how many processes in a row left theirs behind.

    What ends a process at once (the kernel for want of memory, a crash inside a codec) would otherwise meet the same
    clip again in every run, and no clip after it would ever get its turn.
    """
    note = folder / f"{clip_id}.{spec.name}"
    deaths = 0
    # A disk that takes no note takes no layer either, which says why.
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with note.open("ab") as file:
            deaths = file.tell()
            file.write(b".")
    try:
        yield deaths
    finally:
        with contextlib.suppress(OSError):
            note.unlink(missing_ok=True)


def forget_notes(folder: Path, *, older_than_s: float = NOTE_AGE_S) -> int:
    """Remove notes of layers that nobody has begun to make for so long; returns how many.

    A process that ended right after it had recorded a layer leaves one that nobody takes away.
    """
    removed = 0
    for note in folder.glob("*.*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - note.stat().st_mtime >= older_than_s:
                note.unlink()
                removed += 1
    return removed


def _require_may_go_on(
    spec: LayerSpec, clip_id: str, database: Database, *, ancestors: Sequence[str]
) -> Clip:
    """The clip, as it is now.

    Raises:
        UnknownClip: It is not registered.
        ClipRefused: It may not go on.
    """
    standing = database.standing(clip_id)
    refusal = standing.refusal(inputs=ancestors, held_stops=not spec.runs_when_held)
    if refusal is not None:
        raise ClipRefused(refusal)
    return standing.clip


def _attempt(
    work: ClipWork, make: LayerFunction, services: Services, *, attempts: int, started: float
) -> LayerOutcome:
    """One attempt: make, judge, publish where the gates allow it, record."""
    spec, clip_id, database = work.spec, work.clip.clip_id, services.database
    try:
        with services.store.stage(clip_id, spec.name) as staged:
            draft = make(work, staged)
            _check_verdicts(spec, draft.gates)
            blocking = [verdict for verdict in draft.gates if verdict.blocks]
            tried_with = _profile_detail(spec, services) if blocking else {}
            gates = (spec.completed_gate.passed(f"{spec.name} was made.", **tried_with), *draft.gates)
            pictures = {title: staged.path(name).read_bytes() for title, name in draft.pictures.items()}
            document = None
            work.require_present_orders()
            if not blocking or spec.publish_when_blocked:
                document = staged.commit(
                    config=draft.config,
                    inputs=work.input_versions,
                    backends=draft.backends,
                    attempts=draft.attempts,
                    counts=draft.counts,
                    resolution=draft.resolution,
                    facts=draft.facts,
                    pictures=draft.pictures,
                )
    except Exception as error:
        # An incident takes away what is being made: the layer itself did not fail.
        work.require_present_orders()
        if not _says_nothing_about_clip(error):
            work.require_intact_inputs()
        raise
    state = LayerState.COMMITTED
    if blocking:
        state = LayerState.BLOCKED if spec.essential else LayerState.GIVEN_UP
    reason = " ".join(verdict.message for verdict in blocking)
    outcome = LayerOutcome(
        clip_id=clip_id,
        state=state,
        reason=reason,
        gates=gates,
        document=document,
        draft=draft,
        # What was not published is not shown either.
        pictures=pictures if document is not None else {},
        attempts=attempts,
        duration_s=time.monotonic() - started,
    )
    reviews = list(draft.reviews)
    if blocking:
        # Without a layer that it can do without, a clip may be delivered.
        risk = ReviewRisk.HIGH if spec.essential else ReviewRisk.NORMAL
        reviews.append(ReviewRequest(kind=ReviewKind.GATE_FAILED, risk=risk, reason=reason))
    try:
        with database.transaction():
            # Once more, now that nobody can order anything in between.
            database.lock_clip(clip_id)
            work.require_present_orders()
            _record(spec, outcome, reviews, database=database, store=services.store, run_id=work.run_id)
    except ClipRefused:
        if document is not None:
            services.store.discard(document)
        raise
    return outcome


def _record_failure(
    spec: LayerSpec,
    clip_id: str,
    error: Exception,
    *,
    services: Services,
    run_id: str,
    attempts: int,
    started: float,
) -> LayerOutcome:
    """Record a layer that could not be made: given up, or postponed, where the clip can go on without it."""
    expected = isinstance(error, EgoAssetsError)
    reason = str(error) if expected else f"{type(error).__name__}: {error}"
    if _says_nothing_about_clip(error):
        state = LayerState.POSTPONED
    else:
        state = LayerState.FAILED if spec.essential else LayerState.GIVEN_UP
    # What was published and could not be recorded is in the store all the same, so it belongs in the index.
    published = None
    with contextlib.suppress(EgoAssetsError, OSError):
        published = services.store.document(clip_id, spec.name)
    if state is LayerState.POSTPONED:
        earlier = f" {EARLIER_VERSION_UNUSED}" if published is not None else ""
        message = f"{spec.name} was postponed after {attempts} attempt(s): {reason.rstrip('.')}.{earlier}"
    else:
        message = f"{spec.name} failed after {attempts} attempt(s): {reason}"
    # Without an artifact this is where the attempts are kept.
    tried = [dict(item) for item in error.attempts] if isinstance(error, AllAttemptsFailed) else []
    gates = (
        spec.completed_gate.failed(message, tried=tried, **_profile_detail(spec, services)),
        *(gate.not_evaluated(f"{spec.name} was not made.") for gate in spec.gates),
    )
    outcome = LayerOutcome(
        clip_id=clip_id,
        state=state,
        reason=reason,
        gates=gates,
        attempts=attempts,
        duration_s=time.monotonic() - started,
        error=type(error),
    )
    review = ReviewRequest(
        kind=ReviewKind.LAYER_FAILED,
        risk=ReviewRisk.HIGH if spec.essential else ReviewRisk.NORMAL,
        reason=reason,
        details={"attempts": attempts, "tried": tried},
    )
    with services.database.transaction():
        _record(spec, outcome, [review], database=services.database, store=services.store, run_id=run_id)
        if published is not None:
            services.database.record_artifact(published, uri=services.store.uri(published))
    return outcome


def _profile_detail(spec: LayerSpec, services: Services) -> dict[str, Any]:
    """The profile, of a layer that runs its backends: commands leave the layer to it when it was not made."""
    return {PROFILE_DETAIL: services.settings.profile_place} if spec.tasks else {}


def _says_nothing_about_clip(error: Exception) -> bool:
    """Whether something around the clip failed, so that trying again later may help and nobody has to ask for it."""
    if isinstance(error, EgoAssetsError):
        return not error.about_clip
    # What codecs raise are subclasses: a broken file may make them ask for any amount of memory.
    if isinstance(error, MemoryError):
        return not _is_of_codec(error)
    return isinstance(error, OSError) and error.errno in (
        _DISK_ERRORS if _is_of_codec(error) else _MACHINE_ERRORS
    )


def _is_of_codec(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] == "av"


def record_damage(database: Database, clip_id: str, layer: str, reason: str, *, run_id: str = "") -> None:
    """Note that a committed layer does not match its digests any more, so that the next run makes it again."""
    database.record_layer_state(
        clip_id, layer, LayerState.DAMAGED.value, reason=reason, attempts=1, run_id=run_id, duration_s=0.0
    )


def _record(
    spec: LayerSpec,
    outcome: LayerOutcome,
    reviews: Sequence[ReviewRequest],
    *,
    database: Database,
    store: ArtifactStore,
    run_id: str,
) -> None:
    """Write the outcome to the metadata database, in one transaction."""
    from resources.corrections import CorrectionLog
    from resources.embeddings import EmbeddingIndex

    clip_id, document = outcome.clip_id, outcome.document
    updates: dict[str, Any] = {}
    if outcome.state is LayerState.COMMITTED and outcome.draft is not None:
        updates.update(outcome.draft.clip_updates)
    with database.transaction():
        database.record_gates(
            clip_id,
            spec.name,
            outcome.gates,
            data_version=document.data_version if document else "",
            run_id=run_id,
            replace_layer=True,
        )
        if document is not None:
            database.record_artifact(document, uri=store.uri(document))
        if spec.name == EMBEDDINGS_LAYER:
            index, committed = EmbeddingIndex(database), outcome.state is LayerState.COMMITTED
            if committed and document and outcome.draft and outcome.draft.embedding:
                index.put(clip_id, outcome.draft.embedding, data_version=document.data_version)
            else:
                # The clip goes on without the layer, an older version of it included.
                index.remove(clip_id)
        database.record_layer_state(
            clip_id,
            spec.name,
            outcome.state.value,
            reason=outcome.reason,
            attempts=outcome.attempts,
            run_id=run_id,
            duration_s=outcome.duration_s,
        )
        stopping = stopping_verdicts(database, clip_id)
        updates["failed"] = bool(stopping)
        updates["failed_reason"] = " ".join(f"{gate.layer}: {gate.message}" for gate in stopping)
        if outcome.lets_clip_pass:
            database.close_layer_reviews(clip_id, spec.name)
        for review in reviews:
            database.add_review_item(
                clip_id,
                layer=spec.name,
                kind=review.kind,
                risk=review.risk,
                reason=review.reason,
                details=review.details,
            )
        for correction in outcome.draft.corrections if outcome.draft is not None else ():
            CorrectionLog(database).add(correction)
        database.refresh_progress(clip_id, layer=spec.name, bit=spec.bit, present=outcome.is_complete)
        database.update_clip(clip_id, **updates)


def stopping_verdicts(database: Database, clip_id: str) -> list[GateRecord]:
    """The failed blocking gates of the layers that everything else depends on."""
    gates = database.gates(clip_id)
    essential = {gate.layer for gate in gates if gate.gate == COMPLETED and gate.blocking}
    return [gate for gate in gates if gate.blocks and gate.layer in essential]


def _check_verdicts(spec: LayerSpec, verdicts: Sequence[GateResult]) -> None:
    """Every gate of the layer must have been judged, once."""
    expected = sorted(gate.name for gate in spec.gates)
    got = sorted(verdict.spec.name for verdict in verdicts)
    if expected != got:
        raise ConfigurationError(f"Layer {spec.name}: expected verdicts for {expected}, got {got}.")


@contextlib.contextmanager
def listen_to_progress(listener: ProgressListener) -> Iterator[None]:
    """Let ``listener`` hear the progress of every layer that runs inside the ``with``."""
    token = progress_listener.set(listener)
    try:
        yield
    finally:
        progress_listener.reset(token)
