"""How fast strategies are priced: the compiled kernel, its approximation under shared links, the simulator.

    python experiments/bench/kernel.py [--quick]

One thread, VGG-16 at 224 x 224, the published cases DB-50 (4 devices) and LA (16 devices) with both link models. Random
strategies are drawn with a seed: 1 to 6 volumes, cut points of rows uniform, any head device, and priced in batches as
the search does. Rates count everything from arrays of strategies to latencies, their checks included; "core" leaves the
checks out. Each is the best of several repeats, since other programs may run beside.

What bounds the kernel is printed with it: the arithmetic of one message is five additions and multiplications that
depend on each other (some 25 processor cycles, of which other messages' overlap), and what it reads stays in the first
and second cache; what takes the time are branches that no processor can foresee, which device sends to which. So the
time is compared with 15 cycles for each of them, one per split-part and one per message.

The first evaluation is that of a fresh process (imports, kernel, one strategy; the model is there already), with
numba's cache as it is and with an empty one, for the link model that takes longer.

Prints tables and ends with one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, Literal

import msgspec
import numpy as np

from distredge.cluster import Cluster, load_cluster
from distredge.latency import simulate
from distredge.latency.kernel import kernel
from distredge.latency.kernel.kernel import Kernel, room_for
from distredge.model import zoo
from distredge.model.graph import Graph
from distredge.model.laying_out import lay_out
from distredge.problem import Problem
from distredge.profiles.compute import ComputeProfile
from distredge.profiles.schema import Copy, Handling, Messages
from distredge.strategy import Strategy

Arrays = dict[str, Any]
"""Arguments of `Kernel.latency_s`."""

LinkModel = Literal["independent", "shared"]
LINK_MODELS: tuple[LinkModel, ...] = ("independent", "shared")

CASES = {4: "db-50", 16: "la"}
MODELS = ("squeezenet1.1", "vgg16", "resnet18", "mobilenet-v2", "resnet50")
MOST_VOLUMES = 6
MISS_CYCLES = 15


def draw(graph: Graph, devices: int, count: int, seed: int, volumes: int | None = None) -> Arrays:
    """Random strategies as arrays of the kernel: of 1 to `MOST_VOLUMES` volumes, or of exactly so many."""
    rng = np.random.default_rng(seed)
    n_cuts, most = len(graph.cuts), volumes or MOST_VOLUMES
    heights = np.array([cut.height for cut in graph.cuts])
    cuts, rows = np.full((count, most), -1), np.zeros((count, most, devices + 1), dtype=np.int32)
    for k in range(count):
        n = volumes or int(rng.integers(1, most + 1))
        cuts[k, :n] = [*np.sort(rng.choice(n_cuts - 1, n - 1, replace=False)), n_cuts - 1]
        high = heights[cuts[k, :n], None]
        rows[k, :n] = np.hstack([0 * high, np.sort(rng.integers(0, high + 1, (n, devices - 1)), axis=1), high])
    return {"cuts": cuts, "rows": rows, "head": rng.integers(0, devices, count)}


def cluster_of(devices: int, link_model: LinkModel) -> Cluster:
    """The published case with so many devices; for other numbers, the devices of LA again and again."""
    case = load_cluster(CASES.get(devices, "la"))
    boards = [dataclasses.replace(case.devices[i % len(case.devices)], name=f"board-{i}") for i in range(devices)]
    return dataclasses.replace(case, devices=tuple(boards), link_model=link_model)


def with_messages(cluster: Cluster, fixed_s: float) -> Cluster:
    """The same boards, on which each message takes so long of the processor at either end."""
    own = Handling(own=Copy(fixed_s=fixed_s))
    boards = []
    for device in cluster.devices:
        data = msgspec.structs.replace(device.profile.data, messages=Messages(send=own, receive=own))
        boards.append(dataclasses.replace(device, profile=ComputeProfile(data)))
    return dataclasses.replace(cluster, devices=tuple(boards))


def best_s(call: Callable[[], object], repeats: int) -> float:
    """The shortest time of several calls, after one that does not count."""
    call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def core(found: Kernel, arrays: Arrays, exact: bool) -> Callable[[], object]:
    """The compiled part of a call alone."""
    plans = found.plans(**arrays)
    room = room_for(plans, finish=False)
    if found.links.hard.any():
        return functools.partial(found.call_general, plans, room, nearby=not exact)
    return functools.partial(found.call_independent, plans, room)


@dataclasses.dataclass(frozen=True)
class Speed:
    """How fast one kind of link is priced.

    Attributes:
        rate, core_rate: strategies per second, with and without checks.
        pairs, parts, messages: per strategy: volumes times pairs of devices, split-parts, messages.
    """

    rate: float
    core_rate: float
    pairs: float
    parts: float
    messages: float


def speed(graph: Graph, cluster: Cluster, arrays: Arrays, repeats: int, exact: bool = True) -> Speed:
    """Measures one batch."""
    found = Kernel(graph, [cluster])
    count, devices = len(arrays["cuts"]), len(cluster.devices)
    whole_s = best_s(lambda: found.latency_s(**arrays, exact=exact), repeats)
    core_s = best_s(core(found, arrays, exact), repeats)
    layouts = [lay_out(graph, strategy(graph, cluster, arrays, k)) for k in range(min(count, 20))]
    sent = [len({(t.stage, t.source, t.destination) for t in x.transfers if not t.local}) for x in layouts]
    parts = [sum(not part.empty for stage in x.stages for part in stage.parts) for x in layouts]
    pairs = (arrays["cuts"] >= 0).sum() * devices**2 / count
    return Speed(count / whole_s, count / core_s, float(pairs), float(np.mean(parts)), float(np.mean(sent)))


def strategy(graph: Graph, cluster: Cluster, arrays: Arrays, k: int) -> Strategy:
    """One of the drawn strategies."""
    chosen = arrays["cuts"][k][arrays["cuts"][k] >= 0]
    volumes = [(int(cut), arrays["rows"][k, w].tolist()) for w, cut in enumerate(chosen)]
    return Strategy.make(graph, cluster.names, volumes, head=cluster.names[arrays["head"][k]])


def rates(graph: Graph, size: int, repeats: int) -> dict[str, float]:
    """The table of rates; strategies per second by key."""
    figures = {}
    print(f"{'links':<22} {'devices':>7} {'strategies/s':>12} {'core':>10} {'ns':>8} {'ns/pair':>8} {'15 cycles':>9}")
    kinds: tuple[tuple[str, LinkModel, bool, int], ...] = (
        ("independent", "independent", True, 1), ("shared", "shared", False, 10), ("shared_exact", "shared", True, 20),
    )  # fmt: skip
    for name, link_model, exact, fewer in kinds:
        for devices in CASES:
            found = speed(
                graph, cluster_of(devices, link_model), draw(graph, devices, size // fewer, 0), repeats, exact
            )
            figures[f"strategies_per_s_{name}_{devices}"] = found.rate
            each_s = 1.0 / found.core_rate
            branches_s = (found.parts + found.messages) * MISS_CYCLES / clock_hz()
            print(
                f"{name:<22} {devices:>7} {found.rate:>12,.0f} {found.core_rate:>10,.0f} {1e9 * each_s:>8.0f} "
                f"{1e9 * each_s / found.pairs:>8.2f} {each_s / branches_s:>8.1f}x", flush=True,
            )  # fmt: skip
    return figures


@functools.cache
def clock_hz() -> float:
    """The processor's clock as it says itself; 3 GHz where it does not."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(float(line.split(":")[1]) * 1e6 for line in file if line.startswith("cpu MHz"))
    except (OSError, StopIteration):
        return 3e9


