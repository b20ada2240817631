"""The compiled kernel: the simulator's recurrence over arrays, in batches; `kernel` is its door."""
