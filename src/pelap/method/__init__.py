"""The method in one forward pass, and the paper's own networks. Read system.py first."""
