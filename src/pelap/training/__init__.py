"""Training: one step, the loop around it, and state that resumes bit for bit."""
