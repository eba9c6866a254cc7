"""What a loss means: of one picture by itself, of a set of pictures beside the least loss that is possible there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from bottega.doctor.logs.lines import to_float
from bottega.runtime.errors import RequestError

NUM_BINS = 10
"""Of the timesteps, in which `bottega train ldm` validates."""

EPSILON_SHARE = {"epsilon": 1.0, "v_prediction": 1 / 2, "flow_prediction": 1 / 3}
"""By what to multiply a loss for the loss of the noise that is meant. ε̂ − ε is α(v̂ − v), and (1 − t) times the error
of a flow's velocity; the means over the timesteps of α² (cosine) and (1 − t)² are 1/2 and 1/3. It holds where the error
is about as large at all timesteps. For x0 the factor α²/σ² has no finite mean, so it has levels of its own."""

_ALIASES = {
    "eps": "epsilon",
    "v": "v_prediction",
    "velocity": "flow_prediction",
    "flow": "flow_prediction",
    "rectified_flow": "flow_prediction",
    "flow_matching": "flow_prediction",
    "x0": "sample",
}

BELOW = 0.8
"""Draws of a validation and of a floor differ by chance; a loss below this share of a floor proves that it is none."""

LEVELS = (
    (0.1, "nothing to be seen yet"),
    (0.045, "the first colours"),
    (0.0063, "colours and outline, no detail"),
    (0.002, "nearly sharp"),
    (0.0, "sharp"),
)
"""What a network that learns one picture draws, down to which ε loss. Known of the red circle: above 0.1 nothing, about
0.02 colours and outline, below 0.002 sharp; between them are their geometric means."""

SAMPLE_LEVELS = (
    (0.2, "nothing to be seen yet"),
    (0.1, "the first colours"),
    (0.032, "colours and outline, no detail"),
    (0.01, "nearly sharp"),
    (0.0, "sharp"),
)
"""The same for a network that predicts the picture, by the root mean square of its error as a share of the range: 14,
20, 30 and 40 dB of PSNR. What `recipes/red_circle.yaml` drew on its way: at 0.13 a red blur, at 0.09 a soft disc, at
0.04 a disc with stains, at 0.02 one that is nearly clean, below 0.01 nothing that is seen to be wrong. The best picture
of a single grey is off by 0.38."""

REGIONS = (
    ("low noise, which decides detail", 3),
    ("middle noise, shape", 7),
    ("high noise, layout and colour", NUM_BINS),
)
"""What bins of the timesteps decide of a picture, and the bin before which they end. A rule of thumb: Choi et al. 2022,
arXiv 2204.00227, sec. 3, find coarse attributes, content and clean-up in this order on the way from noise."""

MOST = 0.5
"""Bins with at least half the greatest distance from the floor are named with the farthest one."""


@dataclass(frozen=True)
class TimestepBins:
    """Mean losses of the last validation, by timestep bin from clean to noise: on training pictures, on held-out ones,
    and the least that is possible on the training set; None where the log has none."""

    step: float
    train: tuple[float, ...]
    held_out: tuple[float, ...] | None
    floor: tuple[float, ...] | None

    @classmethod
    def of(cls, row: Mapping[str, object] | None) -> TimestepBins | None:
        """From a row of metrics.jsonl; None where it has no usable bins."""
        if row is None:
            return None
        train = _bins(row, "train")
        if train is None:
            return None
        return cls(to_float(row.get("step")), train, _bins(row, "val"), _bins(row, "floor"))

    @property
    def above(self) -> tuple[float, ...]:
        """How far each bin is above the least possible."""
        floors = self.floor or (0.0,) * NUM_BINS
        # both are estimates: a difference below zero is none
        return tuple(max(loss - floor, 0.0) for loss, floor in zip(self.train, floors, strict=True))

    def farthest(self) -> str:
        """`bins 0, 1 (low noise, which decides detail), 71 % of it all`; empty where none is above the floor."""
        above = self.above
        farthest = max(above)
        if farthest <= 0:
            return ""
        chosen = [b for b in range(NUM_BINS) if above[b] >= MOST * farthest]
        share = sum(above[b] for b in chosen) / sum(above)
        return f"{_bin_numbers(chosen)} ({'; '.join(_regions(chosen))}), {share:.0%} of it all"

    def rows(self) -> list[tuple[str, list[str]]]:
        """What a table shows: a name and ten numbers."""
        rows = [("train", _numbers(self.train))]
        if self.held_out is not None:
            rows.append(("held out", _numbers(self.held_out)))
        if self.floor and any(self.floor):
            rows += [("least", _numbers(self.floor)), ("above", _numbers(self.above))]
        return rows


def _bin_numbers(chosen: list[int]) -> str:
    """`bin 3`, `bins 0, 1`, or `bins 4 to 7` where three or more are neighbours."""
    first, last = chosen[0], chosen[-1]
    if first == last:
        return f"bin {first}"
    if last - first + 1 == len(chosen) > 2:
        return f"bins {first} to {last}"
    return "bins " + ", ".join(map(str, chosen))


def _regions(chosen: list[int]) -> list[str]:
    """What the bins decide of a picture; each region begins where the one before it ends."""
    regions = []
    begin = 0
    for name, end in REGIONS:
        if any(begin <= b < end for b in chosen):
            regions.append(name)
        begin = end
    return regions


def level(
    loss: float | None,
    prediction_type: str | None,
    one_picture: bool,
    bins: TimestepBins | None = None,
    latent_range: float | None = None,
) -> str:
    """What the loss means, in words.

    Args:
        loss: the latest; None where none was finite.
        prediction_type: of the network; None where it is not known.
        one_picture: what is learned is one picture, whose best possible loss is zero: a loss has a meaning by itself.
            That of a set is compared with the least possible, where the log has it.
        bins: the last validation by timestep.
        latent_range: from the least to the greatest number of the picture's latents.
    """
    if loss is None:
        return "level unknown: no loss was finite"
    if not one_picture:
        if bins is None or bins.floor is None:
            return "level unknown: the loss of a set of pictures has a floor above zero that the log does not state"
        return _above_the_floor(bins, bins.floor)
    if prediction_type is None:
        return "level unknown: the prediction type is not known (--prediction-type)"
    kind = _ALIASES.get(prediction_type, prediction_type)
    if kind == "sample":
        return _of_the_picture(loss, bins, latent_range)
    if kind not in EPSILON_SHARE:
        return f"level unknown: a loss of {kind} says nothing about that of the noise"
    of_the_noise = loss * EPSILON_SHARE[kind]
    about = "" if kind == "epsilon" else "about "  # the factor of a velocity is a mean over the timesteps
    return f"{_meaning(of_the_noise, LEVELS)}: the loss of the noise is {about}{of_the_noise:.2g}"


def _of_the_picture(loss: float, bins: TimestepBins | None, latent_range: float | None) -> str:
    """The loss is the mean squared error of the picture; a validation's has no weights, as the loss of a step may."""
    squared_error, when = loss, ""
    if bins is not None:
        squared_error, when = _mean(bins.train), f", at step {bins.step:.0f}"
    width, of = 2.0, "a range of -1 … 1, which the log does not state"
    if latent_range:
        width, of = latent_range, "the latents' range"
    share = math.sqrt(squared_error) / width
    meaning = _meaning(share, SAMPLE_LEVELS)
    return f"{meaning}: the estimate of the picture is off by {100 * share:.2g} % of {of} (RMS{when})"


