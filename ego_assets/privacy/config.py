"""Settings of the privacy pass, each with its source."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ego_assets.media.encode import Preset


@dataclass(frozen=True, kw_only=True)
class PrivacyConfig:
    """Settings of one privacy pass. *Guide* is the collection guide, step 3 ("Privacy and PII Filtering")."""

    # Detection. A miss costs more than a needless blur throughout.

    #: Frames a second examined for faces. Guide: 1, which is the floor. Of the faces that a look at every frame
    #: finds in three clips with people (1,226), the tracks cover 90-97 % at 1, 93-100 % at 2, 99.2-100 % at 5
    #: and all at 10 looks a second; a look costs 0.06 CPU-s.
    faces_per_s: float = 5.0
    #: Every how many frames text is looked for; at least once a second whatever the rate. Guide: 5.
    text_every_frames: int = 5
    #: Frames a second examined for number plates where a plate detector is given. Guide: none stated.
    plates_per_s: float = 5.0
    #: Longer side in pixels of the one downscaled copy that all detectors see. On ICDAR 2015 samples 1280 costs
    #: twice as much for text and covers one more line of 41; 640 covers two fewer of the 10 legible ones.
    detection_max_side: int = 960
    #: A region whose every sighting scores below makes its frames low-confidence: it is blurred, but worth a
    #: reviewer's look, since what lies next to it may have been missed.
    low_confidence_score: float = 0.5

    # Tracking.

    #: Least intersection over union of a track's box and the next detection. Guide: "a simple IOU tracker".
    track_iou: float = 0.2
    #: Where boxes do not overlap, a detection still continues a track when its centre lies within this many
    #: box sizes and its area within a factor of two: a turning head moves a small box by more than its width.
    track_reach_sizes: float = 1.5
    #: A region that is not seen for longer starts a new track; shorter gaps stay covered. People turn to profile
    #: for seconds, where the detector loses them; 3 s instead of 1.5 s adds 0.3 % of redacted area.
    track_max_gap_s: float = 3.0
    #: Covered time before the first sighting, beyond the last look that did not find the region.
    margin_before_s: float = 0.3
    #: Covered time after the last sighting, beyond the first look that did not find it.
    margin_after_s: float = 0.3

    # Redaction.

    #: Each side of a box moves out by this share of the box's width or height. Guide: 20 %.
    box_margin: float = 0.2
    #: Least standard deviation of the Gaussian in pixels of the full-size picture. Guide: 30, with a kernel
    #: of 99. The kernel here reaches four standard deviations to both sides, so it is never cut as short.
    blur_min_sigma: float = 30.0
    #: Standard deviation relative to the region's size (square root of its area). Template correlation finds
    #: the right one of 40 faces in 45 % of cases at 0.25, and no better than chance at 0.6.
    blur_sigma_per_size: float = 0.6

    # Rendering.

    #: x264 constant rate factor of the full-size video.
    video_crf: int = 18
    #: x264 constant rate factor of the proxy, which every enrichment layer reads: visually lossless.
    proxy_crf: int = 16
    #: Shorter side in pixels of the proxy; smaller originals keep their size.
    proxy_short_side: int = 720
    #: Frames between key frames of the proxy, so that reading one frame in six decodes few others.
    proxy_gop: int = 15
    #: x264 preset of both: `veryfast` costs a third of the default.
    preset: Preset = "veryfast"
    #: Threads per encoder. Fixed, because x264 writes other bytes with another number of threads, and equal
    #: clips are to give equal digests on every machine.
    encoder_threads: int = 4
    #: Threads of the decoder; 0 lets FFmpeg choose. No influence on the result.
    decoder_threads: int = 0
    #: Blurred frames on the contact sheet.
    contact_sheet_frames: int = 12

    def __post_init__(self) -> None:
        def expect(condition: bool, name: str, expected: str) -> None:
            if not condition:
                raise ValueError(f"{name}: expected {expected}, got {getattr(self, name)}")

        expect(self.faces_per_s >= 1, "faces_per_s", "1 or more, the guide's floor")
        expect(self.text_every_frames >= 1, "text_every_frames", "1 or more")
        expect(self.plates_per_s >= 1, "plates_per_s", "1 or more")
        expect(self.detection_max_side >= 64, "detection_max_side", "64 or more")
        expect(0 <= self.low_confidence_score <= 1, "low_confidence_score", "0 to 1")
        expect(0 < self.track_iou < 1, "track_iou", "a value between 0 and 1")
        for name in ("track_reach_sizes", "track_max_gap_s", "margin_before_s", "margin_after_s"):
            expect(getattr(self, name) >= 0, name, "0 or more")
        expect(self.box_margin >= 0.2, "box_margin", "0.2 or more, the guide's value")
        expect(self.blur_min_sigma >= 30, "blur_min_sigma", "30 or more, the guide's value")
        expect(self.blur_sigma_per_size > 0, "blur_sigma_per_size", "more than 0")
        for name in ("video_crf", "proxy_crf"):
            expect(0 <= getattr(self, name) <= 51, name, "0 to 51")
        expect(self.proxy_short_side >= 16, "proxy_short_side", "16 or more")
        expect(self.proxy_gop >= 1, "proxy_gop", "1 or more")
        expect(self.encoder_threads >= 1, "encoder_threads", "1 or more")
        expect(self.decoder_threads >= 0, "decoder_threads", "0 or more")
        expect(self.contact_sheet_frames >= 1, "contact_sheet_frames", "1 or more")

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON-serialisable values."""
        return asdict(self)
