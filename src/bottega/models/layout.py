"""What each role's model consists of, as published, and whether all of it is on this machine. No torch in here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bottega.models import ip_adapter
from bottega.models.agreement import Agreement, agreement_of, precision_cautions
from bottega.models.config import ModelsConfig
from bottega.models.names import fetch_command, on_disk, resolve
from bottega.models.published import PIPELINES, SMALL
from bottega.models.recognise import explain
from bottega.models.weights import find_weights, read_config, read_headers
from bottega.runtime.errors import BottegaError, MissingError, RequestError

ROLES = (
    "sdxl",
    "sdxl_vae",
    "ip_adapter",
    "pixart",
    "clip",
    "style_classifier",
    "structure_encoder",
    "scene_reader",
    "style_encoder",
)
STYLE_PROJECTION = "style_projection.safetensors"
"""Of a style encoder: the matrix `style` [E, D] that follows CLIP's picture tower (E wide)."""

SENTENCEPIECE = (
    "its tokenizer's spiece.model is read by the package sentencepiece, which is absent; pip install sentencepiece"
)
_TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("spiece.model",))
"""The published forms of a tokenizer: a folder holds all files of one of them."""


@dataclass(frozen=True)
class ModelStatus:
    """One role's model on this machine: where it is, its weight files, and all that is wrong with it.

    cautions: what the work will do otherwise than the model was made for; no reason to refuse it.
    configurations: the small files beside the weights that loading reads: configuration, tokenizer, scheduler,
    preparation of pictures.
    """

    role: str
    name: str
    folder: Path | None
    files: tuple[Path, ...]
    faults: tuple[str, ...]
    cautions: tuple[str, ...] = ()
    configurations: tuple[Path, ...] = ()


def locate(models: ModelsConfig, role: str, base: Path | None = None) -> Path:
    """The folder of a role's model.

    Raises:
        MissingError: the recipe names none, or it is not on this machine.
        RequestError: something else lies there, such as a single-file checkpoint; says what, and what helps.
    """
    name = getattr(models, role)
    if name is None:
        raise MissingError(f"models.{role}: this needs a model and the recipe names none; set models.{role}")
    place = resolve(name, base, cache=models.cache)
    other = explain(role, place)
    if other is not None:
        raise RequestError(other)
    return place


def inspect(models: ModelsConfig, roles: Iterable[str] = ROLES, base: Path | None = None) -> list[ModelStatus]:
    """What is there and what is wrong, for each role that the recipe names. Reads headers only; downloads nothing."""
    return [_status(models, role, base) for role in roles if getattr(models, role) is not None]


def missing(models: ModelsConfig, roles: Iterable[str] = ROLES, base: Path | None = None) -> list[str]:
    """One line for each thing that a run with these models lacks on this machine, with the command that gets it."""
    return fault_lines(inspect(models, roles, base))


def fault_lines(found: Iterable[ModelStatus]) -> list[str]:
    """One line for each fault of these models."""
    lines = []
    for status in found:
        lines += [f"models.{status.role}: {fault}" for fault in status.faults]
    return lines


def _status(models: ModelsConfig, role: str, base: Path | None) -> ModelStatus:
    name = getattr(models, role)
    try:
        folder = locate(models, role, base)
    except BottegaError as error:
        return ModelStatus(role, name, None, (), (str(error),))
    survey = _Survey(role, folder)
    if survey.faults:
        faults = survey.faults
        if not on_disk(name):  # a folder of the user's is not fetched, and what is broken in the package neither
            command = fetch_command(name, models.cache)
            faults = [f"{fault} (get it: {command})" for fault in faults]
        return ModelStatus(role, name, folder, tuple(survey.files), tuple(faults))
    agreement = _agreement(models, role, folder, base)
    faults = [*agreement.faults, *_unusable(models, role, folder, base)]
    small = tuple(configuration_files(role, folder))
    cautions = (*agreement.cautions, *precision_cautions(role, survey.files))
    return ModelStatus(role, name, folder, tuple(survey.files), tuple(faults), cautions, small)


def _agreement(models: ModelsConfig, role: str, folder: Path, base: Path | None) -> Agreement:
    """What a model means, compared with what the work will do; a broken autoencoder is reported at its own role."""
    if role != "sdxl" or models.sdxl_vae is None:
        return agreement_of(role, folder)
    try:
        vae = locate(models, "sdxl_vae", base)
    except BottegaError:
        return agreement_of(role, folder)
    if _Survey("sdxl_vae", vae).faults:
        return agreement_of(role, folder)
    return agreement_of(role, folder, vae)


def _unusable(models: ModelsConfig, role: str, folder: Path, base: Path | None) -> list[str]:
    """Why a model whose files are whole can still not be used here."""
    if role == "ip_adapter" and models.sdxl is not None:
        return _mismatch(models, folder, base)
    if role == "pixart" and needs_sentencepiece(folder / "tokenizer"):
        return [SENTENCEPIECE]
    if role == "clip" and needs_sentencepiece(folder):
        return [SENTENCEPIECE]
    return []


