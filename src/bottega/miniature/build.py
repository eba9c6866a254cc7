"""`bottega miniature build`: draw the corpus, train every model of the miniature, measure the gates, pack the folders.

Each step leaves its state in the work folder and goes on from there when the command is given again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from bottega.miniature import gates
from bottega.miniature.corpus import GATE_PAINTERS, GATE_SCENES, Corpus, draw_corpus
from bottega.miniature.learn_diffusion import SDXLText, embed, encode, learn_pixart, learn_teacher
from bottega.miniature.learn_encoders import (
    learn_clip,
    learn_scene_reader,
    learn_structure_encoder,
    learn_style_classifier,
    learn_vae,
)
from bottega.miniature.pack import Parts, pack, untrained
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
    pixart: int = 2_400
    circles: int = 1_500
    gate_pictures: int = 96
    workers: int = 2


QUICK = Plan(48, 16, 16, 16, 2, 2, 2, 2, 2, 2, 2, 16, 2, 2)


def build(work: Path, output: Path, plan: Plan = Plan()) -> dict[str, Any]:
    """Make the miniature's models: state in `work`, folders and `gates.json` in `output`. Returns the gates."""
    keep_heap()
    work.mkdir(parents=True, exist_ok=True)

    def timed(name: str, make: Callable[[], T]) -> T:
        start = time.monotonic()
        made = make()
        seconds = round(time.monotonic() - start, 1)
        append_jsonl(work / "build.jsonl", [{"step": name, "seconds": seconds, "threads": torch.get_num_threads()}])
        return made

    corpus = timed(
        "corpus", lambda: draw_corpus(work / "corpus", plan.corpus, painters=plan.painters, workers=plan.workers)
    )
    parts = untrained(0, work)
    if plan.workers > 1:
        timed("two at a time", lambda: _train_two_at_a_time(work, plan))
    parts.vae = timed("vae", lambda: learn_vae(corpus, work, plan.vae))
    _scale_latents(parts.vae, corpus)
    parts.clip, parts.second = timed("clip", lambda: learn_clip(corpus, work, plan.clip))
    parts.style_classifier = timed(
        "style_classifier", lambda: learn_style_classifier(corpus, work, plan.style_classifier)
    )
    plain, painted, styles = timed("latents", lambda: _features(work, parts, corpus))
    scaling = parts.vae.config.scaling_factor
    parts.t5, parts.transformer = timed(
        "pixart", lambda: learn_pixart(corpus, plain, painted, parts.vae, scaling, work, plan.pixart, plan.circles)
    )
    text = SDXLText(parts.clip_tokenizer, parts.clip, parts.second)
    parts.unet = timed("teacher", lambda: learn_teacher(corpus, plain, painted, styles, text, work, plan.teacher))
    parts.scene_reader = timed("scene_reader", lambda: learn_scene_reader(corpus, work, plan.scene_reader))
    parts.structure_encoder = timed(
        "structure_encoder", lambda: learn_structure_encoder(corpus, work, plan.structure_encoder)
    )
    pack(parts, output)
    measured = timed("gates", lambda: measure_gates(work, output, parts, plan))
    report = {
        "gates": measured,
        "bars": gates.BARS,
        "seconds": _training_seconds(work),
        "parameters": count_parameters(parts),
    }
    write_json(output / "gates.json", report)
    return report


