"""Fitting a style probe: `bottega evaluate fit-style-probe`, a classifier of styles from paintings with labels.

    paintings -> features of a frozen encoder, kept in parts -> split by artist -> regression, its penalty chosen on
    artists that it was not fitted on -> judged on other artists again, and on plain photographs -> a model folder

A share of pictures "in the right style" means what its judge is worth, so the judge is fitted without the paintings of
the test split, on another encoder than quality control's, and its own accuracy is written beside its weights. WikiArt's
styles are as uneven as 133 to 1: every style weighs the same, in the fit and in the macro accuracy.

FeatureParts are computed once and read part by part: memory does not grow with the paintings.

Symbols: N pictures, K labels, D width of a feature.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from bottega.data.pictures import load_square
from bottega.data.records import StyleRow, read_contents, read_styles
from bottega.data.roots import picture_file
from bottega.models.style_probe import (
    MODEL_TYPE,
    Confusion,
    FrozenEncoder,
    Linear,
    ProbeAccuracy,
    ProbeConfig,
    load_encoder,
    save_probe,
)
from bottega.runtime.errors import MissingError, PictureError, RequestError
from bottega.runtime.escape import escaped
from bottega.runtime.files import atomic_path, sha256_json
from bottega.runtime.interrupt import Interruption
from bottega.runtime.progress import Progress
from bottega.runtime.seeds import derive
from bottega.visual.pictures import Picture

if TYPE_CHECKING:
    import torch

    from bottega.models.config import ModelsConfig

LOGGER = logging.getLogger(__name__)
Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]
Part = Literal["fit", "choose", "judge"]

SHARES: Mapping[Part, float] = {"fit": 0.7, "choose": 0.1, "judge": 0.2}
PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""L2 penalties that are tried, on the mean loss of a picture; from the strongest, each begins where the last ended."""

UNKNOWN = frozenset({"", "unknown", "unknown-artist", "unknown artist", "anonymous"})
"""Artists that are none: paintings of nobody known are no group."""

_PART = 256  # pictures of a file of features: what an interruption loses
_AT_ONCE = 32  # pictures that are decoded together
_STEPS = 100
_CONFUSIONS = 20
_TEMPERATURES = np.exp(np.linspace(-2, 2, 81))


@dataclass(frozen=True)
class Shown:
    """A picture to be encoded: its file below the data root, and its hash as far as it is known."""

    path: str
    sha256: str = ""


@dataclass(frozen=True, eq=False)
class FeatureParts:
    """FeatureParts of pictures in files, a part each; `found` says which pictures could be read, [N]."""

    files: Sequence[Path]
    found: npt.NDArray[np.bool_]

    def parts(self) -> Iterator[tuple[int, Floats]]:
        """The number of each part's first picture, and its features [n, D]; zeros for a picture without any."""
        from safetensors.numpy import load_file

        start = 0
        for file in self.files:
            features: Floats = load_file(file)["features"]
            yield start, features
            start += len(features)


def fit(
    data_root: Path,
    encoder: str,
    output: Path,
    models: ModelsConfig,
    *,
    size: int = 512,
    photographs: int = 2000,
    seed: int = 0,
) -> ProbeConfig:
    """Fit a probe on the paintings below `data_root/wikiart` and write its folder. May be stopped and called again.

    Args:
        data_root: with `wikiart/` as `bottega data wikiart` prepares it, and `coco/` for photographs if it is there.
        encoder: a CLIP or a ViT, as a recipe names models.
        output: the probe's folder, for `models.style_classifier`.
        models: the recipe's; its CLIP graded the targets and must not judge the pictures that were learned from them.
        size: side in pixels to which paintings and photographs are cut, as an evaluation measures pictures.
        photographs: how many contents are shown to it, at most.
        seed: of the split by artist.

    Returns:
        What `config.json` of the probe says.

    Raises:
        MissingError: the paintings or the encoder are not there.
        RequestError: the encoder is quality control's, or the paintings are too few for a split by artist.
    """
    from bottega.models.hashes import model_hash
    from bottega.models.names import resolve

    # Refuse what would make the number worthless, before anything is encoded.
    place = resolve(encoder, None, cache=models.cache)
    encoder_hash = model_hash(place)
    _refuse_quality_encoder(encoder, encoder_hash, models)
    paintings = list(read_styles(data_root / "wikiart"))
    labels = sorted({painting.style for painting in paintings})
    part_of = split_by_artist(paintings, seed)
    _require_enough(labels, paintings, part_of)

    # Encode paintings and photographs once.
    frozen = load_encoder(place, models.device)
    kept = output / "features"
    shown = [Shown(f"wikiart/{painting.path}", painting.sha256) for painting in paintings]
    features = encode(frozen, encoder_hash, data_root, shown, kept / "paintings", size)
    contents = _photographs(data_root, photographs, seed)
    of_photographs = encode(frozen, encoder_hash, data_root, contents, kept / "photographs", size)

    # Fit, choose the penalty and the temperature, judge.
    number = {label: k for k, label in enumerate(labels)}
    accepted = _accepted(paintings)
    chosen = _Chosen.of(paintings, part_of, accepted, features.found, number)
    linear, penalty = _fit_and_choose(features, chosen, len(labels))
    probabilities = _probabilities(linear, features, chosen.judge)
    config: ProbeConfig = {
        "model_type": MODEL_TYPE,
        "encoder": encoder,
        "encoder_hash": encoder_hash,
        "feature": frozen.feature,
        "id2label": {str(k): label for k, label in enumerate(labels)},
        "penalty": penalty,
        "seed": seed,
        "counts": {
            "fitted": len(chosen.fit),
            "chosen_by": len(chosen.choose),
            "judged_by": len(chosen.judge),
            "test_split": sum(painting.split == "test" for painting in paintings),
            "two_labels": sum(len(accepted[painting.sha256]) > 1 for painting in paintings),
            "unreadable": int((~features.found).sum()),
        },
        "figures": {
            "paintings": accuracy(probabilities, [accepted_of(paintings[k], accepted) for k in chosen.judge], labels),
            "confusions": confusions(probabilities, [paintings[k].style for k in chosen.judge], labels),
            "photographs_seen": int(of_photographs.found.sum()),
        },
    }
    if of_photographs.found.any():
        everything = np.flatnonzero(of_photographs.found)
        config["figures"]["photographs"] = taken_for(_probabilities(linear, of_photographs, everything), labels)
    save_probe(output, linear, config, place)
    return config


def _refuse_quality_encoder(encoder: str, encoder_hash: str, models: ModelsConfig) -> None:
    from bottega.models.hashes import model_hash
    from bottega.models.layout import locate

    if models.clip is not None and model_hash(locate(models, "clip")) == encoder_hash:
        raise RequestError(
            f"--encoder {encoder}: quality control chose the targets by this very model (models.clip), so pictures "
            "learned from them would please a probe on it; name another, such as facebook/dinov2-base"
        )


def _require_enough(labels: Sequence[str], paintings: Sequence[StyleRow], part_of: Sequence[Part | None]) -> None:
    if len(labels) < 2:
        raise RequestError(f"a probe tells styles apart and needs at least 2, the paintings have {len(labels)}")
    for part in SHARES:
        there = {painting.style for painting, given in zip(paintings, part_of, strict=True) if given == part}
        absent = sorted(set(labels) - there)
        if absent and part == "fit":
            raise RequestError(
                f"{len(absent)} of {len(labels)} styles have no painting to fit on, first {absent[0]}: the split keeps "
                "an artist's paintings together, and that style has too few artists; leave the style out or add some"
            )
        if absent:
            LOGGER.warning(
                "%d of %d styles have no painting in the part to %s by, first %s",
                len(absent),
                len(labels),
                part,
                absent[0],
            )


# --- who is split how -------------------------------------------------------------------------------------------------


def split_by_artist(paintings: Sequence[StyleRow], seed: int) -> list[Part | None]:
    """A part for each painting; those of one artist, and those of the same bytes, share theirs.

    A painting of the test split has none: its picture is a style that students are evaluated with.
    """
    groups = _groups(paintings)
    members: dict[int, list[int]] = defaultdict(list)
    for k, group in enumerate(groups):
        if paintings[k].split != "test":
            members[group].append(k)
    order = sorted(members, key=lambda group: derive("style probe", seed, min(paintings[k].id for k in members[group])))
    filled: dict[tuple[str, Part], int] = Counter()
    parts: list[Part | None] = [None] * len(paintings)
    for group in order:
        styles = Counter(paintings[k].style for k in members[group])
        main = max(sorted(styles), key=lambda style: styles[style])
        # Style by style: with one order for all, a rare style could lie in one part as a whole.
        part = min(SHARES, key=lambda name: filled[main, name] / SHARES[name])
        filled[main, part] += len(members[group])
        for k in members[group]:
            parts[k] = part
    return parts