def approximation(graph: Graph, size: int) -> float:
    """The 95th percentile of the approximation's error, the largest of both cases, messages at a cost and not."""
    found = []
    for devices in CASES:
        arrays = draw(graph, devices, size, 1)
        for fixed_s in (0.0, 5e-4):
            prices = Kernel(graph, [with_messages(cluster_of(devices, "shared"), fixed_s)])
            ratio = prices.latency_s(**arrays, exact=False) / prices.latency_s(**arrays) - 1
            median, high = np.quantile(np.abs(ratio), (0.5, 0.95))
            found.append(float(high))
            print(
                f"approximation, {devices} devices, messages at {1e3 * fixed_s:.1f} ms: median {median:.2%}, "
                f"p95 {high:.2%}, largest {np.abs(ratio).max():.2%}, mean {ratio.mean():+.2%}"
            )
    return max(found)


def growth(graph: Graph, size: int, repeats: int) -> None:
    """How the cost grows with devices, volumes and operators; microseconds per strategy."""
    print(f"\n{'6 volumes, devices':<26} {'independent us':>14} {'shared us':>10} {'exact us':>10}")
    for devices in (2, 4, 8, 16, 32, 64):
        print(f"{devices:<26} " + _row(graph, devices, max(20, 4 * size // devices**2), repeats, 6), flush=True)
    deep = zoo.build("resnet50", width=0.25)
    print(f"\n{'4 devices, volumes':<26} {'independent us':>14} {'shared us':>10} {'exact us':>10}   (ResNet-50)")
    for volumes in (1, 2, 4, 8, 16, 30):
        print(f"{volumes:<26} " + _row(deep, 4, max(20, size // 2 // volumes), repeats, volumes), flush=True)
    print(f"\n{'4 devices, operators':<26} {'independent us':>14} {'shared us':>10} {'exact us':>10}   (6 volumes)")
    for name in MODELS:
        other = graph if name == graph.name else zoo.build(name, width=0.25)
        label = f"{len(other.body.operators)} ({name})"
        print(f"{label:<26} " + _row(other, 4, size // 4, repeats, 6), flush=True)


def _row(graph: Graph, devices: int, size: int, repeats: int, volumes: int) -> str:
    arrays = draw(graph, devices, size, 2, volumes)
    found = []
    kinds: tuple[tuple[LinkModel, bool, int], ...] = (
        ("independent", True, 14), ("shared", False, 10), ("shared", True, 10),
    )  # fmt: skip
    for link_model, exact, wide in kinds:
        prices = Kernel(graph, [cluster_of(devices, link_model)])
        call = functools.partial(prices.latency_s, **arrays, exact=exact)
        found.append(f"{1e6 * best_s(call, repeats) / size:>{wide}.2f}")
    return " ".join(found)


def simulator_ms(graph: Graph, count: int) -> float:
    """Mean milliseconds of `simulate` for new strategies on 4 devices, the longer of both link models."""
    found = {}
    for link_model in LINK_MODELS:
        for devices in CASES:
            cluster = cluster_of(devices, link_model)
            problem, arrays = Problem(graph, cluster), draw(graph, devices, count + 1, 3)
            strategies = [strategy(graph, cluster, arrays, k) for k in range(count + 1)]
            simulate(problem, strategies.pop())
            started = time.perf_counter()
            for one in strategies:
                simulate(problem, one)
            found[link_model, devices] = 1e3 * (time.perf_counter() - started) / count
            print(f"simulator, {devices} devices, {link_model}: {found[link_model, devices]:.2f} ms per strategy")
    return max(ms for (_, devices), ms in found.items() if devices == 4)


_FIRST = """
import sys, time
from distredge.cluster import load_cluster
from distredge.model import zoo
from distredge.problem import Problem
import dataclasses
graph = zoo.build("vgg16", width=0.25)
problem = Problem(graph, dataclasses.replace(load_cluster("db-50"), link_model=sys.argv[1]))
started = time.perf_counter()
from distredge.latency.kernel.kernel import kernel_of
last = len(graph.cuts) - 1
kernel_of(problem).latency_s([[last]], [[[0, 1, 3, 5, 7]]], 0)
print(time.perf_counter() - started)
"""


def first_evaluation_s(link_model: LinkModel, cache: str | None) -> float:
    """Seconds of imports and the first strategy in a fresh process, with numba's own cache or one in a folder."""
    environment = dict(os.environ) if cache is None else {**os.environ, "NUMBA_CACHE_DIR": cache}
    command = [sys.executable, "-c", _FIRST, link_model]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, timeout=240, check=True)
    return float(done.stdout)


def first_evaluations() -> dict[str, float]:
    """Warm and cold, the longer of both link models."""
    warm_s, cold_s = [], []
    kernel.warm()
    for link_model in LINK_MODELS:
        warm_s.append(min(first_evaluation_s(link_model, None) for _ in range(3)))
        with tempfile.TemporaryDirectory() as folder:
            cold_s.append(first_evaluation_s(link_model, folder))
        print(f"first evaluation, {link_model}: warm {warm_s[-1]:.2f} s, cold {cold_s[-1]:.1f} s", flush=True)
    return {"first_evaluation_warm_s": max(warm_s), "first_evaluation_cold_s": max(cold_s)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller batches, fewer repeats")
    quick = parser.parse_args().quick
    graph = zoo.build("vgg16")
    figures = rates(graph, 20_000, 7 if quick else 21)
    for devices in CASES:
        ratio = figures[f"strategies_per_s_shared_{devices}"] / figures[f"strategies_per_s_independent_{devices}"]
        figures[f"shared_over_independent_{devices}"] = ratio
        print(f"rate under shared links over that under independent ones, {devices} devices: {ratio:.3f}")
    figures["shared_approx_error_p95"] = approximation(graph, 1000 if quick else 10_000)
    figures["simulator_ms"] = simulator_ms(graph, 40 if quick else 400)
    figures |= first_evaluations()
    growth(graph, 2000 if quick else 20_000, 3 if quick else 7)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
