"""The clips that the faults happen to: small, rendered once per session."""

from __future__ import annotations

import hashlib
import json
import shutil
from fractions import Fraction
from pathlib import Path

#: Seeds of the scenes. With the first one depth is given up, because nothing in view can be compared: a clip that
#: ends flagged whatever happens.
SEEDS = (0, 1)


def render(folder: Path) -> None:
    """Render the clips with their sidecars."""
    from ego_assets.synth import SceneSpec, render_clip

    folder.mkdir(parents=True, exist_ok=True)
    for seed in SEEDS:
        path = folder / f"clip_{seed}.mp4"
        spec = SceneSpec(seed=seed, width=320, height=180, duration_s=1.0, frame_rate=Fraction(15))
        render_clip(spec, path)
        sidecar = {
            "collector_id": f"collector_{seed}",
            "activity_category": "cooking",
            "location_type": "kitchen",
        }
        path.with_suffix(".json").write_text(json.dumps(sidecar))


def copy_to(folder: Path, *, material: Path) -> dict[str, str]:
    """Put the clips into an upload folder; returns the digest by name."""
    shutil.copytree(material, folder, dirs_exist_ok=True)
    return {path.name: sha256_of(path) for path in sorted(folder.glob("*.mp4"))}


def sha256_of(path: Path) -> str:
    """Digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
