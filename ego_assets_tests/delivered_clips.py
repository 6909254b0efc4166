"""Delivered clips made in memory: real small files under the paths that deliveries use."""

from __future__ import annotations

import hashlib
import io
import json
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ego_assets.curation.completeness import bitfield_of
from ego_assets.curation.score import ScoreParts, score_clip
from ego_assets.delivery.clip_source import ClipArchive, DeliveredClip
from ego_assets.delivery.manifest import LayerReference, manifest_row
from ego_assets.delivery.metadata import TimeGrid, clip_metadata, metadata_json
from ego_assets.delivery.package import write_package
from ego_assets.media.rasters import encode_indexed_png, encode_png8, encode_png16
from ego_assets.schema.artifact import FileEntry
from ego_assets.schema.clip import Clip
from ego_assets.schema.vocabulary import LocationType

WIDTH, HEIGHT = 64, 48
#: Frames between two time steps, and the time between two frames.
STRIDE, FRAME_NS = 6, 33_333_333
#: Layers that a clip has unless a test asks for others.
ALL_LAYERS = ("frames", "depth_maps", "masks", "hand_object", "actions", "captions", "embeddings")

_PALETTE = np.random.default_rng(0).integers(0, 256, (256, 3), dtype=np.uint8)


def clip_id_of(number: int) -> str:
    """A clip id that says its number."""
    return str(uuid.UUID(int=number + 1, version=4))


@dataclass
class MemoryFiles:
    """Files of one clip, and which of them were read."""

    contents: dict[str, bytes]
    reads: list[str] = field(default_factory=list)

    def sizes(self) -> Mapping[str, int]:
        return {path: len(content) for path, content in self.contents.items()}

    def read(self, path: str) -> bytes:
        self.reads.append(path)
        return self.contents[path]


def depth_of(number: int, step: int) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """The depth map of a step, in millimetres."""
    values = np.linspace(500 + 10 * number, 3000 + step, WIDTH * HEIGHT)
    return values.reshape(HEIGHT, WIDTH).astype(np.uint16)


