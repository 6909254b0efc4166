"""``ego-assets deliveries`` and ``ego-assets diff``: what was delivered, whether it is still so, and taking it back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from ego_assets.terminal import STOPPED, JsonOption, actor, console, open_project, print_json, progress_bar

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from resources.database import Delivery

app = typer.Typer(
    name="deliveries", help="What was delivered, and whether it is still so.", no_args_is_help=True
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="Such as kitchen-v1@v0002.")]


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """All versions of all deliveries, oldest first."""
    made = open_project().database.deliveries()
    if as_json:
        print_json([_line(one) for one in made])
        return
    for one in made:
        line = _line(one)
        console.print(
            f"{one.name}@{one.version}  {one.created_at:%Y-%m-%d %H:%M}  {one.clip_count} clip(s)  "
            f"{one.bytes / 1e6:.1f} MB  {','.join(line['formats'])}  {line['note']}".rstrip(),
            soft_wrap=True,
        )
    if not made:
        console.print("Nothing was delivered yet: use `ego-assets run` or `ego-assets deliver`.")


@app.command()
def show(delivery: NameArgument, as_json: JsonOption = False) -> None:
    """What a version holds, the newest one unless another is named, and which corrections there are."""
    from ego_assets.delivery.corrections import CORRECTIONS, read_corrections
    from ego_assets.delivery.verify import describe_record

    project = open_project()
    name, version = _parts(delivery)
    one = project.deliveries.versions(name, version)[-1]
    corrections = read_corrections(project.deliveries.root(name) / CORRECTIONS)
    shown: dict[str, Any] = {
        **_line(one),
        "definition": dict(one.definition),
        "record": describe_record(Path(one.uri)),
        "clips": [clip.clip_id for clip in project.database.delivery_clips(one.id)],
        "corrections": [asdict(entry) for entry in corrections],
    }
    if as_json:
        print_json(shown)
        return
    for key in ("name", "version", "uri", "created_at", "clip_count", "bytes", "formats", "note"):
        console.print(f"{key}: {escape(str(shown[key]))}", soft_wrap=True)
    for clip_id in shown["clips"]:
        console.print(f"  {clip_id}")
    for entry in corrections:
        console.print(
            f"correction: {entry.clip_id} {entry.action} before {entry.version} ({entry.reason})",
            soft_wrap=True,
        )


@app.command()
def verify(delivery: NameArgument, as_json: JsonOption = False) -> None:
    """Read every file of the versions again, compare it with its digest, and open a sample of every format."""
    from ego_assets.delivery.verify import check_formats, compare_digests

    maker = open_project().deliveries
    name, version = _parts(delivery)
    found: dict[str, list[str]] = {}
    for one in maker.versions(name, version):
        folder = Path(one.uri)
        with progress_bar(as_json) as progress:
            task = progress.add_task(f"{one.name}@{one.version}", total=None)

            def on_progress(done: int, task: TaskID = task, progress: Progress = progress) -> None:
                progress.update(task, completed=done)

            if folder.is_dir():
                compared = compare_digests(folder, on_progress=on_progress)
                found[one.version] = [*compared, *check_formats(folder)]
            else:
                found[one.version] = [f"{folder} is gone"]
    problems = [f"{name}@{version}: {one}" for version, several in found.items() for one in several]
    if as_json:
        print_json({"name": name, "versions": found})
    else:
        for problem in problems:
            console.print(f"[red]{escape(problem)}[/red]", soft_wrap=True)
        console.print(f"{len(found)} version(s) compared, {len(problems)} problem(s).")
    raise typer.Exit(STOPPED if problems else 0)


@app.command()
def withdraw(
    delivery: NameArgument,
    clip: Annotated[
        list[str] | None,
        typer.Option(help="Only this clip; may be given more than once. Without: everything."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Take clips out of a delivery for good, or whole versions: their files are removed, consumers are told.

    Shards and tables cannot be cut: whole files go with a clip. A corrected version without the clips is written by the
    next `ego-assets run`.
    """
    from ego_assets.partitions import require_clip_id

    maker = open_project().deliveries
    name, version = _parts(delivery)
    clip_ids = list(dict.fromkeys(require_clip_id(clip_id) for clip_id in clip or []))
    versions = maker.versions(name, version)
    if not yes:
        what = f"{len(clip_ids)} clip(s)" if clip_ids else "everything"
        typer.confirm(
            f"Remove {what} from {', '.join(one.version for one in versions)} of {name}?", abort=True
        )
    removed = maker.take_back(name, version=version, clip_ids=clip_ids, actor=actor())
    if as_json:
        print_json({"name": name, "removed": removed})
        return
    for taken, names in removed.items():
        console.print(f"{name}@{taken}: {len(names)} file(s) or folder(s) removed.")


def diff(
    name: Annotated[str, typer.Argument(help="Name of the delivery.")],
    before: Annotated[str, typer.Argument(help="Earlier version, such as v0001.")],
    after: Annotated[str, typer.Argument(help="Later version.")],
    as_json: JsonOption = False,
) -> None:
    """What changed between two versions: clips added, removed and changed, with their layers and splits."""
    from ego_assets.delivery.diff import diff_versions

    maker = open_project().deliveries
    first, second = (Path(maker.versions(name, version)[0].uri) for version in (before, after))
    found = diff_versions(first, second)
    if as_json:
        print_json(found.as_dict())
        return
    for size, version in ((found.before, before), (found.after, after)):
        splits = ", ".join(f"{count} {split}" for split, count in size.splits.items())
        console.print(
            f"{version}: {size.clips} clip(s), {size.hours:.3f} hours{f' ({splits})' if splits else ''}"
        )
    for clip_id in found.added:
        console.print(f"added    {clip_id}")
    for clip_id in found.removed:
        console.print(f"removed  {clip_id}")
    for change in found.changed:
        facts = [f"{key} {old} -> {new}" for key, (old, new) in change.facts.items()]
        console.print(
            f"changed  {change.clip_id}: {escape(', '.join([*change.layers, *facts]))}", soft_wrap=True
        )
    console.print(f"{found.unchanged} clip(s) are the same.")


def _parts(text: str) -> tuple[str, str]:
    """Name and version of ``name@version``."""
    name, _, version = text.partition("@")
    return name, version


def _line(one: Delivery) -> dict[str, Any]:
    from ego_assets.delivery.recall import recalled_clips

    folder = Path(one.uri)
    recalled = recalled_clips(folder)
    note = "its folder is gone" if not folder.is_dir() else ""
    note = f"{len(recalled)} clip(s) were recalled" if recalled else note
    return {
        "name": one.name,
        "version": one.version,
        "uri": one.uri,
        "created_at": one.created_at.isoformat(),
        "clip_count": one.clip_count,
        "bytes": one.bytes,
        "formats": list(one.definition.get("formats", ["folder"])),
        "note": note,
    }
