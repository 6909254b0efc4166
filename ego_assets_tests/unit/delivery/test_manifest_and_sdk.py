import datetime as dt
import io
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ego_assets.curation.completeness import bitfield_of
from ego_assets.curation.score import ScoreParts, score_clip
from ego_assets.delivery.card import dataset_card, sdk_source
from ego_assets.delivery.egodata import Dataset, EgoDataError
from ego_assets.delivery.manifest import (
    MANIFEST_SCHEMA,
    LayerReference,
    PackageReference,
    layer_digest,
    manifest_row,
    manifest_table,
    write_manifest,
)
from ego_assets.delivery.metadata import TimeGrid, clip_metadata, metadata_json
from ego_assets.delivery.package import PackageMember, write_package
from ego_assets.schema.artifact import ArtifactDocument, FileEntry
from ego_assets.schema.clip import Clip
from ego_assets.schema.vocabulary import LocationType

IDS = [f"0b5e6bbd-4bb5-4cf2-9c3a-00000000000{i}" for i in range(4)]
FRAMES = bitfield_of(["frames"])
STEPS = np.array([0, 6, 12])


def clip(number, **fields):
    values = {
        "clip_id": IDS[number], "source_name": f"{number}.mp4", "duration_s": 2.0, "fps": 30.0, "width": 64,
        "height": 48, "frame_count": 60, "activity_category": "cooking", "location_type": LocationType.KITCHEN,
        "recording_date": dt.date(2025, 3, 1),
    }  # fmt: skip
    return Clip(**{**values, **fields})


def row(number, *, blur=0.9, completeness=FRAMES, split=None, package=None, **fields):
    return manifest_row(
        clip(number, **fields),
        score=score_clip(ScoreParts(blur=blur)),
        completeness=completeness,
        step_count=len(STEPS),
        layers={"frames": LayerReference(uri="s3://b/frames", sha256="a" * 64)} if completeness else {},
        package=package,
        split=split,
    )


def picture(level):
    buffer = io.BytesIO()
    Image.fromarray(np.full((48, 64, 3), (level, 0, 0), np.uint8)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def write_delivery(root):
    """Clip 0 as a folder, clip 1 as an archive, clip 2 listed but absent, clip 3 without frames or score."""
    for number in (0, 1):
        grid = TimeGrid(name="test", rate_hz=5.0, frame_index=STEPS, timestamps_ns=STEPS * 33_333_333)
        document = metadata_json(
            clip_metadata(
                clip(number), score=score_clip(ScoreParts(blur=0.9)), gates=[], artifacts={}, grid=grid
            )
        )
        members = []
        for step, frame in enumerate(STEPS):
            content = picture(50 * (step + 1) + 10 * number)
            members.append(
                PackageMember(
                    path=f"rgb/frame_{frame:06d}.jpg", size=len(content), chunks=lambda c=content: [c]
                )
            )
        documents = {"metadata.json": document}
        archive = root / f"{IDS[number]}.tar.gz"
        with archive.open("wb") as out:
            write_package(out, clip_id=IDS[number], members=members, documents=documents)
        if number == 0:
            with tarfile.open(archive) as tar:
                tar.extractall(root, filter="data")
            archive.unlink()
    rows = [
        row(0, package=PackageReference(clip_path=IDS[0])),
        row(1, package=PackageReference(package_path=f"{IDS[1]}.tar.gz"), blur=0.5, split="test"),
        row(2, location_type=LocationType.OFFICE, activity_category="typing"),
        row(3, blur=None, completeness=0),
    ]
    with (root / "manifest.parquet").open("wb") as out:
        write_manifest(out, rows)
    (root / "egodata.py").write_bytes(sdk_source())
    (root / "README.md").write_text(dataset_card(rows))
    return rows


@pytest.fixture(scope="module")
def delivery(tmp_path_factory):
    root = tmp_path_factory.mktemp("delivery")
    write_delivery(root)
    return root


def test_the_manifest_reads_well_in_pandas(delivery):
    table = pd.read_parquet(delivery / "manifest.parquet")
    assert table["clip_id"].tolist() == IDS
    assert (table["duration"] == table["duration_s"]).all()
    assert (table["environment_type"] == table["location_type"]).all()
    assert table["enrichment_completeness"].dtype == np.int32
    assert table["enrichment_completeness"].tolist() == [1, 1, 1, 0]
    assert np.isnan(table["quality_score"][3])
    assert table["frames_uri"][0] == "s3://b/frames"
    assert table["depth_maps_uri"].isna().all()
    assert table["recording_date"][0] == dt.date(2025, 3, 1)
    assert not table.map(lambda value: isinstance(value, list | dict)).any().any()


def test_rows_and_schema_name_the_same_columns():
    assert list(row(0)) == MANIFEST_SCHEMA.names
    assert all(field.metadata[b"description"] for field in MANIFEST_SCHEMA)


def test_an_empty_manifest_keeps_its_schema():
    assert manifest_table([]).schema.equals(MANIFEST_SCHEMA, check_metadata=True)


def test_equal_rows_give_equal_files_in_groups_and_in_order(monkeypatch):
    rows, files = [row(0), row(1)], []
    for _ in range(2):
        out = io.BytesIO()
        assert write_manifest(out, iter(rows)) == 2
        files.append(out.getvalue())
    assert files[0] == files[1]
    with pytest.raises(ValueError, match="in order"):
        write_manifest(io.BytesIO(), rows[::-1])
    monkeypatch.setattr("ego_assets.delivery.manifest._ROWS_PER_GROUP", 1)
    out = io.BytesIO()
    assert write_manifest(out, iter(rows)) == 2
    assert pq.ParquetFile(out).num_row_groups == 2


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{**row(0), "extra": 1}], "extra"),
        ([{k: v for k, v in row(0).items() if k != "split"}], "split"),
        ([{**row(0), "licence": None}], "licence"),
        ([row(0), row(0)], "one row per clip"),
    ],
)
def test_wrong_rows_are_refused(rows, said):
    with pytest.raises(ValueError, match=said):
        manifest_table(rows)


