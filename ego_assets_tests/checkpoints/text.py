"""Text detectors: a small inference model in the format of PaddlePaddle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from resources.models.registry import PADDLE_TEXT

#: What the published model does with a picture before and after the network.
_CONFIGURATION = {
    "Global": {"model_name": PADDLE_TEXT.folder},
    "PreProcess": {
        "transform_ops": [
            {"DecodeImage": {"channel_first": False, "img_mode": "BGR"}},
            {"DetResizeForTest": {"resize_long": 960}},
            {
                "NormalizeImage": {
                    "mean": [0.485, 0.456, 0.406],
                    "std": [0.229, 0.224, 0.225],
                    "order": "hwc",
                    "scale": "1./255.",
                }
            },
            {"ToCHWImage": None},
        ]
    },
    "PostProcess": {"name": "DBPostProcess", "thresh": 0.3, "box_thresh": 0.6, "unclip_ratio": 1.5},
}


def write_paddle_text(models_dir: Path) -> None:
    """A model that takes what is brighter than light grey for text."""
    import paddle

    class Brightness(paddle.nn.Layer):
        """The probability of text is how bright a pixel is."""

        def __init__(self) -> None:
            super().__init__()
            self.mean = paddle.nn.Conv2D(3, 1, 1)
            self.mean.weight.set_value(paddle.full([1, 3, 1, 1], 4 / 3))
            self.mean.bias.set_value(paddle.full([1], -6.0))

        def forward(self, images: Any) -> Any:
            return paddle.nn.functional.sigmoid(self.mean(images))

    folder = models_dir / PADDLE_TEXT.folder
    folder.mkdir(parents=True, exist_ok=True)
    shape = paddle.static.InputSpec([None, 3, None, None], "float32", "x")
    paddle.jit.save(Brightness(), str(folder / "inference"), input_spec=[shape])
    (folder / "inference.yml").write_text(yaml.safe_dump(_CONFIGURATION))


def _paddleocr(models_dir: Path) -> Mapping[str, Any]:
    write_paddle_text(models_dir)
    return {"device": "cpu", "max_side": 320}


MAKERS = {"paddleocr": _paddleocr}
