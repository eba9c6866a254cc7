"""What the miniature's real teacher makes of the drawn world, at settings from too little to too much, and how far that
is from the drawn truth: what an eye learns of pictures that no rule damaged, and what grades are held against.

A try depends on its number alone, but for the last bit of what was drawn beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

import bottega
from bottega.evaluation.truth_distance import describe, nearest
from bottega.miniature.builder.gates import PRESERVED_IOU, kinds_of, labels_of, object_overlaps
from bottega.miniature.painters import KINDS, painter
from bottega.miniature.ranges import EYE_TRIES
from bottega.miniature.scenes import scene
from bottega.miniature.world import render
from bottega.quality.eye.cells import GRID
from bottega.quality.eye.training.examples import TRY, EyeExample, measured_picture
from bottega.quality.eye.training.store import ExampleStore
from bottega.quality.measuring import reference
from bottega.runtime.errors import NonFiniteError
from bottega.runtime.progress import Progress
from bottega.runtime.seeds import derive, numpy_rng
from bottega.teacher.items import Item, Settings
from bottega.visual.pictures import Picture, to_uint8

if TYPE_CHECKING:
    from bottega.teacher.generator import Generator

WEIGHTS = Path(bottega.__file__).parent / "miniature" / "weights"
SIDE = 128
STEPS = 12
STRENGTHS = (0.17, 0.34, 0.42, 0.5, 0.67, 0.84)
STYLE_SCALES = (0.0, 0.3, 0.6, 1.0, 1.5)
GUIDANCES = (1.0, 3.5)

SPOILED = (0.0, 0.0, 0.1, 0.2)
"""By turns, deviation of the noise on each weight of the U-Net, in that weight's own deviations: worse teachers."""

TOGETHER = 8  # tries that share their settings, drawn at once
STRETCH = 48  # tries that share their teacher
TRUTHS = 6  # drawings of the truth; the nearest counts

NEAR, FAR = 3.0, 6.5
"""Distances up to which a try should not be found damaged, and from which it should: two drawings of one scene are at
1, the style picture at 4 to 5, the content at 10; half of these tries lie between 4 and 6."""


STYLE_LOST_BEYOND = 5.0
"""Distance beyond which another kind of stroke than the painter's is a lost style and no error of the classifier."""

Lost = Literal["", "objects", "style"]


@dataclass(frozen=True, eq=False)
class TeacherTry:
    """One picture of a teacher, with its number, settings and distance to the nearest drawn truth.

    spoiled: of its teacher's weights, as in SPOILED. kind: of the painter's strokes.
    """

    number: int
    content: Picture
    style: Picture
    picture: Picture
    kind: str
    distance: float
    settings: Settings
    spoiled: float


class SpoiledUNet:
    """A U-Net whose weights get noise, always from the same original."""

    def __init__(self, unet: Any) -> None:
        self._unet = unet
        self._original = {name: value.clone() for name, value in unet.state_dict().items()}

    def spoil(self, deviation: float, seed: int) -> None:
        """Give it the original weights with that much noise; 0 gives the original back."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        weights = {}
        for name, value in self._original.items():
            noisy = value
            if deviation and value.dim() >= 2:
                noisy = value + deviation * value.std() * torch.randn(value.shape, generator=generator)
            weights[name] = noisy
        self._unet.load_state_dict(weights)


def shipped_teacher() -> Generator:
    """The miniature's SDXL with its IP-Adapter, in fp32 on the CPU."""
    from bottega.models.config import ModelsConfig
    from bottega.teacher.config import TeacherConfig
    from bottega.teacher.generator import load_generator

    shipped = "bottega:miniature/weights/"
    models = ModelsConfig(
        sdxl=f"{shipped}sdxl",
        ip_adapter=f"{shipped}ip_adapter",
        clip=f"{shipped}clip",
        device="cpu",
        dtype="float32",
    )
    return load_generator(models, TeacherConfig(size=SIDE, steps=STEPS))


