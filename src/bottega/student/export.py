"""An adapter as one safetensors file with a JSON header, and back. Nothing is unpickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from bottega.runtime.config import parse
from bottega.runtime.errors import MissingError, RequestError, StorageError
from bottega.runtime.files import atomic_path
from bottega.student.adapter import Geometry, StyleAdapter
from bottega.student.config import AdapterConfig

FORMAT = "bottega-style-adapter"
VERSION = 1
SAMPLER = "ddim"
"""What an adapter is drawn with; part of its header."""
_KEY = "bottega"  # one key: safetensors writes several in no fixed order, and equal runs must give equal bytes


def save_adapter(path: Path, adapter: StyleAdapter, header: dict[str, Any]) -> None:
    """Write the adapter, whole or not at all. header: JSON; architecture and geometry are added to it."""
    content = {"format": FORMAT, "version": VERSION, **adapter.description(), **header}
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in adapter.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={_KEY: json.dumps(content, sort_keys=True)})


def read_header(path: Path) -> dict[str, Any]:
    """The header alone. MissingError without a file, StorageError for a torn one, RequestError for another format."""
    if not path.is_file():
        raise MissingError(f"there is no adapter at {path}; train one: bottega train style")
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise StorageError(f"{path} can't be read as safetensors ({error}); copy or train it again") from error
    try:
        header: dict[str, Any] = json.loads(metadata[_KEY])
    except (KeyError, ValueError) as error:
        raise RequestError(
            f"{path} is not a StyleAdapter of bottega: its header is missing; name an adapter.safetensors"
        ) from error
    if header.get("format") != FORMAT or int(header.get("version", 0)) > VERSION:
        raise RequestError(
            f"{path} is {header.get('format')!r} version {header.get('version')}, this program reads {FORMAT!r} up to "
            f"{VERSION}; use a newer bottega"
        )
    if (sampler := header.get("sampling", {}).get("sampler", SAMPLER)) != SAMPLER:
        raise RequestError(
            f"{path} was made for the sampler {sampler}, this program draws with {SAMPLER} alone; use a newer bottega"
        )
    return header


def load_adapter(path: Path) -> tuple[StyleAdapter, dict[str, Any]]:
    """The adapter, frozen, in float32 on the CPU, and its header."""
    header = read_header(path)
    config = parse(AdapterConfig, header["adapter"], str(path))
    adapter = StyleAdapter(config, Geometry(**header["geometry"]))
    try:
        adapter.load_state_dict(load_file(path), strict=True)
    except RuntimeError as error:
        raise StorageError(
            f"{path}: header and weights don't agree ({str(error).splitlines()[-1].strip()}); train it again"
        ) from error
    return adapter.eval().requires_grad_(False), header
