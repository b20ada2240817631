"""Which transfers of a layout travel together: what a stage needs from one source is one message."""

from __future__ import annotations

from typing import NamedTuple

from distredge.model.layout import Layout, Transfer


class MessageKey(NamedTuple):
    """Which message it is.

    Attributes:
        stage: the stage that needs it; the number of stages for results.
        source, destination: indices into the strategy's devices, or REQUESTER; equal when it never leaves the device.
    """

    stage: int
    source: int
    destination: int


def messages_of_layout(layout: Layout) -> dict[MessageKey, tuple[Transfer, ...]]:
    """Returns the transfers of every message, and what each stage takes from its own device, in the layout's order."""
    found: dict[MessageKey, list[Transfer]] = {}
    for transfer in layout.transfers:
        key = MessageKey(transfer.stage, transfer.source, transfer.destination)
        found.setdefault(key, []).append(transfer)
    return {key: tuple(transfers) for key, transfers in found.items()}
