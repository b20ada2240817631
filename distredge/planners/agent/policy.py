"""The shipped policy: a network in ONNX, trained by `experiments/train_shipped_agent.py`, run by ONNX Runtime."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distredge.errors import FileError, MissingDependency
from distredge.planners.agent.features import FEATURES, LAYOUT
from distredge.processors import usable_cores

SHIPPED = Path(__file__).with_name("policy.onnx")

MOST_DEVICES = 16
"""Devices of a problem beyond which the agent does not plan: it was trained on no more."""

THREADS = 2
"""Threads of the network; more do not pay for so few tokens."""

Logits = NDArray[np.float32]


class Modes(NamedTuple):
    """What a policy says of B problems (or orders of one problem's devices), M modes each.

    Attributes:
        share: (B, n_devices, n_cuts, M) logits of who has how much of the rows at a cut.
        cut: (B, n_cuts, M) logits of a volume's end.
        boundary: (B, n_cuts, M) logits of a volume that computes first what others wait for.
        head: (B, n_devices, M) logits of the head device.
    """

    share: Logits
    cut: Logits
    boundary: Logits
    head: Logits


class Policy:
    """A policy in memory.

    Args:
        source: path of the ONNX file, or what is in it.
        threads: of the network.

    Raises:
        FileError: if the file cannot be read, or was trained on other features.
        MissingDependency: without onnxruntime.
    """

    def __init__(self, source: Path | bytes, threads: int = THREADS) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise MissingDependency("onnxruntime", "by the trained agent", "engine") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = min(threads, usable_cores())
        options.inter_op_num_threads = 1
        # Threads that wait for the next problem must not keep the cores from the search.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        model, path = (source, "policy") if isinstance(source, bytes) else (str(source), source)
        try:
            self._session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own classes stand in a private module
            raise FileError(f"{path}: no policy of the agent can be read from it: {error}") from error
        self.notes: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        found = self.notes.get("features")
        if found != f"{LAYOUT}:{FEATURES}":
            raise FileError(f"{path}: features: found {found!r}, accepted '{LAYOUT}:{FEATURES}': train the agent anew")

    def __call__(self, tokens: NDArray[np.float32]) -> Modes:
        """Looks at tokens (B, n_devices, n_cuts, FEATURES)."""
        return Modes(*self._session.run(list(Modes._fields), {"tokens": tokens}))


@functools.lru_cache(maxsize=4)
def load_policy(source: Path | bytes = SHIPPED, threads: int = THREADS) -> Policy:
    """Returns a policy, from a file or from what is in one, read once.

    Raises:
        FileError, MissingDependency: as `Policy`.
    """
    if isinstance(source, Path) and not source.is_file():
        raise FileError(f"{source}: no such file: the trained agent is not there")
    return Policy(source, threads)
