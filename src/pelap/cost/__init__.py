"""What a model costs: counted, and timed against another in one run."""
