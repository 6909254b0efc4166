"""A wrapper of EgoBlur's scripted networks in PyTorch. Importing this module imports PyTorch."""

from __future__ import annotations

from typing import Any, Dict, List, Tuple  # noqa: UP035

import torch  # type: ignore[import-not-found,unused-ignore]
from torch import nn  # type: ignore[import-not-found,unused-ignore]


class EgoBlurAnswers(nn.Module):  # type: ignore[misc,unused-ignore]
    """Calls a scripted EgoBlur model and hands out plain tensors.

    The model answers with objects of a class that exists only inside its file. Python could read them only after a
    class of the same name was registered, script code reads them as they are; so this is scripted around the model.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: List[torch.Tensor]) -> List[Tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:  # noqa: UP006
        """Boxes ``[N, 4]`` xyxy in pixels of each image, scores ``[N]`` and classes ``[N]``."""
        batch: List[Dict[str, torch.Tensor]] = []  # noqa: UP006
        for image in images:
            batch.append({"image": image})
        answers: List[Tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []  # noqa: UP006
        for found in self.model.inference(batch, do_postprocess=False):
            boxes, scores, classes = found._pred_boxes, found._scores, found._pred_classes
            assert boxes is not None and scores is not None and classes is not None
            answers.append((boxes.tensor, scores, classes))
        return answers
