"""What a delivery must hold, read from the packages in the store; clips to deliver; a web server for the result."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLIPS = 4
WIDTH, HEIGHT = 320, 180


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What consumers must find.

    Attributes:
        samples: By ``{clip_id}_{frame:06d}``: what the step is, the mean of its picture by channel, and the digests of
            its decoded depth (``uint16``, little-endian) and mask (``uint8``).
        split: Split by clip.
        depth_unit: Unit of the depth maps.
    """

    samples: Mapping[str, Mapping[str, Any]]
    split: Mapping[str, str]
    depth_unit: str

    def of_split(self, *splits: str) -> dict[str, Mapping[str, Any]]:
        """The samples of some splits."""
        return {
            key: sample for key, sample in self.samples.items() if self.split[sample["clip_id"]] in splits
        }


def render_clips(folder: Path) -> None:
    """Clips of as many people, with sidecars."""
    from ego_assets.synth import SceneSpec, render_clip

    folder.mkdir(parents=True)
    for seed in range(CLIPS):
        path = folder / f"clip_{seed}.mp4"
        spec = SceneSpec(seed=seed, width=WIDTH, height=HEIGHT, duration_s=2.0, frame_rate=Fraction(15))
        render_clip(spec, path)
        said = {
            "collector_id": f"collector_{seed}",
            "activity_category": "cooking",
            "location_type": "kitchen",
        }
        path.with_suffix(".json").write_text(json.dumps(said))


def truth_of(data: Path, *, name: str) -> Truth:
    """What the only version of the delivery ``name`` must hold."""
    from ego_assets.project import Project
    from ego_assets.settings import Settings

    project = Project(Settings(data_dir=data))
    made = next(one for one in project.database.deliveries() if one.name == name)
    samples: dict[str, Mapping[str, Any]] = {}
    split: dict[str, str] = {}
    units = set()
    for clip in project.database.clips():
        document = project.store.document(clip.clip_id, "clip_package")
        assert document is not None
        split[clip.clip_id] = made.definition["splits"][clip.collector_id]
        with (
            project.store.open(document, f"{clip.clip_id}.tar.gz") as packed,
            tarfile.open(fileobj=packed) as tar,
        ):
            files = {
                member.name.removeprefix(f"{clip.clip_id}/"): file.read()
                for member in tar
                if (file := tar.extractfile(member))
            }
        samples |= _samples(clip.clip_id, files)
        units.add(json.loads(files["depth/depth.json"])["unit"])
    (unit,) = units
    return Truth(samples=samples, split=split, depth_unit=unit)


def _samples(clip_id: str, files: Mapping[str, bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
    captions = json.loads(files["captions.json"])["captions"]
    grid = json.loads(files["metadata.json"])["time_grid"]
    for frame, time_ns in zip(grid["frame_index"], grid["timestamps_ns"], strict=True):
        said = [one["text"] for one in captions if one["start_ns"] <= time_ns < one["end_ns"]]
        name = f"frame_{frame:06d}"
        yield (
            f"{clip_id}_{frame:06d}",
            {
                "clip_id": clip_id,
                "frame_index": frame,
                "timestamp_ns": time_ns,
                "rgb": _pixels(files[f"rgb/{name}.jpg"]).reshape(-1, 3).mean(axis=0).tolist(),
                "depth": digest(_pixels(files[f"depth/{name}.png"]), np.uint16),
                "mask": digest(_pixels(files[f"segmentation/{name}.png"]), np.uint8),
                "hands": json.loads(files[f"hand_object/{name}.json"]),
                "caption": (said[0] if said else "") or "",
            },
        )


def _pixels(content: bytes) -> Any:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


def digest(pixels: Any, dtype: Any) -> str:
    """Digest of decoded pixels."""
    return hashlib.sha256(np.ascontiguousarray(pixels.astype(dtype)).tobytes()).hexdigest()


@contextmanager
def serve_folder(folder: Path) -> Iterator[str]:
    """Serve a folder on loopback; gives its address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
