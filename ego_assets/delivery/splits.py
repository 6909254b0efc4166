"""Splits by collector: nobody is in two of them, so that a model is never tested on people it has seen."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from ego_assets.delivery.definition import SPLITS, SplitShares


def assign_splits(
    duration_s: Mapping[str, float],
    shares: SplitShares,
    *,
    seed: int = 0,
    before: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Which split each collector belongs to.

    Collectors with most time are placed first, each where most is missing; equal ones in an order that the seed
    decides. Who was placed in an earlier version stays there, whatever the shares are now, so that a test person never
    becomes a training person.

    Args:
        duration_s: Recorded time by collector, in seconds.
        shares: Shares of the splits.
        seed: Decides between equal collectors.
        before: Splits of an earlier version, by collector.

    Returns:
        Split by collector. With fewer collectors than splits some splits are empty.
    """
    wanted = dict(zip(SPLITS, shares.as_tuple(), strict=True))
    # Also where the split has no share any more: a test person must never become a training person.
    kept = {name: split for name, split in (before or {}).items() if name in duration_s and split in wanted}
    total_s = sum(duration_s.values())
    missing_s = {split: share * total_s for split, share in wanted.items() if share > 0}
    for name, split in kept.items():
        missing_s[split] = missing_s.get(split, 0.0) - duration_s[name]
    assigned = dict(kept)
    for name in sorted(duration_s.keys() - kept.keys(), key=lambda one: (-duration_s[one], _lot(one, seed))):
        # Of equally empty splits the first one: training.
        split = max(
            (candidate for candidate, share in wanted.items() if share > 0),
            key=lambda candidate: missing_s[candidate],
        )
        assigned[name] = split
        missing_s[split] -= duration_s[name]
    return assigned


def _lot(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {name}".encode()).digest()
