"""The requester's side: prepares plans on workers, sends frames, gets results.

A coordinator has a thread of its own (`io_loop`), which owns the sockets: heartbeats, leases, deadlines and results do
not wait for the caller. The caller's thread prepares inputs and waits. `async_coordinator` is the same for asyncio.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from distredge.device_sample import DeviceSample
from distredge.errors import ConfigError, ExecutionError, MediaError, located
from distredge.runtime.buffers import Array
from distredge.runtime.picture_files import FileInputs
from distredge.runtime.protocol.addresses import WorkerAddress
from distredge.runtime.protocol.transport import Network
from distredge.runtime.requester.io_loop import Call
from distredge.runtime.requester.leases import this_holder
from distredge.runtime.requester.open_plans import Prepared
from distredge.runtime.requester.pending import FrameResult, Given, Offered, Pending, RanAs, Request
from distredge.runtime.requester.picture_frames import PictureResult, offer, picture_results
from distredge.runtime.requester.runner import Options, Runner
from distredge.runtime.requester.streaming import Stream

if TYPE_CHECKING:
    from pathlib import Path

    from distredge.media.pictures import Picture
    from distredge.runtime.deployment import Deployment
    from distredge.timeline import Timeline

CONNECT_S: Final = 5.0
"""Within which workers must be reached."""

PATIENCE_S: Final = 30.0
"""How long a worker may be silent while it prepares a plan."""

DEADLINE_S: Final = 10.0
"""Within which a frame ends, one way or the other."""


class Coordinator:
    """Runs frames on workers. Any thread may call any method.

    Args:
        network: makes sockets; stays open when the coordinator closes.
        workers: where the workers are.
        deadline_s: within which a frame ends, one way or the other.
        connect_s: within which workers must be reached.
        patience_s: how long a worker may be silent while it prepares a plan.
        replan: asked, with the names of the workers that are lost, for a deployment on those that are left; frames in
            flight are then run again there. Without it they end with an error, and the next frame waits for the lost
            ones to come back. Called in a thread of its own.
        holder: who holds the workers, for others to read; None: this user, host, process and command.
        take_over: whether workers are taken that somebody else holds.
        gone: asked why a worker of this name never comes back; None where it may. Called in a thread of its own; it
            does not wait. Without it any worker may come back.
    """

    def __init__(
        self,
        network: Network,
        workers: Iterable[WorkerAddress],
        *,
        deadline_s: float = DEADLINE_S,
        connect_s: float = CONNECT_S,
        patience_s: float = PATIENCE_S,
        replan: Callable[[frozenset[str]], Deployment] | None = None,
        holder: str | None = None,
        take_over: bool = False,
        gone: Callable[[str], str | None] | None = None,
    ) -> None:
        self._deadline_s = deadline_s
        self._replans = replan is not None
        name = this_holder() if holder is None else holder
        options = Options(deadline_s, connect_s, patience_s, replan, name, take_over, gone)
        self._runner = Runner(network, workers, options)
        self._runner.loop.start()

    def __enter__(self) -> Coordinator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def dropped(self) -> Counter[str]:
        """Messages that were dropped, by reason."""
        # Copied at once: the other thread goes on counting.
        return Counter(dict(self._runner.frames.dropped)) + Counter(dict(self._runner.workers.dropped))

    @property
    def last_latency_s(self) -> float | None:
        """Seconds from the start of the frame that ended well last to its last output; None before the first."""
        return self._runner.frames.last_latency_s

    @property
    def waits_for(self) -> tuple[str, ...]:
        """The workers that are to be reached and do not stand yet, each with its address and what is known of why."""
        return self._runner.workers.waited_for()

    @property
    def weights_sent_bytes(self) -> int:
        """Bytes of constants that workers lacked and were sent, since this coordinator was made."""
        return self._runner.plans.weights_sent_bytes

    @property
    def prepares(self) -> tuple[str, ...]:
        """The workers that load sub-models, each with how many of them it has loaded."""
        return self._runner.plans.loading()

    @property
    def dynamic_volumes(self) -> int:
        """Volumes of which some worker has a sub-model with dynamic rows, of the plans that `volumes` counts."""
        return sum(plan.dynamic_volumes for plan in self._runner.plans.for_some_frames)

    @property
    def volumes(self) -> int:
        """Volumes of the plan that runs; with several (`deploy_also`), of all of them together."""
        return sum(len(plan.deployment.strategy.volumes) for plan in self._runner.plans.for_some_frames)

    def takes_dynamic_rows(self, worker: str) -> bool:
        """Whether a worker is given sub-models whose row axes are dynamic, as far as it has ever said; by its name."""
        return self._runner.workers[worker].dynamic_rows

    def decodes_files(self, worker: str) -> bool:
        """Whether a worker can be sent pictures in their files, as far as it has ever said; by its name."""
        about = self._runner.workers[worker].about
        return about is None or bool(about.pillow)

    @property
    def prepared_s(self) -> float | None:
        """Seconds that preparing the plan took that runs, its workers reached; None before there is one.

        With several (`deploy_also`), of all of them together.
        """
        found = [plan.prepared_s for plan in self._runner.plans.for_some_frames if plan.prepared_s is not None]
        return sum(found) if found else None

    @property
    def prepared(self) -> dict[str, Prepared]:
        """What preparing the plan took that runs, by worker; with several (`deploy_also`), all of them together."""
        found: dict[str, Prepared] = {}
        for plan in self._runner.plans.for_some_frames:
            for name, prepared in tuple(plan.prepared.items()):
                found[name] = found.get(name, Prepared()) + prepared
        return found

    @property
    def prepared_ever(self) -> dict[str, Prepared]:
        """What preparing took since this coordinator was made, by worker: all plans together, those given up too."""
        return dict(self._runner.plans.prepared)

    def took_s(self, deployment: Deployment) -> float | None:
        """Seconds that it took until frames could run on a deployment, its workers reached; None if none ever could."""
        return self._runner.plans.stood.get(deployment)

    # Plans.

    def deploy(self, deployment: Deployment, in_flight: int = 1) -> None:
        """Prepares a deployment on its workers and runs frames on it from then on.

        Frames in flight under the plan before it come to their end there.

        Args:
            deployment: what to run.
            in_flight: how many frames may be in flight.

        Raises:
            PeerTimeout: if a worker cannot be reached or goes silent.
            WorkerHeld: if somebody else holds a worker.
            AuthError, ProtocolError, EngineError: what a worker refuses, with its name.
        """
        self._write(deployment)
        self._runner.loop.call(self._runner.deploy(deployment, in_flight))

    def deploy_beside(self, deployment: Deployment, in_flight: int = 1) -> None:
        """Begins to prepare a deployment while frames go on; the first frame after it is ready runs on it.

        What goes wrong meanwhile leaves the plan that runs in place and is in `beside_error`. A plan that somebody
        waits for, after a loss or in `deploy`, is prepared first; what `deploy` prepares takes the place of this one.
        """
        self._write(deployment)
        self._runner.loop.call(self._runner.deploy_beside(deployment, in_flight))

    def deploy_also(self, deployment: Deployment) -> None:
        """Prepares a deployment that stands beside the others: frames that name it run on it.

        Of each deployment as many frames may be in flight as of the one that `deploy` prepared, which comes first; that
        is also the limit for all together. A worker that is lost comes back to all of them, as to that one.

        Raises:
            ConfigError: if the coordinator plans anew: `replan` knows one deployment.
            PeerTimeout: as for `deploy`, and the errors after it.
        """
        if self._replans:
            raise ConfigError("deploy_also: found a coordinator that plans anew (replan), accepted: one that does not")
        self._write(deployment)
        self._runner.loop.call(self._runner.deploy_also(deployment))

    def _write(self, deployment: Deployment) -> None:
        """Writes sub-models with dynamic rows for the workers that are known to take them.

        Here, and not where they are sent: frames that are in flight wait for the thread that sends.
        """
        for index in deployment.busy:
            name = deployment.devices[index]
            if name in self._runner.workers and self.takes_dynamic_rows(name):
                deployment.program(index, dynamic_rows=True)

    @property
    def beside_error(self) -> ExecutionError | None:
        """Why the plan that is being prepared beside the active one cannot run; None while it may."""
        return self._runner.beside_error

    @property
    def deployment(self) -> Deployment:
        """What frames run on.

        Raises:
            ExecutionError: if nothing is deployed.
        """
        deployment = self._runner.current
        if deployment is None:
            raise ExecutionError("nothing is deployed: call deploy first")
        return deployment

    # Frames.

    def infer(
        self, inputs: Mapping[str, Array], deadline_s: float | None = None, on: Deployment | None = None
    ) -> dict[str, Array]:
        """Runs one frame.

        Args:
            inputs: tensor name -> array, shape as in the graph, such as (N, C, H, W), dtype as in
                `Deployment.input_dtypes`; nobody may write them meanwhile.
            deadline_s: for this frame; the coordinator's own by default.
            on: the deployment to run it on, one that stands (`deploy_also`); None: the one that frames run on.

        Returns:
            Output name -> array, shape, such as (N, classes), and dtype as in the graph.

        Raises:
            ModelError: if the inputs do not fit the graph.
            PeerTimeout: if it has not ended within its deadline, or a worker is lost.
            EngineError, TransportError: what a worker reported.
        """
        pending = self.submit_when(inputs, deadline_s, copied=False, on=on)
        assert pending is not None
        return pending.result()

    def submit(self, inputs: Mapping[str, Array], deadline_s: float | None = None) -> Pending:
        """Starts a frame, once there is room for one more.

        Inputs, such as (N, C, H, W), and errors as for `infer`, but that the caller may write the next frame into the
        same arrays at once.
        """
        pending = self.submit_when(inputs, deadline_s)
        assert pending is not None
        return pending

    def submit_when(
        self,
        inputs: Mapping[str, Array],
        deadline_s: float | None = None,
        wanted: Callable[[], bool] = lambda: True,
        *,
        copied: bool = True,
        on: Deployment | None = None,
    ) -> Pending | None:
        """Starts a frame, unless it is no longer wanted when there is room: None then.

        Args:
            inputs: such as (N, C, H, W), as for `infer`.
            deadline_s: for this frame.
            wanted: asked whenever `look` is called meanwhile.
            copied: whether the inputs are copied, since the caller may write into them.
            on: the deployment to run it on, as for `infer`.
        """
        runner = self._runner
        asked_s = time.monotonic()
        limit_s = self._deadline_s if deadline_s is None else deadline_s
        self._check_runs()
        deployment = self.deployment if on is None else on
        arrays = deployment.check_inputs(inputs)
        if copied and not isinstance(arrays, FileInputs):
            # It may be packed, or run again, after the caller has gone on; what was converted is a copy already.
            arrays = {name: a.copy() if a is inputs[name] else a for name, a in arrays.items()}
        until_s = asked_s + limit_s
        if not runner.frames.room.take(limit_s, until_s, wanted):
            return None
        pending = Pending()
        runner.submit(Request(pending, arrays, deployment, time.monotonic_ns(), until_s, limit_s, on=on))
        return pending

    @property
    def in_flight(self) -> int:
        """How many frames may be in flight."""
        return self._runner.frames.room.limit

    def look(self) -> None:
        """Lets those who wait in `submit_when` ask whether their frames are still wanted."""
        self._runner.frames.room.look()

    def stands(self, on: Deployment) -> bool:
        """Whether frames that name this deployment can begin now, as far as is known: none of its workers is lost."""
        plan = self._runner.plans.for_frames(on)
        return plan is not None and plan.error is None

    def over(self) -> ExecutionError | None:
        """Why no frame can come through any more, until something is deployed again; None where one may.

        The coordinator is closed, somebody else has taken a worker, a worker refuses its plan or never comes back and
        nothing can be planned without it, or every worker has been away for as long as they may take to be reached.
        """
        runner = self._runner
        return runner.loop.closed or runner.refusal or runner.over()

    def _check_runs(self) -> None:
        refusal = self._runner.loop.closed or self._runner.refusal
        if refusal is not None:
            raise refusal

    def stream(self, frames: Iterable[Given], deadline_s: float | None = None) -> Generator[FrameResult, None, None]:
        """Runs frames with as many in flight as the plan allows; yields how each ended, in order, as soon as it has.

        The source is iterated in a thread of its own. A frame that fails, because its inputs do not fit, or at its
        deadline, or with an engine's error, is a named failure in its place, and the stream goes on. What the source
        itself raises is raised in its place; so is, once no frame can come through any more, why that is (`over`).

        Args:
            frames: the inputs of each, such as (N, C, H, W), as for `submit`; or `Offered`, with a tag.
            deadline_s: for each of them.
        """
        return iter(Stream(self, frames, deadline_s))

    def stream_images(
        self,
        pictures: Iterable[str | Path | Picture],
        deadline_s: float | None = None,
        *,
        keep_pixels: bool = False,
    ) -> Generator[PictureResult, None, None]:
        """Runs pictures as `stream` runs frames; one that cannot be read fails by name in its place.

        Args:
            pictures: files to be read, or pictures (`distredge.media.pictures`). They are read and resized beside
                inference, and only ahead of what is in flight.
            deadline_s: for each of them.
            keep_pixels: whether results hold the pixels of their pictures, which may be many times what is sent.

        Raises:
            MediaError: if a name stands where several are wanted.
            ModelError: if the model does not say how a picture becomes its input.
            ExecutionError: if nothing is deployed.
        """
        return picture_results(self.stream(self.offer(pictures, keep_pixels), deadline_s))

    def offer(self, pictures: Iterable[str | Path | Picture], keep_pixels: bool) -> Iterator[Offered]:
        """Returns pictures as frames of a `stream`, read and resized one by one as they are taken.

        Args:
            pictures: as for `stream_images`.
            keep_pixels: likewise.

        Raises:
            MediaError, ModelError, ExecutionError: as `stream_images`.
        """
        if isinstance(pictures, (str, bytes, os.PathLike)):
            accepted = "several names, such as [name], or pathlib.Path(folder).iterdir()"
            raise MediaError(located("stream_images", "pictures", pictures, accepted))
        return offer(lambda: self.deployment, pictures, keep_pixels)

    # Looking back.

    def timeline(self, frames: int = 1, on: Deployment | None = None) -> Timeline:
        """What happened in the latest frames that ended well, in one clock.

        Args:
            frames: how many.
            on: the deployment that they named; None: the one that frames run on.

        Raises:
            ExecutionError: if there is none.
            PeerTimeout: if a worker does not answer.
        """
        return self._runner.loop.call(self._runner.timeline(frames, on))

    def timeline_of(self, ran_as: RanAs) -> Call[Timeline]:
        """Begins to ask what happened in one frame that ended well; `wait` of what it returns gives it.

        Workers keep some thousand records: ask soon after the frame has ended.

        Args:
            ran_as: of its `FrameResult` or `Pending`.
        """
        return self._runner.loop.leave(self._runner.timeline_of(ran_as))

    # Watching.

    def ask_workers(self) -> None:
        """Asks workers how they are, without waiting; those that said so in the latest second are not asked again."""
        self._runner.ask_workers()

    def samples(self) -> tuple[DeviceSample, ...]:
        """How the workers were when they said so last, those that did, in the order of their addresses."""
        return self._runner.workers.samples()

    def close(self) -> None:
        """Says goodbye to the workers; frames in flight end with an error."""
        self._runner.loop.stop()
        self._runner.frames.room.look()
