"""Chaptered GoPro recordings: one recording, split by the camera into files of a few gigabytes.

Names follow GoPro's file naming convention. HERO6 and later: ``GX020001.MP4`` is chapter 02 of file
0001 (``GX`` HEVC, ``GH`` AVC). Before: ``GOPR0001.MP4`` is followed by ``GP010001.MP4``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

#: File name extensions, in lower case, that are accepted as uploads.
SUPPORTED_EXTENSIONS = (".mp4", ".mov", ".mkv")

_NEW_NAME = re.compile(r"(G[XH])(\d{2})(\d{4})", re.IGNORECASE)
_OLD_FIRST_NAME = re.compile(r"GOPR(\d{4})", re.IGNORECASE)
_OLD_NEXT_NAME = re.compile(r"GP(\d{2})(\d{4})", re.IGNORECASE)


@dataclass(frozen=True)
class Chapter:
    """Place of a file within a recording.

    Attributes:
        recording: Key of the recording: folder, kind and file number, such as ``day1/GX0001``.
        number: Chapter number, from 1.
    """

    recording: str
    number: int

    def __post_init__(self) -> None:
        if self.number < 1:
            raise ValueError(f"number: expected 1 or more, got {self.number}")


def parse_chapter(name: str) -> Chapter | None:
    """The chapter that a file name (case ignored) stands for, or ``None`` for any other name.

    A folder in front of the name belongs to the key: the same name in two folders is two recordings.
    """
    path = PurePosixPath(name)
    if path.suffix.lower() not in SUPPORTED_EXTENSIONS:
        return None
    if match := _NEW_NAME.fullmatch(path.stem):
        kind, number, file_number = match.group(1).upper(), int(match.group(2)), match.group(3)
    elif match := _OLD_FIRST_NAME.fullmatch(path.stem):
        kind, number, file_number = "GP", 1, match.group(1)
    elif match := _OLD_NEXT_NAME.fullmatch(path.stem):
        kind, number, file_number = "GP", int(match.group(1)) + 1, match.group(2)
    else:
        return None
    if number < 1:
        return None
    return Chapter(str(path.parent / f"{kind}{file_number}"), number)
