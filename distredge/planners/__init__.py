"""Planning methods, by name."""
