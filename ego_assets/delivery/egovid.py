"""EgoVid-5M: its CSV columns, as far as the present layers can fill them.

``egovid/egovid.csv`` has a row per clip. What no layer measures yet (optical flow, clarity, poses) is empty, never
invented. ``ti_sim`` and ``ii_sim`` are lists of cosines times 100, by the model that compared captions with frames, and
empty where none did. A clip has several captions: each frame is compared with the one of its stretch.

Columns: https://huggingface.co/datasets/Jeff-Wang/EgoVid-5M
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ego_assets.delivery.clip_source import DeliveredClip, differing_clips
from ego_assets.delivery.definition import DeliveryDefinition
from ego_assets.delivery.journal import Journal
from ego_assets.schema.progress import ProgressCallback, ignore_progress

FOLDER = "egovid"
TABLE = f"{FOLDER}/egovid.csv"
COLUMNS = (
    "video_id",
    "frame_num",
    "fps",
    "noun_cls",
    "verb_cls",
    "llava_cap",
    "name",
    "flow_mean",
    "flow_0_4",
    "flow_4_8",
    "flow_8_12",
    "flow_12_16",
    "flow_16_",
    "ti_sim",
    "ii_sim",
    "dover_score",
    "egovideo_score",
    "split",
)
#: Categories that name no thing that somebody handles.
_NO_NOUNS = frozenset({"background", "hand", "object", "person"})


def video_id(clip: DeliveredClip) -> str:
    """``VideoID_StartFrame_EndFrame``, the end being the first frame that is not in it."""
    return f"{clip.clip_id}_0_{clip.row['frame_count']}"


def write(
    folder: Path,
    clips: Sequence[DeliveredClip],
    *,
    definition: DeliveryDefinition,
    journal: Journal,
    progress: ProgressCallback = ignore_progress,
) -> Mapping[str, int]:
    """Write the table.

    Args:
        folder: The delivery that is being made.
        clips: Its clips.
        definition: Not asked for anything here.
        journal: Knows whether the table is finished.
        progress: Hears clips done and in total.

    Returns:
        Number of clips.
    """
    if not journal.has(TABLE):
        with journal.create(TABLE) as file:
            text = io.StringIO()
            table = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
            table.writeheader()
            file.write(text.getvalue().encode())
            for done, clip in enumerate(sorted(clips, key=lambda one: one.clip_id)):
                progress(done, len(clips))
                text.seek(0)
                text.truncate()
                table.writerow(_row(clip))
                file.write(text.getvalue().encode())
    progress(len(clips), len(clips))
    return {"clips": len(clips)}


def check(folder: Path, *, expected_clips: Collection[str]) -> list[str]:
    """Read the table and compare its clips.

    Returns:
        What is wrong, in words.
    """
    try:
        with (folder / TABLE).open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        return [f"{TABLE} cannot be read: {error}"]
    problems = []
    if tuple(reader.fieldnames or ()) != COLUMNS:
        problems.append(f"{TABLE}: expected the columns {', '.join(COLUMNS)}")
    found = {(row.get("video_id") or "").partition("_")[0] for row in rows}
    return problems + differing_clips(expected_clips, found, where=TABLE)


def _row(clip: DeliveredClip) -> dict[str, Any]:
    verbs = _longest_first(clip)
    return {
        "video_id": video_id(clip),
        "frame_num": clip.row["frame_count"],
        "fps": clip.row["fps"],
        "noun_cls": ", ".join(_nouns(clip)),
        "verb_cls": verbs[0] if verbs else "",
        "llava_cap": " ".join(caption["text"] for caption in clip.captions),
        "name": ", ".join(verbs) or clip.row["activity_category"],
        "ti_sim": _percents(clip.frame_similarity.get("text", ())),
        "ii_sim": _percents(clip.frame_similarity.get("picture", ())),
        "split": clip.split or "",
    }


def _percents(cosines: Sequence[float | None]) -> str:
    """A list of cosines times 100; empty where one of them is not known."""
    known = [cosine for cosine in cosines if cosine is not None]
    if not known or len(known) < len(cosines):
        return ""
    return f"[{', '.join(f'{100 * cosine:.2f}' for cosine in known)}]"


def _longest_first(clip: DeliveredClip) -> list[str]:
    """The activities of a clip, the one that takes longest first."""
    lasting_ns: Counter[str] = Counter()
    for segment in clip.actions:
        lasting_ns[segment["label"]] += segment["end_ns"] - segment["start_ns"]
    return [label for label, _ in lasting_ns.most_common()]


def _nouns(clip: DeliveredClip) -> list[str]:
    """Categories of things that the masks name, sorted."""
    path = "segmentation/categories.json"
    if path not in clip.files.sizes():
        return []
    instances = json.loads(clip.files.read(path))["instances"].values()
    return sorted({instance["category"] for instance in instances} - _NO_NOUNS)