def test_layers_without_a_position_are_refused():
    with pytest.raises(ValueError, match="blurred_video"):
        manifest_row(
            clip(0), score=score_clip(ScoreParts()), completeness=0, step_count=0,
            layers={"blurred_video": LayerReference(uri="x", sha256="y")},
        )  # fmt: skip


def test_layer_digests_depend_on_every_file():
    one = (FileEntry(name="a", bytes=1, sha256="1" * 64),)
    document = ArtifactDocument(
        clip_id="c",
        layer="frames",
        data_version="d",
        version_id="v",
        files=one,
        config={},
        config_digest="",
        inputs={},
    )
    two = replace(document, files=(*one, FileEntry(name="b", bytes=1, sha256="2" * 64)))
    other = replace(document, files=(*one, FileEntry(name="b", bytes=1, sha256="3" * 64)))
    assert layer_digest(document) == "1" * 64
    assert len({layer_digest(document), layer_digest(two), layer_digest(other)}) == 3


def test_clips_are_filtered(delivery):
    dataset = Dataset(delivery)

    def found(**conditions):
        return [IDS.index(info["clip_id"]) for info in dataset.clips(**conditions)]

    assert len(dataset) == 4
    assert found() == [0, 1, 2, 3]
    assert found(activity="cooking", min_quality=0.8) == [0]
    assert found(activity=["cooking", "typing"]) == [0, 1, 2, 3]
    assert found(environment="office") == [2]
    assert found(complete=["frames"]) == found(complete="frames") == [0, 1, 2]
    assert found(complete=["frames", "captions"]) == []
    assert found(split="test") == [1]
    assert found(min_quality=0.0) == [0, 1, 2]
    assert found(min_confidence=0.25) == [0, 1, 2]
    assert dataset.layers[:2] == ("frames", "depth_maps")
    with pytest.raises(ValueError, match="depht"):
        dataset.clips(complete=["depht"])


@pytest.mark.parametrize("number", [0, 1])
def test_clips_load_from_folder_and_archive(delivery, number):
    with Dataset(delivery / "manifest.parquet").load_clip(IDS[number]) as loaded:
        assert (loaded.clip_id, len(loaded), len(loaded.rgb)) == (IDS[number], 3, 3)
        assert loaded.frame_index.tolist() == STEPS.tolist()
        assert loaded.metadata["context"]["environment_type"] == "kitchen"
        for step in range(3):
            image = loaded.rgb[step]
            assert (image.shape, image.dtype) == ((48, 64, 3), np.uint8)
            assert abs(int(image[24, 32, 0]) - (50 * (step + 1) + 10 * number)) < 6
            assert image[24, 32, 2] < 10
        assert np.array_equal(loaded.rgb[-1], loaded.rgb[2])
        assert np.array_equal(loaded.rgb[1:][0], loaded.rgb[1])
        assert len(list(loaded.rgb)) == 3
        with pytest.raises(IndexError):
            loaded.rgb[3]


