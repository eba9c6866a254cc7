"""The miniature: a drawn world with ground truth, and models of the full architectures trained on it from scratch."""
