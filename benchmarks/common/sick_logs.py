"""Training logs of known cause, and healthy ones, as CSV that every doctor reads.

A calm log has losses with a noise of 3 to 12 %, a noisy one of 50 %; all else is drawn again for each log: length,
level, schedule, where the fault begins and how large it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
COLUMNS = ("loss", "eval_loss", "lr", "grad_norm", "step_time", "data_time", "rss_mb")


@dataclass
class Log:
    """A run that is in order, until a cause changes it.

    share: [N], how much is done at each line, 0 to 1. level: [N], of the loss without its noise. loss and the rest:
    [N], as they are written; eval_loss is NaN where there is no validation. spread: of the loss's logarithm.
    """

    rng: np.random.Generator
    spread: float
    steps: F64
    share: F64
    level: F64
    loss: F64
    eval_loss: F64
    lr: F64
    grad_norm: F64
    step_time: F64
    data_time: F64
    rss_mb: F64
    absent: set[str] = field(default_factory=set)

    @property
    def count(self) -> int:
        return len(self.steps)

    def place(self, low: float, high: float) -> int:
        """A line somewhere between two shares of the log."""
        return int(self.count * self.rng.uniform(low, high))

    def recompute(self, level: F64) -> None:
        """Another course of the loss, with the same noise."""
        self.loss = self.loss / self.level * level
        self.level = level

    def write(self, path: Path) -> None:
        """As CSV. A number that is not finite is written `nan`, as Python prints it."""
        names = [name for name in COLUMNS if name not in self.absent]
        columns = [getattr(self, name) for name in names]
        with path.open("w", encoding="utf-8") as stream:
            print(",".join(["step", *names]), file=stream)
            for place, step in enumerate(self.steps):
                cells = [str(int(step))]
                for name, column in zip(names, columns, strict=True):
                    value = float(column[place])
                    is_blank = name == "eval_loss" and math.isnan(value)
                    cells.append("" if is_blank else f"{value:.6g}")
                print(",".join(cells), file=stream)


def healthy(rng: np.random.Generator, spread: float, *, low: int = 400, high: int = 700) -> Log:
    """A run in order: its loss falls to a floor or hardly falls, its rate warms up and decays, its first gradients are
    large, its first step compiles, some steps save a checkpoint, and its memory fills in the first lines."""
    count = int(rng.integers(low, high))
    steps = np.arange(1.0, count + 1)
    share = (steps - 1) / count
    level = _course(rng, share)
    evaluated = np.where(steps % max(count // 20, 1) == 0, level * rng.uniform(1.0, 1.2), np.nan)
    gradient = rng.uniform(0.1, 2.0) * (1 + rng.uniform(0, 6) * np.exp(-share * rng.uniform(10, 60)))
    seconds = rng.uniform(0.05, 3.0) * rng.lognormal(0, rng.uniform(0.02, 0.2), count)
    seconds[0] *= rng.uniform(1, 30)
    seconds[:: int(rng.integers(80, 200))] *= rng.uniform(1, 8)
    return Log(
        rng=rng,
        spread=spread,
        steps=steps,
        share=share,
        level=level,
        loss=level * rng.lognormal(0, spread, count),
        eval_loss=evaluated * rng.lognormal(0, min(spread, 0.1) / 4, count),
        lr=_schedule(rng, share),
        grad_norm=gradient * rng.lognormal(0, rng.uniform(0.1, 0.45), count),
        step_time=seconds,
        data_time=seconds * rng.uniform(0.005, 0.12) * rng.lognormal(0, 0.3, count),
        rss_mb=rng.uniform(2000, 40_000) * (1 - 0.3 * np.exp(-share * 80)) * (1 + 0.002 * rng.standard_normal(count)),
    )


def _course(rng: np.random.Generator, share: F64) -> F64:
    """The loss of a diffusion model: it falls to a floor, slowly by a power, or hardly at all, as in fine-tuning."""
    level = rng.uniform(0.02, 0.4)
    kind = rng.integers(3)
    if kind == 0:
        return level * (1 + rng.uniform(1, 8) * np.exp(-share * rng.uniform(6, 30)))
    if kind == 1:
        return level * (1 + share * rng.uniform(10, 60)) ** -rng.uniform(0.1, 0.4)
    return level * (1 - rng.uniform(0, 0.08) * share)


def _schedule(rng: np.random.Generator, share: F64) -> F64:
    """Constant, cosine or linear, the last two to zero or to a tenth; after a warm-up or without one."""
    peak = 10 ** rng.uniform(-6, -3)
    last = rng.choice([0.0, 0.1])
    kind = rng.integers(3)
    decay = np.ones_like(share)
    if kind == 1:
        decay = last + (1 - last) * (1 + np.cos(np.pi * share)) / 2
    elif kind == 2:
        decay = 1 - (1 - last) * share
    warm_up = np.minimum(1, share / rng.uniform(0.01, 0.1)) if rng.random() < 0.7 else 1.0
    return peak * decay * warm_up


# --- causes: each changes a healthy log ------------------------------------------------------------------------------


def flat(log: Log) -> None:
    """From the start, at a rate that is not zero."""
    log.recompute(np.full(log.count, log.rng.uniform(0.05, 2.0)))


def late_plateau(log: Log) -> None:
    """It falls three- to tenfold in the first half, and not at all after it."""
    fall = np.maximum(0, 1 - log.share / log.rng.uniform(0.3, 0.5))
    log.recompute(0.05 * np.exp(math.log(log.rng.uniform(3, 10)) * fall))


def waves(log: Log) -> None:
    """A sine of five to ten periods."""
    turns, size = log.rng.uniform(5, 10), log.rng.uniform(0.35, 0.8)
    log.recompute(0.1 * np.exp(size * np.sin(2 * np.pi * turns * log.share)))


def sharp_waves(log: Log) -> None:
    """A square wave or a sawtooth of four to nine periods."""
    turns, size = log.rng.uniform(4, 9), log.rng.uniform(0.35, 0.8)
    phase = turns * log.share % 1
    wave = np.where(phase < 0.5, 1.0, -1.0) if log.rng.random() < 0.5 else 2 * phase - 1
    log.recompute(0.1 * np.exp(size * wave))


def diverging(log: Log) -> None:
    """From three fifths on or later it grows three- to twentyfold."""
    begin = log.rng.uniform(0.6, 0.8)
    growth = np.maximum(0, (log.share - begin) / (1 - begin))
    log.recompute(log.level * np.exp(math.log(log.rng.uniform(3, 20)) * growth))


def blown_up(log: Log) -> None:
    """All at once, and it stays."""
    begin = log.place(0.6, 0.9)
    log.recompute(np.where(np.arange(log.count) < begin, log.level, log.level[0] * log.rng.uniform(3, 10)))


def not_a_number(log: Log) -> None:
    begin = log.place(0.3, 0.9)
    log.loss[begin:] = np.nan
    log.grad_norm[begin:] = np.nan


def rate_zero(log: Log) -> None:
    """In the whole log, so that the loss does not move."""
    flat(log)
    log.lr[:] = 0.0


def rate_zero_later(log: Log) -> None:
    """From somewhere between a third and two thirds on, from where the loss does not move either."""
    begin = log.place(0.33, 0.67)
    log.lr[begin:] = 0.0
    level = log.level.copy()
    level[begin:] = level[begin]
    log.recompute(level)


def spikes(log: Log) -> None:
    """One to three of three to eight lines, five- to fifteenfold, all of them back."""
    for part in range(int(log.rng.integers(1, 4))):
        begin = log.place(0.15 + 0.25 * part, 0.35 + 0.25 * part)
        log.loss[begin : begin + int(log.rng.integers(3, 9))] *= log.rng.uniform(5, 15)


def overfitting(log: Log) -> None:
    """The validation loss turns between a quarter and a half, the training loss goes on falling."""
    turn, rise = log.rng.uniform(0.25, 0.5), log.rng.uniform(0.5, 2.0)
    log.recompute(0.05 + 0.3 * np.exp(-5 * log.share))
    held = 0.08 + 0.3 * np.exp(-8 * log.share) + 0.1 * rise * np.maximum(0, log.share - turn) / (1 - turn)
    log.eval_loss = np.where(np.isnan(log.eval_loss), np.nan, held * log.rng.lognormal(0, 0.01, log.count))


def resumed_badly(log: Log) -> None:
    """The steps go back by some, and the loss is 1.6 to four times what it was."""
    begin, factor = log.place(0.4, 0.7), log.rng.uniform(1.6, 4)
    log.steps[begin:] -= int(log.rng.integers(5, 30))
    log.recompute(np.where(np.arange(log.count) < begin, log.level, factor * log.level))


def gradient_leaps(log: Log) -> None:
    """Some single norms, 30 to 300 times the usual."""
    places = log.rng.choice(np.arange(log.count // 4, log.count), size=int(log.rng.integers(1, 6)), replace=False)
    log.grad_norm[places] *= 10 ** log.rng.uniform(1.5, 2.5)


def gradient_grows(log: Log) -> None:
    """From half of the log on or later, to 30 to 1000 times."""
    begin = log.rng.uniform(0.5, 0.8)
    log.grad_norm *= 10 ** (log.rng.uniform(1.5, 3) * np.maximum(0, (log.share - begin) / (1 - begin)))


def gradient_not_finite(log: Log) -> None:
    """To the end, while the loss that is printed looks as before, as a filter of NaN has it."""
    log.grad_norm[log.place(0.3, 0.8) :] = np.nan


def zero_for_nan(log: Log) -> None:
    """A loss of 0 beside a gradient that is NaN: what transformers' Trainer prints for a NaN."""
    begin = log.place(0.3, 0.8)
    log.loss[begin:] = 0.0
    log.grad_norm[begin:] = np.nan


