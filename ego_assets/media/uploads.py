"""Uploads: which files are clips, what their path and sidecar say about them, and when they are complete.

Layout of the upload folder (collection guide, "Upload"): ``raw/{collector_id}/{YYYY-MM-DD}/{clip_id}.mp4``
with an optional ``{clip_id}.json`` beside it. A bucket that is watched has the same layout below its prefix, and
the same rules decide there. Everything here looks at names, file status and sidecars; nothing opens a video.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import stat
import unicodedata
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import unquote_to_bytes, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    StringConstraints,
    ValidationError,
)

from ego_assets.media.recording import SUPPORTED_EXTENSIONS, parse_chapter
from ego_assets.schema.errors import UploadRejected
from ego_assets.schema.vocabulary import ConsentScope, LocationType, SourceCamera

SIDECAR_SUFFIX = ".json"
#: A sidecar is a page of metadata; anything larger is another kind of file.
MAX_SIDECAR_BYTES = 1_000_000

#: Names of the collection guide and common spellings, with the names used inside.
SIDECAR_ALIASES: Mapping[str, str] = {
    "activity": "activity_category",
    "camera": "source_camera",
    "date": "recording_date",
    "environment_type": "location_type",
    "license": "licence",
    "location": "location_type",
}

#: Ends of names that copying programs give to files they have not finished.
_UNFINISHED_SUFFIXES = (".part", ".partial", ".tmp", ".temp", ".crdownload", ".filepart", "~")
#: Thumbnails and previews that GoPro cameras write beside every recording.
_COMPANION_SUFFIXES = (".thm", ".lrv")
_CLIP_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}|\d{8}")
#: Namespace of the ids assigned to uploads whose names are no UUIDs.
_ASSIGNED_IDS = uuid.uuid5(uuid.NAMESPACE_URL, "urn:ego-assets:upload")


def is_clip_id(text: str) -> bool:
    """Whether ``text`` is a UUID in canonical lower-case form, the only form of a ``clip_id``."""
    return _CLIP_ID.fullmatch(text) is not None


def parse_date(text: str) -> dt.date | None:
    """The day that ``YYYY-MM-DD`` or ``YYYYMMDD`` names, or ``None`` for anything else."""
    if _DATE.fullmatch(text) is None:
        return None
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        return None


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _to_date(value: object) -> object:
    if isinstance(value, str):
        parsed = parse_date(value.strip())
        if parsed is not None:
            return parsed
    raise ValueError("no date")


def _one_line(value: str) -> str:
    if _has_control_characters(value):
        raise ValueError("control characters")
    return value


_Text = Annotated[
    str, StringConstraints(strict=True, strip_whitespace=True, max_length=500), AfterValidator(_one_line)
]
_Name = Annotated[
    str,
    StringConstraints(strict=True, strip_whitespace=True, min_length=1, max_length=200),
    AfterValidator(_one_line),
]


class SidecarModel(BaseModel):
    """What a ``{clip_id}.json`` beside an upload may say; every key is optional.

    Attributes:
        collector_id: Who wore the camera.
        recording_date: Day of the recording, ``YYYY-MM-DD`` or ``YYYYMMDD``.
        source_camera: One of :class:`~ego_assets.schema.vocabulary.SourceCamera`.
        location_type: One of :class:`~ego_assets.schema.vocabulary.LocationType`.
        activity_category: What was done, free text.
        consent_scope: One of :class:`~ego_assets.schema.vocabulary.ConsentScope`.
        licence: Licence under which the clip may be delivered.
        camera_intrinsics: Camera parameters, kept as supplied.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    collector_id: _Name | None = None
    recording_date: Annotated[dt.date, BeforeValidator(_to_date)] | None = None
    source_camera: Annotated[SourceCamera, BeforeValidator(_lower)] | None = None
    location_type: Annotated[LocationType, BeforeValidator(_lower)] | None = None
    activity_category: _Text | None = None
    consent_scope: Annotated[ConsentScope, BeforeValidator(_lower)] | None = None
    licence: _Text | None = None
    camera_intrinsics: dict[str, Any] | None = None


