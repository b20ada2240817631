"""Network traces: formats and generators."""
