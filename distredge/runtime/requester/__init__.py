"""The requester's side: deploys plans, runs frames."""
