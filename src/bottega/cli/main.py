"""The command line's front door: finds the verb, and turns every error into one line and an exit code.

A verb's module is imported only when it is called, so that `bottega --help` needs neither torch nor typer. It exposes
`app` (a typer application, where the verb has sub-verbs) or `command` (one function).

Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 130 and 143 stopped by Ctrl-C and SIGTERM.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from typing import Any, TextIO, cast

from bottega.runtime.errors import BottegaError, RequestError
from bottega.runtime.escape import LONGEST_LINE, PlainStream, one_line, shown
from bottega.runtime.logs import set_up_logging

VERBS: dict[str, tuple[str, str]] = {
    "run": ("bottega.cli.run", "run the closed loop of a recipe: data to report, resumable"),
    "data": ("bottega.cli.data", "prepare contents, styles, Fill50K and pairs"),
    "teach": ("bottega.cli.teach", "make the teacher's graded targets for a list of pairs"),
    "qc": ("bottega.cli.qc", "measure, grade, regrade and calibrate pictures"),
    "features": ("bottega.cli.features", "compute latents, text and CLIP tokens once"),
    "train": ("bottega.cli.train", "train a StyleAdapter, or a latent diffusion model from scratch"),
    "stylize": ("bottega.cli.stylize", "draw contents in the style of a picture with an adapter"),
    "generate": ("bottega.cli.generate", "draw prompts with a model that `bottega train ldm` made"),
    "evaluate": ("bottega.cli.evaluate", "measure an adapter on held-out contents and styles"),
    "ablate": ("bottega.cli.ablate", "train variants of a recipe together, and compare them on the same pairs"),
    "plan": ("bottega.cli.plan", "forecast memory, disk and work of a recipe without running it"),
    "rehearse": ("bottega.cli.rehearse", "the whole loop of a recipe on a few pictures, measured stage by stage"),
    "doctor": ("bottega.cli.doctor", "what is wrong: machine, cache, model, picture, run, training; what to do first"),
    "report": ("bottega.cli.report", "build the page of a run directory"),
    "miniature": ("bottega.cli.miniature", "the drawn world and its models"),
    "lora": ("bottega.cli.lora", "what a LoRA file is, and whether it fits a model"),
    "models": ("bottega.cli.models", "which models are on this machine; fetch and verify the others"),
}
HIDDEN: dict[str, str] = {"stage": "bottega.cli.stage", "command": "bottega.cli.command"}
"""Verbs that bottega calls itself."""

_CTRL_C = 130
_DISK_FULL = ("no space left on device", "disk is full", "os error 28")
"""How libraries that do not raise OSError say it: SQLite, Arrow, safetensors."""


def entry() -> None:
    """The console script `bottega`: a process of its own, so its streams and logging are set up here."""
    from bottega.runtime.streams import finish_output, prepare_streams

    prepare_streams()
    debug = _without_debug(sys.argv[1:])[1]
    set_up_logging(logging.DEBUG if debug else logging.WARNING)
    code: int | str | None
    try:
        code = main(sys.argv[1:])
    except SystemExit as ended:
        code = ended.code
    try:
        finish_output()
    except (OSError, BottegaError) as error:
        message, failed = explain(error)
        if message and not code:
            print(f"bottega: error: {message}", file=sys.stderr, flush=True)
        code = code or failed
    sys.exit(code)


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: of the command line, after `bottega`.
    """
    rest, debug = _without_debug(list(arguments))
    try:
        with _plain_output(rest):
            return run_verb(rest)
    except BaseException as error:  # the one place where an error becomes a message
        if isinstance(error, SystemExit):
            raise
        if debug:
            import traceback

            traceback.print_exc()
        message, code = explain(error)
        if message:
            print(f"bottega: error: {message}", file=sys.stderr, flush=True)
        return code


def _plain_output(arguments: list[str]) -> AbstractContextManager[object]:
    """What a command prints may hold text from any file: nothing in it steers the terminal."""
    if "--help" in arguments:  # our own text, which typer may draw in colour
        return nullcontext()
    longest = None if "--json" in arguments else LONGEST_LINE
    return redirect_stdout(cast(TextIO, PlainStream(sys.stdout, longest)))


