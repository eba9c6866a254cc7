"""Resuming a training from a checkpoint that somebody names, in the checkpoint's own run directory or in a new one.

A run that was stopped needs none of this: the same command finds its newest checkpoint. This is for `--resume
runs/x/checkpoints/epoch-118`, which may name an older checkpoint, another run's, or one that was carried away alone:

    directory = directory_for(checkpoint, output_dir)        # refuses what cannot be resumed, writes nothing
    resume_from(checkpoint, directory, carry=("latents",))   # inside the lock of `directory`

A stage whose results cost much names the folders that hold them in `carry`; they come along as links.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bottega.runtime.errors import MissingError, RecipeError, RequestError
from bottega.runtime.files import sha256_file, write_json, write_jsonl
from bottega.runtime.records import read_record
from bottega.training import checkpoint as checkpoints
from bottega.training.log import METRICS, read_metrics

ORIGIN = "resumed_from.json"
"""In a run directory: the checkpoint that `--resume` named last."""

_NEAR = 8
"""Names of other checkpoints that a message lists at most."""


@dataclass(frozen=True)
class Origin:
    """The checkpoint that a run directory was resumed from: its name, and the hash of its state.json.

    state: None in a directory that was written before the hash was recorded.
    """

    checkpoint: str | None = None
    state: str | None = None


def directory_for(checkpoint: Path, output_dir: Path | None) -> Path:
    """The run directory in which a training is resumed from a checkpoint: `output_dir`, else the checkpoint's own.

    Raises:
        MissingError: there is no whole checkpoint, and no earlier command that has taken it over already.
        RecipeError: the checkpoint is in no run, and no `output_dir` is given.
    """
    directory = output_dir or run_directory_of(checkpoint)
    if resumed_from(directory) == checkpoint.resolve().name:
        return directory  # this command was given before, and stopped; what it named may be gone by now
    require_checkpoint(checkpoint)
    if output_dir is None and checkpoint.resolve().parent.name != "checkpoints":
        raise RecipeError(f"{checkpoint} is in no run's checkpoints/, so it begins a new run; give it an --output-dir")
    return directory


def resume_from(checkpoint: Path, directory: Path, carry: Sequence[str] = ()) -> None:
    """Make `directory` resume from a checkpoint: nothing to do where it is the newest there, or where the same was
    asked for before and the run is past it; else a copy, with the log up to it.

    Args:
        checkpoint: the folder of the checkpoint.
        directory: the run directory.
        carry: names of folders of the checkpoint's run that are taken along, see the module.

    Raises:
        MissingError: there is no whole checkpoint.
        RequestError: the run has a newer one, or `directory` is another run with checkpoints of its own.
    """
    newest = checkpoints.latest(directory / "checkpoints")
    asked_before = resumed_from(directory) == checkpoint.resolve().name
    if newest is not None and asked_before and not _is_of_another_run(checkpoint, directory):
        return  # this command was given before, and stopped; what it named may be gone by now

    found = require_checkpoint(checkpoint)
    if newest is not None and newest.folder.resolve() == checkpoint.resolve():
        _write_origin(found, checkpoint, directory)
        return
    if newest is not None:
        raise RequestError(
            f"{directory} has {newest.folder.name}, which is newer than {checkpoint.name} or of another run; resume "
            "from it, or give --output-dir a new folder, which begins as a copy of this checkpoint"
        )

    _copy_run(found, checkpoint, directory, carry)


def _copy_run(found: checkpoints.Checkpoint, checkpoint: Path, directory: Path, carry: Sequence[str]) -> None:
    """Begin the run in `directory` as a copy of a checkpoint, with the log up to it and the folders in `carry`."""
    source = run_directory_of(checkpoint)
    log = source / METRICS
    if log.exists():
        # Up to the checkpoint: the steps after it are trained, and logged, again.
        earlier = (row for row in read_metrics(log) if row["step"] <= found.step)
        write_jsonl(directory / METRICS, earlier)
    # The checkpoint last, by a rename: a command killed before it finds no checkpoint here and does all of this again.
    place = directory / "checkpoints" / checkpoint.resolve().name
    temporary = place.with_name(f".{place.name}.tmp")
    for leftover in (temporary, place):  # of a copy that was stopped, and what is torn
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(checkpoint, temporary)
    for name in carry:
        _link_folder(source / name, directory / name)
    _write_origin(found, checkpoint, directory)
    os.rename(temporary, place)


def resumed_from(directory: Path) -> str | None:
    """The name of the checkpoint from which an earlier --resume resumed in this run directory."""
    origin = _origin(directory)
    return None if origin is None else origin.checkpoint


def require_checkpoint(folder: Path) -> checkpoints.Checkpoint:
    """The checkpoint that --resume names.

    Raises:
        MissingError: it is not whole; names those that are near.
    """
    found = checkpoints.read(folder)
    if found is not None:
        return found
    near = _whole_checkpoints_near(folder)
    if near:
        there = f"in {near[0].parent} there are {', '.join(path.name for path in near[-_NEAR:])}"
    else:
        there = "there is none in that folder"
    torn = ", which is incomplete or damaged" if (folder / "state.json").exists() else ""
    raise MissingError(f"--resume wants a whole checkpoint, received {folder}{torn}; {there}")


def run_directory_of(checkpoint: Path) -> Path:
    """The run directory in whose `checkpoints` a folder is; relative if the given path is."""
    return Path(os.path.normpath(checkpoint / ".." / ".."))


def _write_origin(found: checkpoints.Checkpoint, checkpoint: Path, directory: Path) -> None:
    origin = Origin(checkpoint.resolve().name, sha256_file(found.folder / "state.json"))
    write_json(directory / ORIGIN, asdict(origin))


def _origin(directory: Path) -> Origin | None:
    path = directory / ORIGIN
    if not path.exists():
        return None
    return read_record(path, Origin, "delete it: the run then no longer knows which checkpoint it was begun from")


def _is_of_another_run(checkpoint: Path, directory: Path) -> bool:
    """Whether a checkpoint, where it is still there, is not the one of the same name that `directory` resumed from."""
    origin = _origin(directory)
    state = checkpoint / "state.json"
    if origin is None or origin.state is None or not state.exists():
        return False
    # In the run's own folder a checkpoint of this name is written again when its step is: it is still this run's.
    if run_directory_of(checkpoint.resolve()) == directory.resolve():
        return False
    return sha256_file(state) != origin.state


def _whole_checkpoints_near(folder: Path) -> list[Path]:
    """The whole checkpoints of the run that somebody may have meant: below the folder, in it, or beside it."""
    for place in (folder / "checkpoints", folder, folder.parent):
        if not place.is_dir():
            continue
        whole = [path for path in checkpoints.folders(place) if checkpoints.read(path) is not None]
        if whole:
            return whole
    return []


def _link_folder(source: Path, place: Path) -> None:
    """Take a folder along from another run, as links where both lie on one disk; nothing where there is none, or where
    this run has its own."""
    # Its contents are not compared here: whoever reads them asks whether they are the right ones.
    if not source.is_dir() or place.exists():
        return
    temporary = place.with_name(f".{place.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    # Links are safe: the files of a run are replaced, never written into.
    shutil.copytree(source, temporary, copy_function=_link)
    os.rename(temporary, place)


def _link(source: str, place: str) -> None:
    try:
        os.link(source, place)
    except OSError:
        shutil.copyfile(source, place)  # another disk, or one that knows no links
