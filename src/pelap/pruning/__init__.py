"""Remove latent channels for real: which, from which weights, and what comes out."""
