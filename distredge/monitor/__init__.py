"""Metric names and the ways to watch them."""
