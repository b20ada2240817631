"""One sub-model for a volume with dynamic rows: the same for all devices and splits, and exact for all of them."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distredge.experiments.common.exact import (
    TOLERANCE,
    feature_maps,
    random_cuts,
    random_inputs,
    random_strategy,
    relative_error,
    run_whole,
    with_outputs,
)
from distredge.experiments.common.suite import Case, reduced_zoo
from distredge.model import dynamic_segments, dynamic_volume
from distredge.model.dynamic_volume import DynamicPhase, DynamicVolume, Span
from distredge.model.dynamic_writing import MOST_RESULTS
from distredge.model.dynamic_writing import dynamic_volume as written
from distredge.model.graph import Graph
from distredge.model.preprocess import Preprocess
from distredge.model.rows import Interval
from distredge.model.sub_model import RowMask, Segment
from distredge.runtime.deployment import deploy
from distredge.runtime.in_process import InProcess
from distredge.strategy import Strategy

ZOO = (
    "vgg16 resnet50 inception-v3 googlenet mobilenet-v2 mobilenet-v3-large efficientnet-lite0 densenet121 yolov2 unet"
).split()


@pytest.fixture(autouse=True)
def whatever_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pictures have large halos: no part is refused for them here."""
    monkeypatch.setattr(dynamic_segments, "MOST_EXTRA", float("inf"))


def _segments(graph: Graph, strategy: Strategy) -> list[Segment]:
    """Of all devices."""
    deployment = deploy(graph, strategy)
    return [s for i in range(len(deployment.devices)) for s in deployment.program(i, dynamic_rows=True).segments]


def _only_phase(graph: Graph) -> DynamicPhase:
    """That of the whole body as one volume."""
    made = written(graph, 0, len(graph.body.operators), "float32")
    assert isinstance(made, DynamicVolume), made
    (phase,) = made.phases
    return phase


def _error(graph: Graph, strategy: Strategy, seed: int = 1) -> float:
    inputs = random_inputs(graph, seed)
    return relative_error(run_whole(graph, inputs), InProcess(deploy(graph, strategy), dynamic_rows=True).infer(inputs))


def _split(graph: Graph, *rows: Sequence[int]) -> Strategy:
    """Volumes that end at the last cuts, by the cut points of each."""
    names = [f"d{i}" for i in range(len(rows[0]) - 1)]
    cuts = graph.cuts[-len(rows) :]
    return Strategy.make(graph, names, [(c.index, list(r)) for c, r in zip(cuts, rows, strict=True)], head=names[0])


@pytest.mark.parametrize("case", [c for c in reduced_zoo() if c.name.split()[0] in ZOO], ids=lambda case: case.name)
def test_exact_on_the_zoo(case: Case) -> None:
    """Random strategies, with shares that are empty, of one row, and all of it."""
    plain = case.load()
    graph = with_outputs(plain, feature_maps(plain, 4))
    inputs = case.inputs(graph, 1)
    expected = run_whole(graph, inputs)
    rng = np.random.default_rng(2)
    dynamic = 0
    for _ in range(4):
        deployment = deploy(graph, random_strategy(graph, rng, 6))
        run = InProcess(deployment, dynamic_rows=True)
        # The second picture meets what the first one left in the buffers.
        for scale in (-0.5, 1.0):
            found = run.infer({name: value * np.float32(scale) for name, value in inputs.items()})
        assert relative_error(expected, found) <= TOLERANCE
        dynamic += sum(bool(s.ranges) for i in deployment.busy for s in deployment.program(i, True).segments)
    assert dynamic > 20


