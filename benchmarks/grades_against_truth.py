"""Claim: the grades of a real teacher's pictures follow how far they are from the truth. The learned eye's estimate of
that distance ranks them by 0.6 or better, an A lies at most at 0.7 of a C's distance, and of pictures that lost their
objects or their style 90 % are C, of those near the truth 5 %.

python benchmarks/grades_against_truth.py [--full] [--json] [--count N]

The teachers are the miniature's SDXL with its IP-Adapter and two worse ones, the same with noise on its weights. They
paint scenes and painters that neither they nor the eye have seen, at strengths, style scales and guidances from too
little to too much (`bottega.miniature.builder.tries`). What is right is known, for the world is drawn: the distance to
the nearest of six drawings with other strokes. Limits are calibrated on other drawn truths, as a run does it. A picture
lost its objects where the scene reader finds none of them at its place and its distance is above 3 (of drawn truths the
reader misses one in twenty), its style where the painter's kind of stroke is not what the classifier sees and its
distance is above 5. There is no peer: no public checker judges a picture against content and style.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from common.bench import Arguments, conclude, say, verdict
from scipy.stats import spearmanr

from bottega.miniature.builder.tries import (
    SIDE,
    STRETCH,
    WEIGHTS,
    LossReader,
    Lost,
    TeacherTry,
    shipped_teacher,
    teacher_tries,
)
from bottega.miniature.world import painter, render, scene
from bottega.models.config import ModelsConfig
from bottega.quality.calibration import calibrate
from bottega.quality.config import Thresholds
from bottega.quality.grading import Grader
from bottega.quality.measuring import ImageEncoder, Judge, Scores
from bottega.quality.stage import load_encoder

MEASURED_FROM = 7_200_000  # numbers of scenes and painters that nothing has learned from; a multiple of STRETCH
CALIBRATED_FROM = 7_900_000
NEAR = 3.0
RANK, RATIO, LOST, ACCUSED = 0.6, 0.7, 0.90, 0.05
FEWEST = 20  # pictures from which a share is judged

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """One judged try."""

    distance: float
    letter: str
    scores: Scores
    spoiled: float
    lost: Lost


def limits_of_truths(encoder: ImageEncoder | None, count: int) -> Thresholds:
    """Calibrated on drawn truths of scenes and painters that nobody else uses."""
    goods: list[Scores] = []
    copies: list[Scores] = []
    judge = Judge(encoder)
    for number in range(CALIBRATED_FROM, CALIBRATED_FROM + count):
        view, by = scene(3 * number), painter(number)
        content = render(view, None, size=SIDE)
        style = render(scene(3 * number + 1), by, 1, size=SIDE)
        good, copy = judge.measure([render(view, by, 0, size=SIDE), content], [content] * 2, [style] * 2)
        goods.append(good)
        copies.append(copy)
    return calibrate(goods, copies).thresholds


def judged(tries: list[TeacherTry], limits: Thresholds, encoder: ImageEncoder | None) -> list[Outcome]:
    """Grade all tries, and see what each lost."""
    judge = Judge(encoder)
    grade = Grader(limits)
    outcomes: list[Outcome] = []
    for made, lost in zip(tries, LossReader()(tries), strict=True):
        [scores] = judge.measure([made.picture], [made.content], [made.style])
        outcomes.append(Outcome(made.distance, grade(scores).letter, scores, made.spoiled, lost))
    return outcomes


def rank(outcomes: list[Outcome], score: str) -> float:
    """Correlation of ranks of a score with the distance."""
    values = [outcome.scores[score] for outcome in outcomes]
    distances = [outcome.distance for outcome in outcomes]
    return float(spearmanr(values, distances).statistic)


def mean_distances(outcomes: list[Outcome]) -> dict[str, float]:
    """By grade."""
    means: dict[str, float] = {}
    for letter in "ABC":
        of_letter = [outcome.distance for outcome in outcomes if outcome.letter == letter]
        if of_letter:
            means[letter] = round(float(np.mean(of_letter)), 3)
            means[f"n {letter}"] = len(of_letter)
    return means


def share_of_c(outcomes: list[Outcome]) -> float | None:
    """None where there are too few."""
    if len(outcomes) < FEWEST:
        return None
    return sum(outcome.letter == "C" for outcome in outcomes) / len(outcomes)


def main() -> int:
    """Paint, judge, print, and return 1 where a bar is missed."""
    arguments = Arguments(__doc__)
    arguments.add_size("--count", short=192, full=1008, help="tries")
    arguments.add_size("--truths", short=128, full=512, help="to calibrate on")
    asked = arguments.parse()
    cv2.setNumThreads(1)
    encoder = load_encoder(ModelsConfig(clip=str(WEIGHTS / "clip"), device="cpu", dtype="float32"))
    limits = limits_of_truths(encoder, asked.truths)
    say(f"limits from {asked.truths} truths: damage {limits.damage_max}, distance of an A {limits.distance_a}")
    tries: list[TeacherTry] = []
    for made in teacher_tries(shipped_teacher(), MEASURED_FROM, asked.count):
        tries.append(made)
        if len(tries) % STRETCH == 0:
            say(f"{len(tries)} tries")
    outcomes = judged(tries, limits, encoder)

    # What holds.
    ranks = {name: round(rank(outcomes, name), 3) for name in ("estimated_distance", "damage")}
    means = mean_distances(outcomes)
    ratio = round(means["A"] / means["C"], 3) if "A" in means and "C" in means else None
    lost = {name: share_of_c([one for one in outcomes if one.lost == name]) for name in ("objects", "style")}
    near = share_of_c([one for one in outcomes if one.distance <= NEAR])
    held = {
        "rank correlation": ranks["estimated_distance"] >= RANK,
        "A against C": None if ratio is None else ratio <= RATIO,
        "lost objects are C": None if lost["objects"] is None else lost["objects"] >= LOST,
        "lost styles are C": None if lost["style"] is None else lost["style"] >= LOST,
        "near the truth is not C": None if near is None else near <= ACCUSED,
    }
    result = {"tries": len(tries), "rank": ranks, "distance by grade": means, "A / C": ratio, "C of lost": lost}
    result |= {"C near the truth": near, "limits": limits.model_dump(), "outcomes": held}
    lines = [
        f"{len(tries)} tries; rank correlation with the distance: {ranks}",
        f"distance by grade: {means}, A / C {ratio}",
    ]
    lines.append(f"C of what lost its objects or style: {lost}; of what is within {NEAR} of the truth: {near}")
    lines += [f"  {name}: {verdict(outcome)}" for name, outcome in held.items()]
    missed = [name for name, outcome in held.items() if outcome is False]
    return conclude(asked, {**result, "held": not missed if asked.full else None}, lines)


if __name__ == "__main__":
    sys.exit(main())
