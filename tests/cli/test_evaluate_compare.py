"""`bottega evaluate compare` and `plan` from the command line, on evaluations that a simulation wrote."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.evaluation.test_compare import made_up, palettes

from bottega.cli.main import main


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two recipes with two trainings each, the second with the nearer palette; and one run of neither."""
    rng = np.random.default_rng(1)
    for k in range(2):
        made_up(tmp_path / f"plain-seed{k}", palettes(rng), seed=k)
        made_up(tmp_path / f"better-seed{k}", palettes(rng, -9), seed=k, strength=0.5)
    monkeypatch.chdir(tmp_path)
    return tmp_path


ALL = ("plain-seed0", "plain-seed1", "better-seed0", "better-seed1")


def test_compare_prints_the_table_and_writes_three_files(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "compare", *ALL, "--output", "out"]) == 0
    shown = capsys.readouterr().out
    assert "better − plain" in shown and "palette ↓ (ΔE)" in shown
    assert (runs / "out" / "compare.md").read_text() in shown
    assert main(["evaluate", "compare", *ALL, "--output", "out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((runs / "out" / "compare.json").read_text())
    assert (runs / "out" / "compare.csv").is_file()


def test_methods_are_named_on_the_command_line(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = ["--method", "a=plain-seed0,plain-seed1", "--method", "b=better-seed0,better-seed1"]
    assert main(["evaluate", "compare", *named]) == 0
    assert "b − a" in capsys.readouterr().out
    assert (runs / "comparison" / "compare.json").is_file()


def test_a_plan_is_a_table_of_designs(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "plan", *ALL, "--metric", "palette", "--difference", "1"]) == 0
    shown = capsys.readouterr().out
    assert "plain − better" in shown and "| trainings | contents | styles | pictures a method |" in shown
    assert main(["evaluate", "plan", *ALL, "--metric", "palette", "--difference", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["difference"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "plain-seed0", "plain-seed1"], "two methods, received one"),
        (["compare", "nowhere", "plain-seed0"], "no evaluation in nowhere"),
        (["compare", *ALL, "--level", "95"], "--level must be above 0.5 and below 1, received 95"),
        (["compare", "--method", "a"], "NAME=RUN,RUN, received 'a'"),
        (["compare", "--method", "a=plain-seed0", "--method", "a=plain-seed1"], "received 'a' twice"),
        (["plan", *ALL, "--metric", "beauty", "--difference", "1"], "--metric must be one of"),
        (["plan", *ALL, "--metric", "palette", "--difference", "-1"], "--difference must be above 0"),
        (["plan", "plain-seed0", "--metric", "palette", "--difference", "1"], "no scores of the row 'base'"),
    ],
)
def test_a_wrong_request_is_refused_with_exit_code_2(
    runs: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["evaluate", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
