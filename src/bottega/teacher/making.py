"""One chunk of targets: read, encode, denoise, decode, judge, try again, write. Rows come out; nothing is entered."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bottega.data.pictures import load_square
from bottega.data.roots import picture_file
from bottega.quality.config import Thresholds
from bottega.runtime.errors import PictureError
from bottega.teacher.config import TeacherConfig
from bottega.teacher.items import Item
from bottega.teacher.ledger import TryRow
from bottega.teacher.models import TeacherModels
from bottega.teacher.pressure import TeacherMemory
from bottega.teacher.tries import TryGrader
from bottega.teacher.work import Chunk, NextTry, PendingTarget
from bottega.teacher.writer import TargetWriter

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Denoised:
    """A chunk's planned tries up to their latents, and the seconds that each took so far."""

    chunk: Chunk
    items: list[Item]
    latents: list[Any]
    seconds: float


class ChunkMaker:
    """Makes, judges, retries and writes the targets of a chunk.

    `make` does all of it in turn. `Runner` calls the parts, two chunks at once.

    Args:
        config: the protocol and the run's options.
        ledger_file: the run's ledger; the pictures go beside it.
        data_root: what the pairs' paths are relative to.
        models: the teacher and the judge; loaded when the first target needs them.
        thresholds: the limits of the grades.
        fingerprint: what every row depends on; recorded in each.
    """

    def __init__(
        self,
        config: TeacherConfig,
        ledger_file: Path,
        data_root: Path,
        models: TeacherModels,
        thresholds: Thresholds,
        fingerprint: str,
    ) -> None:
        self.config, self.data_root, self.models = config, data_root, models
        self.grader = TryGrader(config, models, thresholds)
        self.writer = TargetWriter(config, ledger_file, models, thresholds, fingerprint)
        self.memory = TeacherMemory(config)

    def make(self, chunk: Chunk) -> list[TryRow]:
        """Everything, in this thread; the rows of the chunk, whose pictures are written."""
        for target in chunk.targets:
            self.load(target)
        self.encode([chunk])
        while chunk.rows is None:
            self.finish(self.denoise(chunk))
        return chunk.rows

    def load(self, target: PendingTarget) -> None:
        """Read a target's pictures; one that can't be read makes it broken."""
        pair, size = target.work.pair, self.config.size
        try:
            where = f"pair {pair.pair_id}: a path"
            content = load_square(picture_file(self.data_root, pair.content_path, where), size)
            style = load_square(picture_file(self.data_root, pair.style_path, where), size)
        except PictureError as error:
            target.broken = str(error)
            LOGGER.warning("%s: %s", target.work.target, error)
            return
        target.item = Item(
            pair_id=pair.pair_id,
            content_id=pair.content_id,
            style_id=pair.style_id,
            prompt=pair.prompt,
            seed=target.work.seed,
            content=content,
            style=style,
            content_key=target.content_sha256,
            style_key=target.style_sha256,
        )
        target.plan = NextTry("first", self.grader.base)

    def encode(self, loaded: Sequence[Chunk]) -> None:
        """Encode the contents, styles and prompts of chunks whose pictures are read."""
        items: list[Item] = []
        for chunk in loaded:
            items += [target.item for target in chunk.planned if target.item is not None]
        if items:
            self.memory.relieve()
            self.memory.retry_on_oom(lambda: self.models.teacher.encode(items))

    def denoise(self, chunk: Chunk) -> Denoised:
        """The chunk's planned tries up to their latents."""
        start = time.monotonic()
        targets = chunk.planned
        items: list[Item] = []
        for target in targets:
            if target.item is not None and target.plan is not None:
                items.append(replace(target.item, settings=target.plan.settings))
        latents: list[Any] = []
        if items:
            latents = self.memory.retry_on_oom(lambda: self.models.teacher.denoise(items, self.memory.batch))
        for target in targets:
            target.batch = min(self.memory.batch, len(items))
        seconds = (time.monotonic() - start) / max(1, len(items))
        return Denoised(chunk, items, latents, seconds)

    def finish(self, denoised: Denoised) -> None:
        """Decode and judge what was denoised, plan what is C again, and write the chunk when nothing is planned."""
        start = time.monotonic()
        chunk, items, latents = denoised.chunk, denoised.items, denoised.latents
        if items:
            made = self.memory.retry_on_oom(lambda: self.models.teacher.finish(items, latents))
            tries = self.grader.add_tries(chunk.planned, items, made)
            seconds = denoised.seconds + (time.monotonic() - start) / len(items)
            for one in tries:
                one.seconds = seconds
        if not chunk.planned:
            rows: list[TryRow] = []
            for target in chunk.targets:
                rows += self.writer.write(target)
            chunk.rows = rows
