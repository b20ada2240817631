"""Strategies: the partition scheme, split decisions and options that a deployment needs, and their file.

Format ``distredge.strategy/1`` (JSON). Nothing in it depends on time, path, host or version, so that the same seed
gives the same bytes. A reader refuses by name what it cannot run.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TypeAlias

import msgspec
from msgspec import Meta, Struct

from distredge.checked_reading import convert, decode_json
from distredge.errors import FileError, StrategyError, UnsupportedModel, did_you_mean, located
from distredge.model.cuts import Cut
from distredge.model.graph import Graph
from distredge.model.volumes import Decision
from distredge.model.wires import INPUT_DTYPES, VOLUME_WIRES, WIRES
from distredge.writing import write

FORMAT = "distredge.strategy/1"
SPLITS = ("rows",)


@dataclass(frozen=True)
class ModelRef:
    """The graph that a strategy was made for; any weights of the same topology fit.

    Attributes:
        name: of the model.
        topology: its digest.
        input_shape: of its first input.
        exact: whether parts of it give the whole's output to 1e-5 (`Graph.lossy_because` says why not).
    """

    name: str
    topology: str
    input_shape: tuple[int, ...]
    exact: bool = True

    @classmethod
    def of(cls, graph: Graph) -> ModelRef:
        """What a strategy for this graph names."""
        return cls(graph.name, graph.topology, graph.input_shapes[0], not graph.lossy_because)


@dataclass(frozen=True)
class Volume:
    """One layer-volume and how the rows of its end are dealt out.

    Attributes:
        ends_at: tensors alive at its end, as `graph.cuts` names them.
        reference: the one whose rows are counted.
        rows: cut points 0 = x0 <= x1 <= ... <= xD = H.
        columns: cut points of the columns of a grid of tiles (devices in row-major order), or None.
        split: "rows".
        wire: dtype in which what it makes crosses the network.
        boundary_first: whether rows that others wait for are computed and sent first.
    """

    ends_at: tuple[str, ...]
    reference: str
    rows: tuple[int, ...]
    columns: tuple[int, ...] | None = None
    split: str = "rows"
    wire: str = "float32"
    boundary_first: bool = False


@dataclass(frozen=True)
class Head:
    """Who runs the operators that cannot be split by rows, and how."""

    device: str
    split: str = "whole"


@dataclass(frozen=True)
class InputSpec:
    """What the requester sends: normalised float32, or pixels that the devices normalise.

    Attributes:
        dtype: "float32"; "uint8" for pixels; "jpeg" for pixels that may travel in the picture's file.
        file_bytes: mean size of the files that it was priced with; of "jpeg" alone.
        file_pixels: mean number of pixels of the pictures in them; of "jpeg" alone.
    """

    dtype: str = "float32"
    file_bytes: int = 0
    file_pixels: int = 0

    @property
    def file(self) -> bool:
        """Whether a picture may travel in its file."""
        return WIRES[self.dtype].file

    @property
    def element_dtype(self) -> str:
        """NumPy's name of the dtype of what devices hold."""
        return WIRES[self.dtype].dtype

    @property
    def pixels(self) -> bool:
        """Whether pixels travel."""
        return WIRES[self.dtype].pixels


