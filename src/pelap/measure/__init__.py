"""One pass over pictures, and what is counted and timed."""
