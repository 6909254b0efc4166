"""What must never be delivered is found in every kind of file."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import h5py
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ego_assets.delivery import hdf5, huggingface
from ego_assets.delivery.definition import DeliveryDefinition
from ego_assets.delivery.journal import Journal
from ego_assets.delivery.verify import find_traces
from ego_assets_tests.delivered_clips import make_clip

SECRETS = {"name of an upload": ["GX010042.MP4"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    definition = DeliveryDefinition(formats=("hf", "hdf5"))
    journal = Journal(tmp_path)
    for writer in (huggingface, hdf5):
        writer.write(tmp_path, [make_clip()], definition=definition, journal=journal)
    journal.close()
    return tmp_path


def traces(folder: Path) -> list[str]:
    return list(find_traces(folder, secrets=SECRETS))


def telling_picture() -> bytes:
    exif = Image.Exif()
    exif[0xA431] = "serial 42"
    encoded = io.BytesIO()
    Image.new("RGB", (8, 8)).save(encoded, "JPEG", exif=exif)
    return encoded.getvalue()


def test_a_clean_delivery_has_none(folder: Path) -> None:
    assert traces(folder) == []


def test_attributes_of_hdf5(folder: Path) -> None:
    [path] = (folder / "hdf5").iterdir()
    with h5py.File(path, "a") as file:
        file["rgb"].attrs["from"] = "GX010042.MP4"
    assert traces(folder) == [f"hdf5/{path.name} holds a name of an upload"]


def test_pictures_in_tables(folder: Path) -> None:
    path = folder / "hf" / "data" / "train-00000.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[0]["rgb"]["bytes"] = telling_picture()
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    assert traces(folder) == ["hf/data/train-00000.parquet: carries EXIF, XMP or a comment"]


def test_names_in_archives(folder: Path) -> None:
    with tarfile.open(folder / "clip.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("clip/GX010042.MP4"))
    assert traces(folder) == ["clip.tar.gz holds a name of an upload"]


@pytest.mark.parametrize("key", ["gps", "GPSLatitude", "longitude", "serial_number", "serialNumber"])
def test_keys_that_tell_places_and_devices(folder: Path, key: str) -> None:
    (folder / "metadata.json").write_text(json.dumps({"camera": {"intrinsics": {key: 1}}}))
    assert traces(folder) == ["metadata.json holds a place or a serial number"]


def test_files_of_an_unknown_kind(folder: Path) -> None:
    (folder / "notes.txt").write_text("anything")
    assert traces(folder) == ["notes.txt is of a kind that nobody looks into"]
