"""Schedules, the forward process, predictions, samplers and the ideal denoiser: mathematics only, no model, no file.

    from bottega.diffusion.schedule import named_schedule        α and σ by name, for training from scratch; flow too
    from bottega.diffusion.schedule import from_scheduler_config     the same, read from a checkpoint's scheduler
    from bottega.diffusion.process import add_noise, ddim_step, effective_noise
    from bottega.diffusion.predictions import convert            between ε, v, x_0 and the flow's velocity
    from bottega.diffusion.plan import Sampling, Thresholding    checked when a recipe is read
    from bottega.diffusion.sampling import sample                DDPM, DDIM, DPM-Solver++(2M)
    from bottega.diffusion.ideal import IdealDenoiser, loss_floor    the best that training can reach

`schedule` and `plan` import no torch, so that a recipe is checked without it.
"""

__all__ = ["ideal", "plan", "predictions", "process", "sampling", "schedule"]
