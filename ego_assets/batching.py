"""Turns layers into Dagster assets whose runs may cover any number of clips.

This is the only module that knows how a run over many clips yields events per clip. Dagster gives a
range run one output and one check result for the whole range; here every clip gets its own
materialization and its own check evaluations, one clip's failure never costs another clip its layer,
and the rules are the same for a run over one clip:

* a clip whose layer is committed and passes its blocking gates is materialized;
* a clip whose layer was given up or postponed is materialized too, with that state and the failed check,
  because later layers go on without it;
* a clip that a blocking gate of an essential layer stops gets an observation with the same metadata and
  its failed checks, and no materialization, so that backfills leave out its later layers;
* a clip that is refused (an earlier gate failed) gets nothing but a log line and a place in the error;
* when clips were stopped, the step fails at its end, unless later layers of the same run still have
  to serve the other clips; then they refuse the stopped clips, and the last step fails.

``dagster`` would add a materialization for the whole range when the asset's output is yielded, and
would skip every later step when it is not. The output is therefore yielded with the metadata key by
which Dagster recognises outputs whose events were already reported.
"""

import base64
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from dagster import (
    AssetCheckEvaluation,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetKey,
    AssetMaterialization,
    AssetObservation,
    AssetRecordsFilter,
    AssetsDefinition,
    BackfillPolicy,
    Backoff,
    DagsterError,
    DagsterExecutionInterruptedError,
    DagsterType,
    Failure,
    Jitter,
    MetadataValue,
    Nothing,
    Output,
    PreviewWarning,
    RetryPolicy,
    asset,
)
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData,
)
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    NULL_EVENT_POINTER,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION

from ego_assets.disk import require_space
from ego_assets.execution import LayerFunction, LayerOutcome, LayerState, Services, run_layer
from ego_assets.lookahead import Lookahead
from ego_assets.partitions import clip_partitions
from ego_assets.schema.errors import InsufficientDisk
from ego_assets.schema.gates import GateOutcome, GateResult
from ego_assets.schema.layers import LayerSpec
from ego_assets.settings import EnrichmentSettings

#: Clips per run of a backfill. Each stage takes one less than the stage before: assets whose policies
#: differ never share a backfill run, so a stage starts only on clips that the stage before let pass.
CLIPS_PER_RUN = 50

#: Pool of the layers that run on a GPU; one at a time, unless its limit is raised in the UI.
GPU_POOL = "gpu"

#: Nothing is handed from step to step in memory. (``Nothing`` is declared as a class, hence the cast.)
_NOTHING = cast("DagsterType", Nothing)

#: Asset events keep their thumbnails in the event row.
MAX_PICTURE_BYTES = 50_000


class RunInterrupted(DagsterError):
    """The run was terminated or met Ctrl-C. Dagster would apply the retry policy to a plain interrupt."""


def layer_asset(
    spec: LayerSpec, make: LayerFunction, *, ancestors: Sequence[str], on_gpu: bool = False
) -> AssetsDefinition:
    """The Dagster asset of a layer, with one asset check per gate.

    Args:
        spec: What the layer is.
        make: Makes it for one clip.
        ancestors: Essential layers upstream, whose blocking gates decide whether a clip may go on.
        on_gpu: Whether the profile runs it on a GPU: it then waits for the pool of the GPU, the next clip's frames are
            got ready while the present one is computed, and memory is given back at the end.
    """
    resource_keys = {"settings", "database", "store", "models"}
    if spec.reads_original:
        resource_keys.add("vault")

    with warnings.catch_warnings():
        # Partitioned checks are a preview feature; the pin to 1.13 and the tests guard it.
        warnings.simplefilter("ignore", PreviewWarning)
        check_specs = [
            AssetCheckSpec(
                name=gate.name,
                asset=AssetKey(spec.name),
                description=gate.description,
                blocking=gate.blocking,
                partitions_def=clip_partitions,
                metadata=_threshold_metadata(gate.threshold, gate.unit, gate.source),
            )
            for gate in spec.all_gates
        ]

    @asset(
        name=spec.name,
        description=spec.description,
        group_name=spec.group,
        partitions_def=clip_partitions,
        deps=[AssetKey(name) for name in (*spec.inputs, *spec.optional_inputs)],
        check_specs=check_specs,
        dagster_type=_NOTHING,
        output_required=False,
        required_resource_keys=resource_keys,
        pool=GPU_POOL if on_gpu else spec.pool,
        code_version=spec.code_version,
        # Clips are retried one by one inside the step; this covers failures of the step itself.
        retry_policy=RetryPolicy(
            max_retries=spec.retry.max_retries,
            delay=spec.retry.delay_s,
            backoff=Backoff.EXPONENTIAL,
            jitter=Jitter.PLUS_MINUS,
        ),
        backfill_policy=BackfillPolicy.multi_run(max_partitions_per_run=CLIPS_PER_RUN - spec.stage),
        kinds={"python", "video"},
    )
    def layer(context: AssetExecutionContext) -> Iterator[Any]:
        try:
            yield from _run_step(context, spec, make, ancestors=ancestors, on_gpu=on_gpu)
        except DagsterExecutionInterruptedError as interrupt:
            raise RunInterrupted(f"{spec.name} was interrupted; what is committed stays.") from interrupt

    return layer


