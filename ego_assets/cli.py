"""The ``ego-assets`` command.

Exit status: 0 all went well, 1 some clips were stopped or some files rejected, 2 the command was
called wrongly, 3 something this machine lacks or cannot reach, so that layers wait for the next run,
130 it was interrupted. Where both 1 and 3 apply it is 1.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.markup import escape
from rich.table import Table

from ego_assets.commands.audit import app as audit_app
from ego_assets.commands.collector_report import collector_report
from ego_assets.commands.deliver import deliver
from ego_assets.commands.deliveries import app as deliveries_app
from ego_assets.commands.deliveries import diff
from ego_assets.commands.erase import erase
from ego_assets.commands.gc import gc
from ego_assets.commands.incident import app as incident_app
from ego_assets.commands.models import app as models_app
from ego_assets.commands.privacy import blur, detect
from ego_assets.commands.reprocess import reprocess
from ego_assets.commands.review import app as review_app
from ego_assets.commands.similar import similar
from ego_assets.commands.vault import app as vault_app
from ego_assets.commands.verify import verify
from ego_assets.processing import process_clips
from ego_assets.schema.buckets import is_bucket_url
from ego_assets.schema.errors import (
    BackendUnavailable,
    ConfigurationError,
    EgoAssetsError,
    InsufficientDisk,
    UploadRejected,
)
from ego_assets.terminal import (
    ENVIRONMENT,
    STOPPED,
    USAGE,
    JsonOption,
    ProfileOption,
    console,
    messages,
    open_project,
    open_settings,
    print_json,
    progress_bar,
    report_error,
    stop,
)

if TYPE_CHECKING:
    from ego_assets.project import ClipStatus, Project
    from ego_assets.schema.clip import Clip

_Upload = TypeVar("_Upload")

#: What typer makes of Ctrl-C.
INTERRUPTED = 130

app = typer.Typer(
    name="ego-assets",
    help="First-person video in, de-identified and enriched training data out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(review_app)
app.add_typer(incident_app)
app.add_typer(vault_app)
app.add_typer(models_app)
app.add_typer(deliveries_app)
app.add_typer(audit_app)
app.command()(blur)
app.command()(collector_report)
app.command()(deliver)
app.command()(detect)
app.command()(diff)
app.command()(erase)
app.command()(gc)
app.command()(reprocess)
app.command()(similar)
app.command()(verify)
CollectorOption = Annotated[str, typer.Option(help="Only clips of this collector.")]


@app.command()
def demo(
    clips: Annotated[
        Path | None, typer.Option(help="Folder with your own videos; they are copied, never changed.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller and shorter synthetic clips.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Render three synthetic clips (or take your own) and process them end to end."""
    from ego_assets.media.recording import SUPPORTED_EXTENSIONS
    from ego_assets.media.uploads import find_uploads

    project = open_project()
    if clips is not None:
        if not clips.is_dir():
            stop(f"{clips} is not a folder. Give the folder that holds your videos.", USAGE)
        paths = [
            path for path in find_uploads(clips.resolve()) if path.suffix.lower() in SUPPORTED_EXTENSIONS
        ]
        if not paths:
            stop(f"{clips} holds no .mp4, .mov or .mkv files.", USAGE)
        ingested = _ingest(project, clips.resolve(), paths, {}, quiet=as_json)
    else:
        from ego_assets.synth import demo_clips

        folder = project.settings.root / "demo_clips"
        with progress_bar(as_json) as progress:
            task = progress.add_task("rendering synthetic clips", total=None)
            rendered = demo_clips(folder, quick=quick)
            progress.update(task, total=1, completed=1)
        ingested = _Ingested()
        for clip in rendered:
            ingested += _ingest(project, folder, [clip.path], clip.sidecar, quiet=as_json)
    outcome = process_clips(project, quiet=as_json)
    with progress_bar(as_json) as progress:
        task = progress.add_task("building delivery and report", total=1)
        collection_error = project.run_collection()
        progress.update(task, completed=1)
    if collection_error:
        stop(collection_error, STOPPED)
    _show_status(project, project.status(), as_json=as_json, with_paths=True)
    # A clip that a gate stops is what the demo shows; only a crash is a failure of the demo.
    if ingested.rejected or outcome.crashed:
        raise typer.Exit(STOPPED)
    raise typer.Exit(replace(outcome, stopped=0).exit_status)


