"""Any training log as a stream of losses: a run directory, a `metrics.jsonl`, or what a trainer printed.

Read in chunks, so that memory does not grow with the file. Lines that say nothing are never looked at: those with a
mark are found by searching the chunk. Loss lines of one form are read a block at a time (`lines.Shape`), all others one
by one.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bottega.doctor import beside, forms
from bottega.doctor.lines import MARKS, Row, Shape, draws, parse, plan, real, trainer
from bottega.runtime.errors import RequestError
from bottega.runtime.files import storage_error
from bottega.training.diagnosis import Watcher

F64 = NDArray[np.float64]
CHUNK = 1 << 20
"""Bytes read at once; a line longer than that is no line of a log, and is cut."""

BLOCK = 1 << 17
"""Bytes that a `Shape` reads at once, some thousand lines. Where an odd line is among them, it is tried with halves."""

LEAST_BLOCK = 1 << 14
"""Below this the lines are read one by one."""

FEW = 16
"""With fewer losses in a block it is not worth while to read them at once."""

ROWS = 4096
"""Rows handed on at once, at the most."""

_KNOWN = 64
"""Loss lines after which a trainer that was not recognised stays unknown."""

_HEAD = (*MARKS, b"_steps", b"otal steps", b"ptimization", b"rediction_type")
"""What is looked for before the first losses: the plan, too."""


@dataclass(frozen=True)
class Points:
    """Losses in the order of the log, not finite ones too. [N] each; rates: NaN where the log gives none.

    steps: counted over the whole run, also where the log counts within an epoch; epochs or loss lines where it gives no
    steps (`Log.unit`). resumed: the first of them follows a resume. anew: it is the first of another run in the file.
    """

    steps: F64
    losses: F64
    rates: F64
    resumed: bool
    anew: bool = False


class Log:
    """A log and what it says beside its losses. Read it with `points`, once; the rest is complete afterwards.

    path: a file or a folder. Raises MissingError where nothing can be read there.
    """

    def __init__(self, path: Path | str) -> None:
        self.given = Path(path)
        self.path = beside.find(self.given)
        self.trainer: str | None = None
        self.unit: str | None = None
        self.plan: dict[str, int] = {}  # epochs, steps, per_epoch
        self.epoch: float | None = None
        self.step = 0.0
        self.validations: deque[tuple[float, float]] = deque(maxlen=4096)  # [(step, loss)]: a validation is rare
        self.last: Row = Row()
        self.prediction_type: str | None = None
        self.pictures: int | None = None
        self.validated: dict[str, Any] | None = None  # the last row of metrics.jsonl with losses by timestep bin
        self.recipe: dict[str, Any] = {}  # of a run of `bottega train ldm`
        self.draws = True  # pictures, as far as can be known
        self.prompted = True  # it reads text, as far as can be known
        self.span: float | None = None  # from the least to the greatest number of its latents
        self.epochs_done: float | None = None
        self.watcher = Watcher()
        self.resumes: list[tuple[float, float]] = []  # (step before, step after), the first 32
        self.runs = 1  # in one file, each from its first step on; what is said is of the last
        self.bar: tuple[int, int, float] | None = None  # step, steps, seconds a step of a bar between loss lines
        self.left: float | None = None  # seconds, as the last line with a loss says
        self.torn = False
        self.lines = self.losses = 0
        self.rank = 9
        self._in_epoch = self._marked = self._resumed = self._anew = False
        self._first: float | None = None
        self._total: int | None = None
        self._laps: list[tuple[float, float]] = []  # (epoch, its first step): the first and the last
        self._base: float | None = None
        self._lap = 0.0
        self._paces: deque[float] = deque(maxlen=101)
        self._clock: tuple[float, float] | None = None
        self._clocked: float | None = None
        self._rate = math.nan
        self._rows: list[tuple[float, float, float]] = []
        self._shape: Shape | None = None
        self._model: tuple[bytes, Row] | None = None  # the last loss line, of which a shape can be made
        self._bytes = 0
        self._speller, self._bars = forms.Speller(), forms.Bars()

    def points(self) -> Iterator[Points]:
        """The losses. Raises RequestError where there is none, StorageError where the disk fails."""
        for block in self._blocks():
            if self.unit != "step":
                self._bars.see(block)
            yield from self._take(block)
        yield from self._flush()
        if not self.losses:
            raise RequestError(self._nothing())
        self._look_beside()

    @property
    def seconds_per_step(self) -> float | None:
        """Of late: as the log states it, else from its clock since the last resume."""
        if self._paces:
            return median(self._paces)
        if self._clock and self._clocked is not None and self.step > self._clock[1] and self._clocked > self._clock[0]:
            return (self._clocked - self._clock[0]) / (self.step - self._clock[1])
        return None

    @property
    def steps_an_epoch(self) -> int | None:
        """Where epochs begin, in a log that numbers them as whole ones beside its steps."""
        if len(self._laps) < 2 or self._laps[1][0] <= self._laps[0][0]:
            return None
        (epoch, step), (last, end) = self._laps
        return round((end - step) / (last - epoch))

    def _blocks(self) -> Iterator[bytes]:
        """Whole lines, some `BLOCK` bytes at a time."""
        rest = b""
        try:
            if (whole := forms.document(self.path)) is not None:
                for line in whole:
                    self._bytes += len(line)
                    yield from self._cut(line)
                return
            with open(self.path, "rb") as stream:
                for chunk in forms.chunks(stream, CHUNK):
                    self._bytes += len(chunk)
                    chunk = rest + chunk
                    end = chunk.rfind(b"\n") + 1
                    rest = chunk[end:] if end or len(chunk) < CHUNK else b""
                    yield from self._cut(self._spelled(chunk[:end]))
        except OSError as error:
            raise storage_error(error, self.path) from error
        if rest := self._spelled(rest):
            row = parse(rest)
            ends = [b for _, b in row.spans.values()] if "loss" in row.spans and not rest.startswith(b'{"') else []
            if row.json is not None or max(ends, default=len(rest)) < len(rest.rstrip()):
                yield rest + b"\n"
            elif b"oss" in rest or rest.startswith(b"{"):
                self.torn = True

    def _spelled(self, text: bytes) -> bytes:
        return self._speller.lines(text, search=not self.losses)

    def _cut(self, chunk: bytes) -> Iterator[bytes]:
        self.lines += chunk.count(b"\n")
        at = 0
        while at < len(chunk):
            end = chunk.find(b"\n", min(at + BLOCK, len(chunk) - 1)) + 1
            yield chunk[at:end]
            at = end

    def _take(self, block: bytes) -> Iterator[Points]:
        if self._shape is None and self._model is not None:
            self._shape = Shape(*self._model)
        if self._shape is not None and self._shape.usable and not self._marked and block.count(b"oss") >= FEW:
            yield from self._flush()
            if (quick := self._at_once(block)) is not None:
                yield quick
                return
            if len(block) > LEAST_BLOCK:
                middle = block.find(b"\n", len(block) // 2) + 1
                for half in (block[:middle], block[middle:]):
                    yield from self._take(half)
                return
        for line in forms.marked(block, MARKS if self.losses >= _KNOWN else _HEAD):
            yield from self._line(line)

    def _at_once(self, block: bytes) -> Points | None:
        """All losses of a block whose loss lines have the form of the last one; None where anything is unusual."""
        assert self._shape is not None
        numbers = self._shape.numbers(block)
        if numbers is None:
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                table = np.fromstring(b" ".join(numbers), sep=" ").reshape(-1, len(self._shape.fields))
        except (ValueError, DeprecationWarning):
            return None
        if not np.all(table):
            return None  # a nought may stand for a NaN
        columns = dict(zip(self._shape.fields, table.T, strict=True))
        losses, epochs = columns["loss"], columns.get("epoch")
        if ("step" in columns) != (self.unit == "step"):
            return None
        if "step" in columns:
            steps = columns["step"]
            if self._in_epoch and epochs is not None:
                steps = steps + (epochs - (self._base or 0.0)) * self.plan.get("per_epoch", 0)
            elif self._in_epoch:
                return None
            if steps[0] <= self.step or not np.all(np.diff(steps) > 0):
                return None
        elif epochs is not None and self.unit == "epoch":
            steps = epochs
            if steps[0] < self.step or not np.all(np.diff(steps) >= 0):
                return None
        else:
            steps = np.arange(self.losses + 1.0, self.losses + 1.0 + len(losses))
        if epochs is not None:
            for place in (
                np.flatnonzero(np.diff(epochs, prepend=math.nan if self.epoch is None else self.epoch))
                if self.unit == "step"
                else ()
            ):
                self._begin_lap(float(epochs[place]), float(steps[place]))
            self.epoch = self._lap = float(epochs[-1])
        self.losses += len(losses)
        self.step = float(steps[-1])
        end = max(block.rfind(b"oss"), block.rfind(b"OSS"))
        self._note(parse(block[block.rfind(b"\n", 0, end) + 1 : block.find(b"\n", end)]))
        points = Points(steps, losses, np.full(len(losses), self._rate), self._resumed, self._anew)
        self._resumed = self._anew = False
        return points

    def _note(self, row: Row) -> None:
        """What of a loss line is for later ones."""
        self.last = row
        self._rate = self._rate if row.rate is None else row.rate
        self.left = row.left
        if row.pace is not None and row.pace > 0:
            self._paces.append(row.pace)
        if row.clock is not None:
            self._clock, self._clocked = self._clock or (row.clock, self.step), row.clock

    def _line(self, line: bytes) -> Iterator[Points]:
        row = parse(line)
        if row.loss is None:
            self.plan.update({name: n for name, n in plan(line).items() if n > 0})
            if self.losses and (b"esuming" in line or b"esumed" in line):
                self._marked = True
        elif self.losses < _KNOWN:
            self.trainer, self.draws = self.trainer or trainer(line), self.draws and draws(line)
        if row.json is not None and row.loss is not None and (row.tasks or "val_gain" in row.json):
            self._watch(row.json)
            self.validated = row.json if "train_bin_0" in row.json else self.validated
        elif row.tasks and row.loss is not None:
            parts = {f"loss_{name}": value for name, value in row.tasks.items()}
            self._watch({"step": row.step or self.losses + 1, "loss": row.loss, **parts})
        self.prediction_type = row.prediction_type or self.prediction_type
        self.pictures = row.pictures or self.pictures
        if row.epoch is not None:
            self.epoch = row.epoch
            if row.epochs:
                self.plan["epochs"] = row.epochs
        if row.loss is not None and row.rank <= self.rank:
            self.rank = row.rank
            yield from self._loss(line, row)
        if row.validation is not None:
            self._validation(row.validation)

    def _loss(self, line: bytes, row: Row) -> Iterator[Points]:
        """A line with the run's loss: count its step on, and keep it unless a bar shows the same once more."""
        assert row.loss is not None
        if self.unit is None or (self.unit == "loss line" and row.step is not None and self.losses < FEW):
            self.unit = "step" if row.step is not None else "epoch" if row.epoch is not None else "loss line"
            self.step = 0.0
        if self.unit == "step" and row.step is None:
            return  # in a log that counts steps, a line without one is a summary
        step = self._count(row)
        if self.losses and step == self.step and row.step is not None and _same(row.loss, self.last.loss):
            return
        if not self._marked and self._first is not None and step <= self._first and 2 * step <= self.step:
            yield from self._flush()
            self._begin_anew()
        elif self._marked or step < self.step:
            yield from self._flush()
            self.resumes = [*self.resumes, (self.step, step)][:32]
            self._resumed, self._marked, self._clock = True, False, None
        self._first = step if self._first is None else self._first
        if self.unit == "step" and self.epoch is not None and (not self._laps or self.epoch != self._laps[-1][0]):
            self._begin_lap(self.epoch, step)
        self.step = step
        self.losses += 1
        self._note(row)
        self._rows.append((step, row.loss, self._rate))
        plain = row.spans and not row.tasks and row.validation is None
        self._shape, self._model = None, (line, row) if plain else None
        if len(self._rows) >= ROWS:
            yield from self._flush()

    def _begin_anew(self) -> None:
        """Another run in the same file: what was said before is of no account."""
        self.runs += 1
        self._anew, self._resumed, self._clock = True, False, None
        self.resumes, self._laps, self.watcher = [], [], Watcher()
        self.validations.clear()

    def _begin_lap(self, epoch: float, step: float) -> None:
        if epoch == int(epoch):
            self._laps = [*self._laps[:1], (epoch, step)]

    def _count(self, row: Row) -> float:
        """The step over the whole run."""
        if self.unit != "step" or row.step is None:
            return (self.epoch or 0.0) if self.unit == "epoch" else self.losses + 1.0
        before = self.last
        if self._base is None:
            self._base = 0.0 if self.epoch == 0.0 or self.epoch is None else 1.0
        fell = self.losses > 0 and before.step is not None and row.step < before.step and not self._marked
        later = self._lap < (self.epoch or 0.0)
        stays = later and row.step == before.step == row.step_total  # a line an epoch: 52/52
        if (fell or stays) and before.step is not None and not self._in_epoch:
            fell = row.step <= (self._first or 0.0) or 2 * row.step <= before.step  # else it goes back, not to begin
            ended = before.step_total is not None and before.step >= 0.9 * before.step_total
            self._in_epoch = stays or (fell and (later if row.epoch is not None or not ended else ended))
        if self._in_epoch:
            longest = max(row.step_total or row.step, (before.step or 0) + 1 if fell and not row.step_total else 0)
            self.plan["per_epoch"] = max(self.plan.get("per_epoch", 1), longest)
            if fell and self.epoch in (None, self._lap) and row.epoch is None:
                self.epoch = self._lap + 1  # a bar within epochs that bear no number
        elif row.step_total:
            self._total = row.step_total
        self._lap = self.epoch or 0.0
        return row.step + (self._lap - self._base) * self.plan["per_epoch"] if self._in_epoch else float(row.step)

    def _validation(self, value: float) -> None:
        if self.validations and self.validations[-1][0] == self.step:
            self.validations.pop()  # a running mean over one validation: its last line counts
        if not self.validations or self.validations[-1][1] != value:  # a bar shows the last one again and again
            self.validations.append((self.step, value))

    def _watch(self, found: Mapping[str, Any]) -> None:
        """For what only the findings of `training.diagnosis` tell: a task that is starved, the student's validation."""
        numbers = {k: v for k, v in found.items() if isinstance(v, int | float | None)}
        if math.isfinite(real(numbers.get("step", 0))):
            self.watcher.add(numbers)

    def _flush(self) -> Iterator[Points]:
        if self._rows:
            table = np.array(self._rows)
            yield Points(table[:, 0], table[:, 1], table[:, 2], self._resumed, self._anew)
            self._rows, self._resumed, self._anew = [], False, False

    def _look_beside(self) -> None:
        """The plan, once all is read; of a run of bottega also from the files beside its log."""
        if self._total and not self._in_epoch:
            self.plan["steps"] = self._total
        if self._in_epoch:
            if self.plan.get("epochs"):
                self.plan["steps"] = self.plan["epochs"] * self.plan["per_epoch"]
        elif self.plan.get("epochs") and self.plan.get("steps"):
            self.plan.setdefault("per_epoch", max(self.plan["steps"] // self.plan["epochs"], 1))
        self.bar = self._bars.whole(self.epoch, self.plan.get("epochs")) if self.unit == "epoch" else None
        beside.look(self)

    def _nothing(self) -> str:
        rule = f"a log must have lines with a loss, such as `step 100/1500 loss: 0.1234`; {self.path} "
        if not self._bytes:
            return f"{rule}is empty; wait for the first step, or {beside.HOW}"
        if beside.is_binary(self.path):
            packed = "packed files, TensorBoard's event files and checkpoints are not read"
            return f"{rule}is not text ({packed}); {beside.HOW}"
        last = " but a last one that breaks off" if self.torn else ""
        return f"{rule}has none in {self.lines} lines{last}; let the trainer print the loss, or {beside.HOW}"


def _same(a: float, b: float | None) -> bool:
    return b is not None and (a == b or (math.isnan(a) and math.isnan(b)))
