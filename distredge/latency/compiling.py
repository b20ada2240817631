"""How everything compiled is compiled, and when it is compiled anew.

numba keeps compiled functions on disk and looks at the age of their own file alone. So that a change in any file that
is compiled into them makes it compile anew, they hold a `digest` of all of those, and what they hold is part of numba's
key::

    def _compiled(stamp):
        @entry
        def price(...):
            len(stamp)
            ...
        return price

    price = _compiled(digest(*FILES))
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from numba import njit, typeof

from distredge.latency.code_cache import KeptCode, kept

OPTIONS: Any = {"nogil": True, "boundscheck": False, "error_model": "numpy"}
"""What all of them have in common."""

WITHOUT_COUNTING: Any = {**OPTIONS, "_nrt": False}
"""Without numba's counting of references, for functions that make no arrays: it takes most of the time to compile, and
longer than what most of these functions do."""

_INSIDE: Any = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""Nothing but compiled functions calls them."""

entry = kept(njit(**OPTIONS))
"""Compiles a function that Python calls, and keeps it on disk."""

uncounted_entry = kept(njit(**WITHOUT_COUNTING))
"""The same for one that makes no arrays."""

making = njit(**OPTIONS, **_INSIDE)
"""Compiles a function that compiled functions call and that makes arrays."""

inner = njit(**WITHOUT_COUNTING, **_INSIDE)
"""The same for one that makes none. What it is given its callers keep alive; it may return no array of its own."""

inlined = njit(**WITHOUT_COUNTING, **_INSIDE, forceinline=True)
"""The same for one that is small or called from one place: passing so many arrays costs more than the code's size."""


def digest(*modules: str) -> str:
    """Returns the SHA-256 of some files, which are named as modules without the leading ``distredge.``."""
    found = hashlib.sha256()
    for name in ("latency.compiling", *modules):
        found.update(Path(__file__).parents[1].joinpath(*name.split(".")).with_suffix(".py").read_bytes())
    return found.hexdigest()


def signature_of(*arguments: Any) -> tuple[Any, ...]:
    """Returns numba's types of some arguments: what a function is compiled for that is called with them."""
    return tuple(typeof(argument) for argument in arguments)


def can_be_kept(function: Any) -> bool:
    """Whether there is a place on disk for what a function is compiled to; without one, that has been said."""
    return isinstance(function._cache, KeptCode)


def folder_of(dispatcher: Any) -> str | None:
    """Returns the folder in which the code of a function is kept, None if it is compiled in every process."""
    path: str | None = dispatcher._cache.cache_path
    return path


def is_cached(function: Any, signature: tuple[Any, ...]) -> bool:
    """Whether a function can be loaded from numba's cache, as it is now and for arguments of those types.

    Args:
        function: made by `entry` or `uncounted_entry`.
        signature: as from `signature_of`.
    """
    cache = function._cache
    return isinstance(cache, KeptCode) and cache.holds(cache._index_key(signature, function.targetctx.codegen()))
