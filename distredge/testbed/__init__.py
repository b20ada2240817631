"""Emulated boards and links on one machine."""
