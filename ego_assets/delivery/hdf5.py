"""HDF5: one file per clip, a row per time step.

``rgb`` holds the JPEG files as they are; ``depth``, ``confidence`` and ``mask`` hold decoded pixels, compressed without
loss. A step on which a layer has nothing is ``False`` in ``has_depth``, ``has_mask`` or ``has_hands``, and zero or NaN
in the arrays. Attributes of the file carry what is known of the clip.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ego_assets.delivery.clip_source import DeliveredClip, Step, differing_clips
from ego_assets.delivery.definition import DeliveryDefinition
from ego_assets.delivery.hand_values import hand_values
from ego_assets.delivery.journal import Journal
from ego_assets.media.rasters import decode_png
from ego_assets.schema.hands import HAND_SIDES, HAND_STATES, LANDMARK_COUNT
from ego_assets.schema.progress import ProgressCallback, ignore_progress

if TYPE_CHECKING:
    import h5py

FOLDER = "hdf5"
#: Raised whenever the meaning of a dataset or attribute changes.
HDF5_FORMAT = 1

#: Dataset of every raster, with the step's field and the flag that tells where it is filled.
_RASTERS = (("depth", "depth", "has_depth"), ("confidence", "confidence", None), ("mask", "mask", "has_mask"))
#: Rows that are compressed together: one, so that a step is read without its neighbours.
_ROWS = 1
#: The lowest level, after the bytes of neighbouring pixels were sorted: rasters compress well with little work.
_COMPRESSION: Mapping[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True}


def file_name(clip_id: str) -> str:
    """Path of a clip's file inside the delivery."""
    return f"{FOLDER}/{clip_id}.h5"


def write(
    folder: Path,
    clips: Sequence[DeliveredClip],
    *,
    definition: DeliveryDefinition,
    journal: Journal,
    progress: ProgressCallback = ignore_progress,
) -> Mapping[str, int]:
    """Write a file per clip.

    Args:
        folder: The delivery that is being made.
        clips: Its clips.
        definition: Not asked for anything here.
        journal: Knows the files that are finished.
        progress: Hears clips done and in total.

    Returns:
        Number of clips and samples.
    """
    import h5py

    for done, clip in enumerate(clips):
        progress(done, len(clips))
        if journal.has(file_name(clip.clip_id)):
            continue
        with (
            journal.create_path(file_name(clip.clip_id)) as path,
            h5py.File(path, "w", libver=("earliest", "v110"), track_order=True) as file,
        ):
            _write_clip(file, clip)
    progress(len(clips), len(clips))
    return {"clips": len(clips), "samples": sum(int(clip.grid.frame_index.size) for clip in clips)}


def check(folder: Path, *, expected_clips: Collection[str]) -> list[str]:
    """Open every file, compare the lengths of its datasets and decode its first picture.

    Returns:
        What is wrong, in words.
    """
    import io

    import h5py
    from PIL import Image

    found = {path.stem: path for path in sorted((folder / FOLDER).glob("*.h5"))}
    problems = differing_clips(expected_clips, found, where=FOLDER)
    for clip_id, path in found.items():
        try:
            with h5py.File(path, "r") as file:
                steps = int(file["frame_index"].shape[0])
                lengths = {name: int(item.shape[0]) for name, item in file.items() if name != "embedding"}
                wrong = sorted(name for name, length in lengths.items() if length != steps)
                if wrong:
                    problems.append(f"{file_name(clip_id)}: expected {steps} rows in {', '.join(wrong)}")
                if steps:
                    with Image.open(io.BytesIO(file["rgb"][0].tobytes())) as image:
                        image.load()
        except (OSError, KeyError, ValueError) as error:
            problems.append(f"{file_name(clip_id)} cannot be read: {error}")
    return problems


# --- one clip -----------------------------------------------------------------------------------------


