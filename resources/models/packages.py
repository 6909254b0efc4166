"""Python packages that backends need: whether they are there, and how to get them."""

from __future__ import annotations

import importlib.util


def installation_hint(extra: str) -> str:
    """The command that installs what an extra of this project brings."""
    return f"pip install 'ego-assets[{extra}]'"


def is_installed(package: str) -> bool:
    """Whether a top-level package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None
