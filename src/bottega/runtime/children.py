"""Child processes that never outlive their parent: stages, which hand back their error as one sentence, and pools.

Parent and stage share a socket. Through the child's end the parent learns what went wrong; the parent's end closes when
the parent dies, however it dies, and the child then kills itself and its own workers. So `kill -9` of the parent stops
all: without that, a teacher would keep painting on a GPU that the next run finds taken. The workers of a pool, and
processes that another launcher started, watch their parent themselves: see `die_with_parent`.
"""

from __future__ import annotations

import ctypes
import json
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from bottega.runtime.errors import BottegaError, Interrupted, RequestError, StartAfresh, WorkError
from bottega.runtime.interrupt import Interruption

LOGGER = logging.getLogger(__name__)
PARENT = "--parent"
"""The option by which a child learns the number of its end of the socket."""

_STDERR = 2
_PR_SET_PDEATHSIG = 1  # of Linux's <sys/prctl.h>
_WATCH_EVERY_S = 0.5
_LONGEST_MESSAGE = 4000  # characters: it must fit into the socket's buffer, for nobody reads before the child has ended


def as_argument(path: Path) -> str:
    """A path as a command's argument: one that begins with a dash is no option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def run_child(arguments: Sequence[str], what: str) -> None:
    """Run `bottega ARGUMENTS --parent N` as a child process and wait for it.

    SIGINT and SIGTERM are passed on; the child finishes the item in hand, and this raises `Interrupted`.

    Args:
        arguments: those after `bottega`.
        what: what to call the child in a message, for instance `stage teacher`.

    Raises:
        RequestError, StartAfresh, WorkError: the child's own error, by its exit code 2, 75 or any other.
        Interrupted: if this process was asked to stop.
    """
    run_children([arguments], what)


def run_children(commands: Sequence[Sequence[str]], what: str) -> None:
    """Run several children side by side, each as `run_child`, and wait for all, also where one of them fails.

    Args:
        commands: the arguments of each.
        what: what to call each child in a message.

    Raises:
        As `run_child`; of several errors the first in the order of the commands.
    """
    children: list[_Child] = []
    with ExitStack() as opened:
        try:
            for arguments in commands:
                children.append(_start(arguments, opened))
            with Interruption(notify=lambda signum: _pass_on_to_all(children, signum), quiet=True):
                for child in children:
                    child.process.wait()
        finally:
            for child in children:
                _end(child.process)
        for child in children:
            if child.process.returncode != 0:
                raise _failure(child.process.returncode, _receive(child.line), what)


@dataclass(frozen=True)
class _Child:
    """A child process, and our end of the socket that it shares with us."""

    process: subprocess.Popen[bytes]
    line: socket.socket


def _start(arguments: Sequence[str], opened: ExitStack) -> _Child:
    """Start a child; our end of its socket is open until `opened` is closed."""
    ours, theirs = socket.socketpair()
    opened.enter_context(ours)
    debug = ["--debug"] if LOGGER.isEnabledFor(logging.DEBUG) else []
    with theirs:  # closed once it is inherited: our own copy would keep it open, and a dead child would look alive
        process = subprocess.Popen(
            [sys.executable, "-m", "bottega", *debug, *arguments, PARENT, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            # A child that reads the terminal in the background would be stopped by the kernel (SIGTTIN).
            stdin=subprocess.DEVNULL,
            # stdout is the parent's own, for `--json`: what a child prints there goes to stderr.
            stdout=_STDERR,
            # A group of its own: Ctrl-C in a terminal reaches the child once, through us, not twice, which would stop
            # it at once; and its workers can be killed with it.
            process_group=0,
        )
    return _Child(process, ours)


def restart_command() -> NoReturn:
    """Replace this process by a fresh one of the same command: the same process id, so whoever waits for it still does.

    Give up every lock before: the new program takes them again.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, sys.orig_argv)