@pytest.mark.parametrize("name", ["vgg16", "resnet50", "mobilenet-v2"])
def test_a_volume_is_the_same_for_all_devices_and_splits(name: str) -> None:
    graph = next(c for c in reduced_zoo() if c.name.split()[0] == name).load()
    rng = np.random.default_rng(3)
    count = len(graph.cuts)
    places = sorted({count // 4, count // 2, count - 1})
    models: dict[int, set[bytes]] = defaultdict(set)
    parts = 0
    for devices in (1, 2, 3, 5):
        names = [f"d{i}" for i in range(devices)]
        for _ in range(3):
            volumes = [(c, random_cuts(rng, graph.cuts[c].height, devices)) for c in places]
            for segment in _segments(graph, Strategy.make(graph, names, volumes, head=names[0])):
                if segment.ranges:
                    models[segment.stage].add(segment.model)
                    parts += 1
    assert sorted(models) == [0, 1, 2]
    assert all(len(found) == 1 for found in models.values())
    assert parts > 30


def test_it_is_valid_and_its_rows_are_dynamic(net: Any) -> None:
    n = net((1, 3, 16, 12))
    graph = n.graph(n.conv(n.node("Relu", n.conv("x", 16, pads=[1] * 4)), 4, pads=[1] * 4, strides=[2, 2]))
    (segment,) = _segments(graph, _split(graph, [0, 8]))
    model = onnx.load_from_string(segment.model)
    assert (model.ir_version, model.opset_import[0].version) == (8, graph.opset)
    for tensor in model.graph.initializer:
        if tensor.name in segment.weights:
            del tensor.external_data[:]
            tensor.data_location = onnx.TensorProto.DEFAULT
            tensor.raw_data = np.ascontiguousarray(graph.constants[tensor.name]).tobytes()
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == [*(p.name for p in segment.inputs), segment.masks[0].name]
    for value in (*model.graph.input, *model.graph.output):
        sizes = value.type.tensor_type.shape.dim
        assert [bool(size.dim_param) for size in sizes] == [False, False, True, False]
    # 8 rows of stride 2 read rows -1 to 15 of the map before, and these rows -2 to 16 of the picture.
    (port,) = segment.inputs
    assert port.region.rows == Interval(-2, 17)
    assert port.shape == (1, 3, 19, 12)
    assert segment.masks == (RowMask(segment.masks[0].name, (1, 1, 17, 1), 1, 17),)
    assert segment.ranges[port.name] == ((1, 3, 5, 12), (1, 3, 11, 12), (1, 3, 19, 12))
    assert not set(segment.ranges) & {p.name for p in segment.outputs}
    assert not any(character in name for name in segment.ranges for character in ":,")


def test_masks_stand_only_where_padding_did(net: Any) -> None:
    n = net((1, 3, 16, 12))
    plain = n.graph(n.conv(n.node("Relu", n.conv("x", 4, pads=[0, 1, 0, 1])), 4, 1))
    assert _only_phase(plain).masks == ()
    # The picture comes in with zeros around it: no mask either.
    n = net((1, 3, 16, 12))
    assert _only_phase(n.graph(n.conv("x", 4, pads=[1] * 4))).masks == ()


def test_wrong_masks_are_seen(net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tests above would find if the rows outside the picture were left as they are."""
    n = net((1, 3, 16, 12))
    graph = n.graph(n.conv(n.conv("x", 4, pads=[1] * 4), 4, pads=[1] * 4))
    strategy = _split(graph, [0, 5, 11, 16])
    assert _error(graph, strategy) <= TOLERANCE
    monkeypatch.setattr(dynamic_volume, "RowMask", lambda name, shape, *_: RowMask(name, shape, 0, shape[2]))
    assert _error(graph, strategy) > 100 * TOLERANCE


@pytest.mark.parametrize("ceil_mode", [0, 1])
@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize(
    ("op_type", "attributes"),
    [
        ("MaxPool", {}),
        ("AveragePool", {}),
        ("AveragePool", {"count_include_pad": 1}),
        ("MaxPool", {"dilations": [2, 2]}),
    ],
)
def test_pooling(net: Any, op_type: str, attributes: dict[str, Any], ceil_mode: int, shift: bool) -> None:
    """Of negative numbers alone, where padding must neither win nor count; at the volume's beginning and within."""
    n = net((1, 3, 15, 12))
    x = n.node("Sub", ["x", n.constant(np.float32(9))]) if shift else "x"
    pool = n.node(op_type, x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, ceil_mode=ceil_mode, **attributes)
    graph = n.graph(n.conv(pool, 4, pads=[1] * 4))
    height = graph.cuts[-1].height
    for rows in ([0, 1, 4, height], [0, 0, height, height], [0, 3, 3, height]):
        assert _error(graph, _split(graph, rows)) <= TOLERANCE


@pytest.mark.parametrize("count_include_pad", [0, 1])
def test_averages_with_gaps(net: Any, count_include_pad: int) -> None:
    """AveragePool has dilations from operator set 19 on."""
    n = net((1, 3, 17, 12), opset=19)
    geometry = {"kernel_shape": [3, 3], "dilations": [2, 1], "strides": [2, 1], "pads": [2, 1, 2, 1]}
    pool = n.node("AveragePool", n.node("Softplus", "x"), count_include_pad=count_include_pad, **geometry)
    graph = n.graph(n.conv(pool, 4, pads=[1] * 4))
    height = graph.cuts[-1].height
    for rows in ([0, 1, 4, height], [0, 0, height, height], [0, 3, 3, height]):
        strategy = _split(graph, rows)
        assert all(s.ranges for s in _segments(graph, strategy))
        assert _error(graph, strategy) <= TOLERANCE


def test_an_average_that_reaches_beyond_its_padding_keeps_its_shapes(net: Any) -> None:
    n = net((1, 3, 16, 12))
    pool = n.node("AveragePool", "x", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, count_include_pad=1)
    graph = n.graph(n.conv(pool, 4, pads=[1] * 4))
    assert written(graph, 0, 2, "float32") == "AveragePool that counts padding and reaches beyond it"
    assert _error(graph, _split(graph, [0, 3, 8])) <= TOLERANCE


def test_shares_that_do_not_meet_are_rounded_outward(net: Any) -> None:
    """A volume that ends with a map of 9 rows and one of 5: of an odd share of the former some rows are made twice."""
    n = net((1, 3, 9, 12))
    tall = n.node("Relu", n.conv("x", 4, pads=[1] * 4))
    short = n.conv(tall, 4, pads=[1] * 4, strides=[2, 2])
    graph = n.graph(tall, short)
    for rows in ([0, 3, 4, 9], [0, 1, 2, 9], [0, 0, 8, 9]):
        assert _error(graph, _split(graph, rows)) <= TOLERANCE
    strategy = _split(graph, [0, 3, 4, 9])
    assert [s.outputs[0].region.rows for s in _segments(graph, strategy)] == [(0, 4), (2, 4), (4, 10)]


def test_parts_that_have_nothing_to_do_with_each_other(net: Any) -> None:
    """The second volume makes something of each of two maps, by itself."""
    n = net((1, 3, 17, 12))
    tall = n.node("Relu", n.conv("x", 4, pads=[1] * 4))
    short = n.conv(tall, 4, pads=[1] * 4, strides=[2, 2])
    graph = n.graph(n.conv(tall, 2, pads=[1] * 4), n.conv(n.conv(short, 4, 1), 2, pads=[1] * 4))
    cut = next(cut.index for cut in graph.cuts if set(cut.tensors) == {tall, short})
    for rows in ([0, 5, 11, 17], [0, 0, 2, 17], [0, 16, 17, 17]):
        strategy = Strategy.make(
            graph, ["a", "b", "c"], [(cut, rows), (len(graph.cuts) - 1, [17 - r for r in rows[::-1]])], head="a"
        )
        assert all(s.ranges for s in _segments(graph, strategy))
        assert _error(graph, strategy) <= TOLERANCE
    spans = _segments(graph, strategy)[-1].inputs
    assert sorted(port.region.rows.size for port in spans) == [11, 20]


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [2, 2]},
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 0]},
        {"strides": [3, 1], "pads": [2, 1, 0, 1]},
        {"strides": [4, 1]},
        {"dilations": [2, 2], "pads": [2, 2, 2, 2]},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
    ],
)
def test_transposed_convolution(net: Any, attributes: dict[str, Any]) -> None:
    """Rows between two contributions, and beyond the last one, have the bias alone."""
    n = net((1, 3, 9, 6))
    x = n.node("Relu", n.conv("x", 4, pads=[1] * 4))
    n.channels[x] = 4
    up = n.node("ConvTranspose", [x, n.weight(4, 5, 3, 3), n.weight(5)], **attributes)
    n.channels[up] = 5
    graph = n.graph(n.conv(up, 2, pads=[1] * 4))
    height = graph.cuts[-1].height
    for rows in ([0, 1, 4, height], [0, 0, height - 1, height], [0, 5, 5, height]):
        strategy = _split(graph, rows)
        assert all(s.ranges for s in _segments(graph, strategy))
        assert _error(graph, strategy) <= TOLERANCE


