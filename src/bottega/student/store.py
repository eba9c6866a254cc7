"""The feature cache on disk: shards that appear whole, an index of them, and their reader.

    features/
      manifest.json     schema version, models' hashes, settings, sizes
      index.jsonl       one object a shard: kind, file, keys in order, keys that could not be encoded
      latent/ text/ clip/ caption/ patch/   <first key>.safetensors; caption: of what style pictures show
      samples.jsonl     the training samples: which keys each one is made of

A key is a hash of what was encoded (bytes of the picture, or the caption), the encoder's weights and the settings: a
changed one is another key, so nothing stale can be used. Patch tokens are there only where they were asked for, of the
style pictures alone. Legend: n items; C × h × w latents; P T5's width; D CLIP's; T patch tokens of width F.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.runtime.errors import MissingError, RequestError, StorageError
from bottega.runtime.files import append_jsonl, atomic_path, read_json, read_jsonl

if TYPE_CHECKING:
    import torch

SCHEMA = 1
KINDS = ("latent", "text", "clip", "caption", "patch")
STYLE_KEYS = ("style", "caption", "style_patches")
"""What a row of samples.jsonl says of its style: they change together. The last only where there are patch tokens."""
MANIFEST, INDEX, SAMPLES = "manifest.json", "index.jsonl", "samples.jsonl"
_MB = 1024 * 1024
_MOST_ITEMS = 2**32  # in one shard


class ShardIndex:
    """Which keys are done, of which kind, in which file."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
        path = directory / INDEX
        if path.exists():
            for row in read_jsonl(path):
                if row["file"] is None or (directory / row["file"]).is_file():
                    self.rows[row["kind"]].append(row)

    def done(self, kind: str) -> set[str]:
        """Keys that need no work: encoded, or found impossible."""
        return {key for row in self.rows[kind] for key in (*row["keys"], *row["rejected"])}

    def rejected(self) -> set[str]:
        """Keys whose picture could not be read."""
        return {key for rows in self.rows.values() for row in rows for key in row["rejected"]}

    def add(self, kind: str, tensors: dict[str, torch.Tensor], keys: list[str], rejected: list[str]) -> None:
        """Write one shard, whole, then its line of the index."""
        from safetensors.torch import save_file

        file = None
        if keys:
            file = f"{kind}/{keys[0]}.safetensors"
            with atomic_path(self.directory / file) as temporary:
                save_file(tensors, temporary)
        row = {"kind": kind, "file": file, "keys": keys, "rejected": rejected}
        append_jsonl(self.directory / INDEX, [row])
        self.rows[kind].append(row)


