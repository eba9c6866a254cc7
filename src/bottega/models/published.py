"""Which files of a published repository are read. Judged by names and sizes alone, before anything is fetched.

A repository holds far more than bottega opens: other formats and precisions (SDXL's about 70 GB, of which 7 are read),
pickled copies, demonstrations. Taken is, in each folder that counts, one set of weights in safetensors with the small
files beside it: configuration, tokenizer, scheduler, preparation of pictures.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from bottega.models.ip_adapter import WEIGHT_NAMES
from bottega.models.weights import PICKLED, STEMS
from bottega.runtime.errors import MissingError, RequestError

HEAVY = 4_000_000_000
"""Bytes of plain weights above which a pipeline is fetched in fp16 if it can be, as SDXL always is: T5-XXL in float32
takes 19 GB of disk for weights that run in 16 bits anyway."""


class PipelineParts(NamedTuple):
    """The sub-folders of a pipeline, by what is read of them."""

    weights: tuple[str, ...]
    tokenizers: tuple[str, ...]
    schedulers: tuple[str, ...]


PIPELINES = {
    "sdxl": PipelineParts(
        weights=("unet", "text_encoder", "text_encoder_2", "vae"),
        tokenizers=("tokenizer", "tokenizer_2"),
        schedulers=("scheduler",),
    ),
    "pixart": PipelineParts(
        weights=("transformer", "text_encoder", "vae"),
        tokenizers=("tokenizer",),
        schedulers=("scheduler",),
    ),
}
SMALL = (
    "config.json", "preprocessor_config.json", "processor_config.json", "scheduler_config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt",
    "spiece.model",
)  # fmt: skip
"""Names of the small files beside the weights that loading a model reads: they too decide what it computes."""

_WEIGHTS = re.compile(r"(?P<stem>\w+?)(?:\.(?P<variant>\w+))?(?:-(?P<number>\d+)-of-(?P<total>\d+))?\.safetensors")
_ADAPTER = re.compile(r"ip[-_]adapter.*\.safetensors")


@dataclass(frozen=True)
class Choice:
    """What is read of a repository: `kind` is sdxl, pixart, ip_adapter, pipeline, model or file."""

    kind: str
    files: tuple[str, ...]


def choose(name: str, inside: str, sizes: Mapping[str, int], already_here: Container[str] = ()) -> Choice:
    """The files that the model `name` is read from.

    Args:
        name: the model's name, for errors.
        inside: sub-folder or file of the repository that is meant; "" for the repository itself.
        sizes: every file of the repository with its size in bytes.
        already_here: files that are on this machine: a set of weights that is all here is taken before any other.

    Raises:
        RequestError: its weights are pickled only, or it holds several IP-Adapters and none has a known name.
        MissingError: there are no weights in it, or a shard is absent.
    """
    tree = _Tree(name, sizes, already_here)
    if inside.endswith(".safetensors"):
        return _single_file(tree, inside)
    top = tree.names_in(inside)
    if "model_index.json" in top:
        return _pipeline(tree, inside)
    if "config.json" in top:
        return Choice("model", (*tree.small_files(inside), *tree.weights(inside)))
    return _adapter(tree, _adapter_in(tree, inside))


def _single_file(tree: _Tree, path: str) -> Choice:
    if path not in tree.sizes:
        raise MissingError(f"{tree.name}: the repository has no file {path}; look at its list of files")
    if _ADAPTER.fullmatch(_split(path)[1]):
        return _adapter(tree, path)
    return Choice("file", (path,))


def _pipeline(tree: _Tree, inside: str) -> Choice:
    start = _prefix(inside)
    folders = tree.folders_in(inside)
    kind = _pipeline_kind(folders)
    if kind in PIPELINES:
        parts = PIPELINES[kind]
        heavy: Iterable[str] = parts.weights
        light: Iterable[str] = (*parts.tokenizers, *parts.schedulers)
    else:
        heavy = [part for part in folders if tree.holds_weights(start + part)]
        light = folders
    variant = None
    if kind == "sdxl" or _plain_bytes(tree, start, heavy) > HEAVY:
        variant = "fp16"
    files = [f"{start}model_index.json"]
    for part in heavy:
        files += tree.small_files(start + part)
        files += tree.weights(start + part, variant)
    for part in light:
        files += tree.small_files(start + part)
    return Choice(kind, tuple(dict.fromkeys(files)))


def _pipeline_kind(folders: Iterable[str]) -> str:
    names = set(folders)
    # The second text encoder: Stable Diffusion 1 and 2 have a U-Net too.
    if {"unet", "text_encoder_2"} <= names:
        return "sdxl"
    if "transformer" in names:
        return "pixart"
    return "pipeline"


def _plain_bytes(tree: _Tree, start: str, parts: Iterable[str]) -> int:
    """Size of the weights without a variant, of all parts together."""
    total = 0
    for part in parts:
        for file in tree.weight_sets(start + part).get(None, ()):
            total += tree.sizes[file]
    return total


def _adapter(tree: _Tree, file: str) -> Choice:
    """An IP-Adapter with its image encoder, looked for where `ip_adapter.encoder_folder` will look."""
    folder, name = _split(file)
    places = [f"{_prefix(folder)}image_encoder", f"{_prefix(_split(folder)[0])}models/image_encoder"]
    if "vit-h" in name.lower():  # as h94/IP-Adapter names those made for the encoder of the other folder
        places.reverse()
    for place in places:
        if f"{place}/config.json" in tree.sizes:
            return Choice("ip_adapter", (file, *tree.small_files(place), *tree.weights(place)))
    raise MissingError(f"{tree.name}: no image encoder ({' or '.join(places)}) in the repository; name another adapter")


def _adapter_in(tree: _Tree, inside: str) -> str:
    """The IP-Adapter's file in a folder: one of a known name, or the only one."""
    found = sorted(filter(_ADAPTER.fullmatch, tree.names_in(inside)))
    for name in WEIGHT_NAMES:
        if name in found:
            return _prefix(inside) + name
    if len(found) > 1:
        raise RequestError(
            f"{tree.name}: holds {len(found)} IP-Adapters; name one of them, such as {tree.name}/{found[0]}"
        )
    if found:
        return _prefix(inside) + found[0]
    tree.refuse_pickled(inside)
    where = f"in {inside}" if inside else "at the top"
    raise MissingError(
        f"{tree.name}: neither a pipeline (model_index.json), a model (config.json) nor an IP-Adapter lies "
        f"{where} of the repository; name its sub-folder after it: org/name/folder"
    )


