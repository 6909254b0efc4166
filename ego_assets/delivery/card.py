"""``README.md`` of a delivery, and the SDK that lies beside it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from types import MappingProxyType
from typing import Any

from ego_assets.curation.completeness import layers_in
from ego_assets.delivery.definition import FORMATS, SPLITS, DeliveryDefinition
from ego_assets.schema.layers import COMPLETENESS_BITS
from ego_assets.schema.recall import RecallEstimate

#: Name of the picture of :func:`coverage_picture` beside the card.
COVERAGE = "coverage.png"
#: Rows and letters of that picture.
_MOST_ACTIVITIES, _LONGEST_LABEL = 15, 24
#: So much of a digest tells weights apart.
_DIGEST_DIGITS = 12

_HEAD_LAYOUT = """\
manifest.parquet             one row per clip
corrections.parquet          clips of earlier versions that were withdrawn or replaced
egodata.py                   reads this folder; needs numpy, pyarrow and Pillow
delivery.json                what was asked for, and size and digest of every file
"""
_FOLDER_LAYOUT = """\
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
"""
_FORMAT_LAYOUT: Mapping[str, str] = {
    "webdataset": "webdataset/*.tar             a sample per time step; index.json lists the shards\n",
    "hf": "hf/data, hf/clips            Parquet: a row per time step, a row per clip; README.md of its own\n",
    "lerobot": "lerobot/                     MP4 and Parquet; other/ has clips of another rate or size\n",
    "egovid": "egovid/egovid.csv            a row per clip\n",
    "hdf5": "hdf5/{clip_id}.h5            a row per time step\n",
}
_FOLDER_NOTE = """\
Frames of all layers are named by the frame's index in the video, so equal names belong together; each layer has its own
rate. `verdicts.parquet` in a layer's folder judges it frame by frame. A clip lacks the folders of layers that failed.
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


#: How each format is opened, and what it needs.
_OPENED: Mapping[str, str] = {
    "folder": """\
from egodata import Dataset                       # beside this file; needs numpy, pyarrow and Pillow

dataset = Dataset("manifest.parquet")
for info in dataset.clips(min_quality=0.5, complete=["frames"]):
    clip = dataset.load_clip(info["clip_id"])
    print(clip.clip_id, len(clip.rgb), clip.rgb[0].shape)""",
    "webdataset": """\
import io, numpy, webdataset                      # needs webdataset and Pillow; index.json lists all shards
from PIL import Image

raster = lambda data: numpy.asarray(Image.open(io.BytesIO(data)))   # its own decoders make 8-bit colours of depth
decoders = [webdataset.handle_extension("depth.png mask.png", raster), "rgb8"]
for sample in webdataset.WebDataset("webdataset/{shard}", shardshuffle=False).decode(*decoders):
    print(sample["__key__"], sample["rgb.jpg"].shape, sample["metadata.json"]["timestamp_ns"])""",
    "hf": """\
from datasets import load_dataset                 # needs datasets 4 or later

steps = load_dataset("hf", split="{split}", streaming=True)
for step in steps:
    print(step["clip_id"], step["rgb"].size, step["caption"])""",
    "lerobot": """\
from lerobot.datasets.lerobot_dataset import LeRobotDataset     # needs lerobot 0.4

dataset = LeRobotDataset("ego/clips", root="lerobot")
for frame in dataset:
    print(frame["observation.state"].shape, frame["task"])""",
    "egovid": """\
import csv

with open("egovid/egovid.csv", newline="") as file:
    for row in csv.DictReader(file):
        print(row["video_id"], row["verb_cls"], row["llava_cap"])""",
    "hdf5": """\
import h5py, glob                                 # needs h5py

for path in glob.glob("hdf5/*.h5"):
    with h5py.File(path) as clip:
        print(path, clip["rgb"].shape, clip["timestamps_ns"][:3])""",
}

_LIMITS = """\
- Detection of personal data is never perfect; see the figures above. Voices are not inside: there is no sound.
- Layers are made by models and algorithms, not by people. Gates judge them; `metadata.json` has every verdict.
- Depth is metric only where `depth.json` says so; elsewhere it is known up to a factor.
- Captions whose `source` is `template` are put together from labels and did not come from looking at the picture.
- EgoVid columns that no layer measures are empty. LeRobot datasets hold states, and no actions.
- Collectors and places are few: look at the coverage before you conclude from a model trained on this."""


