"""The state of a collection in tables (collection guide, step 5)."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ego_assets.curation.records import GateRecord, LayerStateRecord
from ego_assets.schema.clip import Clip
from ego_assets.schema.gates import GateOutcome

#: Share of the scored clips that is listed for a decision (collection guide, step 5).
LOW_SCORE_SHARE = 0.1

#: A layer in one of these states counts as failed.
FAILED_STATES = ("blocked", "given_up", "postponed", "failed")

_EXCEPTION_NAME = re.compile(r"^([A-Z]\w*(?:Error|Exception|Warning|Interrupt|Exit|Iteration)): ")

Value = str | int | float | None


@dataclass(frozen=True, kw_only=True)
class Table:
    """A small table.

    Attributes:
        title: What it shows.
        columns: Column names, with units.
        rows: One dictionary per row, keyed by column name.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[dict[str, Value], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if tuple(row) != self.columns:
                raise ValueError(f"{self.title}: expected columns {self.columns}, got {tuple(row)}")

    def markdown(self) -> str:
        """The table in Markdown; a sentence where it has no rows."""
        if not self.rows:
            return "Nothing yet.\n"
        lines = [_markdown_row(self.columns), _markdown_row(["---"] * len(self.columns))]
        lines += [_markdown_row([format_value(row[column]) for column in self.columns]) for row in self.rows]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, kw_only=True)
class QualitySummary:
    """The state of a collection.

    Attributes:
        clip_count: All clips, withdrawn and failed ones included.
        usable_clip_count: Clips that neither failed nor were withdrawn, and are no duplicates.
        total_hours: Hours of the usable clips.
        mean_score: Mean score of the usable clips that have one; ``None`` without any.
        stages: Clips by processing stage.
        gates: Verdicts by layer, gate and outcome.
        layers: Failure rate and mean processing time by layer.
        errors: Failures by layer and category.
        activities: Hours by activity.
        environments: Hours by environment.
        collectors: Hours by collector.
        lowest_scores: The bottom tenth of the usable clips by score, worst first.
    """

    clip_count: int
    usable_clip_count: int
    total_hours: float
    mean_score: float | None
    stages: Table
    gates: Table
    layers: Table
    errors: Table
    activities: Table
    environments: Table
    collectors: Table
    lowest_scores: Table

    @property
    def tables(self) -> tuple[Table, ...]:
        """All tables, in reading order."""
        return (
            self.stages,
            self.gates,
            self.layers,
            self.errors,
            self.activities,
            self.environments,
            self.collectors,
            self.lowest_scores,
        )


def summarise(
    clips: Iterable[Clip], gates: Iterable[GateRecord], layer_states: Iterable[LayerStateRecord]
) -> QualitySummary:
    """Summarise a collection.

    Args:
        clips: All clips.
        gates: The newest verdict of each gate on each clip.
        layer_states: How each layer last ended on each clip.
    """
    all_clips, gate_records, states = list(clips), list(gates), list(layer_states)
    usable = [clip for clip in all_clips if not (clip.failed or clip.withdrawn or clip.duplicate_of)]
    scores = [clip.quality_score for clip in usable if clip.quality_score is not None]
    return QualitySummary(
        clip_count=len(all_clips),
        usable_clip_count=len(usable),
        total_hours=_hours(usable),
        mean_score=math.fsum(scores) / len(scores) if scores else None,
        stages=_stage_table(all_clips),
        gates=_gate_table(gate_records),
        layers=_layer_table(states),
        errors=_error_table(gate_records, states),
        activities=_hours_table("Hours by activity", "activity", usable, lambda c: c.activity_category),
        environments=_hours_table(
            "Hours by environment", "environment", usable, lambda clip: clip.location_type.value
        ),
        collectors=_hours_table("Hours by collector", "collector", usable, lambda c: c.collector_id),
        lowest_scores=_lowest_table(usable),
    )


def error_category(state: str, reason: str) -> str:
    """Category of a failure: the exception's name where the reason starts with one, else the state."""
    match = _EXCEPTION_NAME.match(reason)
    return match.group(1) if match else state.replace("_", " ")


def format_value(value: Value) -> str:
    """A table value for people."""
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _stage_table(clips: Sequence[Clip]) -> Table:
    counts = Counter(_stage(clip) for clip in clips)
    rows: list[dict[str, Value]] = [{"stage": stage, "clips": n} for stage, n in counts.most_common()]
    return Table(title="Clips by stage", columns=("stage", "clips"), rows=tuple(rows))


