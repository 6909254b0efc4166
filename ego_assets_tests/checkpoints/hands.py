"""Hand-object detectors: the 100DOH network with weights that see coloured squares, and a worker in place of Hands23.

The network has its true size; every weight is zero but those that carry three colours through it, so the file is small
and a picture can be drawn for which the answer is known:

- a red square of one cell (its pixels begin at a multiple of 16) is a hand, a blue one an object; each is proposed as
  a box of 32 pixels around the beginning of its cell;
- with a little green in it, a hand is a right one;
- contact with a portable object is what blue around the hand says;
- objects are expected :data:`OFFSET_PX` to the right.
"""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ego_assets_tests.checkpoints import Maker
from resources.models.registry import HANDS_100DOH

RECORDED = Path(__file__).parents[1] / "fixtures" / "hands_100doh_state_dict.json"

#: Side of the box that is proposed for a cell, and share of its width that the box of a hand has, in pixels.
PROPOSAL_PX, HAND_SHARE = 32, 0.5
OFFSET_PX = 50.0

#: Channels that carry a colour: hand, object, side.
_HAND, _OBJECT, _SIDE = range(3)
_COLOURS = {_HAND: (-1.0, -0.5, 1.0), _OBJECT: (1.0, -0.5, -1.0), _SIDE: (0.0, 1.0, 0.0)}
_MEANS = (102.9801, 115.9465, 122.7717)
#: Of the 12 anchors the square one of 128 pixels.
_ANCHOR = 4


def recorded_shapes() -> dict[str, list[int]]:
    """Names and shapes of the published state dict."""
    shapes: dict[str, list[int]] = json.loads(RECORDED.read_text())["shapes"]
    return shapes


def seeing_state() -> dict[str, Any]:
    """A state dict of the published names and shapes that sees squares as described above."""
    import torch  # type: ignore[import-not-found,unused-ignore]

    # Zeros take no room in the file: one number stands for all of them.
    state = {name: torch.zeros(()).expand(shape) for name, shape in recorded_shapes().items()}
    for name in state:
        if name.endswith(("running_var", "bn1.weight", "bn2.weight", "bn3.weight", "downsample.1.weight")):
            state[name] = torch.ones(()).expand(state[name].shape)
        elif name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("downsample.0.weight"):
            state[name] = _carrying(state[name].shape)
    first = torch.zeros(state["RCNN_base.0.weight"].shape)
    means = torch.zeros(64)
    for channel, colour in _COLOURS.items():
        first[channel, :, 3, 3] = torch.tensor(colour)
        # The input has lost its means.
        means[channel] = -sum(a * b for a, b in zip(colour, _MEANS, strict=True))
    state["RCNN_base.0.weight"] = first
    state["RCNN_base.1.running_mean"] = means
    state["RCNN_base.1.weight"] = torch.full((64,), 1 / 255)
    hidden = torch.zeros(state["RCNN_rpn.RPN_Conv.weight"].shape)
    for channel in _COLOURS:
        hidden[channel, channel, 1, 1] = 1.0
    state["RCNN_rpn.RPN_Conv.weight"] = hidden
    scores, score_bias = torch.zeros(24, 512, 1, 1), torch.full((24,), 0.0)
    score_bias[12:] = -20.0
    scores[12 + _ANCHOR, [_HAND, _OBJECT]] = 30.0
    state["RCNN_rpn.RPN_cls_score.weight"], state["RCNN_rpn.RPN_cls_score.bias"] = scores, score_bias
    shifts = torch.zeros(48)
    # The middle of the anchor lies half a cell behind the beginning.
    shifts[4 * _ANCHOR : 4 * _ANCHOR + 2] = -8 / 128
    shifts[4 * _ANCHOR + 2 : 4 * _ANCHOR + 4] = math.log(PROPOSAL_PX / 128)
    state["RCNN_rpn.RPN_bbox_pred.bias"] = shifts
    classes, class_bias = torch.zeros(3, 2048), torch.tensor([0.0, -45.0, -45.0])
    classes[1, _OBJECT], classes[2, _HAND] = 300.0, 300.0
    state["RCNN_cls_score.weight"], state["RCNN_cls_score.bias"] = classes, class_bias
    # Regression was normalised by deviations of 0.1 and 0.2.
    boxes = torch.zeros(12)
    boxes[10:] = math.log(HAND_SHARE) / 0.2
    state["RCNN_bbox_pred.bias"] = boxes
    heads = "extension_layer.hand_"
    contact, states = torch.zeros(32, 2048), torch.zeros(5, 32)
    contact[0, _OBJECT], states[3, 0] = 100.0, 1.0
    state[f"{heads}contact_state_layer.0.weight"], state[f"{heads}contact_state_layer.3.weight"] = (
        contact,
        states,
    )
    state[f"{heads}contact_state_layer.3.bias"] = torch.tensor([3.0, -9.0, -9.0, 0.0, -9.0])
    state[f"{heads}dydx_layer.bias"] = torch.tensor([OFFSET_PX / 1000, 2.0, 0.0])
    side = torch.zeros(1, 2048)
    side[0, _SIDE] = 300.0
    state[f"{heads}lr_layer.weight"], state[f"{heads}lr_layer.bias"] = side, torch.tensor([-5.0])
    return state


def _carrying(shape: Any) -> Any:
    import torch  # type: ignore[import-not-found,unused-ignore]

    weight = torch.zeros(shape)
    for channel in _COLOURS:
        weight[channel, channel] = 1.0
    return weight


def published(state: Mapping[str, Any]) -> dict[str, Any]:
    """What training saved, around a state dict."""
    return {
        "session": 1,
        "epoch": 8,
        "model": dict(state),
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-5, "momentum": 0.9, "params": [0]}]},
        "pooling_mode": "align",
        "class_agnostic": False,
    }


def _hands_100doh(models_dir: Path) -> Mapping[str, Any]:
    import torch  # type: ignore[import-not-found,unused-ignore]

    path = models_dir / HANDS_100DOH.file
    if not path.exists():
        torch.save(published(seeing_state()), path)
    return {"shorter_side": 64, "proposals": 6, "max_hands": 3, "precision": "float32"}


#: Answers one hand around all that is not black, which holds what is in the left half.
WORKER = """
import json, sys
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin.buffer:
    size = json.loads(line)
    picture = sys.stdin.buffer.read(size["height"] * size["width"] * 3)
    found = []
    if max(picture):
        width, height = size["width"], size["height"]
        found = [{"hand_id": 0, "hand_bbox": ["0.0", "0.0", str(width / 2), str(float(height))],
                  "contact_state": "object_contact", "hand_side": "right_hand",
                  "obj_bbox": ["0.0", "0.0", str(width / 4), str(height / 2)], "obj_touch": "tool_,_held",
                  "obj_touch_scores": None, "second_obj_bbox": None, "grasp": "Pre-Pris", "grasp_scores": {},
                  "hand_pred_score": "0.98", "obj_pred_score": "0.9", "sec_obj_pred_score": "None"}]
    print(json.dumps({"predictions": found}), flush=True)
"""


def _hands23(models_dir: Path) -> Mapping[str, Any]:
    path = models_dir / "hands23_worker.py"
    path.write_text(WORKER)
    return {"command": shlex.join([sys.executable, str(path)])}


MAKERS: Mapping[str, Maker] = {"hands_100doh": _hands_100doh, "hands23": _hands23}
