"""``ego-assets vault``: whether the originals are encrypted, and with which keys."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ego_assets.terminal import (
    STOPPED,
    USAGE,
    JsonOption,
    actor,
    console,
    messages,
    open_project,
    print_json,
    progress_bar,
    stop,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ego_assets.project import Project

app = typer.Typer(
    name="vault",
    help="Encryption of the originals: state, encrypting what is clear, changing keys.",
    no_args_is_help=True,
)


@app.command()
def status(as_json: JsonOption = False) -> None:
    """Count the files of the vault: clear ones, and encrypted ones by the key that opens them.

    The exit status is 1 when there are files that the keys known here do not open.
    """
    from resources.platform import open_vault_keys

    project = open_project()
    keys, found = open_vault_keys(project.settings), project.vault.status()
    present, known = keys.present(), keys.known()
    unreadable = [key_id for key_id in found.encrypted if key_id not in known]
    if as_json:
        print_json(
            {
                "vault": project.settings.vault_root,
                "encryption": project.settings.vault_encryption,
                "key_source": keys.source,
                "present_key": present.key_id if present else None,
                "known_keys": sorted(known),
                "encrypted": dict(found.encrypted),
                "clear": found.clear,
                "without_key": list(found.without_key),
            }
        )
        raise typer.Exit(STOPPED if unreadable or found.without_key else 0)
    source = "EGO_VAULT_KEY" if keys.source == "environment" else str(keys.file)
    console.print(f"vault: {escape(project.settings.vault_root)}", soft_wrap=True)
    console.print(f"encryption of new files: {project.settings.vault_encryption}")
    console.print(
        f"present key: {present.key_id if present else 'none yet'} ({escape(source)})", soft_wrap=True
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("files", justify="right")
    table.add_column("state")
    for key_id, count in found.encrypted.items():
        note = "present" if present and key_id == present.key_id else "earlier"
        table.add_row(
            str(count), f"key {key_id} ({note if key_id in known else '[red]not known here[/red]'})"
        )
    table.add_row(str(found.clear), "clear")
    console.print(table)
    for key in found.without_key:
        messages.print(
            f"[red]{escape(key)} is encrypted, and its key envelope is missing: restore it from the backup.[/red]",
            soft_wrap=True,
        )
    if unreadable:
        messages.print(
            f"[red]Key {', '.join(unreadable)} is not known here: give it in EGO_VAULT_PREVIOUS_KEYS, or restore the "
            "key file.[/red]",
            soft_wrap=True,
        )
    if found.clear:
        console.print("`ego-assets vault encrypt` encrypts what is clear.")
    raise typer.Exit(STOPPED if unreadable or found.without_key else 0)


@app.command()
def encrypt(as_json: JsonOption = False) -> None:
    """Encrypt the clear files of the vault in their place. Interrupt it at any time; the same command goes on."""
    project = open_project()
    count = _with_progress(
        "encrypting", as_json, lambda on_file: project.vault.encrypt(actor=actor(), on_file=on_file)
    )
    if as_json:
        print_json({"encrypted": count})
    else:
        console.print(f"{count} file(s) encrypted.")


@app.command()
def rotate(
    new_key: Annotated[
        bool, typer.Option("--new-key", help="Put a new key into the key file first.")
    ] = False,
    contents_too: Annotated[
        bool,
        typer.Option(
            "--contents-too",
            help="Encrypt all contents anew, too: where somebody may have seen an earlier key.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Let the present key open all files. Only their wrapped keys are written anew, unless --contents-too is given.

    Interrupt it at any time; the same command, without --new-key, goes on.
    """
    project = open_project()
    count = _with_progress(
        "rotating",
        as_json,
        lambda on_file: project.vault.rotate(
            actor=actor(), new_key=new_key, contents_too=contents_too, on_file=on_file
        ),
    )
    if as_json:
        print_json({"rotated": count})
        return
    console.print(f"{count} file(s) rotated.")
    if new_key:
        console.print("Make a copy of the key file now, apart from the vault and its backups.")


@app.command()
def export(
    what: Annotated[
        str, typer.Argument(help="A clip id, or the key of a rejected upload: rejected/DATE/NAME.")
    ],
    target: Annotated[Path, typer.Argument(help="File to write; it must not exist.")],
) -> None:
    """Write a clear copy of an original or of a rejected upload, which is audited. Remove it when it is done with."""
    from ego_assets.partitions import require_clip_id

    if os.path.lexists(target):
        stop(f"{target} exists already.", USAGE)
    rejected = what.startswith("rejected/")
    if rejected and (len(parts := what.split("/")) != 3 or {"", ".", ".."} & set(parts)):
        stop(f"{what!r}: expected rejected/DATE/NAME.", USAGE)
    clip_id = "" if rejected else require_clip_id(what)
    _write_copy(open_project(), clip_id, what, target)
    console.print(f"{escape(str(target))} is a clear copy.", soft_wrap=True)


def _write_copy(project: Project, clip_id: str, key: str, target: Path) -> None:
    """Complete or not at all, mode 0600."""
    from ego_assets.schema.vocabulary import VaultPurpose

    purpose, caller = VaultPurpose.REVIEW, actor()
    opened = (
        project.vault.open(clip_id, purpose=purpose, actor=caller)
        if clip_id
        else project.vault.open_rejected(key, purpose=purpose, actor=caller)
    )
    with opened as source:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 (a descriptor, not a path)
                shutil.copyfileobj(source, file, 1 << 20)
        except BaseException:
            target.unlink()
            raise


def _with_progress(what: str, quiet: bool, work: Callable[[Callable[[str], None]], int]) -> int:
    """Do something to many files, and say which one was the last."""
    with progress_bar(quiet) as progress:
        task = progress.add_task(what, total=None)

        def on_file(key: str) -> None:
            progress.update(task, description=f"{what} {escape(key)}", advance=1)

        count = work(on_file)
        progress.update(task, description=what, total=1, completed=1)
    return count
