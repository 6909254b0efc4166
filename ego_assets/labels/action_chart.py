"""A picture of a clip's activities over time, without any frame of it."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.labels.actions import ActionSteps
from ego_assets.schema.actions import OTHER_ACTION, ActionSegment
from ego_assets.schema.timeline import NANOSECONDS

_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 960, 150, 16, 60, 34
_ROW, _BAR = 34, 22
_INK, _GRID, _FAINT, _WHITE = (60, 60, 60), (228, 228, 228), (245, 245, 245), (255, 255, 255)
#: BGR, distinguishable by people with colour blindness (Okabe and Ito, "Color universal design", 2008).
_COLOURS = (
    (0, 158, 230),
    (167, 121, 204),
    (115, 158, 0),
    (178, 114, 0),
    (160, 160, 160),
    (0, 94, 213),
    (233, 180, 86),
)
#: What is none of the activities looks like none of them.
_OTHER_COLOUR = (200, 200, 200)
#: Most rows; labels without a segment are left out first, then those with the least time.
_MAX_ROWS = 12
#: Most room for the names of the activities.
_MAX_LEFT = 320
_TICK_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)


def action_chart(
    segments: Sequence[ActionSegment],
    probabilities: npt.NDArray[np.float32],
    *,
    steps: ActionSteps,
    labels: Sequence[str],
    least_score: float = 0.0,
) -> bytes:
    """Bars of the segments, a row per activity, over its probability at each step, as a PNG below 50 KB.

    Args:
        segments: The segments.
        probabilities: ``float32 [T, L]``.
        steps: The T steps.
        labels: The L activities.
        least_score: Segments with a lower score are drawn as outlines.
    """
    shown = _rows(segments, labels)
    left_edge = min(_MAX_LEFT, max([_LEFT, *(_text_width(labels[number], 0.48) + 24 for number in shown)]))
    height = _TOP + len(shown) * _ROW + _BOTTOM
    picture = np.full((height, _WIDTH, 3), 255, np.uint8)
    length_ns = steps.end_ns - steps.start_ns

    def column(time_ns: int) -> int:
        return left_edge + round((time_ns - steps.start_ns) / length_ns * (_WIDTH - left_edge - _RIGHT))

    edges = [column(time) for time in steps.edges_ns.tolist()]
    for row, number in enumerate(shown):
        _shade(
            picture,
            probabilities[:, number],
            edges,
            top=_row_top(row),
            colour=_colour(labels[number], row),
        )
    _time_axis(picture, length_ns / NANOSECONDS, left=left_edge, bottom=_TOP + len(shown) * _ROW)
    for row, number in enumerate(shown):
        top, colour = _row_top(row), _colour(labels[number], row)
        _write(picture, labels[number], (12, top + 16), 0.48)
        for segment in segments:
            if segment.label == labels[number]:
                left, right = (
                    column(segment.start_ns),
                    max(column(segment.end_ns), column(segment.start_ns) + 1),
                )
                sure = segment.score >= least_score
                cv2.rectangle(picture, (left, top), (right, top + _BAR), colour, -1 if sure else 1)
                text = f"{segment.score:.2f}"
                if right - left > 44:
                    _write(picture, text, (left + 6, top + 16), 0.45, colour=_WHITE if sure else _INK)
    seconds = length_ns / NANOSECONDS
    mean = sum(s.score * (s.end_ns - s.start_ns) for s in segments) / max(length_ns, 1)
    count = "1 segment" if len(segments) == 1 else f"{len(segments)} segments"
    _write(
        picture, f"{count} in {seconds:.{1 if seconds >= 1 else 2}f} s, mean score {mean:.2f}", (12, 24), 0.55
    )
    legend = "bars: segments with their scores; tint: probability at each second"
    if any(segment.score < least_score for segment in segments):
        legend += "; outlines: too unsure to rely on"
    hidden = len({segment.label for segment in segments}) - sum(
        any(segment.label == labels[number] for segment in segments) for number in shown
    )
    if hidden:
        legend += f"; {hidden} rarer activities are not shown"
    _write(picture, legend, (12, 44), 0.42)
    encoded, data = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    if not encoded:
        raise ValueError("the chart could not be encoded as PNG")
    return data.tobytes()


def _rows(segments: Sequence[ActionSegment], labels: Sequence[str]) -> list[int]:
    """Places of the labels that get a row, in their order: all where they are few, else those with the most time."""
    if len(labels) <= _MAX_ROWS:
        return list(range(len(labels)))
    length = dict.fromkeys(labels, 0)
    for segment in segments:
        length[segment.label] += segment.end_ns - segment.start_ns
    longest = sorted(range(len(labels)), key=lambda number: -length[labels[number]])[:_MAX_ROWS]
    return sorted(number for number in longest if length[labels[number]])


def _colour(label: str, row: int) -> tuple[int, int, int]:
    """Neighbouring rows never share one."""
    return _OTHER_COLOUR if label == OTHER_ACTION else _COLOURS[row % len(_COLOURS)]


def _row_top(row: int) -> int:
    return _TOP + row * _ROW + (_ROW - _BAR) // 2


def _shade(
    picture: npt.NDArray[np.uint8],
    probabilities: npt.NDArray[np.float32],
    edges: Sequence[int],
    *,
    top: int,
    colour: tuple[int, int, int],
) -> None:
    """A row's probabilities as a tint, at most a third of the colour, so that bars stand out."""
    for value, left, right in zip(probabilities.tolist(), edges[:-1], edges[1:], strict=True):
        share = 0.35 * value
        tint = [round(back + share * (front - back)) for back, front in zip(_FAINT, colour, strict=True)]
        cv2.rectangle(picture, (left, top), (max(left, right - 1), top + _BAR), tint, -1)


def _time_axis(picture: npt.NDArray[np.uint8], seconds: float, *, left: int, bottom: int) -> None:
    step = next((step for step in _TICK_STEPS_S if seconds / step <= 12), seconds / 10)
    for number in range(int(seconds / step + 1e-6) + 1):
        at = number * step
        column = left + round(at / seconds * (_WIDTH - left - _RIGHT))
        cv2.line(picture, (column, bottom), (column, bottom + 5), _INK, 1)
        text = f"{at:g} s" if seconds < 120 else f"{int(at) // 60}:{int(at) % 60:02d}"
        _write(picture, text, (min(column - 10, _WIDTH - 46), bottom + 22), 0.42)
    cv2.line(picture, (left, bottom), (_WIDTH - _RIGHT, bottom), _GRID, 1)


def _text_width(text: str, size: float) -> int:
    return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)[0][0])


def _write(
    picture: npt.NDArray[np.uint8],
    text: str,
    at: tuple[int, int],
    size: float,
    *,
    colour: tuple[int, int, int] = _INK,
) -> None:
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)
