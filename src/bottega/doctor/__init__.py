"""What is wrong, and what to do first: a training run, from its log."""
