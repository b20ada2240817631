"""Our search: annealing of many strategies at once on the compiled kernel."""
