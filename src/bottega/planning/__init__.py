"""What a recipe will take of a machine, forecast from its numbers alone: no weights are loaded and nothing is run.

`networks` knows the networks by their configurations, `costs` counts what one pass of them computes and holds,
`stages` adds up what is in memory at the same time, `growth` extrapolates to many targets, `plan` is all of it.
"""

__all__ = ["costs", "growth", "networks", "passes", "plan", "stages"]
