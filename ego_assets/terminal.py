"""What all commands share: the terminal, exit statuses, and how errors are shown."""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from rich.progress import Progress

    from ego_assets.project import Project
    from ego_assets.settings import Settings

#: Exit statuses: some clips were stopped, the command was called wrongly, this machine lacks something.
STOPPED, USAGE, ENVIRONMENT = 1, 2, 3

console = Console()
messages = Console(stderr=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else, for scripts.")]
ProfileOption = Annotated[str, typer.Option(help="Profile name or file; default: EGO_PROFILE or local.")]


def actor() -> str:
    """Who calls the command, for the records."""
    return f"cli:{getpass.getuser()}"


def report_error(error: Exception) -> None:
    """One clear line on the error stream."""
    messages.print(f"[red]{escape(str(error))}[/red]", soft_wrap=True)


def stop(message: str, code: int) -> NoReturn:
    """Print a message and end the command."""
    messages.print(f"[red]{escape(message)}[/red]", soft_wrap=True)
    raise typer.Exit(code)


def open_settings(profile: str = "") -> Settings:
    """The settings, with another profile where one is given."""
    from ego_assets.settings import load_settings

    settings = load_settings()
    return settings.model_copy(update={"profile": profile}) if profile else settings


def open_project(profile: str = "") -> Project:
    """The project that the settings name."""
    from ego_assets.project import Project

    return Project(open_settings(profile), profile_is_named=bool(profile))


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Progress]:
    """A progress bar on the error stream."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=messages, disable=quiet) as progress:
        yield progress


def print_json(value: Any) -> None:
    """Print a value as JSON; what JSON lacks becomes text."""
    print(json.dumps(value, indent=2, default=str))
