"""What every trainer shares: the loop, exact checkpoints, guards, the log and the verdict.

training.config.LoopConfig     length, learning rate, warm-up, clipping, checkpoints
training.loop.train            one window of samples after another, stopped and resumed at any instant
training.checkpoint            folders that appear whole or not at all; the last N are kept
training.scaling               a loss scale for float16, with which no step is skipped
training.ema                   the average of the weights, if asked for
training.processes             several processes on one window, as `accelerate launch` starts them
training.journal               what a run writes for people and programs as it goes
training.sampling              which sample stands in which slot, by counter
training.guards                what is not finite, and memory that runs short, stop a run before damage
training.replay                a step that was not finite, computed again to find where it began
training.verify                a stopped and resumed training set beside an uninterrupted one
training.diagnosis             is it learning? in words, with the evidence and what to try
"""
