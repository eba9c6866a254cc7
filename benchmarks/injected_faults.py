"""Claim: of injected faults 98 % are found where they are severe, 90 % where medium, with 2 % of good pictures accused.

python benchmarks/injected_faults.py [--full] [--json] [--count N] [--processes 2]

Fourteen kinds of damage (`bottega.quality.faults`) are put into `count` good pictures each, and found is what is graded
C. Drawn: truths of the drawn world at 128 px, the miniature's CLIP measuring too, limits calibrated on 1,000 other
truths of other scenes and painters. Photographs: crops at 256 px of the 16 in scikit-image's wheel that have 256 px or
more, mildly stylised (smoothed, posterised, brushed, grained; colours moved toward another photograph or a drawn
painting), without a CLIP. They are dealt into four folds by the alphabet; the crops of each are judged by limits
calibrated on 1,000 crops of the other folds' photographs. The same photographs at 256 and at 512 px are judged by the
limits that a recipe begins with, too. There is no peer: no public checker judges a picture against
its content and style.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache, reduce
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from common.bench import Arguments, conclude, die_with_parent, say
from common.circles import share

from bottega.miniature.world import painter, render, scene
from bottega.quality.calibration import calibrate
from bottega.quality.config import Thresholds
from bottega.quality.damage import Subject
from bottega.quality.faults import FAULTS, GOOD, SEVERITIES, Kind, Tallies, measure_faults, table, tally
from bottega.quality.measuring import ImageEncoder, Scores
from bottega.runtime.seeds import numpy_rng
from bottega.visual.pictures import Picture

BARS = {"severe": 0.98, "medium": 0.90}
ACCUSED = 0.02
SIDE = 256
DEFAULT_WORLDS = {"photographs, 256 px, default limits": 256, "photographs, 512 px, default limits": 512}
STRETCH = 25
FEWEST = 4  # kinds of a row that was measured for the calibration alone: good, untouched
CLIP = Path(__file__).parents[1] / "src/bottega/miniature/weights/clip"
PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
FOLDS = 4
SHADOW, LIGHT = 6, 96  # of Lab, where a mild stylising keeps 98 % of the pixels
Row = dict[Kind, Scores]
WAYS = ("bilateral", "median", "poster", "brush", "grain", "colours")


def drawn(index: int, first: int) -> Subject:
    """A drawn truth; the other scene is by the same painter."""
    view, by = scene(first + 3 * index), painter(first + index)
    style = render(scene(first + 3 * index + 1), by, 1)
    return Subject(render(view, by, 0), render(view, None), style, render(scene(first + 3 * index + 2), by, 0))


@cache
def photograph(name: str) -> Picture:
    """One photograph of scikit-image's wheel, RGB."""
    import skimage

    found = cv2.imread(str(Path(skimage.__file__).parent / "data" / name))
    if found is None:
        raise FileNotFoundError(f"scikit-image's data/{name} cannot be read; install the extra dev")
    return np.ascontiguousarray(found[..., ::-1])


def crop(name: str, rng: np.random.Generator, size: int) -> Picture:
    """A random square of 60 to 100 % of the shorter side, perhaps mirrored, at `size` px."""
    whole = photograph(name)
    high, wide = whole.shape[:2]
    side = int(rng.uniform(0.6, 1) * min(high, wide))
    top, left = rng.integers(0, high - side + 1), rng.integers(0, wide - side + 1)
    part = np.ascontiguousarray(whole[top : top + side, left : left + side])
    way = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    part = cv2.resize(part, (size, size), interpolation=way)
    return np.ascontiguousarray(part[:, ::-1] if rng.random() < 0.5 else part)


