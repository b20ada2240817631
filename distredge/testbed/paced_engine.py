"""An engine whose parts take the time of the emulated board."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from distredge.runtime.buffers import Array
from distredge.runtime.engine import Engine, Loaded
from distredge.runtime.protocol.device_plan import ShapeRange
from distredge.testbed.pacer import Pacer, computing


class PacedEngine:
    """Computes with another engine and holds each result until its time has passed.

    Args:
        inner: what computes.
        pacer: of the board.
    """

    def __init__(self, inner: Engine, pacer: Pacer) -> None:
        self._inner = inner
        self._pacer = pacer

    @property
    def name(self) -> str:
        """That of the engine that computes."""
        return self._inner.name

    @property
    def providers(self) -> tuple[str, ...]:
        """Those of the engine that computes."""
        return self._inner.providers

    @property
    def threads(self) -> int:
        """Those of the engine that computes."""
        return self._inner.threads

    @property
    def warms_up(self) -> bool:
        """A run takes the board's time, the first one as well, and the board has one processor: frames come first."""
        return False

    def load(
        self, model: bytes, weights: Mapping[str, Array], ranges: Mapping[str, ShapeRange] | None = None
    ) -> Loaded:
        """Loads a sub-model; the constants (d0, d1, ...) are as `runtime.engine.Engine` says."""
        with computing():
            return _PacedLoaded(self._inner.load(model, weights, ranges), self._pacer)


class _PacedLoaded:
    def __init__(self, inner: Loaded, pacer: Pacer) -> None:
        self._inner = inner
        self._pacer = pacer

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array], stage: int) -> Callable[[], None]:
        """Binds arrays; see `runtime.engine.Loaded`."""
        run, pacer = self._inner.bind(inputs, outputs, stage), self._pacer
        return lambda: pacer.compute(stage, run)
