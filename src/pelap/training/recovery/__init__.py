"""A short training after pruning that wins quality back. Read recovery_loop.py first."""
