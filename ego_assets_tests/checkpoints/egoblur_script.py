"""Saves a scripted model with the interface of EgoBlur Gen2, which answers with objects of a class of its own.

A face is the box around everything red, a plate the box around everything blue; both come from either model. Run as a
program of its own, ``egoblur_script.py FILE``, so that its classes are unknown to the process that loads the file, as
those of the published files are. TorchScript reads no annotations that are strings, hence no import of them here.
"""

import sys

import torch


@torch.jit.script
class Boxes:
    def __init__(self, tensor: torch.Tensor):
        self.tensor = tensor


@torch.jit.script
class ScriptedInstances1:
    def __init__(
        self,
        image_size: tuple[int, int],
        pred_boxes: Boxes | None = None,
        scores: torch.Tensor | None = None,
        pred_classes: torch.Tensor | None = None,
    ):
        self.image_size = image_size
        self._pred_boxes = torch.jit.annotate(Boxes | None, pred_boxes)
        self._scores = torch.jit.annotate(torch.Tensor | None, scores)
        self._pred_classes = torch.jit.annotate(torch.Tensor | None, pred_classes)


class Model(torch.nn.Module):
    @torch.jit.export
    def inference(
        self,
        batched_inputs: list[dict[str, torch.Tensor]],
        detected_instances: list[ScriptedInstances1] | None = None,
        do_postprocess: bool = True,
    ) -> list[ScriptedInstances1]:
        assert not do_postprocess
        found: list[ScriptedInstances1] = []
        for entry in batched_inputs:
            image = entry["image"]
            assert image.dtype == torch.uint8
            boxes, scores, classes = (
                [torch.zeros(0, 4)],
                [torch.zeros(0)],
                [torch.zeros(0, dtype=torch.int64)],
            )
            for channel, number in ((2, 0), (0, 1)):
                rows, columns = torch.where(image[channel] > 20)
                if rows.numel() > 0:
                    corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                    boxes.append(torch.stack(corners).float()[None])
                    scores.append(image[channel].max().float()[None] / 255)
                    classes.append(torch.full((1,), number, dtype=torch.int64))
            found.append(
                ScriptedInstances1(
                    (image.shape[1], image.shape[2]),
                    Boxes(torch.cat(boxes)),
                    torch.cat(scores),
                    torch.cat(classes),
                )
            )
        return found

    def forward(self, batch: list[dict[str, torch.Tensor]]) -> list[ScriptedInstances1]:
        return self.inference(batch, None, True)


torch.jit.script(Model()).save(sys.argv[1])