def _stage(clip: Clip) -> str:
    """What is to be said first about a clip."""
    for applies, name in (
        (clip.withdrawn, "withdrawn"),
        (bool(clip.duplicate_of), "duplicate"),
        (clip.failed, "failed"),
        (clip.held, "held"),
    ):
        if applies:
            return name
    return clip.processing_status.value if clip.processing_status else "registered"


def _gate_table(gates: Sequence[GateRecord]) -> Table:
    outcomes = [outcome.value for outcome in GateOutcome]
    counts: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for record in gates:
        counts[record.layer, record.gate][str(record.outcome)] += 1
    rows: list[dict[str, Value]] = []
    for (layer, gate), counter in sorted(counts.items()):
        row: dict[str, Value] = {"layer": layer, "gate": gate}
        row.update({outcome: counter[outcome] for outcome in outcomes})
        rows.append(row)
    return Table(title="Gates", columns=("layer", "gate", *outcomes), rows=tuple(rows))


def _layer_table(states: Sequence[LayerStateRecord]) -> Table:
    by_layer: defaultdict[str, list[LayerStateRecord]] = defaultdict(list)
    for state in states:
        by_layer[state.layer].append(state)
    rows: list[dict[str, Value]] = []
    for layer, records in sorted(by_layer.items()):
        failed = [record for record in records if str(record.state) in FAILED_STATES]
        times_s = [record.duration_s for record in records if record.duration_s is not None]
        rows.append(
            {
                "layer": layer,
                "tried": len(records),
                "failed": len(failed),
                "failure rate (%)": 100 * len(failed) / len(records),
                "mean time (s)": math.fsum(times_s) / len(times_s) if times_s else None,
            }
        )
    columns = ("layer", "tried", "failed", "failure rate (%)", "mean time (s)")
    return Table(title="Layers", columns=columns, rows=tuple(rows))


def _error_table(gates: Sequence[GateRecord], states: Sequence[LayerStateRecord]) -> Table:
    stopped_by: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for gate in gates:
        if gate.blocking and str(gate.outcome) == GateOutcome.FAILED.value:
            stopped_by[gate.clip_id, gate.layer].append(gate.gate)
    counts: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], str] = {}
    for state in states:
        if str(state.state) not in FAILED_STATES:
            continue
        categories = [error_category(str(state.state), state.reason)]
        if str(state.state) == "blocked":
            categories = [f"gate {name}" for name in stopped_by[state.clip_id, state.layer]] or categories
        for category in categories:
            counts[state.layer, category] += 1
            examples.setdefault((state.layer, category), state.clip_id)
    rows: list[dict[str, Value]] = [
        {"layer": layer, "category": category, "clips": count, "for example": examples[layer, category]}
        for (layer, category), count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    return Table(title="Failures", columns=("layer", "category", "clips", "for example"), rows=tuple(rows))


def _hours_table(title: str, column: str, clips: Sequence[Clip], key: Callable[[Clip], str]) -> Table:
    groups: defaultdict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        groups[key(clip) or "not given"].append(clip)
    rows: list[dict[str, Value]] = [
        {column: name, "clips": len(members), "hours": _hours(members)} for name, members in groups.items()
    ]
    rows.sort(key=lambda row: (-float(row["hours"] or 0), str(row[column])))
    return Table(title=title, columns=(column, "clips", "hours"), rows=tuple(rows))


def _lowest_table(clips: Sequence[Clip]) -> Table:
    scored = sorted(
        (clip for clip in clips if clip.quality_score is not None),
        key=lambda clip: (clip.quality_score or 0.0, clip.clip_id),
    )
    lowest = scored[: math.ceil(LOW_SCORE_SHARE * len(scored))]
    rows: tuple[dict[str, Value], ...] = tuple(
        {
            "clip": clip.clip_id,
            "score": clip.quality_score,
            "confidence": clip.quality_confidence,
            "activity": clip.activity_category or "not given",
            "environment": clip.location_type.value,
            "collector": clip.collector_id,
        }
        for clip in lowest
    )
    columns = ("clip", "score", "confidence", "activity", "environment", "collector")
    return Table(title="Lowest tenth by score", columns=columns, rows=rows)


def _hours(clips: Sequence[Clip]) -> float:
    return math.fsum(clip.duration_s or 0.0 for clip in clips) / 3600


def _markdown_row(cells: Sequence[str]) -> str:
    escaped = (" ".join(cell.split()).replace("\\", "\\\\").replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"
