"""Searches for throughput, energy, memory limits, and fronts of several objectives."""
