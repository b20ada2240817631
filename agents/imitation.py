"""DDPG and TD3 whose actors may also imitate the best strategies so far."""

from __future__ import annotations

from typing import Any

import numpy as np
import stable_baselines3
import torch
from numpy.typing import NDArray
from stable_baselines3.common.utils import update_learning_rate
from torch.nn import functional

_IMITATED = 256
"""Steps of the best strategies that one update imitates, at most."""


_SATURATED, _SATURATION = 4.0, 0.01
"""Value before tanh from which on a penalty is due, enough for the last row of a map, and its weight."""


class _Imitating(stable_baselines3.TD3):
    """TD3's updates with a second term in the actor's loss.

    The loss is -Q / |Q| + weight * squared error of the actions (Fujimoto & Gu, "A minimalist approach to offline
    reinforcement learning", NeurIPS 2021, equation 3 to 5), where the actions to imitate are not those of the buffer
    but those of the best strategies so far (self-imitation, Oh et al., ICML 2018). Without a weight, or before there is
    something to imitate, the updates are stable-baselines3's.

    Attributes:
        imitation_weight: of the second term.
        imitate_only: whether the first one is left out now.
    """

    imitation_weight = 0.0
    imitate_only = False
    _shown: tuple[torch.Tensor, torch.Tensor] | None = None

    def imitate(self, observations: NDArray[np.float32], actions: NDArray[np.float32]) -> None:
        """Says what to imitate: (M, n_features) observations and (M, n_actions) actions of the best strategies."""
        self._shown = (
            torch.as_tensor(observations, device=self.device),
            torch.as_tensor(actions, device=self.device),
        )

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        if self._shown is None or not self.imitation_weight:
            super().train(gradient_steps, batch_size)
            return
        self.policy.set_training_mode(True)
        self._update_learning_rate([self.actor.optimizer, self.critic.optimizer])
        losses: dict[str, list[float]] = {"actor_loss": [], "critic_loss": [], "q_mean": [], "imitation_loss": []}
        for _ in range(gradient_steps):
            self._n_updates += 1
            if not self.imitate_only:
                losses["critic_loss"].append(self._update_critic(batch_size))
            if self._n_updates % self.policy_delay == 0:
                for key, value in self._update_actor(batch_size).items():
                    losses[key].append(value)
                self._move_targets()
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for key, values in losses.items():
            if values:
                self.logger.record(f"train/{key}", float(np.mean(values)))

    def _sampled(self, batch_size: int) -> Any:
        assert self.replay_buffer is not None
        return self.replay_buffer.sample(batch_size)

    def _update_critic(self, batch_size: int) -> float:
        batch = self._batch = self._sampled(batch_size)
        with torch.no_grad():
            noise = torch.randn_like(batch.actions) * self.target_policy_noise
            noise = noise.clamp(-self.target_noise_clip, self.target_noise_clip)
            actions = (self.actor_target(batch.next_observations) + noise).clamp(-1, 1)
            next_q, _ = torch.cat(self.critic_target(batch.next_observations, actions), dim=1).min(1, keepdim=True)
            target = batch.rewards + (1 - batch.dones) * self.gamma * next_q
        found: tuple[torch.Tensor, ...] = self.critic(batch.observations, batch.actions)
        loss = torch.stack([functional.mse_loss(q, target) for q in found]).sum()
        self.critic.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.critic.optimizer.step()
        return loss.item()

    def _update_actor(self, batch_size: int) -> dict[str, float]:
        assert self._shown is not None
        states, wanted = self._shown
        if len(states) > _IMITATED:
            chosen = torch.randint(len(states), (_IMITATED,), device=states.device)
            states, wanted = states[chosen], wanted[chosen]
        figures: dict[str, float] = {}
        if self.imitate_only:
            before = self._before_tanh(states)
            error = functional.mse_loss(before.tanh(), wanted)
            loss = self.imitation_weight * error
        else:
            seen = self._batch.observations
            # One pass of the actor for both terms.
            before = self._before_tanh(torch.cat([seen, states]))
            actions = before.tanh()
            error = functional.mse_loss(actions[len(seen) :], wanted)
            q = self.critic.q1_forward(seen, actions[: len(seen)])
            loss = -q.mean() / q.abs().mean().detach().clamp(min=1e-6) + self.imitation_weight * error
            figures["q_mean"] = q.mean().item()
        # Where tanh has no slope left, nothing could be learned any more.
        loss = loss + _SATURATION * functional.relu(before.abs() - _SATURATED).square().mean()
        self.actor.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.actor.optimizer.step()
        return {**figures, "actor_loss": loss.item(), "imitation_loss": error.item()}

    def _before_tanh(self, states: torch.Tensor) -> torch.Tensor:
        """What the actor's last layer makes of (N, n_features) observations, (N, n_values)."""
        found: torch.Tensor = self.actor.mu[:-1](states)
        return found

    def _move_targets(self) -> None:
        with torch.no_grad():
            for own, target in ((self.critic, self.critic_target), (self.actor, self.actor_target)):
                torch._foreach_lerp_(list(target.parameters()), list(own.parameters()), self.tau)


class TD3(_Imitating):
    """stable-baselines3's TD3, which may also imitate the best strategies so far.

    Args:
        policy, env: as there.
        imitation_weight: of imitating; 0 for none.
        **kwargs: as there.
    """

    def __init__(self, policy: Any, env: Any, *, imitation_weight: float = 0.0, **kwargs: Any) -> None:
        super().__init__(policy, env, **kwargs)
        self.imitation_weight = imitation_weight


class DDPG(_Imitating, stable_baselines3.DDPG):
    """stable-baselines3's DDPG with a learning rate each for actor and critic, where that has one for both.

    Args:
        policy, env: as there.
        actor_learning_rate: of the actor's optimiser.
        critic_learning_rate: of the critic's optimiser.
        imitation_weight: of imitating the best strategies so far; 0 for none.
        **kwargs: as there.
    """

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        actor_learning_rate: float = 1e-4,
        critic_learning_rate: float = 1e-3,
        imitation_weight: float = 0.0,
        **kwargs: Any,
    ) -> None:
        self.actor_learning_rate = actor_learning_rate
        self.critic_learning_rate = critic_learning_rate
        stable_baselines3.DDPG.__init__(self, policy, env, learning_rate=critic_learning_rate, **kwargs)
        self.imitation_weight = imitation_weight

    def _update_learning_rate(self, optimizers: list[torch.optim.Optimizer] | torch.optim.Optimizer) -> None:
        update_learning_rate(self.actor.optimizer, self.actor_learning_rate)
        update_learning_rate(self.critic.optimizer, self.critic_learning_rate)
