"""Models come in: ONNX files, torch modules and names of the zoo become a `Graph`.

A captured graph has batch size 1, static shapes, constants as initializers, no operator without effect, batch
normalisation folded where that is exact, IR version 8 and the lowest operator set (13 to 17) that its operators allow.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import onnx.inliner
from google.protobuf.message import DecodeError

from distredge.errors import DistredgeError, FileError, MissingDependency, ModelError, did_you_mean, located
from distredge.model import zoo
from distredge.model.canonical import canonicalise
from distredge.model.draft import Draft
from distredge.model.fold import drop_dead, fold
from distredge.model.graph import Graph
from distredge.model.inputs import fix_inputs, refuse_unsplittable
from distredge.model.opset import check_opset, lower_opset
from distredge.model.original import Original, check
from distredge.model.precision import compute_in_float32
from distredge.model.preprocess import Preprocess
from distredge.model.simplify import simplify
from distredge.writing import as_text

if TYPE_CHECKING:
    import torch

Shapes = Sequence[int] | Mapping[str, Sequence[int]]

EXPORT_OPSET = 18
"""Operator set that torch's exporter writes natively; it is lowered here."""


def load_model(
    what: str | Path,
    input_shape: Shapes | None = None,
    weights: str | Path | None = None,
    seed: int = 0,
    *,
    width: float | None = None,
    outputs: Sequence[str] | None = None,
) -> Graph:
    """Takes a model in.

    Args:
        what: a name of the zoo (`vgg16`), a path to an .onnx file, or `package.module:callable`, where the callable
            takes no argument and returns a torch module.
        input_shape: shape of the input, batch axis (1) included, or shape by input name when there are several.
            Needed for a torch module and for a file whose height or width is dynamic.
        weights: file of weights for a zoo model or a torch module.
        seed: of the seeded weights of a zoo model, and of torch while a callable runs.
        width: multiplier of a zoo model's hidden channels, for small models in tests.
        outputs: tensors of an .onnx file at which to end the model; None: its own outputs.

    Raises:
        FileError: if a file is missing or broken.
        ModelError: if there is no such model, or it cannot be taken in.
        MissingDependency: if a package that this model needs is absent.
    """
    text = str(what)
    if isinstance(what, Path) or text.endswith(".onnx") or Path(text).is_file():
        _refuse(text, weights=weights, width=width)
        return from_onnx(text, input_shape, outputs=outputs)
    if ":" in text:
        _refuse(text, width=width, outputs=outputs)
        return _from_callable(text, input_shape, weights, seed)
    if zoo.find(text) is None:
        names = [e.name for e in zoo.entries()]
        raise ModelError(
            f"model: found '{text}', accepted: a name of the zoo, a path to an .onnx file, or "
            f"package.module:callable{did_you_mean(text, names)}"
        )
    _refuse(text, outputs=outputs)
    shape = next(iter(input_shape.values()), None) if isinstance(input_shape, Mapping) else input_shape
    return zoo.build(text, shape, weights, seed, width)


def from_onnx(
    source: str | Path | onnx.ModelProto,
    input_shape: Shapes | None = None,
    *,
    name: str | None = None,
    outputs: Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
) -> Graph:
    """Takes an ONNX model in.

    Args:
        source: path, or a model that is already loaded.
        input_shape: see `load_model`.
        name: of the graph; None: the file's name.
        outputs: tensors at which to end the model; None: its own outputs.
        preprocess: how an image becomes its input.

    Raises:
        FileError: if the file is missing or is no ONNX model.
        ModelError: if the model is invalid, or cannot be taken in.
    """
    if isinstance(source, onnx.ModelProto):
        proto, name, where = source, name or source.graph.name or "model", "the model"
    else:
        proto, name, where = read_onnx(source), name or as_text(Path(source).stem), str(source)
    try:
        graph, original = _captured(proto, name, input_shape, outputs, preprocess)
    except DistredgeError:
        raise
    except Exception as error:  # a damaged graph trips protobuf, numpy and ONNX's own code in ways without number
        first = (str(error).strip().splitlines() or [""])[0]
        raise ModelError(f"{where}: damaged, or against ONNX's rules: {type(error).__name__}: {first}") from error
    if not isinstance(source, onnx.ModelProto):
        graph.source = Path(source)
    graph.check = check(graph, original, keep=graph.source is not None)
    return graph


def _captured(
    proto: onnx.ModelProto,
    name: str,
    input_shape: Shapes | None,
    outputs: Sequence[str] | None,
    preprocess: Preprocess | None,
) -> tuple[Graph, Original]:
    given = proto
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    refuse_unsplittable(proto, name)
    draft = Draft.from_proto(proto, name)
    constants = {t.name: draft.constants[t.name] for t in given.graph.initializer}
    if outputs is not None:
        _end_at(draft, outputs)
    fix_inputs(draft, input_shape)
    original = Original(name, given, constants, dict(draft.inputs), tuple(draft.outputs))
    check_opset(draft)
    fold(draft)
    compute_in_float32(draft)
    lower_opset(draft)
    simplify(draft)
    canonicalise(draft)
    return draft.finish(preprocess), original


