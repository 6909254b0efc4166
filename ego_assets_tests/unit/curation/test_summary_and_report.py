import base64
import io
from dataclasses import dataclass, replace
from html.parser import HTMLParser

import pytest
from PIL import Image

from ego_assets.curation.plots import MAX_BARS, summary_plots
from ego_assets.curation.report import ClipCard, GateLine, render_report
from ego_assets.curation.summary import Table, error_category, format_value, summarise
from ego_assets.schema.clip import Clip
from ego_assets.schema.gates import GateOutcome
from ego_assets.schema.vocabulary import LocationType, ProcessingStatus


@dataclass(frozen=True)
class Gate:
    clip_id: str
    layer: str
    gate: str
    outcome: str
    blocking: bool = False
    value: float | None = None
    threshold: float | None = None
    message: str = ""


@dataclass(frozen=True)
class State:
    clip_id: str
    layer: str
    state: str
    reason: str = ""
    duration_s: float | None = None


def clip(number, **fields):
    values = {
        "clip_id": f"clip-{number:02d}", "source_name": f"{number}.mp4", "duration_s": 3600.0,
        "location_type": LocationType.KITCHEN, "activity_category": "cooking", "collector_id": "ann",
        "processing_status": ProcessingStatus.INGESTED,
    }  # fmt: skip
    return Clip(**{**values, **fields})


CLIPS = [
    *(clip(i, quality_score=i / 20, quality_confidence=0.4) for i in range(11)),
    clip(20, duration_s=1800.0, collector_id="bob", activity_category="", location_type=LocationType.OFFICE),
    clip(21, failed=True, quality_score=0.0),
    clip(22, withdrawn=True),
    clip(23, duplicate_of="clip-00"),
    clip(24, held=True, duration_s=None, processing_status=None),
]


def rows(table, *columns):
    return [tuple(row[column] for column in columns) for row in table.rows]


def test_hours_count_usable_clips_only():
    summary = summarise(CLIPS, [], [])
    assert (summary.clip_count, summary.usable_clip_count, summary.total_hours) == (16, 13, 11.5)
    assert rows(summary.activities, "activity", "hours") == [("cooking", 11.0), ("not given", 0.5)]
    assert rows(summary.environments, "environment", "clips") == [("kitchen", 12), ("office", 1)]
    assert rows(summary.collectors, "collector", "hours") == [("ann", 11.0), ("bob", 0.5)]


def test_stages_name_what_matters_first():
    stages = dict(rows(summarise(CLIPS, [], []).stages, "stage", "clips"))
    assert stages == {"ingested": 12, "failed": 1, "withdrawn": 1, "duplicate": 1, "held": 1}


def test_the_bottom_tenth_is_rounded_up_and_worst_first():
    lowest = summarise(CLIPS, [], []).lowest_scores
    assert rows(lowest, "clip", "score") == [("clip-00", 0.0), ("clip-01", 0.05)]
    assert summarise([], [], []).lowest_scores.rows == ()


def test_failure_rates_and_times_are_those_of_the_layer():
    states = [
        State("a", "depth_maps", "committed", duration_s=2.0),
        State("b", "depth_maps", "given_up", "RuntimeError: out of memory", 4.0),
    ]
    layers = summarise([], [], states).layers
    assert rows(layers, "layer", "tried", "failed", "failure rate (%)", "mean time (s)") == [
        ("depth_maps", 2, 1, 50.0, 3.0)
    ]


def test_failures_are_categorised_by_gate_exception_or_state():
    gates = [
        Gate("a", "clip_quality", "completeness", "failed", True),
        Gate("a", "clip_quality", "blur", "failed", False),
        Gate("b", "clip_quality", "completeness", "failed", True),
        Gate("b", "clip_quality", "parse", GateOutcome.PASSED, True),
    ]
    states = [
        State("a", "clip_quality", "blocked", "2 of 60 frames"),
        State("b", "clip_quality", "blocked"),
        State("c", "depth_maps", "given_up", "RuntimeError: out of memory"),
        State("d", "raw_clip", "failed", "The file is empty: copy it again."),
        State("e", "raw_clip", "committed"),
    ]
    summary = summarise([], gates, states)
    assert rows(summary.errors, "layer", "category", "clips", "for example") == [
        ("clip_quality", "gate completeness", 2, "a"),
        ("depth_maps", "RuntimeError", 1, "c"),
        ("raw_clip", "failed", 1, "d"),
    ]
    assert rows(summary.gates, "gate", "passed", "failed") == [
        ("blur", 0, 1),
        ("completeness", 0, 2),
        ("parse", 1, 0),
    ]


