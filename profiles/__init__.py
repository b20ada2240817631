"""Compute and network profiles: what a board and a link can do, measured or modelled."""
