"""What a device does at one moment, as it says itself: plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DeviceSample:
    """One device at one moment; what counts up does so since its worker started.

    Attributes:
        device: its name.
        at_s: when it said so, by its own monotonic clock.
        came_s: when that came in, by the requester's monotonic clock.
        state: "idle", "preparing" or "running".
        frames: done, as far as they concern this device.
        open_frames: begun here and not done.
        queued: stages that could run if the engine were free.
        busy_s: seconds of computing.
        received_bytes, sent_bytes: of rows.
        temperature_c: degrees Celsius of its processor; None where it has no sensor.
        dropped: messages that it could not read or use.
        clock_offset_s: its monotonic clock minus the requester's; None while unknown.
        clock_error_s: how wrong that may be.
    """

    device: str
    at_s: float
    came_s: float
    state: str
    frames: int = 0
    open_frames: int = 0
    queued: int = 0
    busy_s: float = 0.0
    received_bytes: int = 0
    sent_bytes: int = 0
    temperature_c: float | None = None
    dropped: int = 0
    clock_offset_s: float | None = None
    clock_error_s: float | None = None
