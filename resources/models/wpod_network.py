"""The network of WPOD-NET in PyTorch. Importing this module imports PyTorch.

Parameters are named as in the published weights, so that these load as they are.
"""

from __future__ import annotations

from typing import Any

import torch  # type: ignore[import-not-found,unused-ignore]
from torch import nn  # type: ignore[import-not-found,unused-ignore]
from torch.nn import functional  # type: ignore[import-not-found,unused-ignore]

#: Epsilon of Keras' batch normalisation, in which WPOD-NET was trained; PyTorch's default is 1e-5.
_KERAS_EPSILON = 1e-3


class _Block(nn.Module):  # type: ignore[misc,unused-ignore]
    """Convolution with normalisation and rectification."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv_layer = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.bn_layer = nn.BatchNorm2d(outputs, eps=_KERAS_EPSILON)

    def forward(self, features: Any) -> Any:
        return functional.relu(self.bn_layer(self.conv_layer(features)))


class _Residual(nn.Module):  # type: ignore[misc,unused-ignore]
    """Two convolutions beside an identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_block = _Block(channels, channels)
        self.sec_layer = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn_layer = nn.BatchNorm2d(channels, eps=_KERAS_EPSILON)

    def forward(self, features: Any) -> Any:
        return functional.relu(features + self.bn_layer(self.sec_layer(self.conv_block(features))))


class WpodNet(nn.Module):  # type: ignore[misc,unused-ignore]
    """WPOD-NET (Silva and Jung, 2018): plates as affine transforms of a unit square, at stride 16.

    ``float32 [batch, 3, height, width]`` in 0-1, sides multiples of 16, to the probability of a plate
    ``[batch, rows, columns]`` and the transform ``[batch, 6, rows, columns]`` of each cell.
    """

    def __init__(self) -> None:
        super().__init__()
        # (channels, residual blocks) between the poolings; the first stage has a second plain block instead.
        layers: list[Any] = [_Block(3, 16), _Block(16, 16)]
        inputs = 16
        for channels, residuals in ((32, 1), (64, 2), (64, 2), (128, 4)):
            layers += [
                nn.MaxPool2d(2),
                _Block(inputs, channels),
                *(_Residual(channels) for _ in range(residuals)),
            ]
            inputs = channels
        self.backbone = nn.Sequential(*layers)
        self.prob_layer = nn.Conv2d(128, 2, 3, padding=1)
        self.bbox_layer = nn.Conv2d(128, 6, 3, padding=1)

    def forward(self, images: Any) -> tuple[Any, Any]:
        """Probability of a plate and its transform, per cell."""
        features = self.backbone(images)
        return torch.softmax(self.prob_layer(features), dim=1)[:, 0], self.bbox_layer(features)
