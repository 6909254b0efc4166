"""What the privacy pass costs, in CPU seconds against a bare transcode of the same clip, and in memory."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest.mock import patch

from _harness import (
    Reporter,
    alternate,
    child_cpu_seconds,
    cpu_seconds,
    median_ratio,
)

from ego_assets.schema.detections import BackendInfo, BgrImage, Detections, RegionDetector

REDACTION = "redaction (faces, text, plates) / bare transcode"
WHOLE = "whole pass with proxy and leak check / bare transcode"
KILOBYTES_PER_MEGABYTE = 1024


def run(reporter: Reporter, *, quick: bool, clip: Path | None) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = clip or render(folder, quick=quick)
        measure_cpu(reporter, clip, folder, runs=1 if quick else 3)
        break_down(reporter, clip, folder)
        measure_deface(reporter, clip, folder, frames=3 if quick else 30)
        measure_memory(reporter, folder, quick=quick)


def render(folder: Path, *, quick: bool) -> Path:
    """A synthetic 1080p30 clip with people, a page of text and plates."""
    from ego_assets.synth import SceneSpec, render_clip

    path = folder / "clip.mp4"
    spec = SceneSpec(
        width=1920,
        height=1080,
        frame_rate=Fraction(30),
        duration_s=1.0 if quick else 5.0,
        faces=2,
        text_panels=2,
        plates=1,
    )
    render_clip(spec, path)
    return path


def measure_cpu(reporter: Reporter, clip: Path, folder: Path, *, runs: int) -> None:
    values = alternate(
        {
            "bare transcode": lambda: cpu_seconds(lambda: transcode(clip, folder / "transcoded.mp4")),
            "redaction": lambda: cpu_seconds(lambda: redact(clip, folder)),
            "whole pass": lambda: cpu_seconds(lambda: redact(clip, folder, whole=True)),
        },
        runs=runs,
    )
    for name, samples in values.items():
        reporter.report(name, statistics.median(samples), "CPU seconds")
    reporter.report(
        REDACTION, median_ratio(values["redaction"], values["bare transcode"]), "ratio", target=2.0
    )
    reporter.report(WHOLE, median_ratio(values["whole pass"], values["bare transcode"]), "ratio", target=3.5)


def transcode(clip: Path, target: Path, *, frames: int | None = None) -> None:
    """Decode and encode again with x264 ``veryfast``, crf 20: the least that a changed video costs."""
    import av

    with av.open(str(clip)) as source, av.open(str(target), "w") as sink:
        stream = source.streams.video[0]
        stream.thread_type = "AUTO"
        made = sink.add_stream(
            "libx264", rate=stream.average_rate, options={"preset": "veryfast", "crf": "20"}
        )
        made.width, made.height, made.pix_fmt = stream.width, stream.height, "yuv420p"
        for index, frame in enumerate(source.decode(video=0)):
            if frames is not None and index >= frames:
                break
            frame.pict_type = 0
            sink.mux(made.encode(frame))
        sink.mux(made.encode(None))


def detectors(*, threads: int = 0, leak_check: bool = False) -> dict[str, RegionDetector]:
    """Faces, text and plates of the local profile, or those that examine the finished video."""
    from resources.profiles import BackendConfig, Profile, build_backend, load_profile

    profile = load_profile("local")
    chosen = {**profile.backends, **(profile.leak_check if leak_check else {})}
    backends = {
        task: BackendConfig(
            backend=chosen[task].backend, settings={**chosen[task].settings, "threads": threads}
        )
        for task in ("faces", "text", "plates")
    }
    changed = Profile(name="benchmark", backends=backends)
    return {task: build_backend(changed, task) for task in backends}


def redact(
    clip: Path, folder: Path, *, whole: bool = False, using: Mapping[str, RegionDetector] | None = None
) -> dict[str, Any]:
    """One pass; returns its PII report."""
    from ego_assets.media.probe import probe
    from ego_assets.media.timeline import read_timeline
    from ego_assets.privacy.config import PrivacyConfig
    from ego_assets.privacy.deidentify import deidentify

    result = deidentify(
        clip,
        probe=probe(clip),
        timeline=read_timeline(clip),
        video_path=folder / "video.mp4",
        proxy_path=folder / "proxy.mp4" if whole else None,
        detectors=using or detectors(),
        leak_detectors=detectors(leak_check=True),
        config=PrivacyConfig() if whole else PrivacyConfig(leak_looks_per_s=0),
    )
    return result.report.to_dict()


class Timed:
    """A detector that counts the CPU time of its calls; it runs in one thread."""

    def __init__(self, detector: RegionDetector, spent: Callable[[float], None]) -> None:
        self._detector = detector
        self._spent = spent

    @property
    def info(self) -> BackendInfo:
        return self._detector.info

    def detect(self, images: Sequence[BgrImage], *, strict: bool = False) -> list[Detections]:
        before = time.thread_time()
        try:
            return self._detector.detect(images, strict=strict)
        finally:
            self._spent(time.thread_time() - before)


@contextmanager
def timing(spent: dict[str, float], names: Mapping[str, str]) -> Iterator[None]:
    """Count the CPU time of this thread inside some functions, by label."""
    import importlib

    patches = []
    for target, label in names.items():
        module, _, attribute = target.rpartition(".")
        owner: Any = importlib.import_module(module) if "MotionMeter" not in module else None
        if owner is None:
            owner = importlib.import_module(module.rpartition(".")[0]).MotionMeter
        function = getattr(owner, attribute)

        def timed(*args: Any, _function: Any = function, _label: str = label, **options: Any) -> Any:
            before = time.thread_time()
            try:
                return _function(*args, **options)
            finally:
                spent[_label] += time.thread_time() - before

        patches.append(patch.object(owner, attribute, timed))
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()


def break_down(reporter: Reporter, clip: Path, folder: Path) -> None:
    """Where the CPU seconds of one whole pass go."""
    import av

    def decode() -> None:
        with av.open(str(clip)) as container:
            container.streams.video[0].thread_type = "AUTO"
            for _ in container.decode(video=0):
                pass

    spent: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)

    def counted(task: str) -> Callable[[float], None]:
        def count(seconds: float) -> None:
            spent[f"detector: {task}"] += seconds
            calls[task] += 1

        return count

    timed = {task: Timed(found, counted(task)) for task, found in detectors(threads=1).items()}
    names = {
        "ego_assets.privacy.motion.MotionMeter.measure": "camera motion",
        "ego_assets.privacy.examine.grow_to_panels": "panels",
        "ego_assets.privacy.deidentify.build_tracks": "tracking",
        "ego_assets.privacy.render.redact_frame": "redaction of regions",
        "ego_assets.privacy.render.upright_scaled": "scaling to the proxy",
        "ego_assets.privacy.deidentify.find_leaks": "leak check (its detectors included)",
    }
    with timing(spent, names):
        total = cpu_seconds(lambda: redact(clip, folder, whole=True, using=timed))
    spent["decode, twice"] = 2 * cpu_seconds(decode)
    for label, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        reporter.report(f"breakdown: {label}", seconds, "CPU seconds")
    reporter.report(
        "breakdown: both encoders and the rest",
        total - sum(spent.values()),
        "CPU seconds",
    )
    for task, count in calls.items():
        reporter.report(f"calls of the {task} detector", count, "calls")


def measure_deface(reporter: Reporter, clip: Path, folder: Path, *, frames: int) -> None:
    """``deface`` with its defaults against a bare transcode of the same short cut."""
    metric = "deface with its defaults / bare transcode"
    cut = folder / "cut.mp4"
    transcode(clip, cut, frames=frames)
    program = Path(sys.executable).with_name("deface")
    if not program.exists():
        reporter.report(metric, None, "ratio", reason="deface is not installed as a program")
        return
    theirs = child_cpu_seconds([str(program), str(cut), "-o", str(folder / "defaced.mp4")], quiet=True)
    bare = cpu_seconds(lambda: transcode(cut, folder / "bare.mp4"))
    reporter.report(metric, theirs / bare, "ratio")


def measure_memory(reporter: Reporter, folder: Path, *, quick: bool) -> None:
    """Peak memory of the whole pass in a process of its own, on a short and on a long clip."""
    from ego_assets.synth import SceneSpec, render_clip

    small = folder / "small.mp4"
    render_clip(SceneSpec(width=320, height=180, frame_rate=Fraction(30), duration_s=10.0), small)
    peaks = {"10 s": peak_megabytes(small, folder)}
    long_s = 20 if quick else 1800
    repeated = repeat(small, folder / "long.mp4", times=long_s // 10)
    peaks[f"{long_s} s"] = peak_megabytes(repeated, folder)
    for name, value in peaks.items():
        reporter.report(f"peak memory, {name} of 320x180", value, "MB", target=1500)
    short, long = peaks.values()
    reporter.report("peak memory, long / short clip", long / short, "ratio", target=1.1)
    large = render(folder, quick=True)
    reporter.report("peak memory, 2 s of 1080p", peak_megabytes(large, folder), "MB", target=1500)


def repeat(clip: Path, target: Path, *, times: int) -> Path:
    """The same clip several times in a row, without encoding again."""
    import av

    with av.open(str(clip)) as source, av.open(str(target), "w") as sink:
        stream = source.streams.video[0]
        made = sink.add_stream_from_template(stream)
        packets = [packet for packet in source.demux(stream) if packet.dts is not None]
        length = max(packet.pts + packet.duration for packet in packets)
        stamps = [(packet.pts, packet.dts) for packet in packets]
        for turn in range(times):
            for packet, (pts, dts) in zip(packets, stamps, strict=True):
                packet.pts, packet.dts = pts + turn * length, dts + turn * length
                packet.stream = made
                packet.time_base = stream.time_base
                sink.mux(packet)
    return target


def peak_megabytes(clip: Path, folder: Path) -> float:
    """Peak resident memory of one whole pass, as the kernel counts it for the process that ran it alone.

    What ``wait4`` tells of a child starts with the peak of its parent.
    """
    command = [sys.executable, __file__, str(clip), str(folder)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(told.strip()) / KILOBYTES_PER_MEGABYTE


if __name__ == "__main__":
    # One pass in a process of its own, whose memory the benchmark measures.
    redact(Path(sys.argv[1]), Path(sys.argv[2]), whole=True)
    peak = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    print(peak.split()[1])
