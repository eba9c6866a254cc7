"""What a run of bottega keeps beside its log: how long it is to be, what it learns from, what its latents span."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from bottega.doctor.logs.lines import parse
from bottega.doctor.logs.summary import LogSummary, TrainingLength
from bottega.runtime.config import load_yaml
from bottega.runtime.errors import BottegaError
from bottega.runtime.records import read_record
from bottega.training.log import LOG, METRICS

TAIL = 1 << 17
"""Bytes at the end of a train.log that are searched for the last line with a plan."""

_LINES_WITH_A_PLAN = (b" Loss: ", b"begun at ", b"resumed after ")


def with_run_files(log: LogSummary) -> LogSummary:
    """The same, completed by the files beside the log: its train.log counts `step 118/200`, its recipe names epochs,
    samples and more. The log of another trainer comes back as it is."""
    is_metrics = log.path.name == METRICS
    if is_metrics:
        log = replace(log, plan=replace(log.plan))
        log.plan.update(_plan_of_train_log(log.path.with_name(LOG)))
    if is_metrics or log.trainer == "bottega":
        for folder in log.path.parents[:2]:
            if (folder / "recipe.yaml").is_file():
                return _with_recipe(log, load_yaml(folder / "recipe.yaml"), folder)
    return log


def _plan_of_train_log(path: Path) -> dict[str, int | None]:
    """As the last line with a plan has it; empty without such a line."""
    if not path.is_file():
        return {}
    with open(path, "rb") as stream:
        stream.seek(max(0, path.stat().st_size - TAIL))
        lines = stream.read().splitlines()
    for line in reversed(lines):
        if any(mark in line for mark in _LINES_WITH_A_PLAN):
            row = parse(line)
            return {"steps": row.step_total, "epochs": row.epochs}
    return {}


def _with_recipe(log: LogSummary, recipe: Mapping[str, object], folder: Path) -> LogSummary:
    """Epochs and samples; where it is a recipe of `bottega train ldm` all else, too."""
    training = _section(recipe, "training")
    epochs = _positive(training, "num_epochs")
    steps = _positive(training, "steps")
    batch = _positive(training, "batch_size")
    plan = replace(log.plan, epochs=epochs or log.plan.epochs)
    num_pictures = log.num_pictures or _positive(_section(recipe, "data"), "num_samples")
    log = replace(log, plan=plan, num_pictures=num_pictures)
    if "unet" not in recipe:
        return log

    # Only a recipe of `bottega train ldm` says more; where it names epochs, its steps are a default that is not used.
    if not epochs and steps:
        plan.steps = steps
    text = _section(recipe, "text")
    log = replace(
        log,
        recipe=recipe,
        reads_text=text.get("kind", "none") != "none",
        latent_range=_latent_range(folder / "latents" / "manifest.json"),
    )
    if log.unit == "step" and batch and log.num_pictures:
        return _with_epochs_done(log, epochs, batch, log.num_pictures)
    return log


def _with_epochs_done(log: LogSummary, epochs: int | None, batch: int, num_pictures: int) -> LogSummary:
    """How many epochs are done, to the step."""
    if epochs and num_pictures >= batch:
        per_epoch = num_pictures // batch
        steps = epochs * per_epoch if log.plan.steps is None else log.plan.steps
        # counted from the end: the number of samples may have changed on the way
        epochs_done = epochs - (steps - log.step) / per_epoch
        return replace(log, plan=TrainingLength(log.plan.epochs, steps, per_epoch), epochs_done=epochs_done)
    # it counts steps: epochs end amid a batch, or many of them pass within one
    seen = None
    if num_pictures >= batch:
        seen = log.step * batch / num_pictures
    return replace(log, epoch=seen, epochs_done=seen)


@dataclass(frozen=True)
class _Manifest:
    """What is read of latents/manifest.json."""

    statistics: dict[str, float] = field(default_factory=dict)


def _latent_range(manifest: Path) -> float | None:
    """From the least to the greatest number of the latents; None where the manifest does not say."""
    if not manifest.is_file():
        return None
    try:
        statistics = read_record(manifest, _Manifest).statistics
    except BottegaError:
        return None  # the log can be judged without; `bottega doctor run` names the damaged file
    width = statistics.get("max", math.nan) - statistics.get("min", math.nan)
    return width if 0 < width < math.inf else None


def _section(recipe: Mapping[str, object], name: str) -> Mapping[str, object]:
    section = recipe.get(name)
    return section if isinstance(section, dict) else {}


def _positive(section: Mapping[str, object], name: str) -> int | None:
    number = section.get(name)
    if isinstance(number, int) and number > 0:
        return number
    return None
