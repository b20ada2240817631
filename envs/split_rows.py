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

    `Box(-1, 1, (n_devices + 4,), float32)`, `(3 * n_devices + 4,)` with `observe_cluster`. D = n_devices.

    | Index  | Meaning                                      | Min | Max      | Unit          | Scaled as          |
    |--------|----------------------------------------------|-----|----------|---------------|--------------------|
    | 0      | D values: when each device has done its part | 0   | infinity | offload times | 2 x / (1 + x) - 1  |
    | D      | height of the next volume's last layer       | 1   | 4096     | rows          | log x / log 64 - 1 |
    | D + 1  | its channels                                 | 1   | 4096     | channels      | log x / log 64 - 1 |
    | D + 2  | its kernel                                   | 0   | 15       | rows          | 2 x / 15 - 1       |
    | D + 3  | its stride                                   | 0   | 8        | rows          | x / 4 - 1          |
    | D + 4  | D values (†): the whole model on each device | 0   | infinity | offload times | 2 x / (1 + x) - 1  |
    | 2D + 4 | D values (†): the input's way to each device | 0   | infinity | offload times | 2 x / (1 + x) - 1  |

    (†) only with `observe_cluster`. An offload time is the latency of the whole model on the best single device of the
    cluster, in seconds. Values above the maximum are cut off. After the last volume the four layer features are -1.

    ## Rewards

    0 before the last volume; then T_offload / T, the speed-up over the best single device (`reward_scale="offload"`),
    or 1 / T in images per second (`reward_scale="paper"`). 0 if a link that is needed is down.

    ## Starting State

    No volume decided, all times 0. With several clusters one is drawn uniformly; with traces on its links, the time on
    them at which the image starts is drawn uniformly from the longest trace's period. `reset(options=...)` takes
    `cluster` (index) and `start_s` (seconds) instead.

    ## Episode End

    Terminated after the last volume, or as soon as a link that is needed is down. Never truncated.

    ## Arguments

    | Argument          | Default     | Meaning                                                                       |
    |-------------------|-------------|-------------------------------------------------------------------------------|
    | `model`           | `"vgg16"`   | zoo name, path of an ONNX file, or a `Graph`                                  |
    | `cluster`         | `"db-50"`   | name, path or `Cluster`, or a sequence of them with equally many devices      |
    | `partition`       | `None`      | indices into `graph.cuts`, the last one ending the body; `None`: LC-PSS       |
    | `alpha`           | `0.75`      | LC-PSS's weight of transmission, 0 to 1                                       |
    | `n_random`        | `100`       | LC-PSS's number of random split decisions                                     |
    | `partition_seed`  | `0`         | LC-PSS's seed                                                                 |
    | `reward_scale`    | `"offload"` | `"offload"` or `"paper"`                                                      |
    | `observe_cluster` | `False`     | whether the observation describes the devices (needed for several clusters)   |
    | `input_dtype`     | `"float32"` | what the requester sends, `"float32"` or `"uint8"`                            |
    | `render_mode`     | `None`      | `"ansi"` or `"rgb_array"`                                                     |

    `info` has the same keys after every step: `latency_s` (of what is decided so far; end to end at the end),
    `images_per_s` and `speedup_over_offload` (0 before the end), `offload_latency_s`, `volume` (volumes decided),
    `cluster` (index), `start_s` (seconds on the traces), `feasible`.

    ## Vectorized environment

    `gymnasium.make_vec("distredge/SplitRows-v0", num_envs=n)` steps n copies with one call of the compiled kernel;
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
            input_dtype=input_dtype,
            render_mode=render_mode,
        )

    def _described(self, graphs: Sequence[Graph], n_devices: int) -> list[Volumes]:
        if self._given is not None and len(graphs) > 1:
            raise ConfigError(located(self.name, "partition", list(self._given), "None with several models"))
        described = []
        for graph in graphs:
            ends = (
                lc_pss.partition(graph, n_devices, *self._lc_pss)
                if self._given is None
                else check_partition(self.name, graph, self._given)
            )
            layers = [layer_features(graph, graph.cuts[index].reference) for index in ends]
            features = np.array([*layers, np.full(LAYER_FEATURES, -1.0)])
            described.append(Volumes(tuple(ends), features, (-1, *ends)))
        self._partitions = {id(graph): item.ends for graph, item in zip(graphs, described, strict=True)}
        return described

    @property
    def partition(self) -> tuple[int, ...]:
        """Indices into `graph.cuts` where the volumes of the current model end."""
        return self._partitions[id(self.graph)]
