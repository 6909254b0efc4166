"""datasets before 4: the script of the delivery. Arguments: folder of the delivery, split, "stream" or "download"."""

import json
import sys

import datasets
from facts import facts, say

root, split, how = sys.argv[1:]
rows = datasets.load_dataset(
    f"{root}/hf/script/ego_clips.py",
    data_dir=root,
    split=split,
    streaming=how == "stream",
    trust_remote_code=True,
)
samples = {
    f"{row['clip_id']}_{row['frame_index']:06d}": facts(
        rgb=row["rgb"],
        depth=row["depth"],
        mask=row["mask"],
        clip_id=row["clip_id"],
        timestamp_ns=row["timestamp_ns"],
        caption=row["caption"] or "",
        hands=json.loads(row["hands"]),
    )
    for row in rows
}
say(samples, version=datasets.__version__)
