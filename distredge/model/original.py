"""The model that the user gave, run in ONNX Runtime as it is: what the captured graph must equal.

Capture rewrites a model. Whether what comes out computes the same is not trusted but tried, once per model: both are
run on one seeded input, operator by operator as they are written, without the engine's graph optimisation. The same run
says whether every tensor has the shape that plans count on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TypeProto, helper, numpy_helper

from distredge.errors import ModelError
from distredge.folders import user_folder
from distredge.model.draft import reads
from distredge.model.graph import CaptureCheck, Graph
from distredge.model.infer import OPSET, describe, static_shape, tensor_type

if TYPE_CHECKING:
    import onnxruntime as ort

Arrays = Mapping[str, NDArray[Any]]

TOLERANCE = 1e-5
"""Largest accepted difference, relative to an output's largest magnitude: float32 sums in another order differ less."""

COARSE = {"float16": 4 * 2.0**-10, "bfloat16": 4 * 2.0**-7}
"""The same for models that compute in coarser floats: four of their roundings."""

INLINE_BYTES = 1024
"""Constants up to this size are written into what the engine gets; shapes may depend on them."""

SEED = 0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Original:
    """A model as it was given, with static inputs.

    Attributes:
        name: for messages.
        proto: the model; its large initializers may be missing.
        constants: initializers by name: any shape (d0, d1, ...) and dtype that ONNX has.
        inputs: type by name; each has a static shape.
        outputs: tensors at which it ends.
    """

    name: str
    proto: onnx.ModelProto
    constants: Arrays
    inputs: Mapping[str, TypeProto]
    outputs: tuple[str, ...]

    @classmethod
    def of(cls, proto: onnx.ModelProto, graph: Graph) -> Original:
        """Returns the model of which a graph was captured, with that graph's inputs and outputs."""
        constants = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
        inputs = {v.name: v.type for v in proto.graph.input if v.name not in constants}
        shapes = {
            name: tensor_type(inputs[name].tensor_type.elem_type, graph.tensors[name].shape)
            for name in graph.input_names
        }
        return cls(graph.name, proto, constants, shapes, graph.output_names)

    def run(self, feeds: Arrays, outputs: Sequence[str] | None = None, *, optimised: bool = False) -> dict[str, Any]:
        """Runs it in ONNX Runtime.

        Args:
            feeds: array by input name, of the input's shape (N, C, H, W) or other and dtype.
            outputs: tensors to return; None: its own outputs.
            optimised: with the engine's graph optimisation.

        Returns:
            Array by name, shape and dtype as the engine makes them.

        Raises:
            EngineRefuses: if ONNX Runtime cannot load or run it.
        """
        wanted = list(self.outputs if outputs is None else outputs)
        source = self.proto
        model = onnx.ModelProto(ir_version=max(4, source.ir_version))
        model.opset_import.extend(source.opset_import)
        model.functions.extend(source.functions)
        model.graph.name = source.graph.name or "model"
        model.graph.node.extend(_needed(source.graph.node, wanted))
        model.graph.sparse_initializer.extend(source.graph.sparse_initializer)
        model.graph.input.extend(helper.make_value_info(n, t) for n, t in self.inputs.items())
        model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in wanted)
        used = {n for node in model.graph.node for n in reads(node)}
        return _run(model, {n: a for n, a in self.constants.items() if n in used}, feeds, wanted, optimised)

    def tolerance(self) -> float:
        """How far outputs may be from this model's: TOLERANCE, or twice the distance between its own two runs.

        Raises:
            EngineRefuses: if ONNX Runtime cannot run it.
        """
        feeds = seeded_inputs(self.inputs)
        return max(TOLERANCE, 2 * difference(self.run(feeds), self.run(feeds, optimised=True)))

    def digest(self) -> str:
        """SHA-256 over the nodes, the constants and the shapes of the inputs."""
        found = hashlib.sha256()
        for part in [*self.proto.opset_import, *self.proto.functions, *self.proto.graph.node, *self.inputs.values()]:
            found.update(part.SerializeToString(deterministic=True))
        found.update(json.dumps([*self.inputs, *self.outputs]).encode())
        for name, array in self.constants.items():
            found.update(f"{name}{array.dtype.str}{array.shape}".encode())
            found.update(_bytes(array))
        return found.hexdigest()


