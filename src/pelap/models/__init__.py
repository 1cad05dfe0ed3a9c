"""Models of any origin: opened from folders, runs, the hub or a factory; saved for diffusers."""
