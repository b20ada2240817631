"""Decorators of the environments' loops: compiled where numba is, plain Python where it is not.

Without numba the simulator prices every step, which takes far longer than these loops do in Python.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

Decorator = Callable[[Any], Any]


def _as_is(function: Any) -> Any:
    return function


def _no_digest(*modules: str) -> str:
    """In place of `latency.compiling.digest` where nothing is kept."""
    return ""


HAS_NUMBA = find_spec("numba") is not None

entry: Decorator
inlined: Decorator
digest: Callable[..., str]
if HAS_NUMBA:
    from distredge.latency import compiling

    entry, inlined, digest = compiling.uncounted_entry, compiling.inlined, compiling.digest
else:
    entry, inlined, digest = _as_is, _as_is, _no_digest
