"""One line of a training log: which numbers stand in it, whatever the trainer that wrote it.

Everything works on bytes: a log may be torn, of mixed encodings, or no text at all.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from itertools import chain
from typing import Any

# 1,234 and 0,12 are numbers too; possessive, so that no part of a longer number is taken for one.
_NUMBER = rb"[-+]?(?>[1-9]\d{0,2}(?:,\d{3})+(?!\d)(?:\.\d+)?|0,\d+|(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)"
_VALUE = rb"(" + _NUMBER + rb"|[-+]?(?:nan|inf(?:inity)?)|null)(?![\w%/])"
_LOSS = re.compile(
    rb"loss(?:es)?((?:[_./-][\w./-]{0,30})?)[\"'\])]{0,3}(?: (?:at|after) \w{4,9} \d{1,12})?(?: value)?"
    rb"(?:\s{0,4}[:=]|\s)\s{0,12}[\"'\[(]{0,3}(?:tensor\()?" + _VALUE,
    re.I,
)
_BEFORE = re.compile(rb"((?:[a-z]{1,12} ){0,2})([a-z_./-]{0,20})$", re.I)
_STEP = re.compile(
    rb"(?<![a-z/])(global[_ ]?)?(?<![a-z])(?:steps?|iter(?:ation)?s?|batch|tick|num_updates)[\"']?"
    rb"[\s:=\[#]{1,12}(?>(\d[\d,]{0,15})(?:\.0+)?)(?!\.?\d|\s*%)(?:\s?(?:/|of)\s{0,9}(\d[\d,]{0,15}))?",
    re.I,
)
_OF = re.compile(rb"(?<![\d/.])(?>(\d{1,12}))\s?/\s?(?>(\d{1,12}))(?![\d/.]|\w)")
_EPOCH = re.compile(
    rb"(?:(?<![a-z_])(?<!num )(?<!max )epochs?(?:_?(?:idx|num(?:ber)?))?(?:\(train\))?|^train(?=: \d+ \[))"
    rb"[\"']?[\s:=\[#(\"']{1,6}(?>(\d{1,9}(?:\.\d{1,20})?))(?!\s*%|\.\d)(?:\s?(?:/|of)\s?(\d{1,9}))?",
    re.I,
)
_EPOCH_BAR = re.compile(rb"epochs?\W{0,4}\d+%\|[^|]{0,400}\|\s*(\d{1,9})/(\d{1,9})", re.I)
_RATE = re.compile(rb"(?<![a-z])(?:lr|learning[_ ]rate)[\w/]{0,12}[\"']?[\s:=]{1,3}[\"'\[]{0,2}" + _VALUE, re.I)
_PACE = re.compile(
    rb"<[\d:?]+, *([\d.]+)(s/it|it/s)|\s([\d.]+) s \d+ MB|([\d.]+)(m?s)/(?:step|it)\b"
    rb"|(?:\bdt: |per iteration \(ms\): )([\d.]+)"
)
_LEFT = re.compile(rb"\beta: (?:(\d{1,4}) days?, )?(\d{1,4}):(\d\d):(\d\d)")  # Keras' ETA is that of the epoch
_STAMP = re.compile(
    rb"^(?:\[\w{1,12}\]:?)*\W{0,2}"
    rb"(?:(\d{4}[-/]\d\d[-/]\d\d)[T ,](\d\d:\d\d:\d\d)|(\d\d/\d\d/\d{4}) (\d\d:\d\d:\d\d))"
)
_HELD_OUT = re.compile(
    rb"^(?:[\W\d_]|\b(?:info|debug|root|main)\b)*(?:test|val|valid|validation|eval|evaluation)\b|epoch\((?:val|test)\)"
    rb"|[\[|] ?(?:val|valid|validation|eval|evaluation) ?[\]|]",
    re.I,
)
_BROKEN = re.compile(rb"grad_?norm[\"']?[\s:=]{1,3}[\"']?[-+]?(?:nan|inf)", re.I)
_PREDICTION = re.compile(rb"prediction_type[\"']?[\s:=]{1,3}[\"']?(\w{1,20})", re.I)
_PLANS = (
    ("epochs", re.compile(rb"(?:num|max|total)[_ ](?:train[_ ])?epochs?\b[^\n:=]{0,60}[:=]\s*(\d{1,9})", re.I)),
    (
        "steps",
        re.compile(rb"(?:total[_ ]optimization|max[_ ]train)[_ ]steps\b[^\n:=]{0,60}[:=]\s*(\d[\d,]{0,15})", re.I),
    ),
    ("steps", re.compile(rb"\btotal steps[ :=]{1,3}(\d[\d,]{0,15})", re.I)),
    ("per_epoch", re.compile(rb"(?:batches|steps)[_ ]per[_ ]epoch\b[^\n:=]{0,60}[:=]\s*(\d{1,12})", re.I)),
)
_TOKEN = re.compile(rb"[-+]?\d[\d.]*(?:e[-+]?\d+)?|\bnan\b|\binf\b", re.I)

MARKS = (b"oss", b"OSS", b"poch", b"POCH", b"esum")
"""What a line must have to say anything: loss, epoch, resuming."""

VALIDATION = {"val", "valid", "validation", "eval", "evaluation", "test", "dev", "heldout"}
AVERAGED = {"avr", "avg", "average", "averaged", "mean", "running", "smooth", "smoothed", "ema", "moving", "epoch"}
_NO_LOSS = {"best", "min", "minimum", "lowest", "target", "final", "scale", "scaler", "weight", "fn", "threshold"}
_PLAIN = {"loss", "losses", "train", "training", "step", "total", "batch", "current", "iter", ""}
_TRAINERS = (
    ("kohya", re.compile(rb"avr_loss|^steps: +\d+%\|")),
    ("OneTrainer", re.compile(rb"smooth loss")),
    ("ai-toolkit", re.compile(rb"\| \d+/\d+ \[.*lr: [\d.e+-]+ loss: ")),
    ("Lightning", re.compile(rb"v_num=|^Epoch \d+: +\d+%\|")),
    ("diffusers", re.compile(rb"step_loss|^Steps: +\d+%\|")),
    ("transformers", re.compile(rb"^\{'(?:loss|eval_loss)'.*'epoch'")),
    ("accelerate", re.compile(rb"^\d\d/\d\d/\d{4} [\d:]{8} - INFO - ")),
    ("bottega", re.compile(rb"^step \d+/\d+ Loss: .* MB|\"rss_mb\"")),
)

_OTHER_TASK = re.compile(
    rb"lm loss|\bppl\b|perplexity|\btok(?:ens?)?/s|nll_loss|accuracy|\bacc@|\btop1\b|(?:box|cls|dfl)_loss"
    rb"|iter \d+: loss .*\bmfu",
    re.I,
)


@dataclass(slots=True)
class Row:
    """The numbers of a line; None where it has none. `rank`: 0 a plain loss, 1 one of training or of a step, 2 an
    average that the trainer made, 3 a part of the loss. `span` and the others: where they stand, for `Shape`."""

    loss: float | None = None
    rank: int = 9
    tasks: dict[str, float] = field(default_factory=dict)
    validation: float | None = None
    step: int | None = None
    step_total: int | None = None
    epoch: float | None = None
    epochs: int | None = None
    rate: float | None = None
    pace: float | None = None
    left: float | None = None
    clock: float | None = None
    prediction_type: str | None = None
    pictures: int | None = None
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    json: dict[str, Any] | None = None
    held_out: bool = False

    def name(self, name: str, value: float, words: str = "") -> bool:
        """Take a number called a loss; words: what stands before its name. True where it is now `loss` itself."""
        rank, task = _kind(name, f"val {words}" if self.held_out and "train" not in name + words else words)
        if rank is None:
            return False
        if rank < 0:
            self.validation = value if self.validation is None or not task else self.validation
            return False
        if task and len(self.tasks) < 8:
            self.tasks[task] = value
        if rank >= self.rank:
            return False
        self.rank, self.loss = rank, value
        return True


@lru_cache(512)
def _kind(name: str, words: str) -> tuple[int | None, str]:
    """The rank of a loss, and of which task or part it is; -1 for a validation's, None for what is no loss of now."""
    parts = set(re.split(r"[^a-z]+", name.lower()))
    about = parts | set(words.lower().split())
    if about & _NO_LOSS:
        return None, ""
    rest = sorted(parts - _PLAIN - AVERAGED - VALIDATION)
    if about & VALIDATION:
        return -1, "_".join(rest)
    return 3 if rest else 2 if about & AVERAGED else 1 if parts - {"loss", ""} else 0, "_".join(rest)


