"""The weights that a run was made with, as its `provenance.json` records them, against those that are there now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NotRequired

from typing_extensions import TypedDict

from bottega.models.layout import ModelStatus
from bottega.models.weights import hash_faults
from bottega.runtime.errors import RequestError
from bottega.runtime.records import read_record, to_record
from bottega.runtime.trust import holds

PROVENANCE = "provenance.json"


class FileFacts(TypedDict):
    """A weight file: its hash, and the size and time by which it is known again without being read."""

    sha256: str
    bytes: int
    mtime_ns: int


class ModelWeights(TypedDict):
    """The weight files of a model by their names, and one hash over them; the same of its small files, of which earlier
    versions recorded nothing."""

    sha256: str
    files: dict[str, FileFacts]
    configuration: NotRequired[str]
    configuration_files: NotRequired[dict[str, FileFacts]]


@dataclass(frozen=True)
class _Provenance:
    """What is read of a run's provenance.json."""

    weights: dict[str, ModelWeights] = field(default_factory=dict)
    random_weights: list[str] = field(default_factory=list)


def recorded_weights(run: Path) -> dict[str, ModelWeights]:
    """The weights that a run directory's `provenance.json` records; empty where there is none.

    Raises:
        StorageError: it is no complete JSON.
        RequestError: a value in it has another shape.
    """
    return _provenance(run).weights


def random_weights(run: Path) -> list[str]:
    """The roles whose models had random weights, those of a rehearsal; errors as of `recorded_weights`."""
    return _provenance(run).random_weights


def _provenance(run: Path) -> _Provenance:
    path = run / PROVENANCE
    if not path.exists():
        return _Provenance()
    cure = "delete it: bottega run writes it again, after it has read the weights"
    content = read_record(path, dict[str, object], cure)
    if not holds(content):
        return _Provenance()  # damaged: all weights are read again
    return to_record(_Provenance, content, str(path), cure)


def content_faults(found: Sequence[ModelStatus], run: Path) -> list[str]:
    """Files whose content is not what the cache, or the run's record, says; each file is read whole.

    Args:
        found: the models, as they are on this machine.
        run: a run directory; where it is a recipe file, or has no record yet, only the cache's hashes are compared.

    Raises:
        RequestError: the run was made with other files than there are now.
    """
    recorded = recorded_weights(run)
    faults: list[str] = []
    for model in found:
        weights = recorded.get(model.role)
        hashes = _recorded_hashes(model, weights["files"] if weights is not None else {})
        faults += [f"models.{model.role}: {fault}" for fault in hash_faults(model.files, hashes)]
    return faults


def _recorded_hashes(model: ModelStatus, recorded: Mapping[str, FileFacts]) -> dict[Path, str]:
    """File -> the SHA-256 that the run recorded for it."""
    if not recorded or model.folder is None:
        return {}
    base = model.folder if model.folder.is_dir() else model.folder.parent
    names = {}
    for file in model.files:
        names[file] = file.relative_to(base).as_posix() if file.is_relative_to(base) else file.name
    if set(names.values()) != set(recorded):
        differing = sorted(set(names.values()) ^ set(recorded))
        raise RequestError(
            f"models.{model.role}: the run was made with other files than {model.name} holds now ({differing[0]}); "
            "put back the files of the run, or begin another run"
        )
    return {file: recorded[name]["sha256"] for file, name in names.items()}
