"""From a graph and a strategy to the plans of its devices (`device_plan.DevicePlan`) and of the requester."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from distredge.errors import ModelError, StrategyError
from distredge.media.images import MAX_PIXELS
from distredge.media.jpeg import FileLimits, JpegFile, decoder_mark
from distredge.model.dynamic_segments import DynamicVolumes
from distredge.model.laying_out import lay_out
from distredge.model.layout import Layout, Transfer
from distredge.model.messages_of_layout import messages_of_layout
from distredge.model.operators import region_shape
from distredge.model.preprocess import LARGER_FILES
from distredge.model.rows import Region
from distredge.model.segments import DeviceProgram, build, weight_store
from distredge.model.strips import by_strips
from distredge.model.sub_model import Port
from distredge.model.wires import MAX_FILE_BYTES, RUNNABLE_WIRES, dtype_of, file_fits
from distredge.runtime.buffers import whole
from distredge.runtime.picture_files import FileInputs
from distredge.runtime.protocol.addresses import PeerAddress
from distredge.runtime.protocol.device_plan import (
    REQUESTER,
    Buffer,
    DevicePlan,
    PicturePlan,
    RowMask,
    SegmentPlan,
    ShapeRange,
    SourceMessage,
    TensorBox,
)

if TYPE_CHECKING:
    from distredge.model.graph import Graph
    from distredge.model.nodes import Tensor
    from distredge.runtime.buffers import Array, Outbox
    from distredge.strategy import Strategy


@dataclass(frozen=True, eq=False)
class Deployment:
    """What a strategy means for each device and for the requester.

    Attributes:
        graph, strategy, layout: what it was made from.
        programs: the sub-models of each device, in the strategy's order.
        messages: every message of one frame, and what stays on a device (source == destination).
    """

    graph: Graph
    strategy: Strategy
    layout: Layout
    programs: tuple[DeviceProgram, ...]
    messages: tuple[SourceMessage, ...]

    @functools.cached_property
    def busy(self) -> tuple[int, ...]:
        """Devices that have something to do."""
        return tuple(index for index, program in enumerate(self.programs) if program.segments)

    @property
    def devices(self) -> tuple[str, ...]:
        """Names of the devices in their order."""
        return self.layout.devices

    @functools.cached_property
    def input_messages(self) -> tuple[SourceMessage, ...]:
        """What the requester sends."""
        return tuple(m for m in self.messages if m.source == REQUESTER != m.destination)

    @functools.cached_property
    def output_messages(self) -> tuple[SourceMessage, ...]:
        """What the requester gets."""
        return tuple(m for m in self.messages if m.destination == REQUESTER != m.source)

    @functools.cached_property
    def input_dtypes(self) -> Mapping[str, str]:
        """Element type of each input of the model, as the strategy wants it from the user."""
        return {name: _input_dtype(self.graph, self.strategy, name) for name in self.graph.input_names}

    @functools.cached_property
    def passed_through(self) -> tuple[str, ...]:
        """Outputs of the model that are inputs of it: they never leave the requester."""
        return tuple(name for name in self.graph.output_names if name in self.graph.input_names)

    @functools.cached_property
    def picture(self) -> PicturePlan | None:
        """How a picture's file becomes rows of the input, where one may travel."""
        spec = self.graph.preprocess
        if spec is None or not self.strategy.input.file:
            return None
        return PicturePlan(
            self.graph.input_names[0],
            spec.crop,
            spec.resize or 0,
            spec.layout,
            spec.channels,
            spec.interpolation,
            _most_pixels(self.strategy),
            decoder_mark(),
        )

    @functools.cached_property
    def file_limits(self) -> FileLimits | None:
        """Which pictures' files may travel; None where none may."""
        return file_limits(self.graph, self.strategy)

    def takes_file(self, message: SourceMessage, file: JpegFile) -> bool:
        """Whether a picture's file travels instead of the rows of a message: where it is smaller, and may be decoded.

        Args:
            message: one of `input_messages`.
            file: the picture's.
        """
        return (
            self.picture is not None
            and file.n_pixels <= self.picture.max_pixels
            and file_fits(len(file.content), message.size_bytes)
        )

    @functools.cached_property
    def dynamic_volumes(self) -> DynamicVolumes:
        """The volumes that can be run with dynamic rows."""
        return DynamicVolumes(self.graph, self.layout, dtype_of(self.strategy.input.dtype))

    @functools.cached_property
    def _dynamic_programs(self) -> dict[int, DeviceProgram]:
        return {}

    def program(self, device: int, dynamic_rows: bool = False) -> DeviceProgram:
        """The sub-models of a device; with dynamic rows where they can and it is asked for."""
        if not dynamic_rows:
            return self.programs[device]
        found = self._dynamic_programs
        if device not in found:
            name = self.devices[device]
            found[device] = build(self.graph, self.strategy, name, self.layout, self.dynamic_volumes)
        return found[device]

    def weights(self, device: int, dynamic_rows: bool = False) -> dict[str, Array]:
        """Returns the constants that a device must hold: content hash -> (d0, d1, ...) as in the graph."""
        return weight_store(self.graph, self.program(device, dynamic_rows))

    def models(self, device: int, dynamic_rows: bool = False) -> tuple[bytes, ...]:
        """The sub-models of a device, in stage order."""
        return tuple(segment.model for segment in self.program(device, dynamic_rows).segments)

    def device_plan(
        self,
        device: int,
        plan: int = 0,
        slots: int = 1,
        peers: Iterable[PeerAddress] = (),
        dynamic_rows: bool = False,
    ) -> DevicePlan:
        """Returns the plan of one device.

        Args:
            device: index among `devices`.
            plan: number of the plan.
            slots: frames that may be in flight.
            peers: data addresses, by name, of at least the devices that it sends to.
            dynamic_rows: whether its sub-models have dynamic rows where they can.
        """
        volumes = {stage.index: stage.volume for stage in self.layout.stages}
        by_name = {peer.name: peer for peer in peers}
        outgoing = tuple(m for m in self.messages if m.source == device and m.destination != device)
        receivers = sorted({m.destination for m in outgoing} - {REQUESTER})
        return DevicePlan(
            plan,
            self.graph.name,
            device,
            self.devices,
            slots,
            tuple(
                SegmentPlan(
                    segment.stage,
                    volumes[segment.stage],
                    dict(segment.weights),
                    tuple(self._buffer(port) for port in segment.inputs),
                    tuple(self._buffer(port) for port in segment.outputs),
                    segment.after,
                    tuple(RowMask(*mask) for mask in segment.masks),
                    {name: ShapeRange(*shapes) for name, shapes in segment.ranges.items()},
                )
                for segment in self.program(device, dynamic_rows).segments
            ),
            tuple(m for m in self.messages if m.destination == device and m.source != device),
            outgoing,
            tuple(m for m in self.messages if m.source == m.destination == device),
            {str(i): by_name[self.devices[i]] for i in receivers if self.devices[i] in by_name},
            self.picture if any(m.destination == device for m in self.input_messages) else None,
        )

    def check_inputs(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Returns the inputs as C-ordered arrays of the dtype that the strategy sends.

        A picture that is still in its file (`FileInputs`) stays there where the strategy lets that travel; it is
        decoded where rows of it must be sent as well.

        Args:
            inputs: tensor name -> array, shape as in the graph, such as (N, C, H, W); any dtype that NumPy casts to
                that of `input_dtypes` within its kind.

        Returns:
            The same with the dtypes of `input_dtypes`; the given arrays themselves where nothing had to change.

        Raises:
            ModelError: if a name, a shape or a dtype is not the model's.
            MediaError: if a picture must be decoded and is damaged.
        """
        if isinstance(inputs, FileInputs) and self.strategy.input.file and inputs.preprocess == self.graph.preprocess:
            if not all(self.takes_file(message, inputs.file) for message in self.input_messages):
                inputs[inputs.name]
            return inputs
        if isinstance(inputs, FileInputs) and not self.strategy.input.pixels:
            inputs = {name: inputs.preprocess.normalise(rows) for name, rows in inputs.items()}
        found: dict[str, Array] = {}
        unknown = sorted(set(inputs) - set(self.graph.input_names))
        if unknown:
            raise ModelError(
                f"{self.graph.name}: no input '{unknown[0]}'; accepted: {', '.join(self.graph.input_names)}"
            )
        for name in self.graph.input_names:
            shape, dtype = self.graph.tensors[name].shape, np.dtype(self.input_dtypes[name])
            if name not in inputs:
                raise ModelError(f"{self.graph.name}: input '{name}' of shape {shape} is missing")
            array = np.asarray(inputs[name])
            if array.shape != shape:
                raise ModelError(f"{self.graph.name}: input '{name}': found shape {array.shape}, accepted: {shape}")
            if not np.can_cast(array.dtype, dtype, casting="same_kind"):
                hint = f" (the strategy sends pixels as {dtype})" if self.strategy.input.pixels else ""
                raise ModelError(
                    f"{self.graph.name}: input '{name}': found dtype {array.dtype}, accepted: {dtype}{hint}"
                )
            # Not `ascontiguousarray`, which makes a number a vector.
            found[name] = np.asarray(array, dtype=dtype, order="C")
        return found

    def empty_outputs(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns arrays for the outputs of one frame; what is an input of the model as well is filled in already.

        Args:
            inputs: what `check_inputs` returned.

        Returns:
            Output name -> array, shape, such as (N, classes), and dtype as in the graph; zeros elsewhere.
        """
        tensors = self.graph.tensors
        return {
            name: inputs[name].copy()
            if name in self.passed_through
            else np.zeros(tensors[name].shape, tensors[name].dtype)
            for name in self.graph.output_names
        }

    def _buffer(self, port: Port) -> Buffer:
        tensor = self.layout.tensors[port.tensor]
        return Buffer(port.name, port.tensor, _corner(tensor, port.region), port.shape, port.dtype)


def fill(outbox: Outbox, deployment: Deployment, inputs: Mapping[str, Array]) -> None:
    """Lets an outbox of the requester send one frame's inputs from now on.

    Args:
        outbox: of one of the deployment's `input_messages`.
        deployment: whose inputs they are.
        inputs: what `check_inputs` returned, such as (N, C, H, W).
    """
    if isinstance(inputs, FileInputs) and deployment.takes_file(outbox.message, inputs.file):
        outbox.take_file(inputs.file.content)
    else:
        outbox.take_from([whole(inputs[box.tensor]) for box in outbox.message.boxes])


def file_limits(graph: Graph, strategy: Strategy) -> FileLimits | None:
    """Returns which pictures' files may travel to some device; None where none may."""
    if graph.preprocess is None or not strategy.input.file:
        return None
    return FileLimits(min(MAX_FILE_BYTES, math.prod(graph.preprocess.shape) - 1), _most_pixels(strategy))


def _most_pixels(strategy: Strategy) -> int:
    return min(MAX_PIXELS, LARGER_FILES * strategy.input.file_pixels)


def workers_of(deployments: Iterable[Deployment]) -> tuple[str, ...]:
    """Returns the devices that have something to do in one of several deployments, each once."""
    return tuple(dict.fromkeys(d.devices[i] for d in deployments for i in d.busy))


def deploy(graph: Graph, strategy: Strategy) -> Deployment:
    """Works out what every device has to do.

    Raises:
        StrategyError: if the strategy does not fit the graph or asks for what this version cannot run.
    """
    strategy.check_model(graph)
    layout = lay_out(graph, strategy)
    _check_runnable(strategy)
    layout = by_strips(graph, layout)
    programs = tuple(build(graph, strategy, name, layout) for name in layout.devices)
    links = tuple(
        SourceMessage(
            stage,
            source,
            destination,
            tuple(_piece(graph, strategy, layout, transfer) for transfer in transfers),
            tuple(transfer.produced for transfer in transfers),
        )
        for (stage, source, destination), transfers in messages_of_layout(layout).items()
    )
    return Deployment(graph, strategy, layout, programs, links)


def _check_runnable(strategy: Strategy) -> None:
    for index, volume in enumerate(strategy.volumes):
        if volume.wire not in RUNNABLE_WIRES:
            raise StrategyError(
                f"{strategy.source}: volumes[{index}].wire: found '{volume.wire}', "
                f"accepted: {' or '.join(map(repr, RUNNABLE_WIRES))} (what this version can run)"
            )


def _piece(graph: Graph, strategy: Strategy, layout: Layout, transfer: Transfer) -> TensorBox:
    tensor = layout.tensors[transfer.tensor]
    if transfer.tensor in graph.input_names:
        dtype = strategy.input.dtype if strategy.input.pixels else tensor.dtype
    elif transfer.local or tensor.dtype != "float32":
        dtype = tensor.dtype
    else:
        dtype = transfer.wire
    return TensorBox(transfer.tensor, _corner(tensor, transfer.region), region_shape(tensor, transfer.region), dtype)


def _input_dtype(graph: Graph, strategy: Strategy, name: str) -> str:
    return strategy.input.element_dtype if strategy.input.pixels else graph.tensors[name].dtype


def _corner(tensor: Tensor, region: Region) -> tuple[int, ...]:
    """Where a region starts, on every axis of its tensor."""
    return tuple(
        region.rows.start
        if axis == tensor.row_axis
        else (region.cols.start if axis == tensor.col_axis and region.cols is not None else 0)
        for axis in range(len(tensor.shape))
    )
