"""One input as people have it: how to build it, the documented command that reads it, and what must come of it.

The builders stand beside this file, by what they build: data sets, models, logs. Tests and the benchmark walk the
same cases with `run_case`, which also proves that nothing outside the case's own folders was written.

In a case's words `{input}` is the folder that `build` filled and `{output}` a folder that isn't there yet.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bottega.cli.main import main

Build = Callable[[Path], None]
Check = Callable[[Path, Path], None]
"""(input, output) -> None; fails by an assertion."""

NEVER = ("unexpected ", "Traceback (most recent call last)")
"""What no input may lead to, whatever it holds."""


@dataclass(frozen=True)
class Expectation:
    """What must come of a case, beside its exit status.

    Attributes:
        says: texts that standard output or standard error must have.
        never: texts that neither may have.
        values: of the last JSON object on standard output, by dotted key: `styles.pictures`.
        writes: names directly below `{input}` that the command may change.
        check: anything else, given `{input}` and `{output}`.
    """

    says: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    values: Mapping[str, object] = field(default_factory=dict)
    writes: tuple[str, ...] = ()
    check: Check | None = None


@dataclass(frozen=True)
class FieldCase:
    """One input, one command, one right end.

    Attributes:
        name: unique among all cases, in small letters and `_`.
        build: fills an empty folder; nothing outside of it.
        command: the words after `bottega`.
        status: the exit status that is right: 0, 1 or 2.
        expectation: what else must hold.
        mend: does by hand what the message of a refused case advises; the command is then run again.
        then: the command that the message of a refused case advises, where it is another one. After `mend`, or by
            itself, it must end with 0.
    """

    name: str
    build: Build
    command: tuple[str, ...]
    status: int = 0
    expectation: Expectation = Expectation()
    mend: Build | None = None
    then: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a command did.

    Attributes:
        status: its exit status.
        output: standard output.
        errors: standard error, warnings of the log among it.
    """

    status: int
    output: str
    errors: str

    @property
    def text(self) -> str:
        """All that was said."""
        return f"{self.output}\n{self.errors}"


def run_case(case: FieldCase, root: Path) -> list[str]:
    """Build a case below `root`, run its command in this process, follow the advice of a refusal.

    Args:
        case: the case.
        root: an empty folder, made if it isn't there.

    Returns:
        What was wrong; empty for a case that ended as it must.
    """
    given, made = root / "input", root / "output"
    given.mkdir(parents=True)
    case.build(given)
    canary = _plant_canary(root)
    before = _snapshot(given, case.expectation.writes)
    outcome = run_command(_fill_in(case.command, given, made))
    faults = judge(case, outcome, given, made)
    faults += _differences("the input", before, _snapshot(given, case.expectation.writes))
    faults += _differences("a neighbour", canary, _snapshot(root, ("input", "output")))
    if not faults and (case.mend is not None or case.then):
        faults += _follow_advice(case, given, made)
    return faults


def run_command(words: list[str]) -> Outcome:
    """Run `bottega` with these words in this process, as the console script does."""
    output, errors = io.StringIO(), io.StringIO()
    log = logging.StreamHandler(errors)
    logging.getLogger().addHandler(log)
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            status = main(words)
    finally:
        logging.getLogger().removeHandler(log)
    return Outcome(status, output.getvalue(), errors.getvalue())


def judge(case: FieldCase, outcome: Outcome, given: Path, made: Path) -> list[str]:
    """What of an outcome is not as the case wants it."""
    expectation = case.expectation
    faults = []
    if outcome.status != case.status:
        faults.append(f"exit status {outcome.status} instead of {case.status}: {outcome.text.strip()}")
    for text in expectation.says:
        if text not in outcome.text:
            faults.append(f"did not say {text!r}: {outcome.text.strip()}")
    for text in (*NEVER, *expectation.never):
        if text in outcome.text:
            faults.append(f"said {text!r}: {outcome.text.strip()}")
    faults += _wrong_values(expectation.values, outcome.output)
    if expectation.check is not None and not faults:
        try:
            expectation.check(given, made)
        except AssertionError as error:
            faults.append(f"{expectation.check.__name__}: {error}")
    return faults


def _follow_advice(case: FieldCase, given: Path, made: Path) -> list[str]:
    if case.mend is not None:
        case.mend(given)
    words = _fill_in(case.then or case.command, given, made)
    outcome = run_command(words)
    if outcome.status != 0:
        return [f"the advice was followed, and {' '.join(words)} ended with {outcome.status}: {outcome.text.strip()}"]
    return []


def _fill_in(words: tuple[str, ...], given: Path, made: Path) -> list[str]:
    return [word.replace("{input}", str(given)).replace("{output}", str(made)) for word in words]


def _wrong_values(wanted: Mapping[str, object], output: str) -> list[str]:
    if not wanted:
        return []
    try:
        document = json.loads(output[output.index("{") :])
    except ValueError:
        return [f"printed no JSON object: {output.strip()}"]
    faults = []
    for key, value in wanted.items():
        found: Any = document
        for part in key.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if found != value:
            faults.append(f"{key} is {found!r} instead of {value!r}")
    return faults


def _plant_canary(root: Path) -> dict[str, str]:
    """Files around the case's own folders; returns what must stay as it is."""
    for name in ("secret.png", "secret.txt", "nested/secret.jsonl", ".hidden/secret.json"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"canary of {name}", encoding="utf-8")
    return _snapshot(root, ("input", "output"))


def _snapshot(folder: Path, without: tuple[str, ...]) -> dict[str, str]:
    """Every file below a folder by its hash, a link by where it leads; some names at the top left out."""
    found = {}
    for path in _walk(folder):
        name = path.relative_to(folder)
        if name.parts[0] in without:
            continue
        if path.is_symlink():
            found[str(name)] = f"link to {os.readlink(path)}"
        elif path.is_file():
            found[str(name)] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[str(name)] = "no regular file"
    return found


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        for name in (*files, *folders):
            yield Path(parent, name)


def _differences(what: str, before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    return [f"{what} was changed: {', '.join(changed)}"] if changed else []
