"""The collection report: one HTML file that needs nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

import jinja2

from ego_assets.curation.summary import QualitySummary, format_value
from ego_assets.schema.gates import GateOutcome

#: The only images that a report may show: embedded ones, so that it loads nothing from elsewhere.
_IMAGE_URI = re.compile(r"data:image/(png|jpeg|webp);base64,[A-Za-z0-9+/]+={0,2}")

_OUTCOME_ORDER = (GateOutcome.FAILED, GateOutcome.WARNED, GateOutcome.NOT_EVALUATED, GateOutcome.PASSED)


@dataclass(frozen=True, kw_only=True)
class GateLine:
    """One verdict on a clip card.

    Attributes:
        layer: The layer the gate belongs to.
        gate: Name of the gate.
        outcome: The verdict.
        message: What was found, and what to do.
        blocking: Whether a failure stops the clip.
    """

    layer: str
    gate: str
    outcome: GateOutcome
    message: str
    blocking: bool = False


@dataclass(frozen=True, kw_only=True)
class ClipCard:
    """One clip of the report.

    Attributes:
        clip_id: The clip.
        source_name: File name as uploaded.
        location: Kind of place.
        activity: What was done; empty when not given.
        status: One or two words on where the clip stands.
        duration_s: Duration in seconds, or ``None``.
        score: Quality score in 0-1, or ``None``.
        confidence: Share of the score's weight that was evaluated, or ``None``.
        gates: Verdicts.
        layers: Name and state of every layer.
        thumbnail: Picture of the **blurred** video as a data URI, or ``None``. Never one of the original.
        pictures: What the enrichment layers show of themselves: title and data URI.
    """

    clip_id: str
    source_name: str
    location: str
    activity: str = ""
    status: str = ""
    duration_s: float | None = None
    score: float | None = None
    confidence: float | None = None
    gates: Sequence[GateLine] = ()
    layers: Sequence[tuple[str, str]] = ()
    thumbnail: str | None = None
    pictures: Sequence[tuple[str, str]] = ()

    def __post_init__(self) -> None:
        if self.thumbnail is not None:
            _require_image_uri("thumbnail", self.thumbnail)
        for title, uri in self.pictures:
            _require_image_uri(title, uri)

    @property
    def sorted_gates(self) -> list[GateLine]:
        """The verdicts, gravest first."""
        return sorted(self.gates, key=lambda line: _OUTCOME_ORDER.index(line.outcome))

    @property
    def outcome_counts(self) -> list[tuple[str, int]]:
        """How many verdicts of each outcome there are, gravest first; outcomes without any are left out."""
        counts = [(o.value, sum(line.outcome is o for line in self.gates)) for o in _OUTCOME_ORDER]
        return [(outcome, count) for outcome, count in counts if count]


def render_report(
    summary: QualitySummary,
    clip_cards: Sequence[ClipCard],
    *,
    plots: Mapping[str, str] | None = None,
    generated_at: str = "",
) -> str:
    """Render the report as one HTML document without scripts or external resources.

    Args:
        summary: The state of the collection.
        clip_cards: The clips to show, in this order.
        plots: Charts as data URIs, by the title of the table they belong to.
        generated_at: When the data was read, as shown in the heading.

    Returns:
        HTML; everything that came from outside is escaped.

    Raises:
        ValueError: An image is not an embedded PNG, JPEG or WebP.
    """
    charts = dict(plots or {})
    for name, uri in charts.items():
        _require_image_uri(f"plot {name!r}", uri)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["shown"] = format_value
    environment.filters["words"] = lambda text: str(text).replace("_", " ")
    template = resources.files("ego_assets.curation").joinpath("templates/report.html.j2").read_text("utf-8")
    return environment.from_string(template).render(
        summary=summary, cards=clip_cards, plots=charts, generated_at=generated_at
    )


def _require_image_uri(name: str, uri: str) -> None:
    if not _IMAGE_URI.fullmatch(uri):
        raise ValueError(
            f"{name}: expected a data URI of a PNG, JPEG or WebP image in base64, got {uri[:40]!r}"
        )
