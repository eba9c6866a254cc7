"""Sample pictures during training: a few validation samples, drawn as at inference.

    samples/step_00000500.png    a row a sample: content | target | in its own style | in another picture's style

The autoencoder is loaded only while it decodes. Nothing that is learned depends on this: the noise of a sample is a
function of its name.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from bottega.models.layout import weight_files
from bottega.models.rehearsal.marker import has_random_weights, picture_text
from bottega.runtime.files import write_png
from bottega.runtime.memory import trim
from bottega.runtime.seeds import derive
from bottega.student.objective import StyleWorkload
from bottega.student.records import SampleRow
from bottega.student.sampler import Sampler
from bottega.student.validation import other_style, with_style
from bottega.visual.contact_sheet import tile
from bottega.visual.pictures import Picture, Pictures, finite_share, to_uint8

LOGGER = logging.getLogger(__name__)
FOLDER = "samples"
_GAP = 4
"""Pixels of white between pictures."""
_MAX_SHEETS = 64
"""Sheets kept: of a long run every second is deleted when there are more."""


class StyleSampleWriter:
    """Draws the first samples of the validation with the adapter as it is.

    Args:
        work: what is trained.
        rows: the whole validation.
        count: how many of its samples are drawn.
        pixart: folder of the autoencoder.
    """

    def __init__(self, work: StyleWorkload, rows: list[SampleRow], count: int, pixart: Path) -> None:
        self.work = work
        self.rows = rows[:count]
        self.pixart = pixart
        self.others: list[SampleRow] = []
        for index, row in enumerate(self.rows):
            other = other_style(rows, index)
            if other is not None:
                self.others.append(with_style(row, other))

    def write(self, directory: Path, step: int) -> list[Path]:
        """Draw and write `directory`/samples/step_N.png; a value that is not finite is drawn in magenta."""
        file = directory / FOLDER / f"step_{step:08d}.png"
        text = picture_text(["pixart"] if has_random_weights(weight_files(self.pixart)) else [])
        write_png(file, sheet(self.columns()), text)
        sheets = sorted(file.parent.glob("step_*.png"))
        if len(sheets) > _MAX_SHEETS:
            for surplus in sheets[1:-1:2]:  # the first and the newest stay
                surplus.unlink(missing_ok=True)
        return [file]

    @torch.no_grad()
    def columns(self) -> list[Pictures]:
        """Content, target, own style, other style: four times uint8 [N, S, S, 3]; three where all have one style."""
        from bottega.models.autoencoder import LatentEncoder

        store = self.work.store
        contents = store.latents([row["content"] for row in self.rows])
        latents = [contents, store.latents([row["target"] for row in self.rows])]
        latents.append(self.drawn(self.rows, contents))
        if len(self.others) == len(self.rows):
            latents.append(self.drawn(self.others, contents))
        vae = LatentEncoder(self.pixart / "vae", str(self.work.backbone.device))
        columns = []
        for column in latents:
            columns.append(np.concatenate([_to_uint8(vae.decode(one[None])) for one in column]))
        del vae
        trim()
        return columns

    def drawn(self, rows: list[SampleRow], contents: torch.Tensor) -> torch.Tensor:
        """Latents [N, C, h, w] of contents in the rows' styles, one after the other, on the CPU."""
        work = self.work
        pictures = []
        for row, content in zip(rows, contents, strict=True):
            inputs = work.styles([row], np.zeros(1, dtype=bool))
            sampler = Sampler(
                work.backbone,
                work.attachment,
                work.config.sampling,
                inputs.style,
                inputs.content,
                [work.store.text_row(row["text"])],
                work.null_text,
                inputs.caption,
            )
            seed = derive(work.config.seed, "sample picture", row["sample_id"])
            pictures.append(sampler.draw(content[None], [seed], work.trajectory.start).cpu())
        return torch.cat(pictures)


def sheet(columns: list[Pictures]) -> Picture:
    """Columns of pictures [N, S, S, 3], side by side on white."""
    pictures = []
    for row in range(len(columns[0])):
        for column in columns:
            pictures.append(column[row])
    return tile(pictures, len(columns), gap=_GAP)


def _to_uint8(pictures: npt.NDArray[np.float32]) -> Pictures:
    """Pictures in 0…1 as uint8; what is not finite becomes magenta, for a sample must not stop a training."""
    share = finite_share(pictures)
    if share < 1:
        LOGGER.warning("%.0f %% of a sample picture is not finite; it is drawn in magenta", 100 * (1 - share))
    return to_uint8(pictures, non_finite="magenta", exact=True)
