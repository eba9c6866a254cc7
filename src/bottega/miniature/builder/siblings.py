"""Scenes that differ in one word: the same object, place, colour and ground, once in each shape.

What a caption's word for a shape changes in a picture is a few cells at the object's rim; a network learns such small
things last. Six siblings with one noise and one timestep in a batch differ in nothing else, so the gradient of that
word is not lost in what else differs between samples, and their cells that differ can be told from the others.

Dimensions: N scenes, S shapes, B batch, C latent channels, H W latent sides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from bottega.miniature.builder.features import encode_scenes
from bottega.miniature.scenes import SHAPES, Scene, scene
from bottega.runtime.files import atomic_path

SIBLING_SCENES = 4_000  # in six shapes each
OBJECT_WEIGHT = 4.0  # of a cell of a large object or its rim, 1 of the ground
LARGE_AREA = 0.12  # share of the picture
DIFFERENT_WEIGHT = 12.0  # of a cell in which siblings differ

Array = npt.NDArray[Any]


def siblings(index: int) -> list[Scene]:
    """Scene `index` with one object, in each of SHAPES."""
    view = scene(index, 1)
    (item,) = view.objects
    return [replace(view, objects=(replace(item, shape=shape),)) for shape in SHAPES]


@dataclass(frozen=True)
class Siblings:
    """Latents and labels of `siblings(first + i)` for i below N.

    Attributes:
        first: index of the first scene.
        latents: float16 [N, S, C, H, W].
        labels: class of each latent cell (0 is ground), uint8 [N, S, H, W].
        large: whether the object is large, bool [N].
    """

    first: int
    latents: Array
    labels: Array
    large: npt.NDArray[np.bool_]

    @property
    def of_large(self) -> npt.NDArray[np.int64]:
        """Places of the scenes whose object is large, [M]."""
        return np.flatnonzero(self.large)

    def caption(self, place: int, shape: int, wording: int) -> str:
        """Caption of a sibling; see `Scene.caption`."""
        return siblings(self.first + place)[shape].caption(wording)


def draw_siblings(folder: Path, vae: Any, first: int = 0, count: int = SIBLING_SCENES) -> Siblings:
    """Draw and encode the siblings of `count` scenes, or read them from `folder`, where they are kept."""
    path = folder / f"siblings_{first}_{count}.npz"
    if not path.exists():
        views = []
        for index in range(first, first + count):
            views += siblings(index)
        latents, labels = encode_scenes(views, vae)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, latents=latents, labels=labels)
    with np.load(path) as arrays:
        latents, labels = arrays["latents"], arrays["labels"]
    large = np.array([scene(first + place, 1).objects[0].size == "large" for place in range(count)])
    groups = (count, len(SHAPES))
    latents = latents.reshape(*groups, *latents.shape[1:])
    return Siblings(first, latents, labels.reshape(*groups, *labels.shape[1:]), large)


# --- what an error in each cell counts --------------------------------------------------------------------------------


def cell_weights(labels: torch.Tensor) -> torch.Tensor:
    """Of pictures whose cells have the classes [B, H, W]; mean 1 in each picture, [B, 1, H, W].

    A small object has a third of a large one's cells, and its shape is in as many corners: its cells count more.
    """
    classes = torch.arange(1, 1 + len(SHAPES)).view(1, -1, 1, 1)
    masks = (labels[:, None] == classes).float()  # [B, S, H, W]
    areas = masks.sum((2, 3), keepdim=True) / labels[0].numel()  # shares of the picture
    weights = (OBJECT_WEIGHT * (LARGE_AREA / areas.clamp(min=1e-6)).sqrt()).clamp(OBJECT_WEIGHT, DIFFERENT_WEIGHT)
    with_rims = F.max_pool2d(masks, 3, stride=1, padding=1)
    cells = 1 + ((weights - 1) * with_rims).amax(1, keepdim=True)
    return cells / cells.mean((1, 2, 3), keepdim=True)


def sibling_weights(labels: torch.Tensor) -> torch.Tensor:
    """Of siblings whose cells have the classes [N, S, H, W]; mean 1 in each picture, [N, S, 1, H, W]."""
    cells = torch.where(different(labels), DIFFERENT_WEIGHT, 1.0).expand(labels.shape)
    cells = torch.where(labels > 0, cells.clamp(min=OBJECT_WEIGHT), cells)
    cells = cells / cells.mean((2, 3), keepdim=True)
    return cells[:, :, None]


def different(labels: torch.Tensor) -> torch.Tensor:
    """Cells where some siblings show their object and others ground, and their rims; [N, S, H, W] -> [N, 1, H, W]."""
    objects = labels > 0
    apart = objects.any(1, keepdim=True) & ~objects.all(1, keepdim=True)
    return F.max_pool2d(apart.float(), 3, stride=1, padding=1) > 0
