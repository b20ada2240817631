"""Where a zoo model's weights come from: a seed, or a file with torchvision's names."""

from __future__ import annotations

import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from distredge.errors import FileError, MissingDependency, ModelError, located

Array = NDArray[np.float32]
Statistics = tuple[Array, Array, Array, Array]

PARTS = ("weight", "bias", "running_mean", "running_var")
"""Parameters of a batch normalisation, in the order of `Statistics`."""

POOL = 1 << 20
"""Elements from which a seeded weight becomes overlapping windows of one pool of draws instead of draws of its own."""

BIAS_DEVIATION = 0.1
"""Deviation of seeded biases: not zero, so that a row of padding does not look like a row that was computed."""


OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
"""DenseNet's names in torchvision's checkpoints: `denselayer1.norm.1.weight` for what is now `norm1.weight`."""


class Weights(Protocol):
    """Gives parameters by their torchvision name."""

    def weight(self, key: str, shape: tuple[int, ...], fan_in: int, gain: float) -> Array:
        """Returns a weight; a seeded one has deviation gain * sqrt(2 / fan_in) (He et al. 2015).

        Args:
            key: its torchvision name.
            shape: its shape (d0, d1, ...).
            fan_in: inputs of one output.
            gain: of the activation that follows.

        Returns:
            float32 array of `shape`.
        """

    def vector(self, key: str, size: int, mean: float = 0.0) -> Array:
        """Returns the bias or other vector `key`: (size,) float32.

        A seeded one has deviation BIAS_DEVIATION about `mean`.
        """

    def batch_norm(self, key: str, size: int) -> Statistics | None:
        """Returns weight, bias, mean and variance of the batch normalisation `key`; None when it may be left out.

        Each is (size,) float32.
        """

    def finish(self) -> None:
        """Checks that nothing was left unused.

        Raises:
            ModelError: if the file holds parameters that the model does not have.
        """


