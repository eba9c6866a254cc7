"""Checkpoints: everything that the next step depends on, in a folder that appears whole or not at all.

    checkpoints/step_00000500/     or as the workload calls it, such as epoch-118; the numbers in a name order them
      model.safetensors       the trained parameters and buffers, never the frozen backbone
      optimizer.safetensors   AdamW's two moments and step count of each parameter, by the parameter's name
      ema.safetensors         the averages of the parameters, where the run keeps them
      state.json              step, fingerprint, loss scale where there is one, what the workload remembers, SHA-256
                              of the files

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

from bottega.runtime.errors import BottegaError
from bottega.runtime.files import is_storage_error, read_json, sha256_file, storage_error
from bottega.runtime.fingerprint import require_unchanged

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bottega.training.ema import Average
    from bottega.training.scaling import LossScale

LOGGER = logging.getLogger(__name__)
_FILES = ("model.safetensors", "optimizer.safetensors")
_AVERAGES = "ema.safetensors"
_STATE = "state.json"
_FORMAT = 1


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
    fingerprint: dict[str, Any]
    loss_scale: dict[str, float] | None = None
    remembered: dict[str, Any] = field(default_factory=dict)


def step_name(step: int) -> str:
    """What a checkpoint is called where the workload has no name of its own."""
    return f"step_{step:08d}"


def save(
    directory: Path,
    step: int,
    state: State,
    fingerprint: dict[str, Any],
    keep: int,
    *,
    name: str | None = None,
    remembered: dict[str, Any] | None = None,
    due: bool = True,
) -> Path:
    """Write the checkpoint of `step` into `directory` and delete all others but the last `keep` that were due.
    StorageError if it can't be.

    name: of its folder, whose numbers rise with the step. remembered: JSON that the workload wants back. due: False for
    one that a stop made, which takes no place from those that one may want to go back to.
    """
    from safetensors.torch import save_file

    folder = directory / (name or step_name(step))
    temporary = folder.with_name(f".{folder.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        moments = optimizer_tensors(state.module, state.optimizer)
        contents = dict(zip(_FILES, (module_tensors(state.module), moments), strict=True))
        if state.average is not None:
            contents[_AVERAGES] = state.average.tensors()
        for name, tensors in contents.items():
            save_file(tensors, temporary / name)
        hashes = {name: sha256_file(temporary / name) for name in contents}
        facts = {"format": _FORMAT, "step": step, "fingerprint": fingerprint, "sha256": hashes}
        if state.scale is not None:
            facts["loss_scale"] = state.scale.state()
        if remembered:
            facts["remembered"] = remembered
        if not due:
            facts["due"] = False
        (temporary / _STATE).write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for name in (*contents, _STATE):
            _sync(temporary / name)
        _sync(temporary)
        if folder.exists():  # an equal step of an earlier run of this command, or one that was found torn
            shutil.rmtree(folder)
        os.rename(temporary, folder)
        _sync(directory)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise storage_error(error, folder) from error
    except Exception as error:  # safetensors wraps a full disk in an error of its own
        shutil.rmtree(temporary, ignore_errors=True)
        cause = _os_error(error)
        if cause is None:
            raise
        raise storage_error(cause, folder) from error
    _prune(directory, folder, keep)
    return folder


def require_writable(directory: Path) -> None:
    """Make and remove a folder as `save` does: StorageError before the first step, not at the first checkpoint."""
    probe = directory / ".probe.tmp"
    try:
        probe.mkdir(parents=True, exist_ok=True)
        probe.rmdir()
    except OSError as error:
        raise storage_error(error, directory) from error


def latest(directory: Path) -> Checkpoint | None:
    """The newest whole checkpoint in `directory`, or None; a torn one is passed over, and said so in the log."""
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
    try:
        state = read_json(folder / _STATE)
        whole = (
            state["format"] == _FORMAT
            and state["sha256"].keys() >= set(_FILES)
            and all(sha256_file(folder / name) == value for name, value in state["sha256"].items())
        )
    except (BottegaError, KeyError, TypeError, AttributeError, OSError) as error:
        LOGGER.debug("%s: %s", folder, error)
        return None
    if not whole:
        return None
    kept = state.get("loss_scale"), state.get("remembered") or {}
    return Checkpoint(folder, int(state["step"]), state["fingerprint"], *kept)


def restore(checkpoint: Checkpoint, state: State) -> None:
    """Put parameters, buffers and the optimizer's moments back, on the devices where the module lies, and the averages
    and the loss scale, where the run has them."""
    from safetensors.torch import load_file

    module, optimizer = state.module, state.optimizer
    if state.scale is not None and checkpoint.loss_scale is not None:  # a checkpoint may be older than the scale
        state.scale.load(checkpoint.loss_scale)
    if state.average is not None:
        state.average.load(load_file(checkpoint.folder / _AVERAGES))
    module.load_state_dict(load_file(checkpoint.folder / _FILES[0]), strict=True)
    tensors = load_file(checkpoint.folder / _FILES[1])
    for name, parameter in module.named_parameters():
        moments = {k.partition(":")[0]: v for k, v in tensors.items() if k.partition(":")[2] == name}
        if moments:
            # AdamW keeps its step count on the CPU unless it is fused or capturable; it moves it where it wants it
            optimizer.state[parameter] = {
                k: v.to(parameter.device) if v.ndim or _fused(optimizer) else v for k, v in moments.items()
            }


def require_same_run(
    recorded: Mapping[str, Any],
    now: Mapping[str, Any],
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
    allowed = ", ".join([*sorted(resumable), "the number of processes"])
    cure = f"set it back, or train into another folder (what may change on resume: {allowed})"
    require_unchanged(recorded, now, where="in the checkpoint", cure=cure, names=names)


def read_tensors(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """All that the next step depends on, as tensors on the CPU: parameters and buffers by name, moments as
    `moment:parameter`, averages as `ema:parameter`, the loss scale's numbers as `scale:name`."""
    import torch
    from safetensors.torch import load_file

    found = {name: tensor for file in _FILES for name, tensor in load_file(checkpoint.folder / file).items()}
    averages = checkpoint.folder / _AVERAGES
    if averages.exists():
        found |= {f"ema:{name}": tensor for name, tensor in load_file(averages).items()}
    scale = checkpoint.loss_scale or {}
    return found | {f"scale:{name}": torch.tensor(value) for name, value in scale.items()}


