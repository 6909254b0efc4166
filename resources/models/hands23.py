"""Hands and the objects they touch with Hands23, which runs in an environment of its own behind a pipe.

Cheng, Shan, Hassen, Higgins and Fouhey, Towards A Richer 2D Understanding of Hands at Scale, NeurIPS 2023. Its network
needs detectron2, which this project does not install: a small program of the user's, the *worker*, runs there and
answers what the published demo writes. ``docs/models.md`` shows such a program.

The protocol: when the worker can take pictures it writes one line of JSON, ``{"ready": true}``. For every picture it is
sent a line ``{"height": H, "width": W}`` and then ``H * W * 3`` bytes, BGR, row by row; it answers with one line,
``{"predictions": [...]}`` with the demo's predictions, or ``{"error": "..."}``. It ends when its input ends.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np

from ego_assets.schema.detections import BackendInfo, BgrImage
from ego_assets.schema.errors import BackendUnavailable, TransientError
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.hands import LANDMARK_COUNT, HandDetections
from resources.models.backends import BACKENDS
from resources.models.images import check_image
from resources.models.registry import OWN_LICENCE

#: Whether a hand in this state touches an object.
_CONTACT_STATES = {
    "no_contact": False,
    "other_person_contact": False,
    "self_contact": False,
    "object_contact": True,
    "obj_to_obj_contact": True,
}
_RIGHT_SIDES = {"left_hand": False, "right_hand": True}
#: The program names a class without saying how sure it is; this stands for it.
_SURE = 0.9

#: Longest line of an answer: some thousand hands.
_MAX_LINE_BYTES = 4_000_000
#: So much of what the worker last wrote to standard error is shown.
_SHOWN_BYTES = 600
_SHOWN_COMMAND = 120
_PIECE_BYTES = 1 << 16

_log = logging.getLogger(__name__)


def hands23_detections(predictions: Sequence[Any], *, width: int, height: int) -> HandDetections:
    """What the Hands23 demo writes of one picture (``predictions`` of its ``result.json``), surest hand first.

    Numbers may be strings, as the demo writes them. Classes come without probabilities, so 0.9 and 0.1 stand for the
    side that is named and the other, and for contact and none. A hand that touches itself or another person touches no
    object. The box is that of the first object; what that one touches in turn, and the kind of grasp, are left out.

    Args:
        predictions: One mapping per hand, with ``hand_bbox``, ``hand_pred_score``, ``hand_side``, ``contact_state``
            and ``obj_bbox``.
        width: Of the picture in pixels.
        height: Of the picture in pixels.

    Raises:
        ValueError: An entry is not of that form.
    """
    limits = np.array([width, height] * 2, np.float64)
    hands = []
    for place, entry in enumerate(predictions):
        where = f"predictions[{place}]"
        if not isinstance(entry, Mapping):
            raise ValueError(f"{where}: expected a mapping, got {entry!r:.80}")
        box = np.clip(_box(entry, "hand_bbox", where), 0, limits)
        (score,) = _numbers(entry.get("hand_pred_score"), 1, f"{where}.hand_pred_score")
        if not 0 <= score <= 1:
            raise ValueError(f"{where}.hand_pred_score: expected 0-1, got {score}")
        right = _named(entry, "hand_side", _RIGHT_SIDES, where)
        touches = _named(entry, "contact_state", _CONTACT_STATES, where)
        touched = np.full(4, np.nan)
        if entry.get("obj_bbox") not in (None, "None"):
            touched = np.clip(_box(entry, "obj_bbox", where), 0, limits)
        if (box[2:] > box[:2]).all():
            hands.append((score, box, right, touches, touched if touches else np.full(4, np.nan)))
    if not hands:
        return HandDetections.empty()
    hands.sort(key=lambda hand: -hand[0])
    scores, boxes, rights, touching, objects = zip(*hands, strict=True)
    return HandDetections(
        boxes_xyxy=np.array(boxes, np.float32),
        scores=np.array(scores, np.float32),
        right_scores=np.where(rights, _SURE, 1 - _SURE).astype(np.float32),
        landmarks_xy=np.full((len(hands), LANDMARK_COUNT, 2), np.nan, np.float32),
        contact_scores=np.where(touching, _SURE, 1 - _SURE).astype(np.float32),
        contact_boxes_xyxy=np.array(objects, np.float32),
    )


def _numbers(values: Any, count: int, where: str) -> list[float]:
    listed = values if isinstance(values, list) else [values]
    try:
        found = [float(value) for value in listed]
    except (TypeError, ValueError):
        found = []
    if len(found) != count or not all(math.isfinite(value) for value in found):
        raise ValueError(f"{where}: expected {count} finite number(s), got {values!r:.80}")
    return found


def _box(entry: Mapping[str, Any], field: str, where: str) -> Any:
    box = np.array(_numbers(entry.get(field), 4, f"{where}.{field}"))
    if (box[2:] < box[:2]).any():
        raise ValueError(f"{where}.{field}: expected left, top, right, bottom, got {box.tolist()}")
    return box


def _named(entry: Mapping[str, Any], field: str, known: Mapping[str, bool], where: str) -> bool:
    value = entry.get(field)
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{where}.{field}: expected one of {', '.join(known)}, got {value!r:.80}")
    return known[value]


class Hands23Detector:
    """Hands23 in a program of its own, which is started at the first picture and kept until this process ends.

    Pictures of all clips go to the same worker, one at a time. A worker that died or had to be ended is started anew
    at the next picture.

    Args:
        command: The worker with its arguments, as in a shell, such as ``/opt/hands23/bin/python worker.py``.
        start_timeout_s: How long the worker may take to load its weights, in seconds.
        timeout_s: How long it may take for one picture, in seconds.
        model: Name of the weights that the worker loads, for reports.
        licence: Licence of these weights.
        licence_permits_commercial_use: Whether that licence permits commercial use.

    Raises:
        BackendUnavailable: No command is set, or there is no such program.
        ValueError: A setting has a wrong value.
    """

    def __init__(
        self,
        *,
        command: str = "",
        start_timeout_s: float = 300.0,
        timeout_s: float = 60.0,
        model: str = "Hands23 Faster R-CNN X-101",
        licence: str = OWN_LICENCE,
        licence_permits_commercial_use: bool = False,
    ) -> None:
        BACKENDS["hands"]["hands23"].check_arguments(locals())
        try:
            self._command = shlex.split(command)
        except ValueError as error:
            raise ValueError(
                f"command: expected a command as in a shell, got {command!r} ({error})"
            ) from error
        if not self._command:
            raise BackendUnavailable(
                "hands23 has no worker: set `command` of the hands backend in the profile to the program that runs "
                "Hands23 in its own environment, such as `/opt/hands23/bin/python worker.py`; docs/models.md shows one."
            )
        if shutil.which(self._command[0]) is None:
            raise BackendUnavailable(
                f"hands23: there is no program {self._command[0]!r}. Correct `command` of the hands backend in the "
                "profile."
            )
        self._start_timeout_s, self._timeout_s = start_timeout_s, timeout_s
        self._model, self._licence = model, licence
        self._worker: _Worker | None = None
        self._turn = threading.Lock()

    @property
    def info(self) -> BackendInfo:
        """What runs, as the profile names it; the weights are the worker's, so their digest is not known."""
        return BackendInfo(task="hands", backend="hands23", model=self._model, licence=self._licence)

    def detect(self, frames: Iterable[ClipFrame]) -> Iterator[HandDetections]:
        """Hands in each frame, surest first, with the objects they touch; landmarks are NaN.

        Raises:
            BackendUnavailable: The worker does not start, or does not speak the protocol.
            TransientError: It died, hung, or reported an error; the next picture starts it anew.
            ValueError: A picture is no ``uint8 [height, width, 3]``.
        """
        for frame in frames:
            check_image(frame.image)
            yield self._look(frame.image)

    def _look(self, image: BgrImage) -> HandDetections:
        height, width = image.shape[:2]
        with self._turn:
            if self._worker is None:
                self._worker = _Worker(self._command, timeout_s=self._start_timeout_s)
            try:
                answer = self._worker.ask(image, timeout_s=self._timeout_s)
                predictions = answer.get("predictions")
                if not isinstance(predictions, list):
                    raise self._worker.misunderstood("a line with `predictions` or `error`", answer)
                try:
                    return hands23_detections(predictions, width=width, height=height)
                except ValueError as error:
                    raise self._worker.misunderstood("predictions as the demo writes them", error) from error
            except BaseException:
                # What it still says would be taken for the answer to the next picture.
                self._worker.end()
                self._worker = None
                raise


