"""Draws the corpus and trains every model of the miniature; `bottega miniature build` and `train` call it.

Nothing that a run needs is here: scenes, painters, data sets and the shipped weights are one level up.
"""
