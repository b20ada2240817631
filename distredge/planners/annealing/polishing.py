"""Polish: local annealing of good strategies for a few milliseconds.

What a planner proposes is seldom at the bottom of its valley: rows are some per cent off, and a neighbouring partition
may be better. A few cool chains of the search's own compiled steps (`annealing.compiled_steps`) go down from the best
proposals. This is no search: it begins nowhere but at what it is given, and loads nothing (`annealing.loading` does).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distredge.planners.annealing.batch_pricing import steps_call
from distredge.planners.annealing.chains import make_chains, resample
from distredge.planners.annealing.starts import best_rows
from distredge.planners.annealing.strategy_arrays import Choices, joined, take

if TYPE_CHECKING:
    from distredge.planners.annealing.batch_pricing import BatchPricer
    from distredge.planners.annealing.chains import Chains
    from distredge.planners.annealing.strategy_arrays import Batch
    from distredge.planners.budget import Budget

HOT, COLD = 0.005, 0.0001
"""First and last temperature, relative to the latency."""

MOST_CHAINS, STEPS_EACH = 16, 40
"""Chains, and the steps that each must be able to take: where time is too short for that there are fewer."""

LOOKS, PILOT_STEPS = 12, 2
"""Looks at the budget until it ends, about, and the steps that tell how long one takes."""

_TRIALS, _TRIAL_STEPS = 0.001, 60
"""How often a chain goes on trial with another structure, and for how many steps."""

LEAST_REACH, REACH = 0.03, 10.0
"""Share of a map's rows that a step moves at most: at least, and per unit of temperature."""

NEARBY_UNTIL = 0.6
"""Share of the budget up to which rates of shared links are approximate."""

RESERVE_S = 1e-4
"""Seconds that are left at the end for choosing what is returned."""


def polish(
    pricer: BatchPricer, batch: Batch, budget: Budget, seed: int, count: int = 1
) -> tuple[Batch, NDArray[np.float64]]:
    """Improves the best of some strategies as long as the budget lasts, on the calling thread.

    Volumes that the pricer's tables lack at the beginning are not tabulated: strategies that need them are not met.

    Args:
        pricer: of the problem; its own budget is left alone.
        batch: N >= 1 strategies; all are priced first.
        budget: what may be spent; with evaluations alone the result depends on the seed alone.
        seed: of all random choices.
        count: how many are wanted.

    Returns:
        At most `count` different strategies, the best that were met, the best first, and their latencies, (count,)
        seconds, exact ones; none if no strategy given can run. The first is never slower than the best given.
    """
    pricer.fill(budget)
    seconds = pricer.price(batch, again=True)
    budget.spend(len(seconds))
    given = best_rows(seconds, min(len(seconds), MOST_CHAINS))
    if len(given) == 0:
        return take(batch, given), seconds[given]
    budget.report(float(seconds[given[0]]))
    run = _Run(pricer, budget, seed)
    run.begin(take(batch, given), seconds[given])
    run.anneal()
    found = joined([take(batch, given), run.chains.best])
    found_s = np.concatenate([seconds[given], run.chains.best_s])
    order = _different(found, np.argsort(found_s, kind="stable"), count)
    budget.report(float(found_s[order[0]]))
    return take(found, order), found_s[order]


class _Run:
    """Chains on their way down."""

    chains: Chains

    def __init__(self, pricer: BatchPricer, budget: Budget, seed: int) -> None:
        self.pricer, self.budget, self.seed = pricer, budget, seed
        self.choices: Choices = pricer.codec.choices._replace(
            trials=_TRIALS, trial_steps=_TRIAL_STEPS, reach_least=LEAST_REACH, reach_heat=REACH
        )
        self.nearby = pricer.shared
        self._wanted = np.zeros_like(pricer.index())

    def begin(self, batch: Batch, seconds: NDArray[np.float64]) -> None:
        """Makes chains of strategies, the best first, as many as there is time for; (N,) seconds."""
        budget = self.budget
        self._make(batch, seconds, MOST_CHAINS)
        if budget.seconds is None:
            evaluations = float(budget.left or 0)
        elif budget.expired():
            return
        else:
            before_s, done = budget.elapsed_s, budget.done
            self._steps(PILOT_STEPS, HOT)
            evaluations = (budget.left_s or 0.0) * (budget.done - done) / max(budget.elapsed_s - before_s, 1e-9)
        size = int(min(MOST_CHAINS, max(1, evaluations // STEPS_EACH)))
        if size < MOST_CHAINS:
            self._make(batch, seconds, size)

    def _make(self, batch: Batch, seconds: NDArray[np.float64], size: int) -> None:
        chosen = np.resize(np.arange(min(size, len(seconds))), size)
        self.chains = make_chains(take(batch, chosen), seconds[chosen], self.seed, size)
        self._pricing = self.pricer.pricing(size, self.nearby)

    def anneal(self) -> None:
        """Cools the chains down until the budget ends; their latencies are exact then."""
        budget, size = self.budget, len(self.chains.seconds)
        begun, all_s, steps = budget.spent(), budget.left_s or 0.0, PILOT_STEPS
        while not budget.expired():
            spent = (budget.spent() - begun) / (1.0 - begun)
            if self.nearby and spent >= NEARBY_UNTIL:
                self._price_exactly()
            if budget.left is not None:
                steps = min(max(1, budget.left // (size * max(1, round(LOOKS * (1.0 - spent))))), budget.left // size)
            if steps < 1:
                break
            before_s = budget.elapsed_s
            resample(self.chains)
            self._steps(steps, HOT * (COLD / HOT) ** spent)
            if budget.seconds is not None:
                took_s = max(budget.elapsed_s - before_s, 1e-9)
                aim_s = min(all_s / LOOKS, (budget.left_s or 0.0) - RESERVE_S)
                steps = min(4 * steps, int(steps * aim_s / took_s))
        if self.nearby:
            self._price_exactly()

    def _steps(self, steps: int, heat: float) -> None:
        chains = self.chains
        chains.heat[:] = heat
        run, arguments = steps_call(self.pricer, self._pricing, steps, chains, self._wanted, self.choices)
        run(*arguments)
        self.budget.spend(steps * len(chains.seconds))

    def _price_exactly(self) -> None:
        """Goes over to exact rates of shared links."""
        self.nearby = False
        self._pricing = self._pricing._replace(nearby=False)
        for batch, seconds in (
            (self.chains.current, self.chains.seconds),
            (self.chains.saved, self.chains.saved_s),
            (self.chains.best, self.chains.best_s),
        ):
            seconds[:] = self.pricer.price(batch, again=True)


def _different(batch: Batch, order: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The first `count` strategies of an order that differ from those before them."""
    kept: dict[bytes, int] = {}
    for k in order.tolist():
        if len(kept) == count:
            break
        used = batch.cuts[k] >= 0
        parts = (batch.cuts[k], batch.rows[k, used], batch.order[k], batch.head[k], batch.wires[k, used])
        kept.setdefault(b"".join(np.asarray(part).tobytes() for part in (*parts, batch.boundary[k, used])), k)
    return np.array(list(kept.values()), np.int64)
