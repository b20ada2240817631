"""Pictures that travel in their files, worked out by hand: 8 rows of 8 bytes, files of 20 bytes and 100 pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from distredge.cluster import Link, LinkModel
from distredge.errors import Unsupported
from distredge.latency import evaluate, simulate, throughput
from distredge.latency.costs.memory import peak_memory_bytes
from distredge.latency.kernel import kernel_of
from distredge.latency.simulator.figures import measure
from distredge.model import wires
from distredge.model.graph import Graph
from distredge.model.laying_out import lay_out
from distredge.model.preprocess import LARGER_FILES, Preprocess
from distredge.problem import Problem
from distredge.profiles.compute import ComputeProfile
from distredge.profiles.schema import Pictures
from distredge.strategy import InputSpec, Strategy

RATE = 1e4
ROW_S = 1e-3
FILE = InputSpec("jpeg", 20, 100)
DECODING_S = 100 * 2e-5 + 8 * 4 * 5e-5
"""Of one file: 100 pixels, made an input of 8 x 4."""


@pytest.fixture(scope="module")
def chain(lab: Any) -> Graph:
    graph: Graph = lab.chain()
    return graph


def problem(lab: Any, graph: Graph, link_model: LinkModel = "independent", devices: int = 2) -> Problem:
    found = lab.profile(graph, ROW_S)
    pictures = Pictures(s_per_pixel=2e-5, s_per_input_pixel=5e-5)
    profile = ComputeProfile(msgspec.structs.replace(found.data, pictures=pictures))
    cluster = replace(lab.cluster([profile] * devices, Link(RATE, None, 0.0)), link_model=link_model)
    return Problem(graph, cluster, input_dtypes=("uint8",))


def made(lab: Any, asked: Problem, volumes: Any, given: InputSpec = FILE) -> Strategy:
    strategy: Strategy = lab.strategy(asked, volumes)
    return strategy.replace(input=given)


@pytest.mark.parametrize("link_model", ["independent", "shared"])
def test_one_device_gets_the_file_and_decodes_it(lab: Any, chain: Graph, link_model: LinkModel) -> None:
    asked = problem(lab, chain, link_model, devices=1)
    strategy = made(lab, asked, [(1, (0, 8))])
    timeline = simulate(asked, strategy)
    there, back = 20 * 8 / RATE, 8 * lab.row_bits / RATE
    assert timeline.latency_s == pytest.approx(there + DECODING_S + 2 * 8 * ROW_S + back, rel=1e-12)
    assert evaluate(asked, strategy) == timeline.latency_s
    (compute,) = [s for s in timeline.spans if s.lane == "compute"]
    assert compute.start_s == pytest.approx(there + DECODING_S)
    (received,) = [s for s in timeline.spans if (s.lane, s.device) == ("receive", "a")]
    assert (received.bytes, received.stop_s) == (20, pytest.approx(there + DECODING_S))
    assert sum(timeline.shares.values()) == pytest.approx(timeline.latency_s)


def test_who_needs_fewer_bytes_gets_rows(lab: Any, chain: Graph) -> None:
    """Of 8 rows a needs 7, halo included, 56 bytes, and gets the file; b needs 3, 24 bytes, or 2, 16 bytes."""
    asked = problem(lab, chain)
    sizes = {}
    for cut in (6, 7):
        layout = lay_out(chain, made(lab, asked, [(0, (0, cut, 8)), (1, (0, 8, 8))]))
        sizes[cut] = {t.destination: (t.size_bytes, t.is_file) for t in layout.transfers if t.produced == -1}
    assert sizes == {6: {0: (20, True), 1: (20, True)}, 7: {0: (20, True), 1: (16, False)}}
    timeline = simulate(asked, made(lab, asked, [(0, (0, 7, 8)), (1, (0, 8, 8))]))
    starts = {s.device: s.start_s for s in timeline.spans if (s.lane, s.stage) == ("compute", 0)}
    assert starts == {"a": pytest.approx(20 * 8 / RATE + DECODING_S), "b": pytest.approx(16 * 8 / RATE)}


def test_a_file_is_decoded_once_an_image(lab: Any) -> None:
    """Two volumes read the input: the second file costs its way and no decoding."""
    graph = lab.skipping()
    asked = problem(lab, graph, devices=1)
    strategy = made(lab, asked, [(0, (0, 8)), (len(graph.cuts) - 1, (0, 8))])
    layout = lay_out(graph, strategy)
    assert [t.is_file for t in layout.transfers if t.produced == -1] == [True, True]
    timeline = simulate(asked, strategy)
    starts = [s.start_s for s in timeline.spans if s.lane == "compute"]
    # The second part starts when the second file is there.
    assert starts == pytest.approx([20 * 8 / RATE + DECODING_S, 2 * 20 * 8 / RATE])


def test_decoding_occupies_the_processor(lab: Any, chain: Graph) -> None:
    asked = problem(lab, chain, devices=1)
    plain = asked.cluster.devices[0]
    fast = replace(plain, uplink=Link(None), downlink=Link(None))
    asked = replace(asked, cluster=replace(asked.cluster, devices=(fast,)))
    strategy = made(lab, asked, [(1, (0, 8))])
    found = throughput(asked, strategy, 4)
    assert found.resource == "a compute"
    assert found.bound_per_s == pytest.approx(1 / (DECODING_S + 16 * ROW_S))
    assert measure(asked, strategy).period_s == pytest.approx(DECODING_S + 16 * ROW_S)


def test_large_files_cost_what_rows_cost(lab: Any, chain: Graph) -> None:
    asked = problem(lab, chain)
    volumes = [(1, (0, 4, 8))]
    rows, large = (made(lab, asked, volumes, given) for given in (InputSpec("uint8"), InputSpec("jpeg", 64, 100)))
    assert evaluate(asked, large) == evaluate(asked, rows)


def test_files_that_never_travel_cost_what_rows_cost(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker takes none of more than 1 MiB, however many bytes of rows it saves."""
    chain = lab.chain()
    asked = problem(lab, chain)
    volumes = [(1, (0, 4, 8))]
    rows, small, large = (
        made(lab, asked, volumes, given)
        for given in (InputSpec("uint8"), FILE, InputSpec("jpeg", FILE.file_bytes + 1, FILE.file_pixels))
    )
    monkeypatch.setattr(wires, "MAX_FILE_BYTES", FILE.file_bytes)
    assert evaluate(asked, small) != evaluate(asked, rows)
    assert evaluate(asked, large) == evaluate(asked, rows)
    assert not any(t.is_file for t in lay_out(chain, large).transfers)


