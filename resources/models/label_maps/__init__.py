"""Which classes of a video network make which activity of ours."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import yaml

from ego_assets.schema.actions import OTHER_ACTION

_FOLDER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class LabelMap:
    """Activities, each made of classes of a network.

    Attributes:
        name: Name, or path of the file it was read from.
        classes: Activity -> names of its classes. A class belongs to one activity at most.

    Raises:
        ValueError: An activity has no class, a class is empty or stands twice, or a name is reserved.
    """

    name: str
    classes: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        if not self.classes:
            raise ValueError(f"label map {self.name!r}: expected at least one activity, got none")
        if OTHER_ACTION in self.classes:
            raise ValueError(
                f"label map {self.name!r}: {OTHER_ACTION!r} stands for all classes that belong to no activity; "
                "leave it out"
            )
        empty = [label for label, names in self.classes.items() if not names]
        if empty:
            raise ValueError(f"label map {self.name!r}: {', '.join(empty)} has no class")
        owners: dict[str, str] = {}
        for label, names in self.classes.items():
            for name in names:
                if not name.strip():
                    raise ValueError(f"label map {self.name!r}: {label!r} has an empty class name, {name!r}")
                if name in owners:
                    raise ValueError(
                        f"label map {self.name!r}: class {name!r} belongs to {owners[name]!r} and {label!r}, "
                        "expected one of them, once"
                    )
                owners[name] = label
        object.__setattr__(self, "classes", MappingProxyType(dict(self.classes)))

    @property
    def labels(self) -> tuple[str, ...]:
        """The activities in their order, and what is none of them."""
        return (*self.classes, OTHER_ACTION)

    def matrix(self, known: Sequence[str]) -> npt.NDArray[np.float32]:
        """``float32 [K, L]``: 1 where a class makes an activity; rows sum to 1.

        A class of the same spelling is taken; where there is none, the only one that differs in nothing but case,
        punctuation and symbols, in any script.

        Args:
            known: The network's K classes, in the order of its outputs.

        Raises:
            ValueError: The network does not know a class of the map, knows several that it may be, or two names of the
                map are the same class.
        """
        exact, folded = _numbers(known), _numbers([_folded(name) for name in known])
        fits = {
            # A name of symbols alone has nothing left to compare.
            name: exact.get(name) or (folded.get(_folded(name), []) if _folded(name) else [])
            for names in self.classes.values()
            for name in names
        }
        self._require_known(fits, len(known))
        table = np.zeros((len(known), len(self.labels)), np.float32)
        table[:, -1] = 1
        taken: dict[int, str] = {}
        for column, (label, names) in enumerate(self.classes.items()):
            for name in names:
                if len(fits[name]) > 1:
                    shown = ", ".join(f"{known[row]!r} (output {row})" for row in fits[name][:10])
                    raise ValueError(
                        f"label map {self.name!r}: {name!r} of {label!r} may be each of {len(fits[name])} classes of "
                        f"the network: {shown}. Spell it exactly as one of them; where they are spelled alike, give "
                        "them different names in id2label of its config.json"
                    )
                [row] = fits[name]
                if row in taken:
                    raise ValueError(
                        f"label map {self.name!r}: {taken[row]} and {name!r} of {label!r} are the same class of the "
                        f"network, {known[row]!r}; expected one of them"
                    )
                taken[row] = f"{name!r} of {label!r}"
                table[row, column], table[row, -1] = 1, 0
        return table

    def _require_known(self, fits: Mapping[str, Sequence[int]], known: int) -> None:
        """Refuse names that no class of the network has.

        Args:
            fits: Name -> numbers of the classes that it may be.
            known: How many classes the network has.

        Raises:
            ValueError: There is such a name.
        """
        unknown = [name for name, rows in fits.items() if not rows]
        if not unknown:
            return
        shown = ", ".join(map(repr, unknown[:10])) + (" and others" if len(unknown) > 10 else "")
        lost = [label for label, names in self.classes.items() if not any(fits[name] for name in names)]
        hint = f"; nothing is left of {', '.join(lost[:10])}" if lost else ""
        raise ValueError(
            f"label map {self.name!r} names {len(unknown)} class(es) that the network's {known} do not include: "
            f"{shown}{hint}. Spell them as id2label of its config.json, or take label_map: identity"
        )


def label_map_names() -> list[str]:
    """Names of the label maps that come with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_label_map(name_or_path: str) -> LabelMap:
    """Read a label map by name, such as ``ego4d``, or from a YAML file: a mapping of activities to lists of classes.

    An unchanged file is parsed once per process.

    Raises:
        ValueError: There is no such map, or it is wrong.
    """
    is_path = Path(name_or_path).suffix in (".yaml", ".yml")
    path = Path(name_or_path) if is_path else _FOLDER / f"{name_or_path}.yaml"
    if not path.is_file():
        raise ValueError(
            f"label_map: there is no {name_or_path!r}. Give auto, identity, the path of a .yaml file or one of: "
            f"{', '.join(label_map_names())}"
        )
    facts = path.stat()
    return _parsed(name_or_path, path.resolve(), facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=16)
def _parsed(name_or_path: str, path: Path, _size: int, _modified_ns: int) -> LabelMap:
    """The map in a file; size and time of its last change tell the cache that it is another one."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"label map {name_or_path!r} is not valid YAML: {error}") from error
    if not isinstance(content, dict) or not all(
        isinstance(label, str) and isinstance(names, list) and all(isinstance(name, str) for name in names)
        for label, names in content.items()
    ):
        raise ValueError(f"label map {name_or_path!r}: expected activities, each with a list of class names")
    return LabelMap(name=name_or_path, classes={label: tuple(names) for label, names in content.items()})


def _numbers(names: Sequence[str]) -> dict[str, list[int]]:
    """Name -> where it stands."""
    found = defaultdict(list)
    for number, name in enumerate(names):
        found[name].append(number)
    return dict(found)


def _folded(name: str) -> str:
    """A class name without case, punctuation and symbols, in which published lists differ; empty where nothing stays.

    Letters, their marks (vowels in many scripts) and numbers stay; one character written in several ways is the same.
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    kept = "".join(each if unicodedata.category(each)[0] in "LMN" else " " for each in text)
    return " ".join(kept.split())
