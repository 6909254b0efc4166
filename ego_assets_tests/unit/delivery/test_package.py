import gzip
import io
import json
import tarfile
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ego_assets.curation.score import ScoreParts, score_clip
from ego_assets.delivery.metadata import TimeGrid, clip_metadata, metadata_json
from ego_assets.delivery.package import (
    DeliveryError,
    PackageMember,
    resolve_members,
    write_package,
)
from ego_assets.schema.artifact import ArtifactDocument, FileEntry
from ego_assets.schema.clip import Clip
from ego_assets.schema.detections import BackendInfo
from ego_assets.schema.errors import ArtifactCorrupted
from ego_assets.schema.layers import DeliveryMember

CLIP_ID = "0b5e6bbd-4bb5-4cf2-9c3a-000000000001"


def member(path, *pieces, size=None):
    return PackageMember(
        path=path, size=sum(map(len, pieces)) if size is None else size, chunks=lambda: iter(pieces)
    )


def packed(members, documents=None):
    out = io.BytesIO()
    summary = write_package(out, clip_id=CLIP_ID, members=members, documents=documents)
    return out.getvalue(), summary


def contents(archive):
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar}


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{1,5}(/[a-z]{1,5})?", fullmatch=True),
        st.lists(st.binary(max_size=700), max_size=4),
        max_size=6,
    ),
    st.randoms(use_true_random=False),
)
def test_archives_hold_the_members_whatever_their_order(files, random):
    members = [member(path, *pieces) for path, pieces in files.items()]
    archive, summary = packed(members)
    random.shuffle(members)
    again, _ = packed(members)
    assert archive == again
    assert contents(archive) == {f"{CLIP_ID}/{path}": b"".join(pieces) for path, pieces in files.items()}
    assert (summary.bytes, summary.file_count) == (len(archive), len(files))


def test_nothing_of_the_surroundings_is_in_the_archive():
    archive, _ = packed([member("rgb/a.jpg", b"x")], {"metadata.json": b"{}"})
    assert archive[4:8] == b"\0\0\0\0"
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for entry in tar:
            assert (entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname, entry.mode) == (
                0,
                0,
                0,
                "",
                "",
                0o644,
            )
        assert tar.getnames() == [f"{CLIP_ID}/metadata.json", f"{CLIP_ID}/rgb/a.jpg"]


def test_pieces_are_pulled_one_at_a_time():
    alive, most = 0, 0

    class Piece(bytes):
        def __new__(cls):
            nonlocal alive, most
            alive += 1
            most = max(most, alive)
            return super().__new__(cls, b"\0" * 65536)

        def __del__(self):
            nonlocal alive
            alive -= 1

    big = PackageMember(path="big.bin", size=40 * 65536, chunks=lambda: (Piece() for _ in range(40)))
    packed([big])
    assert most <= 3


@pytest.mark.parametrize(
    ("pieces", "size", "said"),
    [
        ((b"abc",), 4, "fewer"),
        ((b"abc",), 2, "more"),
        ((b"ab", b"c"), 2, "more"),
        ((), 1, "fewer"),
        ((b"a",), 0, "more"),
    ],
)
def test_members_of_another_size_than_stated_are_refused(pieces, size, said):
    with pytest.raises(ArtifactCorrupted, match=said):
        packed([member("a", *pieces, size=size)])


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "", "a\\b", "a\0"])
def test_paths_stay_inside_the_folder(path):
    with pytest.raises(ValueError, match="path"):
        member(path, b"x")


@pytest.mark.parametrize("clip_id", ["", "..", "a/b", "x" * 65])
def test_the_folder_name_is_checked(clip_id):
    with pytest.raises(DeliveryError, match="clip_id"):
        write_package(io.BytesIO(), clip_id=clip_id, members=[])


def test_two_layers_may_not_deliver_the_same_file():
    with pytest.raises(DeliveryError, match=r"metadata\.json"):
        packed([member("metadata.json", b"1")], {"metadata.json": b"2"})


def artifact(layer="frames", **fields):
    values = {
        "clip_id": CLIP_ID, "layer": layer, "data_version": "d" * 64, "version_id": "d" * 16,
        "files": (FileEntry(name="frames.tar", bytes=100, sha256="a" * 64),), "config": {"path": "/private/folder"},
        "config_digest": "c" * 64, "inputs": {"blurred_video": "b" * 64},
        "backends": (BackendInfo(task="faces", backend="centerface", model="CenterFace", licence="MIT"),),
        "resolution": (640, 360), "counts": {"frames": 2},
    }  # fmt: skip
    return ArtifactDocument(**{**values, **fields})


def resolve(*members):
    data = bytes(range(100))
    reads = []

    def read(layer, file, offset, size):
        reads.append((layer, file, offset, size))
        return [data[offset : offset + size]]

    found = list(resolve_members(members, artifacts={"frames": artifact()}, read=read))
    return {m.path: b"".join(m.chunks()) for m in found}, reads


