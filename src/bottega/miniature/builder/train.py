"""`bottega miniature train` and `export`: the long trainings, on frozen encoders that are there already."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import torch

from bottega.miniature.builder.cards import clip_card, long_training_cards, pixart_card
from bottega.miniature.builder.clip_task import CLIPTask
from bottega.miniature.builder.corpus import draw_corpus
from bottega.miniature.builder.features import Features
from bottega.miniature.builder.pack import write_clip, write_pixart
from bottega.miniature.builder.pixart_task import PIXART_PLAN, PixArtTask
from bottega.miniature.builder.sdxl_gates import load_gates
from bottega.miniature.builder.sdxl_task import Focus, SDXLTask
from bottega.miniature.builder.tokenizers import t5_tokenizer
from bottega.miniature.builder.trainer import Trainer, TrainingPlan, finish
from bottega.miniature.ranges import GATE_PAINTERS, GATE_SCENES, LONG_TRAINING_PAINTERS
from bottega.runtime.errors import RequestError
from bottega.runtime.files import write_text
from bottega.runtime.memory import keep_heap
from bottega.training.processes import ALONE, Processes

# Scaled text states are short: their weights may move further for the same change of what they give.
SDXL_PLAN = TrainingPlan(pace={"attn2.to_k.weight": 3.0, "attn2.to_v.weight": 3.0})
CLIP_PAINTERS = 36_000  # one picture each
CLIP_HELD_OUT = 640
CLIP_PLAN = TrainingPlan(schedule="cosine", end=3_800, betas=(0.9, 0.99), average=0.99, measure_every=250)


def train_sdxl(
    state: Path,
    weights: Path,
    *,
    end: int | None = None,
    decay: int | None = None,
    start_from: Path | None = None,
    focus: Focus = "teacher",
    distil_from: Path | None = None,
    processes: Processes = ALONE,
) -> Trainer:
    """Train SDXL's U-Net with its IP-Adapter; returns the trainer when it is stopped or done.

    Args:
        state: folder for the features, the training's state and its log.
        weights: model folders whose autoencoder, CLIP, text encoders and judges are used, all frozen.
        end: steps in all; None trains until it is stopped.
        decay: branch off and end within so many steps, in which the learning rate falls to zero.
        start_from: folders whose U-Net and IP-Adapter a new training begins with; None: random weights. A training
            that has a state in `state` is resumed from it.
        focus: what most of a step's samples show; it may change when a training is resumed.
        distil_from: folders of an SDXL whose predictions are the targets of paintings; None: drawn truths are.
        processes: which share the steps. A step has two parts, but for the first ones of a focus on the teacher.
    """
    keep_heap()
    torch.set_num_threads(1)
    task = sdxl_task(state, weights, focus, distil_from)
    if start_from is not None:
        task.read(start_from)
    if decay is not None:
        return finish(task, state, SDXL_PLAN, decay, processes)
    trainer = Trainer(task, state, replace(SDXL_PLAN, end=end), processes=processes)
    trainer.train()
    return trainer


def export_sdxl(state: Path, weights: Path, output: Path, *, finished: bool = False) -> int:
    """Write the folders `sdxl` and `ip_adapter` with the moving average of the weights; returns their step.

    Args:
        state: folder of the training, which may be running.
        weights: model folders that all but U-Net and IP-Adapter are copied from.
        output: new folder.
        finished: take the branch that `finish` made instead of the training itself.
    """
    if output.exists():
        raise RequestError(f"the folder to export to must be a new one, {output} is there; give another one.")
    task = sdxl_task(state, weights)
    name = f"{task.name}-finished" if finished else task.name
    trainer = Trainer(task, state, SDXL_PLAN, name)
    if trainer.step == 0:
        raise RequestError(f"a training must have been begun before it is exported, {trainer.state} is missing.")
    trainer.use_average()
    for folder, card in long_training_cards(trainer.samples).items():
        shutil.copytree(weights / folder, output / folder)
        write_text(output / folder / "README.md", card)
    task.write(output)
    return trainer.step


def train_clip(state: Path, weights: Path) -> Trainer:
    """Train CLIP's picture tower on the palettes of thousands of painters, for a known number of steps."""
    keep_heap()
    torch.set_num_threads(1)
    trainer = Trainer(clip_task(state, weights), state, CLIP_PLAN)
    trainer.train()
    return trainer


