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

from bottega.doctor import beside
from bottega.doctor.lines import MARKS, Row, Shape, parse, plan, real, trainer
from bottega.runtime.errors import MissingError, RequestError
from bottega.runtime.files import storage_error
from bottega.training.diagnosis import Watcher
from bottega.training.log import LOG, METRICS

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

_HEAD = (*MARKS, b"_steps", b"ptimization", b"rediction_type")
"""What is looked for before the first losses: the plan, too."""

_HOW = "give a run directory, a metrics.jsonl, or a file with what the trainer printed (… 2>&1 | tee train.log)"


@dataclass(frozen=True)
class Points:
    """Losses in the order of the log, not finite ones too. [N] each; rates: NaN where the log gives none.

    steps: counted over the whole run, also where the log counts within an epoch; epochs or loss lines where it gives no
    steps (`Log.unit`). resumed: the first of them follows a resume.
    """

    steps: F64
    losses: F64
    rates: F64
    resumed: bool


class Log:
    """A log and what it says beside its losses. Read it with `points`, once; the rest is complete afterwards.

    path: a file or a folder. Raises MissingError where nothing can be read there.
    """

    def __init__(self, path: Path | str) -> None:
        self.given = Path(path)
        self.path = _find(self.given)
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
        self.prompted = True  # it reads text, as far as can be known
        self.span: float | None = None  # from the least to the greatest number of its latents
        self.epochs_done: float | None = None
        self.watcher = Watcher()
        self.resumes: list[tuple[float, float]] = []  # (step before, step after), the first 32
        self.torn = False
        self.lines = self.losses = 0
        self.rank = 9
        self._in_epoch = self._marked = self._resumed = False
        self._base: float | None = None
        self._lap = 0.0
        self._paces: deque[float] = deque(maxlen=101)
        self._clock: tuple[float, float] | None = None
        self._clocked: float | None = None
        self._rate = math.nan
        self._rows: list[tuple[float, float, float]] = []
        self._shape: Shape | None = None
        self._model: tuple[bytes, Row] | None = None  # the last loss line, of which a shape can be made
        self._bytes = self._noughts = 0

    def points(self) -> Iterator[Points]:
        """The losses. Raises RequestError where there is none, StorageError where the disk fails."""
        for block in self._blocks():
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

    def _blocks(self) -> Iterator[bytes]:
        """Whole lines, some `BLOCK` bytes at a time."""
        rest = b""
        try:
            with open(self.path, "rb") as stream:
                wide = stream.read(2) in (b"\xff\xfe", b"\xfe\xff")  # UTF-16, as Windows' PowerShell redirects output
                stream.seek(0)
                while chunk := stream.read(CHUNK):
                    self._bytes += len(chunk)
                    self._noughts += chunk.count(0)
                    chunk = rest + (chunk.replace(b"\0", b"") if wide else chunk).replace(b"\r", b"\n")
                    end = chunk.rfind(b"\n") + 1
                    rest = chunk[end:] if end or len(chunk) < CHUNK else b""
                    yield from self._cut(chunk[:end])
        except OSError as error:
            raise storage_error(error, self.path) from error
        if rest:
            row = parse(rest)
            ends = [b for _, b in row.spans.values()] if "loss" in row.spans and not rest.startswith(b'{"') else []
            if row.json is not None or max(ends, default=len(rest)) < len(rest.rstrip()):
                yield rest + b"\n"
            elif b"oss" in rest or rest.startswith(b"{"):
                self.torn = True

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
        for line in _marked(block, MARKS if self.losses >= _KNOWN else _HEAD):
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
            self.epoch = self._lap = float(epochs[-1])
        self.losses += len(losses)
        self.step = float(steps[-1])
        end = max(block.rfind(b"oss"), block.rfind(b"OSS"))
        self._note(parse(block[block.rfind(b"\n", 0, end) + 1 : block.find(b"\n", end)]))
        points = Points(steps, losses, np.full(len(losses), self._rate), self._resumed)
        self._resumed = False
        return points

    def _note(self, row: Row) -> None:
        """What of a loss line is for later ones."""
        self.last = row
        self._rate = self._rate if row.rate is None else row.rate
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
        elif self.trainer is None and self.losses < _KNOWN:
            self.trainer = trainer(line)
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
        if self._marked or step < self.step:
            yield from self._flush()
            self.resumes = [*self.resumes, (self.step, step)][:32]
            self._resumed, self._marked, self._clock = True, False, None
        self.step = step
        self.losses += 1
        self._note(row)
        self._rows.append((step, row.loss, self._rate))
        plain = row.spans and not row.tasks and row.validation is None
        self._shape, self._model = None, (line, row) if plain else None
        if len(self._rows) >= ROWS:
            yield from self._flush()

    def _count(self, row: Row) -> float:
        """The step over the whole run."""
        if self.unit != "step" or row.step is None:
            return (self.epoch or 0.0) if self.unit == "epoch" else self.losses + 1.0
        before = self.last
        if self._base is None:
            self._base = 0.0 if self.epoch == 0.0 or self.epoch is None else 1.0
        fell = self.losses > 0 and before.step is not None and row.step < before.step and not self._marked
        if fell and not self._in_epoch:
            assert before.step is not None
            ended = before.step_total is not None and before.step >= 0.9 * before.step_total
            self._in_epoch = self._lap < (self.epoch or 0.0) if row.epoch is not None or not ended else ended
        if self._in_epoch:
            longest = max(row.step_total or row.step, (before.step or 0) + 1 if fell and not row.step_total else 0)
            self.plan["per_epoch"] = max(self.plan.get("per_epoch", 1), longest)
            if fell and self.epoch in (None, self._lap) and row.epoch is None:
                self.epoch = self._lap + 1  # a bar within epochs that bear no number
        elif row.step_total:
            self.plan["steps"] = row.step_total
        self._lap = self.epoch or 0.0
        return row.step + (self._lap - self._base) * self.plan["per_epoch"] if self._in_epoch else float(row.step)

    def _validation(self, value: float) -> None:
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
            yield Points(table[:, 0], table[:, 1], table[:, 2], self._resumed)
            self._rows, self._resumed = [], False

    def _look_beside(self) -> None:
        """The plan, once all is read; of a run of bottega also from the files beside its log."""
        if self._in_epoch:
            if self.plan.get("epochs"):
                self.plan["steps"] = self.plan["epochs"] * self.plan["per_epoch"]
        elif self.plan.get("epochs") and self.plan.get("steps"):
            self.plan.setdefault("per_epoch", max(self.plan["steps"] // self.plan["epochs"], 1))
        beside.look(self)

    def _nothing(self) -> str:
        rule = f"a log must have lines with a loss, such as `step 100/1500 loss: 0.1234`; {self.path} "
        if not self._bytes:
            return f"{rule}is empty; wait for the first step, or {_HOW}"
        if self._noughts * 100 > self._bytes:
            return f"{rule}is not text (TensorBoard's event files and checkpoints are not read); {_HOW}"
        last = " but a last one that breaks off" if self.torn else ""
        return f"{rule}has none in {self.lines} lines{last}; let the trainer print the loss, or {_HOW}"


def _marked(block: bytes, marks: tuple[bytes, ...]) -> Iterator[bytes]:
    """The lines of a block that have one of the marks, in their order."""
    if block.count(b"oss") * 160 > len(block):  # nearly every line: splitting is quicker than searching
        yield from (line for line in block.split(b"\n") if any(mark in line for mark in marks))
        return
    found: dict[int, bytes] = {}
    for mark in marks:
        at = block.find(mark)
        while at >= 0:
            begin, end = block.rfind(b"\n", 0, at) + 1, block.find(b"\n", at)
            found[begin] = block[begin : end if end >= 0 else len(block)]
            at = block.find(mark, end) if end >= 0 else -1
    yield from (found[begin] for begin in sorted(found))


def _same(a: float, b: float | None) -> bool:
    return b is not None and (a == b or (math.isnan(a) and math.isnan(b)))


def _find(path: Path) -> Path:
    """The log that a path means; the machine's own before the one for people."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise MissingError(f"a training is judged from its log; there is no file or folder {path}; {_HOW}")
    for name in (METRICS, LOG):
        for folder in (path, path / "training"):
            if (folder / name).is_file():
                return folder / name
    texts = sorted(p for p in path.iterdir() if p.suffix in (".log", ".jsonl") and p.is_file())
    if len(texts) == 1:
        return texts[0]
    found = f"{len(texts)} files end in .log or .jsonl" if texts else f"neither {METRICS} nor a .log is there"
    raise MissingError(f"a folder is judged from its one log; in {path} {found}; {_HOW}")
