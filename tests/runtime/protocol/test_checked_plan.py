"""Plans as they are made contradict nothing; every contradiction has a name."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from distredge.errors import ProtocolError
from distredge.runtime.deployment import deploy
from distredge.runtime.protocol.addresses import PeerAddress
from distredge.runtime.protocol.checked_plan import check_peer, check_plan
from distredge.runtime.protocol.device_plan import (
    Buffer,
    DevicePlan,
    PicturePlan,
    SegmentPlan,
    SourceMessage,
    TensorBox,
)
from tests.runtime.conftest import make_strategy

KEY = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
IN, MID, OUT = (Buffer(name, name, (0,), (4,), "float32") for name in ("in", "mid", "out"))


def _message(stage: int, source: int, destination: int, tensor: str, made_in: int = 0, **changes: Any) -> SourceMessage:
    box = replace(TensorBox(tensor, (1,), (2,), "float32"), **changes)
    return SourceMessage(stage, source, destination, (box,), (made_in,))


PLAN = DevicePlan(
    5, "g", 1, ("a", "b", "c"), 2,
    (SegmentPlan(0, 0, {}, (IN,), (MID,)), SegmentPlan(2, 1, {}, (MID,), (OUT,)),
     SegmentPlan(3, 1, {}, (MID,), (OUT,), after=2)),
    (_message(0, -1, 1, "in", -1), _message(2, 0, 1, "mid")),
    (_message(2, 1, 2, "mid"), _message(4, 1, -1, "out", 2)),
    (_message(2, 1, 1, "mid"),),
    {"2": PeerAddress("c", "tcp://10.0.0.3:5701", KEY)},
)  # fmt: skip


def test_a_plan_that_fits_is_taken() -> None:
    check_plan(PLAN)


@pytest.mark.parametrize("shares", [[(2, 1, 1), (1, 1, 2)], [(0, 1, 1), (1, 0, 0)], [(1, 1, 1)] * 3, [(1, 0, 0)]])
@pytest.mark.parametrize("boundary_first", [False, True])
def test_plans_of_real_strategies_are_taken(graph, shares, boundary_first: bool) -> None:
    from dataclasses import replace as changed

    strategy = make_strategy(graph, shares)
    strategy = strategy.replace(volumes=tuple(changed(v, boundary_first=boundary_first) for v in strategy.volumes))
    deployment = deploy(graph, strategy)
    peers = [PeerAddress(name, f"memory://{name}:2", "") for name in deployment.devices]
    for index in deployment.busy:
        check_plan(deployment.device_plan(index, 1, 3, peers))


PICTURE = PicturePlan("in", (4, 1), 0, "NHWC", "L", "bilinear", 100, "mark")
HELD = replace(IN, shape=(1, 4, 1, 1), start=(0, 0, 0, 0), dtype="uint8")
BOX = TensorBox("in", (0, 1, 0, 0), (1, 2, 1, 1), "jpeg")
FILES = replace(
    PLAN,
    segments=(replace(PLAN.segments[0], inputs=(HELD,)), *PLAN.segments[1:]),
    incoming=(SourceMessage(0, -1, 1, (BOX,), (-1,)), PLAN.incoming[1]),
    picture=PICTURE,
)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"picture": None}, "the plan does not say how that becomes rows"),
        ({"picture": replace(PICTURE, tensor="mid")}, "the plan does not say how that becomes rows"),
        ({"picture": replace(PICTURE, interpolation="none")}, "interpolation: found 'none'"),
        ({"picture": replace(PICTURE, crop=(2, 1))}, "lies outside"),
        ({"picture": replace(PICTURE, crop=(1, 4), layout="NCHW")}, "lies outside"),
        ({"segments": (replace(FILES.segments[0], inputs=(replace(HELD, dtype="float32"),)), *FILES.segments[1:])},
         "are held as float32"),
        ({"incoming": (replace(FILES.incoming[0], source=0), FILES.incoming[1])}, "which is not the requester"),
        ({"incoming": (replace(FILES.incoming[0], boxes=(BOX, BOX), made_in=(-1, -1)), FILES.incoming[1])},
         "rows of 2 tensors beside a picture"),
        ({"outgoing": (_message(2, 1, 2, "mid", dtype="jpeg"), PLAN.outgoing[1])}, "are sent as 'jpeg'"),
    ],
)  # fmt: skip
def test_pictures_in_their_files(changes: dict[str, Any], words: str) -> None:
    check_plan(FILES)
    with pytest.raises(ProtocolError, match=words):
        check_plan(replace(FILES, **changes))


def _segment(index: int, **changes: Any) -> dict[str, Any]:
    made = list(PLAN.segments)
    made[index] = replace(made[index], **changes)
    return {"segments": tuple(made)}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"device": 3}, "device 3 of a plan for 3 devices"),
        ({"device": -1}, "device -1 of a plan"),
        ({"devices": ("a", "b", "b")}, "devices of one name"),
        (_segment(1, stage=0), "stages must rise"),
        (_segment(2, stage=2**40), "stages must rise"),
        (_segment(2, after=1), "shares its input 'mid' with stage 1"),
        (_segment(2, after=3), "shares its input 'mid' with stage 3"),
        (_segment(2, after=0), "shares its input 'mid' with stage 0"),
        (_segment(2, after=1, inputs=()), "comes after stage 1, which is not in the plan"),
        (_segment(0, inputs=(IN, IN)), "stage 0: input: 'in' stands there twice"),
        (_segment(0, outputs=(MID, replace(MID, name="x"))), "stage 0: output: 'mid' stands there twice"),
        (_segment(0, inputs=(replace(IN, dtype="object"),)), "a buffer of dtype 'object'"),
        (_segment(0, inputs=(replace(IN, start=(0, 0)),)), r"it starts at \[0, 0\] and has the shape \[4\]"),
        (_segment(0, outputs=(MID, Buffer("x", "x", (0,) * 8, (2**31 - 1,) * 8, "float32"))), "for each of 2 frames"),
        (_segment(0, inputs=(replace(IN, shape=(3, 4), start=(0, 0)),)), "lies outside"),
        ({"incoming": (_message(0, 3, 1, "in"),)}, "incoming rows from device 3 to device 1"),
        ({"incoming": (_message(0, 1, 1, "in"),)}, "incoming rows from device 1 to device 1"),
        ({"incoming": (_message(0, 0, 2, "in"),)}, "incoming rows from device 0 to device 2"),
        ({"incoming": (_message(7, 0, 1, "in"),)}, "incoming rows for stage 7, which is not in the plan"),
        ({"incoming": (_message(0, 0, 1, "in"),) * 2}, "incoming rows: .* stands there twice"),
        ({"incoming": (_message(0, 0, 1, "mid"),)}, "stage 0 has no input 'mid'"),
        ({"incoming": (_message(0, 0, 1, "in", start=(3,)),)}, "stage 0: rows of 'in'.* lies outside"),
        ({"incoming": (_message(0, 0, 1, "in", start=(1, 1), shape=(2, 2)),)}, "lies outside"),
        ({"incoming": (_message(0, 0, 1, "in", dtype="float33"),)}, "dtype 'float33'"),
        ({"incoming": (_message(0, 0, 1, "in", shape=(0,)),)}, "rows of 'in' at"),
        ({"incoming": (replace(_message(0, 0, 1, "in"), made_in=()),)}, "1 boxes made in 0 stages"),
        ({"incoming": (replace(_message(0, 0, 1, "in"), boxes=(), made_in=()),)}, "0 boxes made in 0 stages"),
        ({"outgoing": (_message(2, 0, 2, "mid"),)}, "outgoing rows from device 0 to device 2"),
        ({"outgoing": (_message(2, 1, 1, "mid"),)}, "outgoing rows from device 1 to device 1"),
        ({"outgoing": (_message(2, 1, 9, "mid"),)}, "outgoing rows from device 1 to device 9"),
        ({"outgoing": (_message(2, 1, 2, "mid", 1),)}, "stage 1 has no output 'mid'"),
        ({"outgoing": (_message(2, 1, 2, "mid", -1),)}, "stage -1 has no output 'mid'"),
        ({"outgoing": (_message(2, 1, 0, "mid"),)}, "rows for stage 2 go to 'a', whose address the plan lacks"),
        ({"kept": (_message(2, 1, 2, "mid"),)}, "kept rows from device 1 to device 2"),
        ({"kept": (_message(2, 1, 1, "mid", 2),)}, "stage 2 has no output 'mid'"),
        ({"kept": (_message(0, 1, 1, "in", 2),)}, "stage 2 has no output 'in'"),
        ({**_segment(1, inputs=(MID,), outputs=(OUT, replace(MID, name="m"))), "kept": (_message(2, 1, 1, "mid", 2),)},
         "stage 2 keeps rows of 'mid' from stage 2"),
        ({"outgoing": (_message(2**31, 1, 2, "mid"),)}, "outgoing rows for stage 2147483648"),
        (_segment(0, outputs=(replace(MID, dtype="int32"),)), "kept as int32 and as float32"),
        ({"peers": {}}, "rows for stage 2 go to 'c', whose address the plan lacks"),
        ({"peers": {"7": PLAN.peers["2"]}}, "peer '7' is 'c'"),
        ({"peers": {"02": PLAN.peers["2"]}}, "peer '02' is 'c'"),
        ({"peers": {"x": PLAN.peers["2"]}}, "peer 'x' is 'c'"),
        ({"peers": {"0": PLAN.peers["2"]}}, "peer '0' is 'c'"),
        ({"peers": {"2": replace(PLAN.peers["2"], public_key="k" * 39)}}, "'c': its public key"),
        ({"peers": {"2": replace(PLAN.peers["2"], endpoint="10.0.0.3")}}, "'c': '10.0.0.3' is no address"),
        ({"slots": 256, **_segment(0, inputs=(replace(IN, shape=(2**31 - 1,)),))}, "for each of 256 frames"),
    ],
)  # fmt: skip
def test_contradictions_are_named(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ProtocolError, match=told):
        check_plan(replace(PLAN, **changes))


@pytest.mark.parametrize("endpoint", ["tcp://10.0.0.1:5701", "tcp://[fe80::1]:1", "tcp://pi-4.local:65535"])
def test_addresses(endpoint: str) -> None:
    check_peer(PeerAddress("a", endpoint, ""))
    check_peer(PeerAddress("a", endpoint, KEY))


@pytest.mark.parametrize(
    "endpoint", ["tcp://10.0.0.1", "tcp://10.0.0.1:0", "ipc:///tmp/x:1", "tcp:// x:1", "tcp://a:1\n"]
)
def test_what_is_no_address(endpoint: str) -> None:
    with pytest.raises(ProtocolError, match="is no address"):
        check_peer(PeerAddress("a", endpoint, ""))