@dataclass(frozen=True)
class PlannerRef:
    """Where a strategy comes from."""

    method: str = "manual"
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Strategy:
    """All that a deployment needs to know; see the module's text.

    Attributes:
        model: the graph that it fits.
        devices: names in slab order, top to bottom.
        volumes: in order; the last one ends the body.
        head: head device.
        input: dtype of the input on the wire.
        planner: method, seed and settings.
        predicted: figures that the planner expects, such as `latency_s`.

    Raises:
        StrategyError: on anything that contradicts itself, naming the field.
    """

    model: ModelRef
    devices: tuple[str, ...]
    volumes: tuple[Volume, ...]
    head: Head
    input: InputSpec = field(default_factory=InputSpec)
    planner: PlannerRef = field(default_factory=PlannerRef)
    predicted: Mapping[str, float] = field(default_factory=dict)
    source: str = field(default="strategy", compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.devices or len(set(self.devices)) != len(self.devices) or "" in self.devices:
            self._refuse("devices", list(self.devices), "at least one device, each named once")
        if not self.volumes:
            self._refuse("volumes", [], "at least one volume")
        for i, volume in enumerate(self.volumes):
            self._check_volume(f"volumes[{i}]", volume)
        if self.head.device not in self.devices:
            self._refuse("head.device", self.head.device, f"one of devices {list(self.devices)}")
        if self.head.split != "whole":
            self._refuse("head.split", self.head.split, "'whole' (the only head split that this version runs)")
        if self.input.dtype not in INPUT_DTYPES:
            self._refuse("input.dtype", self.input.dtype, f"one of {INPUT_DTYPES}")
        for key in ("file_bytes", "file_pixels"):
            given = getattr(self.input, key)
            if self.input.file and given < 1:
                self._refuse(
                    f"input.{key}", given, f"the mean of the files that it was priced with, with '{self.input.dtype}'"
                )
            if not self.input.file and given:
                self._refuse(f"input.{key}", given, f"none with '{self.input.dtype}', which travels in no file")
        for key, value in self.predicted.items():
            if not math.isfinite(value):
                self._refuse(f"predicted.{key}", value, "a finite number")

    def _refuse(self, key: str, found: object, accepted: str) -> NoReturn:
        raise StrategyError(located(self.source, key, found, accepted))

    def _check_volume(self, key: str, volume: Volume) -> None:
        if not volume.ends_at:
            self._refuse(f"{key}.ends_at", [], "at least one tensor")
        if volume.reference not in volume.ends_at:
            self._refuse(f"{key}.reference", volume.reference, f"one of ends_at {list(volume.ends_at)}")
        if volume.split not in SPLITS:
            self._refuse(f"{key}.split", volume.split, "'rows' (the only split that this version runs)")
        if volume.wire not in VOLUME_WIRES:
            self._refuse(f"{key}.wire", volume.wire, f"one of {VOLUME_WIRES}")
        for name, cuts in (("rows", volume.rows), ("columns", volume.columns)):
            if cuts is None:
                continue
            if len(cuts) < 2 or cuts[0] != 0 or any(a > b for a, b in itertools.pairwise(cuts)):
                self._refuse(f"{key}.{name}", list(cuts), "cut points that start at 0 and never fall")
        shares = (len(volume.rows) - 1) * (1 if volume.columns is None else len(volume.columns) - 1)
        if shares != len(self.devices):
            self._refuse(
                f"{key}.rows", list(volume.rows), f"cut points that make {len(self.devices)} shares, not {shares}"
            )

    @functools.cached_property
    def lossless(self) -> bool:
        """Whether the output is the whole model's to 1e-5 of its largest value."""
        return not self.lossy_because

    @functools.cached_property
    def lossy_because(self) -> str:
        """What makes the output differ from the whole model's by more than that; "" where nothing does.

        The model's own number format, or a wire between volumes (those of the input all are exact).
        """
        if not all(WIRES[v.wire].exact for v in self.volumes):
            return "rows travel in less than float32"
        return "" if self.model.exact else "parts of a float16 model are rounded where the whole model is not"

    def check(self, graph: Graph) -> None:
        """Refuses a graph that it was not made for, or that cannot be cut as it says.

        Raises:
            StrategyError: naming the field that does not fit.
        """
        self.check_model(graph)
        self.decisions(graph)

    def check_model(self, graph: Graph) -> None:
        """Refuses a graph that it was not made for; `decisions` finds what else does not fit.

        Raises:
            StrategyError: if the graph has another topology, or the strategy calls a model exact that is not.
        """
        if self.model.topology != graph.topology:
            self._refuse(
                "model.topology",
                f"{self.model.topology[:15]}... of {self.model.name} {self.model.input_shape}",
                f"{graph.topology[:15]}... of {graph.name} {graph.input_shapes[0]}: the strategy is for another model",
            )
        if self.model.exact and graph.lossy_because:
            self._refuse("model.exact", True, f"false: {graph.name}: {graph.lossy_because}")

    def decisions(self, graph: Graph) -> tuple[Decision, ...]:
        """The volumes as positions in `graph.cuts`.

        Raises:
            StrategyError: if a volume ends where the graph cannot be cut, or its rows do not cover the tensor.
        """
        by_tensors = {frozenset(cut.tensors): cut for cut in _cuts_of(graph)}
        found: list[Decision] = []
        for i, volume in enumerate(self.volumes):
            key = f"volumes[{i}]"
            cut = by_tensors.get(frozenset(volume.ends_at))
            if cut is None:
                names = [t for c in graph.cuts for t in c.tensors]
                hint = did_you_mean(volume.ends_at[0], names) if len(volume.ends_at) == 1 else ""
                self._refuse(f"{key}.ends_at", list(volume.ends_at), f"the tensors of one of {graph.name}'s cuts{hint}")
            if found and cut.position <= found[-1].cut.position:
                self._refuse(f"{key}.ends_at", list(volume.ends_at), "a cut after that of the volume before")
            found.append(self._decision(graph, cut, volume, key))
        if found[-1].cut.index != len(graph.cuts) - 1:
            self._refuse(
                f"volumes[{len(found) - 1}].ends_at",
                list(self.volumes[-1].ends_at),
                f"the end of the body {graph.cuts[-1].tensors}",
            )
        return tuple(found)

    def _decision(self, graph: Graph, cut: Cut, volume: Volume, key: str) -> Decision:
        tensor = graph.tensors.get(volume.reference)
        if tensor is None or tensor.height != cut.height:
            self._refuse(f"{key}.reference", volume.reference, f"'{cut.reference}', the tallest tensor of the cut")
        if volume.rows[-1] != tensor.height:
            self._refuse(
                f"{key}.rows", list(volume.rows), f"cut points that end at {tensor.height}, the rows of '{tensor.name}'"
            )
        if volume.columns is not None and volume.columns[-1] != tensor.width:
            self._refuse(f"{key}.columns", list(volume.columns), f"cut points that end at {tensor.width}")
        if volume.reference != cut.reference:
            cut = Cut(cut.index, cut.position, cut.tensors, volume.reference, cut.height)
        return Decision(cut, volume.rows, volume.columns, volume.wire, volume.boundary_first)

    @classmethod
    def make(
        cls,
        graph: Graph,
        devices: Sequence[str],
        volumes: Sequence[tuple[int, Sequence[int]]],
        *,
        head: str,
        method: str = "manual",
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
        input_dtype: str = "float32",
        wire: str = "float32",
        predicted: Mapping[str, float] | None = None,
    ) -> Strategy:
        """Builds a row-split strategy from indices into `graph.cuts` and cut points.

        Args:
            graph: the model.
            devices: names in slab order.
            volumes: (index into `graph.cuts`, cut points (len(devices) + 1,)) of each volume.
            head: head device.
            method: planner that made it.
            seed: its seed.
            settings: what else it was told.
            input_dtype: "float32" or "uint8".
            wire: dtype of all exchanges between volumes.
            predicted: expected figures.
        """
        cuts = _cuts_of(graph)
        made = tuple(
            Volume(cuts[i].tensors, cuts[i].reference, tuple(int(x) for x in rows), wire=wire) for i, rows in volumes
        )
        return cls(
            ModelRef.of(graph),
            tuple(devices),
            made,
            Head(head),
            InputSpec(input_dtype),
            PlannerRef(method, seed, dict(settings or {})),
            dict(predicted or {}),
        )

    def with_rows(self) -> Strategy:
        """The same where pictures travel as rows of pixels, whatever file they are in."""
        return self.replace(input=InputSpec(self.input.element_dtype), predicted={}) if self.input.file else self

    def replace(self, **changes: Any) -> Strategy:
        """A copy with some fields changed."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return Strategy(**{**fields, **changes})

    def to_json(self) -> str:
        """The file's text: sorted as in the format's description, same bytes for the same strategy."""
        content = {
            "format": FORMAT,
            "model": {key: value for key, value in _plain(self.model).items() if (key, value) != ("exact", True)},
            "devices": list(self.devices),
            "volumes": [_plain(v) for v in self.volumes],
            "head": _plain(self.head),
            "input": {key: value for key, value in _plain(self.input).items() if value},
            "planner": {
                "method": self.planner.method,
                "seed": self.planner.seed,
                "settings": dict(sorted(self.planner.settings.items())),
            },
            "predicted": dict(sorted(self.predicted.items())),
        }
        return json.dumps(content, indent=1, allow_nan=False) + "\n"

    def save(self, path: str | Path) -> None:
        """Writes the strategy file whole, so that nobody ever finds half of one, or into a pipe or a device.

        Raises:
            FileError: if it cannot be written.
        """
        try:
            write(path, self.to_json())
        except OSError as error:
            raise FileError(f"{path}: cannot write the strategy: {error.strerror or error}") from error

    @classmethod
    def load(cls, path: str | Path) -> Strategy:
        """Reads a strategy file.

        Raises:
            FileError: if it cannot be read or is not JSON.
            StrategyError: if a field is wrong.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FileError(f"{path}: cannot read the strategy: {getattr(error, 'strerror', None) or error}") from error
        return cls.from_json(text, str(path))

    @classmethod
    def from_json(cls, text: str, source: str = "strategy") -> Strategy:
        """Parses the text of a strategy file; `source` names it in errors.

        Raises:
            StrategyError: naming the field that is wrong.
        """
        content: Any = decode_json(text, object, source, StrategyError)
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        if found != FORMAT:
            raise StrategyError(located(source, "format", found, repr(FORMAT)))
        parsed = convert(content, StrategyFile, source, StrategyError)
        return cls(
            ModelRef(parsed.model.name, parsed.model.topology, parsed.model.input_shape, parsed.model.exact),
            parsed.devices,
            tuple(Volume(**{f: getattr(v, f) for f in v.__struct_fields__}) for v in parsed.volumes),
            Head(parsed.head.device, parsed.head.split),
            InputSpec(parsed.input.dtype, parsed.input.file_bytes, parsed.input.file_pixels),
            PlannerRef(parsed.planner.method, parsed.planner.seed, parsed.planner.settings),
            parsed.predicted,
            source,
        )


Name = Annotated[str, Meta(min_length=1)]
Count = Annotated[int, Meta(ge=0)]
CutPoints = Annotated[tuple[Count, ...], Meta(min_length=2)]
if TYPE_CHECKING:
    VolumeWire: TypeAlias = str
    InputDtype: TypeAlias = str
else:
    VolumeWire = Literal[VOLUME_WIRES]
    InputDtype = Literal[INPUT_DTYPES]


class _FileModel(Struct, forbid_unknown_fields=True):
    name: Name
    topology: Annotated[str, Meta(pattern="^sha256:[0-9a-f]{64}$")]
    input_shape: tuple[Count, ...]
    exact: bool = True


class _FileVolume(Struct, forbid_unknown_fields=True):
    ends_at: Annotated[tuple[Name, ...], Meta(min_length=1)]
    reference: Name
    rows: CutPoints
    columns: CutPoints | None = None
    split: Literal["rows", "out_channels", "in_channels"] = "rows"
    wire: VolumeWire = "float32"
    boundary_first: bool = False


class _FileHead(Struct, forbid_unknown_fields=True):
    device: Name
    split: Literal["whole", "out_channels"] = "whole"


class _FileInput(Struct, forbid_unknown_fields=True):
    dtype: InputDtype = "float32"
    file_bytes: Count = 0
    file_pixels: Count = 0


class _FilePlanner(Struct, forbid_unknown_fields=True):
    method: Name = "manual"
    seed: int = 0
    settings: dict[str, Any] = {}


class StrategyFile(Struct, forbid_unknown_fields=True):
    """A strategy as it stands in its file."""

    format: Literal["distredge.strategy/1"]
    model: _FileModel
    devices: Annotated[tuple[Name, ...], Meta(min_length=1)]
    volumes: Annotated[tuple[_FileVolume, ...], Meta(min_length=1)]
    head: _FileHead
    input: _FileInput = msgspec.field(default_factory=_FileInput)
    planner: _FilePlanner = msgspec.field(default_factory=_FilePlanner)
    predicted: dict[str, float] = {}


def _cuts_of(graph: Graph) -> tuple[Cut, ...]:
    """The graph's cuts.

    Raises:
        UnsupportedModel: if it has none.
    """
    if not graph.cuts:
        first = graph.operators[0]
        raise UnsupportedModel(
            f"{graph.name}: no operator can be split by rows, so no strategy can run it "
            f"('{first.name}': {graph.body.verdicts[0].reason})"
        )
    return graph.cuts


def _plain(item: Any) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name in item.__dataclass_fields__
        for value in (getattr(item, name),)
    }
