"""What a record depends on beside its name, as a few letters: other letters, and it is measured anew."""

from __future__ import annotations

import functools
import hashlib
import json
from typing import Any

from distredge.planners.agent.policy import SHIPPED

_LETTERS = 16


def digest(content: Any) -> str:
    """Of something that JSON can say; the order of its keys does not matter."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:_LETTERS]


@functools.cache
def agent_digest() -> str:
    """Of the shipped agent; "" where there is none."""
    return hashlib.sha256(SHIPPED.read_bytes()).hexdigest()[:_LETTERS] if SHIPPED.is_file() else ""