def _needed(nodes: Iterable[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    # Nodes in their own order, without those that follow the outputs: what a model was ended before may be anything.
    listed = list(nodes)
    makers = {n: place for place, node in enumerate(listed) for n in node.output if n}
    pending, found = [makers[n] for n in outputs if n in makers], set()
    while pending:
        place = pending.pop()
        if place not in found:
            found.add(place)
            pending.extend(makers[n] for n in reads(listed[place]) if n in makers)
    return [listed[place] for place in sorted(found)]


class EngineRefuses(Exception):
    """ONNX Runtime does not load a model, or fails while it runs it (`running`)."""

    def __init__(self, error: Exception, running: bool) -> None:
        text = " ".join(str(error).split())
        super().__init__(text if len(text) <= _SAID else f"{text[:_SAID]}...")
        self.running = running


_SAID = 300
"""Characters of the engine's message; its rest says where in its source it stands."""


def check(graph: Graph, original: Original, keep: bool) -> CaptureCheck:
    """Tries whether a captured graph computes what the model that it was captured from does.

    Args:
        graph: the captured graph.
        original: the model as it was given.
        keep: whether to remember on disk, in the user's cache folder, that it does.

    Returns:
        How far they are apart, or why they could not be compared.

    Raises:
        ModelError: if they differ, a tensor has another shape in the engine than in the graph, or the engine does not
            load the graph; it names the operator.
    """
    try:
        import onnxruntime
    except ImportError:
        return CaptureCheck(reason="onnxruntime is not installed")
    engine = f"ONNX Runtime {onnxruntime.__version__}"
    place = _place(graph, original, engine) if keep else None
    known = _remembered(place)
    if known is not None:
        return known
    feeds = seeded_inputs(original.inputs)
    try:
        captured = _run_captured(graph, feeds)
    except EngineRefuses as error:
        if not error.running:
            raise ModelError(
                f"{graph.name}: {_refused(graph)}{engine} does not load the captured graph: {error}"
            ) from error
        captured, failed = None, str(error)
    try:
        expected = original.run(feeds)
    except EngineRefuses as error:
        return CaptureCheck(engine, reason=f"{engine} does not run the model as it was given: {error}")
    if captured is None:
        raise ModelError(f"{graph.name}: {engine} fails in the captured graph, not in the model as given: {failed}")
    found = difference(expected, captured)
    allowed = tolerance_of(graph)
    if not found <= allowed:
        allowed = max(allowed, 2 * difference(expected, original.run(feeds, optimised=True)))
    if not found <= allowed:
        raise ModelError(_where_it_differs(graph, original, feeds, allowed, found, engine))
    done = CaptureCheck(engine, found, allowed)
    _remember(place, done)
    return done


def _refused(graph: Graph) -> str:
    """Says which operator it is that the engine does not load: the first one, each on its own."""
    for node in graph.skeleton.graph.node:
        newest = onnx.defs.get_schema(node.op_type, graph.opset, node.domain).since_version == graph.opset
        if graph.opset > OPSET and newest:
            # The engine may not know this operator set, for whatever operator.
            return f"{describe(node)} is an operator of operator set {graph.opset}: "
    for node in graph.skeleton.graph.node:
        model = onnx.ModelProto(ir_version=graph.skeleton.ir_version)
        model.opset_import.extend(graph.skeleton.opset_import)
        model.graph.name = "one"
        model.graph.node.append(node)
        for name in dict.fromkeys(n for n in node.input if n in graph.tensors):
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(graph.tensors[name].dtype))
            model.graph.input.append(helper.make_tensor_value_info(name, kind, graph.tensors[name].shape))
        outputs = [n for n in node.output if n]
        model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in outputs)
        try:
            _load(model, {n: graph.constants[n] for n in node.input if n in graph.constants}, optimised=False)
        except EngineRefuses:
            return f"{describe(node)}: "
    return ""


def tolerance_of(graph: Graph) -> float:
    """Returns how far the outputs of a graph may be from the right ones: the coarsest float that it computes in.

    A graph that computes in float32 what the engine rounds to float16 (`lossy_because`) has float16's.
    """
    kinds = {tensor.dtype for tensor in graph.tensors.values()} | ({"float16"} if graph.lossy_because else set())
    return max([TOLERANCE, *(COARSE[kind] for kind in kinds if kind in COARSE)])


