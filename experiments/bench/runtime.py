"""What a frame costs beside computing: real workers over the loopback interface, with an engine that computes nothing.

    python experiments/bench/runtime.py [--quick]

VGG-16 split evenly in six volumes over 1, 2 and 4 workers, each a process with one thread, one frame at a time; in
plaintext and under CURVE with its authenticator. What is left is packing, sending, receiving, placing and waking up.

The floor beside it is what cannot be avoided on this computer: every byte is copied by a sender, the kernel twice, and
a receiver, at the rate at which one core copies memory; under CURVE it is encrypted and decrypted as well, at the rate
that libsodium reaches here. It counts the bytes alone, spread over the cores, and no waking up.

Prints a table and ends with one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from contextlib import closing
from dataclasses import dataclass

import msgspec
import numpy as np

from distredge.model.capture import load_model
from distredge.model.graph import Graph
from distredge.model.rows import even_cuts
from distredge.profiles.measuring.message_ends import measure_encryption
from distredge.runtime.deployment import Deployment, deploy
from distredge.runtime.hosting.worker_process import WorkerProcesses, local_order
from distredge.runtime.protocol.security import REQUESTER_NAME, make_keys
from distredge.runtime.protocol.transport import ZmqNetwork
from distredge.runtime.requester.coordinator import Coordinator
from distredge.strategy import Strategy

VOLUMES = 6
COPIES = 4
"""Of each byte: packing, into the kernel, out of it, placing."""


@dataclass(frozen=True)
class RunResult:
    """Seconds per frame: median, and of the slowest in a hundred; messages and bytes of a frame."""

    median_s: float
    slow_s: float
    messages: int
    sent_bytes: int


def even(graph: Graph, workers: int) -> Deployment:
    """Equal shares in volumes of about as many operators."""
    last = len(graph.cuts) - 1
    ends = [round(last * (k + 1) / VOLUMES) for k in range(VOLUMES)]
    names = [f"worker-{k}" for k in range(workers)]
    volumes = [(end, even_cuts(graph.cuts[end].height, workers)) for end in ends]
    return deploy(graph, Strategy.make(graph, names, volumes, head=names[0]))


def measure(deployment: Deployment, encrypted: bool, frames: int) -> RunResult:
    """Runs frames on workers of its own."""
    keys = make_keys(deployment.devices)
    orders = [
        msgspec.structs.replace(local_order(name, keys[name].for_worker() if encrypted else None), engine="sleep")
        for name in deployment.devices
    ]
    rng = np.random.default_rng(0)
    inputs = {
        name: rng.standard_normal(deployment.graph.tensors[name].shape).astype(dtype)
        for name, dtype in deployment.input_dtypes.items()
    }
    mine = keys[REQUESTER_NAME] if encrypted else None
    with (
        closing(WorkerProcesses(orders)) as workers,
        closing(ZmqNetwork(mine.for_requester() if mine else None)) as network,
        Coordinator(network, workers.wait(60.0, mine)) as coordinator,
    ):
        coordinator.deploy(deployment)
        for _ in range(5):
            coordinator.infer(inputs)
        seconds = []
        for _ in range(frames):
            coordinator.infer(inputs)
            assert coordinator.last_latency_s is not None
            seconds.append(coordinator.last_latency_s)
    crossing = [message for message in deployment.messages if message.source != message.destination]
    return RunResult(
        statistics.median(seconds),
        float(np.percentile(seconds, 99)),
        len(crossing),
        sum(message.size_bytes for message in crossing),
    )


def copy_bytes_per_s(size: int = 1 << 20, repeats: int = 200) -> float:
    """Rate at which one core copies memory in pieces of the size in which rows travel."""
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    started_s = time.perf_counter()
    for _ in range(repeats):
        np.copyto(target, source)
    return size * repeats / (time.perf_counter() - started_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer frames")
    frames = 200 if parser.parse_args().quick else 1000
    graph = load_model("vgg16")
    rate, crypt_s = copy_bytes_per_s(), 2 * (measure_encryption() or 0.0)
    cores = len(os.sched_getaffinity(0))
    figures: dict[str, float] = {"copy_gb_per_s": rate / 1e9, "crypt_gb_per_s": 1e-9 / crypt_s if crypt_s else 0.0}
    print(
        f"one core copies {rate / 1e9:.1f} GB/s, encrypts and decrypts {figures['crypt_gb_per_s']:.2f} GB/s; "
        f"{cores} cores; {frames} frames each"
    )
    print(
        f"{'workers':>7} {'':<10} {'messages':>8} {'MB':>6} {'ms':>7} {'p99 ms':>7} {'floor ms':>9} {'us/message':>10}"
    )
    for count in (1, 2, 4):
        deployment = even(graph, count)
        for encrypted in (False, True):
            kind = "curve" if encrypted else "plaintext"
            found = measure(deployment, encrypted, frames)
            byte_s = COPIES / rate + (crypt_s if encrypted else 0.0)
            floor_s = found.sent_bytes * byte_s / min(count + 1, cores)
            each_s = (found.median_s - floor_s) / found.messages
            print(
                f"{count:>7} {kind:<10} {found.messages:>8} {found.sent_bytes / 1e6:>6.2f} "
                f"{1e3 * found.median_s:>7.2f} {1e3 * found.slow_s:>7.2f} {1e3 * floor_s:>9.2f} {1e6 * each_s:>10.0f}",
                flush=True,
            )
            figures |= {f"overhead_ms_{kind}_{count}": 1e3 * found.median_s, f"floor_ms_{kind}_{count}": 1e3 * floor_s}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
