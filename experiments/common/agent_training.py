"""Trains the shipped agent's network on labels: imitation of the best strategies known, the best mode taking all.

Of the modes of a problem only the one that is nearest to the label learns from it, and the others a little, so that
modes come to stand for kinds of strategies (Guzman-Rivera et al., "Multiple Choice Learning", NeurIPS 2012).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from distredge.errors import DistredgeError
from distredge.experiments.common.agent_labels import Label
from distredge.experiments.common.agent_network import AgentNetwork, Outputs
from distredge.planners.agent.features import FEATURES, PLACE, features
from distredge.planners.annealing.batch_pricing import BatchPricer
from distredge.planners.annealing.encoding import Codec
from distredge.planners.budget import Budget

CUT, BOUNDARY, HEAD, BETWEEN = 1.0, 0.3, 1.0, 0.15
"""Weights of the losses beside that of shares at the label's cuts: of cuts, boundaries, the head, and of shares at cuts
that the label does not use."""

OTHERS = 0.05
"""Share of the loss that is that of all modes alike."""

TOKENS = 6000
"""Tokens of a batch, about."""


@dataclass(frozen=True)
class Example:
    """A label as arrays.

    Attributes:
        tokens: (n_devices, n_cuts, FEATURES) float32.
        share: (n_cuts, n_devices) of the rows at each cut; between the label's cuts those of the volume there.
        ends: (n_cuts,) where a volume ends.
        boundary: (n_cuts,) whether that volume computes first what others wait for.
        head: slab position of the head.
        weight: of the example.
    """

    tokens: NDArray[np.float32]
    share: NDArray[np.float32]
    ends: NDArray[np.bool_]
    boundary: NDArray[np.float32]
    head: int
    weight: float


def example(label: Label) -> Example | None:
    """A label as arrays; None if its problem cannot be made or its cuts are no candidates."""
    try:
        codec = Codec(label.case.problem())
        pricer = BatchPricer(codec, Budget(evaluations=1))
    except DistredgeError:
        return None
    candidates = codec.choices.candidates
    places = np.searchsorted(candidates, label.cuts)
    if places[-1] != len(candidates) - 1 or not np.array_equal(candidates[places], label.cuts):
        return None
    tokens, _ = features(pricer, np.array(label.order))
    sizes = np.diff(np.array(label.rows, np.float64), axis=1)
    volume = np.searchsorted(places, np.arange(len(candidates)))
    share = sizes / sizes.sum(axis=1, keepdims=True)
    ends = np.zeros(len(candidates), bool)
    ends[places] = True
    boundary = np.array(label.boundary, np.float32)[volume]
    gain = label.offload_s / label.latency_s
    return Example(tokens, share[volume].astype(np.float32), ends, boundary, label.head, 1.0 if gain > 1.02 else 0.4)


class Batch(NamedTuple):
    """B examples, filled up to the same size."""

    tokens: Tensor
    devices: Tensor
    cuts: Tensor
    share: Tensor
    ends: Tensor
    boundary: Tensor
    head: Tensor
    weight: Tensor


def batches(
    examples: Sequence[Example], rng: np.random.Generator, flips: bool = True, device: str = "cpu"
) -> Iterator[Batch]:
    """Batches of examples of like size, in random order; each turned upside down in half of the cases."""
    noise = rng.random(len(examples))
    sizes = [(len(e.tokens), e.tokens.shape[1], noise[i], i) for i, e in enumerate(examples)]
    sizes.sort(key=lambda s: (s[0] // 2, s[1] // 4, s[2]))
    groups: list[list[int]] = [[]]
    widest = longest = 0
    for devices, cuts, _, i in sizes:
        widest, longest = max(widest, devices), max(longest, cuts)
        if groups[-1] and (len(groups[-1]) + 1) * widest * longest > TOKENS:
            groups.append([])
            widest, longest = devices, cuts
        groups[-1].append(i)
    for g in rng.permutation(len(groups)):
        chosen = [flipped(examples[i]) if flips and rng.random() < 0.5 else examples[i] for i in groups[g]]
        yield Batch._make(tensor.to(device) for tensor in collate(chosen))


def flipped(found: Example) -> Example:
    """An example with its devices in the opposite order: rows mirrored cost about the same."""
    tokens = found.tokens[::-1].copy()
    # A device's place is seen: it mirrors too.
    tokens[:, :, PLACE] = -tokens[:, :, PLACE]
    return Example(
        tokens, found.share[:, ::-1].copy(), found.ends, found.boundary, len(tokens) - 1 - found.head, found.weight
    )


def collate(found: Sequence[Example]) -> Batch:
    """Examples as one batch."""
    size = len(found)
    wide, long = max(len(e.tokens) for e in found), max(e.tokens.shape[1] for e in found)
    tokens = np.zeros((size, wide, long, FEATURES), np.float32)
    share = np.zeros((size, long, wide), np.float32)
    devices, cuts = np.zeros((size, wide), bool), np.zeros((size, long), bool)
    ends, boundary = np.zeros((size, long), np.float32), np.zeros((size, long), np.float32)
    for i, e in enumerate(found):
        d, c = e.tokens.shape[:2]
        tokens[i, :d, :c], share[i, :c, :d] = e.tokens, e.share
        devices[i, :d], cuts[i, :c], ends[i, :c], boundary[i, :c] = True, True, e.ends, e.boundary
    head = np.array([e.head for e in found], np.int64)
    weight = np.array([e.weight for e in found], np.float32)
    return Batch._make(map(torch.from_numpy, (tokens, devices, cuts, share, ends, boundary, head, weight)))


def losses(said: Outputs, batch: Batch) -> Tensor:
    """(B, M) how far each mode is from the label."""
    known = batch.cuts.float()
    share = said.share.masked_fill(~batch.devices[:, :, None, None], -1e9).log_softmax(1)  # (B, D, C, M)
    target = batch.share.transpose(1, 2)[..., None]
    entropy = (torch.special.entr(batch.share)).sum(2)[..., None]
    apart = -(target * share.clamp(min=-30.0)).sum(1) - entropy  # (B, C, M), Kullback-Leibler
    weight = (batch.ends + BETWEEN * (1.0 - batch.ends)) * known
    found: Tensor = (apart * weight[..., None]).sum(1)
    inner = known.clone()
    inner[torch.arange(len(known)), known.sum(1).long() - 1] = 0.0  # the last cut always ends a volume
    ends = batch.ends[..., None].expand_as(said.cut)
    cut = functional.binary_cross_entropy_with_logits(said.cut, ends, reduction="none")
    found = found + CUT * (cut * inner[..., None]).sum(1)
    first = batch.boundary[..., None].expand_as(said.boundary)
    boundary = functional.binary_cross_entropy_with_logits(said.boundary, first, reduction="none")
    found = found + BOUNDARY * (boundary * (batch.ends * known)[..., None]).sum(1)
    head = said.head.masked_fill(~batch.devices[..., None], -1e9).log_softmax(1)
    chosen: Tensor = head[torch.arange(len(known)), batch.head]
    return found - HEAD * chosen


def loss_of(said: Outputs, batch: Batch) -> Tensor:
    """The loss of a batch: that of the nearest modes, and a little of all."""
    every = losses(said, batch)
    nearest = (1.0 - OTHERS) * every.min(1).values + OTHERS * every.mean(1)
    return (nearest * batch.weight).sum() / batch.weight.sum()


def train_epoch(
    network: AgentNetwork, optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler,
    examples: Sequence[Example], rng: np.random.Generator, device: str = "cpu",
) -> float:  # fmt: skip
    """Goes through all examples once; returns the mean loss."""
    network.train()
    total = number = 0.0
    for batch in batches(examples, rng, device=device):
        loss = loss_of(network(batch.tokens, batch.devices, batch.cuts), batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        total, number = total + loss.item() * len(batch.head), number + len(batch.head)
    return total / max(number, 1.0)


@torch.no_grad()
def mean_loss(network: AgentNetwork, examples: Sequence[Example], device: str = "cpu") -> float:
    """The mean loss over examples, without learning."""
    network.eval()
    total = number = 0.0
    for batch in batches(examples, np.random.default_rng(0), flips=False, device=device):
        loss = float(loss_of(network(batch.tokens, batch.devices, batch.cuts), batch))
        total, number = total + loss * len(batch.head), number + len(batch.head)
    return total / max(number, 1.0)
