"""`distredge show` and `distredge schema`."""

from __future__ import annotations

import json
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from distredge.cli.main import distredge
from distredge.cli.schema import FORMATS, json_schema
from distredge.model.capture import load_model
from distredge.model.describe import describe
from distredge.model.graph import Graph
from distredge.model.picture import draw, find_lanes
from distredge.model.rows import even_cuts
from distredge.strategy import Strategy

MODEL = "mobilenet-v3-small"


def run(*arguments: str) -> str:
    result = CliRunner().invoke(distredge, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def graph() -> Graph:
    return load_model(MODEL)


@pytest.fixture(scope="module")
def strategy(graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cuts = [graph.cuts[i] for i in (5, len(graph.cuts) - 1)]
    path = tmp_path_factory.mktemp("show") / "s.json"
    volumes = [(cut.index, even_cuts(cut.height, 3)) for cut in cuts]
    Strategy.make(graph, ["a", "b", "c"], volumes, head="c").save(path)
    return path


def test_table_says_what_can_be_split_and_why_not() -> None:
    lines = run("show", MODEL).splitlines()
    gemm = next(line for line in lines if " Gemm " in line)
    assert "head" in gemm
    assert "only vectors follow: no rows left to split" in gemm
    assert any("partial results" in line and "GlobalAveragePool" in line for line in lines)
    assert any("every device computes it" in line for line in lines)
    assert any("Conv 3x3 /2" in line and "1x16x[112]x112" in line and "5.42" in line for line in lines)


def test_json_counts_everything_once(graph: Graph) -> None:
    found = json.loads(run("show", MODEL, "--json"))
    assert found["macs"] == sum(graph.macs) == sum(line["macs"] for line in found["operators"])
    assert found["parameters"] == graph.parameters
    assert [cut["tensors"] for cut in found["cuts"]] == [list(cut.tensors) for cut in graph.cuts]
    assert [line["cut"] for line in found["operators"] if line["cut"] is not None] == list(range(len(graph.cuts)))
    assert {line["split"] for line in found["operators"]} == {"rows", "partial results", "everywhere", "head"}


def test_another_input_shape() -> None:
    found = json.loads(run("show", "vgg16", "--input-shape", "1x3x64x96", "--json"))
    assert list(found["inputs"].values()) == [[1, 3, 64, 96]]


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_picture_of_a_strategy(strategy: Path, tmp_path: Path, ending: str) -> None:
    picture = tmp_path / f"g.{ending}"
    run("show", MODEL, "--plot", str(picture), "--strategy", str(strategy))
    content = picture.read_bytes()
    if ending == "png":
        assert content.startswith(b"\x89PNG")
    else:
        text = "".join(xml.etree.ElementTree.fromstring(content).itertext())
        assert all(label in text for label in ("volume 0", "volume 1", "head on c", "GlobalAveragePool"))


def test_lanes_never_share_a_column_while_both_live(graph: Graph) -> None:
    lanes = list(find_lanes(graph, describe(graph)).values())
    for i, one in enumerate(lanes):
        for other in lanes[i + 1 :]:
            if one.column == other.column:
                assert one.last <= other.made or other.last <= one.made


def test_a_strategy_needs_a_picture(strategy: Path) -> None:
    result = CliRunner().invoke(distredge, ["show", MODEL, "--strategy", str(strategy)])
    assert (result.exit_code, "give --plot FILE too" in result.output) == (2, True)


def test_wrong_sizes() -> None:
    result = CliRunner().invoke(distredge, ["show", MODEL, "--input-shape", "large"])
    assert (result.exit_code, "sizes such as 1,3,224,224" in result.output) == (2, True)


def test_a_picture_in_an_unknown_format(graph: Graph, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"found '\.gif', accepted: \.png or \.svg or \.pdf"):
        draw(graph, tmp_path / "g.gif")


def _matches(schema: dict[str, Any], value: Any, definitions: dict[str, Any]) -> bool:
    """Enough of JSON schema to tell the formats' own files from broken ones."""
    if "$ref" in schema:
        return _matches(definitions[schema["$ref"].rpartition("/")[2]], value, definitions)
    if "anyOf" in schema:
        return any(_matches(s, value, definitions) for s in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    kind = schema.get("type")
    if kind == "object":
        known = schema.get("properties", {})
        if not isinstance(value, dict) or not set(schema.get("required", ())) <= set(value):
            return False
        extra = schema.get("additionalProperties", True)
        for key, item in value.items():
            inner = known.get(key, extra)
            if inner is False or (isinstance(inner, dict) and not _matches(inner, item, definitions)):
                return False
        return True
    if kind == "array":
        return isinstance(value, list) and all(_matches(schema.get("items", {}), v, definitions) for v in value)
    kinds: dict[Any, Any] = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None)}
    return kind is None or isinstance(value, kinds[kind])


def test_schema_fits_a_strategy_file(strategy: Path) -> None:
    schema = json.loads(run("schema", "strategy"))
    content = json.loads(strategy.read_text())
    assert _matches(schema, content, schema["$defs"])
    content["volumes"][0]["wire"] = "int4"
    assert not _matches(schema, content, schema["$defs"])


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_a_schema_that_forbids_unknown_keys(name: str) -> None:
    schema = json_schema(name)
    assert schema["title"] == f"distredge.{name}/1"
    top = schema["$defs"][schema["$ref"].rpartition("/")[2]]
    assert (top["type"], top["additionalProperties"]) == ("object", False)
    assert top["properties"]["format"]["enum"] == [f"distredge.{name}/1"]


def test_a_large_head_is_a_warning_that_names_where_it_begins(tmp_path: Path) -> None:
    """Two heads: a small one before, and the one behind which most of the work is."""
    weights = [
        numpy_helper.from_array(np.zeros(shape, np.float32), name)
        for name, shape in (("w", (4, 3, 3, 3)), ("v", (4, 4, 3, 3)), ("m", (12 * 12 * 4, 10)))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["f"], name="first", pads=[1] * 4),
        helper.make_node("Flatten", ["f"], ["l"], name="flat"),
        helper.make_node("MatMul", ["l", "m"], ["scores"], name="classes"),
        helper.make_node("Trilu", ["f"], ["t"], name="triangle"),
        helper.make_node("Conv", ["t", "v"], ["y"], name="second", pads=[1] * 4),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 12, 12])
    outputs = [helper.make_empty_tensor_value_info(name) for name in ("scores", "y")]
    graph = helper.make_graph(nodes, "g", [x], outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8), tmp_path / "m.onnx")
    text = run("show", str(tmp_path / "m.onnx"))
    assert "warning: 63.01 % of the multiply-adds are in the head" in text
    assert "it begins at 'triangle' (Trilu): Trilu has no row rule" in text
    found = json.loads(run("show", str(tmp_path / "m.onnx"), "--json"))
    assert found["head_begins_at"] == {"operator": "triangle", "type": "Trilu", "why": "Trilu has no row rule"}


def test_a_small_head_is_none() -> None:
    assert "warning" not in run("show", "vgg16")
