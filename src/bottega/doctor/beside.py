"""What a run of bottega keeps beside its log: how long it is to be, what it learns from, what its latents span."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.doctor.lines import parse, real
from bottega.runtime.config import load_yaml
from bottega.runtime.errors import MissingError
from bottega.runtime.files import read_json
from bottega.training.log import LOG, METRICS

if TYPE_CHECKING:
    from bottega.doctor.logs import Log

TAIL = 1 << 17
"""Bytes at the end of a train.log that are searched for the last line with a plan."""

HOW = "give a run directory, a metrics.jsonl, or a file with what the trainer printed (… 2>&1 | tee train.log)"

OTHERS = ("metrics.csv", "progress.csv", "results.csv", "trainer_state.json", "checkpoint-*/trainer_state.json")
"""What Lightning, guided-diffusion, YOLO and transformers leave in a folder; of several the newest."""


def find(path: Path) -> Path:
    """The log that a path means; the machine's own before the one for people."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise MissingError(f"a training is judged from its log; there is no file or folder {path}; {HOW}")
    for name in (METRICS, LOG):
        for folder in (path, path / "training"):
            if (folder / name).is_file():
                return folder / name
    for pattern in OTHERS:
        if others := [p for p in path.glob(pattern) if p.is_file()]:
            return max(others, key=lambda p: p.stat().st_mtime_ns)
    texts = sorted(p for p in path.iterdir() if p.suffix in (".log", ".jsonl") and p.is_file())
    if len(texts) == 1:
        return texts[0]
    names = ", ".join(p.name for p in texts[:4]) + (", …" if len(texts) > 4 else "")
    found = (
        f"{len(texts)} files end in .log or .jsonl: name one of {names}"
        if texts
        else f"neither {METRICS} nor a .log is there"
    )
    raise MissingError(f"a folder is judged from its one log; in {path} {found}; {HOW}")


def is_binary(path: Path) -> bool:
    """Whether more than one in fifty of its first bytes is one that no text has."""
    with open(path, "rb") as stream:
        head = stream.read(1 << 12)
    head = b"" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else head
    return sum(byte < 8 or 13 < byte < 27 for byte in head) * 50 > len(head)


def look(log: Log) -> None:
    """Complete what `log` knows: its train.log counts `step 118/200`, its recipe names epochs, samples and more."""
    lines = log.path.with_name(LOG)
    if log.path.name == METRICS and lines.is_file():
        with open(lines, "rb") as stream:
            stream.seek(max(0, lines.stat().st_size - TAIL))
            marks = (b" Loss: ", b"begun at ", b"resumed after ")
            rows = [parse(line) for line in stream.read().splitlines() if any(mark in line for mark in marks)]
        told = {"steps": rows[-1].step_total, "epochs": rows[-1].epochs} if rows else {}
        log.plan.update({name: n for name, n in told.items() if n})
    if log.path.name == METRICS or log.trainer == "bottega":
        found = next((p for p in log.path.parents[:2] if (p / "recipe.yaml").is_file()), None)
        if found is not None:
            _read_recipe(log, load_yaml(found / "recipe.yaml"), found)


def _read_recipe(log: Log, recipe: dict[str, Any], folder: Path) -> None:
    """Epochs and samples; where it is one of `bottega train ldm` all else, too."""
    training, data, text = (
        section if isinstance(section := recipe.get(name), dict) else {} for name in ("training", "data", "text")
    )
    epochs, steps, batch, samples = (
        n if isinstance(n, int) and n > 0 else None
        for n in (*(training.get(k) for k in ("num_epochs", "steps", "batch_size")), data.get("num_samples"))
    )
    log.pictures = log.pictures or samples
    if epochs:
        log.plan["epochs"] = epochs
    if "unet" not in recipe:
        return
    log.recipe, log.prompted = recipe, text.get("kind", "none") != "none"
    manifest = folder / "latents" / "manifest.json"
    known = read_json(manifest).get("statistics") or {} if manifest.is_file() else {}
    span = real(known.get("max")) - real(known.get("min"))
    log.span = span if 0 < span < math.inf else None
    if not epochs and steps:
        log.plan["steps"] = steps
    if log.unit == "step" and batch and log.pictures:
        _count_epochs(log, epochs, batch, log.pictures)


def _count_epochs(log: Log, epochs: int | None, batch: int, pictures: int) -> None:
    """How many epochs are done, to the step."""
    if epochs and pictures >= batch:
        each = log.plan["per_epoch"] = pictures // batch
        # counted from the end: the number of samples may have changed on the way
        log.epochs_done = epochs - (log.plan.setdefault("steps", epochs * each) - log.step) / each
    else:  # it counts steps: epochs end amid a batch, or many of them lie within one
        log.epoch = log.epochs_done = log.step * batch / pictures if pictures >= batch else None