@dataclass
class _Statistics:
    """What is counted while the rows pass by."""

    clips: int = 0
    seconds: float = 0.0
    steps: int = 0
    reviewed: int = 0
    collectors: set[str] = field(default_factory=set)
    complete: Counter[str] = field(default_factory=Counter)
    delivered: Counter[str] = field(default_factory=Counter)
    #: Clips and seconds by kind of group and group.
    groups: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, row: Mapping[str, Any]) -> None:
        seconds = row["duration_s"] or 0.0
        self.clips += 1
        self.seconds += seconds
        self.steps += row["step_count"]
        self.reviewed += row.get("privacy_status") == "reviewed"
        self.collectors.add(row.get("collector_id") or "not given")
        self.complete.update(layers_in(row["enrichment_completeness"]))
        self.delivered.update(layer for layer in COMPLETENESS_BITS if row.get(f"{layer}_uri"))
        for kind, value in (
            ("licence", row["licence"] or "not given"),
            ("consent", row["consent_scope"]),
            ("environment", row["environment_type"]),
            ("activity", row["activity_category"] or "not given"),
            ("split", row.get("split") or "none"),
        ):
            counted = self.groups.setdefault(kind, {}).setdefault(value, [0, 0.0])
            counted[0] += 1
            counted[1] += seconds

    @property
    def splits(self) -> list[str]:
        """Names of the splits that hold something, in their order."""
        return [name for name in SPLITS if name in self.groups.get("split", {})]


def dataset_card(
    rows: Iterable[Mapping[str, Any]],
    *,
    definition: DeliveryDefinition | None = None,
    counts: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
    left_out: Mapping[str, int] = MappingProxyType({}),
    damaged: int = 0,
    layers: Iterable[Mapping[str, Any]] = (),
    detected: Mapping[str, int] = MappingProxyType({}),
    measured_recall: Mapping[str, RecallEstimate] | None = None,
    benchmark_recall: Mapping[str, BenchmarkRecall] = BENCHMARK_RECALL,
) -> str:
    """A dataset card in Markdown that states what a delivery holds and under which terms.

    Args:
        rows: Rows of the manifest; they are passed through once.
        definition: What was asked for; the default delivery where it is not given.
        counts: What each format holds.
        left_out: Number of clips that are not in it, by kind of reason.
        damaged: Clips that are missing because they were damaged, among those.
        layers: What the ``metadata.json`` of each clip says of its layers; passed through once.
        detected: What the privacy pass found and covered in these clips, by kind.
        measured_recall: What people found in the sampled frames of these clips, by kind.
        benchmark_recall: What the benchmark found, by kind.
    """
    asked, found = definition or DeliveryDefinition(), _Statistics()
    for row in rows:
        found.add(row)
    sections = [
        f"# First-person clips: {asked.name}",
        f"{found.clips} clips, {found.seconds / 3600:.3f} hours, {found.steps} time steps, "
        f"{len(found.collectors)} collector(s).",
        f"**Incomplete:** {damaged} clip(s) that belong here were damaged; a later version has them."
        * bool(damaged),
        "Faces, readable text, screens and number plates were covered, container metadata and sound removed. Detection "
        "is never perfect: report what you find to the sender, and do not try to identify anybody.",
        "## Privacy",
        _detections(detected, found.clips),
        "A person looks at a random 5 % of the frames of a clip and notes what is not covered. The table gives, as "
        "of the day on which this version was made, the share of the regions that were covered, with the 95 % "
        "interval. Regions of one clip are alike, and the interval allows for it. Beside it stands the same "
        "share on labelled images of the detectors' benchmark. "
        f"The sample of {found.reviewed} of {found.clips} clips was reviewed in full (`privacy_status` `reviewed`).",
        _recall_table(measured_recall or {}, benchmark_recall),
        "## What is inside",
        _choice(asked),
        _formats(asked, counts),
        _table(found, "split") if found.splits else "There are no splits.",
        _omitted(left_out),
        "## Layout",
        _layout(asked),
        "## Use",
        _usage(asked, found.splits),
        "`corrections.parquet` names clips of earlier versions that must not be used any more. Its present state lies "
        "one folder up, beside the versions: look there from time to time, or let `egodata.py` do so.",
        "## Layers",
        "A layer is *complete* where everything that decides whether it can be used was judged and passed; that is "
        "what `enrichment_completeness` and `complete=` mean. Others are delivered with what could not be judged, such "
        "as depth without a known scale or captions whose relevance nobody measured: `metadata.json` has the verdicts.",
        _layers(found),
        "## Licence and consent",
        _table(found, "licence"),
        _table(found, "consent"),
        models_section(layers),
        "## Environments and activities",
        f"![Hours by activity and environment]({COVERAGE})" if found.clips else "",
        _table(found, "environment"),
        _table(found, "activity"),
        "## Quality",
        "`quality_score` is a weighted mean in 0-1; `quality_confidence` is the share of its weight that could "
        "be evaluated. Compare scores of equal confidence.",
        "## Known limits",
        _LIMITS,
    ]
    return "\n\n".join(section.strip() for section in sections if section) + "\n"