class SeededWeights:
    """He-normal weights (He et al. 2015), each a function of the seed and of its own name alone.

    Batch normalisation is left out: the scale that it would bring is in the He-normal weights.

    Args:
        seed: any integer >= 0.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def _draws(self, key: str) -> np.random.Generator:
        return np.random.Generator(np.random.SFC64([self._seed, zlib.crc32(key.encode())]))

    def weight(self, key: str, shape: tuple[int, ...], fan_in: int, gain: float) -> Array:
        """See `Weights.weight`: float32 of `shape` (d0, d1, ...).

        A large one is a strided view of a pool of draws, which costs no memory.
        """
        deviation = np.float32(gain * np.sqrt(2.0 / max(1, fan_in)))
        rows, size = shape[0], int(np.prod(shape, dtype=np.int64))
        if size <= 4 * POOL:
            return self._draws(key).standard_normal(shape, dtype=np.float32) * deviation
        columns = size // rows
        step = max(1, POOL // rows)
        pool = self._draws(key).standard_normal(step * (rows - 1) + columns, dtype=np.float32) * deviation
        view = np.lib.stride_tricks.as_strided(pool, (rows, columns), (4 * step, 4), writeable=False)
        return view.reshape(shape)

    def vector(self, key: str, size: int, mean: float = 0.0) -> Array:
        """See `Weights.vector`: (size,) float32."""
        return np.float32(mean) + self._draws(key).standard_normal(size, dtype=np.float32) * np.float32(BIAS_DEVIATION)

    def batch_norm(self, key: str, size: int) -> Statistics | None:
        """Returns None."""
        return None

    def finish(self) -> None:
        """Nothing to check."""


class LoadedWeights:
    """Parameters from a file or a mapping.

    Args:
        parameters: arrays by name, as in a PyTorch state_dict.
        source: where they come from, for messages.
        unneeded: prefixes of parameters that only training needs.
    """

    def __init__(
        self, parameters: Mapping[str, NDArray[np.generic]], source: str, unneeded: tuple[str, ...] = ()
    ) -> None:
        self._parameters = {OLD_NAME.sub(r"\1\2", key): array for key, array in parameters.items()}
        self._source = source
        self._unused = {
            k for k in self._parameters if not k.endswith("num_batches_tracked") and not k.startswith(unneeded)
        }

    def _take(self, key: str, shape: tuple[int, ...]) -> Array:
        if key not in self._parameters:
            some = ", ".join(sorted(self._unused)[:3]) or "none"
            raise ModelError(located(self._source, key, "nothing", f"shape {shape}; unused so far: {some}"))
        array = self._parameters[key]
        if array.shape != shape:
            raise ModelError(located(self._source, f"{key}: shape", array.shape, str(shape)))
        if array.dtype.kind in "cOSUMm":
            raise ModelError(located(self._source, f"{key}: type", array.dtype, "real numbers"))
        self._unused.discard(key)
        taken: Array = np.ascontiguousarray(array, dtype=np.float32)
        if not np.isfinite(taken).all():
            raise ModelError(f"{self._source}: {key}: holds NaN or infinite values")
        return taken

    def weight(self, key: str, shape: tuple[int, ...], fan_in: int, gain: float) -> Array:
        """See `Weights.weight`: float32 of `shape` (d0, d1, ...)."""
        return self._take(key, shape)

    def vector(self, key: str, size: int, mean: float = 0.0) -> Array:
        """See `Weights.vector`: (size,) float32."""
        return self._take(key, (size,))

    def batch_norm(self, key: str, size: int) -> Statistics | None:
        """See `Weights.batch_norm`."""
        weight, bias, mean, variance = (self._take(f"{key}.{part}", (size,)) for part in PARTS)
        return weight, bias, mean, variance

    def finish(self) -> None:
        """See `Weights.finish`."""
        if self._unused:
            some = ", ".join(sorted(self._unused)[:5])
            raise ModelError(f"{self._source}: holds {len(self._unused)} parameters that the model lacks: {some}")


def read_weights(path: str | Path) -> dict[str, NDArray[np.generic]]:
    """Reads a safetensors, .npz or PyTorch state_dict file (`torch.load(weights_only=True)`).

    Args:
        path: file; its ending decides: .safetensors, .npz, anything else is PyTorch's.

    Returns:
        Array by parameter name, shapes (d0, d1, ...) and dtypes as the file holds them.

    Raises:
        FileError: if it is missing or not of its format.
        MissingDependency: if safetensors or torch is absent.
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(f"{path}: no such weights file; accepted: .safetensors, .npz, or a PyTorch state_dict")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".npz":
        return _read_npz(path)
    return _read_torch(path)


def _read_safetensors(path: Path) -> dict[str, NDArray[np.generic]]:
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError as error:
        raise MissingDependency("safetensors", f"to read {path}", "train") from error
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise FileError(f"{path}: not a safetensors file: {error}") from error


def _read_npz(path: Path) -> dict[str, NDArray[np.generic]]:
    try:
        # Opened here, because numpy leaves a file that is no archive open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (OSError, EOFError, ValueError, KeyError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise FileError(f"{path}: not an .npz file: {error}") from error


def _read_torch(path: Path) -> dict[str, NDArray[np.generic]]:
    try:
        import torch
    except ImportError as error:
        raise MissingDependency("torch", f"to read {path}", "train") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # guesses about old or foreign pickles
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # its reader of pickles trips over other files in ways without number
        first = (str(error).strip().splitlines() or [""])[0].partition(". ")[0]
        raise FileError(
            f"{path}: not a PyTorch state_dict that loads with weights_only: {type(error).__name__}: {first}"
        ) from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    is_state = isinstance(loaded, dict) and all(isinstance(k, str) and torch.is_tensor(v) for k, v in loaded.items())
    if not is_state:
        raise FileError(f"{path}: found {type(loaded).__name__}, accepted: a state_dict (parameter name -> tensor)")
    arrays = {}
    for key, value in loaded.items():
        try:
            # numpy has no bfloat16.
            arrays[key] = (value.float() if value.dtype == torch.bfloat16 else value).detach().numpy()
        except (TypeError, RuntimeError) as error:
            raise FileError(f"{path}: {key}: found {value.dtype}, {value.layout}, accepted: dense numbers") from error
    return arrays
