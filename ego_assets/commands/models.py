"""``ego-assets models``: which checkpoints there are, fetching them, and checking them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from ego_assets.terminal import (
    STOPPED,
    JsonOption,
    ProfileOption,
    console,
    messages,
    open_settings,
    print_json,
    progress_bar,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from resources.models.registry import ModelCard

app = typer.Typer(
    name="models",
    help="Weights of the models: list, fetch, verify, and where they lie.",
    no_args_is_help=True,
)

KeysArgument = Annotated[
    list[str] | None, typer.Argument(help="Keys of checkpoints, as `ego-assets models list` shows them.")
]


@app.command("list")
def list_(
    profile: Annotated[
        str, typer.Option(help="Only what this profile loads; `active` is the one of EGO_PROFILE.")
    ] = "",
    task: Annotated[str, typer.Option(help="Only this task, such as depth.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Every checkpoint: what loads it, its licence and size, and whether it is here. Nothing is read or fetched.

    The state is `there`, `missing`, `by hand` (missing, and no command can fetch it), `incomplete` or `damaged` (by its
    size); or the package that ships the file.
    """
    from resources.models.registry import OWN_LICENCE

    settings = open_settings("" if profile == "active" else profile)
    licences: dict[str, str] = {}
    cards = list(_cards().values())
    if profile:
        loaded = _loaded(settings.profile)
        licences = {model.card.key: model.licence for model in loaded}
        cards = _unique(model.card for model in loaded)
    if task:
        tasks = sorted({card.task for card in _cards().values()})
        if task not in tasks:
            raise _usage(f"There are no models for {task!r}, only for: {', '.join(tasks)}.")
        cards = [card for card in cards if card.task == task]
    rows: list[dict[str, Any]] = [
        {
            "key": card.key,
            "name": card.name,
            "task": card.task,
            "backends": _backends_of(card),
            "licence": licences.get(card.key, card.licence),
            "commercial_use": None if card.licence == OWN_LICENCE else card.commercial_use,
            "size_bytes": card.size_bytes or _size_here(card, settings.models),
            "about_bytes": card.about_bytes,
            "state": _state(card, settings.models),
            "shipped_in": card.shipped_in,
            "source": card.source,
            "input": card.input_contract,
        }
        for card in cards
    ]
    if as_json:
        print_json(rows)
        return
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    # A key that is cut in two cannot be copied.
    longest = max((len(row["key"]) for row in rows), default=0)
    table.add_column("key, and what loads it", overflow="fold", min_width=longest)
    table.add_column("licence", max_width=16)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("state")
    commercial = {True: "", False: "\n[yellow]not commercial[/yellow]", None: "\nyou say"}
    for row in rows:
        table.add_row(
            f"[bold]{escape(row['key'])}[/bold]\n  {escape(', '.join(row['backends']))}",
            escape(row["licence"]) + commercial[row["commercial_use"]],
            _size_text(row["size_bytes"], row["about_bytes"]),
            f"in {escape(row['shipped_in'])}" if row["state"] == "shipped" else row["state"],
        )
    console.print(table)
    console.print(f"Folder of the weights: {escape(str(settings.models))}", soft_wrap=True)


