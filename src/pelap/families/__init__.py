"""What pelap knows of each class of models."""
