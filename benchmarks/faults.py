"""Faults of every kind on a small project: what is lost, what could be read half-written, what recovers.

Equal seeds give equal faults, but where a signal meets a process depends on the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from _harness import Reporter

from ego_assets_tests.faults import material
from ego_assets_tests.faults.campaign import KINDS, Kind
from ego_assets_tests.faults.harness import Ground, Outcome
from ego_assets_tests.faults.remote import BucketGround, PostgresGround

#: A fault that comes after the work is done is drawn again, so often at most.
MAX_DRAWS = 4
TARGET_FAULTS = 100
#: With --quick only kinds that start neither Dagster nor a server, one fault of each.
SLOW = ("kill_command", "store_outage", "database_restart")


def main() -> None:
    options = parse_arguments()
    seed = options.seed if options.seed is not None else int(time.time()) % 1_000_000
    reporter = Reporter("faults")
    reporter.report("seed", seed, "number")
    started = time.monotonic()
    kinds = [kind for kind in KINDS if not (options.quick and kind.name in SLOW)]
    kinds = [kind for kind in kinds if options.kind is None or kind.name in options.kind]
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="ego_faults_") as folder, grounds(Path(folder)) as find:
        for kind in kinds:
            wanted = 1 if options.quick else max(1, round(kind.share * options.scale))
            ground = find(kind.needs)
            if isinstance(ground, str):
                reporter.report(f"{kind.name}: injected", None, "faults", better="higher", reason=ground)
                continue
            found = draw(kind, ground, seed=seed, wanted=wanted)
            report(reporter, kind.name, found)
            outcomes += found
    report(reporter, "all", outcomes, target=None if options.quick or options.kind else TARGET_FAULTS)
    reporter.report("wall time", time.monotonic() - started, "s")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one fault of each kind that is quick")
    parser.add_argument("--seed", type=int, help="draw the faults of an earlier run again")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="so many times the usual number of faults of each kind"
    )
    parser.add_argument(
        "--kind",
        action="append",
        choices=[kind.name for kind in KINDS],
        help="only this kind; may be repeated",
    )
    return parser.parse_args()


class Grounds:
    """Prepares a ground when the first kind asks for it; a text says why one cannot be had."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._made: dict[str, Ground | str] = {}

    def __call__(self, needs: str) -> Ground | str:
        """The ground, or why there is none."""
        if needs not in self._made:
            self._made[needs] = self._make(needs)
        return self._made[needs]

    def _make(self, needs: str) -> Ground | str:
        clips = self._folder / "material"
        if not clips.exists():
            material.render(clips)
        folder = self._folder / (needs or "local")
        ground: Ground
        if needs == "bucket":
            from ego_assets_tests.bucket_server import serve_s3

            ground = BucketGround(folder, server=self._stack.enter_context(serve_s3()))
        elif needs == "postgres":
            from ego_assets_tests.postgres_server import NoPostgres, start_server

            try:
                server = start_server()
            except NoPostgres as error:
                return str(error)
            self._stack.callback(server.remove)
            ground = PostgresGround(folder, server=server)
            self._stack.callback(ground.close)
        else:
            ground = Ground(folder)
        ground.prepare(clips)
        return ground


@contextlib.contextmanager
def grounds(folder: Path) -> Iterator[Grounds]:
    with contextlib.ExitStack() as stack:
        yield Grounds(folder, stack)


def draw(kind: Kind, ground: Ground, *, seed: int, wanted: int) -> list[Outcome]:
    """So many faults that happened."""
    outcomes: list[Outcome] = []
    for number in range(wanted * MAX_DRAWS):
        outcome = kind.draw(ground, seed=seed, number=number)
        for problem in outcome.problems:
            print(f"{kind.name} {number}, {outcome.what}: {problem}", file=sys.stderr)
        if outcome.injected or outcome.problems:
            outcomes.append(outcome)
        if len(outcomes) == wanted:
            break
    return outcomes


def report(
    reporter: Reporter, name: str, outcomes: Sequence[Outcome], *, target: float | None = None
) -> None:
    sums: dict[str, int] = defaultdict(int)
    for outcome in outcomes:
        findings = outcome.findings
        sums["clips lost"] += len(findings.lost)
        sums["half-written readable"] += len(findings.half_written) + len(outcome.half_written)
        sums["originals changed"] += len(findings.originals_changed)
        sums["temporary files left"] += len(findings.leftovers)
        sums["contradictions of store and database"] += len(findings.inconsistent)
        sums["needed --retry-failed"] += outcome.retried
    reporter.report(f"{name}: injected", len(outcomes), "faults", target=target, better="higher")
    for metric in (
        "clips lost",
        "half-written readable",
        "originals changed",
        "temporary files left",
        "contradictions of store and database",
    ):
        reporter.report(f"{name}: {metric}", sums[metric], "number", target=0)
    reporter.report(f"{name}: needed --retry-failed", sums["needed --retry-failed"], "faults")
    if outcomes:
        recovered = sum(outcome.recovered for outcome in outcomes) / len(outcomes)
        reporter.report(f"{name}: recovered", recovered, "share", target=1.0, better="higher")


if __name__ == "__main__":
    main()