def no_gradient(log: Log) -> None:
    flat(log)
    log.grad_norm[:] = 0.0


def frozen(log: Log) -> None:
    """Every loss is the same number."""
    log.loss[:] = log.rng.uniform(0.1, 3)


def zero_loss(log: Log) -> None:
    """From somewhere on to the end."""
    log.loss[log.place(0.3, 0.8) :] = 0.0


def waiting_for_data(log: Log) -> None:
    """55 to 85 % of each step."""
    log.data_time = log.step_time * np.clip(
        log.rng.uniform(0.55, 0.85) + 0.05 * log.rng.standard_normal(log.count), 0, 1
    )


def slower_at_once(log: Log) -> None:
    """3.5 to six times, from half of the log on or later."""
    log.step_time[log.place(0.5, 0.75) :] *= log.rng.uniform(3.5, 6)


def slower_and_slower(log: Log) -> None:
    """Each step a little, 2.5- to fourfold in all."""
    log.step_time *= 1 + log.rng.uniform(1.5, 3) * log.share


def slow_now_and_then(log: Log) -> None:
    """Every twentieth to fiftieth step takes 15 to 40 times as long."""
    log.step_time[int(log.rng.integers(0, 20)) :: int(log.rng.integers(20, 50))] *= log.rng.uniform(15, 40)


def memory_grows(log: Log) -> None:
    """By 40 to 200 %, evenly."""
    log.rss_mb *= 1 + log.rng.uniform(0.4, 2) * log.share


CAUSES: dict[str, Callable[[Log], None]] = {
    "flat from the start": flat,
    "late plateau": late_plateau,
    "oscillating, sine": waves,
    "oscillating, sharp": sharp_waves,
    "diverging late": diverging,
    "blown up at once": blown_up,
    "NaN to the end": not_a_number,
    "learning rate 0": rate_zero,
    "learning rate 0 from mid-run": rate_zero_later,
    "spikes, recovered": spikes,
    "overfitting": overfitting,
    "resumed with a jump": resumed_badly,
    "gradient leaps": gradient_leaps,
    "gradient grows": gradient_grows,
    "gradient NaN": gradient_not_finite,
    "loss 0, gradient NaN": zero_for_nan,
    "no gradient": no_gradient,
    "frozen": frozen,
    "loss 0 to the end": zero_loss,
    "waiting for data": waiting_for_data,
    "slower at once": slower_at_once,
    "slower and slower": slower_and_slower,
    "slow steps now and then": slow_now_and_then,
    "memory grows": memory_grows,
}
