"""Sample pictures during training: samples/ in the run directory, a sheet a validation, from fixed seeds.

samples/epoch-20.png      the pictures side by side; prompts.txt lists their prompts, where the model has text
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
    """Draws the same prompts with the same seeds each time.

    Args:
        work: what is trained.
        autoencoder: of its latents.
    """

    def __init__(self, work: LatentWorkload, autoencoder: Autoencoder) -> None:
        self.work = work
        self.autoencoder = autoencoder
        recipe = work.recipe
        count = recipe.validation.samples
        prompts = list(recipe.validation.prompts)
        if not prompts:
            captioned = work.held_out or work.samples
            prompts = [sample.captions[0] for sample in captioned[:count]]
        self.prompts = [prompts[index % len(prompts)] for index in range(count)]
        self.seeds = [derive("ldm sample", recipe.seed, index) for index in range(count)]

    def write(self, directory: Path, step: int) -> list[Path]:
        """Draw into the run directory what the model gives after `step` steps: the files."""
        work = self.work
        sampling = work.recipe.sampling
        latents = draw_latents(
            work.model,
            work.schedule,
            sampling.plan(work.latents.statistics["absmax"]),
            work.latents.training.shape[1:],
            self.prompts,
            self.seeds,
            sampling.guidance_scale,
        )
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
