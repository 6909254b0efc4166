"""Filters over clips, as people type them: ``activity == 'cooking' and quality >= 0.8 and complete('depth')``.

A filter is an expression in Python's syntax over the fields of a clip and a few functions. It is checked as a whole
before the first clip is looked at: unknown names, values of the wrong kind and words outside a vocabulary are errors
that say what exists. Nothing in it is executed.

A value that is not known fits no comparison; ``quality == None`` asks for it.
"""

from __future__ import annotations

import ast
import datetime as dt
import difflib
import operator
import types
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ego_assets.schema.clip import Clip
from ego_assets.schema.errors import ConfigurationError
from ego_assets.schema.gates import GateOutcome
from ego_assets.schema.layers import COMPLETENESS_BITS

#: Short and foreign names of fields.
FIELD_ALIASES: Mapping[str, str] = {
    "activity": "activity_category",
    "camera": "source_camera",
    "collector": "collector_id",
    "consent": "consent_scope",
    "date": "recording_date",
    "duration": "duration_s",
    "environment": "location_type",
    "environment_type": "location_type",
    "license": "licence",
    "location": "location_type",
    "quality": "quality_score",
}
#: Short names of layers.
LAYER_ALIASES: Mapping[str, str] = {
    "depth": "depth_maps",
    "hands": "hand_object",
    "segmentation": "masks",
}
#: Functions with what they take, for messages.
FUNCTIONS: Mapping[str, str] = {
    "complete": "complete('depth', 'masks'): the layers are there and passed their blocking gates",
    "state": "state('captions'): how a layer ended, such as 'committed', 'given_up' or 'postponed'",
    "backend": "backend('depth'): the backend that made a layer",
    "software": "software('depth'): the software that made a layer, such as 'ego_assets 0.1.0'",
    "gate": "gate('masks', 'hand_presence'): how a gate ended: " + ", ".join(GateOutcome),
}

_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda value, among: value in among,
    ast.NotIn: lambda value, among: value not in among,
}
_ORDERED = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)


class FilterError(ConfigurationError):
    """A filter cannot be read; the message says what is wrong with it and what exists."""


