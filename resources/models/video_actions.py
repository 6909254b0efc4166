"""Activities by networks that look at short windows of video, on PyTorch.

:class:`VideoWindowRecognizer` holds what all of them share: windows that slide over the clip, batches, the map from the
network's classes to ours, smoothing. A network with another input, such as SlowFast with its two pathways, needs only
its own :meth:`VideoWindowRecognizer._logits`.
"""

from __future__ import annotations

import json
import logging
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ego_assets.schema.detections import BackendInfo, BgrImage
from ego_assets.schema.errors import BackendUnavailable
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.hands import HandObjectTracks
from ego_assets.schema.motion import CameraMotion
from ego_assets.schema.timeline import NANOSECONDS
from resources.models.backends import BACKENDS
from resources.models.images import check_image
from resources.models.label_maps import LabelMap, load_label_map
from resources.models.registry import OWN_LICENCE, ModelCard
from resources.models.setting_checks import Compile, Precision, number
from resources.models.torch_runtime import Batches, HeldNetwork, shared_network
from resources.models.torch_weights import load_pretrained
from resources.models.weights import card_digest, located_folder

Scores = npt.NDArray[np.float32]

#: Label map that ``auto`` takes for a checkpoint.
_AUTO_MAPS = {"kinetics": "ego4d", "own": "identity"}

#: Pillow's number of the filter that pictures are resized with.
_BILINEAR = 2

#: Seconds that the 16 frames cover which VideoMAE was trained on: every fourth of 30 in a second.
WINDOW_S = 2.133

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WindowInput:
    """What a network takes for one window.

    Attributes:
        frames: Number of frames, evenly spaced over the window.
        shorter_side: What the shorter side is resized to, in pixels.
        crop: Height and width that are cut out of the middle, in pixels.
        mean: Mean of the three channels, RGB, on values of 0-1.
        deviation: Their deviation.
    """

    frames: int
    shorter_side: int
    crop: tuple[int, int]
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"frames: expected 1 or more, got {self.frames}")
        if min(self.crop) < 1 or self.shorter_side < 1:
            raise ValueError(
                f"expected sides of 1 pixel or more, got {self.shorter_side} and a crop of {self.crop}"
            )
        if len(self.mean) != 3 or len(self.deviation) != 3 or min(self.deviation) <= 0:
            raise ValueError(
                f"expected mean and deviation of three channels, got {self.mean} and {self.deviation}"
            )


