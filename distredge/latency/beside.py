"""What is worked out once about a graph, kept beside it: tables, row arithmetic, costs of parts.

It stands in the graph's own dictionary and not in a weak one of this package. What is kept refers to the graph, and
would keep it alive for ever there; here both go together. It does not travel with the graph to other processes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from distredge.model.graph import Graph

Made = TypeVar("Made")

_NAME = "_beside"


class Shelf:
    """Things by key, of each kind the ones that were asked for last; safe to use from several threads.

    A copy of a shelf, in this process or another, is empty.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._kinds: dict[str, OrderedDict[Hashable, Any]] = {}

    def __reduce__(self) -> tuple[type[Shelf], tuple[()]]:
        return Shelf, ()

    def get(self, kind: str, key: Hashable, make: Callable[[], Made], most: int | None = None) -> Made:
        """Returns the thing of a key, made if there is none yet.

        Args:
            kind: of things.
            key: among those of its kind.
            make: makes it; one thread at a time.
            most: of that kind that are kept: who asked for others holds them alone. None keeps all.
        """
        with self._lock:
            things = self._kinds.setdefault(kind, OrderedDict())
            if key not in things:
                things[key] = make()
            things.move_to_end(key)
            while most is not None and len(things) > most:
                things.popitem(last=False)
            found: Made = things[key]
            return found


def beside(graph: Graph) -> Shelf:
    """Returns the shelf that goes with a graph."""
    found: Shelf = vars(graph).setdefault(_NAME, Shelf())
    return found