@app.command()
def ingest(
    paths: Annotated[
        list[str],
        typer.Argument(help="Videos, folders of videos, or objects and prefixes such as s3://bucket/key."),
    ],
    collector: Annotated[str, typer.Option(help="Who wore the camera.")] = "",
    date: Annotated[str, typer.Option(help="Day of the recording, YYYY-MM-DD.")] = "",
    camera: Annotated[
        str, typer.Option(help="gopro_hero12, gopro_hero13, aria, realsense_d455 or other.")
    ] = "",
    location: Annotated[str, typer.Option(help="kitchen, office, workshop, outdoor or other.")] = "",
    activity: Annotated[str, typer.Option(help="What was done, such as cooking.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Copy videos into the vault and register them as clips.

    A JSON sidecar of the same name beside a video says more about it; options given here win over it.
    """
    from ego_assets.media.uploads import find_uploads, parse_fields

    options = {
        "collector_id": collector,
        "recording_date": date,
        "source_camera": camera,
        "location_type": location,
        "activity_category": activity,
    }
    given = {name: value for name, value in options.items() if value}
    try:
        parse_fields(given, source="The options")
    except UploadRejected as rejection:
        stop(str(rejection), USAGE)
    project = open_project()
    outcome = _Ingested()
    for named in paths:
        if is_bucket_url(named):
            outcome += _ingest_objects(project, named, given, quiet=as_json)
            continue
        path = Path(named)
        if not os.path.lexists(path):
            missing = f"{path} does not exist."
            messages.print(f"[red]{escape(missing)}[/red]", soft_wrap=True)
            outcome.rejected.append({"path": str(path), "code": "missing", "reason": missing})
            continue
        # A link as the last part stays one, so that it is refused.
        root = path.resolve() if path.name == ".." else path.parent.resolve() / path.name
        found = list(find_uploads(root)) if root.is_dir() and not root.is_symlink() else [root]
        if not found:
            messages.print(f"[yellow]{escape(str(path))} holds no videos.[/yellow]")
        outcome += _ingest(project, root if root.is_dir() else root.parent, found, given, quiet=as_json)
    if as_json:
        print_json(asdict(outcome))
    raise typer.Exit(STOPPED if outcome.rejected else 0)


@app.command()
def run(
    clip: Annotated[
        list[str] | None, typer.Option(help="Only this clip; may be given more than once.")
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(help="Only this layer and what it still needs; may be given more than once."),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try layers again that failed or were given up.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Run the layers although they are done.")] = False,
    profile: ProfileOption = "",
    as_json: JsonOption = False,
) -> None:
    """Process what is pending, one clip after another. Interrupt it at any time; it resumes.

    The exit status is 1 when clips were stopped, and 3 when layers were postponed because something is missing or out
    of reach: it says what, and the next run with the same profile tries again. A layer that was tried with another
    profile is left as it is (exit status 2), until --profile names one for it, or --again the layer.
    """
    from ego_assets.partitions import require_clip_id

    clip_ids = list(dict.fromkeys(require_clip_id(clip_id) for clip_id in clip or []))
    project = open_project(profile)
    known = {spec.name for spec in project.specs}
    unknown = [name for name in layer or [] if name not in known]
    if unknown:
        stop(f"No layer {', '.join(unknown)}. There are: {', '.join(s.name for s in project.specs)}.", USAGE)
    if again and not layer:
        stop("--again needs --layer, to say what to run again.", USAGE)
    outcome = process_clips(
        project, clip_ids=clip_ids, layers=layer, retry_failed=retry_failed, again=again, quiet=as_json
    )
    outdated = outcome.ran or not project.delivery_is_current()
    if outdated and (error := project.run_collection()):
        stop(error, STOPPED)
    _show_status(project, project.status(clip_ids=clip_ids), as_json=as_json)
    raise typer.Exit(outcome.exit_status)


@app.command()
def status(
    collector: CollectorOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show every clip: gates, score, layers, and what has to be done."""
    project = open_project()
    rows = project.status(collector_id=collector or None)
    if collector and not rows and not as_json:
        console.print(f"No clips of collector {escape(collector)}.")
        return
    _show_status(project, rows, as_json=as_json)


@app.command()
def release(clip: Annotated[list[str], typer.Argument(help="Clips that hold_flagged stopped.")]) -> None:
    """Let clips go on that were held because of quality flags."""
    from ego_assets.partitions import require_clip_id

    project = open_project()
    for clip_id in map(require_clip_id, clip):
        project.release(clip_id)
        console.print(f"{clip_id} goes on with the next `ego-assets run`.")


@app.command()
def reindex(as_json: JsonOption = False) -> None:
    """Rebuild the database's indexes of artifacts and embeddings from the store."""
    count = open_project().reindex()
    if as_json:
        print_json({"artifacts": count})
    else:
        console.print(f"{count} committed artifact(s) indexed.")


@app.command("try")
def try_(
    layer: Annotated[str, typer.Argument(help="Name of the layer, such as blurred_video or frames.")],
    file: Annotated[Path, typer.Argument(help="One video.")],
    out: Annotated[Path, typer.Option(help="Folder for the artifact, artifact.json and a picture of it.")],
    profile: ProfileOption = "",
    already_deidentified: Annotated[
        bool,
        typer.Option(
            "--already-deidentified", help="Skip the privacy pass; this is recorded in artifact.json."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run one layer on one file outside any project, to judge it before adopting it."""
    from ego_assets.trial import try_layer

    with progress_bar(as_json) as progress:
        task = progress.add_task(layer, total=1.0)

        def on_progress(name: str, done: float) -> None:
            progress.update(task, description=name, completed=done)

        trial = try_layer(
            layer,
            file,
            out,
            profile=profile,
            already_deidentified=already_deidentified,
            on_progress=on_progress,
        )
    if as_json:
        print_json(trial.as_dict())
        return
    for verdict in trial.gates:
        outcome = verdict.outcome.value.replace("_", " ")
        console.print(f"{verdict.spec.name}: {outcome}. {escape(verdict.message)}", soft_wrap=True)
    for path in trial.files:
        console.print(str(path), soft_wrap=True)


@app.command()
def doctor(
    profile: ProfileOption = "",
    everything: Annotated[
        bool, typer.Option("--all", help="Show backends that the profile does not use, too.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what is installed, which backends can run, what is missing and how to get it."""
    from ego_assets.doctor import downloads_missing, examine

    settings = open_settings(profile)
    findings = examine(settings)
    if as_json:
        print_json([finding.as_dict() for finding in findings])
    else:
        shown = [finding for finding in findings if finding.in_use or everything]
        colours = {"ok": "green", "missing": "red", "wrong": "red", "note": "yellow"}
        width = max(len(finding.subject) for finding in shown)
        for finding in shown:
            mark = f"[{colours[finding.state]}]{finding.state:7}[/{colours[finding.state]}]"
            line = f"{mark}  {escape(f'{finding.subject:{width}}')}  {escape(finding.found)}"
            console.print(line, soft_wrap=True)
            for advice in finding.advice.splitlines():
                console.print(f"         {escape(advice)}", soft_wrap=True)
        if len(shown) < len(findings):
            others = len(findings) - len(shown)
            console.print(f"{others} backend(s) that the profile does not use: --all shows them.")
        if downloads_missing(settings):
            command = f"ego-assets models pull --profile {settings.profile}"
            console.print(f"Fetch what can be downloaded: {escape(command)}", soft_wrap=True)
    raise typer.Exit(ENVIRONMENT if any(finding.stops_work for finding in findings) else 0)


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 3000,
) -> None:
    """Open the Dagster UI (`dagster dev`) on this project's data."""
    from ego_assets.project import prepare_ui, write_workspace

    settings = open_settings()
    prepare_ui(settings)
    workspace = write_workspace(settings)
    console.print(
        f"The UI opens on http://127.0.0.1:{port}. It has no login of its own: do not expose the port."
    )
    command = [
        sys.executable,
        "-m",
        "dagster",
        "dev",
        "-w",
        str(workspace),
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
    ]
    os.execv(sys.executable, command)


def main() -> None:
    """Entry point: expected errors become one clear line and an exit status."""
    # Being ended is as orderly as Ctrl-C: temporary copies are removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    warnings.filterwarnings("ignore", module="dagster")
    try:
        app()
    except (BackendUnavailable, InsufficientDisk) as error:
        report_error(error)
        sys.exit(ENVIRONMENT)
    except ConfigurationError as error:
        report_error(error)
        sys.exit(USAGE)
    except EgoAssetsError as error:
        report_error(error)
        sys.exit(STOPPED)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            messages.print("Interrupted. What is finished is kept; the same command goes on from here.")
        raise


def _ingest(
    project: Project, root: Path, paths: list[Path], given: Mapping[str, Any], *, quiet: bool
) -> _Ingested:
    """Copy files into the vault."""
    return _ingest_each(
        {str(path): path for path in paths},
        lambda path: project.ingest(root, path, given),
        lambda path, rejection: _record_rejection(project, path, rejection),
        quiet=quiet,
    )


def _ingest_objects(project: Project, url: str, given: Mapping[str, Any], *, quiet: bool) -> _Ingested:
    """Copy objects of a bucket into the vault."""
    uploads, found = project.objects_at(url)
    if not found:
        messages.print(f"[yellow]{escape(url)} holds no videos.[/yellow]")
    return _ingest_each(
        {uploads.uri(info.key): info for info in found},
        lambda info: project.ingest_object(uploads, info, given),
        lambda info, rejection: project.intake.reject_unread(
            uploads.uri(info.key), rejection, actor="cli:ingest"
        ),
        quiet=quiet,
    )


def _ingest_each(
    uploads: Mapping[str, _Upload],
    ingest_one: Callable[[_Upload], Clip],
    record_rejection: Callable[[_Upload, UploadRejected], object],
    *,
    quiet: bool,
) -> _Ingested:
    """Ingest uploads by their path or address, and say what became of each."""
    from ego_assets.schema.errors import DuplicateUpload

    outcome = _Ingested()
    with progress_bar(quiet) as progress:
        task = progress.add_task("ingesting", total=len(uploads))
        for path, upload in uploads.items():
            name = path.rpartition("/")[2]
            progress.update(task, description=f"ingesting {escape(name)}")
            try:
                clip = ingest_one(upload)
                progress.console.print(f"{escape(name)} is clip [bold]{clip.clip_id}[/bold]", soft_wrap=True)
                outcome.ingested.append({"path": path, "clip_id": clip.clip_id})
            except DuplicateUpload as duplicate:
                progress.console.print(f"[yellow]{escape(str(duplicate))}[/yellow]", soft_wrap=True)
                outcome.duplicates.append({"path": path, "clip_id": duplicate.first_clip_id})
            except UploadRejected as rejection:
                progress.console.print(f"[red]{escape(str(rejection))}[/red]", soft_wrap=True)
                outcome.rejected.append({"path": path, "code": rejection.code, "reason": str(rejection)})
                record_rejection(upload, rejection)
            progress.advance(task)
    return outcome


def _record_rejection(project: Project, path: Path, rejection: UploadRejected) -> None:
    """Keep the reason in the vault's rejected/ folder; the file itself stays where it is."""
    if os.path.lexists(path):
        project.intake.reject(path, rejection, move=False, actor="cli:ingest")


@dataclass
class _Ingested:
    """What became of the files that were given."""

    ingested: list[dict[str, str]] = field(default_factory=list)
    duplicates: list[dict[str, str]] = field(default_factory=list)
    rejected: list[dict[str, str]] = field(default_factory=list)

    def __add__(self, other: _Ingested) -> _Ingested:
        return _Ingested(
            self.ingested + other.ingested, self.duplicates + other.duplicates, self.rejected + other.rejected
        )


def _show_status(
    project: Project, rows: list[ClipStatus], *, as_json: bool, with_paths: bool = False
) -> None:
    """The table of clips, and where the results are."""
    paths = project.result_paths()
    if as_json:
        print_json({"clips": [row.as_dict() for row in rows], **({"paths": paths} if with_paths else {})})
        return
    if not rows:
        console.print("No clips yet. Start with `ego-assets ingest PATH` or `ego-assets demo`.")
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("clip", min_width=36)
    table.add_column("passed / warned\n/ failed / not eval.")
    table.add_column("score", justify="right")
    table.add_column("layers")
    total = len(project.specs)
    for row in rows:
        counts = (
            (row.passed, "green"),
            (row.warned, "yellow"),
            (row.failed, "red"),
            (row.not_evaluated, "dim"),
        )
        shown = (f"[{style}]{count}[/{style}]" if count else "0" for count, style in counts)
        table.add_row(
            f"[bold]{escape(row.name)}[/bold]\n{row.clip_id}",
            " / ".join(shown),
            "-" if row.score is None else f"{row.score:.2f}",
            f"{len(row.layers)} of {total}",
        )
    console.print(table)
    said: dict[str, str] = {}
    for row in rows:
        console.print(f"\n[bold]{escape(row.name)}[/bold]: {', '.join(row.layers) or 'no layers yet'}")
        for note in row.notes:
            # What holds for many clips is said once.
            first = said.setdefault(note.replace(row.clip_id, "..."), row.name)
            about, colon, _ = note.partition(": ")
            again = colon and first != row.name
            console.print(f"  - {escape(f'{about}: as for {first}' if again else note)}")
    left_out = project.left_out_of_delivery() if with_paths else {}
    if left_out:
        console.print("\n[bold]Not delivered[/bold]")
        for clip_id, reason in left_out.items():
            console.print(f"  - {clip_id}: {escape(reason)}")
        console.print("  Look at what waits for a person with `ego-assets review`.")
    if with_paths:
        console.print()
        for name, path in paths.items():
            console.print(f"{name}: {escape(path)}", soft_wrap=True)
        console.print("Look at it all in the Dagster UI with `make ui` (or `ego-assets ui`).")


if __name__ == "__main__":
    main()