_EXPECTED: Mapping[str, str] = {
    "collector_id": "text of 1 to 200 characters on one line",
    "recording_date": "a date as text, YYYY-MM-DD or YYYYMMDD",
    "source_camera": "one of " + ", ".join(SourceCamera),
    "location_type": "one of " + ", ".join(LocationType),
    "activity_category": "text of at most 500 characters on one line",
    "consent_scope": "one of " + ", ".join(ConsentScope),
    "licence": "text of at most 500 characters on one line",
    "camera_intrinsics": "an object of camera parameters",
}
_JSON_TYPES: Mapping[type, str] = {
    bool: "true or false",
    dict: "an object",
    float: "a number",
    int: "a number",
    list: "a list",
    str: "text",
}


@dataclass(frozen=True, kw_only=True)
class UploadObservation:
    """State of a file at one look, to tell whether it is still being written.

    Attributes:
        size: Size in bytes.
        mtime_ns: Time of the last change, nanoseconds since the epoch.
    """

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> UploadObservation:
        """Look at ``path`` without following a link; ``FileNotFoundError`` when it is gone."""
        status = path.lstat()
        return cls(size=status.st_size, mtime_ns=status.st_mtime_ns)


@dataclass(frozen=True, kw_only=True)
class UploadFacts:
    """What name, size and sidecar say of an upload that can be registered as a clip, wherever it lies.

    Attributes:
        clip_id: The UUID in its name, or one derived from relative path, size and version (time of last change of a
            file, ETag of an object), so that looking at the same upload again gives the same id.
        source_name: File name as uploaded; bytes that are no UTF-8 are written in hexadecimal.
        size_bytes: Size of the upload.
        collector_id: From sidecar or folder; ``None`` when neither says.
        recording_date: From sidecar or folder; ``None`` when neither says.
        fields: Fields of :class:`~ego_assets.schema.clip.Clip` that sidecar, path and name give a value for,
            ``collector_id`` and ``recording_date`` included.
        recording_id: Same for all chapters of one recording; empty for a single file.
        chapter: Position within the recording, from 1; 0 for a single file.
    """

    clip_id: str
    source_name: str
    size_bytes: int
    collector_id: str | None = None
    recording_date: dt.date | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    recording_id: str = ""
    chapter: int = 0

    def __post_init__(self) -> None:
        if not is_clip_id(self.clip_id):
            raise ValueError(f"clip_id: expected a lower-case UUID, got {self.clip_id!r}")


@dataclass(frozen=True, kw_only=True)
class UploadDescription(UploadFacts):
    """An upload in a folder of this machine that can be registered as a clip.

    Attributes:
        path: The file.
        sidecar_path: The sidecar, or ``None``.
    """

    path: Path
    sidecar_path: Path | None = None


def is_ignored(path: Path) -> bool:
    """Whether a file in the upload folder is none of our business: hidden, unfinished, or a sidecar."""
    return _is_ignored_name(path.name)


def is_ignored_key(key: str) -> bool:
    """As :func:`is_ignored` for the key of an object; hidden folders and the marks of empty ones count too."""
    parts = key.split("/")
    hidden = any(part.startswith(".") and part not in (".", "..") for part in parts[:-1])
    return not parts[-1] or hidden or _is_ignored_name(parts[-1])


def is_plain_key(key: str) -> bool:
    """Whether a key is a relative path: other keys cannot be read by everything that reads a bucket."""
    return not any(part in ("", ".", "..") for part in key.split("/"))


def _is_ignored_name(name: str) -> bool:
    name = name.lower()
    if name in (".", ".."):
        return False
    return name.startswith((".", "~")) or name.endswith(
        (*_UNFINISHED_SUFFIXES, *_COMPANION_SUFFIXES, SIDECAR_SUFFIX)
    )


