"""The weights that a run was made with, as its `provenance.json` records them, against those that are there now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bottega.models.layout import ModelStatus
from bottega.models.weights import hash_faults
from bottega.runtime.errors import RequestError
from bottega.runtime.files import read_json


def content_faults(found: Sequence[ModelStatus], run: Path) -> list[str]:
    """Files whose content is not what the cache, or the run's record, says; each file is read whole.

    Args:
        found: the models, as they are on this machine.
        run: a run directory; where it is a recipe file, or has no record yet, only the cache's hashes are compared.

    Raises:
        RequestError: the run was made with other files than there are now.
    """
    recorded: Mapping[str, Any] = {}
    if run.is_dir() and (run / "provenance.json").exists():
        recorded = read_json(run / "provenance.json").get("weights", {})
    faults: list[str] = []
    for model in found:
        hashes = _recorded_hashes(model, recorded.get(model.role, {}).get("files", {}))
        faults += [f"models.{model.role}: {fault}" for fault in hash_faults(model.files, hashes)]
    return faults


def _recorded_hashes(model: ModelStatus, recorded: Mapping[str, Any]) -> dict[Path, str]:
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
    return {file: str(recorded[name]["sha256"]) for file, name in names.items()}
