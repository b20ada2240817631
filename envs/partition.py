"""A decision process in which the agent also chooses the partition scheme."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from distredge.envs import PARTITION
from distredge.envs.decisions import volume_end
from distredge.envs.observation import layer_features
from distredge.envs.process import Volumes
from distredge.envs.volumes import VolumesEnv

if TYPE_CHECKING:
    from distredge.model.graph import Graph

__all__ = ["PartitionEnv", "volume_end"]


class PartitionEnv(VolumesEnv):
    """Choose where each layer-volume ends, and deal its rows out over the devices of a cluster.

    ## Description

    As `distredge/SplitRows-v0`, but the partition scheme is not given: a step decides both where the next volume ends
    and which rows of its output each device computes. An episode has as many steps as the agent makes volumes. What an
    episode costs is said by `distredge.latency`; the head device is the one with most rows of the last volume, the
    first of them on a tie. Devices keep the order of the cluster file.

    ## Action Space

    `Box(-1, 1, (n_devices,), float32)`. The first value chooses the end of the volume: the range from -1 to 1 is
    divided into equal shares for the candidate locations that are left, the end of the CNN's body among them. The
    others are sorted; value a becomes the cut point `round(height * (a + 1) / 2)` of the rows of the volume's output.
    Device i computes the rows between cut points i and i + 1, counted with 0 before and `height` after them; two equal
    cut points leave a device without work.

    ## Observation Space

    `Box(-1, 1, (n_devices + 6,), float32)`, more with the options marked. D = n_devices, of the largest cluster.

    | Index  | Meaning                                      | Min | Max      | Unit            | Scaled as          |
    |--------|----------------------------------------------|-----|----------|-----------------|--------------------|
    | 0      | D values: when each device has done its part | 0   | infinity | offload times   | 2 x / (1 + x) - 1  |
    | D      | height of the last layer decided             | 1   | 4096     | rows            | log x / log 64 - 1 |
    | D + 1  | its channels                                 | 1   | 4096     | channels        | log x / log 64 - 1 |
    | D + 2  | its kernel                                   | 0   | 15       | rows            | 2 x / 15 - 1       |
    | D + 3  | its stride                                   | 0   | 8        | rows            | x / 4 - 1          |
    | D + 4  | candidate locations that are behind          | 0   | 1        | share of all    | 2 x - 1            |
    | D + 5  | multiply-adds that are behind                | 0   | 1        | share of body's | 2 x - 1            |
    | then   | 5 values (§): what tells models apart        |     |          |                 | see below          |
    | then   | D values (†): the whole model on each device | 0   | infinity | offload times   | 2 x / (1 + x) - 1  |
    | then   | D values (†): the input's way to each device | 0   | infinity | offload times   | 2 x / (1 + x) - 1  |
    | then   | D values (‡): whether there is that device   | no  | yes      |                 | -1 or 1            |
    | then   | D - 1 values (*): cut points decided last    | 0   | height   | rows            | 2 x / height - 1   |

    What is marked is there only with an option: (†) with `observe_cluster`, (‡) with clusters of unequal size, (*)
    with `observe_rows`, (§) with `observe_model`, which is the default with several models. An offload time is the
    latency of the whole model on the best single device of the cluster, in seconds. Values above the maximum are
    cut off. The last layer decided is the one that makes the tensor at the end of the last volume; before the first
    volume it is the CNN's input, with kernel and stride 1.

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

    Terminated when a volume ends where the CNN's body does, or as soon as a link that is needed is down. Never
    truncated.

    ## Arguments

    | Argument          | Default     | Meaning                                                                       |
    |-------------------|-------------|-------------------------------------------------------------------------------|
    | `model`           | `"vgg16"`   | zoo name, path of an ONNX file, or a `Graph`; or a sequence of them           |
    | `cluster`         | `"db-50"`   | name, path or `Cluster`, or a sequence of them; each of at least 2 devices    |
    | `reward_scale`    | `"offload"` | `"offload"` or `"paper"`                                                      |
    | `observe_cluster` | `False`     | whether the observation describes the devices (needed for several clusters)   |
    | `observe_rows`    | `False`     | whether it has the cut points of the volume decided last                      |
    | `observe_model`   | `None`      | whether it describes the model; `None`: if there are several                  |
    | `max_devices`     | `None`      | the observation then says which of so many devices there are; D. `None`: the  |
    |                   |             | largest cluster's, and that is said where clusters are of unequal size        |
    | `input_dtype`     | `"float32"` | what the requester sends, `"float32"` or `"uint8"`                            |
    | `render_mode`     | `None`      | `"ansi"` or `"rgb_array"`                                                     |

    `info` is that of `distredge/SplitRows-v0`.

    ## Vectorized environment

    `gymnasium.make_vec("distredge/Partition-v0", num_envs=n)` steps n copies with one call of a compiled function;
    the step after an episode's end begins the next one, in the same step with `autoreset_mode="SameStep"`.
    `distredge.agents.vec_env` adapts it to stable-baselines3.

    ## Version History

    * v0: initial version.

    Raises:
        ConfigError: if an argument is not one of those above.
    """

    env_id = PARTITION

    def _described(self, graphs: Sequence[Graph], n_devices: int) -> list[Volumes]:
        return [_candidates(graph) for graph in graphs]


def _candidates(graph: Graph) -> Volumes:
    done_macs = np.cumsum([0, *(graph.macs[index] for index in graph.body.operators)], dtype=np.float64)
    positions = [0, *(cut.position for cut in graph.cuts)]
    starts = [graph.input_names[0], *(cut.reference for cut in graph.cuts)]
    features = [
        np.append(
            layer_features(graph, start),
            [2.0 * i / len(graph.cuts) - 1.0, 2.0 * done_macs[position] / max(done_macs[-1], 1.0) - 1.0],
        )
        for i, (start, position) in enumerate(zip(starts, positions, strict=True))
    ]
    return Volumes(None, np.array(features), (-1, *range(len(graph.cuts))))