def _groups(paintings: Sequence[StyleRow]) -> list[int]:
    """A number for each painting, equal for those of one artist or of the same bytes."""
    parent = list(range(len(paintings)))

    def root(k: int) -> int:
        while parent[k] != k:
            parent[k] = parent[parent[k]]
            k = parent[k]
        return k

    first: dict[tuple[str, str], int] = {}
    for k, painting in enumerate(paintings):
        names = [("sha256", painting.sha256)]
        if painting.artist.strip().lower() not in UNKNOWN:
            names.append(("artist", painting.artist))
        for name in names:
            parent[root(k)] = root(first.setdefault(name, k))
    return [root(k) for k in range(len(paintings))]


def _accepted(paintings: Iterable[StyleRow]) -> Mapping[str, frozenset[str]]:
    """The labels of each picture by its hash: WikiArt has 1 349 pictures under two styles."""
    found: dict[str, set[str]] = defaultdict(set)
    for painting in paintings:
        found[painting.sha256].add(painting.style)
    return {sha256: frozenset(styles) for sha256, styles in found.items()}


def accepted_of(painting: StyleRow, accepted: Mapping[str, frozenset[str]]) -> tuple[str, ...]:
    """The painting's own label first, then others under which the same picture is listed."""
    return painting.style, *sorted(accepted[painting.sha256] - {painting.style})


@dataclass(frozen=True, eq=False)
class _Chosen:
    """Numbers of the paintings of each part, and the label's number of every painting, [N]."""

    fit: Numbers
    choose: Numbers
    judge: Numbers
    labels: Numbers

    @classmethod
    def of(
        cls,
        paintings: Sequence[StyleRow],
        part_of: Sequence[Part | None],
        accepted: Mapping[str, frozenset[str]],
        found: npt.NDArray[np.bool_],
        number: Mapping[str, int],
    ) -> _Chosen:
        parts: dict[Part, list[int]] = {"fit": [], "choose": [], "judge": []}
        judged: set[str] = set()
        for k, (painting, part) in enumerate(zip(paintings, part_of, strict=True)):
            if part is None or not found[k]:
                continue
            if part != "judge" and len(accepted[painting.sha256]) > 1:
                continue  # two labels for one picture teach nothing
            if part == "judge" and painting.sha256 in judged:
                continue  # listed twice, it counts once, as right for either label
            judged.add(painting.sha256)
            parts[part].append(k)
        labels = np.array([number[painting.style] for painting in paintings])
        return cls(np.array(parts["fit"]), np.array(parts["choose"]), np.array(parts["judge"]), labels)


def _photographs(data_root: Path, count: int, seed: int) -> list[Shown]:
    """Contents, an arbitrary choice that is the same each time."""
    try:
        contents = sorted(read_contents(data_root / "coco" / "contents.jsonl"), key=lambda row: row.content_id)
    except MissingError:
        return []
    contents.sort(key=lambda row: derive("photographs of a style probe", seed, row.content_id))
    return [Shown(row.content_path) for row in contents[:count]]


# --- features ---------------------------------------------------------------------------------------------------------


def encode(
    encoder: FrozenEncoder, encoder_hash: str, data_root: Path, shown: Sequence[Shown], folder: Path, size: int
) -> FeatureParts:
    """FeatureParts of pictures, part by part in files; a part that is there for the same pictures is not made again."""
    files: list[Path] = []
    found: list[npt.NDArray[np.bool_]] = []
    with Progress(len(shown), f"encoding {folder.name}", "pictures") as progress, Interruption() as stop:
        for start in range(0, len(shown), _PART):
            part = shown[start : start + _PART]
            key = sha256_json([encoder_hash, encoder.feature, size, [[one.path, one.sha256] for one in part]])[:16]
            file = folder / f"{start:07d}-{key}.safetensors"
            if not file.is_file():
                _encode_part(encoder, data_root, part, file, size)
            files.append(file)
            found.append(_read_found(file))
            progress.update(len(part))
            stop.check()
    return FeatureParts(files, np.concatenate(found) if found else np.zeros(0, np.bool_))


def _encode_part(encoder: FrozenEncoder, data_root: Path, part: Sequence[Shown], file: Path, size: int) -> None:
    from safetensors.numpy import save_file

    found = np.zeros(len(part), np.bool_)
    features: Floats | None = None
    for start in range(0, len(part), _AT_ONCE):
        pictures: list[Picture] = []
        places: list[int] = []
        for k, one in enumerate(part[start : start + _AT_ONCE], start=start):
            try:
                pictures.append(load_square(picture_file(data_root, one.path, "the path of a painting"), size))
                places.append(k)
            except PictureError as error:
                LOGGER.warning("%s", error)
        if not pictures:
            continue
        encoded = encoder.call(np.stack(pictures))  # [n, D]
        if features is None:
            features = np.zeros((len(part), encoded.shape[1]), np.float32)
        features[places] = encoded
        found[places] = True
    if features is None:
        features = np.zeros((len(part), 1), np.float32)
    with atomic_path(file) as temporary:
        save_file({"features": features, "found": found}, temporary)


def _read_found(file: Path) -> npt.NDArray[np.bool_]:
    from safetensors import safe_open

    with safe_open(file, "np") as tensors:
        found: npt.NDArray[np.bool_] = tensors.get_tensor("found")
    return found


# --- regression -------------------------------------------------------------------------------------------------------


def _fit_and_choose(features: FeatureParts, chosen: _Chosen, labels: int) -> tuple[Linear, float]:
    """The regression of the penalty with the least loss on other artists, and that penalty."""
    mean, deviation = _moments(features, chosen.fit)
    wanted = chosen.labels[chosen.choose]
    best: tuple[float, Linear, float] | None = None
    weight = np.zeros((labels, len(mean)))
    bias = np.zeros(labels)
    for penalty in PENALTIES:
        weight, bias = _regress(features, chosen, Linear(weight, bias, mean, deviation, 1.0), penalty)
        linear = Linear(weight, bias, mean, deviation, 1.0)
        loss = _balanced_loss(_probabilities(linear, features, chosen.choose), wanted)
        if best is None or loss < best[0]:
            best = (loss, linear, penalty)
    assert best is not None  # there are penalties
    _, linear, penalty = best
    losses: list[float] = []
    for temperature in _TEMPERATURES:
        cooled = Linear(linear.weight, linear.bias, mean, deviation, float(temperature))
        losses.append(_balanced_loss(_probabilities(cooled, features, chosen.choose), wanted))
    temperature = float(_TEMPERATURES[int(np.argmin(losses))])
    return Linear(linear.weight, linear.bias, mean, deviation, temperature), penalty


def _moments(features: FeatureParts, places: Numbers) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and standard deviation of each feature over some pictures, each [D]."""
    count, total, squares = 0, np.zeros(1), np.zeros(1)
    for rows, _ in _selected(features, places):
        wide = rows.astype(np.float64)
        count += len(wide)
        total = total + wide.sum(0)
        squares = squares + (wide**2).sum(0)
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 0)
    # A feature that is the same everywhere stays 0 after standardising, instead of noise made large.
    deviation = np.where(variance > 1e-12, np.sqrt(variance), 1.0)
    return mean, deviation


def _selected(features: FeatureParts, places: Numbers) -> Iterator[tuple[Floats, Numbers]]:
    """The rows of some pictures, part by part, and which of `places` (rising) they are."""
    for start, rows in features.parts():
        first, last = np.searchsorted(places, [start, start + len(rows)])
        if last > first:
            yield rows[places[first:last] - start], np.arange(first, last)


def _regress(
    features: FeatureParts, chosen: _Chosen, begin: Linear, penalty: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Weight [K, D] and bias [K] of least loss: the mean over styles of a style's mean cross-entropy, plus the penalty.

    By L-BFGS on the whole set; the gradient is summed over parts, so that no more than one is in memory.
    """
    import torch

    of_fit = chosen.labels[chosen.fit]
    counts = np.bincount(of_fit, minlength=len(begin.bias))
    shares = torch.from_numpy(1.0 / (counts[of_fit] * np.count_nonzero(counts)))  # sums to 1
    wanted = torch.from_numpy(of_fit)
    weight = torch.tensor(begin.weight, requires_grad=True)
    bias = torch.tensor(begin.bias, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weight, bias], max_iter=_STEPS, tolerance_grad=1e-7, tolerance_change=1e-10, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        total = penalty / 2 * (weight**2).sum()
        total.backward()  # type: ignore[no-untyped-call]
        value = total.detach()
        for rows, places in _selected(features, chosen.fit):
            standard = torch.from_numpy((rows - begin.mean) / begin.deviation)
            each = torch.nn.functional.cross_entropy(standard @ weight.T + bias, wanted[places], reduction="none")
            part = (each * shares[places]).sum()
            part.backward()  # type: ignore[no-untyped-call]
            value = value + part.detach()
        return value

    step: Callable[[Callable[[], torch.Tensor]], object] = optimiser.step
    step(loss)
    return weight.detach().numpy(), bias.detach().numpy()


