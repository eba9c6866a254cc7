"""Published protocols: judge a folder of any tool's outputs by numbers that stand in papers.

`styleid-800` is the protocol of StyleID (Chung et al. 2024, CVPR), which later papers took over: 20 contents × 40
styles, 800 outputs, LPIPS and CFSD to the content, FID to the styles, ArtFID. Its script's peculiarities (`QUIRKS`) are
reproduced, and a number may be set beside the published ones only where pictures and weights are the published ones,
by their SHA-256.

Read `run_protocol` from top to bottom; it leaves in its folder

    measured.jsonl, features.jsonl   per picture, kept between calls: see `protocol_scoring`
    summary.json, table.md           the numbers with intervals, beside their controls
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bottega.evaluation.bootstrap import METHOD, Matrix, crossed_mean
from bottega.evaluation.frechet import FeatureMoments, art_fid, frechet_distance
from bottega.evaluation.jackknife import METHOD as JACKKNIFE
from bottega.evaluation.jackknife import CrossedFeatures, crossed_jackknife
from bottega.evaluation.protocol_pictures import (
    ProtocolPictures,
    differing_pictures,
    differing_sizes,
    find_pictures,
    published_pictures,
)
from bottega.evaluation.protocol_records import (
    ControlOrder,
    ProtocolMetric,
    ProtocolRow,
    ProtocolSummary,
)
from bottega.evaluation.protocol_scoring import (
    FEATURES,
    MEASURED,
    InceptionStore,
    ProtocolNetworks,
    ProtocolScores,
    load_protocol_networks,
    measure_protocol,
)
from bottega.evaluation.protocol_table import protocol_markdown
from bottega.evaluation.records import MetricCell
from bottega.models.config import ModelsConfig
from bottega.models.plain_weights import WeightsRecord
from bottega.runtime.errors import RequestError
from bottega.runtime.files import write_json, write_text
from bottega.runtime.trust import Role, seal

PROTOCOLS = ("styleid-800",)
LEVEL = 0.95
_AT_ONCE = 64  # features that are added to the moments together
_FID_INFINITY_FROM = 5000  # pictures; up to so many the script's extrapolation is the plain FID


class ProtocolRowInfo(NamedTuple):
    """A row of the table."""

    title: str
    meaning: str


ROWS: Mapping[str, ProtocolRowInfo] = {
    "output": ProtocolRowInfo("outputs", "the pictures of the folder that is judged"),
    "content": ProtocolRowInfo("content itself", "changes nothing: the best LPIPS and CFSD there are"),
    "style": ProtocolRowInfo("style picture itself", "copies the style: the best FID and histogram loss there are"),
    "colours": ProtocolRowInfo("colour transfer", "the content with the style's Lab mean and covariance; no network"),
}

METRICS: Mapping[str, ProtocolMetric] = {
    "art_fid": {"title": "ArtFID", "better": "lower", "meaning": "(1 + LPIPS) (1 + FID)"},
    "fid": {
        "title": "FID",
        "better": "lower",
        "meaning": "Fréchet distance of all pictures to their styles' pictures, in features of ArtFID's Inception",
    },
    "lpips": {"title": "LPIPS", "better": "lower", "meaning": "AlexNet, version 0.1, to the content, at 512 pixels"},
    "cfsd": {
        "title": "CFSD",
        "better": "lower",
        "meaning": "difference of the self-similarities of VGG19's relu3_1 to the content's, not resized",
    },
    "lpips_grey": {"title": "LPIPS, grey", "better": "lower", "meaning": "the same without colour"},
    "histogram": {
        "title": "histogram loss",
        "better": "lower",
        "meaning": "Hellinger distance of HistoGAN's RGB-uv histograms, to the style",
    },
}

ORDER: Mapping[str, tuple[str, str]] = {
    "fid": ("style", "content"),
    "lpips": ("content", "style"),
    "lpips_grey": ("content", "style"),
    "cfsd": ("content", "style"),
    "histogram": ("style", "content"),
}
"""For each metric a control that must be better and one that must be worse. ArtFID weighs both sides and has none."""

QUIRKS = (
    "FID is called FID∞ and is the plain FID: the extrapolation takes samples of 5 000 pictures and more, and of 800 "
    "pictures every one of them is all 800",
    "the number of points of that extrapolation is --num_workers (8 by default), passed in its place by position: "
    "without effect at 800 pictures",
    "each style picture counts 20 times in FID and each content 40 times, as copied files; the covariance of the "
    "styles has rank 39 at most, in 2 048 dimensions",
    "pictures are resized (short side 512, Pillow's bilinear filter) for FID and LPIPS, and not for CFSD, whose value "
    "grows with the size",
    "CFSD is a sum over places, computed in float32, whose rounding is of the order of 1e-4 of it at 512 pixels",
    "grey LPIPS shows AlexNet three equal channels of luma",
    "Inception gets pictures in 0…1 at 512 pixels: no normalisation, no resize to 299",
    "the script loads Inception without complaint about absent tensors (strict=False); here an absent one is an error",
)
"""What the published script does that its names don't say; reproduced, but for the last."""