def stylised(content: Picture, style: Picture, way: str, rng: np.random.Generator) -> Picture:
    """A mild stylising: the surface changed in one way, the colours moved toward the style's mean and spread in Lab.

    Mild means that strokes and grain stay weaker than the content's own contrast, and that no light, shadow or colour
    burns out.
    """
    strength = min(1.0, float(content.std()) / 36)
    shape = content.shape[:2]
    side = shape[0]
    if way == "bilateral":
        surface = cv2.bilateralFilter(content, 0, 40, 0.012 * side)
    elif way == "median":
        surface = cv2.medianBlur(content, 5)
    elif way == "poster":
        surface = cv2.GaussianBlur(np.uint8(np.rint(cv2.medianBlur(content, 3) / 255 * 6) / 6 * 255), (0, 0), 0.6)
    elif way == "brush":
        grain = cv2.GaussianBlur(rng.normal(0, 1, shape).astype(np.float32), (0, 0), sigmaX=4, sigmaY=0.8)
        turn = cv2.getRotationMatrix2D((side / 2, side / 2), rng.uniform(0, 180), 1.5)
        grain = cv2.warpAffine(grain, turn, shape, borderMode=cv2.BORDER_REFLECT)
        smooth = cv2.bilateralFilter(content, 0, 40, 0.008 * side)
        surface = np.clip(smooth + (9 * strength / grain.std()) * grain[..., None], 0, 255).astype(np.uint8)
    elif way == "grain":
        surface = np.clip(content + rng.normal(0, 7 * strength, (*shape, 1)), 0, 255).astype(np.uint8)
    else:
        surface = content
    ours, theirs = (cv2.cvtColor(p.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for p in (surface, style))
    factor = np.clip(theirs.std((0, 1)) / np.maximum(ours.std((0, 1)), 1), 0.5, 2)
    moved = (ours - ours.mean((0, 1))) * factor + theirs.mean((0, 1))
    weight = rng.uniform(0.5, 0.9)
    mixed = np.float32(ours * (1 - weight) + moved * weight)
    low, high = np.quantile(mixed[..., 0], (0.01, 0.99))
    span = min(high - low, LIGHT - SHADOW)
    mixed[..., 0] = (mixed[..., 0] - low) * (span / max(high - low, 1)) + np.clip(low, SHADOW, LIGHT - span)
    chroma, own = (np.hypot(lab[..., 1], lab[..., 2]) for lab in (mixed, ours))
    room = np.maximum(0.8 * np.minimum(mixed[..., 0], 100 - mixed[..., 0]), own)  # about what sRGB can show
    mixed[..., 1:] *= np.minimum(1, room / np.maximum(chroma, 1))[..., None]
    return np.clip(np.rint(cv2.cvtColor(mixed, cv2.COLOR_LAB2RGB) * 255), 0, 255).astype(np.uint8)


def photographed(index: int, fold: int, side: int = SIDE) -> Subject:
    """A stylised crop; the other scene is of another photograph of the same fold. Every fourth style is a painting."""
    rng = numpy_rng("injected faults benchmark", fold, index)
    names = PHOTOGRAPHS[fold::FOLDS]
    own, one, two = (names[int(i)] for i in rng.permutation(len(names))[:3])
    content, other = crop(own, rng, side), crop(two, rng, side)
    if index % 4 == 3:
        style = cv2.resize(render(scene(index), painter(index), 0), (side, side), interpolation=cv2.INTER_CUBIC)
    else:
        style = crop(one, rng, side)
    way = WAYS[index % len(WAYS)]
    return Subject(stylised(content, style, way, rng), content, style, stylised(other, style, way, rng))


def subjects(world: str, start: int, stop: int) -> Iterator[Subject]:
    """Numbers `start` to `stop` of a world: drawn 0 (calibration), drawn 1, photographs 0 to 3 (folds), 256 or 512."""
    kind, part = world.split()
    for index in range(start, stop):
        if kind == "drawn":
            yield drawn(index, 200_000 * (1 + int(part)))
        elif kind == "photographs":
            yield photographed(index, int(part))
        else:
            yield photographed(index, index % FOLDS, int(kind))


@cache
def encoder(world: str) -> ImageEncoder | None:
    """The miniature's CLIP for drawn pictures, none for photographs."""
    if not world.startswith("drawn"):
        return None
    import torch

    from bottega.models.encoders import ClipEncoder

    torch.set_num_threads(1)
    return ClipEncoder(CLIP, device="cpu").image


def measured(job: tuple[str, int, int, bool]) -> list[Row]:
    """Scores of one stretch of subjects as they are and with every fault, or with the untouched copy alone."""
    cv2.setNumThreads(1)  # the processes share the cores
    world, start, stop, every = job
    faults = tuple(FAULTS) if every else ("untouched",)
    return list(measure_faults(subjects(world, start, stop), encoder=encoder(world), first=start, faults=faults))


def jobs(world: str, start: int, stop: int, every: bool) -> list[tuple[str, int, int, bool]]:
    """The subjects of a world in stretches small enough to keep all processes busy to the end."""
    return [(world, at, min(at + STRETCH, stop), every) for at in range(start, stop, STRETCH)]


def limits_of(rows: list[Row]) -> Thresholds:
    """Limits calibrated on good pictures and untouched copies."""
    return calibrate([row[GOOD] for row in rows], [row["untouched", "severe"] for row in rows]).thresholds


def drawn_world(pool: ProcessPoolExecutor, count: int, known: int) -> Tallies:
    """Limits from `known` truths, then `count` others judged."""
    truths, tested = (
        [row for part in pool.map(measured, jobs(*world)) for row in part]
        for world in (("drawn 0", 0, known, False), ("drawn 1", 0, count, True))
    )
    return tally(tested, limits_of(truths))


def photographed_world(pool: ProcessPoolExecutor, count: int, known: int) -> Tallies:
    """`count` crops, those of each fold judged by limits from `known` crops of the other folds' photographs."""
    rows: list[list[Row]] = []
    each = -(-known // (FOLDS - 1))
    for fold in range(FOLDS):
        share = count * (fold + 1) // FOLDS - count * fold // FOLDS
        world = f"photographs {fold}"
        parts = pool.map(measured, jobs(world, 0, share, True) + jobs(world, share, each, False))
        rows.append([row for part in parts for row in part])
    tallies = []
    for fold, own in enumerate(rows):
        others = [row for number, part in enumerate(rows) if number != fold for row in part[:each]]
        tested = [row for row in own if len(row) > FEWEST]
        tallies.append(tally(tested, limits_of(others)))
    return reduce(merged, tallies)


def default_world(pool: ProcessPoolExecutor, count: int, side: int) -> Tallies:
    """`count` crops judged by the limits that a recipe begins with, where there are no truths to calibrate on."""
    tested = [row for part in pool.map(measured, jobs(f"{side} default", 0, count, True)) for row in part]
    return tally(tested, Thresholds())


def merged(one: Tallies, other: Tallies) -> Tallies:
    """Both together."""
    return {key: one[key].merged(other[key]) for key in one}


def misses(tallies: Tallies, *, exact: bool) -> list[str]:
    """What does not reach its bar, in words.

    exact: the share itself is held to its bar; else, for the short form, the far end of its 95 % interval.
    """
    words = []
    for fault in FAULTS:
        for severity, bar in BARS.items():
            one = tallies[fault, severity]
            if at_most(one.found, one.count, exact) < bar:
                words.append(f"{fault} {severity} {one.found / one.count:.1%}")
    good = tallies[GOOD]
    if 1 - at_most(good.count - good.found, good.count, exact) > ACCUSED:
        words.append(f"good accused {good.found / good.count:.1%}")
    return words


def at_most(found: int, count: int, exact: bool) -> float:
    """A share, or the upper end of its interval (Wilson 1927)."""
    return found / count if exact else share([True] * found + [False] * (count - found))[2]


def as_json(tallies: Tallies) -> dict[str, Any]:
    """Shares and counts as plain data."""
    good = tallies[GOOD]
    shares = {
        fault: {
            severity: {"n": one.count, "found": one.found / one.count, "by_own_check": one.own / one.count}
            for severity in SEVERITIES
            for one in [tallies[fault, severity]]
        }
        for fault in FAULTS
    }
    return {"faults": shares, "good": {"n": good.count, "accused": good.found / good.count, "by_check": good.causes}}


def main() -> int:
    """Calibrate, judge, print, and return 1 where a bar is missed."""
    arguments = Arguments(__doc__)
    arguments.add_size("--count", short=150, full=500, help="good pictures of each world")
    arguments.add_size("--known", short=600, full=1000, help="good pictures that each calibration sees")
    arguments.add_argument("--processes", type=int, default=2)
    worlds_known = ("drawn", "photographs", *DEFAULT_WORLDS)
    arguments.add_argument("--world", choices=worlds_known, action="append", help="only this one, or these")
    asked = arguments.parse()
    results = {}
    with ProcessPoolExecutor(asked.processes, mp_context=get_context("spawn"), initializer=die_with_parent) as pool:
        wanted = asked.world or worlds_known
        if "drawn" in wanted:
            say("the drawn world")
            results["drawn"] = drawn_world(pool, asked.count, asked.known)
        if "photographs" in wanted:
            say("photographs")
            results["photographs"] = photographed_world(pool, asked.count, asked.known)
        for name, side in DEFAULT_WORLDS.items():
            if name in wanted:
                say(name)
                results[name] = default_world(pool, asked.count, side)
    missed = {world: misses(tallies, exact=asked.full) for world, tallies in results.items()}
    claim = {**BARS, "good_accused": ACCUSED, "n": asked.count}
    worlds = {world: as_json(tallies) for world, tallies in results.items()}
    lines = [
        f"{world}\n{table(tallies)}\nmissed: {'; '.join(missed[world]) or 'nothing'}\n"
        for world, tallies in results.items()
    ]
    return conclude(asked, {"claim": claim, **worlds, "missed": missed, "held": not any(missed.values())}, lines)


if __name__ == "__main__":
    sys.exit(main())
