"""Where workers are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WorkerAddress:
    """Where a worker is.

    Attributes:
        name: its name in the strategy.
        control: its control address, such as ``tcp://192.168.1.11:5700``.
        data: its data address; with port 0 the port that the worker names.
        public_key: Z85; "" without encryption.
    """

    name: str
    control: str
    data: str
    public_key: str = ""
