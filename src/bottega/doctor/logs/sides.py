"""What a log has beside its losses, and by which names: gradient's norm, time of a step, waiting for data, memory."""

from __future__ import annotations

import re
from typing import Literal

Side = Literal["grad_norm", "step_time", "data_time", "memory"]
"""A column beside the loss, as the rest of the reader calls it. Times are in seconds, memory in the log's own unit."""

_NUMBER = rb"[\"']?[\s:=]{1,3}[\"'\[(]{0,2}(?:tensor\()?([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|[-+]?(?:nan|inf)|null)"
_END = rb"(?![\w%/.])"

# No letter before, and no underscore: max_grad_norm is a setting and no measurement.
PATTERNS: dict[Side, re.Pattern[bytes]] = {
    "grad_norm": re.compile(rb"(?<![a-z_])(?:grad(?:ient)?(?:[_ ./]?norm)?|gnorm)" + _NUMBER + _END, re.I),
    "step_time": re.compile(
        rb"(?<![a-z_])(?:(?:step|iter|batch)_time|time_per_(?:step|iter)|sec(?:onds)?_per_(?:step|iter)|seconds)"
        + _NUMBER
        + _END
        + rb"|\s([\d.]+) s \d+ MB",  # bottega's own train.log
        re.I,
    ),
    "data_time": re.compile(
        rb"(?<![a-z_])(?:(?:data|loader|dataloader)_time|data_(?:seconds|wait|load\w{0,8}))" + _NUMBER + _END, re.I
    ),
    "memory": re.compile(rb"(?<![a-z_])(?:rss_mb|memory|mem)" + _NUMBER + _END + rb"|\s(\d+) MB\b", re.I),
}

_NAMES: dict[Side, re.Pattern[str]] = {
    "grad_norm": re.compile(r"grad(?:ient)?[_ .]?norm|gnorm|grad_l2"),
    "step_time": re.compile(r"(?:step|iter|batch)_time|time_per_(?:step|iter)|sec(?:onds)?_per_(?:step|iter)|seconds"),
    "data_time": re.compile(r"(?:data|loader|dataloader)_time|data_(?:seconds|wait|load\w{0,8})"),
    "memory": re.compile(r"rss_mb|memory(?:_mb)?|(?:gpu|cuda|host|cpu|vram)_?mem\w{0,12}|(?:max_)?memory_allocated"),
}


def side_of(name: str) -> Side | None:
    """Which column a name stands for; without its group, such as `train/`, and in lower case."""
    for side, pattern in _NAMES.items():
        if pattern.fullmatch(name):
            return side
    return None
