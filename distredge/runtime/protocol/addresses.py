"""Where workers are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta, Struct

from distredge.runtime.protocol.fields import Name


@dataclass(frozen=True)
class WorkerAddress:
    """Where a worker is, for its requester.

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


class PeerAddress(Struct, frozen=True, array_like=True):
    """Where a worker's data port is, for other workers; an empty key means that the cluster runs without encryption."""

    name: Name
    endpoint: Name
    public_key: Annotated[str, Meta(max_length=40)]