def _train_two_at_a_time(work: Path, plan: Plan) -> None:
    """Train all models, in two processes of one thread each.

    Matrices are small here: two such processes do 1.4 times the work of one with two threads. What they leave in the
    work folder is what `build` then finds done.
    """
    with ProcessPoolExecutor(2, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        clip, vae = pool.submit(_clip, work, plan), pool.submit(_vae_and_latents, work, plan)
        vae.result()  # the latents are one file for PixArt and the teacher: made before either begins
        jobs = [pool.submit(_pixart, work, plan)]
        clip.result()
        jobs += [pool.submit(job, work, plan) for job in (_teacher, _judges)]
        for job in jobs:
            job.result()


def _one_thread() -> None:
    torch.set_num_threads(1)
    keep_heap()


def _corpus(work: Path, plan: Plan) -> Corpus:
    return draw_corpus(work / "corpus", plan.corpus, painters=plan.painters, workers=1)


def _vae(work: Path, plan: Plan) -> Any:
    corpus = _corpus(work, plan)
    vae = learn_vae(corpus, work, plan.vae)
    _scale_latents(vae, corpus)
    return vae


def _vae_and_latents(work: Path, plan: Plan) -> None:
    _latents(work, _vae(work, plan), _corpus(work, plan))


def _clip(work: Path, plan: Plan) -> None:
    learn_clip(_corpus(work, plan), work, plan.clip)


def _teacher(work: Path, plan: Plan) -> None:
    corpus, parts = _corpus(work, plan), untrained(0, work)
    parts.vae = _vae(work, plan)
    parts.clip, parts.second = learn_clip(corpus, work, plan.clip)
    text = SDXLText(parts.clip_tokenizer, parts.clip, parts.second)
    learn_teacher(corpus, *_features(work, parts, corpus), text, work, plan.teacher)


def _pixart(work: Path, plan: Plan) -> None:
    corpus, parts = _corpus(work, plan), untrained(0, work)
    parts.vae = _vae(work, plan)
    plain, painted = _latents(work, parts.vae, corpus)
    learn_pixart(corpus, plain, painted, parts.vae, parts.vae.config.scaling_factor, work, plan.pixart, plan.circles)


def _judges(work: Path, plan: Plan) -> None:
    corpus = _corpus(work, plan)
    learn_scene_reader(corpus, work, plan.scene_reader)
    learn_style_classifier(corpus, work, plan.style_classifier)
    learn_structure_encoder(corpus, work, plan.structure_encoder)


def measure_gates(work: Path, output: Path, parts: Parts, plan: Plan) -> dict[str, float]:
    """All gates, on scenes and painters that no model has seen."""
    corpus = draw_corpus(work / "gates", plan.gate_corpus, GATE_SCENES, GATE_PAINTERS, plan.gate_painters, plan.workers)
    known = draw_corpus(work / "corpus", plan.corpus, painters=plan.painters, workers=plan.workers)
    result = gates.measure_encoders(corpus, known, parts.vae, parts.clip, parts.style_classifier, parts.scene_reader)
    judges, count = (parts.style_classifier, parts.scene_reader), min(plan.gate_pictures, len(corpus))
    result |= gates.measure_teacher(output, corpus, *judges, count=count)
    result |= gates.measure_teacher(
        output, corpus, *judges, count=count, guidance=3.5, scale=0.3, prefix="teacher_at_protocol"
    )
    result |= gates.measure_pixart(output, parts.scene_reader, count=plan.gate_pictures)
    return {name: round(value, 4) for name, value in result.items()}


def _training_seconds(work: Path) -> dict[str, float]:
    """How long each model was trained, on one thread where two are trained at a time; from the logs of their steps."""
    rows = {path.stem: list(read_jsonl(path))[-1] for path in sorted(work.glob("*.jsonl")) if path.stem != "build"}
    return {name: round(row["steps"] * row["seconds_a_step"], 1) for name, row in rows.items()}


def count_parameters(parts: Parts) -> dict[str, int]:
    """Parameters of each network and of all together."""
    modules = {name: value for name, value in vars(parts).items() if isinstance(value, torch.nn.Module)}
    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()}
    return {**counts, "all": sum(counts.values())}


def _scale_latents(vae: Any, corpus: Corpus, count: int = 256) -> None:
    """Record the factor that brings the latents to unit deviation, measured on plain and painted pictures together."""
    rows = slice(0, min(count, len(corpus)))
    latents = np.concatenate([encode(vae, corpus.plain[rows], 1.0), encode(vae, corpus.painted[rows], 1.0)]).astype(
        np.float32
    )
    vae.register_to_config(scaling_factor=round(float(1 / latents.std()), 5))


def _features(
    work: Path, parts: Parts, corpus: Corpus
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.float16], npt.NDArray[np.float32]]:
    """Latents of plain and painted pictures and CLIP embeddings of the painted ones, computed once."""
    plain, painted = _latents(work, parts.vae, corpus)
    return plain, painted, _once(work, f"styles_{len(corpus)}", "clip", lambda: embed(parts.clip, corpus.painted))


def _latents(work: Path, vae: Any, corpus: Corpus) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.float16]]:
    scaling = vae.config.scaling_factor
    return (
        _once(work, f"plain_{len(corpus)}", "vae", lambda: encode(vae, corpus.plain, scaling)),
        _once(work, f"painted_{len(corpus)}", "vae", lambda: encode(vae, corpus.painted, scaling)),
    )


def _once(work: Path, name: str, model: str, make: Callable[[], Any]) -> Any:
    """Features kept in the work folder for as long as the model that made them is not trained anew."""
    path, source = work / f"features_{name}.npy", work / f"{model}.safetensors"
    if not path.exists() or path.stat().st_mtime < source.stat().st_mtime:
        made = make()
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, made)
    return np.load(path)
