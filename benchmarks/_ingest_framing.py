"""Shake and framing gates on real worn clips as they are, and with faults put into their frames while they are read.

Positives are made: a clip with one fault. Negatives are the same clips without one, and for every gate those with the
faults of the others. Tilt cannot be put into a flat picture, so that rendered rooms stand in for it.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt
from _harness import Reporter, alternate, cpu_seconds, median_ratio

if TYPE_CHECKING:
    from ego_assets.quality.assessment import QualityReport
    from ego_assets.schema.gates import GateResult

TESTDATA = Path(os.environ.get("EGO_TESTDATA", Path(__file__).resolve().parents[2] / "shared" / "testdata"))
GATES = ("shake", "lens_covered", "camera_tilt", "camera_worn", "smudges")
#: What the new gates may cost, of what the layer costs without them.
MAX_COST_SHARE = 0.10
#: Shortest clip into which faults are put.
MIN_FAULT_CLIP_S = 7.5
#: Pitch in degrees below the horizon of the rendered rooms; those beyond -40 and 75 are faults.
PITCHES = (-75.0, -55.0, 0.0, 20.0, 40.0, 55.0, 82.0)

Luma = npt.NDArray[np.uint8]
Alter = Callable[[float, Luma], Luma]


def run(reporter: Reporter, *, quick: bool) -> None:
    """Report alarms and recall of every gate."""
    clips = [*sorted((TESTDATA / "ego_video").glob("*.mp4")), TESTDATA / "gopro_imu" / "hero7.mp4"]
    clips = [clip for clip in clips if clip.is_file()]
    if quick:
        clips = clips[1::5]
    if not clips:
        for gate in GATES:
            reporter.report(f"{gate}: alarms on worn clips", None, "share", reason=f"no clips at {TESTDATA}")
    else:
        _real(reporter, clips)
    _tilt(reporter, quick=quick)


def cost(reporter: Reporter, clip: Path, *, quick: bool) -> None:
    """CPU seconds of measuring a clip, with and without what the new gates ask for."""
    from ego_assets.quality.framing import ViewMeter

    def without() -> float:
        due = ViewMeter.due
        ViewMeter.due = lambda self, timestamp_ns: False  # type: ignore[method-assign]
        try:
            return cpu_seconds(lambda: measure(clip))
        finally:
            ViewMeter.due = due  # type: ignore[method-assign]

    values = alternate(
        {"with": lambda: cpu_seconds(lambda: measure(clip)), "without": without}, runs=3 if quick else 9
    )
    reporter.report(
        "decode and measure, without shake and framing", statistics.median(values["without"]), "CPU s"
    )
    reporter.report(
        "shake and framing / decode and measure without them",
        median_ratio(values["with"], values["without"]) - 1,
        "ratio",
        target=MAX_COST_SHARE,
    )


def measure(path: Path, alter: Alter | None = None) -> QualityReport:
    """The report on a clip, its frames altered while they are read."""
    from ego_assets.media.decode import VideoReader
    from ego_assets.media.probe import probe
    from ego_assets.media.timeline import read_timeline
    from ego_assets.quality.assessment import QualityAssessor

    assessor = QualityAssessor(read_timeline(path), probe(path))
    with VideoReader(path) as reader:
        for frame in reader.frames():
            wanted = assessor.wants(frame.index, frame.timestamp_ns)
            luma = frame.luma() if wanted else None
            if luma is not None and alter is not None:
                luma = alter(frame.timestamp_ns / 1e9, luma)
            assessor.add(frame.index, frame.timestamp_ns, luma)
    return assessor.finish(0)


def faults() -> Iterator[tuple[str, str, Callable[[], Alter]]]:
    """Gate, name of the fault, and a maker of what alters the frames."""
    for share in (0.003, 0.005, 0.008):
        yield "shake", f"shake of {share:.1%} of the width", lambda share=share: _shaken(share)
    yield "lens_covered", "a hand over the lens for 4 s", lambda: _covered(hand=True)
    yield "lens_covered", "the lens black for 4 s", lambda: _covered(hand=False)
    yield "camera_worn", "lies still for the first 4 s", _lies_still
    yield "camera_worn", "tumbles for the first 4 s", _tumbles
    for middle in ((0.3, 0.35), (0.6, 0.6)):
        yield "smudges", f"smudge at {middle}", lambda middle=middle: _smudged(middle)


def _real(reporter: Reporter, clips: list[Path]) -> None:
    reports = {clip: measure(clip) for clip in clips}
    plain_s = {clip: report.duration_s for clip, report in reports.items()}
    plain = {clip: verdicts(report) for clip, report in reports.items()}
    for gate in GATES:
        _report(reporter, f"{gate}: alarms on worn clips", [found[gate] for found in plain.values()], "lower")
    crossed: dict[str, list[GateResult]] = {gate: [] for gate in GATES}
    for fault_gate, name, make in faults():
        # A fault of four seconds does not fit into a shorter clip.
        fits = [clip for clip in clips if plain_s[clip] >= MIN_FAULT_CLIP_S]
        found = [verdicts(measure(clip, make())) for clip in fits]
        _report(reporter, f"{fault_gate}: found, {name}", [one[fault_gate] for one in found], "higher")
        for gate in GATES:
            if gate != fault_gate:
                crossed[gate] += [one[gate] for one in found]
    for gate in GATES:
        _report(reporter, f"{gate}: alarms on clips with other faults", crossed[gate], "lower")


def _tilt(reporter: Reporter, *, quick: bool) -> None:
    from ego_assets.synth import SceneSpec, render_clip

    found: dict[bool, list[GateResult]] = {True: [], False: []}
    errors = []
    with tempfile.TemporaryDirectory() as folder:
        for location in ("kitchen",) if quick else ("kitchen", "office", "workshop"):
            for pitch in PITCHES[::3] if quick else PITCHES:
                path = Path(folder) / "clip.mp4"
                spec = SceneSpec(
                    seed=int(pitch) % 97, width=320, height=180, frame_rate=Fraction(15), duration_s=10.0, hands=False,
                    location=location, camera_motion="look_around", pitch_down_deg=pitch,
                )  # fmt: skip
                render_clip(spec, path)
                report = measure(path)
                found[not -40 <= pitch <= 75].append(verdicts(report)["camera_tilt"])
                errors += [abs(tilt.down_deg - pitch) for tilt in report.view.tilts()]
    _report(reporter, "camera_tilt: found, rendered rooms", found[True], "higher")
    _report(reporter, "camera_tilt: alarms, rendered rooms", found[False], "lower")
    median = statistics.median(errors) if errors else None
    reporter.report("camera_tilt: median error, rendered rooms", median, f"degrees, n={len(errors)}")


def verdicts(report: QualityReport) -> dict[str, GateResult]:
    """Verdicts by gate."""
    from ego_assets.gates.clip_quality import judge_quality

    return {verdict.spec.name: verdict for verdict in judge_quality(report)}


def _report(reporter: Reporter, metric: str, found: list[GateResult], better: str) -> None:
    """The share of warnings among the clips that could be judged."""
    outcomes = [verdict.outcome.value for verdict in found]
    judged = [outcome for outcome in outcomes if outcome != "not_evaluated"]
    unit = f"share, {len(judged)} of {len(outcomes)} clips judged"
    if not judged:
        reporter.report(metric, None, unit, reason="no clip could be judged")
        return
    share = judged.count("warned") / len(judged)
    reporter.report(metric, share, unit, better="higher" if better == "higher" else "lower")


def _shaken(share: float) -> Alter:
    generator = np.random.default_rng(5)
    phases = generator.uniform(0, 2 * np.pi, 4)

    def alter(time_s: float, luma: Luma) -> Luma:
        height, width = luma.shape
        swing = 2 * np.pi * time_s
        x = 0.8 * np.sin(5.3 * swing + phases[0]) + 0.4 * np.sin(7.1 * swing + phases[1])
        y = 0.8 * np.sin(5.9 * swing + phases[2]) + 0.4 * np.sin(3.7 * swing + phases[3])
        matrix = np.array([[1, 0, share * width * x], [0, 1, share * width * y]])
        moved = cv2.warpAffine(
            np.ascontiguousarray(luma), matrix, (width, height), borderMode=cv2.BORDER_REFLECT
        )
        return np.asarray(moved, np.uint8)

    return alter


def _covered(*, hand: bool) -> Alter:
    generator = np.random.default_rng(6)

    def alter(time_s: float, luma: Luma) -> Luma:
        if not 2.3 <= time_s < 6.3:
            return luma
        size = luma.shape[1::-1]
        light = cv2.resize(cv2.resize(luma, (3, 3), interpolation=cv2.INTER_AREA), size).astype(np.float32)
        mean = 45 + 0.3 * light if hand else np.full(luma.shape, 18, np.float32)
        return np.clip(mean + generator.normal(0, 2, luma.shape), 0, 255).astype(np.uint8)

    return alter


def _lies_still() -> Alter:
    generator = np.random.default_rng(7)
    first: list[Luma] = []

    def alter(time_s: float, luma: Luma) -> Luma:
        first.append(luma.copy()) if not first else None
        if time_s >= 4.3:
            return luma
        return np.clip(first[0] + generator.normal(0, 2, luma.shape), 0, 255).astype(np.uint8)

    return alter


def _tumbles() -> Alter:
    def alter(time_s: float, luma: Luma) -> Luma:
        if time_s >= 4.3:
            return luma
        height, width = luma.shape
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 220 * time_s, 1.4)
        matrix[0, 2] += 0.25 * width * np.sin(2 * np.pi * 0.9 * time_s)
        turned = cv2.warpAffine(
            np.ascontiguousarray(luma), matrix, (width, height), borderMode=cv2.BORDER_REFLECT
        )
        return np.asarray(turned, np.uint8)

    return alter


def _smudged(middle: tuple[float, float]) -> Alter:
    def alter(time_s: float, luma: Luma) -> Luma:
        height, width = luma.shape
        y, x = np.ogrid[:height, :width]
        away = np.hypot(x - middle[0] * width, y - middle[1] * height) / (0.13 * width)
        weight = np.clip(2 * (1 - away), 0, 1)
        soft = cv2.GaussianBlur(luma, (0, 0), 0.012 * width).astype(np.float32)
        return np.rint(luma + weight * (soft - luma)).astype(np.uint8)

    return alter
