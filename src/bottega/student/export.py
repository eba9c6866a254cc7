"""An adapter as one safetensors file with a JSON header, and back. Nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from bottega.runtime.config import parse
from bottega.runtime.errors import DamagedError, MissingError, RequestError, StorageError
from bottega.runtime.files import atomic_path
from bottega.runtime.records import record_of_text, to_record
from bottega.runtime.trust import hash_tensors
from bottega.student.adapter import Geometry, StyleAdapter
from bottega.student.config import AdapterConfig, SamplingConfig
from bottega.student.records import AdapterHeader

FORMAT = "bottega-style-adapter"
VERSION = 1
HASH = "hash"
"""The header's key with the hash of the weights and of the rest of the header."""
SAMPLER = "ddim"
"""What an adapter is drawn with; part of its header."""
_TRAIN_AGAIN = "copy it again from where it was trained, or train it again"
_KEY = "bottega"
"""The only metadata key: safetensors writes several in no fixed order, and equal runs must give equal bytes."""


def save_adapter(path: Path, adapter: StyleAdapter, facts: Mapping[str, Any]) -> None:
    """Write the adapter, whole or not at all.

    Args:
        path: of the file.
        adapter: its weights; architecture and geometry go into the header.
        facts: what else the header says, as JSON; see `records.TrainingFacts`.
    """
    header = {"format": FORMAT, "version": VERSION, **adapter.description(), **facts}
    header.pop(HASH, None)  # of another adapter, where the facts are those of its header
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in adapter.state_dict().items():
        tensors[name] = tensor.detach().float().cpu().contiguous()
    # A hash of weights and header, in the header: an adapter is copied from machine to machine without its run.
    header[HASH] = hash_tensors(tensors, json.loads(json.dumps(header)))
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={_KEY: json.dumps(header, sort_keys=True)})


def read_header(path: Path) -> AdapterHeader:
    """The header alone.

    Raises:
        MissingError: there is no file.
        StorageError: it is torn.
        RequestError: it is of another format, or for another sampler.
    """
    if not path.is_file():
        raise MissingError(f"there is no adapter at {path}; train one: bottega train style")
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise StorageError(f"{path} can't be read as safetensors ({error}); copy or train it again") from error
    if _KEY not in metadata:
        raise RequestError(
            f"{path} is not a StyleAdapter of bottega: its header is missing; name an adapter.safetensors"
        )
    where = f"{path}: header"
    header = record_of_text(dict[str, object], metadata[_KEY], where, _TRAIN_AGAIN)
    version = header.get("version")
    if header.get("format") != FORMAT or (isinstance(version, int) and version > VERSION):
        raise RequestError(
            f"{path} is {header.get('format')!r:.60} version {version!r:.60}, this program reads {FORMAT!r} up to "
            f"{VERSION}; use a newer bottega"
        )
    checked = to_record(AdapterHeader, header, where, _TRAIN_AGAIN)
    sampler = checked.get("sampling", {}).get("sampler", SAMPLER)
    if sampler != SAMPLER:
        raise RequestError(
            f"{path} was made for the sampler {sampler}, this program draws with {SAMPLER} alone; use a newer bottega"
        )
    return checked


def load_adapter(path: Path | str) -> tuple[StyleAdapter, AdapterHeader]:
    """The adapter, frozen, in float32 on the CPU, and its header; raises as `read_header`."""
    path = Path(path)
    header = read_header(path)
    tensors = load_file(path)
    _require_intact(path, tensors)
    config = parse(AdapterConfig, header["adapter"], str(path))
    geometry = to_record(Geometry, header["geometry"], f"{path}: geometry", _TRAIN_AGAIN)
    try:
        # First without memory: the sizes stand in the file, and a damaged one may name terabytes.
        with torch.device("meta"):
            StyleAdapter(config, geometry).load_state_dict(tensors, strict=True, assign=True)
        adapter = StyleAdapter(config, geometry)
        adapter.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise StorageError(
            f"{path}: header and weights don't agree ({str(error).splitlines()[-1].strip()}); {_TRAIN_AGAIN}"
        ) from error
    return adapter.eval().requires_grad_(False), header


def _require_intact(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """DamagedError where weights and header are not those that were saved; an older adapter states no hash."""
    with safe_open(path, framework="pt") as handle:
        header: dict[str, Any] = json.loads((handle.metadata() or {})[_KEY])
    stated = header.pop(HASH, None)
    if stated is not None and hash_tensors(tensors, header) != stated:
        raise DamagedError(
            f"{path}: its weights or its header are not those that were saved (their hash is another); copy it again, "
            "or delete it and let the same run write it again: bottega run, or bottega train style"
        )


def check_weights(header: AdapterHeader, pixart: Path, clip: Path, adapter: str) -> None:
    """Refuse models with other weights than the adapter was trained with.

    Args:
        header: of the adapter.
        pixart: folder of the base model.
        clip: folder of CLIP.
        adapter: what to call the adapter in the message.

    Raises:
        RequestError: names the folder.
    """
    from bottega.models.hashes import model_hash

    trained_with = header["model_hashes"]
    folders = {"transformer": pixart / "transformer", "latent": pixart / "vae", "clip": clip}
    for name, folder in folders.items():
        if model_hash(folder) != trained_with[name]:
            raise RequestError(
                f"{folder}: other weights than {adapter} was trained with; name that model, or train again"
            )


def sampling_of(header: AdapterHeader, where: str, **given: Any) -> SamplingConfig:
    """How the header says to draw, with the given values in its place; None leaves the header's.

    Raises:
        RecipeError: a value is not allowed.
    """
    values = dict(header["sampling"])
    for name in ("sampler", "start"):  # facts of the training, no settings
        values.pop(name, None)
    for name, value in given.items():
        if value is not None:
            values[name] = value
    return parse(SamplingConfig, values, where)
