"""The verdict on logs of known cause, with the noise of real ones and in the words of many trainers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from bottega.cli.main import main
from bottega.doctor import Verdict, examine
from bottega.doctor.advice import MOST_REMEDIES, REMEDIES
from bottega.doctor.curve.lag_correlation import LagCorrelation
from bottega.doctor.page import render_page
from bottega.doctor.text import as_text
from bottega.runtime.findings import SEVERITIES, Severity
from bottega.runtime.seeds import numpy_rng

SEEDS = 4
Course = Callable[[float], float]
Lines = Iterable[str]


def losses(seed: int, steps: int, course: Course, batch: int = 16) -> list[float]:
    """A loss a step: each sample's is a chi-squared error of its own timestep, easy ones near pure noise, so that a
    batch varies by a third or more; course: the level at the share of the log that is done."""
    rng = numpy_rng("doctor", seed)
    t = rng.uniform(0, 1, (steps, batch))
    difficulty = 0.15 + 4.0 * np.exp(-6 * t)  # a hundredfold from late to early timesteps is common, here thirtyfold
    errors = difficulty / 0.81 * rng.chisquare(12, (steps, batch)) / 12
    return [float(e) * course(i / steps) for i, e in enumerate(errors.mean(1))]


def healthy(p: float) -> float:
    """Falls fast, then slowly, and goes on falling."""
    return 0.02 + 0.3 / (1 + 30 * p)


def settled(p: float) -> float:
    """Reaches its floor in the first third."""
    return 0.03 + 0.3 * math.exp(-18 * p)


def plain(values: list[float], total: int | None = None, rate: str = "") -> Lines:
    whole = total or len(values)
    return (f"step {i}/{whole} Loss: {v:.5f}{rate}" for i, v in enumerate(values, start=1))


def cosine(values: list[float]) -> Lines:
    n = len(values)
    rates = (1e-3 * (0.02 + 0.98 * (1 + math.cos(math.pi * i / n)) / 2) for i in range(n))
    return (f"step {i}/{n} loss: {v:.5f} lr {r:.2e}" for i, (v, r) in enumerate(zip(values, rates, strict=True), 1))


def epochs(values: list[float], total: int, validation: list[float] | None = None) -> Lines:
    for i, v in enumerate(values, start=1):
        held = "" if validation is None else f", val_loss: {validation[i - 1]:.5f}"
        yield f"Epoch {i}/{total}, Loss: {v:.5f}{held}"


def kohya(values: list[float]) -> Lines:
    """A bar an epoch of 50 steps with the moving mean of the last epoch, as kohya's scripts show it."""
    n, recent = 2 * len(values), []
    yield "  num batches per epoch / 1epochのバッチ数: 50"
    yield f"  num epochs / epoch数: {n // 50}"
    yield f"  total optimization steps / 学習ステップ数: {n}"
    for i, v in enumerate(values, start=1):
        if i % 50 == 1:
            yield f"\nepoch {i // 50 + 1}/{n // 50}"
        recent = [*recent, v][-50:]
        mean = sum(recent) / len(recent)
        yield f"\rsteps:  {100 * i // n}%|█▏    | {i}/{n} [02:12<16:30,  1.12s/it, avr_loss={mean:.3g}]"