def find_uploads(root: Path) -> Iterator[Path]:
    """All files below ``root`` that are to be accepted or rejected, in the order of their names.

    Hidden folders are skipped and links to folders are not entered; the links themselves are yielded, so
    that they are rejected with a reason.
    """
    for folder, folder_names, file_names in os.walk(root):
        here = Path(folder)
        links = [name for name in folder_names if (here / name).is_symlink()]
        folder_names[:] = sorted(n for n in folder_names if not n.startswith(".") and n not in links)
        for name in sorted([*file_names, *links]):
            if not is_ignored(here / name):
                yield here / name


def upload_path(upload_uri: str) -> Path:
    """The local file that a path or ``file://`` URL names, also where its name is no UTF-8."""
    if not upload_uri.startswith("file://"):
        return Path(upload_uri)
    return Path(os.fsdecode(unquote_to_bytes(urlsplit(upload_uri).path)))


def settled(
    before: UploadObservation, now: UploadObservation, *, quiet_s: float, at: dt.datetime | None = None
) -> bool:
    """Whether an upload has stopped growing.

    It has when nothing changed between two observations and the last change is at least ``quiet_s`` ago.
    A time of last change in the future (a camera whose clock is ahead) says nothing about writing, so then
    the two equal observations decide. ``at`` is the time of the second observation, by default now.
    """
    if before != now:
        return False
    moment = at if at is not None else dt.datetime.now(dt.UTC)
    age_s = moment.timestamp() - now.mtime_ns / 1e9
    return age_s < 0 or age_s >= quiet_s


def sidecar_of(path: Path) -> Path | None:
    """The sidecar of an upload, ``{stem}.json`` in the same folder, or ``None``; links do count."""
    candidate = path.with_suffix(SIDECAR_SUFFIX)
    return candidate if os.path.lexists(candidate) else None


def sidecar_key(key: str) -> str:
    """Key of the sidecar of an object, ``{stem}.json`` beside it."""
    folder, slash, name = key.rpartition("/")
    return f"{folder}{slash}{PurePosixPath(name).stem}{SIDECAR_SUFFIX}"


def read_sidecar(path: Path) -> dict[str, Any]:
    """Read a sidecar into fields of :class:`~ego_assets.schema.clip.Clip`.

    Keys with the value ``null`` count as absent. A ``clip_id`` is accepted where it repeats the file name.

    Raises:
        UploadRejected: code ``sidecar`` (not JSON, unknown key, wrong type or value) or ``symlink``. The
            message names the field, what it holds and what is expected.
    """
    source = f"Sidecar {_printable(path.name)!r}"
    if path.is_symlink():
        raise UploadRejected(
            "symlink", f"{source} is a link; links are not followed. Upload the file itself."
        )
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SIDECAR_BYTES + 1)
    except OSError as error:
        raise UploadRejected("sidecar", f"{source} cannot be read ({error.strerror}).") from error
    return parse_sidecar(content, name=path.name)


def parse_sidecar(content: bytes, *, name: str) -> dict[str, Any]:
    """As :func:`read_sidecar`, for the content of a sidecar with this file name.

    More than :data:`MAX_SIDECAR_BYTES` are refused, so a reader need not read further than one byte beyond.
    """
    source = f"Sidecar {_printable(name)!r}"
    values = _sidecar_object(content, source)
    named = values.pop("clip_id", None)
    stem = PurePosixPath(name).stem
    if named is not None and (not isinstance(named, str) or named.lower() != stem.lower()):
        raise UploadRejected(
            "sidecar",
            f"{source}: clip_id is {_shown(named)}, but the id of a clip is the name of its file. "
            "Name video and sidecar after the clip_id, or remove the key.",
        )
    return parse_fields(values, source=source)


