"""One line of a training log: which numbers are in it, whatever the trainer that wrote it.

Everything works on bytes: a log may be torn, of mixed encodings, or no text at all.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from functools import lru_cache
from typing import Any

from bottega.doctor.logs.sides import LONGEST_NAME, PATTERNS, PLAIN_DATA, PLAIN_TIME, Side, is_rate, side_of

# 1,234 and 0,12 are numbers too; possessive, so that no part of a longer number is taken for one.
_NUMBER = rb"[-+]?(?>[1-9]\d{0,2}(?:,\d{3})+(?!\d)(?:\.\d+)?|0,\d+|(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)"
_VALUE = rb"(" + _NUMBER + rb"|[-+]?(?:nan|inf(?:inity)?)|null)(?![\w%/])"
_LOSS = re.compile(
    rb"loss(?:es)?((?:[_./-][\w./-]{0,30})?)[\"'\])]{0,3}(?: (?:at|after) \w{4,9} \d{1,12})?(?: value)?"
    rb"(?:\s{0,4}[:=]|\s)\s{0,12}[\"'\[(]{0,3}(?:tensor\()?" + _VALUE,
    re.I,
)
_BEFORE = re.compile(rb"((?:[a-z]{1,12} ){0,2})([a-z_./-]{0,20})$", re.I)
# No letter before, so that `timesteps 1000` is no step; no % after, which makes it a share.
_STEP = re.compile(
    rb"(?<![a-z/])(global[_ ]?)?(?<![a-z])(?:steps?|iter(?:ation)?s?|batch|tick|num_updates)[\"']?"
    rb"[\s:=\[#]{1,12}(?>(\d(?:[\d,]{0,14}\d)?)(?:\.0+)?)(?!\.?\d|\s*%)(?:\s?(?:/|of)\s{0,9}(\d(?:[\d,]{0,14}\d)?))?",
    re.I,
)
# `118/1000`, but no part of a date such as 01/12/2024, nor of a path.
_OF = re.compile(rb"(?<![\d/.])(?>(\d{1,12}))\s?/\s?(?>(\d{1,12}))(?![\d/.]|\w)")
_EPOCH = re.compile(
    rb"(?:(?<![a-z_])(?<!num )(?<!max )epochs?(?:_?(?:idx|num(?:ber)?))?(?:\(train\))?|^train(?=: \d+ \[))"
    rb"[\"']?[\s:=\[#(\"']{1,6}(?>(\d{1,9}(?:\.\d{1,20})?))(?!\s*%|\.\d)(?:\s?(?:/|of)\s?(\d{1,9}))?",
    re.I,
)
# `Step/Epoch [120/2][20/100]`, as PixArt writes it: both names come before both numbers, those within the epoch follow.
_STEP_AND_EPOCH = re.compile(
    rb"(?<![a-z])(?:(?:(?:global[_ ]?)?steps?|iter(?:ation)?s?) ?/ ?epochs?|(epochs?) ?/ ?(?:steps?|iter(?:ation)?s?))"
    rb"[\s:=\[(]{1,4}(?>(\d{1,12})) ?/ ?(?>(\d{1,12}))(?![\d/.])(?:[\])]{1,2}\s?[\[(](\d{1,12}) ?/ ?(\d{1,12})[\])])?",
    re.I,
)
_STEP_IN_EPOCH = re.compile(rb"\blocal step: ?(\d{1,12}) ?//? ?(\d{1,12})", re.I)  # beside a global one, as Sana has it
_EPOCH_BAR = re.compile(rb"epochs?\W{0,4}\d+%\|[^|]{0,400}\|\s*(\d{1,9})/(\d{1,9})", re.I)
# settings of a schedule, such as lr_warmup_steps, are no rate
_RATE = re.compile(
    rb"(?<![a-z])(?<!min_)(?<!max_)(?<!base_)(?:lr|learning[_ ]rate)"
    rb"(?!_(?:warm|sched|min|max|decay|num|cycle|power|mult|steps))[\w/]{0,12}[\"']?(?: to)?[\s:=]{1,3}[\"'\[]{0,2}"
    + _VALUE,
    re.I,
)
ROUNDED_TO_ZERO = re.compile(rb"[-+]?0?\.0{2,7}")
_PACE = re.compile(
    # the look-behind keeps a long run of digits from being tried from each of them: 900 000 took hours
    rb"<[\d:?]+, *([\d.]+)(s/it|it/s)|\s([\d.]+) s \d+ MB|(?<![\d.])([\d.]+)(m?s)/(?:step|it)\b"
    rb"|(?:\bdt: |per iteration \(ms\): )([\d.]+)"
)
_SPAN = rb": ?(?:(\d{1,5}) days?, )?(\d{1,4}):(\d\d):(\d\d)"
_LEFT = re.compile(rb"(?:\b|\btotal_)eta" + _SPAN)  # Keras' ETA is that of the epoch
_EPOCH_LEFT = re.compile(rb"\bepoch_eta" + _SPAN)
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
MARKS = (b"oss", b"OSS", b"poch", b"POCH", b"esum")
"""A line without any of these (loss, epoch, resuming) is never parsed."""

_FIND_ALL = {mark: re.compile(mark).findall for mark in MARKS}

LONGEST_NUMBER = 400
"""Characters of a number; the longest that a double prints as, 1e308 without an exponent, has 309."""

VALIDATION = {"val", "valid", "validation", "eval", "evaluation", "test", "dev", "heldout"}
AVERAGED = {"avr", "avg", "average", "averaged", "mean", "running", "smooth", "smoothed", "ema", "moving", "epoch"}
_NOT_CURRENT = {"best", "min", "minimum", "lowest", "target", "final", "scale", "scaler", "weight", "fn", "threshold"}
_PLAIN = {"loss", "losses", "train", "training", "step", "total", "batch", "current", "iter", ""}
_TRAINERS = (
    ("PixArt", re.compile(rb"Step/Epoch \[\d+/\d+\]\[\d+/\d+\]")),
    ("kohya", re.compile(rb"avr_loss|^steps: +\d+%\|")),
    ("OneTrainer", re.compile(rb"smooth loss")),
    ("ai-toolkit", re.compile(rb"\| \d+/\d+ \[.*lr: [\d.e+-]+ loss: ")),
    ("Lightning", re.compile(rb"v_num=|^Epoch \d+: +\d+%\|")),
    ("diffusers", re.compile(rb"step_loss|^Steps: +\d+%\|")),
    ("transformers", re.compile(rb"^\{'(?:loss|eval_loss)'.*'epoch'")),
    ("accelerate", re.compile(rb"^\d\d/\d\d/\d{4} [\d:]{8} - INFO - ")),
    ("bottega", re.compile(rb"^step \d+/\d+ Loss: .* MB|\"rss_mb\"")),
)

_NO_NUMBERS = (dict, list, bool)
"""What JSON has beside numbers and text: never a loss."""

_OTHER_TASK = re.compile(
    rb"lm loss|\bppl\b|perplexity|\btok(?:ens?)?/s|nll_loss|accuracy|\bacc@|\btop1\b|(?:box|cls|dfl)_loss"
    rb"|iter \d+: loss .*\bmfu",
    re.I,
)


class LossKind(IntEnum):
    """What a number called a loss is. Of the first four a line's loss is the one with the lowest value."""

    PLAIN = 0
    """The loss, without another word."""

    NAMED = 1
    """Of training, of a step or of a batch, by its name."""

    AVERAGE = 2
    """The trainer's own running mean."""

    PART = 3
    """A part of the loss, or that of one task."""

    NONE = 4
    """No training loss has been seen."""

    VALIDATION = 5
    NOT_CURRENT = 6
    """Not a current loss: the best one, a weight, a scale."""


