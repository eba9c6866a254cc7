"""Claim: quality control finds a family of damage that it never saw. With the limits that it comes with and an eye
that has not learned from a family, 92 % of it is C where it is severe (75 % in the worst family) and 75 % where it is
medium; of good stylisations 2 % are C, 5 % in the worst kind.

python benchmarks/unseen_faults.py [--full] [--json] [--folder DIR] [--triples N] [--steps N] [--folds N] [--count N]
    [--without-spaces]

Sixty families of damage (`bottega.quality.damage`) are dealt into folds. For each fold a network is trained on all
other families and judges this fold's alone; so no family is measured by a network that has seen it. All networks learn
from spaces of nameless damage too (any mixing of channels, any curve, …), and some draws of a space are near to a
family that was left out; `--without-spaces` leaves out all spaces as well. They learn from made-up contents and the
drawn world. They are measured on photographs of scikit-image's wheel that they have not seen either, at 256 and 512 px,
stylised by 25 techniques, and on the drawn world's own truths by painters that they have not seen.

A picture is graded as always, from the detectors' scores and the eye's; the detectors are the same in all folds, and
some know a fault by name. Good pictures are judged by all networks; the share accused is their mean. A good picture
that hardly differs from its content is left out: it is an untouched copy. Half of the photographs have hardly any
colour, where a damage to colour alone is hardly one; those of contents with colour are counted by themselves, too, and
no bar is measured by that. There is no peer: no public checker judges a picture against its content and style. With
--folder everything that was made is kept, and the next call uses it.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypedDict

import cv2
import numpy as np
import numpy.typing as npt
import torch
from common.bench import Arguments, conclude, die_with_parent, say, verdict
from injected_faults import PHOTOGRAPHS, photograph

from bottega.miniature.builder.eye import drawn_truth, learned
from bottega.quality.config import Thresholds
from bottega.quality.damage import FAMILIES
from bottega.quality.eye.cells import GRID
from bottega.quality.eye.inputs import RATIO_FLOOR, SCORE_INPUTS
from bottega.quality.eye.training.build import make_shards, read_shards
from bottega.quality.eye.training.examples import (
    GOOD,
    EyeExample,
    damage_mask,
    made_up,
    measured_picture,
)
from bottega.quality.eye.training.fit import FitConfig, cause_numbers, fit, verdicts
from bottega.quality.eye.training.model import EyeNetwork
from bottega.quality.eye.training.random_damage import RANDOM_FAMILIES
from bottega.quality.eye.training.store import ExampleStore
from bottega.quality.grading import Grader
from bottega.quality.measuring import reference
from bottega.runtime.seeds import numpy_rng
from bottega.visual.pictures import Picture

SEVERITIES = {"medium": 0.5, "severe": 1.0}
MEANS = {"severe": 0.92, "medium": 0.75}
WORST_SEVERE = 0.75
ACCUSED, ACCUSED_OF_A_KIND = 0.02, 0.05
WORLDS = {"photographs, 256 px": 256, "photographs, 512 px": 512, "drawn truths": 256}
PARTS = 3  # of the families, one for each subject by turns
STRETCH = 20
COLOUR_ALONE = ("greyed", "channels_swapped", "hue_turned")  # families that leave a grey picture as it is
COLOURED = 10.0  # mean chroma of a content with colour, of Lab's 0..255
SPACES = frozenset(RANDOM_FAMILIES)
"""What is learned from beside the families."""

MEASURED_FROM = 7_000_000  # numbers of the triples that nothing has learned from


def crop(rng: np.random.Generator, side: int) -> Picture:
    """A random square of a photograph."""
    whole = photograph(PHOTOGRAPHS[int(rng.integers(len(PHOTOGRAPHS)))])
    high, wide = whole.shape[:2]
    length = int(rng.uniform(0.6, 1) * min(high, wide))
    top = int(rng.integers(0, high - length + 1))
    left = int(rng.integers(0, wide - length + 1))
    part = np.ascontiguousarray(whole[top : top + length, left : left + length])
    way = cv2.INTER_AREA if length > side else cv2.INTER_CUBIC
    part = np.asarray(cv2.resize(part, (side, side), interpolation=way), np.uint8)
    return np.ascontiguousarray(part[:, ::-1]) if rng.random() < 0.5 else part


@dataclass(frozen=True)
class Stretch:
    """Subjects of one world."""

    world: str
    first: int
    count: int


def measured(stretch: Stretch) -> list[EyeExample]:
    """Good pictures and damaged ones of some subjects."""
    cv2.setNumThreads(1)
    found: list[EyeExample] = []
    for index in range(stretch.first, stretch.first + stretch.count):
        found += list(judged(stretch.world, index))
    return found


def judged(world: str, index: int) -> Iterator[EyeExample]:
    """The examples of one subject: good pictures, and a third of the families at two severities."""
    side = WORLDS[world]
    if world.startswith("drawn"):
        good = drawn_truth(MEASURED_FROM + index, side)
    else:
        good = made_up(MEASURED_FROM + index, side, draw=crop, vary=False)
    subject = good.subject
    own, style = reference(subject.content), reference(subject.style)

    def example(picture: Picture, family: str, severity: float, mask: npt.NDArray[np.float32]) -> EyeExample:
        measured_triple = measured_picture(picture, own, style)
        return EyeExample(index, good.kind, family, severity, mask, math.nan, measured_triple)

    nothing = np.zeros((GRID, GRID), np.float32)
    for picture in (subject.good, *good.more):
        yield example(picture, GOOD, 0.0, nothing)
    rng = numpy_rng("unseen faults", world, index)
    for name in list(FAMILIES)[index % PARTS :: PARTS]:
        family = FAMILIES[name]
        for severity in SEVERITIES.values():
            picture = family.apply(subject, family.strength(severity), rng)
            mask = damage_mask(picture, subject.good)
            if float(mask.mean()) > 0.02:  # grey times any colour stays grey: nothing is there to be found
                yield example(picture, name, severity, mask)


def world_store(pool: ProcessPoolExecutor, folder: Path, world: str, count: int) -> ExampleStore:
    """All examples of a world, kept in the folder."""
    path = folder / f"{world.replace(', ', '-').replace(' ', '-')}-{count}.npz"
    if not path.is_file():
        say(f"{world}: {count} subjects")
        stretches = [Stretch(world, first, min(STRETCH, count - first)) for first in range(0, count, STRETCH)]
        found: list[EyeExample] = []
        for part in pool.map(measured, stretches):
            found += part
        ExampleStore.collect(found).save(path)
    return ExampleStore.load(path)


@dataclass(frozen=True)
class Fold:
    """A training without some families. shards: what is learned from. place: where its network is kept."""

    shards: tuple[Path, ...]
    place: Path
    left_out: frozenset[str]
    config: FitConfig


def train(fold: Fold) -> Path:
    """Train a network that has not seen these families, where it is not there yet."""
    if not fold.place.is_file():
        torch.set_num_threads(1)  # the processes share the cores
        network = fit(read_shards(list(fold.shards)), fold.config, left_out=fold.left_out)
        torch.save(network.state_dict(), fold.place)
    return fold.place


def network_at(place: Path) -> EyeNetwork:
    """A trained network."""
    network = EyeNetwork()
    network.load_state_dict(torch.load(place, weights_only=True))
    return network.eval()


@dataclass
class Counts:
    """How often a thing was so, of how many."""

    true: float = 0.0
    all: int = 0

    def add(self, found: npt.NDArray[np.bool_]) -> None:
        """More of them."""
        self.true += float(found.sum())
        self.all += len(found)

    @property
    def share(self) -> float:
        """0..1."""
        return self.true / max(self.all, 1)


class WorldResult(TypedDict):
    """What was found in one world: by family, of COLOUR_ALONE where the content has colour, good pictures accused by
    kind, means, share of causes right."""

    found: dict[str, dict[str, float]]
    found_in_colour: dict[str, dict[str, float]]
    accused: dict[str, float]
    mean: dict[str, float]
    cause_right: float


class Tally:
    """What was found in one world, over all folds."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], Counts] = {}  # by family and severity
        self.found_in_colour: dict[tuple[str, str], Counts] = {}
        self.accused: dict[str, Counts] = {}  # good pictures, by kind
        self.cause = Counts()

    def add(self, network: EyeNetwork, store: ExampleStore, families: frozenset[str], limits: Thresholds) -> None:
        """Judge a fold's families and all good pictures."""
        scores = detector_scores(store)
        is_changed = np.array([row["change"] >= limits.change_min for row in scores])
        rows = np.flatnonzero((store.is_good & is_changed) | np.isin(store.family, sorted(families)))
        said = verdicts(network, store, rows)
        grader = Grader(limits)
        chroma = content_chroma(store)
        is_damaged = np.zeros(len(store), np.bool_)
        causes = np.zeros(len(store), np.int64)
        for row, verdict_of_row in zip(rows, said, strict=True):
            is_damaged[row] = bool(grader.decisive(scores[row] | {"damage": float(verdict_of_row[0])}))
            causes[row] = verdict_of_row[2:].argmax()
        for kind in np.unique(store.technique):
            good = store.is_good & is_changed & (store.technique == kind)
            if good.any():
                self.accused.setdefault(str(kind), Counts()).add(is_damaged[good])
        for family in families:
            of_family = np.flatnonzero(store.family == family)
            for name, severity in SEVERITIES.items():
                chosen = of_family[np.isclose(store.severity[of_family], severity)]
                self.found.setdefault((family, name), Counts()).add(is_damaged[chosen])
                if family in COLOUR_ALONE:
                    coloured = chosen[chroma[chosen] >= COLOURED]
                    self.found_in_colour.setdefault((family, name), Counts()).add(is_damaged[coloured])
            hits = of_family[is_damaged[of_family]]
            self.cause.add(causes[hits] == cause_numbers(store.family[hits]))

    def record(self) -> WorldResult:
        """Plain data."""
        accused = {kind: round(counts.share, 4) for kind, counts in self.accused.items()}
        return {
            "found": by_family(self.found),
            "found_in_colour": by_family(self.found_in_colour),
            "accused": accused,
            "mean": self.means(),
            "cause_right": round(self.cause.share, 4),
        }

    def means(self) -> dict[str, float]:
        """Over the families, and over all good pictures."""
        means: dict[str, float] = {}
        for severity in SEVERITIES:
            shares = [counts.share for (_, name), counts in self.found.items() if name == severity and counts.all]
            means[severity] = round(float(np.mean(shares)), 4)
            means[f"worst {severity}"] = round(min(shares), 4)
        good = list(self.accused.values())
        means["accused"] = round(sum(counts.true for counts in good) / sum(counts.all for counts in good), 4)
        means["accused of a kind"] = round(max(counts.share for counts in good), 4)
        return means


