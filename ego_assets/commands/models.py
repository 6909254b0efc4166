"""``ego-assets models``: which checkpoints there are, fetching them, and checking them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from ego_assets.terminal import (
    ENVIRONMENT,
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

    from resources.models.registry import ModelCard, ModelFile

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

    The state is `there`, `missing`, `by hand` (missing, and no command can fetch it), `not needed` (missing, and
    nothing in the profile asks for it), `incomplete` or `damaged` (by its size); or the package that ships the file.
    """
    from resources.models.registry import OWN_LICENCE

    settings = open_settings("" if profile == "active" else profile)
    licences: dict[str, str] = {}
    cards = list(_cards().values())
    needed = {card.key for card in cards}
    if profile:
        loaded = _loaded(settings.profile)
        licences = {model.card.key: model.licence for model in loaded}
        cards = _unique(model.card for model in loaded)
        needed = {card.key for card in _needed(settings.profile)}
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
            "state": _state(card, settings.models, is_needed=card.key in needed),
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
    fetched, or has to be fetched by hand, and 3 when the disk has no room, or when downloads are forbidden and
    something would have to be downloaded.
    """
    from resources.models.downloads import by_hand, is_complete, is_offline, refuse_offline
    from resources.profiles import demands_commercial_use, require_permitted

    if key and everything:
        raise _usage("Give either keys of checkpoints or --all.")
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
        cards = _needed(name)
    waiting = [card for card in cards if card.shipped_in is None and not card.is_downloadable]
    waiting = [card for card in waiting if _state(card, settings.models) != "there"]
    wanted = [card for card in cards if card.is_downloadable]
    refused = (
        [card for card in wanted if again or not is_complete(card, settings.models)] if is_offline() else []
    )
    pulled: list[dict[str, Any]] = []
    failed = {card.key: by_hand(card, settings.models) for card in refused}
    is_disk_short = False
    if not refused:
        pulled, failed, is_disk_short = _pull(wanted, settings, again=again, quiet=as_json)
    status = ENVIRONMENT if refused or is_disk_short else STOPPED if waiting or failed else 0
    if as_json:
        print_json(
            {
                "models_dir": str(settings.models),
                "pulled": pulled,
                "shipped": [card.key for card in cards if card.shipped_in is not None],
                "by_hand": {card.key: by_hand(card, settings.models) for card in waiting},
                "failed": failed,
            }
        )
        raise typer.Exit(status)
    for card in cards if key else ():
        if card.shipped_in is not None:
            console.print(f"{card.key} ships in the package {card.shipped_in}: nothing to fetch.")
    for card in waiting:
        _say_by_hand(card, settings.models)
    if refused:
        refuse_offline(refused, settings.models)
    for failed_key, reason in failed.items():
        messages.print(f"[red]{failed_key}: {escape(reason)}[/red]", soft_wrap=True)
    if not wanted and not waiting and not key:
        console.print(f"All that profile {escape(settings.profile)} loads ships in packages.")
    raise typer.Exit(status)


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
    damaged, when a checkpoint is not complete or only a part of it was recorded, or when one is missing that was named
    or that the profile given with --profile loads.
    """
    if replace and not (record and key):
        raise _usage("--replace needs --record and the keys of the checkpoints that you replaced.")
    settings = open_settings(profile)
    cards = _chosen(key) if key else _here_or_needed(settings.profile, settings.models)
    demanded = {card.key for card in (cards if key else _needed(settings.profile) if profile else ())}
    read = _read(cards, settings.models, record=record, replace=replace, quiet=as_json)
    wrong = _wrong(read.rows, demanded)
    if as_json:
        print_json(
            {
                "models_dir": str(settings.models),
                "files": read.rows,
                "recorded": read.recorded,
                "unrecorded": read.unrecorded,
            }
        )
    else:
        shipped = {card.key for card in cards if card.shipped_in is not None}
        _say_what_was_read(read.rows, wrong, shipped=shipped)
        _say_what_to_do(
            [card for card in cards if card.key in {row["key"] for row in wrong}],
            {row["key"] for row in wrong if row["state"] == "damaged"},
            read.advice,
            settings,
            profile="" if key else profile,
        )
        for sentence in read.unrecorded:
            messages.print(f"[red]{escape(sentence)}[/red]", soft_wrap=True)
        _warn_of_unknown(
            sorted({row["key"] for row in read.rows if row["state"] == "unknown"}), settings.models
        )
        if record:
            console.print(f"{len(read.recorded)} file(s) recorded.")
    raise typer.Exit(STOPPED if wrong or read.unrecorded else 0)


