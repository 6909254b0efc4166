"""Deliveries: how fast shards are written and read, and what a delivery of many clips costs.

Writing a WebDataset from the store against a plain copy of the same bytes, a delivery of 1,000 small clips in every
format, and reading decoded samples through the SDK against a hand-written loop and against ``webdataset``.
"""

from __future__ import annotations

import _delivery_writing
from _harness import Reporter, parse_arguments

PARTS = ("writing", "many", "reading")


def main() -> None:
    options = parse_arguments(__doc__, parts=PARTS)
    parts = options.part or PARTS
    reporter = Reporter("delivery")
    if "writing" in parts:
        _delivery_writing.run(reporter, quick=options.quick)
    if "many" in parts:
        _delivery_writing.run_many(reporter, quick=options.quick)
    if "reading" in parts:
        import _delivery_reading

        _delivery_reading.run(reporter, quick=options.quick)


if __name__ == "__main__":
    main()
