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
CLOCK_OFFSET_S: Final = "clock_offset_s"
CLOCK_ERROR_S: Final = "clock_error_s"

# One episode: columns of `progress.csv`, and TensorBoard tags of a training run's own folder.
EPISODE_REWARD: Final = "episode/reward"
EPISODE_LATENCY_S: Final = "episode/latency_s"
BEST_LATENCY_S: Final = "best/latency_s"
EXPLORATION: Final = "exploration/epsilon"
EVALUATION_LATENCY_S: Final = "evaluation/latency_s"

# TensorBoard: tags that several lines share, each line in a sub-run of its own. A person reads them: milliseconds.
LINE_LATENCY_MS: Final = "strategy/latency_ms"
LINE_IMAGES_PER_S: Final = "strategy/images_per_s"
LINE_SPEEDUP: Final = "strategy/speedup_over_offload"
LINE_GAP: Final = "strategy/gap_to_search"

# TensorBoard: the sub-runs, folders beside a run's own file.
EPISODES_LINE: Final = "episodes"
FRAMES_LINE: Final = "frames"
IN_FLIGHT_LINE: Final = "in_flight"
MEAN_LINE: Final = "mean_100"
BEST_LINE: Final = "best"
GREEDY_LINE: Final = "greedy"
OFFLOAD_LINE: Final = "offload"
SEARCH_LINE: Final = "search"
PREDICTED_LINE: Final = "predicted"

# TensorBoard: a training run's own folder. Where stable-baselines3 has a name, it is that one.
MEAN_REWARD: Final = "rollout/ep_rew_mean"
STEPS_PER_S: Final = "time/fps"
EPISODES_PER_S: Final = "time/episodes_per_s"
UPDATES_PER_S: Final = "time/updates_per_s"
HELD_OUT_SPEEDUP: Final = "held_out/speedup_over_offload"
DEVICE_BUSY: Final = "devices/busy_share"
DEVICE_QUEUE: Final = "devices/queued_stages"
DEVICE_TEMPERATURE: Final = "devices/temperature_c"
STREAM_P50_MS: Final = "stream/latency_p50_ms"
STREAM_P95_MS: Final = "stream/latency_p95_ms"
STREAM_P99_MS: Final = "stream/latency_p99_ms"
STREAM_IMAGES_PER_S: Final = "stream/images_per_s"
ACTIONS: Final = "actions"
ACTIONS_AT_BOUNDS: Final = "actions/share_at_bounds"
TIMELINE: Final = "strategy/timeline"
SPLITS: Final = "strategy/splits"
RUN_CONFIG: Final = "config"

# TensorBoard: columns of the "hparams" page.
HPARAM_LATENCY_MS: Final = "hparam/best_latency_ms"
HPARAM_IMAGES_PER_S: Final = "hparam/best_images_per_s"
HPARAM_SPEEDUP: Final = "hparam/speedup_over_offload"
HPARAM_GAP: Final = "hparam/gap_to_search"
HPARAM_FOUND_IN: Final = "hparam/found_in_episode"
HPARAM_EPISODES: Final = "hparam/episodes"
HPARAM_SECONDS: Final = "hparam/seconds"

# Prometheus.
FRAMES_TOTAL: Final = "distredge_frames_total"
FRAME_ERRORS_TOTAL: Final = "distredge_frame_errors_total"
FRAME_LATENCY_SECONDS: Final = "distredge_frame_latency_seconds"
BYTES_SENT_TOTAL: Final = "distredge_bytes_sent_total"
BYTES_RECEIVED_TOTAL: Final = "distredge_bytes_received_total"
BAD_MESSAGES_TOTAL: Final = "distredge_bad_messages_total"
COMPUTE_SECONDS_TOTAL: Final = "distredge_compute_seconds_total"
IMAGES_PER_SECOND: Final = "distredge_images_per_second"
PREDICTED_LATENCY_SECONDS: Final = "distredge_predicted_latency_seconds"
DEVICE_FRAMES_TOTAL: Final = "distredge_device_frames_total"
DEVICE_QUEUED_STAGES: Final = "distredge_device_queued_stages"
DEVICE_OPEN_FRAMES: Final = "distredge_device_open_frames"
DEVICE_TEMPERATURE_CELSIUS: Final = "distredge_device_temperature_celsius"
DEVICE_STATE: Final = "distredge_device_state"
DEVICE_SILENT_SECONDS: Final = "distredge_device_silent_seconds"
CLOCK_OFFSET_SECONDS: Final = "distredge_clock_offset_seconds"
CLOCK_ERROR_SECONDS: Final = "distredge_clock_error_seconds"
