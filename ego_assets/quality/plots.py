"""Plots of a quality report. They show measurements, never picture content."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from PIL import Image

from ego_assets.quality.assessment import QualityReport
from ego_assets.quality.exposure import CLIPPED_SHARE_LIMIT, DARK_SHARE_LIMIT
from ego_assets.quality.stability import SHAKE_LIMIT
from ego_assets.schema.timeline import NANOSECONDS

#: More points than this are invisible at the plot's width.
_MAX_POINTS = 400

#: Stretches of one kind that are marked; a clip with more is bad enough to show it.
_MAX_MARKS = 50

_GOOD, _BAD, _ACCENT, _MUTED = "#2f7d6d", "#c2410c", "#3b5bdb", "#8a8f98"


def quality_plot(report: QualityReport) -> bytes:
    """Sharpness, exposure and shake of a clip over time, with the limits at which a frame or a second counts as bad.

    Seconds in which the camera stands still, tumbles or has its lens covered are marked.

    Args:
        report: What to plot.

    Returns:
        A PNG of 800x680 pixels, below 50 KB.
    """
    # Every clip gets this plot: fixed margins and few ticks draw in a third of the time of a fitted layout.
    figure = Figure(figsize=(8, 6.8), dpi=100)
    figure.subplots_adjust(left=0.09, right=0.98, top=0.95, bottom=0.07, hspace=0.32)
    sharpness, exposure, shake = figure.subplots(3, 1)
    _plot_sharpness(sharpness, report)
    _plot_exposure(exposure, report)
    _plot_shake(shake, report)
    return render_png(figure)


def render_png(figure: Figure) -> bytes:
    """A figure as a PNG with a palette, a third of the size of one in full colour."""
    drawn, buffer = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", pil_kwargs={"compress_level": 1})
    image = Image.open(drawn).convert("RGB")
    image.quantize(64, dither=Image.Dither.NONE).save(buffer, format="png")
    return buffer.getvalue()


def _plot_sharpness(axes: Axes, report: QualityReport) -> None:
    blur = report.blur
    times_s = _seconds(blur.timestamps_ns, report)
    # A log scale has no zero; a frame of one colour is drawn at the bottom.
    for values, colour, label in (
        (blur.native, _ACCENT, "native scale"),
        (blur.working_scale, _GOOD, f"at {report.config.working_short_side_px} px"),
    ):
        axes.plot(*_thinned(times_s, np.maximum(values, 0.1)), "o-", ms=3, lw=1, color=colour, label=label)
    axes.axhline(report.config.blurred_below, color=_BAD, lw=1, ls="--", label="blurred below")
    axes.set_yscale("log")
    highest = max([report.config.blurred_below, *blur.native, *blur.working_scale])
    axes.set_ylim(top=5 * highest)
    axes.yaxis.set_major_locator(LogLocator(numticks=4))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("Laplacian variance")
    _finish(axes, f"Sharpness: {_percent(report.blurred_share)} of sampled frames blurred")


def _plot_exposure(axes: Axes, report: QualityReport) -> None:
    exposure = report.exposure
    times_s = _seconds(exposure.timestamps_ns, report)
    for values, colour, label in (
        (exposure.dark_share, _MUTED, "dark pixels"),
        (exposure.clipped_share, _ACCENT, "clipped pixels"),
    ):
        axes.plot(*_thinned(times_s, 100 * values), "-", lw=1.2, color=colour, label=label)
    axes.axhline(100 * DARK_SHARE_LIMIT, color=_MUTED, lw=1, ls="--", label="under-exposed above")
    axes.axhline(100 * CLIPPED_SHARE_LIMIT, color=_BAD, lw=1, ls="--", label="over-exposed above")
    axes.set_ylim(-2, 118)
    axes.set_yticks([0, 25, 50, 75, 100])
    axes.set_ylabel("share of pixels (%)")
    _finish(
        axes,
        f"Exposure: {_percent(report.over_exposed_share)} of sampled frames over-exposed, "
        f"{_percent(report.under_exposed_share)} under-exposed",
    )


def _plot_shake(axes: Axes, report: QualityReport) -> None:
    view = report.view
    seconds = np.arange(view.shake.size)
    # Gaps in the line are seconds in which the motion is not known.
    axes.plot(*_thinned(seconds + 0.5, 100 * view.shake), "o-", ms=3, lw=1, color=_ACCENT, label="shake")
    axes.axhline(100 * SHAKE_LIMIT, color=_BAD, lw=1, ls="--", label="shakes above")
    marks = (
        (view.still, _MUTED, "stands still"),
        (view.handled, _BAD, "tumbles"),
        (view.covered, "#1f2937", "covered"),
    )
    for marked, colour, label in marks:
        for number, stretch in enumerate(view.stretches(marked)[:_MAX_MARKS]):
            axes.axvspan(
                stretch.start_s, stretch.end_s, color=colour, alpha=0.25, lw=0, label="" if number else label
            )
    highest = float(np.nanmax([100 * SHAKE_LIMIT, *(100 * view.shake)]))
    axes.set_ylim(0, 1.4 * highest)
    axes.set_ylabel("shake (% of width)")
    axes.set_xlabel("time (s)")
    known = np.isfinite(view.shake)
    share = float((view.shake[known] > SHAKE_LIMIT).mean()) if known.any() else None
    _finish(axes, f"Shake: {_percent(share)} of seconds shake, {int(known.sum())} of {seconds.size} judged")


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(alpha=0.25)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=7, loc="upper right", framealpha=0.8, ncols=5)


def _seconds(timestamps_ns: npt.NDArray[np.int64], report: QualityReport) -> npt.NDArray[np.float64]:
    start_ns = int(report.exposure.timestamps_ns[0]) if report.exposure.timestamps_ns.size else 0
    return (timestamps_ns - start_ns) / NANOSECONDS


def _thinned(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    step = max(1, -(-x.size // _MAX_POINTS))
    return x[::step], y[::step]


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{share:.0%}"
