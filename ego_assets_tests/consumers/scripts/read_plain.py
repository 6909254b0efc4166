"""Nothing but the standard library and Pillow: archives of clips, shards, EgoVid. Argument: folder of the delivery."""

import csv
import io
import json
import sys
import tarfile
from pathlib import Path

from facts import facts, say
from PIL import Image

root = Path(sys.argv[1])


def pixels(content):
    return Image.open(io.BytesIO(content))


samples, folders = {}, {}
for archive in sorted(root.glob("*.tar.gz")):
    clip_id = archive.name.removesuffix(".tar.gz")
    with tarfile.open(archive) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}
    folders[clip_id] = all((root / name).read_bytes() == content for name, content in files.items())
    grid = json.loads(files[f"{clip_id}/metadata.json"])["time_grid"]
    for frame, time_ns in zip(grid["frame_index"], grid["timestamps_ns"], strict=True):
        name = f"frame_{frame:06d}"
        samples[f"{clip_id}_{frame:06d}"] = facts(
            rgb=pixels(files[f"{clip_id}/rgb/{name}.jpg"]),
            depth=pixels(files[f"{clip_id}/depth/{name}.png"]),
            mask=pixels(files[f"{clip_id}/segmentation/{name}.png"]),
            hands=json.loads(files[f"{clip_id}/hand_object/{name}.json"]),
            timestamp_ns=time_ns,
        )

in_shards = {}
for shard in sorted((root / "webdataset").glob("*.tar")):
    with tarfile.open(shard) as tar:
        for member in tar:
            key, _, extension = member.name.partition(".")
            in_shards.setdefault(key, {})[extension] = tar.extractfile(member).read()
shards = {
    key: facts(rgb=pixels(parts["rgb.jpg"]), depth=pixels(parts["depth.png"]), mask=pixels(parts["mask.png"]))
    for key, parts in in_shards.items()
}
with (root / "egovid" / "egovid.csv").open(newline="", encoding="utf-8") as file:
    videos = list(csv.DictReader(file))
say(samples, folders=folders, shards=shards, videos=videos)
