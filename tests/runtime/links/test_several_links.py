"""Flows at the same time and over time: verdicts of known figures, and measuring over the in-process network."""

from __future__ import annotations

import pytest

from distredge.errors import AuthError, PeerTimeout
from distredge.profiles.network import Trace
from distredge.runtime.links.several_links import Flow, Together, measure_together, over_time, ring
from distredge.runtime.protocol.addresses import PeerAddress, WorkerAddress
from distredge.runtime.protocol.in_process_transport import InProcessNetwork
from tests.runtime.conftest import Cell


@pytest.fixture
def network(cell: Cell) -> InProcessNetwork:
    made = InProcessNetwork(cell.exchange, "requester")
    cell.networks.append(made)
    return made


def _peer(name: str) -> PeerAddress:
    return PeerAddress(name, f"memory://{name}:2", "")


def _worker(name: str) -> WorkerAddress:
    return WorkerAddress(name, f"memory://{name}:1", f"memory://{name}:2")


@pytest.mark.parametrize(
    ("kept", "verdict"),
    [((1.0, 1.0), "separate"), ((0.5, 0.5), "shared"), ((0.8, 0.8), "partly shared"), ((1.0, 0.2), "shared")],
)
def test_the_verdict_follows_from_what_flows_keep(kept: tuple[float, float], verdict: str) -> None:
    flows = (Flow(None, _peer("a")), Flow(None, _peer("b")))
    found = Together(flows, (1e8, 4e8), (kept[0] * 1e8, kept[1] * 4e8))
    assert found.ratio == pytest.approx(sum(kept) / 2)
    assert found.verdict == verdict


def test_three_flows_share_at_a_third() -> None:
    flows = tuple(Flow(None, _peer(name)) for name in "abc")
    assert Together(flows, (3e8,) * 3, (1e8,) * 3).verdict == "shared"
    assert Together(flows, (3e8,) * 3, (2.4e8,) * 3).verdict == "partly shared"


def test_a_ring_uses_every_access_link_once_in_each_direction() -> None:
    names = ["a", "b", "c"]
    flows = ring([_worker(n) for n in names], [_peer(n) for n in names])
    pairs = [flow.names("requester") for flow in flows]
    assert pairs == [("requester", "a"), ("a", "b"), ("b", "c"), ("c", "requester")]
    assert len({source for source, _ in pairs}) == len({target for _, target in pairs}) == len(pairs)


def test_flows_run_at_the_same_time(cell: Cell, network: InProcessNetwork) -> None:
    for name in ("alpha", "beta"):
        cell.start(name)
    addresses = cell.addresses(["alpha", "beta"])
    flows = ring(addresses, [_peer("alpha"), _peer("beta")])
    found = measure_together(network, flows, seconds=0.02, size=1000, timeout_s=60.0)
    assert found.flows == flows
    assert len(found.alone_bps) == len(found.together_bps) == 3
    assert min(*found.alone_bps, *found.together_bps) > 0


def test_a_flow_to_nobody_ends_all_with_its_error(cell: Cell, network: InProcessNetwork) -> None:
    cell.start("alpha")
    with pytest.raises(PeerTimeout, match=r"'gone' at memory://gone:2 cannot be reached within 0.2 s"):
        measure_together(network, [Flow(None, _peer("gone")), Flow(None, _peer("alpha"))], 0.02, 1000, 0.2)


def test_a_rate_over_time_becomes_a_trace(cell: Cell, network: InProcessNetwork, tmp_path) -> None:
    cell.start("alpha")
    moments = list(over_time(network, Flow(None, _peer("alpha")), seconds=0.2, every_s=0.05, timeout_s=60.0))
    assert len(moments) == 4
    assert all(moment.rate_bps > 0 and moment.rtt_s > 0 for moment in moments)
    times = [moment.time_s - moments[0].time_s for moment in moments]
    Trace(times, [m.rate_bps for m in moments], [m.rtt_s for m in moments], times[-1] + 0.05).save(tmp_path / "t.csv")
    assert len(Trace.load(tmp_path / "t.csv")) == 4


class _Script(Flow):
    """A flow whose figures, or errors, are known."""

    def __init__(self, *results: object) -> None:
        super().__init__(None, _peer("a"))
        object.__setattr__(self, "results", list(results))

    def measure(self, network, sizes, repeats, timeout_s):
        found = self.results.pop(0)  # type: ignore[attr-defined]
        if isinstance(found, Exception):
            raise found
        empty_s, rate_bps = found
        return tuple((empty_s + 8 * size / rate_bps,) * repeats for size in sizes)


def test_a_link_that_goes_down_has_rate_0_until_it_is_back() -> None:
    flow = _Script((0.0, 1e8), PeerTimeout("gone"), (0.0, 2e8))
    moments = list(over_time(None, flow, 0.03, 0.01))  # type: ignore[arg-type]
    assert [moment.rate_bps for moment in moments] == [pytest.approx(1e8), 0.0, pytest.approx(2e8)]


def test_slow_empty_messages_do_not_make_a_rate_without_bounds() -> None:
    class Odd(_Script):
        def measure(self, network, sizes, repeats, timeout_s):
            return (0.5,) * repeats, (0.001,) * repeats

    (moment,) = over_time(None, Odd(), 0.01, 0.01)  # type: ignore[arg-type]
    assert moment.rate_bps == pytest.approx(8 * 65_536 / 0.0005)


@pytest.mark.parametrize("results", [[PeerTimeout("away")], [(0.0, 1e8), AuthError("refused")]])
def test_what_is_wrong_from_the_start_or_for_good_is_raised(results: list[object]) -> None:
    with pytest.raises((PeerTimeout, AuthError)):
        list(over_time(None, _Script(*results), 0.03, 0.01))  # type: ignore[arg-type]
