"""Faults by kind, drawn with a seed: what the tests run a few of, and the benchmark a hundred."""

from __future__ import annotations

import errno
import random
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from ego_assets.verifying import verify_layers
from ego_assets_tests.faults.harness import Ground, Outcome, ServedDamaged, in_child, signalled
from ego_assets_tests.faults.injection import DELIVERY, INTAKE, Fault
from ego_assets_tests.faults.invariants import versions_of
from ego_assets_tests.faults.remote import database_restart, store_outage

#: One fault of a kind on a prepared ground.
Experiment = Callable[[Ground, random.Random], Outcome]

DAY_S = 86_400.0


def kill_at_operation(ground: Ground, rng: random.Random) -> Outcome:
    """kill -9 before one operation on a file or the database, in a layer drawn first."""
    layer, at = _place(ground, rng)
    return ground.disturb(
        "kill -9 at an operation", f"{layer}, operation {at}", in_child(Fault(layer=layer, at=at))
    )


def kill_while_made_again(ground: Ground, rng: random.Random) -> Outcome:
    """kill -9 while a layer of a finished project is made again: the version before stays readable."""
    layer, at = _place(ground, rng, between=False)
    fault = in_child(Fault(layer=layer, at=at), arguments=["--layer", layer, "--again"])
    return ground.disturb("kill -9 while made again", f"{layer}, operation {at}", fault, state="complete")


def kill_at_time(ground: Ground, rng: random.Random) -> Outcome:
    """kill -9 at a random moment, in the middle of whatever runs, native code included."""
    after_s = rng.uniform(0, ground.seconds)
    return ground.disturb("kill -9 at a moment", f"after {after_s:.3f} s", signalled(signal.SIGKILL, after_s))


