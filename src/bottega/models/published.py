"""Which files of a published repository are read. Judged by names and sizes alone, before anything is fetched.

A repository holds far more than bottega opens: other formats and precisions (SDXL's about 70 GB, of which 7 are read),
pickled copies, demonstrations. Taken is, in each folder that counts, one set of weights in safetensors with the small
files beside it: configuration, tokenizer, scheduler, preparation of pictures.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass

from bottega.models.ip_adapter import WEIGHT_NAMES
from bottega.models.weights import PICKLED, STEMS
from bottega.runtime.errors import MissingError, RequestError

HEAVY = 4_000_000_000  # bytes of plain weights above which a pipeline is fetched in fp16, as SDXL always is, if it can
# Sub-folders with weights, with a tokenizer, with a scheduler, of the two pipelines.
PIPELINES = {
    "sdxl": (("unet", "text_encoder", "text_encoder_2", "vae"), ("tokenizer", "tokenizer_2"), ("scheduler",)),
    "pixart": (("transformer", "text_encoder", "vae"), ("tokenizer",), ("scheduler",)),
}
_SMALL = (
    "config.json", "preprocessor_config.json", "processor_config.json", "scheduler_config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt",
    "spiece.model",
)  # fmt: skip
_WEIGHTS = re.compile(r"(?P<stem>\w+?)(?:\.(?P<variant>\w+))?(?:-(?P<number>\d+)-of-(?P<total>\d+))?\.safetensors")
_ADAPTER = re.compile(r"ip[-_]adapter.*\.safetensors")


@dataclass(frozen=True)
class Choice:
    """What is read of a repository: `kind` is sdxl, pixart, ip_adapter, pipeline, model or file."""

    kind: str
    files: tuple[str, ...]


def choose(name: str, inside: str, sizes: Mapping[str, int], here: Container[str] = ()) -> Choice:
    """The files that the model `name` is read from.

    Args:
        name: the model's name, for errors.
        inside: sub-folder or file of the repository that is meant; "" for the repository itself.
        sizes: every file of the repository with its size in bytes.
        here: files that are on this machine already: a set of weights that is all here is taken before any other.

    Raises:
        RequestError: its weights are pickled only, or it holds several IP-Adapters and none has a known name.
        MissingError: there are no weights in it, or a shard is absent.
    """
    tree = _Tree(name, sizes, here)
    if inside.endswith(".safetensors"):
        if inside not in sizes:
            raise MissingError(f"{name}: the repository has no file {inside}; look at its list of files")
        return _adapter(tree, inside) if _ADAPTER.fullmatch(_split(inside)[1]) else Choice("file", (inside,))
    if "model_index.json" in tree.level(inside):
        return _pipeline(tree, inside)
    if "config.json" in tree.level(inside):
        return Choice("model", (*tree.small(inside), *tree.weights(inside)))
    return _adapter(tree, _adapter_in(tree, inside))


def _pipeline(tree: _Tree, inside: str) -> Choice:
    start = _prefix(inside)
    folders = {path.removeprefix(start).split("/")[0] for path in tree.sizes if path.startswith(start)}
    kind = "sdxl" if {"unet", "text_encoder_2"} <= folders else "pixart" if "transformer" in folders else "pipeline"
    if kind in PIPELINES:
        heavy, *rest = PIPELINES[kind]
        light = tuple(part for parts in rest for part in parts)
    else:
        heavy = tuple(part for part in sorted(folders) if tree.holds_weights(start + part))
        light = tuple(sorted(folders))
    plain = [file for part in heavy for file in tree.sets(start + part).get(None, ())]
    variant = "fp16" if kind == "sdxl" or sum(tree.sizes[file] for file in plain) > HEAVY else None
    files = [f"{start}model_index.json"]
    for part in heavy:
        files += [*tree.small(start + part), *tree.weights(start + part, variant)]
    for part in light:
        files += tree.small(start + part)
    return Choice(kind, tuple(dict.fromkeys(files)))


def _adapter(tree: _Tree, file: str) -> Choice:
    """An IP-Adapter with its image encoder, looked for where `ip_adapter.encoder_folder` will look."""
    folder = _split(file)[0]
    places = [_prefix(folder) + "image_encoder", _prefix(_split(folder)[0]) + "models/image_encoder"]
    if "vit-h" in _split(file)[1].lower():  # as h94/IP-Adapter names those made for the encoder of the other folder
        places.reverse()
    there = [place for place in places if f"{place}/config.json" in tree.sizes]
    if not there:
        raise MissingError(
            f"{tree.name}: no image encoder ({' or '.join(places)}) in the repository; name another adapter"
        )
    return Choice("ip_adapter", (file, *tree.small(there[0]), *tree.weights(there[0])))


def _adapter_in(tree: _Tree, inside: str) -> str:
    found = sorted(name for name in tree.level(inside) if _ADAPTER.fullmatch(name))
    known = [name for name in WEIGHT_NAMES if name in found]
    if len(found) > 1 and not known:
        raise RequestError(
            f"{tree.name}: holds {len(found)} IP-Adapters; name one of them, such as {tree.name}/{found[0]}"
        )
    if found:
        return _prefix(inside) + (known or found)[0]
    tree.refuse_pickled(inside)
    raise MissingError(
        f"{tree.name}: neither a pipeline (model_index.json), a model (config.json) nor an IP-Adapter lies "
        f"{f'in {inside}' if inside else 'at the top'} of the repository; name its sub-folder after it: org/name/folder"
    )


@dataclass(frozen=True)
class _Tree:
    """A repository's files by name and size, and what is read of one of its folders."""

    name: str
    sizes: Mapping[str, int]
    here: Container[str]

    def level(self, folder: str) -> set[str]:
        """Names of the files directly in a folder."""
        return {name for path in self.sizes for place, name in [_split(path)] if place == folder}

    def small(self, folder: str) -> list[str]:
        level = self.level(folder)
        return [_prefix(folder) + name for name in _SMALL if name in level]

    def weights(self, folder: str, variant: str | None = None) -> tuple[str, ...]:
        """One set of weights with its index: what is here, the wanted variant, the plain one, what there is."""
        sets = self.sets(folder)
        if not sets:
            self.refuse_pickled(folder)
            some = sorted(name for name in self.level(folder) if _WEIGHTS.fullmatch(name))
            raise MissingError(
                f"{self.name}: {folder or 'the top folder'} of the repository lacks "
                + (f"shards of its weights (it has {some[0]})" if some else "weights, such as model.safetensors")
                + "; look for another repository or revision"
            )
        order = [key for key in (None, variant, "fp16", "bf16", *sorted(key for key in sets if key)) if key in sets]
        whole = [key for key in order if all(file in self.here for file in sets[key])]
        return sets[next(iter(whole or ([variant] if variant in sets else order)))]

    def sets(self, folder: str) -> dict[str | None, tuple[str, ...]]:
        """Variant -> its files in a folder, shards with their index; sets that lack a shard are left out."""
        found: dict[str | None, tuple[str, ...]] = {}
        level = self.level(folder)
        matches = [m for name in level if (m := _WEIGHTS.fullmatch(name)) and m["stem"] in STEMS]
        for variant in {m["variant"] for m in matches}:
            for stem in STEMS:
                mine = [m for m in matches if m["stem"] == stem and m["variant"] == variant]
                index = f"{stem}.safetensors.index{f'.{variant}' if variant else ''}.json"
                shards = sorted(m[0] for m in mine if m["number"])
                if single := [m[0] for m in mine if not m["number"]]:
                    found.setdefault(variant, (_prefix(folder) + single[0],))
                elif shards and index in level and len(shards) == int(mine[0]["total"]):
                    found.setdefault(variant, tuple(_prefix(folder) + name for name in (index, *shards)))
        return found

    def holds_weights(self, folder: str) -> bool:
        """Whether a folder of a pipeline of unknown kind holds weights in a format that a model class can read."""
        level = self.level(folder)
        return "config.json" in level and any(name.endswith((".safetensors", *PICKLED)) for name in level)

    def refuse_pickled(self, folder: str) -> None:
        if pickled := sorted(name for name in self.level(folder) if name.endswith(PICKLED)):
            raise RequestError(
                f"{self.name}: weights are read from safetensors only, and the repository has only pickled ones "
                f"({_prefix(folder)}{pickled[0]}), which could run code; look for a repository or a revision with "
                ".safetensors files"
            )


def _prefix(folder: str) -> str:
    return f"{folder}/" if folder else ""


def _split(path: str) -> tuple[str, str]:
    folder, _, name = path.rpartition("/")
    return folder, name
