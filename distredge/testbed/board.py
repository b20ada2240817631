"""The worker of an emulated board: the ordinary one, with an engine and a network that are paced.

``python -m distredge.testbed.board TABLE [SOURCE]``; standard input and output are those of `runtime.worker.__main__`.

    TABLE    file of the board's `pace_table`
    SOURCE   address that its connections to other boards come from; without one the system chooses
"""

from __future__ import annotations

import sys
from pathlib import Path

from distredge.runtime.engine import Engine
from distredge.runtime.protocol.transport import Network
from distredge.runtime.worker.__main__ import main
from distredge.testbed.pace_table import open_table
from distredge.testbed.paced_engine import PacedEngine
from distredge.testbed.paced_network import PacedNetwork
from distredge.testbed.pacer import Pacer, on_time


def run(table: Path, source: str = "") -> None:
    """Runs the worker that standard input describes; ends with the process."""
    pacer = Pacer(open_table(table))

    def paced(engine: Engine, network: Network) -> tuple[Engine, Network]:
        route = None if not source else lambda address: from_source(source, address)
        return PacedEngine(engine, pacer), PacedNetwork(network, pacer, route)

    with on_time(pacer.paced):
        main(paced)


def from_source(source: str, address: str) -> str:
    """Returns a ZeroMQ address that is connected to from a certain own address."""
    return address.replace("tcp://", f"tcp://{source}:0;", 1)


if __name__ == "__main__":
    run(Path(sys.argv[1]), *sys.argv[2:3])