def by_family(counts: dict[tuple[str, str], Counts]) -> dict[str, dict[str, float]]:
    """Shares and numbers of each family by severity, as plain data."""
    found: dict[str, dict[str, float]] = {}
    for (family, severity), of_family in counts.items():
        found.setdefault(family, {})[severity] = round(of_family.share, 4)
        found[family][f"n {severity}"] = of_family.all
    return found


def content_chroma(store: ExampleStore) -> npt.NDArray[np.float32]:
    """Mean chroma of each example's content, of Lab's 0..255, [N]."""
    lab = store.content[..., :3].astype(np.float32)  # [T, G, G, 3], means of cells
    chroma = np.hypot(lab[..., 1] - 128, lab[..., 2] - 128).mean((1, 2))
    of_examples: npt.NDArray[np.float32] = chroma[store.triple]
    return of_examples


def folds(number: int) -> list[frozenset[str]]:
    """The families dealt out, so that neighbours in the table, which are alike, come into different folds."""
    names = list(FAMILIES)
    return [frozenset(names[first::number]) for first in range(number)]


def detector_scores(store: ExampleStore) -> list[dict[str, float]]:
    """The raw scores of all examples, from what the network is given of them."""
    columns: dict[str, list[float]] = {}
    for number, (name, plan) in enumerate(SCORE_INPUTS.items()):
        values = store.scores[:, number] * plan.scale
        if plan.is_ratio:
            columns[name] = (np.exp(values + np.log(plan.usual + RATIO_FLOOR)) - RATIO_FLOOR).tolist()
        else:
            columns[name] = (values + plan.usual).tolist()
    names = list(columns)
    rows = zip(*columns.values(), strict=True)
    return [{"finite": 1.0, **dict(zip(names, row, strict=True))} for row in rows]


