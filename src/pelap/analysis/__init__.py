"""Which latent channels are used? The measuring itself is in analyze.py: this imports no torch."""
