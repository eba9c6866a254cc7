"""What every trainer shares: the loop, exact checkpoints, guards, the log and the verdict.

training.config.LoopConfig     length, learning rate, warm-up, clipping, checkpoints
training.loop.train            one window of samples after another, stopped and resumed at any instant
training.checkpoint            folders that appear whole or not at all; the last N are kept
training.sampling              which sample stands in which slot, by counter
training.diagnosis.verdict     is it learning? in one word, with its evidence
"""
