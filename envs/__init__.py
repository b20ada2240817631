"""Gymnasium environments in which an agent splits a CNN over a cluster.

Importing this package registers them: `distredge/SplitRows-v0`. To import it along the way:
`gymnasium.make("distredge.envs:distredge/SplitRows-v0")`.
"""

from __future__ import annotations

from gymnasium.envs.registration import register

SPLIT_ROWS = "distredge/SplitRows-v0"
"""Identifier of OSDS's decision process."""

register(id=SPLIT_ROWS, entry_point="distredge.envs.split_rows:SplitRowsEnv")