@dataclass(frozen=True, kw_only=True)
class _Read:
    """What `verify` found in the files of checkpoints.

    Attributes:
        rows: A mapping per file: ``key``, ``path``, ``state``, and the digests ``expected`` and ``actual``.
        recorded: Paths that were recorded just now.
        advice: Key -> what to do about each file.
        unrecorded: Why checkpoints count as recorded in part only.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    recorded: list[str] = field(default_factory=list)
    advice: dict[str, list[str]] = field(default_factory=dict)
    unrecorded: list[str] = field(default_factory=list)


def _read(cards: list[ModelCard], models_dir: Path, *, record: bool, replace: bool, quiet: bool) -> _Read:
    """Read every file of checkpoints, one after another; ``record`` and ``replace`` as of `verify`."""
    from ego_assets.schema.errors import BackendUnavailable
    from resources.models import weights

    read = _Read()
    with progress_bar(quiet) as progress:
        task = progress.add_task("reading", total=len(cards))
        for card in cards:
            progress.update(task, description=f"reading {card.key}")
            if record and card.shipped_in is None:
                read.recorded.extend(map(str, weights.record(card, models_dir, replace=replace)))
            states = weights.file_states(card, models_dir)
            for file in weights.unrecorded_files(card, models_dir):
                states.append(weights.FileState(path=models_dir / card.path_of(file), state="unknown"))
            read.rows.extend(
                {
                    "key": card.key,
                    "path": str(state.path),
                    "state": state.state,
                    "expected": state.expected,
                    "actual": state.actual,
                }
                for state in states
            )
            read.advice[card.key] = [state.advice for state in states if state.advice]
            try:
                weights.require_recorded(card, models_dir)
            except BackendUnavailable as error:
                read.unrecorded.append(str(error))
            progress.advance(task)
        progress.remove_task(task)
    return read


def _wrong(rows: list[dict[str, Any]], demanded: set[str]) -> list[dict[str, Any]]:
    """Damaged files, and missing ones of checkpoints that are demanded, by key, or of which others are there."""
    there = {row["key"] for row in rows if row["state"] != "missing"}
    return [
        row
        for row in rows
        if row["state"] == "damaged" or (row["state"] == "missing" and row["key"] in demanded | there)
    ]


def _say_what_was_read(rows: list[dict[str, Any]], wrong: list[dict[str, Any]], *, shipped: set[str]) -> None:
    """The state of every file, and how many there are of each state.

    Args:
        rows: The files.
        wrong: Those that must not be as they are.
        shipped: Keys of checkpoints that ship in packages.
    """
    for row in rows:
        absent = "not installed" if row["key"] in shipped else "missing"
        mark = {
            "ok": "[green]ok[/green]",
            "unknown": "[yellow]unknown digest[/yellow]",
            "damaged": "[red]damaged[/red]",
            "missing": f"[red]{absent}[/red]" if row in wrong else absent,
        }[row["state"]]
        console.print(f"{mark} {row['key']}: {escape(row['path'])}", soft_wrap=True)
        if row["state"] == "damaged":
            console.print(f"  sha256 {row['actual']}, expected {row['expected']}", soft_wrap=True)
    names = {"ok": "ok", "unknown": "of unknown digest", "damaged": "damaged", "missing": "missing"}
    counts = {state: sum(row["state"] == state for row in rows) for state in names}
    found = ", ".join(f"{counts[state]} {name}" for state, name in names.items() if counts[state])
    console.print(f"{len(rows)} file(s){f': {found}' if found else ''}.")


@app.command()
def where(
    key: Annotated[str, typer.Argument(help="Key of a checkpoint; without one, the folder of weights.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Say where the weights lie, or the files of one checkpoint, and where they come from."""
    from resources.models.downloads import sources
    from resources.models.packages import installation_hint
    from resources.models.registry import EXTRA_THAT_SHIPS_WEIGHTS
    from resources.models.weights import path_on_disk

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
    for file in _files(card, settings.models):
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
            {
                "models_dir": str(settings.models),
                "key": card.key,
                "source": card.source,
                "hint": card.hint,
                "shipped_in": card.shipped_in,
                "files": rows,
            }
        )
        return
    console.print(f"{escape(card.name)}, from {escape(card.source)}", soft_wrap=True)
    for row in rows:
        state = "there" if row["is_there"] else "missing"
        address = f" <- {row['url']}" if row["url"] else ""
        console.print(escape(f"{state}: {row['path']}{address}"), soft_wrap=True)
    if card.hint:
        console.print(escape(card.hint), soft_wrap=True)
    if card.shipped_in is not None and not all(row["is_there"] for row in rows):
        console.print(
            f"It ships in the package {card.shipped_in}: {escape(installation_hint(EXTRA_THAT_SHIPS_WEIGHTS))}",
            soft_wrap=True,
        )