@dataclass(slots=True)
class LogLine:
    """The numbers of a line; None where it has none.

    kind: of `loss`. tasks: the parts of the loss by name. step_in_epoch, per_epoch: beside a step of
    the whole run. pace: seconds a step. seconds_left: to the end of the run.
    clock: seconds since 1970. num_pictures: of the training set. sides: columns beside the loss, infinite where one is
    not finite. spans: where loss, step, epoch, rate and sides are in the line. json: the whole object,
    where the line is one. held_out: the line speaks of a validation.
    """

    loss: float | None = None
    kind: LossKind = LossKind.NONE
    tasks: dict[str, float] = field(default_factory=dict)
    validation: float | None = None
    step: int | None = None
    step_total: int | None = None
    epoch: float | None = None
    epochs: int | None = None
    step_in_epoch: int | None = None
    per_epoch: int | None = None
    rate: float | None = None
    pace: float | None = None
    seconds_left: float | None = None
    clock: float | None = None
    prediction_type: str | None = None
    num_pictures: int | None = None
    sides: dict[Side, float] = field(default_factory=dict)
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    json: Mapping[str, object] | None = None
    held_out: bool = False

    def add_loss(self, name: str, value: float, context: str = "") -> bool:
        """Take in a number called a loss.

        Args:
            name: what it is called, the word loss included.
            value: the number.
            context: the words before its name.

        Returns whether it is now the line's `loss`.
        """
        if self.held_out and "train" not in name + context:
            context = f"val {context}"
        kind, part = _classify(name, context)
        if kind is LossKind.NOT_CURRENT:
            return False
        if kind is LossKind.VALIDATION:
            if self.validation is None or not part:  # the whole loss goes before one of its parts
                self.validation = value
            return False
        if part and len(self.tasks) < MAX_TASKS:
            self.tasks[part] = value
        if kind >= self.kind:
            return False
        self.kind, self.loss = kind, value
        return True


