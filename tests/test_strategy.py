"""Strategies as files: the same bytes back, and an error that names the field for everything that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from distredge.errors import FileError, StrategyError, UnsupportedModel
from distredge.model.graph import Graph
from distredge.strategy import Head, InputSpec, ModelRef, PlannerRef, Strategy, Volume

TOPOLOGY = "sha256:" + "0" * 64


def chain(heights: int = 12, operators: int = 3) -> Graph:
    """Three convolutions that keep the height."""
    weights = [numpy_helper.from_array(np.full((3, 3, 3, 3), 0.1, np.float32), f"w{i}") for i in range(operators)]
    names = ["image", *(f"map{i}" for i in range(operators))]
    nodes = [
        helper.make_node("Conv", [names[i], f"w{i}"], [names[i + 1]], pads=[1] * 4, name=f"conv{i}")
        for i in range(operators)
    ]
    shape = [1, 3, heights, 8]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in (names[0], names[-1])]
    graph = helper.make_graph(nodes, "chain", values[:1], values[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return Graph(onnx.shape_inference.infer_shapes(model), "chain")


@pytest.fixture(scope="module")
def graph() -> Graph:
    return chain()


@pytest.fixture
def content(graph: Graph) -> dict[str, Any]:
    """A right strategy file."""
    made: dict[str, Any] = json.loads(
        Strategy.make(graph, ["a", "b"], [(0, [0, 5, 12]), (2, [0, 12, 12])], head="b", seed=3).to_json()
    )
    return made


CUTS = st.integers(1, 200).flatmap(
    lambda h: st.lists(st.integers(0, h), min_size=2, max_size=2).map(lambda inner: (0, *sorted(inner), h))
)
NAMES = st.text(min_size=1, max_size=8)
VOLUMES = st.builds(
    lambda names, rows, wire, first: Volume(tuple(names), names[0], rows, None, "rows", wire, first),
    st.lists(NAMES, min_size=1, max_size=3, unique=True),
    CUTS,
    st.sampled_from(["float32", "float16", "int8"]),
    st.booleans(),
)


@given(
    st.lists(NAMES, min_size=3, max_size=3, unique=True),
    st.lists(VOLUMES, min_size=1, max_size=4),
    st.dictionaries(NAMES, st.floats(allow_nan=False, allow_infinity=False)),
    st.dictionaries(NAMES, st.integers() | st.text() | st.booleans() | st.none()),
)
def test_round_trip(
    devices: list[str], volumes: list[Volume], predicted: dict[str, float], settings: dict[str, Any]
) -> None:
    strategy = Strategy(
        ModelRef("m", TOPOLOGY, (1, 3, 8, 8)), tuple(devices), tuple(volumes), Head(devices[1]),
        planner=PlannerRef("search", 7, settings), predicted=predicted,
    )  # fmt: skip
    again = Strategy.from_json(strategy.to_json())
    assert again == strategy
    assert again.to_json() == strategy.to_json()


def test_file_round_trip(graph: Graph, tmp_path: Path) -> None:
    strategy = Strategy.make(graph, ["a", "b"], [(2, [0, 5, 12])], head="a", input_dtype="float32")
    strategy.save(tmp_path / "s.json")
    again = Strategy.load(tmp_path / "s.json")
    assert again == strategy
    assert again.source == str(tmp_path / "s.json")
    again.check(graph)


def test_a_model_whose_parts_are_rounded_differently_makes_every_strategy_lossy() -> None:
    rounded = chain()
    exact = Strategy.make(rounded, ["a", "b"], [(2, [0, 5, 12])], head="a")
    assert exact.lossless
    assert "exact" not in exact.to_json()
    rounded.lossy_because = "output 'map2' is rounded to float16"
    lossy = Strategy.make(rounded, ["a", "b"], [(2, [0, 5, 12])], head="a")
    again = Strategy.from_json(lossy.to_json())
    assert again == lossy
    assert not again.lossless
    assert "rounded" in again.lossy_because
    again.check(rounded)
    with pytest.raises(StrategyError, match=r"model.exact: found True, accepted: false: chain: output 'map2' is round"):
        exact.check(rounded)


def test_pictures_in_their_files(graph: Graph) -> None:
    strategy = Strategy.make(graph, ["a"], [(2, [0, 12])], head="a").replace(input=InputSpec("jpeg", 70_000, 300_000))
    assert Strategy.from_json(strategy.to_json()) == strategy
    assert json.loads(strategy.to_json())["input"] == {"dtype": "jpeg", "file_bytes": 70_000, "file_pixels": 300_000}
    assert strategy.lossless
    assert (strategy.input.element_dtype, strategy.input.pixels) == ("uint8", True)
    rows = strategy.with_rows()
    assert json.loads(rows.to_json())["input"] == {"dtype": "uint8"}
    assert rows.with_rows() is rows


def test_a_grid_of_tiles(graph: Graph) -> None:
    strategy = Strategy.make(graph, ["a"], [(2, [0, 12])], head="a")
    tiles = Volume(("map2",), "map2", (0, 6, 12), (0, 3, 8))
    grid = strategy.replace(devices=("a", "b", "c", "d"), volumes=(tiles,))
    assert Strategy.from_json(grid.to_json()).decisions(graph)[0].columns == (0, 3, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "distredge.strategy/2"}, "format: found 'distredge.strategy/2', accepted: 'distredge.strategy/1'"),
        ({"devices": []}, "devices: found [], accepted: array of length >= 1"),
        ({"devices": ["a", "a"]}, "devices: found ['a', 'a'], accepted: at least one device, each named once"),
        ({"devices": ["a", 1]}, "devices[1]: found 1, accepted: str"),
        ({"devices": ["a", ""]}, "devices[1]: found '', accepted: str of length >= 1"),
        ({"volumes": []}, "volumes: found []"),
        ({"head": {"device": "c"}}, "head.device: found 'c', accepted: one of devices ['a', 'b']"),
        ({"head": {"device": "a", "split": "out_channels"}}, "head.split: found 'out_channels', accepted: 'whole'"),
        ({"input": {"dtype": "float16"}}, "input.dtype: found 'float16', accepted: 'float32' or 'uint8'"),
        ({"input": {"dtype": "jpeg", "file_bytes": 5}}, "input.file_pixels: found 0, accepted: the mean of the files"),
        ({"input": {"dtype": "jpeg", "file_bytes": -1}}, "input.file_bytes: found -1"),
        ({"input": {"dtype": "uint8", "file_bytes": 5}}, "input.file_bytes: found 5, accepted: none with 'uint8'"),
        ({"planer": {}}, "planer: unknown key; did you mean 'planner'?"),
        ({"model": {"name": "m", "topology": TOPOLOGY, "input_shape": [1], "weights": 1}}, "weights: unknown key"),
        ({"model": {"name": "m", "topology": "x", "input_shape": [1]}}, "model.topology: found 'x', accepted: str"),
        ({"model": {"name": "m", "input_shape": [1]}}, "model: the key 'topology' is missing"),
        ({"predicted": {"latency_s": "fast"}}, "predicted.latency_s: found 'fast', accepted: float"),
    ],
)
def test_wrong_fields(content: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(StrategyError) as caught:
        Strategy.from_json(json.dumps({**content, **change}), "s.json")
    assert str(caught.value).startswith("s.json: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": [0, 5]}, "volumes[0].rows: found [0, 5], accepted: cut points that make 2 shares, not 1"),
        ({"rows": [1, 5, 12]}, "volumes[0].rows: found [1, 5, 12], accepted: cut points that start at 0"),
        ({"rows": [0, 7, 5]}, "volumes[0].rows: found [0, 7, 5], accepted: cut points that start at 0 and never fall"),
        ({"rows": [0, 7.5, 12]}, "volumes[0].rows[1]: found 7.5, accepted: int"),
        ({"rows": [0, -7, 12]}, "volumes[0].rows[1]: found -7, accepted: int >= 0"),
        ({"columns": [0, 4, 8]}, "volumes[0].rows: found [0, 5, 12], accepted: cut points that make 2 shares, not 4"),
        ({"reference": "map1"}, "volumes[0].reference: found 'map1', accepted: one of ends_at ['map0']"),
        ({"ends_at": []}, "volumes[0].ends_at: found []"),
        ({"split": "in_channels"}, "volumes[0].split: found 'in_channels', accepted: 'rows'"),
        ({"split": "diagonal"}, "volumes[0].split: found 'diagonal'"),
        ({"wire": "int4"}, "volumes[0].wire: found 'int4', accepted: 'float32' or 'float32-packed' or 'float16' or "),
        ({"boundary_first": 1}, "volumes[0].boundary_first: found 1, accepted: bool"),
        ({"row": []}, "volumes[0].row: unknown key; did you mean 'rows'?"),
    ],
)
def test_wrong_volumes(content: dict[str, Any], change: dict[str, Any], message: str) -> None:
    content["volumes"][0].update(change)
    with pytest.raises(StrategyError) as caught:
        Strategy.from_json(json.dumps(content), "s.json")
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["", "[1", '{"format": NaN}', "no", '{"predicted": {"latency_s": Infinity}}'])
def test_no_strategy_file(text: str) -> None:
    with pytest.raises(StrategyError, match=r"^s\.json: not JSON"):
        Strategy.from_json(text, "s.json")


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_figures_that_are_no_numbers(graph: Graph, wrong: float) -> None:
    with pytest.raises(StrategyError, match=r"predicted\.latency_s: found (nan|inf), accepted: a finite number"):
        Strategy.make(graph, ["a"], [(2, [0, 12])], head="a", predicted={"latency_s": wrong})


def test_a_list_is_no_strategy() -> None:
    with pytest.raises(StrategyError, match="format: found 'list'"):
        Strategy.from_json("[]", "s.json")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot read the strategy: No such file"):
        Strategy.load(tmp_path / "none.json")


def test_a_folder_that_is_not_there(graph: Graph, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot write the strategy: No such file"):
        Strategy.make(graph, ["a"], [(2, [0, 12])], head="a").save(tmp_path / "none" / "s.json")


def test_a_failed_save_leaves_the_file_as_it_was(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.json"
    first = Strategy.make(graph, ["a"], [(2, [0, 12])], head="a")
    first.save(path)

    def half(target: Path, content: bytes) -> int:
        with target.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(FileError, match="cannot write the strategy: No space left"):
        Strategy.make(graph, ["a", "b"], [(2, [0, 5, 12])], head="a").save(path)
    assert Strategy.load(path) == first
    assert list(tmp_path.iterdir()) == [path]


def test_another_model(graph: Graph) -> None:
    strategy = Strategy.make(graph, ["a"], [(2, [0, 12])], head="a")
    with pytest.raises(StrategyError, match=r"model\.topology: .* the strategy is for another model"):
        strategy.check(chain(heights=14))


def test_other_weights_of_the_same_model(graph: Graph) -> None:
    other = chain()
    other.constants["w0"] = other.constants["w0"] * 2
    Strategy.make(graph, ["a"], [(2, [0, 12])], head="a").check(other)
    assert (graph.topology == other.topology, graph.weights_digest == other.weights_digest) == (True, False)


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        (Volume(("map1", "map2"), "map2", (0, 12)), "volumes[0].ends_at: found ['map1', 'map2']"),
        (Volume(("map3",), "map3", (0, 12)), "did you mean 'map2'?"),
        (Volume(("map1",), "map1", (0, 12)), "volumes[0].ends_at: found ['map1'], accepted: the end of the body"),
        (Volume(("map2",), "map2", (0, 13)), "volumes[0].rows: found [0, 13], accepted: cut points that end at 12"),
        (Volume(("map2",), "map2", (0, 12), (0, 9)), "volumes[0].columns: found [0, 9]"),
    ],
)
def test_volumes_that_do_not_fit(graph: Graph, volume: Volume, message: str) -> None:
    strategy = Strategy.make(graph, ["a"], [(2, [0, 12])], head="a").replace(volumes=(volume,))
    with pytest.raises(StrategyError) as caught:
        strategy.decisions(graph)
    assert message in str(caught.value)


def test_volumes_out_of_order(graph: Graph) -> None:
    volumes = tuple(Volume((name,), name, (0, 12)) for name in ("map1", "map0", "map2"))
    strategy = Strategy.make(graph, ["a"], [(2, [0, 12])], head="a").replace(volumes=volumes)
    with pytest.raises(StrategyError, match=r"volumes\[1\]\.ends_at: .* a cut after that of the volume before"):
        strategy.decisions(graph)


def test_a_model_that_cannot_be_split() -> None:
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 8]) for n in "xy"]
    model = helper.make_model(
        helper.make_graph([helper.make_node("Relu", ["x"], ["y"], name="only")], "g", *[[v] for v in value])
    )
    with pytest.raises(UnsupportedModel, match="flat: no operator can be split by rows"):
        Strategy.make(Graph(model, "flat"), ["a"], [(0, [0, 1])], head="a")


def test_lossless(graph: Graph) -> None:
    for wire in ("float32", "float16", "int8"):
        strategy = Strategy.make(graph, ["a"], [(2, [0, 12])], head="a", wire=wire, input_dtype="float32")
        assert strategy.lossless == (wire == "float32")
