"""Where compiled code is kept on disk, and what happens where it cannot be kept.

numba keeps it in `NUMBA_CACHE_DIR`, in `__pycache__` beside the source, or in the user's cache folder; a function that
none of them takes it refuses to make at all. Here such a function is kept in a private folder for temporary files, and
where there is none it is compiled anew in every process. A disk that fills up and a file that cannot be read are
treated alike: compiled code is never worth more than the answer that it was asked for.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numba.core import config as numba_config
from numba.core.caching import FunctionCache

from distredge.folders import home, private_folder

_ADVICE = "set NUMBA_CACHE_DIR to a folder that can be written"

_config: Any = numba_config
_log = logging.getLogger(__name__)
_said: set[str] = set()


class KeptCode(FunctionCache):
    """numba's cache of one function, which never fails: what it cannot load is compiled, what it cannot keep is not."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Returns the code for a signature, or None where there is none or it cannot be read."""
        try:
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        except Exception as error:
            # A file that was cut short, or is not ours. Without its index the next code can be kept again.
            _log.info("%s cannot be used: %s", self.cache_path, error)
            try:
                self.flush()  # type: ignore[no-untyped-call]
            except Exception as failed:
                _say_without(f"{self.cache_path}: {failed}")
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keeps the code for a signature where that is possible."""
        try:
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]
        except Exception as error:
            _say_without(f"{self.cache_path}: {error}")

    def holds(self, key: Any) -> bool:
        """Whether there is code for one of numba's keys."""
        try:
            return key in self._cache_file._load_index()  # type: ignore[no-untyped-call]
        except Exception:
            return False


def kept(decorate: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Returns a decorator that compiles as another does and keeps the code on disk wherever it can.

    Args:
        decorate: numba's, without its own cache.
    """

    def compiled(function: Any) -> Any:
        dispatcher = decorate(function)
        cache = _cache_of(function)
        if cache is not None:
            dispatcher._cache = cache
        return dispatcher

    return compiled


def _cache_of(function: Any) -> KeptCode | None:
    # Without a home numba would take "~" for a folder's name, and make one in whatever folder this was started.
    beside_source = os.access(Path(function.__code__.co_filename).parent, os.W_OK)
    if _config.CACHE_DIR or beside_source or home() is not None:
        try:
            return KeptCode(function)  # type: ignore[no-untyped-call]
        except (RuntimeError, OSError):
            pass  # no place that numba knows can be written
    found = private_folder("numba")
    if found is not None:
        folder, made = found
        if made:
            _log.warning("no usual place for compiled code can be written: kept in %s; or %s", folder, _ADVICE)
        with _cache_in(folder):
            try:
                return KeptCode(function)  # type: ignore[no-untyped-call]
            except (RuntimeError, OSError):
                pass  # such as no space left
    _say_without("no folder can be written")
    return None


@contextmanager
def _cache_in(folder: Path) -> Iterator[None]:
    before, _config.CACHE_DIR = _config.CACHE_DIR, str(folder)
    try:
        yield
    finally:
        _config.CACHE_DIR = before


def _say_without(reason: str) -> None:
    if not _said:
        _said.add(reason)
        _log.warning(
            "compiled code cannot be kept (%s): every process compiles anew what it uses, up to a minute; %s",
            reason,
            _ADVICE,
        )
