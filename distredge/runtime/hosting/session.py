"""Deploying on whatever a cluster name stands for: worker processes of this machine, or boards."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from distredge.errors import ConfigError
from distredge.runtime.deployment import Deployment, deploy, workers_of
from distredge.runtime.hosting.background import background_addresses, background_ended
from distredge.runtime.hosting.boards import check_addresses, cluster_keys, is_local, keys_folder, worker_addresses
from distredge.runtime.hosting.local_cluster import LocalCluster
from distredge.runtime.hosting.worker_process import START_S
from distredge.runtime.protocol.security import Keys
from distredge.runtime.protocol.transport import ZmqNetwork
from distredge.runtime.requester.coordinator import DEADLINE_S, Coordinator

if TYPE_CHECKING:
    from distredge.problem import Problem
    from distredge.strategy import Strategy


QUIET_S: Final = 2.0
"""Before it is said who is waited for."""

AGAIN_S: Final = 10.0
"""Before that is said again."""


@dataclass(frozen=True)
class Session:
    """A deployed strategy.

    Attributes:
        coordinator: runs frames.
        where: "local" (worker processes started for this session), "background" (that ran before), or "boards".
        encrypted: whether rows travel encrypted.
    """

    coordinator: Coordinator
    where: Literal["local", "background", "boards"]
    encrypted: bool


@contextlib.contextmanager
def open_session(
    problem: Problem,
    strategy: Strategy,
    cluster_name: str,
    *,
    keys_path: Path | None = None,
    plaintext: bool = False,
    replan: Callable[[frozenset[str]], Deployment] | None = None,
    deadline_s: float = DEADLINE_S,
    connect_s: float | None = None,
    in_flight: int = 1,
    take_over: bool = False,
    say: Callable[[str], None] | None = None,
    deployments: Sequence[Deployment] = (),
) -> Iterator[Session]:
    """Deploys a strategy, starting workers where the cluster is this machine.

    Args:
        problem: graph and cluster.
        strategy: what to deploy.
        cluster_name: name or path by which the cluster was loaded.
        keys_path: folder of keys; None for the usual place.
        plaintext: no encryption.
        replan: see `Coordinator`.
        deadline_s: of a frame.
        connect_s: within which workers must be reached; None: a minute, since one on a board may just be starting.
        in_flight: frames in flight.
        take_over: whether workers are taken that somebody else holds.
        say: told who is waited for, where reaching the workers takes a while.
        deployments: of that strategy, then others that stand beside it for frames that name them, on devices of the
            same cluster; without them the first is made here.

    Raises:
        InputError: if strategy, model or keys do not fit.
        PeerTimeout: naming the workers that cannot be reached.
        WorkerHeld: naming who holds a worker.
    """
    cluster = problem.cluster
    check_addresses(cluster)
    deployment, *also = deployments or (deploy(problem.graph, strategy),)
    names = list(workers_of((deployment, *also)))
    for name in names:
        cluster.device(name)
    local = is_local(cluster, names)
    if local and keys_path is not None:
        raise ConfigError(
            f"--keys does not apply to cluster '{cluster.name}': its workers are processes of this machine, for which "
            "fresh keys are made for each run"
        )
    running = background_addresses(cluster.name, names) if local and not plaintext else None
    if local and running is None:
        with LocalCluster(
            problem, strategy, deadline_s=deadline_s, in_flight=in_flight, plaintext=plaintext, connect_s=connect_s,
            replan=replan, deployment=deployment, also=also,
        ) as made:  # fmt: skip
            yield Session(made.coordinator, "local", not plaintext)
        return
    keys: Keys | None
    if running is not None:
        addresses, keys = running
    else:
        keys = None if plaintext else cluster_keys(cluster, keys_folder(cluster_name, keys_path))
        addresses = worker_addresses(cluster, names, keys.public if keys is not None else None)
    network = ZmqNetwork(keys.for_requester() if keys is not None else None)
    try:
        limit_s = START_S if connect_s is None else connect_s
        with Coordinator(
            network, addresses, deadline_s=deadline_s, connect_s=limit_s, replan=replan, take_over=take_over,
            gone=None if running is None else background_ended(cluster.name),
        ) as coordinator:  # fmt: skip
            with _telling(coordinator, say):
                coordinator.deploy(deployment, in_flight)
                for other in also:
                    coordinator.deploy_also(other)
            yield Session(coordinator, "background" if running is not None else "boards", keys is not None)
    finally:
        network.close()


@contextlib.contextmanager
def _telling(coordinator: Coordinator, say: Callable[[str], None] | None) -> Iterator[None]:
    """Says who is waited for, if it lasts."""
    if say is None:
        yield
        return
    reached = threading.Event()

    def work() -> None:
        wait_s = QUIET_S
        while not reached.wait(wait_s):
            names = coordinator.waits_for
            loading = "".join(f"{', ' if i else ': '}{told}" for i, told in enumerate(coordinator.prepares))
            say(f"waiting for {', '.join(names)}" if names else f"waiting for the workers to prepare the plan{loading}")
            wait_s = AGAIN_S

    thread = threading.Thread(target=work, name="telling", daemon=True)
    thread.start()
    try:
        yield
    finally:
        reached.set()
        thread.join()
