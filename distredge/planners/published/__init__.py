"""The published methods, a file each."""