def _say_by_hand(card: ModelCard, models_dir: Path) -> None:
    from resources.models.downloads import by_hand

    messages.print(
        f"[yellow]To be fetched by hand, then recorded with `ego-assets models verify {card.key} --record`: "
        f"{escape(by_hand(card, models_dir))}[/yellow]",
        soft_wrap=True,
    )


def _say_what_to_do(
    cards: list[ModelCard], damaged: set[str], advice: dict[str, list[str]], settings: Any, *, profile: str
) -> None:
    """What to do about checkpoints that `verify` found wrong: what can be pulled in one command, the others one by one.

    Args:
        cards: The checkpoints.
        damaged: Keys of those with damaged files; of the others some are missing.
        advice: Key -> what to do about each file.
        settings: The settings.
        profile: The profile that was named; empty where none was.
    """
    if any(card.shipped_in is None for card in cards) and not settings.models.is_dir():
        messages.print(
            f"[red]There is no folder {escape(str(settings.models))}. EGO_MODELS_DIR names it.[/red]",
            soft_wrap=True,
        )
    missing = [card for card in cards if card.key not in damaged]
    for card in [card for card in cards if card.key in damaged or card.shipped_in is not None]:
        for sentence in dict.fromkeys(advice[card.key]):
            messages.print(f"[red]{card.key}: {escape(sentence)}[/red]", soft_wrap=True)
    if keys := [card.key for card in missing if card.is_downloadable]:
        what = f"--profile {profile}" if profile else " ".join(keys)
        messages.print(
            f"[red]Missing: {', '.join(keys)}. Run `ego-assets models pull {escape(what)}`.[/red]",
            soft_wrap=True,
        )
    for card in missing:
        if card.shipped_in is None and not card.is_downloadable:
            _say_by_hand(card, settings.models)


def _warn_of_unknown(keys: list[str], models_dir: Path) -> None:
    """Say that nothing tells whether files are the right ones, and how to record them."""
    from resources.models.weights import LOCK_FILE

    if not keys:
        return
    lock = models_dir / LOCK_FILE
    copied = "" if lock.is_file() else f" There is no {lock}: if these files were pulled, copy it with them."
    messages.print(
        f"[yellow]Not checked: nobody states or recorded the digests of some files of {', '.join(keys)}."
        f"{escape(copied)} `ego-assets models verify {' '.join(keys)} --record` records what is here, and demands it "
        "from then on.[/yellow]",
        soft_wrap=True,
    )


