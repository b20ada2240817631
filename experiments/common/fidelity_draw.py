"""What the fidelity campaign measures, drawn by a committed seed: clusters to be set up, and strategies to run on each.

Each set-up is a cluster that stands while several strategies are deployed on it. Its number alone decides what it is.
Calibration set-ups, which may be looked at when the cost model is mended, come from another seed than those of the
test, which the figures are of.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from distredge.cluster import Cluster, Device, Link, Requester
from distredge.model.wires import RUNNABLE_WIRES, is_packed
from distredge.planners import METHODS
from distredge.profiles.compute import THIS_MACHINE, ComputeProfile, load_profile
from distredge.profiles.network import Trace

Part = Literal["test", "calibration"]
Engine = Literal["onnxruntime", "sleep"]
SEEDS: dict[Part, int] = {"test": 20261128, "calibration": 20261127}

BOARDS = ("nano", "tx2", "xavier", "xavier-nx", "orin-nano", "pi4", "pi5")
SLOW_BOARDS = ("pi4", "pi5")
"""A core of this machine computes what several of them do in the time that one takes: theirs is the real result."""

LOWEST_BPS, HIGHEST_BPS = 20e6, 300e6
_PERIOD_S, _STEP_S, _SWING = 2.0, 0.25, 0.25

# Model, number of boards, whether links follow traces, whether all are boards that compute slower than this machine.
_PACED: dict[Part, tuple[tuple[str, int, bool, bool], ...]] = {
    "test": (
        ("mobilenet-v2", 4, False, True), ("resnet50", 3, False, True), ("vgg16", 4, False, False),
        ("efficientnet-lite0", 5, False, False), ("vgg16", 3, True, False), ("resnet50", 8, False, False),
        ("efficientnet-lite0", 2, True, True), ("mobilenet-v2", 6, False, False), ("resnet50", 16, False, False),
        ("efficientnet-lite0", 12, False, False), ("mobilenet-v2", 4, True, False), ("vgg16", 3, False, True),
        ("vgg16", 8, False, False),
    ),
    "calibration": (
        ("mobilenet-v2", 3, False, True), ("resnet50", 5, True, False), ("efficientnet-lite0", 4, False, False),
    ),
}  # fmt: skip
# Model, number of workers, the range of the links' rate in Mbit/s. Two workers have a core each; four share two, which
# the cost model does not know, behind links slow enough that they seldom compute at once.
_UNPACED: dict[Part, tuple[tuple[str, int, int, int], ...]] = {
    "test": (
        ("mobilenet-v2", 2, 20, 60), ("mobilenet-v2", 2, 100, 300), ("resnet50", 2, 20, 60), ("resnet50", 2, 100, 300),
        ("efficientnet-lite0", 2, 20, 60), ("efficientnet-lite0", 2, 100, 300), ("vgg16", 2, 150, 300),
        ("mobilenet-v2", 4, 20, 40), ("efficientnet-lite0", 4, 20, 40),
    ),
    "calibration": (("mobilenet-v2", 2, 40, 150), ("resnet50", 2, 40, 150)),
}  # fmt: skip

_METHODS = tuple(method for method in METHODS if method != "agent")
_WIRES = ("float32", "float32-packed", "float16", "float16-packed")
PLANNED, RANDOM = 3, 2
UNPACED_STRATEGIES = 4
_SEVERAL = 4
_HERE = "this-machine"
_HERE_METHODS = ("search", "deepthings", "offload", "random", "random")


@dataclass(frozen=True)
class Board:
    """One emulated board.

    Attributes:
        profile: shipped profile, or "this-machine".
        rate_bps: of its link, each direction; the mean where it varies.
        rates_bps: rate in each step of `_STEP_S` seconds, over and over; empty for a constant rate.
    """

    profile: str
    rate_bps: float
    rates_bps: tuple[float, ...] = ()


@dataclass(frozen=True)
class SetUp:
    """A cluster that stands while strategies run on it, and how it runs.

    Attributes:
        part, kind, number: which; "this-machine" has workers without links between them.
        model: name in the zoo.
        boards: in the cluster's order.
        fixed_s, rtt_s: of every link.
        requester_bps: of the requester's own link; None unbounded.
        requester: profile that says what messages cost the requester.
        engine: "onnxruntime" computes the real result, "sleep" only waits.
        pinned: whether each worker has a core of its own.
    """

    part: Part
    kind: Literal["paced", "unpaced", "this-machine"]
    number: int
    model: str
    boards: tuple[Board, ...]
    fixed_s: float
    rtt_s: float
    requester_bps: float | None = None
    requester: str = THIS_MACHINE
    engine: Engine = "onnxruntime"
    pinned: bool = False

    @property
    def name(self) -> str:
        """Names it in records and as a cluster."""
        return f"{self.part}-{self.kind}-{self.number}"

    @property
    def real(self) -> bool:
        """Whether rows hold what the model computes: boards that only wait send zeros, which packed wires leave out."""
        return self.engine == "onnxruntime"

    @property
    def traced(self) -> bool:
        """Whether links vary."""
        return any(board.rates_bps for board in self.boards)

    def cluster(self, own: ComputeProfile | None = None) -> Cluster:
        """The cluster that it emulates, links shared, encrypted.

        Args:
            own: profile of this machine; None takes the one that `distredge profile run` keeps.
        """

        def profile_of(name: str) -> ComputeProfile:
            return own if own is not None and name == THIS_MACHINE else _profile(name)

        devices = []
        for k, board in enumerate(self.boards):
            link = Link(board.rate_bps, _trace(board.rates_bps), self.fixed_s, self.rtt_s)
            host = self._host(k)
            devices.append(Device(f"{board.profile}-{k}", profile_of(board.profile), link, link, host=host))
        asks = Link(self.requester_bps, None, self.fixed_s if self.requester_bps else 0.0)
        together = self.kind == "this-machine"
        hosts = {host: len(devices) if together else 1 for device in devices if (host := device.host) is not None}
        return Cluster(
            self.name,
            Requester(uplink=asks, downlink=asks, profile=profile_of(self.requester), host=_HERE if together else None),
            tuple(devices),
            link_model="shared",
            encrypted=True,
            hosts=hosts,
        )

    def _host(self, k: int) -> str | None:
        """A worker that is pinned to a core has no spare one: it is a computer of its own, with one core."""
        if self.kind == "this-machine":
            return _HERE
        return f"core-{k}" if self.pinned else None

    def to_fields(self) -> dict[str, Any]:
        """All of it as plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> SetUp:
        """What `to_fields` wrote, also after a way through JSON."""
        boards = tuple(Board(b["profile"], b["rate_bps"], tuple(b["rates_bps"])) for b in fields["boards"])
        return cls(**{**fields, "boards": boards})


