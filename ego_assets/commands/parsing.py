"""What people type to say where something shows: frames, boxes and kinds."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from ego_assets.reviewing import FalseRegions, MissedRegion
from ego_assets.schema.corrections import KIND_WORDS, Box, PiiKind, check_box
from ego_assets.terminal import USAGE, stop

ParsedT = TypeVar("ParsedT")

#: The kinds as help texts list them.
KINDS_HELP = ", ".join(KIND_WORDS.values())

_RANGE = re.compile(r"(\d+)(?:-(\d+))?", re.ASCII)


def parsed(option: str, parse: Callable[[str], ParsedT], text: str) -> ParsedT:
    """The value of an option; what cannot be read ends the command as wrong usage."""
    try:
        return parse(text)
    except ValueError as error:
        stop(f"{option} {text!r}: {error}", USAGE)


def parse_kind(text: str) -> PiiKind:
    """A kind, in the singular or the plural.

    Raises:
        ValueError: There is no such kind.
    """
    for kind, word in KIND_WORDS.items():
        if text.strip().lower() in (kind, word, f"{word}s"):
            return kind
    raise ValueError(f"expected one of {KINDS_HELP} as kind, got {text!r}")


def parse_range(text: str) -> tuple[int, int | None]:
    """First and last frame from ``A-B``, or ``A`` and ``None`` from a single number.

    Raises:
        ValueError: It is neither.
    """
    match = _RANGE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"expected frame numbers such as 120-180 or 120, got {text!r}")
    first, last = int(match[1]), None if match[2] is None else int(match[2])
    if last is not None and last < first:
        raise ValueError(f"expected the first frame before the last, got {text!r}")
    return first, last


def parse_frames(text: str) -> tuple[int, ...]:
    """Frame numbers from ``A,B,C``, ascending.

    Raises:
        ValueError: One is no number.
    """
    ranges = [parse_range(part) for part in text.split(",") if part.strip()]
    if not ranges or any(last is not None for _, last in ranges):
        raise ValueError("expected frame numbers separated by commas, such as 12,40")
    return tuple(sorted({first for first, _ in ranges}))


def parse_box(text: str) -> Box:
    """A box from ``LEFT,TOP,RIGHT,BOTTOM``.

    Raises:
        ValueError: It is none, or has no area.
    """
    try:
        left, top, right, bottom = (float(edge) for edge in text.split(","))
    except ValueError:
        raise ValueError(f"expected LEFT,TOP,RIGHT,BOTTOM in pixels, got {text!r}") from None
    check_box((left, top, right, bottom))
    return left, top, right, bottom


def parse_missed(text: str) -> MissedRegion:
    """Read ``FRAME:KIND:LEFT,TOP,RIGHT,BOTTOM`` or ``FIRST-LAST:KIND:...``.

    Raises:
        ValueError: It is something else; the message says what was expected.
    """
    frames, kind, box = _parts(text, "FRAME:KIND:LEFT,TOP,RIGHT,BOTTOM, such as 123:face:100,50,160,120")
    first, last = parse_range(frames)
    return MissedRegion(kind=parse_kind(kind), first_frame=first, last_frame=last, box_xyxy=parse_box(box))


def parse_false(text: str) -> FalseRegions:
    """Read ``FRAME:KIND:COUNT``.

    Raises:
        ValueError: It is something else; the message says what was expected.
    """
    expected = "FRAME:KIND:COUNT, such as 123:face:1"
    frame, kind, count = _parts(text, expected)
    if not (frame.isdecimal() and count.isdecimal()):
        raise ValueError(f"expected {expected}")
    return FalseRegions(frame_index=int(frame), kind=parse_kind(kind), count=int(count))


def _parts(text: str, expected: str) -> list[str]:
    """The three parts between the colons."""
    parts = [part.strip() for part in text.split(":")]
    if len(parts) != 3:
        raise ValueError(f"expected {expected}")
    return parts
