"""What a run leaves for people and programs as it goes: its logs, the verdict on how it goes, and the bar.

One process keeps it; where several train together, that is the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from bottega.runtime.progress import Progress
from bottega.training.config import LoopConfig
from bottega.training.diagnosis import Watcher, as_text
from bottega.training.log import Row, StepRecord, TrainingLog, read_metrics, summary_line


class Journal:
    """The journal of a run in `directory` that continues after step `start`; written inside its `with` block only.

    bar: show how far the run is; False where several runs share one bar.
    """

    def __init__(self, directory: Path, start: int, config: LoopConfig, *, bar: bool = True) -> None:
        self._start = start
        self._config = config
        self._log = TrainingLog(directory, start, tensorboard=config.tensorboard)
        self._progress = Progress(config.steps, "training", "steps", done=start) if bar else None

    def __enter__(self) -> Journal:
        with ExitStack() as open_now:
            open_now.enter_context(self._log)
            if self._progress is not None:
                open_now.enter_context(self._progress)
            self._open = open_now.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def begin(self, notes: Sequence[str], processes: int) -> None:
        """Write the head: where the run begins or resumes, in how many processes, and the workload's notes."""
        start = "resumed after" if self._start else "begun at"
        how = f", in {processes} processes" if processes > 1 else ""
        self.line(f"{start} step {self._start} of {self._config.steps}{how}")
        for note in notes:
            self.line(note)
        # Replays the log so far: a resumed run reaches the same verdicts as an uninterrupted one.
        self._watcher = Watcher(read_metrics(self._log.metrics))

    def line(self, text: str) -> None:
        """Write one line for people."""
        self._log.line(text)

    def step(self, record: StepRecord, row: Row, overflow: str | None, *, last: bool) -> None:
        """Write a step's row, and for people its line and the verdict where they are due; overflow: see `LossScale`."""
        self._log.row(row)
        self._watcher.add(row)
        if overflow is not None:
            self.line(f"step {record.step}: {overflow}")
        if last or record.step % self._config.log_every == 0:
            self.line(summary_line(record, row, self._config.steps))
            self._log.points(record.step, row)
        if "val_gain" in row:
            self.line(as_text(self._watcher.findings(ended=last)))

    def sync(self) -> None:
        """Flush all that was written to the disk: no checkpoint may be ahead of its log."""
        self._log.sync()

    def progress(self, loss: float) -> None:
        """Move the bar on by one step."""
        if self._progress is not None:
            self._progress.update(loss=loss)