def seeded_inputs(inputs: Mapping[str, TypeProto]) -> dict[str, NDArray[Any]]:
    """Returns the input on which models are compared.

    Args:
        inputs: type by name, each with a static shape.

    Returns:
        Array by name, its shape (d0, d1, ...) and dtype those of the input: standard normal floats, 8-bit integers of
        their whole range, and zeros and ones for wider ones, which may be places in a tensor.
    """
    draws = np.random.default_rng(SEED)
    found: dict[str, NDArray[Any]] = {}
    for name, kind in inputs.items():
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type))
        shape = static_shape(kind) or ()
        if dtype.kind in "iu" and dtype.itemsize == 1:
            limits = np.iinfo(dtype)
            found[name] = draws.integers(limits.min, limits.max, shape, dtype, endpoint=True)
        elif dtype.kind in "iub":
            found[name] = draws.integers(0, 2, shape).astype(dtype)
        else:
            found[name] = draws.standard_normal(shape).astype(dtype)
    return found


def difference(expected: Arrays, found: Arrays) -> float:
    """Returns the largest difference over all outputs, each against the largest magnitude of the expected one.

    Infinite where a shape differs, or a value is finite on one side only. Of integers and truth values it is the share
    of elements that differ: what rounding does to an ArgMax has no magnitude.

    Args:
        expected: array by output name, any shape (d0, d1, ...) and dtype.
        found: the same.
    """
    return max((_apart(array, found.get(name)) for name, array in expected.items()), default=0.0)


def _apart(expected: NDArray[Any], found: NDArray[Any] | None) -> float:
    if found is None or expected.shape != found.shape:
        return float("inf")
    if not expected.size:
        return 0.0
    if expected.dtype.kind not in "fV" or found.dtype.kind not in "fV":
        return float(np.mean(expected != found)) / _DISCRETE
    wanted, given = expected.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(wanted)
    if not np.array_equal(finite, np.isfinite(given)) or not np.array_equal(
        wanted[~finite], given[~finite], equal_nan=True
    ):
        return float("inf")
    largest = float(np.abs(wanted[finite]).max(initial=0.0)) or 1.0
    return float(np.abs(wanted[finite] - given[finite]).max(initial=0.0)) / largest


_DISCRETE = 1e2
"""A thousandth of an integer output's elements may differ, as many as make TOLERANCE."""


def _run_captured(graph: Graph, feeds: Arrays, outputs: Iterable[str] = ()) -> dict[str, Any]:
    """Runs the captured graph with the shape of every tensor on the way.

    Raises:
        ModelError: if a shape is another one than the graph's.
    """
    source = graph.skeleton
    taken = {*graph.tensors, *graph.constants}
    shapes: dict[str, str] = {}
    for node in source.graph.node:
        for name in node.output:
            if name:
                said = f"{name}/engine_shape"
                while said in taken:
                    said += "_"
                shapes[said] = name
    wanted = list(dict.fromkeys([*graph.output_names, *outputs]))
    model = onnx.ModelProto(ir_version=source.ir_version)
    model.opset_import.extend(source.opset_import)
    model.graph.name = "captured"
    model.graph.node.extend(source.graph.node)
    model.graph.node.extend(helper.make_node("Shape", [name], [said]) for said, name in shapes.items())
    model.graph.input.extend(v for v in source.graph.input if v.name in graph.tensors)
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in [*wanted, *shapes])
    found = _run(model, graph.constants, feeds, [*wanted, *shapes], optimised=False)
    for said, name in shapes.items():
        shape = tuple(int(size) for size in found[said])
        if shape != graph.tensors[name].shape:
            op = graph.operators[graph.producer[name]]
            raise ModelError(
                f"{graph.name}: node '{op.name}' ({op.op_type}): ONNX's rules give its output '{name}' the shape "
                f"{graph.tensors[name].shape}, ONNX Runtime makes {shape}: no part of it could be planned"
            )
    return {name: found[name] for name in wanted}


