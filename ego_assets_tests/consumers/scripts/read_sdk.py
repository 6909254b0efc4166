"""The SDK. Arguments: folder that holds egodata.py, folder or address of the delivery, number of workers."""

import sys

sys.path.insert(0, sys.argv[1])

import torch
from egodata import Dataset
from facts import facts, say

root, workers = sys.argv[2], int(sys.argv[3])
dataset = Dataset(root)
samples = {}
for batch in dataset.stream(batch=8, shuffle=50):
    for place, clip_id in enumerate(batch["clip_id"]):
        samples[f"{clip_id}_{batch['frame_index'][place]:06d}"] = facts(
            rgb=batch["rgb"][place],
            depth=batch["depth"][place],
            mask=batch["mask"][place],
            hands=batch["hands"][place],
            caption=batch["caption"][place],
            clip_id=clip_id,
            timestamp_ns=int(batch["timestamp_ns"][place]),
        )

clips = {}
for info in dataset.clips(activity="cooking"):
    with dataset.load_clip(info["clip_id"]) as clip:
        last = len(clip) - 1
        clips[f"{clip.clip_id}_{int(clip.frame_index[last]):06d}"] = facts(
            rgb=clip.rgb[last],
            depth=clip.depth[last],
            mask=clip.mask[last],
            hands=clip.hands[last],
            unit=clip.depth_info["unit"],
        )

tensors = {}
steps = dataset.as_torch(fields=["rgb", "depth"], split="train", shuffle=50)
for batch in torch.utils.data.DataLoader(steps, batch_size=8, num_workers=workers):
    for place, clip_id in enumerate(batch["clip_id"]):
        key = f"{clip_id}_{int(batch['frame_index'][place]):06d}"
        assert key not in tensors, f"{key} came twice"
        tensors[key] = facts(rgb=batch["rgb"][place], depth=batch["depth"][place])
say(samples, clips=clips, tensors=tensors)
