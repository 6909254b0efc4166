"""RAFT as it runs here. Importing this module imports PyTorch and torchvision.

The network is torchvision's, built without weights; only the order of its steps is written here, because torchvision's
own keeps the correlation of the last pictures in the network, where two threads would share it, and does not run in
half precision.
"""

from __future__ import annotations

from typing import Any

import torch  # type: ignore[import-not-found,unused-ignore]
from torch import nn  # type: ignore[import-not-found,unused-ignore]
from torch.nn import functional  # type: ignore[import-not-found,unused-ignore]
from torchvision.models.optical_flow import (  # type: ignore[import-not-found,unused-ignore]
    raft_large,
    raft_small,
)

#: The network sees an eighth of the pictures' sides.
STRIDE = 8
#: What RAFT's pyramid of correlations needs, in pixels.
MIN_SIDE = 128


class Raft(nn.Module):  # type: ignore[misc,unused-ignore]
    """Flow from pictures to pictures, with the weights' names of torchvision below ``raft``.

    Encoders and updates run in the precision of the weights, correlation and coordinates in float32, as published.

    Args:
        size: ``large`` or ``small``.
    """

    def __init__(self, size: str) -> None:
        super().__init__()
        # Never the name of weights: torchvision would fetch them.
        self.raft = {"large": raft_large, "small": raft_small}[size](weights=None, progress=False)
        self.refinement = Refinement(self.raft.update_block, radius=int(self.raft.corr_block.radius))
        self.levels = int(self.raft.corr_block.num_levels)

    def forward(self, first: Any, second: Any, *, iterations: int) -> Any:
        """``float32 [N, 2, height, width]``, offsets (x, y) in pixels.

        Args:
            first: ``uint8 [N, 3, height, width]``, RGB.
            second: The other pictures, of the same size.
            iterations: How often the flow is refined.
        """
        height, width = first.shape[-2:]
        top, left = _margin(height), _margin(width)
        bottom, right = (_padded(side) - side - before for side, before in ((height, top), (width, left)))
        dtype = self.raft.context_encoder.conv.weight.dtype

        def prepared(pictures: Any) -> Any:
            values = pictures.float() / 127.5 - 1
            return functional.pad(values, (left, right, top, bottom), mode="replicate").to(dtype)

        field = self._refined(prepared(first), prepared(second), iterations)
        return field[..., top : top + height, left : left + width]

    def _refined(self, first: Any, second: Any, iterations: int) -> Any:
        features = self.raft.feature_encoder(torch.cat([first, second])).float()
        pyramid = _correlations(*features.chunk(2), levels=self.levels)
        count = first.shape[0]
        rows, columns = features.shape[-2:]
        context = self.raft.context_encoder(first)
        width = self.raft.update_block.hidden_state_size
        hidden, context = context.split([width, context.shape[1] - width], dim=1)
        hidden, context = torch.tanh(hidden), functional.relu(context)
        start = _grid(rows, columns, features.device).repeat(count, 1, 1, 1)
        # A copy: one tensor given twice would be compiled as a case of its own.
        places = start.clone()
        for _ in range(iterations):
            hidden, places = self.refinement(hidden, context, pyramid, start, places)
        return self._enlarged(places - start, hidden)

    def _enlarged(self, flow: Any, hidden: Any) -> Any:
        """The field at the size of the pictures, smoothly, or as the network's weights of neighbours say."""
        count, _, rows, columns = flow.shape
        if self.raft.mask_predictor is None:
            size = (rows * STRIDE, columns * STRIDE)
            return STRIDE * functional.interpolate(flow, size=size, mode="bilinear", align_corners=True)
        weights = self.raft.mask_predictor(hidden).float().view(count, 1, 9, STRIDE, STRIDE, rows, columns)
        neighbours = functional.unfold(STRIDE * flow, kernel_size=3, padding=1)
        mixed = (weights.softmax(dim=2) * neighbours.view(count, 2, 9, 1, 1, rows, columns)).sum(dim=2)
        return mixed.permute(0, 1, 4, 2, 5, 3).reshape(count, 2, rows * STRIDE, columns * STRIDE)


class Refinement(nn.Module):  # type: ignore[misc,unused-ignore]
    """One refinement of the flow; a module of its own, so that ``torch.compile`` prepares it once for all of them."""

    def __init__(self, update_block: Any, *, radius: int) -> None:
        super().__init__()
        self.update_block = update_block
        self.radius = radius

    def forward(
        self, hidden: Any, context: Any, pyramid: list[Any], start: Any, places: Any
    ) -> tuple[Any, Any]:
        """The next hidden state, and where every cell is thought to have gone, ``float32 [N, 2, rows, columns]``."""
        found = _neighbourhoods(pyramid, places, radius=self.radius)
        flow = (places - start).to(hidden.dtype)
        hidden, step = self.update_block(hidden, context, found.to(hidden.dtype), flow)
        return hidden, places + step.float()


def _padded(side: int) -> int:
    return max(MIN_SIDE, -(-side // STRIDE) * STRIDE)


def most_pairs(width: int, height: int) -> int:
    """Most pairs of pictures in a call: kernels count the correlations of its pairs with 32 bits."""
    cells = _padded(width) * _padded(height) // STRIDE**2
    return max(1, 2**31 // cells**2)


def _margin(side: int) -> int:
    """Pixels that are added before the first; as many or one more follow the last."""
    return (_padded(side) - side) // 2


def _grid(rows: int, columns: int, device: Any) -> Any:
    """``float32 [1, 2, rows, columns]``, the place (x, y) of every cell."""
    y, x = torch.meshgrid(
        torch.arange(rows, dtype=torch.float32, device=device),
        torch.arange(columns, dtype=torch.float32, device=device),
        indexing="ij",
    )
    return torch.stack([x, y])[None]


def _correlations(first: Any, second: Any, *, levels: int) -> list[Any]:
    """For every cell of the first map its likeness to all of the second, ``[N * cells, 1, rows, columns]``, halved."""
    count, channels, rows, columns = first.shape
    products = first.flatten(2).transpose(1, 2) @ second.flatten(2)
    level = products.reshape(count * rows * columns, 1, rows, columns) / channels**0.5
    pyramid = [level]
    for _ in range(levels - 1):
        level = functional.avg_pool2d(level, kernel_size=2, stride=2)
        pyramid.append(level)
    return pyramid


def _neighbourhoods(pyramid: list[Any], places: Any, *, radius: int) -> Any:
    """Correlations around the place that every cell is thought to have gone to, ``[N, values, rows, columns]``."""
    count, _, rows, columns = places.shape
    span = torch.arange(-radius, radius + 1, dtype=torch.float32, device=places.device)
    # The weights were trained with the first coordinate of an offset along x.
    offsets = torch.stack(torch.meshgrid(span, span, indexing="ij"), dim=-1)
    centres = places.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
    found = []
    for number, level in enumerate(pyramid):
        height, width = level.shape[-2:]
        scale = torch.tensor([width - 1, height - 1], dtype=torch.float32, device=places.device)
        grid = (centres / 2**number + offsets) * 2 / scale - 1
        # Not by way of grid_sample: on a GPU that takes cuDNN's, which torch.compile cannot look into and which refuses
        # 65,536 cells. Bilinear, zeros beyond the border, corners aligned.
        values = torch.ops.aten.grid_sampler_2d(level, grid, 0, 0, True)
        found.append(values.view(count, rows, columns, -1))
    return torch.cat(found, dim=-1).permute(0, 3, 1, 2)
