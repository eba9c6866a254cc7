"""Features, computed once: VAE latents of targets and contents, T5 states of captions, CLIP embeddings of styles and
contents and, where somebody says what a style picture shows, of that; where they are asked for CLIP's patch tokens of
styles.

Each distinct picture and caption is encoded once, whatever the number of targets that share it. A run that is stopped
goes on with the shard it was at; a grown ledger encodes only what is new. The process that trains loads none of the
encoders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.runtime.errors import MissingError, NonFiniteError, PictureError
from bottega.runtime.files import read_json, sha256_bytes, sha256_json, write_json, write_jsonl
from bottega.runtime.interrupt import Interruption
from bottega.runtime.memory import trim
from bottega.runtime.progress import Progress
from bottega.student.config import FeaturesConfig
from bottega.student.store import KINDS, MANIFEST, SAMPLES, SCHEMA, STYLE_KEYS, ShardIndex, text_tensors
from bottega.student.targets import Picture, Sample, accepted, fill50k

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from bottega.models.config import ModelsConfig


@dataclass
class Work:
    """What is to be encoded: for each kind, key -> picture or caption, in the order in which it is first met."""

    items: dict[str, dict[str, Any]]
    samples: list[dict[str, Any]]


def run(
    config: FeaturesConfig, directory: Path, *, teacher_dir: Path, data_root: Path, models: ModelsConfig
) -> dict[str, Any]:
    """Encode what the ledger's accepted targets and Fill50K need and what is not in the cache yet.

    Returns {targets, fill50k, pictures, captions, embeddings, patches, encoded, rejected}. MissingError when no target
    was accepted or a model is absent.
    """
    from bottega.models.loading import locate
    from bottega.student.encode import encoder_hashes, sizes

    pixart, clip = locate(models, "pixart"), locate(models, "clip")
    size = sizes(pixart)
    manifest = _manifest(config, encoder_hashes(pixart, clip), size)
    # a list of this length is a few hundred bytes a target; the pictures themselves are read shard by shard
    samples = list(accepted(teacher_dir, data_root))
    if not samples:
        raise MissingError(f"no target in {teacher_dir} was accepted (weight above 0); make targets, or see bottega qc")
    work = plan([*samples, *fill50k(data_root, config.fill50k)], manifest)
    index = ShardIndex(directory)
    encoded = {kind: _encode_kind(kind, work, index, config, models, pixart, clip, size["pixels"]) for kind in KINDS}
    rejected = index.rejected()
    pictures = ("target", "content", "clip_content", *STYLE_KEYS)
    rows = [row for row in work.samples if rejected.isdisjoint(row.get(name) for name in pictures)]
    write_json(directory / MANIFEST, manifest | _widths(directory, index, work))
    write_jsonl(directory / SAMPLES, rows)
    return {
        "targets": sum(row["task"] == "main" for row in rows),
        "fill50k": sum(row["task"] == "fill50k" for row in rows),
        "pictures": len(work.items["latent"]),
        "captions": len(work.items["text"]),
        "embeddings": len(work.items["clip"]),
        "patches": len(work.items["patch"]),
        "encoded": sum(encoded.values()),
        "rejected": len(work.samples) - len(rows),
    }


def plan(samples: Iterable[Sample], manifest: dict[str, Any]) -> Work:
    """Keys of all that the samples need, and the rows of samples.jsonl."""
    work = Work({kind: {} for kind in KINDS}, [])

    def want(kind: str, sha256: str, item: Picture | str) -> str:
        model = manifest["models"]["clip" if kind == "patch" else kind]
        key = sha256_json([kind, sha256, model, manifest["settings"][kind]])[:32]
        work.items[kind].setdefault(key, item)
        return key

    def caption(text: str) -> str:
        return want("text", sha256_bytes(text.encode()), text)

    def shown(text: str) -> str | None:
        return want("caption", sha256_bytes(text.encode()), text) if text else None

    caption("")  # the null prompt comes first, so that every cache has it
    for sample in samples:
        style = sample.style
        work.samples.append(
            {
                "sample_id": sample.sample_id,
                "task": sample.task,
                "split": sample.split,
                "weight": sample.weight,
                "grade": sample.grade,
                "target": want("latent", sample.target.sha256, sample.target),
                "content": want("latent", sample.content.sha256, sample.content),
                "text": caption(sample.prompt),
                "style": None if style is None else want("clip", style.sha256, style),
                "clip_content": None if style is None else want("clip", sample.content.sha256, sample.content),
                "caption": shown(sample.style_caption),
            }
        )
        if style is not None and "patch" in manifest["settings"]:
            work.samples[-1]["style_patches"] = want("patch", style.sha256, style)
    return work


def null_text_key(manifest: dict[str, Any]) -> str:
    """The key of the null prompt: T5 of the empty string, with its own mask of one token."""
    return sha256_json(["text", sha256_bytes(b""), manifest["models"]["text"], manifest["settings"]["text"]])[:32]


def _manifest(config: FeaturesConfig, hashes: dict[str, str], size: dict[str, int]) -> dict[str, Any]:
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
        settings["patch"] = {**settings["clip"], "storage": config.storage, "layer": -2}
    return {"schema": SCHEMA, "models": hashes, "settings": settings, **size}


def _encode_kind(
    kind: str,
    work: Work,
    index: ShardIndex,
    config: FeaturesConfig,
    models: ModelsConfig,
    pixart: Path,
    clip: Path,
    pixels: int,
) -> int:
    """Encode the missing items of one kind, shard by shard; returns their number. The encoder is freed on return."""
    done = index.done(kind)
    pending = [(key, item) for key, item in work.items[kind].items() if key not in done]
    if not pending:
        return 0
    encode = _encoder(kind, config, models, pixart, clip)
    total = len(work.items[kind])
    with (
        Progress(total, f"features: {kind}", "items", done=total - len(pending)) as progress,
        Interruption() as interruption,
    ):
        for start in range(0, len(pending), config.shard_items):
            shard = pending[start : start + config.shard_items]
            rows, keys, rejected = [], [], []
            for batch_keys, batch, broken in _batches(kind, shard, config.batch_size, pixels):
                rejected += broken
                if batch_keys:
                    rows += encode(batch, batch_keys)
                    keys += batch_keys
                progress.update(len(batch_keys) + len(broken))
            index.add(kind, _shard_tensors(kind, rows), keys, rejected)
            interruption.check()
    del encode
    trim()
    return len(pending)


def _batches(
    kind: str, shard: list[tuple[str, Any]], size: int, pixels: int
) -> Iterator[tuple[list[str], Any, list[str]]]:
    """Keys, loaded inputs and broken keys of one batch after another; what stands in a batch is fixed by the work
    list."""
    import numpy as np

    from bottega.data.pictures import load_square

    for start in range(0, len(shard), size):
        part = shard[start : start + size]
        if kind in ("text", "caption"):
            yield [key for key, _ in part], [text for _, text in part], []
            continue
        keys, pictures, broken = [], [], []
        for key, picture in part:
            try:
                pictures.append(load_square(picture.path, pixels))
                keys.append(key)
            except PictureError as error:
                _report(picture.path, error)
                broken.append(key)
        yield keys, np.stack(pictures) if pictures else None, broken


def _encoder(
    kind: str, config: FeaturesConfig, models: ModelsConfig, pixart: Path, clip: Path
) -> Callable[[Any, list[str]], list[torch.Tensor]]:
    """A function from a batch to one tensor an item."""
    import torch

    from bottega.models.autoencoder import LatentEncoder
    from bottega.student import encode

    storage = getattr(torch, config.storage)
    if kind == "latent":
        vae = LatentEncoder(pixart / "vae", models.device)

        def latents(pictures: npt.NDArray[np.uint8], keys: list[str]) -> list[torch.Tensor]:
            try:
                return list(vae.encode(pictures).to(storage))
            except NonFiniteError as error:
                raise NonFiniteError(f"{error} (features {keys[0]} to {keys[-1]})") from error

        return latents
    if kind == "text":
        t5 = encode.TextEncoder(pixart, config.text_tokens, models.dtype, models.device)
        return lambda captions, _: [states.to(storage) for states in t5.encode(captions)]
    encoder = encode.load_clip(clip, models.device)
    if kind == "caption":
        return lambda captions, _: list(torch.from_numpy(encoder.text(captions)))
    if kind == "patch":
        return lambda pictures, _: list(torch.from_numpy(encoder.patches(pictures)).to(storage))
    return lambda pictures, _: list(torch.from_numpy(encoder.image(pictures)))


def _shard_tensors(kind: str, rows: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    import torch

    if not rows:
        return {}
    return text_tensors(rows) if kind == "text" else {"rows": torch.stack(rows)}


def _widths(directory: Path, index: ShardIndex, work: Work) -> dict[str, int]:
    """{clip_width, text_width} from the headers of shards that hold what is asked for now, and {patch_width,
    patch_tokens} where that is so."""
    from bottega.models.weights import read_header

    result = {}
    for kind in ("clip", "text", "patch"):
        wanted = work.items[kind].keys()
        file = next((row["file"] for row in index.rows[kind] if not wanted.isdisjoint(row["keys"])), None)
        if file is not None:
            shape = read_header(directory / file).tensors["rows"].shape
            result[f"{kind}_width"] = shape[-1]
            if kind == "patch":
                result["patch_tokens"] = shape[-2]
    return result


def _report(path: Path, error: PictureError) -> None:
    import logging

    logging.getLogger(__name__).warning("left out %s: %s", path, error)


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a finished cache. MissingError without one."""
    result: dict[str, Any] = read_json(directory / MANIFEST)
    return result