def parse_fields(values: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    """Check values given under the names of a sidecar and convert them to fields of a clip.

    Args:
        values: Keys as in :class:`SidecarModel` or :data:`SIDECAR_ALIASES`; ``None`` counts as absent.
        source: Where they come from, for messages.

    Raises:
        UploadRejected: code ``sidecar``: an unknown key, a wrong type or value, or a field given twice.
    """
    canonical: dict[str, Any] = {}
    for key, value in values.items():
        name = SIDECAR_ALIASES.get(key, key)
        if value is None:
            continue
        if name in canonical:
            raise UploadRejected(
                "sidecar", f"{source}: {name} is given twice, the second time as {key!r}. Keep one of them."
            )
        canonical[name] = value
    unknown = sorted(set(canonical) - set(SidecarModel.model_fields))
    if unknown:
        known = ", ".join([*SidecarModel.model_fields, *SIDECAR_ALIASES])
        raise UploadRejected(
            "sidecar", f"{source}: unknown key {', '.join(map(_shown, unknown))}. Known keys: {known}."
        )
    try:
        model = SidecarModel(**canonical)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        value = canonical[name]
        kind = _JSON_TYPES.get(type(value), type(value).__name__)
        raise UploadRejected(
            "sidecar",
            f"{source}: {name} is {_shown(value)} ({kind}), expected {_EXPECTED[name]}. Correct it.",
        ) from error
    return model.model_dump(exclude_none=True)


def describe_upload(root: Path, path: Path) -> UploadDescription:
    """What the upload ``path`` below the upload folder ``root`` is, without opening the video.

    The last two folders give collector and date when the last one is a date. A sidecar wins over both.

    Raises:
        UploadRejected: codes ``name`` (``..``, control characters, outside ``root``), ``symlink``,
            ``vanished``, ``not_a_file``, ``unfinished`` (hidden or temporary name, or a sidecar),
            ``extension``, ``empty`` and ``sidecar``.
    """
    relative = _relative_path(root, path)
    shown = _printable(relative.as_posix())
    _refuse_links(root, relative, shown)
    try:
        status = path.lstat()
    except FileNotFoundError:
        raise vanished(path) from None
    if not stat.S_ISREG(status.st_mode):
        raise UploadRejected("not_a_file", f"{shown!r} is no ordinary file. Upload the video file itself.")
    _refuse_by_name_and_size(shown, ignored=is_ignored(path), size_bytes=status.st_size)
    sidecar_path = sidecar_of(path)
    facts = _facts(
        relative.parts,
        # The camera counts its files anew on every card, so a name means nothing without its folder.
        folder=path.parent.name,
        size_bytes=status.st_size,
        version=str(status.st_mtime_ns),
        sidecar=read_sidecar(sidecar_path) if sidecar_path is not None else {},
    )
    return UploadDescription(path=path, sidecar_path=sidecar_path, **facts)


def describe_object(
    key: str, *, size_bytes: int, version: str, folder: str, sidecar: bytes | None
) -> UploadFacts:
    """What the object under ``key``, relative to the watched prefix, is: as :func:`describe_upload` for a file.

    Args:
        key: Its key, parts separated by ``/``.
        size_bytes: Its size.
        version: What changes when its content does: the ETag.
        folder: Name of the last part of the watched prefix, or of the bucket.
        sidecar: Content of its sidecar, at most one byte more than :data:`MAX_SIDECAR_BYTES`; ``None`` without one.

    Raises:
        UploadRejected: codes ``name`` (empty parts, ``..``, control characters), ``unfinished``, ``extension``,
            ``empty`` and ``sidecar``.
    """
    shown = _printable(key)
    parts = tuple(key.split("/"))
    if not is_plain_key(key) or _has_control_characters(key):
        raise _wrong_name(shown)
    _refuse_by_name_and_size(shown, ignored=is_ignored_key(key), size_bytes=size_bytes)
    return UploadFacts(
        **_facts(
            parts,
            folder=folder,
            size_bytes=size_bytes,
            version=version,
            sidecar={}
            if sidecar is None
            else parse_sidecar(sidecar, name=sidecar_key(key).rpartition("/")[2]),
        )
    )


def vanished(path: Path) -> UploadRejected:
    """The error for an upload that was there a moment ago."""
    return UploadRejected(
        "vanished",
        f"{_printable(path.name)!r} is no longer in the upload folder: it was moved or removed before it was "
        "taken over. Upload it again.",
    )


def _refuse_by_name_and_size(shown: str, *, ignored: bool, size_bytes: int) -> None:
    if ignored:
        raise UploadRejected(
            "unfinished",
            f"{shown!r} has the name of a hidden, unfinished or metadata file. Give it the name of a video.",
        )
    if PurePosixPath(shown).suffix.lower() not in SUPPORTED_EXTENSIONS:
        raise UploadRejected(
            "extension",
            f"{shown!r} is no video that can be read here: expected {', '.join(SUPPORTED_EXTENSIONS)}. "
            "Upload the file as the camera wrote it.",
        )
    if size_bytes == 0:
        raise UploadRejected(
            "empty", f"{shown!r} has no content (0 bytes). Copy it from the camera's card again."
        )


def _facts(
    parts: tuple[str, ...], *, folder: str, size_bytes: int, version: str, sidecar: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments of :class:`UploadFacts` for an upload at this relative path."""
    collector_id, recording_date = _from_folders(parts[:-1])
    fields: dict[str, Any] = {}
    if collector_id is not None:
        fields["collector_id"] = collector_id
    if recording_date is not None:
        fields["recording_date"] = recording_date
    fields.update(sidecar)
    stem = PurePosixPath(parts[-1]).stem.lower()
    relative = _printable("/".join(parts))
    clip_id = stem
    if not is_clip_id(stem):
        clip_id = str(uuid.uuid5(_ASSIGNED_IDS, f"{relative}\n{size_bytes}\n{version}"))
    chapter = parse_chapter(relative if len(parts) > 1 else _printable(f"{folder}/{relative}"))
    recording_id, chapter_number = "", 0
    if chapter is not None:
        recording_id, chapter_number = chapter.recording, chapter.number
        fields.update(recording_id=recording_id, chapter=chapter_number)
    return {
        "clip_id": clip_id,
        "source_name": _printable(parts[-1]),
        "size_bytes": size_bytes,
        "collector_id": fields.get("collector_id"),
        "recording_date": fields.get("recording_date"),
        "fields": fields,
        "recording_id": recording_id,
        "chapter": chapter_number,
    }


def _from_folders(folders: tuple[str, ...]) -> tuple[str | None, dt.date | None]:
    """Collector and date from ``.../{collector_id}/{date}``; neither without a date."""
    recording_date = parse_date(folders[-1]) if folders else None
    if recording_date is None or len(folders) < 2 or folders[-2:-1] == ("raw",):
        return None, recording_date
    return _printable(folders[-2]), recording_date


def _relative_path(root: Path, path: Path) -> Path:
    if ".." in path.parts or _has_control_characters(str(path)):
        raise _wrong_name(_printable(str(path)))
    try:
        return path.relative_to(root)
    except ValueError:
        raise UploadRejected(
            "name", f"{_printable(path.name)!r} does not lie in the upload folder. Copy it there."
        ) from None


def _wrong_name(shown: str) -> UploadRejected:
    return UploadRejected(
        "name",
        f"{shown!r} has '..', an empty part or control characters in its name. Rename the file or its folder and "
        "upload it again.",
    )


def _refuse_links(root: Path, relative: Path, shown: str) -> None:
    step = root
    for part in relative.parts:
        step = step / part
        if step.is_symlink():
            raise UploadRejected(
                "symlink",
                f"{shown!r} is a link or lies behind one; links are not followed. Upload the file itself.",
            )


def _sidecar_object(content: bytes, source: str) -> dict[str, Any]:
    if len(content) > MAX_SIDECAR_BYTES:
        raise UploadRejected(
            "sidecar", f"{source} has more than {MAX_SIDECAR_BYTES} bytes, which is no metadata. Remove it."
        )
    try:
        values = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UploadRejected("sidecar", f"{source} is not JSON in UTF-8 ({error}). Correct it.") from error
    if not isinstance(values, dict):
        raise UploadRejected(
            "sidecar",
            f'{source}: expected a JSON object such as {{"collector_id": "c01"}}, got {_shown(values)}.',
        )
    return values


def _has_control_characters(text: str) -> bool:
    return any(unicodedata.category(character) == "Cc" for character in text)


def _shown(value: object) -> str:
    text = _printable(repr(value))
    return text if len(text) <= 80 else text[:77] + "..."


def _printable(name: str) -> str:
    """``name`` as text that every database and log accepts."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
