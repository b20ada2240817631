"""Workers, the coordinator and what they say to each other."""
