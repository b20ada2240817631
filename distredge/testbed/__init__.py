"""Emulated boards and links on one machine, on which strategies are measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distredge.testbed.measured import Measured
    from distredge.testbed.testbed import Testbed

__all__ = ["Measured", "Testbed"]


def __getattr__(name: str) -> object:
    """Imports what is asked for: the boards' processes begin here too, and need little of it."""
    if name == "Testbed":
        from distredge.testbed.testbed import Testbed

        return Testbed
    if name == "Measured":
        from distredge.testbed.measured import Measured

        return Measured
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
