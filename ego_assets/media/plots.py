"""A plot of a clip's time stamps, drawn without a plotting library: every clip gets one at ingest."""

from __future__ import annotations

import cv2
import numpy as np

from ego_assets.schema.timeline import Timeline

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 800, 220, 70, 30, 30
_INK, _LINE, _NOMINAL = (60, 60, 60), (219, 91, 59), (150, 150, 150)


def interval_plot(timeline: Timeline) -> bytes:
    """Time between neighbouring frames over the clip, in milliseconds, as a PNG below 50 KB.

    Gaps and changes of rate show as peaks; the grey line is the nominal interval.
    """
    picture = np.full((_HEIGHT, _WIDTH, 3), 255, np.uint8)
    intervals_ms = np.diff(timeline.timestamps_ns) / 1e6
    nominal_ms = timeline.frame_interval_ns / 1e6
    longest_ms = float(intervals_ms.max(initial=0.0))
    top_ms = 1.2 * max(nominal_ms, longest_ms)

    def row(value_ms: float) -> int:
        return round(_HEIGHT - _BOTTOM - value_ms / top_ms * (_HEIGHT - _BOTTOM - _TOP))

    cv2.line(picture, (_LEFT, row(nominal_ms)), (_WIDTH - 10, row(nominal_ms)), _NOMINAL, 1)
    if intervals_ms.size:
        # One column shows the longest interval of the frames that fall on it, so that no gap is lost.
        columns = min(_WIDTH - _LEFT - 10, intervals_ms.size)
        starts = np.linspace(0, intervals_ms.size, columns, endpoint=False).astype(int)
        highest = np.maximum.reduceat(intervals_ms, starts)
        across = np.linspace(_LEFT, _WIDTH - 10, columns)
        points = [(round(float(x)), row(float(value))) for x, value in zip(across, highest, strict=True)]
        cv2.polylines(picture, [np.array(points, np.int32)], False, _LINE, 1, cv2.LINE_AA)
    title = f"time between frames: nominal {nominal_ms:.2f} ms, longest {longest_ms:.2f} ms"
    for text, at in (
        (title, (_LEFT, 18)),
        (f"{nominal_ms:.1f} ms", (4, row(nominal_ms) + 4)),
        ("0 s", (_LEFT, _HEIGHT - 8)),
        (f"{timeline.duration_s:.1f} s", (_WIDTH - 70, _HEIGHT - 8)),
    ):
        cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, _INK, 1, cv2.LINE_AA)
    encoded, data = cv2.imencode(".png", picture)
    if not encoded:
        raise ValueError("the plot could not be encoded as PNG")
    return data.tobytes()
