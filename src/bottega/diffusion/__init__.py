"""Schedules, the forward process, prediction types and the sampler's step: mathematics only, no model and no file.

from bottega.diffusion.schedule import NoiseSchedule      ᾱ in float64, read from a scheduler's configuration
from bottega.diffusion.process import add_noise, ddim_step, effective_noise
"""