def _above_the_floor(bins: TimestepBins, floors: tuple[float, ...]) -> str:
    own, floor = _mean(bins.train), _mean(floors)
    if own < BELOW * floor:
        return (
            f"level unknown: {own:.4g} at step {bins.step:.0f} lies below the floor in the log, {floor:.4g}: it is none"
        )
    times = ""
    if floor > own / 1000:  # where the floor is almost zero, a factor of it says nothing
        times = f" ({own / floor:.3g} times it)"
    text = f"at step {bins.step:.0f} {own:.4g} on training pictures, {max(own - floor, 0.0):.4g} above the least "
    text += f"possible {floor:.4g} on this set{times}"
    where = bins.farthest()
    if where:
        text += f"; farthest above: {where}"
    if bins.held_out is not None and own > 0:
        held_out = _mean(bins.held_out)
        text += f"; held-out pictures {held_out:.4g}, {held_out / own:.3g} times the training's"
    return text


def is_best(meaning: str) -> bool:
    """Whether the words that `level` found are those of the best level: one picture, drawn sharp."""
    return meaning.startswith(f"{LEVELS[-1][1]}:")


def require_prediction_type(name: str | None) -> str | None:
    """A prediction type as the command line takes it. Raises RequestError for another word."""
    known = {*EPSILON_SHARE, "sample", *_ALIASES}
    if name is not None and name not in known:
        raise RequestError(f"--prediction-type is one of {', '.join(sorted(known))}; received {name!r}")
    return name


def _meaning(value: float, levels: tuple[tuple[float, str], ...]) -> str:
    """The words of the first level that the value reaches."""
    return next(words for least, words in levels if value >= least)


def _mean(values: tuple[float, ...]) -> float:
    return math.fsum(values) / len(values)


def _numbers(values: tuple[float, ...]) -> list[str]:
    texts = []
    for value in values:
        text = "0"  # below 1e-9 a floor is rounding
        if value > 1e-9:
            text = f"{value:.2g}".replace("e-0", "e-")  # 2.1e-9, not 2.1e-09: a column has six characters
        texts.append(text)
    return texts


def _bins(row: Mapping[str, object], name: str) -> tuple[float, ...] | None:
    """The ten numbers of that name; None where one is missing or no loss."""
    values = []
    for b in range(NUM_BINS):
        value = to_float(row.get(f"{name}_bin_{b}"))
        if not (math.isfinite(value) and value >= 0):
            return None
        values.append(value)
    return tuple(values)
