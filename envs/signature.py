"""What an agent relies on of the environment that it was trained in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from distredge.errors import ConfigError, located

if TYPE_CHECKING:
    from distredge.cluster import Cluster

PRESENCE = "presence"
"""Block of an observation that says which devices there are."""


@dataclass(frozen=True)
class Signature:
    """The version of an environment, and what its actions and observations consist of.

    Agents keep it with their networks: two environments with equal signatures take the same agents.

    Attributes:
        env: id under which Gymnasium knows the environment, with its version.
        n_devices: that actions and observations have room for.
        n_values: numbers of an action.
        observed: names and sizes of the blocks of an observation, in order; the texts of the environments say what
            each of them is.
    """

    env: str
    n_devices: int
    n_values: int
    observed: Mapping[str, int]

    def __str__(self) -> str:
        blocks = ", ".join(f"{name} {size}" for name, size in self.observed.items())
        return f"{self.env} of {self.n_devices} devices, {self.n_values} values, observing {blocks}"

    def to_json(self) -> dict[str, Any]:
        """Plain data, for files."""
        return asdict(self) | {"observed": dict(self.observed)}

    @classmethod
    def from_json(cls, where: str, data: Any) -> Signature:
        """Reads what `to_json` wrote.

        Raises:
            ConfigError: naming `where`, if it is something else.
        """
        kinds = {"env": str, "n_devices": int, "n_values": int, "observed": Mapping}
        if not isinstance(data, Mapping) or any(not isinstance(data.get(key), kind) for key, kind in kinds.items()):
            raise ConfigError(located(where, "environment", data, f"an object of {', '.join(kinds)}"))
        observed = {str(name): int(size) for name, size in data["observed"].items()}
        return cls(data["env"], data["n_devices"], data["n_values"], observed)

    def check_cluster(self, cluster: Cluster) -> None:
        """Checks that an agent of this signature can act on a cluster.

        One that has not seen which devices there are knows clusters of one size alone.

        Raises:
            ConfigError: if the cluster has more devices, or fewer than an agent of one size knows.
        """
        found, most = len(cluster.devices), self.n_devices
        if found > most or (found < most and PRESENCE not in self.observed):
            known = f"up to {most}" if PRESENCE in self.observed else f"{most}, since it was trained on no other number"
            raise ConfigError(
                f"cluster '{cluster.name}': found {found} devices, accepted: {known}, by an agent of {self}"
            )

    def check(self, where: str, found: Signature) -> None:
        """Raises ConfigError, which names what differs, unless `found`, an agent's, is this environment's own."""
        for key, own in asdict(self).items():
            theirs = getattr(found, key)
            # Blocks of the same sizes in another order are not the same.
            same = list(own.items()) == list(theirs.items()) if key == "observed" else own == theirs
            if not same:
                raise ConfigError(
                    located(where, key, theirs, f"{own!r}: the agent was trained in {found}, this is {self}")
                )
