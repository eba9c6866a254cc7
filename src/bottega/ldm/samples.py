"""Pictures of a training on its way: samples/ in the run directory, a sheet a validation, from fixed seeds.

samples/epoch-20.png      the pictures side by side; prompts.txt says of what, where a prompt does
"""

from __future__ import annotations

from pathlib import Path

from bottega.ldm.autoencoder import Autoencoder, FloatPictures
from bottega.ldm.drawing import draw_latents
from bottega.ldm.objective import LatentWorkload
from bottega.runtime.files import write_png, write_text
from bottega.runtime.seeds import derive
from bottega.visual.contact_sheet import tile
from bottega.visual.pictures import Picture, to_uint8

FOLDER = "samples"
_GAP = 4  # pixels of white between pictures
_WIDTH = 1280  # pixels of a sheet at most


class SampleWriter:
    """Draws the same prompts with the same seeds each time that the loop asks."""

    def __init__(self, work: LatentWorkload, autoencoder: Autoencoder) -> None:
        self.work, self.autoencoder = work, autoencoder
        count, recipe = work.recipe.validation.samples, work.recipe
        given = recipe.validation.prompts or tuple(s.captions[0] for s in (work.held_out or work.samples)[:count])
        self.prompts = [given[i % len(given)] for i in range(count)]
        self.seeds = [derive("ldm sample", recipe.seed, i) for i in range(count)]

    def write(self, directory: Path, step: int) -> list[Path]:
        """Draw into the run directory what the model gives after `step`: the files."""
        work, sampling = self.work, self.work.recipe.sampling
        plan, shape = sampling.plan(work.latents.statistics["absmax"]), work.latents.training.shape[1:]
        scale = sampling.guidance_scale
        latents = draw_latents(work.model, work.path, plan, shape, self.prompts, self.seeds, scale)
        work.model.train()
        file = directory / FOLDER / f"{work.checkpoint_name(step)}.png"
        write_png(file, sheet(self.autoencoder.decode(latents)))
        if work.recipe.text.kind != "none":
            write_text(file.with_name("prompts.txt"), "".join(f"{prompt}\n" for prompt in self.prompts))
        return [file]


def sheet(pictures: FloatPictures) -> Picture:
    """Pictures in 0…1, [N, S, S, 3], in rows on white, uint8; a value that is not finite becomes magenta."""
    count, side = pictures.shape[:2]
    columns = max(1, min(count, _WIDTH // (side + _GAP)))
    return tile(to_uint8(pictures, non_finite="magenta", exact=True), columns, gap=_GAP)
