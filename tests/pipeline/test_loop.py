"""The loop's first stages with real processes: skipping, continuing, refusing, stopping, leaving a clean directory."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
FIRST = ["world", "data", "pairs"]


def _states(bottega: Run, recipe: Path, *more: str) -> dict[str, str]:
    done = bottega("run", str(recipe), "--dry-run", "--json", *more)
    assert done.returncode == 0, done.stderr
    states: dict[str, str] = json.loads(done.stdout)["stages"]
    return {name: state for name, state in states.items() if name in FIRST}


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): _content(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def _content(path: Path) -> bytes:
    """A file's bytes; of a database its rows, for its pages also remember what was rolled back."""
    if path.suffix != ".sqlite":
        return path.read_bytes()
    with closing(sqlite3.connect(path)) as database:
        return "\n".join(sorted(database.iterdump())).encode()


def test_a_run_does_each_stage_once_and_continues_when_enlarged(bottega: Run, recipe: Path) -> None:
    run = recipe.parent / "runs" / "tiny"
    assert _states(bottega, recipe) == dict.fromkeys(FIRST, "to do")
    first = bottega("run", str(recipe), "--until", "pairs", "--json")
    assert first.returncode == 0, first.stderr

    summary = json.loads(first.stdout)
    assert summary == json.loads((run / "summary.json").read_text())
    assert list(summary["stages"]) == FIRST
    for record in summary["stages"].values():
        assert record["seconds"] >= 0
        assert 10 < record["peak_rss_mb"] < 2000
    assert summary["stages"]["pairs"]["summary"]["train"]["pairs"] == 6
    assert _states(bottega, recipe) == dict.fromkeys(FIRST, "done")

    lines = (run / "pairs" / "train.jsonl").read_text().splitlines()
    stamps = {name: (run / name / "stage.json").stat().st_mtime_ns for name in ("data/raw", "data", "pairs")}
    again = bottega("run", str(recipe), "--until", "pairs")
    assert again.returncode == 0, again.stderr
    assert stamps == {name: (run / name / "stage.json").stat().st_mtime_ns for name in stamps}, "nothing is redone"

    more = ["--set", "pairs.train=9"]
    assert _states(bottega, recipe, *more) == {"world": "done", "data": "done", "pairs": "to be continued"}
    larger = bottega("run", str(recipe), "--until", "pairs", *more)
    assert larger.returncode == 0, larger.stderr
    assert (run / "pairs" / "train.jsonl").read_text().splitlines()[:6] == lines

    changed = bottega("run", str(recipe), "--until", "pairs", *more, "--set", "pairs.seed=5")
    assert changed.returncode == 2
    assert "pairs.seed: 0 -> 5" in changed.stderr
    assert "delete runs/tiny/pairs to redo" in changed.stderr
    assert changed.stderr.count("\n") == 1

    assert str(recipe.parent).encode() not in b"".join(_contents(run).values()), "no absolute path in the run directory"
    shutil.rmtree(run / "pairs")
    redone = bottega("run", str(recipe), "--until", "pairs", *more, "--set", "pairs.seed=5")
    assert redone.returncode == 0, redone.stderr


def test_a_run_killed_at_random_moments_ends_as_an_uninterrupted_one(
    bottega: Run, start: Callable[..., subprocess.Popen[str]], recipe: Path
) -> None:
    for moment in (0.8, 1.7, 2.9):
        process = start("run", str(recipe), "--until", "truth", "--directory", "killed")
        time.sleep(moment)
        kill(process)
    for name in ("killed", "whole"):
        done = bottega("run", str(recipe), "--until", "truth", "--directory", name)
        assert done.returncode == 0, done.stderr
    killed, whole = (_results(recipe.parent / name) for name in ("killed", "whole"))
    assert len(whole) > 60
    assert killed == whole


