"""What is measured of a picture, and in which direction it is good.

Networks come as callables of `models.encoders`; this module only turns their outputs into scores.

Legend: N pictures, D features, T tokens, H, W pixels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]  # [H, W] class ids


@dataclass(frozen=True)
class Metric:
    """A metric of the table. `needs`: names of `NEEDS` without which it cannot be measured."""

    title: str
    unit: str
    better: Literal["higher", "lower", "neither"]
    needs: tuple[str, ...]
    meaning: str

    @property
    def bounds(self) -> tuple[float, float]:
        """What its value can be, from and to: an interval of random effects knows no such bounds."""
        return _BOUNDS.get(self.unit, (0.0, math.inf))


_BOUNDS = {"%": (0.0, 100.0), "points": (-100.0, 100.0), "cosine ×100": (-100.0, 100.0)}
"""By unit; every other one is of a distance."""


METRICS: Mapping[str, Metric] = {
    "kind_own": Metric(
        "kind, own style", "%", "higher", ("style_classifier",), "pictures whose most likely style label is their own"
    ),
    "kind_swapped": Metric(
        "kind, swapped",
        "%",
        "lower",
        ("style_classifier",),
        "pictures of another label's style that are taken for this one: chance level",
    ),
    "kind_gain": Metric(
        "style gain",
        "points",
        "higher",
        ("style_classifier",),
        "own minus swapped: what only the style picture can explain",
    ),
    "palette": Metric("palette", "ΔE", "lower", (), "distance of the sets of Lab colours, to the style picture"),
    "objects_found": Metric(
        "objects preserved",
        "%",
        "higher",
        ("scene_reader", "label_maps"),
        "the content's objects that are found again where they were (IoU ≥ 0.5)",
    ),
    "objects_iou": Metric(
        "object IoU",
        "%",
        "higher",
        ("scene_reader", "label_maps"),
        "mean overlap of the content's objects with what is read",
    ),
    "structure": Metric(
        "structure",
        "×10⁻³",
        "lower",
        ("structure_encoder",),
        "mean squared difference of key self-similarities, to the content",
    ),
    "dino": Metric(
        "DINO cosine",
        "cosine ×100",
        "higher",
        ("structure_encoder",),
        "plain cosine of the class tokens of the structure encoder, to the content",
    ),
    "style_clip": Metric(
        "CLIP style",
        "cosine ×100",
        "higher",
        ("clip",),
        "plain cosine of CLIP's embeddings, to the style picture; read it beside its test on real paintings",
    ),
    "style_csd": Metric(
        "CSD style",
        "cosine ×100",
        "higher",
        ("style_encoder",),
        "cosine of contrastive style descriptors, to the style picture; read it beside its test on real paintings",
    ),
    "text": Metric(
        "CLIPScore", "cosine ×100", "higher", ("clip",), "plain cosine of picture and caption (no factor 2.5, no clamp)"
    ),
    "truth": Metric(
        "distance to truth",
        "drawings",
        "lower",
        ("truth",),
        "1 separates two drawings of the same picture; nearest drawing",
    ),
    "truth_colour": Metric(
        "… its colour", "drawings", "lower", ("truth",), "low-pass colour, of the same nearest drawing"
    ),
    "truth_texture": Metric(
        "… its texture", "drawings", "lower", ("truth",), "texture spectrum, of the same nearest drawing"
    ),
    "lpips": Metric("LPIPS", "distance", "lower", ("lpips",), "perceptual distance to the content (AlexNet, 0.1)"),
    "cfsd": Metric("CFSD", "distance", "lower", ("vgg19",), "difference of VGG19's self-similarities, to the content"),
    "fid": Metric(
        "FID",
        "distance",
        "lower",
        ("inception",),
        "Fréchet distance of a row's pictures to their styles",
    ),
    "art_fid": Metric("ArtFID", "distance", "lower", ("lpips", "inception"), "(1 + LPIPS) (1 + FID), of a row"),
}

NEEDS = {
    "style_classifier": "a style classifier (models.style_classifier)",
    "scene_reader": "a scene reader (models.scene_reader)",
    "structure_encoder": "a structure encoder (models.structure_encoder)",
    "clip": "a CLIP (models.clip)",
    "style_encoder": "a style encoder (models.style_encoder: CLIP's picture tower with style_projection.safetensors)",
    "lpips": "LPIPS's two files (models.lpips)",
    "vgg19": "VGG19's file (models.vgg19)",
    "inception": "an Inception's file (models.inception)",
    "label_maps": "label maps of the contents (layout_path in contents.jsonl, labels.txt beside it)",
    "truth": "drawn truths (truth/{pair_id}_seed{k}.png in the data root)",
}

_NO_OBJECT = ("background", "unlabeled", "unlabelled", "void", "other")


def text_scores(images: Floats, texts: Floats) -> Floats:
    """Cosine of each picture with its own caption, ×100, [N]; both arguments [N, D] of unit norm."""
    scores: Floats = 100 * (images * texts).sum(-1)
    return scores


def cosine(first: Floats, second: Floats) -> float:
    """Cosine of two embeddings of unit norm, [D], ×100: neither scaled by 2.5 nor cut off at 0."""
    return 100 * float(first @ second)


def structure_distance(first: Floats, second: Floats) -> float:
    """Mean squared difference of two key self-similarity matrices, ×1000 (Tumanyan et al. 2022, Splice, equation 2).

    Args:
        first, second: keys of the last block of unit norm, CLS token included, [T, D].
    """
    gap = first @ first.T - second @ second.T  # [T, T]
    return 1000 * float((gap**2).mean())


def object_overlap(read: Labels, labels: Labels, same: Mapping[int, int], floor: float) -> list[float]:
    """IoU of each object class that a label map holds with the same class as it was read from a picture.

    Args:
        read: class ids read from the picture, [H, W].
        labels: class ids of the content's label map, [H, W].
        same: label map id -> reader id of the classes that both know; others are left out.
        floor: share of the picture below which a class is no object.
    """
    overlaps = []
    for wanted, known in sorted(same.items()):
        there = labels == wanted
        # Of a class of a few pixels, a shift by one pixel would decide the overlap.
        if there.mean() < floor or not there.any():
            continue
        found = read == known
        overlaps.append(float((there & found).sum() / (there | found).sum()))
    return overlaps


def same_classes(names: Mapping[int, str], reader: Sequence[str]) -> dict[int, int]:
    """Ids of a label map matched by name with those of a scene reader, without what is no object (`_NO_OBJECT`)."""
    known = {plain_name(name): number for number, name in enumerate(reader)}
    same: dict[int, int] = {}
    for number, name in names.items():
        plain = plain_name(name)
        if plain in known and plain not in _NO_OBJECT:
            same[number] = known[plain]
    return same


def plain_name(name: str) -> str:
    """A label as it compares: `Pop_Art`, `pop-art` and `pop art` are one."""
    return re.sub(r"[\s_-]+", " ", name).strip().lower()


def read_label_names(path: Path) -> dict[int, str]:
    """Class names of label maps from a `labels.txt` with lines `id: name`."""
    names = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        number, colon, name = line.partition(":")
        if colon and number.strip().isdigit():
            names[int(number)] = name.strip()
    return names


def load_label_map(path: Path, size: int) -> Labels:
    """The centre square of a label map, uint8 [size, size], as `data.pictures.load_square` cuts it; nearest class."""
    from PIL import Image

    from bottega.data.pictures import FORMATS, centre_square
    from bottega.runtime.paths import open_file

    with open_file(path) as stream, Image.open(stream, formats=FORMATS) as image:
        labels = image if image.mode in ("L", "P") else image.convert("L")
        if labels.size != (size, size):
            labels = labels.resize((size, size), Image.Resampling.NEAREST, box=centre_square(*labels.size))
        return np.array(labels, dtype=np.uint8)
