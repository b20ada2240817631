"""Measuring a board: operators, segments, message ends, power."""