def real(value: Any) -> float:
    """A number as a program or a person wrote it; NaN for what is none, and for null."""
    if isinstance(value, str | bytes):
        text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
        value = text.replace(",", "." if text.lstrip("+-").startswith("0,") else "")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def parse(line: bytes) -> Row:
    """Whatever numbers a line has."""
    if line.startswith(b'{"'):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict):
            return from_object(found)
    row = Row()
    if b"train_runtime" in line:  # the closing summary of transformers' Trainer: its train_loss is the whole run's mean
        return row
    row.held_out = _HELD_OUT.search(line) is not None
    for m in _LOSS.finditer(line):
        before = _BEFORE.search(line[max(0, m.start() - 44) : m.start()])
        words, own = (before[1], before[2]) if before else (b"", b"")
        if row.name((own + b"loss" + m[1]).decode("ascii", "replace"), real(m[2]), words.decode("ascii", "replace")):
            row.spans["loss"] = m.span(2)
    if row.loss == 0.0 and _BROKEN.search(line):
        row.loss = math.nan  # transformers' Trainer writes nought for it (logging_nan_inf_filter)
    _place(line, row)
    if rate := _RATE.search(line):
        row.rate = real(rate[1])
    if pace := _PACE.search(line):
        seconds = real(pace[1] or pace[3] or pace[4] or pace[6]) / (1000 if pace[6] or pace[5] == b"ms" else 1)
        row.pace = seconds if pace[2] != b"it/s" else 1 / seconds if seconds > 0 else None
    row.left = _left(line)
    row.clock = _clock(line)
    if prediction := _PREDICTION.search(line):
        row.prediction_type = prediction[1].decode()
    return row


