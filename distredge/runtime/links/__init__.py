"""Measuring links between workers."""
