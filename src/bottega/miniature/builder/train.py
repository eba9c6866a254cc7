"""`bottega miniature train`: the long training of one model, on frozen encoders that are there already."""

from __future__ import annotations

from pathlib import Path

import torch

from bottega.miniature.builder.encoding import SDXLText
from bottega.miniature.builder.features import Features
from bottega.miniature.builder.sdxl_gates import SDXLGates
from bottega.miniature.builder.sdxl_task import SDXLTask
from bottega.miniature.builder.trainer import Trainer, TrainingPlan, finish
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
