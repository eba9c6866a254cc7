"""The front door: light, one line an error, the right exit code."""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bottega import __version__
from bottega.cli.main import HIDDEN, VERBS, explain, main
from bottega.runtime.errors import Interrupted, RecipeError, StorageError

LIBRARIES = {"torch", "diffusers", "transformers", "cv2", "pyarrow", "matplotlib"}
HEAVY = {*LIBRARIES, "typer", "pydantic", "numpy", "PIL", "rich"}


def _loaded_by(code: str) -> set[str]:
    program = f"import sys\n{code}\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stderr.split()}


def test_help_needs_none_of_the_heavy_libraries() -> None:
    assert _loaded_by("from bottega.cli.main import main; main(['--help'])").isdisjoint(HEAVY)


def test_reading_a_recipe_needs_no_torch() -> None:
    assert _loaded_by("import bottega.cli.run, bottega.cli.stage, bottega.pipeline").isdisjoint(LIBRARIES)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verbs_help_needs_no_torch(verb: str, capfd: pytest.CaptureFixture[str]) -> None:
    loaded = _loaded_by(f"from bottega.cli.main import main; assert main(['{verb}', '--help']) == 0")
    assert loaded.isdisjoint({"torch", "diffusers", "transformers"})


@pytest.mark.parametrize("module", [module for module, _ in VERBS.values()] + list(HIDDEN.values()))
def test_every_verb_has_its_module(module: str) -> None:
    assert importlib.util.find_spec(module) is not None


def test_help_lists_every_verb_and_no_hidden_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = re.findall(r"^  (\w+) ", capsys.readouterr().out, flags=re.MULTILINE)
    assert listed == list(VERBS)


def test_no_words_at_all_are_answered_with_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("Usage: bottega")


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"bottega {__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evalute"], "unknown verb 'evalute'; did you mean 'evaluate'?"),
        (["zzz"], "unknown verb 'zzz'; verbs: run, data, "),
        (["--frobnicate"], "unknown option '--frobnicate'; verbs: "),
        (["run"], "see bottega run --help"),
        (["run", "x.yaml", "--frobnicate"], "No such option: --frobnicate; see bottega run --help"),
        (["run", "x.yaml", "--limit", "0"], "see bottega run --help"),
        (["train", "ldm", "--num_epochs", "3"], "No such option: --num-epochs; see bottega train ldm --help"),
        (["run", "absent.yaml"], "no such recipe: absent.yaml"),
        (["run", "x.yaml", "--seeds", "a"], "--seeds wants numbers, received 'a'"),
        (["stage", "nothing", "absent"], "no such recipe: absent/recipe.yaml"),
    ],
)
def test_wrong_requests_are_one_line_and_exit_with_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("bottega: error: ")
    assert err.count("\n") == 1
    assert message in err


def test_debug_shows_the_traceback_wherever_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "absent.yaml", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err
    assert main(["--debug", "run", "absent.yaml"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_underscores_in_option_names_are_dashes_and_values_are_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "absent_one.yaml", "--dry_run", "--set=teacher.ip_adapter_scale=1"]) == 2
    assert "no such recipe: absent_one.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "message", "code"),
    [
        (RecipeError("two\n  lines"), "two lines", 2),
        (StorageError("full"), "full", 1),
        (Interrupted(15), "stopped by SIGTERM; run the same command again to continue", 143),
        (KeyboardInterrupt(), "stopped; run the same command again to continue", 130),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "cannot write a/b: the disk is full: ", 1),
        (OSError(errno.EROFS, "Read-only file system", "a/b"), "cannot write a/b: the file system is read-only: ", 1),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), "cannot write a/b: permission denied: ", 1),
        (RuntimeError("No space left on device (os error 28)"), "the disk is full: ", 1),
        (MemoryError(), "out of memory: ", 1),
        (KeyError("x"), "unexpected KeyError: 'x'; run it again with --debug for the traceback", 1),
        (BrokenPipeError(), "", 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_error_becomes_a_message_and_an_exit_code(error: BaseException, message: str, code: int) -> None:
    assert explain(error)[0].startswith(message)
    assert explain(error)[1] == code


def test_a_ctrl_c_that_nobody_waits_for_is_answered_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def press_ctrl_c(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(30)  # where torch's threads run, the kernel may hand the signal to one of them: it takes a moment

    monkeypatch.setattr("bottega.ldm.recipe.load_recipe", press_ctrl_c)
    # A shell that starts the tests in the background lets them ignore SIGINT, and Python keeps that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main(["train", "ldm", "--config", "any.yaml"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "bottega: error: stopped; run the same command again to continue\n"


def test_the_module_runs_as_the_command_does() -> None:
    done = subprocess.run([sys.executable, "-m", "bottega", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"bottega {__version__}\n"
