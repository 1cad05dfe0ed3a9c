"""Fewer tokens for a diffusion transformer: larger patches of latents."""
