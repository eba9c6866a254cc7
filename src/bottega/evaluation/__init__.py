"""How good the student is: metrics on held-out pairs beside their controls, with crossed bootstrap intervals.

The flow is in `stage.py`: pictures of every method -> `scores.jsonl` (one line a picture and metric) -> `summary.json`
and `table.md`. `stage.run` and `config.EvaluationConfig` are what others use; nothing heavy is imported here.
"""

__all__ = ["config", "stage"]