MAX_DEPTH = 3
"""Objects within objects in which a loss is looked for."""

MAX_MEMBERS = 1000
"""Of an object that are looked at."""

_NAME_KEYS = ("name", "tag", "key", "metric")
_VALUE_KEYS = ("value", "val", "scalar")

MAX_TASKS = 8
"""Parts of a loss that are kept: a detector may print a hundred."""


def count_mark(text: bytes, mark: bytes) -> int:
    """How often one of `MARKS` stands in a text: as `bytes.count`, which takes 2.3 times as long where marks are rare,
    and as long where every line has one."""
    return len(_FIND_ALL[mark](text))


def parse(line: bytes) -> LogLine:
    """Whatever numbers a line has."""
    row = _parse_object(line) if line.startswith(b'{"') else None
    if row is not None:
        return row
    row = LogLine()
    if b"train_runtime" in line:  # the closing summary of transformers' Trainer: its train_loss is the whole run's mean
        return row
    row.held_out = _HELD_OUT.search(line) is not None
    _read_losses(line, row)
    _read_epoch_and_step(line, row)
    _read_rate(line, row)
    if row.validation is None:
        _read_sides(line, row)
    row.pace = _pace(line)
    row.seconds_left = _seconds(_LEFT.search(line))
    if row.per_epoch:
        row.epochs = _epochs_by_times(line, row)
    row.clock = _clock(line)
    prediction = _PREDICTION.search(line)
    if prediction is not None:
        row.prediction_type = prediction[1].decode()
    return row


def _parse_object(line: bytes) -> LogLine | None:
    """Of a line that is an object; None where it is none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    row = from_object(found)
    if row.kind is not LossKind.NONE or row.validation is not None:
        return row
    wrapped = _wrapped_line(found)
    return row if wrapped is None else parse(wrapped)


def from_object(found: Mapping[str, object]) -> LogLine:
    """The same from a JSON object: a row of metrics.jsonl, or of another trainer's."""
    row = LogLine(json=found)
    short = _read_members(dict(_members(found)), row)

    if "data_time" in row.sides and "step_time" not in row.sides and _finite(short.get("time")) is not None:
        row.sides["step_time"] = to_float(short["time"])  # as detectron2 and mmengine have it; alone it may be a clock

    if row.loss == 0.0 and "grad_norm" in short and _finite(short["grad_norm"]) is None:
        row.loss = math.nan  # transformers' Trainer writes 0 for it, as in a line of text

    row.step = _first_number(short, "step", "global_step", "current_steps", "iteration", "iter", "tick", "_step")
    row.step_total = _first_number(short, "total_steps", "max_steps")
    row.epochs = _first_number(short, "total_epochs", "num_epochs")
    row.num_pictures = _first_number(short, "num_samples")
    row.epoch = _finite(short.get("epoch"))
    row.pace = _finite(short.get("seconds"))
    row.seconds_left = _seconds(
        _LEFT.search(f"eta: {short.get('remaining_time')}".encode())
    )  # as LLaMA-Factory writes it
    prediction = found.get("prediction_type")
    if isinstance(prediction, str) and re.fullmatch(r"\w{1,20}", prediction):
        row.prediction_type = prediction
    return row


