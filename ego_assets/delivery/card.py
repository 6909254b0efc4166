"""``README.md`` of a delivery, and the SDK that lies beside it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from typing import Any

from ego_assets.curation.completeness import layers_in
from ego_assets.schema.layers import COMPLETENESS_BITS
from ego_assets.schema.recall import RecallEstimate

_LAYOUT = """\
```
manifest.parquet             one row per clip
egodata.py                   reads this folder; needs numpy, pyarrow and Pillow
{clip_id}/rgb/*.jpg          de-identified frames, named by frame index
{clip_id}/depth/*.png        16-bit, 0 where nothing is known; depth.json states unit and scale
{clip_id}/depth/confidence/  8-bit: 0 unknown, 1-127 completed, 128-255 measured
{clip_id}/segmentation/*.png indexed, pixel = instance id; categories.json says what each is
{clip_id}/hand_object/*.json state, contacted object and landmarks of both hands
{clip_id}/actions.json       activity segments
{clip_id}/captions.json      timed sentences; `source` says whether a model looked at the picture
{clip_id}/embedding.parquet  768 numbers for the clip and for five of its frames
{clip_id}/metadata.json      quality, camera, context, time grid, provenance
{clip_id}.tar.gz             the same folder as one file
```

Frames of all layers are named by the frame's index in the video, so equal names belong together; each layer has its own
rate. `verdicts.parquet` in a layer's folder judges it frame by frame. A clip lacks the folders of layers that failed.
"""

_USAGE = """\
```python
from egodata import Dataset

dataset = Dataset("manifest.parquet")
for info in dataset.clips(min_quality=0.5, complete=["frames"]):
    clip = dataset.load_clip(info["clip_id"])
    print(clip.clip_id, len(clip.rgb), clip.rgb[0].shape)
```
"""


@dataclass(frozen=True, kw_only=True)
class BenchmarkRecall:
    """Recall of one kind of region on labelled images.

    Attributes:
        recall: Covered share of the labelled regions, 0-1.
        low: Lower end of its 95 % interval, 0-1.
        high: Upper end of the interval, 0-1.
        regions: Labelled regions.
        material: What they are, such as ``WFLW and 300W images``.
    """

    recall: float
    low: float
    high: float
    regions: int
    material: str

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.recall <= self.high <= 1 or self.regions < 1:
            raise ValueError(f"benchmark: expected 0 <= low <= recall <= high <= 1 and regions, got {self}")


#: What the fine look of the pass covers with the default profile, by kind. Faces: `benchmarks/privacy.py --part faces`,
#: row `face recall, all images`. Text and plates: `benchmarks/privacy.py --part text`, rows
#: `text recall, ICDAR 2015, fine look` and `plate recall, all sets, fine look`.
BENCHMARK_RECALL: Mapping[str, BenchmarkRecall] = MappingProxyType(
    {
        "faces": BenchmarkRecall(
            recall=0.941,
            low=0.870,
            high=0.975,
            regions=85,
            material="photographs, 300W and WFLW among them, and frames of three clips",
        ),
        "text": BenchmarkRecall(
            recall=0.900, low=0.596, high=0.982, regions=10, material="five ICDAR 2015 pictures"
        ),
        "plates": BenchmarkRecall(
            recall=1.0,
            low=0.952,
            high=1.0,
            regions=77,
            material="photographs of cars from OpenALPR and alpr-unconstrained",
        ),
    }
)


def dataset_card(
    rows: Iterable[Mapping[str, Any]],
    *,
    measured_recall: Mapping[str, RecallEstimate] | None = None,
    benchmark_recall: Mapping[str, BenchmarkRecall] = BENCHMARK_RECALL,
) -> str:
    """A dataset card in Markdown that states what a delivery holds and under which terms.

    Args:
        rows: Rows of the manifest.
        measured_recall: What people found in the sampled frames of these clips, by kind.
        benchmark_recall: What the benchmark found, by kind.
    """
    clips = list(rows)
    hours = math.fsum(row["duration_s"] or 0.0 for row in clips) / 3600
    sections = [
        "# First-person clips",
        f"{len(clips)} clips, {hours:.2f} hours, {sum(row['step_count'] for row in clips)} time steps.",
        "Faces, readable text, screens and number plates were covered, container metadata removed. Detection "
        "is never perfect: report what you find to the sender, and do not try to identify anybody.",
        "## Privacy",
        "A person looks at a random 5 % of the frames of a clip and notes what is not covered. The table gives, as "
        "of the day on which this version was made, the share of the regions that were covered, with the 95 % "
        "interval. Regions of one clip are alike, and the interval allows for it. Beside it stands the same "
        "share on labelled images of the detectors' benchmark. " + _reviewed(clips),
        _recall_table(measured_recall or {}, benchmark_recall),
        "## Layout",
        _LAYOUT,
        "## Use",
        _USAGE,
        "## Layers",
        "A layer is *complete* where everything that decides whether it can be used was judged and passed; that is "
        "what `enrichment_completeness` and `complete=` mean. Others are delivered with what could not be judged, such "
        "as depth without a known scale or captions whose relevance nobody measured: `metadata.json` has the verdicts.",
        _layers(clips),
        "## Licence and consent",
        _counts("licence", Counter(row["licence"] or "not given" for row in clips), "No clips."),
        _counts("consent", Counter(row["consent_scope"] for row in clips), "No clips."),
        "## Environments and activities",
        _counts("environment", Counter(row["environment_type"] for row in clips), "No clips."),
        _counts("activity", Counter(row["activity_category"] or "not given" for row in clips), "No clips."),
        "## Quality",
        "`quality_score` is a weighted mean in 0-1; `quality_confidence` is the share of its weight that could "
        "be evaluated. Compare scores of equal confidence.",
    ]
    return "\n\n".join(section.strip() for section in sections) + "\n"


def _reviewed(clips: Sequence[Mapping[str, Any]]) -> str:
    """How many clips people have looked at."""
    reviewed = sum(row.get("privacy_status") == "reviewed" for row in clips)
    return (
        f"The sample of {reviewed} of {len(clips)} clips was reviewed in full (`privacy_status` `reviewed`)."
    )


def _recall_table(measured: Mapping[str, RecallEstimate], benchmark: Mapping[str, BenchmarkRecall]) -> str:
    lines = ["| kind | measured on reviewed frames | benchmark |", "| --- | --- | --- |"]
    for kind in sorted({"faces", *measured, *benchmark}):
        found, figure = measured.get(kind), benchmark.get(kind)
        by_people = found.described() if found is not None and found.frames else "not measured yet"
        on_images = (
            f"{figure.recall:.3f} (95 % interval {figure.low:.3f}-{figure.high:.3f}; {figure.regions} regions, "
            f"{figure.material})"
            if figure is not None
            else "not measured"
        )
        lines.append(f"| {_plain(kind)} | {_plain(by_people)} | {_plain(on_images)} |")
    return "\n".join(lines)


def sdk_source() -> bytes:
    """The source of ``egodata.py``, to be written beside the manifest."""
    return resources.files("ego_assets.delivery").joinpath("egodata.py").read_bytes()


def _layers(clips: Sequence[Mapping[str, Any]]) -> str:
    """How many clips have each layer, and how many have it complete."""
    complete = Counter(layer for row in clips for layer in layers_in(row["enrichment_completeness"]))
    delivered = Counter(layer for row in clips for layer in COMPLETENESS_BITS if row.get(f"{layer}_uri"))
    if not delivered:
        return "No clips." if not clips else "No layers."
    lines = ["| layer | clips | complete |", "| --- | --- | --- |"]
    lines += [f"| {layer} | {count} | {complete[layer]} |" for layer, count in delivered.most_common()]
    return "\n".join(lines)


def _counts(name: str, counts: Counter[str], otherwise: str) -> str:
    if not counts:
        return otherwise
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    lines = [f"| {name} | clips |", "| --- | --- |"]
    lines += [f"| {_plain(value)} | {count} |" for value, count in ordered]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """One line without characters that mean something in a table."""
    return " ".join(text.split()).replace("|", "/")
