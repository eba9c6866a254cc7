"""From pictures to scores: one record a picture, kept in `measured.jsonl`, so that no picture is measured twice.

A record holds for whatever its `key` hashes: the picture, its content, style, caption, label map and truths, the
networks and the method of measuring. Pairs go in the order of the grid, all methods of some pairs together, so that a
pair's truths and a content's keys are computed once.

Legend: N pictures, K labels, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from cachetools import LRUCache

from bottega.data.pictures import load_square
from bottega.data.records import Pair
from bottega.evaluation.colour import palette, palette_distance
from bottega.evaluation.config import EvaluationConfig
from bottega.evaluation.controls import MADE_FROM, ROWS, control_picture
from bottega.evaluation.grid import Grid
from bottega.evaluation.metrics import object_overlap, same_classes, structure_distance, text_scores
from bottega.evaluation.networks import Networks
from bottega.evaluation.sources import Sources
from bottega.evaluation.truth_distance import Description, describe, nearest
from bottega.runtime.caching import get_or_compute
from bottega.runtime.errors import PictureError
from bottega.runtime.files import append_jsonl, read_jsonl_leniently, sha256_bytes, sha256_file, sha256_json
from bottega.runtime.interrupt import Interruption
from bottega.runtime.progress import Progress
from bottega.runtime.records import to_record
from bottega.runtime.trust import holds, with_check
from bottega.visual.pictures import Picture

Array = npt.NDArray[Any]

METRICS_VERSION = 1
"""Raise it when a metric changes its meaning: records of another version are measured again."""

_CHUNK = 16  # pairs measured together
_SHARED = 384  # features kept of contents and styles, which many pairs share: about 77 pictures' five features


@dataclass(frozen=True)
class Record:
    """The raw scores of one picture. `scores["kind"]` is the number of the most likely style label."""

    pair_id: str
    row: str
    sha256: str
    key: str
    # Both: a whole number that is read back as 3.0 would be written as another text than by an uninterrupted run.
    scores: Mapping[str, int | float]


@dataclass
class Measured:
    """Records by (row, pair id), and the pairs that were left out with the reason."""

    records: dict[tuple[str, str], Record] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    def add(self, records: Iterable[Record]) -> None:
        """Put records under their row and pair."""
        for record in records:
            self.records[record.row, record.pair_id] = record


@dataclass(frozen=True)
class _Job:
    pair: Pair
    row: str
    picture: Picture
    sha256: str
    key: str


def measure_all(
    grid: Grid,
    files: Mapping[str, Mapping[str, Path]],
    config: EvaluationConfig,
    sources: Sources,
    networks: Networks,
    kept: Path,
    made_from: Mapping[str, int] = MADE_FROM,
) -> Measured:
    """Measure every row's picture of every pair.

    One unreadable picture leaves its pair out of every row, so that all rows keep the same denominator.

    Args:
        grid: the pairs.
        files: for each drawn row the picture file of each pair id that has one.
        config: the rows, and what counts as an object.
        sources: contents, styles, label maps and drawn truths.
        networks: those that judge; an absent one leaves its metrics out.
        kept: `measured.jsonl`; records in it that still hold are used again, new ones are appended.
        made_from: for a row the number of the drawn truth that it is made from and never compared with.
    """
    # All that decides a score but the pair's own files: a record that was made otherwise is measured again.
    method = sha256_json(
        [METRICS_VERSION, sources.size, made_from, config.object_floor, config.object_overlap, networks.identities]
    )
    known: dict[str, Record] = {}
    if kept.is_file():
        for line in read_jsonl_leniently(kept, []):
            # A damaged line is no record: its picture is measured again.
            if holds(line):
                record = to_record(Record, line, str(kept), "delete that line: its picture is measured again")
                known[record.key] = record
    measured = Measured()
    measurer = _Measurer(config, sources, networks, made_from)
    with Progress(len(grid), "measuring", "pairs") as progress, Interruption() as interruption:
        for pairs in _chunks(grid.pairs, _CHUNK):
            jobs: list[_Job] = []
            for pair in pairs:
                # All rows of the pair or none: its jobs count only once its last picture has been read.
                try:
                    found, todo = _find_jobs(pair, config.rows, files, sources, method, known)
                except PictureError as error:
                    measured.broken[pair.pair_id] = str(error)
                    continue
                measured.add(found)
                jobs += todo
            # Written before the next pairs are read, so that a stopped evaluation measures none of these again.
            records = measurer(jobs)
            if records:
                append_jsonl(kept, (with_check(vars(record)) for record in records))
            measured.add(records)
            progress.update(len(pairs))
            interruption.check()
    return measured


def _find_jobs(
    pair: Pair,
    rows: Sequence[str],
    files: Mapping[str, Mapping[str, Path]],
    sources: Sources,
    method: str,
    known: Mapping[str, Record],
) -> tuple[list[Record], list[_Job]]:
    """The pictures of a pair that were measured before, and those that are still to be measured."""
    identity = [method, *sources.identity(pair)]
    found: list[Record] = []
    todo: list[_Job] = []
    for row in rows:
        file = files.get(row, {}).get(pair.pair_id)
        if ROWS[row].drawn and file is None:
            continue
        sha256 = sha256_file(file) if file is not None else ""
        key = sha256_json([row, sha256, identity])[:20]
        if key in known:
            # The same picture may be in a list under another name: name and row are this pair's.
            found.append(replace(known[key], pair_id=pair.pair_id, row=row))
            continue
        picture = load_square(file, sources.size) if file is not None else _make_control(row, pair, sources)
        if picture is not None:
            todo.append(_Job(pair, row, picture, sha256 or sha256_bytes(picture.tobytes()), key))
    return found, todo


def _make_control(row: str, pair: Pair, sources: Sources) -> Picture | None:
    """The picture of a row that no network draws; None where it needs a drawn truth and there is none."""
    truths = sources.truths(pair, 1) if ROWS[row].truth else []
    return control_picture(row, sources.content(pair), sources.style(pair), truths[0] if truths else None)


class _Measurer:
    """Scores jobs with the networks there are; features of contents and styles are kept between calls."""

    def __init__(
        self, config: EvaluationConfig, sources: Sources, networks: Networks, made_from: Mapping[str, int]
    ) -> None:
        self.config, self.sources, self.networks, self.made_from = config, sources, networks, made_from
        self._shared: LRUCache[tuple[str, str], Any] = LRUCache(_SHARED)
        reader = networks.scene_reader
        self._classes = same_classes(sources.classes, reader.labels) if reader else {}

    def __call__(self, jobs: Sequence[_Job]) -> list[Record]:
        if not jobs:
            return []
        scores: list[dict[str, float]] = [{} for _ in jobs]
        # Does it have the style?
        self._kinds(jobs, scores)
        self._palettes(jobs, scores)
        # Has it kept the content?
        self._objects(jobs, scores)
        self._structures(jobs, scores)
        # Does it show what the caption says, and how far is it from the right answer?
        self._texts(jobs, scores)
        self._truths(jobs, scores)
        records: list[Record] = []
        for job, found in zip(jobs, scores, strict=True):
            records.append(Record(job.pair.pair_id, job.row, job.sha256, job.key, found))
        return records

    def _kinds(self, jobs: Sequence[_Job], scores: list[dict[str, float]]) -> None:
        classifier = self.networks.style_classifier
        if classifier is None:
            return
        read = self._features("kind", jobs, classifier.probabilities)
        for found, probabilities in zip(scores, read, strict=True):
            found["kind"] = float(probabilities.argmax())

    def _palettes(self, jobs: Sequence[_Job], scores: list[dict[str, float]]) -> None:
        for job, found in zip(jobs, scores, strict=True):
            style = self._once("palette", self.sources.style(job.pair), palette)
            found["palette"] = palette_distance(palette(job.picture), style)

    def _objects(self, jobs: Sequence[_Job], scores: list[dict[str, float]]) -> None:
        reader = self.networks.scene_reader
        if reader is None or not self._classes:
            return
        scenes = self._features("scene", jobs, reader.segment)
        for job, found, read in zip(jobs, scores, scenes, strict=True):
            labels = self.sources.labels(job.pair)
            if labels is None:
                continue
            overlaps = object_overlap(read, labels, self._classes, self.config.object_floor)
            if overlaps:
                is_found = np.array(overlaps) >= self.config.object_overlap
                found["objects_iou"] = 100 * float(np.mean(overlaps))
                found["objects_found"] = 100 * float(np.mean(is_found))

    def _structures(self, jobs: Sequence[_Job], scores: list[dict[str, float]]) -> None:
        encoder = self.networks.structure_encoder
        if encoder is None:
            return

        def keys_of(picture: Picture) -> Array:
            keys: Array = encoder.keys(picture[None])[0]
            return keys

        features = self._features("keys", jobs, encoder.keys)
        for job, found, keys in zip(jobs, scores, features, strict=True):
            content = self._once("keys", self.sources.content(job.pair), keys_of)
            found["structure"] = structure_distance(keys, content)

    def _texts(self, jobs: Sequence[_Job], scores: list[dict[str, float]]) -> None:
        clip = self.networks.clip
        if clip is None:
            return
        captions = sorted({job.pair.prompt for job in jobs})
        texts = dict(zip(captions, clip.text(captions), strict=True))
        images = np.stack(self._features("clip", jobs, clip.image))  # [N, D]
        wanted = np.stack([texts[job.pair.prompt] for job in jobs])  # [N, D]
        for found, score in zip(scores, text_scores(images, wanted), strict=True):
            found["text"] = float(score)

    def _truths(self, jobs: Sequence[_Job], scores: list[dict[str, float]]) -> None:
        described: dict[str, list[Description]] = {}
        for job, found in zip(jobs, scores, strict=True):
            pair_id = job.pair.pair_id
            if pair_id not in described:
                described[pair_id] = [describe(truth) for truth in self.sources.truths(job.pair)]
            made_from = self.made_from.get(job.row)
            others = [truth for k, truth in enumerate(described[pair_id]) if k != made_from]
            if others:
                distance = nearest(describe(job.picture), others)
                found["truth"] = distance.total
                found["truth_colour"] = distance.colour
                found["truth_texture"] = distance.texture

    def _features(self, what: str, jobs: Sequence[_Job], call: Callable[[Picture], Array]) -> list[Array]:
        """What a network gives for each job's picture; equal ones, such as a content of many pairs, are shown once."""
        unique = {job.sha256: job for job in jobs}
        found: dict[str, Array] = {}
        new: list[_Job] = []
        for sha256, job in unique.items():
            key = _feature_key(what, job.picture)
            if key in self._shared:
                found[sha256] = self._shared[key]
            else:
                new.append(job)
        features: Iterable[Array] = ()
        if new:
            features = call(np.stack([job.picture for job in new]))
        for job, feature in zip(new, features, strict=True):
            found[job.sha256] = feature
            if job.row in ("content", "style"):  # every other picture is asked for once
                self._shared[_feature_key(what, job.picture)] = feature
        return [found[job.sha256] for job in jobs]

    def _once(self, what: str, picture: Picture, call: Callable[[Picture], Any]) -> Any:
        return get_or_compute(self._shared, _feature_key(what, picture), lambda: call(picture))


def _feature_key(what: str, picture: Picture) -> tuple[str, str]:
    return what, sha256_bytes(picture.tobytes())


def _chunks(pairs: Sequence[Pair], size: int) -> Iterator[Sequence[Pair]]:
    for start in range(0, len(pairs), size):
        yield pairs[start : start + size]