_NEEDS = {"art_fid": ("lpips", "inception"), "fid": ("inception",), "lpips": ("lpips",), "lpips_grey": ("lpips",)} | {
    "cfsd": ("vgg19",),
    "histogram": (),
}
"""The networks that a metric is made of."""


@dataclass(frozen=True)
class ProtocolRequest:
    """What is judged.

    Args:
        folder: the outputs.
        data: the protocol's pictures, StyleID's folder `data`.
        pattern: an output's name, see `protocol_pictures.find_pictures`; None: found out.
        rows: names of `ROWS`; the outputs are always among them.
        allow_missing: leave out pairs that have no output, from every row.
    """

    folder: Path
    data: Path
    pattern: str | None = None
    rows: Sequence[str] = tuple(ROWS)
    allow_missing: bool = False


def run_protocol(name: str, request: ProtocolRequest, models: ModelsConfig, output: Path) -> ProtocolSummary:
    """Judge a folder of outputs by a published protocol. May be called again: what was measured is used again.

    Args:
        name: one of `PROTOCOLS`.
        request: what is judged.
        models: `lpips`, `inception` and `vgg19`; what is absent makes its metrics unavailable.
        output: where everything is written.

    Returns:
        The content of `summary.json`.

    Raises:
        RequestError: there is no such protocol, or a row has no such name.
        MissingError: outputs are missing.
        PictureError: a picture can't be read.
    """
    # Check what is asked for, before anything is loaded.
    if name not in PROTOCOLS:
        raise RequestError(f"a protocol is one of {', '.join(PROTOCOLS)}, received {name!r}; name one of these")
    rows = list(dict.fromkeys(["output", *request.rows]))
    unknown = [row for row in rows if row not in ROWS]
    if unknown:
        raise RequestError(f"rows of a protocol are {', '.join(ROWS)}, received {', '.join(unknown)}; name these")
    pictures = find_pictures(request.folder, request.data, request.pattern, allow_missing=request.allow_missing)
    output.mkdir(parents=True, exist_ok=True)

    # Measure every row's pictures of every pair.
    started = time.monotonic()
    networks = load_protocol_networks(models)
    scores = measure_protocol(pictures, rows, networks, output)

    # Derive the numbers, and say what they can be compared with.
    differences = [
        *differing_pictures(pictures, published_pictures()),
        *_differing_estimator(len(pictures.cells)),
        *_differing_weights(networks),
    ]
    table: dict[str, ProtocolRow] = {}
    for row in rows:
        table[row] = _row(row, pictures, scores, networks)
    summary: ProtocolSummary = {
        "protocol": name,
        "folder": request.folder.name,
        "pattern": pictures.pattern,
        "pairs": len(pictures.cells),
        "contents": len(pictures.contents),
        "styles": len(pictures.styles),
        "comparable": not differences,
        "differences": differences,
        "cfsd_differences": differing_sizes(pictures) + _differing_vgg19(networks),
        "metrics": dict(METRICS),
        "rows": table,
        "order": _order(table),
        "missing": list(pictures.missing),
        "other_files": list(pictures.others),
        "interval": {"level": LEVEL, "means": METHOD, "distances": JACKKNIFE},
        "networks": networks.records(),
        "quirks": list(QUIRKS),
    }
    summary["seconds"] = round(time.monotonic() - started, 1)
    write_json(output / "summary.json", summary)
    write_text(output / "table.md", protocol_markdown(summary))
    written: dict[Path, Role] = {output / file: "view" for file in ("summary.json", "table.md")}
    written |= {output / file: "result" for file in (MEASURED, FEATURES)}
    seal(output, {file: role for file, role in written.items() if file.exists()})
    return summary


def _row(row: str, pictures: ProtocolPictures, scores: ProtocolScores, networks: ProtocolNetworks) -> ProtocolRow:
    cells: dict[str, MetricCell] = {}
    for metric in METRICS:
        lacking = [networks.absent[need] for need in _NEEDS[metric] if need in networks.absent]
        if lacking:
            cells[metric] = {"status": f"unavailable: {'; '.join(lacking)}"}
        elif metric not in ("fid", "art_fid"):
            cells[metric] = _mean_cell(row, metric, scores)
    if "inception" not in networks.absent and scores.features is not None:
        distances = _distances(row, pictures, scores, scores.features)
        for metric in ("fid", "art_fid"):
            cells.setdefault(metric, distances.get(metric, {"status": "unavailable: LPIPS is"}))
    info = ROWS[row]
    return {"title": info.title, "meaning": info.meaning, "pictures": len(pictures.cells), "metrics": cells}


