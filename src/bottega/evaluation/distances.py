"""LPIPS, CFSD, FID and ArtFID of a table's rows, where a recipe names their networks.

They are measured after the other metrics and beside them: FID belongs to a row and not to a picture, and its features
are kept, so that a stopped evaluation computes none again. With no network named nothing is read.

    distances.jsonl   LPIPS and CFSD of each picture to its content
    features.jsonl    Inception's features of each different picture
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from cachetools import LRUCache
from typing_extensions import TypedDict

from bottega.data.pictures import load_square
from bottega.data.records import Pair
from bottega.evaluation.bootstrap import BootstrapEstimate
from bottega.evaluation.controls import control_picture
from bottega.evaluation.frechet import FeatureMoments, art_fid, frechet_distance
from bottega.evaluation.grid import Grid
from bottega.evaluation.jackknife import CrossedFeatures, crossed_jackknife
from bottega.evaluation.protocol_scoring import (
    FEATURES,
    InceptionStore,
    KeyedLines,
    ProtocolNetworks,
    load_protocol_networks,
)
from bottega.evaluation.records import ScoreLine, SummaryRecord
from bottega.evaluation.scoring import Record
from bottega.evaluation.sources import Sources
from bottega.models.config import ModelsConfig
from bottega.runtime.caching import get_or_compute
from bottega.runtime.files import sha256_bytes
from bottega.runtime.interrupt import Interruption
from bottega.runtime.progress import Progress
from bottega.runtime.records import to_record
from bottega.visual.pictures import Picture

DISTANCES = "distances.jsonl"
_ROLES = ("lpips", "vgg19", "inception")
_AT_ONCE = 64  # features that are added to the moments together: each time a matrix of 2 048 × 2 048 is renewed
_KEPT = 64  # hashes and pictures of contents and styles, which many pairs share


class DistanceLine(TypedDict):
    """A distance of one picture to its content, by what measured it."""

    metric: str
    by: str
    picture_sha256: str
    content_sha256: str
    value: float


@dataclass
class Distances:
    """What was measured: lines for `scores.jsonl`, and the distances of whole rows.

    Args:
        absent: why a network is not there, by its name in `metrics.NEEDS`.
        identities: which weights each network has, by its name.
    """

    absent: Mapping[str, str]
    identities: Mapping[str, str]
    lines: list[ScoreLine] = field(default_factory=list)
    rows: dict[str, dict[str, BootstrapEstimate]] = field(default_factory=dict)

    def add_to(self, summary: SummaryRecord) -> None:
        """Put the distances of whole rows into their cells."""
        for row, found in self.rows.items():
            for metric, estimate in found.items():
                summary["rows"][row]["metrics"][metric] = {"status": "measured", **estimate.record()}


def measure_distances(
    grid: Grid,
    measured: Mapping[tuple[str, str], Record],
    files: Mapping[str, Mapping[str, Path]],
    sources: Sources,
    models: ModelsConfig,
    directory: Path,
) -> Distances:
    """Measure the rows' pictures by the networks that the recipe names.

    Args:
        grid: the pairs.
        measured: by row and pair id what the other metrics found; pictures that they could not measure are left out.
        files: for each drawn row the picture file of each pair id that has one.
        sources: contents, styles and drawn truths.
        models: `lpips`, `vgg19` and `inception`.
        directory: of the evaluation.
    """
    if not any(getattr(models, role) for role in _ROLES):
        return Distances(load_protocol_networks(models).absent, {})
    networks = load_protocol_networks(models)
    found = Distances(networks.absent, _identities(networks))
    meter = _DistanceMeter(sources, files, networks, directory)
    pairs = {pair.pair_id: pair for pair in grid.pairs}
    by_row: dict[str, list[Record]] = {}
    for record in measured.values():
        by_row.setdefault(record.row, []).append(record)
    with Progress(len(measured), "measuring distances", "pictures") as progress, Interruption() as interruption:
        for row, of_row in by_row.items():
            shown: list[_Shown] = []
            for record in of_row:
                shown.append(meter.measure(row, pairs[record.pair_id]))
                progress.update(1)
                interruption.check()
            found.lines += _score_lines(of_row, shown)
            if meter.features is not None:
                found.rows[row] = _row_distances(grid, shown, meter.features)
    return found


def _identities(networks: ProtocolNetworks) -> dict[str, str]:
    by_metric = networks.identities()
    named = {"lpips": "lpips", "cfsd": "vgg19", "features": "inception"}
    return {role: by_metric[metric] for metric, role in named.items() if metric in by_metric}


@dataclass(frozen=True)
class _Shown:
    """A picture of a row: its hashes, and its distances to its content."""

    pair: Pair
    picture_sha256: str
    style_sha256: str
    scores: Mapping[str, float]


class _DistanceMeter:
    """Measures one picture after the other, and keeps what it measured in files."""

    def __init__(
        self,
        sources: Sources,
        files: Mapping[str, Mapping[str, Path]],
        networks: ProtocolNetworks,
        directory: Path,
    ) -> None:
        self._sources, self._files, self._networks = sources, files, networks
        self._identities = networks.identities()
        self._file = directory / DISTANCES
        self._lines = KeyedLines(self._file, _key_of)
        by = self._identities.get("features")
        self.features = None if by is None else InceptionStore(directory / FEATURES, by)
        self._loaded: LRUCache[str, Picture] = LRUCache(_KEPT)

    def measure(self, row: str, pair: Pair) -> _Shown:
        """A row's picture of a pair."""
        content = get_or_compute(self._loaded, pair.content_path, lambda: self._sources.content(pair))
        style = get_or_compute(self._loaded, pair.style_path, lambda: self._sources.style(pair))
        picture = self._picture(row, pair, content, style)
        of_picture, of_content, of_style = (sha256_bytes(one.tobytes()) for one in (picture, content, style))
        scores: dict[str, float] = {}
        for metric, call in self._calls().items():
            key = (metric, self._identities[metric], of_picture, of_content)
            line = self._lines.get(key)
            if line is None:
                value = call(picture, content)
                self._lines.add(_line(*key, value))
            else:
                value = to_record(DistanceLine, line, str(self._file), "delete that line")["value"]
            scores[metric] = value
        for sha256, one in ((of_picture, picture), (of_style, style)):
            if self.features is not None and self._networks.inception is not None and sha256 not in self.features:
                self.features.add(sha256, self._networks.inception(one[None])[0])
        return _Shown(pair, of_picture, of_style, scores)

    def _calls(self) -> Mapping[str, Callable[[Picture, Picture], float]]:
        calls: dict[str, Callable[[Picture, Picture], float]] = {}
        lpips, vgg19 = self._networks.lpips, self._networks.vgg19
        if lpips is not None:
            calls["lpips"] = lambda picture, content: float(lpips(picture[None], content[None])[0])
        if vgg19 is not None:
            calls["cfsd"] = vgg19
        return calls

    def _picture(self, row: str, pair: Pair, content: Picture, style: Picture) -> Picture:
        file = self._files.get(row, {}).get(pair.pair_id)
        if file is not None:
            return load_square(file, self._sources.size)
        truths = self._sources.truths(pair, 1) if row in ("truth", "blurred") else []
        picture = control_picture(row, content, style, truths[0] if truths else None)
        assert picture is not None, "the other metrics measured this picture"
        return picture