def _members(found: Mapping[str, object], group: str = "", depth: int = 0) -> Iterator[tuple[str, object]]:
    """The members of an object, those of the objects within it under `outer/inner`; `{"name": "loss", "value": 0.1}`,
    wherever its two parts are, gives a loss as well."""
    for key, value in list(found.items())[:MAX_MEMBERS]:
        if not isinstance(value, dict):
            yield group + key, value
        elif "mean" in value:  # as edm's stats.jsonl has it
            yield group + key, value["mean"]
        elif depth < MAX_DEPTH:
            yield from _members(value, f"{group}{key}/", depth + 1)
    if not depth:
        yield from _named_value(found)


def _named_value(found: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    name = next((found[key] for key in _NAME_KEYS if isinstance(found.get(key), str)), None)
    if not isinstance(name, str) or len(name) > LONGEST_NAME:
        return
    for place in (found, *found.values()):
        if not isinstance(place, dict):
            continue
        for key in _VALUE_KEYS:
            if isinstance(place.get(key), int | float):
                yield name, place[key]
                return


def _wrapped_line(found: Mapping[str, object]) -> bytes | None:
    """A line of a log within an object, as docker, Kaggle and collectors of logs keep it: the last with a loss."""
    for value in found.values():
        if isinstance(value, str) and "oss" in value:
            lines = [line for line in re.split(r"[\r\n]", value) if "oss" in line]
            return lines[-1].encode("utf-8", "replace") if lines else None
    return None


def _read_members(found: Mapping[str, object], row: LogLine) -> dict[str, object]:
    """Take in losses and the columns beside them; returns all members by their short names.

    Losses go by their whole name, all else by its last part: train/global_step is global_step.
    """
    short: dict[str, object] = {}
    for key, value in found.items():
        lowered = key.lower()
        name = lowered.rsplit("/", 1)[-1]
        short.setdefault(name, value)
        if isinstance(value, _NO_NUMBERS):
            continue
        _take_member(key, lowered, value, row)
    return short


def _take_member(key: str, lowered: str, value: object, row: LogLine) -> None:
    """A number of an object, if it is a loss, a rate, or of a column beside them; lowered: its name in lower case."""
    if "loss" in lowered and len(lowered) <= LONGEST_NAME:
        if not isinstance(value, str) or _is_number(value):  # {"loss": "mse"} is a setting
            row.add_loss(key, to_float(value))
    elif row.rate is None and is_rate(lowered):
        row.rate = _finite(value)
    name = lowered.rsplit("/", 1)[-1]
    side = side_of(name) or side_of(name.rsplit(".", 1)[-1])
    if side is not None:
        row.sides.setdefault(side, side_value(value))


def _is_number(text: str) -> bool:
    return math.isfinite(to_float(text)) or text.strip().lower().lstrip("+-") in ("nan", "inf", "infinity", "null")


def side_value(value: Any) -> float:
    """A number of a column beside the loss; infinite where it is not finite, or null."""
    number = to_float(value)
    return number if math.isfinite(number) else math.inf


def _first_number(values: Mapping[str, object], *names: str) -> int | None:
    for name in names:
        number = _finite(values.get(name))
        if number is not None:
            return int(number)
    return None


def planned_lengths(line: bytes) -> dict[str, int]:
    """Lengths that the head of a log announces: epochs, steps, per_epoch (steps an epoch)."""
    lengths = {}
    for name, pattern in _PLANS:
        found = pattern.search(line)
        if found is not None:
            lengths[name] = _to_int(found[1])
    return lengths


def trainer_of(line: bytes) -> str | None:
    """Which trainer prints such lines, as far as they show it."""
    for name, pattern in _TRAINERS:
        if pattern.search(line):
            return name
    return None


def may_draw_pictures(line: bytes) -> bool:
    """Whether what is trained may draw pictures: no words of language models, classifiers or detectors are in it."""
    return _OTHER_TASK.search(line) is None


def to_float(value: Any) -> float:
    """A number as a program or a person wrote it; NaN for anything else, for null, and beyond `LONGEST_NUMBER`."""
    if isinstance(value, bytes):
        value = _decoded(value[: LONGEST_NUMBER + 1])
    if isinstance(value, str):
        if len(value) > LONGEST_NUMBER:
            return math.nan
        is_decimal_comma = value.lstrip("+-").startswith("0,")
        value = value.replace(",", "." if is_decimal_comma else "")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


@lru_cache(512)
def _classify(name: str, context: str) -> tuple[LossKind, str]:
    """What a loss of that name is, and of which task or part, if of one."""
    parts = set(re.split(r"[^a-z]+", name.lower()))
    about = parts | set(context.lower().split())
    if about & _NOT_CURRENT:
        return LossKind.NOT_CURRENT, ""
    part = "_".join(sorted(parts - _PLAIN - AVERAGED - VALIDATION))
    if about & VALIDATION:
        return LossKind.VALIDATION, part
    if part:
        return LossKind.PART, part
    if about & AVERAGED:
        return LossKind.AVERAGE, ""
    return LossKind.NAMED if parts - {"loss", ""} else LossKind.PLAIN, ""


def loss_kind(name: str) -> LossKind:
    """What a column of that name is, as far as it is a loss; NONE where it is not."""
    if "loss" not in name.lower() or len(name) > LONGEST_NAME:
        return LossKind.NONE
    return _classify(name, "")[0]


def _read_losses(line: bytes, row: LogLine) -> None:
    for found in _LOSS.finditer(line):
        begin = found.start()
        context = prefix = b""
        before = _BEFORE.search(line[max(0, begin - 44) : begin])
        if before is not None:
            context, prefix = before[1], before[2]
        name = _decoded(prefix + b"loss" + found[1])
        if row.add_loss(name, to_float(found[2]), _decoded(context)):
            row.spans["loss"] = found.span(2)
    if row.loss == 0.0 and _BROKEN.search(line):
        row.loss = math.nan  # transformers' Trainer writes 0 for it (logging_nan_inf_filter)


def _read_rate(line: bytes, row: LogLine) -> None:
    """The learning rate; a zero that may be a small rate rounded, as in 0.0000, is none."""
    rate = _RATE.search(line)
    if rate is None or ROUNDED_TO_ZERO.fullmatch(rate[1]):
        return
    row.rate = to_float(rate[1])
    row.spans["rate"] = rate.span(1)


def _read_sides(line: bytes, row: LogLine) -> None:
    """The columns beside the loss."""
    for side, pattern in PATTERNS.items():
        found = pattern.search(line)
        if found is not None:
            group = found.lastindex or 1
            row.sides[side] = side_value(found[group])
            row.spans[side] = found.span(group)
    if "step_time" not in row.sides and b"ata" in line:
        _read_plain_times(line, row)


def _read_plain_times(line: bytes, row: LogLine) -> None:
    """`time: 0.61  data: 0.01`: only both together are those of a step, for a time alone may be one of the day."""
    time = PLAIN_TIME.search(line)
    if time is None:
        return
    data = PLAIN_DATA.search(line)
    found: list[tuple[Side, re.Match[bytes]]] = [("step_time", time)]
    if data is not None and "data_time" not in row.sides:
        found.append(("data_time", data))
    elif "data_time" not in row.sides:
        return
    for side, number in found:
        row.sides[side] = side_value(number[1])
        row.spans[side] = number.span(1)


def _read_epoch_and_step(line: bytes, row: LogLine) -> None:
    """Step and epoch, with their totals."""
    both = _STEP_AND_EPOCH.search(line)
    if both is not None:
        _take_step_and_epoch(both, row)
        return
    epoch_span = _read_epoch(line, row)
    step = _named_step(line)
    if step is not None:
        row.step = _to_int(step[2])
        if step[3]:
            row.step_total = _to_int(step[3])
        row.spans["step"] = step.span(2)
        within = _STEP_IN_EPOCH.search(line) if step[1] else None
        if within is not None:
            row.step_in_epoch, row.per_epoch = int(within[1]), int(within[2])
        return
    count = _count_of_steps(line, epoch_span)
    if count is not None:
        row.step = int(count[1])
        row.step_total = int(count[2])
        row.spans["step"] = count.span(1)


def _take_step_and_epoch(found: re.Match[bytes], row: LogLine) -> None:
    """`Step/Epoch [120/2][20/100]`, or the two in the other order."""
    step, epoch = (3, 2) if found[1] else (2, 3)
    row.step, row.epoch = int(found[step]), float(found[epoch])
    row.spans["step"], row.spans["epoch"] = found.span(step), found.span(epoch)
    if found[5]:
        row.step_in_epoch, row.per_epoch = int(found[4]), int(found[5])


def _read_epoch(line: bytes, row: LogLine) -> tuple[int, int]:
    """The epoch and their number; returns where they are, so that `12/200` is not taken for steps as well."""
    bar = _EPOCH_BAR.search(line)
    if bar is not None:
        row.epoch = float(bar[1])
        row.epochs = int(bar[2])
        return bar.span()
    epoch = _EPOCH.search(line)
    if epoch is None:
        return (0, 0)
    row.epoch = float(epoch[1])
    if epoch[2]:
        row.epochs = int(epoch[2])
    row.spans["epoch"] = epoch.span(1)
    return epoch.span()


def _named_step(line: bytes) -> re.Match[bytes] | None:
    """`step 118/1000`; a global step goes before one within the epoch."""
    steps = list(_STEP.finditer(line))
    for step in steps:
        if step[1]:
            return step
    return steps[0] if steps else None


def _count_of_steps(line: bytes, epoch_span: tuple[int, int]) -> re.Match[bytes] | None:
    """A bare `118/1000`; of several the one that a progress bar's times follow: `118/1000 [02:12<16:30`."""
    counts = []
    for count in _OF.finditer(line):
        is_the_epoch = epoch_span[0] <= count.start() < epoch_span[1]
        if not is_the_epoch and int(count[1]) <= int(count[2]):
            counts.append(count)
    for count in counts:
        if line[count.end() : count.end() + 2] == b" [":
            return count
    return counts[0] if counts else None


def _pace(line: bytes) -> float | None:
    """Seconds a step, where the line says so."""
    found = _PACE.search(line)
    if found is None:
        return None
    number = to_float(found[1] or found[3] or found[4] or found[6])
    if found[2] == b"it/s":
        return 1 / number if number > 0 else None
    in_milliseconds = found[6] or found[5] == b"ms"
    return number / 1000 if in_milliseconds else number


def _seconds(span: re.Match[bytes] | None) -> float | None:
    """A time of days, hours, minutes and seconds; None where the line has none."""
    if span is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in span.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60.0 + seconds


def _epochs_by_times(line: bytes, row: LogLine) -> int | None:
    """How many epochs the run has, by the times left of it and of the epoch; None where more than one number fits.

    Both times are the same seconds a step times the steps left, cut to whole seconds.
    """
    of_the_epoch = _seconds(_EPOCH_LEFT.search(line))
    if not of_the_epoch or row.seconds_left is None or row.epoch is None or not row.per_epoch:
        return None
    rest = 1 - (row.step_in_epoch or 0) / row.per_epoch  # of the epoch
    fewest = math.ceil((row.seconds_left / (of_the_epoch + 1) - 1) * rest)
    most = math.floor(((row.seconds_left + 1) / of_the_epoch - 1) * rest)
    return int(row.epoch) + most if fewest == most >= 0 else None


def _clock(line: bytes) -> float | None:
    """The time stamp at the beginning of a line, in seconds since 1970."""
    stamp = _STAMP.search(line)
    if stamp is None:
        return None
    if stamp[1]:
        day, time, form = stamp[1].replace(b"/", b"-"), stamp[2], "%Y-%m-%d %H:%M:%S"
    else:
        day, time, form = stamp[3], stamp[4], "%m/%d/%Y %H:%M:%S"
    try:
        return datetime.strptime(f"{day.decode()} {time.decode()}", form).timestamp()
    except (ValueError, OverflowError):
        return None


def _decoded(text: bytes) -> str:
    return text.decode("ascii", "replace")


def _to_int(digits: bytes) -> int:
    return int(digits.replace(b",", b""))


def _finite(value: Any) -> float | None:
    number = to_float(value)
    return number if math.isfinite(number) else None
