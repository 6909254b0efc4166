"""`ego-assets` on small checkpoints: their digests count where they were recorded, and nobody is asked for anything.

Run as a program it takes the arguments of ``ego-assets``.
"""

from __future__ import annotations

import contextlib
import io
import json
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from ego_assets.cli import main
from ego_assets.project import Project
from ego_assets.settings import load_settings
from resources.models import weights
from resources.models.registry import ModelCard, ModelFile


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        code: Exit status.
        out: What it printed.
        err: Its messages, on one line, because the width of a terminal decides where they wrap.
        asked: Addresses outside of this machine that it asked for, and did not get.
    """

    code: int
    out: str
    err: str
    asked: tuple[str, ...]

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def ego(*arguments: object, published: bool = False) -> Outcome:
    """Run the command in this process, on the project that the environment names.

    Args:
        arguments: Those of ``ego-assets``.
        published: Demand the digests of published files, as they are demanded of users.
    """
    load_settings.cache_clear()
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.nullcontext() if published else small_checkpoints(),
        no_network() as asked,
        mock.patch.object(sys, "argv", ["ego-assets", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    load_settings.cache_clear()
    return Outcome(code, out.getvalue(), " ".join(err.getvalue().split()), tuple(asked))


def open_project() -> Project:
    """The project that the environment names."""
    load_settings.cache_clear()
    return Project(load_settings())


@contextlib.contextmanager
def small_checkpoints() -> Iterator[None]:
    """Demand no digest or size of a published file, only those that were recorded in the folder of weights."""

    def expected_digest(card: ModelCard, file: ModelFile, models_dir: Path | None) -> str:
        return stated_digest(card, _unknown(card, file), models_dir)

    def all_files(card: ModelCard, models_dir: Path | None = None) -> tuple[ModelFile, ...]:
        return tuple(_unknown(card, file) for file in stated_files(card, models_dir))

    stated_digest, stated_files = weights.expected_digest, weights.all_files
    with (
        mock.patch.object(weights, "expected_digest", expected_digest),
        mock.patch.object(weights, "all_files", all_files),
    ):
        yield


def _unknown(card: ModelCard, file: ModelFile) -> ModelFile:
    """A file of which nobody stated what it is; one that a package ships stays as it is."""
    return file if card.shipped_in else replace(file, sha256="", sha256_begins="", size_bytes=0)


@contextlib.contextmanager
def no_network() -> Iterator[list[str]]:
    """Refuse every address but those of this machine; gives the addresses that were asked for."""
    asked: list[str] = []
    connect, getaddrinfo = socket.socket.connect, socket.getaddrinfo

    def guard(host: object) -> None:
        name = host.decode() if isinstance(host, bytes) else str(host)
        if host and name not in ("localhost", "::1") and not name.startswith("127."):
            asked.append(name)
            raise OSError(f"{name}: there is no network in this test")

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            guard(address[0])
        connect(self, address)

    def guarded_getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        guard(host)
        return getaddrinfo(host, *arguments, **options)

    with (
        mock.patch.object(socket.socket, "connect", guarded_connect),
        mock.patch.object(socket, "getaddrinfo", guarded_getaddrinfo),
    ):
        yield asked


if __name__ == "__main__":
    with small_checkpoints(), no_network():
        main()
