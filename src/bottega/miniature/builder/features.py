"""What the long trainings read: latents, CLIP embeddings and cell labels of many scenes, computed once, in shards.

A shard holds one painting by each of `PAINTERS` painters. Shards are made one after another, when a training first
asks for them, so that it can begin while most of the corpus is still undrawn. Pictures are not kept.

Dimensions: N rows, C latent channels, H W latent sides, D width of CLIP's joint space.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
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
from bottega.miniature.scenes import Scene, label_map, scene
from bottega.runtime.errors import RequestError
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
        folder: where shards are kept.
        vae: autoencoder.
        clip: None: without styles, which PixArt's training does not read.
        painters: of a shard.
        shards: most that are made.
        plain: latents of the unpainted scenes, float16 [N, C, H, W], one array a shard.
        painted: latents of the paintings, likewise.
        styles: CLIP embeddings of the paintings as the IP-Adapter receives them, float32 [N, D].
        labels: class of each latent cell (0 is ground), uint8 [N, H, W].
    """

    folder: Path
    vae: Any
    clip: Any
    painters: int = PAINTERS
    shards: int = SHARDS
    plain: list[Array] = field(default_factory=list)
    painted: list[Array] = field(default_factory=list)
    styles: list[Array] = field(default_factory=list)
    labels: list[Array] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.plain) * self.painters

    def require(self, shards: int) -> None:
        """Open the first `shards` shards, or all if there are fewer; draw and encode those that are not there.

        Where CLIP has been trained since a shard was made, its styles are embedded again: an IP-Adapter that learned
        from the old ones would be shown others when it is used.
        """
        shards = min(shards, self.shards)
        if len(self.plain) >= shards:
            return
        identity = None if self.clip is None else _identity(self.clip)
        for number in range(len(self.plain), shards):
            path = self.folder / f"shard_{self.painters}_{number:02d}.npz"
            shard = _read(path)
            first = number * self.painters
            made = False
            if shard is None:
                shard = _make_shard(first, self.painters, self.vae)
                made = True
            if identity is not None and str(shard.get("clip")) != identity:
                shard["styles"] = _embed_paintings(first, self.painters, self.clip)
                shard["clip"] = np.array(identity)
                made = True
            if made:
                _write(path, shard)
            self.plain.append(shard["plain"])
            self.painted.append(shard["painted"])
            self.labels.append(shard["labels"])
            if identity is not None:
                self.styles.append(shard["styles"])

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


def encode_scenes(views: Sequence[Scene], vae: Any) -> tuple[Array, Array]:
    """Latents of unpainted scenes, float16 [N, C, H, W], and the class of each cell, uint8 [N, H, W]."""
    chunks = [views[start : start + _CHUNK] for start in range(0, len(views), _CHUNK)]
    latents = _gathered(len(views), (_encode(vae, _pictures(chunk)) for chunk in chunks))
    labels = _gathered(len(views), (_cells(chunk, latents.shape[-1]) for chunk in chunks))
    return latents, labels


def _pictures(views: Sequence[Scene]) -> npt.NDArray[np.uint8]:
    """Unpainted scenes, [B, 128, 128, 3]."""
    return np.stack([render(view, None) for view in views])


def _cells(views: Sequence[Scene], side: int) -> Array:
    """Class of each latent cell of scenes, read at its middle, uint8 [B, side, side]."""
    labels = np.stack([label_map(view) for view in views])
    cell = labels.shape[-1] // side  # pixels a side
    return labels[:, cell // 2 :: cell, cell // 2 :: cell]


def _gathered(count: int, parts: Iterable[Array]) -> Array:
    """Parts, one after another along their first axis, in one array made beforehand: [count, …].

    Parts kept in a list lie between the large blocks that the autoencoder frees, which then serve no later call: with
    `keep_heap`, encoding 24 000 pictures took 20 GB before it was stopped.
    """
    whole: Array | None = None
    start = 0
    for part in parts:
        if whole is None:
            whole = np.empty((count, *part.shape[1:]), part.dtype)
        whole[start : start + len(part)] = part
        start += len(part)
    if whole is None or start != count:
        raise RequestError(f"the parts must hold {count} rows together, they held {start}.")
    return whole


def _make_shard(first: int, count: int, vae: Any) -> dict[str, Array]:
    plain, labels = encode_scenes([scene(row) for row in range(first, first + count)], vae)
    painted = _gathered(count, (_encode(vae, _paintings(rows, count)) for rows in _chunks(first, count)))
    return {"plain": plain, "painted": painted, "labels": labels}


def _embed_paintings(first: int, count: int, clip: Any) -> Array:
    """CLIP embeddings of a shard's paintings, [count, D]."""
    return _gathered(count, (_embed(clip, _paintings(rows, count)) for rows in _chunks(first, count)))


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