def test_partial_sums(net: Any) -> None:
    """A reduction at the volume's end counts the rows that are the part's own."""
    n = net((1, 3, 9, 12))
    x = n.node("Relu", n.conv("x", 8, pads=[1] * 4))
    graph = n.graph(n.node("Gemm", [n.node("Flatten", n.node("GlobalAveragePool", x)), n.weight(8, 5)]))
    assert _error(graph, _split(graph, [0, 2, 2, 3, 9])) <= TOLERANCE
    assert all(s.ranges for s in _segments(graph, _split(graph, [0, 2, 2, 3, 9]))[:-1] if s.stage == 0)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_uint8_pixels(net: Any, layout: str) -> None:
    """They are made numbers first and zeros outside the picture afterwards, as a pixel of value 0 is no zero."""
    shape = (1, 3, 14, 11) if layout == "NCHW" else (1, 14, 11, 3)
    n = net(shape)
    n.channels["x"] = 3
    image = "x" if layout == "NCHW" else n.node("Transpose", "x", perm=[0, 3, 1, 2])
    n.channels[image] = 3
    plain = n.graph(n.conv(n.conv(image, 4, 5, pads=[2] * 4), 4, pads=[1] * 4))
    spec = Preprocess((14, 11), None, (123.0, 116.0, 103.0), (0.017, 0.018, 0.019), layout=layout)  # type: ignore[arg-type]
    graph = Graph(plain.proto, "pixels", spec)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    strategy = Strategy.make(
        graph, ["a", "b", "c"], [(graph.cuts[-1].index, [0, 3, 9, 14])], head="a", input_dtype="uint8"
    )
    found = InProcess(deploy(graph, strategy), dynamic_rows=True).infer({"x": pixels})
    assert relative_error(run_whole(graph, {"x": spec.normalise(pixels)}), found) <= TOLERANCE
    segments = _segments(graph, strategy)
    assert all(s.inputs[0].dtype == "uint8" for s in segments)
    # What is cast of them has a range as well, for an engine that begins there.
    assert len(segments[0].ranges) == 2 + len(segments[0].masks)


