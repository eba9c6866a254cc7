"""Latents, computed once and kept in shards: training never waits for a picture or an autoencoder.

    latents/manifest.json            what they depend on, and the statistics of the training latents
    latents/train_00000.safetensors  float32 [512, C, h, w], the first 512 samples; and so on

A pass that was asked to stop goes on where it was, one that was killed with the next shard, a longer list with the
pictures that are new. All of them are held in memory: 16 KB a picture of 256 px at 4 × 32 × 32.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bottega.diffusion.sampling import moments
from bottega.ldm.autoencoder import Autoencoder
from bottega.ldm.data import Sample, Samples
from bottega.runtime.errors import NonFiniteError, StorageError
from bottega.runtime.files import atomic_path, read_json, sha256_json, write_json
from bottega.runtime.interrupt import Interruption
from bottega.runtime.progress import Progress

SHARD = 512
_AT_ONCE = 16


@dataclass(frozen=True)
class Latents:
    """Latents in memory. training [N, C, h, w] and held_out [M, C, h, w], float32.

    statistics: min, max, mean, std and absmax of the training latents; absmax is the range of x̂_0.
    """

    training: torch.Tensor
    held_out: torch.Tensor
    statistics: dict[str, float]


def encode(
    samples: Samples, facts: dict[str, Any], autoencoder: Autoencoder, directory: Path, *, write: bool = True
) -> Latents:
    """Every sample's latents, read from `directory` where they are there already.

    facts: what the pictures depend on; other facts, or another autoencoder, and all is computed anew. write: False
    where another process has written them all, and this one only reads.
    """
    key = sha256_json({"pictures": facts, "autoencoder": autoencoder.facts})
    manifest = directory / "manifest.json"
    if write and (not manifest.exists() or read_json(manifest).get("key") != key):
        for stale in directory.glob("*.safetensors"):
            stale.unlink()
        write_json(manifest, {"key": key})
    total = len(samples.training) + len(samples.held_out)
    with Progress(total, "latents", "pictures") as progress, Interruption() as stop:
        training, held_out = (
            _all(part, name, autoencoder, directory, progress, stop)
            for part, name in ((samples.training, "train"), (samples.held_out, "held_out"))
        )
    statistics = asdict(moments(training))
    if write:
        write_json(manifest, {"key": key, "pictures": len(training), "statistics": statistics})
    return Latents(training, held_out, statistics)


def _all(
    samples: Sequence[Sample],
    name: str,
    autoencoder: Autoencoder,
    directory: Path,
    progress: Progress,
    stop: Interruption,
) -> torch.Tensor:
    shards = []
    for number, first in enumerate(range(0, len(samples), SHARD)):
        part = samples[first : first + SHARD]
        shards.append(_shard(directory / f"{name}_{number:05d}.safetensors", part, autoencoder, progress, stop))
    return torch.cat(shards) if shards else torch.empty(0)


def _shard(
    path: Path, samples: Sequence[Sample], autoencoder: Autoencoder, progress: Progress, stop: Interruption
) -> torch.Tensor:
    """The latents of one shard's samples: read where its file has them under these names, the rest computed and
    written, as many as there are when somebody asks to stop. What is encoded together does not depend on how the list
    grew."""
    kept, names = _read(path)
    there = next((i for i, sample in enumerate(samples) if names[i : i + 1] != [_told(sample)]), len(samples))
    begun = there if there == len(samples) else there - there % _AT_ONCE
    progress.update(begun)
    stop.check()
    if begun == len(samples):
        return kept[:begun].clone()
    parts = [kept[:begun]] if begun else []
    for first in range(begun, len(samples), _AT_ONCE):
        parts.append(_encoded(samples[first : first + _AT_ONCE], autoencoder))
        progress.update(len(parts[-1]))
        if stop.requested:
            break
    latents = torch.cat(parts).contiguous()
    _write(path, latents, samples[: len(latents)])
    stop.check()
    return latents


def _encoded(samples: Sequence[Sample], autoencoder: Autoencoder) -> torch.Tensor:
    """Latents of some samples; NonFiniteError, with the picture's name, where one is not finite."""
    latents = autoencoder.encode(np.stack([sample.picture() for sample in samples]))
    for sample, latent in zip(samples, latents, strict=True):
        if not bool(latent.isfinite().all()):
            raise NonFiniteError(
                f"latents are finite, the autoencoder gave NaN or infinity for {sample.name}; take one that computes "
                "in float32, or leave this picture out"
            )
    return latents


def _write(path: Path, latents: torch.Tensor, samples: Sequence[Sample]) -> None:
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        save_file({"latents": latents}, temporary, {"samples": json.dumps([_told(sample) for sample in samples])})


def _read(path: Path) -> tuple[torch.Tensor, list[str]]:
    """A shard's latents and the names of its samples, in order; none where it is not there."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return torch.empty(0), []
    try:
        with safe_open(path, "pt") as file:
            latents, names = file.get_tensor("latents"), json.loads((file.metadata() or {}).get("samples", "[]"))
        if not bool(latents.isfinite().all()):
            raise ValueError("it holds values that are not finite")
    except (SafetensorError, ValueError) as error:  # json's error is a ValueError, too
        raise StorageError(f"{path} is damaged ({error}); delete it and run the same command again") from error
    return latents, names


def _told(sample: Sample) -> str:
    """A sample's name, and whatever tells that its picture has changed."""
    return f"{sample.name} {sample.stamp}".strip()
