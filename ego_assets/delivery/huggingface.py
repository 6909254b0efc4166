"""Hugging Face: Parquet with the pictures inside, which ``datasets.load_dataset`` opens and streams without any code.

Layout below ``hf/``::

    README.md                      configurations `steps` (default) and `clips`
    data/{split}-00000.parquet     a row per time step
    clips/{split}.parquet          a row per clip
    script/ego_clips.py            for versions of `datasets` before 4: reads the tar archives of the delivery
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ego_assets.delivery.card import models_section
from ego_assets.delivery.clip_source import DeliveredClip, Step, differing_clips, layers_recorded
from ego_assets.delivery.definition import SPLITS, DeliveryDefinition
from ego_assets.delivery.journal import Journal
from ego_assets.schema.artifact import digest_of
from ego_assets.schema.progress import ProgressCallback, ignore_progress

FOLDER = "hf"
#: Split of a delivery that has none.
ONLY_SPLIT = "train"
#: Rows that a reader has to fetch at least: few, because they hold pictures.
ROWS_PER_GROUP = 64

_PICTURE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
_STEP_COLUMNS: tuple[tuple[str, pa.DataType], ...] = (
    ("clip_id", pa.string()),
    ("step", pa.int64()),
    ("frame_index", pa.int64()),
    ("timestamp_ns", pa.int64()),
    ("rgb", _PICTURE),
    ("depth", _PICTURE),
    ("confidence", _PICTURE),
    ("mask", _PICTURE),
    ("hands", pa.string()),
    ("left_hand_state", pa.string()),
    ("right_hand_state", pa.string()),
    ("caption", pa.string()),
    ("action", pa.string()),
)
#: Columns of the manifest that say something of a clip wherever it lies.
_CLIP_COLUMNS: tuple[tuple[str, pa.DataType], ...] = (
    ("clip_id", pa.string()),
    ("duration_s", pa.float64()),
    ("activity_category", pa.string()),
    ("environment_type", pa.string()),
    ("quality_score", pa.float64()),
    ("quality_confidence", pa.float64()),
    ("frame_count", pa.int64()),
    ("step_count", pa.int64()),
    ("fps", pa.float64()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("enrichment_completeness", pa.int32()),
    ("licence", pa.string()),
    ("consent_scope", pa.string()),
    ("source_camera", pa.string()),
    ("collector_id", pa.string()),
    ("depth_reading", pa.string()),
    ("mask_categories", pa.string()),
)
_FEATURE_NAMES = {pa.string(): "string", pa.int64(): "int64", pa.int32(): "int32", pa.float64(): "float64"}


def _schema(columns: Sequence[tuple[str, pa.DataType]]) -> pa.Schema:
    """The columns, with the description by which ``datasets`` knows pictures."""
    features = {
        name: {"_type": "Image"} if kind == _PICTURE else {"dtype": _FEATURE_NAMES[kind], "_type": "Value"}
        for name, kind in columns
    }
    described = json.dumps({"info": {"features": features}})
    return pa.schema([pa.field(name, kind) for name, kind in columns], metadata={"huggingface": described})


STEP_SCHEMA = _schema(_STEP_COLUMNS)
CLIP_SCHEMA = _schema(_CLIP_COLUMNS)


def write(
    folder: Path,
    clips: Sequence[DeliveredClip],
    *,
    definition: DeliveryDefinition,
    journal: Journal,
    progress: ProgressCallback = ignore_progress,
) -> Mapping[str, int]:
    """Write the Parquet files, the card and the script.

    Args:
        folder: The delivery that is being made.
        clips: Its clips.
        definition: Decides the size of the files.
        journal: Knows the files that are finished.
        progress: Hears clips done and in total.

    Returns:
        Number of files and samples.
    """
    done = files = samples = 0
    splits = [split for split in (*SPLITS, None) if any(clip.split == split for clip in clips)]
    for split in splits:
        chosen = [clip for clip in clips if clip.split == split]
        for number, part in enumerate(_parts(chosen, definition.shard_bytes)):
            name = f"{FOLDER}/data/{split or ONLY_SPLIT}-{number:05d}.parquet"
            files += 1
            if not journal.has(name):
                with journal.create_path(name) as path:
                    _write_steps(path, part)
            samples += sum(int(clip.grid.frame_index.size) for clip in part)
            done += len(part)
            progress(done, len(clips))
        name = f"{FOLDER}/clips/{split or ONLY_SPLIT}.parquet"
        if not journal.has(name):
            with journal.create_path(name) as path:
                pq.write_table(
                    pa.Table.from_pylist([_clip_row(clip) for clip in chosen], schema=CLIP_SCHEMA), path
                )
    card = _card(clips, [split or ONLY_SPLIT for split in splits])
    script = resources.files("ego_assets.delivery").joinpath("ego_clips.py").read_bytes()
    for name, content in ((f"{FOLDER}/README.md", card.encode()), (f"{FOLDER}/script/ego_clips.py", script)):
        if not journal.has(name):
            with journal.create(name) as file:
                file.write(content)
    return {"files": files, "samples": samples}


def check(folder: Path, *, expected_clips: Collection[str]) -> list[str]:
    """Read the first row of every file, decode its picture, and compare clips and counts.

    Returns:
        What is wrong, in words.
    """
    import io

    from PIL import Image

    problems: list[str] = []
    listed: dict[str, int] = {}
    stepped: dict[str, int] = {}
    for path in sorted((folder / FOLDER / "clips").glob("*.parquet")):
        try:
            table = pq.read_table(path, columns=["clip_id", "step_count"])
            listed |= dict(zip(table["clip_id"].to_pylist(), table["step_count"].to_pylist(), strict=True))
        except (OSError, pa.ArrowException) as error:
            problems.append(f"{FOLDER}/clips/{path.name} cannot be read: {error}")
    for path in sorted((folder / FOLDER / "data").glob("*.parquet")):
        try:
            for clip_id in pq.read_table(path, columns=["clip_id"])["clip_id"].to_pylist():
                stepped[clip_id] = stepped.get(clip_id, 0) + 1
            with pq.ParquetFile(path) as file:
                if file.metadata.num_rows:
                    first = next(file.iter_batches(1, columns=["rgb"])).to_pylist()[0]
                    with Image.open(io.BytesIO(first["rgb"]["bytes"])) as image:
                        image.load()
        except (OSError, pa.ArrowException) as error:
            problems.append(f"{FOLDER}/data/{path.name} cannot be read: {error}")
    problems += differing_clips(expected_clips, listed, where=FOLDER)
    for clip_id, steps in sorted(listed.items()):
        if stepped.get(clip_id, 0) != steps:
            problems.append(f"{FOLDER}: clip {clip_id} has {stepped.get(clip_id, 0)} rows, expected {steps}")
    return problems


# --- files --------------------------------------------------------------------------------------------


def _parts(clips: Sequence[DeliveredClip], most_bytes: int) -> Iterator[list[DeliveredClip]]:
    """The clips, whole, in groups of about so many bytes."""
    part: list[DeliveredClip] = []
    size = 0
    for clip in sorted(clips, key=lambda one: one.clip_id):
        sizes = clip.files.sizes()
        wanted = sum(
            sizes[path]
            for step in clip.steps()
            for path in (step.rgb, step.depth, step.confidence, step.mask)
            if path
        )
        if part and size + wanted > most_bytes:
            yield part
            part, size = [], 0
        part.append(clip)
        size += wanted
    if part:
        yield part


def _write_steps(path: Path, clips: Sequence[DeliveredClip]) -> None:
    with ExitStack() as stack:
        # Pictures are compressed already.
        writer = stack.enter_context(
            pq.ParquetWriter(path, STEP_SCHEMA, compression="none", use_dictionary=False)
        )
        rows: list[dict[str, Any]] = []
        for clip in clips:
            for step in clip.steps():
                rows.append(_step_row(clip, step))
                if len(rows) == ROWS_PER_GROUP:
                    writer.write_table(pa.Table.from_pylist(rows, schema=STEP_SCHEMA))
                    rows = []
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema=STEP_SCHEMA))


def _step_row(clip: DeliveredClip, step: Step) -> dict[str, Any]:
    def picture(path: str | None) -> dict[str, Any] | None:
        return None if path is None else {"bytes": clip.files.read(path), "path": path.rpartition("/")[2]}

    record = None if step.hands is None else json.loads(clip.files.read(step.hands))
    return {
        "clip_id": clip.clip_id,
        "step": step.index,
        "frame_index": step.frame_index,
        "timestamp_ns": step.timestamp_ns,
        "rgb": picture(step.rgb),
        "depth": picture(step.depth),
        "confidence": picture(step.confidence),
        "mask": picture(step.mask),
        "hands": None if record is None else json.dumps(record, sort_keys=True),
        "left_hand_state": None if record is None else record["left_hand_state"],
        "right_hand_state": None if record is None else record["right_hand_state"],
        "caption": step.caption,
        "action": step.action,
    }


def _clip_row(clip: DeliveredClip) -> dict[str, Any]:
    present = clip.files.sizes()

    def document(path: str) -> str | None:
        return clip.files.read(path).decode() if path in present else None

    return {
        **{name: clip.row[name] for name, _ in _CLIP_COLUMNS if name in clip.row},
        "depth_reading": document("depth/depth.json"),
        "mask_categories": document("segmentation/categories.json"),
    }


def _card(clips: Sequence[DeliveredClip], splits: Sequence[str]) -> str:
    """The card, whose head tells ``datasets`` where the files of each split are."""
    licences = sorted({clip.row["licence"] or "not given" for clip in clips})
    # `datasets` keeps what it prepared under the folder's name and a digest of this head, not of the files: without
    # the description a later version would be answered with the rows of an earlier one.
    content = digest_of([[clip.clip_id, clip.split, dict(clip.data_versions)] for clip in clips])
    models = models_section(layers_recorded(clips))
    lines = ["---", "pretty_name: First-person clips", "task_categories:", "- robotics", "configs:"]
    for name, pattern, default in (
        ("steps", "data/{}-*.parquet", True),
        ("clips", "clips/{}.parquet", False),
    ):
        lines += [f"- config_name: {name}", f"  description: content {content}"]
        lines += [*(["  default: true"] if default else []), "  data_files:"]
        for split in splits:
            lines += [f"  - split: {split}", f"    path: {pattern.format(split)}"]
    lines += [
        "---",
        "",
        "# First-person clips",
        "",
        f"{len(clips)} clips. The card of the delivery, one folder up, says what was detected and covered, what is "
        f"known of it and what is not. Licences: {', '.join(licences)}.",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        'steps = load_dataset("path/to/hf", split="train", streaming=True)',
        'clips = load_dataset("path/to/hf", "clips", split="train")',
        "```",
        "",
        "`rgb` is a JPEG, `depth` a 16-bit PNG (`depth_reading` of the clip states unit and scale), `confidence` an "
        "8-bit PNG, and `mask` a PNG whose pixels are instance ids (`mask_categories` of the clip names them). Columns "
        "are empty where a layer has nothing on that step.",
        "",
        'With `datasets` before version 4: `load_dataset("script/ego_clips.py", data_dir="path/to/delivery", '
        "trust_remote_code=True)`.",
        "",
        *([models, ""] if models else []),
    ]
    return "\n".join(lines)
