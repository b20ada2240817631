"""DDPG with a learning rate each for actor and critic."""

from __future__ import annotations

from typing import Any

import stable_baselines3
import torch
from stable_baselines3.common.utils import update_learning_rate


class DDPG(stable_baselines3.DDPG):
    """stable-baselines3's DDPG, which has one learning rate only and sets it in both optimisers at every update.

    Args:
        policy, env: as there.
        actor_learning_rate: of the actor's optimiser.
        critic_learning_rate: of the critic's optimiser.
        **kwargs: as there.
    """

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        actor_learning_rate: float = 1e-4,
        critic_learning_rate: float = 1e-3,
        **kwargs: Any,
    ) -> None:
        self.actor_learning_rate = actor_learning_rate
        self.critic_learning_rate = critic_learning_rate
        super().__init__(policy, env, learning_rate=critic_learning_rate, **kwargs)

    def _update_learning_rate(self, optimizers: list[torch.optim.Optimizer] | torch.optim.Optimizer) -> None:
        update_learning_rate(self.actor.optimizer, self.actor_learning_rate)
        update_learning_rate(self.critic.optimizer, self.critic_learning_rate)
