"""The frames of an original as every pass over it must see them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from ego_assets.media.decode import DecodedFrame
from ego_assets.schema.errors import EgoAssetsError, MediaError
from ego_assets.schema.media import MediaProbe
from ego_assets.schema.timeline import Timeline


class PrivacyPassFailed(EgoAssetsError):
    """A clip could not be de-identified; no output was left behind."""


def checked_frames(
    frames: Iterator[DecodedFrame], probe: MediaProbe, timeline: Timeline
) -> Iterator[DecodedFrame]:
    """Frames that are what the probe and the time line say; fail rather than go on with others.

    They are numbered in decoded order, which is the index in everything that is made from them: where a
    damaged original lacks a frame, the renderings have no gap.

    Raises:
        MediaError: The picture's size or rotation changes.
        PrivacyPassFailed: There are more frames than the time line has.
    """
    for position, frame in enumerate(frames):
        size = (frame.frame.width, frame.frame.height, frame.rotation_deg)
        expected = (probe.coded_width, probe.coded_height, probe.rotation_deg)
        if size != expected:
            raise MediaError(
                "resolution_changes",
                f"Frame {frame.index} has width, height and rotation {size}, the clip {expected}. Cut the recording "
                "where its format changes and upload the parts.",
            )
        if frame.index >= timeline.frame_count:
            raise PrivacyPassFailed(
                f"Frame {frame.index} was decoded, but the clip's time line ends after {timeline.frame_count} frames, "
                "so nobody looked at it. Nothing was written. Re-wrap the file (ffmpeg -c copy) and upload it again."
            )
        yield dataclasses.replace(frame, index=position)
