"""``README.md`` of a delivery, and the SDK that lies beside it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

from ego_assets.curation.completeness import layers_in

_LAYOUT = """\
```
manifest.parquet             one row per clip
egodata.py                   reads this folder; needs numpy, pyarrow and Pillow
{clip_id}/rgb/*.jpg          de-identified frames, named by frame index
{clip_id}/metadata.json      quality, camera, context, time grid, provenance
{clip_id}.tar.gz             the same folder as one file
```
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


def dataset_card(rows: Iterable[Mapping[str, Any]]) -> str:
    """A dataset card in Markdown that states what a delivery holds and under which terms.

    Args:
        rows: Rows of the manifest.
    """
    clips = list(rows)
    hours = math.fsum(row["duration_s"] or 0.0 for row in clips) / 3600
    layers = Counter(layer for row in clips for layer in layers_in(row["enrichment_completeness"]))
    sections = [
        "# First-person clips",
        f"{len(clips)} clips, {hours:.2f} hours, {sum(row['step_count'] for row in clips)} time steps.",
        "Faces and readable text were blurred, sound and container metadata removed. Detection "
        "is never perfect: report what you find to the sender, and do not try to identify anybody.",
        "## Layout",
        _LAYOUT,
        "## Use",
        _USAGE,
        "## Layers",
        _counts("layer", layers, "Frames only." if clips else "No clips."),
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


def sdk_source() -> bytes:
    """The source of ``egodata.py``, to be written beside the manifest."""
    return resources.files("ego_assets.delivery").joinpath("egodata.py").read_bytes()


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