def teacher_tries(teacher: Generator, first: int, count: int) -> Iterator[TeacherTry]:
    """Tries by their numbers.

    Args:
        teacher: its U-Net's weights are changed while this runs, and put back at its end.
        first: number of the first; a multiple of STRETCH.
        count: rounded up to whole stretches.
    """
    spoiled = SpoiledUNet(teacher.pipeline.unet)
    try:
        for begin in range(first, first + count, STRETCH):
            level = SPOILED[begin // STRETCH % len(SPOILED)]
            spoiled.spoil(level, derive("spoiled teacher", begin))
            yield from _stretch(teacher, range(begin, begin + STRETCH), level)
    finally:
        spoiled.spoil(0.0, 0)


class LossReader:
    """Reads from a try what it lost: the miniature's scene reader and its classifier of strokes, in fp32 on the CPU."""

    def __init__(self) -> None:
        import torch
        from transformers import ResNetForImageClassification, UperNetForSemanticSegmentation

        single = {"torch_dtype": torch.float32, "local_files_only": True}
        self._reader = UperNetForSemanticSegmentation.from_pretrained(WEIGHTS / "scene_reader", **single).eval()
        self._classifier = ResNetForImageClassification.from_pretrained(WEIGHTS / "style_classifier", **single).eval()

    def __call__(self, tries: Sequence[TeacherTry]) -> list[Lost]:
        """What each try lost.

        Returns:
            "objects" where none of the scene's is found at its place and the picture lies beyond NEAR, for of drawn
            truths the reader misses one in twenty; else "style" where the strokes are not of the painter's kind and
            the picture lies beyond STYLE_LOST_BEYOND; else "".
        """
        pictures = np.stack([made.picture for made in tries])
        found = labels_of(self._reader, pictures)
        kinds = kinds_of(self._classifier, pictures)
        losses: list[Lost] = []
        for row, made in enumerate(tries):
            overlaps = object_overlaps(found[row], scene(3 * made.number))
            if max(overlaps) < PRESERVED_IOU and made.distance > NEAR:
                losses.append("objects")
            elif KINDS[int(kinds[row])] != made.kind and made.distance > STYLE_LOST_BEYOND:
                losses.append("style")
            else:
                losses.append("")
        return losses


def _stretch(teacher: Generator, numbers: Sequence[int], level: float) -> Iterator[TeacherTry]:
    items = [_item(number) for number in numbers]
    drawn = teacher.generate(items, TOGETHER)
    for number, item, values in zip(numbers, items, drawn, strict=True):
        try:
            picture = to_uint8(values)
        except NonFiniteError:
            continue  # there is nothing to judge: such a picture is C before any eye sees it
        view, by = scene(3 * number), painter(number)
        truths = [describe(render(view, by, seed, size=SIDE)) for seed in range(2, 2 + TRUTHS)]
        distance = nearest(describe(picture), truths).total
        assert item.settings is not None
        yield TeacherTry(number, item.content, item.style, picture, by.kind, distance, item.settings, level)


def _item(number: int) -> Item:
    view, by = scene(3 * number), painter(number)
    name = str(number)
    content = render(view, None, size=SIDE)
    style = render(scene(3 * number + 1), by, 1, size=SIDE)
    return Item(name, name, name, view.caption(0), 0, content, style, settings=_settings(number))


def _settings(number: int) -> Settings:
    rng = numpy_rng("teacher try settings", number // TOGETHER)
    strength = float(rng.choice(STRENGTHS))
    scale = float(rng.choice(STYLE_SCALES))
    return Settings(STEPS, strength, float(rng.choice(GUIDANCES)), scale)


def make_try_shards(folder: Path, count: int) -> list[Path]:
    """Draw and measure what is missing of so many tries to learn from.

    Args:
        folder: of the shards.
        count: rounded up to whole stretches, each a shard.

    Returns:
        All shards, in their order.
    """
    numbers = range(EYE_TRIES, EYE_TRIES + count, STRETCH)
    paths = [folder / f"tries-{number}.npz" for number in numbers]
    if all(path.is_file() for path in paths):
        return paths
    cv2.setNumThreads(1)
    teacher = shipped_teacher()
    with Progress(len(paths), "eye: a teacher's tries", "shards") as progress:
        for number, path in zip(numbers, paths, strict=True):
            if not path.is_file():
                examples = [try_example(made) for made in teacher_tries(teacher, number, STRETCH)]
                ExampleStore.collect(examples).save(path)
            progress.update()
    return paths


def try_example(made: TeacherTry) -> EyeExample:
    """A try to learn from: how surely it should be found damaged follows its distance to the truth."""
    measured = measured_picture(made.picture, reference(made.content), reference(made.style))
    wrong = float(np.clip((made.distance - NEAR) / (FAR - NEAR), 0, 1))
    nowhere = np.zeros((GRID, GRID), np.float32)
    return EyeExample(made.number, made.kind, TRY, wrong, nowhere, made.distance, measured)
