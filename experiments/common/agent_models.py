"""CNNs that nobody published, drawn at random: what the agent learns from beside the zoo.

A planner for any model has to have seen many: where maps shrink and how fast, where work and channels lie, how far
skips reach, where several maps leave the network. A drawn model is a classifier, a detector with heads at several
scales (with or without a pyramid, Lin et al., CVPR 2017), an encoder and decoder with skips (Ronneberger et al., MICCAI
2015), or a plain stack of maps; its stages are of plain, residual, bottleneck, inverted, separable, fire, branching or
dense blocks, as the papers in `model.zoo` have them. It is never run: its weights are zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from distredge.model.graph import Graph
from distredge.model.preprocess import imagenet
from distredge.model.zero_shares import assume_zero_shares
from distredge.model.zoo._builder import Builder, Value

PREFIX = "drawn-"
"""A drawn model is called by this and its seed."""

_HEIGHTS = (160, 192, 224, 256, 288, 320, 384, 416, 448, 512)
_HEAVIEST = 60e9
"""Multiply-adds above which a model is drawn anew."""

_T = TypeVar("_T")
_Block = Callable[["_Drawing", Value, int, int, str], Value]


def drawn_shape(seed: int) -> tuple[int, ...]:
    """The input shape of a drawn model, (1, 3, height, width)."""
    rng = np.random.default_rng((seed, 1515))
    height = int(_HEIGHTS[int(rng.integers(len(_HEIGHTS)))])
    wide = rng.random() < 0.2
    return (1, 3, height, (height * 4 // 3 + 31) // 32 * 32 if wide else height)


def drawn_model(name: str) -> Graph:
    """Writes the model of a name such as `drawn-17`; the same name gives the same model."""
    seed = int(name.removeprefix(PREFIX))
    shape = drawn_shape(seed)
    for attempt in range(100):
        rng = np.random.default_rng((seed, 1516, attempt))
        builder = Builder(name, _Zeros())
        drawing = _Drawing(builder, rng)
        outputs = drawing.write(shape)
        if drawing.macs <= _HEAVIEST:
            break
    graph = builder.finish(outputs, imagenet(shape[2], shape[3], None))
    # Behind a rectifier about half of what leaves a tensor is zero; behind anything else nothing is.
    share = float(rng.uniform(0.3, 0.7))
    assume_zero_shares(graph, {tensor: share for tensor in graph.tensors if tensor.endswith(".relu")})
    return graph


class _Zeros:
    """Weights of a model that is never run."""

    def weight(self, key: str, shape: tuple[int, ...], fan_in: int, gain: float) -> NDArray[np.float32]:
        """Zeros of a shape (d0, d1, ...) that take no memory."""
        return np.broadcast_to(np.float32(0.0), shape)

    def vector(self, key: str, size: int, mean: float = 0.0) -> NDArray[np.float32]:
        """Zeros, (size,)."""
        return np.zeros(size, np.float32)

    def batch_norm(self, key: str, size: int) -> None:
        """None: folded in."""

    def finish(self) -> None:
        """Nothing to check."""


class _Drawing:
    """A model on its way.

    Args:
        b: what writes it.
        rng: source of all choices.
    """

    def __init__(self, b: Builder, rng: np.random.Generator) -> None:
        self.b, self.rng, self.macs = b, rng, 0.0
        self.act = self._one("relu", "relu", "relu", "relu6", "silu", "leaky", "hardswish")
        self.kernel = self._one(3, 3, 3, 5)
        self.expansion = self._one(2, 4, 6)
        self.attends = rng.random() < 0.15
        self.block = self._one(*_BLOCKS)
        self.mixed = rng.random() < 0.25

    def _one(self, *choices: _T) -> _T:
        return choices[int(self.rng.integers(len(choices)))]

    def write(self, shape: Sequence[int]) -> list[Value]:
        """Adds everything; returns the outputs."""
        kind = self._one("classifier", "classifier", "detector", "decoder", "stack")
        x = self._stem(self.b.input(shape), kind == "decoder")
        maps = self._stages(x, kind)
        finish = {"classifier": self._classified, "detector": self._detected, "decoder": self._decoded}
        return finish[kind](maps) if kind in finish else [self.conv(maps[-1], self._one(8, 32, 85, 255), 1, "out")]

    def conv(
        self, x: Value, channels: int, kernel: int, key: str, *, stride: int = 1, groups: int = 1, act: bool = False
    ) -> Value:
        """Adds a convolution and counts its work."""
        activation = self.act if act else None
        y = self.b.conv(x, channels, kernel, key, stride=stride, groups=groups, bn=f"{key}.bn", act=activation)
        self.macs += float(np.prod(y.shape)) * x.channels / groups * kernel**2
        return y

    def _stem(self, x: Value, whole: bool) -> Value:
        channels = self._one(16, 24, 32, 48, 64)
        x = self.conv(x, channels, self._one(3, 3, 5, 7), "stem", stride=1 if whole else self._one(1, 2, 2), act=True)
        if not whole and self.rng.random() < 0.5:
            x = (
                self.b.max_pool(x, 3, 2, "stem.pool", pad=1)
                if self.rng.random() < 0.5
                else self.b.max_pool(x, 2, 2, "stem.pool")
            )
        return x

    def _stages(self, x: Value, kind: str) -> list[Value]:
        """Stages, each half the size of the one before but perhaps the last; returns the map at the end of each."""
        growth = self._one(1.5, 2.0, 2.0)
        count = int(self.rng.integers(3, 6))
        maps, pools = [], self.rng.random() < 0.4
        for stage in range(count):
            if min(x.shape[2:]) < 14:
                break
            block = self._one(*_BLOCKS) if self.mixed else self.block
            halves = stage > 0 and (kind == "decoder" or stage < count - 1 or self.rng.random() < 0.6)
            channels = min(768, int(x.channels * (growth if stage else 1.0)) // 8 * 8)
            for place in range(int(self.rng.integers(1, 5))):
                stride = 2 if halves and place == 0 else 1
                key = f"stage{stage}.{place}"
                if stride == 2 and (pools or not block[1]):
                    x, stride = self.b.max_pool(x, 2, 2, f"{key}.pool"), 1
                x = block[0](self, x, channels, stride, key)
            maps.append(x)
        return maps

    def _classified(self, maps: list[Value]) -> list[Value]:
        b, x = self.b, maps[-1]
        classes = self._one(10, 100, 1000)
        if self.rng.random() < 0.3:
            x = self.conv(x, self._one(512, 1024, 1280), 1, "last", act=True)
        if self.rng.random() < 0.2 and int(np.prod(x.shape)) < 60_000:
            x = b.act(b.linear(b.flatten(x), self._one(512, 1024, 4096), "fc1"), "relu")
            return [b.linear(x, classes, "fc2")]
        return [b.linear(b.flatten(b.global_pool(x, "pooled")), classes, "fc")]

    def _detected(self, maps: list[Value]) -> list[Value]:
        """Heads on the last stages and on some smaller maps behind them."""
        maps = maps[-int(self.rng.integers(1, 4)) :]
        for place in range(int(self.rng.integers(0, 5))):
            if min(maps[-1].shape[2:]) < 5:
                break
            x = self.conv(maps[-1], self._one(64, 128, 256), 1, f"extra{place}.in", act=True)
            maps.append(self.conv(x, self._one(128, 256, 512), 3, f"extra{place}.out", stride=2, act=True))
        if self.rng.random() < 0.3:
            maps = self._pyramid(maps)
        outputs, classes, depth = [], self._one(21, 81, 91), int(self.rng.integers(0, 3))
        for place, x in enumerate(maps):
            for step in range(depth):
                x = self.conv(x, min(256, x.channels), 3, f"head{place}.{step}", act=True)
            anchors = self._one(1, 3, 4, 6)
            outputs.append(self.conv(x, anchors * classes, 3, f"classes{place}"))
            outputs.append(self.conv(x, anchors * 4, 3, f"boxes{place}"))
        return outputs

    def _pyramid(self, maps: list[Value]) -> list[Value]:
        """Each map with the next smaller one, made larger, added; those that do not fit end it."""
        width = self._one(64, 128, 256)
        made = [self.conv(maps[-1], width, 1, "lateral.last")]
        for place, x in reversed(list(enumerate(maps[:-1]))):
            above = made[0]
            if x.shape[2] != 2 * above.shape[2] or x.shape[3] != 2 * above.shape[3]:
                break
            larger = self.b.conv_transpose(above, width, 2, f"up{place}", stride=2)
            made.insert(0, self.b.add(self.conv(x, width, 1, f"lateral{place}"), larger, f"sum{place}"))
        return made

    def _decoded(self, maps: list[Value]) -> list[Value]:
        b, x, joins = self.b, maps[-1], self._one("concat", "concat", "add", "none")
        for place, beside in reversed(list(enumerate(maps[:-1]))):
            if x.shape[2] != beside.shape[2]:
                x = b.conv_transpose(x, beside.channels, 2, f"up{place}", stride=2)
                self.macs += float(np.prod(x.shape)) * beside.channels
            elif joins == "add":
                x = self.conv(x, beside.channels, 1, f"even{place}")
            if x.shape[2:] == beside.shape[2:] and joins == "concat":
                x = b.concat([beside, x], f"joined{place}")
            elif x.shape == beside.shape and joins == "add":
                x = b.add(beside, x, f"joined{place}")
            for step in range(int(self.rng.integers(1, 3))):
                x = self.conv(x, beside.channels, 3, f"decoded{place}.{step}", act=True)
        return [self.conv(x, self._one(1, 2, 21), 1, "mask")]


def _plain(d: _Drawing, x: Value, channels: int, stride: int, key: str) -> Value:
    return d.conv(x, channels, d.kernel, f"{key}.conv", stride=stride, act=True)


def _join(d: _Drawing, x: Value, y: Value, stride: int, key: str) -> Value:
    if stride != 1 or x.channels != y.channels:
        x = d.conv(x, y.channels, 1, f"{key}.shortcut", stride=stride)
    return d.b.act(d.b.add(y, x, f"{key}.add"), d.act)


def _residual(d: _Drawing, x: Value, channels: int, stride: int, key: str) -> Value:
    y = d.conv(x, channels, 3, f"{key}.conv1", stride=stride, act=True)
    return _join(d, x, d.conv(y, channels, 3, f"{key}.conv2"), stride, key)


def _bottleneck(d: _Drawing, x: Value, channels: int, stride: int, key: str) -> Value:
    y = d.conv(x, channels, 1, f"{key}.conv1", act=True)
    y = d.conv(y, channels, 3, f"{key}.conv2", stride=stride, act=True)
    return _join(d, x, d.conv(y, channels * 2, 1, f"{key}.conv3"), stride, key)


def _inverted(d: _Drawing, x: Value, channels: int, stride: int, key: str) -> Value:
    hidden = x.channels * d.expansion
    y = d.conv(x, hidden, 1, f"{key}.expand", act=True)
    y = d.conv(y, hidden, d.kernel, f"{key}.depthwise", stride=stride, groups=hidden, act=True)
    if d.attends:
        y = d.b.squeeze_excite(y, max(8, hidden // 16 * 4), f"{key}.se")
    y = d.conv(y, channels, 1, f"{key}.project")
    return d.b.add(x, y, f"{key}.add") if stride == 1 and x.channels == channels else y


def _separable(d: _Drawing, x: Value, channels: int, stride: int, key: str) -> Value:
    y = d.conv(x, x.channels, d.kernel, f"{key}.depthwise", stride=stride, groups=x.channels, act=True)
    return d.conv(y, channels, 1, f"{key}.pointwise", act=True)


def _fire(d: _Drawing, x: Value, channels: int, stride: int, key: str) -> Value:
    y = d.conv(x, max(8, channels // 4), 1, f"{key}.squeeze", act=True)
    half = max(8, channels // 2)
    return d.b.concat([d.conv(y, half, k, f"{key}.expand{k}", act=True) for k in (1, 3)], f"{key}.joined")


def _branching(d: _Drawing, x: Value, channels: int, stride: int, key: str) -> Value:
    part = max(8, channels // 4)
    branches = [d.conv(x, part, 1, f"{key}.a", act=True)]
    y = d.conv(x, part, 1, f"{key}.b1", act=True)
    branches.append(d.conv(y, part, 3, f"{key}.b2", act=True))
    y = d.conv(x, max(8, part // 2), 1, f"{key}.c1", act=True)
    branches.append(d.conv(y, part, d.kernel + 2, f"{key}.c2", act=True))
    y = d.b.max_pool(x, 3, 1, f"{key}.d1", pad=1)
    branches.append(d.conv(y, part, 1, f"{key}.d2", act=True))
    return d.b.concat(branches, f"{key}.joined")


def _dense(d: _Drawing, x: Value, channels: int, stride: int, key: str) -> Value:
    for step in range(3):
        y = d.conv(x, max(8, channels // 4), 3, f"{key}.{step}", act=True)
        x = d.b.concat([x, y], f"{key}.{step}.joined")
    return d.conv(x, channels, 1, f"{key}.transition", act=True)


_BLOCKS: tuple[tuple[_Block, bool], ...] = (
    (_plain, True),
    (_residual, True),
    (_bottleneck, True),
    (_inverted, True),
    (_separable, True),
    (_fire, False),
    (_branching, False),
    (_dense, False),
)
"""Kinds of blocks, and whether they can halve the size themselves."""