def outcomes(means: dict[str, float]) -> dict[str, bool]:
    """Each bar, and whether it is held."""
    return {
        "severe, mean": means["severe"] >= MEANS["severe"],
        "severe, worst family": means["worst severe"] >= WORST_SEVERE,
        "medium, mean": means["medium"] >= MEANS["medium"],
        "good pictures accused": means["accused"] <= ACCUSED,
        "and of the worst kind": means["accused of a kind"] <= ACCUSED_OF_A_KIND,
    }


def lines_of(world: str, tally: Tally, held: dict[str, bool]) -> list[str]:
    """For people: the means, what is found least, what is accused most."""
    means = tally.means()
    lines = [
        f"{world}: severe {means['severe']:.1%}, medium {means['medium']:.1%}, good accused {means['accused']:.1%}"
    ]
    lines.append(f"  cause classified correctly: {tally.cause.share:.1%} of {tally.cause.all} found")
    for severity in SEVERITIES:
        shares = {family: counts.share for (family, name), counts in tally.found.items() if name == severity}
        least = sorted(shares.items(), key=lambda row: row[1])[:12]
        lines.append(f"  {severity}, least: " + ", ".join(f"{family} {share:.0%}" for family, share in least))
    in_colour: list[str] = []
    for (family, name), counts in tally.found_in_colour.items():
        if name == "severe":
            in_colour.append(f"{family} {counts.share:.0%} of {counts.all}")
    lines.append("  severe, of contents with colour: " + ", ".join(in_colour))
    most = sorted(((kind, counts.share) for kind, counts in tally.accused.items()), key=lambda row: -row[1])[:6]
    lines.append("  good, accused most: " + ", ".join(f"{kind} {share:.1%}" for kind, share in most))
    lines += [f"  {name}: {verdict(outcome)}" for name, outcome in held.items()]
    return lines


