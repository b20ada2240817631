"""The agent's cases: models on clusters, drawn for its training and, from what it never trains on, for its examination.

A case is plain data: it goes to and comes from JSON, and `AgentCase.problem` makes the same problem of it anywhere.
Graphs and profiles are kept, so that thousands of cases cost little more than their tables.

Kept out of training: the models `UNSEEN_MODELS`, the boards and jitters of `agent_boards`, and the sizes of
`HELD_OUT_VARIANTS`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta, Struct

from distredge.checked_reading import decode_json, read_bytes
from distredge.cluster import Cluster, Device, Link, LinkModel, Requester
from distredge.errors import ConfigError, FileError, did_you_mean
from distredge.experiments.common.agent_boards import board_profile
from distredge.experiments.common.agent_draw import draw_cluster, draw_options
from distredge.experiments.common.agent_models import PREFIX, drawn_model, drawn_shape
from distredge.model import zoo
from distredge.model.capture import load_model
from distredge.model.graph import Graph
from distredge.problem import Problem

Rate = Annotated[float, Meta(gt=0)]
Shape = tuple[int, ...]


class CaseBoard(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device of a case.

    Attributes:
        profile: shipped profile, as "default:nano".
        jitter: see `agent_boards.board_profile`; 0 none.
        uplink_bps, downlink_bps: of its access link.
        host: the computer that it is on; None: one of its own.
    """

    profile: str
    jitter: int = 0
    uplink_bps: Rate
    downlink_bps: Rate
    host: str | None = None