def _write_clip(file: h5py.File, clip: DeliveredClip) -> None:
    import h5py

    steps = int(clip.grid.frame_index.size)
    file.attrs["format"] = HDF5_FORMAT
    file.attrs["clip_id"] = clip.clip_id
    file.attrs["split"] = clip.split or ""
    file.attrs["metadata"] = json.dumps(dict(clip.metadata), sort_keys=True)
    for path, name in (
        ("depth/depth.json", "depth_reading"),
        ("segmentation/categories.json", "mask_reading"),
    ):
        if path in clip.files.sizes():
            file.attrs[name] = clip.files.read(path).decode()
    file.create_dataset("frame_index", data=clip.grid.frame_index)
    file.create_dataset("timestamps_ns", data=clip.grid.timestamps_ns)
    rgb = file.create_dataset("rgb", (steps,), h5py.vlen_dtype(np.uint8))
    rgb.attrs["encoding"] = "JPEG"
    text = h5py.string_dtype()
    captions, actions = (file.create_dataset(name, (steps,), text) for name in ("caption", "action"))
    hands = _hand_datasets(file, steps) if _has_hands(clip) else {}
    for step in clip.steps():
        rgb[step.index] = np.frombuffer(clip.files.read(step.rgb), np.uint8)
        captions[step.index], actions[step.index] = step.caption or "", step.action or ""
        _write_rasters(file, clip, step, steps)
        if hands:
            _write_hands(hands, clip, step)
    if "embedding.parquet" in clip.files.sizes():
        _write_embedding(file, clip)


def _write_rasters(file: h5py.File, clip: DeliveredClip, step: Step, steps: int) -> None:
    for name, attribute, flag in _RASTERS:
        path = getattr(step, attribute)
        if path is None:
            continue
        values = decode_png(clip.files.read(path))
        if name not in file:
            file.create_dataset(
                name, (steps, *values.shape), values.dtype, chunks=(_ROWS, *values.shape), **_COMPRESSION
            )
            if flag:
                file.create_dataset(flag, (steps,), np.bool_)
        if values.shape != file[name].shape[1:]:
            raise ValueError(
                f"clip {clip.clip_id}, {path}: expected {list(file[name].shape[1:])}, got {list(values.shape)}"
            )
        file[name][step.index] = values
        if flag:
            file[flag][step.index] = True


def _has_hands(clip: DeliveredClip) -> bool:
    return any(path.startswith("hand_object/frame_") for path in clip.files.sizes())


def _hand_datasets(file: h5py.File, steps: int) -> dict[str, h5py.Dataset]:
    made = {"has_hands": file.create_dataset("has_hands", (steps,), np.bool_)}
    for side in HAND_SIDES:
        state = file.create_dataset(f"{side}_hand_state", data=np.full(steps, -1, np.int8))
        state.attrs["values"] = list(HAND_STATES)
        made[f"{side}_hand_state"] = state
        for name, shape in (
            ("hand_box_xyxy", (4,)),
            ("contact_box_xyxy", (4,)),
            ("landmarks_xy", (LANDMARK_COUNT, 2)),
            ("hand_score", ()),
        ):
            empty = np.full((steps, *shape), np.nan, np.float32)
            made[f"{side}_{name}"] = file.create_dataset(f"{side}_{name}", data=empty)
    return made


def _write_hands(datasets: Mapping[str, h5py.Dataset], clip: DeliveredClip, step: Step) -> None:
    if step.hands is None:
        return
    record = json.loads(clip.files.read(step.hands))
    datasets["has_hands"][step.index] = True
    for side, hand in hand_values(record).items():
        datasets[f"{side}_hand_state"][step.index] = hand.state
        datasets[f"{side}_hand_box_xyxy"][step.index] = hand.box_xyxy
        datasets[f"{side}_contact_box_xyxy"][step.index] = hand.contact_box_xyxy
        datasets[f"{side}_landmarks_xy"][step.index] = hand.landmarks_xy
        datasets[f"{side}_hand_score"][step.index] = hand.score


def _write_embedding(file: h5py.File, clip: DeliveredClip) -> None:
    import io

    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(clip.files.read("embedding.parquet")))
    rows = [row["vector"] for row in table.to_pylist() if row["kind"] == "clip"]
    if rows:
        file.create_dataset("embedding", data=np.array(rows[0], np.float32))
