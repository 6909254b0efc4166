"""What a synthetic clip shows and how it is recorded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Literal

CameraMotion = Literal["walk", "look_around", "still", "fast"]
Location = Literal["kitchen", "office", "workshop"]

#: How many of each the room has places for.
MAX_FACES = 6
MAX_TEXT_PANELS = 4
MAX_PLATES = 2

#: Raised whenever the same spec renders to other pixels or other truth.
RENDERER_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class SceneSpec:
    """One synthetic clip; equal specs render to equal files and equal ground truth.

    Attributes:
        seed: Seed of everything that varies: textures, placement, identities, camera phases, time jitter.
        width: Width of the upright picture in pixels.
        height: Height of the upright picture in pixels. Odd sizes are coded as 4:4:4.
        frame_rate: Nominal frames per second.
        duration_s: Length of the recording.
        faces: People standing in the room, 0-6. The first two carry a portrait photograph, the others are
            small faces that stand further away.
        text_panels: Notices with several lines of text on the walls, 0-4.
        plates: Boxes with a number plate, 0-2.
        hands: Whether the wearer's hands appear, each reaching for an object on the table and back.
        face_size_m: Height of a face from brow to chin, in metres.
        location: Which room.
        camera_motion: ``walk`` sways and turns slowly with head bob, ``look_around`` turns widely on the
            spot, ``still`` does not move at all, ``fast`` turns faster than any stability gate should accept.
        blur_sigma_px: Gaussian blur of the picture, as if out of focus; 0 for a sharp picture.
        pitch_down_deg: Angle of the lens below the horizon; negative above it. By default the camera looks ahead, or
            at the hands.
        shake_deg: Amplitude of a quick shake of heading and pitch, in degrees, as of a loose mount.
        covered_s: First and last second of a stretch in which something lies over the lens.
        smudge_xy: Middle of a smudge on the lens, as shares of width and height.
        brightness: Factor on the pixel values; below about 0.2 the clip counts as under-exposed.
        dropped_frames: Nominal frame numbers that are missing in the file; the time stamps keep the gap.
        rotation_deg: Clockwise turn (0, 90, 180, 270) that makes the coded picture upright; written as a
            display matrix.
        variable_rate: Whether the time between frames varies.
        audio: Whether the file has a sound track.
        location_metadata: Whether the container carries a position, a time of creation and a person's name.
        start_offset_s: Presentation time of the first frame.
    """

    seed: int = 0
    width: int = 1280
    height: int = 720
    frame_rate: Fraction = Fraction(30)
    duration_s: float = 6.0
    faces: int = 0
    text_panels: int = 0
    plates: int = 0
    hands: bool = True
    face_size_m: float = 0.22
    location: Location = "kitchen"
    camera_motion: CameraMotion = "walk"
    blur_sigma_px: float = 0.0
    pitch_down_deg: float | None = None
    shake_deg: float = 0.0
    covered_s: tuple[float, float] | None = None
    smudge_xy: tuple[float, float] | None = None
    brightness: float = 1.0
    dropped_frames: tuple[int, ...] = ()
    rotation_deg: int = 0
    variable_rate: bool = False
    audio: bool = False
    location_metadata: bool = False
    start_offset_s: float = 0.0

    def __post_init__(self) -> None:
        _require_range("width", self.width, 32, 7680)
        _require_range("height", self.height, 32, 7680)
        _require_range("frame_rate", float(self.frame_rate), 1, 240)
        _require_range("duration_s", self.duration_s, 1 / float(self.frame_rate), 3600)
        _require_range("faces", self.faces, 0, MAX_FACES)
        _require_range("text_panels", self.text_panels, 0, MAX_TEXT_PANELS)
        _require_range("plates", self.plates, 0, MAX_PLATES)
        _require_range("face_size_m", self.face_size_m, 0.05, 0.5)
        _require_range("blur_sigma_px", self.blur_sigma_px, 0, 100)
        _require_range("shake_deg", self.shake_deg, 0, 20)
        if self.pitch_down_deg is not None:
            _require_range("pitch_down_deg", self.pitch_down_deg, -90, 90)
        if self.covered_s is not None and not 0 <= self.covered_s[0] <= self.covered_s[1]:
            raise ValueError(f"covered_s: expected two seconds in order, got {self.covered_s}")
        for share in self.smudge_xy or ():
            _require_range("smudge_xy", share, 0, 1)
        _require_range("brightness", self.brightness, 0, 4)
        _require_range("start_offset_s", self.start_offset_s, 0, 3600)
        _require_choice("location", self.location, ("kitchen", "office", "workshop"))
        _require_choice("camera_motion", self.camera_motion, ("walk", "look_around", "still", "fast"))
        _require_choice("rotation_deg", self.rotation_deg, (0, 90, 180, 270))
        outside = [frame for frame in self.dropped_frames if not 0 <= frame < self.nominal_frame_count]
        if outside:
            raise ValueError(
                f"dropped_frames: expected numbers from 0 to {self.nominal_frame_count - 1}, got {outside}"
            )
        if len(set(self.dropped_frames)) == self.nominal_frame_count:
            raise ValueError(
                f"dropped_frames: expected at least one frame to be left of {self.nominal_frame_count}"
            )

    @property
    def nominal_frame_count(self) -> int:
        """Frames of the recording before any are dropped."""
        return max(1, round(self.duration_s * float(self.frame_rate)))

    def to_json_dict(self) -> dict[str, Any]:
        """The spec as JSON-serialisable values."""
        values = asdict(self)
        values["frame_rate"] = str(self.frame_rate)
        values["dropped_frames"] = list(self.dropped_frames)
        for name in ("covered_s", "smudge_xy"):
            if values[name] is not None:
                values[name] = list(values[name])
        return values

    @classmethod
    def from_json_dict(cls, values: dict[str, Any]) -> SceneSpec:
        """The spec that :meth:`to_json_dict` described."""
        restored = dict(values)
        restored["frame_rate"] = Fraction(restored["frame_rate"])
        restored["dropped_frames"] = tuple(restored["dropped_frames"])
        for name in ("covered_s", "smudge_xy"):
            if restored.get(name) is not None:
                restored[name] = tuple(restored[name])
        return cls(**restored)


def _require_range(name: str, value: float, lowest: float, highest: float) -> None:
    if not lowest <= value <= highest:
        raise ValueError(f"{name}: expected {lowest:g} to {highest:g}, got {value}")


def _require_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: expected one of {choices}, got {value!r}")
