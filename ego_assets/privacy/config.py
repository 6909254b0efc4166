"""Settings of the privacy pass, each with its source."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, get_args

from ego_assets.media.encode import Preset
from ego_assets.privacy.redaction import RedactionStyle
from ego_assets.schema.vocabulary import AudioPolicy, RedactionMethod


@dataclass(frozen=True, kw_only=True)
class PrivacyConfig:
    """Settings of one privacy pass. *Guide* is the collection guide, step 3 ("Privacy and PII Filtering")."""

    # Detection. A miss costs more than a needless blur throughout.

    #: Least frames a second examined for faces, while nothing changes and nobody is about. Guide: 1, the floor; 2,
    #: because somebody may cross the picture within a second.
    faces_min_per_s: float = 2.0
    #: The same while faces are about. With these rates and with focus, the tracks cover 99.9 % of 1,899 face-frames of
    #: synthetic clips (benchmarks/privacy.py --part time).
    faces_present_per_s: float = 4.0
    #: Most frames a second examined for faces, however much the picture changes.
    faces_max_per_s: float = 10.0
    #: Every how many frames text is looked for while the picture changes; at least once a second whatever the
    #: rate. Guide: 5.
    text_every_frames: int = 5
    #: Least and most frames a second examined for number plates where text is not looked for; otherwise they are
    #: looked for on the same frames. Guide: none stated.
    plates_min_per_s: float = 1.0
    plates_max_per_s: float = 5.0
    #: Looks a second at which the picture is also examined in tiles, for regions that the downscaled copy hides.
    fine_looks_per_s: float = 1.0
    #: Camera shift, as a share of the longer side, after which the next look is due, and change that no shift
    #: explains (see FrameMotion) with the same effect. Half as much is enough while regions are about.
    look_after_shift: float = 0.1
    look_after_change: float = 0.6
    #: Seconds after a scene cut at which another look is due; the cut itself is always looked at.
    looks_after_cut_s: tuple[float, ...] = (0.15, 0.4)
    #: Longer side in pixels of the downscaled copy on which faces are looked for.
    detection_max_side: int = 960
    #: The same for text and plates. A look costs 0.055 CPU-s at 640 and 0.14 at 960; what only the larger copy
    #: shows, the fine look once a second shows better.
    text_max_side: int = 640
    #: A region whose every sighting scores below makes its frames low-confidence: it is blurred, but worth a
    #: reviewer's look, since what lies next to it may have been missed.
    low_confidence_score: float = 0.5
    #: Longer side in pixels of the copy that the fine look for faces examines tile by tile, and longest side of a
    #: tile: two cover 1080p, for 0.3 CPU-s. Of 30 faces of 24 pixels they find 29, the ordinary look 12.
    fine_max_side: int = 1920
    fine_tile_side: int = 1088
    #: Longer side in pixels of the copy that the fine look for text and plates examines as a whole. Tiles would cut
    #: lines, and show parts of the picture in which the network takes a texture for one broad line.
    text_fine_max_side: int = 1440

    # Tracking.

    #: Least intersection over union of a track's box and the next detection. Guide: "a simple IOU tracker".
    track_iou: float = 0.2
    #: Where boxes do not overlap, a detection still continues a track when its centre lies within this many
    #: box sizes and its area within a factor of two: a turning head moves a small box by more than its width.
    track_reach_sizes: float = 1.5
    #: Beyond both ends of a track its velocity is followed for this many box sizes.
    track_follow_sizes: float = 8.0
    #: A region that is not seen for longer starts a new track; shorter gaps stay covered. People turn to profile
    #: for seconds, where the detector loses them; 3 s instead of 1.5 s adds 0.3 % of redacted area.
    track_max_gap_s: float = 3.0
    #: The same for a region whose every sighting scored below ``low_confidence_score``.
    track_weak_gap_s: float = 1.5
    #: Share of its width and height by which each side of a box moves out per second since the nearest sighting,
    #: and at most: it stands for what interpolation cannot know. On the synthetic clips more than this adds area
    #: (0.6: a sixth, 1.0: a third) and covers no further face-frame.
    widen_per_s: float = 0.3
    widen_most: float = 0.3
    #: Covered time before the first sighting, beyond the last look that did not find the region.
    margin_before_s: float = 0.3
    #: Covered time after the last sighting, beyond the first look that did not find it.
    margin_after_s: float = 0.3

    # Leak check and corrections.

    #: Frames a second of the finished video that are examined again; 0 leaves the check out, which benchmarks do.
    leak_looks_per_s: float = 1.0
    #: Longer side in pixels of the copy that is examined: another scale than the first pass's.
    leak_max_side: int = 1280
    #: Least score of a leak. On 20 first-person clips (3.4 minutes) it raises two alarms; each costs a
    #: second rendering.
    leak_score: float = 0.4
    #: A detection of which at least this share lies under redaction is the blur itself and no leak.
    leak_covered_share: float = 0.7
    #: Seconds before and after a leak or a correction that are covered with it.
    order_margin_s: float = 0.5

    # Redaction and sound.

    #: `blur`, `pixelate` (cells as large as a face) or `solid` (a neutral grey). All three leave a face no closer
    #: to its original than to others; only `solid` hides its mean brightness too, by which the right one of
    #: 109 pictures is found in 4 % of cases (chance 1 %), and in 38 % before a background that the matcher knows.
    method: RedactionMethod = "blur"
    #: Each side of a box moves out by this share of the box's width or height. Guide: 20 %.
    box_margin: float = 0.2
    #: Least standard deviation of the Gaussian in pixels of the full-size picture. Guide: 30, with a kernel
    #: of 99. The kernel here reaches four standard deviations to both sides, so it is never cut as short.
    blur_min_sigma: float = 30.0
    #: Standard deviation relative to the region's longer side. Template correlation finds the right one of 40
    #: faces in 30 % of cases at 0.25, in 12 % at 0.5 and no better than chance at 0.6; beyond it costs nothing.
    blur_sigma_per_size: float = 0.75
    #: `keep` passes the original's sound on as it is coded; voices and names spoken are then in the video. The
    #: proxy never has sound.
    audio: AudioPolicy = "drop"

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

        expect(self.faces_min_per_s >= 1, "faces_min_per_s", "1 or more, the guide's floor")
        expect(
            self.faces_present_per_s >= self.faces_min_per_s, "faces_present_per_s", "faces_min_per_s or more"
        )
        expect(
            self.faces_max_per_s >= self.faces_present_per_s, "faces_max_per_s", "faces_present_per_s or more"
        )
        expect(self.text_every_frames >= 1, "text_every_frames", "1 or more")
        expect(self.plates_min_per_s >= 1, "plates_min_per_s", "1 or more")
        expect(self.plates_max_per_s >= self.plates_min_per_s, "plates_max_per_s", "plates_min_per_s or more")
        expect(self.fine_looks_per_s > 0, "fine_looks_per_s", "more than 0")
        expect(self.look_after_shift > 0, "look_after_shift", "more than 0")
        expect(self.look_after_change > 0, "look_after_change", "more than 0")
        expect(all(s > 0 for s in self.looks_after_cut_s), "looks_after_cut_s", "seconds above 0")
        expect(self.detection_max_side >= 64, "detection_max_side", "64 or more")
        expect(0 <= self.low_confidence_score <= 1, "low_confidence_score", "0 to 1")
        expect(0 < self.track_iou < 1, "track_iou", "a value between 0 and 1")
        for name in (
            "track_reach_sizes",
            "track_follow_sizes",
            "track_max_gap_s",
            "track_weak_gap_s",
            "widen_per_s",
            "widen_most",
            "margin_before_s",
            "margin_after_s",
        ):
            expect(getattr(self, name) >= 0, name, "0 or more")
        expect(self.method in get_args(RedactionMethod), "method", " or ".join(get_args(RedactionMethod)))
        expect(self.audio in get_args(AudioPolicy), "audio", " or ".join(get_args(AudioPolicy)))
        expect(self.text_max_side >= 64, "text_max_side", "64 or more")
        expect(self.text_fine_max_side >= self.text_max_side, "text_fine_max_side", "text_max_side or more")
        expect(self.fine_max_side >= self.detection_max_side, "fine_max_side", "detection_max_side or more")
        expect(self.fine_tile_side >= self.detection_max_side, "fine_tile_side", "detection_max_side or more")
        expect(self.leak_looks_per_s >= 0, "leak_looks_per_s", "0 or more")
        expect(self.leak_max_side >= 64, "leak_max_side", "64 or more")
        expect(0 <= self.leak_score <= 1, "leak_score", "0 to 1")
        expect(0 < self.leak_covered_share <= 1, "leak_covered_share", "more than 0, at most 1")
        expect(self.order_margin_s >= 0, "order_margin_s", "0 or more")
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

    @property
    def style(self) -> RedactionStyle:
        """How regions are covered."""
        return RedactionStyle(
            method=self.method,
            box_margin=self.box_margin,
            min_sigma=self.blur_min_sigma,
            sigma_per_size=self.blur_sigma_per_size,
        )

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON-serialisable values."""
        return asdict(self)
