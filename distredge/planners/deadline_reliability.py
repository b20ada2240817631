"""How often a deadline is met when the requester's channel varies: DPFP's service failure, HALP's reliability.

A request takes the offloading of the image over a wireless link of random rate, then the inference. DPFP (Li, Iosifidis
and Zhang, Computer Networks 214, 2022) calls the probability that this exceeds the deadline the service failure
probability; HALP (ICC 2022) reports its complement.

Decided here, since the papers' channel parameters could not be read: the rate is drawn once per request from a normal
distribution that is cut off at `Channel.least_bps`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distredge.errors import ConfigError, located


@dataclass(frozen=True)
class Channel:
    """The wireless link between requester and devices.

    Attributes:
        mean_bps: mean rate before cutting off, bits per second.
        spread_bps: standard deviation before cutting off.
        least_bps: lowest rate that occurs.
    """

    mean_bps: float
    spread_bps: float
    least_bps: float = 1e3

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean_bps) and self.mean_bps > 0):
            raise ConfigError(located("channel", "mean_bps", self.mean_bps, "a finite rate > 0"))
        if not (math.isfinite(self.spread_bps) and self.spread_bps >= 0):
            raise ConfigError(located("channel", "spread_bps", self.spread_bps, "a finite rate >= 0"))
        if not 0 < self.least_bps <= self.mean_bps:
            raise ConfigError(located("channel", "least_bps", self.least_bps, f"above 0, at most {self.mean_bps}"))

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """(count,) rates in bits per second; draws below `least_bps` are made again."""
        rates = rng.normal(self.mean_bps, self.spread_bps, count)
        low = rates < self.least_bps
        while low.any():
            rates[low] = rng.normal(self.mean_bps, self.spread_bps, int(low.sum()))
            low = rates < self.least_bps
        return rates

    def below(self, rate_bps: float) -> float:
        """Probability of a rate below `rate_bps`."""
        if self.spread_bps == 0:
            return float(self.mean_bps < rate_bps)
        if rate_bps <= self.least_bps:
            return 0.0
        low = _normal((self.least_bps - self.mean_bps) / self.spread_bps)
        return (_normal((rate_bps - self.mean_bps) / self.spread_bps) - low) / (1.0 - low)


def _normal(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


def failure_probability(image_bytes: float, inference_s: float, deadline_s: float, channel: Channel) -> float:
    """Share of requests whose offloading and inference together exceed the deadline.

    Args:
        image_bytes: what the requester sends.
        inference_s: from the arrival of the image to the result.
        deadline_s: longest time allowed.
        channel: the requester's link.
    """
    left_s = deadline_s - inference_s
    if left_s <= 0:
        return 1.0
    return channel.below(8.0 * image_bytes / left_s)