class CaseRequester(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who asks: on its own (rates None: unbounded), on a device's board, or on a host.

    Attributes:
        uplink_bps, downlink_bps: of its access link; those of the device where it is on a board.
        device: index of the board that it is on; None.
        profile: shipped profile that says what messages cost it; None: they cost nothing, or what its board says.
        host: the computer that it is on; None.
    """

    uplink_bps: Rate | None = None
    downlink_bps: Rate | None = None
    device: int | None = None
    profile: str | None = None
    host: str | None = None


class AgentCase(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model, a cluster and the options of a problem, as plain data.

    Attributes:
        name: in reports.
        model, input_shape, width: of `zoo.build`, or the name of one of `agent_models` and its shape.
        boards: the devices in their order.
        requester: who asks.
        fixed_s, rtt_s: cost of a message at each end and round trip, of every link that is bounded.
        link_model, shared_medium, encrypted: of the cluster.
        hosts: computers that several devices are on: name -> cores.
        input_dtypes, wires, boundary_first, free_order, allow_lossy: of the problem.
    """

    name: str = ""
    model: str
    input_shape: Shape
    width: float = 1.0
    boards: tuple[CaseBoard, ...]
    requester: CaseRequester = CaseRequester()
    fixed_s: float = 0.0
    rtt_s: float = 0.0
    link_model: LinkModel = "shared"
    shared_medium: bool = False
    encrypted: bool = False
    hosts: dict[str, int] = {}
    input_dtypes: tuple[str, ...] = ("float32",)
    wires: tuple[str, ...] = ("float32",)
    boundary_first: bool = False
    free_order: bool = True
    allow_lossy: bool = False

    def problem(self) -> Problem:
        """The problem that it stands for; its graph and profiles are shared with other cases."""
        return Problem(
            model_graph(self.model, self.input_shape, self.width),
            self.cluster(),
            allow_lossy=self.allow_lossy,
            input_dtypes=self.input_dtypes,
            wires=self.wires,
            boundary_first=self.boundary_first,
            free_order=self.free_order,
        )

    def cluster(self) -> Cluster:
        """Its cluster."""
        devices = []
        for k, board in enumerate(self.boards):
            profile = board_profile(board.profile, board.jitter)
            up, down = self._link(board.uplink_bps), self._link(board.downlink_bps)
            threads = profile.board.threads
            name = f"{board.profile.rpartition(':')[2]}-{k}"
            devices.append(Device(name, profile, up, down, threads=threads, host=board.host))
        asks = self.requester
        on = None if asks.device is None else devices[asks.device]
        requester = Requester(
            uplink=self._link(asks.uplink_bps) if on is None else on.uplink,
            downlink=self._link(asks.downlink_bps) if on is None else on.downlink,
            device=None if on is None else on.name,
            profile=None if asks.profile is None else board_profile(asks.profile),
            host=asks.host,
        )
        return Cluster(
            self.name or "drawn",
            requester,
            tuple(devices),
            self.link_model,
            shared_medium=self.shared_medium,
            encrypted=self.encrypted,
            hosts=self.hosts,
        )

    def _link(self, rate_bps: float | None) -> Link:
        return Link() if rate_bps is None else Link(rate_bps, fixed_s=self.fixed_s, rtt_s=self.rtt_s)


TRAINING_VARIANTS: dict[str, tuple[tuple[Shape, float], ...]] = {
    "vgg16": (((1, 3, 224, 224), 1.0), ((1, 3, 160, 160), 1.0), ((1, 3, 320, 320), 0.75), ((1, 3, 224, 224), 0.5)),
    "resnet18": (((1, 3, 224, 224), 1.0), ((1, 3, 384, 384), 1.0), ((1, 3, 480, 640), 1.0)),
    "resnet50": (((1, 3, 224, 224), 1.0), ((1, 3, 320, 320), 1.0), ((1, 3, 448, 448), 0.5), ((1, 3, 160, 160), 1.0)),
    "googlenet": (((1, 3, 224, 224), 1.0), ((1, 3, 352, 352), 1.0)),
    "densenet121": (((1, 3, 224, 224), 1.0),),
    "mobilenet-v1": (((1, 3, 224, 224), 1.0), ((1, 3, 416, 416), 1.0), ((1, 3, 192, 192), 0.5)),
    "mobilenet-v2": (((1, 3, 224, 224), 1.0), ((1, 3, 448, 448), 1.0), ((1, 3, 320, 320), 0.75)),
    "mobilenet-v3-large": (((1, 3, 224, 224), 1.0), ((1, 3, 384, 384), 1.0)),
    "squeezenet1.1": (((1, 3, 224, 224), 1.0), ((1, 3, 416, 416), 1.0)),
    "ssd-vgg16": (((1, 3, 300, 300), 1.0), ((1, 3, 300, 300), 0.5)),
    "openpose": (((1, 3, 368, 368), 1.0), ((1, 3, 256, 256), 0.5)),
    "voxelnet": (((1, 128, 10, 400, 352), 1.0), ((1, 128, 10, 200, 176), 1.0)),
}
"""Models that training draws, with the input shapes and widths of each; the first is the published one."""

HELD_OUT_VARIANTS: dict[str, tuple[tuple[Shape, float], ...]] = {
    "vgg16": (((1, 3, 224, 224), 1.0), ((1, 3, 256, 256), 1.0)),
    "resnet18": (((1, 3, 224, 224), 1.0), ((1, 3, 288, 288), 1.0)),
    "resnet50": (((1, 3, 224, 224), 1.0), ((1, 3, 384, 384), 1.0)),
    "googlenet": (((1, 3, 224, 224), 1.0), ((1, 3, 288, 288), 1.0)),
    "mobilenet-v2": (((1, 3, 224, 224), 1.0), ((1, 3, 384, 384), 1.0)),
    "mobilenet-v1": (((1, 3, 224, 224), 1.0), ((1, 3, 320, 320), 1.0)),
    "ssd-vgg16": (((1, 3, 300, 300), 1.0), ((1, 3, 300, 300), 0.75)),
    "openpose": (((1, 3, 368, 368), 1.0), ((1, 3, 224, 224), 1.0)),
    "yolov2": (((1, 3, 416, 416), 1.0), ((1, 3, 320, 320), 1.0)),
    "inception-v3": (((1, 3, 299, 299), 1.0), ((1, 3, 395, 395), 1.0)),
    "efficientnet-lite0": (((1, 3, 224, 224), 1.0), ((1, 3, 448, 448), 1.0)),
    "ssd-resnet50": (((1, 3, 300, 300), 1.0),),
    "unet": (((1, 3, 512, 512), 1.0), ((1, 3, 256, 256), 1.0)),
}
"""Models of held-out cases; beside the published input, sizes that no training case has."""

TRAINING_MODELS = tuple(TRAINING_VARIANTS)
UNSEEN_MODELS = ("yolov2", "inception-v3", "efficientnet-lite0", "ssd-resnet50", "unet")
"""Models that no training case has: a plain stack, wide branches, depthwise convolutions, a detector's heads, skips."""

_PUBLISHED = 0.5
"""Share of cases with the published input shape and width."""


def model_graph(model: str, input_shape: Shape, width: float) -> Graph:
    """A zoo model, or one that is drawn; kept, since building one takes as long as labelling a few cases."""
    return _drawn_graph(model) if model.startswith(PREFIX) else _zoo_graph(model, input_shape, width)


@functools.lru_cache(maxsize=64)
def _zoo_graph(model: str, input_shape: Shape, width: float) -> Graph:
    return load_model(model, input_shape=input_shape, width=None if width == 1.0 else width)


# Few cases have the same one, and its tables take some 100 MB.
_drawn_graph = functools.lru_cache(maxsize=2)(drawn_model)


def draw_case(
    rng: np.random.Generator, models: Sequence[str], n_devices: tuple[int, int], held_out: bool, name: str = ""
) -> AgentCase:
    """Draws a case; the same generator state gives the same case.

    Args:
        rng: source of all choices.
        models: names to draw from, evenly: of `TRAINING_MODELS` or `agent_models`, held-out cases also of
            `UNSEEN_MODELS`.
        n_devices: fewest and most devices, both included, 1 to 16.
        held_out: whether it is for examination: boards, jitters and input sizes that training never has, among others.
        name: of the case.

    Raises:
        ConfigError: if a model may not be drawn, or the numbers of devices make no range.
    """
    variants = HELD_OUT_VARIANTS if held_out else TRAINING_VARIANTS
    for model in models:
        if model not in variants and (held_out or not model.startswith(PREFIX)):
            kind = "held-out" if held_out else "training"
            raise ConfigError(f"draw_case: {kind} cases have no model '{model}'{did_you_mean(model, variants)}")
    fewest, most = n_devices
    if not models or not 1 <= fewest <= most <= 16:
        raise ConfigError(f"draw_case: found {len(models)} models and {n_devices} devices, accepted: 1 to 16 devices")
    model = models[int(rng.integers(len(models)))]
    choices = variants[model] if model in variants else ((drawn_shape(int(model.removeprefix(PREFIX))), 1.0),)
    published = len(choices) == 1 or rng.random() < _PUBLISHED
    shape, width = choices[0 if published else int(rng.integers(1, len(choices)))]
    cluster = draw_cluster(rng, int(rng.integers(fewest, most + 1)), held_out)
    pixels = zoo_takes_pixels(model)
    options = draw_options(rng, cluster["link_model"], pixels)
    fields = {"name": name, "model": model, "input_shape": shape, "width": width, **cluster, **options}
    return msgspec.convert(fields, AgentCase)


@functools.cache
def zoo_takes_pixels(model: str) -> bool:
    """Whether a model says how pixels become its input, so that they may travel as uint8."""
    return (
        model.startswith(PREFIX) or next(entry for entry in zoo.entries() if entry.name == model).preprocess is not None
    )


def other_rates(case: AgentCase, seed: int) -> AgentCase:
    """The same case on another day: every rate 0.6 to 1.6 times what it was; boards, model and options stay."""
    rng = np.random.default_rng((seed, len(case.boards)))
    boards = []
    for board in case.boards:
        up, down = (float(f) for f in np.exp(rng.uniform(-0.5, 0.5, 2)))
        rates = {"uplink_bps": board.uplink_bps * up, "downlink_bps": board.downlink_bps * down}
        boards.append(msgspec.structs.replace(board, **rates))
    return msgspec.structs.replace(case, boards=tuple(boards))


def write_cases(cases: Sequence[AgentCase], path: Path) -> None:
    """Writes cases as JSON, one a line."""
    lines = ",\n".join(msgspec.json.encode(case).decode() for case in cases)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def read_cases(path: Path) -> tuple[AgentCase, ...]:
    """Reads cases.

    Raises:
        FileError: naming file and field, when it is missing or wrong.
    """
    return decode_json(read_bytes(path, FileError), tuple[AgentCase, ...], path, FileError)
