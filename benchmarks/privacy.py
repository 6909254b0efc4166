"""The privacy pass: what it costs, what it finds, what it leaves recognisable; with deface beside it.

Recall on images and over time, cost against a bare transcode, irreversibility. Real material is found through
``EGO_TESTDATA``; without it those rows say so.
"""

from __future__ import annotations

import _privacy_cost
import _privacy_faces
import _privacy_irreversibility
import _privacy_text_plates
import _privacy_time
from _harness import Reporter, parse_arguments

PARTS = {
    "cost": _privacy_cost.run,
    "faces": _privacy_faces.run,
    "text": _privacy_text_plates.run,
    "time": _privacy_time.run,
    "irreversibility": _privacy_irreversibility.run,
}


def main() -> None:
    options = parse_arguments(__doc__, parts=tuple(PARTS))
    reporter = Reporter("privacy")
    # Each part has a quick form; all of them together take longer than a quick run may.
    for name in options.part or (("cost",) if options.quick else PARTS):
        PARTS[name](reporter, quick=options.quick, clip=options.clip)


if __name__ == "__main__":
    main()
