"""Hands23: what its demo writes, and the program that runs it, played by small scripts."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ego_assets.schema.errors import BackendUnavailable, ConfigurationError, TransientError
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.hands import HandDetections, HandDetector
from resources.models.hands23 import Hands23Detector, hands23_detections
from resources.profiles import BackendConfig, Profile

Image = npt.NDArray[np.uint8]
ROOT = Path(__file__).resolve().parents[3]


def prediction(**changes: Any) -> dict[str, Any]:
    """One hand in the form of the demo's result.json, where numbers are strings."""
    return {
        "hand_id": 0,
        "hand_bbox": ["512.48", "822.88", "803.24", "1075.54"],
        "contact_state": "object_contact",
        "hand_side": "left_hand",
        "obj_bbox": ["584.13", "820.85", "813.09", "1051.80"],
        "obj_touch": "container_,_held",
        "obj_touch_scores": {"container_,_held": "0.9963"},
        "second_obj_bbox": None,
        "grasp": "Pow-Pris",
        "grasp_scores": {"Pow-Pris": "0.9712"},
        "hand_pred_score": "0.98",
        "obj_pred_score": "0.99",
        "sec_obj_pred_score": "None",
    } | changes


def converted(*predictions: Any) -> HandDetections:
    return hands23_detections(predictions, width=1920, height=1080)


# --- what the demo writes -------------------------------------------------------------------------------------


def test_a_hand_with_its_object() -> None:
    found = converted(prediction())
    assert found.boxes_xyxy.tolist() == [pytest.approx([512.48, 822.88, 803.24, 1075.54], abs=0.01)]
    assert found.contact_boxes_xyxy.tolist() == [pytest.approx([584.13, 820.85, 813.09, 1051.80], abs=0.01)]
    assert found.scores == pytest.approx([0.98]) and found.right_scores == pytest.approx([0.1])
    assert found.contact_scores == pytest.approx([0.9]) and np.isnan(found.landmarks_xy).all()


@pytest.mark.parametrize(
    ("state", "touches"),
    [
        ("no_contact", False),
        ("self_contact", False),
        ("other_person_contact", False),
        ("object_contact", True),
        ("obj_to_obj_contact", True),
    ],
)
def test_contact_is_that_with_objects(state: str, touches: bool) -> None:
    found = converted(prediction(contact_state=state))
    assert (found.contact_scores[0] > 0.5) == touches
    assert np.isfinite(found.contact_boxes_xyxy).all() == touches


def test_contact_with_an_object_that_was_not_found_has_no_box() -> None:
    for missing in (None, "None"):
        found = converted(prediction(obj_bbox=missing))
        assert found.contact_scores[0] > 0.5 and np.isnan(found.contact_boxes_xyxy).all()


def test_hands_come_surest_first_inside_the_picture() -> None:
    outside = prediction(hand_bbox=[1930, 10, 1950, 40])
    over_the_edge = prediction(hand_bbox=[-8.0, 1000, 100, 1090.5], hand_side="right_hand", hand_pred_score=1)
    found = converted(prediction(), outside, over_the_edge)
    assert found.scores == pytest.approx([1.0, 0.98])
    assert found.boxes_xyxy[0].tolist() == [0, 1000, 100, 1080]
    assert found.right_scores == pytest.approx([0.9, 0.1])
    assert len(converted()) == len(converted(outside)) == 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"hand_bbox": None}, r"predictions\[0\].hand_bbox: expected 4 finite"),
        ({"hand_bbox": ["1", "2", "nan", "4"]}, "hand_bbox: expected 4 finite"),
        ({"hand_bbox": [30, 2, 10, 4]}, "expected left, top, right, bottom"),
        ({"obj_bbox": [1, 2, 3]}, "obj_bbox: expected 4 finite"),
        ({"hand_pred_score": "None"}, "hand_pred_score: expected 1 finite"),
        ({"hand_pred_score": "1.2"}, "hand_pred_score: expected 0-1, got 1.2"),
        ({"hand_side": "hand"}, "hand_side: expected one of left_hand, right_hand, got 'hand'"),
        ({"contact_state": 3}, "contact_state: expected one of no_contact"),
    ],
)
def test_other_forms_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        converted(prediction(**wrong))
    with pytest.raises(ValueError, match="expected a mapping"):
        converted("hand")


# --- the worker -----------------------------------------------------------------------------------------------

#: Reads pictures as the protocol sends them; ``answer(picture, number)`` says what comes back.
LOOP = """
import json, os, signal, sys, time
def say(content): print(json.dumps(content), flush=True)
say({"ready": True})
for number, line in enumerate(sys.stdin.buffer):
    size = json.loads(line)
    picture = sys.stdin.buffer.read(size["height"] * size["width"] * 3)
    assert len(picture) == size["height"] * size["width"] * 3
"""


