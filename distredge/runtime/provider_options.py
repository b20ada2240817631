"""What ONNX Runtime's execution providers are told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from distredge.runtime.protocol.device_plan import ShapeRange

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
TENSORRT: Final = "TensorrtExecutionProvider"

PROVIDERS: Final[dict[str, tuple[str, ...]]] = {
    "cpu": (CPU,),
    "cuda": (CUDA, CPU),
    "tensorrt": (TENSORRT, CUDA, CPU),
}
"""What an operator not supported by the first provider falls back to."""


NO_TF32: Final = ("NVIDIA_TF32_OVERRIDE", "0")
"""Environment in which NVIDIA's libraries do not round to TF32, TensorRT among them, which has no option for it."""


def provider_options(
    provider: str, engines: Path | None = None, old: bool = False, ranges: Mapping[str, ShapeRange] | None = None
) -> dict[str, str]:
    """Returns the options of one execution provider.

    Args:
        provider: its name in ONNX Runtime.
        engines: where TensorRT keeps the engines of the sub-model; None: nowhere.
        old: whether the ONNX Runtime may be older than 1.17, and know fewer of them.
        ranges: input of a sub-model with dynamic rows -> its shapes: TensorRT builds one engine for all of them, and
            does not build it anew when it meets one that it has not seen.
    """
    if provider == CUDA:
        # Trying every algorithm, its default, takes seconds for each new shape; TF32 would round inputs to 10 bits.
        chosen = {"cudnn_conv_algo_search": "HEURISTIC"}
        return chosen if old else {**chosen, "use_tf32": "0"}
    if provider != TENSORRT:
        return {}
    shapes = {}
    if ranges:
        for key, which in (("min", "least"), ("opt", "usual"), ("max", "most")):
            listed = (f"{name}:{'x'.join(map(str, getattr(sizes, which)))}" for name, sizes in ranges.items())
            shapes[f"trt_profile_{key}_shapes"] = ",".join(listed)
    if engines is None:
        return shapes
    kept = {**shapes, "trt_engine_cache_enable": "True", "trt_engine_cache_path": str(engines)}
    # How fast a kernel is does not depend on the model: what was timed for one serves the others.
    timed = {"trt_timing_cache_enable": "True", "trt_timing_cache_path": str(engines.parent)}
    return kept if old else {**kept, **timed}
