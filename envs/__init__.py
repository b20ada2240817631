"""Gymnasium environments in which an agent splits a CNN over a cluster."""
