"""`deploy-strategy` on workers that run at fixed ports, each a `distredge worker` with keys of its own."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from distredge.cluster import load_cluster
from distredge.runtime.deployment import deploy as deployment
from distredge.runtime.hosting.boards import cluster_keys, worker_addresses
from distredge.runtime.protocol.transport import ZmqNetwork
from distredge.runtime.requester.coordinator import Coordinator
from distredge.runtime.requester.leases import WorkerTaken
from tests.runtime.commands.conftest import STRATEGY, at_frame, deploy, distredge, write_cluster
from tests.runtime.conftest import DEVICES


def test_on_boards(boards) -> None:
    folder, _ = boards
    for _ in range(2):
        done = deploy(folder, *STRATEGY, "--cluster", "boards.toml", "--json", "--connect", "30")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["largest_relative_difference"] <= 1e-5
        assert (found["workers"], found["encrypted"]) == ("boards", True)
    status = distredge(folder, "cluster", "status", "boards.toml", "--json")
    assert status.returncode == 0, status.stderr
    states = json.loads(status.stdout)
    assert {name: state["plans"] for name, state in states.items()} == dict.fromkeys(DEVICES, 0)
    probed = distredge(
        folder, "probe", "--cluster", "boards.toml", "--between", "alpha", "beta", "--repeats", "2", "--json"
    )
    assert probed.returncode == 0, probed.stderr
    links = json.loads(probed.stdout)["links"]
    assert [(link["source"], link["destination"]) for link in links] == [("alpha", "beta"), ("beta", "alpha")]
    assert all(link["rtt_s"] > 0 for link in links)


def test_a_lost_worker_leaves_what_was_measured(boards, monkeypatch) -> None:
    folder, workers = boards
    at_frame(monkeypatch, 5, workers[1].kill)
    done = deploy(
        folder, *STRATEGY, "--cluster", "boards.toml", "--connect", "20", "--repeat", "9", "--json",
        "--timeline", "t.json", "--deadline", "2",
    )  # fmt: skip
    assert done.returncode == 1
    assert "beta" in done.stderr
    found = json.loads(done.stdout)
    assert found["frames_wanted"] == 9
    # What the operating system had taken from the worker before it was killed may still complete a frame.
    assert 3 <= found["frames"] < 9
    assert found["latency_s"] > 0
    assert json.loads((folder / "t.json").read_text())["traceEvents"]


def test_a_lost_workers_frames_go_on_elsewhere(boards, monkeypatch) -> None:
    folder, workers = boards
    at_frame(monkeypatch, 3, workers[1].kill)
    told = ("--cluster", "boards.toml", "--connect", "20", "--repeat", "6", "--json", "--replan", "aofl")
    done = deploy(folder, *STRATEGY, *told)
    assert done.returncode == 0, done.stderr
    assert "lost beta: goes on with alpha, gamma" in done.stderr
    found = json.loads(done.stdout)
    assert len(found["latencies_s"]) == 6
    assert found["correct"] is True
    assert [(said["lost"], said["devices"]) for said in found["replanned"]] == [(["beta"], ["alpha", "gamma"])]


def test_a_board_that_stays_away_is_named_in_time(boards) -> None:
    folder, workers = boards
    for worker in workers:
        assert ": control tcp://127.0.0.1:" in worker.stdout.readline()
    workers[1].terminate()
    workers[1].wait(20)
    done = deploy(folder, *STRATEGY, "--cluster", "boards.toml", "--connect", "1")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cannot reach worker 'beta' at tcp://127.0.0.1:" in done.stderr
    assert "within 1 s" in done.stderr
    status = distredge(folder, "cluster", "status", "boards.toml", "--timeout", "1")
    assert status.returncode == 1
    assert "beta: worker 'beta' at tcp://127.0.0.1:" in status.stdout


def test_keys_of_another_set_are_refused(boards) -> None:
    folder, _ = boards
    assert distredge(folder, "keys", "boards.toml", "--out", "other").returncode == 0
    for worker in boards[1]:
        assert worker.stdout.readline().startswith("worker '")
    done = deploy(folder, *STRATEGY, "--cluster", "boards.toml", "--keys", "other", "--connect", "2")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "the handshake broke off: the keys may not fit" in done.stderr or "cannot reach workers" in done.stderr


def test_keys_that_cannot_be_used_are_wrong_input(folder: Path, ports: list[int]) -> None:
    write_cluster(folder / "away.toml", ports)
    assert distredge(folder, "keys", "away.toml").returncode == 0
    secret, public = folder / "keys" / "requester.secret", folder / "keys" / "public.json"
    told = (*STRATEGY, "--cluster", "away.toml")
    secret.chmod(0o644)
    done = deploy(folder, *told)
    assert (done.returncode, "lets others read the secret key" in done.stderr) == (2, True), done.stderr
    secret.chmod(0o600)
    secret.write_text((folder / "keys" / "alpha.secret").read_text())
    done = deploy(folder, *told)
    assert (done.returncode, "does not belong to the public key" in done.stderr) == (2, True), done.stderr
    content = json.loads(public.read_text())
    del content["keys"]["requester"]
    public.write_text(json.dumps(content))
    done = deploy(folder, *told)
    assert done.returncode == 2
    assert "no key of 'requester'" in done.stderr
    assert "distredge keys CLUSTER.toml" in done.stderr


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
            assert refused.stderr.startswith("error: worker '")
            assert "' is held by 'ada@desk' for " in refused.stderr
            assert refused.stderr.count("\n") == 1
            assert holder.infer(image)
            done = deploy(folder, *told, "--take-over")
            assert done.returncode == 0, done.stderr
            with pytest.raises(WorkerTaken, match=r"worker '.*' was taken over by '.*pid"):
                holder.infer(image)
    finally:
        network.close()
