"""How warnings are shown: one line each. The command line sets that up, and worker processes take it over."""

from __future__ import annotations

import logging

from bottega.runtime.escape import one_line

_FORMAT = "bottega: %(levelname)s: %(message)s"
_CHATTY = ("matplotlib", "PIL", "urllib3", "asyncio", "filelock")


class _PlainFormatter(logging.Formatter):
    """A message on one line that steers no terminal; the lines of a traceback follow it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the library's name)
        """The line of a record."""
        record.message = one_line(record.message)
        return super().formatMessage(record)


def set_up_logging(level: int) -> None:
    """Show what is logged from this level on, a line each; what libraries warn of their own code only with DEBUG.

    Args:
        level: `logging.WARNING` or `logging.DEBUG`.
    """
    logging.basicConfig(level=level)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_PlainFormatter(_FORMAT))
    for named in (logging.WARNING, logging.ERROR):
        logging.addLevelName(named, logging.getLevelName(named).lower())
    if level == logging.DEBUG:
        for chatty in _CHATTY:
            logging.getLogger(chatty).setLevel(logging.INFO)
    else:
        logging.captureWarnings(True)
        logging.getLogger("py.warnings").setLevel(logging.ERROR)


def level_set_up() -> int | None:
    """The level that `set_up_logging` was called with in this process; None where it was not."""
    root = logging.getLogger()
    for handler in root.handlers:
        if isinstance(handler.formatter, _PlainFormatter):
            return root.level
    return None
