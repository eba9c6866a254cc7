"""Pictures of a training on its way: a few validation samples, drawn as the adapter will be used.

    samples/step_00000500.png    a row a sample: content | target | in its own style | in another picture's style

The autoencoder is loaded for the moment of drawing and let go after it. Nothing that is learned depends on this: the
noise of a sample is a function of its name.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bottega.runtime.files import write_png
from bottega.runtime.memory import trim
from bottega.runtime.seeds import derive
from bottega.student.objective import StyleWorkload
from bottega.student.sampler import Sampler
from bottega.student.validation import other_style
from bottega.visual.contact_sheet import tile
from bottega.visual.pictures import Picture, Pictures, finite_share, to_uint8

LOGGER = logging.getLogger(__name__)
FOLDER = "samples"
_GAP = 4  # pixels of white between pictures
_SHEETS = 64


class Samples:
    """Draws the first samples of the validation with the adapter as it is.

    rows: of samples.jsonl, the whole validation. count: how many of them are drawn. pixart: the autoencoder's folder.
    """

    def __init__(self, work: StyleWorkload, rows: list[dict[str, Any]], count: int, pixart: Path) -> None:
        self.work, self.rows, self.pixart = work, rows[:count], pixart
        others = [other_style(rows, i) for i in range(len(self.rows))]
        self.others = [row | other for row, other in zip(self.rows, others, strict=True) if other is not None]

    def write(self, directory: Path, step: int) -> list[Path]:
        """Draw and write `directory`/samples/step_N.png; a value that is not finite is drawn in magenta.

        Of more than 64 sheets every second is deleted, but for the first and the newest.
        """
        file = directory / FOLDER / f"step_{step:08d}.png"
        write_png(file, sheet(self.columns()))
        files = sorted(file.parent.glob("step_*.png"))
        for surplus in files[1:-1:2] if len(files) > _SHEETS else ():
            surplus.unlink(missing_ok=True)
        return [file]

    @torch.no_grad()
    def columns(self) -> list[Pictures]:
        """Content, target, own style, other style: four times uint8 [N, S, S, 3]; three where all have one style."""
        from bottega.models.autoencoder import LatentEncoder

        store = self.work.store
        latents = [store.latents([row[name] for row in self.rows]) for name in ("content", "target")]
        shown = (self.rows, self.others) if len(self.others) == len(self.rows) else (self.rows,)
        latents += [self.drawn(rows, latents[0]) for rows in shown]
        vae = LatentEncoder(self.pixart / "vae", str(self.work.backbone.device))
        columns = [np.concatenate([_to_uint8(vae.decode(one[None])) for one in column]) for column in latents]
        del vae
        trim()
        return columns

    def drawn(self, rows: list[dict[str, Any]], contents: torch.Tensor) -> torch.Tensor:
        """Latents [N, C, h, w] of contents in the rows' styles, one after the other, on the CPU."""
        work, config = self.work, self.work.config
        pictures = []
        for row, content in zip(rows, contents, strict=True):
            style, of, _, caption = work.styles([row], np.zeros(1, dtype=bool))
            text = work.store.text_row(row["text"])
            sampler = Sampler(
                work.backbone, work.attachment, config.sampling, style, of, [text], work.null_text, caption
            )
            seed = derive(config.seed, "sample picture", row["sample_id"])
            pictures.append(sampler.draw(content[None], [seed], work.path.start).cpu())
        return torch.cat(pictures)


def sheet(columns: list[Pictures]) -> Picture:
    """Columns of pictures [N, S, S, 3], side by side on white."""
    rows = zip(*columns, strict=True)
    return tile([picture for row in rows for picture in row], len(columns), gap=_GAP)


def _to_uint8(pictures: npt.NDArray[np.float32]) -> Pictures:
    """Pictures in 0…1 as uint8; what is not finite becomes magenta, for a sample must not stop a training."""
    share = finite_share(pictures)
    if share < 1:
        LOGGER.warning("%.0f %% of a sample picture is not finite; it is drawn in magenta", 100 * (1 - share))
    return to_uint8(pictures, non_finite="magenta", exact=True)
