"""The stage `features`: everything that the training reads, computed once.

VAE latents of targets and contents, T5 states of captions, CLIP embeddings of styles and contents, of what a style
picture shows where somebody says so, and where they are asked for CLIP's patch tokens of styles.

Each distinct picture and caption is encoded once, however many targets share it. A run that is stopped continues with
the shard it was at; a grown ledger encodes only what is new. The process that trains loads none of the encoders.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.runtime.errors import MissingError, NonFiniteError, PictureError
from bottega.runtime.files import read_json, sha256_bytes, sha256_json, write_json, write_jsonl
from bottega.runtime.fingerprint import require_unchanged
from bottega.runtime.interrupt import Interruption
from bottega.runtime.memory import trim
from bottega.runtime.progress import Progress
from bottega.runtime.trust import seal
from bottega.student.config import FeaturesConfig
from bottega.student.records import FeatureManifest, Kind, SampleRow
from bottega.student.store import BEGUN, KINDS, MANIFEST, SAMPLES, SCHEMA, ShardIndex, text_tensors
from bottega.student.targets import Picture, Sample, accepted, fill50k

if TYPE_CHECKING:
    import torch

    from bottega.models.config import ModelsConfig
    from bottega.student.encode import Sizes

LOGGER = logging.getLogger(__name__)
Item = Picture | str
"""What is encoded: a picture, or a caption."""
Encoder = Callable[[Any, list[str]], "list[torch.Tensor]"]
"""A batch (pictures uint8 [B, S, S, 3], or captions) and its keys -> one tensor an item."""
_PATCH_LAYER = -2
"""CLIP's last layer but one, which IP-Adapter reads too; part of the key."""


def run(
    config: FeaturesConfig, directory: Path, *, teacher_dir: Path, data_root: Path, models: ModelsConfig
) -> dict[str, int]:
    """Encode what the ledger's accepted targets and Fill50K need and what is not in the cache yet.

    Args:
        config: what is computed, and how it is stored.
        directory: of the cache.
        teacher_dir: with the ledger and its targets.
        data_root: that the ledger's paths and Fill50K's are relative to.
        models: where PixArt and CLIP are.

    Returns:
        {targets, fill50k, pictures, captions, embeddings, patches, encoded, rejected}.

    Raises:
        MissingError: no target was accepted, or a model is absent.
    """
    from bottega.models.hashes import configuration_hash
    from bottega.models.loading import locate, require_loadable
    from bottega.student.encode import encoder_hashes, sizes

    pixart = locate(models, "pixart")
    require_loadable("pixart", pixart)  # the transformer, too, which is loaded only after all of this is computed
    clip = locate(models, "clip")
    size = sizes(pixart)
    manifest = _manifest(config, encoder_hashes(pixart, clip), size)
    small = {"pixart": configuration_hash("pixart", pixart), "clip": configuration_hash("clip", clip)}
    _refuse_other_configurations(directory, small)

    # A row takes a few hundred bytes; the pictures themselves are read shard by shard.
    samples = list(accepted(teacher_dir, data_root))
    if not samples:
        raise MissingError(f"no target in {teacher_dir} was accepted (weight above 0); make targets, or see bottega qc")
    samples.extend(fill50k(data_root, config.fill50k))
    work = plan(samples, manifest)

    # What could not be read before is tried again: since then the teacher may have made it again.
    index = ShardIndex(directory, verify=True, retry_rejected=True)
    # One kind after the other: T5-XXL takes 9.5 GB, and no two encoders are in memory at once.
    encoded = 0
    for kind in KINDS:
        encoded += _encode_kind(kind, work, index, config, models, pixart, clip, size["pixels"])
    rejected = index.rejected()
    rows = [row for row in work.samples if not _needs_any(row, rejected)]
    # The list of samples last: a cache that has it is finished.
    write_json(directory / MANIFEST, {**manifest, **_widths(directory, index, work)})
    write_jsonl(directory / SAMPLES, rows)
    shards = index.files()
    lists = [directory / name for name in (BEGUN, MANIFEST, SAMPLES)]
    seal(directory, dict.fromkeys([*lists, *shards], "result"), shards)
    return {
        "targets": sum(row["task"] == "main" for row in rows),
        "fill50k": sum(row["task"] == "fill50k" for row in rows),
        "pictures": len(work.items["latent"]),
        "captions": len(work.items["text"]),
        "embeddings": len(work.items["clip"]),
        "patches": len(work.items["patch"]),
        "encoded": encoded,
        "rejected": len(work.samples) - len(rows),
    }


