"""The feature cache on disk: shards that appear whole, an index of them, and their reader.

    features/
      manifest.json     schema version, models' hashes, settings, sizes
      index.jsonl       one object a shard: kind, file, keys in order, keys that could not be encoded, hashes
      latent/ text/ clip/ caption/ patch/   <first key>.safetensors, see `records.Kind`
      models.json       hashes of the models' configurations, written first
      samples.jsonl     the training samples: which keys each one is made of

A key is a hash of what was encoded (bytes of the picture, or the caption), the encoder's weights and the settings. What
has changed has another key, so nothing stale can be used. A shard is held against its hash when it is first read. Patch
tokens exist only where they were asked for, of style pictures alone.

Legend: n items; C × h × w latents; P T5's width; D CLIP's; T patch tokens of width F.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, cast, get_args

from bottega.runtime.errors import MissingError, RequestError, StorageError
from bottega.runtime.files import append_jsonl, atomic_path, read_jsonl_leniently, sha256_json
from bottega.runtime.paths import inside
from bottega.runtime.records import read_record, read_records, to_record
from bottega.runtime.trust import damaged, hash_file, holds, require, with_check
from bottega.student.records import FeatureManifest, Kind, SampleRow

if TYPE_CHECKING:
    import torch

LOGGER = logging.getLogger(__name__)
SCHEMA = 1
KINDS: tuple[Kind, ...] = get_args(Kind)
MANIFEST = "manifest.json"
INDEX = "index.jsonl"
SAMPLES = "samples.jsonl"
_FEATURES_AGAIN = "run bottega features again, which writes it"
BEGUN = "models.json"
"""What the cache was begun with of the models' small files, which no key covers; caches of before have none."""
_MB = 1024 * 1024
_CURE = "run bottega features again, which writes it (bottega run does by itself)"
_SHARD_STRIDE = 2**32
"""A feature's place is shard × this + its row, one int: there may be hundreds of thousands of keys."""


class IndexRow(TypedDict):
    """A line of the index; file: relative to the cache, None where all keys were rejected.

    hash: of the file, None where there is none. check: of the line's other values. Earlier versions wrote neither.
    """

    kind: str
    file: str | None
    keys: list[str]
    rejected: list[str]
    hash: NotRequired[str | None]
    check: NotRequired[str]


class ShardIndex:
    """Which keys are done, of which kind, in which file.

    Args:
        directory: of the cache.
        verify: hold every shard against its hash. One that is absent or damaged is not done: its keys are encoded
            again.
        retry_rejected: leave out what could not be encoded, for the picture may be whole by now.

    Raises:
        RequestError: a line that is what was written names a file outside of the cache.
    """

    def __init__(self, directory: Path, *, verify: bool = False, retry_rejected: bool = False) -> None:
        self.directory = directory
        self.rows: dict[str, list[IndexRow]] = {kind: [] for kind in KINDS}
        path = directory / INDEX
        if not path.exists():
            return
        damaged: list[int] = []
        for value in read_jsonl_leniently(path, damaged):
            row = _index_row(value)
            if row is None:
                continue  # a damaged line: its keys are encoded again
            if retry_rejected:
                row["rejected"] = []
            if row["file"] is None or self._has(row, row["file"], verify):
                self.rows[row["kind"]].append(row)

    def _has(self, row: IndexRow, file: str, verify: bool) -> bool:
        path = inside(self.directory, file, f"{self.directory / INDEX}: file")
        if not path.is_file():
            return False
        hashed = row.get("hash")
        if not verify or hashed is None or hash_file(path) == hashed:
            return True
        LOGGER.warning("%s has another content than was written: its features are computed again", path)
        return False

    def done(self, kind: str) -> set[str]:
        """Keys that need no work: encoded, or found impossible."""
        keys: set[str] = set()
        for row in self.rows[kind]:
            keys.update(row["keys"])
            keys.update(row["rejected"])
        return keys

    def rejected(self) -> set[str]:
        """Keys whose picture could not be read."""
        keys: set[str] = set()
        for rows in self.rows.values():
            for row in rows:
                keys.update(row["rejected"])
        return keys

    def add(self, kind: str, tensors: dict[str, torch.Tensor], keys: list[str], rejected: list[str]) -> None:
        """Write one shard, whole, then its line of the index."""
        from safetensors.torch import save_file

        file = None
        hashed = None
        if keys:
            file = f"{kind}/{keys[0]}.safetensors"
            with atomic_path(self.directory / file) as temporary:
                save_file(tensors, temporary)
                hashed = hash_file(temporary)
        row = IndexRow(kind=kind, file=file, keys=keys, rejected=rejected, hash=hashed)
        append_jsonl(self.directory / INDEX, [with_check(row)])
        self.rows[kind].append(row)

    def files(self) -> dict[Path, str]:
        """The shards with their hashes, those that have one."""
        found: dict[Path, str] = {}
        for rows in self.rows.values():
            for row in rows:
                hashed = row.get("hash")
                if row["file"] is not None and hashed is not None:
                    found[self.directory / row["file"]] = hashed
        return found


