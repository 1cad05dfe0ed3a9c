"""Remove latent channels: which, from which weights."""