class VideoWindowRecognizer:
    """Scores windows of a clip with a network. Implements :class:`ego_assets.schema.actions.ActionRecognizer`.

    Args:
        held: The network, which gives ``[N, K]`` logits for ``[N, frames, 3, height, width]``; see :meth:`_logits`.
        window: What it takes.
        classes: Its K classes.
        label_map: Activities that are made of them; ``None`` where the classes are the activities.
        info: What runs.
        window_s: Seconds that a window covers.
        smoothing_s: Steps within half of this around a step are averaged into it, less the further away; 0 leaves
            every step as it is.
        batch_size: Most windows in one call; 0 chooses by the memory that the first window took.

    Raises:
        ValueError: A setting has a wrong value, or the label map does not fit the classes.
    """

    def __init__(
        self,
        *,
        held: HeldNetwork,
        window: WindowInput,
        classes: Sequence[str],
        label_map: LabelMap | None,
        info: BackendInfo,
        window_s: float,
        smoothing_s: float,
        batch_size: int,
    ) -> None:
        number(above=0)("window_s", window_s)
        number(least=0)("smoothing_s", smoothing_s)
        if len(set(classes)) != len(classes) or not classes:
            raise ValueError(f"classes: expected different names, got {list(classes)[:10]}")
        self._held = held
        self._window = window
        self._info = info
        self._window_s = float(window_s)
        self._smoothing_s = float(smoothing_s)
        self._labels = tuple(classes) if label_map is None else label_map.labels
        self._mapping = None if label_map is None else label_map.matrix(classes)
        self._class_count = len(classes)
        self._batches = Batches(batch_size, device=held.device, is_compiled=held.is_compiled)

    @property
    def info(self) -> BackendInfo:
        """What runs."""
        return self._info

    @property
    def labels(self) -> tuple[str, ...]:
        """The activities it knows, in the order of the scores; with a label map ``other`` is the last."""
        return self._labels

    @property
    def frames_per_second(self) -> float | None:
        """Rate at which it wants frames: so many that every frame of a window is another one."""
        return self._window.frames / self._window_s

    def score(
        self,
        times_ns: npt.NDArray[np.int64],
        *,
        frames: Iterable[ClipFrame],
        hands: HandObjectTracks | None,
        motion: CameraMotion,
        timestamps_ns: npt.NDArray[np.int64],
        resolution: tuple[int, int],
    ) -> Scores:
        """``float32 [T, L]``, the probability of every label at every time; rows sum to 1.

        A window lies around each time; beyond the ends of the clip its first or last frame is repeated. Memory does
        not grow with the clip: frames are kept small, and only as long as a window needs them.

        Args:
            times_ns: ``int64 [T]``, centres of the steps, ascending.
            frames: Frames of the clip, ascending in time; taken as they are needed.
            hands: Not looked at: the network sees them.
            motion: Not looked at.
            timestamps_ns: Not looked at.
            resolution: Not looked at.

        Raises:
            ValueError: There are times but no frames, or the network gives something that is no probability.
            DeviceMemoryExhausted: A single window does not fit.
        """
        if not times_ns.size:
            return np.zeros((0, len(self._labels)), np.float32)
        rows = list(self._batches.stream(self._windows(times_ns, frames), self._probabilities))
        scores = smoothed(np.stack(rows), times_ns, width_s=self._smoothing_s)
        # Sums of float32 come out as 1.0000001.
        return np.minimum(scores, np.float32(1))

    def _logits(self, network: Any, windows: Any) -> Any:
        """``float [N, K]`` for windows as the network was trained on.

        Args:
            network: The network on its device, to be called.
            windows: ``[N, frames, 3, height, width]``, RGB, normalised, in the precision of the network.
        """
        return network(windows)

    def _windows(
        self, times_ns: npt.NDArray[np.int64], frames: Iterable[ClipFrame]
    ) -> Iterator[list[npt.NDArray[np.uint8]]]:
        """The pictures of each window; of every moment in it the nearest frame."""
        offsets = (np.arange(self._window.frames) + 0.5) / self._window.frames - 0.5
        offsets_ns = np.rint(offsets * self._window_s * NANOSECONDS).astype(np.int64)
        tolerance_ns = round(self._window_s / self._window.frames / 8 * NANOSECONDS)
        source = iter(frames)
        kept: deque[tuple[int, npt.NDArray[np.uint8]]] = deque()
        is_over = False
        for time_ns in times_ns.tolist():
            wanted = time_ns + offsets_ns
            while not is_over and (not kept or kept[-1][0] < wanted[-1]):
                frame = next(source, None)
                is_over = frame is None
                if frame is not None:
                    # Of frames before the window only the last can be the nearest.
                    while len(kept) > 1 and kept[1][0] <= wanted[0]:
                        kept.popleft()
                    kept.append((frame.timestamp_ns, self._small(frame.image)))
            if not kept:
                raise ValueError("frames: expected one or more, got none")
            stamps = np.array([stamp for stamp, _ in kept], np.int64)
            pictures = [picture for _, picture in kept]
            yield [pictures[place] for place in _nearest(stamps, wanted, tolerance_ns=tolerance_ns)]

    def _small(self, image: BgrImage) -> npt.NDArray[np.uint8]:
        """``uint8 [3, height, width]``, BGR: resized and cut on the CPU, so that a fortieth of 1080p is uploaded."""
        import torch  # type: ignore[import-not-found,unused-ignore]
        from torch.nn import functional  # type: ignore[import-not-found,unused-ignore]

        check_image(image)
        height, width = image.shape[:2]
        # Rounded down, as the published processor does.
        size = [side * self._window.shorter_side // min(height, width) for side in (height, width)]
        picture = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
        # Averaged when it shrinks, as the libraries do that the networks were trained with.
        small = functional.interpolate(picture, size=size, mode="bilinear", antialias=True)[0].numpy()
        return _middle(small, self._window.crop)

    def _probabilities(self, windows: Sequence[list[npt.NDArray[np.uint8]]]) -> list[Scores]:
        import torch  # type: ignore[import-not-found,unused-ignore]

        device, dtype = self._held.device, self._held.dtype
        with self._held.in_use() as network:
            batch = torch.from_numpy(np.stack([np.stack(window) for window in windows])).to(device).flip(2)
            mean, deviation = (
                torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1)
                for values in (self._window.mean, self._window.deviation)
            )
            prepared = ((batch.float() / 255 - mean) / deviation).to(dtype)
            logits = self._logits(network, prepared)
            found = torch.softmax(logits.float(), dim=-1).cpu().numpy()
        if found.shape != (len(windows), self._class_count) or not np.isfinite(found).all():
            raise ValueError(
                f"{self._info.model}: expected finite probabilities [{len(windows)}, {self._class_count}], got "
                f"{list(found.shape)}"
            )
        return list(found if self._mapping is None else found @ self._mapping)


