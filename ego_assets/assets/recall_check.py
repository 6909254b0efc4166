"""Checks of measured recall: of the whole collection and of the newest delivery."""

from typing import TYPE_CHECKING

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSeverity,
    AssetKey,
    MetadataValue,
    asset_check,
)

from ego_assets.gates.recall import MEASURED_RECALL, judge_recall
from ego_assets.schema.gates import GateOutcome

if TYPE_CHECKING:
    from resources.database import Database


def _recall_check(asset: str, *, over: str) -> AssetChecksDefinition:
    """The check at one asset."""

    @asset_check(
        name=MEASURED_RECALL.name,
        asset=AssetKey(asset),
        description=f"{MEASURED_RECALL.description} Over {over}.",
        # Clips in which something was missed are held back one by one, until they are rendered anew.
        blocking=False,
        required_resource_keys={"database"},
        metadata={
            "threshold": MEASURED_RECALL.limit,
            "unit": MEASURED_RECALL.unit,
            "source": MEASURED_RECALL.source,
        },
    )
    def measured_recall(context: AssetCheckExecutionContext) -> AssetCheckResult:
        return evaluate(context.resources.database.get(), newest_delivery=asset == "dataset_manifest")

    return measured_recall


def evaluate(database: "Database", *, newest_delivery: bool) -> AssetCheckResult:
    """Judge recall over the newest delivery or over the collection."""
    from ego_assets.delivering import DELIVERY_NAME
    from ego_assets.recall import collection_recall, delivery_recall

    made = [delivery for delivery in database.deliveries() if delivery.name == DELIVERY_NAME]
    if not newest_delivery:
        estimates = collection_recall(database)
    elif made:
        estimates = delivery_recall(database, made[-1].id)
    else:
        estimates = {}
    verdict = judge_recall(estimates)
    words = "Not evaluated: " if verdict.outcome is GateOutcome.NOT_EVALUATED else ""
    metadata: dict[str, MetadataValue] = {
        "outcome": MetadataValue.text(verdict.outcome.value),
        "by kind": MetadataValue.json(dict(verdict.details)),
        **{kind: MetadataValue.text(found.described()) for kind, found in estimates.items()},
    }
    if verdict.value is not None:
        metadata["value"] = MetadataValue.float(verdict.value)
    return AssetCheckResult(
        passed=verdict.outcome is GateOutcome.PASSED,
        severity=AssetCheckSeverity.ERROR
        if verdict.outcome is GateOutcome.FAILED
        else AssetCheckSeverity.WARN,
        description=words + verdict.message,
        metadata=metadata,
    )


delivery_recall_check = _recall_check("dataset_manifest", over="the clips of the newest delivery")
collection_recall_check = _recall_check("quality_summary", over="all clips")
