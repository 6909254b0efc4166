"""Embeddings of pictures and texts from models of OpenCLIP: CLIP, SigLIP, MobileCLIP."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from ego_assets.schema.detections import BackendInfo, BgrImage
from ego_assets.schema.embeddings import EMBEDDING_DIMENSIONS
from ego_assets.schema.errors import BackendUnavailable
from resources.models.backends import BACKENDS
from resources.models.boxes import positions_by_size
from resources.models.images import check_image
from resources.models.registry import CLIP_VIT_L_14, MOBILECLIP_S2, OWN_LICENCE, SIGLIP_B_16, ModelCard
from resources.models.setting_checks import Compile, Precision
from resources.models.torch_runtime import Batches, shared_network
from resources.models.weights import card_digest, located_folder

_TASK, _BACKEND = "embeddings", "open_clip"
_CONFIG = "open_clip_config.json"
_TOKENIZER = "tokenizer.json"
#: Digits of the weights' digest in the name of a space.
_SPACE_DIGITS = 12
#: Before a picture is scaled by its shorter side, longer ones are cut to this many of it: only the middle is looked at
#: anyway, and a strip of one pixel would be blown up to gigabytes.
_LARGEST_ASPECT = 16
_RESIZE_MODES = ("shortest", "longest", "squash")


@dataclass(frozen=True, kw_only=True)
class _Trained:
    """How published weights were trained, of what a configuration can silently say otherwise."""

    quick_gelu: bool
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


#: Means and deviations of the pictures that CLIP was trained with: RGB, on values of 0-1.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_DEVIATION = (0.26862954, 0.26130258, 0.27577711)

_TRAINED_WITH: Mapping[str, _Trained] = MappingProxyType(
    {
        CLIP_VIT_L_14.key: _Trained(quick_gelu=True, mean=CLIP_MEAN, deviation=CLIP_DEVIATION),
        SIGLIP_B_16.key: _Trained(quick_gelu=False, mean=(0.5, 0.5, 0.5), deviation=(0.5, 0.5, 0.5)),
        MOBILECLIP_S2.key: _Trained(quick_gelu=False, mean=(0.0, 0.0, 0.0), deviation=(1.0, 1.0, 1.0)),
    }
)


class OpenClipEmbedder:
    """Contrastive models of pictures and texts, loaded by ``open_clip`` from a folder in its layout.

    CLIP (Radford et al., 2021), SigLIP (Zhai et al., 2023), MobileCLIP (Vasu et al., 2024) and their like. Vectors are
    of unit length. Those of fewer than 768 numbers are filled up with zeros, which changes no cosine. Pictures are
    prepared as the model's configuration says, on the device.

    Args:
        models_dir: Folder of the weights.
        checkpoint: ``vit_l_14``, ``siglip_b_16``, ``mobileclip_s2`` or ``own``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto`` is bfloat16 on a GPU from compute capability 8.0 on, else float32.
        compile: Whether ``torch.compile`` prepares the network; ``auto`` does on a GPU.
        batch_size: Most pictures, or texts, in a call; 0 chooses by the memory.
        licence: Licence of weights of your own.
        licence_permits_commercial_use: Whether that licence permits commercial use; the profile asks.

    Raises:
        BackendUnavailable: The weights are missing, others or of another kind, or the device is not there.
        ValueError: A setting has a wrong value, or the model gives more than 768 numbers.
    """

    def __init__(
        self,
        *,
        models_dir: Path | None = None,
        checkpoint: str = "vit_l_14",
        device: str = "auto",
        precision: Precision = "auto",
        compile: Compile = "auto",
        batch_size: int = 0,
        licence: str = OWN_LICENCE,
        licence_permits_commercial_use: bool = False,
    ) -> None:
        spec = BACKENDS[_TASK][_BACKEND]
        spec.check_arguments(locals())
        (card,) = spec.models_for({"checkpoint": checkpoint})
        folder = located_folder(card, models_dir)
        self._card = card
        self._digest = card_digest(card, models_dir)
        self._licence = card.licence_stated(licence)
        config = _model_config(card, folder)
        self._dimensions = config["embed_dim"]
        self._tokenizer = _tokenizer(card, folder, config)
        # Fast tokenizers keep the length of the padding in themselves.
        self._tokenizer_lock = threading.Lock()
        self._held = shared_network(
            card,
            folder,
            self._digest,
            lambda hold: hold(_network(card, folder)),
            device=device,
            precision=precision,
            compile=compile,
        )
        self._preparation = _Preparation(self._held.network.visual.preprocess_cfg)
        self._image_batches, self._text_batches = (
            Batches(batch_size, device=self._held.device, is_compiled=self._held.is_compiled)
            for _ in range(2)
        )

    @property
    def info(self) -> BackendInfo:
        """What runs."""
        return BackendInfo(
            task=_TASK,
            backend=_BACKEND,
            model=self._card.name,
            weights_sha256=self._digest,
            licence=self._licence,
        )

    @property
    def space(self) -> str:
        """The checkpoint and the first digits of its digest: vectors of other weights are never compared."""
        return f"{self._card.key}-{self._digest[:_SPACE_DIGITS]}"

    @property
    def embeds_text(self) -> bool:
        """Always."""
        return True

    def embed_images(self, images: Sequence[BgrImage]) -> npt.NDArray[np.float32]:
        """``float32 [N, 768]``, one unit vector per picture.

        Raises:
            ValueError: A picture is not ``uint8 [height, width, 3]`` with at least one pixel.
            DeviceMemoryExhausted: A single picture does not fit into the memory.
        """
        for image in images:
            check_image(image)
        return self._stacked(self._image_batches.run(images, self._image_batch))

    def embed_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """``float32 [N, 768]``, one unit vector per text; of a text that is too long for the model, its beginning.

        Raises:
            DeviceMemoryExhausted: A single text does not fit into the memory.
        """
        return self._stacked(self._text_batches.run(texts, self._text_batch))

    def _image_batch(self, images: Sequence[BgrImage]) -> list[npt.NDArray[np.float32]]:
        with self._held.in_use() as network:
            pictures = self._preparation(images, device=self._held.device, dtype=self._held.dtype)
            return self._unit_vectors(network(image=pictures)[0])

    def _text_batch(self, texts: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        with self._tokenizer_lock:
            tokens = self._tokenizer(list(texts))
        with self._held.in_use() as network:
            return self._unit_vectors(network(text=tokens.to(self._held.device))[1])

    def _unit_vectors(self, features: Any) -> list[npt.NDArray[np.float32]]:
        """``float32 [768]`` of unit length each from what a tower gives: bfloat16 leaves lengths a little off."""
        found = features.float().cpu().numpy().astype(np.float64)
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        vectors = np.zeros((len(found), EMBEDDING_DIMENSIONS), np.float32)
        # A vector without a direction, or of no numbers, stays what it is: the gate of the layer refuses it.
        vectors[:, : self._dimensions] = np.divide(found, lengths, out=found, where=lengths > 0)
        return list(vectors)

    @staticmethod
    def _stacked(vectors: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        return np.array(vectors, np.float32).reshape(len(vectors), EMBEDDING_DIMENSIONS)


class _Preparation:
    """Pictures as the model takes them, by the configuration of its preprocessing, on the device.

    Args:
        config: ``size``, ``mean``, ``std``, ``interpolation``, ``resize_mode`` and ``fill_color`` of ``open_clip``.

    Raises:
        ValueError: The configuration asks for something unknown.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        from torchvision.transforms import InterpolationMode  # type: ignore[import-not-found,unused-ignore]

        size = config["size"]
        self._size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        self._mode = config["resize_mode"]
        if self._mode not in _RESIZE_MODES:
            raise ValueError(f"resize_mode: expected one of {', '.join(_RESIZE_MODES)}, got {self._mode!r}")
        self._interpolation = (
            InterpolationMode.BILINEAR if config["interpolation"] == "bilinear" else InterpolationMode.BICUBIC
        )
        self._fill = config["fill_color"]
        self._mean, self._deviation = config["mean"], config["std"]

    def __call__(self, images: Sequence[BgrImage], *, device: Any, dtype: Any) -> Any:
        """``[N, 3, height, width]`` of ``dtype`` on the device, RGB, normalised."""
        import torch  # type: ignore[import-not-found,unused-ignore]

        prepared = torch.empty((len(images), 3, *self._size), dtype=torch.uint8, device=device)
        # Pictures of equal size travel and shrink together.
        for positions in positions_by_size([image.shape for image in images]):
            pixels = torch.from_numpy(np.stack([images[position] for position in positions])).to(device)
            prepared[positions] = self._fitted(pixels.permute(0, 3, 1, 2).flip(1))
        scale = torch.tensor(self._deviation, device=device).view(1, 3, 1, 1) * 255
        offset = torch.tensor(self._mean, device=device).view(1, 3, 1, 1) * 255
        return ((prepared.float() - offset) / scale).to(dtype)

    def _fitted(self, pixels: Any) -> Any:
        """``uint8 [N, 3, H, W]`` at the model's size."""
        from torchvision.transforms.v2.functional import (  # type: ignore[import-not-found,unused-ignore]
            center_crop,
            pad,
            resize,
        )

        height, width = pixels.shape[-2:]
        rows, columns = self._size
        if self._mode == "squash":
            target = [rows, columns]
        elif self._mode == "shortest":
            if max(height, width) > _LARGEST_ASPECT * min(height, width):
                limit = _LARGEST_ASPECT * min(height, width)
                pixels = center_crop(pixels, [min(height, limit), min(width, limit)])
                height, width = pixels.shape[-2:]
            if rows == columns:
                shorter = min(height, width)
                target = [max(rows, rows * height // shorter), max(columns, columns * width // shorter)]
            else:
                ratio = min(height / rows, width / columns)
                target = [max(rows, round(height / ratio)), max(columns, round(width / ratio))]
        else:
            ratio = max(height / rows, width / columns)
            target = [max(1, round(height / ratio)), max(1, round(width / ratio))]
        resized = resize(pixels, target, interpolation=self._interpolation, antialias=True)
        missing = max(0, rows - target[0]), max(0, columns - target[1])
        if any(missing):
            top, left = missing[0] // 2, missing[1] // 2
            resized = pad(
                resized, [left, top, missing[1] - left, missing[0] - top], fill=[float(self._fill)] * 3
            )
        return center_crop(resized, [rows, columns])


def _model_config(card: ModelCard, folder: Path) -> dict[str, Any]:
    """The model's part of the configuration, once it is one that can be loaded without a network.

    Raises:
        BackendUnavailable: It is another kind of model, or parts of it lie elsewhere.
        ValueError: It gives more numbers than a vector has.
    """
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))["model_cfg"]
        dimensions, text, vision = config["embed_dim"], config["text_cfg"], config["vision_cfg"]
        text_model, custom = text.get("hf_model_name"), text.get("tokenizer_kwargs", {})
        if not isinstance(dimensions, int) or not isinstance(vision, dict):
            raise ValueError("embed_dim: expected a whole number; vision_cfg: a mapping")
        remote = bool(custom.get("trust_remote_code"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackendUnavailable(
            f"{card.name}: {folder / _CONFIG} is no configuration of OpenCLIP ({type(error).__name__}: {error}): it "
            "needs model_cfg with embed_dim, vision_cfg and text_cfg, as open_clip's push_to_hf_hub writes it."
        ) from error
    if text_model or "multimodal_cfg" in config or remote:
        raise BackendUnavailable(
            f"{card.name}: {folder / _CONFIG} asks for a text tower from elsewhere, a captioning head or foreign code. "
            "Use a model whose two towers OpenCLIP builds itself."
        )
    if not 1 <= dimensions <= EMBEDDING_DIMENSIONS:
        raise ValueError(
            f"{card.name} gives vectors of {dimensions} numbers, expected at most {EMBEDDING_DIMENSIONS}: all "
            "embeddings of the platform have that length. Use a model of that size."
        )
    return dict(config)


def _tokenizer(card: ModelCard, folder: Path, config: dict[str, Any]) -> Any:
    """CLIP's own tokenizer, which ships with the package, or the one in the folder, where the model has another."""
    import open_clip  # type: ignore[import-not-found,unused-ignore]

    if not config["text_cfg"].get("hf_tokenizer_name"):
        return open_clip.get_tokenizer(f"local-dir:{folder}")
    if not (folder / _TOKENIZER).is_file():
        raise BackendUnavailable(
            f"{card.name}: its texts need the tokenizer of {config['text_cfg']['hf_tokenizer_name']}, but there is no "
            f"{folder / _TOKENIZER}. Put its tokenizer.json, tokenizer_config.json and special_tokens_map.json there."
        )
    try:
        return open_clip.get_tokenizer(f"local-dir:{folder}", local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise BackendUnavailable(f"{card.name}: {folder} holds no tokenizer: {error}") from error


def _network(card: ModelCard, folder: Path) -> Any:
    import open_clip  # type: ignore[import-not-found,unused-ignore]

    try:
        network = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True)
    except Exception as error:
        problem = " ".join(str(error).split())[:300]
        raise BackendUnavailable(
            f"{card.name}: {folder} cannot be loaded: {problem}. {_CONFIG} and the weights have to be of one model."
        ) from error
    _require_as_trained(card, folder, network)
    return network.eval()


def _require_as_trained(card: ModelCard, folder: Path, network: Any) -> None:
    """Refuse published weights in a network that works or sees colours otherwise than the one they were trained in.

    Nothing else would tell: the vectors would only be worse.
    """
    import open_clip  # type: ignore[import-not-found,unused-ignore]

    trained = _TRAINED_WITH.get(card.key)
    if trained is None:
        return
    is_quick = any(isinstance(module, open_clip.transformer.QuickGELU) for module in network.modules())
    seen = network.visual.preprocess_cfg
    for name, found, expected in (
        ("quick_gelu", [is_quick], [trained.quick_gelu]),
        ("mean", seen["mean"], trained.mean),
        ("std", seen["std"], trained.deviation),
    ):
        if not np.allclose(found, expected, atol=1e-3):
            raise BackendUnavailable(
                f"{card.name}: {folder / _CONFIG} says {name}: {found}, but the weights were trained with {expected}. "
                f"Get it again with `ego-assets models pull {card.key}`."
            )