def _index_row(value: dict[str, Any]) -> IndexRow | None:
    """A line of the index; None where it is damaged. Whether its file is inside of the cache is for `_has` to say."""
    has_form = isinstance(value.get("keys"), list) and isinstance(value.get("rejected"), list)
    if not has_form or value.get("kind") not in KINDS or "file" not in value or not holds(value):
        return None
    file = value["file"]
    if file is not None and not isinstance(file, str):
        return None
    return cast(IndexRow, value)


class FeatureStore:
    """Reads features by key; a kind that is smaller than `preload_mb` is held in memory from its first use.

    Raises:
        MissingError: there is no cache.
        RequestError: the cache has another schema, or its index names a file outside of it.
        StorageError: its manifest is damaged.
    """

    def __init__(self, directory: Path, preload_mb: int = 2048) -> None:
        self.directory = directory
        self.manifest = read_manifest(directory)
        self._limit = preload_mb * _MB
        self._shards: dict[str, list[str]] = {}
        self._hashes: dict[str, str | None] = {}
        self._checked: set[str] = set()
        self._places: dict[str, dict[str, int]] = {}
        index = ShardIndex(directory)
        for kind in KINDS:
            files: list[str] = []
            keys: list[list[str]] = []
            for row in index.rows[kind]:
                if row["file"] is not None:
                    files.append(row["file"])
                    self._hashes[row["file"]] = row.get("hash")
                    keys.append(row["keys"])
            self._shards[kind] = files
            self._places[kind] = _places(keys)
        self._memory: dict[str, list[dict[str, torch.Tensor]]] = {}

    def require_weights_of(self, pixart: Path) -> None:
        """Check that the cache was made with a folder's weights.

        Raises:
            RequestError: names the part that differs.
        """
        from bottega.models.hashes import folder_hash, model_hash

        text_encoder = sha256_json([model_hash(pixart / "text_encoder"), folder_hash(pixart / "tokenizer")])
        parts = {
            "latent": ("autoencoder", model_hash(pixart / "vae")),
            "text": ("text encoder", text_encoder),
        }
        for kind, (name, weights) in parts.items():
            if self.manifest["models"][kind] != weights:
                raise RequestError(
                    f"{self.directory}: its {kind} features come from another {name} than {pixart.name}'s; run "
                    f"bottega features again with this model"
                )

    def clip_sizes(self, rows: Iterable[SampleRow], *, patches: bool) -> tuple[int, int, int]:
        """Width of CLIP's embeddings, and number and width of its patch tokens; 0 where these are not read.

        Raises:
            RequestError: patch tokens are to be read, and the cache has none for some of the rows.
        """
        if not patches:
            return self.manifest["clip_width"], 0, 0
        if any(row["style"] is not None and "style_patches" not in row for row in rows):
            raise RequestError(
                f"{self.directory} holds no patch tokens of CLIP, which adapter.token_source: patch reads; set "
                "features.patches=true and run bottega features again, which adds them"
            )
        return self.manifest["clip_width"], self.manifest["patch_tokens"], self.manifest["patch_width"]

    def latents(self, keys: Sequence[str]) -> torch.Tensor:
        """Scaled latents, float32 [B, C, h, w]."""
        return self._stack("latent", keys)

    def clip(self, keys: Sequence[str]) -> torch.Tensor:
        """Unit CLIP embeddings in the joint space, float32 [B, D]."""
        return self._stack("clip", keys)

    def captions(self, keys: Sequence[str | None]) -> torch.Tensor:
        """Unit CLIP embeddings of captions in the joint space, float32 [B, D]; zeros for None."""
        import torch

        rows = []
        for key in keys:
            if key is None:
                rows.append(torch.zeros(self.manifest["clip_width"]))
            else:
                rows.append(self._row("caption", key).float())
        return torch.stack(rows)

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
        if key not in self._places[kind]:
            raise StorageError(
                f"{self.directory}: the {kind} feature {key} is not in the cache; run bottega features again"
            )
        shard, row = divmod(self._places[kind][key], _SHARD_STRIDE)
        held = self._held(kind)
        if held is None:
            return self._read(self._shards[kind][shard], kind, row)
        tensors = held[shard]
        if kind != "text":
            return tensors["rows"][row]
        first, last = tensors["offsets"][row : row + 2].tolist()
        return tensors["rows"][first:last]

    def _held(self, kind: str) -> list[dict[str, torch.Tensor]] | None:
        """All shards of a kind in memory; None where they are too large."""
        if kind in self._memory:
            return self._memory[kind]
        files = [self.directory / file for file in self._shards[kind]]
        if sum(file.stat().st_size for file in files) > self._limit:
            return None
        from safetensors.torch import load_file

        for file in self._shards[kind]:
            self._require_intact(file)
        self._memory[kind] = [load_file(file) for file in files]
        return self._memory[kind]

    def _require_intact(self, file: str) -> None:
        """DamagedError where a shard is not what was written; asked once of each, before it is first read."""
        if file in self._checked:
            return
        hashed = self._hashes[file]
        if hashed is not None and hash_file(self.directory / file) != hashed:
            raise damaged(
                self.directory / file,
                "has another content than was written",
                "run bottega features again, which computes it again (bottega run does by itself)",
            )
        self._checked.add(file)

    def _read(self, file: str, kind: str, row: int) -> torch.Tensor:
        """One row of a file that is not held in memory."""
        from safetensors import safe_open

        self._require_intact(file)
        # Opened for this row alone, which takes a tenth of a millisecond: a file that stays open stays mapped, and in
        # the end the whole cache would count as this process's memory.
        with safe_open(self.directory / file, framework="pt") as handle:
            if kind != "text":
                return handle.get_slice("rows")[row].clone()  # type: ignore[no-any-return]
            first, last = handle.get_slice("offsets")[row : row + 2].tolist()
            return handle.get_slice("rows")[first:last].clone()  # type: ignore[no-any-return]


