"""A small project that faults happen to, children that work on it, and what one fault did."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ego_assets_tests.faults import material, worker
from ego_assets_tests.faults.injection import Fault
from ego_assets_tests.faults.invariants import (
    Findings,
    Versions,
    check_leftovers,
    check_readable,
    examine,
    pointers_of,
    reading,
    versions_of,
)

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerProcess

    from ego_assets.project import Project

ROOT = Path(__file__).resolve().parents[2]
#: No child of a small project takes longer, however busy the machine is.
PATIENCE_S = 240.0

_forkserver = multiprocessing.get_context("forkserver")


class ChildFailed(Exception):
    """A child without a fault did not do its work."""


class ServedDamaged(Exception):
    """Damage was not found, or something was made from it."""


@dataclass
class Outcome:
    """What one fault did.

    Attributes:
        kind: Kind of the fault.
        what: The fault in words.
        injected: Whether it happened; a random moment may come after the work is done.
        findings: What does not hold at the end.
        half_written: What could be read while the fault lasted and right after.
        recovered: Whether the project ended as an undisturbed one, after `--retry-failed` at the latest.
        retried: Whether it needed `--retry-failed`.
        seconds: How long it all took.
    """

    kind: str
    what: str
    injected: bool = True
    findings: Findings = field(default_factory=Findings)
    half_written: list[str] = field(default_factory=list)
    recovered: bool = False
    retried: bool = False
    seconds: float = 0.0

    @property
    def problems(self) -> list[str]:
        """Everything that is wrong."""
        found = [
            *self.findings.violations,
            *(f"while the fault lasted: {text}" for text in self.half_written),
        ]
        return found if self.recovered else [*found, f"not recovered: {self.findings.flagged}"]


class Ground:
    """A folder in which one project after another is set up, disturbed and examined.

    The project always lies at the same path, because paths of the store are part of manifests.

    Args:
        folder: Where; made.
        options: Settings of the project that differ from the harness's.
    """

    def __init__(self, folder: Path, *, options: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.options = dict(options or {})
        self.data = folder / "data"
        self.originals: dict[str, str] = {}
        self.reference: Versions = {}
        #: Operations of an undisturbed run by action of a fault and layer.
        self.counts: Mapping[str, Mapping[str, int]] = {}
        self.seconds = 0.0
        self._report = folder / "report.json"
        folder.mkdir(parents=True, exist_ok=True)

    # --- states of the project ------------------------------------------------------------------------

    def prepare(self, clips: Path) -> None:
        """Make the states that faults start from: uploads only, and everything done.

        Args:
            clips: Folder with the rendered clips.
        """
        self._clear()
        self.originals = material.copy_to(self.data / "uploads", material=clips)
        self._keep("fresh")
        self.work()
        self.start_from("fresh")
        started = time.monotonic()
        self.work()
        self.seconds = time.monotonic() - started
        self.counts = json.loads(self._report.read_text())["counts"]
        with self.project() as project:
            self.reference = versions_of(project)
            problems = examine(project, originals=self.originals, reference=self.reference).violations
        if problems:
            raise ChildFailed(f"an undisturbed run leaves: {problems}")
        self._keep("complete")

    def start_from(self, state: str) -> None:
        """Set the project up as it was in a state: ``fresh`` or ``complete``."""
        self._clear()
        shutil.copytree(self.folder / "states" / state, self.data, symlinks=True)

    def _keep(self, state: str) -> None:
        shutil.copytree(self.data, self.folder / "states" / state, symlinks=True)

    def _clear(self) -> None:
        """Take the project of the fault before away."""
        for folder in (self.data, self.folder / "tmp"):
            shutil.rmtree(folder, ignore_errors=True)
        (self.folder / "tmp").mkdir()

    @contextmanager
    def project(self) -> Iterator[Project]:
        """The project, opened in this process."""
        from resources import platform

        project = worker.open_project(self.data, self.options)
        try:
            yield project
        finally:
            project.database.close()
            platform._open_database.cache_clear()

    # --- children -------------------------------------------------------------------------------------

    def child(
        self, fault: Fault | None = None, *, mode: worker.Mode = "layers", arguments: Sequence[str] = ()
    ) -> ForkServerProcess:
        """Start a child and return when its work begins."""
        started = self.folder / f"started-{time.monotonic_ns()}"
        for path in (self._report, self._report.with_suffix(".error")):
            path.unlink(missing_ok=True)
        _use_forkserver()
        process = _forkserver.Process(
            target=worker.work,
            args=(self.data, self.options),
            kwargs={
                "mode": mode,
                "arguments": tuple(arguments),
                "fault": fault,
                "report": self._report,
                "started": started,
            },
        )
        process.start()
        deadline = time.monotonic() + PATIENCE_S
        while not started.exists() and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.005)
        started.unlink(missing_ok=True)
        return process

    def wait(self, process: ForkServerProcess) -> int:
        """Wait for the end of a child; returns its exit status, negative for a signal."""
        process.join(PATIENCE_S)
        if process.is_alive():
            process.kill()
            process.join()
            raise ChildFailed(f"a child did not end within {PATIENCE_S:.0f} s")
        assert process.exitcode is not None
        return process.exitcode

    def work(self, *, mode: worker.Mode = "layers", arguments: Sequence[str] = ()) -> None:
        """Let a child without a fault do what is pending.

        Raises:
            ChildFailed: It met an error that is none of a clip.
        """
        status = self.wait(self.child(mode=mode, arguments=arguments))
        error = self._report.with_suffix(".error")
        if error.exists() or status not in (0, 1):
            said = error.read_text() if error.exists() else ""
            raise ChildFailed(f"a child without a fault ended with {status}: {said}")

    def hits(self) -> int:
        """How often the fault of the last child happened; 1 for one that was killed."""
        try:
            return int(json.loads(self._report.read_text())["hits"])
        except (FileNotFoundError, ValueError):
            return 1

    # --- one fault ------------------------------------------------------------------------------------

    def disturb(
        self,
        kind: str,
        what: str,
        fault: Callable[[Ground], bool],
        *,
        state: str = "fresh",
        mode: worker.Mode = "layers",
        second_run: bool = False,
        readers: bool = True,
        corrupts: bool = False,
    ) -> Outcome:
        """Let one fault happen, work on without it, and examine the project.

        Args:
            kind: Kind of the fault.
            what: The fault in words.
            fault: Makes the fault happen to the project, takes it away again, and returns whether it happened.
            state: What the project starts from.
            mode: How the work is done afterwards.
            second_run: Run once more and find that nothing changes.
            readers: Read while the fault lasts.
            corrupts: The fault itself damages what was committed, so that reading proves nothing.
        """
        started = time.monotonic()
        outcome = Outcome(kind=kind, what=what)
        self.start_from(state)
        with self.project() as project:
            if corrupts:
                try:
                    outcome.injected = fault(self)
                except ServedDamaged as error:
                    outcome.half_written.append(str(error))
            else:
                with reading(project, interval_s=0.02 if readers else None) as reader:
                    outcome.injected = fault(self)
                after = Findings()
                check_readable(project, after)
                outcome.half_written += [*reader.wrong, *after.half_written]
        try:
            self.work(mode=mode)
            outcome.findings = self.examine()
            if outcome.findings.flagged and not outcome.findings.violations:
                outcome.retried = True
                self.work(mode=mode, arguments=["--retry-failed"])
                outcome.findings = self.examine()
            if second_run:
                self._run_again(outcome.findings, mode)
        except ChildFailed as error:
            outcome.findings.lost.append(str(error))
        outcome.recovered = not outcome.findings.flagged and not outcome.findings.lost
        outcome.seconds = time.monotonic() - started
        return outcome

    def examine(self) -> Findings:
        """Everything that must hold now."""
        with self.project() as project:
            findings = examine(project, originals=self.originals, reference=self.reference)
            self.tidy(project)
            check_leftovers(project, findings)
        return findings

    def tidy(self, project: Project) -> None:
        """Housekeeping, as if everything were old enough."""
        from ego_assets.delivering import DELIVERY_NAME
        from ego_assets.delivery.dataset import clean_staging
        from ego_assets.execution import RUNNING_FOLDER, forget_notes

        project.store.clean_staging(older_than_s=0)
        project.vault.remove_unfinished()
        forget_notes(project.settings.root / RUNNING_FOLDER, older_than_s=0)
        clean_staging(project.settings.deliveries / DELIVERY_NAME, older_than_s=0)

    def _run_again(self, findings: Findings, mode: worker.Mode) -> None:
        with self.project() as project:
            before = pointers_of(project), project.database.deliveries()
        self.work(mode=mode)
        with self.project() as project:
            if (pointers_of(project), project.database.deliveries()) != before:
                findings.inconsistent.append("a second run changed something")


def _use_forkserver() -> None:
    """Let children be forked from a process that has imported everything."""
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path for path in paths if path))
    _forkserver.set_forkserver_preload(["ego_assets_tests.faults.warm"])


def in_child(fault: Fault, **options: Any) -> Callable[[Ground], bool]:
    """A fault that happens inside a child."""

    def happen(ground: Ground) -> bool:
        ground.wait(ground.child(fault, **options))
        return ground.hits() > 0

    return happen


def signalled(number: signal.Signals, after_s: float, **options: Any) -> Callable[[Ground], bool]:
    """A signal that reaches a child some time after its work began."""

    def happen(ground: Ground) -> bool:
        process = ground.child(**options)
        process.join(after_s)
        alive = process.is_alive()
        if alive and process.pid is not None:
            os.kill(process.pid, number)
        ground.wait(process)
        return alive

    return happen
