"""What each role's model consists of, as published, and whether all of it is on this machine. No torch in here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bottega.models import ip_adapter
from bottega.models.config import ModelsConfig
from bottega.models.names import PACKAGE, fetch_command, resolve
from bottega.models.published import PIPELINES
from bottega.models.weights import find_weights, read_config, read_headers
from bottega.runtime.errors import BottegaError, MissingError

ROLES = ("sdxl", "sdxl_vae", "ip_adapter", "pixart", "clip", "style_classifier", "structure_encoder", "scene_reader")


@dataclass(frozen=True)
class Finding:
    """One role's model on this machine: where it lies, the weight files, and all that is wrong with it."""

    role: str
    name: str
    folder: Path | None
    files: tuple[Path, ...]
    faults: tuple[str, ...]


def locate(models: ModelsConfig, role: str, base: Path | None = None) -> Path:
    """The folder of a role's model. Raises MissingError when the recipe names none or it is not on this machine."""
    name = getattr(models, role)
    if name is None:
        raise MissingError(f"models.{role}: this needs a model and the recipe names none; set models.{role}")
    return resolve(name, base, cache=models.cache)


def inspect(models: ModelsConfig, roles: Iterable[str] = ROLES, base: Path | None = None) -> list[Finding]:
    """What is there and what is wrong, for each role that the recipe names. Reads headers only; downloads nothing."""
    return [_finding(models, role, base) for role in roles if getattr(models, role) is not None]


def _finding(models: ModelsConfig, role: str, base: Path | None) -> Finding:
    name = getattr(models, role)
    try:
        folder = locate(models, role, base)
    except BottegaError as error:
        return Finding(role, name, None, (), (str(error),))
    files, faults = _survey(role, folder)
    if faults and not name.startswith(PACKAGE):
        faults = [f"{fault} (get it: {fetch_command(name, models.cache)})" for fault in faults]
    elif not faults and role == "ip_adapter" and models.sdxl is not None:
        faults = _mismatch(models, folder, base)
    elif not faults and role == "pixart" and needs_sentencepiece(folder / "tokenizer"):
        faults = [SENTENCEPIECE]
    return Finding(role, name, folder, tuple(files), tuple(faults))


def _mismatch(models: ModelsConfig, folder: Path, base: Path | None) -> list[str]:
    try:
        adapter = ip_adapter.adapter_file(folder)
        ip_adapter.check(adapter, ip_adapter.encoder_folder(adapter), locate(models, "sdxl", base) / "unet")
    except MissingError:
        return []  # said at the role whose file it is
    except BottegaError as error:
        return [str(error)]
    return []


def _survey(role: str, folder: Path) -> tuple[list[Path], list[str]]:
    """The weight files of a model and what is wrong with them."""
    files: list[Path] = []
    faults: list[str] = []

    def weights(place: Path) -> None:
        try:
            read_config(place / "config.json")
            found = find_weights(place).files
            read_headers(found)
            files.extend(found)
        except BottegaError as error:
            faults.append(str(error))

    if role in PIPELINES:
        heavy, tokenizers, schedulers = PIPELINES[role]
        for part in heavy:
            weights(folder / part)
        faults += [f"{folder / part}: no tokenizer in it" for part in tokenizers if not has_tokenizer(folder / part)]
        faults += [
            f"{folder / part}: no scheduler_config.json in it"
            for part in schedulers
            if not (folder / part / "scheduler_config.json").exists()
        ]
    elif role == "ip_adapter":
        try:
            adapter = ip_adapter.adapter_file(folder)
            read_headers((adapter,))
            files.append(adapter)
            weights(ip_adapter.encoder_folder(adapter))
        except BottegaError as error:
            faults.append(str(error))
    else:
        weights(folder)
        if role != "sdxl_vae" and not has_preprocessing(folder):
            faults.append(f"{folder}: no preprocessor_config.json in it")
        if role == "clip" and not has_tokenizer(folder):
            faults.append(f"{folder}: no tokenizer in it")
    return files, faults


SENTENCEPIECE = (
    "its tokenizer's spiece.model is read by the package sentencepiece, which is absent; pip install sentencepiece"
)


def needs_sentencepiece(folder: Path) -> bool:
    """Whether a tokenizer is published as SentencePiece's own file alone, as T5's is, and its reader is absent."""
    only = (folder / "spiece.model").exists() and not (folder / "tokenizer.json").exists()
    return only and find_spec("sentencepiece") is None


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer in one of the published forms."""
    sets = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("spiece.model",))
    return any(all((folder / name).exists() for name in names) for names in sets)


def has_preprocessing(folder: Path) -> bool:
    """Whether a folder says how pictures are prepared for its model."""
    return (folder / "preprocessor_config.json").exists() or (folder / "processor_config.json").exists()


def missing(models: ModelsConfig, roles: Iterable[str] = ROLES, base: Path | None = None) -> list[str]:
    """One line for each thing that a run with these models lacks on this machine, with the command that gets it."""
    return [f"models.{found.role}: {fault}" for found in inspect(models, roles, base) for fault in found.faults]


def weight_files(place: Path) -> list[Path]:
    """The safetensors files that loading `place` reads, sorted: for the sha256s of a run's provenance.

    `place` is a pipeline's folder, a model's folder, an IP-Adapter's file or its folder.
    """
    if place.is_file():
        return sorted([place, *find_weights(ip_adapter.encoder_folder(place)).files])
    if (place / "config.json").exists():
        return sorted(find_weights(place).files)
    for role, signature in (("sdxl", "unet"), ("pixart", "transformer"), ("ip_adapter", "image_encoder")):
        if (place / signature).is_dir():
            files, faults = _survey(role, place)
            if faults:
                raise MissingError(faults[0])
            return sorted(files)
    raise MissingError(
        f"{place}: no model of a known layout in it; name the folder with config.json or model_index.json"
    )
