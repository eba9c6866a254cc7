"""`bottega miniature build`: draw the corpus, train every model of the miniature, measure the gates, pack the folders.

Each step leaves its state in the work folder and resumes from there when the command is given again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from bottega.miniature.builder import gates
from bottega.miniature.builder.corpus import Corpus, draw_corpus
from bottega.miniature.builder.encoding import Latents, SDXLText, embed, encode
from bottega.miniature.builder.features import PAINTERS, Features
from bottega.miniature.builder.final_gates import measure_all
from bottega.miniature.builder.learn_encoders import (
    learn_clip,
    learn_scene_reader,
    learn_structure_encoder,
    learn_style_classifier,
    learn_vae,
    scale_latents,
)
from bottega.miniature.builder.learn_teacher import learn_teacher
from bottega.miniature.builder.pack import Parts, pack, untrained
from bottega.miniature.builder.pixart_task import CIRCLES, FULL_FROM, PIXART_PLAN, PixArtTask
from bottega.miniature.builder.siblings import SIBLING_SCENES
from bottega.miniature.builder.tokenizers import t5_tokenizer
from bottega.miniature.builder.trainer import Trainer
from bottega.miniature.ranges import GATE_PAINTERS, GATE_SCENES
from bottega.runtime.children import worker_pool
from bottega.runtime.files import append_jsonl, atomic_path, read_jsonl, write_json
from bottega.runtime.memory import keep_heap

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """How much is drawn and how long each model is trained, in steps."""

    corpus: int = 10_000
    painters: int = 480
    gate_corpus: int = 320
    gate_painters: int = 80
    vae: int = 1_000
    clip: int = 900
    style_classifier: int = 500
    scene_reader: int = 2_400
    structure_encoder: int = 300
    teacher: int = 3_300
    pixart: int = 6_500
    pixart_full_from: int = FULL_FROM
    pixart_painters: int = PAINTERS  # of each of its shards
    pixart_shards: int = 8
    siblings: int = SIBLING_SCENES
    circles: int = CIRCLES
    gate_pictures: int = 96
    workers: int = 2


QUICK = Plan(
    corpus=48,
    painters=16,
    gate_corpus=16,
    gate_painters=16,
    vae=2,
    clip=2,
    style_classifier=2,
    scene_reader=2,
    structure_encoder=2,
    teacher=2,
    pixart=2,
    pixart_full_from=1,
    pixart_painters=16,
    pixart_shards=1,
    siblings=4,
    circles=8,
    gate_pictures=2,
    workers=2,
)


@dataclass(frozen=True)
class Report:
    """What `gates.json` says beside the folders: measured gates, their bars, seconds of training and parameters."""

    gates: dict[str, float]
    bars: dict[str, float]
    at_most: dict[str, float]
    seconds: dict[str, float]
    parameters: dict[str, int]


def build(work: Path, output: Path, plan: Plan = Plan()) -> Report:
    """Make the miniature's models: state in `work`, folders and `gates.json` in `output`."""
    keep_heap()
    work.mkdir(parents=True, exist_ok=True)
    trained = _Trainings(work, plan)

    # Draw the pictures.
    corpus = _timed(
        work, "corpus", lambda: draw_corpus(work / "corpus", plan.corpus, painters=plan.painters, workers=plan.workers)
    )
    if plan.workers > 1:
        _timed(work, "two at a time", lambda: _train_two_at_a_time(work, plan))

    # Train, or load what has been trained.
    parts = untrained(0, work)
    parts.vae = _timed(work, "vae", trained.vae)
    parts.clip, parts.second = _timed(work, "clip", trained.clip)
    parts.style_classifier = _timed(work, "style_classifier", trained.style_classifier)
    _timed(work, "latents", lambda: trained.features(parts.vae, parts.clip))
    parts.t5, parts.transformer = _timed(work, "pixart", lambda: trained.pixart(parts.vae))
    parts.unet = _timed(work, "teacher", lambda: trained.teacher(parts))
    parts.scene_reader = _timed(work, "scene_reader", trained.scene_reader)
    parts.structure_encoder = _timed(work, "structure_encoder", trained.structure_encoder)

    # Pack and measure.
    pack(parts, output)
    measured = _timed(work, "gates", lambda: measure_gates(work, output, parts, plan, corpus))
    bars, at_most = _bars_of(measured)
    report = Report(measured, bars, at_most, _training_seconds(work), count_parameters(parts))
    write_json(output / "gates.json", asdict(report))
    return report


