"""Draws the corpus and trains every model of the miniature; `bottega miniature build` and `train` stand on it.

Nothing that a run needs lies here: scenes, painters, data sets and the shipped weights live one level up.
"""