def _mean_cell(row: str, metric: str, scores: ProtocolScores) -> MetricCell:
    """A mean over pictures. One that a single picture lacks is unavailable: its mean would be of other pairs."""
    reasons = scores.reasons(row, metric)
    values = scores.values(row, metric)
    if reasons or values is None:
        return {"status": f"unavailable: {'; '.join(reasons) or 'no picture was measured'}"}
    return {"status": "measured", **crossed_mean(values, level=LEVEL, within=(0.0, math.inf)).record()}


def _distances(
    row: str, pictures: ProtocolPictures, scores: ProtocolScores, features: InceptionStore
) -> dict[str, MetricCell]:
    """FID of a row, and ArtFID where LPIPS is there, each with its interval."""
    drawn = FeatureMoments.empty(0)
    styles = FeatureMoments.empty(0)
    crossed = CrossedFeatures(list(pictures.contents), list(pictures.styles))
    for start in range(0, len(pictures.cells), _AT_ONCE):
        cells = pictures.cells[start : start + _AT_ONCE]
        shown = [scores.shown(row, cell) for cell in cells]
        of_pictures = np.stack([features.read(picture) for picture, _ in shown])
        of_styles = np.stack([features.read(style) for _, style in shown])
        drawn = drawn.merged(FeatureMoments.of(of_pictures))
        styles = styles.merged(FeatureMoments.of(of_styles))
        for cell, one, other in zip(cells, of_pictures, of_styles, strict=True):
            crossed.add(cell.content, cell.style, one, other)
    distance = frechet_distance(drawn, styles)
    lpips = scores.values(row, "lpips")
    found = {"fid": _distance_cell(distance, crossed, lambda kept: kept.distance())}
    if lpips is not None and not scores.reasons(row, "lpips"):
        value = art_fid(float(np.nanmean(lpips)), distance)

        def without(kept: CrossedFeatures) -> float:
            return art_fid(_mean_of(lpips, kept.present()), kept.distance())

        found["art_fid"] = _distance_cell(value, crossed, without)
    return found


def _mean_of(values: Matrix, present: Matrix) -> float:
    return float(values[present > 0].mean())


def _distance_cell(value: float, crossed: CrossedFeatures, again: Callable[[CrossedFeatures], float]) -> MetricCell:
    estimate = crossed_jackknife(value, crossed, again, level=LEVEL)
    return {"status": "measured", **estimate.record()}


def _order(table: Mapping[str, ProtocolRow]) -> dict[str, ControlOrder]:
    found: dict[str, ControlOrder] = {}
    for metric, (better, worse) in ORDER.items():
        if better not in table or worse not in table:
            continue
        first, second = table[better]["metrics"][metric], table[worse]["metrics"][metric]
        if "value" in first and "value" in second:
            found[metric] = {"better": better, "worse": worse, "ordered": first["value"] < second["value"]}
    return found


# --- what the numbers can be compared with ----------------------------------------------------------------------------


def _differing_estimator(pairs: int) -> list[str]:
    """Why FID is another estimator than the script's; empty up to the size of its smallest sample."""
    if pairs <= _FID_INFINITY_FROM:
        return []
    return [f"of more than {_FID_INFINITY_FROM} pictures the script extrapolates FID, and here it is the plain one"]


def _differing_weights(networks: ProtocolNetworks) -> list[str]:
    """Why the weights of LPIPS and FID are not shown to be the published ones."""
    found = [networks.absent[role] for role in ("lpips", "inception") if role in networks.absent]
    records: list[WeightsRecord] = []
    if networks.lpips is not None:
        records += [networks.lpips.record["trunk"], networks.lpips.record["linear"]]
    if networks.inception is not None:
        records.append(networks.inception.record["weights"])
        if networks.inception.variant != "art":
            found.append("the Inception is FID's, and the protocol's is ArtFID's")
    return found + [_difference(record) for record in records if record["difference"]]


def _differing_vgg19(networks: ProtocolNetworks) -> list[str]:
    if networks.vgg19 is None:
        return [networks.absent["vgg19"]]
    record = networks.vgg19.record
    return [_difference(record)] if record["difference"] else []


def _difference(record: WeightsRecord) -> str:
    return f"the weights of {record['network']} are not shown to be the published ones: {record['difference']}"
