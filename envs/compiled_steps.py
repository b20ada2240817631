"""The step of environments whose links are independent and of constant rate, compiled as a whole."""

from __future__ import annotations

from typing import Any

from distredge.envs.decisions import FILES as OWN_FILES
from distredge.envs.decisions import decide_one, report_one, settle_one
from distredge.latency.compiling import digest, uncounted_entry
from distredge.latency.kernel.stepping import FILES as KERNEL_FILES
from distredge.latency.kernel.stepping import price_next

FILES = (*KERNEL_FILES, *OWN_FILES, "envs.compiled_steps")
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
            p, start, w = episodes.problem[k], episodes.next_cut[k], episodes.count[k]
            end = decide_one(rules, episodes, k, actions[k])
            latency_s = price_next(
                tables, links, prefixes, k, rules.cluster[p], episodes.rows[k], w, start, end, episodes.head[k],
                episodes.finish_s[k],
            )  # fmt: skip
            settle_one(episodes, k, rules.n_devices[p], latency_s)
            report_one(rules, episodes, ended, k, obs, told)

    return step


step = _compiled(digest(*FILES))
