"""From pictures to scores: one record a picture, kept in `measured.jsonl`, so that no picture is measured twice.

A record holds for whatever its `key` hashes: the picture, its content, style, caption, label map and truths, the
networks and the method of measuring. Pairs go in the order of the grid, all methods of some pairs together, so that a
pair's truths and a content's keys are computed once. What is to be measured is found in this process; the measuring
itself may be shared by several, each with its own networks.

Legend: N pictures, K labels, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from cachetools import LRUCache

from bottega.data.pictures import load_square
from bottega.data.records import Pair
from bottega.evaluation.colour import palette, palette_distance
from bottega.evaluation.config import EvaluationConfig
from bottega.evaluation.controls import MADE_FROM, ROWS, control_picture
from bottega.evaluation.grid import Grid
from bottega.evaluation.judges import JudgeFacts, judge_facts
from bottega.evaluation.metrics import (
    Labels,
    cosine,
    object_overlap,
    same_classes,
    structure_distance,
    text_scores,
)
from bottega.evaluation.networks import FoundNetworks, Networks, load_networks, style_embeddings
from bottega.evaluation.sources import Sources
from bottega.evaluation.truth_distance import Description, describe, nearest
from bottega.models.workers import OpenPool, Workers
from bottega.runtime.caching import get_or_compute
from bottega.runtime.errors import PictureError
from bottega.runtime.files import append_jsonl, read_jsonl_leniently, sha256_bytes, sha256_file, sha256_json
from bottega.runtime.interrupt import Interruption
from bottega.runtime.progress import Progress
from bottega.runtime.records import to_record
from bottega.runtime.trust import holds, with_check
from bottega.visual.pictures import Picture, Pictures

if TYPE_CHECKING:
    from bottega.models.config import ModelsConfig

Array = npt.NDArray[Any]

METRICS_VERSION = 1
"""Raise it when a metric changes its meaning: records of another version are measured again."""

CLIP = "clip"  # under which CLIP's embedding of a picture is kept: two metrics read it

_CHUNK = 16  # pairs measured together
_SHARED = 512  # features kept of contents and styles, which many pairs share: about 85 pictures' six features


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
    """A picture that is to be measured. `file` is None for a control, which is made from the pair's own pictures."""

    pair: Pair
    row: str
    file: Path | None
    sha256: str
    key: str


@dataclass(frozen=True)
class _Answer:
    """What measuring some jobs gave: a record each, and by pair id why a pair has none."""

    records: list[Record]
    broken: dict[str, str]


def measure_all(
    grid: Grid,
    files: Mapping[str, Mapping[str, Path]],
    config: EvaluationConfig,
    sources: Sources,
    networks: FoundNetworks,
    kept: Path,
    made_from: Mapping[str, int] = MADE_FROM,
    pool: OpenPool | None = None,
) -> Measured:
    """Measure every row's picture of every pair.

    One unreadable picture leaves its pair out of every row, so that all rows keep the same denominator.

    Args:
        grid: the pairs.
        files: for each drawn row the picture file of each pair id that has one.
        config: the rows, and what counts as an object.
        sources: contents, styles, label maps and drawn truths.
        networks: those that judge, loaded; an absent one leaves its metrics out. With a pool, whose processes load
            them for themselves, they need not be.
        kept: `measured.jsonl`; records in it that still hold are used again, new ones are appended.
        made_from: for a row the number of the drawn truth that it is made from and never compared with.
        pool: the processes that share the work, of `measuring_workers`; None: this one alone.
    """
    # All that decides a score but the pair's own files: a record that was made otherwise is measured again.
    method = sha256_json(
        [METRICS_VERSION, sources.size, made_from, config.object_floor, config.object_overlap, networks.identities]
    )
    known = _read_known(kept)
    found_of: list[list[Record]] = []  # of each chunk that is under way, what was measured before

    def jobs() -> Iterator[list[_Job]]:
        for pairs in _chunks(grid.pairs, _CHUNK):
            found: list[Record] = []
            todo: list[_Job] = []
            for pair in pairs:
                try:
                    found_of_pair, todo_of_pair = _find_jobs(pair, config.rows, files, sources, method, known)
                except PictureError as error:
                    measured.broken[pair.pair_id] = str(error)
                    continue
                found += found_of_pair
                todo += todo_of_pair
            found_of.append(found)
            yield todo

    measured = Measured()
    with Progress(len(grid), "measuring", "pairs") as progress, Interruption() as interruption:
        answers: Iterator[_Answer]
        if pool is None:
            assert isinstance(networks, Networks), "without a pool this process measures"
            answers = map(_Measurer(config, sources, networks, made_from), jobs())
        else:
            answers = pool.in_order(_measure_in_worker, jobs())
        for answer in answers:
            # Written before the next chunk's, so that a stopped evaluation measures none of these again.
            if answer.records:
                append_jsonl(kept, (with_check(vars(record)) for record in answer.records))
            measured.broken |= answer.broken
            # All rows of the pair or none: what was measured before of a pair that is broken now does not count.
            measured.add(record for record in found_of.pop(0) if record.pair_id not in answer.broken)
            measured.add(answer.records)
            progress.update(min(_CHUNK, len(grid) - progress.done))
            interruption.check()
    return measured


