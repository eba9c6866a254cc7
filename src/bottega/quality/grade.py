"""From raw scores to a grade: A, B or C, a training weight, and the reasons in words.

C when anything is badly wrong, A when structure and content are clearly kept and the picture came nearer to the style,
B between. A grade depends on the scores and the limits and nothing else, so a finished run is graded again without a
picture or a GPU. Scores may hold `latents_finite`, the share of finite values in the latents that a picture was decoded
from: it decides nothing, but says why a picture is not finite or black.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bottega.quality.config import Thresholds


@dataclass(frozen=True)
class Grade:
    """A letter, its training weight, and why; each reason begins with the name of the check and a colon."""

    letter: str
    weight: float
    reasons: list[str]

    @property
    def causes(self) -> list[str]:
        """The names of the checks behind the reasons, such as `edge_64` or `black`."""
        return [reason.split(":", 1)[0] for reason in self.reasons]


@dataclass(frozen=True)
class Check:
    """One bound on one score. `low` and `high` name fields of Thresholds; the fault's words say what the eye would
    see.
    """

    name: str
    score: str
    low: str | None
    high: str | None
    words: str


# The order is the order of the reasons: the gravest first.
CHECKS = (
    Check("black", "bright", "black_level", None, "all black, its brightest 1 %"),
    Check("constant", "spread", "spread_min", None, "nearly one colour, its spread"),
    Check(
        "clipped", "clipped_excess", None, "clipped_excess_max", "burnt out, clipped values beyond content and style"
    ),
    Check("vivid", "vivid_excess", None, "vivid_excess_max", "over-saturated, colourfulness beyond content and style"),
    Check("washed", "vigour", "vigour_min", None, "washed out, contrast and colour against those of content and style"),
    Check(
        "structure", "structure", "structure_min", None, "light and dark are not where the content has them, similarity"
    ),
    Check("edge_64", "edge_64", "edge_64_c", None, "coarse structure lost, edge similarity at 64 px"),
    Check("edge_128", "edge_128", "edge_128_c", None, "fine structure lost, edge similarity at 128 px"),
    Check(
        "blur", "hf_ratio", "hf_ratio_min", None, "blurred, energy of edges against the stronger of content and style"
    ),
    Check(
        "blur", "sharpness", "sharpness_min", None, "blurred, steepest outline against the softer of content and style"
    ),
    Check(
        "frequency",
        "hf_ratio",
        None,
        "hf_ratio_max",
        "mesh or noise, energy of edges against the stronger of content and style",
    ),
    Check("mesh", "mesh", None, "mesh_max", "a regular mesh, its wave beyond those of content and style"),
    Check("noise", "noise", None, "noise_max", "colour noise in levels beyond content and style"),
    Check("blocking", "blocking", None, "blocking_max", "blocks of 8 px, steps in levels beyond content and style"),
    Check(
        "blocking",
        "blocking_share",
        None,
        "blocking_share_max",
        "nothing but blocks of 8 px, share beyond content and style",
    ),
    Check("ghosting", "ghosting", None, "ghosting_max", "a second, moved copy of everything, its weight"),
    Check("content", "content_sim", "content_sim_c", None, "content lost, CLIP similarity"),
    Check("unchanged", "change", "change_min", None, "an untouched copy, difference from the content"),
)
CHECK_NAMES = ("finite", *dict.fromkeys(check.name for check in CHECKS))  # two bounds may share a name
_BETTER = (("edge_64", "edge_64_a"), ("edge_128", "edge_128_a"), ("content_sim", "content_sim_a"))
_STYLE = Check("style", "style_gain", "style_gain_min", None, "no nearer to the style than the content was, gain")


def passes(check: Check, scores: Mapping[str, float], limits: Thresholds) -> bool:
    """Whether the score lies within the check's bounds; a score that was not taken passes (and caps the grade at B)."""
    value = scores.get(check.score)
    if value is None:
        return True
    above = check.low is None or (
        value > getattr(limits, check.low) if check.low == "black_level" else value >= getattr(limits, check.low)
    )
    return above and (check.high is None or value <= getattr(limits, check.high))


def _words(check: Check, scores: Mapping[str, float], limits: Thresholds) -> str:
    rule, field = ("at least", check.low) if check.low is not None else ("at most", check.high)
    assert field is not None  # every check has a bound
    words = f"{check.name}: {check.words} {scores[check.score]:.3f}, {rule} {getattr(limits, field):.3f}"
    return words + _origin(scores) if check.name == "black" else words


def _origin(scores: Mapping[str, float]) -> str:
    """Where a picture that is black or not finite went wrong, if the teacher entered what its latents were."""
    share = scores.get("latents_finite")
    if share is None:
        return ""
    if share >= 1:
        return "; its latents were finite: the autoencoder overflowed"
    return "; its latents were not finite"


def grade(scores: Mapping[str, float], thresholds: Thresholds) -> Grade:
    """Grade a picture from its raw scores alone.

    A score that is missing because it was not measured (no encoder, a flat content) does not make a C, but no A either.
    """
    finite = scores.get("finite", 0.0)
    if not finite >= 1.0:  # written so that NaN fails too
        return Grade(
            "C",
            thresholds.weight_c,
            [f"finite: {1 - finite:.1%} of the values are not finite{_origin(scores)}"]
            if finite == finite and "finite" in scores
            else ["finite: not measured"],
        )
    spoilt = [name for name, value in scores.items() if value != value]
    if spoilt:
        return Grade("C", thresholds.weight_c, [f"finite: the score {name} is not a number" for name in spoilt])
    faults = [_words(check, scores, thresholds) for check in CHECKS if not passes(check, scores, thresholds)]
    if faults:
        return Grade("C", thresholds.weight_c, faults)
    doubts = []
    for score, field in _BETTER:
        value, limit = scores.get(score), getattr(thresholds, field)
        if value is None:
            doubts.append(f"{score}: not measured")
        elif value < limit:
            doubts.append(f"{score}: {value:.3f}, an A has at least {limit:.3f}")
    if not passes(_STYLE, scores, thresholds):
        doubts.append(_words(_STYLE, scores, thresholds))
    if doubts:
        return Grade("B", thresholds.weight_b, doubts)
    return Grade("A", thresholds.weight_a, [])


def pass_rates(scores: Iterable[Mapping[str, float]], thresholds: Thresholds) -> dict[str, float]:
    """Share of the pictures that pass each check, 0..1; a picture that is not finite passes none. Read as a stream."""
    passed = dict.fromkeys(CHECK_NAMES, 0)
    count = 0
    for row in scores:
        count += 1
        if row.get("finite", 0.0) >= 1.0:
            passed["finite"] += 1
            failed = {check.name for check in CHECKS if not passes(check, row, thresholds)}
            for name in CHECK_NAMES[1:]:
                passed[name] += name not in failed
    return {name: number / max(1, count) for name, number in passed.items()}


def alarms(rates: Mapping[str, float], count: int) -> list[str]:
    """Words about checks that let nothing or everything of `count` pictures through: such a check may not be working.

    "Everything" is said in one line, for it is what a good run looks like too; it is for a person to know, not to fear.
    """
    if count < 20:
        return []
    silent = [name for name, rate in rates.items() if rate >= 1.0]
    words = [
        f"check {name} rejects every one of {count} pictures: look at the contact sheet and calibrate again"
        for name, rate in rates.items()
        if rate <= 0.0
    ]
    if silent:
        words.append(f"checks that rejected none of {count} pictures: {', '.join(silent)}")
    return words