def read_onnx(path: str | Path) -> onnx.ModelProto:
    """Reads an .onnx file with its external weights.

    Raises:
        FileError: if it is missing, no ONNX model, or external weights are missing.
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(f"{path}: no such file; accepted: an .onnx model")
    try:
        proto = onnx.load(path)
    except DecodeError as error:
        raise FileError(f"{path}: not an ONNX model, or a damaged one: {error}") from error
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise FileError(f"{path}: cannot be read with its external weights: {error}") from error
    if not proto.graph.node:
        raise FileError(f"{path}: not an ONNX model: it has no node")
    return proto


def from_torch(
    module: torch.nn.Module,
    example: torch.Tensor | tuple[Any, ...],
    *,
    name: str | None = None,
    preprocess: Preprocess | None = None,
) -> Graph:
    """Takes a torch module in, through `torch.onnx.export`.

    Args:
        module: in any mode; it is exported for inference and left in the mode that it had.
        example: input of batch size 1, or a tuple of all inputs.
        name: of the graph; None: the module's class in lower case.
        preprocess: how an image becomes its input.

    Raises:
        MissingDependency: if torch or onnxscript is absent.
        ModelError: if the module cannot be exported or taken in.
    """
    try:
        import onnxscript  # noqa: F401
        import torch
    except ImportError as error:
        raise MissingDependency(error.name or "torch", "to take in a torch module", "train") from error
    name = name or type(module).__name__.lower()
    arguments = example if isinstance(example, tuple) else (example,)
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter warns about its own insides
            _quiet_exporter()
            program = torch.onnx.export(
                module, arguments, dynamo=True, opset_version=EXPORT_OPSET, verbose=False, optimize=True
            )
    except Exception as error:  # the exporter wraps whatever the module raises
        raise ModelError(f"{name}: torch.onnx.export cannot export this module: {_reason(error)}") from error
    finally:
        for part, training in modes:
            part.training = training
    if program is None:
        raise ModelError(f"{name}: torch.onnx.export returned nothing")
    return from_onnx(program.model_proto, name=name, preprocess=preprocess)


def _quiet_exporter() -> None:
    for logger in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(logger).setLevel(logging.ERROR)


def _reason(error: BaseException) -> str:
    # The exporter's own message is a page; the innermost cause is what the user can act on.
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _from_callable(what: str, input_shape: Shapes | None, weights: str | Path | None, seed: int) -> Graph:
    module_name, _, attribute = what.partition(":")
    made = _import_callable(what, module_name, attribute)
    try:
        import torch
    except ImportError as error:
        raise MissingDependency("torch", f"to take in {what}", "train") from error
    torch.manual_seed(seed)
    module: Any = made
    if not isinstance(made, torch.nn.Module):
        try:
            module = made()
        except Exception as error:  # the user's own code
            raise ModelError(f"model '{what}': calling it failed: {type(error).__name__}: {error}") from error
    if not isinstance(module, torch.nn.Module):
        raise ModelError(located(what, "what the callable returns", type(module).__name__, "a torch.nn.Module"))
    if weights is not None:
        _load_state(module, weights)
    return from_torch(module, _example(what, module, input_shape), name=attribute)


def _import_callable(what: str, module_name: str, attribute: str) -> Callable[[], Any]:
    # The user's own module usually lies in the current folder, which commands do not search. It comes last, so that
    # what the module needs is not taken from there where a package has it.
    here = os.getcwd()
    sys.path.append(here)
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except ImportError as error:
        raise ModelError(f"model '{what}': cannot import '{module_name}': {error}") from error
    except (AttributeError, ValueError) as error:
        raise ModelError(f"model '{what}': {error}") from error
    finally:
        del sys.path[len(sys.path) - 1 - sys.path[::-1].index(here)]
    if not callable(found):
        raise ModelError(located(what, attribute, type(found).__name__, "a callable that returns a torch module"))
    made: Callable[[], Any] = found
    return made


def _example(what: str, module: torch.nn.Module, input_shape: Shapes | None) -> tuple[Any, ...]:
    import torch

    if input_shape is None:
        example = getattr(module, "example", None)
        if example is None:
            raise ModelError(
                f"model '{what}': its input size is unknown; give --input-shape, for instance 1,3,224,224, or the "
                "module an attribute `example` with an input tensor or a tuple of all inputs"
            )
        return example if isinstance(example, tuple) else (example,)
    shapes = input_shape.values() if isinstance(input_shape, Mapping) else [input_shape]
    return tuple(torch.zeros(*shape) for shape in shapes)


def _load_state(module: torch.nn.Module, weights: str | Path) -> None:
    import torch

    from distredge.model.zoo import read_weights

    state = {key: torch.from_numpy(array.copy()) for key, array in read_weights(weights).items()}
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ModelError(f"{weights}: does not fit the module: {' '.join(lines[1:3]) or lines[0]}") from error


def _end_at(draft: Draft, outputs: Sequence[str]) -> None:
    made = {n for node in draft.nodes for n in node.output}
    for output in outputs:
        if output not in made:
            raise ModelError(f"{draft.name}: outputs: no tensor is called '{output}'{did_you_mean(output, made)}")
    draft.outputs = list(outputs)
    drop_dead(draft)


def _refuse(what: str, **options: object) -> None:
    for key, value in options.items():
        if value is not None:
            raise ModelError(f"model '{what}': the option '{key}' does not apply to it")