def mask_of(step: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The instance ids of a step: one object that moves to the right, and a hand."""
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    ids[10:20, 5 + step : 15 + step] = 1
    ids[30:40, 20:40] = 2
    return ids


def rgb_of(number: int, step: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The picture of a step before it is encoded: a ramp whose red tells the clip and whose blue tells the step."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[..., 0] = 20 * (number % 12)
    picture[..., 1] = np.linspace(0, 255, WIDTH, dtype=np.uint8)
    picture[..., 2] = 10 * (step % 25)
    return picture


def make_clip(
    number: int = 0,
    *,
    steps: int = 4,
    layers: Collection[str] = ALL_LAYERS,
    split: str | None = None,
    collector_id: str = "c001",
    activity: str = "cooking",
    **fields: Any,
) -> DeliveredClip:
    """A clip with a picture of 64x48 pixels at every step, and what the named layers add to it."""
    clip_id = clip_id_of(number)
    clip = Clip(
        clip_id=clip_id,
        source_name="secret_upload_name.mp4",
        collector_id=collector_id,
        activity_category=activity,
        location_type=LocationType.KITCHEN,
        duration_s=steps * STRIDE * FRAME_NS / 1e9,
        fps=30.0,
        width=WIDTH,
        height=HEIGHT,
        frame_count=steps * STRIDE,
        licence="CC-BY-4.0",
        completeness=bitfield_of(layers),
        **fields,
    )
    frames = np.arange(steps, dtype=np.int64) * STRIDE
    grid = TimeGrid(name="test", rate_hz=5.0, frame_index=frames, timestamps_ns=frames * FRAME_NS)
    score = score_clip(ScoreParts(blur=0.9))
    metadata = clip_metadata(clip, score=score, gates=[], artifacts={}, grid=grid)
    contents = {"metadata.json": metadata_json(metadata)}
    for step, frame in enumerate(frames.tolist()):
        contents |= _step_files(number, step, frame, layers)
    contents |= _documents(steps, layers)
    references = {layer: LayerReference(uri=f"/store/{clip_id}/{layer}", sha256="a" * 64) for layer in layers}
    return DeliveredClip(
        clip_id=clip_id,
        row=manifest_row(
            clip,
            score=score,
            completeness=clip.completeness,
            step_count=steps,
            layers=references,
            split=split,
        ),
        metadata=metadata,
        data_versions=dict.fromkeys(("clip_package", *layers), "b" * 64),
        package_sha256="c" * 64,
        files=MemoryFiles(contents),
    )


def with_archive(clip: DeliveredClip) -> DeliveredClip:
    """The clip with the ``.tar.gz`` of its files, as the folder format wants it."""
    contents = {path: clip.files.read(path) for path in clip.files.sizes()}
    out = io.BytesIO()
    write_package(out, clip_id=clip.clip_id, members=[], documents=contents)
    archive = out.getvalue()
    digest = hashlib.sha256(archive).hexdigest()
    return replace(
        clip,
        package_sha256=digest,
        archive=ClipArchive(
            entry=FileEntry(name=f"{clip.clip_id}.tar.gz", bytes=len(archive), sha256=digest),
            open=lambda: io.BytesIO(archive),
        ),
    )


def _step_files(number: int, step: int, frame: int, layers: Collection[str]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    if "frames" in layers:
        encoded = io.BytesIO()
        Image.fromarray(rgb_of(number, step)).save(encoded, "JPEG", quality=95)
        files[f"rgb/frame_{frame:06d}.jpg"] = encoded.getvalue()
    if "depth_maps" in layers:
        files[f"depth/frame_{frame:06d}.png"] = encode_png16(depth_of(number, step))
        sure = np.full((HEIGHT, WIDTH), 200, np.uint8)
        files[f"depth/confidence/frame_{frame:06d}.png"] = encode_png8(sure)
    if "masks" in layers:
        files[f"segmentation/frame_{frame:06d}.png"] = encode_indexed_png(mask_of(step), _PALETTE)
    if "hand_object" in layers:
        record = {
            "frame_index": frame,
            "timestamp_ns": frame * FRAME_NS,
            "resolution": [WIDTH, HEIGHT],
            "left_hand_state": None,
            "right_hand_state": "grasp",
            "left_contact_object_bbox": None,
            "right_contact_object_bbox": [5.0, 10.0, 15.0, 20.0],
            "left_hand_bbox": None,
            "right_hand_bbox": [20.0, 30.0, 40.0, 40.0],
            "left_hand_score": None,
            "right_hand_score": 0.9,
            "left_landmarks": None,
            "right_landmarks": [[20.0 + point, 30.0 + point / 4] for point in range(21)],
            "other_hands": 0,
        }
        files[f"hand_object/frame_{frame:06d}.json"] = json.dumps(record).encode()
    return files


def _documents(steps: int, layers: Collection[str]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    end_ns = steps * STRIDE * FRAME_NS
    half_ns = end_ns // 2
    if "depth_maps" in layers:
        files["depth/depth.json"] = json.dumps(
            {"format": 1, "scale": "metric", "unit": "millimetre", "invalid_value": 0}
        ).encode()
    if "masks" in layers:
        instances = {
            "1": {"category": "object", "score": 0.5, "side": "", "first_frame": 0, "last_frame": 0},
            "2": {"category": "hand", "score": 0.9, "side": "right", "first_frame": 0, "last_frame": 0},
        }
        files["segmentation/categories.json"] = json.dumps(
            {"bit_depth": 8, "vocabulary": ["hand", "object"], "instances": instances}
        ).encode()
    if "captions" in layers:
        captions = [
            {"start_ns": start, "end_ns": end, "timestamp_ns": start, "frame_index": 0, "text": words}
            | {"source": "template", "model": "", "similarity": None}
            for start, end, words in (
                (0, half_ns, "A hand holds an object."),
                (half_ns, end_ns, "It is put down."),
            )
        ]
        files["captions.json"] = json.dumps({"format": 1, "captions": captions}).encode()
    if "actions" in layers:
        segments = [{"start_ns": 0, "end_ns": half_ns, "label": "cooking", "score": 0.8}]
        files["actions.json"] = json.dumps(
            {"format": 1, "labels": ["cooking"], "segments": segments}
        ).encode()
    if "embeddings" in layers:
        table = pa.table({"kind": ["clip"], "vector": [[0.5] * 768]})
        encoded = io.BytesIO()
        pq.write_table(table, encoded)
        files["embedding.parquet"] = encoded.getvalue()
    return files
