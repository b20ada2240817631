"""What a strategy costs: the simulator and its compiled kernel."""
