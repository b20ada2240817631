"""A CNN as Distredge sees it: operators in topological order, tensors with a row axis, and where it may be cut.

A `Graph` wraps a folded, shape-inferred ONNX model with static shapes (`model.capture` makes it so). Operators are
split into the *body*, whose operators are row-local or reductions that partial sums can split, and the *head*, which
runs whole on one device.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from distredge.model.axes import assign_axes
from distredge.model.cuts import Body, Cut, find_body, find_cuts
from distredge.model.detector import Detector
from distredge.model.nodes import NodeList
from distredge.model.preprocess import Preprocess
from distredge.model.rewrite import rewritten
from distredge.model.signatures import Signature, macs_of, signatures_of, topology_of, weight_bytes_of


@dataclass(frozen=True)
class CaptureCheck:
    """Whether a captured graph computes what the model that it was captured from does, as tried on a seeded input.

    Attributes:
        engine: that ran both; None: they were not run.
        apart: largest difference of an output, relative to its largest magnitude; None: not compared.
        allowed: the largest that is accepted.
        reason: why they were not compared.
    """

    engine: str | None = None
    apart: float | None = None
    allowed: float | None = None
    reason: str = ""

    def __str__(self) -> str:
        if self.apart is None:
            return f"not checked against the model as given: {self.reason}"
        return f"checked against the model as given in {self.engine}: outputs differ by {self.apart:.2g} at most"


class Graph(NodeList):
    """A CNN ready to be split.

    Args:
        proto: ONNX model with static shapes, constants as initializers, nodes in topological order and inferred
            shapes for every tensor.
        name: name in strategies and reports.
        preprocess: how an image becomes the input; None when unknown.
        constants: array by initializer name, shapes (d0, d1, ...) and dtypes as in `proto`, when `proto` holds none:
            the weights of VGG-16 cost seconds to copy into a model and out again, and planning needs only their shapes.

    Raises:
        ModelError: if a shape is missing or dynamic.
    """

    def __init__(
        self,
        proto: onnx.ModelProto,
        name: str,
        preprocess: Preprocess | None = None,
        constants: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        if constants is None:
            constants = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
        proto, constants = rewritten(proto, constants)
        super().__init__(proto, name, constants)
        assign_axes(self)
        self._weight_hashes: dict[str, str] = {}
        self.preprocess = preprocess
        self.detector: Detector | None = None
        """How its outputs become boxes, where it is a detector of the zoo."""
        self.check: CaptureCheck | None = None
        """How capture compared it with what was given; None for a graph of the zoo, which is given as it is."""
        self.source: Path | None = None
        """The .onnx file that it was captured from."""
        self.weights_from: Literal["random", "trained", "file"] = "file"
        """Random (seeded) or trained, as the zoo says; "file": what the user gave, in a file or a module of theirs."""
        self.lossy_because = ""
        """Why parts need not give the whole's output to 1e-5, whatever the wires (`model.precision`); "": they do."""

    def __repr__(self) -> str:
        shapes = ", ".join("x".join(map(str, s)) for s in self.input_shapes)
        return f"Graph({self.name}, {len(self.operators)} operators, input {shapes})"

    @functools.cached_property
    def proto(self) -> onnx.ModelProto:
        """The whole model with its weights as initializers."""
        if len(self.skeleton.graph.initializer) == len(self.constants):
            return self.skeleton
        whole = onnx.ModelProto()
        whole.CopyFrom(self.skeleton)
        del whole.graph.initializer[:]
        whole.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in self.constants.items())
        return whole

    @functools.cached_property
    def body(self) -> Body:
        """Which operators can be split, which form the head, and why (`model.cuts`)."""
        return find_body(self)

    @functools.cached_property
    def cuts(self) -> tuple[Cut, ...]:
        """Candidate partition locations in order; the last one ends the body."""
        return find_cuts(self, self.body)

    @functools.cached_property
    def macs(self) -> tuple[int, ...]:
        """Multiply-adds of each whole operator (convolutions and matrix products; 0 for the rest)."""
        return tuple(macs_of(self, op) for op in self.operators)

    @functools.cached_property
    def weight_bytes(self) -> tuple[int, ...]:
        """Bytes of constants that each operator reads."""
        return tuple(weight_bytes_of(self, op) for op in self.operators)

    @functools.cached_property
    def parameters(self) -> int:
        """Number of constant elements of float type."""
        return sum(c.size for c in self.constants.values() if c.dtype.kind == "f")

    @functools.cached_property
    def signatures(self) -> tuple[Signature | None, ...]:
        """Profile key of each operator; None for one that costs nothing of its own (fused into another)."""
        return signatures_of(self)

    @functools.cached_property
    def topology(self) -> str:
        """SHA-256 over operators, attributes, shapes and dtypes in topological order; no names, no weights."""
        return topology_of(self)

    @functools.cached_property
    def weights_digest(self) -> str:
        """SHA-256 over the constants in the order in which operators read them."""
        digest = hashlib.sha256()
        for op in self.operators:
            for tensor in op.inputs:
                if tensor in self.constants:
                    digest.update(np.ascontiguousarray(self.constants[tensor]).tobytes())
        return f"sha256:{digest.hexdigest()}"

    def weight(self, name: str) -> NDArray[Any]:
        """A constant as engines share it without a copy; one that does not lie so is replaced once.

        Args:
            name: of the constant.

        Returns:
            The constant in C order: shape (d0, d1, ...) and dtype as the model declares them.
        """
        value = self.constants[name]
        if not value.flags.c_contiguous:
            value = self.constants[name] = np.ascontiguousarray(value)
        return value

    def weight_hash(self, name: str) -> str:
        """Content hash of a constant: SHA-256 over dtype, shape and bytes, computed once."""
        if name not in self._weight_hashes:
            value = self.weight(name)
            digest = hashlib.sha256(f"{value.dtype.str}{value.shape}".encode())
            digest.update(value.data)
            self._weight_hashes[name] = digest.hexdigest()
        return self._weight_hashes[name]

    def save(self, path: str | Path) -> None:
        """Writes the folded ONNX model."""
        onnx.save(self.proto, str(path))
