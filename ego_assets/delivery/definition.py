"""What a delivery is asked to hold, and in which formats."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ego_assets.schema.artifact import digest_of
from ego_assets.schema.errors import ConfigurationError

#: Formats a delivery can have, with what each is for.
FORMATS: Mapping[str, str] = {
    "folder": "a folder and a .tar.gz per clip",
    "webdataset": "tar shards for streaming, a sample per time step",
    "hf": "Parquet that datasets.load_dataset opens, and a script for its versions before 4",
    "lerobot": "LeRobot v3: episodes in MP4 and Parquet",
    "egovid": "the CSV columns of EgoVid-5M",
    "hdf5": "an HDF5 file per clip",
}
#: Names of the splits, in the order in which shares are given.
SPLITS = ("train", "validation", "test")
DEFAULT_SHARD_BYTES = 1_000_000_000

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class SplitShares:
    """Which part of the recorded time goes into which split.

    Attributes:
        train: Share for training, 0-1.
        validation: Share for validation, 0-1.
        test: Share for testing, 0-1.
    """

    train: float
    validation: float = 0.0
    test: float = 0.0

    def __post_init__(self) -> None:
        shares = self.as_tuple()
        if not all(math.isfinite(share) and 0 <= share <= 1 for share in shares):
            raise ConfigurationError(f"split: expected shares from 0 to 1, got {shares}")
        if abs(sum(shares) - 1) > 1e-6:
            raise ConfigurationError(f"split: expected shares that add up to 1, got {sum(shares):g}")

    @classmethod
    def parse(cls, text: str) -> SplitShares:
        """Read ``0.9/0.05/0.05``: train, validation and test; later ones may be left out.

        Raises:
            ConfigurationError: It is something else.
        """
        parts = text.split("/")
        try:
            shares = [float(part) for part in parts]
        except ValueError:
            shares = []
        if not 1 <= len(shares) <= len(SPLITS):
            raise ConfigurationError(f"split: expected shares such as 0.9/0.05/0.05, got {text!r}")
        return cls(**dict(zip(SPLITS, shares, strict=False)))

    def as_tuple(self) -> tuple[float, float, float]:
        """The shares in the order of :data:`SPLITS`."""
        return self.train, self.validation, self.test


@dataclass(frozen=True, kw_only=True)
class DeliveryDefinition:
    """What a delivery holds; two versions of it differ only in their clips.

    Attributes:
        name: Name of the delivery; its versions lie in a folder of this name.
        where: Filter over clips, see :mod:`ego_assets.curation.filters`; empty for all.
        formats: Some of :data:`FORMATS`.
        split: Shares of the splits, by collector; ``None`` for no splits.
        include_unreviewed: Take clips too whose privacy review is open.
        seed: Decides the order of the samples in shards and the splits.
        shard_bytes: Size at which a shard is full.
    """

    name: str = "dataset"
    where: str = ""
    formats: tuple[str, ...] = ("folder",)
    split: SplitShares | None = None
    include_unreviewed: bool = False
    seed: int = 0
    shard_bytes: int = DEFAULT_SHARD_BYTES

    def __post_init__(self) -> None:
        if _NAME.fullmatch(self.name) is None:
            raise ConfigurationError(
                f"name: expected lower-case letters, digits, '.', '_' and '-' such as kitchen-v1, got {self.name!r}"
            )
        _require_known("formats", self.formats, FORMATS)
        if self.shard_bytes < 1_000_000:
            raise ConfigurationError(f"shard_bytes: expected at least 1000000, got {self.shard_bytes}")

    @property
    def digest(self) -> str:
        """Digest of everything but the name."""
        return digest_of({**self.to_dict(), "name": ""})

    def to_dict(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return {**asdict(self), "formats": list(self.formats)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DeliveryDefinition:
        """What :meth:`to_dict` gave."""
        split = values.get("split")
        return cls(
            **{
                **values,
                "formats": tuple(values["formats"]),
                "split": SplitShares(**split) if split else None,
            }
        )


def _require_known(field: str, given: Sequence[str], known: Mapping[str, str]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown or not given or len(set(given)) != len(given):
        problem = f"there is no {', '.join(unknown)}" if unknown else f"got {', '.join(given) or 'none'}"
        raise ConfigurationError(f"{field}: {problem}; expected some of {', '.join(known)}, each once")
