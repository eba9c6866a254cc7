"""What every benchmark shares: its command line, its progress, its result, and that nothing outlives it.

A benchmark states its claim in its docstring, measures itself and a peer in one run, and ends in `conclude`. By default
it ends within five minutes on two slow cores; `--full` asks for the sizes of the claim. Bars on time are ratios to the
peer of the same run, for machines differ and hours do.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

RESULTS = Path(__file__).parents[1] / "results"
LAUNCHER = Path(__file__).with_name("launch.py")
_BEGUN = time.monotonic()


class Arguments(argparse.ArgumentParser):
    """The command line of a benchmark: --full, --json, --save, and sizes that depend on --full."""

    def __init__(self, description: str | None) -> None:
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        self.add_argument("--full", action="store_true", help="the sizes of the claim; the default takes minutes")
        self.add_argument("--json", action="store_true", help="print the result as JSON")
        self.add_argument("--save", action="store_true", help="also write it to benchmarks/results/, with its date")
        self._sizes: dict[str, tuple[Any, Any]] = {}

    def add_size(self, option: str, *, short: Any, full: Any, help: str = "") -> None:
        """An option whose default is `short`, and `full` under --full."""
        text = f"{help}  [default: {short}; with --full {full}]".strip()
        self.add_argument(option, type=type(full), help=text)
        self._sizes[option.strip("-").replace("-", "_")] = (short, full)

    def parse(self) -> argparse.Namespace:
        """Read the command line; from here on SIGTERM ends the benchmark as Ctrl-C does, with its folders removed."""
        asked = self.parse_args()
        for name, (short, full) in self._sizes.items():
            if getattr(asked, name) is None:
                setattr(asked, name, full if asked.full else short)
        signal.signal(signal.SIGTERM, _stopped)
        return asked


def _stopped(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


def say(text: str) -> None:
    """A line of progress on stderr, with the seconds since the start."""
    print(f"[{time.monotonic() - _BEGUN:5.0f} s] {text}", file=sys.stderr, flush=True)


def conclude(asked: argparse.Namespace, result: Mapping[str, Any], lines: Iterable[str]) -> int:
    """Print the result, save it if asked, and return the exit code.

    Args:
        asked: the command line.
        result: plain data with `held`: whether the claim holds; None where this form is too short to say.
        lines: the same for people.

    Returns:
        1 where the claim does not hold, else 0.
    """
    kept = {"form": "full" if asked.full else "short", **result, "minutes": round((time.monotonic() - _BEGUN) / 60, 1)}
    text = json.dumps(kept, indent=2)
    if asked.save:
        name = Path(sys.argv[0]).stem
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{datetime.date.today()}-{name}.json").write_text(text + "\n", encoding="utf-8")
    if asked.json:
        print(text)
    else:
        print("\n".join(lines))
        print({True: "held", False: "MISSED", None: "too short to say: --full does"}[result["held"]])
    return 1 if result["held"] is False else 0


def verdict(held: bool | None) -> str:
    """One bar's outcome, for a line."""
    return "MISSED" if held is False else "held" if held else "too short to say"


# --- children -------------------------------------------------------------------------------------------------------


def die_with_parent() -> None:
    """Be killed when the process that started this one ends, however it ends. On Linux; elsewhere nothing is done.

    A benchmark that is killed by SIGKILL cannot end its children, and a training left behind takes the cores of
    whatever is measured next.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    set_parent_death_signal = 1
    ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended between the two calls, and its signal with it
        os.kill(os.getpid(), signal.SIGKILL)


def mortal(words: Sequence[str]) -> list[str]:
    """A command that ends with this process: a small program asks for that and becomes the command, under its id."""
    return [sys.executable, "-S", str(LAUNCHER), str(os.getpid()), *words]


def run(words: Sequence[str], **options: Any) -> subprocess.CompletedProcess[Any]:
    """`subprocess.run` of a command that ends with this process."""
    return subprocess.run(mortal(words), **{"check": False, **options})


def start(words: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """`subprocess.Popen` of a command that ends with this process."""
    return subprocess.Popen(mortal(words), **options)


def bottega(*words: str, **options: Any) -> None:
    """A bottega command, quietly. SystemExit with its last words where it fails."""
    done = run([sys.executable, "-m", "bottega", *words], capture_output=True, text=True, **options)
    if done.returncode:
        raise SystemExit(f"bottega {' '.join(words)} failed with exit code {done.returncode}:\n{done.stderr[-2000:]}")


def in_own_process(script: str, *words: str, **options: Any) -> Any:
    """The JSON that this script prints last for these words, in a process of its own; its stderr is shown."""
    done = run([sys.executable, script, *words], stdout=subprocess.PIPE, text=True, **options)
    if done.returncode:
        raise SystemExit(f"{Path(script).name} {' '.join(words)} ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def cpu_seconds(work: Callable[[], object]) -> float:
    """Seconds of the processor that a call takes: other work on the machine hardly moves them."""
    begun = time.process_time()
    work()
    return time.process_time() - begun
