"""Enrichment on a CPU: what every layer costs, and how right it is.

Throughput of each layer alone and of all together; depth against RGB-D and rendered truth, hands against keypoints and
predictions, masks against drawn and rendered ones, activities, duplicates among
altered copies, and whether the gates tell good clips from bad ones. Real material is found
through ``EGO_TESTDATA``; without it those rows say so.
"""

from __future__ import annotations

import _enrichment_actions
import _enrichment_depth_accuracy
import _enrichment_duplicates
import _enrichment_gates
import _enrichment_hands
import _enrichment_masks
import _enrichment_throughput
from _harness import Reporter, parse_arguments

PARTS = {
    "throughput": _enrichment_throughput.run,
    "depth": _enrichment_depth_accuracy.run,
    "hands": _enrichment_hands.run,
    "masks": _enrichment_masks.run,
    "actions": _enrichment_actions.run,
    "gates": _enrichment_gates.run,
    "duplicates": _enrichment_duplicates.run,
}


def main() -> None:
    options = parse_arguments(__doc__, parts=tuple(PARTS))
    reporter = Reporter("enrichment")
    # Each part has a quick form; all of them together take longer than a quick run may.
    for name in options.part or (("throughput",) if options.quick else PARTS):
        PARTS[name](reporter, quick=options.quick, clip=options.clip)


if __name__ == "__main__":
    main()
