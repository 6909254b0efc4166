"""Sensors: what starts work without anybody asking."""

import datetime as dt
from collections.abc import Mapping
from functools import partial
from typing import Any

from dagster import (
    AssetKey,
    DagsterInstance,
    DagsterRunStatus,
    DefaultSensorStatus,
    RunRequest,
    RunsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from ego_assets.jobs import COLLECTION_JOB, PROCESS_CLIP_JOB
from ego_assets.partitions import clip_partitions
from ego_assets.schema.erasures import ERASED_UPLOAD
from ego_assets.schema.errors import EgoAssetsError, UploadRejected

#: Names the incident on the runs that make a clip anew.
INCIDENT_TAG = "ego_assets/incident"
#: Such a run that did not correct the incident is followed by another one after this time, which doubles each time:
#: long enough for what can pass by itself, short enough for several tries within the day that an incident may take.
FIRST_WAIT_S = 600.0
LONGEST_WAIT_S = 6 * 3600.0


def build_sensors(jobs: Mapping[str, UnresolvedAssetJobDefinition]) -> list[SensorDefinition]:
    """All sensors."""

    @sensor(
        name="uploads_sensor",
        job=jobs[PROCESS_CLIP_JOB],
        minimum_interval_seconds=10,
        default_status=DefaultSensorStatus.RUNNING,
        required_resource_keys={"settings", "database", "vault"},
        description=(
            "Registers finished uploads below raw/{collector_id}/{date}/, in the watched folder or bucket, as "
            "clips, adds their partitions and launches the chain. Files that still grow are left alone; files "
            "that cannot be accepted are moved to the vault's rejected/ folder with the reason."
        ),
    )
    def uploads_sensor(context: SensorEvaluationContext) -> SensorResult:
        look = _look_at_bucket if context.resources.settings.uploads_url else _look_at_folder
        return look(context, context.resources)

    @sensor(
        name="incidents_sensor",
        jobs=[jobs[PROCESS_CLIP_JOB], jobs[COLLECTION_JOB]],
        minimum_interval_seconds=60,
        default_status=DefaultSensorStatus.RUNNING,
        required_resource_keys={"settings", "database", "store", "vault"},
        description=(
            "Finishes what can be finished of privacy incidents: a quarantine that was interrupted, and the purge "
            "once every layer was made anew. Makes clips anew where the command line left that to the daemon, "
            "again at growing intervals until it succeeds, and rebuilds the collection when an incident has "
            "moved on or is overdue."
        ),
    )
    def incidents_sensor(context: SensorEvaluationContext) -> SensorResult:
        return _answer_incidents(context, context.resources)

    return [uploads_sensor, incidents_sensor]


def _answer_incidents(context: SensorEvaluationContext, resources: Any) -> SensorResult:
    """One tick of the incidents sensor."""
    from ego_assets.assets import LAYERS
    from ego_assets.gates.collection import is_overdue
    from ego_assets.incidents import build_desk
    from ego_assets.schema.incidents import Incident

    desk = build_desk(
        settings=resources.settings,
        specs=tuple(spec for spec, _ in LAYERS),
        database=resources.database.get(),
        store=resources.store.get(),
        vault=resources.vault.get(),
        instance=lambda: context.instance,
    )

    def waits(incident: Incident, error: Exception) -> None:
        context.log.error("incident %d has to wait: %s", incident.id, error)

    now = dt.datetime.now(dt.UTC)
    requests, states = [], []
    if unfinished := _finish_erasures(context, resources):
        states.append(unfinished)
    for incident in desk.advance_all(on_error=waits):
        states.append(f"{incident.id} {incident.state.value}{' overdue' * is_overdue(incident, now)}")
        layers = desk.layers_to_run(incident) if incident.background else []
        attempt = _next_attempt(context.instance, incident.id, now) if layers else None
        if attempt is not None:
            requests.append(
                RunRequest(
                    run_key=f"incident {incident.id} attempt {attempt}",
                    job_name=PROCESS_CLIP_JOB,
                    partition_key=incident.clip_id,
                    asset_selection=[AssetKey(layer) for layer in layers],
                    tags={"ego_assets/clip": incident.clip_id, INCIDENT_TAG: str(incident.id)},
                )
            )
    cursor = ", ".join(states)
    if cursor != (context.cursor or ""):
        moment = now.isoformat(timespec="seconds")
        requests.append(RunRequest(run_key=f"incidents {moment}", job_name=COLLECTION_JOB))
    if not requests:
        return SensorResult(skip_reason=SkipReason(cursor or "No privacy incident is open."), cursor=cursor)
    return SensorResult(
        run_requests=requests,
        dynamic_partitions_requests=[
            clip_partitions.build_add_request([r.partition_key for r in requests if r.partition_key])
        ],
        cursor=cursor,
    )


def _finish_erasures(context: SensorEvaluationContext, resources: Any) -> str:
    """Go on with erasures that were interrupted, without waiting for anybody; says what is left, if anything is."""
    from ego_assets.assets import LAYERS
    from ego_assets.erasing import build_eraser

    eraser = build_eraser(
        settings=resources.settings,
        specs=tuple(spec for spec, _ in LAYERS),
        database=resources.database.get(),
        store=resources.store.get(),
        vault=resources.vault.get(),
        instance=lambda: context.instance,
    )
    try:
        eraser.advance(wait=False)
    except (EgoAssetsError, OSError) as error:
        context.log.error("an erasure has to wait: %s", error)
    unfinished = eraser.log.erasures(unfinished_only=True)
    return f"{len(unfinished)} erasure(s) unfinished" if unfinished else ""


def _next_attempt(instance: DagsterInstance, incident_id: int, now: dt.datetime) -> int | None:
    """Number of the attempt to launch now for an incident, or ``None`` while one is under way or has to wait."""
    records = instance.get_run_records(RunsFilter(tags={INCIDENT_TAG: str(incident_id)}))
    # A run that was never started is asked for again under its own key: the daemon that made it was killed.
    runs = [record for record in records if record.dagster_run.status is not DagsterRunStatus.NOT_STARTED]
    if any(not record.dagster_run.is_finished for record in runs):
        return None
    ended_s = [record.end_time or record.update_timestamp.timestamp() for record in runs]
    if ended_s:
        wait_s = min(FIRST_WAIT_S * 2 ** (len(ended_s) - 1), LONGEST_WAIT_S)
        if now.timestamp() < max(ended_s) + wait_s:
            return None
    return len(ended_s) + 1


def _look_at_bucket(context: SensorEvaluationContext, resources: Any) -> SensorResult:
    """One tick of the uploads sensor, where uploads arrive in a bucket."""
    from ego_assets.bucket_uploads import BucketCursor, BucketWatch, summary
    from resources.platform import open_upload_queue, open_uploads

    settings = resources.settings
    watch = BucketWatch(
        uploads=open_uploads(settings),
        queue=open_upload_queue(settings),
        intake=resources.vault.intake(),
        database=resources.database.get(),
        quiet_s=settings.upload_quiet_s,
        at_most=settings.uploads_per_tick,
        has_partition=partial(context.instance.has_dynamic_partition, clip_partitions.name or ""),
        log=context.log,
    )
    look = watch.look(BucketCursor.from_text(context.cursor))
    cursor = look.cursor.to_text()
    if not look.runs:
        return SensorResult(skip_reason=SkipReason(summary(look)), cursor=cursor)
    requests = [
        RunRequest(
            run_key=run.run_key,
            partition_key=run.clip.clip_id,
            asset_selection=[AssetKey("raw_clip")] if run.clears else None,
            tags={"ego_assets/clip": run.clip.clip_id, "ego_assets/collector": run.clip.collector_id},
        )
        for run in look.runs
    ]
    return SensorResult(
        run_requests=requests,
        dynamic_partitions_requests=[clip_partitions.build_add_request([r.clip.clip_id for r in look.runs])],
        cursor=cursor,
    )


def _look_at_folder(context: SensorEvaluationContext, resources: Any) -> SensorResult:
    """One tick of the uploads sensor, where uploads arrive in a folder."""
    from ego_assets.watching import observations_from_cursor, observations_to_cursor, scan_uploads

    settings, database, vault = resources.settings, resources.database.get(), resources.vault
    settings.uploads.mkdir(parents=True, exist_ok=True)

    def is_known(uri: str) -> bool:
        # A path is free again once its upload has left it: cameras give the next card's files the same names.
        clip = database.clip_with_upload(uri)
        waiting = clip is not None and not clip.raw_key and not clip.duplicate_of
        return waiting and context.instance.has_dynamic_partition(clip_partitions.name or "", clip.clip_id)

    scan = scan_uploads(
        settings.uploads,
        observations_from_cursor(context.cursor),
        quiet_s=settings.upload_quiet_s,
        at_most=settings.uploads_per_tick,
        is_known=is_known,
    )
    intake = vault.intake()
    rejected = list(scan.rejected)
    requests = []
    for description in scan.accepted:
        try:
            clip = intake.register(description, upload_uri=description.path.as_uri())
            if clip.raw_key:
                # The very file of a clip that is in the vault already: its run would not be launched again.
                intake.take(clip.clip_id, description.path, move=True, actor="sensor:uploads")
                continue
        except UploadRejected as rejection:
            rejected.append((description.path, rejection))
            continue
        except (EgoAssetsError, OSError) as error:
            # One file that cannot be taken now must not hold up the others; it is tried again at the next tick.
            context.log.warning("%s has to wait: %s", description.path.name, error)
            continue
        requests.append(
            RunRequest(
                run_key=clip.clip_id,
                partition_key=clip.clip_id,
                tags={"ego_assets/clip": clip.clip_id, "ego_assets/collector": clip.collector_id},
            )
        )
    for path, reason in rejected:
        try:
            intake.reject(path, reason, move=True, actor="sensor:uploads")
        except (EgoAssetsError, OSError) as error:
            context.log.warning("%s cannot be moved to rejected/: %s", path.name, error)
            continue
        if reason.code == ERASED_UPLOAD:
            # Its name would stay in the log of the tick.
            context.log.warning("refused an upload: %s", reason)
        else:
            context.log.warning("rejected %s (%s): %s", path.name, reason.code, reason)
    cursor = observations_to_cursor(scan.observations)
    if not requests:
        waiting = f"{scan.waiting} upload(s) still growing or waiting, {len(rejected)} rejected."
        return SensorResult(skip_reason=SkipReason(waiting), cursor=cursor)
    return SensorResult(
        run_requests=requests,
        dynamic_partitions_requests=[
            clip_partitions.build_add_request([r.partition_key for r in requests if r.partition_key])
        ],
        cursor=cursor,
    )
