"""The shipped agent's network, for training; what is shipped is its ONNX form.

Tokens stand for a device at a cut. Each block lets a token look along the cuts of its device (a convolution and
attention) and across the devices at its cut (attention), so that any number of either fits and the numbering of the
devices does not matter. Several modes are given at once: several good strategies may lie far apart, and what is between
them is often bad.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from distredge.planners.agent.features import FEATURES

MODES = 8

DROPOUT = 0.1
"""Share of what each layer adds that is left out in training: there are few labels for so much variety."""


class Outputs(NamedTuple):
    """What the network says of B problems with M modes.

    Attributes:
        share: (B, n_devices, n_cuts, M) logits of who has how much of the rows at a cut.
        cut: (B, n_cuts, M) logits of a volume's end.
        boundary: (B, n_cuts, M) logits of a volume that computes first what others wait for.
        head: (B, n_devices, M) logits of the head device.
    """

    share: Tensor
    cut: Tensor
    boundary: Tensor
    head: Tensor


class _Attention(nn.Module):
    """Attention along the last axis but one of (B, rows, length, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.into = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.drop = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """`mask` is (B, length), true where there is something."""
        b, r, n, w = x.shape
        q, k, v = self.into(self.norm(x)).reshape(b, r, n, 3, self.heads, w // self.heads).permute(3, 0, 1, 4, 2, 5)
        scores: Tensor = q @ k.transpose(-1, -2) * (w // self.heads) ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None, None, :], -1e9)
        found = scores.softmax(-1) @ v
        added = self.out(found.transpose(2, 3).reshape(b, r, n, w))
        dropped: Tensor = self.drop(added)
        return x + dropped


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.near = nn.Conv1d(width, width, 5, padding=2, groups=width)
        self.along = _Attention(width, heads)
        self.across = _Attention(width, heads)
        self.norm = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 2 * width)
        self.narrow = nn.Linear(2 * width, width)
        self.drop = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor, devices: Tensor | None, cuts: Tensor | None) -> Tensor:
        b, d, c, w = x.shape
        x = x + self.near(x.reshape(b * d, c, w).transpose(1, 2)).transpose(1, 2).reshape(b, d, c, w)
        x = self.along(x, cuts)
        x = self.across(x.transpose(1, 2), devices).transpose(1, 2)
        x = x + self.drop(self.narrow(functional.relu(self.wide(self.norm(x)))))
        return x if cuts is None else x * cuts[:, None, :, None]


class AgentNetwork(nn.Module):
    """Says for each problem where volumes may end, who has which share of their rows, and who has the head.

    Args:
        width: of a token.
        blocks: how many there are.
        heads: of attention.
    """

    def __init__(self, width: int = 64, blocks: int = 5, heads: int = 4) -> None:
        super().__init__()
        self.enter = nn.Linear(FEATURES, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.share = nn.Linear(width, MODES)
        self.at_cut = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 2 * MODES))
        self.of_device = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, MODES))

    def forward(self, x: Tensor, devices: Tensor | None = None, cuts: Tensor | None = None) -> Outputs:
        """Looks at B problems.

        Args:
            x: (B, n_devices, n_cuts, FEATURES) float32.
            devices: (B, n_devices) true where there is one; None: everywhere.
            cuts: (B, n_cuts) likewise.
        """
        x = self.enter(x)
        if cuts is not None:
            x = x * cuts[:, None, :, None]
        for block in self.blocks:
            x = block(x, devices, cuts)
        x = self.norm(x)
        cut = self.at_cut(torch.cat(_pooled(x, devices, 1), -1))
        last = x[:, :, -1] if cuts is None else _last(x, cuts)
        head = self.of_device(torch.cat([_pooled(x, cuts, 2)[0], last], -1))
        return Outputs(self.share(x), cut[..., :MODES], cut[..., MODES:], head)


def _pooled(x: Tensor, mask: Tensor | None, axis: int) -> tuple[Tensor, Tensor]:
    """Mean and greatest over the devices (axis 1) or the cuts (axis 2)."""
    if mask is None:
        return x.mean(axis), x.amax(axis)
    known = (mask[:, :, None, None] if axis == 1 else mask[:, None, :, None]).to(x.dtype)
    return (x * known).sum(axis) / known.sum(axis), (x - (1.0 - known) * 1e4).amax(axis)


def _last(x: Tensor, cuts: Tensor) -> Tensor:
    """The tokens at each problem's last cut, (B, n_devices, width)."""
    at = cuts.sum(1).long() - 1
    return x[torch.arange(len(x)), :, at]


class _Exported(nn.Module):
    def __init__(self, network: AgentNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network(tokens))


def export(network: AgentNetwork, path: Path, notes: dict[str, str]) -> None:
    """Writes the network as ONNX, any number of problems, devices and cuts, with notes as its metadata."""
    import onnx

    network = network.cpu()
    sizes = {axis: torch.export.Dim(name) for axis, name in enumerate(("problems", "devices", "cuts"))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch about torch
        program = torch.onnx.export(
            _Exported(network).eval(), (torch.zeros(2, 3, 7, FEATURES),), input_names=["tokens"],
            output_names=list(Outputs._fields), dynamic_shapes=(sizes,), opset_version=18, dynamo=True, verbose=False,
        )  # fmt: skip
    assert program is not None
    model = program.model_proto
    # Where in this file each node comes from would be a third of the file.
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.ClearField("metadata_props")
    model.graph.ClearField("value_info")
    for key, value in notes.items():
        model.metadata_props.add(key=key, value=value)
    model.ir_version = 8  # what onnxruntime 1.17 reads
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
