"""Streaming assessment of a clip's technical quality while it is decoded for the first time."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from ego_assets.quality.blur import WORKING_SHORT_SIDE_PX, laplacian_variance, reduce_to_short_side
from ego_assets.quality.completeness import expect_frames, usable_duration_s
from ego_assets.quality.exposure import (
    BRIGHT_SHARE_LIMIT,
    CLIPPED_SHARE_LIMIT,
    DARK_SHARE_LIMIT,
    LIMITED_BLACK,
    LIMITED_RANGE_GAIN,
    measure_exposure,
)
from ego_assets.quality.framing import ASSUMED_FOCAL_SHARE, TileDetail, ViewMeter, ViewSamples
from ego_assets.schema.arrays import read_only
from ego_assets.schema.media import MediaProbe
from ego_assets.schema.timeline import Timeline

#: Raised whenever the meaning of a field of the report changes.
REPORT_FORMAT = 2

#: A short clip is sampled more densely, so that its shares rest on at least this many frames.
MIN_SAMPLES = 5

#: Least and largest focal length over the picture's longer side: a fisheye and a long telephoto lens.
FOCAL_SHARES = (0.05, 50.0)

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """What is sampled, and what makes a sampled frame a bad one.

    How large a share of bad frames a clip may have is decided in :mod:`ego_assets.gates.clip_quality`.

    Attributes:
        blur_every: Sharpness is measured on every n-th frame (collection guide, step 2: 30).
        exposure_every: Exposure is measured on every n-th frame; it is cheap, and lamps and windows pass by
            faster than a second.
        blurred_below: A frame with a smaller Laplacian variance is blurred (collection guide, step 2: 100).
        working_short_side_px: Short side at which sharpness is measured a second time, comparable across
            resolutions.
        focal_share: Focal length over the picture's longer side, by which turns of the picture become angles.
    """

    blur_every: int = 30
    exposure_every: int = 5
    blurred_below: float = 100.0
    working_short_side_px: int = WORKING_SHORT_SIDE_PX
    focal_share: float = ASSUMED_FOCAL_SHARE

    def __post_init__(self) -> None:
        for name in ("blur_every", "exposure_every", "working_short_side_px"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not self.blurred_below > 0:
            raise ValueError(f"blurred_below: expected more than 0, got {self.blurred_below}")
        if not FOCAL_SHARES[0] <= self.focal_share <= FOCAL_SHARES[1]:
            raise ValueError(
                f"focal_share: expected {FOCAL_SHARES[0]:g} to {FOCAL_SHARES[1]:g}, got {self.focal_share}"
            )


def _check_columns(samples: BlurSamples | ExposureSamples, integer_columns: tuple[str, ...]) -> None:
    """Make all columns read-only arrays of one length and the right type."""
    length = np.shape(samples.frame_index)
    for column in fields(samples):
        dtype = np.int64 if column.name in integer_columns else np.float64
        values = np.asarray(getattr(samples, column.name), dtype=dtype)
        if values.ndim != 1 or values.shape != length:
            raise ValueError(f"{column.name}: expected shape {list(length)}, got {list(values.shape)}")
        object.__setattr__(samples, column.name, read_only(values))


@dataclass(frozen=True, eq=False, kw_only=True)
class BlurSamples:
    """Sharpness of the sampled frames, one entry per frame.

    Attributes:
        frame_index: ``int64 [N]``, decoded order.
        timestamps_ns: ``int64 [N]``, presentation time in nanoseconds.
        native: ``float64 [N]``, Laplacian variance at the coded resolution, in full-range luma.
        working_scale: ``float64 [N]``, the same at the fixed working scale.
    """

    frame_index: IntArray
    timestamps_ns: IntArray
    native: FloatArray
    working_scale: FloatArray

    def __post_init__(self) -> None:
        _check_columns(self, ("frame_index", "timestamps_ns"))


@dataclass(frozen=True, eq=False, kw_only=True)
class ExposureSamples:
    """Exposure of the sampled frames, one entry per frame; see :mod:`ego_assets.quality.exposure`.

    Attributes:
        frame_index: ``int64 [N]``, decoded order.
        timestamps_ns: ``int64 [N]``, presentation time in nanoseconds.
        mean_luma: ``float64 [N]``, 0-255, full range.
        clipped_share: ``float64 [N]``, 0-1.
        bright_share: ``float64 [N]``, 0-1.
        dark_share: ``float64 [N]``, 0-1.
    """

    frame_index: IntArray
    timestamps_ns: IntArray
    mean_luma: FloatArray
    clipped_share: FloatArray
    bright_share: FloatArray
    dark_share: FloatArray

    def __post_init__(self) -> None:
        _check_columns(self, ("frame_index", "timestamps_ns"))

    @property
    def over_exposed(self) -> npt.NDArray[np.bool_]:
        """``bool [N]``, which sampled frames are over-exposed."""
        return (self.clipped_share > CLIPPED_SHARE_LIMIT) | (self.bright_share > BRIGHT_SHARE_LIMIT)

    @property
    def under_exposed(self) -> npt.NDArray[np.bool_]:
        """``bool [N]``, which sampled frames are under-exposed."""
        return self.dark_share > DARK_SHARE_LIMIT


@dataclass(frozen=True, eq=False, kw_only=True)
class QualityReport:
    """Technical quality of one clip, in numbers.

    Attributes:
        container: Container format.
        codec: Video codec.
        width: Width of the upright picture in pixels.
        height: Height of the upright picture in pixels.
        decoded_frame_count: Frames that could be decoded.
        listed_frame_count: Frames for which the container has a time stamp.
        expected_frame_count: Frames there should be: duration times rate, see
            :mod:`ego_assets.quality.completeness`.
        gap_frame_count: Frames that gaps between the time stamps show to be missing.
        duplicate_count: Frames whose time stamp equals that of the frame before.
        stepped_back_count: Frames that were moved in time because the file's clock steps back.
        decode_errors: Errors the decoder reported.
        declared_duration_s: Duration as declared, or ``None`` where absent or unusable.
        duration_s: Duration by the time stamps.
        declared_rate_hz: Frame rate as declared.
        rate_hz: Frame rate measured from the time stamps, gaps filled.
        variable_rate: Whether the time between frames varies.
        blur: Sharpness of the sampled frames.
        exposure: Exposure of the sampled frames.
        config: What was sampled and how frames were judged.
        view: What every second shows and how it moves; empty in reports of format 1.
        tiles: How much detail every part of the picture shows; empty in reports of format 1.
        format: Version of this report's format.
    """

    container: str
    codec: str
    width: int
    height: int
    decoded_frame_count: int
    listed_frame_count: int
    expected_frame_count: int
    gap_frame_count: int
    duplicate_count: int
    stepped_back_count: int = 0
    decode_errors: int
    declared_duration_s: float | None
    duration_s: float
    declared_rate_hz: float
    rate_hz: float
    variable_rate: bool
    blur: BlurSamples
    exposure: ExposureSamples
    config: QualityConfig
    view: ViewSamples = field(default_factory=ViewSamples.empty)
    tiles: TileDetail = field(default_factory=TileDetail.empty)
    format: int = REPORT_FORMAT

    @property
    def missing_share(self) -> float:
        """Share of the expected frames that could not be decoded, 0-1."""
        if self.expected_frame_count <= 0:
            return 1.0 if self.decoded_frame_count == 0 else 0.0
        return max(0, self.expected_frame_count - self.decoded_frame_count) / self.expected_frame_count

    @property
    def blurred_share(self) -> float | None:
        """Share of sampled frames that are blurred at native scale; ``None`` without samples."""
        return _share(self.blur.native < self.config.blurred_below)

    @property
    def blurred_share_working_scale(self) -> float | None:
        """Share of sampled frames that are blurred at the working scale; ``None`` without samples."""
        return _share(self.blur.working_scale < self.config.blurred_below)

    @property
    def over_exposed_share(self) -> float | None:
        """Share of sampled frames that are over-exposed; ``None`` without samples."""
        return _share(self.exposure.over_exposed)

    @property
    def under_exposed_share(self) -> float | None:
        """Share of sampled frames that are under-exposed; ``None`` without samples."""
        return _share(self.exposure.under_exposed)

    @property
    def badly_exposed_share(self) -> float | None:
        """Share of sampled frames that are over- or under-exposed; ``None`` without samples."""
        return _share(self.exposure.over_exposed | self.exposure.under_exposed)

    def to_json(self) -> str:
        """The report as stored: its fields, and the shares under ``summary``; sorted keys."""
        return json.dumps({**_plain(self), "summary": self.summary()}, indent=1, sort_keys=True) + "\n"

    def summary(self) -> dict[str, float | int | None]:
        """The numbers that describe the clip as a whole."""
        return {
            "decoded_frame_count": self.decoded_frame_count,
            "expected_frame_count": self.expected_frame_count,
            "missing_share": self.missing_share,
            "blurred_share": self.blurred_share,
            "blurred_share_working_scale": self.blurred_share_working_scale,
            "blur_median": _median(self.blur.native),
            "blur_median_working_scale": _median(self.blur.working_scale),
            "over_exposed_share": self.over_exposed_share,
            "under_exposed_share": self.under_exposed_share,
            "median_luma": _median(self.exposure.mean_luma),
            "shake_median": _median(self.view.shake[np.isfinite(self.view.shake)]),
            "still_s": int(self.view.still.sum()),
            "covered_s": int(self.view.covered.sum()),
        }

    @classmethod
    def from_json(cls, text: str) -> QualityReport:
        """Read a stored report.

        Raises:
            ValueError: The text is no report, or was written by a newer version.
        """
        raw: dict[str, Any] = json.loads(text)
        if raw.get("format", 0) > REPORT_FORMAT:
            raise ValueError(
                f"quality report has format {raw['format']}, this version reads up to {REPORT_FORMAT}: "
                "upgrade ego_assets"
            )
        raw.pop("summary", None)
        raw["blur"] = BlurSamples(**_arrays(raw["blur"]))
        raw["exposure"] = ExposureSamples(**_arrays(raw["exposure"]))
        raw["config"] = QualityConfig(**raw["config"])
        raw["format"] = REPORT_FORMAT
        if "view" in raw:
            raw["view"] = ViewSamples(**_arrays(raw["view"]))
            raw["tiles"] = TileDetail(**raw["tiles"])
        return cls(**raw)


class QualityAssessor:
    """Assesses a clip frame by frame; does work only on the sampled frames and keeps no pixels.

    Call :meth:`add` for every decoded frame, in order, then :meth:`finish` once.

    Args:
        timeline: Time stamps the container lists.
        probe: The container's declarations.
        config: Sampling and thresholds per frame.
        full_range: Whether luma spans 0-255 rather than 16-235; by default found from the probe, and from the
            pixel format (``yuvj...``, gray and RGB span 0-255).
    """

    def __init__(
        self,
        timeline: Timeline,
        probe: MediaProbe,
        config: QualityConfig | None = None,
        *,
        full_range: bool | None = None,
    ) -> None:
        self._timeline = timeline
        self._probe = probe
        self._config = config or QualityConfig()
        if full_range is None:
            full_range = probe.full_range or is_full_range(probe.pixel_format)
        self._full_range = full_range
        self._blur_step = sampling_step(timeline.frame_count, self._config.blur_every)
        self._exposure_step = sampling_step(timeline.frame_count, self._config.exposure_every)
        self._decoded = 0
        self._last_index = -1
        self._blur_at = (array("q"), array("q"))
        self._native, self._working = array("d"), array("d")
        gain, black = (1.0, 0) if self._full_range else (LIMITED_RANGE_GAIN, LIMITED_BLACK)
        self._view = ViewMeter(
            rotation_deg=probe.rotation_deg,
            gain=gain,
            black=black,
            working_short_side_px=self._config.working_short_side_px,
        )
        self._exposure_at = (array("q"), array("q"))
        self._mean, self._clipped, self._bright, self._dark = (array("d") for _ in range(4))

    def wants(self, index: int, timestamp_ns: int) -> bool:
        """Whether :meth:`add` will look at the pixels of a frame, for callers that can avoid getting them."""
        return (
            index % self._blur_step == 0
            or index % self._exposure_step == 0
            or self._decoded == 0
            or self._view.due(timestamp_ns)
        )

    def add(self, index: int, timestamp_ns: int, luma: npt.NDArray[np.uint8] | None) -> None:
        """Take in one decoded frame.

        Args:
            index: Position in decoded order; ascending, gaps are allowed.
            timestamp_ns: Presentation time in nanoseconds.
            luma: ``uint8 [height, width]`` in the coded range; not kept. ``None`` is enough for a frame that is not
                wanted, see :meth:`wants`.

        Raises:
            ValueError: ``index`` does not ascend, ``luma`` is not an 8-bit plane or missing though wanted.
        """
        if index <= self._last_index:
            raise ValueError(f"index: expected more than {self._last_index}, got {index}")
        wanted = self.wants(index, timestamp_ns)
        first = self._decoded == 0
        self._last_index = index
        self._decoded += 1
        if not wanted:
            return
        if luma is None:
            raise ValueError(f"luma: expected the pixels of frame {index}, which is sampled, got None")
        if first or index % self._blur_step == 0:
            self._add_blur(index, timestamp_ns, luma)
        if first or index % self._exposure_step == 0:
            self._add_exposure(index, timestamp_ns, luma)
        if self._view.due(timestamp_ns):
            self._view.add(timestamp_ns, luma)

    def finish(self, decode_errors: int) -> QualityReport:
        """The report on everything that was added.

        Args:
            decode_errors: Errors the decoder reported. Frames they cost are expected ones.
        """
        timeline, probe = self._timeline, self._probe
        expected = expect_frames(timeline, probe)
        return QualityReport(
            container=probe.container,
            codec=probe.codec,
            width=probe.width,
            height=probe.height,
            decoded_frame_count=self._decoded,
            listed_frame_count=timeline.frame_count,
            expected_frame_count=max(
                expected.expected_frame_count, self._decoded + decode_errors if decode_errors else 0
            ),
            gap_frame_count=expected.gap_frame_count,
            duplicate_count=timeline.duplicate_count,
            stepped_back_count=timeline.stepped_back_count,
            decode_errors=decode_errors,
            declared_duration_s=usable_duration_s(probe.declared_duration_s),
            duration_s=timeline.duration_s,
            declared_rate_hz=float(probe.frame_rate),
            rate_hz=expected.rate_hz,
            variable_rate=timeline.is_variable,
            blur=BlurSamples(
                frame_index=_ints(self._blur_at[0]),
                timestamps_ns=_ints(self._blur_at[1]),
                native=_floats(self._native),
                working_scale=_floats(self._working),
            ),
            exposure=ExposureSamples(
                frame_index=_ints(self._exposure_at[0]),
                timestamps_ns=_ints(self._exposure_at[1]),
                mean_luma=_floats(self._mean),
                clipped_share=_floats(self._clipped),
                bright_share=_floats(self._bright),
                dark_share=_floats(self._dark),
            ),
            config=self._config,
            view=self._view.samples(timeline.duration_s),
            tiles=self._view.tile_detail(),
        )

    def _add_blur(self, index: int, timestamp_ns: int, luma: npt.NDArray[np.uint8]) -> None:
        # The guide's threshold refers to full-range gray; the variance grows with the square of the range.
        gain = 1.0 if self._full_range else LIMITED_RANGE_GAIN**2
        reduced = reduce_to_short_side(luma, self._config.working_short_side_px)
        native = gain * laplacian_variance(luma)
        self._blur_at[0].append(index)
        self._blur_at[1].append(timestamp_ns)
        self._native.append(native)
        self._working.append(native if reduced is luma else gain * laplacian_variance(reduced))

    def _add_exposure(self, index: int, timestamp_ns: int, luma: npt.NDArray[np.uint8]) -> None:
        exposure = measure_exposure(luma, full_range=self._full_range)
        self._exposure_at[0].append(index)
        self._exposure_at[1].append(timestamp_ns)
        self._mean.append(exposure.mean_luma)
        self._clipped.append(exposure.clipped_share)
        self._bright.append(exposure.bright_share)
        self._dark.append(exposure.dark_share)


def sampling_step(frame_count: int, every: int) -> int:
    """Step between sampled frames: ``every``, or less where that leaves fewer than :data:`MIN_SAMPLES`.

    The step divides ``every``, so the frames that the full step would sample are always among the samples.
    """
    divisors = [step for step in range(every, 0, -1) if every % step == 0]
    return next((step for step in divisors if -(-frame_count // step) >= MIN_SAMPLES), 1)


def is_full_range(pixel_format: str) -> bool:
    """Whether luma in this pixel format spans 0-255; planar YUV without ``j`` is taken to span 16-235."""
    return not pixel_format.startswith(("yuv4", "yuva", "nv", "p0", "p2", "p4", "yuyv", "uyvy"))


def _share(bad: npt.NDArray[np.bool_]) -> float | None:
    return float(bad.mean()) if bad.size else None


def _median(values: FloatArray) -> float | None:
    return float(np.median(values)) if values.size else None


def _ints(values: array[int]) -> IntArray:
    return np.array(values, dtype=np.int64)


def _floats(values: array[float]) -> FloatArray:
    """The values with six significant digits, so that a stored report equals the one in memory."""
    return np.array([float(f"{value:.6g}") for value in values], dtype=np.float64)


def _arrays(columns: Mapping[str, list[float | None]]) -> dict[str, Any]:
    return {
        name: np.array([float("nan") if value is None else value for value in values])
        for name, values in columns.items()
    }


def _nullable(values: FloatArray | IntArray) -> list[float | None]:
    """The values with ``None`` for what is not known: JSON has no NaN."""
    return [value if value == value else None for value in values.tolist()]


def _plain(report: QualityReport) -> dict[str, Any]:
    """The report's fields as JSON values."""
    plain: dict[str, Any] = {}
    for column in fields(report):
        value = getattr(report, column.name)
        if isinstance(value, BlurSamples | ExposureSamples):
            plain[column.name] = {c.name: getattr(value, c.name).tolist() for c in fields(value)}
        elif isinstance(value, ViewSamples):
            plain[column.name] = {c.name: _nullable(getattr(value, c.name)) for c in fields(value)}
        elif isinstance(value, TileDetail):
            plain[column.name] = {
                **{c.name: getattr(value, c.name) for c in fields(value)},
                "detail": value.detail.tolist(),
                "brightest": value.brightest.tolist(),
            }
        elif isinstance(value, QualityConfig):
            plain[column.name] = asdict(value)
        else:
            plain[column.name] = value
    return plain