def _run(
    model: onnx.ModelProto, constants: Arrays, feeds: Arrays, outputs: Sequence[str], optimised: bool
) -> dict[str, Any]:  # fmt: skip
    session, _kept = _load(model, constants, optimised)
    try:
        found = session.run(list(outputs), {n: a for n, a in feeds.items() if n in {i.name for i in model.graph.input}})
    except Exception as error:  # ONNX Runtime has an exception of its own for each of its status codes
        raise EngineRefuses(error, running=True) from error
    return dict(zip(outputs, found, strict=True))


def _load(model: onnx.ModelProto, constants: Arrays, optimised: bool) -> tuple[ort.InferenceSession, object]:
    """Returns a session, and what must live as long as it."""
    import onnxruntime as ort

    options: ort.SessionOptions = ort.SessionOptions()
    options.log_severity_level = 4
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    shared: dict[str, Any] = {}
    for name, array in constants.items():
        if array.nbytes <= INLINE_BYTES or array.dtype.kind not in "fiu" or array.dtype.name not in _SHARED:
            model.graph.initializer.append(numpy_helper.from_array(array, name))
            continue
        shared[name] = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
        model.graph.initializer.append(_elsewhere(name, array))
    if shared:
        options.add_external_initializers(list(shared), list(shared.values()))
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise EngineRefuses(error, running=False) from error
    return session, shared


_SHARED = frozenset(
    {"float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
)


def _elsewhere(name: str, array: NDArray[Any]) -> onnx.TensorProto:
    missing = onnx.TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape)
    missing.data_location = onnx.TensorProto.EXTERNAL
    for key, text in (("location", "weights"), ("offset", "0"), ("length", str(array.nbytes))):
        missing.external_data.add(key=key, value=text)
    return missing


def _where_it_differs(
    graph: Graph, original: Original, feeds: Arrays, allowed: float, found: float, engine: str
) -> str:  # fmt: skip
    """Says which operator is the first whose output differs, of those whose outputs both models have."""
    makers = {n: node for node in original.proto.graph.node for n in node.output if n}
    common = [n for op in graph.operators for n in op.outputs if n and n in makers]
    wanted = list(dict.fromkeys([*common, *graph.output_names]))
    expected, captured = original.run(feeds, wanted), _run_captured(graph, feeds, wanted)
    apart = {name: _apart(expected[name], captured[name]) for name in wanted}
    first = next((n for n in wanted if not apart[n] <= allowed), max(wanted, key=lambda n: apart[n]))
    node = makers.get(first)
    where = f"output '{first}'" if node is None else describe(node)
    return (
        f"{graph.name}: {where}: the captured graph is not the model that was given: on a seeded input '{first}' "
        f"differs by {apart[first]:.2g} of its largest value, the outputs by {found:.2g} ({engine}); accepted: "
        f"{allowed:.0e}. This is a fault of the capture: please report it, with the model if it may be shown"
    )


def _bytes(array: NDArray[Any]) -> memoryview | bytes:
    return array.data if array.flags.c_contiguous and array.ndim and array.dtype.kind in "fiub" else array.tobytes()


def _place(graph: Graph, original: Original, engine: str) -> Path:
    """Returns where the result for this model is remembered: by the model, by what capture made of it, and the engine.

    The captured graph counts too, so that another version of Distredge, which may capture otherwise, tries anew.
    """
    made = hashlib.sha256(graph.skeleton.SerializeToString(deterministic=True))
    for name, array in graph.constants.items():
        made.update(f"{name}{array.dtype.str}{array.shape}{zlib.crc32(_bytes(array))}".encode())
    key = hashlib.sha256(f"{original.digest()}{made.hexdigest()}{engine}".encode()).hexdigest()
    return user_folder("XDG_CACHE_HOME", ".cache") / "distredge" / "captures" / f"{key}.json"


def _remembered(place: Path | None) -> CaptureCheck | None:
    if place is None:
        return None
    try:
        return CaptureCheck(**json.loads(place.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _remember(place: Path | None, done: CaptureCheck) -> None:
    if place is None:
        return
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=place.parent, delete=False, encoding="utf-8") as file:
            json.dump(asdict(done), file)
        os.replace(file.name, place)
    except OSError as error:
        logger.info("the check of this model is not remembered: %s", error)
