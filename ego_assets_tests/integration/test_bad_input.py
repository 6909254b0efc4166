"""Every kind of bad input gets a clear message and a recorded state, and nothing is lost."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from ego_assets.media.encode import VideoWriter
from ego_assets.planning import LayerPlan
from ego_assets.project import Project
from ego_assets.schema.errors import ConfigurationError, DuplicateUpload, UnknownClip, UploadRejected
from ego_assets.settings import Settings
from ego_assets_tests.clips import write_clip, write_renamed_picture, write_truncated_clip


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    return Project(Settings(data_dir=tmp_path / "data", free_disk_reserve_bytes=0))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


def write_missing_index(path: Path) -> Path:
    """Recording stopped before the camera could write the index: the boxes after the data are gone."""
    import io

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=15)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(10):
            container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(stream.encode())
    content = buffer.getvalue()
    path.write_bytes(content[: content.rindex(b"moov") - 4])
    return path


def write_audio_only(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        for index in range(20):
            samples = np.zeros((1, 1024), np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44100, index * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_absurd_duration(path: Path) -> Path:
    """A header that declares ten hours for a second of video."""
    write_clip(path.with_suffix(".mp4"), frames=15)
    with av.open(str(path.with_suffix(".mp4"))) as original, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(original.streams.video[0])
        for packet in original.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    path.with_suffix(".mp4").unlink()
    content = bytearray(path.read_bytes())
    # Matroska's Duration element: ID 0x4489, size 8, a double in milliseconds.
    at = content.index(b"\x44\x89\x88") + 3
    content[at : at + 8] = np.array([36_000_000.0], ">f8").tobytes()
    path.write_bytes(bytes(content))
    return path


def write_one_frame(path: Path) -> Path:
    return write_clip(path, frames=1)


STOPPED = {
    "one frame": (write_one_frame, "clip.mp4", "parse"),
    "truncated": (write_truncated_clip, "clip.mp4", "completeness"),
    "missing index": (write_missing_index, "clip.mp4", "parse"),
    "renamed JPEG": (write_renamed_picture, "clip.mp4", "parse"),
    "audio only": (write_audio_only, "clip.mp4", "parse"),
    "absurd declared duration": (write_absurd_duration, "clip.mkv", "completeness"),
}


@pytest.mark.parametrize("kind", sorted(STOPPED))
def test_a_file_that_is_no_complete_video_fails_its_gate_and_stays_in_the_vault(
    project: Project, source: Path, kind: str
) -> None:
    write: Callable[[Path], Path]
    write, name, gate = STOPPED[kind]
    path = write(source / name)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    clip = project.ingest(source, path, {})
    result = project.run_clip(clip.clip_id, [spec.name for spec in project.specs])

    assert not result.success
    row = project.database.clip(clip.clip_id)
    assert row.failed and row.needs_review
    failed = [g for g in project.database.gates(clip.clip_id) if g.outcome == "failed"]
    assert [g.gate for g in failed] == [gate]
    assert len(failed[0].message) > 40 and not failed[0].message.isupper()
    plan = project.plans([row])[0]
    assert plan.pending == []
    assert plan.layers["blurred_video"] is LayerPlan.STOPPED
    with project.vault.open(clip.clip_id, purpose=_purpose(), actor="test") as original:
        assert hashlib.sha256(original.read()).hexdigest() == digest
    assert project.run_collection() == ""
    assert clip.clip_id in project.left_out_of_delivery()


def _purpose() -> object:
    from ego_assets.schema.vocabulary import VaultPurpose

    return VaultPurpose.REVIEW


def test_nothing_in_it_is_rejected_with_a_reason(project: Project, source: Path) -> None:
    (source / "empty.mp4").touch()
    with pytest.raises(UploadRejected, match="0 bytes") as rejection:
        project.ingest(source, source / "empty.mp4", {})
    assert rejection.value.code == "empty"


def test_the_same_content_twice_points_at_the_first(project: Project, source: Path) -> None:
    first = project.ingest(source, write_clip(source / "a.mp4"), {})
    copy = source / "b.mp4"
    copy.write_bytes((source / "a.mp4").read_bytes())
    with pytest.raises(DuplicateUpload, match=first.clip_id):
        project.ingest(source, copy, {})
    assert copy.exists(), "ingest copies, it never moves"
    second = next(clip for clip in project.database.clips() if clip.clip_id != first.clip_id)
    assert second.duplicate_of == first.clip_id
    assert project.plans([second])[0].pending == []


def test_a_link_out_of_the_folder_is_refused(project: Project, source: Path, tmp_path: Path) -> None:
    outside = write_clip(tmp_path / "outside.mp4")
    (source / "link.mp4").symlink_to(outside)
    with pytest.raises(UploadRejected, match="link"):
        project.ingest(source, source / "link.mp4", {})
    assert outside.exists()


def test_dots_in_a_path_are_refused(project: Project, source: Path) -> None:
    write_clip(source / "clip.mp4")
    with pytest.raises(UploadRejected, match=r"\.\."):
        project.ingest(source, source / ".." / source.name / "clip.mp4", {})


@pytest.mark.parametrize("name", ["my clip.mp4", "küche 台所.mov", "-v.mp4", "a'b\"c;d.mkv"])
def test_strange_names_are_fine(project: Project, source: Path, name: str) -> None:
    path = write_clip(source / "plain.mp4")
    target = path.rename(source / name)
    clip = project.ingest(source, target, {})
    assert clip.source_name == name
    assert project.run_clip(clip.clip_id, ["raw_clip", "clip_quality"]).success


@pytest.mark.parametrize(
    ("sidecar", "named"),
    [
        ({"collector_id": 7}, "collector_id"),
        ({"recording_date": "yesterday"}, "recording_date"),
        ({"location_type": "moon"}, "location_type"),
        ({"colour": "red"}, "colour"),
        ([1, 2], "object"),
    ],
)
def test_a_wrong_sidecar_names_the_field(project: Project, source: Path, sidecar: object, named: str) -> None:
    write_clip(source / "clip.mp4")
    (source / "clip.json").write_text(json.dumps(sidecar))
    with pytest.raises(UploadRejected, match=named):
        project.ingest(source, source / "clip.mp4", {})
    assert project.database.clips() == []


def test_variable_rate_keeps_every_time_stamp(project: Project, source: Path) -> None:
    from ego_assets.media.timeline import read_timeline

    stamps = np.cumsum([0, *([33_000_000, 51_000_000, 20_000_000] * 8)])
    path = source / "clip.mp4"
    with VideoWriter(
        path, width=96, height=64, time_base=Fraction(1, 90_000), frame_rate=Fraction(30)
    ) as writer:
        for index, stamp in enumerate(stamps):
            picture = np.full((64, 96, 3), 40 + 5 * index, np.uint8)
            picture[::2, ::2] = 200
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            writer.write(frame, timestamp_ns=int(stamp))
    clip = project.ingest(source, path, {})
    result = project.run_clip(clip.clip_id, [spec.name for spec in project.specs])
    assert result.success, result.error
    document = project.store.document(clip.clip_id, "blurred_video")
    for name in ("video.mp4", "proxy.mp4"):
        with project.store.local_path(document, name) as rendered:
            assert np.array_equal(read_timeline(rendered).timestamps_ns, read_timeline(path).timestamps_ns)


@pytest.mark.parametrize(
    ("width", "height", "rotation"), [(101, 75, 0), (96, 64, 90), (64, 96, 180), (96, 64, 270)]
)
def test_odd_sizes_and_rotation_keep_the_upright_picture(
    project: Project, source: Path, width: int, height: int, rotation: int
) -> None:
    from ego_assets.media.decode import decode_frames
    from ego_assets.media.probe import probe
    from ego_assets.synth import SceneSpec, render_clip

    path = source / "clip.mp4"
    render_clip(
        SceneSpec(width=width, height=height, duration_s=0.4, rotation_deg=rotation, hands=False), path
    )
    clip = project.ingest(source, path, {})
    assert project.run_clip(clip.clip_id, [spec.name for spec in project.specs]).success
    row = project.database.clip(clip.clip_id)
    assert (row.width, row.height, row.rotation_deg) == (width, height, rotation)
    document = project.store.document(clip.clip_id, "blurred_video")
    with project.store.local_path(document, "video.mp4") as video:
        found = probe(video)
        assert (found.width, found.height, found.rotation_deg) == (width, height, rotation)
        [original, *_] = decode_frames(path)
        [blurred, *_] = decode_frames(video)
        assert original.bgr().shape == blurred.bgr().shape
        difference = np.abs(original.bgr().astype(int) - blurred.bgr())
        assert np.median(difference) < 16, "the picture is the same way up"


def test_an_unknown_clip_is_named(project: Project) -> None:
    unknown = str(uuid.uuid4())
    with pytest.raises(UnknownClip, match=unknown):
        project.database.clip(unknown)
    from ego_assets.partitions import require_clip_id

    with pytest.raises(ConfigurationError, match="UUID"):
        require_clip_id("clip-7")


def test_a_duplicate_in_the_upload_folder_is_no_failure(project: Project, source: Path) -> None:
    first = project.ingest(source, write_clip(source / "a.mp4"), {})
    folder = project.settings.uploads / "raw" / "c1" / "2026-05-14"
    folder.mkdir(parents=True)
    copy = folder / "b.mp4"
    copy.write_bytes((source / "a.mp4").read_bytes())
    from ego_assets.media.uploads import describe_upload

    second = project.intake.register(
        describe_upload(project.settings.uploads, copy), upload_uri=copy.as_uri()
    )
    project.add_partitions([second.clip_id])
    result = project.run_clip(second.clip_id, ["raw_clip"])
    assert not result.success and first.clip_id in result.error
    row = project.database.clip(second.clip_id)
    assert row.duplicate_of == first.clip_id and not row.failed and not row.needs_review
    assert list(project.settings.vault.rglob("rejected/**/b.mp4")), "nothing is lost"


def test_a_repeated_time_stamp_is_kept_within_a_tick(project: Project, source: Path) -> None:
    path = source / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=20, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for stamp in (0, 50, 50, 100, 150):
            picture = np.full((64, 96, 3), 60 + stamp // 2, np.uint8)
            picture[::2, ::2] = 200
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = stamp, Fraction(1, 1000)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    clip = project.ingest(source, path, {})
    result = project.run_clip(clip.clip_id, ["raw_clip", "clip_quality", "blurred_video"])
    assert result.success, result.error