class FeatureStore:
    """Reads features by key; a kind that is smaller than `preload_mb` is held in memory from its first use.

    Raises MissingError without a cache, RequestError for one of another schema.
    """

    def __init__(self, directory: Path, preload_mb: int = 2048) -> None:
        if not (directory / MANIFEST).is_file():
            raise MissingError(f"there are no features in {directory}; compute them first: bottega features")
        self.manifest: dict[str, Any] = read_json(directory / MANIFEST)
        if self.manifest.get("schema") != SCHEMA:
            raise RequestError(
                f"{directory} holds features of schema {self.manifest.get('schema')}, this program knows {SCHEMA}; "
                f"compute them again into another folder"
            )
        self.directory = directory
        index = ShardIndex(directory)
        self._shards = {kind: [row["file"] for row in index.rows[kind] if row["file"]] for kind in KINDS}
        self._places: dict[str, dict[str, int]] = {  # one number a key: there may be hundreds of thousands
            kind: {
                sys.intern(key): shard * _MOST_ITEMS + place
                for shard, row in enumerate(r for r in index.rows[kind] if r["file"])
                for place, key in enumerate(row["keys"])
            }
            for kind in KINDS
        }
        self._limit = preload_mb * _MB
        self._memory: dict[str, list[dict[str, torch.Tensor]]] = {}

    def __contains__(self, item: tuple[str, str]) -> bool:
        kind, key = item
        return key in self._places[kind]

    def latents(self, keys: Sequence[str]) -> torch.Tensor:
        """Scaled latents, float32 [B, C, h, w]."""
        return self._stack("latent", keys)

    def clip(self, keys: Sequence[str]) -> torch.Tensor:
        """Unit CLIP embeddings in the joint space, float32 [B, D]."""
        return self._stack("clip", keys)

    def captions(self, keys: Sequence[str | None]) -> torch.Tensor:
        """Unit CLIP embeddings of captions in the joint space, float32 [B, D]; noughts for None."""
        import torch

        rows = [None if key is None else self._row("caption", key).float() for key in keys]
        return torch.stack([torch.zeros(self.manifest["clip_width"]) if row is None else row for row in rows])

    def patches(self, keys: Sequence[str]) -> torch.Tensor:
        """CLIP's patch tokens, class token first, float32 [B, T, F]."""
        return self._stack("patch", keys)

    def text(self, keys: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """T5 states float32 [B, M, P], padded with zeros to the longest, and their mask float32 [B, M], 1 = keep."""
        return pad_text([self._row("text", key) for key in keys])

    def text_row(self, key: str) -> torch.Tensor:
        """T5 states of one caption's own tokens, float32 [m, P]."""
        return self._row("text", key).float()

    def _stack(self, kind: str, keys: Sequence[str]) -> torch.Tensor:
        import torch

        return torch.stack([self._row(kind, key) for key in keys]).float()

    def _row(self, kind: str, key: str) -> torch.Tensor:
        try:
            shard, place = divmod(self._places[kind][key], _MOST_ITEMS)
        except KeyError:
            raise StorageError(
                f"{self.directory}: the {kind} feature {key} is not in the cache; run bottega features again"
            ) from None
        held = self._held(kind)
        if held is not None:
            return _cut(kind, held[shard], place)
        return self._read(self._shards[kind][shard], kind, place)

    def _held(self, kind: str) -> list[dict[str, torch.Tensor]] | None:
        if kind in self._memory:
            return self._memory[kind]
        files = [self.directory / file for file in self._shards[kind]]
        if sum(file.stat().st_size for file in files) > self._limit:
            return None
        from safetensors.torch import load_file

        self._memory[kind] = [load_file(file) for file in files]
        return self._memory[kind]

    def _read(self, file: str, kind: str, place: int) -> torch.Tensor:
        """Open the file for this row alone (a tenth of a millisecond): what stays open stays mapped, and in the end the
        whole cache would count as this process's memory."""
        from safetensors import safe_open

        with safe_open(self.directory / file, framework="pt") as handle:
            if kind != "text":
                return handle.get_slice("rows")[place].clone()  # type: ignore[no-any-return]
            first, last = handle.get_slice("offsets")[place : place + 2].tolist()
            return handle.get_slice("rows")[first:last].clone()  # type: ignore[no-any-return]


def pad_text(rows: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token states [m_i, P] -> float32 [B, M, P] padded with zeros to the longest, and the mask float32 [B, M]."""
    import torch

    longest = max(len(row) for row in rows)
    states = torch.zeros(len(rows), longest, rows[0].shape[-1])
    mask = torch.zeros(len(rows), longest)
    for i, row in enumerate(rows):
        states[i, : len(row)] = row
        mask[i, : len(row)] = 1.0
    return states, mask


def text_tensors(rows: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Token states [m_i, P] as one shard: rows [Σ m, P] and offsets int64 [n + 1]."""
    import torch

    lengths = torch.tensor([0, *(len(row) for row in rows)], dtype=torch.int64)
    return {"rows": torch.cat(list(rows)), "offsets": lengths.cumsum(0)}


def read_samples(directory: Path) -> list[dict[str, Any]]:
    """The rows of samples.jsonl. MissingError where features were never finished."""
    path = directory / SAMPLES
    if not path.is_file():
        raise MissingError(f"there is no {path}: computing the features was never finished; run bottega features")
    # many targets share a content, a style, a caption: of equal keys one string is held
    return [{k: sys.intern(v) if isinstance(v, str) else v for k, v in row.items()} for row in read_jsonl(path)]


def split_tasks(rows: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Sample rows by task."""
    tasks: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        tasks.setdefault(row["task"], []).append(row)
    return tasks


def _cut(kind: str, shard: dict[str, torch.Tensor], place: int) -> torch.Tensor:
    if kind != "text":
        return shard["rows"][place]
    first, last = shard["offsets"][place : place + 2].tolist()
    return shard["rows"][first:last]
