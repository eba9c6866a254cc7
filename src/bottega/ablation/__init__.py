"""Variants of one recipe, trained together and measured alike: which choice is worth what, and how sure is that?

Read `stage.run` first. `variants.py` has the factors and what each variant changes, `plan.py` the budgets, `records.py`
what `ablation/summary.json` holds.
"""

__all__ = ["plan", "records", "stage", "variants"]
