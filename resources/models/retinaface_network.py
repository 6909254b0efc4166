"""The network of RetinaFace on MobileNet in PyTorch. Importing this module imports PyTorch.

Parameters are named as in the published weights, so that these load as they are.
"""

from __future__ import annotations

from typing import Any

import torch  # type: ignore[import-not-found,unused-ignore]
from torch import nn  # type: ignore[import-not-found,unused-ignore]
from torch.nn import functional  # type: ignore[import-not-found,unused-ignore]


def _convolution(
    inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, groups: int = 1, relu: bool = True
) -> list[Any]:
    """Convolution, batch normalisation and, with ``relu``, rectification."""
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return [*layers, nn.ReLU()] if relu else layers


def _separable(inputs: int, outputs: int, *, stride: int = 1) -> Any:
    """Depthwise separable convolution of MobileNet."""
    return nn.Sequential(
        *_convolution(inputs, inputs, stride=stride, groups=inputs), *_convolution(inputs, outputs, kernel=1)
    )


class _Stages(nn.Module):  # type: ignore[misc,unused-ignore]
    """MobileNet v1 at a quarter of its width, cut where the strides are 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(
            nn.Sequential(*_convolution(3, 8, stride=2)),
            _separable(8, 16),
            _separable(16, 32, stride=2),
            _separable(32, 32),
            _separable(32, 64, stride=2),
            _separable(64, 64),
        )
        self.stage2 = nn.Sequential(_separable(64, 128, stride=2), *(_separable(128, 128) for _ in range(5)))
        self.stage3 = nn.Sequential(_separable(128, 256, stride=2), _separable(256, 256))


class _FeaturePyramid(nn.Module):  # type: ignore[misc,unused-ignore]
    """Brings the three stages to 64 channels and adds each coarser one to the next finer."""

    def __init__(self) -> None:
        super().__init__()
        self.output1 = nn.Sequential(*_convolution(64, 64, kernel=1))
        self.output2 = nn.Sequential(*_convolution(128, 64, kernel=1))
        self.output3 = nn.Sequential(*_convolution(256, 64, kernel=1))
        self.merge1 = nn.Sequential(*_convolution(64, 64))
        self.merge2 = nn.Sequential(*_convolution(64, 64))

    def forward(self, fine: Any, middle: Any, coarse: Any) -> list[Any]:
        fine, middle, coarse = self.output1(fine), self.output2(middle), self.output3(coarse)
        middle = self.merge2(middle + functional.interpolate(coarse, size=middle.shape[2:], mode="nearest"))
        fine = self.merge1(fine + functional.interpolate(middle, size=fine.shape[2:], mode="nearest"))
        return [fine, middle, coarse]


class _Context(nn.Module):  # type: ignore[misc,unused-ignore]
    """SSH context module (Najibi et al., 2017): fields of view of 3, 5 and 7 cells side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.conv3X3 = nn.Sequential(*_convolution(64, 32, relu=False))
        self.conv5X5_1 = nn.Sequential(*_convolution(64, 16))
        self.conv5X5_2 = nn.Sequential(*_convolution(16, 16, relu=False))
        self.conv7X7_2 = nn.Sequential(*_convolution(16, 16))
        self.conv7x7_3 = nn.Sequential(*_convolution(16, 16, relu=False))

    def forward(self, features: Any) -> Any:
        shared = self.conv5X5_1(features)
        widest = self.conv7x7_3(self.conv7X7_2(shared))
        return functional.relu(torch.cat([self.conv3X3(features), self.conv5X5_2(shared), widest], dim=1))


class _Head(nn.Module):  # type: ignore[misc,unused-ignore]
    """One answer per anchor, two anchors per cell."""

    def __init__(self, values: int) -> None:
        super().__init__()
        self.values = values
        self.conv1x1 = nn.Conv2d(64, 2 * values, 1)

    def forward(self, features: Any) -> Any:
        return self.conv1x1(features).permute(0, 2, 3, 1).reshape(features.shape[0], -1, self.values)


class RetinaFaceMobileNet(nn.Module):  # type: ignore[misc,unused-ignore]
    """RetinaFace (Deng et al., 2020) on MobileNet v1 0.25, as in Face-Detector-1MB.

    ``float32 [batch, 3, height, width]``, sides multiples of 32, to regression ``[batch, N, 4]`` and logits
    ``[batch, N, 2]`` of background and face for the anchors of :func:`resources.models.boxes.prior_boxes`. The
    landmark head is loaded but not run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = _Stages()
        self.fpn = _FeaturePyramid()
        self.ssh1, self.ssh2, self.ssh3 = _Context(), _Context(), _Context()
        self.ClassHead = nn.ModuleList(_Head(2) for _ in range(3))
        self.BboxHead = nn.ModuleList(_Head(4) for _ in range(3))
        self.LandmarkHead = nn.ModuleList(_Head(10) for _ in range(3))

    def forward(self, images: Any) -> tuple[Any, Any]:
        """Regression and logits of every anchor."""
        fine = self.body.stage1(images)
        middle = self.body.stage2(fine)
        pyramid = self.fpn(fine, middle, self.body.stage3(middle))
        maps = [ssh(level) for ssh, level in zip((self.ssh1, self.ssh2, self.ssh3), pyramid, strict=True)]
        regression = torch.cat([head(m) for head, m in zip(self.BboxHead, maps, strict=True)], dim=1)
        logits = torch.cat([head(m) for head, m in zip(self.ClassHead, maps, strict=True)], dim=1)
        return regression, logits
