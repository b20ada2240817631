"""The executor: how near real workers come to what two cores, the bytes and bare sockets allow, and what frames cost.

    python experiments/bench/executor.py [--quick] [--only PART ...]

Workers are processes, pinned to a core each, with ONNX Runtime and one thread; float32, batch 1, models of the zoo with
seeded weights. On two cores the requester shares them with the workers and goes where the system puts it; on more it
has the others for itself. Other programs disturb: whatever is compared runs in turn, in short phases of one run, and
medians are compared with medians; `best` in brackets compares the fastest frames.

    vgg16_conv, vgg16, resnet50, mobilenet_v2
        `speedup_*_2`: one core's latency over that of two workers; one core is the faster of a single worker and ONNX
        Runtime alone. The strategy is the fastest when tried: the planner's for this machine (by the profile in
        experiments/results/fidelity/), without and with what others wait for computed first, and halves of the rows in
        1, 3, 5 and 8 volumes. `both_cores_ratio` is how much of its speed a core keeps while the other one computes as
        well: twice that is the most that two can reach. VGG-16's convolutions end at its last pool; `_over_bound` sets
        the whole model's speedup against its head on one core and its convolutions 1.75 times as fast, by what ONNX
        Runtime takes for both in the same rounds.
        `overhead_*` is the part of the latency beyond the critical path of measured computing, and of bytes at raw
        TCP's rate of the same rounds (experiments/common/executor_path.py). `mobilenet_v2_auto_devices`: what `auto`
        would use of two workers. With `_curve`: under CURVE.
    messages
        `message_us`: processor time of all threads at both ends, per message, mean of 1 kB, 16 kB and 128 kB; the
        caches are filled before each message, as computing fills them. `message_over_bare`: against the same frames
        through a pair of pyzmq sockets that does nothing with them, whose caches are filled likewise.
    wire
        `wire_over_tcp`: rate of 3.2 MB rows, one message at a time, from the beginning of packing until they are placed
        at another worker, over raw TCP's between two such processes; `wire_over_curve`: under CURVE, over a bare pair's
        with CURVE.
    round_trip
        `round_trip_us_p50`: four bytes to the data port of a worker and back; `round_trip_over_bare`: over a bare
        pair's.
    streaming
        `streaming_over_bound`: frames per second with four in flight over what the busiest worker would do if it only
        computed, for as long as it does with one frame at a time; the worse of VGG-16 and MobileNet-V2.
    swap
        `swap_s_vgg16`: from asking for another strategy beside a running stream until the first frame begins on it, the
        median; `swap_delay_frames`: the longest that a frame or a result was held up, in times between two results;
        `frames_lost`.
    memory
        `memory_growth`: of requester or worker, whichever grew most, over 20 000 frames (4000 with --quick) of a small
        model under CURVE, after it has settled; 0.02 is 2 %.

`others_share` is what other programs used of these cores meanwhile. Prints a table and ends with one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from distredge.experiments.common.executor_messages import WORKER_PARTS, large_rows, processor_time, round_trips
from distredge.experiments.common.executor_models import Effort, measure_case
from distredge.experiments.common.executor_plain import CASES, model
from distredge.experiments.common.executor_streams import memory_growth, streaming, swaps
from distredge.experiments.common.executor_workers import Figure, Others, own_cores, pin_process
from distredge.latency.kernel.kernel import warm
from distredge.runtime.hosting.message_costs import SIZES

ASKED: Final = 1.75
"""The speedup of VGG-16's convolutions that the whole model's bound supposes."""

SMALL_SIZES: Final = 3
"""Of the sizes of messages those whose cost is not that of their bytes, which `wire` measures."""

QUIET: Final = 0.02
"""Share of the cores that other programs may use without much harm."""

MARKS: Final = {"two": "", "two_curve": "_curve"}


class Settings(NamedTuple):
    """How much is measured."""

    effort: Effort
    message_rounds: int
    message_s: float
    wire_rounds: int
    trip_rounds: int
    stream_rounds: int
    stream_s: float
    swaps: int
    settling: int
    many: int


QUICK: Final = Settings(Effort(5, 0.45, 4), 2, 1.0, 3, 3, 4, 0.8, 2, 2500, 4000)
FULL: Final = Settings(Effort(10, 2.0, 15), 8, 2.0, 10, 10, 6, 4.0, 6, 2500, 20000)

Figures = dict[str, object]


class Lines:
    """What was found: prints a line for each figure as it comes."""

    def __init__(self) -> None:
        self.figures: Figures = {}

    def add(self, key: str, value: float, note: str = "") -> None:
        """One figure of the JSON object."""
        self.figures[key] = round(value, 5)
        print(f"{key:<36} {value:>10.4g}  {note}", flush=True)

    def also(self, key: str, value: object) -> None:
        """One that has no line of its own."""
        self.figures[key] = value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under four minutes")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    options = parser.parse_args()
    settings = QUICK if options.quick else FULL
    cores = own_cores()
    shares = "shares the workers' cores" if cores.shared else f"has the cores {cores.requester} for itself"
    print(f"workers on the cores {cores.workers}; the requester {shares}")
    if set(options.only) & {*CASES, "streaming"}:
        warm()
    lines = Lines()
    others = Others(cores.all)
    began_s = time.monotonic()
    for name in options.only:
        # Both ends of `message_costs` start where this process may be.
        pin_process(os.getpid(), cores.all if name == "messages" else cores.requester)
        if name in CASES:
            models(name, settings, lines)
        else:
            OTHERS[name](settings, lines)
    share = others.share()
    lines.add("others_share", share, "of the cores for other programs: they disturb" if share > QUIET else "")
    lines.also("cores", len(cores.all))
    lines.also("requester_shares_cores", cores.shared)
    lines.also("seconds", round(time.monotonic() - began_s, 1))
    print(json.dumps(lines.figures))
    return 0


def models(name: str, settings: Settings, lines: Lines) -> None:
    """One model on one core and on two workers."""
    found = measure_case(CASES[name], settings.effort)
    figures = {key: found.figure(key) for key in found.seconds}
    each = ", ".join(f"{key} {1e3 * figure.median:.2f} ({1e3 * figure.best:.2f})" for key, figure in figures.items())
    print(f"{name}: ms, median (best): {each}; {found.chosen}; raw TCP {found.tcp_bytes_per_s / 1e9:.2f} GB/s")
    print(f"{name}: tried: " + ", ".join(f"{key} {1e3 * seconds:.2f} ms" for key, seconds in found.tried.items()))
    for key, mark in MARKS.items():
        speedup = found.speedup(key)
        lines.add(f"speedup_{name}_2{mark}", speedup.median, f"best {speedup.best:.3f}")
        lines.also(f"speedup_{name}_2_best{mark}", round(speedup.best, 5))
        if CASES[name].before_head:
            bound = found.speedup_bound(ASKED)
            lines.add(
                f"speedup_{name}_2_over_bound{mark}",
                speedup.median / bound,
                f"bound {bound:.3f}, best {speedup.best / bound:.3f}",
            )
        shares = Figure.of(found.overheads[key])
        path_ms = 1e3 * found.figure(key).best * (1 - shares.best)
        lines.add(
            f"overhead_{name}{mark}", shares.median, f"best {shares.best:.3f}, critical path about {path_ms:.2f} ms"
        )
    lines.add(f"both_cores_ratio_{name}", found.both_cores_ratio, f"two cores reach {2 * found.both_cores_ratio:.3f}")
    lines.add(f"{name}_auto_devices", found.auto_devices)
    lines.also(f"{name}_strategy", found.chosen)


def messages(settings: Settings, lines: Lines) -> None:
    """Processor time of messages."""
    for mark, encrypted in (("", False), ("_curve", True)):
        found = processor_time(encrypted, settings.message_rounds, settings.message_s)
        frames_s = {who: [statistics.median(rounds) for rounds in sizes] for who, sizes in found.items()}
        small_s = {who: sum(sizes[:SMALL_SIZES]) for who, sizes in frames_s.items()}
        ratios = {
            f"{4 * 64 * rows * columns}": round(worker_s / bare_s, 3)
            for (rows, columns), worker_s, bare_s in zip(SIZES, frames_s["worker"], frames_s["bare"], strict=True)
        }
        each_us = {who: 1e6 * seconds / SMALL_SIZES / 2 for who, seconds in small_s.items()}
        parts = ", ".join(f"{part} {each_us[part]:.0f}" for part in WORKER_PARTS)
        lines.add(f"message_us{mark}", each_us["worker"], f"{parts}; bare {each_us['bare']:.0f}")
        by_size = ", ".join(f"{int(size) / 1000:.0f} kB {ratio:.2f}" for size, ratio in ratios.items())
        lines.add(f"message_over_bare{mark}", small_s["worker"] / small_s["bare"], by_size)
        lines.also(f"message_over_bare_by_bytes{mark}", ratios)


def wire(settings: Settings, lines: Lines) -> None:
    """The rate of large rows."""
    figures = figures_of(large_rows(settings.wire_rounds, 20))
    for key, ours, other in (
        ("wire_over_tcp", "rows", "tcp"),
        ("wire_over_curve", "rows_curve", "zmq_curve"),
        ("wire_over_zmq", "rows", "zmq"),
    ):
        ratio = figures[other].median / figures[ours].median
        note = f"{1e3 * figures[ours].median:.2f} ms, {other} {1e3 * figures[other].median:.2f} ms"
        lines.add(key, ratio, f"best {figures[other].best / figures[ours].best:.3f}; {note}")


def round_trip(settings: Settings, lines: Lines) -> None:
    """Small messages there and back."""
    figures = figures_of(round_trips(settings.trip_rounds, 200))
    for mark in ("", "_curve"):
        ours, bare = figures[f"worker{mark}"], figures[f"bare{mark}"]
        lines.add(f"round_trip_us_p50{mark}", 1e6 * ours.median, f"bare {1e6 * bare.median:.1f}")
        lines.add(f"round_trip_over_bare{mark}", ours.median / bare.median, f"best {ours.best / bare.best:.3f}")


def figures_of(seconds: Mapping[str, Sequence[float]]) -> dict[str, Figure]:
    """Median and best of each way."""
    return {name: Figure.of(found) for name, found in seconds.items()}


def streams(settings: Settings, lines: Lines) -> None:
    """Streams against their bound."""
    found = {name: streaming(name, settings.stream_rounds, settings.stream_s) for name in ("vgg16", "mobilenet_v2")}
    for name, streamed in found.items():
        note = f"{statistics.median(streamed.per_s):.1f} of {1 / statistics.median(streamed.busiest_s):.1f} frames/s"
        lines.add(f"streaming_over_bound_{name}", streamed.over_bound, note)
    lines.add("streaming_over_bound", min(streamed.over_bound for streamed in found.values()))


def swap(settings: Settings, lines: Lines) -> None:
    """A new strategy beside a stream."""
    found = swaps(model("vgg16"), settings.swaps)
    lines.add(
        "swap_s_vgg16", statistics.median(one.live_s for one in found), f"worst {max(s.live_s for s in found):.2f}"
    )
    lines.add("swap_delay_frames", max(one.delay_frames for one in found), f"the worst of {len(found)}")
    lines.add("frames_lost", sum(one.lost for one in found))


def memory(settings: Settings, lines: Lines) -> None:
    """What many frames leave behind."""
    found = memory_growth(settings.settling, settings.many)
    each = ", ".join(f"{name} {100 * growth:.2f} %" for name, growth in found.items())
    lines.add("memory_growth", max(found.values()), f"over {settings.many} frames: {each}")


Part = Callable[[Settings, Lines], None]
OTHERS: Final[dict[str, Part]] = {
    "messages": messages,
    "wire": wire,
    "round_trip": round_trip,
    "streaming": streams,
    "swap": swap,
    "memory": memory,
}
PARTS: Final = (*CASES, *OTHERS)


if __name__ == "__main__":
    sys.exit(main())
