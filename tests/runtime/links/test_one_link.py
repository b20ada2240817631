"""What a link costs: the fit gets known figures back, and measuring works over real sockets or says why not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distredge.errors import ExecutionError, PeerTimeout
from distredge.runtime.links.one_link import SIZES, fit, measure_between, measure_link, ping
from distredge.runtime.protocol.addresses import PeerAddress
from distredge.runtime.protocol.in_process_transport import InProcessNetwork
from tests.runtime.conftest import Cell

SMALL = (0, 100, 1000)


@given(
    round_trip_s=st.floats(1e-5, 0.1), rest_s=st.floats(0, 0.01), rate_bps=st.floats(1e6, 1e10)
)  # fmt: skip
def test_the_fit_gets_a_links_figures_back(round_trip_s: float, rest_s: float, rate_bps: float) -> None:
    times_s = [[round_trip_s + (rest_s + 8 * size / rate_bps if size else 0.0)] * 3 for size in SIZES]
    found = fit(SIZES, times_s)
    assert found.round_trip_s == round_trip_s
    assert found.message_s == pytest.approx(round_trip_s / 2 + rest_s, rel=1e-3, abs=1e-7)
    assert found.rate_bps == pytest.approx(rate_bps, rel=1e-2)


def test_an_outlier_does_not_count() -> None:
    times_s = [[0.001 + 8 * size / 1e8] * 9 + [5.0] for size in SIZES]
    assert fit(SIZES, times_s).rate_bps == pytest.approx(1e8, rel=1e-6)


def test_a_link_that_size_does_not_slow_has_no_rate() -> None:
    assert fit(SIZES, [[0.001]] * len(SIZES)).rate_bps is None


@pytest.fixture
def network(cell: Cell) -> InProcessNetwork:
    made = InProcessNetwork(cell.exchange, "requester")
    cell.networks.append(made)
    return made


@pytest.mark.parametrize("back", [False, True])
def test_measuring_both_ways(cell: Cell, network, back: bool) -> None:
    cell.start("alpha")
    sent: list[int] = []
    cell.exchange.tamper = lambda source, target, parts: (sent.append(sum(map(len, parts[1:]))), [parts])[1]
    times_s = measure_link(network, PeerAddress("alpha", "memory://alpha:2", ""), SMALL, 2, 60.0, back=back)
    assert [len(repeats) for repeats in times_s] == [2, 2, 2]
    assert all(seconds > 0 for repeats in times_s for seconds in repeats)
    there, answers = sent[0::2], sent[1::2]
    assert (answers if back else there) == [0, 0, 100, 100, 1000, 1000]
    assert not any(there if back else answers)


def test_measuring_between_workers(cell: Cell, network) -> None:
    for name in ("alpha", "beta"):
        cell.start(name)
    alpha, _ = cell.addresses(["alpha", "beta"])
    times_s = measure_between(network, alpha, PeerAddress("beta", "memory://beta:2", ""), SMALL, 2, 60.0)
    assert [len(repeats) for repeats in times_s] == [2, 2, 2]
    with pytest.raises(
        ExecutionError, match=r"worker 'alpha': 'gone' at memory://gone:2 cannot be reached within 0.2 s"
    ):
        measure_between(network, alpha, PeerAddress("gone", "memory://gone:2", ""), SMALL, 2, 0.2)


def test_nobody_there_is_said_in_time(cell: Cell, network) -> None:
    with pytest.raises(PeerTimeout, match=r"'alpha' at memory://alpha:2 cannot be reached within 0.2 s"):
        measure_link(network, PeerAddress("alpha", "memory://alpha:2", ""), SMALL, 1, 0.2)


def test_a_ping_does_not_take_the_worker(cell: Cell, network, graph, strategy, image) -> None:
    from distredge.runtime.deployment import deploy

    for name in ("alpha", "beta", "gamma"):
        cell.start(name)
    coordinator = cell.coordinator()
    coordinator.deploy(deploy(graph, strategy))
    pong = ping(network, cell.addresses(["alpha"])[0], 60.0)
    assert pong.about.name == "alpha"
    assert len(pong.about.plans) == 1
    assert coordinator.infer(image)