def _refuse_other_configurations(directory: Path, now: dict[str, str]) -> None:
    """FingerprintError where the cache was begun with other configurations, tokenizers or preparations of pictures."""
    try:
        begun = read_json(directory / BEGUN)
    except MissingError:
        write_json(directory / BEGUN, now)
        return
    require_unchanged(
        {"configurations": begun},
        {"configurations": now},
        where="when these features were begun",
        cure=f"put the model's small files back, or compute the features into another folder than {directory}",
        names={"configurations": "the configuration of models"},
    )


@dataclass
class EncodingPlan:
    """What is to be encoded: for each kind, key -> item in the order in which it is first met; and the sample rows."""

    manifest: FeatureManifest
    items: dict[Kind, dict[str, Item]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    samples: list[SampleRow] = field(default_factory=list)

    def picture(self, kind: Kind, picture: Picture) -> str:
        """Plan to encode a picture: its key."""
        return self._add(kind, picture.sha256, picture)

    def caption(self, kind: Kind, text: str) -> str:
        """Plan to encode a caption: its key."""
        return self._add(kind, sha256_bytes(text.encode()), text)

    def _add(self, kind: Kind, sha256: str, item: Item) -> str:
        key = _key(kind, sha256, self.manifest)
        self.items[kind].setdefault(key, item)
        return key


def _key(kind: Kind, sha256: str, manifest: FeatureManifest) -> str:
    """Hash of what is encoded, of the encoder's weights and of the settings."""
    model = manifest["models"]["clip" if kind == "patch" else kind]
    return sha256_json([kind, sha256, model, manifest["settings"][kind]])[:32]


def null_text_key(manifest: FeatureManifest) -> str:
    """The key of the null prompt: T5 of the empty string, with its own mask of one token."""
    return _key("text", sha256_bytes(b""), manifest)


def plan(samples: Iterable[Sample], manifest: FeatureManifest) -> EncodingPlan:
    """The keys of all that the samples need, and the rows of samples.jsonl."""
    work = EncodingPlan(manifest)
    work.caption("text", "")  # the null prompt comes first, so that every cache has it
    for sample in samples:
        style = sample.style
        row: SampleRow = {
            "sample_id": sample.sample_id,
            "task": sample.task,
            "split": sample.split,
            "weight": sample.weight,
            "grade": sample.grade,
            "target": work.picture("latent", sample.target),
            "content": work.picture("latent", sample.content),
            "text": work.caption("text", sample.prompt),
            "style": None,
            "clip_content": None,
            "caption": None,
        }
        if style is not None:
            row["style"] = work.picture("clip", style)
            row["clip_content"] = work.picture("clip", sample.content)
        if sample.style_caption:
            row["caption"] = work.caption("caption", sample.style_caption)
        if style is not None and "patch" in manifest["settings"]:
            row["style_patches"] = work.picture("patch", style)
        if sample.source:
            row["source"] = sample.source
        work.samples.append(row)
    return work


def _needs_any(row: SampleRow, keys: set[str]) -> bool:
    """Whether a sample needs one of these features of pictures."""
    needed = {
        row["target"],
        row["content"],
        row["clip_content"],
        row["style"],
        row.get("caption"),
        row.get("style_patches"),
    }
    return not keys.isdisjoint(needed)


def _manifest(config: FeaturesConfig, hashes: dict[str, str], size: Sizes) -> FeatureManifest:
    """What the keys depend on; the widths are added when the shards are there."""
    settings: dict[str, dict[str, Any]] = {
        "latent": {
            "pixels": size["pixels"],
            "storage": config.storage,
            "posterior": "mean",
            "batch": config.batch_size,
        },
        "text": {
            "tokens": config.text_tokens,
            "storage": config.storage,
            "cleaning": "lower",
            "batch": config.batch_size,
        },
        "clip": {"pixels": size["pixels"], "batch": config.batch_size},
        "caption": {"batch": config.batch_size},
    }
    if config.patches:
        settings["patch"] = {**settings["clip"], "storage": config.storage, "layer": _PATCH_LAYER}
    return {
        "schema": SCHEMA,
        "models": hashes,
        "settings": settings,
        "pixels": size["pixels"],
        "cells": size["cells"],
        "pixels_per_cell": size["pixels_per_cell"],
        "channels": size["channels"],
    }


def _encode_kind(
    kind: Kind,
    work: EncodingPlan,
    index: ShardIndex,
    config: FeaturesConfig,
    models: ModelsConfig,
    pixart: Path,
    clip: Path,
    pixels: int,
) -> int:
    """Encode the missing items of one kind, shard by shard: their number. The encoder is freed on return."""
    done = index.done(kind)
    pending = [(key, item) for key, item in work.items[kind].items() if key not in done]
    if not pending:
        return 0
    encode = _encoder(kind, config, models, pixart, clip)
    total = len(work.items[kind])
    already = total - len(pending)
    with (
        Progress(total, f"features: {kind}", "items", done=already) as progress,
        Interruption() as interruption,
    ):
        for start in range(0, len(pending), config.shard_items):
            rows: list[torch.Tensor] = []
            keys: list[str] = []
            rejected: list[str] = []
            for batch in _batches(pending[start : start + config.shard_items], config.batch_size, pixels):
                if batch.keys:
                    rows.extend(encode(batch.inputs, batch.keys))
                    keys.extend(batch.keys)
                rejected.extend(batch.rejected)
                progress.update(len(batch.keys) + len(batch.rejected))
            # The shard, then the question whether to stop: what was encoded is never encoded twice.
            index.add(kind, _shard_tensors(kind, rows), keys, rejected)
            interruption.check()
    # The encoder goes before the next kind's is loaded, and its freed pages go back to the system.
    del encode
    trim()
    return len(pending)


@dataclass
class _EncodingBatch:
    """Keys and loaded inputs of what is encoded together, and the keys of pictures that could not be read."""

    keys: list[str]
    inputs: Any
    rejected: list[str]


def _batches(shard: Sequence[tuple[str, Item]], size: int, pixels: int) -> Iterator[_EncodingBatch]:
    """The batches of a shard. Their division follows from the plan alone, for the bits of a feature depend on it."""
    for start in range(0, len(shard), size):
        items = shard[start : start + size]
        captions = [item for _, item in items if isinstance(item, str)]
        if captions:
            yield _EncodingBatch([key for key, _ in items], captions, [])
        else:
            yield _read_pictures([(key, item) for key, item in items if isinstance(item, Picture)], pixels)


def _read_pictures(items: Sequence[tuple[str, Picture]], pixels: int) -> _EncodingBatch:
    import numpy as np

    from bottega.data.pictures import load_square

    batch = _EncodingBatch([], None, [])
    pictures = []
    for key, picture in items:
        try:
            picture.require_intact()
            pictures.append(load_square(picture.path, pixels))
        except PictureError as error:
            LOGGER.warning("left out %s: %s", picture.path, error)
            batch.rejected.append(key)
        else:
            batch.keys.append(key)
    if pictures:
        batch.inputs = np.stack(pictures)
    return batch


def _encoder(kind: Kind, config: FeaturesConfig, models: ModelsConfig, pixart: Path, clip: Path) -> Encoder:
    """The encoder of one kind, with its model loaded."""
    import torch

    from bottega.student.encode import TextEncoder, load_clip

    storage: torch.dtype = getattr(torch, config.storage)
    if kind == "latent":
        return _latent_encoder(pixart, models.device, storage)
    if kind == "text":
        t5 = TextEncoder(pixart, config.text_tokens, models.dtype, models.device)
        return lambda captions, _: [states.to(storage) for states in t5.encode(captions)]
    encoder = load_clip(clip, models.device)
    if kind == "caption":
        return lambda captions, _: list(torch.from_numpy(encoder.text(captions)))
    if kind == "patch":
        return lambda pictures, _: list(torch.from_numpy(encoder.patches(pictures)).to(storage))
    return lambda pictures, _: list(torch.from_numpy(encoder.image(pictures)))


def _latent_encoder(pixart: Path, device: str, storage: torch.dtype) -> Encoder:
    from bottega.models.autoencoder import LatentEncoder

    vae = LatentEncoder(pixart / "vae", device)

    def encode(pictures: Any, keys: list[str]) -> list[torch.Tensor]:
        try:
            return list(vae.encode(pictures).to(storage))
        except NonFiniteError as error:
            raise NonFiniteError(f"{error} (features {keys[0]} to {keys[-1]})") from error

    return encode


def _shard_tensors(kind: Kind, rows: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    import torch

    if not rows:
        return {}
    if kind == "text":
        return text_tensors(rows)
    return {"rows": torch.stack(rows)}


def _widths(directory: Path, index: ShardIndex, work: EncodingPlan) -> dict[str, int]:
    """{clip_width, text_width}, and {patch_width, patch_tokens} where there are any: read from the headers of shards
    that hold what is asked for now."""
    from bottega.models.weights import read_header

    kinds: tuple[Kind, ...] = ("clip", "text", "patch")
    widths = {}
    for kind in kinds:
        wanted = work.items[kind].keys()
        files = [row["file"] for row in index.rows[kind] if not wanted.isdisjoint(row["keys"])]
        if not files or files[0] is None:
            continue
        shape = read_header(directory / files[0]).tensors["rows"].shape
        widths[f"{kind}_width"] = shape[-1]
        if kind == "patch":
            widths["patch_tokens"] = shape[-2]
    return widths