@app.command()
def pull(
    key: KeysArgument = None,
    profile: ProfileOption = "",
    everything: Annotated[bool, typer.Option("--all", help="Everything that can be downloaded.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="What is published now, whatever was recorded before.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch checkpoints, verify and record them; by default what the profile loads.

    Interrupt it at any time: the same command goes on where it stopped. HF_TOKEN opens gated repositories, HF_ENDPOINT
    names a mirror of the hub, HF_HUB_OFFLINE=1 forbids downloads. The exit status is 1 when something could not be
    fetched, or has to be fetched by hand.
    """
    from resources.models.downloads import by_hand, is_offline, refuse_offline
    from resources.profiles import demands_commercial_use, require_permitted

    settings = open_settings(profile)
    name = settings.profile
    if key:
        cards = _chosen(key)
        # What other tasks of the profile load is no matter here.
        for card in cards if demands_commercial_use(name) else ():
            require_permitted(name, card)
    elif everything:
        cards = [card for card in _cards().values() if card.is_downloadable]
        if demands_commercial_use(name):
            cards = [card for card in cards if _is_permitted(name, card)]
    else:
        cards = _unique(model.card for model in _loaded(name) if model.role != "idle")
    waiting = [card for card in cards if card.shipped_in is None and not card.is_downloadable]
    waiting = [card for card in waiting if _state(card, settings.models) != "there"]
    wanted = [card for card in cards if card.is_downloadable]
    if is_offline():
        refuse_offline(wanted, settings.models, again=again)
    pulled, failed = _pull(wanted, settings, again=again, quiet=as_json)
    if as_json:
        print_json(
            {
                "models_dir": str(settings.models),
                "pulled": pulled,
                "shipped": [card.key for card in cards if card.shipped_in is not None],
                "by_hand": [card.key for card in waiting],
                "failed": failed,
            }
        )
    else:
        for card in cards if key else ():
            if card.shipped_in is not None:
                console.print(f"{card.key} ships in the package {card.shipped_in}: nothing to fetch.")
        for card in waiting:
            messages.print(
                f"[yellow]To be fetched by hand, then recorded with `ego-assets models verify {card.key} --record`: "
                f"{escape(by_hand(card, settings.models))}[/yellow]",
                soft_wrap=True,
            )
        for reason in failed.values():
            messages.print(f"[red]{escape(reason)}[/red]", soft_wrap=True)
        if not wanted and not waiting and not key:
            console.print(f"All that profile {escape(settings.profile)} loads ships in packages.")
    raise typer.Exit(STOPPED if waiting or failed else 0)


@app.command()
def verify(
    key: KeysArgument = None,
    profile: ProfileOption = "",
    record: Annotated[
        bool, typer.Option("--record", help="Record the digests of files that were placed by hand.")
    ] = False,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", help="With --record: forget what was recorded of these checkpoints before."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Read every file and compare its digest with the registry and with what was recorded.

    Without keys: what lies in the folder of weights, and what the profile loads. The exit status is 1 when a file is
    damaged, when a checkpoint is not complete, or when one that was named is missing.
    """
    from resources.models import weights

    if replace and not (record and key):
        raise _usage("--replace needs --record and the keys of the checkpoints that you replaced.")
    settings = open_settings(profile)
    cards = _chosen(key) if key else _here_or_loaded(settings.profile, settings.models)
    rows: list[dict[str, Any]] = []
    recorded: list[str] = []
    with progress_bar(as_json) as progress:
        task = progress.add_task("reading", total=len(cards))
        for card in cards:
            progress.update(task, description=f"reading {card.key}")
            if record and card.shipped_in is None:
                recorded += map(str, weights.record(card, settings.models, replace=replace))
            for state in weights.file_states(card, settings.models):
                rows.append(
                    {
                        "key": card.key,
                        "path": str(state.path),
                        "state": state.state,
                        "expected": state.expected,
                        "actual": state.actual,
                    }
                )
            progress.advance(task)
    absent = {
        card.key for card in cards if all(r["state"] == "missing" for r in rows if r["key"] == card.key)
    }
    wrong = [
        row
        for row in rows
        if row["state"] == "damaged" or (row["state"] == "missing" and (row["key"] not in absent or key))
    ]
    if as_json:
        print_json({"models_dir": str(settings.models), "files": rows, "recorded": recorded})
        raise typer.Exit(STOPPED if wrong else 0)
    marks = {
        "ok": "[green]ok[/green]",
        "unknown": "[yellow]unknown digest[/yellow]",
        "damaged": "[red]damaged[/red]",
        "missing": "[red]missing[/red]",
    }
    for row in rows:
        console.print(f"{marks[row['state']]} {row['key']}: {escape(row['path'])}", soft_wrap=True)
        if row["state"] == "damaged":
            console.print(f"  sha256 {row['actual']}, expected {row['expected']}", soft_wrap=True)
    for card in [card for card in cards if card.key in {row["key"] for row in wrong}]:
        advice = f"run `ego-assets models pull {card.key}`" if card.is_downloadable else f"see {card.source}"
        messages.print(f"[red]{card.key}: {escape(advice)}.[/red]", soft_wrap=True)
    unknown = sorted({row["key"] for row in rows if row["state"] == "unknown"})
    if unknown:
        console.print(
            f"Nobody states or recorded the digests of {', '.join(unknown)}: `ego-assets models verify "
            f"{' '.join(unknown)} --record` records what is here, and demands it from then on.",
            soft_wrap=True,
        )
    if record:
        console.print(f"{len(recorded)} file(s) recorded.")
    raise typer.Exit(STOPPED if wrong else 0)


@app.command()
def where(
    key: Annotated[str, typer.Argument(help="Key of a checkpoint; without one, the folder of weights.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Say where the weights lie, or the files of one checkpoint, and where they come from."""
    from resources.models.downloads import sources
    from resources.models.weights import all_files, path_on_disk

    settings = open_settings()
    if not key:
        if as_json:
            print_json({"models_dir": str(settings.models)})
        else:
            console.print(escape(str(settings.models)), soft_wrap=True)
        return
    [card] = _chosen([key])
    addresses = sources(card)
    rows = []
    for file in all_files(card, settings.models):
        path = path_on_disk(card, file, settings.models)
        rows.append(
            {
                "path": str(path or file.path),
                "is_there": path is not None and path.is_file(),
                "url": addresses.get(card.path_of(file), ""),
            }
        )
    if as_json:
        print_json(
            {"models_dir": str(settings.models), "key": card.key, "source": card.source, "files": rows}
        )
        return
    console.print(f"{escape(card.name)}, from {escape(card.source)}", soft_wrap=True)
    for row in rows:
        state = "there" if row["is_there"] else "missing"
        address = f" <- {row['url']}" if row["url"] else ""
        console.print(escape(f"{state}: {row['path']}{address}"), soft_wrap=True)


def _pull(
    cards: list[ModelCard], settings: Any, *, again: bool, quiet: bool
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Fetch checkpoints one after another; what became of each, and why some failed, by key."""
    from ego_assets.disk import require_space
    from resources.models.downloads import Downloader, DownloadFailed

    done: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    with progress_bar(quiet) as progress:
        task = progress.add_task("", total=None)

        def has_room(needed_bytes: int) -> None:
            require_space(
                settings.models,
                needed_bytes,
                reserve_bytes=settings.free_disk_reserve_bytes,
                what="The download",
            )

        def on_progress(file: str, done_bytes: int, total_bytes: int) -> None:
            size = f"{done_bytes / 1e6:.0f} of {total_bytes / 1e6:.0f} MB" if total_bytes else ""
            progress.update(
                task,
                description=f"{escape(file)} {size}",
                completed=done_bytes,
                total=total_bytes or None,
            )

        downloader = Downloader(settings.models, require_space=has_room, on_progress=on_progress)
        for card in cards:
            progress.update(task, description=card.key, completed=0, total=None)
            try:
                pulled = downloader.pull(card, again=again)
            except DownloadFailed as error:
                # The others are fetched all the same.
                failed[card.key] = str(error)
                continue
            done.append(
                {
                    "key": card.key,
                    "fetched": list(map(str, pulled.fetched)),
                    "kept": list(map(str, pulled.kept)),
                }
            )
            what = f"{len(pulled.fetched)} file(s) fetched" if pulled.fetched else "is there"
            progress.console.print(f"{card.key}: {what}.", soft_wrap=True)
        # What is there, or failed, never filled the bar.
        progress.remove_task(task)
    return done, failed


def _cards() -> dict[str, ModelCard]:
    from resources.models.backends import CARDS

    return dict(CARDS)


def _unique(cards: Iterable[ModelCard]) -> list[ModelCard]:
    return list({card.key: card for card in cards}.values())


def _loaded(profile: str) -> list[Any]:
    from resources.profiles import load_profile, profile_models

    return profile_models(load_profile(profile))


def _chosen(keys: list[str]) -> list[ModelCard]:
    known = _cards()
    unknown = [key for key in keys if key not in known]
    if unknown:
        raise _usage(f"There is no model {', '.join(unknown)}. There are: {', '.join(sorted(known))}.")
    return _unique(known[key] for key in keys)


def _usage(message: str) -> Exception:
    from ego_assets.schema.errors import ConfigurationError

    return ConfigurationError(message)


def _is_permitted(profile: str, card: ModelCard) -> bool:
    from ego_assets.schema.errors import ConfigurationError
    from resources.profiles import require_permitted

    try:
        require_permitted(profile, card)
    except ConfigurationError as error:
        messages.print(f"[yellow]{escape(str(error))}[/yellow]", soft_wrap=True)
        return False
    return True


def _here_or_loaded(profile: str, models_dir: Path) -> list[ModelCard]:
    """Checkpoints of which a file lies in the folder of weights, and those that the profile loads."""
    here = [
        card
        for card in _cards().values()
        if card.shipped_in is None and any((models_dir / card.path_of(file)).is_file() for file in card.files)
    ]
    return _unique([*(model.card for model in _loaded(profile)), *here])


def _backends_of(card: ModelCard) -> list[str]:
    """What loads a checkpoint: ``backend``, or ``backend (checkpoint)``."""
    from resources.models.backends import BACKENDS

    found = []
    for specs in BACKENDS.values():
        for spec in specs.values():
            names = [name for name, cards in spec.checkpoints.items() if card in cards]
            if card in spec.models:
                found.append(f"{spec.task} {spec.backend}")
            elif names:
                found.append(f"{spec.task} {spec.backend} ({', '.join(names)})")
    return found


def _state(card: ModelCard, models_dir: Path) -> str:
    """Whether a checkpoint is here, by presence and size."""
    from ego_assets.schema.errors import BackendUnavailable
    from resources.models.weights import is_installed, locate_unread

    if card.shipped_in is not None:
        return "shipped" if is_installed(card.shipped_in) else "missing"
    try:
        locate_unread(card, models_dir)
        return "there"
    except BackendUnavailable:
        there = [(models_dir / card.path_of(file)).is_file() for file in card.files]
    if all(there):
        return "damaged"
    if any(there):
        return "incomplete"
    return "missing" if card.is_downloadable else "by hand"


def _size_text(size_bytes: int, about_bytes: int) -> str:
    """A size for people; ``~`` where it is about so large."""
    size = size_bytes or about_bytes
    if not size:
        return "?"
    text = f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.{1 if size < 1e7 else 0}f} MB"
    return text if size_bytes else f"~{text}"


def _size_here(card: ModelCard, models_dir: Path) -> int:
    """Bytes of the files that are here; 0 where some are missing."""
    from resources.models.weights import all_files

    paths = [models_dir / card.path_of(file) for file in all_files(card, models_dir)]
    return sum(path.stat().st_size for path in paths) if all(path.is_file() for path in paths) else 0
