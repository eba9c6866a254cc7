"""What is learned: drawn pictures or a data set on disk, as samples with captions, for training and held out.

A longer list of samples begins with the shorter one, so that a run can be given more samples later.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from bottega.data.circles import COLOUR_NAMES, circle_prompt, draw_circle, place_circle
from bottega.data.index import file_stamp
from bottega.data.records import read_contents, read_fill50k
from bottega.data.roots import PictureRoot
from bottega.ldm.config import LDMDataConfig
from bottega.runtime.errors import MissingError, RequestError
from bottega.runtime.seeds import derive, numpy_rng

LOGGER = logging.getLogger(__name__)
Picture = npt.NDArray[np.uint8]
RED_CIRCLE = "a red circle on white"
_MAX_HELD_OUT = 512
"""Pictures held out of a data set on disk, at most: no validation uses more."""
_SIZE_CHECKED = 256
"""Training pictures whose own size is compared with `data.size`: enough to notice, and read in a second."""


@dataclass(frozen=True)
class CaptionedPicture:
    """A picture to learn.

    Args:
        name: unique in its list.
        captions: texts that mean the same; each epoch uses the next one.
        picture: () -> uint8 [S, S, 3] in sRGB.
        stamp: changes when a picture on disk does.
    """

    name: str
    captions: tuple[str, ...]
    picture: Callable[[], Picture]
    stamp: str = ""


@dataclass(frozen=True)
class CaptionedDataset:
    """The samples of a recipe.

    Args:
        training: in the order in which a longer list grows.
        held_out: for validation only.
        words: all words that captions may hold, where that is known; else empty.
        unused: pictures on disk that are in neither list.
    """

    training: list[CaptionedPicture]
    held_out: list[CaptionedPicture]
    words: tuple[str, ...] = ()
    unused: int = 0


def read_samples(config: LDMDataConfig, seed: int, directory: Path, *, write: bool = True) -> CaptionedDataset:
    """The samples of a recipe.

    Args:
        config: which data set, and how many samples of it.
        seed: of drawn pictures.
        directory: where a data set on disk is prepared first (its list, and the rejected pictures).
        write: False reads what another process has prepared.

    Raises:
        MissingError: there is no such data set.
        RequestError: it holds fewer pictures than are asked for.
    """
    if config.kind == "red_circle":
        picture = partial(red_circle, config.size)
        return CaptionedDataset(training=[CaptionedPicture("red_circle", (RED_CIRCLE,), picture)], held_out=[])
    if config.kind == "circles":
        return _circles(config, seed)
    return _read_from_disk(config, directory, write)


def red_circle(size: int) -> Picture:
    """A red circle in the middle of a white square, its diameter 0.6 of the side; uint8 [size, size, 3]."""
    large = 4 * size  # drawn at four times the size, so that averaging makes its edge smooth
    canvas = np.full((large, large, 3), 255, np.uint8)
    cv2.circle(canvas, (large // 2, large // 2), round(0.3 * large), (255, 0, 0), -1)
    return np.asarray(cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def held_out_pairs(share: float) -> list[tuple[str, str]]:
    """The (inside, outside) pairs of colours that are never drawn for training: the same in every run of this share."""
    # In an order drawn from the names alone: a larger share holds out the pairs of a smaller one, and more.
    pairs = sorted(_colour_pairs(), key=lambda pair: derive("held-out pair of colours", *pair))
    return pairs[: round(share * len(pairs))]


def _colour_pairs() -> list[tuple[str, str]]:
    """All pairs of two different colours."""
    pairs = []
    for inside in COLOUR_NAMES:
        for outside in COLOUR_NAMES:
            if inside != outside:
                pairs.append((inside, outside))
    return pairs


def _circles(config: LDMDataConfig, seed: int) -> CaptionedDataset:
    """Circles: training draws its pair among those not held out; each held-out pair is drawn once."""
    held_out = held_out_pairs(config.held_out)
    hidden = set(held_out)
    pairs = [pair for pair in _colour_pairs() if pair not in hidden]
    if not pairs:
        raise RequestError(
            f"data.held_out = {config.held_out:g} holds out all {len(held_out)} pairs of colours, none is left to "
            "train on; make it smaller"
        )

    def circle(name: str, rng: np.random.Generator, pair: tuple[str, str]) -> CaptionedPicture:
        place = place_circle(rng)
        return CaptionedPicture(name, (circle_prompt(*pair),), lambda: draw_circle(*place, *pair, config.size)[1])

    training_samples = []
    for index in range(config.num_samples or 0):
        rng = numpy_rng("circle", seed, index)
        pair = pairs[int(rng.integers(len(pairs)))]
        training_samples.append(circle(f"circle {index}", rng, pair))
    held_out_samples = []
    for index, pair in enumerate(held_out):
        rng = numpy_rng("held-out circle", seed, index)
        held_out_samples.append(circle(f"held-out circle {index}", rng, pair))
    words: set[str] = set()
    for name in COLOUR_NAMES:
        words.update(circle_prompt(name, name).split())
    return CaptionedDataset(training_samples, held_out_samples, tuple(sorted(words)))


def _read_from_disk(config: LDMDataConfig, directory: Path, write: bool) -> CaptionedDataset:
    if write:
        _prepare(config, directory)
    found = _on_disk(config, directory)
    training = [file for file in found if file.split == "train"]
    held_out = [file for file in found if file.split == "val"][:_MAX_HELD_OUT]
    _check_count(len(training), config, directory)
    if write:
        _warn_if_enlarged([file.path for file in training[:_SIZE_CHECKED]], config.size)
    training = training[: config.num_samples]
    return CaptionedDataset(
        training=[file.sample for file in training],
        held_out=[file.sample for file in held_out],
        unused=len(found) - len(training) - len(held_out),
    )


def _prepare(config: LDMDataConfig, directory: Path) -> None:
    """Check every picture of a data set on disk: writes `directory`/contents.jsonl or fill50k.jsonl, and
    rejects.csv."""
    root = Path(config.root)
    try:
        done = _run_preparation(config, directory, root)
    except MissingError as error:  # also of a run that was moved away from its data
        raise MissingError(
            f"{error}; if it is elsewhere, name it: --set data.root=… (now {root}), or data.{config.kind}.source=…"
        ) from error
    # A warning and no error: a few damaged files among a hundred thousand must not stop a training.
    rejected = done["rejected"]
    if rejected:
        accepted = done.get("pictures", done.get("examples", 0))
        LOGGER.warning(
            "%d of %d pictures are left out; %s says why of each",
            rejected,
            rejected + accepted,
            directory / "rejects.csv",
        )


def _run_preparation(config: LDMDataConfig, directory: Path, root: Path) -> dict[str, Any]:
    from bottega.data import coco, contents, fill50k

    if config.kind == "fill50k":
        return fill50k.run(config.fill50k, directory, data_root=root)
    if config.kind == "folder" and config.folder is not None:
        return contents.run_folder(config.folder, directory, data_root=root)
    return coco.run(config.coco, directory, data_root=root)


@dataclass(frozen=True)
class _File:
    """A picture of a prepared data set."""

    split: str
    path: Path
    sample: CaptionedPicture


def _on_disk(config: LDMDataConfig, directory: Path) -> list[_File]:
    """The pictures of a prepared data set, in its own order; those without a caption were rejected."""
    root = PictureRoot(Path(config.root), [directory])
    if config.kind == "fill50k":
        examples = read_fill50k(directory / "fill50k.jsonl")
        return [_file(config, row.split, row.key, (row.prompt,), row.target_path, root) for row in examples]
    contents = read_contents(directory / "contents.jsonl")
    return [_file(config, row.split, row.content_id, row.captions, row.content_path, root) for row in contents]


def _file(
    config: LDMDataConfig, split: str, name: str, captions: Sequence[str], relative: str, root: PictureRoot
) -> _File:
    from bottega.data.pictures import load_square

    found = root.file(relative, f"the path of {name}")
    path = Path(os.path.normpath(found))  # normalised: it may lead out of a root that is absent
    picture = partial(load_square, path, config.size)
    return _File(split, path, CaptionedPicture(str(name), tuple(captions), picture, file_stamp(path)))


def _check_count(count: int, config: LDMDataConfig, directory: Path) -> None:
    """RequestError where a data set holds fewer training pictures than are asked for, or none."""
    if config.num_samples is not None and count < config.num_samples:
        raise RequestError(
            f"data.num_samples asks for {config.num_samples} training pictures with captions, {config.kind} has "
            f"{count}; ask for fewer, or leave it out"
        )
    if not count:
        raise RequestError(
            f"{config.kind} has no usable training picture with a caption; {directory / 'rejects.csv'} says why of "
            "each (data.folder.prompt gives one caption to all that have none)"
        )


def _warn_if_enlarged(paths: list[Path], size: int) -> None:
    """Warn of pictures with fewer pixels than `size`."""
    from bottega.data.pictures import read_kind

    # The blur of an enlarged picture is learned, and no training removes it.
    kinds = [read_kind(path) for path in paths if path.is_file()]
    short_sides = [min(kind.width, kind.height) for kind in kinds]
    small = [side for side in short_sides if side < size]
    if small:
        LOGGER.warning(
            "%d of the first %d training pictures have a short side under data.size = %d (the least %d): enlarged, "
            "they are learned as blurred as they are; take a smaller data.size, or leave them out by limits.min_side",
            len(small),
            len(kinds),
            size,
            min(small),
        )
