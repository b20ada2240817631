"""What ONNX Runtime's execution providers are told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


PROBE: Final = (
    b'\x08\x07:7\n\x0c\n\x01x\x12\x01y"\x04Relu\x12\x05probeZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x0b"
)
"""A serialised ONNX model, y = Relu(x), x and y float32 of shape (1,), opset 11: shows what a session computes with."""


def fallen_back(wanted: Sequence[str], found: Sequence[str]) -> str:
    """Says that a session computes with something else than was asked for; "" where it does not.

    A build of ONNX Runtime for GPUs has their providers on a computer without one too, and without their libraries: it
    writes what is missing to stderr, makes the session, and computes on the processor.

    Args:
        wanted: the session's providers as asked for, the preferred one first.
        found: as the session has them.
    """
    if wanted[0] in found:
        return ""
    return (
        f"ONNX Runtime cannot use {wanted[0]} here and would compute with {found[0]}: its libraries, or the device, "
        "are missing or of another version"
    )


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