class VideoMAERecognizer(VideoWindowRecognizer):
    """VideoMAE (Tong et al., 2022) through ``transformers``.

    Args:
        models_dir: Folder of the weights.
        checkpoint: ``kinetics``, or ``own`` for one that you trained, in the folder ``own-actions``.
        label_map: Map from the network's classes to activities: the name of one that ships, the path of a YAML file,
            ``identity`` for classes that are the activities, or ``auto``: ``ego4d`` for ``kinetics``, ``identity`` for
            ``own``.
        window_s: Seconds that a window covers; as long as those of the training.
        smoothing_s: Steps within half of this around a step are averaged into it, less the further away; 0 leaves
            every step as it is.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: Arithmetic; ``auto`` is bfloat16 on a GPU from compute capability 8.0 on, else float32.
        compile: Whether ``torch.compile`` prepares it; ``auto`` does on a GPU.
        batch_size: Most windows in one call; 0 chooses by the memory that the first window took.
        licence: Licence of your own weights, for the records.
        licence_permits_commercial_use: Your statement that it does; a profile that demands ``commercial_use`` refuses
            your weights without it.

    Raises:
        BackendUnavailable: The weights are missing, damaged or others, or the device is not there.
        ValueError: A setting has a wrong value, or the label map does not fit the network's classes.
    """

    def __init__(
        self,
        *,
        models_dir: Path | None = None,
        checkpoint: str = "kinetics",
        label_map: str = "auto",
        window_s: float = WINDOW_S,
        smoothing_s: float = 3.0,
        device: str = "auto",
        precision: Precision = "auto",
        compile: Compile = "auto",
        batch_size: int = 0,
        licence: str = OWN_LICENCE,
        licence_permits_commercial_use: bool = False,
    ) -> None:
        spec = BACKENDS["actions"]["videomae"]
        spec.check_arguments(locals())
        (card,) = spec.models_for({"checkpoint": checkpoint})
        chosen = _AUTO_MAPS[checkpoint] if label_map == "auto" else label_map
        activities = None if chosen == "identity" else load_label_map(chosen)
        folder = located_folder(card, models_dir)
        digest = card_digest(card, models_dir)
        held = shared_network(
            card,
            folder,
            digest,
            lambda hold: hold(_network(card, folder)),
            device=device,
            precision=precision,
            compile=compile,
        )
        config = held.network.config
        names: Mapping[int, str] = config.id2label
        super().__init__(
            held=held,
            window=_window_input(folder, config),
            classes=[str(names[number]) for number in range(len(names))],
            label_map=activities,
            info=BackendInfo(
                task="actions",
                backend="videomae",
                model=card.name,
                weights_sha256=digest,
                licence=card.licence_stated(licence),
            ),
            window_s=window_s,
            smoothing_s=smoothing_s,
            batch_size=batch_size,
        )
        _log.info("%s: %d activities of label map %s", card.name, len(self.labels), chosen)

    def _logits(self, network: Any, windows: Any) -> Any:
        return network(pixel_values=windows).logits


def smoothed(scores: Scores, times_ns: npt.NDArray[np.int64], *, width_s: float) -> Scores:
    """Every row as the mean of those around it, whose weights fall to 0 at half of ``width_s``.

    Args:
        scores: ``float32 [T, L]``, rows that sum to 1.
        times_ns: ``int64 [T]``, ascending.
        width_s: Width of the triangle in seconds.
    """
    reach_ns = width_s / 2 * NANOSECONDS
    result = np.empty_like(scores)
    first = np.searchsorted(times_ns, times_ns - math.floor(reach_ns), side="left")
    last = np.searchsorted(times_ns, times_ns + math.floor(reach_ns), side="right")
    for row, (start, end) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        distance = np.abs(times_ns[start:end] - times_ns[row])
        weights = np.maximum(1 - distance / max(reach_ns, 1.0), 0.0)
        result[row] = weights @ scores[start:end] / weights.sum()
    return result