def measuring_workers(
    workers: Workers,
    config: EvaluationConfig,
    sources: Sources,
    models: ModelsConfig,
    networks: FoundNetworks,
    made_from: Mapping[str, int],
) -> Workers:
    """The same workers, each with its own networks and caches for `measure_all`; they load what was found."""
    plain = FoundNetworks(**{name: getattr(networks, name) for name in FoundNetworks.__dataclass_fields__})
    begin = partial(_begin_worker, config, sources.data_root, sources.size, models, plain, dict(made_from))
    return replace(workers, begin=begin)


def ask_judges(
    config: EvaluationConfig, grid: Grid, sources: Sources, networks: FoundNetworks, pool: OpenPool | None
) -> JudgeFacts:
    """`judge_facts` by a process of the pool that measured, or for None by this one."""
    if pool is not None:
        return next(pool.in_order(_judge_in_worker, [grid]))
    assert isinstance(networks, Networks), "without a pool this process measures"
    return judge_facts(config, grid, sources, networks)


def _read_known(kept: Path) -> dict[str, Record]:
    """The records of an earlier call by their keys."""
    known: dict[str, Record] = {}
    if kept.is_file():
        for line in read_jsonl_leniently(kept, []):
            # A damaged line is no record: its picture is measured again.
            if holds(line):
                record = to_record(Record, line, str(kept), "delete that line: its picture is measured again")
                known[record.key] = record
    return known


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
    has_truth = bool(sources.truth_paths(pair))
    found: list[Record] = []
    todo: list[_Job] = []
    for row in rows:
        file = files.get(row, {}).get(pair.pair_id)
        if ROWS[row].drawn and file is None:
            continue
        if ROWS[row].truth and not has_truth:
            continue
        sha256 = sha256_file(file) if file is not None else ""
        key = sha256_json([row, sha256, identity])[:20]
        if key in known:
            # The same picture may be in a list under another name: name and row are this pair's.
            found.append(replace(known[key], pair_id=pair.pair_id, row=row))
        else:
            todo.append(_Job(pair, row, file, sha256, key))
    return found, todo


# --- a measuring process ----------------------------------------------------------------------------------------------

_make_measurer: Callable[[], _Measurer] | None = None  # of a worker process


def _begin_worker(
    config: EvaluationConfig,
    data_root: Path,
    size: int,
    models: ModelsConfig,
    networks: FoundNetworks,
    made_from: Mapping[str, int],
) -> None:
    global _make_measurer

    @cache
    def make() -> _Measurer:
        sources = Sources(data_root, size, config.truths)
        return _Measurer(config, sources, load_networks(models, networks), made_from)

    # Loaded with the first item: an error here would end the pool without its message.
    _make_measurer = make


def _own_measurer() -> _Measurer:
    assert _make_measurer is not None, "the pool begins each worker by _begin_worker"
    return _make_measurer()


def _measure_in_worker(jobs: Sequence[_Job]) -> _Answer:
    return _own_measurer()(jobs)


def _judge_in_worker(grid: Grid) -> JudgeFacts:
    own = _own_measurer()
    return judge_facts(own.config, grid, own.sources, own.networks)


# --- pictures ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Seen:
    """A picture with the hash of its pixels, by which equal ones are found."""

    picture: Picture
    sha256: str

    @classmethod
    def of(cls, picture: Picture) -> _Seen:
        return cls(picture, sha256_bytes(picture.tobytes()))