def main() -> int:
    """Train, judge, print, and return 1 where a bar is missed."""
    arguments = Arguments(__doc__)
    arguments.add_size("--triples", short=200, full=4000, help="contents with styles to learn from")
    arguments.add_size("--steps", short=200, full=4000, help="of each training")
    arguments.add_size("--folds", short=2, full=4)
    arguments.add_size("--count", short=30, full=600, help="subjects of each world; a third of it meets each family")
    arguments.add_argument("--without-spaces", action="store_true", help="learn from the other families alone")
    arguments.add_argument("--processes", type=int, default=2)
    arguments.add_argument("--folder", type=Path, help="keep what is made there, and use what is there")
    asked = arguments.parse()
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        shards = make_shards(folder / "shards", asked.triples, source=learned, processes=asked.processes)
        config = FitConfig(steps=asked.steps)
        groups = folds(asked.folds)
        trainings: list[Fold] = []
        spaces = SPACES if asked.without_spaces else frozenset()
        suffix = "-without-spaces" if asked.without_spaces else ""
        for number, families in enumerate(groups):
            name = f"{asked.triples}-{asked.steps}-fold-{number}-of-{asked.folds}{suffix}.pt"
            trainings.append(Fold(tuple(shards), folder / name, families | spaces, config))
        tallies = {world: Tally() for world in WORLDS}
        with ProcessPoolExecutor(asked.processes, get_context("spawn"), die_with_parent) as pool:
            stores = {world: world_store(pool, folder, world, asked.count) for world in WORLDS}
            for number, place in enumerate(pool.map(train, trainings)):
                network = network_at(place)
                for world, store in stores.items():
                    tallies[world].add(network, store, groups[number], Thresholds())
                say(f"fold {number + 1} of {asked.folds}")
    result: dict[str, object] = {"triples": asked.triples, "steps": asked.steps, "folds": asked.folds}
    result["spaces"] = not asked.without_spaces
    lines: list[str] = []
    all_held: list[bool] = []
    for world, tally in tallies.items():
        held = outcomes(tally.means())
        result[world] = {**tally.record(), "held": held}
        lines += lines_of(world, tally, held)
        all_held += held.values()
    return conclude(asked, {**result, "held": all(all_held) if asked.full else None}, lines)


if __name__ == "__main__":
    sys.exit(main())
