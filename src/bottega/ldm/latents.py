"""Latents, computed once and kept in shards: training never waits for a picture or an autoencoder.

    latents/manifest.json            what they depend on, and the statistics of the training latents
    latents/train_00000.safetensors  float32 [512, C, h, w], the first 512 samples; and so on

A run that was asked to stop continues where it was, one that was killed with the next shard, a longer list of samples
with the new ones. All latents are held in memory: 16 KB a picture of 256 px at 4 × 32 × 32.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bottega.diffusion.sampling import moments
from bottega.ldm.autoencoder import Autoencoder
from bottega.ldm.data import CaptionedDataset, CaptionedPicture
from bottega.runtime.errors import MissingError, NonFiniteError, StorageError
from bottega.runtime.files import atomic_path, read_json, sha256_json, write_json
from bottega.runtime.interrupt import Interruption
from bottega.runtime.progress import Progress
from bottega.runtime.trust import hash_tensors

LOGGER = logging.getLogger(__name__)
_KEY = "bottega"
SHARD = 512
"""Samples in a file; with another number, the files of earlier runs would hold other samples than expected."""
_BATCH = 16
"""Pictures encoded together. The bits of a latent depend on it, so it is no setting."""


@dataclass(frozen=True)
class Latents:
    """Latents in memory.

    Args:
        training: float32 [N, C, h, w].
        held_out: float32 [M, C, h, w].
        statistics: min, max, mean, std and absmax of the training latents; absmax is the range of x̂_0.
    """

    training: torch.Tensor
    held_out: torch.Tensor
    statistics: dict[str, float]


def encode(
    samples: CaptionedDataset,
    picture_settings: Mapping[str, Any],
    autoencoder: Autoencoder,
    directory: Path,
    *,
    write: bool = True,
) -> Latents:
    """The latents of every sample; those that `directory` holds already are read.

    Args:
        samples: what to encode.
        picture_settings: JSON that the pictures depend on; where it or the autoencoder has changed, all latents are
            computed again.
        autoencoder: what encodes.
        directory: of the shards.
        write: False where another process has written all of them, and this one only reads.
    """
    key = sha256_json({"pictures": picture_settings, "autoencoder": autoencoder.facts})
    manifest = directory / "manifest.json"
    if write and not _is_current(manifest, key):
        # Shards first, then the new key: a kill in between deletes again, never reads old latents as new ones.
        for stale in directory.glob("*.safetensors"):
            stale.unlink()
        write_json(manifest, {"key": key})

    total = len(samples.training) + len(samples.held_out)
    with Progress(total, "latents", "pictures") as progress, Interruption() as stop:
        writer = _ShardWriter(directory, autoencoder, progress, stop)
        training = writer.all_of(samples.training, "train")
        held_out = writer.all_of(samples.held_out, "held_out")

    statistics = asdict(moments(training))
    if write:
        write_json(manifest, {"key": key, "pictures": len(training), "statistics": statistics})
    return Latents(training, held_out, statistics)


def _is_current(manifest: Path, key: str) -> bool:
    try:
        recorded = read_json(manifest)
    except (MissingError, StorageError):
        return False  # absent or damaged: nobody can tell what the shards are of
    return isinstance(recorded, dict) and recorded.get("key") == key


@dataclass(frozen=True)
class _ShardWriter:
    """Reads the shards of a folder and writes those that are missing."""

    directory: Path
    autoencoder: Autoencoder
    progress: Progress
    stop: Interruption

    def all_of(self, samples: Sequence[CaptionedPicture], name: str) -> torch.Tensor:
        """The latents of some samples, float32 [N, C, h, w], in shards called `name`; [0] for no samples."""
        shards = []
        for number, first in enumerate(range(0, len(samples), SHARD)):
            path = self.directory / f"{name}_{number:05d}.safetensors"
            shards.append(self._shard(path, samples[first : first + SHARD]))
        return torch.cat(shards) if shards else torch.empty(0)  # [N, C, h, w]

    def _shard(self, path: Path, samples: Sequence[CaptionedPicture]) -> torch.Tensor:
        """The latents of one shard's samples: those that its file holds are read, the others computed and written.

        When somebody asks to stop, what is done so far is written.
        """
        kept, names = _read(path)
        done = _matching(samples, names)
        if done < len(samples):
            done -= done % _BATCH  # which pictures are encoded together must not depend on how the list grew
        self.progress.update(done)
        self.stop.check()
        if done == len(samples):
            return kept[:done].clone()

        parts = [kept[:done]] if done else []
        for first in range(done, len(samples), _BATCH):
            batch = self._encode(samples[first : first + _BATCH])
            parts.append(batch)
            self.progress.update(len(batch))
            if self.stop.requested:
                break
        latents = torch.cat(parts).contiguous()  # [n, C, h, w]
        _write(path, latents, samples[: len(latents)])
        self.stop.check()
        return latents

    def _encode(self, samples: Sequence[CaptionedPicture]) -> torch.Tensor:
        """Latents of some samples; NonFiniteError, with the picture's name, where one is not finite."""
        latents = self.autoencoder.encode(np.stack([sample.picture() for sample in samples]))
        for sample, latent in zip(samples, latents, strict=True):
            if not bool(latent.isfinite().all()):
                raise NonFiniteError(
                    f"latents are finite, the autoencoder gave NaN or infinity for {sample.name}; take one that "
                    "computes in float32, or leave this picture out"
                )
        return latents


def _matching(samples: Sequence[CaptionedPicture], names: Sequence[str]) -> int:
    """How many of the first samples a file holds, by their identities."""
    for index, sample in enumerate(samples):
        if index >= len(names) or names[index] != _identity(sample):
            return index
    return len(samples)


def _write(path: Path, latents: torch.Tensor, samples: Sequence[CaptionedPicture]) -> None:
    from safetensors.torch import save_file

    identities = [_identity(sample) for sample in samples]
    described = {"samples": identities, "hash": hash_tensors({"latents": latents}, [path.name, *identities])}
    with atomic_path(path) as temporary:
        # One key: safetensors writes several in no fixed order, and equal runs must give equal bytes.
        save_file({"latents": latents}, temporary, {_KEY: json.dumps(described)})


def _read(path: Path) -> tuple[torch.Tensor, list[str]]:
    """A shard's latents and the identities of its samples, in order; nothing where there is no file."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return torch.empty(0), []
    try:
        with safe_open(path, "pt") as file:
            latents = file.get_tensor("latents")
            metadata = file.metadata() or {}
        names = _names(path.name, latents, metadata)
        if not bool(latents.isfinite().all()):
            raise ValueError("it holds values that are not finite")
    except (SafetensorError, ValueError, KeyError, TypeError) as error:  # json's error is a ValueError, too
        LOGGER.warning("%s is damaged (%s): its latents are computed again", path, error)
        return torch.empty(0), []
    return latents, names


def _names(file: str, latents: torch.Tensor, metadata: Mapping[str, str]) -> list[str]:
    """The identities of a shard's samples; ValueError where it is not what was written."""
    if _KEY not in metadata:  # written before shards had a hash
        names: list[str] = json.loads(metadata["samples"])
        return names
    described = json.loads(metadata[_KEY])
    names = described["samples"]
    if hash_tensors({"latents": latents}, [file, *names]) != described["hash"]:
        raise ValueError("its hash is another than when it was written")
    return names


def _identity(sample: CaptionedPicture) -> str:
    """A sample's name, and the stamp that changes when its picture does."""
    return f"{sample.name} {sample.stamp}".strip()
