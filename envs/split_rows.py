"""OSDS's decision process: one volume after the other, the agent deals its rows out over the devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from distredge.envs import SPLIT_ROWS
from distredge.envs._setup import Clusters, Models, check_partition
from distredge.envs.observation import LAYER_FEATURES, layer_features
from distredge.envs.process import Volumes
from distredge.envs.volumes import Episode, VolumesEnv, cut_points
from distredge.errors import ConfigError, located
from distredge.planners.published import lc_pss

if TYPE_CHECKING:
    from distredge.model.graph import Graph

__all__ = ["Episode", "SplitRowsEnv", "cut_points"]


class SplitRowsEnv(VolumesEnv):
    """Deal the rows of each layer-volume out over the devices of a cluster.

    ## Description

    A CNN is cut into layer-volumes; in step l the agent decides which rows of volume l's output each device computes.
    After the last volume the devices gather their rows on the head device, which runs what cannot be split by rows and
    returns the result. This is the decision process of OSDS (Hou et al., "DistrEdge", IPDPS 2022, Algorithm 2); what
    an episode costs is said by `distredge.latency`. The head device is the one with most rows of the last volume, the
    first of them on a tie, as in the paper. Devices keep the order of the cluster file.

    ## Action Space

    `Box(-1, 1, (n_devices - 1,), float32)`. The values are sorted; value a becomes the cut point
    `round(height * (a + 1) / 2)` of the rows of the volume's output. Device i computes the rows between cut points i
    and i + 1, counted with 0 before and `height` after them; two equal cut points leave a device without work.

    ## Observation Space

    `Box(-1, 1, (n_devices + 4,), float32)`, more with the options marked. D = n_devices, of the largest cluster, or
    `max_devices`.

    | Index  | Meaning                                      | Min | Max      | Unit          | Scaled as          |
    |--------|----------------------------------------------|-----|----------|---------------|--------------------|
    | 0      | D values: when each device has done its part | 0   | infinity | offload times | 2 x / (1 + x) - 1  |
    | D      | height of the next volume's last layer       | 1   | 4096     | rows          | log x / log 64 - 1 |
    | D + 1  | its channels                                 | 1   | 4096     | channels      | log x / log 64 - 1 |
    | D + 2  | its kernel                                   | 0   | 15       | rows          | 2 x / 15 - 1       |
    | D + 3  | its stride                                   | 0   | 8        | rows          | x / 4 - 1          |
    | then   | 5 values (§): what tells models apart        |     |          |               | see below          |
    | then   | D values (†): the whole model on each device | 0   | infinity | offload times | 2 x / (1 + x) - 1  |
    | then   | D values (†): the input's way to each device | 0   | infinity | offload times | 2 x / (1 + x) - 1  |
    | then   | D values (‡): whether there is that device   | no  | yes      |               | -1 or 1            |
    | then   | D - 1 values (*): cut points decided last    | 0   | height   | rows          | 2 x / height - 1   |

    What is marked is there only with an option: (†) with `observe_cluster`, (‡) with clusters of unequal size or
    `max_devices`, (*) with `observe_rows`, (§) with `observe_model`, which is the default with several models. An
    offload time is the
    latency of the whole model on the best single device of the cluster, in seconds. Values above the maximum are
    cut off. After the last volume the four layer features are -1.

    (*) counts in rows of the volume decided last, as the action did; before the first volume it is -1. (§) is,
    where the next volume begins: multiply-adds of the model, 10^6 to 10^12 on a logarithmic scale; the share of
    them that the head has; the share of the body's that is behind; the share up to the end of the next volume (of
    the next candidate location, where the agent chooses it); bytes of the feature maps alive there, 10^3 to 10^9 on
    a logarithmic scale.

    A cluster smaller than the largest has its devices first. The absent ones have no rows whatever the action, of which
    the last cut points are not read; they are done at time 0 (-1), take forever to compute and to reach (1, †), and
    their cut points (*) are the height (1).

    ## Rewards

    0 before the last volume; then T_offload / T, the speed-up over the best single device (`reward_scale="offload"`),
    or 1 / T in images per second (`reward_scale="paper"`). 0 if a link that is needed is down.

    ## Starting State

    No volume decided, all times 0. With several models or clusters one is drawn uniformly; with traces on its
    links, the time on them at which the image starts is drawn uniformly from the longest trace's period.
    `reset(options=...)` takes `model` and `cluster` (indices) and `start_s` (seconds) instead.

    ## Episode End

    Terminated after the last volume, or as soon as a link that is needed is down. Never truncated.

    ## Arguments

    | Argument          | Default     | Meaning                                                                       |
    |-------------------|-------------|-------------------------------------------------------------------------------|
    | `model`           | `"vgg16"`   | zoo name, path of an ONNX file, or a `Graph`; or a sequence of them           |
    | `cluster`         | `"db-50"`   | name, path or `Cluster`, or a sequence of them; each of at least 2 devices    |
    | `partition`       | `None`      | indices into `graph.cuts`, the last one ending the body; `None`: LC-PSS. With |
    |                   |             | several models only `None`                                                    |
    | `alpha`           | `0.75`      | LC-PSS's weight of transmission, 0 to 1                                       |
    | `n_random`        | `100`       | LC-PSS's number of random split decisions                                     |
    | `partition_seed`  | `0`         | LC-PSS's seed                                                                 |
    | `reward_scale`    | `"offload"` | `"offload"` or `"paper"`                                                      |
    | `observe_cluster` | `False`     | whether the observation describes the devices (needed for several clusters)   |
    | `observe_rows`    | `False`     | whether it has the cut points of the volume decided last                      |
    | `observe_model`   | `None`      | whether it describes the model; `None`: if there are several                  |
    | `max_devices`     | `None`      | the observation then says which of so many devices there are; D. `None`: the  |
    |                   |             | largest cluster's, and that is said where clusters are of unequal size        |
    | `input_dtype`     | `"float32"` | what the requester sends, `"float32"` or `"uint8"`                            |
    | `render_mode`     | `None`      | `"ansi"` or `"rgb_array"`                                                     |

    `info` has the same keys after every step: `latency_s` (of what is decided so far; end to end at the end),
    `images_per_s` and `speedup_over_offload` (0 before the end), `offload_latency_s`, `volume` (volumes decided),
    `cluster` and `model` (indices), `start_s` (seconds on the traces), `feasible`.

    ## Vectorized environment

    `gymnasium.make_vec("distredge/SplitRows-v0", num_envs=n)` steps n copies with one call of a compiled function;
    the step after an episode's end begins the next one, in the same step with `autoreset_mode="SameStep"`.
    `distredge.agents.vec_env` adapts it to stable-baselines3.

    ## Version History

    * v0: initial version.

    Raises:
        ConfigError: if an argument is not one of those above.
    """

    env_id = SPLIT_ROWS

    def __init__(
        self,
        model: Models = "vgg16",
        cluster: Clusters = "db-50",
        *,
        partition: Sequence[int] | None = None,
        alpha: float = lc_pss.ALPHA,
        n_random: int = lc_pss.N_RANDOM,
        partition_seed: int = 0,
        reward_scale: str = "offload",
        observe_cluster: bool = False,
        observe_rows: bool = False,
        observe_model: bool | None = None,
        max_devices: int | None = None,
        input_dtype: str = "float32",
        render_mode: str | None = None,
    ) -> None:
        self._given = partition
        self._lc_pss = (alpha, n_random, partition_seed)
        super().__init__(
            model,
            cluster,
            reward_scale=reward_scale,
            observe_cluster=observe_cluster,
            observe_rows=observe_rows,
            observe_model=observe_model,
            max_devices=max_devices,
            input_dtype=input_dtype,
            render_mode=render_mode,
        )

    def _described(self, graphs: Sequence[Graph], n_devices: int) -> list[Volumes]:
        if self._given is not None and len(graphs) > 1:
            raise ConfigError(located(self.name, "partition", list(self._given), "None with several models"))
        described = []
        self._partitions: dict[int, tuple[int, ...]] = {}
        for graph in graphs:
            ends = tuple(
                lc_pss.partition(graph, n_devices, *self._lc_pss)
                if self._given is None
                else check_partition(self.name, graph, self._given)
            )
            self._partitions[id(graph)] = ends
            layers = [layer_features(graph, graph.cuts[index].reference) for index in ends]
            features = np.array([*layers, np.full(LAYER_FEATURES, -1.0)])
            described.append(Volumes(ends, features, (-1, *ends)))
        return described

    @property
    def partition(self) -> tuple[int, ...]:
        """Indices into `graph.cuts` where the volumes of the current model end."""
        return self._partitions[id(self.graph)]
