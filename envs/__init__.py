"""Gymnasium environments in which an agent splits a CNN over a cluster.

Importing this package registers them: `distredge/SplitRows-v0` and `distredge/Partition-v0`. To import it along the
way: `gymnasium.make("distredge.envs:distredge/SplitRows-v0")`.
"""

from __future__ import annotations

from gymnasium.envs.registration import register

SPLIT_ROWS = "distredge/SplitRows-v0"
"""OSDS's decision process: the partition scheme is given, the agent deals out rows."""

PARTITION = "distredge/Partition-v0"
"""The agent also chooses where each volume ends."""

register(
    id=SPLIT_ROWS,
    entry_point="distredge.envs.split_rows:SplitRowsEnv",
    vector_entry_point="distredge.envs.vector:split_rows",
)
register(
    id=PARTITION,
    entry_point="distredge.envs.partition:PartitionEnv",
    vector_entry_point="distredge.envs.vector:partition",
)