def diffusers(values: list[float]) -> Lines:
    n = len(values)
    yield "***** Running training *****\n  Num Epochs = 10\n  Total optimization steps = " + str(n)
    for i, v in enumerate(values, start=1):
        bar = "█" * (10 * i // n)
        shown = f"\rSteps: {100 * i // n:3d}%|{bar:<10}| {i}/{n} [00:12<01:30,  5.12it/s, lr=1e-5, step_loss={v:.4f}]"
        yield shown + shown  # a bar is redrawn


def transformers(values: list[float]) -> Lines:
    for i, v in enumerate(values, start=1):
        yield f"{{'loss': {v:.4f}, 'grad_norm': 1.25, 'learning_rate': 5e-05, 'epoch': {i / 100:.2f}}}"
        if i % 100 == 0:
            yield f"{{'eval_loss': {0.3 + 0.01 * v:.4f}, 'eval_runtime': 3.2, 'epoch': {i / 100:.1f}}}"
    yield "{'train_runtime': 120.5, 'train_samples_per_second': 8.1, 'train_loss': 0.9, 'epoch': 10.0}"


def lightning(values: list[float]) -> Lines:
    for i, v in enumerate(values):
        yield (
            f"\rEpoch {i // 50}:  {i % 50 * 2}%|██    | {i % 50 + 1}/50 [00:12<00:14,  9.12it/s, v_num=3, "
            f"train/loss_step={v:.3f}, train/loss_epoch=0.500]"
        )


def accelerate(values: list[float]) -> Lines:
    for i, v in enumerate(values, start=1):
        clock = f"{i // 3600 % 24:02d}:{i // 60 % 60:02d}:{i % 60:02d}"
        yield f"01/12/2024 {clock} - INFO - __main__ - epoch {i // 60} step {i} loss {v:.5f}"


def ai_toolkit(values: list[float]) -> Lines:
    n = len(values)
    return (
        f"\rmy_lora:  {100 * i // n}%|█▏   | {i}/{n} [02:12<16:30,  1.12s/it, lr: 1.0e-04 loss: {v:.3e}]"
        for i, v in enumerate(values, start=1)
    )


def onetrainer(values: list[float]) -> Lines:
    smooth = values[0]
    for i, v in enumerate(values):
        smooth = 0.95 * smooth + 0.05 * v
        if i % 40 == 0:
            yield f"\repoch:  {i // 40}%|{'#' * (i // 400)}   | {i // 40}/100 [00:12<12:30, 7.5s/it]"
        yield (
            f"\rstep:  {i % 40 * 2}%|##  | {i % 40 + 1}/40 [00:12<00:14,  1.9it/s, loss={v:.3g}, "
            f"smooth loss={smooth:.3g}]"
        )


def metrics(values: list[float | None], tasks: tuple[list[float], list[float]] | None = None) -> Lines:
    for i, v in enumerate(values, start=1):
        row: dict[str, object] = {"step": i, "epoch": i // 52, "loss": v, "learning_rate": 1e-4, "seconds": 0.5}
        row |= {"loss_main": tasks[0][i - 1], "loss_fill50k": tasks[1][i - 1]} if tasks else {}
        yield json.dumps(row)


def late(p: float, factor: float = 8.0) -> float:
    """Falls, and from three quarters on grows to a multiple."""
    return settled(p) * math.exp(math.log(factor) * max(0.0, (p - 0.75) / 0.25))


def waves(p: float) -> float:
    return settled(p) * math.exp(0.6 * math.sin(2 * math.pi * 7 * p))


def broken(values: list[float], at: int, until: int | None = None) -> list[float]:
    return [math.nan if i >= at and (until is None or i < until) else v for i, v in enumerate(values)]


def averages(seed: int, n: int, course: Course) -> list[float]:
    """A mean an epoch."""
    each = losses(seed, 50 * n, course)
    return [float(np.mean(each[50 * i : 50 * i + 50])) for i in range(n)]


def resumed(seed: int, factor: float) -> Lines:
    values = losses(seed, 6000, settled, 64)
    yield from plain(values[:4200], 6000)
    yield "Resuming from checkpoint checkpoint-4000"
    for i, v in enumerate(values[4000:], start=4001):
        yield f"step {i}/6000 Loss: {v * factor:.5f}"


def overfitting(seed: int) -> Lines:
    train = averages(seed, 60, lambda p: 0.02 + 0.2 / (1 + 12 * p))
    held = averages(seed + 100, 60, lambda p: 0.03 + 0.2 / (1 + 12 * p) + 0.06 * max(0.0, p - 0.4))
    return epochs(train, 60, held)


def language(seed: int) -> Lines:
    """A language model's loss: far above zero, hardly noisy, falling by some percent over half a run."""
    rng = numpy_rng("language", seed)
    values = [(3 + 6 * (1 + i / 60) ** -0.45) * (1 + 0.015 * rng.standard_normal()) for i in range(6000)]
    return (f"iter {i}: loss {v:.4f}, time 120.00ms, mfu 12.3%" for i, v in enumerate(values) if i % 10 == 0)


def resumed_by_epochs(seed: int) -> Lines:
    """A line an epoch, resumed three epochs back and at twice the loss, in a log too short to have settled."""
    values = averages(seed, 100, lambda p: 0.02 + 0.2 / (1 + 12 * p))
    for place, i in enumerate((*range(60), *range(57, 100))):
        yield f"Epoch {i + 1}/200 loss: {values[i] * (1 if place < 60 else 2.2):.5f}"


def smoothed(values: list[float], share: float = 0.95) -> list[float]:
    mean, found = values[0], []
    for v in values:
        mean = share * mean + (1 - share) * v
        found.append(mean)
    return found


def two_tasks(seed: int) -> Lines:
    good, bad = losses(seed, 2000, lambda p: 0.1 - 0.05 * p), losses(seed + 50, 2000, lambda p: 0.1 + 0.1 * p)
    return metrics([0.75 * a + 0.25 * b for a, b in zip(good, bad, strict=True)], (good, bad))


def torn(seed: int) -> Lines:
    *whole, last = plain(losses(seed, 3000, healthy)[:1800], 3000)
    yield from whole
    yield last[:-3]


def with_columns(values: list[float], **columns: Callable[[float], float]) -> Lines:
    """A JSON object a line; columns: what else it has, at the share of the log that is done."""
    for i, v in enumerate(values):
        row = {"step": i + 1, "loss": v, **{name: column(i / len(values)) for name, column in columns.items()}}
        yield json.dumps(row)


def sided(seed: int, course: Course = settled, **columns: Course) -> Lines:
    """A run with columns of their own noise: a tenth for times, a third for the gradient's norm; the last one, and the
    course of its loss, as given."""
    rng = numpy_rng("sides", seed)
    spread = {"grad_norm": 0.35, "step_time": 0.1, "data_time": 0.3, "rss_mb": 0.01}

    def noisy(name: str, column: Course) -> Course:
        return lambda p: column(p) * math.exp(spread.get(name, 0.0) * rng.standard_normal())

    ordinary: dict[str, Course] = {
        "learning_rate": lambda p: 1e-4 * min(1.0, 20 * p) * (1.02 + math.cos(math.pi * p)) / 2,
        "grad_norm": lambda p: 0.3 + 3 * math.exp(-20 * p),
        "step_time": lambda p: 0.5,
        "data_time": lambda p: 0.02,
        "rss_mb": lambda p: 9000.0,
    }
    return with_columns(losses(seed, 1500, course, 32), **{k: noisy(k, f) for k, f in (ordinary | columns).items()})


def spiky(seed: int) -> Lines:
    """Three spikes of six lines each, which come back."""
    values = losses(seed, 1500, settled, 64)
    for at in (300, 780, 1200):
        values[at : at + 6] = [5 * v for v in values[at : at + 6]]
    return plain(values)


@dataclass(frozen=True)
class Known:
    """A log's making, what it must be called, and where in its plan it stands."""

    make: Callable[[int], Lines]
    state: str
    share: float | None = None


KNOWN = {
    "healthy and early": Known(lambda s: plain(losses(s, 8000, healthy)[:2400], 8000), "falling", 0.3),
    "healthy, at the end of its plan, still falling": Known(lambda s: plain(losses(s, 8000, healthy)), "falling", 1.0),
    "healthy and done": Known(lambda s: cosine(losses(s, 8000, settled)), "plateaued", 1.0),
    "plateau at a constant rate": Known(lambda s: plain(losses(s, 8000, settled), 16000, " lr 1e-4"), "plateaued", 0.5),
    "too high a rate, slowly": Known(lambda s: plain(losses(s, 3000, late)), "diverging", 1.0),
    "too high a rate, all at once": Known(
        lambda s: plain(losses(s, 3000, lambda p: settled(p) if p < 0.9 else 1.0)), "diverging"
    ),
    "too high a rate, only just": Known(
        lambda s: plain(losses(s, 2000, lambda p: healthy(p) * (1 if p < 0.97 else 10))), "diverging"
    ),
    "too high a rate, growing at the end": Known(
        lambda s: plain(losses(s, 2000, lambda p: healthy(p) * 6 ** max(0.0, 10 * p - 9))), "diverging"
    ),
    "a language model, still falling": Known(language, "falling slowly"),
    "plateau in a short, noisy log": Known(lambda s: plain(losses(s, 1500, settled, 32)), "plateaued"),
    "a NaN that transformers writes as zero": Known(
        lambda s: (
            f"{{'loss': {0.0 if i > 299 else v:.4f}, 'grad_norm': {'nan' if i > 299 else '1.2'}, 'epoch': {i / 50}}}"
            for i, v in enumerate(losses(s, 400, settled))
        ),
        "not finite",
    ),
    "zero to the end": Known(lambda s: plain([*losses(s, 400, settled), *([0.0] * 100)]), "constant", 1.0),
    "resumed with a jump, a line an epoch": Known(resumed_by_epochs, "resumed with a jump", 0.5),
    "diverging, a line an epoch": Known(lambda s: epochs(averages(s, 40, lambda p: late(p, 30)), 50), "diverging", 0.8),
    "NaN to the end": Known(lambda s: plain(broken(losses(s, 2000, settled), 1500)), "not finite", 1.0),
    "NaN once, in float16": Known(lambda s: plain(broken(losses(s, 2000, settled), 700, 703)), "not finite"),
    "null in metrics.jsonl": Known(
        lambda s: metrics([None if math.isnan(v) else v for v in broken(losses(s, 500, settled), 400)]), "not finite"
    ),
    "oscillating": Known(lambda s: plain(losses(s, 8000, waves)), "oscillating", 1.0),
    "oscillating, a line an epoch": Known(lambda s: epochs(averages(s, 120, waves), 120), "oscillating", 1.0),
    "resumed with a jump": Known(lambda s: resumed(s, 2.5), "resumed with a jump", 1.0),
    "resumed exactly": Known(lambda s: resumed(s, 1.0), "plateaued", 1.0),
    "overfitting": Known(overfitting, "overfitting", 1.0),
    "truncated file": Known(torn, "falling", 0.6),
    "two tasks, one starved": Known(two_tasks, "task starved"),
    "very short": Known(lambda s: plain(losses(s, 8, settled), 1000), "not enough to tell", 0.008),
    "short and noisy": Known(lambda s: plain(losses(s, 40, lambda p: 0.1, 1), 1000), "not enough to tell", 0.04),
    "constant": Known(lambda s: plain([0.6931] * 500), "constant", 1.0),
    "fine-tuning whose loss never moved": Known(lambda s: plain(losses(s, 8000, lambda p: 0.11)), "flat throughout"),
    "a few epochs, falling": Known(lambda s: epochs(averages(s, 24, healthy), 100), "falling", 0.24),
    "only the word and the number": Known(
        lambda s: (f"Loss: {v:.4f}" for v in losses(s, 5000, settled)), "plateaued", None
    ),
    "a rate of zero": Known(lambda s: sided(s, lambda p: 0.11, learning_rate=lambda p: 0.0), "learning rate zero"),
    "a rate of zero from mid-run on": Known(
        lambda s: sided(s, learning_rate=lambda p: 1e-4 * (p < 0.6)), "learning rate zero"
    ),
    "a gradient that is not finite": Known(
        lambda s: sided(s, grad_norm=lambda p: 0.5 if p < 0.7 else math.nan), "gradient not finite"
    ),
    "steps skipped to the end": Known(
        lambda s: sided(s, skipped_steps=lambda p: max(0.0, round(1500 * (p - 0.7)))), "steps skipped"
    ),
    "no gradient": Known(lambda s: sided(s, lambda p: 0.11, grad_norm=lambda p: 0.0), "no gradient"),
    "a gradient that leaps": Known(
        lambda s: sided(s, grad_norm=lambda p: 40.0 if 0.7 < p < 0.71 else 0.5), "gradient leaps"
    ),
    "a gradient that grows": Known(
        lambda s: sided(s, grad_norm=lambda p: 0.5 * math.exp(9 * max(0.0, p - 0.6))), "gradient leaps"
    ),
    "spikes that come back": Known(spiky, "spiked"),
    "waiting for data": Known(lambda s: sided(s, data_time=lambda p: 0.3), "waits for data"),
    "steps that become slower": Known(lambda s: sided(s, step_time=lambda p: 0.5 if p < 0.7 else 1.2), "slowed down"),
    "slow steps now and then": Known(
        lambda s: sided(s, step_time=lambda p: 0.5 if round(1500 * p) % 50 else 9.0), "slow steps"
    ),
    "memory that grows": Known(lambda s: sided(s, rss_mb=lambda p: 9000 * (1 + 0.4 * p)), "memory grows"),
    "columns in order": Known(sided, "plateaued"),
    "kohya": Known(lambda s: kohya(losses(s, 4000, healthy)), "falling", 0.5),
    "diffusers": Known(lambda s: diffusers(losses(s, 8000, settled)), "plateaued", 1.0),
    "transformers' Trainer": Known(lambda s: transformers(losses(s, 1000, lambda p: 0.3 * 0.1**p)), "falling"),
    "Lightning": Known(lambda s: lightning(losses(s, 4000, lambda p: 0.3 * 0.1**p)), "falling"),
    "accelerate": Known(lambda s: accelerate(losses(s, 6000, settled)), "plateaued"),
    "ai-toolkit": Known(lambda s: ai_toolkit(losses(s, 3000, late)), "diverging", 1.0),
    "OneTrainer": Known(lambda s: onetrainer(losses(s, 4000, lambda p: 0.3 * 0.1**p)), "falling", 1.0),
}


def verdict_on(tmp_path: Path, lines: Lines, name: str = "train.log") -> Verdict:
    text = "\n".join(lines)
    (tmp_path / name).write_text(
        text if name != "train.log" or "Loss: " in text[-9:] else text + "\n", encoding="utf-8"
    )
    return examine(tmp_path / name)


def is_accused(verdict: Verdict) -> bool:
    return verdict.findings[0].severity >= Severity.WARNING


def test_a_busy_machine_does_not_hide_what_the_loss_asks_for(tmp_path: Path) -> None:
    lines = sided(
        0,
        lambda p: 0.3 * 0.1**p,
        grad_norm=lambda p: 40.0 if 0.7 < p < 0.71 else 0.5,
        step_time=lambda p: 0.5 if p < 0.7 else 1.2,
    )
    verdict = verdict_on(tmp_path, lines)
    assert {"gradient leaps", "slowed down", "falling"} <= {finding.name for finding in verdict.findings}
    assert len(verdict.actions) == MOST_REMEDIES
    assert any(action.do.startswith("continue") for action in verdict.actions)


@pytest.mark.parametrize("name", KNOWN)
def test_the_verdict_is_the_known_cause(name: str, tmp_path: Path) -> None:
    known = KNOWN[name]
    verdicts = [verdict_on(tmp_path, known.make(seed)) for seed in range(SEEDS)]
    assert [v.state for v in verdicts] == [known.state] * SEEDS, [str(v.findings[0]) for v in verdicts]
    if known.share is not None:
        assert [v.progress.share for v in verdicts] == [pytest.approx(known.share, abs=0.011)] * SEEDS
    assert all(v.actions and v.findings[0].evidence in as_text(v) for v in verdicts)


@pytest.mark.parametrize("count", [14, 60, 500, 5000])
def test_a_course_without_noise_is_told_as_it_is(count: int, tmp_path: Path) -> None:
    for course, state in ((healthy, "falling"), (lambda p: 0.1 * 4**p, "diverging"), (lambda p: 1e308 * p, "")):
        verdict = verdict_on(tmp_path, plain([course(i / count) for i in range(count)]))
        assert state in verdict.state, verdict.findings
    settling = [0.1 + math.exp(-60 * i / count) for i in range(count)]
    assert verdict_on(tmp_path, plain(settling)).state == "plateaued"


@pytest.mark.parametrize("course", [healthy, settled, lambda p: 0.11], ids=["healthy", "settled", "flat"])
@pytest.mark.parametrize("steps", [60, 600, 3000])
def test_healthy_runs_are_rarely_accused(course: Course, steps: int, tmp_path: Path) -> None:
    verdicts = [verdict_on(tmp_path, plain(losses(seed, steps, course, 4))) for seed in range(100, 120)]
    assert sum(is_accused(v) for v in verdicts) <= 1, [v.state for v in verdicts]


def test_a_running_mean_under_another_name_is_known_and_not_accused_of_its_waves(tmp_path: Path) -> None:
    verdicts = [verdict_on(tmp_path, plain(smoothed(losses(s, 1000, lambda p: 0.1)))) for s in range(100, 116)]
    assert sum(is_accused(v) for v in verdicts) <= 1, [v.state for v in verdicts]
    assert all(any("alike" in note for note in v.notes) for v in verdicts)
    raw = [verdict_on(tmp_path, language(s)) for s in range(2)]  # a steep beginning is no running mean
    raw += [verdict_on(tmp_path, plain(losses(s, n, healthy, 4))) for s in range(8) for n in (100, 300, 3000)]
    assert not any("alike" in note for v in raw for note in v.notes)


@pytest.mark.parametrize("share", [0.0, 0.8, 0.95])
def test_the_correlation_of_neighbours_is_that_of_their_mean_and_not_of_their_course(share: float) -> None:
    noise = numpy_rng("likeness").standard_normal(4000) * 0.3
    course = np.sin(np.linspace(0, 40, 4000)) + np.linspace(5, 0, 4000)
    lag = LagCorrelation()
    for part in np.array_split(np.array(smoothed(list(noise), share)) / (1 - share) + course, 37):
        lag.add(part)
    assert lag.correlation == pytest.approx(share, abs=0.03)


def test_not_enough_to_tell_says_what_is_sure_and_stands_beside_no_verdict(tmp_path: Path) -> None:
    early = verdict_on(tmp_path, plain(losses(2, 80, lambda p: 0.05 + 0.4 * math.exp(-9 * p), 2), 10_000))
    assert early.state == "not enough to tell"
    assert "from the beginning to the last half it fell, by" in early.findings[0].evidence
    for name in ("oscillating", "too high a rate, only just", "resumed with a jump"):
        assert "not enough to tell" not in {f.name for f in verdict_on(tmp_path, KNOWN[name].make(0)).findings}


def test_a_kohya_runs_mean_is_told_as_what_it_is(tmp_path: Path) -> None:
    verdict = verdict_on(tmp_path, kohya(losses(0, 1000, settled)))
    assert verdict.trainer == "kohya" and any("running mean" in note for note in verdict.notes)
    assert verdict.progress.steps_per_epoch == 50 and verdict.progress.epochs == 40


@pytest.mark.parametrize("name", ["kohya", "diffusers", "Lightning", "accelerate", "ai-toolkit", "OneTrainer"])
def test_a_trainer_is_known_by_its_lines_and_told_how_to_continue(name: str, tmp_path: Path) -> None:
    verdict = verdict_on(tmp_path, KNOWN[name].make(0))
    assert verdict.trainer == name
    if verdict.state == "falling":
        assert verdict.actions[0].command and verdict.actions[0].do.startswith("continue")


def test_where_and_since_when_it_is_broken_is_said(tmp_path: Path) -> None:
    to_the_end = verdict_on(tmp_path, KNOWN["NaN to the end"].make(0)).findings[0].evidence
    once = verdict_on(tmp_path, KNOWN["NaN once, in float16"].make(0)).findings[0].evidence
    assert "at step 1501, and none has been finite since" in to_the_end
    assert "at step 701, 3 in all; the loss is finite again" in once


def test_the_size_of_a_jump_and_of_a_fall_are_those_that_were_made(tmp_path: Path) -> None:
    jump = verdict_on(tmp_path, resumed(3, 2.5))
    assert "resume at step 4001" in jump.findings[0].evidence
    assert float(jump.findings[0].evidence.split("the loss is ")[1].split()[0]) == pytest.approx(2.5, rel=0.15)
    fall = verdict_on(tmp_path, plain(losses(0, 8000, lambda p: (0.01 + p) ** -0.5 / 10, 64)[:4000], 8000))
    at_the_end = next(mark for mark in fall.outlook if mark.percent == 100)
    truth = 1.01**-0.5 / 10  # of the course beyond what was read
    assert at_the_end.loss is not None and at_the_end.loss.low < truth < at_the_end.loss.high
    assert at_the_end.loss.high / at_the_end.loss.low < 1.3


def test_118_of_200_epochs_are_trained_on_first_and_the_rate_waits(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints" / "epoch-118").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "epoch-20").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text(
        "training: {num_epochs: 200, steps: 1000, batch_size: 96}\ndata: {num_samples: 5000}\n"
        "text: {kind: words}\nunet: {}\n"
    )
    values = losses(0, 10_400, healthy)[: 118 * 52]
    rows = (
        {"step": i, "epoch": i / 52, "loss": v, "learning_rate": 1e-4, "seconds": 0.5} for i, v in enumerate(values, 1)
    )
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    verdict = examine(tmp_path / "run")
    assert verdict.state == "falling" and as_text(verdict).count("118 of 200 epochs") == 1
    assert [(m.percent, m.passed) for m in verdict.outlook] == [
        (25, True), (50, True), (59, True), (75, False), (100, False), (150, False)
    ]  # fmt: skip
    first, second, third, fourth, last = verdict.actions
    newest = tmp_path / "run" / "checkpoints" / "epoch-118"
    assert first.command == f"bottega train ldm --resume {newest}"
    assert first.hours == pytest.approx(82 * 52 * 0.5 / 3600)
    assert second.do == "more inference steps" and third.do == "a better prompt"
    drawn = f"bottega generate --checkpoint {newest} --prompt … --num-inference-steps 100 --scheduler ddpm"
    assert second.command == drawn
    assert "learning rate alone" in fourth.do and "more data" in last.do


def test_a_finished_run_that_still_falls_gets_half_as_many_epochs_more(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "epoch-200").mkdir(parents=True)
    (tmp_path / "recipe.yaml").write_text("training: {num_epochs: 200}\nunet: {}\n")
    rows = ({"step": i, "epoch": i / 10, "loss": v} for i, v in enumerate(losses(1, 2000, lambda p: 0.3 * 0.1**p), 1))
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert str(examine(tmp_path).actions[0].command).endswith("epoch-200 --set training.num_epochs=300")


def test_a_flat_loss_lowers_the_rate_first_only_where_it_was_not_lowered(tmp_path: Path) -> None:
    constant = verdict_on(tmp_path, plain(losses(0, 8000, settled), None, " lr 1e-4"))
    assert constant.actions[0].do.startswith("lower the learning rate") and "0.0001" in constant.actions[0].why
    decayed = verdict_on(tmp_path, cosine(losses(0, 8000, settled)))
    assert decayed.actions[0].do == "more inference steps"


def test_a_log_of_another_task_gets_no_advice_on_pictures(tmp_path: Path) -> None:
    told = as_text(verdict_on(tmp_path, language(0)))
    assert "does not draw pictures" in told and "continue" in told
    assert not [word for word in ("prompt", "inference steps", "colours", "captions") if word in told]
    assert "a better prompt" in as_text(verdict_on(tmp_path, plain(losses(0, 4000, healthy))))


def test_a_page_without_validation_or_notes_has_no_empty_parts(tmp_path: Path) -> None:
    text = render_page(verdict_on(tmp_path, plain(losses(0, 4000, healthy))))
    assert text.count("<svg") == 1 and ">validation<" not in text and "By timestep" not in text
    assert "<ul></ul>" not in text and "Notes" not in text and 'name="viewport"' in text


def test_the_page_is_whole_and_offline_and_shows_both_curves(tmp_path: Path) -> None:
    text = render_page(verdict_on(tmp_path, overfitting(0)))
    assert text.count("<svg") == 1 and ">validation<" in text and "overfitting" in text
    assert "http" not in text and "<script" not in text


def test_what_a_log_says_is_shown_as_text_never_as_markup(tmp_path: Path) -> None:
    (tmp_path / "<i>run").mkdir()
    path = tmp_path / "<i>run" / "train.log"
    path.write_text("\n".join(plain(losses(0, 400, healthy))) + "\n")
    assert "<i>" not in render_page(examine(path))


def test_the_command_prints_words_json_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "train.log"
    log.write_text("\n".join(plain(broken(losses(0, 300, settled), 250))) + "\n")
    assert main(["doctor", "training", str(log), "--html", str(tmp_path / "page.html")]) == 0
    assert "verdict: NOT FINITE" in capsys.readouterr().out and (tmp_path / "page.html").is_file()
    assert main(["doctor", "training", str(log), "--json", "--one_picture", "--prediction_type=epsilon"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "not finite"
    assert main(["doctor", "training", str(tmp_path / "nowhere")]) == 2
    assert "tee train.log" in capsys.readouterr().err


def test_every_state_has_its_advice_and_stands_in_the_docs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "doctor-training.md").read_text(encoding="utf-8")
    states = {known.state for known in KNOWN.values()} | {"rising", "done"}
    assert states == set(REMEDIES) & set(SEVERITIES)
    assert [s for s in states if f"| **{s}** |" not in text] == []