def kill_command(ground: Ground, rng: random.Random) -> Outcome:
    """kill -9, Ctrl-C or SIGTERM to `ego-assets run`, with Dagster's own storage below it."""
    number = rng.choice([signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
    after_s = rng.uniform(0, 4 * ground.seconds)
    return ground.disturb(
        "a signal to `ego-assets run`",
        f"{number.name} after {after_s:.3f} s",
        signalled(number, after_s, mode="command"),
        mode="command",
    )


def end_politely(ground: Ground, rng: random.Random) -> Outcome:
    """Ctrl-C or SIGTERM in the middle of a layer."""
    number = rng.choice([signal.SIGINT, signal.SIGTERM])
    after_s = rng.uniform(0, ground.seconds)
    return ground.disturb(
        "Ctrl-C or SIGTERM", f"{number.name} after {after_s:.3f} s", signalled(number, after_s)
    )


def full_disk(ground: Ground, rng: random.Random) -> Outcome:
    """Nothing can be written any more from one operation on, or files stay small by order of the kernel."""
    if rng.random() < 0.5:
        limit = int(10 ** rng.uniform(3, 5.2))
        fault = Fault(action="error", max_file_bytes=limit)
        return ground.disturb("disk full", f"no file above {limit} bytes", in_child(fault))
    layer, at = _place(ground, rng, kind="writes")
    count = rng.choice([0, 0, 20, 1])
    fault = Fault(action="error", number=errno.ENOSPC, layer=layer, at=at, count=count)
    return ground.disturb("disk full", f"{layer}, write {at}, {count or 'all'}", in_child(fault))


def failing_disk(ground: Ground, rng: random.Random) -> Outcome:
    """Reading or writing fails with EIO, once or from then on."""
    layer, at = _place(ground, rng, kind="files")
    count = rng.choice([0, 1, 5])
    fault = Fault(action="error", number=errno.EIO, layer=layer, at=at, count=count)
    return ground.disturb("disk error", f"{layer}, operation {at}, {count or 'all'}", in_child(fault))


def read_only(ground: Ground, rng: random.Random) -> Outcome:
    """A folder of the project takes no writes any more."""
    concerned = {"vault": "raw_clip", "uploads": "raw_clip", "deliveries": DELIVERY}
    below = rng.choice(["store", "store/.staging", *concerned])
    layer = concerned.get(below) or _place(ground, rng, between=False)[0]
    fault = Fault(action="error", number=errno.EROFS, layer=layer, at=rng.randint(1, 3), count=0, below=below)
    return ground.disturb("read-only folder", f"{below} while {layer}", in_child(fault))


def little_memory(ground: Ground, rng: random.Random) -> Outcome:
    """MemoryError at one operation, or an address space that the kernel limits."""
    if rng.random() < 0.4:
        limit = int(rng.uniform(2, 120) * 2**20)
        fault = Fault(action="memory", max_memory_bytes=limit)
        return ground.disturb("memory limit", f"{limit >> 20} MiB more", in_child(fault))
    layer, at = _place(ground, rng)
    count = rng.choice([1, 0])
    fault = Fault(action="memory", layer=layer, at=at, count=count)
    return ground.disturb("memory limit", f"{layer}, operation {at}, {count or 'all'}", in_child(fault))


def failing_database(ground: Ground, rng: random.Random) -> Outcome:
    """Statements fail as they do while a database server restarts."""
    layer, at = _place(ground, rng, kind="database")
    count = rng.choice([1, 3, 20, 0])
    fault = Fault(action="database", layer=layer, at=at, count=count)
    return ground.disturb("database out of reach", f"{layer}, {count or 'all'} statements", in_child(fault))


def locked_database(ground: Ground, rng: random.Random) -> Outcome:
    """Another process holds the database for longer than anybody waits."""
    after_s, held_s = rng.uniform(0, ground.seconds), rng.uniform(0.2, 2.5)

    def happen(ground: Ground) -> bool:
        # A fault that never happens makes the child as impatient as the others.
        process = ground.child(Fault(layer="none"))
        process.join(after_s)
        alive = process.is_alive()
        with _locked(ground.data / "metadata.db"):
            process.join(held_s)
        ground.wait(process)
        return alive

    what = f"locked for {held_s:.1f} s after {after_s:.1f} s"
    return ground.disturb("database locked", what, happen, readers=False)


def clock_jump(ground: Ground, rng: random.Random) -> Outcome:
    """The time of day jumps by a day, and the process is killed later on or not."""
    layer, at = _place(ground, rng)
    jump_s = rng.choice([-1, 1]) * DAY_S * rng.uniform(0.9, 3)
    fault = Fault(action="clock", layer=layer, at=at, jump_s=jump_s)
    return ground.disturb("clock jump", f"{jump_s / DAY_S:+.1f} days in {layer}", in_child(fault))


def two_runs(ground: Ground, rng: random.Random) -> Outcome:
    """Two runs work on the same clips at once; sometimes one of them is killed."""
    killed, delay_s = rng.random() < 0.5, rng.uniform(0, ground.seconds / 2)

    def happen(ground: Ground) -> bool:
        first = ground.child()
        first.join(delay_s / 4)
        second = ground.child()
        if killed and first.pid is not None:
            first.join(delay_s)
            first.kill()
        for process in (first, second):
            ground.wait(process)
        return True

    return ground.disturb("two runs at once", "one is killed" if killed else "both end", happen)


def damaged_file(ground: Ground, rng: random.Random) -> Outcome:
    """A committed file changes on the disk: it is named, nobody makes anything of it, and it is made again."""
    layer = rng.choice([name for name in ground.counts["all"] if name not in (INTAKE, DELIVERY)])
    how = rng.choice(list(DAMAGES))
    by_verify = rng.random() < 0.4
    described: list[str] = []

    def happen(ground: Ground) -> bool:
        with ground.project() as project:
            documents = [found for found in project.store.documents() if found.layer == layer]
            document = rng.choice(documents)
            names = [entry.name for entry in document.files if entry.bytes] + ["artifact.json"]
            name = rng.choice(names)
            folder = Path(project.store.uri(document))
            path = folder.parent / name if name == "artifact.json" else folder / name
            DAMAGES[how](path, rng)
            described.append(name)
            readers = [spec.name for spec in project.specs if layer in (*spec.inputs, *spec.optional_inputs)]
        # Whoever reads the layer is made again: with it, or instead of it.
        again = rng.choice(readers) if readers and not by_verify else ""
        if again:
            ground.wait(ground.child(arguments=["--layer", again, "--again"]))
        with ground.project() as project:
            found = list(
                verify_layers(
                    project.database.clips(), project.specs, database=project.database, store=project.store
                )
            )
            named = [damage for damage in found if name in damage.message and damage.name == layer]
            if not again and not named:
                raise ServedDamaged(f"{how} of {layer}/{name} was not found: {found}")
            for key, version in versions_of(project, on_damage="").items():
                if key[1] != layer and version not in ("", ground.reference[key]):
                    raise ServedDamaged(f"{key} was made from the damaged {layer}/{name}")
        return True

    what = f"{how} of a file of {layer}, " + ("verified" if by_verify else "read by the next layer")
    outcome = ground.disturb("damaged file", what, happen, state="complete", corrupts=True)
    outcome.what += f" ({', '.join(described)})"
    return outcome


def _flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    place = rng.randrange(len(content))
    content[place] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def _cut(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def _empty(path: Path, rng: random.Random) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _remove(path: Path, rng: random.Random) -> None:
    path.unlink()


#: How a file is damaged.
DAMAGES: Mapping[str, Callable[[Path, random.Random], None]] = MappingProxyType(
    {"a flipped bit": _flip, "truncation": _cut, "zeros": _empty, "removal": _remove}
)


def _place(ground: Ground, rng: random.Random, *, between: bool = True, kind: str = "all") -> tuple[str, int]:
    """A layer, and one of its operations on the first or the second clip."""
    counts = ground.counts[kind]
    layer = rng.choice([name for name in counts if between or name not in (INTAKE, DELIVERY)])
    return layer, rng.randint(1, counts[layer])


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    connection = sqlite3.connect(path, timeout=10, isolation_level=None)
    try:
        for _ in range(200):
            try:
                connection.execute("BEGIN IMMEDIATE")
                break
            except sqlite3.OperationalError:
                time.sleep(0.01)
        yield
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    finally:
        connection.close()


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of fault.

    Attributes:
        name: Its name.
        experiment: Lets one fault of the kind happen.
        share: How many of a full campaign's faults are of it.
        needs: What it needs: nothing, ``bucket`` or ``postgres``.
    """

    name: str
    experiment: Experiment
    share: int
    needs: Literal["", "bucket", "postgres"] = ""

    def draw(self, ground: Ground, *, seed: int, number: int) -> Outcome:
        """One fault; equal seeds and numbers give equal ones."""
        # Seeded with text, which hashes alike in every process.
        return self.experiment(ground, random.Random(f"{seed}/{self.name}/{number}"))


#: All kinds, and how a full campaign of 120 faults is divided.
KINDS = (
    Kind(name="kill_at_operation", experiment=kill_at_operation, share=26),
    Kind(name="kill_while_made_again", experiment=kill_while_made_again, share=10),
    Kind(name="kill_at_time", experiment=kill_at_time, share=10),
    Kind(name="kill_command", experiment=kill_command, share=4),
    Kind(name="end_politely", experiment=end_politely, share=6),
    Kind(name="full_disk", experiment=full_disk, share=10),
    Kind(name="failing_disk", experiment=failing_disk, share=6),
    Kind(name="read_only", experiment=read_only, share=6),
    Kind(name="little_memory", experiment=little_memory, share=6),
    Kind(name="failing_database", experiment=failing_database, share=6),
    Kind(name="locked_database", experiment=locked_database, share=4),
    Kind(name="clock_jump", experiment=clock_jump, share=4),
    Kind(name="two_runs", experiment=two_runs, share=4),
    Kind(name="damaged_file", experiment=damaged_file, share=12),
    Kind(name="store_outage", experiment=store_outage, share=3, needs="bucket"),
    Kind(name="database_restart", experiment=database_restart, share=3, needs="postgres"),
)
