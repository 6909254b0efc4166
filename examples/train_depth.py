"""Train a small depth model from the WebDataset shards of a delivery; its loss goes down in a hundred steps.

python examples/train_depth.py ego_data/deliveries/kitchen/v0001
"""

from __future__ import annotations

import argparse
import importlib
import io
import itertools
import json
import random
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

#: Size that pictures and depth maps are brought to: height and width in pixels.
SIZE = (36, 64)
BATCH = 8
#: Metres per stored value, by the unit that the delivery states.
METRES: Mapping[str, float] = {"metre": 1.0, "millimetre": 0.001}


class DepthModel(nn.Module):
    """Four convolutions that see the picture and where each pixel lies in it: the logarithm of depth.

    Takes ``float32 [N, 3, height, width]``, 0-1, and gives ``float32 [N, height, width]``.
    """

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        rows, columns = torch.linspace(-1, 1, SIZE[0]), torch.linspace(-1, 1, SIZE[1])
        self.register_buffer("places", torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None])
        self.layers = nn.Sequential(
            nn.Conv2d(5, channels, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=2, dilation=2),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=4, dilation=4),
            nn.ReLU(),
            nn.Conv2d(channels, 1, 3, padding=1),
        )

    def forward(self, picture: Tensor) -> Tensor:
        """The logarithm of depth."""
        places = self.places.expand(len(picture), -1, -1, -1)
        return self.layers(torch.cat([picture - 0.5, places], dim=1))[:, 0]


def depth_loss(predicted: Tensor, depth: Tensor, metric: Tensor) -> Tensor:
    """Mean difference of logarithms where depth is known.

    Maps that are right only up to a scale of their own are compared after both sides lost their mean.

    Args:
        predicted: Logarithm of depth, ``[N, height, width]``.
        depth: Depth, ``[N, height, width]``; 0 where nothing is known.
        metric: Whether each map is in metres, ``bool [N]``.
    """
    known = depth > 0
    difference = (predicted - torch.log(depth.clamp(min=1e-6))) * known
    count = known.sum(dim=(1, 2)).clamp(min=1)
    offset = difference.sum(dim=(1, 2)) / count
    difference = difference - torch.where(metric, 0.0, offset)[:, None, None]
    return ((difference.abs() * known).sum(dim=(1, 2)) / count).mean()


def from_sdk(folder: str, split: str | None, workers: int, seed: int) -> Iterator[dict[str, Any]]:
    """Batches through ``egodata.py`` of the delivery: one epoch."""
    sys.path.insert(0, folder)
    dataset = importlib.import_module("egodata").Dataset(folder)
    metric = {}
    for info in dataset.clips():
        with dataset.load_clip(info["clip_id"]) as clip:
            metric[clip.clip_id] = METRES.get(clip.depth_info.get("unit", ""), 0.0)
    conditions = {} if split is None else {"split": split}
    # Steps that lack one of the fields are left out.
    steps = dataset.as_torch(fields=["rgb", "depth"], shuffle=200, seed=seed, **conditions)
    for batch in torch.utils.data.DataLoader(steps, batch_size=BATCH, num_workers=workers):
        scales = torch.tensor([metric[clip_id] for clip_id in batch["clip_id"]])
        yield {"rgb": batch["rgb"], "depth": batch["depth"], "metres": scales}


def from_webdataset(folder: str, split: str | None, workers: int, seed: int) -> Iterator[dict[str, Any]]:
    """The same through the package ``webdataset``."""
    import webdataset as wds

    def raster(content: bytes) -> Any:
        return np.asarray(Image.open(io.BytesIO(content))).astype(np.int32)

    def chosen(sample: dict[str, Any]) -> tuple[Any, Any, float]:
        unit = sample["metadata.json"]["depth"]["unit"]
        return sample["rgb.jpg"], sample["depth.png"], METRES.get(unit, 0.0)

    index = json.loads(Path(folder, "webdataset", "index.json").read_text(encoding="utf-8"))
    shards = [
        f"{folder}/webdataset/{shard['name']}"
        for shard in index["shards"]
        if "depth.png" in shard["members"] and split in (None, shard["split"])
    ]
    dataset = (
        wds.WebDataset(shards, shardshuffle=len(shards), seed=seed)
        .select(lambda sample: "depth.png" in sample)
        .shuffle(200, rng=random.Random(seed))
        .decode(wds.handle_extension("depth.png", raster), "rgb8")
        .map(chosen)
        .batched(BATCH)
    )
    for rgb, depth, metres in wds.WebLoader(dataset, batch_size=None, num_workers=min(workers, len(shards))):
        yield {
            "rgb": torch.as_tensor(rgb),
            "depth": torch.as_tensor(depth),
            "metres": torch.as_tensor(metres),
        }


READERS = {"egodata": from_sdk, "webdataset": from_webdataset}


def prepared(batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Picture, depth and whether that is metric, at the model's size."""
    picture = batch["rgb"].permute(0, 3, 1, 2).float() / 255
    picture = nn.functional.interpolate(picture, SIZE, mode="area")
    metric = batch["metres"] > 0
    # Depth is never averaged: between near and far there is nothing.
    depth = nn.functional.interpolate(batch["depth"].float()[:, None], SIZE, mode="nearest")[:, 0]
    scale = torch.where(metric, batch["metres"], torch.ones_like(batch["metres"])).float()
    return picture, depth * scale[:, None, None], metric


def train(options: argparse.Namespace) -> list[float]:
    """Train; returns the loss of every step."""
    torch.manual_seed(options.seed)
    model = DepthModel()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    read = READERS[options.reader]
    epochs = (
        read(options.delivery, options.split, options.workers, options.seed + epoch)
        for epoch in itertools.count()
    )
    losses: list[float] = []
    while len(losses) < options.steps:
        before = len(losses)
        for batch in itertools.islice(next(epochs), options.steps - len(losses)):
            picture, depth, metric = prepared(batch)
            loss = depth_loss(model(picture), depth, metric)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if not options.json and len(losses) % 10 == 0:
                print(f"step {len(losses)}: loss {losses[-1]:.3f}", flush=True)
        if len(losses) == before:
            raise SystemExit(
                f"{options.delivery} has no step with a picture and depth in split {options.split}."
            )
    return losses


def main() -> None:
    """Train, and print how the loss went."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("delivery", help="folder of a version of a delivery")
    parser.add_argument("--reader", choices=READERS, default="egodata")
    parser.add_argument("--split", help="split to train on; default: everything")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--json", action="store_true", help="print the losses as a JSON list and nothing else"
    )
    options = parser.parse_args()
    losses = train(options)
    if options.json:
        print(json.dumps(losses))
    else:
        first, last = np.mean(losses[:20]), np.mean(losses[-20:])
        print(f"mean loss of the first 20 steps {first:.3f}, of the last 20 {last:.3f}")


if __name__ == "__main__":
    main()