def _places(shards: Iterable[Sequence[str]]) -> dict[str, int]:
    """The position of each key, from the keys of each shard in order."""
    places = {}
    for shard, keys in enumerate(shards):
        for row, key in enumerate(keys):
            places[sys.intern(key)] = shard * _SHARD_STRIDE + row
    return places


def require_features(directory: Path) -> None:
    """Refuse a folder without a finished cache; nothing is read.

    Raises:
        MissingError: there is none.
    """
    if not (directory / MANIFEST).is_file():
        raise MissingError(f"there are no features in {directory}; compute them first: bottega features")


def read_manifest(directory: Path) -> FeatureManifest:
    """The manifest of a finished cache; raises as `FeatureStore`."""
    require_features(directory)
    path = directory / MANIFEST
    manifest = read_record(path, dict[str, object], _FEATURES_AGAIN)
    schema = manifest.get("schema", SCHEMA)
    if schema != SCHEMA:
        raise RequestError(
            f"{directory} holds features of schema {schema!r:.60}, this program knows {SCHEMA}; "
            f"compute them again into another folder"
        )
    require(path, _CURE)
    return to_record(FeatureManifest, manifest, str(path), _FEATURES_AGAIN)


def read_samples(directory: Path) -> list[SampleRow]:
    """The rows of samples.jsonl.

    Raises:
        MissingError: computing the features was never finished.
        StorageError: a row is damaged.
    """
    path = directory / SAMPLES
    if not path.is_file():
        raise MissingError(f"there is no {path}: computing the features was never finished; run bottega features")
    require(path, _CURE)
    return [_interned(row) for row in read_records(path, SampleRow, _FEATURES_AGAIN)]


def _interned(row: SampleRow) -> SampleRow:
    """Many targets share a content, a style and a caption: each distinct string is held once."""
    shared = {}
    for name, value in row.items():
        shared[name] = sys.intern(value) if isinstance(value, str) else value
    return cast(SampleRow, shared)


def split_tasks(rows: Iterable[SampleRow]) -> dict[str, list[SampleRow]]:
    """Sample rows by task."""
    tasks: dict[str, list[SampleRow]] = {}
    for row in rows:
        tasks.setdefault(row["task"], []).append(row)
    return tasks


def pad_text(rows: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token states [m_i, P] -> float32 [B, M, P] padded with zeros to the longest, and the mask float32 [B, M]."""
    import torch

    longest = max(len(row) for row in rows)
    states = torch.zeros(len(rows), longest, rows[0].shape[-1])  # [B, M, P]
    mask = torch.zeros(len(rows), longest)  # [B, M]
    for i, row in enumerate(rows):
        states[i, : len(row)] = row
        mask[i, : len(row)] = 1.0
    return states, mask


def text_tensors(rows: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Token states [m_i, P] as one shard: rows [Σ m, P] and offsets int64 [n + 1]."""
    import torch

    lengths = torch.tensor([0, *(len(row) for row in rows)], dtype=torch.int64)  # [n + 1]
    return {"rows": torch.cat(list(rows)), "offsets": lengths.cumsum(0)}