def _nearest(stamps: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64], *, tolerance_ns: int) -> list[int]:
    """Places of the nearest of the ascending ``stamps``; the earlier of two that are equally near, or nearly so.

    Without the tolerance, moments half way between frames would get the earlier or the later one as rounding falls.
    """
    if stamps.size == 1:
        return [0] * wanted.size
    after = np.clip(np.searchsorted(stamps, wanted), 1, stamps.size - 1)
    is_earlier = wanted - stamps[after - 1] <= stamps[after] - wanted + tolerance_ns
    return [int(place) for place in np.where(is_earlier, after - 1, after)]


def _middle(picture: npt.NDArray[np.uint8], crop: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The middle of ``[3, height, width]``, on black where the picture is smaller."""
    short = [max(0, wanted - side) for wanted, side in zip(crop, picture.shape[1:], strict=True)]
    if any(short):
        margins = [(0, 0), *((missing // 2, missing - missing // 2) for missing in short)]
        picture = np.pad(picture, margins)
    top, left = ((side - wanted) // 2 for wanted, side in zip(crop, picture.shape[1:], strict=True))
    return np.ascontiguousarray(picture[:, top : top + crop[0], left : left + crop[1]])


def _network(card: ModelCard, folder: Path) -> Any:
    import torch  # type: ignore[import-not-found,unused-ignore]
    from transformers import VideoMAEForVideoClassification  # type: ignore[import-not-found,unused-ignore]

    return load_pretrained(
        VideoMAEForVideoClassification,
        card,
        folder,
        dtype=torch.float32,
        own_advice="Pre-trained weights without a head know no activities: fine-tune them first.",
    )


def _require_known_steps(content: Mapping[str, Any]) -> None:
    """Refuse preprocessing of another kind than ours: nothing else would tell, the scores would only be worse.

    Raises:
        ValueError: A step is left out, or done otherwise.
    """
    for step in ("do_resize", "do_center_crop", "do_rescale", "do_normalize"):
        if content.get(step, True) is not True:
            raise ValueError(f"{step}: expected true, got {content[step]!r}")
    factor, filter_code = content.get("rescale_factor", 1 / 255), content.get("resample", _BILINEAR)
    if not math.isclose(factor, 1 / 255, rel_tol=1e-3):
        raise ValueError(f"rescale_factor: expected 1/255, got {factor!r}")
    if filter_code != _BILINEAR:
        raise ValueError(f"resample: expected {_BILINEAR} (bilinear), got {filter_code!r}")


def _window_input(folder: Path, config: Any) -> WindowInput:
    """What the checkpoint's own preprocessing says.

    Raises:
        BackendUnavailable: It cannot be understood.
    """
    path = folder / "preprocessor_config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        _require_known_steps(content)
        size = content["size"]
        shorter_side = int(size["shortest_edge"] if isinstance(size, dict) else size)
        # Files of earlier releases tell one number for both.
        crop = content.get("crop_size", shorter_side)
        window = WindowInput(
            frames=int(config.num_frames),
            shorter_side=shorter_side,
            crop=(int(crop["height"]), int(crop["width"]))
            if isinstance(crop, dict)
            else (int(crop), int(crop)),
            mean=tuple(map(float, content["image_mean"])),  # type: ignore[arg-type]
            deviation=tuple(map(float, content["image_std"])),  # type: ignore[arg-type]
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackendUnavailable(
            f"{path} cannot be understood ({error!r}). It is the file that VideoMAEImageProcessor.save_pretrained "
            "writes, with size, crop_size, image_mean and image_std."
        ) from error
    side = config.image_size
    expected = (int(side), int(side)) if isinstance(side, int) else (int(side[0]), int(side[1]))
    if window.crop != expected:
        raise BackendUnavailable(
            f"{path} cuts pictures to {window.crop}, but the network takes {expected}. Take both from one checkpoint."
        )
    return window
