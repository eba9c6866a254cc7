"""The headline in words: what it says for known inputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from bottega.report import learning
from bottega.report.evaluation import EvaluationSummary
from bottega.report.format import duration, figure
from bottega.report.headline import Headline, headline
from bottega.report.run_directory import RunDirectory
from bottega.runtime.files import write_json
from bottega.runtime.records import to_record


def evaluated(tmp_path: Path, *met: bool | None) -> Headline:
    claims = [
        {"claim": f"{'style gain' if k == 0 else 'objects preserved against the base'} {k}", "met": m}
        for k, m in enumerate(met)
    ]
    return headline(
        RunDirectory(tmp_path), None, None, to_record(EvaluationSummary, {"claims": claims, "rows": {}}, "a summary")
    )


@pytest.mark.parametrize(
    ("met", "tone", "words"),
    [
        ((True, True), "good", "learned to paint"),
        ((True, False), "mixed", "It learned style, but missed 1 of 2 goals"),
        ((False, True), "bad", "Not there yet: missed 1 of 2 goals"),
        ((True, None), "mixed", "1 of 2 goals could not be measured"),
        ((None, None), "wait", "No goal could be measured"),
    ],
)
def test_the_headline_follows_from_the_goals(tmp_path: Path, met: tuple[bool | None], tone: str, words: str) -> None:
    verdict = evaluated(tmp_path, *met)
    assert verdict.tone == tone
    assert words in verdict.title


def test_training_whose_interval_reaches_zero_is_not_called_learning(tmp_path: Path) -> None:
    row = {"step": 50, "loss": 1.0, "val_gain": 0.02, "val_gain_low": -0.01, "val_gain_high": 0.05, "val_swap": 0.0}
    log = learning.read([{"step": 1, "loss": 1.0}, row])
    verdict = headline(RunDirectory(tmp_path), None, log, None)
    assert (verdict.tone, verdict.title) == ("bad", "It is not learning yet")


def test_what_is_wrong_with_a_run_that_learns_is_said_beside_it(tmp_path: Path) -> None:
    rows = [
        {"step": 10 * k, "loss": 1.0, "val_gain": 0.01 * k, "val_gain_low": 0.005 * k, "val_swap": 0.0}
        for k in range(1, 25)
    ]
    log = learning.read(rows)
    assert log is not None
    assert [finding.name for finding in log.findings] == ["style ignored", "under-trained", "learning"]
    verdict = headline(RunDirectory(tmp_path), None, log, None)
    assert (verdict.tone, verdict.title) == ("mixed", "It is learning")
    assert "style ignored: of the gain of 24.0% only 0.0%" in verdict.sentences[0]
    assert "adapter.tokens" in verdict.sentences[1] and "raise student.loop.steps" in verdict.sentences[1]


def test_a_log_with_holes_gives_curves_of_what_it_holds() -> None:
    log = learning.read([{"step": k, "loss": None if k % 7 == 0 else 1 / k, "loss_main": 1 / k} for k in range(1, 60)])
    assert log is not None
    assert log.steps == 59
    assert "<svg" in log.losses
    assert log.gain == log.gates == ""


@pytest.mark.parametrize(
    ("value", "text"), [(123.4, "123"), (12.34, "12.3"), (1.234, "1.23"), (-0.5, "−0.50"), (0.0, "0.00")]
)
def test_figures_have_the_digits_that_a_reader_needs(value: float, text: str) -> None:
    assert figure(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "—"), (7.41, "7.4 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (3599.9, "59 min 59 s")],
)
def test_durations_read_as_people_say_them(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_a_rehearsal_is_said_to_be_one_before_its_numbers(tmp_path: Path) -> None:
    write_json(tmp_path / "provenance.json", {"random_weights": ["sdxl", "pixart"]})
    verdict = evaluated(tmp_path, True, True)
    assert verdict.tone == "wait"
    assert verdict.title.startswith("A rehearsal, no result. ")
    assert "random weights took part (sdxl, pixart)" in verdict.sentences[0]