@dataclass(frozen=True, kw_only=True)
class ClipFacts:
    """What a filter may ask about one clip.

    Attributes:
        clip: The clip.
        states: How each layer last ended.
        backends: Names of the backends that made each committed layer.
        software: What made a layer, or ``None``; asked only where a filter does, because the store has to be read.
        outcomes: Latest outcome by layer and gate.
    """

    clip: Clip
    states: Mapping[str, str] = field(default_factory=dict)
    backends: Mapping[str, Collection[str]] = field(default_factory=dict)
    software: Callable[[str], str | None] = lambda layer: None
    outcomes: Mapping[tuple[str, str], str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Term:
    """A part of a filter: how its value is found, and of what type it is."""

    value: Callable[[ClipFacts], Any]
    kind: type | None
    constant: bool = False


class ClipFilter:
    """A filter that was read and checked.

    Args:
        text: The expression; an empty one fits every clip.
        layers: Names of the layers that functions may name.

    Raises:
        FilterError: It cannot be read, or names what does not exist.
    """

    def __init__(self, text: str, *, layers: Collection[str]) -> None:
        self.text = text.strip()
        self._layers = tuple(layers)
        self._fits: Callable[[ClipFacts], Any] = lambda facts: True
        if self.text:
            try:
                tree = ast.parse(self.text, mode="eval")
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                reason = error.msg if isinstance(error, SyntaxError) else str(error)
                raise FilterError(
                    f"The filter {self.text!r} cannot be read ({reason}). Write it like "
                    "\"activity == 'cooking' and quality >= 0.8 and complete('depth')\"."
                ) from None
            self._fits = self._condition(tree.body)

    def fits(self, facts: ClipFacts) -> bool:
        """Whether the clip fits."""
        return bool(self._fits(facts))

    # --- reading --------------------------------------------------------------------------------------

    def _condition(self, node: ast.expr) -> Callable[[ClipFacts], bool]:
        """A part that is true or false."""
        if isinstance(node, ast.BoolOp):
            parts = [self._condition(value) for value in node.values]
            if isinstance(node.op, ast.And):
                return lambda facts: all(part(facts) for part in parts)
            return lambda facts: any(part(facts) for part in parts)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self._condition(node.operand)
            return lambda facts: not inner(facts)
        if isinstance(node, ast.Compare):
            return self._comparison(node)
        term = self._term(node)
        if term.kind is not bool:
            raise self._error(node, "is no condition: compare it with something")
        return term.value

    def _comparison(self, node: ast.Compare) -> Callable[[ClipFacts], bool]:
        operands = [node.left, *node.comparators]
        kinds = [self._term(operand).kind for operand in operands if not _is_literal(operand)]
        kind = next((found for found in kinds if found is not None), None)
        terms = [
            self._literal(operand, kind) if _is_literal(operand) else self._term(operand)
            for operand in operands
        ]
        checks = []
        for position, relation in enumerate(node.ops):
            compare = _COMPARISONS.get(type(relation))
            if compare is None:
                raise self._error(
                    node, "uses a comparison that filters do not have; there are == != < <= > >= in"
                )
            left, right = terms[position : position + 2]
            if isinstance(relation, _ORDERED) and bool in (left.kind, right.kind):
                raise self._error(node, "orders what is only true or false")
            asks_for_nothing = any(term.constant and term.kind is type(None) for term in (left, right))
            if isinstance(relation, _ORDERED) and asks_for_nothing:
                raise self._error(node, "orders something against None")
            if isinstance(relation, ast.In | ast.NotIn) != _is_list(operands[position + 1]):
                raise self._error(
                    node, "needs a list after `in`, such as activity in ('cooking', 'cleaning')"
                )
            checks.append(_compared(left.value, right.value, compare, may_be_none=asks_for_nothing))
        return lambda facts: all(check(facts) for check in checks)

    def _term(self, node: ast.expr) -> _Term:
        """A part that has a value."""
        if _is_literal(node):
            return self._literal(node, None)
        if isinstance(node, ast.Name):
            return self._field(node)
        if isinstance(node, ast.Call):
            return self._call(node)
        raise self._error(
            node, "is nothing that filters know: they have fields, functions, values and comparisons"
        )

    def _field(self, node: ast.Name) -> _Term:
        name = FIELD_ALIASES.get(node.id, node.id)
        kinds = _field_kinds()
        if name not in kinds:
            raise FilterError(
                f"There is no field {node.id!r}{_nearest(node.id, [*kinds, *FIELD_ALIASES])} "
                f"Fields are {', '.join(sorted(kinds))}; short names are {', '.join(FIELD_ALIASES)}."
            )
        return _Term(lambda facts: getattr(facts.clip, name), kinds[name])

    def _call(self, node: ast.Call) -> _Term:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in FUNCTIONS:
            raise FilterError(
                f"There is no function {ast.unparse(node.func)!r}{_nearest(name, FUNCTIONS)} "
                f"Functions are {'; '.join(FUNCTIONS.values())}."
            )
        given = [value.value if isinstance(value, ast.Constant) else None for value in node.args]
        fitting = len(given) >= 1 if name == "complete" else len(given) == (2 if name == "gate" else 1)
        if node.keywords or not fitting or not all(isinstance(value, str) for value in given):
            raise self._error(node, f"is not how this function is used: {FUNCTIONS[name]}")
        words = typing.cast("list[str]", given)
        if name == "complete":
            layers = [self._layer(word) for word in words]
            without = [layer for layer in layers if layer not in COMPLETENESS_BITS]
            if without:
                raise self._error(
                    node,
                    f"asks for {', '.join(without)}, but completeness is kept of {', '.join(COMPLETENESS_BITS)}",
                )
            mask = sum({1 << COMPLETENESS_BITS[layer] for layer in layers})
            return _Term(lambda facts: facts.clip.completeness & mask == mask, bool)
        layer = self._layer(words[0])
        if name == "state":
            return _Term(lambda facts: facts.states.get(layer), str)
        if name == "backend":
            return _Term(lambda facts: ", ".join(facts.backends.get(layer, ())) or None, str)
        if name == "software":
            return _Term(lambda facts: facts.software(layer), str)
        return _Term(lambda facts: facts.outcomes.get((layer, words[1])), GateOutcome)

    def _layer(self, word: str) -> str:
        layer = LAYER_ALIASES.get(word, word)
        if layer not in self._layers:
            known = sorted(
                {*self._layers, *(short for short, name in LAYER_ALIASES.items() if name in self._layers)}
            )
            raise FilterError(
                f"There is no layer {word!r}{_nearest(word, known)} There are {', '.join(known)}."
            )
        return layer

    def _literal(self, node: ast.expr, kind: type | None) -> _Term:
        """A value, read as the kind that it is compared with."""
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            values = [self._value(item, kind) for item in node.elts]
            return _Term(lambda facts: values, list, constant=True)
        value = self._value(node, kind)
        return _Term(lambda facts: value, type(value), constant=True)

    def _value(self, node: ast.expr, kind: type | None) -> Any:
        try:
            value = ast.literal_eval(node)
        except (ValueError, TypeError):
            raise self._error(node, "is no plain value") from None
        if value is None or kind is None:
            return value
        if kind is bool:
            fits = isinstance(value, bool)
        elif kind in (int, float):
            fits = isinstance(value, int | float) and not isinstance(value, bool)
        elif kind is dt.date:
            return self._date(node, value)
        elif issubclass(kind, StrEnum):
            if value not in list(kind):
                raise self._error(node, f"is none of {', '.join(kind)}")
            return value
        else:
            fits = isinstance(value, str)
        if not fits:
            raise self._error(node, f"is compared with {_KIND_WORDS.get(kind, 'text')}")
        return value

    def _date(self, node: ast.expr, value: object) -> dt.date:
        try:
            return dt.date.fromisoformat(typing.cast(str, value))
        except (TypeError, ValueError):
            raise self._error(node, "is no date such as '2026-05-14'") from None

    def _error(self, node: ast.expr, problem: str) -> FilterError:
        return FilterError(f"{ast.unparse(node)!r} in the filter {self.text!r} {problem}.")


_KIND_WORDS: Mapping[type, str] = {bool: "True or False", int: "a number", float: "a number", str: "text"}


def _compared(
    left: Callable[[ClipFacts], Any],
    right: Callable[[ClipFacts], Any],
    compare: Callable[[Any, Any], bool],
    *,
    may_be_none: bool,
) -> Callable[[ClipFacts], bool]:
    def check(facts: ClipFacts) -> bool:
        first, second = left(facts), right(facts)
        if not may_be_none and (first is None or second is None):
            return False
        return compare(first, second)

    return check


def _field_kinds() -> Mapping[str, type]:
    """Type of every field of a clip that a filter may ask for, ``None`` left out of it."""
    kinds: dict[str, type] = {}
    for name, hint in typing.get_type_hints(Clip).items():
        options = [part for part in typing.get_args(hint) if part is not types.NoneType]
        kind = options[0] if isinstance(hint, types.UnionType) and len(options) == 1 else hint
        if isinstance(kind, type) and kind is not dt.datetime:
            kinds[name] = kind
    return kinds


def _is_list(node: ast.expr) -> bool:
    return isinstance(node, ast.List | ast.Tuple | ast.Set)


def _is_literal(node: ast.expr) -> bool:
    negative = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
    return isinstance(node, ast.Constant) or _is_list(node) or negative


def _nearest(word: str, known: Collection[str]) -> str:
    """``; did you mean ...?`` where something similar exists."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else "."
