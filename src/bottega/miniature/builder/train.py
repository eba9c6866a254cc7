"""`bottega miniature train` and `export`: the long training of SDXL, on frozen encoders that are there already."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from bottega.miniature.builder.encoding import SDXLText
from bottega.miniature.builder.features import Features
from bottega.miniature.builder.ip_adapter import write_unet
from bottega.miniature.builder.sdxl_gates import SDXLGates
from bottega.miniature.builder.sdxl_task import SDXLTask
from bottega.miniature.builder.trainer import Trainer, TrainingPlan, finish
from bottega.runtime.errors import RequestError
from bottega.runtime.memory import keep_heap


def train_sdxl(state: Path, weights: Path, *, end: int | None = None, decay: int | None = None) -> Trainer:
    """Train SDXL's U-Net with its IP-Adapter; returns the trainer when it is stopped or done.

    Args:
        state: folder for the features, the training's state and its log.
        weights: model folders whose autoencoder, CLIP, text encoders and judges are used, all frozen.
        end: steps in all; None trains until it is stopped.
        decay: branch off and end within so many steps, in which the learning rate falls to zero.
    """
    keep_heap()
    torch.set_num_threads(1)
    task = sdxl_task(state, weights)
    if decay is not None:
        return finish(task, state, TrainingPlan(), decay)
    trainer = Trainer(task, state, TrainingPlan(end=end))
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
    trainer = Trainer(task, state, TrainingPlan(), name)
    if trainer.step == 0:
        raise RequestError(f"a training must have been begun before it is exported, {trainer.state} is missing.")
    trainer.use_average()
    for folder in ("sdxl", "ip_adapter"):
        shutil.copytree(weights / folder, output / folder)
    write_unet(task.unet, output)
    return trainer.step


def sdxl_task(state: Path, weights: Path) -> SDXLTask:
    """The task with its frozen parts loaded from `weights`."""
    from diffusers import AutoencoderTiny
    from transformers import (
        CLIPModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        ResNetForImageClassification,
        UperNetForSemanticSegmentation,
    )

    half = {"torch_dtype": torch.float32}  # the folders hold float16
    vae = AutoencoderTiny.from_pretrained(weights / "sdxl" / "vae", **half).eval()
    clip = CLIPModel.from_pretrained(weights / "clip", **half).eval()
    second = CLIPTextModelWithProjection.from_pretrained(weights / "sdxl" / "text_encoder_2", **half).eval()
    tokenizer = CLIPTokenizer.from_pretrained(weights / "sdxl" / "tokenizer")
    classifier = ResNetForImageClassification.from_pretrained(weights / "style_classifier", **half).eval()
    reader = UperNetForSemanticSegmentation.from_pretrained(weights / "scene_reader", **half).eval()
    text = SDXLText(tokenizer, clip, second).requires_grad_(False)
    features = Features(state / "features", vae, clip)
    gates = SDXLGates(vae, clip, text, classifier, reader)
    return SDXLTask(features, text, gates)