def _timed(work: Path, name: str, make: Callable[[], T]) -> T:
    start = time.monotonic()
    made = make()
    seconds = round(time.monotonic() - start, 1)
    append_jsonl(work / "build.jsonl", [{"step": name, "seconds": seconds, "threads": torch.get_num_threads()}])
    return made


class _Features(NamedTuple):
    plain: Latents
    painted: Latents
    styles: npt.NDArray[np.float32]  # CLIP embeddings of the painted pictures


class _Trainings:
    """Every training of a plan; each resumes from the work folder, and returns at once where it is done."""

    def __init__(self, work: Path, plan: Plan) -> None:
        self.work = work
        self.plan = plan

    @property
    def corpus(self) -> Corpus:
        """The corpus, mapped into memory; drawn by this process alone if it is not there."""
        return draw_corpus(self.work / "corpus", self.plan.corpus, painters=self.plan.painters, workers=1)

    def vae(self) -> Any:
        """The autoencoder, with its scaling factor in its configuration."""
        corpus = self.corpus
        vae = learn_vae(corpus, self.work, self.plan.vae)
        scale_latents(vae, corpus)
        return vae

    def clip(self) -> tuple[Any, Any]:
        return learn_clip(self.corpus, self.work, self.plan.clip)

    def style_classifier(self) -> Any:
        return learn_style_classifier(self.corpus, self.work, self.plan.style_classifier)

    def scene_reader(self) -> Any:
        return learn_scene_reader(self.corpus, self.work, self.plan.scene_reader)

    def structure_encoder(self) -> Any:
        return learn_structure_encoder(self.corpus, self.work, self.plan.structure_encoder)

    def pixart(self, vae: Any) -> tuple[Any, Any]:
        """T5 and transformer, on more scenes than the corpus has: a published model of this kind over-fitted 10 000."""
        plan = self.plan
        features = Features(self.work / "pixart", vae, None, plan.pixart_painters, plan.pixart_shards)
        task = PixArtTask(
            features,
            t5_tokenizer(self.work / "t5_tokenizer"),
            siblings=plan.siblings,
            circles=plan.circles,
            full_from=plan.pixart_full_from,
        )
        ending = replace(PIXART_PLAN, end=plan.pixart, decay=plan.pixart // 5, average=0.99, measure_every=None)
        trainer = Trainer(task, self.work, ending)
        trainer.train()
        if trainer.step < plan.pixart:
            raise KeyboardInterrupt
        trainer.use_average()
        return task.t5, task.transformer

    def teacher(self, parts: Parts) -> Any:
        text = SDXLText(parts.clip_tokenizer, parts.clip, parts.second)
        features = self.features(parts.vae, parts.clip)
        return learn_teacher(self.corpus, *features, text, self.work, self.plan.teacher)

    def features(self, vae: Any, clip: Any) -> _Features:
        """Latents of plain and painted pictures and CLIP embeddings of the painted ones, computed once."""
        corpus = self.corpus
        plain, painted = self.latents(vae)
        styles = self._once(f"styles_{len(corpus)}", "clip", lambda: embed(clip, corpus.painted))
        return _Features(plain, painted, styles)

    def latents(self, vae: Any) -> tuple[Latents, Latents]:
        """Latents of plain and painted pictures, computed once."""
        corpus = self.corpus
        scaling = vae.config.scaling_factor
        plain = self._once(f"plain_{len(corpus)}", "vae", lambda: encode(vae, corpus.plain, scaling))
        painted = self._once(f"painted_{len(corpus)}", "vae", lambda: encode(vae, corpus.painted, scaling))
        return plain, painted

    def _once(self, name: str, model: str, make: Callable[[], Any]) -> Any:
        """Features kept in the work folder until the model that made them is trained further."""
        path = self.work / f"features_{name}.npy"
        source = self.work / f"{model}.safetensors"
        if not path.exists() or path.stat().st_mtime < source.stat().st_mtime:
            made = make()
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.save(file, made)
        return np.load(path)


# --- two at a time ----------------------------------------------------------------------------------------------------


def _train_two_at_a_time(work: Path, plan: Plan) -> None:
    """Train all models, in two processes of one thread each.

    Matrices are small here: two such processes do 1.4 times the work of one with two threads. What they leave in the
    work folder is what `build` then finds done.
    """
    with worker_pool(2, _one_thread) as pool:
        clip = pool.submit(_train_clip, work, plan)
        vae = pool.submit(_train_vae_and_encode, work, plan)
        vae.result()  # the latents are one file for PixArt and the teacher: made before either begins
        jobs = [pool.submit(_train_pixart, work, plan)]
        clip.result()
        jobs += [pool.submit(job, work, plan) for job in (_train_teacher, _train_judges)]
        for job in jobs:
            job.result()


def _one_thread() -> None:
    torch.set_num_threads(1)
    keep_heap()


def _train_clip(work: Path, plan: Plan) -> None:
    _Trainings(work, plan).clip()


def _train_vae_and_encode(work: Path, plan: Plan) -> None:
    trainings = _Trainings(work, plan)
    trainings.latents(trainings.vae())


def _train_pixart(work: Path, plan: Plan) -> None:
    trainings = _Trainings(work, plan)
    trainings.pixart(trainings.vae())


def _train_teacher(work: Path, plan: Plan) -> None:
    trainings = _Trainings(work, plan)
    parts = untrained(0, work)
    parts.vae = trainings.vae()
    parts.clip, parts.second = trainings.clip()
    trainings.teacher(parts)


def _train_judges(work: Path, plan: Plan) -> None:
    trainings = _Trainings(work, plan)
    trainings.scene_reader()
    trainings.style_classifier()
    trainings.structure_encoder()


# --- measuring --------------------------------------------------------------------------------------------------------


def measure_gates(work: Path, output: Path, parts: Parts, plan: Plan, known: Corpus) -> dict[str, float]:
    """All gates, on scenes and painters that no model has seen; `known` is what CLIP's probe is fitted to."""
    corpus = draw_corpus(work / "gates", plan.gate_corpus, GATE_SCENES, GATE_PAINTERS, plan.gate_painters, plan.workers)
    result = gates.measure_encoders(corpus, known, parts.vae, parts.clip, parts.style_classifier, parts.scene_reader)
    for name, figure in measure_all(output, plan.gate_pictures).items():
        result[name] = figure.value
    return {name: round(value, 4) for name, value in result.items()}


def _bars_of(measured: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """Bars from below and from above of the gates that were measured; variants are made and measured by themselves."""
    bars = {name: bar for name, bar in gates.BARS.items() if name in measured}
    at_most = {name: bar for name, bar in gates.AT_MOST.items() if name in measured}
    return bars, at_most


def _training_seconds(work: Path) -> dict[str, float]:
    """How long each model was trained, on one thread where two are trained at a time; from the logs of their steps."""
    seconds = {}
    for path in sorted(work.glob("*.jsonl")):
        if path.stem != "build":
            seconds[path.stem] = round(sum(row["seconds"] for row in read_jsonl(path)), 1)
    return seconds


def count_parameters(parts: Parts) -> dict[str, int]:
    """Parameters of each network and of all together."""
    counts = {}
    for name, network in parts.networks().items():
        counts[name] = sum(parameter.numel() for parameter in network.parameters())
    return {**counts, "all": sum(counts.values())}
