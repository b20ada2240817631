"""The step of environments whose links are independent and of constant rate, compiled as a whole."""

from __future__ import annotations

from typing import Any

from distredge.envs import decisions
from distredge.latency.compiling import digest, uncounted_entry
from distredge.latency.kernel import stepping

FILES = (*stepping.FILES, *decisions.FILES, "envs.compiled_steps")
"""Modules that the step is compiled from."""


def _compiled(stamp: str) -> Any:
    """The function below, in which `stamp` is a constant."""

    @uncounted_entry
    def step(
        tables: Any, links: Any, prefixes: Any, rules: Any, episodes: Any, ended: Any, which: Any, actions: Any,
        obs: Any, told: Any,
    ) -> None:  # fmt: skip
        """Adds a volume to the episodes of some environments, prices it, and fills in what is told of them.

        Args:
            tables: `KernelTables` of the model of these environments.
            links: `LinkArrays` of its kernel.
            prefixes: `stepping.Prefixes`; changed.
            rules: `decisions.Rules`.
            episodes: `decisions.Episodes`; changed.
            ended: `decisions.Ended`; changed where an episode is over.
            which: (m,) the environments.
            actions: (n, n_values + N - 1) float64.
            obs: (n, n_observed) float32, filled in.
            told: `Told`, filled in.
        """
        len(stamp)
        for x in range(len(which)):
            k = which[x]
            p, start, w = episodes.problem[k], episodes.next_cut[k], episodes.n_decided[k]
            end = decisions.decide_one(rules, episodes, k, actions[k])
            latency_s = stepping.price_next(
                tables, links, prefixes, k, rules.cluster[p], episodes.rows[k], w, start, end, episodes.head[k],
                episodes.finish_s[k],
            )  # fmt: skip
            decisions.settle_one(episodes, k, rules.n_devices[p], latency_s)
            decisions.report_one(rules, episodes, ended, k, obs, told)

    return step


step = _compiled(digest(*FILES))