def _run_step(
    context: AssetExecutionContext,
    spec: LayerSpec,
    make: LayerFunction,
    *,
    ancestors: Sequence[str],
    on_gpu: bool,
) -> Iterator[Any]:
    """Run the layer on every clip of the run and report each clip on its own."""
    services = _services(context, spec)
    clip_ids = list(context.partition_keys)
    try:
        require_disk_space([spec], clip_ids, services=services)
    except InsufficientDisk as error:
        raise Failure(description=str(error), allow_retries=False) from error
    if not on_gpu:
        yield from _run_clips(context, spec, make, clip_ids, services=services, ancestors=ancestors)
        return
    try:
        with Lookahead(services.store, clip_ids) as lookahead:
            services = replace(services, lookahead=lookahead)
            yield from _run_clips(context, spec, make, clip_ids, services=services, ancestors=ancestors)
    finally:
        # A single clip goes on to its next layer in this process, and the next clip comes back to this one.
        services.models.give_back_memory(keep_networks=len(clip_ids) == 1)


def _run_clips(
    context: AssetExecutionContext,
    spec: LayerSpec,
    make: LayerFunction,
    clip_ids: Sequence[str],
    *,
    services: Services,
    ancestors: Sequence[str],
) -> Iterator[Any]:
    """One clip after another; the step fails at its end where clips were stopped."""
    stopped: list[LayerOutcome] = []
    for position, clip_id in enumerate(clip_ids, start=1):
        if len(clip_ids) > 1:
            context.log.info(f"{spec.name}: clip {clip_id} ({position} of {len(clip_ids)})")
        outcome = run_layer(
            spec,
            make,
            clip_id,
            services=services,
            run_id=context.run.run_id,
            log=context.log,
            ancestors=ancestors,
        )
        if not outcome.lets_clip_pass:
            stopped.append(outcome)
        yield from _clip_events(context, spec, outcome)

    for check_key in context.selected_asset_check_keys:
        output_name = context.assets_def.get_output_name_for_asset_check_key(check_key)
        yield Output(None, output_name=output_name)
    if stopped and (len(stopped) == len(clip_ids) or not _has_later_layers(context, spec)):
        raise _failure(spec, stopped, total=len(clip_ids))
    yield Output(None, metadata={SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION: True})


def _clip_events(
    context: AssetExecutionContext, spec: LayerSpec, outcome: LayerOutcome
) -> Iterator[AssetMaterialization | AssetObservation | AssetCheckEvaluation]:
    """The events of one clip, in the order in which Dagster needs them."""
    if outcome.state is LayerState.REFUSED:
        return
    metadata = _metadata(outcome)
    if outcome.lets_clip_pass:
        yield AssetMaterialization(
            asset_key=spec.name,
            partition=outcome.clip_id,
            metadata=metadata,
            tags=_version_tags(context, spec, outcome),
        )
    else:
        yield AssetObservation(asset_key=spec.name, partition=outcome.clip_id, metadata=metadata)
    target = _latest_materialization(context, spec.name, outcome.clip_id)
    selected = {key.name for key in context.selected_asset_check_keys}
    for verdict in outcome.gates:
        if verdict.spec.name in selected:
            yield _evaluation(spec.name, outcome.clip_id, verdict, target)


def _evaluation(
    layer: str,
    clip_id: str,
    verdict: GateResult,
    target: AssetCheckEvaluationTargetMaterializationData | None,
) -> AssetCheckEvaluation:
    """A verdict as a check evaluation. Only *passed* is shown as passed."""
    words = {GateOutcome.NOT_EVALUATED: "Not evaluated: ", GateOutcome.WARNED: "Warning: "}
    metadata: dict[str, MetadataValue] = {
        "outcome": MetadataValue.text(verdict.outcome.value),
        **_threshold_metadata(verdict.spec.threshold, verdict.spec.unit, verdict.spec.source),
    }
    if verdict.value is not None:
        metadata["value"] = MetadataValue.float(float(verdict.value))
    if verdict.details:
        metadata["details"] = MetadataValue.json(dict(verdict.details))
    failed = verdict.outcome is GateOutcome.FAILED
    return AssetCheckEvaluation(
        asset_key=AssetKey(layer),
        check_name=verdict.spec.name,
        passed=verdict.outcome is GateOutcome.PASSED,
        severity=AssetCheckSeverity.ERROR if failed else AssetCheckSeverity.WARN,
        description=words.get(verdict.outcome, "") + verdict.message,
        metadata=metadata,
        target_materialization_data=target,
        # A blocking evaluation would fail the step for every clip of the run; the step stops this clip itself.
        blocking=False,
        partition=clip_id,
    )


