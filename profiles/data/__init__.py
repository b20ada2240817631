"""Published profiles and tables, each with its source and date."""