def export_clip(state: Path, weights: Path, output: Path) -> int:
    """Write the folders `clip` and `ip_adapter` with the trained picture tower; returns its step.

    The IP-Adapter's own weights are copied: they know the tower that they were trained with, so SDXL's training must
    follow, with these folders among its `weights`.
    """
    if output.exists():
        raise RequestError(f"the folder to export to must be a new one, {output} is there; give another one.")
    task = clip_task(state, weights)
    trainer = Trainer(task, state, CLIP_PLAN)
    if trainer.step == 0:
        raise RequestError(f"a training must have been begun before it is exported, {trainer.state} is missing.")
    trainer.use_average()
    for folder in ("clip", "ip_adapter"):
        shutil.copytree(weights / folder, output / folder)
    write_text(output / "clip" / "README.md", clip_card(trainer.samples))
    write_clip(task.clip, output)
    return trainer.step


def train_pixart(
    state: Path, weights: Path, *, end: int | None = None, decay: int | None = None, processes: Processes = ALONE
) -> Trainer:
    """Train PixArt-α with its T5; arguments as of `train_sdxl`. A step has two parts."""
    keep_heap()
    torch.set_num_threads(1)
    task = pixart_task(state, weights, processes)
    if decay is not None:
        return finish(task, state, PIXART_PLAN, decay, processes)
    trainer = Trainer(task, state, replace(PIXART_PLAN, end=end), processes=processes)
    trainer.train()
    return trainer


def export_pixart(state: Path, weights: Path, output: Path, *, finished: bool = False) -> int:
    """Write the folder `pixart` with the moving average of the weights; returns their step. Arguments as of
    `export_sdxl`."""
    if output.exists():
        raise RequestError(f"the folder to export to must be a new one, {output} is there; give another one.")
    task = pixart_task(state, weights)
    trainer = Trainer(task, state, PIXART_PLAN, f"{task.name}-finished" if finished else task.name)
    if trainer.step == 0:
        raise RequestError(f"a training must have been begun before it is exported, {trainer.state} is missing.")
    trainer.use_average()
    write_pixart(task.pipeline(), output)
    write_text(output / "pixart" / "README.md", pixart_card(trainer.samples))
    return trainer.step


def clip_task(state: Path, weights: Path) -> CLIPTask:
    """The task with its text encoders loaded from `weights`, its pictures drawn once."""
    from transformers import CLIPModel, CLIPTextModelWithProjection, CLIPTokenizer

    corpus = draw_corpus(state / "corpus", CLIP_PAINTERS, 0, LONG_TRAINING_PAINTERS, CLIP_PAINTERS, workers=1)
    held_out = draw_corpus(state / "corpus", CLIP_HELD_OUT, GATE_SCENES, GATE_PAINTERS, CLIP_HELD_OUT, workers=1)
    single = {"torch_dtype": torch.float32}
    clip = CLIPModel.from_pretrained(weights / "clip", **single).eval()
    second = CLIPTextModelWithProjection.from_pretrained(weights / "sdxl" / "text_encoder_2", **single).eval()
    tokenizer = CLIPTokenizer.from_pretrained(weights / "clip")
    return CLIPTask(clip, second, tokenizer, corpus, held_out)


def pixart_task(state: Path, weights: Path, processes: Processes = ALONE) -> PixArtTask:
    """The task, its autoencoder and its scene reader loaded from `weights`."""
    from diffusers import AutoencoderTiny
    from transformers import UperNetForSemanticSegmentation

    single = {"torch_dtype": torch.float32}
    vae = AutoencoderTiny.from_pretrained(weights / "pixart" / "vae", **single).eval()
    reader = UperNetForSemanticSegmentation.from_pretrained(weights / "scene_reader", **single).eval()
    features = Features(state / "features", vae, None)
    with processes.first_before_others():
        return PixArtTask(features, t5_tokenizer(state / "t5_tokenizer"), reader)


def sdxl_task(state: Path, weights: Path, focus: Focus = "teacher", distil_from: Path | None = None) -> SDXLTask:
    """The task with its frozen parts loaded from `weights`; the other arguments as of `train_sdxl`."""
    from diffusers import AutoencoderTiny
    from transformers import CLIPTokenizer

    vae = AutoencoderTiny.from_pretrained(weights / "sdxl" / "vae", torch_dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(weights / "sdxl" / "tokenizer")
    gates, clip = load_gates(weights, vae, tokenizer)
    features = Features(state / "features", vae, clip)
    teacher = None
    if distil_from is not None:
        teacher = SDXLTask(features, gates.text)
        teacher.read(distil_from)
        teacher.unet.requires_grad_(False).eval()
    return SDXLTask(features, gates.text, gates, focus=focus, distil_from=teacher)
