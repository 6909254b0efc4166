"""Checks over the whole collection, shown at ``dataset_manifest``."""

import datetime as dt

from dagster import AssetCheckExecutionContext, AssetCheckResult, AssetCheckSeverity, AssetKey, asset_check

from ego_assets.gates.collection import INCIDENTS_RESOLVED, judge_incidents
from ego_assets.schema.gates import GateOutcome


@asset_check(
    name=INCIDENTS_RESOLVED.name,
    asset=AssetKey("dataset_manifest"),
    description=INCIDENTS_RESOLVED.description,
    # A clip with an open incident is left out of the delivery anyway; the other clips do not wait for it.
    blocking=False,
    required_resource_keys={"database"},
    metadata={
        "threshold": INCIDENTS_RESOLVED.limit,
        "unit": INCIDENTS_RESOLVED.unit,
        "source": INCIDENTS_RESOLVED.source,
    },
)
def incidents_resolved(context: AssetCheckExecutionContext) -> AssetCheckResult:
    """Fails when an incident is older than a day and unresolved; warns while one is open."""
    from resources.incidents import IncidentLog

    incidents = IncidentLog(context.resources.database.get()).incidents(unresolved_only=True)
    verdict = judge_incidents(incidents, now=dt.datetime.now(dt.UTC))
    failed = verdict.outcome is GateOutcome.FAILED
    return AssetCheckResult(
        passed=verdict.outcome is GateOutcome.PASSED,
        severity=AssetCheckSeverity.ERROR if failed else AssetCheckSeverity.WARN,
        description=verdict.message,
        metadata={
            "outcome": verdict.outcome.value,
            "value": verdict.value,
            "details": dict(verdict.details),
        },
    )
