"""WebDataset shards: plain tar files in which the files of one time step lie side by side.

A sample is a time step: ``{clip_id}_{frame}.rgb.jpg``, ``.depth.png``, ``.mask.png``, ``.hands.json``, ``.caption.txt``
and ``.metadata.json``, as far as the clip has them. Files are copied from the layers, never encoded again.

Samples of several clips are mixed, so that neighbours in a shard are not pictures of the same second. The order is that
of the definition's seed and of nothing else. A shard holds clips of one split that have the same members, because
loaders take the first sample of a shard for the pattern of all.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ego_assets.delivery.clip_source import DeliveredClip, Step, differing_clips
from ego_assets.delivery.definition import SPLITS, DeliveryDefinition
from ego_assets.delivery.journal import HashedFile, Journal
from ego_assets.media.frame_archive import TAR_BLOCK, TAR_RECORD, tar_header
from ego_assets.schema.documents import json_document
from ego_assets.schema.progress import ProgressCallback, ignore_progress

FOLDER = "webdataset"
INDEX = f"{FOLDER}/index.json"
#: Raised whenever the meaning of a member or of the index changes.
WEBDATASET_FORMAT = 1
#: Name of the shards where a delivery has no splits.
NO_SPLIT = "all"

#: Clips whose samples are mixed with one another.
MIXED_CLIPS = 16

#: Member of a sample by the folder of a clip that it comes from.
_MEMBER_FOLDERS: Mapping[str, str] = {
    "rgb.jpg": "rgb",
    "depth.png": "depth",
    "mask.png": "segmentation",
    "hands.json": "hand_object",
}


@dataclass(frozen=True, kw_only=True)
class _Sample:
    clip: DeliveredClip
    step: Step
    key: str
    files: Mapping[str, str]
    documents: Mapping[str, bytes]
    bytes: int


def write(
    folder: Path,
    clips: Sequence[DeliveredClip],
    *,
    definition: DeliveryDefinition,
    journal: Journal,
    progress: ProgressCallback = ignore_progress,
) -> Mapping[str, int]:
    """Write the shards and their index.

    Args:
        folder: The delivery that is being made.
        clips: Its clips.
        definition: Decides the order and the size of the shards.
        journal: Knows the shards that are finished.
        progress: Hears steps done and in total.

    Returns:
        Number of shards and samples.
    """
    total = sum(int(clip.grid.frame_index.size) for clip in clips)
    done, shards = 0, []
    numbers: Counter[str | None] = Counter()
    for (split, members), alike in _alike(clips).items():
        samples = _mixed(alike, random.Random(f"{definition.seed} {split}"))
        for shard in _shards(samples, definition.shard_bytes):
            name = f"{split or NO_SPLIT}-{numbers[split]:06d}.tar"
            numbers[split] += 1
            path, first, clip_ids = f"{FOLDER}/{name}", done, set[str]()
            with contextlib.ExitStack() as stack:
                file = None if journal.has(path) else stack.enter_context(journal.create(path))
                for sample in shard:
                    if file is not None:
                        _write_sample(file, sample)
                        progress(done, total)
                    clip_ids.add(sample.clip.clip_id)
                    done += 1
                if file is not None:
                    _end(file)
            entry = journal.entries[path]
            shards.append(
                {
                    "name": name,
                    "split": split,
                    "members": list(members),
                    "samples": done - first,
                    "clips": sorted(clip_ids),
                    "bytes": entry.bytes,
                    "sha256": entry.sha256,
                }
            )
    progress(done, total)
    content = {
        "format": WEBDATASET_FORMAT,
        "seed": definition.seed,
        "samples": done,
        "shards": shards,
    }
    if not journal.has(INDEX):
        with journal.create(INDEX) as file:
            file.write(json_document(content))
    return {"shards": len(shards), "samples": done}


def check(folder: Path, *, expected_clips: Collection[str]) -> list[str]:
    """Open the first and the last sample of every shard and compare all counts with the index.

    Returns:
        What is wrong, in words.
    """
    import io
    import tarfile

    from PIL import Image

    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return [f"{INDEX} cannot be read: {error}"]
    problems: list[str] = []
    found: set[str] = set()
    for shard in index["shards"]:
        try:
            with tarfile.open(folder / FOLDER / shard["name"], "r:") as tar:
                members = tar.getmembers()
                pictures = [member for member in members if member.name.endswith(".rgb.jpg")]
                for member in {pictures[0].name: pictures[0], pictures[-1].name: pictures[-1]}.values():
                    file = tar.extractfile(member)
                    with Image.open(io.BytesIO(file.read() if file else b"")) as image:
                        image.load()
        except (OSError, tarfile.TarError, IndexError) as error:
            problems.append(f"{FOLDER}/{shard['name']} cannot be read: {error}")
            continue
        if len(pictures) != shard["samples"]:
            problems.append(
                f"{FOLDER}/{shard['name']}: expected {shard['samples']} samples, found {len(pictures)}"
            )
        clips = {member.name.partition("_")[0] for member in pictures}
        if clips != set(shard["clips"]):
            problems.append(f"{FOLDER}/{shard['name']}: its clips are not those that the index names")
        found |= clips
    return problems + differing_clips(expected_clips, found, where=FOLDER)


# --- order --------------------------------------------------------------------------------------------


def _alike(clips: Sequence[DeliveredClip]) -> dict[tuple[str | None, tuple[str, ...]], list[DeliveredClip]]:
    """The clips by split and members: split by split, those with most members first."""
    found: dict[tuple[str | None, tuple[str, ...]], list[DeliveredClip]] = {}
    for clip in clips:
        found.setdefault((clip.split, _members(clip)), []).append(clip)
    places = (*SPLITS, None)
    return dict(
        sorted(found.items(), key=lambda item: (places.index(item[0][0]), -len(item[0][1]), item[0][1]))
    )


def _members(clip: DeliveredClip) -> tuple[str, ...]:
    """What the samples of a clip have."""
    folders = {path.rpartition("/")[0] for path in clip.files.sizes()}
    present = [member for member, folder in _MEMBER_FOLDERS.items() if folder in folders]
    return (*present, *(["caption.txt"] if clip.captions else []), "metadata.json")


def _mixed(clips: Iterable[DeliveredClip], chance: random.Random) -> Iterator[_Sample]:
    """All samples, those of :data:`MIXED_CLIPS` clips at a time in random order."""
    waiting = sorted(clips, key=lambda clip: clip.clip_id)
    chance.shuffle(waiting)
    for start in range(0, len(waiting), MIXED_CLIPS):
        places = [(clip, step) for clip in waiting[start : start + MIXED_CLIPS] for step in clip.steps()]
        chance.shuffle(places)
        shared = {clip.clip_id: _clip_facts(clip) for clip in waiting[start : start + MIXED_CLIPS]}
        for clip, step in places:
            yield _sample(clip, step, shared[clip.clip_id])


def _shards(samples: Iterator[_Sample], most_bytes: int) -> Iterator[Iterator[_Sample]]:
    """The samples in groups of at most so many bytes; each group is used up before the next."""
    following = next(samples, None)

    def group() -> Iterator[_Sample]:
        nonlocal following
        size = 0
        while following is not None and (not size or size + following.bytes <= most_bytes):
            size += following.bytes
            current, following = following, next(samples, None)
            yield current

    while following is not None:
        yield group()


# --- samples ------------------------------------------------------------------------------------------


def _clip_facts(clip: DeliveredClip) -> dict[str, Any]:
    """What every sample of a clip says of it."""
    present = clip.files.sizes()
    facts: dict[str, Any] = {
        "clip_id": clip.clip_id,
        "split": clip.split,
        "activity_category": clip.row["activity_category"],
        "environment_type": clip.row["environment_type"],
        "quality_score": clip.row["quality_score"],
        "licence": clip.row["licence"],
        "camera": clip.metadata["camera"],
    }
    if "depth/depth.json" in present:
        depth = json.loads(clip.files.read("depth/depth.json"))
        facts["depth"] = {key: depth.get(key) for key in ("scale", "unit", "invalid_value")}
    if "segmentation/categories.json" in present:
        categories = json.loads(clip.files.read("segmentation/categories.json"))
        facts["categories"] = {
            number: instance["category"] for number, instance in categories["instances"].items()
        }
    return facts


def _sample(clip: DeliveredClip, step: Step, facts: Mapping[str, Any]) -> _Sample:
    files = {
        name: path
        for name, path in (
            ("rgb.jpg", step.rgb),
            ("depth.png", step.depth),
            ("mask.png", step.mask),
            ("hands.json", step.hands),
        )
        if path is not None
    }
    said = {
        **facts,
        "step": step.index,
        "frame_index": step.frame_index,
        "timestamp_ns": step.timestamp_ns,
        "action": step.action,
    }
    documents = {"metadata.json": json.dumps(said, sort_keys=True, separators=(",", ":")).encode()}
    if clip.captions:
        # Empty between two captions: all samples of a shard have the same members.
        documents["caption.txt"] = (step.caption or "").encode()
    sizes = clip.files.sizes()
    parts = [*(sizes[path] for path in files.values()), *(len(content) for content in documents.values())]
    return _Sample(
        clip=clip,
        step=step,
        key=f"{clip.clip_id}_{step.frame_index:06d}",
        files=files,
        documents=documents,
        bytes=sum(TAR_BLOCK + size + -size % TAR_BLOCK for size in parts),
    )


# --- tar ----------------------------------------------------------------------------------------------


def _write_sample(file: HashedFile, sample: _Sample) -> None:
    for name, path in sample.files.items():
        _write_member(file, f"{sample.key}.{name}", sample.clip.files.read(path))
    for name, content in sample.documents.items():
        _write_member(file, f"{sample.key}.{name}", content)


def _write_member(file: HashedFile, name: str, content: bytes) -> None:
    file.write(tar_header(name, len(content)))
    file.write(content)
    file.write(bytes(-len(content) % TAR_BLOCK))


def _end(file: HashedFile) -> None:
    end = file.bytes + 2 * TAR_BLOCK
    file.write(bytes(2 * TAR_BLOCK + -end % TAR_RECORD))
