"""A lower bound on the latency of every strategy of a problem, by linear programming.

Relaxed are: halos (each row is computed once), rounding to rows, exchanges between volumes, the choice of volumes, and
waiting: each operator may be dealt out by itself, and every device computes without a gap. Kept are, for each device,
in this order: the input that it must have before it starts, the compute of its share at the best seconds per row that
its profile has, its share of the last map on its way to the head device, then the head and the result. Every head
device is tried and the lowest bound taken.

For a head device h the program minimises T subject to, for all devices k,

    T >= A_k z_k + (B_k + e_k) x_k + sum over operators o of w_ko y_ko
         + F_kh g_k + (G_kh + e'_k) q_k + head_h + result_h

- y_ko, share of operator o that k computes, at least 1 over all devices, at most z_k, the (relaxed) participation;
- x_k, share of the input that k receives, at least what the first operator's rows need of it;
- q_k, share of the last map that k owns, at most y_ko of the operator that makes it; g_k >= q_k, its message;
- e_k and e'_k, what it costs k to take the whole input into a part and to give the whole last map out of one;
- F and G are left out for h itself, and where boundary rows may be sent before the rest.

Under `shared` links the input also passes the requester's uplink and the last map the head device's downlink, but for
what stays inside their computers. There messages take processor time: that of a message itself is on its way either
way, and counts; that of others in line before it does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from distredge.errors import Infeasible
from distredge.latency.costs.computers import access_of
from distredge.latency.costs.links import ClusterLinks
from distredge.latency.tables.volume_geometry import rising_needs
from distredge.model.layout import REQUESTER
from distredge.model.operators import Kind
from distredge.model.wires import FLOAT32_BYTES, WIRE_BYTES, WIRES
from distredge.model.zero_shares import zero_shares
from distredge.planners.common.volume_costs import Floats, VolumeCosts

if TYPE_CHECKING:
    from distredge.cluster import Link
    from distredge.problem import Problem


def lower_bound_s(problem: Problem) -> float:
    """Returns seconds that no strategy of the problem can beat.

    Raises:
        Infeasible: if no device can be reached.
    """
    program = _BoundProgram(problem)
    if not np.isfinite(program.start_s).any():
        raise Infeasible(f"no device of cluster '{problem.cluster.name}' can be reached")
    heads = {program.kind(k): k for k in reversed(range(program.count)) if np.isfinite(program.start_s[k])}
    return min(program.solve(head) for head in heads.values())


@dataclass(frozen=True)
class _Wire:
    """A message of a whole tensor: fixed seconds, and seconds that shrink with the share that is sent."""

    fixed_s: float
    whole_s: float


def _best_rates(problem: Problem) -> tuple[list[float], list[float]]:
    """The highest rate that each device's uplink and downlink, and at the end the requester's, ever has."""
    cluster = problem.cluster
    ends = [*(access_of(cluster, device) for device in cluster.devices), access_of(cluster, cluster.requester)]

    def best(link: Link) -> float:
        if link.trace is not None:
            return float(link.trace.rates_bps.max())
        return math.inf if link.rate_bps is None else link.rate_bps

    return [best(end.uplink) for end in ends], [best(end.downlink) for end in ends]


class _BoundProgram:
    """Coefficients and constraints of the program."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.costs = VolumeCosts(problem)
        self.network = ClusterLinks.of(problem.cluster, problem.cluster.names)
        self.count = len(problem.cluster.devices)
        self.up_bps, self.down_bps = _best_rates(problem)
        graph = problem.graph
        input_scale = min(WIRE_BYTES[dtype] for dtype in problem.input_dtypes) / FLOAT32_BYTES
        self.input_bytes = sum(graph.tensors[n].size_bytes for n in graph.input_names) * input_scale
        self.input = [self._wire(REQUESTER, k, self.input_bytes) for k in range(self.count)]
        self.start_s = self._starts()
        self.work_s, self.operators = self._work()
        self.overhead_s = np.array([board.profile.segment_overhead_s for board in self.costs.boards])
        self.has_head = bool(problem.graph.body.head)
        self.last_bytes, last_elements, self.last_operator = self._last_map()
        self.first_operator, self.input_per_share = self._first()
        element_s = np.array([board.element_s for board in self.costs.boards])
        # Shares of inputs are in bytes; by the widest dtype they are not more than the elements.
        inputs = [graph.tensors[n] for n in graph.input_names]
        widest = max(t.size_bytes / t.elements for t in inputs)
        self.take_s = element_s * sum(t.size_bytes for t in inputs) / widest
        self.give_s = element_s * last_elements

    def kind(self, device: int) -> tuple[object, ...]:
        """Devices of one kind are interchangeable."""
        found = self.problem.cluster.devices[device]
        at_home = not self.network.crosses(device, REQUESTER)
        return id(found.profile), found.uplink, found.downlink, found.threads, found.host, at_home

    def solve(self, head: int) -> float:
        """The bound with the head on one device."""
        from scipy.optimize import linprog
        from scipy.sparse import coo_array

        d, o = self.count, len(self.operators)
        z, x, q, g, y = (1 + i * d for i in range(5))
        rows: list[list[tuple[int, float]]] = []
        right: list[float] = []

        def at_most(terms: list[tuple[int, float]], limit: float) -> None:
            rows.append([(column, value) for column, value in terms if value != 0.0])
            right.append(limit)

        upper = np.ones(1 + 4 * d + d * o)
        upper[0] = upper[x : x + d] = np.inf
        end_s = self._end_s(head)
        goal_of_gather = head if self.has_head else REQUESTER
        for k in range(d):
            if not math.isfinite(self.start_s[k]):
                upper[z + k] = 0.0
                continue
            if not math.isfinite(self.input[k].whole_s):
                upper[x + k] = 0.0
            terms = [(0, -1.0), (z + k, self.start_s[k] + self.overhead_s[k])]
            terms += [(x + k, self.input[k].whole_s + self.take_s[k])] if upper[x + k] > 0 else []
            terms += [(q + k, self.give_s[k])]
            terms += [(y + k * o + i, self.work_s[k, i]) for i in range(o)]
            gather = self._wire(k, goal_of_gather, self.last_bytes)
            if k != goal_of_gather and not self.problem.boundary_first and math.isfinite(gather.whole_s):
                terms += [(g + k, gather.fixed_s), (q + k, gather.whole_s)]
            at_most(terms, -end_s)
            at_most([(q + k, 1.0), (g + k, -1.0)], 0.0)
            for i in range(o):
                at_most([(y + k * o + i, 1.0), (z + k, -1.0)], 0.0)
            if self.first_operator is not None:
                at_most([(y + k * o + self.first_operator, self.input_per_share), (x + k, -1.0)], 0.0)
            if self.last_operator is not None:
                at_most([(q + k, 1.0), (y + k * o + self.last_operator, -1.0)], 0.0)
        for i in range(o):
            at_most([(y + k * o + i, -1.0) for k in range(d) if upper[z + k] > 0], -1.0)
        if self.last_operator is not None:
            at_most([(q + k, -1.0) for k in range(d) if upper[z + k] > 0], -1.0)
        if self.network.shared:
            up_s = self.input_bytes * 8.0 / self.up_bps[REQUESTER]
            down_s = self.last_bytes * 8.0 / self.down_bps[goal_of_gather]
            crosses = self.network.crosses
            at_most([(0, -1.0), *((x + k, up_s) for k in range(d) if crosses(REQUESTER, k))], -end_s)
            at_most([(0, -1.0), *((q + k, down_s) for k in range(d) if crosses(k, goal_of_gather))], -end_s)
        places = [(r, column, value) for r, terms in enumerate(rows) for column, value in terms]
        at, columns, values = (list(part) for part in zip(*places, strict=True))
        left = coo_array((values, (at, columns)), shape=(len(rows), len(upper)))
        goal = np.zeros(len(upper))
        goal[0] = 1.0
        solved = linprog(
            goal, A_ub=left.tocsr(), b_ub=right, bounds=np.stack([np.zeros_like(upper), upper], axis=1), method="highs"
        )
        # The solver's tolerance must not lift the bound above the optimum.
        return float(solved.fun) * (1.0 - 1e-7) if solved.success else 0.0

    def _wire(self, source: int, destination: int, size_bytes: float) -> _Wire:
        net = self.network
        if net.is_free(source, destination):
            return _Wire(0.0, 0.0)
        send, receive = net.sends[source], net.receives[destination]
        fixed = send.total_s(0) + net.fixed_s(source, destination) + receive.total_s(0)
        s_per_byte = send.busy_s_per_byte + send.way_s_per_byte + (receive.busy_s_per_byte + receive.way_s_per_byte)
        if not net.crosses(source, destination):
            return _Wire(fixed, size_bytes * s_per_byte)
        rate = min(self.up_bps[source], self.down_bps[destination])
        return _Wire(fixed, size_bytes * (s_per_byte + 8.0 / rate) if rate > 0 else math.inf)

    def _starts(self) -> Floats:
        """(n_devices,), when each can have anything at all: from the requester, or by way of another device."""
        direct = np.array([w.fixed_s if math.isfinite(w.whole_s) else math.inf for w in self.input])
        found = direct.copy()
        for k in range(self.count):
            for other in range(self.count):
                hop = self._wire(other, k, 1.0)
                if other != k and math.isfinite(hop.whole_s):
                    found[k] = min(found[k], direct[other] + hop.fixed_s)
        return found

    def _work(self) -> tuple[Floats, dict[int, int]]:
        """(n_devices, n_operators) seconds of all rows at the best seconds per row; place of each operator in it."""
        places: dict[int, int] = {}
        columns: list[list[float]] = []
        for index in self.problem.graph.body.operators:
            tables = [board.table(index) for board in self.costs.boards]
            column = []
            for board, table in zip(self.costs.boards, tables, strict=True):
                if table is None:
                    break
                seconds = np.array(table[1:])
                best = float((seconds / np.arange(1, len(table))).min())
                column.append(board.profile.segment_factor * best * (len(table) - 1))
            if len(column) == self.count:
                places[index] = len(columns)
                columns.append(column)
        return np.array(columns).reshape(len(columns), self.count).T, places

    def _place_of_maker(self, tensor: str) -> int | None:
        graph = self.problem.graph
        maker = graph.producer.get(tensor)
        return None if maker is None else self.operators.get(graph.fused_into.get(maker, maker))

    def _last_map(self) -> tuple[float, float, int | None]:
        """Bytes, elements and operator's place of the largest map that the head (without one: the requester) reads."""
        graph = self.problem.graph
        names = graph.body.head_inputs if self.has_head else graph.output_names
        made = [n for n in names if self._place_of_maker(n) is not None]
        if not made:
            return 0.0, 0.0, None
        name = max(made, key=lambda n: graph.tensors[n].size_bytes)
        reduces = graph.body.verdicts[graph.producer[name]].kind is Kind.REDUCE
        # Of a reduction small partial results travel: their bytes are left out, their messages are not.
        if reduces:
            return 0.0, 0.0, self._place_of_maker(name)
        return self._fewest_bytes(name), graph.tensors[name].size_bytes / FLOAT32_BYTES, self._place_of_maker(name)

    def _fewest_bytes(self, name: str) -> float:
        """Bytes of a tensor in the wire of the problem in which it has fewest."""
        graph, wires = self.problem.graph, [WIRES[wire] for wire in self.problem.wires]
        share = zero_shares(graph).get(name, 0.0) if any(wire.packed for wire in wires) else 0.0
        tensor = graph.tensors[name]
        row_elements = tensor.elements // tensor.height
        fewest = min(wire.travels_as(share).row_bytes(row_elements, share) for wire in wires)
        return tensor.size_bytes * fewest / (row_elements * FLOAT32_BYTES)

    def _first(self) -> tuple[int | None, float]:
        """Place of the first operator, and the least share of the input that a share of its rows needs."""
        graph = self.problem.graph
        index = graph.body.operators[0]
        op = graph.operators[index]
        position = next((p for p in op.activations if op.inputs[p] in graph.input_names), None)
        if position is None or index not in self.operators:
            return None, 0.0
        reach = rising_needs(graph, op, position)
        height, out = graph.tensors[op.inputs[position]].height, len(reach.start)
        sizes = [
            int((reach.stop[rows - 1 :] - reach.start[: out - rows + 1]).min()) / height * out / rows
            for rows in range(1, out + 1)
        ]
        share = graph.tensors[op.inputs[position]].size_bytes / sum(
            graph.tensors[n].size_bytes for n in graph.input_names
        )
        return self.operators[index], min(sizes) * share

    def _end_s(self, head: int) -> float:
        """Seconds of the head and of its result's way to the requester."""
        graph = self.problem.graph
        if not self.has_head:
            return 0.0
        made = {out for i in graph.body.head for out in graph.operators[i].outputs}
        result = self._wire(head, REQUESTER, sum(graph.tensors[n].size_bytes for n in graph.output_names if n in made))
        return float(self.costs.head_s[head]) + result.fixed_s + result.whole_s
