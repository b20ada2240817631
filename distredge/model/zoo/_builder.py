"""Writes a CNN as an ONNX graph, layer by layer, without torch.

A layer's parameters have torchvision's names (`features.0.weight`), and so do the initializers. Batch normalisation
after a convolution is folded into it on the spot. Shapes come from ONNX's own rules (`model.infer`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, TypeProto, helper, numpy_helper

from distredge.errors import ModelError
from distredge.model.canonical import canonical_attributes
from distredge.model.graph import Graph
from distredge.model.infer import IR_VERSION, OPSET, infer_node, needed_opset, static_shape, tensor_type
from distredge.model.preprocess import Preprocess
from distredge.model.zoo._weights import PARTS, Statistics, Weights

Pads = int | str | tuple[int, ...]


class Value(NamedTuple):
    """A tensor while the graph is being written: name and shape, batch axis included."""

    name: str
    shape: tuple[int, ...]

    @property
    def channels(self) -> int:
        """Size of axis 1."""
        return self.shape[1]


class Builder:
    """One model being written.

    Args:
        name: name of the graph.
        weights: where the parameters come from.
        width: multiplier of every hidden number of channels (rounded to a multiple of 8, at least 8); 1 keeps the
            published ones.
    """

    def __init__(self, name: str, weights: Weights, width: float = 1.0) -> None:
        self.name = name
        self.weights = weights
        self.width = width
        self.parameters = 0
        """Learned parameters of the published model: those of its batch normalisations included."""
        self._nodes: list[onnx.NodeProto] = []
        self._types: dict[str, TypeProto] = {}
        self._constants: dict[str, NDArray[Any]] = {}
        self._inputs: list[str] = []

    def scaled(self, channels: int) -> int:
        """Returns a hidden number of channels after the width multiplier."""
        if self.width == 1.0:
            return channels
        return max(8, int(channels * self.width / 8 + 0.5) * 8)

    def input(self, shape: Sequence[int], name: str = "input") -> Value:
        """Adds a float32 input."""
        self._types[name] = tensor_type(TensorProto.FLOAT, shape)
        self._inputs.append(name)
        return Value(name, tuple(shape))

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """Adds an initializer.

        Args:
            name: of the constant.
            array: shape (d0, d1, ...), any dtype that ONNX has.

        Returns:
            Its name.

        Raises:
            ModelError: if the name is in use.
        """
        if name in self._types:
            raise ModelError(f"{self.name}: two constants or tensors are called '{name}'")
        self._constants[name] = array
        self._types[name] = tensor_type(helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        return name

    def node(self, op_type: str, inputs: Sequence[Value | str], name: str, **attributes: Any) -> Value:
        """Adds a node with one output, which has the node's name."""
        return self.nodes(op_type, inputs, [name], **attributes)[0]

    def nodes(
        self, op_type: str, inputs: Sequence[Value | str], names: Sequence[str], **attributes: Any
    ) -> list[Value]:
        """Adds a node with several outputs; the node has the first one's name."""
        reads = [i.name if isinstance(i, Value) else i for i in inputs]
        if any(name in self._types for name in names):
            raise ModelError(f"{self.name}: two tensors are called one of {list(names)}")
        node = helper.make_node(op_type, reads, list(names), name=names[0], **attributes)
        data = {
            r: numpy_helper.from_array(self._constants[r], r)
            for r in reads
            if r in self._constants and self._constants[r].dtype == np.int64
        }
        try:
            found = infer_node(node, self._types, data)
        except ModelError as error:
            raise ModelError(f"{self.name}: {error}; is the input too small?") from error
        canonical_attributes(node, self._shape_of, OPSET)
        self._nodes.append(node)
        values = []
        for name in names:
            shape = static_shape(found[name])
            if shape is None or any(size < 1 for size in shape):
                raise ModelError(f"{self.name}: '{name}' ({op_type}) would be {shape}: the input is too small")
            self._types[name] = found[name]
            values.append(Value(name, shape))
        return values

    def _shape_of(self, name: str) -> tuple[int, ...] | None:
        return static_shape(self._types[name])

    def conv(
        self,
        x: Value,
        channels: int,
        kernel: int | tuple[int, ...],
        key: str,
        *,
        stride: int | tuple[int, ...] = 1,
        pad: Pads | None = None,
        dilation: int = 1,
        groups: int = 1,
        bn: str | None = None,
        epsilon: float = 1e-5,
        bias: bool | None = None,
        act: str | None = None,
        act_name: str | None = None,
        gain: float = 1.0,
        name: str | None = None,
    ) -> Value:
        """Adds a convolution, its batch normalisation (folded in) and its activation.

        Args:
            x: input.
            channels: output channels.
            kernel: size, one for all axes or one per axis.
            key: prefix of the parameters' names.
            stride: per axis or one for all.
            pad: None: (kernel - 1) // 2 * dilation; "same": TensorFlow's SAME for this input size; else one for all
                axes, one per axis, or (top, left, bottom, right).
            dilation: for all axes.
            groups: groups of channels.
            bn: prefix of the batch normalisation's names.
            epsilon: of the batch normalisation.
            bias: whether the convolution has a bias of its own; None: unless it has a batch normalisation.
            act: activation (`act`).
            act_name: name of the activation's output; None: `name` with the activation's after it.
            gain: of the seeded weight.
            name: of the convolution's output; None: `key`.
        """
        axes = len(x.shape) - 2
        kernels = (kernel,) * axes if isinstance(kernel, int) else kernel
        strides = (stride,) * axes if isinstance(stride, int) else stride
        own_bias = bn is None if bias is None else bias
        weight, shift = self._conv_weights(x.channels, channels, kernels, groups, key, bn, epsilon, own_bias, gain)
        inputs: list[Value | str] = [x, self.constant(f"{key}.weight", weight)]
        if shift is not None:
            inputs.append(self.constant(f"{key}.bias", shift))
        out = self.node(
            "Conv",
            inputs,
            name or key,
            kernel_shape=kernels,
            strides=strides,
            dilations=(dilation,) * axes,
            group=groups,
            pads=self.pads(x, kernels, strides, dilation, pad),
        )
        return self.act(out, act, act_name) if act else out

    def _conv_weights(
        self,
        inputs: int,
        outputs: int,
        kernels: tuple[int, ...],
        groups: int,
        key: str,
        bn: str | None,
        epsilon: float,
        own_bias: bool,
        gain: float,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        if inputs % groups or outputs % groups:
            raise ModelError(f"{self.name}: {key}: {inputs} -> {outputs} channels do not fall into {groups} groups")
        shape = (outputs, inputs // groups, *kernels)
        fan_in = int(np.prod(shape[1:]))
        weight = self.weights.weight(f"{key}.weight", shape, fan_in, gain)
        self.parameters += weight.size
        shift = self.weights.vector(f"{key}.bias", outputs) if own_bias else None
        self.parameters += outputs if own_bias else 0
        if bn is None:
            return weight, shift
        self.parameters += 2 * outputs
        norm = self.weights.batch_norm(bn, outputs)
        if norm is None:
            return weight, shift if shift is not None else self.weights.vector(f"{bn}.bias", outputs)
        scale, offset = _affine(norm, epsilon)
        folded = (weight.astype(np.float64) * scale.reshape(-1, *(1,) * (len(shape) - 1))).astype(np.float32)
        return folded, (offset if shift is None else shift * scale + offset).astype(np.float32)

    def pads(
        self,
        x: Value,
        kernels: tuple[int, ...],
        strides: tuple[int, ...],
        dilation: int,
        pad: Pads | None,
    ) -> tuple[int, ...]:
        """Returns ONNX `pads` (all begins, then all ends); see `conv`."""
        axes = len(kernels)
        if pad is None:
            begins = tuple((k - 1) // 2 * dilation for k in kernels)
            return begins * 2
        if pad == "same":
            begins_ends = [_same(n, k, s, dilation) for n, k, s in zip(x.shape[2:], kernels, strides, strict=True)]
            return tuple(b for b, _ in begins_ends) + tuple(e for _, e in begins_ends)
        if isinstance(pad, int):
            return (pad,) * (2 * axes)
        if isinstance(pad, str) or len(pad) not in (axes, 2 * axes):
            raise ModelError(f"{self.name}: pad: found {pad!r}, accepted: an int, {axes} or {2 * axes} ints, 'same'")
        return tuple(pad) * (2 if len(pad) == axes else 1)

    def act(self, x: Value, kind: str, name: str | None = None) -> Value:
        """Adds an activation: relu, relu6, hardswish, hardsigmoid, silu, sigmoid, or leaky (slope 0.1)."""
        name = name or f"{x.name}.{kind}"
        if kind == "relu":
            return self.node("Relu", [x], name)
        if kind == "relu6":
            return self.node("Clip", [x, self._scalar("zero", 0.0), self._scalar("six", 6.0)], name)
        if kind == "hardswish":
            return self.node("HardSwish", [x], name)
        if kind == "hardsigmoid":
            return self.node("HardSigmoid", [x], name, alpha=1 / 6, beta=0.5)
        if kind == "sigmoid":
            return self.node("Sigmoid", [x], name)
        if kind == "silu":
            return self.node("Mul", [x, self.node("Sigmoid", [x], f"{name}.sigmoid")], name)
        if kind == "leaky":
            return self.node("LeakyRelu", [x], name, alpha=0.1)
        raise ModelError(f"{self.name}: unknown activation {kind!r}")

    def _scalar(self, name: str, value: float) -> str:
        if name not in self._constants:
            self.constant(name, np.array(value, np.float32))
        return name

    def max_pool(self, x: Value, kernel: int, stride: int, name: str, *, pad: Pads = 0, ceil: bool = False) -> Value:
        """Adds a maximum pooling over all spatial axes."""
        axes = len(x.shape) - 2
        kernels, strides = (kernel,) * axes, (stride,) * axes
        pads = self.pads(x, kernels, strides, 1, pad)
        return self.node(
            "MaxPool", [x], name, kernel_shape=kernels, strides=strides, pads=pads, ceil_mode=int(ceil)
        )  # fmt: skip

    def avg_pool(
        self, x: Value, kernel: int, stride: int, name: str, *, pad: Pads = 0, count_pad: bool = True
    ) -> Value:
        """Adds an average pooling; `count_pad`: whether padding counts in the divisor."""
        axes = len(x.shape) - 2
        kernels, strides = (kernel,) * axes, (stride,) * axes
        pads = self.pads(x, kernels, strides, 1, pad)
        return self.node(
            "AveragePool", [x], name, kernel_shape=kernels, strides=strides, pads=pads,
            count_include_pad=int(count_pad),
        )  # fmt: skip

    def global_pool(self, x: Value, name: str) -> Value:
        """Adds a global average pooling (batch, channels, 1, 1)."""
        return self.node("GlobalAveragePool", [x], name)

    def batch_norm(self, x: Value, key: str, name: str, *, epsilon: float = 1e-5) -> Value:
        """Adds a batch normalisation that no convolution precedes."""
        self.parameters += 2 * x.channels
        statistics = self.weights.batch_norm(key, x.channels)
        if statistics is None:
            seeded = [self.weights.vector(f"{key}.{part}", x.channels) for part in PARTS]
            statistics = (1 + seeded[0], seeded[1], seeded[2], np.abs(1 + seeded[3]))
        reads = [self.constant(f"{key}.{part}", array) for part, array in zip(PARTS, statistics, strict=True)]
        return self.node("BatchNormalization", [x, *reads], name, epsilon=epsilon)

    def conv_transpose(
        self,
        x: Value,
        channels: int,
        kernel: int,
        key: str,
        *,
        stride: int,
        pad: int = 0,
        bn: str | None = None,
        act: str | None = None,
        act_name: str | None = None,
        name: str | None = None,
    ) -> Value:
        """Adds a transposed convolution over two axes, its batch normalisation (folded in) and its activation.

        It has a bias of its own unless it has a batch normalisation.
        """
        shape = (x.channels, channels, kernel, kernel)
        fan_in = max(1, x.channels * kernel * kernel // stride**2)
        weight = self.weights.weight(f"{key}.weight", shape, fan_in, 1.0)
        norm = None if bn is None else self.weights.batch_norm(bn, channels)
        self.parameters += weight.size + (channels if bn is None else 2 * channels)
        if norm is None:
            bias = self.weights.vector(f"{bn or key}.bias", channels)
        else:
            scale, offset = _affine(norm, 1e-5)
            weight, bias = (weight * scale.reshape(1, -1, 1, 1)).astype(np.float32), offset.astype(np.float32)
        inputs: list[Value | str] = [x, self.constant(f"{key}.weight", weight), self.constant(f"{key}.bias", bias)]
        out = self.node(
            "ConvTranspose", inputs, name or key, kernel_shape=(kernel,) * 2, strides=(stride,) * 2, pads=(pad,) * 4
        )
        return self.act(out, act, act_name) if act else out

    def squeeze_excite(self, x: Value, squeezed: int, key: str) -> Value:
        """Multiplies the channels by weights in 0..1 that come from their means (Hu et al. 2018; hard sigmoid)."""
        y = self.global_pool(x, f"{key}.avgpool")
        y = self.conv(y, squeezed, 1, f"{key}.fc1", act="relu")
        y = self.conv(y, x.channels, 1, f"{key}.fc2", act="hardsigmoid")
        return self.node("Mul", [x, y], f"{key}.scaled")

    def channel_shuffle(self, x: Value, groups: int, name: str) -> Value:
        """Interleaves groups of channels: Reshape, Transpose, Reshape (Zhang et al. 2018)."""
        batch, channels, height, width = x.shape
        y = self.reshape(x, (batch, groups, channels // groups, height, width), f"{name}.grouped")
        y = self.node("Transpose", [y], f"{name}.swapped", perm=(0, 2, 1, 3, 4))
        return self.reshape(y, x.shape, name)

    def reshape(self, x: Value, shape: Sequence[int], name: str) -> Value:
        """Adds a Reshape to a fixed shape."""
        return self.node("Reshape", [x, self.constant(f"{name}.shape", np.array(shape, np.int64))], name)

    def halves(self, x: Value, name: str) -> tuple[Value, Value]:
        """Splits the channels in two."""
        sizes = self.constant(f"{name}.sizes", np.array([x.channels // 2] * 2, np.int64))
        first, second = self.nodes("Split", [x, sizes], [f"{name}.0", f"{name}.1"], axis=1)
        return first, second

    def add(self, x: Value, y: Value, name: str) -> Value:
        """Adds an elementwise sum."""
        return self.node("Add", [x, y], name)

    def concat(self, values: Sequence[Value], name: str, axis: int = 1) -> Value:
        """Joins tensors along an axis, the channels unless said otherwise."""
        return self.node("Concat", values, name, axis=axis)

    def flatten(self, x: Value, name: str = "flatten") -> Value:
        """Adds (batch, channels * height * width)."""
        return self.node("Flatten", [x], name, axis=1)

    def linear(self, x: Value, outputs: int, key: str, *, gain: float = 1.0, name: str | None = None) -> Value:
        """Adds a fully connected layer with a bias; `x` has shape (batch, inputs)."""
        inputs = x.shape[1]
        weight = self.weights.weight(f"{key}.weight", (outputs, inputs), inputs, gain)
        bias = self.weights.vector(f"{key}.bias", outputs)
        self.parameters += weight.size + bias.size
        reads: list[Value | str] = [x, self.constant(f"{key}.weight", weight), self.constant(f"{key}.bias", bias)]
        return self.node("Gemm", reads, name or key, transB=1)

    def finish(self, outputs: Sequence[Value], preprocess: Preprocess | None = None) -> Graph:
        """Returns the graph: types of every tensor, IR version 8, the lowest operator set that its operators allow."""
        self.weights.finish()
        made = {name for node in self._nodes for name in node.output}
        ends = [v.name for v in outputs]
        graph = onnx.GraphProto(name=self.name)
        graph.node.extend(self._nodes)
        graph.input.extend(helper.make_value_info(n, self._types[n]) for n in self._inputs)
        graph.output.extend(helper.make_value_info(n, self._types[n]) for n in ends)
        graph.value_info.extend(
            helper.make_value_info(n, t) for n, t in self._types.items() if n in made and n not in ends
        )
        imports = [helper.make_opsetid("", needed_opset(self._nodes, OPSET))]
        proto = helper.make_model(graph, producer_name="distredge", ir_version=IR_VERSION, opset_imports=imports)
        return Graph(proto, self.name, preprocess, self._constants)


def _affine(statistics: Statistics, epsilon: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    weight, bias, mean, variance = (array.astype(np.float64) for array in statistics)
    scale: NDArray[np.float64] = weight / np.sqrt(variance + epsilon)
    return scale, bias - mean * scale


def _same(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    # TensorFlow's SAME: ceil(size / stride) outputs, the odd row of padding at the end.
    total = max(0, (-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size)
    return total // 2, total - total // 2
