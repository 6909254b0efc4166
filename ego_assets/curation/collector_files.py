"""A daily file for every collector: which clips were flagged, why, and what to do better. No pictures."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from ego_assets.curation.records import GateRecord
from ego_assets.schema.clip import Clip
from ego_assets.schema.gates import GateOutcome

#: Raised whenever the meaning of a field of the machine-readable file changes.
FILE_FORMAT = 1

#: Layer whose gates speak to the person who wore the camera, and those of them that only inform.
_LAYER = "clip_quality"
_FOR_INFORMATION = frozenset({"blur_working_scale"})
_REASONS = (GateOutcome.FAILED.value, GateOutcome.WARNED.value)

#: Longest name of a folder; longer names are cut and told apart by their digest.
_MAX_FOLDER_NAME = 120
_DAY_FILE = re.compile(r"\.?\d{4}-\d{2}-\d{2}\.(md|json)(\.part)?")
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~])")


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why a clip was flagged.

    Attributes:
        gate: Name of the gate.
        outcome: ``failed`` or ``warned``.
        value: Measured value, or ``None``.
        threshold: Limit, or ``None``.
        message: What was seen, and what to do next time.
    """

    gate: str
    outcome: str
    value: float | None
    threshold: float | None
    message: str


@dataclass(frozen=True, kw_only=True)
class FlaggedClip:
    """A clip with something to do better.

    Attributes:
        clip_id: The clip.
        source_name: File name as uploaded.
        reasons: Why, gravest first.
    """

    clip_id: str
    source_name: str
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, kw_only=True)
class CollectorDay:
    """What one collector recorded on one day.

    Attributes:
        collector_id: Who wore the camera.
        day: Day of the recording; that of the registration (UTC) where the recording's is not known.
        good: Clips without a flag.
        unchecked: Clips that were not examined yet.
        flagged: The others, by file name.
    """

    collector_id: str
    day: dt.date
    good: int
    unchecked: int
    flagged: tuple[FlaggedClip, ...]

    @property
    def clip_count(self) -> int:
        """All clips of the day."""
        return self.good + self.unchecked + len(self.flagged)

    def to_json(self) -> str:
        """The day for programs; equal days give equal text."""
        content = {
            **asdict(self),
            "day": self.day.isoformat(),
            "clips": self.clip_count,
            "format": FILE_FORMAT,
        }
        return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        """The day for people."""
        lines = [f"# Clips of {self.day}: {_escaped(self.collector_id)}", ""]
        counts = [f"{self.good} of {_clips(self.clip_count)} good", f"{len(self.flagged)} to do better"]
        if self.unchecked:
            counts.append(f"{self.unchecked} not examined yet")
        lines += [", ".join(counts) + ".", ""]
        for clip in self.flagged:
            lines += [f"## {_escaped(clip.source_name or clip.clip_id)}", ""]
            for reason in clip.reasons:
                title = reason.gate.replace("_", " ").capitalize()
                stopped = " (the clip cannot be used)" if reason.outcome == GateOutcome.FAILED.value else ""
                lines.append(f"- **{title}**{stopped}: {_escaped(reason.message)}")
            lines += ["", f"Clip `{clip.clip_id}`", ""]
        return "\n".join(lines).rstrip("\n") + "\n"


def collector_days(clips: Iterable[Clip], gates: Iterable[GateRecord]) -> list[CollectorDay]:
    """Group clips by collector and day. Withdrawn clips and duplicates are left out.

    Args:
        clips: All clips to report on; erased ones are not among them.
        gates: The newest verdict of each gate on each clip.
    """
    judged: defaultdict[str, list[GateRecord]] = defaultdict(list)
    for gate in gates:
        if gate.layer == _LAYER:
            judged[gate.clip_id].append(gate)
    groups: defaultdict[tuple[str, dt.date], list[Clip]] = defaultdict(list)
    for clip in clips:
        if not clip.withdrawn and not clip.duplicate_of:
            day = clip.recording_date or clip.created_at.astimezone(dt.UTC).date()
            groups[clip.collector_id, day].append(clip)
    days = []
    for (collector_id, day), members in sorted(groups.items()):
        flagged = [found for clip in members if (found := _flagged(clip, judged[clip.clip_id])).reasons]
        unchecked = sum(not judged[clip.clip_id] for clip in members)
        days.append(
            CollectorDay(
                collector_id=collector_id,
                day=day,
                good=len(members) - unchecked - len(flagged),
                unchecked=unchecked,
                flagged=tuple(sorted(flagged, key=lambda clip: (clip.source_name, clip.clip_id))),
            )
        )
    return days


