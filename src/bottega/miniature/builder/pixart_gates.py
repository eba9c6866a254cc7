"""The gates of PixArt: one, two and three objects by caption, and paintings by the name of a style.

Pictures are drawn by diffusers' own pipeline. A caption of one object names shape, colour and ground alone, half of
the time size and place too; captions of several objects say where each is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bottega.miniature.builder import architectures, gates
from bottega.miniature.builder.gates import Labels
from bottega.miniature.builder.measured import GateFigure, mean, share
from bottega.miniature.painters import KINDS, painter
from bottega.miniature.ranges import GATE_PAINTERS, GATE_SCENES
from bottega.miniature.scenes import SHAPES, Scene, scene
from bottega.miniature.words import STYLE_PHRASE
from bottega.runtime.seeds import torch_generator
from bottega.visual.pictures import Pictures, to_uint8

GUIDANCE = 4.5  # PixArt-α's own
STEPS = 20
_SCENES = GATE_SCENES + 500_000
_CHUNK = 32  # pictures drawn at a time
_AT_THE_BORDER = 0.05  # of the side: a triangle's pixels are not centred where its scene says
_LEAST_AREA = 0.005  # share of the picture from which an object has a place


def ddim(solver: Any) -> Any:
    """DDIM with the noise levels and the prediction type of a scheduler, whose first step is at the last timestep."""
    from diffusers import DDIMScheduler

    return DDIMScheduler.from_config(solver.config, clip_sample=False, timestep_spacing="trailing")


def measure_pixart(weights: Path, pictures: int) -> dict[str, GateFigure]:
    """Every figure of the folder `pixart` under `weights`.

    Args:
        weights: the miniature's model folders.
        pictures: of each number of objects, and in a style.
    """
    from diffusers import PixArtAlphaPipeline
    from transformers import ResNetForImageClassification, UperNetForSemanticSegmentation

    pipeline = PixArtAlphaPipeline.from_pretrained(weights / "pixart").to(torch.float32)
    pipeline.scheduler = ddim(pipeline.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    single = {"torch_dtype": torch.float32}
    reader = UperNetForSemanticSegmentation.from_pretrained(weights / "scene_reader", **single).eval()
    classifier = ResNetForImageClassification.from_pretrained(weights / "style_classifier", **single).eval()
    figures: dict[str, GateFigure] = {}
    for objects in (1, 2, 3):
        figures.update(_objects(pipeline, reader, objects, pictures))
    figures["pixart_style"] = _style(pipeline, classifier, pictures)
    return figures


def draw(pipeline: Any, captions: Sequence[str], side: int = architectures.PICTURE) -> Pictures:
    """A picture of each caption, each from noise of its own, [N, side, side, 3]."""
    parts = []
    for start in range(0, len(captions), _CHUNK):
        some = list(captions[start : start + _CHUNK])
        drawn = pipeline(
            some,
            guidance_scale=GUIDANCE,
            num_inference_steps=STEPS,
            generator=[torch_generator("gate pixart", start + k) for k in range(len(some))],
            height=side,
            width=side,
            use_resolution_binning=False,
            clean_caption=False,
            output_type="np",
        )
        parts.append(drawn.images)
    return to_uint8(np.concatenate(parts))


def _objects(pipeline: Any, reader: Any, objects: int, pictures: int) -> dict[str, GateFigure]:
    """Scenes of so many objects by caption: shapes, colours and places of the objects, colour of the ground."""
    views = [scene(_SCENES + i, objects) for i in range(pictures)]
    captions = []
    for i, view in enumerate(views):
        captions.append(view.caption(i % 2 if objects == 1 else 0))
    drawn = draw(pipeline, captions)
    read = gates.labels_of(reader, drawn)
    scores = [gates.score_scene(*judged) for judged in zip(drawn, read, views, strict=True)]
    placed = []
    for found, view in zip(read, views, strict=True):
        placed.append(float(np.mean(_in_place(found, view))))
    if objects == 1:
        return {
            "pixart_shape": share([score.shapes for score in scores]),
            "pixart_colours": share([score.colours for score in scores]),
            "pixart_ground": share([score.ground for score in scores]),
            "pixart_place": share(placed[::2]),  # of captions that name it
        }
    prefix = f"pixart_{objects}_objects"
    return {
        f"{prefix}_shape": mean([score.shapes for score in scores]),
        f"{prefix}_colours": mean([score.colours for score in scores]),
        f"{prefix}_place": mean(placed),
    }


def _in_place(found: Labels, view: Scene) -> list[bool]:
    """Whether the middle of what was read as each object's shape has the place that its caption names."""
    placed = []
    for item in view.objects:
        mask = found == SHAPES.index(item.shape) + 1
        if mask.mean() < _LEAST_AREA:
            placed.append(False)
            continue
        y, x = np.argwhere(mask).mean(0) / len(mask)
        near = []
        for dx in (-_AT_THE_BORDER, 0, _AT_THE_BORDER):
            for dy in (-_AT_THE_BORDER, 0, _AT_THE_BORDER):
                near.append(replace(item, x=float(x) + dx, y=float(y) + dy).place)
        placed.append(item.place in near)
    return placed


def _style(pipeline: Any, classifier: Any, pictures: int) -> GateFigure:
    """Paintings by caption: is the kind of stroke the one that was named?"""
    captions, kinds = [], []
    for i in range(pictures):
        by = painter(GATE_PAINTERS + i)
        content = scene(_SCENES + 1_000 + i, 1).colourless()
        captions.append(f"{content} {STYLE_PHRASE} {by.words if i % 2 else by.kind}")
        kinds.append(KINDS.index(by.kind))
    return share(gates.kinds_of(classifier, draw(pipeline, captions)) == np.array(kinds))