def from_object(found: dict[str, Any]) -> Row:
    """The same from a JSON object: a row of metrics.jsonl, or of another trainer's."""
    row = Row(json=found)
    short: dict[str, Any] = {}
    for key, value in found.items():
        if isinstance(value, dict) and "mean" in value:  # as edm's stats.jsonl has it
            value = value["mean"]
        if "loss" in key.lower() and not isinstance(value, dict | list | bool):
            row.name(key, real(value))
        short.setdefault(key.lower().rsplit("/", 1)[-1], value)

    def whole(*names: str) -> int | None:
        number = next((n for name in names if (n := _finite(short.get(name))) is not None), None)
        return None if number is None else int(number)

    if row.loss == 0.0 and "grad_norm" in short and _finite(short["grad_norm"]) is None:
        row.loss = math.nan
    row.step = whole("step", "global_step", "current_steps", "iteration", "iter", "tick", "_step")
    row.step_total, row.epochs = whole("total_steps", "max_steps"), whole("total_epochs", "num_epochs")
    row.epoch, row.pace = _finite(short.get("epoch")), _finite(found.get("seconds"))
    row.left = _left(f"eta: {short.get('remaining_time')}".encode())  # as LLaMA-Factory writes it
    row.rate = _finite(short.get("learning_rate", short.get("lr")))
    row.prediction_type = str(found["prediction_type"]) if found.get("prediction_type") else None
    row.pictures = whole("num_samples")
    return row


def plan(line: bytes) -> dict[str, int]:
    """Lengths that the head of a log announces: epochs, steps, per_epoch."""
    found = ((name, pattern.search(line)) for name, pattern in _PLANS)
    return {name: int(m[1].replace(b",", b"")) for name, m in found if m}