def _results(run: Path) -> dict[str, bytes]:
    """All that a run made but what states times: of the stages, and of the source files that an index has seen."""
    made = {**_contents(run / "data"), **_contents(run / "pairs")}
    return {name: data for name, data in made.items() if Path(name).name not in ("stage.json", "index.sqlite")}


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_run_ends_it_and_its_stage_in_order(
    start: Callable[..., subprocess.Popen[str]], recipe: Path, signum: int, code: int
) -> None:
    recipe.write_text(recipe.read_text().replace("contents: 24", "contents: 3000"))
    process = start("run", str(recipe), "--until", "world")
    drawn = recipe.parent / "runs/tiny/data/raw/coco/images/train2017"
    _wait_for(lambda: drawn.exists() and any(drawn.iterdir()))
    os.kill(process.pid, signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err.splitlines()[-1] == (
        f"bottega: error: stopped by {signal.Signals(signum).name}; run the same command again to continue"
    )
    assert not (recipe.parent / "runs/tiny/data/raw/stage.json").exists()


def test_a_run_that_is_stopped_has_the_page_of_what_is_done(
    start: Callable[..., subprocess.Popen[str]], recipe: Path
) -> None:
    recipe.write_text(recipe.read_text().replace("contents: 24", "contents: 1000"))
    process = start("run", str(recipe), "--until", "data")
    run = recipe.parent / "runs/tiny"
    _wait_for(lambda: (run / "data/settings.json").exists())  # the next stage has begun
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert (run / "data/raw/stage.json").exists()
    assert not (run / "data/stage.json").exists()
    assert re.findall(r'<li class="done" title="[^"]*"><b>(\w+)</b>', (run / "report.html").read_text()) == ["world"]


def test_a_second_run_of_the_same_directory_is_refused_and_names_the_first(
    bottega: Run, start: Callable[..., subprocess.Popen[str]], recipe: Path
) -> None:
    recipe.write_text(recipe.read_text().replace("contents: 24", "contents: 3000"))
    process = start("run", str(recipe), "--until", "world")
    _wait_for(lambda: (recipe.parent / "runs/tiny/data/raw/settings.json").exists())
    second = bottega("run", str(recipe))
    kill(process)
    assert second.returncode == 2
    assert f"process {process.pid} on " in second.stderr
    assert "(run tiny: bottega run " in second.stderr
    assert ") works on runs/tiny; wait for it or stop it" in second.stderr


def test_a_failed_stage_is_told_with_its_name_and_keeps_what_was_done(bottega: Run, recipe: Path) -> None:
    failed = bottega("run", str(recipe), "--until", "pairs", "--set", "pairs.train=100000")
    assert failed.returncode == 2
    assert failed.stderr.splitlines()[-1].startswith("bottega: error: stage pairs: ")
    run = recipe.parent / "runs" / "tiny"
    assert (run / "data" / "stage.json").exists()
    assert (run / "pairs" / "error.json").exists()
    assert not (run / "pairs" / "stage.json").exists()
    mended = bottega("run", str(recipe), "--until", "pairs")
    assert mended.returncode == 0, mended.stderr
    assert not (run / "pairs" / "error.json").exists()


def test_models_that_are_absent_are_told_before_any_work(bottega: Run, recipe: Path) -> None:
    done = bottega("run", str(recipe), "--set", "models.clip=absent/clip")
    assert done.returncode == 2
    assert done.stderr.startswith("bottega: error: models.clip: ")
    assert done.stderr.count("\n") == 1
    assert not (recipe.parent / "runs" / "tiny" / "data").exists()


def test_a_dry_run_says_what_is_missing_and_writes_nothing(bottega: Run, recipe: Path) -> None:
    sets = ["--set", "models.clip=org/absent", "--set", "world=null", "--set", "truth=null"]
    done = bottega("run", str(recipe), "--dry-run", *sets)
    assert done.returncode == 0, done.stderr
    missing = [line for line in done.stdout.splitlines() if line.startswith("# missing: ")]
    for what in ("models.clip", "data.coco.source", "data.wikiart.source", "data.fill50k.source", "GPU"):
        assert any(line.startswith(f"# missing: {what}: ") for line in missing), what
    assert not (recipe.parent / "runs").exists()


def test_a_stage_that_the_recipe_lacks_cannot_be_the_last(bottega: Run, recipe: Path) -> None:
    done = bottega("run", str(recipe), "--until", "world", "--set", "world=null")
    assert done.returncode == 2
    assert "has no such stage; it has data, pairs, " in done.stderr


def kill(process: subprocess.Popen[str]) -> None:
    """`kill -9` of the process alone: what it started must notice by itself."""
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def _wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
