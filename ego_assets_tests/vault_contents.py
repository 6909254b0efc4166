"""What lies in a vault, in the clear, for tests that look at its files past its front door."""

from __future__ import annotations

from resources.vault import Vault


def clear_contents(vault: Vault, prefix: str) -> dict[str, bytes]:
    """Content of the files below a prefix that ends with ``/``, by the rest of their key, without descriptions."""
    found = {}
    for key in vault._contents(prefix):
        with vault._files.open(key, what=key) as file:
            found[key.removeprefix(prefix)] = file.read()
    return found
