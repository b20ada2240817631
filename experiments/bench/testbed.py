"""How true a testbed's links are, and how long emulated boards take to come up.

    python experiments/bench/testbed.py [--quick]

A raw TCP sender on one board, a receiver on another, both links shaped to the same rate: payload per second over 5 s
(1 s with --quick), from the first byte received to the last, with network namespaces (root) and with the relay. Then
4 and 16 boards from nothing to workers that listen.

Prints a table and ends with one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from contextlib import closing

from distredge.cluster import load_cluster
from distredge.testbed import Testbed
from distredge.testbed.commands import why_no_namespaces
from distredge.testbed.namespaces import Namespaces
from distredge.testbed.relays import Relays

RATES_MBPS = (10, 20, 50, 100, 200, 300)
PORT = 9000
FIRST = ("chrt", "--rr", "1")
"""As workers are, so that other programs do not count; only root may."""

RECEIVER = """
import socket, sys, time
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
print(listener.getsockname()[1], flush=True)
while True:
    connection, _ = listener.accept()
    size, first_s = 0, None
    while piece := connection.recv(1 << 18):
        last_s = time.monotonic()
        if first_s is None:
            first_s = last_s
        else:
            size += len(piece)
    print(size, last_s - first_s, flush=True)
"""

SENDER = """
import socket, sys, time
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), source_address=(sys.argv[4], 0))
end_s, block = time.monotonic() + float(sys.argv[3]), bytes(1 << 16)
while time.monotonic() < end_s:
    connection.sendall(block)
"""


def rates(mode: str, seconds: float) -> dict[int, float]:
    """Returns wanted rate in Mbit/s -> relative error of the one measured."""
    links = Namespaces(2) if mode == "namespaces" else Relays(2, 0)
    first = FIRST if mode == "namespaces" else ()
    with closing(links):
        port = str(PORT if mode == "namespaces" else 0)
        receiver = subprocess.Popen(
            [*links.prefix(1), *first, sys.executable, "-c", RECEIVER, links.addresses[1], port],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert receiver.stdout is not None
        try:
            port = receiver.stdout.readline().strip()
            if isinstance(links, Relays):
                port = links.open([(1, f"{links.addresses[1]}:{port}")])[0].rpartition(":")[2]
            found = {}
            for rate_mbps in RATES_MBPS:
                for place in range(2):
                    links.shape(place, rate_mbps * 1e6, rate_mbps * 1e6)
                where = [links.addresses[1], port, str(seconds), links.addresses[0]]
                subprocess.run([*links.prefix(0), *first, sys.executable, "-c", SENDER, *where], check=True)
                size, took_s = map(float, receiver.stdout.readline().split())
                found[rate_mbps] = 8 * size / took_s / (rate_mbps * 1e6) - 1.0
            return found
        finally:
            receiver.kill()
            receiver.communicate()


def up_s(mode: str, boards: int) -> float:
    """Returns seconds until so many boards are up."""
    cluster = load_cluster("db-50")
    devices = tuple(
        dataclasses.replace(cluster.devices[i % len(cluster.devices)], name=f"board-{i}") for i in range(boards)
    )
    started_s = time.monotonic()
    with Testbed(dataclasses.replace(cluster, devices=devices), mode, engine="sleep"):  # type: ignore[arg-type]
        return time.monotonic() - started_s


def main() -> None:
    """Measures, prints and ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1 s for each rate")
    seconds = 1.0 if parser.parse_args().quick else 5.0
    why = why_no_namespaces()
    if why is not None:
        print(f"namespaces are left out: {why}")
    figures: dict[str, object] = {"seconds": seconds}
    for mode in ["loopback"] if why is not None else ["namespaces", "loopback"]:
        errors = rates(mode, seconds)
        for rate_mbps, error in errors.items():
            print(f"{mode:10} {rate_mbps:>4} Mbit/s: {100 * error:+.2f} %")
        figures[f"{mode}_rate_error_worst"] = max(map(abs, errors.values()))
        figures[f"{mode}_rate_errors"] = {str(rate): error for rate, error in errors.items()}
        for boards in (4, 16):
            figures[f"{mode}_up_{boards}_s"] = took_s = up_s(mode, boards)
            print(f"{mode:10} {boards:>4} boards up in {took_s:.2f} s")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