def worker(code: str, **settings: Any) -> Hands23Detector:
    command = shlex.join([sys.executable, "-c", code])
    return Hands23Detector(command=command, **({"timeout_s": 20.0, "start_timeout_s": 20.0} | settings))


def answering(expression: str, **settings: Any) -> Hands23Detector:
    """A worker that answers each picture with one line of Python."""
    return worker(LOOP + f"    {expression}\n", **settings)


def look(detector: HandDetector, *images: Image) -> list[HandDetections]:
    return list(detector.detect(ClipFrame(n, n, image) for n, image in enumerate(images)))


def grey(value: int, *, width: int = 40, height: int = 30) -> Image:
    return np.full((height, width, 3), value, np.uint8)


HAND = json.dumps(prediction(hand_bbox=[1, 2, 3, 4], obj_bbox=None)).replace("null", "None")
#: The score tells the brightness of the first pixel.
SHOWS = f'say({{"predictions": [dict({HAND}, hand_pred_score=picture[0] / 255)]}})'


@pytest.fixture
def shows() -> Iterator[Hands23Detector]:
    yield answering(SHOWS)


def test_pictures_arrive_whole_and_in_order(shows: Hands23Detector) -> None:
    assert isinstance(shows, HandDetector)
    # Larger than a pipe holds, and not in one piece in memory.
    large = np.asfortranarray(grey(51, width=1920, height=1080))
    found = look(shows, grey(255), large, grey(102)[:, ::2])
    assert [float(each.scores[0]) for each in found] == pytest.approx([1.0, 0.2, 0.4])
    assert look(shows) == []


def test_one_worker_serves_all_clips(tmp_path: Path) -> None:
    log = tmp_path / "starts"
    detector = worker(f"open({str(log)!r}, 'a').write('x')\n" + LOOP + f"    {SHOWS}\n")
    found: dict[int, list[float]] = {}

    def clip(value: int) -> None:
        found[value] = [float(each.scores[0]) for each in look(detector, *[grey(value)] * 20)]

    threads = [threading.Thread(target=clip, args=(value,)) for value in (51, 255)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {51: pytest.approx([0.2] * 20), 255: pytest.approx([1.0] * 20)}
    assert log.read_text() == "x"


def test_a_worker_that_talks_on_standard_error_is_served() -> None:
    detector = answering('sys.stderr.write("loading\\n" * 100_000); say({"predictions": []})')
    assert [len(each) for each in look(detector, grey(1), grey(2))] == [0, 0]


def test_no_command() -> None:
    with pytest.raises(BackendUnavailable, match=r"set `command` of the hands backend.*docs/models\.md"):
        Hands23Detector()
    with pytest.raises(BackendUnavailable, match="there is no program '/no/such/python'"):
        Hands23Detector(command="/no/such/python worker.py")


@pytest.mark.parametrize(
    "wrong",
    [
        {"timeout_s": 0},
        {"start_timeout_s": float("inf")},
        {"model": ""},
        {"licence_permits_commercial_use": "yes"},
        {"command": "python 'worker.py"},
    ],
)
def test_settings_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected"):
        Hands23Detector(**({"command": sys.executable} | wrong))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "import sys; sys.exit('no detectron2 here')",
            r"exit status 1.*: no detectron2 here\. It was not ready yet",
        ),
        ("import sys; sys.exit('Is it there?')", r"error: Is it there\? It was not ready yet"),
        ("import time; time.sleep(60)", "no answer within 0.5 s.*Raise `start_timeout_s` of.*not ready yet"),
        ("print('Loading weights'); input()", "expected a line of JSON from .* got 'Loading weights'"),
        ("print('[1]'); input()", "expected a JSON object"),
        ("print('{}'); input()", 'expected {"ready": true} first'),
        ("while True: print('x' * 100_000, end='')", "expected lines of JSON"),
    ],
)
def test_a_worker_that_does_not_start(code: str, said: str) -> None:
    detector = worker(code, start_timeout_s=0.5 if "sleep" in code else 20.0)
    with pytest.raises(BackendUnavailable, match=re.compile(said, re.DOTALL)):
        look(detector, grey(1))


