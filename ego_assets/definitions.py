"""The one Definitions object that Dagster loads."""

from __future__ import annotations

from dagster import Definitions, in_process_executor

from ego_assets.assets import COLLECTION_ASSETS, COLLECTION_CHECKS, LAYERS
from ego_assets.batching import build_layer_assets
from ego_assets.jobs import build_jobs, build_schedules, deliver_job
from ego_assets.sensors import build_sensors
from ego_assets.settings import Settings, load_settings
from resources.platform import build_resources
from resources.profiles import gpu_tasks


def build_definitions(settings: Settings) -> Definitions:
    """Everything the platform defines, for these settings."""
    layer_assets = build_layer_assets(LAYERS, gpu_tasks=gpu_tasks(settings.profile))
    jobs = build_jobs([spec.name for spec, _ in LAYERS])
    return Definitions(
        assets=[*layer_assets, *COLLECTION_ASSETS],
        asset_checks=COLLECTION_CHECKS,
        jobs=[*jobs.values(), deliver_job],
        schedules=build_schedules(jobs),
        sensors=build_sensors(jobs),
        resources=build_resources(settings),
        # A step in a process of its own imports everything anew: ten times the CPU of a short run.
        executor=in_process_executor,
    )


defs = build_definitions(load_settings())