def module_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """A module's parameters and buffers, copied to the CPU as safetensors wants them."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}


def optimizer_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state as tensors named `moment:parameter`."""
    import torch

    result = {}
    for name, parameter in module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            result[f"{key}:{name}"] = torch.as_tensor(value).detach().cpu().clone()
    return result


def _fused(optimizer: torch.optim.Optimizer) -> bool:
    return bool(optimizer.defaults.get("fused") or optimizer.defaults.get("capturable"))


def folders(directory: Path) -> list[Path]:
    """All checkpoints, whole or not, in the order of the numbers in their names."""
    return sorted((path for path in directory.glob("[a-z]*") if path.is_dir() and _numbers(path)), key=_numbers)


def _numbers(folder: Path) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", folder.name)))


def _prune(directory: Path, newest: Path, keep: int) -> None:
    """Delete all but `newest` and the last `keep` up to it that were due; what lies after it is torn, or the run would
    have begun there."""
    found = folders(directory)
    due = [folder for folder in found if _numbers(folder) <= _numbers(newest) and _was_due(folder)]
    for folder in found:
        if folder == newest or folder in due[-keep:]:
            continue
        doomed = folder.with_name(f".{folder.name}.old")
        try:
            os.rename(folder, doomed)  # so that a kill amid the deletion leaves nothing that looks like a checkpoint
            shutil.rmtree(doomed)
        except OSError as error:
            LOGGER.warning("cannot delete the old checkpoint %s: %s", folder.name, error)
    for leftover in (*directory.glob(".*.tmp"), *directory.glob(".*.old")):
        shutil.rmtree(leftover, ignore_errors=True)


def _was_due(folder: Path) -> bool:
    """Whether a checkpoint was not made by a stop; one that cannot be told is taken for it."""
    try:
        return json.loads((folder / _STATE).read_bytes()).get("due", True) is True
    except (OSError, ValueError, AttributeError):
        return True


def _os_error(error: BaseException) -> OSError | None:
    text = str(error)
    if "os error" in text:
        number = int("".join(ch for ch in text.rpartition("os error")[2] if ch.isdigit()) or 0)
        found = OSError(number, text)
        return found if is_storage_error(found) else None
    return None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
