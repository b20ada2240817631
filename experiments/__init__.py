"""Experiments and benchmarks, one command each."""