def models_section(layers: Iterable[Mapping[str, Any]]) -> str:
    """Which models made the layers, under which licences: each model once; empty where nothing is recorded.

    Args:
        layers: What the ``metadata.json`` of each clip says of its layers, by name.
    """
    used: defaultdict[tuple[str, str, str], set[str]] = defaultdict(set)
    for provenances in layers:
        for layer, provenance in provenances.items():
            for backend in provenance.get("backends", ()):
                key = backend["model"], backend.get("licence", ""), backend.get("weights_sha256", "")
                used[key].add(layer)
    if not used:
        return ""
    ordered = sorted((", ".join(sorted(names)), *key) for key, names in used.items())
    lines = ["| layer | model | licence | weights |", "| --- | --- | --- | --- |"]
    for names, model, licence, digest in ordered:
        shown = f"`{digest[:_DIGEST_DIGITS]}`" if digest else "-"
        lines.append(f"| {names} | {_plain(model)} | {_plain(licence) or '-'} | {shown} |")
    return "\n\n".join(
        [
            "## Models and their licences",
            "The layers were made with these models. A licence is that of the weights, and may say for what the labels "
            "can be used: look at each before you train from them. Where `-` stands, nothing was recorded: algorithms "
            "have no weights, and of models behind an endpoint they are not known. Digests (SHA-256) are shortened; "
            "`metadata.json` has the whole.",
            "\n".join(lines),
        ]
    )