@pytest.mark.parametrize(
    ("expression", "error", "said"),
    [
        ("sys.exit('out of memory')", TransientError, "exit status 1.*out of memory"),
        ("os.kill(os.getpid(), signal.SIGKILL)", TransientError, "exit status -9"),
        ("time.sleep(60)", TransientError, "no answer within 1 s and was ended. Raise `timeout_s` of"),
        ('say({"error": "CUDA out of memory"})', TransientError, "the worker reports: CUDA out of memory"),
        ('print("seen", flush=True)', BackendUnavailable, "expected a line of JSON .* got 'seen'"),
        ('say({"hands": []})', BackendUnavailable, "expected a line with `predictions`"),
        ('say({"predictions": [3]})', BackendUnavailable, "predictions as the demo writes them"),
        ('print("{}\\n{}", flush=True)', BackendUnavailable, "one line for each picture"),
    ],
)
def test_a_worker_that_fails_is_replaced(
    expression: str, error: type[Exception], said: str, tmp_path: Path
) -> None:
    """The first one fails at its first picture; what follows works."""
    mark = tmp_path / "failed"
    code = LOOP + (
        f"    if not os.path.exists({str(mark)!r}):\n"
        f"        open({str(mark)!r}, 'w').close()\n"
        f"        {expression}\n"
        f"    else: {SHOWS}\n"
    )
    detector = worker(code, timeout_s=1.0 if "sleep" in expression else 20.0)
    with pytest.raises(error, match=re.compile(said, re.DOTALL)):
        look(detector, grey(255))
    assert look(detector, grey(255))[0].scores[0] == 1.0


def test_a_worker_that_never_reads_does_not_block(tmp_path: Path) -> None:
    detector = worker("print('{\"ready\": true}', flush=True); import time; time.sleep(60)", timeout_s=0.5)
    begun = time.monotonic()
    with pytest.raises(TransientError, match="no answer within"):
        look(detector, grey(1, width=1920, height=1080))
    assert time.monotonic() - begun < 15


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system shows no processes in /proc")
def test_it_ends_with_this_process_and_takes_its_children_along(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    child = shlex.join([sys.executable, "-c", "import time; time.sleep(120)"])
    code = (
        "import os, subprocess\n"
        f"child = subprocess.Popen({shlex.split(child)!r})\n"
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n" + LOOP + f"    {SHOWS}\n"
    )
    program = (
        "import numpy as np, shlex, sys\n"
        "from ego_assets.schema.frames import ClipFrame\n"
        "from resources.models.hands23 import Hands23Detector\n"
        f"detector = Hands23Detector(command=shlex.join([sys.executable, '-c', {code!r}]))\n"
        "print(len(next(detector.detect([ClipFrame(0, 0, np.zeros((4, 4, 3), np.uint8))]))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )
    assert done.stdout.strip() == "1", done.stderr
    numbers = [int(text) for text in pids.read_text().split()]
    assert len(numbers) == 2 and os.getpid() not in numbers
    deadline = time.monotonic() + 10
    while any(map(is_running, numbers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [is_running(number) for number in numbers] == [False, False]


def test_commercial_use_asks_for_the_licence() -> None:
    def profile(**settings: Any) -> Profile:
        config = BackendConfig(backend="hands23", settings={"command": sys.executable, **settings})
        return Profile(name="mine", backends={"hands": config}, commercial_use=True)

    with pytest.raises(ConfigurationError, match=r"hands23.*licence_permits_commercial_use"):
        profile()
    profile(licence="MIT", licence_permits_commercial_use=True)
    info = Hands23Detector(command=sys.executable, licence="MIT", model="mine").info
    assert (info.licence, info.model, info.weights_sha256) == ("MIT", "mine", "")


def test_the_worker_of_the_manual_speaks_the_protocol(tmp_path: Path) -> None:
    """Its code, with a stand-in for the repository of Hands23 that it imports."""
    text = (ROOT / "docs" / "models.md").read_text()
    (code,) = [part for part in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "deal_output" in part]
    (tmp_path / "demo.py").write_text(
        "import argparse\n"
        "class Hand:\n"
        f"    def get_json(self): return {prediction(hand_bbox=[1, 2, 3, 4], obj_bbox=None)!r}\n"
        "def set_cfg(args): return (args.hand_thresh, args.model_weights)\n"
        "def deal_output(im, predictor):\n"
        "    print('chatter of a library')\n"
        "    assert im.shape == (30, 40, 3) and predictor is not None\n"
        "    if im[0, 0, 0] == 7: raise RuntimeError('too dark')\n"
        "    return [Hand()] * int(im[0, 0, 0])\n"
    )
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2" / "__init__.py").touch()
    (tmp_path / "detectron2" / "engine.py").write_text("def DefaultPredictor(cfg): return cfg\n")
    (tmp_path / "worker.py").write_text(code)
    detector = Hands23Detector(
        command=shlex.join([sys.executable, str(tmp_path / "worker.py")]), timeout_s=20
    )
    assert [len(each) for each in look(detector, grey(0), grey(2))] == [0, 2]
    with pytest.raises(TransientError, match="too dark"):
        look(detector, grey(7))
