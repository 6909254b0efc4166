"""What people order to be covered: the findings of reviewers and of incidents."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from ego_assets.schema.artifact import digest_of

#: Kinds of personal data that a person can report; ``other`` is what no detector looks for.
PiiKind = Literal["faces", "text", "screens", "plates", "other"]
PII_KINDS: tuple[PiiKind, ...] = get_args(PiiKind)

#: Name under which corrections appear among the inputs of an artifact.
CORRECTIONS_INPUT = "corrections"


@dataclass(frozen=True, kw_only=True)
class Correction:
    """One order to cover something in the next rendering of a clip.

    Attributes:
        clip_id: The clip.
        kind: What was left uncovered.
        first_frame: First frame in which it shows, as numbered in the blurred video.
        last_frame: Last frame in which it shows, inclusive.
        box_xyxy: Where, in pixels of the upright full-size picture; ``None`` when the person who reported it could
            not say. Then these frames are searched with the stricter settings, and covered whole where nothing
            new is found.
        origin: Who ordered it, such as ``incident:3`` or ``review:12``.
        actor: The person.
        note: What was seen.
        created_at: When (UTC).
    """

    clip_id: str
    kind: PiiKind
    first_frame: int
    last_frame: int
    box_xyxy: tuple[float, float, float, float] | None = None
    origin: str = ""
    actor: str = ""
    note: str = ""
    created_at: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))

    def __post_init__(self) -> None:
        if self.kind not in PII_KINDS:
            raise ValueError(f"kind: expected one of {', '.join(PII_KINDS)}, got {self.kind!r}")
        if not 0 <= self.first_frame <= self.last_frame:
            raise ValueError(
                f"frames: expected 0 <= first <= last, got {self.first_frame} to {self.last_frame}"
            )
        if self.box_xyxy is not None:
            left, top, right, bottom = self.box_xyxy
            if not (left < right and top < bottom):
                raise ValueError(
                    f"box_xyxy: expected left < right and top < bottom, got {list(self.box_xyxy)}"
                )


def corrections_version(corrections: Sequence[Correction]) -> str:
    """Digest of what is ordered, for data versions: who ordered it and when has no influence."""
    orders = [
        (item.kind, item.first_frame, item.last_frame, item.box_xyxy or (), item.origin.partition(":")[0])
        for item in corrections
    ]
    return digest_of(sorted(orders))
