"""Run one CNN inference together on several small unequal computers.

The names below are loaded when they are first used, so that a command's `--help` and a worker import only what they
need.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distredge import errors
    from distredge.cluster import load_cluster
    from distredge.latency import simulate
    from distredge.model.capture import from_torch, load_model
    from distredge.planners import plan
    from distredge.problem import Problem
    from distredge.runtime.hosting.local_cluster import LocalCluster
    from distredge.runtime.in_process import run_in_process
    from distredge.strategy import Strategy
    from distredge.timeline import Timeline

    __version__: str

# ONNX Runtime's official builds send Microsoft what they run on; before it is imported, this keeps them from it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "LocalCluster",
    "Problem",
    "Strategy",
    "Timeline",
    "__version__",
    "errors",
    "from_torch",
    "load_cluster",
    "load_model",
    "plan",
    "run_in_process",
    "simulate",
]

_MODULE_OF = {
    "LocalCluster": "distredge.runtime.hosting.local_cluster",
    "Problem": "distredge.problem",
    "Strategy": "distredge.strategy",
    "Timeline": "distredge.timeline",
    "from_torch": "distredge.model.capture",
    "load_cluster": "distredge.cluster",
    "load_model": "distredge.model.capture",
    "plan": "distredge.planners",
    "run_in_process": "distredge.runtime.in_process",
    "simulate": "distredge.latency",
}


def __getattr__(name: str) -> Any:
    value: Any
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    elif name == "errors":
        value = importlib.import_module("distredge.errors")
    elif name == "__version__":
        from importlib.metadata import version

        value = version("distredge")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
