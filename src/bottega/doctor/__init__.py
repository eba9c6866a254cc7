"""What is wrong, and what to do first: a training run, from the log of any trainer.

`logs` reads a log and judges nothing; `curve` judges a loss curve and reads nothing; `verdict.examine` joins them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bottega.doctor.verdict import Verdict, examine

__all__ = ["Verdict", "examine"]


def __getattr__(name: str) -> object:
    """Import `verdict` when it is first asked for: numpy is not loaded for `--help`."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bottega.doctor import verdict

    return getattr(verdict, name)
