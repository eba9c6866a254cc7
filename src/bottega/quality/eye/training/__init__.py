"""What the eye learns from, and its training."""
