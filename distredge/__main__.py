"""`python -m distredge` is the `distredge` command; `distredge.cli` leaves the current folder as it is imported."""

from __future__ import annotations

from distredge.cli.main import main

if __name__ == "__main__":
    main()
