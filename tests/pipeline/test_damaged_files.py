"""A file that a later stage reads is what was written: found, named, made again by the same command, or refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bottega.cli.common import FUNCTIONS, read_recipe
from bottega.pipeline import BY_NAME, ModelWeights, Pipeline
from bottega.runtime.children import run_child
from bottega.runtime.errors import FingerprintError
from bottega.runtime.files import read_json, write_json
from bottega.runtime.fingerprint import fingerprint

from .conftest import RECIPE

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run up to its pairs, made as people make it."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "tiny.yaml").write_text(RECIPE)
    command = [sys.executable, "-m", "bottega", "run", "tiny.yaml", "--until", "pairs"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=900)
    return folder


def test_the_page_of_a_run_is_that_of_its_last_stage(prepared: Path) -> None:
    run = prepared / "runs" / "tiny"
    page = (run / "report.html").read_text()
    assert (run / "report.html").stat().st_mtime_ns > (run / "pairs" / "stage.json").stat().st_mtime_ns
    done = re.findall(r'<li class="done" title="[^"]*"><b>(\w+)</b>', page)
    assert done == ["world", "data", "pairs"]


def test_a_page_that_is_older_than_a_stage_is_built_again_by_the_same_command(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    run = tmp_path / "runs" / "tiny"
    made = (run / "report.html").stat().st_mtime_ns
    os.utime(run / "pairs" / "stage.json", ns=(made + 1, made + 1))  # as after a kill between the stage and its page
    command = [sys.executable, "-m", "bottega", "run", "tiny.yaml", "--until", "pairs"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=900)
    again = (run / "report.html").stat().st_mtime_ns
    assert again > made
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=900)
    assert (run / "report.html").stat().st_mtime_ns == again


@pytest.mark.parametrize(("every_s", "pages"), [(0.0, 4), (3600.0, 1)])
def test_between_stages_the_page_is_built_when_it_is_due_and_once_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_s: float, pages: int
) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    asked: list[str] = []

    def counted(arguments: Sequence[str], what: str) -> None:
        asked.append(what)
        run_child(arguments, what)

    monkeypatch.setattr("bottega.pipeline.run_child", counted)
    monkeypatch.setattr("bottega.pipeline._PAGE_EVERY_S", every_s)
    recipe = read_recipe(tmp_path / "tiny.yaml", [])
    Pipeline(recipe, tmp_path / "run", functions=FUNCTIONS, say=lambda line: None).run(until="pairs")
    assert asked.count("report") == pages  # of a page that is always due: before each of three stages, and at the end
    assert asked[-1] == "report"


def results(run: Path) -> dict[str, bytes]:
    """All that later stages read, by name; what was set aside and what states times is left out."""
    left_out = ("stage.json", "index.sqlite", "hashes.jsonl")
    found = {}
    for part in ("data", "pairs"):
        for path in sorted((run / part).rglob("*")):
            if path.is_file() and path.name not in left_out and not path.name.endswith((".damaged", "-wal", "-shm")):
                found[str(path.relative_to(run))] = path.read_bytes()
    return found


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def one_letter_of_a_pair(run: Path) -> Path:
    change(run / "pairs" / "train.jsonl", '"prompt": "', '"prompt": "x')
    return run / "pairs" / "train.jsonl"


def one_lost_content(run: Path) -> Path:
    table = run / "data" / "coco" / "contents.jsonl"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[1:]))
    return table


def one_style_in_another_split(run: Path) -> Path:
    train, test = (run / "data" / "wikiart" / "splits" / f"{name}.txt" for name in ("train", "test"))
    first, *others = train.read_text().splitlines(keepends=True)
    train.write_text("".join(others))
    test.write_text(test.read_text() + first)
    return train


def one_bit_of_a_drawn_content_of_unchanged_size_and_time(run: Path) -> Path:
    picture = sorted((run / "data" / "raw" / "coco" / "images").rglob("*.png"))[0]
    stat = picture.stat()
    data = bytearray(picture.read_bytes())
    data[len(data) // 2] ^= 16
    picture.write_bytes(data)
    os.utime(picture, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return picture


def one_style_picture_in_the_place_of_another(run: Path) -> Path:
    first, second = sorted((run / "data" / "wikiart" / "images").iterdir())[:2]
    shutil.copy(second, first)
    return first


DAMAGES = [
    one_letter_of_a_pair,
    one_lost_content,
    one_style_in_another_split,
    one_style_picture_in_the_place_of_another,
    one_bit_of_a_drawn_content_of_unchanged_size_and_time,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_named_and_made_again_by_the_same_command(
    prepared: Path, tmp_path: Path, bottega: Run, damage: Callable[[Path], Path]
) -> None:
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True, symlinks=True)
    run = tmp_path / "runs" / "tiny"
    whole = results(run)
    damaged = damage(run)
    more = []
    if damage is one_bit_of_a_drawn_content_of_unchanged_size_and_time:
        # By size and time all is done: it is found when a stage is about to read it.
        (run / "pairs" / "stage.json").unlink()
    done = bottega("run", "tiny.yaml", "--until", "pairs", *more)
    assert done.returncode == 0, done.stderr
    assert damaged.name in done.stderr
    assert "made again" in done.stderr
    assert results(run) == whole
    assert damaged.with_name(f"{damaged.name}.damaged").is_file()
    again = bottega("run", "tiny.yaml", "--until", "pairs")
    assert (again.returncode, "made again" in again.stderr) == (0, False)


def test_a_command_of_its_own_refuses_what_is_damaged_and_names_the_cure(
    prepared: Path, tmp_path: Path, bottega: Run
) -> None:
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True, symlinks=True)
    root = tmp_path / "runs" / "tiny" / "data"
    one_lost_content(root.parent)
    words = ["data", "pairs", "--data-root", str(root), "--num-pairs", "4", "--output", "mine.jsonl"]
    done = bottega(*words)
    assert done.returncode == 2, done.stderr
    assert "contents.jsonl has" in done.stderr and "bottega data coco" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "mine.jsonl").exists()


def test_a_run_of_an_earlier_version_opens_and_says_that_it_has_no_hashes(
    prepared: Path, tmp_path: Path, bottega: Run
) -> None:
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True, symlinks=True)
    run = tmp_path / "runs" / "tiny"
    for listed in run.rglob("hashes.jsonl"):
        listed.unlink()
    for name in ("data/raw", "data", "pairs"):
        record = read_json(run / name / "stage.json")
        for later in ("check", "inputs", "outputs"):
            del record[later]
        write_json(run / name / "stage.json", record)
    assert bottega("run", "tiny.yaml", "--until", "pairs").returncode == 0
    (run / "pairs" / "stage.json").unlink()
    done = bottega("run", "tiny.yaml", "--until", "pairs")
    assert done.returncode == 0, done.stderr
    assert "data: no hashes of its files are recorded" in done.stderr


# --- what a stage was done with -----------------------------------------------------------------------------------


@pytest.fixture
def evaluated(tmp_path: Path) -> Callable[..., Pipeline]:
    """A pipeline whose evaluation was done with the tiny recipe and these weights, as its records say."""
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    weights: dict[str, ModelWeights] = {"clip": {"sha256": "c", "files": {}, "configuration": "small"}}
    stage = BY_NAME["evaluation"]

    def pipeline(*sets: str) -> Pipeline:
        return Pipeline(read_recipe(tmp_path / "tiny.yaml", list(sets)), tmp_path / "run", functions=FUNCTIONS)

    bound, free = pipeline().settings(stage, weights)
    write_json(tmp_path / "run" / "evaluation" / "settings.json", bound)
    write_json(tmp_path / "run" / "evaluation" / "stage.json", {"fingerprint": fingerprint(bound), "size": free})
    return pipeline


def state(pipeline: Pipeline, configuration: str | None = "small") -> str:
    weights: dict[str, ModelWeights] = {"clip": {"sha256": "c", "files": {}}}
    if configuration is not None:
        weights["clip"]["configuration"] = configuration
    return pipeline.state(BY_NAME["evaluation"], weights)


def test_without_its_settings_a_stage_is_done_only_with_the_values_that_it_was_done_with(
    evaluated: Callable[..., Pipeline],
) -> None:
    assert state(evaluated()) == "done"
    with pytest.raises(FingerprintError, match=r"evaluation\.draws"):
        state(evaluated("evaluation.draws=300"))
    (evaluated().directory / "evaluation" / "settings.json").unlink()
    with pytest.raises(FingerprintError, match=r"settings\.json is gone, .* other values than these"):
        state(evaluated("evaluation.draws=300"))
    assert state(evaluated()) == "to be continued"  # which writes settings.json again


def test_settings_that_were_damaged_are_written_again_and_never_taken_for_the_stages(
    evaluated: Callable[..., Pipeline],
) -> None:
    settings = evaluated().directory / "evaluation" / "settings.json"
    change(settings, '"evaluation.draws": 200', '"evaluation.draws": 201')
    assert state(evaluated()) == "to be continued"
    settings.write_text("{")
    assert state(evaluated()) == "to be continued"


def test_an_edited_configuration_of_a_model_is_refused_by_name(evaluated: Callable[..., Pipeline]) -> None:
    with pytest.raises(FingerprintError, match=r"models\.clip configuration: small -> edited"):
        state(evaluated(), configuration="edited")


def test_a_stage_of_an_earlier_version_without_configurations_is_done(evaluated: Callable[..., Pipeline]) -> None:
    folder = evaluated().directory / "evaluation"
    settings = read_json(folder / "settings.json")
    del settings["models.clip configuration"]
    write_json(folder / "settings.json", settings)
    record = read_json(folder / "stage.json")
    write_json(folder / "stage.json", {**record, "fingerprint": fingerprint(settings)})
    assert state(evaluated()) == "done"
    (folder / "settings.json").unlink()
    assert state(evaluated()) == "to be continued"


def test_a_record_that_was_edited_is_no_record(evaluated: Callable[..., Pipeline]) -> None:
    from bottega.runtime.trust import with_check

    file = evaluated().directory / "evaluation" / "stage.json"
    file.write_text(json.dumps(with_check({**read_json(file), "summary": {"pairs": 4}})))
    assert state(evaluated()) == "done"
    change(file, '"pairs": 4', '"pairs": 5')
    assert state(evaluated()) == "to be continued"


def test_a_stage_is_continued_when_what_it_read_was_made_otherwise_since(evaluated: Callable[..., Pipeline]) -> None:
    from bottega.runtime.trust import seal

    pipeline = evaluated()
    pairs = pipeline.directory / "pairs"
    pairs.mkdir()
    (pairs / "test.jsonl").write_text("{}\n")
    seal(pairs, {pairs / "test.jsonl": "result"})
    file = pipeline.directory / "evaluation" / "stage.json"
    write_json(file, {**read_json(file), "inputs": {"pairs": pipeline._outputs(BY_NAME["pairs"])}})
    assert state(pipeline) == "done"
    (pairs / "test.jsonl").write_text('{"other": 1}\n')
    seal(pairs, {pairs / "test.jsonl": "result"})
    assert state(pipeline) == "to be continued"
