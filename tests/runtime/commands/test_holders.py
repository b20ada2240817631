"""`deploy-strategy` on boards whose workers are not there yet, or are somebody else's."""

from __future__ import annotations

import os
import signal

import pytest

from distredge.cluster import load_cluster
from distredge.runtime.deployment import deploy as deployment
from distredge.runtime.hosting.boards import cluster_keys, worker_addresses
from distredge.runtime.protocol.transport import ZmqNetwork
from distredge.runtime.requester.coordinator import Coordinator
from distredge.runtime.requester.leases import WorkerTaken
from tests.runtime.commands.conftest import STRATEGY, deploy
from tests.runtime.conftest import DEVICES


def test_who_is_waited_for_is_said(boards, monkeypatch) -> None:
    folder, workers = boards
    for worker in workers:
        assert ": control tcp://127.0.0.1:" in worker.stdout.readline()
    monkeypatch.setattr("distredge.runtime.hosting.session.QUIET_S", 0.05)
    workers[1].terminate()
    workers[1].wait(20)
    done = deploy(folder, *STRATEGY, "--cluster", "boards.toml", "--connect", "1")
    assert done.returncode == 1
    said = done.stderr.splitlines()
    assert said[0].startswith("waiting for ")
    assert "'beta' at tcp://127.0.0.1:" in said[0]
    assert said[-1].startswith("error: cannot reach worker 'beta' at ")


def test_an_interrupt_while_workers_are_reached_says_so(boards, monkeypatch) -> None:
    folder, workers = boards
    for worker in workers:
        assert worker.stdout.readline()
    workers[1].terminate()
    workers[1].wait(20)
    monkeypatch.setattr("distredge.runtime.hosting.session.QUIET_S", 0.05)
    monkeypatch.setattr("distredge.cli.deploy_strategy._say_aside", lambda _: os.kill(os.getpid(), signal.SIGINT))
    done = deploy(folder, *STRATEGY, "--cluster", "boards.toml", "--connect", "60")
    assert (done.returncode, done.stderr.strip()) == (130, "error: interrupted")
    assert done.stdout == "ended early: 0 of 1 frames done\n"


def test_workers_that_somebody_holds(boards, graph, strategy, image) -> None:
    folder, workers = boards
    for worker in workers:
        assert worker.stdout.readline()
    cluster = load_cluster(folder / "boards.toml")
    keys = cluster_keys(cluster, folder / "keys")
    network = ZmqNetwork(keys.for_requester())
    try:
        with Coordinator(
            network, worker_addresses(cluster, DEVICES, keys.public), connect_s=30.0, holder="ada@desk"
        ) as holder:
            holder.deploy(deployment(graph, strategy))
            told = (*STRATEGY, "--cluster", "boards.toml", "--connect", "30")
            refused = deploy(folder, *told)
            assert refused.returncode == 1
            # Before, it may say that it waits: whether its holder lives is seen when that renews its lease.
            said = refused.stderr.splitlines()[-1]
            assert said.startswith("error: worker '")
            assert "' is held by 'ada@desk' for " in said
            assert holder.infer(image)
            done = deploy(folder, *told, "--take-over")
            assert done.returncode == 0, done.stderr
            with pytest.raises(WorkerTaken, match=r"worker '.*' was taken over by '.*pid"):
                holder.infer(image)
    finally:
        network.close()