def _key_of(line: Mapping[str, object]) -> tuple[object, ...]:
    return line.get("metric"), line.get("by"), line.get("picture_sha256"), line.get("content_sha256")


def _line(metric: str, by: str, picture_sha256: str, content_sha256: str, value: float) -> DistanceLine:
    return {
        "metric": metric,
        "by": by,
        "picture_sha256": picture_sha256,
        "content_sha256": content_sha256,
        "value": value,
    }


def _score_lines(records: Sequence[Record], shown: Sequence[_Shown]) -> Iterator[ScoreLine]:
    for record, one in zip(records, shown, strict=True):
        for metric, value in one.scores.items():
            yield {
                "pair_id": record.pair_id,
                "row": record.row,
                "metric": metric,
                "value": round(value, 6),
                "sha256": record.sha256,
            }


def _row_distances(grid: Grid, shown: Sequence[_Shown], features: InceptionStore) -> dict[str, BootstrapEstimate]:
    """FID of a row's pictures to their styles', and ArtFID where LPIPS is there; nothing of a single picture."""
    if len(shown) < 2:
        return {}
    drawn, styles = FeatureMoments.empty(0), FeatureMoments.empty(0)
    crossed = CrossedFeatures(grid.contents, grid.styles)
    lpips: dict[tuple[str, str], float] = {}
    for start in range(0, len(shown), _AT_ONCE):
        block = shown[start : start + _AT_ONCE]
        of_pictures = np.stack([features.read(one.picture_sha256) for one in block])
        of_styles = np.stack([features.read(one.style_sha256) for one in block])
        drawn = drawn.merged(FeatureMoments.of(of_pictures))
        styles = styles.merged(FeatureMoments.of(of_styles))
        for one, of_picture, of_style in zip(block, of_pictures, of_styles, strict=True):
            crossed.add(one.pair.content_id, one.pair.style_id, of_picture, of_style)
            if "lpips" in one.scores:
                lpips[one.pair.content_id, one.pair.style_id] = one.scores["lpips"]
    fid = frechet_distance(drawn, styles)
    found = {"fid": crossed_jackknife(fid, crossed, lambda kept: kept.distance())}
    if lpips:
        matrix = grid.matrix(lpips)

        def art_fid_of(kept: CrossedFeatures) -> float:
            return art_fid(float(matrix[kept.present() > 0].mean()), kept.distance())

        found["art_fid"] = crossed_jackknife(art_fid(float(np.nanmean(matrix)), fid), crossed, art_fid_of)
    return found
