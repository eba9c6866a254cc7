"""What a log has beside its losses, and by which names: gradient's norm, time of a step, waiting for data, memory."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

Side = Literal["grad_norm", "step_time", "data_time", "memory", "skipped_now", "skipped_in_all"]
"""A column beside the loss, as the rest of the reader calls it. Times are in seconds, memory in the log's own unit."""

_NUMBER = rb"[\"']?[\s:=]{1,3}[\"'\[(]{0,2}(?:tensor\()?([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|[-+]?(?:nan|inf)|null)"
_END = rb"(?![\w%/.])"

# No letter before, and no underscore: max_grad_norm is a setting and no measurement.
PATTERNS: dict[Side, re.Pattern[bytes]] = {
    "grad_norm": re.compile(
        rb"(?<![a-z_])(?:global[_ ]|total[_ ])?(?:grad(?:ient)?s?(?:[_ ./-]?norm)?|gnorm|norm_grad)" + _NUMBER + _END,
        re.I,
    ),
    "step_time": re.compile(
        rb"(?<![a-z_])(?:(?:step|iter|batch)_time|time_per_(?:step|iter)|sec(?:onds)?_per_(?:step|iter)|seconds"
        rb"|time(?:_|: )all|iter time \(s\))" + _NUMBER + _END + rb"|\s([\d.]+) s \d+ MB",  # bottega's own train.log
        re.I,
    ),
    "data_time": re.compile(
        rb"(?<![a-z_])(?:(?:data|loader|dataloader)_time|time_data|data_(?:seconds|wait|load\w{0,8}))" + _NUMBER + _END,
        re.I,
    ),
    "skipped_now": re.compile(
        rb"(?:number of (?:skipped|nan) iterations:?\s{0,8}|skipped_now)" + _NUMBER + _END, re.I
    ),  # of the lines' interval
    "skipped_in_all": re.compile(
        rb"(?<![a-z_])(?:(?:num_|total_|n_)?skipped(?:_steps|_iters|_iterations)?|skipped_in_all|num_overflows)"
        + _NUMBER
        + _END,
        re.I,
    ),
    "memory": re.compile(rb"(?<![a-z_])(?:rss_mb|memory|mem)" + _NUMBER + _END + rb"|\s(\d+) MB\b", re.I),
}

_OF_A_STEP = _NUMBER + rb"s?(?![\w%/.:])"  # no colon: 12:00:05 is a time of the day
PLAIN_TIME = re.compile(rb"(?<![\w.])time" + _OF_A_STEP, re.I)
PLAIN_DATA = re.compile(rb"(?<![\w.])data" + _OF_A_STEP, re.I)
"""Names that are those of a step's times where both are in a line, as timm, MAE, detectron2 and Sana write them."""

_NAMES: dict[Side, re.Pattern[str]] = {
    "grad_norm": re.compile(
        r"(?:global|total|train|preclip|unclipped)?[_ .-]?grad(?:ient)?s?[_ .-]?(?:2\.0[_ ])?(?:l2|norms?)"
        r"(?:[_ .-](?:total|global|all|preclip|pre_clip|unet|dit|transformer))?|gnorm|total_norm|norm_grad"
    ),
    "step_time": re.compile(
        r"(?:step|iter|batch)_time|time_per_(?:step|iter)|sec(?:onds)?_per_(?:step|iter)|seconds|time_all"
    ),
    "data_time": re.compile(r"(?:data|loader|dataloader)_time|time_data|data_(?:seconds|wait|load\w{0,8})"),
    "skipped_now": re.compile(r"skipped_now|step_skipped|step_was_skipped"),
    "skipped_in_all": re.compile(r"(?:num_|total_|n_)?skipped(?:_steps|_iters|_iterations|_batches)?|num_overflows"),
    "memory": re.compile(r"rss_mb|memory(?:_mb)?|(?:gpu|cuda|host|cpu|vram)_?mem\w{0,12}|(?:max_)?memory_allocated"),
}


LONGEST_NAME = 120
"""Characters of a column's name; what is longer names none."""

_RATE_NAME = re.compile(r"(?:.*[/. _-])?(?:lr|learning[_ ]rate)[\w/. -]{0,40}")
_SETTING = re.compile(
    r"(?:min|max|base|init|initial|warmup|target|peak|final|start|end)[_ -]?(?:lr|learning)"
    r"|(?:lr|rate)[/._ -]?(?:warm|sched|min|max|decay|num|cycle|power|mult|steps)"
)


def is_rate(name: str) -> bool:
    """Whether a name, in lower case and with its groups, is that of a rate: lr, train/lr, lr/unet, lr-AdamW."""
    return len(name) <= LONGEST_NAME and _is_rate(name)


def side_of(name: str) -> Side | None:
    """Which column a name stands for; without its group, such as `train/`, and in lower case."""
    return _side_of(name) if len(name) <= LONGEST_NAME else None


# A log of objects asks for the same few names in each line.
@lru_cache(512)
def _is_rate(name: str) -> bool:
    return not _SETTING.search(name) and _RATE_NAME.fullmatch(name) is not None


@lru_cache(512)
def _side_of(name: str) -> Side | None:
    for side, pattern in _NAMES.items():
        if pattern.fullmatch(name):
            return side
    return None
