"""Every name under which a figure is reported, once: tables, JSON, TensorBoard tags and Prometheus metrics.

The keys of JSON output are the plain names, with the unit at the end. TensorBoard tags carry a group before a slash.
"""

from __future__ import annotations

from typing import Final

# What a strategy costs: keys of `--json` output and of `Strategy.predicted`.
LATENCY_S: Final = "latency_s"
IMAGES_PER_S: Final = "images_per_s"
THROUGHPUT_PER_S: Final = "throughput_per_s"
OFFLOAD_LATENCY_S: Final = "offload_latency_s"
SPEEDUP: Final = "speedup_over_offload"
BYTES_SENT: Final = "bytes_sent"
RECOMPUTE_RATIO: Final = "recompute_ratio"
ENERGY_J: Final = "energy_j"
PEAK_MEMORY_BYTES: Final = "peak_memory_bytes"
BOUND_BY: Final = "bound_by"
BOTTLENECK: Final = "bottleneck"
UTILISATION: Final = "utilisation"
LINK_BYTES: Final = "link_bytes"

# TensorBoard: training.
EPISODE_REWARD: Final = "episode/reward"
EPISODE_LATENCY_S: Final = "episode/latency_s"
EPISODE_IMAGES_PER_S: Final = "episode/images_per_s"
BEST_LATENCY_S: Final = "best/latency_s"
BEST_IMAGES_PER_S: Final = "best/images_per_s"
OFFLOAD_IMAGES_PER_S: Final = "best/offload_images_per_s"
EXPLORATION: Final = "exploration/epsilon"
EVALUATION_LATENCY_S: Final = "evaluation/latency_s"
BEST_TIMELINE: Final = "best/timeline"
RUN_CONFIG: Final = "config"

# TensorBoard: a run.
RUN_LATENCY_S: Final = "run/latency_s"
RUN_IMAGES_PER_S: Final = "run/images_per_s"
RUN_PREDICTED_S: Final = "run/predicted_latency_s"
RUN_TIMELINE: Final = "run/timeline"

# Prometheus.
FRAMES_TOTAL: Final = "distredge_frames_total"
FRAME_ERRORS_TOTAL: Final = "distredge_frame_errors_total"
FRAME_LATENCY_SECONDS: Final = "distredge_frame_latency_seconds"
BYTES_SENT_TOTAL: Final = "distredge_bytes_sent_total"
BYTES_RECEIVED_TOTAL: Final = "distredge_bytes_received_total"
BAD_MESSAGES_TOTAL: Final = "distredge_bad_messages_total"
COMPUTE_SECONDS_TOTAL: Final = "distredge_compute_seconds_total"
REPLANS_TOTAL: Final = "distredge_replans_total"