@dataclass(frozen=True)
class Draft:
    """How one strategy of a set-up is made.

    Attributes:
        number: inside its set-up.
        method: a planner, or "random".
        seed: of the planner or of the random choices.
        boundary_first: whether all its volumes compute and send first what others wait for.
        wire: between all its volumes.
        input_dtype: of the image.
        in_flight: images under way at once.
    """

    number: int
    method: str
    seed: int
    boundary_first: bool
    wire: str
    input_dtype: str
    in_flight: int


def set_ups(part: Part) -> list[SetUp]:
    """All of a part, paced ones first; last two pinned workers of this machine."""
    paced = [_paced(part, number) for number in range(len(_PACED[part]))]
    unpaced = [_unpaced(part, number) for number in range(len(_UNPACED[part]))]
    workers = (Board(THIS_MACHINE, 16e9), Board(THIS_MACHINE, 16e9))
    here = SetUp(part, "this-machine", 0, "mobilenet-v2", workers, 0.00005, 0.0001, pinned=True)
    return [*paced, *unpaced, *([here] if part == "test" else [])]


def drafts(set_up: SetUp) -> list[Draft]:
    """The strategies of a set-up: planned and random ones; unpaced set-ups have more random ones."""
    kind = ("unpaced", "paced", "this-machine").index(set_up.kind)
    rng = np.random.default_rng((SEEDS[set_up.part], 2, kind, set_up.number))
    order = np.random.default_rng(SEEDS[set_up.part]).permutation(len(_METHODS))
    if set_up.kind == "paced":
        first = PLANNED * set_up.number
        methods = [_METHODS[order[k % len(order)]] for k in range(first, first + PLANNED)] + ["random"] * RANDOM
    elif set_up.kind == "this-machine":
        methods = list(_HERE_METHODS)
    else:
        methods = ["search", *["random"] * (UNPACED_STRATEGIES - 1)]
    wires = [wire for wire in _WIRES if wire in RUNNABLE_WIRES and (set_up.real or not is_packed(wire))]
    found = []
    for number, method in enumerate(methods):
        wire = wires[(set_up.number + number) % len(wires)] if set_up.kind != "this-machine" else "float32"
        found.append(
            Draft(
                number,
                method,
                int(rng.integers(2**31)),
                bool(rng.random() < 0.5),
                wire,
                ("float32", "uint8")[int(rng.integers(2))],
                # Only the last one: pairs of unlike numbers in flight are not compared.
                _SEVERAL if set_up.number % 3 == 1 and number == len(methods) - 1 else 1,
            )
        )
    return found


