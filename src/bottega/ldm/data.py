"""What is learned: drawn pictures or a data set on disk, as samples with captions, for training and held out.

A longer list begins with the shorter one, so that a run can be given more samples later.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from bottega.data.circles import COLOUR_NAMES, circle_prompt, draw_circle, place_circle
from bottega.data.index import file_stamp
from bottega.ldm.config import DataConfig
from bottega.runtime.errors import MissingError, RequestError
from bottega.runtime.files import read_jsonl
from bottega.runtime.seeds import derive, numpy_rng

LOGGER = logging.getLogger(__name__)
Picture = npt.NDArray[np.uint8]
RED_CIRCLE = "a red circle on white"
_HELD_OUT = 512
"""Pictures held out of a set on disk, at most: no validation looks at more."""
_LOOKED_AT = 256
"""Training pictures whose size is compared with what is learned."""


@dataclass(frozen=True)
class Sample:
    """A picture to learn: its name, captions that mean the same (one an epoch, in turn), and how to get it.

    picture: () -> uint8 [S, S, 3] in sRGB. stamp: changes when a picture on disk does.
    """

    name: str
    captions: tuple[str, ...]
    picture: Callable[[], Picture]
    stamp: str = ""


@dataclass(frozen=True)
class Samples:
    """The samples of a recipe. words: all words that captions may hold, where that is known; else empty. unused:
    pictures on disk that are neither trained on nor looked at in a validation."""

    training: list[Sample]
    held_out: list[Sample]
    words: tuple[str, ...] = ()
    unused: int = 0


def read_samples(config: DataConfig, seed: int, directory: Path, *, write: bool = True) -> Samples:
    """The samples of a recipe; data sets on disk are prepared in `directory` first, a list that may be continued.

    write: False reads what another process has prepared.

    Raises MissingError where there is no data set, RequestError where it holds fewer pictures than are asked for.
    """
    if config.kind == "red_circle":
        return Samples([Sample("red_circle", (RED_CIRCLE,), lambda: red_circle(config.size))], [])
    if config.kind == "circles":
        return _circles(config, seed)
    if write:
        _prepare(config, directory)
    found = _on_disk(config, directory)
    training = [sample for split, sample, _ in found if split == "train"]
    if config.num_samples is not None and len(training) < config.num_samples:
        raise RequestError(
            f"data.num_samples asks for {config.num_samples} training pictures with captions, {config.kind} has "
            f"{len(training)}; ask for fewer, or leave it out"
        )
    if not training:
        raise RequestError(
            f"{config.kind} has no usable training picture with a caption; {directory / 'rejects.csv'} says why of "
            "each (data.folder.prompt gives one caption to all that have none)"
        )
    training = training[: config.num_samples]
    held_out = [sample for split, sample, _ in found if split == "val"][:_HELD_OUT]
    if write:
        _tell_enlarged([place for split, _, place in found if split == "train"][:_LOOKED_AT], config.size)
    return Samples(training, held_out, unused=len(found) - len(training) - len(held_out))


def red_circle(size: int) -> Picture:
    """A red circle in the middle of a white square, its diameter 0.6 of the side; uint8 [size, size, 3]."""
    fine = 4 * size
    disc = np.full((fine, fine, 3), 255, np.uint8)
    cv2.circle(disc, (fine // 2, fine // 2), round(0.3 * fine), (255, 0, 0), -1)
    return np.asarray(cv2.resize(disc, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def held_out_pairs(share: float) -> list[tuple[str, str]]:
    """The (inside, outside) pairs of colours that are never drawn for training: the same in every run of this share."""
    names = list(COLOUR_NAMES)
    pairs = sorted(
        ((a, b) for a in names for b in names if a != b), key=lambda pair: derive("held-out pair of colours", *pair)
    )
    return pairs[: round(share * len(pairs))]


def _circles(config: DataConfig, seed: int) -> Samples:
    """Circles: training draws its pair among those not held out; each held-out pair is drawn once."""
    out = held_out_pairs(config.held_out)
    hidden = set(out)
    pairs = [(a, b) for a in COLOUR_NAMES for b in COLOUR_NAMES if a != b and (a, b) not in hidden]
    if not pairs:
        raise RequestError(
            f"data.held_out = {config.held_out:g} holds out all {len(out)} pairs of colours, none is left to train on; "
            "make it smaller"
        )

    def sample(kind: str, index: int, choice: list[tuple[str, str]]) -> Sample:
        rng = numpy_rng(kind, seed, index)
        inside, outside = choice[int(rng.integers(len(choice)))] if kind == "circle" else choice[index]
        place = place_circle(rng)
        return Sample(
            f"{kind} {index}",
            (circle_prompt(inside, outside),),
            lambda: draw_circle(*place, inside, outside, config.size)[1],
        )

    training = [sample("circle", i, pairs) for i in range(config.num_samples or 0)]
    words = sorted({word for name in COLOUR_NAMES for word in circle_prompt(name, name).split()})
    return Samples(training, [sample("held-out circle", i, out) for i in range(len(out))], tuple(words))


def _prepare(config: DataConfig, directory: Path) -> None:
    """Look at every picture of a data set on disk: `directory`/contents.jsonl or fill50k.jsonl, and rejects.csv."""
    from bottega.data import coco, contents, fill50k

    root = Path(config.root)
    try:
        if config.kind == "fill50k":
            done = fill50k.run(config.fill50k, directory, data_root=root)
        elif config.kind == "folder" and config.folder is not None:
            done = contents.run_folder(config.folder, directory, data_root=root)
        else:
            done = coco.run(config.coco, directory, data_root=root)
    except MissingError as error:  # also of a run that was carried away from its data
        raise MissingError(
            f"{error}; if it lies elsewhere, say so: --set data.root=… (now {root}), or data.{config.kind}.source=…"
        ) from error
    if done["rejected"]:
        LOGGER.warning(
            "%d of %d pictures are left out; %s says why of each",
            done["rejected"],
            done["rejected"] + done.get("pictures", done.get("examples", 0)),
            directory / "rejects.csv",
        )


def _tell_enlarged(places: list[Path], size: int) -> None:
    """Warn of pictures that have fewer pixels than is learned: a blur that no training takes away."""
    from bottega.data.pictures import read_kind

    kinds = [read_kind(place) for place in places if place.is_file()]
    small = [min(kind.width, kind.height) for kind in kinds if min(kind.width, kind.height) < size]
    if small:
        LOGGER.warning(
            "%d of the first %d training pictures have a short side under data.size = %d (the least %d): enlarged, "
            "they are learned as blurred as they are; take a smaller data.size, or leave them out by limits.min_side",
            len(small),
            len(kinds),
            size,
            min(small),
        )


def _on_disk(config: DataConfig, directory: Path) -> list[tuple[str, Sample, Path]]:
    """(split, sample, file) of a prepared data set, in its own order; those without a caption were rejected."""
    root = Path(config.root)
    if config.kind == "fill50k":
        rows = read_jsonl(directory / "fill50k.jsonl")
        found: Iterator[tuple[str, str, list[str], str]] = (
            (row["split"], row["key"], [row["prompt"]], row["target_path"]) for row in rows
        )
    else:
        rows = read_jsonl(directory / "contents.jsonl")
        found = ((row["split"], row["content_id"], row["captions"], row["content_path"]) for row in rows)
    result = []
    for split, name, captions, path in found:
        place = Path(os.path.normpath(root / path))  # a folder beside the root, too, where the root itself is not there
        sample = Sample(str(name), tuple(captions), _reader(place, config.size), file_stamp(place))
        result.append((split, sample, place))
    return result


def _reader(path: Path, size: int) -> Callable[[], Picture]:
    from bottega.data.pictures import load_square

    return lambda: load_square(path, size)
