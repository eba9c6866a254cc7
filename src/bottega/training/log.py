"""metrics.jsonl, one object a step for programs; train.log, a `Loss:` line now and then for people and grep; and, where
asked for, TensorBoard's event files with the points of those lines.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from bottega.runtime.files import read_jsonl_leniently, storage_error, write_jsonl
from bottega.runtime.paths import no_link

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOGGER = logging.getLogger(__name__)
METRICS = "metrics.jsonl"
LOG = "train.log"
BOARD = "tensorboard"
_GROUPS = ("loss", "val", "gate", "cosine")

Row = Mapping[str, float | str | None]
"""A row of metrics.jsonl: columns with numbers, or with a text such as the prediction type."""


@dataclass(frozen=True)
class StepRecord:
    """The numbers of one step, as the loop measures them.

    Args:
        step: from 1.
        loss: of the global batch, after weights.
        task_losses: mean loss of each task's samples, before weights; a task without a sample is absent.
        learning_rate: before the multipliers of parameter groups.
        grad_norm: L2 norm of the gradient before it was clipped.
        seconds: from the first forward pass to the optimizer's step.
        rss_mb, vram_mb: memory of this process in MiB; 0 where it uses no GPU.
        metrics: the workload's own numbers.
        loss_scale: that the gradients were computed with; None where there is none.
    """

    step: int
    loss: float
    task_losses: Mapping[str, float]
    learning_rate: float
    grad_norm: float
    seconds: float
    rss_mb: float
    vram_mb: float
    metrics: Mapping[str, float]
    loss_scale: float | None = None

    def row(self) -> dict[str, float | str | None]:
        """As a row of metrics.jsonl, without the loss scale, whose column comes after the workload's."""
        row: dict[str, float | str | None] = {"step": self.step, "loss": self.loss}
        for task, loss in self.task_losses.items():
            row[f"loss_{task}"] = loss
        row["learning_rate"] = self.learning_rate
        row["grad_norm"] = self.grad_norm
        row["seconds"] = self.seconds
        row["rss_mb"] = self.rss_mb
        if self.vram_mb:
            row["vram_mb"] = self.vram_mb
        row.update(self.metrics)
        return row


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a metrics.jsonl that have a step; none where there is no file.

    It is a log: no line of it decides what is learned. So a damaged one is passed over, with a warning, and never keeps
    a run from resuming.
    """
    if not path.exists():
        return
    damaged: list[int] = []
    for row in read_jsonl_leniently(path, damaged):
        step = row.get("step")
        if isinstance(step, int | float) and math.isfinite(step):
            yield row
    if damaged:
        LOGGER.warning(
            "%s: %d damaged lines are passed over, line %d is the first; it is a log, and the training is not touched",
            path,
            len(damaged),
            damaged[0],
        )


class TrainingLog:
    """The logs of a run in `directory`; rows after `step` are dropped first, since those steps are run again.

    tensorboard: write event files into `directory`/tensorboard too; points after `step` are hidden there.
    """

    def __init__(self, directory: Path, step: int, *, tensorboard: bool = False) -> None:
        self.metrics = directory / METRICS
        self.text = directory / LOG
        directory.mkdir(parents=True, exist_ok=True)
        logged = list(read_metrics(self.metrics))
        write_jsonl(self.metrics, (row for row in logged if row["step"] <= step))
        self._rows: IO[str] | None = None
        self._lines: IO[str] | None = None
        self._board: SummaryWriter | None = None
        self._step = step
        self._tensorboard = tensorboard

    def __enter__(self) -> TrainingLog:
        try:
            self._rows = open(self.metrics, "a", encoding="utf-8", newline="\n", opener=no_link)
            self._lines = open(self.text, "a", encoding="utf-8", newline="\n", opener=no_link)
            if self._tensorboard:
                from torch.utils.tensorboard import SummaryWriter

                self._board = SummaryWriter(str(self.metrics.parent / BOARD), purge_step=self._step + 1)
        except OSError as error:
            raise storage_error(error, self.metrics) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in (self._rows, self._lines):
            if stream is not None:
                stream.close()
        if self._board is not None:
            self._board.close()

    def row(self, values: Row) -> None:
        """Append one step's numbers; a number that is not finite becomes null, since JSON has none."""
        clean: dict[str, float | str | None] = {}
        for name, value in values.items():
            is_not_finite = isinstance(value, float) and not math.isfinite(value)
            clean[name] = None if is_not_finite else value
        self._write(self._rows, json.dumps(clean, ensure_ascii=False) + "\n", self.metrics)

    def line(self, text: str) -> None:
        """Append one line for people."""
        self._write(self._lines, text + "\n", self.text)

    def points(self, step: int, values: Row) -> None:
        """Add a row's numbers to TensorBoard, if that was asked for: `loss_main` as `loss/main`, and so on."""
        if self._board is None:
            return
        for name, value in values.items():
            if name == "step" or not isinstance(value, int | float) or not math.isfinite(value):
                continue
            # TensorBoard folds the curves that share the part before the slash into one section.
            group, _, rest = name.partition("_")
            tag = f"{group}/{rest}" if group in _GROUPS and rest else name
            self._board.add_scalar(tag, value, step)

    def sync(self) -> None:
        """Write everything to the disk; called before a checkpoint, so that no checkpoint is ahead of its log."""
        for stream, path in ((self._rows, self.metrics), (self._lines, self.text)):
            if stream is None:
                continue
            try:
                stream.flush()
                os.fsync(stream.fileno())
            except OSError as error:
                raise storage_error(error, path) from error

    @staticmethod
    def _write(stream: IO[str] | None, text: str, path: Path) -> None:
        if stream is None:
            raise RuntimeError("a TrainingLog is written inside its `with` block only")
        try:
            stream.write(text)
            stream.flush()
        except OSError as error:
            raise storage_error(error, path) from error


def summary_line(record: StepRecord, row: Row, steps: int) -> str:
    """`step 100/1500 Loss: 0.1234 main 0.1300 fill50k 0.1000 lr 1.00e-03 grad 0.52 0.09 s 512 MB`.

    Args:
        record: the numbers of the step.
        row: the same step's row, of which every column `loss_…` is shown, and the gain of a validation.
        steps: of the whole training.
    """
    tasks: list[str] = []
    for name, value in row.items():
        if name.startswith("loss_") and isinstance(value, int | float):
            tasks.append(f"{name.removeprefix('loss_')} {value:.4g}")
    text = (
        f"step {record.step}/{steps} Loss: {record.loss:.4g} {' '.join(tasks)} lr {record.learning_rate:.2e} "
        f"grad {record.grad_norm:.3g} {record.seconds:.2f} s {record.rss_mb:.0f} MB"
    )
    gain = row.get("val_gain")
    return f"{text} val_gain {gain:.4f}" if isinstance(gain, int | float) else text