def collector_folder(folder: Path, collector_id: str) -> Path:
    """Folder of one collector's files below ``folder``: one level down, whatever the name holds."""
    name = (
        quote(collector_id, safe=" @+,=", errors="surrogatepass").replace(".", "%2E").replace("~", "%7E")
        or "%00"
    )
    if len(name) > _MAX_FOLDER_NAME:
        digest = hashlib.sha256(collector_id.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        name = f"{name[: _MAX_FOLDER_NAME - 17]}~{digest}"
    return folder / name


def write_collector_files(
    folder: Path,
    clips: Sequence[Clip],
    gates: Iterable[GateRecord],
    *,
    collector_id: str | None = None,
    day: dt.date | None = None,
) -> list[Path]:
    """Write the files of every collector and day, and remove those for which there are no clips any more.

    A file whose content did not change is left as it is, so that writing twice changes nothing.

    Args:
        folder: Where they go: ``{collector}/{day}.md`` for people and ``{day}.json`` for programs.
        clips: All clips.
        gates: The newest verdict of each gate on each clip.
        collector_id: Only this collector.
        day: Only this day.

    Returns:
        The files for people, by collector and day.
    """
    wanted: dict[Path, str] = {}
    for found in collector_days(clips, gates):
        if collector_id in (None, found.collector_id) and day in (None, found.day):
            target = collector_folder(folder, found.collector_id)
            wanted[target / f"{found.day}.md"] = found.to_markdown()
            wanted[target / f"{found.day}.json"] = found.to_json()
    for path, content in wanted.items():
        _write(path, content)
    for path in _present(folder, collector_id):
        if path not in wanted and (day is None or path.name.lstrip(".").startswith(f"{day}.")):
            path.unlink(missing_ok=True)
            _remove_if_empty(path.parent)
    return [path for path in wanted if path.suffix == ".md"]


def _flagged(clip: Clip, gates: Sequence[GateRecord]) -> FlaggedClip:
    """The clip with its reasons, which may be none."""
    reasons = [
        Reason(
            gate=gate.gate,
            outcome=str(gate.outcome),
            value=gate.value,
            threshold=gate.threshold,
            message=gate.message,
        )
        for gate in gates
        if str(gate.outcome) in _REASONS and gate.gate not in _FOR_INFORMATION
    ]
    reasons.sort(key=lambda reason: (_REASONS.index(reason.outcome), reason.gate))
    return FlaggedClip(clip_id=clip.clip_id, source_name=clip.source_name, reasons=tuple(reasons))


def _present(folder: Path, collector_id: str | None) -> list[Path]:
    """The files that earlier calls wrote, and what an interrupted one left; nothing else is ever removed."""
    if collector_id is not None:
        folders = [collector_folder(folder, collector_id)]
    else:
        folders = sorted(folder.iterdir()) if folder.is_dir() else []
    return [
        path
        for one in folders
        if one.is_dir() and not one.is_symlink()
        for path in sorted(one.iterdir())
        if _DAY_FILE.fullmatch(path.name)
    ]


def _write(path: Path, content: str) -> None:
    encoded = content.encode("utf-8", "replace")
    if path.is_file() and path.read_bytes() == encoded:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.part")
    staged.write_bytes(encoded)
    staged.replace(path)


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        # Somebody keeps a file of his own there.
        return


def _clips(count: int) -> str:
    return "1 clip" if count == 1 else f"{count} clips"


def _escaped(text: str) -> str:
    """Text from outside on one line, with nothing that Markdown or HTML would take for markup."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split())).replace("&", "&amp;")
