"""``ego-assets blur`` and ``ego-assets detect``: the privacy pass on files, without a project."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from ego_assets.schema.errors import ConfigurationError, MediaError
from ego_assets.schema.gates import GateOutcome
from ego_assets.schema.vocabulary import AudioPolicy, RedactionMethod
from ego_assets.terminal import (
    STOPPED,
    USAGE,
    JsonOption,
    ProfileOption,
    console,
    messages,
    open_settings,
    print_json,
    progress_bar,
    report_error,
)


def blur(
    source: Annotated[Path, typer.Argument(metavar="IN", help="One video.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The de-identified MP4 file to write.")],
    report: Annotated[Path | None, typer.Option(help="Write the PII report to this JSON file.")] = None,
    redaction: Annotated[RedactionMethod, typer.Option(help="How regions are covered.")] = "blur",
    audio: Annotated[AudioPolicy, typer.Option(help="Voices identify people: dropped by default.")] = "drop",
    plates: Annotated[bool, typer.Option(help="Look for number plates, too.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT and the report.")] = False,
    profile: ProfileOption = "",
    as_json: JsonOption = False,
) -> None:
    """De-identify one video: the very pass of a project, with its leak check and its gates."""
    from ego_assets.single_file import blur_file

    with progress_bar(as_json) as progress:
        task = progress.add_task(escape(source.name), total=1.0)
        made = blur_file(
            source,
            target,
            settings=open_settings(profile),
            redaction=redaction,
            audio=audio,
            plates=plates,
            report=report,
            overwrite=overwrite,
            progress=lambda done, total: progress.update(task, completed=done / max(1, total)),
        )
    if as_json:
        print_json(
            {
                "path": str(made.path),
                "report": made.report.to_dict(),
                "gates": {verdict.spec.name: verdict.outcome.value for verdict in made.verdicts},
            }
        )
        return
    found = ", ".join(f"{kind.tracks} {name}" for name, kind in made.report.kinds.items())
    console.print(f"{escape(str(made.path))}: {found} covered.", soft_wrap=True)
    for verdict in made.verdicts:
        if verdict.outcome is not GateOutcome.PASSED:
            console.print(f"  - {escape(verdict.message)}", soft_wrap=True)


def detect(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures.")],
    profile: ProfileOption = "",
    as_json: JsonOption = False,
) -> None:
    """Print the faces, text regions, screens and plates of pictures: boxes in pixels, and scores."""
    from ego_assets.single_file import detect_in_image

    settings = open_settings(profile)
    found: list[dict[str, Any]] = []
    failed = False
    for path in images:
        try:
            found.append(detect_in_image(path, settings=settings))
        except (ConfigurationError, MediaError) as error:
            report_error(error)
            failed = True
    if as_json:
        print_json(found)
    for picture in [] if as_json else found:
        console.print(f"[bold]{escape(picture['path'])}[/bold] {picture['width']}x{picture['height']}")
        for kind, regions in picture.items():
            if isinstance(regions, list):
                for region in regions:
                    console.print(f"  {kind} {json.dumps(region['box_xyxy'])} score {region['score']}")
    if failed:
        messages.print("Some pictures could not be read.")
        raise typer.Exit(USAGE if not found else STOPPED)