def _unread(n: Any) -> Graph:
    n.conv("x", 4)
    return n.graph(n.node("Relu", "x"))  # type: ignore[no-any-return]


def _padding_alone(n: Any) -> Graph:
    """The last row starts below the picture: what it holds there is not what the whole model has."""
    pool = n.node("MaxPool", "x", kernel_shape=[4, 3], pads=[1, 1, 3, 1], strides=[3, 1], ceil_mode=1)
    return n.graph(n.node("Tanh", pool))  # type: ignore[no-any-return]


def _two_scales(n: Any) -> Graph:
    """Every second row meets one of a map that a convolution without padding makes as short."""
    every_second = n.node("MaxPool", "x", kernel_shape=[1, 1], strides=[2, 1])
    return n.graph(n.node("Add", [every_second, n.conv("x", 3, (9, 1))]))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda n: n.graph(n.node("Pad", ["x", n.constant([0, 0, 1, 0, 0, 0, 1, 0], np.int64)])), "Pad has no form"),
        (lambda n: n.graph(n.node("Concat", ["x", "x"], axis=2)), "Concat moves or broadcasts the rows"),
        (lambda n: n.graph(n.node("Add", ["x", n.constant(np.ones((1, 3, 16, 1), np.float32))])), "rows of its own"),
        (lambda n: n.graph(n.node("Mul", ["x", n.constant(np.float32(np.inf))])), "is not finite"),
        (lambda n: n.graph(n.node("Div", ["x", "x"])), "Div has no form"),
        (lambda n: n.graph(n.conv(n.conv("x", 4, (16, 3)), 4, 1)), "has no rows to split"),
        (lambda n: n.graph(n.conv(n.node("LRN", "x", size=3, bias=0.0), 4, pads=[1] * 4)), "LRN without a bias"),
        (_unread, "nobody reads what Conv makes"),
        (_padding_alone, "MaxPool of padding alone"),
        (_two_scales, "has rows at two scales"),
    ],
)
def test_what_cannot_be_written_so_is_told(net: Any, make: Any, why: str) -> None:
    graph = make(net((1, 3, 16, 12)))
    told = written(graph, 0, len(graph.body.operators), "float32")
    assert isinstance(told, str)
    assert why in told