class _Worker:
    """The running program. It is ended with this process, and with whatever it started."""

    def __init__(self, command: Sequence[str], *, timeout_s: float) -> None:
        self._name = shlex.join(command)[:_SHOWN_COMMAND]
        self._heard = b""
        self._said = b""
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                # A group of its own, so that what it started ends with it.
                start_new_session=True,
            )
        except OSError as error:
            raise BackendUnavailable(f"hands23: {self._name} cannot be started: {error}.") from error
        self.end = weakref.finalize(self, _end, self._process)
        for pipe in self._pipes:
            os.set_blocking(pipe.fileno(), False)
        try:
            begun = time.monotonic()
            answer = self._answer(b"", timeout_s, "start_timeout_s")
            if answer.get("ready") is not True:
                raise self.misunderstood('{"ready": true} first', answer)
        except TransientError as error:
            self.end()
            raise BackendUnavailable(f"{error} It was not ready yet: run `command` by hand.") from error
        except BaseException:
            self.end()
            raise
        _log.info("hands23: %s ready after %.1f s", self._name, time.monotonic() - begun)

    @property
    def _pipes(self) -> list[IO[bytes]]:
        process = self._process
        assert process.stdin and process.stdout and process.stderr
        return [process.stdin, process.stdout, process.stderr]

    def ask(self, image: BgrImage, *, timeout_s: float) -> Mapping[str, Any]:
        """Send a picture and wait for the answer."""
        height, width = image.shape[:2]
        header = json.dumps({"height": height, "width": width}).encode() + b"\n"
        message = header + np.ascontiguousarray(image).tobytes()
        answer = self._answer(message, timeout_s, "timeout_s")
        if "error" in answer:
            raise TransientError(f"hands23: the worker reports: {str(answer['error'])[:_SHOWN_BYTES]}")
        return answer

    def misunderstood(self, expected: str, got: object) -> BackendUnavailable:
        """The error of a worker that does not speak the protocol."""
        return BackendUnavailable(
            f"hands23: expected {expected} from {self._name}, got {str(got)[:200]!r}. The worker has to speak the "
            f"protocol of docs/models.md, and print nothing else.{self._last_words}"
        )

    @property
    def _last_words(self) -> str:
        text = self._said[-_SHOWN_BYTES:].decode(errors="replace").strip()
        stop = "" if text.endswith((".", "!", "?")) else "."
        return f" It last wrote to standard error: {text}{stop}" if text else ""

    def _answer(self, message: bytes, timeout_s: float, setting: str) -> Mapping[str, Any]:
        """Send a message and take one line, for as long as both together may take, as the setting says."""
        line = self._exchange(message, timeout_s, setting)
        try:
            answer = json.loads(line)
        except ValueError:
            raise self.misunderstood("a line of JSON", line.decode(errors="replace")) from None
        if not isinstance(answer, dict):
            raise self.misunderstood("a JSON object", answer)
        return answer

    def _exchange(self, message: bytes, timeout_s: float, setting: str) -> bytes:
        """All three pipes are served at once: a worker that talks before it has read must not block, nor block us."""
        deadline = time.monotonic() + timeout_s
        stdin, stdout, stderr = self._pipes
        left = memoryview(message)
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            selector.register(stderr, selectors.EVENT_READ)
            if left:
                selector.register(stdin, selectors.EVENT_WRITE)
            while b"\n" not in self._heard:
                wait = deadline - time.monotonic()
                ready = [key.fileobj for key, _ in selector.select(max(wait, 0))]
                if not ready and wait <= 0:
                    raise TransientError(
                        f"hands23: {self._name} gave no answer within {timeout_s:g} s and was ended. Raise "
                        f"`{setting}` of the hands backend in the profile if it needs longer.{self._last_words}"
                    )
                if stderr in ready:
                    piece = stderr.read(_PIECE_BYTES)
                    self._said = (self._said + (piece or b""))[-_SHOWN_BYTES:]
                    if not piece:
                        selector.unregister(stderr)
                if stdin in ready:
                    try:
                        left = left[os.write(stdin.fileno(), left[:_PIECE_BYTES]) :]
                    except BrokenPipeError:
                        left = left[:0]
                    if not left:
                        selector.unregister(stdin)
                if stdout in ready:
                    piece = stdout.read(_PIECE_BYTES)
                    if not piece:
                        raise self._dead(stderr)
                    self._heard += piece
                    if len(self._heard) > _MAX_LINE_BYTES:
                        raise self.misunderstood("lines of JSON", self._heard[:200].decode(errors="replace"))
        line, _, self._heard = self._heard.partition(b"\n")
        if left or self._heard:
            raise self.misunderstood("one line for each picture", line.decode(errors="replace"))
        return line

    def _dead(self, stderr: IO[bytes]) -> TransientError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        self._said = (self._said + (stderr.read() or b""))[-_SHOWN_BYTES:]
        code = self._process.returncode
        how = "closed its output" if code is None else f"ended with exit status {code}"
        return TransientError(f"hands23: {self._name} {how}.{self._last_words}")


def _end(process: subprocess.Popen[bytes]) -> None:
    # Nobody else waits for it, so its number is still its own.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    process.wait()