@contextmanager
def attached(parent: int | None, explain: Callable[[BaseException], tuple[str, int]]) -> Iterator[None]:
    """The child's side: die with the parent, and send an error of the body to it instead of printing it.

    Args:
        parent: number of the inherited socket; None if a person started this process: then nothing is changed.
        explain: gives the message and the exit code of an error.
    """
    if parent is None:
        yield
        return
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # A shell starts background jobs so, and the child inherits it; but what the parent passes on must be heard.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    line = socket.socket(fileno=parent)
    line.set_inheritable(False)  # a worker of ours that held it would keep the parent from seeing our end
    threading.Thread(target=_die_with_parent, args=(line,), daemon=True, name="parent watch").start()
    try:
        yield
    except SystemExit:
        raise
    except BaseException as error:
        message, code = explain(error)
        LOGGER.debug("%s", message, exc_info=True)
        line.sendall(json.dumps(message[:_LONGEST_MESSAGE]).encode())
        sys.exit(code)


def worker_pool(workers: int, begin: Callable[[], None] | None = None, *, forked: bool = False) -> ProcessPoolExecutor:
    """A pool of worker processes none of which outlives this process, however that ends.

    Args:
        workers: how many, at least 1.
        begin: called first in each worker; a function of a module.
        forked: on Linux begin them by a fork, which takes no time, and elsewhere by the platform's own way; for work
            that neither this process's threads of torch or OpenCV nor the worker's own could meet.
    """
    context = multiprocessing.get_context(_start_method(forked))
    return ProcessPoolExecutor(workers, context, _begin_worker, (begin,))


def _start_method(forked: bool) -> str | None:
    if not forked:
        return "spawn"
    return "fork" if sys.platform == "linux" else None  # since Python 3.14 Linux's own way is another


def die_with_parent(*, at_once: bool = False) -> None:
    """From now on this process is killed when the one that started it ends, however that ends.

    Args:
        at_once: ask the kernel too, on Linux, so that it happens also within a long call of a library. Only for a
            process whose parent keeps the thread that started it: the kernel takes that thread for the parent.
    """
    parent = os.getppid()
    known = multiprocessing.parent_process()
    if known is not None and known.pid != parent:  # it ended before this process came so far
        os.kill(os.getpid(), signal.SIGKILL)
    if at_once and sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    threading.Thread(target=_watch, args=(parent,), daemon=True, name="parent watch").start()


def _begin_worker(begin: Callable[[], None] | None) -> None:
    die_with_parent(at_once=True)
    if begin is not None:
        begin()


def _watch(parent: int) -> None:
    """Kill this process once it has another parent: whoever inherits orphans."""
    while os.getppid() == parent:
        time.sleep(_WATCH_EVERY_S)
    os.kill(os.getpid(), signal.SIGKILL)


def _die_with_parent(line: socket.socket) -> None:
    try:
        line.recv(1)  # the parent never sends: this returns when its end is closed
    finally:
        kill = os.killpg if os.getpgrp() == os.getpid() else os.kill
        kill(os.getpid(), signal.SIGKILL)


def _pass_on(child: subprocess.Popen[bytes], signum: int) -> None:
    if child.poll() is None:
        child.send_signal(signum)


def _pass_on_to_all(children: Sequence[_Child], signum: int) -> None:
    for child in children:
        _pass_on(child.process, signum)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Leave nothing of the child running, whatever ended the wait."""
    if child.returncode is None or child.returncode < 0:  # it still runs, or was killed and could not end its workers
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it and its workers are gone already
    child.wait()


def _receive(ours: socket.socket) -> str | None:
    ours.setblocking(False)  # the child is dead: what it sent is here, or never comes
    try:
        return str(json.loads(ours.recv(65536)))
    except (BlockingIOError, ConnectionError, ValueError):
        return None  # the child died without a message


def _failure(code: int, message: str | None, what: str) -> BottegaError:
    if code - 128 in (signal.SIGINT, signal.SIGTERM):
        return Interrupted(code - 128)
    if code < 0:
        name = signal.Signals(-code).name
        cause = "from outside or by a fault"
        if name == "SIGKILL":
            cause = "most likely for want of memory; free some"
        return WorkError(f"{what} was ended by {name}, {cause}; run the same command again to continue")
    text = message or "it ended without saying why; run it again with --debug"
    if code == StartAfresh.exit_code:
        return StartAfresh(text)
    kind = RequestError if code == RequestError.exit_code else WorkError
    return kind(f"{what}: {text}")