def explain(error: BaseException) -> tuple[str, int]:
    """The one-line message and the exit code of an error; the message is empty where there is nothing to say."""
    if isinstance(error, BottegaError):
        return one_line(str(error)), error.exit_code
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort":  # typer's name for a Ctrl-C
        return "stopped; run the same command again to continue", _CTRL_C
    if isinstance(error, BrokenPipeError):
        return "", 1  # whoever read our output, such as `head`, has had enough
    if isinstance(error, UnicodeEncodeError):
        return _explain_surrogate(error), RequestError.exit_code
    return one_line(_explain_foreign(error)), 1


def _explain_surrogate(error: UnicodeEncodeError) -> str:
    """A text that no file can hold: a caption with half of a pair, or a name of a file that is not UTF-8."""
    around = error.object[max(0, error.start - 40) : error.end + 40]
    return (
        f"a text, or a file's name within one, must have a form in UTF-8, received {shown(around)}, where character "
        f"{error.start} has none; correct the caption, or rename the file"
    )


def _explain_foreign(error: BaseException) -> str:
    """An error of the system or of a library, in one line with what to do."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError):
        from bottega.runtime.files import is_storage_error, storage_error

        return str(storage_error(error)) if is_storage_error(error) else text
    if any(sign in text.lower() for sign in _DISK_FULL):
        return "the disk is full: free some space and run the same command again"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return f"out of memory: make the batch or the pictures smaller ({text or 'no details'})"
    return f"unexpected {type(error).__name__}: {text or 'no message'}; run it again with --debug for the traceback"


def run_verb(arguments: list[str]) -> int:
    """Run one command and return its exit code; its errors are raised."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if arguments[0] == "--version":
        from bottega import __version__

        print(f"bottega {__version__}")
        return 0
    verb, *rest = arguments
    module = VERBS[verb][0] if verb in VERBS else HIDDEN.get(verb)
    if module is None:
        raise _unknown(verb)
    options = [_with_dashes(argument) for argument in _before_double_dash(rest)]
    return _call(module, verb, options + _after_double_dash(rest))


def _call(module: str, verb: str, arguments: list[str]) -> int:
    import importlib

    import typer

    loaded = importlib.import_module(module)
    command = typer.main.get_command(_application(loaded))
    try:
        code = command.main(arguments, prog_name=f"bottega {verb}", standalone_mode=False)
    except typer.TyperException as error:
        message: Callable[[], str] = getattr(error, "format_message", error.__str__)
        text = message().rstrip(".").strip()
        where = getattr(getattr(error, "ctx", None), "command_path", "")
        raise RequestError(f"{text or 'no command given'}; see {where or f'bottega {verb}'} --help") from error
    if code == _CTRL_C:  # typer's own answer to a Ctrl-C that nobody waited for, without a word
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


def _application(loaded: Any) -> Any:
    """The typer application of a verb's module: its own `app`, or one made around its `command`."""
    import typer

    app = getattr(loaded, "app", None)
    if app is None:
        app = typer.Typer()
        app.command()(loaded.command)
    app._add_completion = False
    return app


def _help() -> str:
    width = max(map(len, VERBS))
    lines = "\n".join(f"  {verb:<{width}}  {help_line}" for verb, (_, help_line) in VERBS.items())
    return (
        "Usage: bottega [--debug] [--version] VERB …\n\n"
        "Distil a style-transfer teacher into a small adapter, with a judgement on every step.\n\n"
        f"{lines}\n\n"
        "bottega VERB --help says more. First run: bottega run recipes/miniature.yaml"
    )


def _unknown(verb: str) -> BottegaError:
    import difflib

    near = difflib.get_close_matches(verb, VERBS, n=1)
    cure = f"did you mean {near[0]!r}?" if near else f"verbs: {', '.join(VERBS)}"
    return RequestError(f"unknown {'option' if verb.startswith('-') else 'verb'} {verb!r}; {cure}")


def _without_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """`--debug` is accepted anywhere before a bare `--`."""
    before = _before_double_dash(arguments)
    kept = [argument for argument in before if argument != "--debug"]
    return kept + _after_double_dash(arguments), len(kept) < len(before)


def _before_double_dash(arguments: list[str]) -> list[str]:
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def _after_double_dash(arguments: list[str]) -> list[str]:
    return arguments[arguments.index("--") :] if "--" in arguments else []


def _with_dashes(argument: str) -> str:
    """`--num_pairs=10` is `--num-pairs=10`; the value stays as it is."""
    if not argument.startswith("--"):
        return argument
    name, sign, value = argument.partition("=")
    return name.replace("_", "-") + sign + value