def test_error_category():
    assert error_category("given_up", "ValueError: no") == "ValueError"
    assert error_category("given_up", "Note: nothing") == "given up"


def test_markdown_tables_survive_their_content():
    table = Table(
        title="t", columns=("a", "b"), rows=({"a": "x|y\nz", "b": None}, {"a": 0.12345, "b": 1234.5})
    )
    assert table.markdown().splitlines()[2:] == ["| x\\|y z |  |", "| 0.123 | 1234 |"]
    assert "Nothing" in Table(title="t", columns=("a",), rows=()).markdown()
    with pytest.raises(ValueError, match="columns"):
        Table(title="t", columns=("a",), rows=({"b": 1},))


def test_values_for_people():
    assert [format_value(value) for value in (None, 3, "x", 0.5, 250.7)] == ["", "3", "x", "0.5", "251"]


def test_charts_are_small_pngs_even_for_many_long_names():
    clips = [clip(i, collector_id=f"collector {i} " + "$x_" * 30) for i in range(3 * MAX_BARS)]
    gates = [Gate("a", "clip_quality", f"gate{i}", "warned") for i in range(3 * MAX_BARS)]
    charts = summary_plots(summarise(clips, gates, []))
    assert {"Hours by collector", "Gates", "Clips by stage"} <= set(charts)
    for png in charts.values():
        assert len(png) < 50_000
        with Image.open(io.BytesIO(png)) as image:
            assert image.format == "PNG"
    assert summary_plots(summarise([], [], [])) == {}


PIXEL = "data:image/png;base64," + base64.b64encode(b"\x89PNG").decode()
CARD = ClipCard(
    clip_id="clip-01",
    source_name="<script>alert(1)</script>.mp4",
    location="kitchen",
    activity='cooking" onload="x',
    status="in_delivery",
    duration_s=2.0,
    score=0.71,
    confidence=0.4,
    gates=(
        GateLine(layer="clip_quality", gate="parse", outcome=GateOutcome.PASSED, message="fine & well"),
        GateLine(
            layer="clip_quality", gate="blur", outcome=GateOutcome.WARNED, message="Wipe <b>the</b> lens."
        ),
    ),
    layers=(("frames", "committed"),),
    thumbnail=PIXEL,
)


class _Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value) for name, value in attrs]


def rendered(**changes):
    return render_report(
        summarise(CLIPS, [], []), [replace(CARD, **changes)], plots={"Clips by stage": PIXEL}
    )


def test_the_report_is_one_file_without_scripts_or_links():
    found = _Tags(rendered())
    assert not {"script", "link", "iframe", "object"} & set(found.tags)
    addresses = [value for name, value in found.attributes if name in ("src", "href", "data", "action")]
    assert addresses == [PIXEL, PIXEL]
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert "url(" not in rendered()


def test_the_report_escapes_what_came_from_outside():
    html = rendered()
    assert "&lt;script&gt;alert(1)" in html
    assert "Wipe &lt;b&gt;the" in html


def test_the_report_shows_cards_and_tables():
    html = rendered()
    for text in (
        "0.71",
        "40 % confidence",
        "1 warned",
        "1 passed",
        "in delivery",
        "Lowest tenth by score",
        "11.5",
    ):
        assert text in html
    assert html.index("Wipe") < html.index("fine &amp; well")
    without = rendered(score=None, confidence=None, thumbnail=None, duration_s=None, activity="", gates=())
    assert "no score" in without
    assert "No de-identified picture" in without


def test_an_empty_collection_has_a_report():
    html = render_report(summarise([], [], []), [])
    assert "Nothing yet." in html


@pytest.mark.parametrize(
    "uri",
    [
        "https://example.org/a.png",
        "data:image/svg+xml;base64,AAAA",
        "data:text/html;base64,AAAA",
        f'{PIXEL}"onload="x',
        "",
    ],
)
def test_only_embedded_pictures_are_accepted(uri):
    with pytest.raises(ValueError, match="data URI"):
        rendered(thumbnail=uri)
    with pytest.raises(ValueError, match="data URI"):
        render_report(summarise([], [], []), [], plots={"x": uri})
