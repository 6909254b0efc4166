"""webdataset: batches through a WebLoader. Arguments: folder or address of the delivery, split."""

import io
import json
import os
import sys

import numpy as np
import webdataset as wds
from facts import facts, say
from PIL import Image

root, split = sys.argv[1:]
opened = wds.gopen(
    f"{root}/webdataset/index.json" if "://" not in root else f"pipe:curl -sf {root}/webdataset/index.json"
)
index = json.loads(opened.read())
os.environ["WDS_VERBOSE_CACHE"] = "0"


def raster(content):
    """Pixels as they are stored: webdataset's own picture decoders make three bytes a pixel of everything."""
    return np.asarray(Image.open(io.BytesIO(content)))


urls = [f"{root}/webdataset/{shard['name']}" for shard in index["shards"] if shard["split"] == split]
fields = ("__key__", "rgb.jpg", "depth.png", "mask.png", "hands.json", "caption.txt", "metadata.json")
dataset = (
    wds.WebDataset(urls, shardshuffle=False)
    .shuffle(100)
    .decode(wds.handle_extension("depth.png mask.png", raster), "rgb8")
    .to_tuple(*fields)
    .batched(8)
)
samples, shapes = {}, set()
for batch in wds.WebLoader(dataset, batch_size=None, num_workers=1):
    shapes.add(tuple(batch[1].shape[1:]))
    for key, rgb, depth, mask, hands, caption, metadata in zip(*batch, strict=True):
        samples[key] = facts(
            rgb=rgb,
            depth=depth,
            mask=mask,
            hands=hands,
            caption=caption,
            clip_id=metadata["clip_id"],
            timestamp_ns=metadata["timestamp_ns"],
        )
say(samples, shapes=sorted(shapes), expected=index["samples"])
