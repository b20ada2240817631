"""Agents that learn to split a CNN: training, callbacks, evaluation."""
