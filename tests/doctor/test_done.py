"""A run at its best level is done, whatever its plan says; and what could not be judged is named with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from bottega.doctor import Verdict, examine
from bottega.doctor.text import as_text
from bottega.runtime.seeds import numpy_rng


def run(path: Path, level: float, *, done: float = 1.0, spike: bool = False, kind: str = "falling") -> Verdict:
    """One picture learned by v-prediction, whose loss ends at `level` after `done` of its 4000 steps."""
    rng = numpy_rng("done", str(level))
    lines = []
    for step in range(1, int(4000 * done) + 1):
        share = step / (4000 * done)
        course = {
            "falling": (1 + 30 * (1 - share)),
            "plateaued": 1 + 300 * 0.5 ** (40 * share),
            "rising": 0.01 + share**9,
        }
        loss = level * course[kind] * float(rng.lognormal(0, 0.1))
        if spike and step in range(2000, 2005):
            loss *= 50
        lines.append(f"step {step}/4000 Loss: {loss:.7f} lr 1.00e-04 grad 0.5 0.09 s 900 MB\n")
    path.write_text("".join(lines))
    return examine(path, prediction_type="v_prediction", one_picture=True)


@pytest.mark.parametrize("kind", ["falling", "plateaued"])
@pytest.mark.parametrize("done", [1.0, 0.6])
def test_a_run_at_its_best_level_is_done_first_and_is_not_sent_on(kind: str, done: float, tmp_path: Path) -> None:
    verdict = run(tmp_path / "train.log", 5e-5, done=done, kind=kind)
    assert verdict.level.startswith("sharp") and verdict.state == "done"
    assert f"with {done:.0%} of the plan done" in verdict.findings[0].evidence
    assert kind in [finding.name for finding in verdict.findings]
    assert verdict.actions[0].do.startswith("use the last checkpoint")
    assert not [action.do for action in verdict.actions if action.do.startswith("continue")]


def test_short_of_its_best_level_a_falling_run_goes_on(tmp_path: Path) -> None:
    verdict = run(tmp_path / "train.log", 2e-3)
    assert verdict.state == "falling" and verdict.actions[0].do.startswith("continue")


def test_a_loss_that_rises_or_is_broken_is_not_done_at_any_level(tmp_path: Path) -> None:
    verdict = run(tmp_path / "train.log", 5e-5, kind="rising")
    assert verdict.level.startswith("sharp") and verdict.state == "diverging"
    with open(tmp_path / "train.log", "a", encoding="utf-8") as stream:
        stream.write("step 4001/5000 Loss: nan lr 1.00e-04 grad 0.5 0.09 s 900 MB\n" * 2)
    assert examine(tmp_path / "train.log", prediction_type="epsilon", one_picture=True).state == "not finite"


def test_what_happened_beside_the_course_comes_after_done(tmp_path: Path) -> None:
    verdict = run(tmp_path / "train.log", 5e-5, spike=True)
    assert [finding.name for finding in verdict.findings][:2] == ["done", "spiked"]


def test_the_level_of_a_set_of_pictures_never_makes_it_done(tmp_path: Path) -> None:
    run(tmp_path / "train.log", 5e-5)
    assert examine(tmp_path / "train.log", prediction_type="epsilon").state == "falling"


def test_what_could_not_be_judged_is_named_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("".join(f"step {i} loss: 0.{i:03d} lr 0.0000\n" for i in range(1, 9)))
    reasons = {item.what: item.why for item in examine(path).not_judged}
    assert reasons["the course of the loss"] == "8 usable losses; at least 12 are needed"
    assert reasons["how much of the plan is done"] == "the log names neither all its steps nor all its epochs"
    assert "rounded to zero" in reasons["the learning rate"] and "grad_norm" in reasons["the gradient's norm"]
    path.write_text("".join(f"step {i}/90 loss: 0.{i:03d} lr 1e-4\n" for i in [*range(1, 40), *range(36, 40)]))
    verdict = examine(path)
    reasons = {item.what: item.why for item in verdict.not_judged}
    assert reasons["jumps at resumes"] == "1 of them have fewer than 8 losses before or after"
    assert "the course of the loss" not in reasons and "how much of the plan is done" not in reasons
    assert all(f"  {what}: {why}" in as_text(verdict) for what, why in reasons.items())
