"""Boards that are reached by ssh: what is on them, installing, starting and ending their workers.

Stands above `runtime`, whose keys and cluster files it carries to the boards, and below `monitor` and `cli`.
"""
