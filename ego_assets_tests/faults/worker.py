"""What a child process of the harness does: the platform's work on one project, with a fault in it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ego_assets_tests.faults.injection import Fault, Injector

if TYPE_CHECKING:
    from ego_assets.project import Project

#: ``layers`` calls the layers one by one; ``command`` is the command line `ego-assets run` with Dagster below it.
Mode = Literal["layers", "command"]

LOG = logging.getLogger("faults")
#: How long a child waits for a lock of the database; the platform itself is more patient.
BUSY_TIMEOUT_S = 1.0


def open_project(data: Path, options: Mapping[str, Any]) -> Project:
    """The project of a data folder, on the backends without weights."""
    from ego_assets.project import Project
    from ego_assets.settings import Settings
    from ego_assets_tests.faults import backends

    backends.register()
    settings: dict[str, Any] = {
        "data_dir": data,
        "profile": str(backends.PROFILE),
        "free_disk_reserve_bytes": 0,
        "frames_per_second": 5,
        "upload_quiet_s": 0,
        **options,
    }
    return Project(Settings(_env_file=None, **settings))


def work(
    data: Path,
    options: Mapping[str, Any],
    *,
    mode: Mode = "layers",
    arguments: Sequence[str] = (),
    fault: Fault | None = None,
    report: Path | None = None,
    started: Path | None = None,
) -> None:
    """Take the uploads on and do everything that is pending; the exit status of the process says how it went.

    Args:
        data: Folder of the project.
        options: Settings that differ.
        mode: How.
        arguments: Further arguments of `ego-assets run`.
        fault: What goes wrong.
        report: Where to write how many operations there were, by layer, and how often the fault happened.
        started: Touched when the work begins.
    """
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    os.environ["TMPDIR"] = str(data.parent / "tmp")
    import tempfile

    tempfile.tempdir = None
    _hurry(fault)
    project = open_project(data, options)
    injector = Injector(root=data, fault=fault)
    injector.install()
    if started is not None:
        started.touch()
    status: int = 1
    try:
        status = _work(project, mode, arguments)
    except KeyboardInterrupt:
        status = 130
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except Exception as error:
        injector._quiet = True
        if report is not None:
            report.with_suffix(".error").write_text(f"{type(error).__name__}: {error}")
    finally:
        injector._quiet = True
        if report is not None:
            content = {"counts": dict(injector.counts), "hits": injector.hits}
            with contextlib.suppress(OSError):
                report.write_text(json.dumps(content))
        sys.stdout.flush()
        # Nothing is tidied up: what the process did not finish itself stays undone.
        os._exit(status)


def _hurry(fault: Fault | None) -> None:
    """No waiting between retries, and little for locks."""
    from ego_assets import execution
    from resources import database

    defaults = execution.run_layer.__kwdefaults__
    assert defaults is not None
    defaults["sleep"] = lambda delay_s: None
    if fault is not None:
        database.BUSY_TIMEOUT_S = BUSY_TIMEOUT_S


def _work(project: Project, mode: Mode, arguments: Sequence[str]) -> int:
    take_uploads(project)
    if mode == "command":
        return _run_command(project, arguments)
    stopped = run_pending(project, arguments)
    deliver(project)
    return 1 if stopped else 0


def take_uploads(project: Project) -> None:
    """Register what lies in the upload folder, as the sensor does; the first layer takes it into the vault."""
    from ego_assets.media.uploads import describe_upload, find_uploads

    uploads = project.settings.uploads
    for path in find_uploads(uploads):
        description = describe_upload(uploads, path)
        clip = project.intake.register(description, upload_uri=path.as_uri())
        if clip.raw_key:
            project.intake.take(clip.clip_id, path, move=True, actor="sensor:uploads")


def run_pending(project: Project, arguments: Sequence[str]) -> int:
    """Every pending layer of every clip, as `ego-assets run` orders them; returns how many stopped a clip."""
    from ego_assets.assets import LAYERS
    from ego_assets.batching import ancestors_of, essential_ancestors
    from ego_assets.execution import run_layer

    specs = {spec.name: spec for spec, _ in LAYERS}
    makes = {spec.name: make for spec, make in LAYERS}
    again = {name for name in arguments if name in specs}
    wanted = again.union(*(ancestors_of(name, specs) for name in again)) if again else set(specs)
    project.store.clean_staging()
    stopped = 0
    for plan in project.plans(retry_failed="--retry-failed" in arguments):
        pending = wanted.intersection(plan.pending) | again
        for name in (name for name in specs if name in pending):
            spec = specs[name]
            outcome = run_layer(
                spec,
                makes[name],
                plan.clip_id,
                services=project.services_with_vault() if spec.reads_original else project.services,
                run_id="faults",
                log=LOG,
                ancestors=essential_ancestors(name, specs),
            )
            if not outcome.lets_clip_pass:
                stopped += 1
                break
    return stopped


def deliver(project: Project) -> None:
    """The newest version of the delivery, by the asset itself."""
    from dagster import build_asset_context

    from ego_assets.assets.dataset_manifest import dataset_manifest
    from resources.platform import build_resources

    if project.delivery_is_current():
        return
    with build_asset_context(resources=build_resources(project.settings)) as context:
        dataset_manifest(context)


def _run_command(project: Project, arguments: Sequence[str]) -> int:
    from ego_assets import cli, terminal

    for module in (terminal, cli):
        module.open_project = lambda profile="": project  # type: ignore[attr-defined]
    sys.argv = ["ego-assets", "run", "--json", *arguments]
    with _silence():
        cli.main()
    return 0


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield
