"""What a loss means: of one picture by itself, of a set of pictures beside the least loss that is possible there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bottega.doctor.lines import real
from bottega.runtime.errors import RequestError

BINS = 10
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
0.02 colours and outline, below 0.002 sharp; between them stand their geometric means."""

SAMPLE_LEVELS = tuple(zip((0.2, 0.1, 0.032, 0.01, 0.0), (words for _, words in LEVELS), strict=True))
"""The same for a network that predicts the picture, by the root mean square of its error as a share of the range: 14,
20, 30 and 40 dB of PSNR. What `recipes/red_circle.yaml` drew on its way: at 0.13 a red blur, at 0.09 a soft disc, at
0.04 a disc with stains, at 0.02 one that is nearly clean, below 0.01 nothing that is seen to be wrong. The best picture
of a single grey is off by 0.38."""

REGIONS = (("low noise, which decides detail", 3), ("middle noise, shape", 7), ("high noise, layout and colour", BINS))
"""What bins of the timesteps decide of a picture, and the bin before which they end. A rule of thumb: Choi et al. 2022,
arXiv 2204.00227, sec. 3, find coarse attributes, content and clean-up in this order on the way from noise."""

MOST = 0.5
"""Bins with at least half the greatest distance from the floor are named with the farthest one."""


@dataclass(frozen=True)
class Bins:
    """Mean losses of the last validation, by timestep bin from clean to noise: on training pictures, on held-out ones,
    and the least that is possible on the training set; None where the log has none."""

    step: float
    train: tuple[float, ...]
    held_out: tuple[float, ...] | None
    floor: tuple[float, ...] | None

    @classmethod
    def of(cls, row: Mapping[str, Any] | None) -> Bins | None:
        """From a row of metrics.jsonl; None where it has no usable bins."""
        told = {name: _ten(row or {}, name) for name in ("train", "val", "floor")}
        if row is None or told["train"] is None:
            return None
        return cls(real(row.get("step")), told["train"], told["val"], told["floor"])

    @property
    def above(self) -> tuple[float, ...]:
        """How far each bin lies above the least possible. Both are estimates: a difference below nought is none."""
        return tuple(max(t - f, 0.0) for t, f in zip(self.train, self.floor or (0.0,) * BINS, strict=True))

    def farthest(self) -> str:
        """`bins 0, 1 (low noise, which decides detail), 71 % of it all`; empty where nothing lies above."""
        above = self.above
        chosen = [b for b in range(BINS) if above[b] > 0 and above[b] >= MOST * max(above)]
        if not chosen:
            return ""
        ends = [0, *(end for _, end in REGIONS)]
        where = [name for (name, end), begin in zip(REGIONS, ends, strict=False) if {*chosen} & {*range(begin, end)}]
        share, (first, *_, last) = sum(above[b] for b in chosen) / sum(above), [*chosen, chosen[-1]]
        run = last - first + 1 == len(chosen) > 2
        bins = f"{first} to {last}" if run else ", ".join(map(str, chosen))
        return f"bin{'s' * (len(chosen) > 1)} {bins} ({'; '.join(where)}), {share:.0%} of it all"

    def rows(self) -> list[tuple[str, list[str]]]:
        """What a table shows: a name and ten numbers."""
        floor, above = (self.floor, self.above) if self.floor and any(self.floor) else (None, None)
        found = [("train", self.train), ("held out", self.held_out), ("least", floor), ("above", above)]
        return [
            (name, [f"{v:.2g}".replace("e-0", "e-") if v > 1e-9 else "0" for v in bins])
            for name, bins in found
            if bins is not None
        ]


def level(
    loss: float | None,
    prediction_type: str | None,
    one_picture: bool,
    bins: Bins | None = None,
    span: float | None = None,
) -> str:
    """What the loss means: for one picture, whose best possible loss is nought, and a known target, by itself; for a
    set beside the least possible, where the log has it. span: from the least to the greatest number of the picture."""
    if loss is None:
        return "level unknown: no loss was finite"
    if not one_picture:
        if bins is None or bins.floor is None:
            return "level unknown: the loss of a set of pictures has a floor above nought that the log does not tell"
        return _beside_the_floor(bins)
    kind = _ALIASES.get(str(prediction_type), prediction_type)
    if kind is None:
        return "level unknown: the prediction type is not known (--prediction-type)"
    if kind == "sample":
        return _of_the_picture(loss, bins, span)
    if kind not in EPSILON_SHARE:
        return f"level unknown: a loss of {kind} says nothing about that of the noise"
    own = loss * EPSILON_SHARE[kind]
    words = next(words for least, words in LEVELS if own >= least)
    return f"{words}: the loss of the noise is {'' if kind == 'epsilon' else 'about '}{own:.2g}"


def _of_the_picture(loss: float, bins: Bins | None, span: float | None) -> str:
    """The loss is the mean squared error of the picture; a validation's has no weights, as the loss of a step may."""
    off = math.sqrt(loss if bins is None else _mean(bins.train))
    share = off / (span or 2.0)
    words = next(words for least, words in SAMPLE_LEVELS if share >= least)
    of = "the latents' range" if span else "a range of -1 … 1, which the log does not tell"
    when = "" if bins is None else f", at step {bins.step:.0f}"
    return f"{words}: the estimate of the picture is off by {100 * share:.2g} % of {of} (RMS{when})"


def _beside_the_floor(bins: Bins) -> str:
    own, floor = _mean(bins.train), _mean(bins.floor or ())
    if own < BELOW * floor:
        return (
            f"level unknown: {own:.4g} at step {bins.step:.0f} lies below the floor in the log, {floor:.4g}: it is none"
        )
    times = f" ({own / floor:.3g} times it)" if floor > own / 1000 else ""
    said = f"at step {bins.step:.0f} {own:.4g} on training pictures, {max(own - floor, 0.0):.4g} above the least "
    said += f"possible {floor:.4g} on this set{times}"
    if where := bins.farthest():
        said += f"; farthest above: {where}"
    if bins.held_out is not None and own > 0:
        said += f"; held-out pictures {_mean(bins.held_out):.4g}, {_mean(bins.held_out) / own:.3g} times the training's"
    return said


def require_prediction_type(name: str | None) -> str | None:
    """A prediction type as the command line takes it. Raises RequestError for another word."""
    known = {*EPSILON_SHARE, "sample", *_ALIASES}
    if name is not None and name not in known:
        raise RequestError(f"--prediction-type is one of {', '.join(sorted(known))}; received {name!r}")
    return name


def _mean(values: tuple[float, ...]) -> float:
    return math.fsum(values) / len(values)


def _ten(row: Mapping[str, Any], name: str) -> tuple[float, ...] | None:
    values = tuple(real(row.get(f"{name}_bin_{b}")) for b in range(BINS))
    return values if all(math.isfinite(value) and value >= 0 for value in values) else None
