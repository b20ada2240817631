"""What a field of a message may hold: types with their bounds, which decoding checks."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta

Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=512)]
Text: TypeAlias = Annotated[str, Meta(max_length=4096)]
Dtype: TypeAlias = Annotated[str, Meta(max_length=16)]
Count: TypeAlias = Annotated[int, Meta(ge=0, lt=2**62)]
Dimensions: TypeAlias = Annotated[tuple[Annotated[int, Meta(ge=0, lt=2**31)], ...], Meta(max_length=8)]
Corner: TypeAlias = Annotated[tuple[Annotated[int, Meta(ge=-(2**31), lt=2**31)], ...], Meta(max_length=8)]
Digest: TypeAlias = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", max_length=64)]
Session: TypeAlias = Annotated[bytes, Meta(min_length=1, max_length=64)]

Index: TypeAlias = Annotated[int, Meta(ge=-1, lt=4096)]
"""A device of the strategy; -1 is the requester."""

Stage: TypeAlias = Annotated[int, Meta(ge=-1, lt=2**31)]
"""A stage of the strategy; -1 is none."""

ClockNs: TypeAlias = Annotated[int, Meta(ge=-(2**62), lt=2**62)]
"""A time on some process's monotonic clock, or between two of them."""

Bytes: TypeAlias = bytes | bytearray | memoryview
"""One frame of a message, as it is sent or comes in."""
