"""Images, labels, sources and sinks."""
