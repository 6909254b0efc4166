"""Loads the tar archives of a delivery with versions of ``datasets`` before 4, which run scripts like this one.

Newer versions open the Parquet files beside it without any code. ::

    load_dataset("script/ego_clips.py", data_dir="path/to/delivery", trust_remote_code=True)
"""

import json
import os
import tarfile

import datasets

_SPLITS = ("train", "validation", "test")


class EgoClips(datasets.GeneratorBasedBuilder):
    """A row per time step, from the shards in ``webdataset/`` or else from the archive of every clip."""

    VERSION = datasets.Version("1.0.0")

    def _info(self):
        return datasets.DatasetInfo(
            features=datasets.Features(
                {
                    "clip_id": datasets.Value("string"),
                    "frame_index": datasets.Value("int64"),
                    "timestamp_ns": datasets.Value("int64"),
                    "rgb": datasets.Image(),
                    "depth": datasets.Image(),
                    "mask": datasets.Image(),
                    "hands": datasets.Value("string"),
                    "caption": datasets.Value("string"),
                    "metadata": datasets.Value("string"),
                }
            )
        )

    def _split_generators(self, dl_manager):
        root = self.config.data_dir
        if not root or not os.path.isfile(os.path.join(root, "manifest.parquet")):
            raise FileNotFoundError(
                "give data_dir=..., the folder of the delivery that holds manifest.parquet"
            )
        import pyarrow.parquet as pq

        columns = ["clip_id", "split", "package_path"]
        rows = pq.read_table(os.path.join(root, "manifest.parquet"), columns=columns).to_pylist()
        generators = []
        for split in sorted({row["split"] for row in rows}, key=str):
            name = split if split in _SPLITS else "train"
            clips = {row["clip_id"]: row["package_path"] for row in rows if row["split"] == split}
            arguments = {"root": root, "shards": _shards(root, split), "packages": clips}
            generators.append(datasets.SplitGenerator(name=name, gen_kwargs=arguments))
        return generators

    def _generate_examples(self, root, shards, packages):
        if shards:
            for shard in shards:
                yield from _samples(shard)
            return
        for clip_id, package in sorted(packages.items()):
            if not package:
                raise FileNotFoundError(f"clip {clip_id}: the delivery has neither shards nor its archive")
            yield from _steps(os.path.join(root, package), clip_id)


def _shards(root, split):
    """Paths of the WebDataset shards of a split; none where the delivery has no such format."""
    index = os.path.join(root, "webdataset", "index.json")
    if not os.path.isfile(index):
        return []
    with open(index, encoding="utf-8") as file:
        found = json.load(file)["shards"]
    return [os.path.join(root, "webdataset", shard["name"]) for shard in found if shard["split"] == split]


def _samples(shard):
    """Samples of a shard; the files of one lie side by side."""
    key, parts = None, {}
    with tarfile.open(shard, "r|") as tar:
        for member in tar:
            name, _, extension = member.name.partition(".")
            if name != key and parts:
                yield key, _row(parts)
                parts = {}
            key = name
            parts[extension] = tar.extractfile(member).read()
    if parts:
        yield key, _row(parts)


def _row(parts):
    said = json.loads(parts["metadata.json"])
    return {
        "clip_id": said["clip_id"],
        "frame_index": said["frame_index"],
        "timestamp_ns": said["timestamp_ns"],
        "rgb": _picture(parts.get("rgb.jpg")),
        "depth": _picture(parts.get("depth.png")),
        "mask": _picture(parts.get("mask.png")),
        "hands": _text(parts.get("hands.json")),
        "caption": _text(parts.get("caption.txt")),
        "metadata": _text(parts["metadata.json"]),
    }


def _steps(package, clip_id):
    """Time steps of a clip's archive."""
    with tarfile.open(package, "r:gz") as tar:
        found = {member.name: member for member in tar.getmembers()}

        def read(path):
            member = found.get(f"{clip_id}/{path}")
            return tar.extractfile(member).read() if member else None

        metadata = json.loads(read("metadata.json"))
        captions = json.loads(read("captions.json") or b"{}").get("captions", [])
        grid = metadata["time_grid"]
        for frame, time_ns in zip(grid["frame_index"], grid["timestamps_ns"], strict=True):
            said = [c["text"] for c in captions if c["text"] and c["start_ns"] <= time_ns < c["end_ns"]]
            yield (
                f"{clip_id}_{frame:06d}",
                {
                    "clip_id": clip_id,
                    "frame_index": frame,
                    "timestamp_ns": time_ns,
                    "rgb": _picture(read(f"rgb/frame_{frame:06d}.jpg")),
                    "depth": _picture(read(f"depth/frame_{frame:06d}.png")),
                    "mask": _picture(read(f"segmentation/frame_{frame:06d}.png")),
                    "hands": _text(read(f"hand_object/frame_{frame:06d}.json")),
                    "caption": said[0] if said else None,
                    "metadata": json.dumps(
                        {"clip_id": clip_id, "frame_index": frame, "timestamp_ns": time_ns}
                    ),
                },
            )


def _picture(content):
    return None if content is None else {"bytes": content, "path": None}


def _text(content):
    return None if content is None else content.decode()
