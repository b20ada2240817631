"""Benchmarks of Distredge itself."""
