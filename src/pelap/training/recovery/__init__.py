"""A short training after pruning that wins quality back. Read student_training.py first."""