def test_a_volume_of_which_nobody_reads_a_part(net: Any) -> None:
    graph = _unread(net((1, 3, 16, 12)))
    assert graph.operators[graph.body.operators[0]].op_type == "Conv"
    assert written(graph, 0, 1, "float32") == "nobody reads 't0_0', nor what is made of it"


@pytest.mark.parametrize("fully_connected", [False, True])
def test_squeeze_and_excite(net: Any, fully_connected: bool) -> None:
    """Both phases have dynamic rows: sums of a part's own rows, then what is made of everybody's."""
    n = net((1, 3, 17, 12))
    x = n.node("Relu", n.conv("x", 8, pads=[1] * 4, strides=[2, 2]))
    made = n.squeeze_excite(x, fully_connected)
    graph = n.graph(n.conv(n.node("Add", [made, x]), 4, pads=[1] * 4))
    models = defaultdict(set)
    for rows in ([0, 9], [0, 2, 9], [0, 3, 3, 4, 9], [0, 0, 0, 9, 9]):
        strategy = _split(graph, rows)
        assert _error(graph, strategy) <= TOLERANCE
        for segment in _segments(graph, strategy):
            assert segment.ranges
            models[segment.stage].add(segment.model)
    assert {stage: len(found) for stage, found in models.items()} == {0: 1, 1: 1}