def _paced(part: Part, number: int) -> SetUp:
    rng = np.random.default_rng((SEEDS[part], 1, number))
    model, count, traced, slow = _PACED[part][number]
    among = SLOW_BOARDS if slow else BOARDS
    kinds = rng.choice(among, int(rng.integers(1, min(3, len(among)) + 1)), replace=False)
    rates = _rates(rng, count, LOWEST_BPS, HIGHEST_BPS)
    boards = []
    for k in range(count):
        swings = 1.0 + _SWING * rng.uniform(-1.0, 1.0, round(_PERIOD_S / _STEP_S))
        varying = tuple(float(round(rate)) for rate in rates[k] * swings / swings.mean()) if traced else ()
        mean_bps = float(np.mean(varying)) if traced else float(round(rates[k]))
        boards.append(Board(str(kinds[rng.integers(len(kinds))]), mean_bps, varying))
    fixed_s = float(rng.choice([0.0001, 0.0003, 0.0006]))
    requester_bps = float(round(rates.max())) if rng.random() < 0.5 else None
    engine: Engine = "onnxruntime" if slow else "sleep"
    return SetUp(
        part, "paced", number, model, tuple(boards), fixed_s, 3 * fixed_s, requester_bps, boards[0].profile, engine
    )


def _unpaced(part: Part, number: int) -> SetUp:
    rng = np.random.default_rng((SEEDS[part], 0, number))
    model, count, low_mbps, high_mbps = _UNPACED[part][number]
    rates = _rates(rng, count, 1e6 * low_mbps, 1e6 * high_mbps)
    boards = tuple(Board(THIS_MACHINE, float(round(rate))) for rate in rates)
    return SetUp(part, "unpaced", number, model, boards, 0.0, 0.0, pinned=count == 2)


def _rates(rng: np.random.Generator, count: int, low: float, high: float) -> Any:
    """Uniform in the logarithm; one for all boards in half of the cases."""
    rates = np.exp(rng.uniform(math.log(low), math.log(high), count))
    if rng.random() < 0.5:
        rates[:] = rates[0]
    return rates


def _trace(rates_bps: tuple[float, ...]) -> Trace | None:
    if not rates_bps:
        return None
    return Trace(_STEP_S * np.arange(len(rates_bps)), list(rates_bps), 0.0, _STEP_S * len(rates_bps), "drawn")


@functools.lru_cache
def _profile(board: str) -> ComputeProfile:
    return load_profile(board if board == THIS_MACHINE else f"default:{board}")
