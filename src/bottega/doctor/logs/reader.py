"""Any training log as a stream of losses: a run directory, a `metrics.jsonl`, or what a trainer printed.

Read in chunks, so that memory does not grow with the file. Lines that say nothing are never looked at: those with a
mark are found by searching the chunk. Loss lines of one form are read a block at a time (`LineTemplate`), all others
one by one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np

from bottega.doctor.logs.bars import BarWatcher
from bottega.doctor.logs.companions import HEAD_MARKS, MOST_LINES, Companions, is_companion, tells_an_overflow
from bottega.doctor.logs.counter import StepCounter
from bottega.doctor.logs.decode import COLOUR, LONGEST_LINE, WholeLines, chunks, to_english
from bottega.doctor.logs.documents import rows_of_document
from bottega.doctor.logs.events import EventFiles, event_files, is_event_file
from bottega.doctor.logs.lines import (
    MARKS,
    LogLine,
    LossKind,
    count_mark,
    may_draw_pictures,
    parse,
    planned_lengths,
    to_float,
    trainer_of,
)
from bottega.doctor.logs.locate import HOW, find_log, require_text
from bottega.doctor.logs.run_files import with_run_files
from bottega.doctor.logs.sides import Side
from bottega.doctor.logs.summary import LogSummary, TrainingLength
from bottega.doctor.logs.tables import TableRewriter
from bottega.doctor.logs.template import LineTemplate
from bottega.doctor.losses import F64, LossBatch, SideColumns, Unit
from bottega.runtime.errors import RequestError
from bottega.runtime.files import storage_error
from bottega.training.diagnosis import Watcher

CHUNK = 1 << 20
"""Bytes read at once."""

BLOCK = 1 << 18
"""Bytes that a `LineTemplate` reads at once, some thousand lines. Where a line of another form is among them, it is
tried with halves."""

LEAST_BLOCK = 1 << 14
"""Below this the lines are read one by one."""

FEW = 16
"""With fewer losses in a block it is not worth while to read them at once."""

MAX_ROWS = 4096
"""Losses handed on at once, at the most, of those that are read one by one."""

ALL_SIDES = 100_000
"""Losses up to which every line's other columns are read, too. They take as long again as the losses: of a longer log
they are read in one block of `SIDES_EVERY`, so that ten million lines still take some ten seconds."""

SIDES_EVERY = 16

MAX_RESUMES = 32
"""Resumes that are kept."""

_SIDES: tuple[Side, ...] = (
    "grad_norm",
    "step_time",
    "data_time",
    "memory",
    "skipped_now",
    "skipped_in_all",
)  # in the order of `SideColumns`

_RECOGNISED_BY = 64
"""Loss lines after which a trainer that was not recognised stays unknown, and no plan is looked for."""

_HEAD_MARKS = (*MARKS, b"_steps", b"otal steps", b"ptimization", b"rediction_type")
"""What is looked for before: the plan, too."""


class LogReader:
    """Reads a log once: `batches` to its end, then `summary`.

    Args:
        path: a file or a folder.

    Raises:
        MissingError: nothing can be read there.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = find_log(Path(path))
        self._event_files = _event_files_of(Path(path), self.path)
        self._plan = TrainingLength()
        self._counter = StepCounter(self._plan)
        self._pace = _PaceMeter()
        self._queue = _Queue()
        self._normalizer = _Normalizer(self.path)
        self._notes: list[str] = []
        self._bars = BarWatcher()
        self._watcher = Watcher()  # for what only bottega's own columns tell
        self._validations: deque[tuple[float, float]] = deque(maxlen=4096)  # [(step, loss)]: a validation is rare
        self._resumes: list[tuple[float, float]] = []
        self._num_runs = 1
        self._kind = LossKind.NONE  # of the losses that are kept: the plainest that was seen
        self._trainer: str | None = None
        self._draws_pictures = True
        self._prediction_type: str | None = None
        self._num_pictures: int | None = None
        self._timestep_bins: Mapping[str, object] | None = None
        self._last_line = LogLine()  # with a loss
        self._saw_resume = False  # in a line after the last loss
        self._templates: dict[bool, LineTemplate] = {}  # of the last loss line, by whether it reads the other columns
        self._companions = Companions()
        self._num_companions = 0
        self._num_head_lines = 0
        self._num_blocks = 0
        self._model: tuple[bytes, LogLine] | None = None  # the last loss line, of which a template can be made
        self._lines = WholeLines()
        self._num_bytes = 0
        self._num_lines = 0
        self._is_torn = False

    def batches(self) -> Iterator[LossBatch]:
        """The losses.

        Raises:
            RequestError: there is none, or the file is not text.
            StorageError: the disk fails.
        """
        if not self._event_files:
            require_text(self.path)
        for block in self._blocks():
            if self._counter.unit != "step":
                self._bars.see(block)
            if not self._is_head:
                yield from self._companions_of(block)
            yield from self._read_block(block)
        yield from self._queue.flush()
        if not self._counter.num_losses and not self._num_companions:
            raise self.refusal()

    def refusal(self) -> RequestError:
        """What is said of a log without a loss, once all is read."""
        return RequestError(self._why_nothing())

    def summary(self) -> LogSummary:
        """What the log, and the files of a run of bottega beside it, say beside the losses; once all is read."""
        counter = self._counter
        unit = counter.unit
        if unit is None and self._num_companions:
            unit = "step"
        if unit is None:
            raise RuntimeError("a log is read to its end before its summary is asked for")
        plan = self._whole_plan()
        bar = None
        if unit == "epoch":
            bar = self._bars.of_the_whole_run(counter.epoch, plan.epochs)
        log = LogSummary(
            path=self.path,
            trainer=self._trainer,
            unit=unit,
            step=counter.step,
            epoch=counter.epoch,
            epochs_done=None,
            plan=plan,
            seconds_per_step=self._pace.seconds_per_step(counter.step),
            seconds_left=self._seconds_left(),
            bar=bar,
            steps_per_epoch=counter.steps_per_epoch,
            validations=tuple(self._validations),
            resumes=tuple(self._resumes),
            num_runs=self._num_runs,
            is_average=self._kind is LossKind.AVERAGE,
            is_torn=self._is_torn,
            num_overlong=self._lines.num_overlong,
            notes=(*self._notes, *self._normalizer.notes),
            findings=tuple(self._watcher.findings(ended=True)),
            has_paired_validation=self._watcher.validation is not None,
            draws_pictures=self._draws_pictures,
            num_pictures=self._num_pictures,
            prediction_type=self._prediction_type,
            timestep_bins=self._timestep_bins,
        )
        return with_run_files(log)

    # From bytes to blocks of whole lines.

    def _blocks(self) -> Iterator[bytes]:
        """Whole lines, some `BLOCK` bytes at a time."""
        try:
            rows = self._rows_of_a_document()
            if rows is not None:
                for row in rows:
                    self._num_bytes += len(row)
                    yield from self._cut(row)
                return
            with open(self.path, "rb") as stream:
                for chunk in chunks(stream, CHUNK):
                    self._num_bytes += len(chunk)
                    yield from self._cut(self._normalized(self._lines.take(chunk)))
        except OSError as error:
            raise storage_error(error, self.path) from error
        yield from self._last_without_a_line_feed(self._normalized(self._lines.rest))

    def _rows_of_a_document(self) -> Iterator[bytes] | None:
        """The lines of a log that comes as JSON or as event files; None of one that is text."""
        if not self._event_files:
            return rows_of_document(self.path)
        events = EventFiles(self._event_files)
        self._notes = events.notes
        return events.lines()

    def _last_without_a_line_feed(self, line: bytes) -> Iterator[bytes]:
        """The last line where nothing is missing of it: an object that parses, or a loss that more text follows."""
        if not line:
            return
        row = parse(line)
        is_whole = row.json is not None
        if "loss" in row.spans and not line.startswith(b'{"'):
            # of a run under way `loss: 0.0` may be the beginning of 0.0876, and a loss of zero would be a finding
            last_number = max(end for _, end in row.spans.values())
            is_whole = last_number < len(line.rstrip())
        if is_whole:
            yield line + b"\n"
        elif b"oss" in line or line.startswith(b"{"):
            self._is_torn = True

    def _normalized(self, text: bytes) -> bytes:
        return self._normalizer.lines(text, search=not self._counter.num_losses)

    def _cut(self, chunk: bytes) -> Iterator[bytes]:
        self._num_lines += chunk.count(b"\n")
        at = 0
        while at < len(chunk):
            # The head of a log is read line by line, 130 µs each: no more of it than a template needs.
            size = LEAST_BLOCK if self._is_head else BLOCK
            end = chunk.find(b"\n", min(at + size, len(chunk) - 1)) + 1
            yield chunk[at:end]
            at = end

    @property
    def _is_head(self) -> bool:
        """Whether the trainer and the plan may still be named."""
        return self._counter.num_losses < _RECOGNISED_BY

    # From blocks to losses, many at once where they have one form.

    def _read_block(self, block: bytes) -> Iterator[LossBatch]:
        self._num_blocks += 1
        sides = self._counter.num_losses < ALL_SIDES or self._num_blocks % SIDES_EVERY == 0
        template = self._usable_template(sides)
        if template is not None and _has_many_losses(block):
            yield from self._queue.flush()  # what was read one by one comes before
            batch = self._read_at_once(block, template, sides)
            if batch is not None:
                yield batch
                return
            if len(block) > LEAST_BLOCK:
                middle = block.find(b"\n", len(block) // 2) + 1
                yield from self._read_block(block[:middle])
                yield from self._read_block(block[middle:])
                return
        marks: tuple[bytes, ...] = MARKS
        if self._is_head:
            marks = _HEAD_MARKS
            if self._num_head_lines < MOST_LINES:
                marks = (*_HEAD_MARKS, *HEAD_MARKS)
        for line in _lines_with(block, marks):
            yield from self._read_line(line)

    def _usable_template(self, sides: bool) -> LineTemplate | None:
        """Of the last loss line; None right after a resume, whose first loss must be seen by itself."""
        if sides not in self._templates and self._model is not None:
            self._templates[sides] = LineTemplate(*self._model, sides=sides)
        template = self._templates.get(sides)
        if template is None or not template.usable or self._saw_resume:
            return None
        return template

    def _read_at_once(self, block: bytes, template: LineTemplate, sides: bool) -> LossBatch | None:
        """All losses of a block whose loss lines have the form of the last one; None where anything is unusual."""
        columns = template.columns(block)
        if columns is None:
            return None
        losses, epochs = columns["loss"], columns.get("epoch")
        steps = self._steps_at_once(columns, len(losses))
        if steps is None:
            return None

        # From here on the block is taken: the counter and what the last line says move on as line by line.
        last_epoch = None
        if epochs is not None:
            last_epoch = float(epochs[-1])
            self._mark_epochs(epochs, steps)
        self._counter.take_many(steps, last_epoch)
        last_loss = max(block.rfind(b"oss"), block.rfind(b"OSS"))
        begin = block.rfind(b"\n", 0, last_loss) + 1
        end = block.find(b"\n", last_loss)
        last = parse(block[begin:end])
        self._plan.update({"epochs": last.epochs, "per_epoch": last.per_epoch})
        self._take_note(last)
        rates = columns.get("rate", np.full(len(losses), self._pace.rate))
        return self._queue.batch(steps, losses, rates, self._sides_of(columns, steps) if sides else None)

    def _sides_of(self, columns: Mapping[str, F64], steps: F64) -> SideColumns:
        found = _side_columns(columns, steps)
        if self._queue.tells_overflows:  # none in a block that is read at once: its line would have been in the way
            found = replace(found, skipped=np.zeros(len(steps)))
        return found

    def _mark_epochs(self, epochs: F64, steps: F64) -> None:
        """Tell a counter of steps where epochs begin among many losses, [N] each."""
        counter = self._counter
        if counter.unit != "step":
            return
        before = math.nan if counter.epoch is None else counter.epoch  # NaN differs from any first epoch
        for place in np.flatnonzero(np.diff(epochs, prepend=before)):
            counter.mark_epoch(float(epochs[place]), float(steps[place]))

    def _steps_at_once(self, columns: Mapping[str, F64], count: int) -> F64 | None:
        """The steps of a block's losses over the whole run, [N]; None where they do not rise as those of one run do."""
        counter, epochs = self._counter, columns.get("epoch")
        if ("step" in columns) != (counter.unit == "step"):
            return None
        if "step" in columns:
            steps = counter.count_many(columns["step"], epochs)
            if steps is None or steps[0] <= counter.step or not np.all(np.diff(steps) > 0):
                return None
            return steps
        if epochs is not None and counter.unit == "epoch":
            rises = epochs[0] >= counter.step and np.all(np.diff(epochs) >= 0)
            return epochs if rises else None
        return np.arange(counter.num_losses + 1.0, counter.num_losses + 1.0 + count)

    # One line at a time.

    def _read_line(self, line: bytes) -> Iterator[LossBatch]:
        # What is around the losses: the plan, resumes, the trainer.
        row = parse(line)
        self._num_head_lines += 1
        if row.loss is None:
            self._read_announcement(line)
            self._read_companion(line, row)
        elif self._is_head:
            self._trainer = self._trainer or trainer_of(line)
            self._draws_pictures = self._draws_pictures and may_draw_pictures(line)
        self._watch(row)
        self._prediction_type = row.prediction_type or self._prediction_type
        self._num_pictures = row.num_pictures or self._num_pictures
        self._read_epoch(row)

        # The losses. Once a plain one was seen, averages and parts are not taken into the same curve.
        if row.loss is not None and row.kind <= self._kind:
            self._kind = row.kind
            yield from self._take_loss(line, row, row.loss)
        if row.validation is not None:
            self._take_validation(row.validation)

    def _read_announcement(self, line: bytes) -> None:
        """A line without a loss: the plan, or that the run is resumed; before the first loss that is of no interest."""
        self._plan.update(planned_lengths(line))
        if self._counter.num_losses and (b"esuming" in line or b"esumed" in line):
            self._saw_resume = True

    def _read_companion(self, line: bytes, row: LogLine) -> None:
        """What a line without a loss says of a step: its columns, or that the optimizer left it out."""
        if tells_an_overflow(line):
            self._queue.count_overflow()
        if not is_companion(row) or row.step is None or self._counter.in_epoch:
            return
        if self._counter.unit not in (None, "step"):
            return
        self._num_companions += 1
        self._companions.learn(line, row)
        self._queue.add_companion(float(row.step), row)
        if row.rate is not None:
            self._pace.rate = row.rate
        if not self._counter.num_losses:  # how far a run without losses has come
            self._counter.step, self._counter.step_total = float(row.step), row.step_total

    def _companions_of(self, block: bytes) -> Iterator[LossBatch]:
        """Those of a block behind the head, where nothing else looks for them."""
        columns = self._companions.columns(block)
        if columns is None or self._counter.in_epoch:
            return
        yield from self._queue.flush()
        steps = columns["step"]
        self._num_companions += len(steps)
        none = np.empty(0)
        rates = columns.get("rate", none)
        if np.isfinite(rates).any():
            self._pace.rate = float(rates[np.isfinite(rates)][-1])
        yield self._queue.batch(none, none, none, _side_columns(columns, steps))

    def _read_epoch(self, row: LogLine) -> None:
        if row.epoch is not None:
            self._counter.epoch = row.epoch
            self._plan.update({"epochs": row.epochs, "per_epoch": row.per_epoch})

    def _take_loss(self, line: bytes, row: LogLine, loss: float) -> Iterator[LossBatch]:
        """A line with the run's loss: count its step on, and keep it unless a bar shows the same once more."""
        counter = self._counter
        self._choose_unit(row)
        if counter.unit == "step" and row.step is None:
            return  # in a log that counts steps, a line without one is a summary
        step = counter.count(row, self._last_line, resumed=self._saw_resume)
        if row.step is not None and self._is_redrawn(step, loss):
            return
        yield from self._notice_a_break(step)
        counter.take_one(step)
        self._take_note(row)
        self._queue.add(step, loss, self._pace.rate, row)

        # A template holds one loss a line: it would miss the parts of a loss, and a validation.
        is_plain = row.spans and not row.tasks and row.validation is None
        self._templates = {}
        self._model = (line, row) if is_plain else None
        if self._queue.is_full:
            yield from self._queue.flush()

    def _notice_a_break(self, step: float) -> Iterator[LossBatch]:
        """Begin a new run or a resume where the steps say so; a batch holds losses of one stretch alone."""
        counter = self._counter
        if counter.begins_again(step) and not self._saw_resume:
            yield from self._queue.flush()
            self._begin_new_run()
        elif self._saw_resume or step < counter.step:
            yield from self._queue.flush()
            self._begin_resume(step)

    def _is_redrawn(self, step: float, loss: float) -> bool:
        """Whether a bar shows the last loss once more."""
        is_same_step = self._counter.num_losses > 0 and step == self._counter.step
        before = self._last_line.loss
        if not is_same_step or before is None:
            return False
        return loss == before or (math.isnan(loss) and math.isnan(before))

    def _choose_unit(self, row: LogLine) -> None:
        """What the log counts by, from its first loss line; steps also where they are named a little later."""
        counter = self._counter
        names_steps_late = counter.unit == "loss line" and row.step is not None and counter.num_losses < FEW
        if counter.unit is not None and not names_steps_late:
            return
        unit: Unit = "loss line"
        if row.step is not None:
            unit = "step"
        elif row.epoch is not None:
            unit = "epoch"
        counter.unit = unit
        counter.step = 0.0

    def _begin_new_run(self) -> None:
        """Another run in the same file: what was said before no longer counts."""
        self._num_runs += 1
        self._queue.begins_new_run = True
        self._queue.resumed = False
        self._pace.restart_clock()
        self._counter.begin_new_run()
        self._resumes = []
        self._watcher = Watcher()
        self._validations.clear()

    def _begin_resume(self, step: float) -> None:
        self._resumes = [*self._resumes, (self._counter.step, step)][:MAX_RESUMES]
        self._queue.resumed = True
        self._saw_resume = False
        self._pace.restart_clock()

    def _take_note(self, row: LogLine) -> None:
        """What of a loss line is for later ones."""
        self._last_line = row
        self._pace.see(row, self._counter.step)

    def _take_validation(self, value: float) -> None:
        step = self._counter.step
        if self._validations and self._validations[-1][0] == step:
            self._validations.pop()  # a running mean over one validation: its last line counts
        if not self._validations or self._validations[-1][1] != value:  # a bar shows the last one again and again
            self._validations.append((step, value))

    def _watch(self, row: LogLine) -> None:
        """For what only `training.diagnosis` finds: a task that is starved, the student's paired validation."""
        if row.loss is None:
            return
        columns = self._columns_of(row)
        if "train_bin_0" in columns:
            self._timestep_bins = columns
        numbers: dict[str, float | None] = {}
        for name, value in columns.items():
            if isinstance(value, int | float | None):
                numbers[name] = value
        if numbers and math.isfinite(to_float(numbers.get("step", 0))):
            self._watcher.add(numbers)

    def _columns_of(self, row: LogLine) -> Mapping[str, object]:
        """A loss line as a row of metrics.jsonl has it; empty where it has neither parts nor a paired validation."""
        if row.json is not None and (row.tasks or "val_gain" in row.json):
            return row.json
        if not row.tasks:
            return {}
        columns: dict[str, object] = {"step": row.step or self._counter.num_losses + 1, "loss": row.loss}
        for name, value in row.tasks.items():
            columns[f"loss_{name}"] = value
        return columns

    # At the end.

    def _whole_plan(self) -> TrainingLength:
        """The plan, once all is read: what follows from its other parts, too."""
        plan, counter = replace(self._plan), self._counter
        if counter.in_epoch:
            if plan.epochs and plan.per_epoch:
                plan.steps = plan.epochs * plan.per_epoch
            return plan
        plan.steps = counter.step_total or plan.steps
        if plan.epochs and plan.steps and plan.per_epoch is None:
            plan.per_epoch = max(plan.steps // plan.epochs, 1)
        return plan

    def _seconds_left(self) -> float | None:
        """To the end of the run, as the last loss line says; None where it is the end of the epoch that it means."""
        row, counter = self._last_line, self._counter
        seconds = row.sides.get("step_time") or self._pace.seconds_per_step(counter.step)
        if row.seconds_left is None or not counter.in_epoch or row.step is None or not row.step_total or not seconds:
            return row.seconds_left
        of_the_epoch = (row.step_total - row.step) * seconds
        return None if row.seconds_left <= 1.5 * of_the_epoch + 1 else row.seconds_left

    def _why_nothing(self) -> str:
        rule = f"a log must have lines with a loss, such as `step 100/1500 loss: 0.1234`; {self.path} "
        if not self._num_bytes:
            return f"{rule}is empty; wait for the first step, or {HOW}"
        lines = f"{self._num_lines} lines"
        if self._is_torn:
            lines += " but a last one that breaks off"
        if self._lines.num_overlong:
            lines += f", and {self._lines.num_overlong} of more than {LONGEST_LINE} bytes, which are not read"
        if self._num_companions:
            lines += f", though {self._num_companions} of them have a rate or a gradient norm"
        return f"{rule}has none in {lines}; let the trainer print the loss, or {HOW}"


class _Normalizer:
    """Brings whole lines into one form, so that all that follows knows one kind of line."""

    def __init__(self, path: Path) -> None:
        self._is_foreign = False
        self._tables = TableRewriter(path)

    @property
    def notes(self) -> list[str]:
        """What was taken for a loss without being called one."""
        return self._tables.notes

    def lines(self, text: bytes, *, search: bool) -> bytes:
        """Whole lines, rewritten where need be. search: no loss was found yet, so that a table or another language may
        begin here."""
        if b"\x1b" in text:
            text = COLOUR.sub(b"", text)
        if (search or self._is_foreign) and not text.isascii():
            english = to_english(text)
            self._is_foreign = self._is_foreign or english is not text
            text = english
        return self._tables.rewrite(text, search=search)


class _PaceMeter:
    """Seconds a step by the latest lines, and the learning rate. rate: NaN before the first that is named."""

    def __init__(self) -> None:
        self.rate = math.nan
        self._paces: deque[float] = deque(maxlen=101)
        self._started: tuple[float, float] | None = None  # clock and step, since the last resume
        self._clock: float | None = None

    def see(self, row: LogLine, step: float) -> None:
        """A loss line at a step."""
        if row.rate is not None:
            self.rate = row.rate
        if row.pace is not None and row.pace > 0:
            self._paces.append(row.pace)
        if row.clock is not None:
            self._started = self._started or (row.clock, step)
            self._clock = row.clock

    def restart_clock(self) -> None:
        """Forget the clock: the time between two runs is no time of a step."""
        self._started = None

    def seconds_per_step(self, step: float) -> float | None:
        """As the log states it, else from its clock since the last resume; step: the last one."""
        if self._paces:
            return median(self._paces)
        if self._started is None or self._clock is None:
            return None
        clock, first = self._started
        if step > first and self._clock > clock:
            return (self._clock - clock) / (step - first)
        return None


class _Queue:
    """Losses that were read one by one and wait to be handed on. resumed, begins_new_run: of the next batch."""

    def __init__(self) -> None:
        self.resumed = False
        self.begins_new_run = False
        self.tells_overflows = False
        self._num_overflows = 0  # since the last loss
        self._rows: list[tuple[float, ...]] = []
        self._companions: list[tuple[float, ...]] = []

    @property
    def is_full(self) -> bool:
        return len(self._companions) >= MAX_ROWS

    def add(self, step: float, loss: float, rate: float, row: LogLine) -> None:
        """A loss. rate: the last one that was named. row: its line, for the columns beside it."""
        if self.tells_overflows:
            row.sides.setdefault("skipped_now", float(self._num_overflows))
            self._num_overflows = 0
        self._rows.append((step, loss, rate))
        self.add_companion(step, row)

    def add_companion(self, step: float, row: LogLine) -> None:
        """The columns beside a loss, or those of a line without one."""
        named = math.nan if row.rate is None else row.rate
        self._companions.append((step, named, *(row.sides.get(side, math.nan) for side in _SIDES)))

    def count_overflow(self) -> None:
        """The optimizer left out a step."""
        self.tells_overflows = True
        self._num_overflows += 1

    def flush(self) -> Iterator[LossBatch]:
        """All that wait as a batch; none where none wait."""
        if self._companions:
            steps, losses, rates = np.array(self._rows).reshape(-1, 3).T
            sides = SideColumns(*np.array(self._companions).T)
            self._rows = []
            self._companions = []
            yield self.batch(steps, losses, rates, sides)

    def batch(self, steps: F64, losses: F64, rates: F64, sides: SideColumns | None) -> LossBatch:
        """The next batch."""
        batch = LossBatch(steps, losses, rates, self.resumed, self.begins_new_run, sides)
        self.resumed = self.begins_new_run = False
        return batch


def _event_files_of(named: Path, log: Path) -> list[Path]:
    """The event files to read: those beside the one that was found in a folder, or the one that was named."""
    if not is_event_file(log):
        return []
    return event_files(log.parent) if named.is_dir() else [log]


def _side_columns(columns: Mapping[str, F64], steps: F64) -> SideColumns:
    """The columns beside the losses that a template found among [N] fields a name, at these steps."""
    absent = np.full(len(steps), np.nan)
    found = [columns.get("rate", absent)]
    for side in _SIDES:
        values = columns.get(side, absent)
        if side in columns:
            values = np.where(np.isfinite(values), values, np.inf)  # as line by line: NaN is for what is absent
        found.append(values)
    return SideColumns(steps, *found)


def _has_many_losses(block: bytes) -> bool:
    """Whether there are `FEW` or more; counting all of a block takes a tenth of reading it."""
    at = -1
    for _ in range(FEW):
        at = block.find(b"oss", at + 1)
        if at < 0:
            return False
    return True


def _lines_with(block: bytes, marks: tuple[bytes, ...]) -> Iterator[bytes]:
    """The lines of a block that have one of the marks, in their order."""
    if count_mark(block, b"oss") * 160 > len(block):  # nearly every line: splitting is quicker than searching
        for line in block.split(b"\n"):
            if any(mark in line for mark in marks):
                yield line
        return
    found: dict[int, bytes] = {}
    for mark in marks:
        at = block.find(mark)
        while at >= 0:
            begin = block.rfind(b"\n", 0, at) + 1
            end = block.find(b"\n", at)
            if end < 0:
                found[begin] = block[begin:]
                break
            found[begin] = block[begin:end]
            at = block.find(mark, end)
    for begin in sorted(found):
        yield found[begin]