def trainer(line: bytes) -> str | None:
    """Who prints such lines, as far as that can be told."""
    return next((name for name, pattern in _TRAINERS if pattern.search(line)), None)


def draws(line: bytes) -> bool:
    """Whether what is trained may draw pictures: no words of language models, classifiers or detectors are in it."""
    return _OTHER_TASK.search(line) is None


class Shape:
    """The form of a log's loss lines, learned from one of them, so that thousands are read at once.

    Up to its last number that counts the line must agree but for its numbers and the width of its spaces.
    """

    def __init__(self, line: bytes, row: Row) -> None:
        spans = {span: name for name, span in row.spans.items()}
        end = max(b for _, b in spans)
        pieces, at, self.fields = [], 0, []
        for token in _TOKEN.finditer(line[:end]):
            pieces.append(re.sub(rb"(?:\\ )+", rb" +", re.escape(line[at : token.start()])))
            name = spans.get(token.span())
            self.fields += [name] if name else []
            pieces.append(rb"([0-9nainfNAINF.e+-]+)" if name else rb"[\w.+-]+")
            at = token.end()
        self._lines = re.compile(b"".join(pieces) + rb"[^\n]*\n")
        self._marks = {mark: line.count(mark) for mark in MARKS}
        self.usable = len(self.fields) == len(spans) and len(line[:end].strip()) > 3

    def numbers(self, block: bytes) -> list[bytes] | None:
        """The fields of all loss lines of a block, one after another; None where other lines stand between that might
        say something."""
        found = self._lines.findall(block)
        # where every line has the form, only a second loss in one of them could be missed
        marks = MARKS[:1] if len(found) == block.count(b"\n") else MARKS
        if not found or any(block.count(mark) != self._marks[mark] * len(found) for mark in marks):
            return None
        return found if len(self.fields) == 1 else list(chain.from_iterable(found))


def _place(line: bytes, row: Row) -> None:
    """Step and epoch, with their totals."""
    taken = (0, 0)
    if bar := _EPOCH_BAR.search(line):
        row.epoch, row.epochs, taken = float(bar[1]), int(bar[2]), bar.span()
    elif m := _EPOCH.search(line):
        row.epoch, taken = float(m[1]), m.span()
        row.epochs = int(m[2]) if m[2] else None
        row.spans["epoch"] = m.span(1)
    steps = list(_STEP.finditer(line))
    if steps:
        step = next((m for m in steps if m[1]), steps[0])
        row.step, row.spans["step"] = int(step[2].replace(b",", b"")), step.span(2)
        row.step_total = int(step[3].replace(b",", b"")) if step[3] else None
        return
    counts = [m for m in _OF.finditer(line) if not taken[0] <= m.start() < taken[1] and int(m[1]) <= int(m[2])]
    if counts:
        bar = next((m for m in counts if line[m.end() : m.end() + 2] == b" ["), counts[0])
        row.step, row.step_total, row.spans["step"] = int(bar[1]), int(bar[2]), bar.span(1)


def _left(line: bytes) -> float | None:
    """Seconds to the end of the run, where the line says so."""
    m = _LEFT.search(line)
    return None if m is None else ((int(m[1] or 0) * 24 + int(m[2])) * 60 + int(m[3])) * 60.0 + int(m[4])


def _clock(line: bytes) -> float | None:
    stamp = _STAMP.search(line)
    if stamp is None:
        return None
    day, time, form = (
        (stamp[1].replace(b"/", b"-"), stamp[2], "%Y-%m-%d") if stamp[1] else (stamp[3], stamp[4], "%m/%d/%Y")
    )
    try:
        return datetime.strptime(f"{day.decode()} {time.decode()}", form + " %H:%M:%S").timestamp()
    except (ValueError, OverflowError):
        return None


def _finite(value: Any) -> float | None:
    number = real(value)
    return number if math.isfinite(number) else None