def _probabilities(linear: Linear, features: FeatureParts, places: Numbers) -> Floats:
    """Of some pictures (rising), [n, K]."""
    return np.concatenate([linear.probabilities(rows) for rows, _ in _selected(features, places)])


def _balanced_loss(probabilities: Floats, wanted: Numbers) -> float:
    """The mean over styles of a style's mean cross-entropy."""
    losses = -np.log(np.maximum(probabilities[np.arange(len(wanted)), wanted].astype(np.float64), 1e-12))
    return float(np.mean([losses[wanted == label].mean() for label in np.unique(wanted)]))


# --- figures ----------------------------------------------------------------------------------------------------------


def accuracy(probabilities: Floats, accepted: Sequence[Sequence[str]], labels: Sequence[str]) -> ProbeAccuracy:
    """How often one of a picture's labels comes first, or among the first five.

    Args:
        probabilities: [N, K].
        accepted: the labels that are right for each picture; by the first of them it is counted in `by_style`.
        labels: what the columns mean.
    """
    ranked = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]  # [N, 5]
    first: list[bool] = []
    among: list[bool] = []
    by_style: dict[str, list[bool]] = defaultdict(list)
    for row, right in zip(ranked, accepted, strict=True):
        answers = [labels[k] for k in row]
        first.append(answers[0] in right)
        among.append(any(answer in right for answer in answers))
        by_style[right[0]].append(first[-1])
    shares = {style: round(100 * float(np.mean(found)), 2) for style, found in sorted(by_style.items())}
    return {
        "pictures": len(accepted),
        "top_1": round(100 * float(np.mean(first)), 2),
        "top_5": round(100 * float(np.mean(among)), 2),
        "macro": round(float(np.mean(list(shares.values()))), 2),
        "by_style": shares,
    }


def confusions(probabilities: Floats, styles: Sequence[str], labels: Sequence[str]) -> list[Confusion]:
    """The pairs of styles that are taken for each other most often, by the share of the first one's pictures."""
    counts = Counter(styles)
    taken: Counter[tuple[str, str]] = Counter()
    for style, k in zip(styles, probabilities.argmax(1), strict=True):
        if labels[k] != style:
            taken[style, labels[k]] += 1
    found: list[Confusion] = []
    for (style, other), pictures in taken.items():
        share = round(100 * pictures / counts[style], 2)
        found.append({"style": style, "taken_for": other, "pictures": pictures, "share": share})
    found.sort(key=lambda one: (-one["share"], -one["pictures"], one["style"], one["taken_for"]))
    return found[:_CONFUSIONS]


def taken_for(probabilities: Floats, labels: Sequence[str]) -> dict[str, float]:
    """The share of pictures that are taken for each style, in percent, the largest first; styles of none left out."""
    counts = Counter(labels[k] for k in probabilities.argmax(1))
    return {style: round(100 * count / len(probabilities), 2) for style, count in counts.most_common()}


def describe_probe(config: ProbeConfig) -> list[str]:
    """How good a probe is, in lines for people: beside each number that it makes."""
    figures, counts = config["figures"], config["counts"]
    paintings = figures["paintings"]
    lines = [
        f"style probe on {escaped(config['encoder'])} ({config['feature']}): of {paintings['pictures']} paintings by "
        f"artists it was not fitted on, top-1 {paintings['top_1']:.1f} %, top-5 {paintings['top_5']:.1f} %, macro over "
        f"{len(paintings['by_style'])} styles {paintings['macro']:.1f} %",
        f"fitted on {counts['fitted']} paintings, penalty {config['penalty']:g} chosen on {counts['chosen_by']}; left "
        f"out: {counts['test_split']} of the test split, {counts['two_labels']} under two labels, "
        f"{counts['unreadable']} unreadable",
    ]
    if figures["confusions"]:
        worst = figures["confusions"][0]
        lines.append(
            f"most confused: {escaped(worst['style'])} is taken for {escaped(worst['taken_for'])} in "
            f"{worst['share']:.0f} % of its paintings"
        )
    taken = figures.get("photographs")
    if taken is None:
        lines.append("plain photographs: not measured, the data set has no contents")
    else:
        first = [f"{escaped(style)} {share:.0f} %" for style, share in list(taken.items())[:3]]
        lines.append(f"{figures['photographs_seen']} plain photographs are taken for: {', '.join(first)}")
    return lines
