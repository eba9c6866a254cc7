"""Schedules, the forward process, predictions, samplers and the ideal denoiser: mathematics only, no model, no file.

from bottega.diffusion.schedule import NoiseSchedule      ᾱ in float64, read from a scheduler's configuration
from bottega.diffusion.process import add_noise, ddim_step, effective_noise
from bottega.diffusion.paths import schedule             α and σ by name, for training from scratch; the flow path too
from bottega.diffusion.predictions import convert        between ε, v, x_0 and the flow's velocity
from bottega.diffusion.plan import Sampling, Thresholding        checked when a recipe is read
from bottega.diffusion.sampling import sample            DDPM, DDIM, DPM-Solver++(2M)
from bottega.diffusion.ideal import IdealDenoiser, loss_floor    the best that training can reach
"""
