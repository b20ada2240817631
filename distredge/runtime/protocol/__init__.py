"""What workers and requester say to each other, and how it travels."""
