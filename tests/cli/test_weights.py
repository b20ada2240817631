"""Weights files that are none are named in one error, whatever they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from distredge.errors import InputError
from distredge.model.capture import load_model
from distredge.model.zoo import read_weights

MODEL, FIRST = "squeezenet1.1", "features.0.weight"
FILES = {
    "passwd": b"root:x:0:0:root:/root:/bin/bash\n",
    "empty": b"",
    "dot.pth": b".",
    "letters.pth": b"hello",
    "empty.safetensors": b"",
    "junk.safetensors": b"\xff" * 100,
    "empty.npz": b"",
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_holds_no_weights(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[name])
    with pytest.raises(InputError, match=name) as refused:
        load_model(MODEL, weights=path)
    assert "\n" not in str(refused.value)


def test_a_safetensors_file_of_another_model(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "other.safetensors"
    save_file({"a": np.zeros(2, np.float32)}, path)
    with pytest.raises(InputError, match=rf"other\.safetensors: {FIRST}: found 'nothing'"):
        load_model(MODEL, weights=path)


@pytest.mark.parametrize("array", [np.full((64, 3, 3, 3), "x"), np.zeros((64, 3, 3, 3), complex)])
def test_weights_that_are_no_real_numbers(tmp_path: Path, array: NDArray[Any]) -> None:
    path, arrays = tmp_path / "w.npz", {FIRST: array}
    np.savez(path, allow_pickle=False, **arrays)
    with pytest.raises(InputError, match=rf"w\.npz: {FIRST}: type"):
        load_model(MODEL, weights=path)


def test_state_dicts_of_torch(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "w.pth"
    torch.save({"a": torch.tensor([1.5, -2.0], dtype=torch.bfloat16)}, path)
    assert read_weights(path)["a"].tolist() == [1.5, -2.0]
    for wrong in ({1: torch.zeros(2)}, {"a": torch.zeros(2).to_sparse()}, [1]):
        torch.save(wrong, path)
        with pytest.raises(InputError, match=r"w\.pth"):
            read_weights(path)