def coverage_picture(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Hours by activity and environment as a small PNG; activities beyond the largest are put together."""
    import io

    import numpy as np
    from matplotlib.figure import Figure

    hours: defaultdict[tuple[str, str], float] = defaultdict(float)
    for row in rows:
        hours[row["activity_category"] or "not given", row["environment_type"]] += (
            row["duration_s"] or 0.0
        ) / 3600
    totals: defaultdict[str, float] = defaultdict(float)
    for (activity, _), amount in hours.items():
        totals[activity] += amount
    largest = [
        name for name, _ in sorted(totals.items(), key=lambda item: (-item[1], item[0]))[:_MOST_ACTIVITIES]
    ]
    activities = [*largest, *(["others"] if len(totals) > len(largest) else [])] or ["no clips"]
    environments = sorted({environment for _, environment in hours}) or ["no clips"]
    values = np.zeros((len(activities), len(environments)))
    for (activity, environment), amount in hours.items():
        place = activities.index(activity if activity in largest else "others")
        values[place, environments.index(environment)] += amount
    figure = Figure(figsize=(2.6 + 0.9 * len(environments), 1.4 + 0.35 * len(activities)), dpi=90)
    axes = figure.add_subplot()
    axes.imshow(values, cmap="Blues", aspect="auto", vmin=0)
    axes.set_xticks(
        range(len(environments)), [_short(name) for name in environments], rotation=30, ha="right"
    )
    axes.set_yticks(range(len(activities)), [_short(name) for name in activities])
    bright = values.max() / 2
    for (place, column), shown in np.ndenumerate(values):
        axes.text(
            column,
            place,
            f"{shown:.2g}" if shown else "-",
            ha="center",
            va="center",
            color="white" if shown > bright else "#333333",
        )
    axes.set_title("hours", fontsize=9)
    figure.tight_layout()
    out = io.BytesIO()
    # Without the version of the library: equal content gives equal files.
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _detections(detected: Mapping[str, int], clips: int) -> str:
    if not detected:
        return "How many regions were covered is stated per clip in `metadata.json`."
    found = ", ".join(f"{count} of {_plain(kind)}" for kind, count in sorted(detected.items()))
    return f"Detections that were covered in these {clips} clips, frame by frame: {found}."


def _choice(definition: DeliveryDefinition) -> str:
    chosen = (
        f"Clips that fit `{_plain(definition.where)}`."
        if definition.where
        else "All clips that may be delivered."
    )
    open_reviews = (
        " Clips with open privacy reviews of normal risk are among them."
        if definition.include_unreviewed
        else ""
    )
    shares = definition.split
    if shares is None:
        return chosen + open_reviews
    asked = ", ".join(f"{name} {share:g}" for name, share in zip(SPLITS, shares.as_tuple(), strict=True))
    return f"{chosen}{open_reviews} Splits are by collector, nobody is in two of them; asked for: {asked} of the time."


def _formats(definition: DeliveryDefinition, counts: Mapping[str, Mapping[str, int]]) -> str:
    lines = ["| format | what it is | holds |", "| --- | --- | --- |"]
    for name in definition.formats:
        held = ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in counts.get(name, {}).items())
        lines.append(f"| {name} | {FORMATS[name]} | {held or 'all clips'} |")
    return "\n".join(lines)


def _omitted(left_out: Mapping[str, int]) -> str:
    if not left_out:
        return ""
    listed = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
    return f"Not inside: {listed}."


def _layout(definition: DeliveryDefinition) -> str:
    lines = [_HEAD_LAYOUT]
    lines += [_FOLDER_LAYOUT] if "folder" in definition.formats else []
    lines += [_FORMAT_LAYOUT[name] for name in definition.formats if name in _FORMAT_LAYOUT]
    text = "```\n" + "".join(lines) + "```\n"
    return text + ("\n" + _FOLDER_NOTE if "folder" in definition.formats else "")


def _usage(definition: DeliveryDefinition, splits: Sequence[str]) -> str:
    split = splits[0] if splits else ""
    blocks = []
    for name in definition.formats:
        example = (
            _OPENED[name]
            .replace("{split}", split or "train")
            .replace("{shard}", f"{split or 'all'}-000000.tar")
        )
        blocks.append(f"```python\n{example}\n```")
    return "\n\n".join(blocks)


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


def _layers(found: _Statistics) -> str:
    """How many clips have each layer, and how many have it complete."""
    if not found.delivered:
        return "No clips." if not found.clips else "No layers."
    lines = ["| layer | clips | complete |", "| --- | --- | --- |"]
    lines += [
        f"| {layer} | {count} | {found.complete[layer]} |" for layer, count in found.delivered.most_common()
    ]
    return "\n".join(lines)


def _table(found: _Statistics, kind: str) -> str:
    """Clips and hours of each group, the largest first."""
    groups = found.groups.get(kind, {})
    if not groups:
        return "No clips."
    ordered = sorted(groups.items(), key=lambda item: (-item[1][0], item[0]))
    lines = [f"| {kind} | clips | hours |", "| --- | --- | --- |"]
    lines += [
        f"| {_plain(value)} | {clips:.0f} | {seconds / 3600:.3f} |" for value, (clips, seconds) in ordered
    ]
    return "\n".join(lines)


def _short(text: str) -> str:
    text = _plain(text)
    return text if len(text) <= _LONGEST_LABEL else f"{text[: _LONGEST_LABEL - 1]}…"


def _plain(text: str) -> str:
    """One line without characters that mean something in a table."""
    return " ".join(text.split()).replace("|", "/")
