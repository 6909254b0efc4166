"""Is a version of a delivery what its record says, does every format open, and is nothing inside that must not be."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ego_assets.delivery.dataset import RECORD, files_in_record, read_record
from ego_assets.delivery.folder import archive_name
from ego_assets.delivery.formats import WRITERS, format_of
from ego_assets.delivery.journal import tree_entry
from ego_assets.delivery.recall import RECALLED, recalled_clips, recalled_entries, recalled_files

#: Formats that have only clips with time steps.
_STEPPED = frozenset({"webdataset", "lerobot"})
#: Metadata of a written MP4 that says nothing of its source.
_HARMLESS_KEYS = frozenset(
    {"major_brand", "minor_version", "compatible_brands", "encoder", "handler_name", "vendor_id", "language"}
)
_TEXT_SUFFIXES = frozenset({".json", ".csv", ".md", ".jsonl"})
#: Code that deliveries ship, and pictures that were drawn or decoded and encoded here.
_HARMLESS_SUFFIXES = frozenset({".py", ".png"})
#: Keys by which documents would tell places and devices.
_TELLING_KEYS = re.compile(r'"(gps\w*|latitude|longitude|serial_?number)"\s*:', re.IGNORECASE)
#: One picture of so many is looked into.
_SAMPLED = 5


def compare_digests(folder: Path, *, on_progress: Callable[[int], None] = lambda done: None) -> Iterator[str]:
    """Read every file of a version and compare it with its record.

    What was recalled is not missed.

    Args:
        folder: The version.
        on_progress: Hears how many entries were compared.

    Yields:
        What is wrong, in words.
    """
    record = read_record(folder)
    if not record:
        yield f"{RECORD} is missing or cannot be read"
        return
    listed = files_in_record(record)
    if not listed:
        yield from _old_packages(folder, record)
        return
    gone = recalled_files(folder)
    if _is_erased(folder):
        # Its row of the manifest went with an erased clip.
        gone.add("manifest.parquet")
    for done, (name, entry) in enumerate(listed.items()):
        on_progress(done)
        if name in gone or any(parent in gone for parent in _parents(name)):
            continue
        path = folder / name
        if name.endswith("/"):
            if not path.is_dir():
                yield f"{name} is missing"
            elif tree_entry(path, name.rstrip("/")) != entry:
                yield f"{name} differs from what was delivered"
        elif not path.is_file():
            yield f"{name} is missing"
        elif (found := _sha256(path)) != entry.sha256:
            yield f"{name} has sha256 {found}, expected {entry.sha256}"
    trees = tuple(name for name in listed if name.endswith("/"))
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        own = name in (RECORD, RECALLED) or name in listed or name.startswith((".", *trees))
        if path.is_file() and not own:
            yield f"{name} does not belong to the delivery"


def check_formats(folder: Path) -> Iterator[str]:
    """Open a sample of every format and compare the clips and samples of each with the manifest.

    A format of which files were recalled is not compared as a whole.

    Yields:
        What is wrong, in words.
    """
    record = read_record(folder)
    formats = record.get("definition", {}).get("formats", ["folder"]) if record else []
    try:
        steps = _steps_by_clip(folder)
    except OSError as error:
        yield f"manifest.parquet cannot be read: {error}"
        return
    recalled = recalled_clips(folder)
    cut = {format_of(name) for name in recalled_files(folder)}
    for name in formats:
        expected = {clip_id for clip_id, count in steps.items() if count or name not in _STEPPED}
        if name in ("folder", "hdf5"):
            expected -= recalled
        elif name in cut:
            continue
        for problem in WRITERS[name].check(folder, expected_clips=expected):
            yield f"{name}: {problem}"
        if _is_erased(folder):
            continue
        samples = record.get("counts", {}).get(name, {}).get("samples")
        if samples is not None and samples != sum(steps.values()):
            yield f"{name}: {samples} samples were written, the manifest has {sum(steps.values())}"
    if record.get("clips", len(steps)) != len(steps) and not _is_erased(folder):
        yield f"manifest.parquet: expected {record['clips']} clips, found {len(steps)}"


def find_traces(folder: Path, *, secrets: Mapping[str, Collection[str]]) -> Iterator[str]:
    """Look for what must never be delivered: sound, places, device metadata, names of uploads, digests of originals.

    Every video, document and HDF5 file is looked into, of pictures, shards and tables a sample. Archives hold what
    the clip folders hold, and only the names in them are looked at. A file of another kind is named.

    Args:
        folder: The version.
        secrets: Words that must not occur, by what they are, such as ``{"upload name": [...]}``.

    Yields:
        What was found, in words; the word itself is not repeated.
    """
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or name.startswith(".") or name == "egodata.py":
            continue
        if path.suffix == ".mp4":
            yield from (f"{name}: {problem}" for problem in _video_traces(path))
        elif path.suffix in (".jpg", ".jpeg"):
            if _is_sampled(path) and (problem := picture_trace(path.read_bytes())):
                yield f"{name}: {problem}"
        elif path.suffix in _TEXT_SUFFIXES:
            yield from _words(name, path.read_text(encoding="utf-8", errors="replace"), secrets)
        elif path.suffix == ".parquet":
            yield from _words(name, _table_text(path), secrets)
            if problem := _table_picture_trace(path):
                yield f"{name}: {problem}"
        elif path.suffix == ".h5":
            yield from _hdf5_traces(name, path, secrets)
        elif path.suffix == ".tar":
            yield from _shard_traces(name, path, secrets)
        elif name.endswith(".tar.gz"):
            yield from _archive_traces(name, path, secrets)
        elif path.suffix not in _HARMLESS_SUFFIXES:
            yield f"{name} is of a kind that nobody looks into"


def picture_trace(content: bytes) -> str:
    """What a picture carries beside its pixels; empty when nothing."""
    import io

    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        if len(image.getexif()) or "exif" in image.info or "xmp" in image.info or "comment" in image.info:
            return "carries EXIF, XMP or a comment"
    return ""


def _video_traces(path: Path) -> Iterator[str]:
    import av

    try:
        with av.open(str(path)) as container:
            kinds = sorted({stream.type for stream in container.streams} - {"video"})
            keys = set(container.metadata).union(*(stream.metadata for stream in container.streams))
    except av.FFmpegError as error:
        yield f"cannot be opened: {error}"
        return
    if kinds:
        yield f"has streams of {', '.join(kinds)}"
    if strange := sorted(key for key in keys if key.lower() not in _HARMLESS_KEYS):
        yield f"has metadata {', '.join(strange)}"


def _shard_traces(name: str, path: Path, secrets: Mapping[str, Collection[str]]) -> Iterator[str]:
    import tarfile

    try:
        with tarfile.open(path, "r:") as tar:
            seen: set[str] = set()
            for member in tar:
                # One sample of a clip: the facts are the same in all.
                clip = member.name.partition("_")[0]
                kind = member.name.partition(".")[2]
                if kind not in ("metadata.json", "rgb.jpg") or f"{clip}.{kind}" in seen:
                    continue
                seen.add(f"{clip}.{kind}")
                file = tar.extractfile(member)
                content = file.read() if file else b""
                if kind == "rgb.jpg":
                    if problem := picture_trace(content):
                        yield f"{name}/{member.name}: {problem}"
                else:
                    yield from _words(f"{name}/{member.name}", content.decode(errors="replace"), secrets)
    except (OSError, tarfile.TarError) as error:
        yield f"{name} cannot be read: {error}"


def _words(name: str, text: str, secrets: Mapping[str, Collection[str]]) -> Iterator[str]:
    for what, words in secrets.items():
        if any(word in text for word in words if word):
            yield f"{name} holds a {what}"
    if _TELLING_KEYS.search(text):
        yield f"{name} holds a place or a serial number"


def _table_picture_trace(path: Path) -> str:
    """What the first picture of a table carries beside its pixels."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            if "rgb" not in file.schema_arrow.names or not file.metadata.num_rows:
                return ""
            first = next(file.iter_batches(1, columns=["rgb"])).to_pylist()[0]["rgb"]
    except (OSError, pa.ArrowException) as error:
        return f"cannot be read: {error}"
    return picture_trace(first["bytes"])


