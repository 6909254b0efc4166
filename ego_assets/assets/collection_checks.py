"""Checks over the whole collection, shown at ``dataset_manifest`` and ``quality_summary``."""

import contextlib
import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetCheckSeverity,
    AssetKey,
    DagsterInstance,
    MetadataValue,
    asset_check,
)

from ego_assets.assets.quality_summary import AUDIT_HEAD
from ego_assets.gates.collection import INCIDENTS_RESOLVED, judge_incidents
from ego_assets.schema.gates import GateOutcome

if TYPE_CHECKING:
    from resources.audit import AuditHead
    from resources.database import Database, Delivery

#: Problems that a check names; `ego-assets deliveries verify` names all.
SHOWN_PROBLEMS = 5
#: Letters of a name of an upload that is looked for.
SHORTEST_NAME = 6
#: So many materializations are looked back for heads of the audit log: a month of daily ones.
MAX_HEADS = 30


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


@asset_check(
    name="audit_chain_intact",
    asset=AssetKey("quality_summary"),
    description=(
        "Every row of the audit log has its digest and follows the row before it, and the log still holds the heads "
        f"that the last {MAX_HEADS} materializations recorded."
    ),
    # Clips are processed all the same: what is opened is recorded in the same log.
    blocking=False,
    required_resource_keys={"database"},
)
def audit_chain_intact(context: AssetCheckExecutionContext) -> AssetCheckResult:
    """Fails when a row was altered, removed, inserted or moved, also at the end of the log."""
    from resources.audit import AuditLog

    verified = AuditLog(context.resources.database.get()).verify(_recorded_heads(context.instance))
    found = " ".join(finding.message for finding in verified.findings[:5])
    return AssetCheckResult(
        passed=verified.intact,
        severity=AssetCheckSeverity.ERROR,
        description=(
            f"{verified.rows} row(s), each follows the one before; {verified.expected} earlier head(s) found."
            if verified.intact
            else f"{found} Find out more with `ego-assets audit verify`."
        ),
        metadata={
            "rows": MetadataValue.int(verified.rows),
            AUDIT_HEAD: MetadataValue.text(str(verified.head)),
            "earlier heads": MetadataValue.int(verified.expected),
            "broken rows": MetadataValue.int(verified.broken_rows),
        },
    )


def _recorded_heads(instance: DagsterInstance) -> "list[AuditHead]":
    """The heads that the newest materializations of the summary recorded."""
    from resources.audit import AuditHead

    heads = []
    for record in instance.fetch_materializations(AssetKey("quality_summary"), limit=MAX_HEADS).records:
        made = record.asset_materialization
        recorded = made.metadata.get(AUDIT_HEAD) if made is not None else None
        # What somebody wrote into the newest row instead of its digest is no head, and breaks the chain anyway.
        with contextlib.suppress(ValueError):
            heads.append(AuditHead.parse(str(recorded.value if recorded is not None else "")))
    return heads


@asset_check(
    name="deliveries_open",
    asset=AssetKey("dataset_manifest"),
    description=(
        "A sample of every format of the newest version of every delivery opens, and all formats have the clips and "
        "samples of its manifest."
    ),
    # It is there already: what is wrong with it is for a person to see.
    blocking=False,
    required_resource_keys={"database"},
)
def deliveries_open(context: AssetCheckExecutionContext) -> AssetCheckResult:
    """Fails when something cannot be opened or is not what the manifest says."""
    from ego_assets.delivery.verify import check_formats

    return _over_newest(context.resources.database.get(), lambda folder, delivery: check_formats(folder))


@asset_check(
    name="nothing_private_inside",
    asset=AssetKey("dataset_manifest"),
    description=(
        "No sound, place or device metadata, name of an upload or digest of an original is in the newest version of "
        "any delivery. Every video and document is looked into; of pictures and shards a sample."
    ),
    blocking=False,
    required_resource_keys={"database"},
)
def nothing_private_inside(context: AssetCheckExecutionContext) -> AssetCheckResult:
    """Fails when something is found."""
    from ego_assets.delivery.verify import find_traces

    database = context.resources.database.get()

    def look(folder: Path, delivery: "Delivery") -> Iterator[str]:
        clips = [database.clip(entry.clip_id) for entry in database.delivery_clips(delivery.id)]
        secrets = {
            # Shorter names are words that occur anywhere.
            "name of an upload": {
                clip.source_name for clip in clips if len(clip.source_name) >= SHORTEST_NAME
            },
            "digest of an original": {clip.raw_sha256 for clip in clips if clip.raw_sha256},
            "place of an upload": {clip.upload_uri for clip in clips if clip.upload_uri},
        }
        return find_traces(folder, secrets=secrets)

    return _over_newest(database, look)


def _over_newest(database: "Database", look: "Callable[[Path, Delivery], Iterator[str]]") -> AssetCheckResult:
    """The result of looking into the newest version of every delivery."""
    newest = {made.name: made for made in database.deliveries()}
    present = [made for made in newest.values() if Path(made.uri).is_dir()]
    problems = [
        f"{made.name}@{made.version}: {one}" for made in present for one in look(Path(made.uri), made)
    ]
    more = f" And {len(problems) - SHOWN_PROBLEMS} more." if len(problems) > SHOWN_PROBLEMS else ""
    return AssetCheckResult(
        passed=not problems,
        severity=AssetCheckSeverity.ERROR,
        description=(
            f"{'; '.join(problems[:SHOWN_PROBLEMS])}.{more} See `ego-assets deliveries verify NAME`."
            if problems
            else f"{len(present)} delivery(s) looked into."
        ),
        metadata={"deliveries": len(present), "problems": len(problems)},
    )
