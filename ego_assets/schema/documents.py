"""JSON documents as the platform stores and delivers them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def json_document(content: Mapping[str, Any]) -> bytes:
    """A document as stored: UTF-8, sorted keys, numbers that every JSON reader accepts.

    Raises:
        ValueError: A number is not finite.
    """
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()
