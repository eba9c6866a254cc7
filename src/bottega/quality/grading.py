"""From raw scores to a grade: A, B or C, a training weight, and the reasons as text.

C when anything is badly wrong, A when structure and content are clearly kept and the picture came nearer to the style,
B between. What is wrong is decided by the learned eye (`damage`); a detector alone makes a C only where it is certain
(black, one colour, unchanged, CLIP's content), where three agree, or where the eye was not asked. Else a detector that
fails lowers the damage that is enough for a C: one that knows a single fault takes hatching for a mesh.

A grade depends on the scores and the limits and nothing else, so a finished run is graded again without a picture or a
GPU. Scores may hold `latents_finite`, the share of finite values in the latents that a picture was decoded from, and
below 1 `content_finite`, `style_finite` and `text_finite`, the same of what it was made from: they decide nothing, but
tell why a picture is not finite or black.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bottega.quality.config import Thresholds
from bottega.quality.eye.look import CAUSE_PREFIX, CAUSE_SCORES


@dataclass(frozen=True)
class Grade:
    """A letter, its training weight, and why; each reason begins with the name of the check and a colon.

    `likely` is the cause that the learned eye names, where it is sure of one.
    """

    letter: str
    weight: float
    reasons: list[str]
    likely: str = ""

    @property
    def causes(self) -> list[str]:
        """The names of the checks behind the reasons, such as `edge_64` or `black`."""
        return [reason.split(":", 1)[0] for reason in self.reasons]


@dataclass(frozen=True)
class Check:
    """One bound on one score.

    Attributes:
        name: what reasons begin with; two bounds may share it.
        score: the name of the score.
        low, high: the field of `Thresholds` that bounds it from below or from above; one of the two.
        fault: what a person would see where the check fails, as text that the score's value follows.
        certain: it makes a C whatever the learned eye says.
        unsure: how far `damage` may lie below `damage_confirm` for the check to make a C alone: the eye then does not
            see the fault, and is not sure either that there is none.
    """

    name: str
    score: str
    low: str | None
    high: str | None
    fault: str
    certain: bool = False
    unsure: float = 0.0


# A quarter of the ghosts of weight 0.4 in drawn pictures look rather sound to the eye (damage from -0.5 to 1.3); good
# pictures with such an echo, hatching at 256 px, look sound without doubt (-4). Other checks stay at 0: blocks that a
# teacher's autoencoder leaves lie in between (docs/log.md, 2026-12-02).
_GHOST_UNSURE = 2.25

# The eye takes a medium grey wash for fog (damage from -2.6 up in nine of ten); it is surer than that of half of the
# good fog and drawings on white paper that the veil's score takes for a wash (docs/log.md, 2026-12-03).
_VEIL_UNSURE = 5.0

# In the order of the reasons: the gravest first.
CHECKS = (
    Check("black", "bright", "black_level", None, "all black, its brightest 1 %", certain=True),
    Check("constant", "spread", "spread_min", None, "nearly one colour, its spread", certain=True),
    Check(
        "clipped", "clipped_excess", None, "clipped_excess_max", "burnt out, clipped values beyond content and style"
    ),
    Check("vivid", "vivid_excess", None, "vivid_excess_max", "over-saturated, colourfulness beyond content and style"),
    Check("washed", "vigour", "vigour_min", None, "washed out, contrast and colour against those of content and style"),
    Check(
        "washed",
        "veil",
        None,
        "veil_max",
        "a pale veil, dark parts lighter than content's and style's",
        unsure=_VEIL_UNSURE,
    ),
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
    Check(
        "ghosting",
        "ghosting",
        None,
        "ghosting_max",
        "a second, moved copy of everything, its weight",
        unsure=_GHOST_UNSURE,
    ),
    Check("content", "content_sim", "content_sim_c", None, "content lost, CLIP similarity", certain=True),
    Check("unchanged", "change", "change_min", None, "an untouched copy, difference from the content", certain=True),
    Check(
        "unchanged",
        "coarse_change",
        "coarse_change_min",
        None,
        "a copy that was encoded again, difference from the content at 32 px",
        certain=True,
    ),
    Check("damage", "damage", None, "damage_max", "looks damaged,", certain=True),
    Check(
        "distance",
        "estimated_distance",
        None,
        "distance_c",
        "far from what the style's painter would have made, estimated distance",
        certain=True,
    ),
)
SURE_CAUSE = 0.6
"""Probability from which the eye's cause is named alone, and a retry follows it."""

AGREEING = 3
"""Checks that make a C together whatever the eye says: it may not know what is farther from all than its damages."""

CAUSE_TEXTS: dict[str, str] = {
    "light": "its light or contrast",
    "colour": "its colours",
    "noise": "noise or blotches",
    "pattern": "a pattern, mesh or seam",
    "blur": "blur or smearing",
    "geometry": "parts out of place",
    "scene": "things of another picture",
    "style": "the style's own things, or an unpainted part",
    "missing": "a missing part or a border",
    "compression": "compression or damaged latents",
}
"""What the eye's causes are, for a person."""