def test_contributions_are_read_by_range():
    found, reads = resolve(
        DeliveryMember(path="rgb/a", layer="frames", file="frames.tar", offset=10, size=5),
        DeliveryMember(path="rgb/b", layer="frames", file="frames.tar", offset=95),
    )
    assert found == {"rgb/a": bytes(range(10, 15)), "rgb/b": bytes(range(95, 100))}
    assert reads == [("frames", "frames.tar", 10, 5), ("frames", "frames.tar", 95, 5)]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"layer": "depth_maps"}, "not committed"),
        ({"file": "other.tar"}, "other.tar"),
        ({"offset": 96, "size": 5}, "range"),
        ({"offset": 101}, "range"),
        ({"offset": -1, "size": 2}, "range"),
    ],
)
def test_impossible_contributions_are_refused(wrong, said):
    good = DeliveryMember(path="rgb/a", layer="frames", file="frames.tar")
    with pytest.raises(DeliveryError, match=said):
        resolve(replace(good, **wrong))


@dataclass(frozen=True)
class Gate:
    layer: str
    gate: str
    outcome: str = "warned"
    blocking: bool = False
    value: float | None = 0.5
    threshold: float | None = 0.3
    message: str = "Anna Smith kitchen.mp4 is blurred."
    clip_id: str = CLIP_ID


CLIP = Clip(
    clip_id=CLIP_ID, source_name="Anna Smith kitchen.mp4", upload_uri="file:///home/anna/x.mp4", raw_key="raw/key",
    raw_sha256="f" * 64, duration_s=2.0, width=640, height=360, fps=30.0, frame_count=60, completeness=0b1,
    camera_intrinsics={"fx": 500.0}, activity_category="cooking", failed_reason="Anna",
)  # fmt: skip
GRID = TimeGrid(
    name="frames at 5 per second",
    rate_hz=5.0,
    frame_index=np.array([0, 6]),
    timestamps_ns=np.array([0, 200_000_000]),
)


def metadata(**changes):
    values = {
        "score": score_clip(ScoreParts(blur=0.8)), "gates": [Gate("frames", "z"), Gate("clip_quality", "blur")],
        "artifacts": {"frames": artifact()}, "grid": GRID, "privacy": {"face_detections": 3},
    }  # fmt: skip
    return clip_metadata(changes.pop("clip", CLIP), **{**values, **changes})


def test_metadata_describes_the_clip():
    found = json.loads(metadata_json(metadata()))
    assert found["duration_s"] == found["duration"] == 2.0
    assert found["context"]["environment_type"] == found["context"]["location_type"] == "other"
    assert found["camera"]["intrinsics"] == {"fx": 500.0}
    assert found["quality"]["score"]["value"] == 0.8
    assert [gate["gate"] for gate in found["quality"]["gates"]] == ["blur", "z"]
    assert found["time_grid"]["frame_index"] == [0, 6]
    assert found["complete_layers"] == ["frames"]
    assert found["privacy"] == {"privacy_status": "pending", "face_detections": 3}
    layer = found["layers"]["frames"]
    assert layer["backends"][0]["licence"] == "MIT"
    assert layer["resolution"] == [640, 360]
    assert layer["files"][0]["sha256"] == "a" * 64


def test_metadata_holds_nothing_that_leads_to_a_person_or_the_original():
    text = metadata_json(metadata()).decode()
    for secret in ("Anna", "home", "raw/key", "f" * 64, "/private/folder"):
        assert secret not in text


def test_attempts_name_files_but_not_where_they_lay():
    attempts = [
        {
            "attempt": "first",
            "config": {
                "label_map": "/home/anna/maps/mine.yaml",
                "sides": [1, 2],
                "command": "/opt/h 23/python worker.py",
            },
            "refused": "BackendUnavailable: there is no '/home/anna/models/egoblur.jit'; 3/4 of C:\\Users\\anna\\a.pt, "
            "~/b.pt and ~anna/c.pt, see https://example.org/anna and pull it (or put it at /data/x.pt).",
        }
    ]
    found = metadata(artifacts={"frames": replace(artifact(), attempts=tuple(attempts))})
    [attempt] = found["layers"]["frames"]["attempts"]
    assert attempt["attempt"] == "first"
    assert attempt["config"] == {
        "label_map": "mine.yaml",
        "sides": [1, 2],
        "command": "h 23/python worker.py",
    }
    assert attempt["refused"] == (
        "BackendUnavailable: there is no 'egoblur.jit'; 3/4 of a.pt, b.pt and c.pt, see https://example.org/anna and "
        "pull it (or put it at x.pt)."
    )


def test_metadata_is_valid_json():
    with pytest.raises(ValueError, match="JSON"):
        metadata_json(metadata(clip=replace(CLIP, fps=float("nan"))))


@pytest.mark.parametrize(
    "wrong",
    [
        {"frame_index": np.array([0, 0])},
        {"frame_index": np.array([0.0, 1.0])},
        {"timestamps_ns": np.array([0])},
    ],
)
def test_time_grids_are_validated(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(GRID, **wrong)


def test_archives_can_be_read_by_any_gzip():
    archive, _ = packed([member("a", b"payload")])
    assert b"payload" in gzip.decompress(archive)
