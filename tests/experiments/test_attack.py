"""The attacks of `attack.py`: each runs and ends in time, and what they achieve is counted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from distredge.experiments.attack import Slice, _report, on
from distredge.experiments.common.attacks import ATTACKS, Attacker, Target, _is_echo
from distredge.experiments.common.hostile import holder
from distredge.model.capture import from_onnx
from distredge.model.graph import Graph
from distredge.runtime.hosting.worker_process import WorkerProcesses, local_order
from distredge.runtime.links.one_link import ping
from distredge.runtime.protocol.addresses import WorkerAddress
from distredge.runtime.protocol.messages import Echo, Goodbye, encode
from distredge.runtime.protocol.security import REQUESTER_NAME, make_keys
from distredge.runtime.protocol.transport import ZmqNetwork
from tests.runtime.conftest import small_cnn

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def graph() -> Graph:
    return from_onnx(small_cnn())


@pytest.fixture
def target(graph: Graph) -> Iterator[Target]:
    """Workers that are attacked, and one whose key was stolen; no process is behind the latter."""
    keys = make_keys(["alpha", "beta", "gamma"])
    orders = [local_order(name, keys[name].for_worker()) for name in ("alpha", "gamma")]
    with closing(WorkerProcesses(orders)) as processes:
        alpha, gamma = processes.wait(PATIENCE_S, keys[REQUESTER_NAME])
        yield Target(alpha, gamma, keys, "beta", on(graph, ("gamma",)))


def _lives(target: Target, worker: WorkerAddress) -> bool:
    with closing(ZmqNetwork(target.keys[REQUESTER_NAME].for_requester())) as network:
        return bool(ping(network, worker, PATIENCE_S).dropped)


@pytest.mark.parametrize("name", ATTACKS)
def test_each_attack_ends_and_the_workers_do_not(target: Target, name: str) -> None:
    assert ATTACKS[name](target, time.monotonic() + 0.3) == 0
    assert _lives(target, target.victim)
    assert _lives(target, target.bystander)


def test_the_attacking_process_does_what_it_is_told(target: Target) -> None:
    with Attacker(target) as attacker:
        attacker.begin("noise", (7,), 0.1)
        assert attacker.end() == 0
        attacker.begin("no such attack", (), 0.1)
        with pytest.raises(KeyError, match="no such attack"):
            attacker.end()


def test_what_comes_to_an_impostor_is_counted(target: Target) -> None:
    """It is counted by looking for anything but an echo: a worker that says more to a stranger would be noticed."""
    assert not _is_echo(encode(Goodbye()))
    assert not _is_echo(b"rows of somebody")
    security = target.keys["beta"].for_requester()
    with holder(target.victim.data, security, target.victim.public_key) as dealer:
        dealer.send(encode(Echo(1, False)))
        assert _is_echo(dealer.recv())


@pytest.mark.parametrize(
    ("failed", "stolen", "lost", "code"),
    [(0, 0, set(), 0), (1, 0, set(), 1), (0, 1, set(), 1), (0, 0, {"alpha"}, 1)],
)
def test_the_report_fails_when_an_attack_succeeds(
    capsys: pytest.CaptureFixture[str], failed: int, stolen: int, lost: set[str], code: int
) -> None:
    quiet = Slice([0.010] * 100)
    under = {"noise": Slice([0.010] * 98 + [0.020] * 2, failed, 3_000_000, stolen), "impostor": Slice()}
    assert _report(quiet, under, lost) == code
    shown = capsys.readouterr().out.splitlines()
    assert '"attacks": 2' in shown[-1]
    assert '"rss_growth_mb_max": 3.0' in shown[-1]
    assert '"latency_ratio_p99": 2.0' in shown[-1]
    assert f'"workers_lost": {len(lost)}' in shown[-1]
    assert f'"results_stolen": {stolen}' in shown[-1]
