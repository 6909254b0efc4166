"""``quality_summary``: the state of the collection as tables, plots and an HTML report; files for collectors."""

import datetime as dt
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dagster import AssetExecutionContext, AssetKey, MaterializeResult, MetadataValue, asset

from ego_assets.batching import data_uri, picture_metadata
from ego_assets.schema.clip import PRIVACY_LAYER
from ego_assets.schema.errors import ArtifactCorrupted, ArtifactMissing

if TYPE_CHECKING:
    from ego_assets.curation.report import ClipCard
    from ego_assets.schema.clip import Clip
    from resources.database import GateRecord, LayerStateRecord
    from resources.storage import ArtifactStore

#: The report shows this many clips, those that need attention first.
MAX_CARDS = 200

#: The first of them show pictures of every layer; more would make the file too large for a browser.
MAX_CARDS_WITH_PICTURES = 40

REPORT_NAME = "quality_report.html"

#: Metadata of each materialization: the newest row of the audit log at that moment.
AUDIT_HEAD = "audit_head"


@asset(
    group_name="collection",
    deps=[AssetKey("manifest")],
    required_resource_keys={"settings", "database", "store"},
    description=(
        "Counts by stage and gate, failure rates, hours by activity, environment and collector, and the bottom "
        "tenth by score; also written as reports/quality_report.html. For every collector and day a file with the "
        "flagged clips and advice, below reports/collectors."
    ),
    kinds={"python"},
)
def quality_summary(context: AssetExecutionContext) -> MaterializeResult[Any]:
    """Summarise the collection."""
    from ego_assets.curation.collector_files import write_collector_files
    from ego_assets.curation.plots import summary_plots
    from ego_assets.curation.report import render_report
    from ego_assets.curation.summary import summarise
    from resources.audit import AuditLog

    database, store = context.resources.database.get(), context.resources.store.get()
    store.clean_staging()
    clips, gates, states = database.clips(), database.gates(), database.layer_states()
    summary = summarise(clips, gates, states)
    plots = summary_plots(summary)
    report = render_report(
        summary,
        _cards(clips, gates, states, store=store),
        plots={title: data_uri(picture) for title, picture in plots.items()},
        generated_at=dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    folder = context.resources.settings.reports
    folder.mkdir(parents=True, exist_ok=True)
    target, staged = folder / REPORT_NAME, folder / f".{REPORT_NAME}.{context.run.run_id}"
    staged.write_text(report)
    staged.replace(target)
    collector_files = write_collector_files(context.resources.settings.collector_reports, clips, gates)
    metadata: dict[str, MetadataValue] = {
        "clips": MetadataValue.int(summary.clip_count),
        "usable_clips": MetadataValue.int(summary.usable_clip_count),
        "usable_hours": MetadataValue.float(summary.total_hours),
        "report": MetadataValue.path(str(target)),
        "collector_files": MetadataValue.int(len(collector_files)),
        # Dagster's event log keeps what the audit log is compared with later, outside the database that holds it.
        AUDIT_HEAD: MetadataValue.text(str(AuditLog(database).head())),
    }
    for table in summary.tables:
        metadata[table.title] = MetadataValue.md(table.markdown())
    for title, picture in plots.items():
        metadata[f"{title} (plot)"] = picture_metadata(picture)
    return MaterializeResult(metadata=metadata)


def _cards(
    clips: "Sequence[Clip]",
    gates: "Sequence[GateRecord]",
    states: "Sequence[LayerStateRecord]",
    *,
    store: "ArtifactStore",
) -> "list[ClipCard]":
    """One card per clip, those that need attention first, with a picture of the blurred video."""
    from ego_assets.curation.report import ClipCard, GateLine
    from ego_assets.schema.gates import GateOutcome

    lines: Mapping[str, list[GateLine]] = defaultdict(list)
    for gate in gates:
        lines[gate.clip_id].append(
            GateLine(
                layer=gate.layer,
                gate=gate.gate,
                outcome=GateOutcome(gate.outcome),
                message=gate.message,
                blocking=gate.blocking,
            )
        )
    layers: Mapping[str, list[tuple[str, str]]] = defaultdict(list)
    for state in states:
        layers[state.clip_id].append((state.layer, str(state.state)))

    def urgency(clip: "Clip") -> tuple[bool, bool, float]:
        return (not clip.failed, not clip.needs_review, clip.quality_score or 0.0)

    shown = sorted(clips, key=urgency)[:MAX_CARDS]
    return [
        ClipCard(
            clip_id=clip.clip_id,
            source_name=clip.source_name,
            location=clip.location_type.value,
            activity=clip.activity_category,
            status=_status(clip),
            duration_s=clip.duration_s,
            score=clip.quality_score,
            confidence=clip.quality_confidence,
            gates=lines[clip.clip_id],
            layers=layers[clip.clip_id],
            thumbnail=_thumbnail(clip, store),
            pictures=_pictures(clip, store) if place < MAX_CARDS_WITH_PICTURES else (),
        )
        for place, clip in enumerate(shown)
    ]


def _status(clip: "Clip") -> str:
    if clip.duplicate_of:
        return "duplicate"
    flags = {
        "withdrawn": clip.withdrawn,
        "failed": clip.failed,
        "held": clip.held,
        "to review": clip.needs_review,
    }
    for word, applies in flags.items():
        if applies:
            return word
    return clip.processing_status.value if clip.processing_status else "registered"


def _pictures(clip: "Clip", store: "ArtifactStore") -> list[tuple[str, str]]:
    """What the enrichment layers show of themselves."""
    from ego_assets.assets import ENRICHMENT

    pictures = []
    for spec, _ in ENRICHMENT:
        try:
            if (document := store.document(clip.clip_id, spec.name)) is not None:
                for title, name in document.pictures.items():
                    pictures.append((title, data_uri(store.read_bytes(document, name))))
        except (ArtifactCorrupted, ArtifactMissing):
            continue
    return pictures


def _thumbnail(clip: "Clip", store: "ArtifactStore") -> str | None:
    """The contact sheet of the privacy layer, which shows blurred frames only."""
    try:
        document = store.document(clip.clip_id, PRIVACY_LAYER)
        return data_uri(store.read_bytes(document, "contact_sheet.jpg")) if document else None
    except (ArtifactCorrupted, ArtifactMissing):
        return None
