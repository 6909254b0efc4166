"""The pictures that enrichment works on."""

from __future__ import annotations

from dataclasses import dataclass

from ego_assets.schema.detections import BgrImage


@dataclass(frozen=True, slots=True, eq=False)
class ClipFrame:
    """One frame of a de-identified video, as layers and models receive it.

    Models take and give *streams*: an iterator of frames in, an iterator with one result for every frame, in the same
    order, out. A stream is the batch: a backend takes as many frames at once as suits it, and holds no more than that.

    Attributes:
        frame_index: Position in the video's time line, from 0.
        timestamp_ns: Presentation time in nanoseconds.
        image: ``uint8 [height, width, 3]``, BGR, upright; all frames of a stream have one size.
    """

    frame_index: int
    timestamp_ns: int
    image: BgrImage

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.shape[1], self.image.shape[0]
