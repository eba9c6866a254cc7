"""The miniature: a drawn world with ground truth, and models of the full architectures trained on it from scratch."""

__all__ = [
    "config",
    "datasets",
    "painters",
    "scenes",
    "world",
]
