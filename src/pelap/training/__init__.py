"""Training: a loop, what it trains a run or a student towards, what it writes. Read loop.py."""
