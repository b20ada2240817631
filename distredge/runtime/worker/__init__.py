"""The worker's side: computes its part of the plans that it is given."""
