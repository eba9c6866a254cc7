"""The weights of a training's best checkpoints, small enough to keep many, for `bottega evaluate checkpoints`.

    kept/step_00000250.safetensors   what would have been exported after that step
    kept/kept.json                   {step, file, val_loss, hash} of each, by step

A checkpoint holds all that a run resumes from, three times the size, so few of them stay. Of what is kept here the best
by the validation loss stay. A choice by pictures and intervals needs pictures, and those are drawn after the training.
"""

from __future__ import annotations

import math
from pathlib import Path

from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12, see `student.records`

from bottega.runtime.files import write_json
from bottega.runtime.records import read_record
from bottega.runtime.trust import FileHash, damaged, difference, hash_file
from bottega.training.checkpoint import step_name

FOLDER = "kept"
LIST = "kept.json"
_CURE = "delete the folder of that file: the steps to come are kept again"


class KeptRecord(TypedDict):
    """A line of `kept.json`. val_loss: None where the training has no validation; bytes, hash: of the file."""

    step: int
    file: str
    val_loss: float | None
    bytes: int
    hash: str


class KeptWeights:
    """The folder `kept` of a training's folder, which need not be there.

    Args:
        directory: of the training.
        most: files that stay.
    """

    def __init__(self, directory: Path, most: int) -> None:
        self.directory = directory
        self.folder = directory / FOLDER
        self._most = most

    def path(self, step: int) -> Path:
        """Where the weights after `step` steps are written to, before `add`."""
        return self.folder / f"{step_name(step)}.safetensors"

    def add(self, step: int, val_loss: float | None) -> None:
        """Enter the file of `step`, and delete all but the best by the validation loss; of equal ones the newest go."""
        path = self.path(step)
        entered: KeptRecord = {
            "step": step,
            "file": path.name,
            "val_loss": val_loss,
            "bytes": path.stat().st_size,
            "hash": hash_file(path),
        }
        others = [record for record in read_kept(self.directory) if record["step"] != step]
        self._keep(sorted([*others, entered], key=_best_first)[: self._most])

    def forget_after(self, step: int) -> None:
        """Delete what is of later steps: a run that continues from `step` may go another way."""
        records = read_kept(self.directory)
        earlier = [record for record in records if record["step"] <= step]
        if len(earlier) < len(records):
            self._keep(earlier)

    def _keep(self, records: list[KeptRecord]) -> None:
        # The list first: a kill between the two leaves a file that no line names, which the next call deletes.
        write_json(self.folder / LIST, sorted(records, key=lambda record: record["step"]))
        named = {record["file"] for record in records}
        for other in self.folder.glob("*.safetensors"):
            if other.name not in named:
                other.unlink()


def read_kept(directory: Path) -> list[KeptRecord]:
    """What a training has kept, by step; empty where it has kept nothing.

    Args:
        directory: of the training.
    """
    path = directory / FOLDER / LIST
    if not path.is_file():
        return []
    return read_record(path, list[KeptRecord], _CURE)


def kept_files(directory: Path) -> list[Path]:
    """The files of what a training has kept, with their list; empty where it has kept nothing."""
    records = read_kept(directory)
    files = [directory / FOLDER / record["file"] for record in records]
    return [*files, directory / FOLDER / LIST] if records else []


def require_kept(directory: Path, record: KeptRecord) -> Path:
    """The file of what was kept, which is what was written.

    Raises:
        DamagedError: it is not what was written.
    """
    path = directory / FOLDER / Path(record["file"]).name
    reason = difference(path, FileHash(path.name, record["bytes"], record["hash"]))
    if reason is not None:
        raise damaged(path, reason, f"delete it and its entry in {LIST}: the other checkpoints are compared without it")
    return path


def _best_first(record: KeptRecord) -> tuple[float, int]:
    """Without a validation the newest first."""
    if record["val_loss"] is None:
        return math.inf, -record["step"]
    return record["val_loss"], record["step"]
