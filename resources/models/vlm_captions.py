"""Captions from image-text models on this machine, through ``transformers``."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ego_assets.labels.captions import read_answer
from ego_assets.labels.prompts import DEFAULT_PROMPTS
from ego_assets.labels.scene_facts import describe
from ego_assets.media.resize import shrink
from ego_assets.schema.captions import CaptionAnswer, CaptionRequest, CaptionSource
from ego_assets.schema.detections import BackendInfo
from ego_assets.schema.errors import BackendUnavailable
from resources.models.backends import BACKENDS
from resources.models.images import check_image
from resources.models.registry import OWN_LICENCE, ModelCard
from resources.models.setting_checks import Precision
from resources.models.torch_runtime import Batches, HeldNetwork, Hold, shared_network
from resources.models.torch_weights import error_summary, load_pretrained
from resources.models.weights import joint_digest, located_folder, weights_digest

_TASK, _BACKEND = "captions", "transformers_vlm"
_PROMPTS = {prompt.name: prompt for prompt in DEFAULT_PROMPTS}
#: What of a folder says what a model does.
_TELLING_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model")
#: Fewest rows and columns of a picture that processors cut into tiles without failing.
_LEAST_SIDE_PX = 32
#: A picture this many times as long as it is wide is cut to its middle: no tiling of a model knows such strips.
_LARGEST_ASPECT = 8


class VisionLanguageCaptioner:
    """Image-text models of ``transformers`` that take a chat with a picture, such as LLaVA-OneVision (Li et al., 2024).

    They are asked with the prompts that endpoints are asked with. Answers are decoded greedily, and read by the rules
    for answers of endpoints. Attempts that differ in prompts share one model in memory.

    Args:
        models_dir: Folder of the weights.
        checkpoint: ``llava_onevision_7b``, ``llava_onevision_0_5b`` or ``own``.
        prompt: Name of a prompt of :data:`ego_assets.labels.prompts.DEFAULT_PROMPTS`: ``guide``, ``plain`` or
            ``with_facts``, which tells what the other layers found.
        max_new_tokens: Most tokens of an answer; an answer that is cut off there is refused.
        max_side: Longer side in pixels to which pictures are shrunk before the model cuts them into tiles.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto`` is bfloat16 on a GPU from compute capability 8.0 on, else float32. In float32 the answer
            to a picture does not depend on what else is in its batch.
        batch_size: Most pictures in a call; 0 chooses by the memory.
        licence: Licence of weights of your own.
        licence_permits_commercial_use: Whether that licence permits commercial use; the profile asks.

    Raises:
        BackendUnavailable: The weights are missing, others or of another kind, or the device is not there.
        ValueError: A setting has a wrong value.
    """

    def __init__(
        self,
        *,
        models_dir: Path | None = None,
        checkpoint: str = "llava_onevision_7b",
        prompt: str = "guide",
        max_new_tokens: int = 128,
        max_side: int = 768,
        device: str = "auto",
        precision: Precision = "auto",
        batch_size: int = 0,
        licence: str = OWN_LICENCE,
        licence_permits_commercial_use: bool = False,
    ) -> None:
        spec = BACKENDS[_TASK][_BACKEND]
        spec.check_arguments(locals())
        (card,) = spec.models_for({"checkpoint": checkpoint})
        self._card = card
        self._prompt = _PROMPTS[prompt]
        self._max_new_tokens = max_new_tokens
        self._max_side = max_side
        self._licence = card.licence_stated(licence)
        folder = located_folder(card, models_dir)
        self._digest = folder_digest(folder)
        self._model = shared_network(
            card,
            folder,
            self._digest,
            lambda hold: _load(card, folder, hold),
            device=device,
            precision=precision,
            compile="never",
        )
        self._batches = Batches(batch_size, device=self._model.held.device)

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
    def source(self) -> CaptionSource:
        """A model that looks at the pictures."""
        return "model"

    def caption(self, requests: Sequence[CaptionRequest]) -> list[CaptionAnswer]:
        """One answer per request, in order.

        Raises:
            ValueError: A picture is not ``uint8 [height, width, 3]`` with at least one pixel.
            DeviceMemoryExhausted: A single picture does not fit into the memory.
        """
        for request in requests:
            check_image(request.frame.image)
        return self._batches.run(requests, self._answers)

    def _answers(self, requests: Sequence[CaptionRequest]) -> list[CaptionAnswer]:
        texts = [
            self._model.chat(self._prompt.fill(describe(request.facts) if self._prompt.wants_facts else ""))
            for request in requests
        ]
        pictures = [_picture(request, self._max_side) for request in requests]
        return [
            self._answer(tokens, prompt_tokens=prompt_tokens)
            for tokens, prompt_tokens in self._model.generate(
                texts, pictures, max_new_tokens=self._max_new_tokens
            )
        ]

    def _answer(self, tokens: Sequence[int], *, prompt_tokens: int) -> CaptionAnswer:
        """What the tokens after the prompt say; they end with one that ends answers, or are cut off."""
        ends = [place for place, token in enumerate(tokens) if token in self._model.end_tokens]
        spent = ends[0] + 1 if ends else len(tokens)
        if ends:
            text, refused = read_answer(self._model.decode(tokens[: ends[0]]))
        else:
            text, refused = "", "truncated: the answer was cut off"
        return CaptionAnswer(
            text=text,
            refused=refused,
            prompt_tokens=prompt_tokens,
            completion_tokens=spent,
            prompt=self._prompt.name,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Model:
    """A model with what prepares its input, shared by all backends that differ in how they ask only.

    Attributes:
        held: The network on its device.
        processor: Turns chats and pictures into tensors.
        end_tokens: Tokens that end an answer.
        lock: Fast tokenizers keep their padding in themselves: one thread at a time.
    """

    held: HeldNetwork
    processor: Any
    end_tokens: frozenset[int]
    lock: threading.Lock = field(default_factory=threading.Lock)

    def chat(self, text: str) -> str:
        """The prompt in the form that the model was trained on, with a place for one picture."""
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}
        return str(self.processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False))

    def generate(
        self, texts: Sequence[str], pictures: Sequence[Any], *, max_new_tokens: int
    ) -> list[tuple[list[int], int]]:
        """Tokens of each answer, and the number of tokens of what was asked."""
        with self.lock:
            inputs = self.processor(
                text=list(texts),
                images=[[picture] for picture in pictures],
                padding=True,
                return_tensors="pt",
            )
        with self.held.in_use():
            inputs = inputs.to(self.held.device, dtype=self.held.dtype)
            asked = inputs["input_ids"].shape[1]
            found = self.held.network.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=self.processor.tokenizer.pad_token_id,
            )
            answers = found[:, asked:].cpu().tolist()
            counts = inputs["attention_mask"].sum(dim=1).cpu().tolist()
        return list(zip(answers, counts, strict=True))

    def decode(self, tokens: Sequence[int]) -> str:
        """The words of an answer."""
        with self.lock:
            return str(self.processor.tokenizer.decode(list(tokens), skip_special_tokens=True))


def _load(card: ModelCard, folder: Path, hold: Hold) -> _Model:
    from transformers import AutoModelForImageTextToText  # type: ignore[import-not-found,unused-ignore]

    processor = _processor(card, folder)
    # As stored: a model of 7 billion parameters in float32 would need twice the memory to begin with.
    network = load_pretrained(AutoModelForImageTextToText, card, folder, dtype="auto")
    ends = network.generation_config.eos_token_id
    if ends is None:
        ends = processor.tokenizer.eos_token_id
    if ends is None:
        raise BackendUnavailable(f"{card.name}: generation_config.json in {folder} names no eos_token_id.")
    # Angles of rotary positions: in bfloat16 the places of neighbours among thousands of tokens would coincide.
    angles = [
        (module, name, buffer.float())
        for module in network.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name.endswith("inv_freq")
    ]
    held = hold(network)
    for module, name, buffer in angles:
        setattr(module, name, buffer)
    return _Model(
        held=held,
        processor=processor,
        end_tokens=frozenset([ends] if isinstance(ends, int) else ends),
    )


def _processor(card: ModelCard, folder: Path) -> Any:
    """What turns chats and pictures into tensors, set up for answers of several chats at once.

    Raises:
        BackendUnavailable: The files are damaged, or know no chats.
    """
    from transformers import AutoProcessor  # type: ignore[import-not-found,unused-ignore]

    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # Each format and library has errors of its own.
        raise BackendUnavailable(
            f"{card.name}: the processor in {folder} cannot be loaded ({error_summary(error)}). It needs all files "
            "that save_pretrained writes for a model of transformers and for its processor."
        ) from error
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None or not (getattr(processor, "chat_template", None) or tokenizer.chat_template):
        raise BackendUnavailable(
            f"{card.name}: the processor in {folder} has no chat template (chat_template.jinja or .json): nobody knows "
            "how the model is asked. Use a model tuned for chats."
        )
    # Answers begin where prompts end: at the same column, so that shorter prompts are filled up before.
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return processor


def folder_digest(folder: Path) -> str:
    """One SHA-256 of all files that say what a model does, by name: the template of its chats as well."""
    paths = sorted({path for pattern in _TELLING_FILES for path in folder.glob(pattern)})
    return joint_digest([weights_digest(path) for path in paths])


def _picture(request: CaptionRequest, max_side: int) -> Any:
    """The picture as processors take it without guessing at its layout."""
    from PIL import Image  # type: ignore[import-not-found,unused-ignore]

    image = request.frame.image
    height, width = image.shape[:2]
    limit = _LARGEST_ASPECT * min(height, width)
    if max(height, width) > limit:
        top, left = max(0, height - limit) // 2, max(0, width - limit) // 2
        image = image[top : top + limit, left : left + limit]
    image = shrink(image, max_side)
    height, width = image.shape[:2]
    if min(height, width) < _LEAST_SIDE_PX:
        factor = -(-_LEAST_SIDE_PX // min(height, width))
        image = np.repeat(np.repeat(image, factor, axis=0), factor, axis=1)
    return Image.fromarray(np.ascontiguousarray(image[..., ::-1]))