def _mismatch(models: ModelsConfig, folder: Path, base: Path | None) -> list[str]:
    """Why an IP-Adapter does not fit the recipe's teacher; nothing where it does."""
    try:
        adapter = ip_adapter.adapter_file(folder)
        ip_adapter.check(adapter, ip_adapter.encoder_folder(adapter), locate(models, "sdxl", base) / "unet")
    except MissingError:
        return []  # reported at the role whose file it is
    except BottegaError as error:
        return [str(error)]
    return []


class _Survey:
    """The weight files of a model, and what is wrong with them: all of it, where loading would stop at the first."""

    def __init__(self, role: str, folder: Path) -> None:
        self.files: list[Path] = []
        self.faults: list[str] = []
        if role in PIPELINES:
            self._pipeline(role, folder)
        elif role == "ip_adapter":
            self._ip_adapter(folder)
        else:
            self._single(role, folder)

    def _pipeline(self, role: str, folder: Path) -> None:
        parts = PIPELINES[role]
        for part in parts.weights:
            self._weights(folder / part)
        for part in parts.tokenizers:
            self._require(has_tokenizer(folder / part), folder / part, "tokenizer")
        for part in parts.schedulers:
            there = (folder / part / "scheduler_config.json").exists()
            self._require(there, folder / part, "scheduler_config.json")

    def _ip_adapter(self, folder: Path) -> None:
        try:
            adapter = ip_adapter.adapter_file(folder)
            read_headers((adapter,))
            self.files.append(adapter)
            encoder = ip_adapter.encoder_folder(adapter)
        except BottegaError as error:
            self.faults.append(str(error))
            return
        self._weights(encoder)

    def _single(self, role: str, folder: Path) -> None:
        self._weights(folder)
        # An autoencoder takes a picture as it is: its folder does not say how to prepare one.
        if role != "sdxl_vae":
            self._require(has_preprocessing(folder), folder, "preprocessor_config.json")
        if role == "clip":
            self._require(has_tokenizer(folder), folder, "tokenizer")
        if role == "style_encoder":
            projection = folder / STYLE_PROJECTION
            self._require(projection.is_file(), folder, STYLE_PROJECTION)
            if projection.is_file():
                self.files.append(projection)

    def _weights(self, folder: Path) -> None:
        try:
            # The folder first: without it, its configuration would be named as what is missing.
            found = find_weights(folder).files
            read_config(folder / "config.json")
            read_headers(found)
            self.files.extend(found)
        except BottegaError as error:
            self.faults.append(str(error))

    def _require(self, there: bool, folder: Path, what: str) -> None:
        if not there:
            self.faults.append(f"{folder}: no {what} in it")


def configuration_files(role: str, folder: Path) -> list[Path]:
    """The small files that loading a role's model reads beside its weights, sorted.

    Args:
        role: of the model.
        folder: where it is; for an IP-Adapter it may be its file.
    """
    if role == "ip_adapter":
        places = [ip_adapter.encoder_folder(ip_adapter.adapter_file(folder))]
    elif role in PIPELINES:
        parts = PIPELINES[role]
        places = [folder / part for part in (*parts.weights, *parts.tokenizers, *parts.schedulers)]
    else:
        places = [folder]
    found = [place / name for place in places for name in SMALL if (place / name).is_file()]
    return sorted(found)


def needs_sentencepiece(folder: Path) -> bool:
    """Whether a tokenizer is published as SentencePiece's own file alone, as T5's is, and its reader is absent."""
    only = (folder / "spiece.model").exists() and not (folder / "tokenizer.json").exists()
    return only and find_spec("sentencepiece") is None


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer in one of the published forms."""
    return any(_holds(folder, names) for names in _TOKENIZER_FILES)


def _holds(folder: Path, names: Iterable[str]) -> bool:
    return all((folder / name).exists() for name in names)


def has_preprocessing(folder: Path) -> bool:
    """Whether a folder says how pictures are prepared for its model."""
    return (folder / "preprocessor_config.json").exists() or (folder / "processor_config.json").exists()


def weight_files(place: Path) -> list[Path]:
    """The safetensors files that loading `place` reads, sorted: for the sha256s of a run's provenance.

    Args:
        place: a pipeline's folder, a model's folder, an IP-Adapter's file or its folder.

    Raises:
        MissingError: no model of a known layout is there, or it is not whole.
    """
    if place.is_file():
        return sorted([place, *find_weights(ip_adapter.encoder_folder(place)).files])
    if (place / "config.json").exists():
        return sorted(find_weights(place).files)
    for role, typical in (("sdxl", "unet"), ("pixart", "transformer"), ("ip_adapter", "image_encoder")):
        if (place / typical).is_dir():
            survey = _Survey(role, place)
            if survey.faults:
                raise MissingError(survey.faults[0])
            return sorted(survey.files)
    raise MissingError(
        f"{place}: no model of a known layout in it; name the folder with config.json or model_index.json"
    )
