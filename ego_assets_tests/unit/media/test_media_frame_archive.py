from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ego_assets.media.frame_archive import FrameArchive, FrameArchiveIndex, FrameArchiveWriter, read_member
from ego_assets.schema.errors import ArtifactCorrupted

FRAMES = st.dictionaries(st.integers(0, 2_000_000), st.binary(max_size=1500), max_size=8)


def write(folder: Path, frames: dict[int, bytes], extension: str = "jpg") -> tuple[Path, Path]:
    paths = folder / "frames.tar", folder / "frames.parquet"
    with FrameArchiveWriter(*paths) as writer:
        for frame_index, data in sorted(frames.items()):
            writer.add(frame_index, frame_index * 1000, data, extension=extension)
    return paths


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FRAMES)
def test_members_come_back_through_the_index_and_through_tar(
    tmp_path: Path, frames: dict[int, bytes]
) -> None:
    archive_path, index_path = write(tmp_path, frames)
    index = FrameArchiveIndex.read(index_path)
    with archive_path.open("rb") as file:
        archive = FrameArchive(file, index)
        assert len(archive) == len(frames)
        assert {entry.frame_index: archive.read(entry.frame_index) for entry in archive} == frames
        assert all(entry.timestamp_ns == entry.frame_index * 1000 for entry in archive)
    with tarfile.open(archive_path, "r:") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
        infos = tar.getmembers()
    assert members == {f"frame_{i:06d}.jpg": data for i, data in frames.items()}
    assert all(
        (m.mtime, m.uid, m.gid, m.uname, m.mode, m.isfile()) == (0, 0, 0, "", 0o644, True) for m in infos
    )
    assert [m.offset_data for m in infos] == index.offsets.tolist()
    assert archive_path.stat().st_size % 10240 == 0


def test_the_header_is_what_tarfile_writes(tmp_path: Path) -> None:
    archive_path, _ = write(tmp_path, {7: b"data"})
    info = tarfile.TarInfo("frame_000007.jpg")
    info.size = 4
    assert archive_path.read_bytes()[:512] == info.tobuf(tarfile.USTAR_FORMAT)


def test_webdataset_reads_it(tmp_path: Path) -> None:
    archive_path, _ = write(tmp_path, {3: b"three", 4: b"four"}, extension="depth.png")
    samples = list(webdataset.WebDataset(str(archive_path), shardshuffle=False, empty_check=False))
    assert [(s["__key__"], s["depth.png"]) for s in samples] == [
        ("frame_000003", b"three"),
        ("frame_000004", b"four"),
    ]


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    first = [path.read_bytes() for path in write(tmp_path, {1: b"a", 2: b"bb"})]
    assert [path.read_bytes() for path in write(tmp_path, {1: b"a", 2: b"bb"})] == first


def test_index_from_a_file_object(tmp_path: Path) -> None:
    _, index_path = write(tmp_path, {5: b"x"})
    index = FrameArchiveIndex.read(io.BytesIO(index_path.read_bytes()))
    assert (index.entry(5).name, index.entry(5).offset, index.entry(5).size) == ("frame_000005.jpg", 512, 1)
    assert pq.read_schema(index_path).names == ["frame_index", "timestamp_ns", "name", "offset", "size"]


def test_absent_frames(tmp_path: Path) -> None:
    archive_path, index_path = write(tmp_path, {5: b"x", 9: b"y"})
    with archive_path.open("rb") as file:
        archive = FrameArchive(file, FrameArchiveIndex.read(index_path))
        assert 5 in archive and 9 in archive and 6 not in archive and 10 not in archive
        with pytest.raises(KeyError, match="no frame 6"):
            archive.read(6)


def test_a_cut_archive_is_reported(tmp_path: Path) -> None:
    archive_path, index_path = write(tmp_path, {5: b"x" * 100})
    entry = FrameArchiveIndex.read(index_path).entry(5)
    with pytest.raises(ArtifactCorrupted, match="expected 100 bytes in the frame archive, got 88"):
        read_member(io.BytesIO(archive_path.read_bytes()[:600]), entry)


@pytest.mark.parametrize("content", [b"", b"no parquet at all"])
def test_a_damaged_index_is_reported(content: bytes) -> None:
    with pytest.raises(ArtifactCorrupted, match="make the layer again"):
        FrameArchiveIndex.read(io.BytesIO(content))


def test_an_exception_removes_both_files(tmp_path: Path) -> None:
    with pytest.raises(KeyError), FrameArchiveWriter(tmp_path / "a.tar", tmp_path / "a.parquet") as writer:
        writer.add(0, 0, b"x", extension="jpg")
        raise KeyError("of the caller")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("frame_index", "extension", "message"),
    [
        (5, "jpg", "expected more than 5"),
        (4, "jpg", "expected more than 5"),
        (6, ".jpg", "extension"),
        (6, "a/b", "ext"),
    ],
)
def test_wrong_members_are_refused(tmp_path: Path, frame_index: int, extension: str, message: str) -> None:
    with (
        pytest.raises(ValueError, match=message),
        FrameArchiveWriter(tmp_path / "a.tar", tmp_path / "a.parquet") as writer,
    ):
        writer.add(5, 0, b"x", extension="jpg")
        writer.add(frame_index, 0, b"x", extension=extension)
