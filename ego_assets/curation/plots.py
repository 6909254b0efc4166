"""Bar charts of a quality summary, each a PNG below 50 KB."""

from __future__ import annotations

from matplotlib.figure import Figure

from ego_assets.curation.score import QualityScore
from ego_assets.curation.summary import QualitySummary, Table
from ego_assets.quality.plots import render_png
from ego_assets.schema.gates import GateOutcome

#: Longer charts are cut to the largest entries; the table lists all.
MAX_BARS = 12

_BAR = "#3b5bdb"
_OUTCOME_COLOURS = {
    GateOutcome.PASSED.value: "#2f7d6d",
    GateOutcome.WARNED.value: "#d9a21b",
    GateOutcome.FAILED.value: "#c2410c",
    GateOutcome.NOT_EVALUATED.value: "#b3b8c0",
}


def summary_plots(summary: QualitySummary) -> dict[str, bytes]:
    """The charts of a summary, by title; tables without rows have none."""
    charts = {
        summary.activities.title: _bars(summary.activities, value="hours"),
        summary.environments.title: _bars(summary.environments, value="hours"),
        summary.collectors.title: _bars(summary.collectors, value="hours"),
        summary.stages.title: _bars(summary.stages, value="clips"),
        summary.gates.title: _stacked_outcomes(summary.gates),
    }
    return {title: png for title, png in charts.items() if png is not None}


def score_plot(score: QualityScore) -> bytes:
    """The parts of a clip's score as bars from 0 to 1; parts that were not evaluated say so."""
    parts = score.parts.to_dict()
    figure = Figure(figsize=(6, 2.2), dpi=100)
    figure.subplots_adjust(left=0.24, right=0.96, top=0.88, bottom=0.14)
    axes = figure.subplots()
    bars = axes.barh(range(len(parts)), [part or 0.0 for part in parts.values()], color=_BAR, height=0.65)
    labels = ["not evaluated" if part is None else f"{part:.2f}" for part in parts.values()]
    axes.bar_label(bars, labels=labels, padding=3, fontsize=8)
    axes.set_xlim(0, 1.15)
    axes.set_xticks([0, 0.5, 1])
    value = "not evaluated" if score.value is None else f"{score.value:.2f}"
    title = f"Score {value}, from {score.confidence:.0%} of its weight"
    _finish(figure, [name.replace("_", " ") for name in parts], title)
    return render_png(figure)


def _bars(table: Table, *, value: str) -> bytes | None:
    """Horizontal bars: the first column names them, ``value`` is their length."""
    if not table.rows:
        return None
    rows = table.rows[:MAX_BARS]
    names = [_shortened(str(row[table.columns[0]])) for row in rows]
    lengths = [float(row[value] or 0) for row in rows]
    figure = _figure(len(rows))
    axes = figure.subplots()
    bars = axes.barh(range(len(rows)), lengths, color=_BAR, height=0.65)
    axes.bar_label(bars, labels=[f"{length:.3g}" for length in lengths], padding=3, fontsize=8)
    axes.set_xlabel(value)
    axes.margins(x=0.12)
    _finish(figure, names, table.title)
    return render_png(figure)


def _stacked_outcomes(table: Table) -> bytes | None:
    """Share of each outcome per gate; the gates with the most failures and warnings first."""
    if not table.rows:
        return None
    outcomes = [outcome.value for outcome in GateOutcome]

    def trouble(row: dict[str, str | int | float | None]) -> float:
        total = sum(float(row[outcome] or 0) for outcome in outcomes)
        return -(2 * float(row["failed"] or 0) + float(row["warned"] or 0)) / total

    rows = sorted(table.rows, key=trouble)[:MAX_BARS]
    figure = _figure(len(rows))
    axes = figure.subplots()
    left = [0.0] * len(rows)
    for outcome in outcomes:
        shares = [
            100 * float(row[outcome] or 0) / sum(float(row[name] or 0) for name in outcomes) for row in rows
        ]
        label = outcome.replace("_", " ")
        axes.barh(
            range(len(rows)), shares, left=left, color=_OUTCOME_COLOURS[outcome], height=0.65, label=label
        )
        left = [start + share for start, share in zip(left, shares, strict=True)]
    axes.set_xlabel("share of clips (%)")
    axes.set_xlim(0, 100)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    _finish(figure, [_shortened(f"{row['layer']}: {row['gate']}", 34) for row in rows], table.title)
    return render_png(figure)


def _figure(bars: int) -> Figure:
    return Figure(figsize=(7, 1.3 + 0.32 * bars), dpi=100, layout="constrained")


def _finish(figure: Figure, names: list[str], title: str) -> None:
    axes = figure.axes[0]
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", labelsize=8)


def _shortened(name: str, length: int = 28) -> str:
    # A dollar sign would start a formula.
    shown = name if len(name) <= length else f"{name[: length - 1]}…"
    return shown.replace("$", r"\$")
