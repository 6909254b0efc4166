"""Keep a small project in the present formats, so that later versions can prove that they open it.

Run it once for every release that changes a format, and commit the file that it names. It renders a synthetic clip,
takes it through every layer with the local profile, delivers it in all formats, and packs database, store, vault and
delivery.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
from fractions import Fraction
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
FIXTURES = PROJECT / "ego_assets_tests" / "fixtures"
#: A place that says nothing about the machine: paths are kept in the database.
PLACE = Path("/srv/ego_assets_fixture")
#: Opens the fixture's vault and nothing else.
VAULT_KEY = "ZWdvX2Fzc2V0cyBmaXh0dXJlIHZhdWx0IGtleSAwMSE="
KEPT = ("metadata.db", "store", "vault", "deliveries")


def main() -> int:
    """Make the fixture; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="name of the fixture, such as project_0.1.0")
    options = parser.parse_args()
    if PLACE.exists():
        print(f"{PLACE} exists: remove it first.")
        return 1
    target = FIXTURES / f"{options.name}.tar.gz"
    sys.path.insert(0, str(PROJECT))
    from ego_assets.synth import SceneSpec, render_clip

    try:
        PLACE.mkdir(parents=True)
        clip = PLACE / "clips" / "kitchen.mp4"
        clip.parent.mkdir()
        render_clip(SceneSpec(width=256, height=144, frame_rate=Fraction(10), duration_s=1.2), clip)
        environment = {
            **os.environ,
            "EGO_DATA_DIR": str(PLACE / "data"),
            "EGO_VAULT_KEY": VAULT_KEY,
            "EGO_FREE_DISK_RESERVE_BYTES": "0",
            "EGO_FRAMES_PER_SECOND": "3",
        }
        command = [sys.executable, "-m", "ego_assets.cli"]
        steps = (
            ("ingest", str(clip), "--collector", "c001", "--activity", "cooking", "--location", "kitchen"),
            ("run",),
            ("deliver", "--name", "all", "--formats", "folder,webdataset,hf,lerobot,egovid,hdf5"),
        )
        for step in steps:
            subprocess.run([*command, *step], env=environment, check=True)
        FIXTURES.mkdir(exist_ok=True)
        with tarfile.open(target, "w:gz") as tar:
            for name in KEPT:
                tar.add(PLACE / "data" / name, arcname=name)
    finally:
        shutil.rmtree(PLACE, ignore_errors=True)
    print(f"{target.relative_to(PROJECT)}: {target.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