@dataclass(frozen=True)
class _Tree:
    """A repository's files by name and size, and what is read of one of its folders."""

    name: str
    sizes: Mapping[str, int]
    already_here: Container[str]

    def names_in(self, folder: str) -> set[str]:
        """Names of the files directly in a folder."""
        found = set()
        for path in self.sizes:
            place, name = _split(path)
            if place == folder:
                found.add(name)
        return found

    def folders_in(self, folder: str) -> list[str]:
        """Names of what is directly in a folder, files and folders, sorted."""
        start = _prefix(folder)
        found = set()
        for path in self.sizes:
            if path.startswith(start):
                found.add(path.removeprefix(start).split("/")[0])
        return sorted(found)

    def small_files(self, folder: str) -> list[str]:
        """Configuration, tokenizer, scheduler and preparation of pictures, those of them that are there."""
        there = self.names_in(folder)
        return [_prefix(folder) + name for name in SMALL if name in there]

    def weights(self, folder: str, variant: str | None = None) -> tuple[str, ...]:
        """One set of weights with its index: what is here already, the wanted variant, the plain one, what there is."""
        sets = self.weight_sets(folder)
        if not sets:
            self.refuse_pickled(folder)
            raise MissingError(
                f"{self.name}: {folder or 'the top folder'} of the repository lacks {self._what_lacks(folder)}; look "
                "for another repository or revision"
            )
        preferred = _by_preference(sets, variant)
        # What is here already comes first: other weights of the same model are no reason to fetch gigabytes.
        for key in preferred:
            if all(file in self.already_here for file in sets[key]):
                return sets[key]
        return sets[variant if variant in sets else preferred[0]]

    def weight_sets(self, folder: str) -> dict[str | None, tuple[str, ...]]:
        """Variant -> its files in a folder, shards with their index; sets that lack a shard are left out."""
        names = self.names_in(folder)
        by_kind: dict[tuple[str, str | None], list[re.Match[str]]] = {}
        for name in names:
            match = _WEIGHTS.fullmatch(name)
            if match is not None:
                by_kind.setdefault((match["stem"], match["variant"]), []).append(match)
        found: dict[str | None, tuple[str, ...]] = {}
        for stem, variant in sorted(by_kind, key=_kind_order):
            files = _whole_set(by_kind[stem, variant], stem, variant, names)
            if stem in STEMS and files and variant not in found:
                found[variant] = tuple(_prefix(folder) + name for name in files)
        return found

    def holds_weights(self, folder: str) -> bool:
        """Whether a folder of a pipeline of unknown kind holds weights in a format that a model class can read."""
        names = self.names_in(folder)
        return "config.json" in names and any(name.endswith((".safetensors", *PICKLED)) for name in names)

    def refuse_pickled(self, folder: str) -> None:
        """Raise RequestError where a folder's weights are pickled."""
        pickled = sorted(name for name in self.names_in(folder) if name.endswith(PICKLED))
        if pickled:
            raise RequestError(
                f"{self.name}: weights are read from safetensors only, and the repository has only pickled ones "
                f"({_prefix(folder)}{pickled[0]}), which could run code; look for a repository or a revision with "
                ".safetensors files"
            )

    def _what_lacks(self, folder: str) -> str:
        some = sorted(filter(_WEIGHTS.fullmatch, self.names_in(folder)))
        if some:
            return f"shards of its weights (it has {some[0]})"
        return "weights, such as model.safetensors"


def _by_preference(sets: Mapping[str | None, object], wanted: str | None) -> list[str | None]:
    """The variants that there are, with repetitions: the plain weights, then the wanted ones, then any others."""
    named = sorted(key for key in sets if key is not None)
    return [key for key in (None, wanted, "fp16", "bf16", *named) if key in sets]


def _kind_order(kind: tuple[str, str | None]) -> tuple[bool, str, str]:
    """`model` before `diffusion_pytorch_model`, as `STEMS` has them, where a folder holds both."""
    stem, variant = kind
    return stem != STEMS[0], stem, variant or ""


def _whole_set(matches: list[re.Match[str]], stem: str, variant: str | None, names: set[str]) -> list[str]:
    """One file with all weights, or all shards with their index; nothing where neither is complete."""
    single = [match[0] for match in matches if not match["number"]]
    if single:
        return single[:1]
    shards = sorted(match[0] for match in matches)
    middle = f".{variant}" if variant else ""
    index = f"{stem}.safetensors.index{middle}.json"
    if shards and index in names and len(shards) == int(matches[0]["total"]):
        return [index, *shards]
    return []


def _prefix(folder: str) -> str:
    if not folder:
        return ""
    return f"{folder}/"


def _split(path: str) -> tuple[str, str]:
    folder, _, name = path.rpartition("/")
    return folder, name