@dataclass(frozen=True, eq=False)
class _Sample:
    """A job's picture with what it is compared with: content, style, label map, descriptions of the drawn truths.

    Attributes:
        shared: whether other pairs have the same picture, so that its features are worth keeping.
    """

    job: _Job
    seen: _Seen
    content: _Seen
    style: _Seen
    labels: Labels | None
    truths: Sequence[Description]

    @property
    def shared(self) -> bool:
        return self.job.row in ("content", "style")


class _Measurer:
    """Scores jobs with the networks there are; features of contents and styles are kept between calls."""

    def __init__(
        self, config: EvaluationConfig, sources: Sources, networks: Networks, made_from: Mapping[str, int]
    ) -> None:
        self.config, self.sources, self.networks, self.made_from = config, sources, networks, made_from
        self._shared: LRUCache[tuple[str, str], Any] = LRUCache(_SHARED)
        reader = networks.scene_reader
        self._classes = same_classes(sources.classes, reader.labels) if reader else {}

    def __call__(self, jobs: Sequence[_Job]) -> _Answer:
        # Read the pictures, pair by pair.
        by_pair: dict[str, list[_Job]] = {}
        for job in jobs:
            by_pair.setdefault(job.pair.pair_id, []).append(job)
        samples: list[_Sample] = []
        broken: dict[str, str] = {}
        for pair_id, of_pair in by_pair.items():
            # All rows of the pair or none: its samples count only once its last picture has been read.
            try:
                samples += self._read(of_pair)
            except PictureError as error:
                broken[pair_id] = str(error)
        if not samples:
            return _Answer([], broken)

        scores: list[dict[str, float]] = [{} for _ in samples]
        # Does it have the style?
        images = self._clip_images(samples)
        self._kinds(samples, scores)
        self._palettes(samples, scores)
        self._styles(samples, scores, images)
        # Has it kept the content?
        self._objects(samples, scores)
        self._structures(samples, scores)
        # Does it show what the caption says, and how far is it from the right answer?
        self._texts(samples, scores, images)
        self._truths(samples, scores)

        records: list[Record] = []
        for sample, found in zip(samples, scores, strict=True):
            job = sample.job
            records.append(Record(job.pair.pair_id, job.row, job.sha256 or sample.seen.sha256, job.key, found))
        return _Answer(records, broken)

    def _read(self, jobs: Sequence[_Job]) -> list[_Sample]:
        """The samples of one pair. Raises PictureError."""
        pair = jobs[0].pair
        content = _Seen.of(self.sources.content(pair))
        style = _Seen.of(self.sources.style(pair))
        labels = self.sources.labels(pair)
        first_truth: Picture | None = None
        truths: list[Description] = []
        for number, path in enumerate(self.sources.truth_paths(pair)):
            truth = load_square(path, self.sources.size)
            truths.append(self._describe(_Seen.of(truth), keep=number in self.made_from.values()))
            if number == 0:
                first_truth = truth
        samples: list[_Sample] = []
        for job in jobs:
            if job.file is not None:
                picture = load_square(job.file, self.sources.size)
            else:
                made = control_picture(job.row, content.picture, style.picture, first_truth)
                if made is None:
                    raise PictureError(f"{pair.pair_id}: its drawn truth is gone; run the same command again")
                picture = made
            samples.append(_Sample(job, _Seen.of(picture), content, style, labels, truths))
        return samples

    def _kinds(self, samples: Sequence[_Sample], scores: list[dict[str, float]]) -> None:
        classifier = self.networks.style_classifier
        if classifier is None:
            return
        read = self._features("kind", samples, classifier.probabilities)
        for found, probabilities in zip(scores, read, strict=True):
            found["kind"] = float(probabilities.argmax())

    def _palettes(self, samples: Sequence[_Sample], scores: list[dict[str, float]]) -> None:
        for sample, found in zip(samples, scores, strict=True):
            style = self._once("palette", sample.style, palette)
            own = palette(sample.seen.picture)
            found["palette"] = palette_distance(own, style)

    def _objects(self, samples: Sequence[_Sample], scores: list[dict[str, float]]) -> None:
        reader = self.networks.scene_reader
        if reader is None or not self._classes:
            return
        scenes = self._features("scene", samples, reader.segment)
        for sample, found, read in zip(samples, scores, scenes, strict=True):
            if sample.labels is None:
                continue
            overlaps = object_overlap(read, sample.labels, self._classes, self.config.object_floor)
            if overlaps:
                is_found = np.array(overlaps) >= self.config.object_overlap
                found["objects_iou"] = 100 * float(np.mean(overlaps))
                found["objects_found"] = 100 * float(np.mean(is_found))

    def _structures(self, samples: Sequence[_Sample], scores: list[dict[str, float]]) -> None:
        encoder = self.networks.structure_encoder
        if encoder is None:
            return
        features = self._features("keys", samples, encoder.keys_and_embedding)
        for sample, found, feature in zip(samples, scores, features, strict=True):
            content = self._feature("keys", sample.content, encoder.keys_and_embedding)
            found["structure"] = structure_distance(feature[:-1], content[:-1])
            found["dino"] = cosine(feature[-1], content[-1])

    def _clip_images(self, samples: Sequence[_Sample]) -> list[Array]:
        """CLIP's embedding [D] of each sample, which two metrics read; nothing without CLIP."""
        clip = self.networks.clip
        return [] if clip is None else self._features(CLIP, samples, clip.image)

    def _styles(self, samples: Sequence[_Sample], scores: list[dict[str, float]], images: Sequence[Array]) -> None:
        for metric, call in style_embeddings(self.networks).items():
            what = CLIP if metric == "style_clip" else metric
            features = images if metric == "style_clip" else self._features(what, samples, call)
            for sample, found, feature in zip(samples, scores, features, strict=True):
                found[metric] = cosine(feature, self._feature(what, sample.style, call))

    def _texts(self, samples: Sequence[_Sample], scores: list[dict[str, float]], images: Sequence[Array]) -> None:
        clip = self.networks.clip
        if clip is None:
            return
        captions = sorted({sample.job.pair.prompt for sample in samples})
        texts = dict(zip(captions, clip.text(captions), strict=True))
        wanted = np.stack([texts[sample.job.pair.prompt] for sample in samples])  # [N, D]
        for found, score in zip(scores, text_scores(np.stack(images), wanted), strict=True):
            found["text"] = float(score)

    def _truths(self, samples: Sequence[_Sample], scores: list[dict[str, float]]) -> None:
        for sample, found in zip(samples, scores, strict=True):
            made_from = self.made_from.get(sample.job.row)
            others = [truth for number, truth in enumerate(sample.truths) if number != made_from]
            if others:
                distance = nearest(self._describe(sample.seen, keep=sample.shared), others)
                found["truth"] = distance.total
                found["truth_colour"] = distance.colour
                found["truth_texture"] = distance.texture

    def _describe(self, seen: _Seen, *, keep: bool) -> Description:
        """What the distance to the truth compares; kept where the same picture will be asked for again."""
        key = ("description", seen.sha256)
        if key in self._shared:
            found: Description = self._shared[key]
            return found
        made = describe(seen.picture)
        if keep:
            self._shared[key] = made
        return made

    def _features(self, what: str, samples: Sequence[_Sample], call: Callable[[Pictures], Array]) -> list[Array]:
        """What a network gives for each sample; equal pictures, such as a content of many pairs, are shown once."""
        found: dict[str, Array] = {}
        new: dict[str, _Sample] = {}
        for sample in samples:
            key = (what, sample.seen.sha256)
            if key in self._shared:
                found[sample.seen.sha256] = self._shared[key]
            else:
                new[sample.seen.sha256] = sample
        features: Iterable[Array] = ()
        if new:
            features = call(np.stack([sample.seen.picture for sample in new.values()]))
        for (sha256, sample), feature in zip(new.items(), features, strict=True):
            found[sha256] = feature
            if sample.shared:  # every other picture is asked for once
                self._shared[what, sha256] = feature
        return [found[sample.seen.sha256] for sample in samples]

    def _feature(self, what: str, seen: _Seen, call: Callable[[Pictures], Array]) -> Array:
        """What a network gives for a content or a style, of which there are few."""
        return get_or_compute(self._shared, (what, seen.sha256), lambda: call(seen.picture[None])[0])

    def _once(self, what: str, seen: _Seen, call: Callable[[Picture], Any]) -> Any:
        return get_or_compute(self._shared, (what, seen.sha256), lambda: call(seen.picture))


def _chunks(pairs: Sequence[Pair], size: int) -> Iterator[Sequence[Pair]]:
    for start in range(0, len(pairs), size):
        yield pairs[start : start + size]