def _hdf5_traces(name: str, path: Path, secrets: Mapping[str, Collection[str]]) -> Iterator[str]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            attributes = [file.attrs, *(item.attrs for item in file.values())]
            yield from _words(
                name, "\n".join(str(value) for held in attributes for value in held.values()), secrets
            )
            if "rgb" in file and len(file["rgb"]) and (problem := picture_trace(file["rgb"][0].tobytes())):
                yield f"{name}: {problem}"
    except (OSError, KeyError) as error:
        yield f"{name} cannot be read: {error}"


def _archive_traces(name: str, path: Path, secrets: Mapping[str, Collection[str]]) -> Iterator[str]:
    import tarfile

    try:
        with tarfile.open(path, "r:gz") as tar:
            yield from _words(name, "\n".join(tar.getnames()), secrets)
    except (OSError, EOFError, tarfile.TarError) as error:
        yield f"{name} cannot be read: {error}"


def _table_text(path: Path) -> str:
    """All text of a Parquet file; of tables with pictures only the columns of text, some rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            columns = [field.name for field in file.schema_arrow if pa.types.is_string(field.type)]
            texts = [repr(file.schema_arrow.metadata)]
            for batch in file.iter_batches(1024, columns=columns):
                for column in batch.columns:
                    texts += {value for value in column.to_pylist() if value}
            return "\n".join(texts)
    except (OSError, pa.ArrowException):
        return ""


def _is_sampled(path: Path) -> bool:
    """One picture in so many, always the same ones."""
    return int(hashlib.sha256(path.name.encode()).hexdigest()[:4], 16) % _SAMPLED == 0


def _is_erased(folder: Path) -> bool:
    """Whether a clip of a version was erased, with everything that was said of it."""
    return any(entry.get("erased") for entry in recalled_entries(folder))


def _steps_by_clip(folder: Path) -> dict[str, int]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(folder / "manifest.parquet", columns=["clip_id", "step_count"])
    except pa.ArrowException as error:
        raise OSError(str(error)) from error
    return dict(zip(table["clip_id"].to_pylist(), table["step_count"].to_pylist(), strict=True))


def _old_packages(folder: Path, record: Mapping[str, Any]) -> Iterator[str]:
    """Versions of the first format state the digests of the archives alone."""
    gone = recalled_clips(folder)
    try:
        packages = dict(record["packages"])
    except (KeyError, TypeError, ValueError):
        yield f"{RECORD} names no files"
        return
    for clip_id, expected in packages.items():
        path = folder / archive_name(clip_id)
        if clip_id in gone:
            continue
        if not path.is_file():
            yield f"{path.name} is missing"
        elif (found := _sha256(path)) != expected:
            yield f"{path.name} has sha256 {found}, expected {expected}"


def _parents(name: str) -> Iterator[str]:
    """The folders that a file lies in, with their slash."""
    parts = name.rstrip("/").split("/")
    for length in range(1, len(parts)):
        yield "/".join(parts[:length]) + "/"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_record(folder: Path) -> dict[str, Any]:
    """What a version says of itself, for people: without the list of files."""
    shown = {key: value for key, value in read_record(folder).items() if key not in ("files", "packages")}
    return {**shown, "recalled": sorted(recalled_clips(folder))}