def test_more_results_than_there_is_room_for(net: Any) -> None:
    """Parts that complete a reduction of so many devices keep their shapes; those that contribute need not."""
    n = net((1, 3, 40, 5))
    graph = n.graph(n.squeeze_excite(n.conv("x", 4, pads=[1] * 4), fully_connected=False))
    for parts in (MOST_RESULTS, MOST_RESULTS + 1):
        strategy = _split(graph, [40 * i // parts for i in range(parts + 1)])
        assert {(s.stage, bool(s.ranges)) for s in _segments(graph, strategy)} == {
            (0, True),
            (1, parts == MOST_RESULTS),
        }
        assert _error(graph, strategy) <= TOLERANCE


def test_boundary_rows_first_and_columns_keep_their_shapes(net: Any) -> None:
    n = net((1, 3, 16, 12))
    plain = n.graph(n.conv(n.conv("x", 4, pads=[1] * 4), 4, pads=[1] * 4))
    first = _split(plain, [0, 8, 16], [0, 8, 16])
    first = first.replace(volumes=(dataclasses.replace(first.volumes[0], boundary_first=True), first.volumes[1]))
    grid = _split(plain, [0, 8, 16])
    grid = grid.replace(volumes=tuple(dataclasses.replace(v, rows=(0, 16), columns=(0, 5, 12)) for v in grid.volumes))
    for strategy, why in ((first, "its boundary rows come first"), (grid, "it is dealt out in columns, too")):
        assert deploy(plain, strategy).dynamic_volumes.reasons == {0: why}
        assert _error(plain, strategy) <= TOLERANCE


def test_a_part_that_it_would_cost_too_much_keeps_its_shapes(net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six convolutions of 32 rows: one part has a sixth of it to do beyond the picture, two have more than half."""
    monkeypatch.setattr(dynamic_segments, "MOST_EXTRA", 0.25)
    n = net((1, 4, 32, 12))
    x = "x"
    for _ in range(6):
        x = n.conv(x, 4, pads=[1] * 4)
    graph = n.graph(x)
    assert [bool(s.ranges) for s in _segments(graph, _split(graph, [0, 32]))] == [True]
    assert [bool(s.ranges) for s in _segments(graph, _split(graph, [0, 2, 30, 32]))] == [False, True, False]
    assert _error(graph, _split(graph, [0, 2, 30, 32])) <= TOLERANCE


def test_spans() -> None:
    assert Span(4, -3, 5).rows(Interval(2, 7)) == (5, 33)


@settings(max_examples=100)
@given(data=st.data())
def test_random_chains(net: Any, data: st.DataObject) -> None:
    """Strides, padding, dilation, residuals and concatenation, cut and split at random."""
    choose = lambda *options: data.draw(st.sampled_from(options))  # noqa: E731
    height = data.draw(st.integers(12, 33))
    n = net((1, 3, height, 7), seed=data.draw(st.integers(0, 99)))
    x = "x"
    for _ in range(data.draw(st.integers(1, 6))):
        kind = choose("conv", "stride", "residual", "concat", "max", "average", "norm", "up")
        channels = n.channels[x]
        if kind == "conv":
            kernel, dilation = choose(1, 3, 5), choose(1, 2)
            reach = dilation * (kernel - 1)
            top, bottom = data.draw(st.integers(0, reach)), data.draw(st.integers(0, reach))
            height += top + bottom - reach
            pads = [top, reach // 2, bottom, reach - reach // 2]
            x = n.node(choose("Relu", "Tanh"), n.conv(x, 4, kernel, pads=pads, dilations=[dilation] * 2))
        elif kind == "stride":
            pads = [choose(0, 1), 1, choose(0, 1), 1]
            height = (height + pads[0] + pads[2] - 3) // 2 + 1
            x = n.conv(x, 4, 3, pads=pads, strides=[2, 1])
        elif kind == "residual":
            x = n.node("Add", [x, n.conv(n.node("Relu", x), channels, pads=[1] * 4, group=channels)])
        elif kind == "concat":
            sides = [n.conv(x, 2, 1), n.conv(x, 3, (5, 1), pads=[2, 0, 2, 0]), x]
            x = n.node("Concat", sides, axis=1)
            n.channels[x] = 5 + channels
        elif kind == "up":
            bottom = choose(0, 1)
            height = 2 * height - bottom
            x = n.node("ConvTranspose", [x, n.weight(channels, 3, 3, 1)], strides=[2, 1], pads=[1, 0, bottom, 0])
            n.channels[x] = 3
        elif kind == "norm":
            ones = n.constant(np.ones(channels), np.float32)
            x = n.node("BatchNormalization", [x, n.weight(channels), ones, n.weight(channels), ones])
        else:
            op_type, extra = ("MaxPool", {}) if kind == "max" else ("AveragePool", {"count_include_pad": choose(0, 1)})
            strides = [choose(1, 2), 1]
            height = (height - 1) // strides[0] + 1
            x = n.node(op_type, x, kernel_shape=[3, 3], pads=[1] * 4, strides=strides, **extra)
        if height < 10:
            break
    graph = n.graph(x)
    if graph.cuts[-1].height < 2:
        return
    strategy = random_strategy(graph, np.random.default_rng(data.draw(st.integers(0, 999))), 4, 3)
    assert _error(graph, strategy) <= TOLERANCE
    assert all(
        why == "its boundary rows come first" for why in deploy(graph, strategy).dynamic_volumes.reasons.values()
    )