def _latest_materialization(
    context: AssetExecutionContext, layer: str, clip_id: str
) -> AssetCheckEvaluationTargetMaterializationData | None:
    """What the evaluations refer to; without it Dagster leaves them out of the asset's status."""
    records = context.instance.fetch_materializations(
        AssetRecordsFilter(asset_key=AssetKey(layer), asset_partitions=[clip_id]), limit=1
    ).records
    if not records:
        return None
    return AssetCheckEvaluationTargetMaterializationData(
        storage_id=records[0].storage_id, run_id=records[0].run_id, timestamp=records[0].timestamp
    )


def _metadata(outcome: LayerOutcome) -> dict[str, MetadataValue]:
    """What the UI shows of a clip's layer."""
    metadata: dict[str, MetadataValue] = {
        "state": MetadataValue.text(outcome.state.value),
        "duration_s": MetadataValue.float(round(outcome.duration_s, 3)),
    }
    if outcome.reason:
        metadata["reason"] = MetadataValue.text(outcome.reason)
    if outcome.document is not None:
        metadata["size_bytes"] = MetadataValue.int(sum(entry.bytes for entry in outcome.document.files))
        metadata["version"] = MetadataValue.text(outcome.document.version_id)
        for info in outcome.document.backends:
            metadata[f"backend_{info.task}"] = MetadataValue.text(f"{info.backend}: {info.model}")
        if outcome.document.attempts:
            metadata["refused_attempts"] = MetadataValue.json([dict(a) for a in outcome.document.attempts])
    if outcome.draft is not None:
        metadata.update({name: _plain_metadata(value) for name, value in outcome.draft.metadata.items()})
    for title, picture in outcome.pictures.items():
        metadata[f"{title} (picture)"] = picture_metadata(picture)
    return metadata


def picture_metadata(picture: bytes) -> MetadataValue:
    """A small PNG or JPEG as metadata that the UI shows as a picture."""
    if len(picture) > MAX_PICTURE_BYTES:
        return MetadataValue.text(f"picture of {len(picture)} bytes left out: more than {MAX_PICTURE_BYTES}")
    return MetadataValue.md(f"![picture]({data_uri(picture)})")


def data_uri(picture: bytes) -> str:
    """A PNG or JPEG as a data URI."""
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def _plain_metadata(value: Any) -> MetadataValue:
    if isinstance(value, bool):
        return MetadataValue.bool(value)
    if isinstance(value, int):
        return MetadataValue.int(value)
    if isinstance(value, float):
        return MetadataValue.float(value)
    if isinstance(value, str):
        return MetadataValue.text(value)
    return MetadataValue.json(value)


def _threshold_metadata(threshold: float | None, unit: str, source: str) -> dict[str, MetadataValue]:
    metadata: dict[str, MetadataValue] = {}
    if threshold is not None:
        metadata["threshold"] = MetadataValue.float(float(threshold))
    if unit:
        metadata["unit"] = MetadataValue.text(unit)
    if source:
        metadata["source"] = MetadataValue.text(source)
    return metadata


def _version_tags(
    context: AssetExecutionContext, spec: LayerSpec, outcome: LayerOutcome
) -> Mapping[str, str]:
    """The data version and what it was made from, by which the UI tells what is out of date."""
    document = outcome.document
    # What was published and refused is nobody's input.
    usable = document if outcome.state is LayerState.COMMITTED else None
    tags = {
        DATA_VERSION_TAG: usable.data_version if usable is not None else LayerState.GIVEN_UP.value,
        DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
        CODE_VERSION_TAG: spec.code_version,
    }
    used = document.inputs if document is not None else {}
    for name in (*spec.inputs, *spec.optional_inputs):
        key = AssetKey(name)
        made = _latest_materialization(context, name, outcome.clip_id)
        tags[get_input_data_version_tag(key)] = used.get(name, LayerState.GIVEN_UP.value)
        tags[get_input_event_pointer_tag(key)] = str(made.storage_id) if made else NULL_EVENT_POINTER
    return tags


