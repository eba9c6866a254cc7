"""Checkpoints: everything that the next step depends on, in a folder that appears whole or not at all.

    checkpoints/step_00000500/     or as the workload calls it, such as epoch-118; the numbers in a name order them
      model.safetensors       the trained parameters and buffers, never the frozen backbone
      optimizer.safetensors   AdamW's two moments and step count of each parameter, by the parameter's name
      ema.safetensors         the averages of the parameters, where the run keeps them
      state.json              step, fingerprint, loss scale where there is one, what the workload remembers, SHA-256
                              of the files, and a hash of itself

The folder is written under another name, synced, and renamed. Nothing is unpickled.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from bottega.runtime.files import is_storage_error, sha256_file, storage_error, sync
from bottega.runtime.fingerprint import Settings, recorded_then, require_unchanged
from bottega.runtime.trust import holds, with_check

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bottega.training.ema import Average
    from bottega.training.scaling import LossScale

LOGGER = logging.getLogger(__name__)
_MODEL = "model.safetensors"
_OPTIMIZER = "optimizer.safetensors"
_AVERAGES = "ema.safetensors"
_STATE = "state.json"
LATER = ("configurations",)
"""Parts of a fingerprint that checkpoints of earlier versions do not have: those are resumed without a comparison."""
_FORMAT = 1
"""Raised when a reader of this form would misunderstand what is written; others are passed over as damaged."""


class StateFile(BaseModel):
    """What state.json holds. Fields that are None, empty or true are left out of the file."""

    format: int
    step: int
    fingerprint: dict[str, object]
    sha256: dict[str, str]
    loss_scale: dict[str, int | float] | None = None
    remembered: dict[str, Any] | None = None
    due: bool = True

    def text(self) -> str:
        """As it is written: with a hash of itself, for a step or a range that was altered would be resumed from."""
        return json.dumps(with_check(self.model_dump(exclude_defaults=True)), indent=2, sort_keys=True) + "\n"


@dataclass(frozen=True)
class State:
    """What the next step depends on beside its number; `scale` and `average` only where the run has them."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    scale: LossScale | None = None
    average: Average | None = None

    def exported(self) -> AbstractContextManager[None]:
        """Within this block the module holds what would be exported now: the averages, where there are any."""
        return nullcontext() if self.average is None else self.average.in_place()


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are proved whole."""

    folder: Path
    step: int
    fingerprint: Settings
    loss_scale: Mapping[str, float] | None = None
    remembered: dict[str, Any] = field(default_factory=dict)


def step_name(step: int) -> str:
    """What a checkpoint is called where the workload has no name of its own."""
    return f"step_{step:08d}"


def save(
    directory: Path,
    step: int,
    state: State,
    fingerprint: Settings,
    keep: int,
    *,
    name: str | None = None,
    remembered: Mapping[str, object] | None = None,
    due: bool = True,
) -> Path:
    """Write the checkpoint of `step` into `directory` and delete all others but the last `keep` that were due.

    Args:
        directory: of all checkpoints of the run.
        step: after which the state is that of the next step.
        state: what the next step depends on.
        fingerprint: what a run must equal to resume from it.
        keep: checkpoints that stay, besides this one and those that stops made.
        name: of its folder, whose numbers rise with the step.
        remembered: JSON that the workload wants back.
        due: False for one that a stop made, which takes no place from those that one may want to go back to.

    Raises:
        StorageError: the disk does not take it.
    """
    folder = directory / (name or step_name(step))
    temporary = folder.with_name(f".{folder.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        hashes = _write_tensors(temporary, state)
        recorded = StateFile(
            format=_FORMAT,
            step=step,
            fingerprint=dict(fingerprint),
            sha256=hashes,
            loss_scale=None if state.scale is None else state.scale.state(),
            remembered=dict(remembered) if remembered else None,
            due=due,
        )
        (temporary / _STATE).write_text(recorded.text(), encoding="utf-8")
        # Contents, then their folder, then the rename, then the parent: in any other order a power cut could leave a
        # folder of the right name with empty files.
        for file in (*hashes, _STATE):
            sync(temporary / file)
        sync(temporary)
        if folder.exists():  # an equal step of an earlier run of this command, or one that was found torn
            shutil.rmtree(folder)
        os.rename(temporary, folder)
        sync(directory)
    except Exception as error:
        shutil.rmtree(temporary, ignore_errors=True)
        cause = error if isinstance(error, OSError) else _os_error(error)
        if cause is None:
            raise
        raise storage_error(cause, folder) from error
    # Only after the rename: until then the older checkpoints are all that there is to resume from.
    _prune(directory, folder, keep)
    return folder


def _write_tensors(folder: Path, state: State) -> dict[str, str]:
    """Write the safetensors files of a state; returns the SHA-256 of each."""
    from safetensors.torch import save_file

    contents = {
        _MODEL: module_tensors(state.module),
        _OPTIMIZER: optimizer_tensors(state.module, state.optimizer),
    }
    if state.average is not None:
        contents[_AVERAGES] = state.average.tensors()
    for file, tensors in contents.items():
        save_file(tensors, folder / file)
    return {file: sha256_file(folder / file) for file in contents}


def require_writable(directory: Path) -> None:
    """Make and remove a folder as `save` does: StorageError before the first step, not at the first checkpoint."""
    probe = directory / ".probe.tmp"
    try:
        probe.mkdir(parents=True, exist_ok=True)
        probe.rmdir()
    except OSError as error:
        raise storage_error(error, directory) from error


def latest(directory: Path) -> Checkpoint | None:
    """The newest whole checkpoint in `directory`, or None; a torn one is passed over, with a warning."""
    there = folders(directory)
    for folder in reversed(there):
        found = read(folder)
        if found is not None:
            return found
        instead = "there is none before it" if folder == there[0] else "the one before it is used"
        LOGGER.warning("the checkpoint %s is incomplete or damaged; %s", folder.name, instead)
    return None


def read(folder: Path) -> Checkpoint | None:
    """The checkpoint in `folder`; None where it is incomplete or damaged, which the log says more of with --debug."""
    state = _read_state(folder)
    if state is None or _damaged_weights(folder, state.sha256):
        return None
    return Checkpoint(folder, state.step, state.fingerprint, state.loss_scale, state.remembered or {})


def damaged_files(folder: Path) -> list[Path]:
    """The files of a checkpoint that are absent or not those that were written; empty where it is whole."""
    state = _read_state(folder)
    return [folder / _STATE] if state is None else _damaged_weights(folder, state.sha256)


def _read_state(folder: Path) -> StateFile | None:
    """What state.json holds; None where it is not as it was written."""
    try:
        data = (folder / _STATE).read_bytes()
        state = StateFile.model_validate_json(data, strict=True)
        is_whole = state.format == _FORMAT and holds(json.loads(data)) and state.sha256.keys() >= {_MODEL, _OPTIMIZER}
    except (OSError, ValueError) as error:  # pydantic's ValidationError is a ValueError
        LOGGER.debug("%s: %s", folder, error)
        return None
    return state if is_whole else None


def _damaged_weights(folder: Path, hashes: Mapping[str, str]) -> list[Path]:
    """Those that state.json names and that are absent or of another content."""
    damaged = []
    for name, recorded in hashes.items():
        file = folder / name
        try:
            is_whole = sha256_file(file) == recorded
        except OSError as error:
            LOGGER.debug("%s: %s", file, error)
            is_whole = False
        if not is_whole:
            damaged.append(file)
    return damaged


def restore(checkpoint: Checkpoint, state: State) -> None:
    """Put parameters, buffers and the optimizer's moments back, on the module's devices, and the averages
    and the loss scale, where the run has them."""
    from safetensors.torch import load_file

    if state.scale is not None and checkpoint.loss_scale is not None:  # a checkpoint may be older than the scale
        state.scale.load(checkpoint.loss_scale)
    if state.average is not None:
        state.average.load(load_file(checkpoint.folder / _AVERAGES))
    state.module.load_state_dict(load_file(checkpoint.folder / _MODEL), strict=True)
    parameters = dict(state.module.named_parameters())
    # AdamW keeps its step count on the CPU, but beside the parameter if it is fused or capturable. On the wrong device
    # the next step raises.
    all_on_device = bool(state.optimizer.defaults.get("fused") or state.optimizer.defaults.get("capturable"))
    for key, value in load_file(checkpoint.folder / _OPTIMIZER).items():
        moment, _, name = key.partition(":")
        parameter = parameters.get(name)
        if parameter is None:
            continue
        moves = value.ndim > 0 or all_on_device
        state.optimizer.state[parameter][moment] = value.to(parameter.device) if moves else value


def require_same_run(
    recorded: Settings,
    now: Settings,
    resumable: Iterable[str],
    names: Mapping[str, str] | None = None,
) -> None:
    """Refuse, by name, to resume with other settings than a checkpoint's.

    Args:
        recorded: the fingerprint of the checkpoint, or parts of it.
        now: that of this command, or the same parts of it.
        resumable: names of the settings that may differ, for the message.
        names: what parts of the fingerprint are called in a recipe, see `bottega.runtime.fingerprint.changes`.

    Raises:
        FingerprintError: names the first setting that differs, with both values.
    """
    may_differ = list(resumable)
    now = recorded_then(now, recorded, LATER)
    allowed = ", ".join([*sorted(may_differ), "the number of processes"])
    cure = f"set it back, or train into another folder (what may change on resume: {allowed})"
    require_unchanged(recorded, now, where="in the checkpoint", cure=cure, names=names, resumable=may_differ)


def read_tensors(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """All that the next step depends on, as tensors on the CPU: parameters and buffers by name, moments as
    `moment:parameter`, averages as `ema:parameter`, the loss scale's numbers as `scale:name`."""
    import torch
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = load_file(checkpoint.folder / _MODEL)
    found |= load_file(checkpoint.folder / _OPTIMIZER)
    averages = checkpoint.folder / _AVERAGES
    if averages.exists():
        for name, tensor in load_file(averages).items():
            found[f"ema:{name}"] = tensor
    for name, value in (checkpoint.loss_scale or {}).items():
        found[f"scale:{name}"] = torch.tensor(value)
    return found