def _pull(
    cards: list[ModelCard], settings: Any, *, again: bool, quiet: bool
) -> tuple[list[dict[str, Any]], dict[str, str], bool]:
    """Fetch checkpoints one after another.

    Returns:
        What became of each; key -> why it failed; whether the disk was short for one.
    """
    from ego_assets.disk import require_space
    from ego_assets.schema.errors import InsufficientDisk
    from resources.models.downloads import Downloader, DownloadFailed

    done: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    is_disk_short = False
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

        def say(sentence: str) -> None:
            progress.console.print(f"[yellow]{escape(sentence)}[/yellow]", soft_wrap=True)

        downloader = Downloader(settings.models, require_space=has_room, on_progress=on_progress, say=say)
        try:
            for card in cards:
                progress.update(task, description=card.key, completed=0, total=None)
                try:
                    pulled = downloader.pull(card, again=again)
                except (DownloadFailed, InsufficientDisk) as error:
                    # The others are fetched all the same.
                    failed[card.key] = str(error)
                    is_disk_short = is_disk_short or isinstance(error, InsufficientDisk)
                    continue
                done.append(
                    {
                        "key": card.key,
                        "fetched": list(map(str, pulled.fetched)),
                        "kept": list(map(str, pulled.kept)),
                        "set_aside": list(map(str, pulled.set_aside)),
                    }
                )
                what = f"{len(pulled.fetched)} file(s) fetched" if pulled.fetched else "is there"
                progress.console.print(f"{card.key}: {what}.", soft_wrap=True)
        finally:
            # What is there, or failed, never filled the bar.
            progress.remove_task(task)
    return done, failed, is_disk_short


def _cards() -> dict[str, ModelCard]:
    from resources.models.backends import CARDS

    return dict(CARDS)


def _unique(cards: Iterable[ModelCard]) -> list[ModelCard]:
    return list({card.key: card for card in cards}.values())


def _loaded(profile: str) -> list[Any]:
    from resources.profiles import load_profile, profile_models

    return profile_models(load_profile(profile))


def _needed(profile: str) -> list[ModelCard]:
    from resources.profiles import load_profile, needed_models

    return needed_models(load_profile(profile))


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


def _here_or_needed(profile: str, models_dir: Path) -> list[ModelCard]:
    """Checkpoints of which a file lies in the folder of weights, and those that the profile loads."""
    here = [
        card for card in _cards().values() if card.shipped_in is None and any(_presence(card, models_dir))
    ]
    return _unique([*_needed(profile), *here])


def _files(card: ModelCard, models_dir: Path) -> list[ModelFile]:
    """Files of a checkpoint that have to be there, and what else lies in its own folder."""
    from resources.models.weights import all_files, unrecorded_files

    return [*all_files(card, models_dir), *unrecorded_files(card, models_dir)]


def _presence(card: ModelCard, models_dir: Path) -> list[bool]:
    """Whether each of these files is there."""
    return [(models_dir / card.path_of(file)).is_file() for file in _files(card, models_dir)]


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


def _state(card: ModelCard, models_dir: Path, *, is_needed: bool = True) -> str:
    """Whether a checkpoint is here, by presence and size."""
    from ego_assets.schema.errors import BackendUnavailable
    from resources.models.packages import is_installed
    from resources.models.weights import locate_unread

    if card.shipped_in is not None:
        return "shipped" if is_installed(card.shipped_in) else "missing"
    try:
        locate_unread(card, models_dir)
        return "there"
    except BackendUnavailable:
        there = _presence(card, models_dir)
    if all(there):
        return "damaged"
    if any(there):
        return "incomplete"
    if not is_needed:
        return "not needed"
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
    paths = [models_dir / card.path_of(file) for file in _files(card, models_dir)]
    return sum(path.stat().st_size for path in paths) if all(path.is_file() for path in paths) else 0
