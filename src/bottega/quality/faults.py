"""Known damage at three fixed severities, put into good pictures: what detectors find, and what they wrongly reject.

Severe: nobody would train on it. Medium: visible at a glance at the picture alone, without the good one beside it.
Mild: visible when looked for. Pictures are uint8 sRGB [H, W, 3]; lengths are shares of the shorter side, so that a
fault looks the same at 128 and at 512 px, except for the mesh (a period of 3 to 6 px) and JPEG's blocks (8 px).

The severities were set by looking at contact sheets; four medium ones (saturated, scrambled, blur, washed) were raised,
for they could not be distinguished from a plausible picture (docs/log.md, "Injected faults").

| fault | what is done | mild | medium | severe |
|---|---|---|---|---|
| black | light kept, share | 0.12 | 0.04 | 0 |
| not_finite | values that are NaN, share | one | 0.001 | all |
| flat | contrast kept around the mean, share | 0.2 | 0.06 | 0 |
| clipped | values stretched beyond the range, share of those within it | 0.2 | 0.45 | 0.75 |
| saturated | rise of the mean of (largest - smallest channel), 0..1 | 0.12 | 0.4 | 0.5 |
| mesh | dot screen, peak of each of its two waves, levels | 8 | 20 | 45 |
| ghosting | weight of a copy moved by 4 to 9 % | 0.2 | 0.4 | 0.5 |
| scrambled | share of 8 x 8 tiles that change places | 0.25 | 0.75 | 1 |
| other_scene | share of the area that shows another good picture | 0.25 | 0.6 | 1 |
| untouched | the content: a fifth of the way to the good picture, re-encoded, itself | | | |
| colour_noise | standard deviation of each channel, levels | 12 | 35 | 80 |
| blocks | quality of a JPEG | 25 | 10 | 3 |
| washed | weight of a light grey | 0.35 | 0.7 | 0.85 |
| blur | Gaussian, share of the side | 0.006 | 0.025 | 0.04 |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bottega.quality.config import Thresholds
from bottega.quality.damage.common import Apply, Array, Floats, Subject, blurred, mixed
from bottega.quality.damage.light import burnt, darkened, flattened, saturated, washed
from bottega.quality.damage.place import blocks, ghosting, jpeg, other_scene, scrambled
from bottega.quality.damage.texture import blur, colour_noise, mesh
from bottega.quality.grading import CHECK_NAMES, Grade, Grader
from bottega.quality.measuring import ImageEncoder, Judge, Scores
from bottega.runtime.errors import RequestError
from bottega.runtime.seeds import numpy_rng
from bottega.visual.pictures import Picture

SEVERITIES = ("mild", "medium", "severe")


@dataclass(frozen=True)
class Fault:
    """One kind of damage.

    Attributes:
        apply: damages a subject's good picture at a strength.
        strengths: of mild, medium and severe.
        checks: those meant to find it.
    """

    apply: Apply
    strengths: tuple[float, float, float]
    checks: tuple[str, ...]


def inject(fault: str, severity: str, subject: Subject, index: int) -> Array:
    """The damaged picture: uint8 [H, W, 3], or float32 in 0..1 for `not_finite`.

    Args:
        fault: a name of FAULTS.
        severity: `mild`, `medium` or `severe`.
        index: number of the subject; what is random depends on fault, severity and this number only.

    Raises:
        RequestError: an unknown name, or pictures of different sizes.
    """
    if fault not in FAULTS or severity not in SEVERITIES:
        raise RequestError(
            f"a fault is one of {', '.join(FAULTS)} and a severity one of {', '.join(SEVERITIES)}, received {fault!r} "
            f"and {severity!r}; choose from these"
        )
    if len({subject.good.shape, subject.content.shape, subject.other.shape}) > 1:
        raise RequestError(
            f"a subject's pictures must have one size, received {subject.good.shape}, {subject.content.shape} and "
            f"{subject.other.shape}; load all with load_square"
        )
    kind = FAULTS[fault]
    strength = kind.strengths[SEVERITIES.index(severity)]
    return kind.apply(subject, strength, numpy_rng("injected fault", fault, severity, index))


def _not_finite(subject: Subject, strength: float, rng: np.random.Generator) -> Floats:
    picture = np.asarray(subject.good / 255, np.float32)
    count = max(1, round(strength * picture.size))
    picture.reshape(-1)[rng.choice(picture.size, count, replace=False)] = np.nan
    return picture


def _untouched(subject: Subject, strength: float, _: np.random.Generator) -> Picture:
    # The strength is no scale here: below 1 a mixture, above it encoded again, 1 the content itself.
    if strength < 1:
        return mixed(subject.content, subject.good, 1 - strength)
    if strength > 1:
        return jpeg(blurred(subject.content, 0.003), 50)
    return subject.content


_STRUCTURE = ("structure", "edge_64", "edge_128", "content")
FAULTS = {
    "black": Fault(darkened, (0.12, 0.04, 0.0), ("black", "constant")),
    "not_finite": Fault(_not_finite, (0.0, 0.001, 1.0), ("finite",)),
    "flat": Fault(flattened, (0.2, 0.06, 0.0), ("constant", "washed")),
    "clipped": Fault(burnt, (0.2, 0.45, 0.75), ("clipped",)),
    "saturated": Fault(saturated, (0.12, 0.4, 0.5), ("vivid",)),
    "mesh": Fault(mesh, (8, 20, 45), ("mesh",)),
    "ghosting": Fault(ghosting, (0.2, 0.4, 0.5), ("ghosting",)),
    "scrambled": Fault(scrambled, (0.25, 0.75, 1.0), _STRUCTURE),
    "other_scene": Fault(other_scene, (0.25, 0.6, 1.0), _STRUCTURE),
    "untouched": Fault(_untouched, (0.8, 2.0, 1.0), ("unchanged",)),
    "colour_noise": Fault(colour_noise, (12, 35, 80), ("noise",)),
    "blocks": Fault(blocks, (25, 10, 3), ("blocking",)),
    "washed": Fault(washed, (0.35, 0.7, 0.85), ("washed", "constant")),
    "blur": Fault(blur, (0.006, 0.025, 0.04), ("blur",)),
}


@dataclass
class Tally:
    """How the pictures of one kind were graded.

    Attributes:
        count: pictures.
        found: those graded C.
        own: those graded C by a check meant for this fault.
        causes: how often each check was a cause.
    """

    count: int = 0
    found: int = 0
    own: int = 0
    causes: dict[str, int] = field(default_factory=dict)

    def add(self, given: Grade, meant: tuple[str, ...] = ()) -> None:
        """Count one graded picture."""
        self.count += 1
        if given.letter != "C":
            return
        causes = set(given.causes)
        self.found += 1
        self.own += bool(causes & set(meant))
        for cause in causes:
            self.causes[cause] = self.causes.get(cause, 0) + 1

    def merged(self, other: Tally) -> Tally:
        """Both together."""
        causes = dict(self.causes)
        for name, number in other.causes.items():
            causes[name] = causes.get(name, 0) + number
        return Tally(self.count + other.count, self.found + other.found, self.own + other.own, causes)


Kind = tuple[str, str]  # (fault, severity), or GOOD for the picture as it is
GOOD: Kind = ("good", "")
Tallies = dict[Kind, Tally]


def measure_faults(
    subjects: Iterable[Subject],
    *,
    encoder: ImageEncoder | None,
    first: int = 0,
    faults: Sequence[str] = tuple(FAULTS),
) -> Iterator[dict[Kind, Scores]]:
    """The raw scores of every subject as it is and with each fault at each severity.

    Each subject is taken once, and its content and style are measured once.

    Args:
        subjects: good pictures.
        encoder: CLIP's; None leaves the similarities out.
        first: number of the first subject; what is random in the faults depends on it.
        faults: names of FAULTS.
    """
    judge = Judge(encoder, capacity=4)
    damages = [(fault, severity) for fault in faults for severity in SEVERITIES]
    for index, subject in enumerate(subjects, first):
        pictures = [subject.good]
        for fault, severity in damages:
            pictures.append(inject(fault, severity, subject, index))
        number = len(pictures)
        keys = [(f"c{index}", f"s{index}")] * number
        scores = judge.measure(pictures, [subject.content] * number, [subject.style] * number, keys=keys)
        yield dict(zip([GOOD, *damages], scores, strict=True))


def tally(measured: Iterable[Mapping[Kind, Scores]], limits: Thresholds) -> Tallies:
    """Grade what `measure_faults` measured."""
    tallies: Tallies = {}
    grade = Grader(limits)
    for rows in measured:
        for kind, row in rows.items():
            meant = FAULTS[kind[0]].checks if kind != GOOD else ()
            tallies.setdefault(kind, Tally()).add(grade(row), meant)
    return tallies


def count_faults(
    subjects: Iterable[Subject],
    limits: Thresholds,
    *,
    encoder: ImageEncoder | None,
    first: int = 0,
    faults: Sequence[str] = tuple(FAULTS),
) -> Tallies:
    """Judge every subject as it is and with each fault at each severity; arguments as of `measure_faults`."""
    return tally(measure_faults(subjects, encoder=encoder, first=first, faults=faults), limits)


def table(tallies: Tallies) -> str:
    """The tallies as text.

    A line a fault: for each severity the share found and, in brackets, that found by a check meant for it, in percent.
    Then each check's false positives.
    """
    lines = [_table_line("found (by its own check), %", SEVERITIES, "n")]
    for name in dict.fromkeys(fault for fault, _ in tallies if fault != GOOD[0]):
        cells = []
        for severity in SEVERITIES:
            one = tallies[name, severity]
            cells.append(f"{_percent(one.found, one.count)} ({_percent(one.own, one.count)})")
        lines.append(_table_line(name, cells, tallies[name, SEVERITIES[0]].count))
    good = tallies[GOOD]
    lines.append(f"good pictures graded C: {_percent(good.found, good.count)} % of {good.count}")
    accused = [f"{name} {good.causes[name]}" for name in CHECK_NAMES if name in good.causes]
    lines.append(f"false positives by check: {', '.join(accused) or 'none'}; all other checks 0")
    return "\n".join(lines)


def _table_line(name: str, cells: Iterable[str], count: int | str) -> str:
    return f"{name:28}" + "".join(f"{cell:>16}" for cell in cells) + f"{count:>9}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else "-"
