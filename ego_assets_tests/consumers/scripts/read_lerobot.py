"""lerobot: a loader, steps of the past, a subset of the episodes, statistics. Argument: folder of the delivery."""

import sys

import lerobot
import torch
from facts import say
from lerobot.datasets.lerobot_dataset import LeRobotDataset

root = f"{sys.argv[1]}/lerobot"
# The other video backend, torchcodec, needs the FFmpeg of the system.
options = {"root": root, "video_backend": "pyav"}
dataset = LeRobotDataset("local/clips", **options)
rate = dataset.meta.fps
key = dataset.meta.camera_keys[0]
episodes = dataset.meta.episodes

samples = {}
for batch in torch.utils.data.DataLoader(dataset, batch_size=8, num_workers=0):
    for place in range(len(batch["index"])):
        clip_id = episodes[int(batch["episode_index"][place])]["clip_id"]
        picture = batch[key][place]
        samples[f"{clip_id}_{int(batch['observation.video_frame'][place]):06d}"] = {
            "clip_id": clip_id,
            "timestamp_ns": int(batch["observation.timestamp_ns"][place]),
            "caption": batch["observation.caption"][place],
            "rgb": (255 * picture.mean(dim=(1, 2))).tolist(),
            "shape": list(picture.shape),
            "state": batch["observation.state"][place].tolist(),
            "task": batch["task"][place],
        }

past = LeRobotDataset(
    "local/clips",
    delta_timestamps={key: [-1 / rate, 0], "observation.state": [0, 1 / rate, 2 / rate]},
    **options,
)
# The first steps of an episode have no past: there the first picture is given again.
item = past[3]
subset = LeRobotDataset("local/clips", episodes=[0, 2], **options)
say(
    samples,
    version=lerobot.__version__,
    rate=rate,
    episodes=len(episodes),
    splits=dataset.meta.info["splits"],
    tasks=list(dataset.meta.tasks.index),
    state_names=dataset.meta.features["observation.state"]["names"],
    stats={
        name: torch.as_tensor(values).flatten().tolist() for name, values in dataset.meta.stats[key].items()
    },
    past={name: list(item[name].shape) for name in (key, "observation.state")},
    moved=float((item[key][0] - item[key][1]).abs().mean()),
    subset=sorted({int(subset[place]["episode_index"]) for place in range(len(subset))}),
    subset_steps=len(subset),
)
