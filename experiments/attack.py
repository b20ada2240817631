"""What hostile peers achieve against workers that serve a stream of frames, without a key and with stolen ones.

    python experiments/attack.py --quick    two slices of two seconds for each attack (a minute and a half)
    python experiments/attack.py            five slices of five seconds

Three real worker processes under CURVE; MobileNet-V2 runs on two of them, a frame every 50 ms. Slices with an attack
and slices without take turns. Without a key: idle connections, half-open handshakes, large commands, noise, unknown
keys. With a worker's key: taking another's results and speaking in the requester's name, messages without an end, large
answers that are not read. With the requester's key, at the third worker, since that key may use any: requests that
cannot be read, and constants that claim 2^60 bytes.

The attacker is one process of the lowest priority that keeps a pace: on a few cores a flood as fast as it can be made
would measure how the system shares them, and not what a worker does against it.

Prints a table and ends with one JSON object; fails if a worker ends, a result is stolen, or a frame goes wrong.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import psutil

from distredge.errors import DistredgeError
from distredge.experiments.common.attacks import ATTACKS, Attacker, Target
from distredge.model.capture import load_model
from distredge.model.graph import Graph
from distredge.model.rows import even_cuts
from distredge.runtime.buffers import Array
from distredge.runtime.deployment import Deployment, deploy
from distredge.runtime.hosting.worker_process import WorkerProcesses, local_order
from distredge.runtime.links.one_link import ping
from distredge.runtime.protocol.addresses import WorkerAddress
from distredge.runtime.protocol.security import REQUESTER_NAME, Keys, make_keys
from distredge.runtime.protocol.transport import ZmqNetwork
from distredge.runtime.requester.coordinator import Coordinator
from distredge.strategy import Strategy

MODEL = "mobilenet-v2"
SERVING = ("alpha", "beta")
BYSTANDER = "gamma"
PERIOD_S = 0.05
WARM_FRAMES = 20
START_S = 60.0
ANSWER_S = 20.0
MB = 1e6


@dataclass
class Slice:
    """What a slice of time, or several, has shown: seconds of each frame, and frames that failed or were wrong."""

    seconds: list[float] = field(default_factory=list)
    failed: int = 0
    growth_bytes: int = 0
    stolen: int = 0

    def add(self, other: Slice) -> None:
        """Takes another one in."""
        self.seconds += other.seconds
        self.failed += other.failed
        self.growth_bytes = max(self.growth_bytes, other.growth_bytes)
        self.stolen += other.stolen

    @property
    def p99_s(self) -> float:
        """Seconds that one frame in a hundred takes longer than."""
        return float(np.percentile(self.seconds, 99)) if self.seconds else float("nan")


def on(graph: Graph, names: tuple[str, ...]) -> Deployment:
    """Equal shares in two volumes."""
    last = len(graph.cuts) - 1
    volumes = [(end, even_cuts(graph.cuts[end].height, len(names))) for end in (last // 2, last)]
    return deploy(graph, Strategy.make(graph, names, volumes, head=names[0]))


class Stream:
    """Frames at a steady pace, compared with the first result."""

    def __init__(self, coordinator: Coordinator, deployment: Deployment, pids: Mapping[str, int]) -> None:
        rng = np.random.default_rng(0)
        self._coordinator = coordinator
        self._inputs = {
            name: rng.standard_normal(deployment.graph.tensors[name].shape).astype(dtype)
            for name, dtype in deployment.input_dtypes.items()
        }
        self._workers = {name: psutil.Process(pid) for name, pid in pids.items()}
        self._expected = coordinator.infer(self._inputs)
        for _ in range(WARM_FRAMES):
            coordinator.infer(self._inputs)
        self._rested_bytes = self._memory()

    def run(self, seconds: float) -> Slice:
        """Runs frames for some time."""
        found = Slice()
        until_s = time.monotonic() + seconds
        while (started_s := time.monotonic()) < until_s:
            try:
                result = self._coordinator.infer(self._inputs)
                found.seconds.append(time.monotonic() - started_s)
                found.failed += not _same(result, self._expected)
            except DistredgeError as error:
                print(f"  a frame failed: {error}")
                found.failed += 1
            now = self._memory()
            growth = [now[name] - self._rested_bytes[name] for name in now.keys() & self._rested_bytes.keys()]
            found.growth_bytes = max([found.growth_bytes, *growth])
            time.sleep(max(0.0, started_s + PERIOD_S - time.monotonic()))
        return found

    @property
    def lost(self) -> list[str]:
        """Workers whose process has ended."""
        return [name for name, process in self._workers.items() if not _runs(process)]

    def _memory(self) -> dict[str, int]:
        found = {}
        for name, process in self._workers.items():
            if _runs(process):
                found[name] = process.memory_info().rss
        return found


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _same(one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def attack(
    stream: Stream, network: ZmqNetwork, workers: Mapping[str, WorkerAddress], keys: dict[str, Keys],
    alone: Deployment, slices: int, seconds: float,
) -> tuple[Slice, dict[str, Slice]]:  # fmt: skip
    """Attacks in turn, with as much quiet in between; returns what was seen without and under each."""
    quiet = Slice()
    under = {name: Slice() for name in ATTACKS}
    victim, bystander = workers[SERVING[0]], workers[BYSTANDER]
    with Attacker(Target(victim, bystander, keys, SERVING[1], alone)) as attacker:
        for _ in range(slices):
            for name, seen in under.items():
                quiet.add(stream.run(seconds))
                plans = ping(network, victim, START_S).about.plans
                attacker.begin(name, plans, seconds)
                seen.add(stream.run(seconds))
                seen.stolen += attacker.end()
    return quiet, under


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two short slices for each attack")
    slices, seconds = (2, 2.0) if parser.parse_args().quick else (5, 5.0)
    graph = load_model(MODEL)
    deployment, alone = on(graph, SERVING), on(graph, (BYSTANDER,))
    keys = make_keys([*SERVING, BYSTANDER])
    orders = [local_order(name, keys[name].for_worker()) for name in (*SERVING, BYSTANDER)]
    mine = keys[REQUESTER_NAME]
    with closing(WorkerProcesses(orders)) as processes, closing(ZmqNetwork(mine.for_requester())) as network:
        workers = {address.name: address for address in processes.wait(START_S, mine)}
        with Coordinator(network, [workers[name] for name in SERVING], connect_s=START_S) as coordinator:
            coordinator.deploy(deployment)
            stream = Stream(coordinator, deployment, processes.pids)
            quiet, under = attack(stream, network, workers, keys, alone, slices, seconds)
        lost = set(stream.lost)
        for name in sorted(workers.keys() - lost):
            try:
                dropped = ping(network, workers[name], ANSWER_S).dropped
            except DistredgeError as error:
                print(f"{name} lives and does not answer: {error}")
                lost.add(name)
                continue
            print(f"{name} dropped: " + (", ".join(f"{n} {why}" for why, n in dropped.items() if n) or "nothing"))
    return _report(quiet, under, lost)


def _report(quiet: Slice, under: Mapping[str, Slice], lost: set[str]) -> int:
    together = Slice()
    print(f"{'':<22} {'frames':>6} {'failed':>6} {'p50 ms':>7} {'p99 ms':>7} {'memory MB':>9} {'stolen':>6}")
    for name, seen in (("no attack", quiet), *under.items()):
        median_s = float(np.median(seen.seconds)) if seen.seconds else float("nan")
        print(
            f"{name:<22} {len(seen.seconds):>6} {seen.failed:>6} {1e3 * median_s:>7.1f} {1e3 * seen.p99_s:>7.1f} "
            f"{seen.growth_bytes / MB:>+9.1f} {seen.stolen:>6}"
        )
        if seen is not quiet:
            together.add(seen)
    if lost:
        print(f"ended: {', '.join(sorted(lost))}")
    figures = {
        "attacks": len(under),
        "workers_lost": len(lost),
        "rss_growth_mb_max": round(together.growth_bytes / MB, 1),
        "latency_ratio_p99": round(together.p99_s / quiet.p99_s, 3),
        "results_stolen": together.stolen,
        "frames_failed": together.failed + quiet.failed,
        "p99_ms": {name: round(1e3 * seen.p99_s, 1) for name, seen in (("no attack", quiet), *under.items())},
    }
    print(json.dumps(figures))
    return 1 if lost or together.stolen or together.failed or quiet.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