CHECK_NAMES = ("finite", *dict.fromkeys(check.name for check in CHECKS))  # two bounds may share a name
_BETTER = (("edge_64", "edge_64_a"), ("edge_128", "edge_128_a"), ("content_sim", "content_sim_a"))
_STYLE = Check("style", "style_gain", "style_gain_min", None, "no nearer to the style than the content was, gain")


class Grader:
    """Grades many pictures by the same limits; made once, for reading the limits takes longer than comparing."""

    def __init__(self, limits: Thresholds) -> None:
        self._weights = limits.weight_a, limits.weight_b, limits.weight_c
        self._checks = [_Bound.of(check, limits) for check in CHECKS]
        self._better = [(score, float(getattr(limits, field))) for score, field in _BETTER]
        self._style = _Bound.of(_STYLE, limits)
        # One limit switches the eye off: the other two must not decide then.
        self._confirming = limits.damage_confirm if limits.uses_eye else -math.inf
        self._damage_a = limits.damage_a if limits.uses_eye else math.inf
        self._distance_a = limits.distance_a if limits.uses_eye else math.inf

    def __call__(self, scores: Mapping[str, float]) -> Grade:
        """As `grade`."""
        weight_a, weight_b, weight_c = self._weights
        finite = scores.get("finite", 0.0)
        if not finite >= 1.0:  # written so that NaN fails too
            return Grade("C", weight_c, [_not_finite(scores)])
        if math.isnan(sum(scores.values())):  # the sum first: a run grades 100 000 rows, and hardly one has a NaN
            return Grade("C", weight_c, _not_numbers(scores))
        broken = self._broken(scores)
        reasons = [bound.reason(scores) for bound in broken]
        if self._decides(broken, scores):
            return Grade("C", weight_c, reasons, likely_cause(scores))
        doubts = [f"{reason}; the whole looks sound" for reason in reasons]
        # A score that failed its check need not be named again for missing the limit of an A.
        doubts += self._doubts(scores, named={bound.score for bound in broken})
        if doubts:
            return Grade("B", weight_b, doubts)
        return Grade("A", weight_a, [])

    def _decides(self, broken: Sequence[_Bound], scores: Mapping[str, float]) -> bool:
        """Whether what failed makes a C: the eye does not disagree, a check is certain, or several agree."""
        if not broken:
            return False
        damage = scores.get("damage")
        if damage is None or damage > self._confirming:
            return True
        if any(bound.check.certain or damage > self._confirming - bound.check.unsure for bound in broken):
            return True
        return len({bound.check.name for bound in broken}) >= AGREEING

    def _doubts(self, scores: Mapping[str, float], named: Collection[str]) -> list[str]:
        """Why a picture without a fault is no A, but for the scores that are `named` already."""
        doubts = []
        damage = scores.get("damage")
        if damage is not None and damage > self._damage_a:
            doubts.append(f"damage: {damage:.3f}, an A has at most {self._damage_a:.3f}{_causes_text(scores)}")
        distance = scores.get("estimated_distance")
        if distance is not None and distance > self._distance_a and "estimated_distance" not in named:
            doubts.append(f"estimated_distance: {distance:.3f}, an A has at most {self._distance_a:.3f}")
        for score, limit in self._better:
            value = scores.get(score)
            if value is None:
                doubts.append(f"{score}: not measured")
            elif value < limit and score not in named:
                doubts.append(f"{score}: {value:.3f}, an A has at least {limit:.3f}")
        if not self._style.holds(scores):
            doubts.append(self._style.reason(scores))
        return doubts

    def failed(self, scores: Mapping[str, float]) -> list[Check]:
        """The checks that a finite picture does not pass, in their order.

        A score that was not taken passes (and caps the grade at B).
        """
        return [bound.check for bound in self._broken(scores)]

    def decisive(self, scores: Mapping[str, float]) -> list[Check]:
        """Those of the checks that a finite picture does not pass which make it a C; none where the eye disagrees."""
        broken = self._broken(scores)
        return [bound.check for bound in broken] if self._decides(broken, scores) else []

    def evidence(self, check: Check, scores: Mapping[str, float]) -> str:
        """What a check that a picture does not pass found, as a grade's reason says it behind the check's name."""
        bound = next(bound for bound in self._checks if bound.check is check)
        return bound.reason(scores).removeprefix(f"{check.name}: ")

    def _broken(self, scores: Mapping[str, float]) -> list[_Bound]:
        broken = []
        for bound in self._checks:  # `holds` without a call: the inner loop of grading a run again
            value = scores.get(bound.score)
            if value is not None and not bound.least <= value <= bound.most:
                broken.append(bound)
        return broken


