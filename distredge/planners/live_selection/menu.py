"""Menus: the variants of a model to choose from for each frame, with their accuracies.

    format = "distredge.menu/1"

    [[variant]]
    model = "mobilenet-v1-1.0-224"     # zoo name, .onnx file or package.module:callable
    accuracy = 0.706                   # 0 to 1; all of one kind
    input_shape = [1, 3, 224, 224]     # where the model does not fix it
    weights = "mobilenet.safetensors"  # for a zoo model; without it seeded ones
    strategy = "large.json"            # without it one is planned

Files are relative to the menu.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from distredge.checked_reading import decode_toml, read_bytes
from distredge.errors import FileError, located

MOST_VARIANTS = 12
"""All of them stand on the workers at a time, each with its own arrays."""

_Text = Annotated[str, Meta(min_length=1)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_Size = Annotated[int, Meta(ge=1)]


class VariantFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One variant as it stands in the file."""

    model: _Text
    # Required; unset here, so that a menu without accuracies is told what they are for.
    accuracy: _Share | UnsetType = UNSET
    input_shape: tuple[_Size, ...] | None = None
    weights: _Text | None = None
    strategy: _Text | None = None


class MenuFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole file."""

    format: Literal["distredge.menu/1"]
    variant: tuple[VariantFile, ...] = ()


@dataclass(frozen=True)
class MenuEntry:
    """One variant.

    Attributes:
        name: for reports: the model's, with the input shape where the menu gives one.
        model: zoo name, path of an .onnx file or package.module:callable.
        accuracy: 0 to 1.
        input_shape: of the model; None where the model has one.
        weights: for a zoo model; None for none.
        strategy: file; None: to be planned.
    """

    name: str
    model: str
    accuracy: float
    input_shape: tuple[int, ...] | None = None
    weights: Path | None = None
    strategy: Path | None = None


def load_menu(path: str | Path) -> tuple[MenuEntry, ...]:
    """Reads a menu; files in it are relative to its folder.

    Raises:
        FileError: naming file, variant and key: of a menu without accuracies, too.
    """
    path = Path(path)
    file = decode_toml(read_bytes(path), MenuFile, path, FileError)
    if not 1 <= len(file.variant) <= MOST_VARIANTS:
        raise FileError(located(path, "variant", f"{len(file.variant)} of them", f"1 to {MOST_VARIANTS} [[variant]]"))
    entries = tuple(_entry(path, f"variant[{k}]", variant) for k, variant in enumerate(file.variant))
    # Whatever their accuracies: one of two that are the same would never be taken.
    same = [replace(entry, accuracy=0.0) for entry in entries]
    for number, entry in enumerate(entries):
        if same[number] in same[:number]:
            raise FileError(f"{path}: variant[{number}]: '{entry.name}' stands twice")
    return entries


def _entry(path: Path, where: str, found: VariantFile) -> MenuEntry:
    accuracy = found.accuracy
    if isinstance(accuracy, UnsetType):
        raise FileError(
            f"{path}: {where} ('{found.model}'): the key 'accuracy' is missing: the most accurate variant that is in "
            "time is taken; accepted: a number from 0 to 1, such as the model's top-1 accuracy"
        )
    if math.isnan(accuracy):
        raise FileError(located(path, f"{where}.accuracy", accuracy, "a number from 0 to 1"))
    is_file = found.model.endswith(".onnx")
    name = Path(found.model).stem if is_file else found.model
    if found.input_shape is not None:
        name += f" {'x'.join(map(str, found.input_shape))}"
    return MenuEntry(
        name,
        str(path.parent / found.model) if is_file else found.model,
        accuracy,
        found.input_shape,
        None if found.weights is None else path.parent / found.weights,
        None if found.strategy is None else path.parent / found.strategy,
    )