def module_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """A module's parameters and buffers, copied to the CPU as safetensors wants them."""
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in module.state_dict().items():
        # Cloned: safetensors refuses two names for one storage, as tied weights have.
        tensors[name] = tensor.detach().cpu().contiguous().clone()
    return tensors


def optimizer_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state as tensors named `moment:parameter`."""
    import torch

    result = {}
    for name, parameter in module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            result[f"{key}:{name}"] = torch.as_tensor(value).detach().cpu().clone()
    return result


def folders(directory: Path) -> list[Path]:
    """All checkpoints, whole or not, in the order of the numbers in their names."""
    # Names begin with a letter: `.NAME.tmp` and `.NAME.old` are half written or half deleted.
    found = [path for path in directory.glob("[a-z]*") if path.is_dir() and _numbers(path)]
    return sorted(found, key=_numbers)


def _numbers(folder: Path) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", folder.name)))


def _prune(directory: Path, newest: Path, keep: int) -> None:
    """Delete all but `newest` and the last `keep` up to it that were due."""
    found = folders(directory)
    due: list[Path] = []
    for folder in found:
        # What comes after the newest is torn, or the run would have resumed from it.
        if _numbers(folder) <= _numbers(newest) and _was_due(folder):
            due.append(folder)
    kept = {newest, *due[-keep:]}
    for folder in found:
        if folder in kept:
            continue
        doomed = folder.with_name(f".{folder.name}.old")
        try:
            # Renamed first: a kill during the deletion then leaves nothing that looks like a checkpoint.
            os.rename(folder, doomed)
            shutil.rmtree(doomed)
        except OSError as error:
            LOGGER.warning("cannot delete the old checkpoint %s: %s", folder.name, error)
    # What killed processes left: a full-size checkpoint takes gigabytes, and nothing else would ever delete it.
    for leftover in (*directory.glob(".*.tmp"), *directory.glob(".*.old")):
        shutil.rmtree(leftover, ignore_errors=True)


def _was_due(folder: Path) -> bool:
    """Whether a checkpoint was not made by a stop."""
    try:
        return json.loads((folder / _STATE).read_bytes()).get("due", True) is True
    except (OSError, ValueError, AttributeError, RecursionError):
        # Unreadable: counted as due, it grows old and is deleted like the others.
        return True


def _os_error(error: BaseException) -> OSError | None:
    """The error of the disk that safetensors wraps in one of its own; None for others."""
    # Rust's text, such as "No space left on device (os error 28)", is all that safetensors keeps of it.
    found = re.search(r"os error (\d+)", str(error))
    if found is None:
        return None
    cause = OSError(int(found[1]), str(error))
    return cause if is_storage_error(cause) else None