def _has_later_layers(context: AssetExecutionContext, spec: LayerSpec) -> bool:
    """Whether a layer downstream of this one runs in the same run."""
    graph = context.job_def.asset_layer
    executed = graph.executable_asset_keys
    reached, frontier = set(), [AssetKey(spec.name)]
    while frontier:
        for child in graph.asset_graph.get(frontier.pop()).child_keys:
            if child not in reached and child in executed:
                reached.add(child)
                frontier.append(child)
    return bool(reached)


def _failure(spec: LayerSpec, stopped: Sequence[LayerOutcome], *, total: int) -> Failure:
    lines = [f"{outcome.clip_id} ({outcome.state.value}): {outcome.reason}" for outcome in stopped]
    return Failure(
        description=f"{spec.name}: {len(stopped)} of {total} clip(s) stopped.\n" + "\n".join(lines),
        metadata={"stopped_clips": MetadataValue.json([outcome.clip_id for outcome in stopped])},
        allow_retries=False,
    )


def _services(context: AssetExecutionContext, spec: LayerSpec) -> Services:
    """The layer's surroundings. Layers after the privacy pass are never handed the vault."""
    resources = context.resources
    vault = resources.vault if spec.reads_original else None
    return Services(
        settings=resources.settings,
        database=resources.database.get(),
        store=resources.store.get(),
        models=resources.models.get(),
        vault=vault.get() if vault is not None else None,
        intake=vault.intake() if vault is not None else None,
    )


def require_disk_space(specs: Sequence[LayerSpec], clip_ids: Sequence[str], *, services: Services) -> None:
    """Estimate what the layers will write for the clips and compare it with the free space.

    Raises:
        InsufficientDisk: The store's disk has less than the estimate plus the reserve.
    """
    folder = services.store.local_root
    if folder is None:
        return
    settings = estimating(services, specs)
    clips = [clip for clip_id in clip_ids if (clip := services.database.find_clip(clip_id))]
    require_space(
        folder,
        sum(spec.estimate_bytes(clip, settings) for spec in specs for clip in clips),
        reserve_bytes=services.settings.free_disk_reserve_bytes,
        what=f"{', '.join(spec.name for spec in specs)} of {len(clips)} clip(s)",
    )


def estimating(services: Services, specs: Iterable[LayerSpec]) -> EnrichmentSettings:
    """The settings that disk space is estimated with: rates are the profile's where the settings state none."""
    settings = services.settings.for_enrichment()
    rates = {task: services.models.frames_per_second(task) for spec in specs for task in spec.tasks}
    stated = {task: rate for task, rate in rates.items() if rate is not None}
    return replace(settings, layer_frames_per_second={**stated, **settings.layer_frames_per_second})


def build_layer_assets(
    layers: Sequence[tuple[LayerSpec, LayerFunction]], *, gpu_tasks: Collection[str] = ()
) -> list[AssetsDefinition]:
    """The assets of all layers, each knowing its ancestors.

    Args:
        layers: What each layer is, and its function.
        gpu_tasks: Tasks that the profile runs on a GPU.

    Raises:
        ValueError: A layer names an unknown input, or one of a later stage.
    """
    specs = {spec.name: spec for spec, _ in layers}
    for spec in specs.values():
        for name in (*spec.inputs, *spec.optional_inputs):
            if name not in specs:
                raise ValueError(f"layer {spec.name} needs {name}, which is not registered: {sorted(specs)}")
            if specs[name].stage >= spec.stage:
                raise ValueError(
                    f"layer {spec.name} (stage {spec.stage}) needs {name} of stage {specs[name].stage}; "
                    "inputs must belong to earlier stages"
                )
    return [
        layer_asset(
            spec,
            make,
            ancestors=essential_ancestors(spec.name, specs),
            on_gpu=not set(spec.tasks).isdisjoint(gpu_tasks),
        )
        for spec, make in layers
    ]


def essential_ancestors(name: str, specs: Mapping[str, LayerSpec]) -> tuple[str, ...]:
    """The ancestors whose failure stops a clip."""
    return tuple(layer for layer in ancestors_of(name, specs) if specs[layer].essential)


def ancestors_of(name: str, specs: Mapping[str, LayerSpec]) -> tuple[str, ...]:
    """All layers that the layer's required inputs lead back to, sorted."""
    reached: set[str] = set()
    frontier = list(specs[name].inputs)
    while frontier:
        layer = frontier.pop()
        if layer not in reached:
            reached.add(layer)
            frontier.extend(specs[layer].inputs)
    return tuple(sorted(reached))
