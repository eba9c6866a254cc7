"""What the long trainings read: latents, CLIP embeddings and cell labels of many scenes, computed once, in shards.

A shard holds one painting by each of `PAINTERS` painters. Shards are made one after another, when a training first
asks for them, so that it can begin while most of the corpus is still undrawn. Pictures are not kept.

Dimensions: N rows, C latent channels, H W latent sides, D width of CLIP's joint space.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
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
        """Open the first `shards` shards; draw and encode those that are not there.

        Where CLIP has been trained since a shard was made, its styles are embedded again: an IP-Adapter that learned
        from the old ones would be shown others when it is used.
        """
        if len(self.plain) >= shards:
            return
        identity = _identity(self.clip)
        for number in range(len(self.plain), shards):
            path = self.folder / f"shard_{self.painters}_{number:02d}.npz"
            shard = _read(path)
            if shard is None:
                shard = _make_shard(number * self.painters, self.painters, self.vae, self.clip)
            elif str(shard.get("clip")) != identity:
                shard["styles"] = _embed_again(number * self.painters, self.painters, self.clip)
            if str(shard.get("clip")) != identity:
                shard["clip"] = np.array(identity)
                _write(path, shard)
            self.plain.append(shard["plain"])
            self.painted.append(shard["painted"])
            self.styles.append(shard["styles"])
            self.labels.append(shard["labels"])

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


def _read(path: Path) -> dict[str, Array] | None:
    """The arrays of a shard; None where it is not there."""
    if not path.exists():
        return None
    with np.load(path) as arrays:
        return dict(arrays)


def _write(path: Path, shard: Mapping[str, Array]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **shard)


def _identity(clip: Any) -> str:
    """Hash of CLIP's picture tower and its projection."""
    digest = hashlib.sha256()
    for module in (clip.vision_model, clip.visual_projection):
        for name, tensor in module.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _make_shard(first: int, count: int, vae: Any, clip: Any) -> dict[str, Array]:
    plain, painted, styles, labels = [], [], [], []
    for rows in _chunks(first, count):
        views = [scene(row) for row in rows]
        scenes = np.stack([render(view, None) for view in views])
        paintings = _paintings(rows, count)
        plain.append(_encode(vae, scenes))
        painted.append(_encode(vae, paintings))
        styles.append(_embed(clip, paintings))
        cell = scenes.shape[1] // plain[-1].shape[-1]  # pixels a side of a latent cell
        labels.append(np.stack([label_map(view)[cell // 2 :: cell, cell // 2 :: cell] for view in views]))
    return {
        "plain": np.concatenate(plain),
        "painted": np.concatenate(painted),
        "styles": np.concatenate(styles),
        "labels": np.concatenate(labels),
    }


def _embed_again(first: int, count: int, clip: Any) -> Array:
    """CLIP embeddings of a shard's paintings, [count, D]."""
    return np.concatenate([_embed(clip, _paintings(rows, count)) for rows in _chunks(first, count)])


def _chunks(first: int, count: int) -> list[range]:
    """Rows of a shard in groups that are encoded together."""
    end = first + count
    return [range(start, min(start + _CHUNK, end)) for start in range(first, end, _CHUNK)]


def _paintings(rows: range, painters: int) -> npt.NDArray[np.uint8]:
    """What the painter of each row makes of its scene, [B, 128, 128, 3]."""
    pictures = []
    for row in rows:
        pictures.append(render(scene(row), painter(LONG_TRAINING_PAINTERS + row % painters)))
    return np.stack(pictures)


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
