"""A run directory that was damaged in many ways: each is named, and its cure, as printed, makes it whole again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.pipeline.conftest import RECIPE

from bottega.cli.doctor_requests import run_request
from bottega.cli.main import main
from bottega.doctor.answer import Answer, DoctorFinding
from bottega.doctor.everything import newest_run
from bottega.doctor.run_directory import RunRequest, examine
from bottega.runtime.errors import MissingError
from bottega.runtime.findings import Severity

OLD_LDM = Path(__file__).parents[1] / "earlier" / "runs_0_0" / "ldm"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run up to its teacher, made as people make it."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(RECIPE)
    command = [sys.executable, "-m", "bottega", "run", "tiny.yaml", "--until", "teacher"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=900)
    return folder / "runs" / "tiny"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy, to be damaged; every file as old as a run of yesterday."""
    shutil.copytree(finished, tmp_path / "my runs" / "tiny", symlinks=True)
    return tmp_path / "my runs" / "tiny"


@pytest.fixture
def shell(tmp_path: Path) -> Callable[[str], None]:
    """Do what a command says, in a shell where `bottega` is this one."""
    script = tmp_path / "bin" / "bottega"
    script.parent.mkdir()
    # The run of these tests ends with its teacher, as the command that began it did.
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m bottega "$@" $BOTTEGA_MORE\n')
    script.chmod(0o755)

    def follow(command: str) -> None:
        path = f"{script.parent}:{os.environ['PATH']}"
        more = {"PATH": path, "BOTTEGA_MORE": "--until teacher"}
        done = subprocess.run(
            ["bash", "-c", command], env={**os.environ, **more}, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"

    return follow


def look(run: Path, *, check_all: bool = False) -> Answer:
    return examine(run_request(run, check_all))


def age(*paths: Path) -> None:
    for path in paths:
        os.utime(path, (1.7e9, 1.7e9))


# --- the damages --------------------------------------------------------------------------------------------------


def torn_stage_record(run: Path) -> None:
    (run / "pairs" / "stage.json").write_text('{"fingerprint": ')


def torn_thresholds(run: Path) -> None:
    file = run / "quality" / "thresholds.json"
    file.write_text(file.read_text()[:-10])


def torn_provenance(run: Path) -> None:
    (run / "provenance.json").write_bytes(b"")


def torn_last_line(run: Path) -> None:
    with (run / "pairs" / "train.jsonl").open("a") as stream:
        stream.write('{"id": "half')


def damaged_line(run: Path) -> None:
    file = run / "pairs" / "train.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], "\0\0\0\0", *lines[1:]]) + "\n")


def torn_picture(run: Path) -> None:
    file = run / "contact_sheet.png"
    file.write_bytes(file.read_bytes()[:-20])


def settings_edited(run: Path) -> None:
    file = run / "quality" / "settings.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, "quality.size": 256}))


def settings_gone(run: Path) -> None:
    (run / "pairs" / "settings.json").unlink()


def summary_of_another_run(run: Path) -> None:
    file = run / "summary.json"
    summary = json.loads(file.read_text())
    summary["stages"]["pairs"]["summary"] = {"pairs": 1}
    file.write_text(json.dumps(summary))


def stage_failed(run: Path) -> None:
    (run / "teacher" / "error.json").write_text('{"error": "the disk is full"}')


def stage_not_finished(run: Path) -> None:
    (run / "teacher" / "stage.json").unlink()


def temporary_names(run: Path) -> None:
    (run / "teacher" / ".metadata.jsonl.tmp").write_text("half")
    (run / "training" / "checkpoints" / ".step_00000002.tmp").mkdir(parents=True)
    age(run / "teacher" / ".metadata.jsonl.tmp", run / "training" / "checkpoints" / ".step_00000002.tmp")


def stale_lock(run: Path) -> None:
    (run / ".lock").write_text('{"pid": 4194304, "host": "here", "holder": "run tiny"}')


def lock_is_a_link(run: Path) -> None:
    (run / ".stage.lock").unlink(missing_ok=True)
    (run / ".stage.lock").symlink_to("recipe.yaml")


def pictures_of(run: Path) -> list[Path]:
    return sorted((run / "teacher" / "images").glob("*.png"))


def picture_gone(run: Path) -> None:
    pictures_of(run)[0].unlink()


def picture_changed(run: Path) -> None:
    pictures = pictures_of(run)
    shutil.copy(pictures[0], pictures[1])


def picture_without_a_row(run: Path) -> None:
    shutil.copy(pictures_of(run)[0], run / "teacher" / "images" / "of an older try.png")


def ledger_damaged(run: Path) -> None:
    file = run / "teacher" / "ledger.sqlite"
    content = bytearray(file.read_bytes())
    content[4096:8192] = bytes(4096)
    file.write_bytes(content)


def ledger_gone(run: Path) -> None:
    (run / "teacher" / "ledger.sqlite").unlink()


def input_gone(run: Path) -> None:
    for picture in (run / "data").rglob("*.png"):
        if "/coco/images/" in str(picture):
            picture.unlink()


def shard_gone(run: Path) -> None:
    (run / "features").mkdir()
    row = {"kind": "text", "file": "text/a.safetensors", "keys": ["a"], "rejected": []}
    (run / "features" / "index.jsonl").write_text(json.dumps(row) + "\n")


def shard_torn(run: Path) -> None:
    (run / "features" / "text").mkdir(parents=True)
    (run / "features" / "text" / "a.safetensors").write_bytes(b"\x10\0\0")


def recipe_changed(run: Path) -> None:
    file = run / "recipe.yaml"
    file.write_text(file.read_text().replace("size: 128", "size: 256"))


DAMAGES: list[tuple[str, Severity, Callable[[Path], None]]] = [
    ("torn file", Severity.ERROR, torn_stage_record),
    ("torn file", Severity.ERROR, torn_thresholds),
    ("torn file", Severity.ERROR, torn_provenance),
    ("torn file", Severity.ERROR, shard_torn),
    ("torn last line", Severity.WARNING, torn_last_line),
    ("damaged line", Severity.ERROR, damaged_line),
    ("torn picture", Severity.ERROR, torn_picture),
    ("record does not fit its settings", Severity.ERROR, settings_edited),
    ("settings are missing", Severity.ERROR, settings_gone),
    ("summary is out of date", Severity.WARNING, summary_of_another_run),
    ("stage failed", Severity.ERROR, stage_failed),
    ("stage not finished", Severity.WARNING, stage_not_finished),
    ("leftover of a killed process", Severity.WARNING, temporary_names),
    ("stale lock", Severity.INFO, stale_lock),
    ("lock is no file", Severity.ERROR, lock_is_a_link),
    ("missing pictures", Severity.ERROR, picture_gone),
    ("changed pictures", Severity.ERROR, picture_changed),
    ("pictures without a row", Severity.WARNING, picture_without_a_row),
    ("damaged ledger", Severity.ERROR, ledger_damaged),
    ("ledger is missing", Severity.ERROR, ledger_gone),
    ("changed inputs", Severity.ERROR, input_gone),
    ("missing features", Severity.ERROR, shard_gone),
    ("recipe was changed", Severity.ERROR, recipe_changed),
]


def found(answer: Answer, name: str) -> DoctorFinding:
    named = [finding for finding in answer.findings if finding.name == name]
    assert named, [finding.name for finding in answer.findings]
    return named[0]


def contents(run: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("name", "severity", "damage"), DAMAGES, ids=[row[2].__name__ for row in DAMAGES])
def test_a_damage_is_named_and_a_look_changes_nothing(
    run: Path, shell: Callable[[str], None], name: str, severity: Severity, damage: Callable[[Path], None]
) -> None:
    damage(run)
    before = contents(run)
    answer = look(run)
    assert contents(run) == before
    finding = found(answer, name)
    assert finding.severity == severity
    assert finding.evidence
    if finding.command is None:
        assert name == "recipe was changed"  # the message names the folders: only the user can choose
    elif "bottega" not in finding.command:  # cures that run stages are followed together, below
        shell(finding.command)
        assert look(run).findings == ()


@pytest.mark.parametrize(
    "damages",
    [
        (torn_stage_record, summary_of_another_run, picture_gone, picture_changed, torn_provenance),
        (settings_edited, torn_thresholds, ledger_damaged, input_gone),
    ],
)
def test_cures_that_run_stages_again_make_the_run_whole(
    run: Path, shell: Callable[[str], None], damages: tuple[Callable[[Path], None], ...]
) -> None:
    for damage in damages:
        damage(run)
    done: list[str] = []
    for _ in range(8):
        findings = look(run).findings
        if not findings:
            break
        assert findings[0].command is not None, findings[0]
        done.append(findings[0].name)
        shell(findings[0].command)
    assert done[0] == "torn file"  # every other cure that runs a stage would stop there
    answer = look(run, check_all=True)
    assert (answer.findings, answer.exit_code) == ((), 0), done


def test_a_whole_run_has_no_finding_and_all_reads_every_hash(run: Path) -> None:
    answer = look(run, check_all=True)
    assert (answer.findings, answer.not_judged) == ((), ())
    assert answer.facts["stages done"] == ["world", "data", "pairs", "truth", "quality", "teacher"]
    assert answer.facts["targets in the ledger"] == 8


def test_a_sample_is_said_to_be_one_and_all_finds_what_it_missed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bottega.doctor import run_directory

    monkeypatch.setattr(run_directory, "SAMPLE", 2)
    pictures = pictures_of(run)
    shutil.copy(pictures[0], pictures[-1])
    answer = look(run)
    assert "the hashes of pictures: 6 of 8" in [item.what for item in answer.not_judged]
    assert found(look(run, check_all=True), "changed pictures").severity == Severity.ERROR


def test_a_run_that_works_now_is_not_judged_by_its_temporary_files(run: Path) -> None:
    temporary_names(run)
    code = (
        "import fcntl, sys, time\n"
        "stream = open(sys.argv[1], 'r+')\n"
        "fcntl.lockf(stream, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()"
    )
    (run / ".lock").write_text('{"pid": 1, "host": "here", "holder": "run tiny"}')
    command = [sys.executable, "-c", code, str(run / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        answer = look(run)
        holder.communicate()
    assert answer.findings == ()
    assert "process 1 on here (run tiny) works on it now" in "".join(item.why for item in answer.not_judged)


def test_weights_that_differ_from_the_record_are_named(run: Path) -> None:
    from bottega.models.layout import ModelStatus

    model = run.parent / "clip"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    status = ModelStatus("clip", str(model), model, (model / "model.safetensors",), ())
    provenance = json.loads((run / "provenance.json").read_text())
    files = {"model.safetensors": {"sha256": "0" * 64, "bytes": 7, "mtime_ns": 0}}
    provenance["weights"] = {"clip": {"sha256": "0" * 64, "files": files}, "sdxl": {"sha256": "1", "files": {}}}
    (run / "provenance.json").write_text(json.dumps(provenance))
    answer = examine(RunRequest(run, stages=(("pairs", "pairs"),), models=(status,)))
    finding = found(answer, "other weights than recorded")
    assert "model.safetensors" in finding.evidence
    assert finding.command == f"bottega run '{run}/recipe.yaml' --directory '{run}-again'"
    assert "the weights of models.sdxl" in [item.what for item in answer.not_judged]


def test_a_damaged_checkpoint_of_a_training_from_scratch(tmp_path: Path) -> None:
    run = tmp_path / "ldm"
    shutil.copytree(OLD_LDM, run)
    assert look(run).findings == ()
    file = run / "checkpoints" / "epoch-3" / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    finding = found(look(run), "damaged checkpoint")
    assert str(file) in finding.evidence
    assert finding.command == (
        f"rm -r {file.parent} && bottega train ldm --config {run}/recipe.yaml --output-dir {run}"
    )


# --- on the command line ------------------------------------------------------------------------------------------


def test_exit_codes_and_json(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "run", str(run)]) == 0
    assert "verdict: no fault found" in capsys.readouterr().out
    torn_thresholds(run)
    assert main(["doctor", "run", str(run), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["exit_code"], told["findings"][0]["name"]) == (1, "torn file")
    assert main(["doctor", "run", str(tmp_path / "none")]) == 2
    assert "there is no such run directory" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingError, match=r"neither recipe.yaml nor metrics.jsonl"):
        examine(RunRequest(tmp_path / "empty"))


def test_without_a_verb_everything_is_checked_and_the_worst_comes_first(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").mkdir()
    shutil.copytree(OLD_LDM, tmp_path / "runs" / "older")
    shutil.move(run, tmp_path / "runs" / "tiny")
    for path in (tmp_path / "runs" / "older").rglob("*"):
        age(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert newest_run(Path()) == Path("runs/tiny")
    picture_gone(Path("runs/tiny"))
    assert main(["doctor", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["findings"][0]["part"], told["findings"][0]["name"]) == ("run", "missing pictures")
    assert set(told["facts"]) == {"env", "cache", "run"}
    assert "env: what recipes lack" in [item["what"] for item in told["not_judged"]]


def test_without_a_verb_the_training_of_the_newest_run_is_judged_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(OLD_LDM, tmp_path / "runs" / "ldm")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    main(["doctor"])
    said = capsys.readouterr().out
    assert "the training runs/ldm/metrics.jsonl: " in said
    assert "the run runs/ldm: no fault found" in said


def test_nothing_to_find_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert main(["doctor"]) == 0
    assert "runs: no run directory is under runs/" in capsys.readouterr().out
