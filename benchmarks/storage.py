"""The artifact store against plain files, range reads from S3, and what decrypting originals costs."""

from __future__ import annotations

import _storage_archive
import _storage_vault
from _harness import Reporter, parse_arguments

PARTS = ("archive", "range", "vault")


def main() -> None:
    options = parse_arguments(__doc__, parts=PARTS)
    parts = options.part or PARTS
    reporter = Reporter("storage")
    if "archive" in parts:
        _storage_archive.run(reporter, quick=options.quick)
    if "range" in parts:
        _storage_archive.run_range(reporter, quick=options.quick)
    if "vault" in parts:
        _storage_vault.run(reporter, quick=options.quick)


if __name__ == "__main__":
    main()
