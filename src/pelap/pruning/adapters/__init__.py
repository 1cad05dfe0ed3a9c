"""Carry adapters of an original model to what was pruned from it."""