class _Bound(NamedTuple):
    """A check with its limits as numbers."""

    check: Check
    score: str
    least: float
    most: float
    rule: str

    @classmethod
    def of(cls, check: Check, limits: Thresholds) -> _Bound:
        field = check.low or check.high
        assert field is not None  # every check has a bound
        limit = float(getattr(limits, field))
        if check.low is None:
            return cls(check, check.score, -math.inf, limit, f"at most {limit:.3f}")
        # `black_level` must be exceeded: the next larger number is the least that passes.
        least = math.nextafter(limit, math.inf) if field == "black_level" else limit
        return cls(check, check.score, least, math.inf, f"at least {limit:.3f}")

    def holds(self, scores: Mapping[str, float]) -> bool:
        """Whether the score keeps the bound; one that was not measured does."""
        value = scores.get(self.score)
        return value is None or self.least <= value <= self.most

    def reason(self, scores: Mapping[str, float]) -> str:
        """Why the picture fails."""
        reason = f"{self.check.name}: {self.check.fault} {scores[self.score]:.3f}, {self.rule}"
        if self.check.name == "black":
            reason += _origin(scores)
        elif self.check.name == "damage":
            reason += _causes_text(scores) + _area_text(scores)
        return reason


def likely_cause(scores: Mapping[str, float]) -> str:
    """The cause that the learned eye names, where it is sure; "" where it is not, or was not asked."""
    causes = _causes(scores)
    if not causes or causes[0][1] < SURE_CAUSE:
        return ""
    return causes[0][0]


def _causes(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """The eye's causes with their probabilities, the most likely first."""
    known: list[tuple[str, float]] = []
    for name in CAUSE_SCORES:
        if name in scores:
            known.append((name.removeprefix(CAUSE_PREFIX), scores[name]))
    return sorted(known, key=lambda cause: -cause[1])


def _causes_text(scores: Mapping[str, float]) -> str:
    """The likely cause with its probability; two where they can't be distinguished."""
    causes = _causes(scores)
    if not causes:
        return ""
    first, share = causes[0]
    if share >= SURE_CAUSE or len(causes) == 1:
        return f"; likely {CAUSE_TEXTS[first]} ({share:.0%})"
    second, second_share = causes[1]
    return f"; {CAUSE_TEXTS[first]} ({share:.0%}) or {CAUSE_TEXTS[second]} ({second_share:.0%}), not to distinguish"


def _area_text(scores: Mapping[str, float]) -> str:
    area = scores.get("damage_area")
    return "" if area is None else f"; in {area:.0%} of the picture"


def _not_numbers(scores: Mapping[str, float]) -> list[str]:
    names = [name for name, value in scores.items() if math.isnan(value)]
    return [f"finite: the score {name} is not a number" for name in names]


def _not_finite(scores: Mapping[str, float]) -> str:
    finite = scores.get("finite", math.nan)
    if math.isnan(finite):
        return "finite: not measured"
    return f"finite: {1 - finite:.1%} of the values are not finite{_origin(scores)}"


_INPUT_FAILURES = {
    "text_finite": "a text encoder gave values for the prompt that are not finite",
    "style_finite": "the image encoder gave values for the style that are not finite",
    "content_finite": "the autoencoder's encoder gave values for the content that are not finite, in fp32",
}
"""By score, in the order in which the first one is named: all of them come before the U-Net."""


def _origin(scores: Mapping[str, float]) -> str:
    """Where a picture that is black or not finite went wrong, if the teacher recorded its inputs and its latents."""
    for name, failure in _INPUT_FAILURES.items():
        if scores.get(name, 1.0) < 1:
            return f"; {failure}"
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
    return Grader(thresholds)(scores)


def pass_rates(scores: Iterable[Mapping[str, float]], thresholds: Thresholds) -> dict[str, float]:
    """Share of the pictures that pass each check, 0..1; a picture that is not finite passes none. Read as a stream.

    A check whose score was never measured (CLIP's without a CLIP) is absent.
    """
    passed = dict.fromkeys(CHECK_NAMES, 0)
    measured: set[str] = set()
    grader = Grader(thresholds)
    count = 0
    for row in scores:
        count += 1
        if row.get("finite", 0.0) >= 1.0:
            measured.update(row)
            failed = {check.name for check in grader.failed(row)}
            for name in CHECK_NAMES:  # `finite` is never among those that failed
                passed[name] += name not in failed
    unasked = _unasked(measured) if measured else set()
    return {name: number / max(1, count) for name, number in passed.items() if name not in unasked}


def _unasked(measured: Collection[str]) -> set[str]:
    """The checks none of whose scores is among those that were measured."""
    asked = {check.name for check in CHECKS if check.score in measured}
    return set(CHECK_NAMES) - asked - {"finite"}


def alarms(rates: Mapping[str, float], count: int) -> list[str]:
    """Warnings of checks that let none or all of `count` pictures pass: such a check may not be working.

    Those that let all pass stand in one line, for a good run has them too: a person should know, and need not worry.
    """
    if count < 20:  # too few pictures to tell
        return []
    warnings = []
    for name, rate in rates.items():
        if rate <= 0.0:
            warnings.append(
                f"check {name} rejects every one of {count} pictures: look at the contact sheet and calibrate again"
            )
    silent = [name for name, rate in rates.items() if rate >= 1.0]
    if silent:
        warnings.append(f"checks that rejected none of {count} pictures: {', '.join(silent)}")
    unasked = [name for name in CHECK_NAMES if name not in rates]
    if unasked:
        warnings.append(f"checks that were not asked, for their scores were not measured: {', '.join(unasked)}")
    return warnings
