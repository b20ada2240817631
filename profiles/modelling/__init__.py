"""Profiles of boards that nobody measured here, fitted to published figures."""