def test_streaming_yields_every_step(delivery):
    steps = list(Dataset(delivery).stream(activity="cooking", min_quality=0.1))
    assert [(s["clip_id"], s["step"], s["frame_index"]) for s in steps] == [
        (IDS[c], i, int(f)) for c in (0, 1) for i, f in enumerate(STEPS)
    ]
    assert steps[1]["timestamp_ns"] == 6 * 33_333_333
    assert steps[1]["rgb"].shape == (48, 64, 3)


def test_what_is_absent_or_damaged_is_said(delivery, tmp_path):
    dataset = Dataset(delivery)
    with pytest.raises(KeyError, match="no clip 'x'"):
        dataset.load_clip("x")
    with pytest.raises(EgoDataError, match="is not there: the clip lacks it"):
        dataset.load_clip(IDS[2])
    with pytest.raises(EgoDataError, match=r"manifest\.parquet is not there"):
        Dataset(tmp_path)
    with (tmp_path / "manifest.parquet").open("wb") as out:
        write_manifest(out, [row(1)])
    whole = (delivery / f"{IDS[1]}.tar.gz").read_bytes()
    for broken in (whole[: len(whole) // 2], b"no gzip", whole[:200] + bytes(200) + whole[400:], b""):
        (tmp_path / f"{IDS[1]}.tar.gz").write_bytes(broken)
        with pytest.raises(EgoDataError):
            Dataset(tmp_path).load_clip(IDS[1])


def test_a_newer_manifest_asks_for_the_newer_file(tmp_path):
    table = manifest_table([row(0)])
    newer = table.replace_schema_metadata({**table.schema.metadata, b"ego_assets.manifest_format": b"9"})
    pq.write_table(newer, tmp_path / "manifest.parquet")
    with pytest.raises(EgoDataError, match="format 9"):
        Dataset(tmp_path)


def test_the_schema_states_the_bits():
    assert MANIFEST_SCHEMA.metadata[b"ego_assets.completeness_bits"].startswith(b"0=frames,1=depth_maps")
    assert MANIFEST_SCHEMA.field("enrichment_completeness").type == pa.int32()


ALONE = '''
import sys

class Only:
    """Hides every module but the three that the SDK may need; they cope with each other's absent options."""

    allowed = {"numpy", "pyarrow", "PIL", "egodata", *sys.stdlib_module_names}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in self.allowed:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Only())
import egodata

dataset = egodata.Dataset("manifest.parquet")
steps = [step["rgb"].shape for step in dataset.stream(activity="cooking", min_quality=0.1, complete=["frames"])]
assert steps == [(48, 64, 3)] * 6, steps
print("read", len(steps))
'''


def test_the_sdk_works_alone_beside_its_manifest(delivery):
    done = subprocess.run(
        [sys.executable, "-c", ALONE], cwd=delivery, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, "read 6\n"), done.stderr


def test_the_sdk_is_one_short_file():
    assert 150 < len(sdk_source().decode().splitlines()) <= 300


def test_the_card_states_content_and_terms(delivery):
    card = (delivery / "README.md").read_text()
    for text in (
        "4 clips",
        "12 time steps",
        "| frames | 3 |",
        "| not given | 4 |",
        "| cooking | 3 |",
        "manifest.parquet",
    ):
        assert text in card
    assert "No clips." in dataset_card([])
    assert "| a/b |" in dataset_card([row(0, activity_category="a|b")])
    example = card.split("```python")[1].split("```")[0]
    result = subprocess.run(
        [sys.executable, "-c", example.replace("min_quality=0.5", "min_quality=0.6").replace(
            'complete=["frames"]', 'complete=["frames"], activity="cooking"')],
        cwd=Path(delivery), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.stdout == f"{IDS[0]} 3 (48, 64, 3)\n", result.stderr
