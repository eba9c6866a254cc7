"""What the long trainings read: latents, CLIP embeddings and cell labels of many scenes, computed once, in shards.

A shard holds one painting by each of `PAINTERS` painters. Shards are made one after another, when a training first
asks for them, so that it can begin while most of the corpus is still undrawn. Pictures are not kept.

Dimensions: N rows, C latent channels, H W latent sides, D width of CLIP's joint space.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bottega.miniature.builder.encoding import to_clip
from bottega.miniature.builder.precision import autocast
from bottega.miniature.painters import painter, render
from bottega.miniature.ranges import LONG_TRAINING_PAINTERS
from bottega.miniature.scenes import label_map, scene
from bottega.runtime.files import atomic_path
from bottega.visual.pictures import to_signed

PAINTERS = 3_200  # painters of one shard; many, because a style is a point in CLIP's space and must be interpolated
SHARDS = 16  # 51 200 scenes
_CHUNK = 32  # pictures encoded at a time

Array = npt.NDArray[Any]


@dataclass
class Features:
    """Rows of all shards that have been made so far; row i shows scene i by painter `painter_index(i)`.

    Attributes:
        plain: latents of the unpainted scenes, float16 [N, C, H, W], one array a shard.
        painted: latents of the paintings, likewise.
        styles: CLIP embeddings of the paintings as the IP-Adapter receives them, float32 [N, D].
        labels: class of each latent cell (0 is ground), uint8 [N, H, W].
    """

    folder: Path
    vae: Any
    clip: Any
    painters: int = PAINTERS
    plain: list[Array] = field(default_factory=list)
    painted: list[Array] = field(default_factory=list)
    styles: list[Array] = field(default_factory=list)
    labels: list[Array] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.plain) * self.painters

    def require(self, shards: int) -> None:
        """Open the first `shards` shards; draw and encode those that are not there."""
        for number in range(len(self.plain), shards):
            path = self.folder / f"shard_{self.painters}_{number:02d}.npz"
            if not path.exists():
                _make_shard(path, number * self.painters, self.painters, self.vae, self.clip)
            with np.load(path) as arrays:
                self.plain.append(arrays["plain"])
                self.painted.append(arrays["painted"])
                self.styles.append(arrays["styles"])
                self.labels.append(arrays["labels"])

    def place(self, row: int) -> tuple[int, int]:
        """Shard of a row, and its place there."""
        return divmod(row, self.painters)

    def painter_index(self, row: int) -> int:
        """Index of the painter of a row."""
        return LONG_TRAINING_PAINTERS + row % self.painters

    def sibling_style(self, row: int, draw: int) -> Array:
        """CLIP embedding of another painting by the painter of `row`, [D]; `draw` says which one."""
        shard, place = self.place(row)
        others = max(1, len(self.plain) - 1)
        other = (shard + 1 + draw % others) % len(self.plain)
        style: Array = self.styles[other][place]
        return style


def _make_shard(path: Path, first: int, count: int, vae: Any, clip: Any) -> None:
    plain, painted, styles, labels = [], [], [], []
    for start in range(first, first + count, _CHUNK):
        rows = range(start, min(start + _CHUNK, first + count))
        views = [scene(row) for row in rows]
        scenes = np.stack([render(view, None) for view in views])
        paintings = np.stack(
            [render(view, painter(LONG_TRAINING_PAINTERS + row % count)) for view, row in zip(views, rows, strict=True)]
        )
        plain.append(_encode(vae, scenes))
        painted.append(_encode(vae, paintings))
        styles.append(_embed(clip, paintings))
        cell = scenes.shape[1] // plain[-1].shape[-1]  # pixels a side of a latent cell
        labels.append(np.stack([label_map(view)[cell // 2 :: cell, cell // 2 :: cell] for view in views]))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            plain=np.concatenate(plain),
            painted=np.concatenate(painted),
            styles=np.concatenate(styles),
            labels=np.concatenate(labels),
        )


@torch.no_grad()
def _encode(vae: Any, pictures: npt.NDArray[np.uint8]) -> Array:
    """Pictures [N, 128, 128, 3] -> scaled latents, float16 [N, C, H, W]."""
    batch = to_signed(pictures).contiguous(memory_format=torch.channels_last)
    with autocast():  # half the time; off by 0.5 % of the latents' deviation
        latents = vae.encode(batch).latents
    scaled: Array = (latents.float() * vae.config.scaling_factor).half().contiguous().numpy()
    return scaled


@torch.no_grad()
def _embed(clip: Any, pictures: npt.NDArray[np.uint8]) -> Array:
    """Pictures -> projected CLIP embeddings as the IP-Adapter receives them (not normalised), float32 [N, D]."""
    pooled = clip.vision_model(pixel_values=to_clip(pictures)).pooler_output
    projected: Array = clip.visual_projection(pooled).numpy()
    return projected
