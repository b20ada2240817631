"""A stream without workers: what frames, devices and snapshots look like."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from distredge.device_sample import DeviceSample
from distredge.errors import ExecutionError
from distredge.monitor.snapshot import DeviceState, Snapshot


@dataclass(frozen=True)
class Frame:
    """A frame that has ended."""

    number: int
    latency_s: float | None
    ended_s: float
    ran_as: object = None


@dataclass
class Coordinator:
    """Has devices that answer at once, by a clock that a test sets."""

    now_s: list[float]
    in_flight: int = 1
    asked: int = 0
    closed: bool = False
    found: dict[str, DeviceSample] = field(default_factory=dict)

    def ask_workers(self) -> None:
        if self.closed:
            raise ExecutionError("the coordinator was closed")
        self.asked += 1
        for name, sample in self.found.items():
            self.found[name] = replace(sample, at_s=self.now_s[0], came_s=self.now_s[0])

    def samples(self) -> tuple[DeviceSample, ...]:
        return tuple(self.found.values())


_DEVICE = {
    "state": "running", "frames": 12, "open_frames": 2, "queued": 1, "busy_s": 3.5, "received_bytes": 4000,
    "sent_bytes": 2000, "temperature_c": 61.5, "dropped": 1, "clock_offset_s": 0.25, "clock_error_s": 1e-4,
}  # fmt: skip


def device(name: str, **more) -> DeviceState:
    """A device that is busy for half of the time."""
    sample = DeviceSample(
        name,
        1.0,
        1.0,
        **{**_DEVICE, **more},
    )
    return DeviceState(sample, 0.25, 0.5, 27.1, 3e6, 1e6)


def snapshot(**more) -> Snapshot:
    """Two devices; one has no sensor and is silent."""
    silent = replace(device("pi-b", temperature_c=None, state="idle"), silent_s=8.0)
    found = Snapshot(72.4, 340, 2, 27.14, (0.0361, 0.0402, 0.0551), 0.035, 1, (device("pi-a"), silent))
    return replace(found, **more)
