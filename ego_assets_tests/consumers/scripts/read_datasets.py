"""datasets 4: the Parquet files, without any code. Arguments: folder of the delivery, split, "stream" or "download"."""

import json
import os
import sys

import datasets
from facts import facts, say

root, split, how = sys.argv[1:]
streaming = how == "stream"
steps = datasets.load_dataset(f"{root}/hf", split=split, streaming=streaming)
clips = datasets.load_dataset(f"{root}/hf", "clips", split=split, streaming=streaming)
samples = {}
for row in steps:
    samples[f"{row['clip_id']}_{row['frame_index']:06d}"] = facts(
        rgb=row["rgb"],
        depth=row["depth"],
        mask=row["mask"],
        clip_id=row["clip_id"],
        timestamp_ns=row["timestamp_ns"],
        caption=row["caption"] or "",
        hands=json.loads(row["hands"]),
    )
units = {row["clip_id"]: json.loads(row["depth_reading"])["unit"] for row in clips}
say(samples, version=datasets.__version__, units=units)
# pyarrow now and then aborts while it ends the threads of a stream at the interpreter's end, after all work is done
# (issue 7566 of datasets).
sys.stdout.flush()
os._exit(0)
