"""Where the leaking files of an incident lie until they are purged."""

from __future__ import annotations

import shutil
from pathlib import Path

from resources.vault.files import ENVELOPE_SUFFIX, VaultError, VaultFiles
from resources.vault.places import VaultPlace


class Quarantine:
    """The quarantine of one incident.

    Args:
        prefix: Its key in the vault.
        place: Where the vault lies.
        files: The files of the vault.
        encrypts: Whether what comes in is encrypted.
    """

    def __init__(self, prefix: str, *, place: VaultPlace, files: VaultFiles, encrypts: bool) -> None:
        self._prefix = prefix
        self._place = place
        self._files = files
        self._encrypts = encrypts

    def take(self, source: Path, *parts: str) -> None:
        """Move a file or a folder with everything in it to ``parts`` below the quarantine.

        What is there already under that name stays beside it. When this returns, ``source`` is gone, and what came
        of it is encrypted. A call that was killed leaves it where it was or completes when it is made again; what it
        had moved and not encrypted yet, :meth:`restrict` encrypts.

        Raises:
            VaultError: The copy differs; the source is left where it is.
        """
        wanted = "/".join((self._prefix, *parts))
        target, number = wanted, 1
        while self._place.size(target) is not None or next(iter(self._place.keys(f"{target}/")), None):
            number += 1
            target = f"{wanted}-{number}"
        # Renaming takes it out of reach at once, and needs no space.
        if self._place.adopt(source, target):
            self._encrypt(target)
            return
        for path in [source] if source.is_file() else sorted(source.rglob("*")):
            if path.is_file():
                relative = path.relative_to(source).as_posix()
                self._files.keep(path, target if path == source else f"{target}/{relative}")
        shutil.rmtree(source) if source.is_dir() else source.unlink()

    def names(self) -> list[str]:
        """Everything that lies in it, as relative paths."""
        start = len(self._prefix) + 1
        return sorted(key[start:] for key in self._keys(self._prefix))

    def restrict(self) -> None:
        """Give everything in it the modes of the vault and encrypt it, also what a killed process had moved only."""
        self._place.settle(self._prefix)
        self._encrypt(self._prefix)

    def purge(self) -> int:
        """Remove everything in it for good; returns the number of files.

        Raises:
            VaultError: Something is left.
        """
        count = len(self.names())
        self._place.remove_all(self._prefix)
        if next(iter(self._place.keys(f"{self._prefix}/")), None) is not None:
            number = self._prefix.rpartition("/")[2]
            raise VaultError(
                f"The quarantine {number} cannot be removed from the vault. Check its permissions."
            )
        return count

    def _encrypt(self, prefix: str) -> None:
        if self._encrypts:
            for key in list(self._keys(prefix)):
                self._files.encrypt(key, what=f"{key} in the vault")

    def _keys(self, prefix: str) -> list[str]:
        if self._place.size(prefix) is not None and not list(self._place.keys(f"{prefix}/")):
            return [prefix]
        return [key for key in self._place.keys(f"{prefix}/") if not key.endswith(ENVELOPE_SUFFIX)]