def test_decoding_takes_memory(lab: Any) -> None:
    graph = lab.chain()
    graph.preprocess = Preprocess((8, 4), None, (0.0,) * 3, (1.0,) * 3)
    asked = problem(lab, graph)
    volumes = [(1, (0, 8, 8))]
    rows, files = (
        peak_memory_bytes(graph, lay_out(graph, made(lab, asked, volumes, given)))
        for given in (InputSpec("uint8"), FILE)
    )
    assert rows["b"] == files["b"] == 0
    more = files["a"] - rows["a"]
    assert more == graph.preprocess.decoding_bytes(LARGER_FILES * FILE.file_pixels) + graph.preprocess.kept_bytes


def test_the_kernel_refuses_by_name(lab: Any, chain: Graph) -> None:
    asked = problem(lab, chain)
    with pytest.raises(Unsupported, match="pictures that travel in their files"):
        kernel_of(asked).encode([made(lab, asked, [(1, (0, 4, 8))])])


def test_a_profile_that_says_nothing_is_scaled_and_says_so(lab: Any, chain: Graph) -> None:
    from distredge.profiles.compute import PICTURES, load_profile

    nano, reference = load_profile("nano").pictures, load_profile("default:this-machine").pictures
    assert reference.s_per_pixel == pytest.approx(PICTURES.s_per_pixel)
    assert nano.s_per_pixel == pytest.approx(7.75 * PICTURES.s_per_pixel)
    assert "assumed" in nano.source
    assert "7.75 times" in nano.source
    assert load_profile("distredge-paper:nano").pictures.s_per_pixel == pytest.approx(6 * PICTURES.s_per_pixel)
