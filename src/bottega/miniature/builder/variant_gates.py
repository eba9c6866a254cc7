"""`bottega miniature gate-variants`: what the variants can do, on pictures that bottega's own engine draws.

Each figure has a 95 % interval (`builder.measured`). Pictures are drawn in two ways:

    words      text to image from the caption of a scene held out
    contents   image to image at strength 0.40 from the drawn scene: also where the base hardly draws from words

The same scenes, seeds and captions serve all weights of a LoRA, and v and the ε network that it is compared with.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from bottega.generation.engine import ZERO_SNR_RESCALE, SDXLEngine
from bottega.generation.modules import load_modules
from bottega.generation.records import LoRASpec, PictureSettings, PredictionType
from bottega.miniature.builder import architectures, gates
from bottega.miniature.builder.measured import GateFigure, mean, share
from bottega.miniature.builder.variant_files import LORA_NAMES, Checkpoint, write_checkpoint
from bottega.miniature.builder.variants import Variant
from bottega.miniature.effects import EFFECTS, ground_slope
from bottega.miniature.painters import render
from bottega.miniature.ranges import GATE_SCENES
from bottega.miniature.scenes import Scene, scene
from bottega.visual.pictures import Pictures

Way = Literal["words", "contents"]
WAYS: tuple[Way, ...] = ("words", "contents")

PICTURES = 300
LORA_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
STEPS = 25
STRENGTH = 0.40
GUIDANCE: dict[Way, float] = {"words": 4.0, "contents": 1.0}
_SCENES = GATE_SCENES + 600_000  # one object each

Scores = dict[str, npt.NDArray[np.float64]]
"""Figure -> what each picture contributes, [N]."""


def gate(
    names: Sequence[Variant], weights: Path, folder: Path, pictures: int = PICTURES, ways: Sequence[Way] = WAYS
) -> dict[str, GateFigure]:
    """Measure variants; ink and v are measured beside the base.

    Args:
        names: which variants.
        weights: model folders that they belong to.
        folder: with `loras/` and `checkpoints/`.
        pictures: for each figure.
        ways: by which pictures are drawn.
    """
    figures: dict[str, GateFigure] = {}
    checkpoints: list[Checkpoint] = []
    for name in names:
        if name in LORA_NAMES:
            file = folder / "loras" / f"{LORA_NAMES[name]}.kohya.safetensors"
            figures |= measure_lora(name, weights, file, pictures, ways)
        elif name == "ink" or name == "v":
            checkpoints.append(name)
    if checkpoints:
        figures |= measure_checkpoints(checkpoints, weights, folder, pictures, ways)
    return figures


def measure_lora(
    name: Variant, weights: Path, file: Path, pictures: int, ways: Sequence[Way] = WAYS
) -> dict[str, GateFigure]:
    """Share of pictures that have a LoRA's effect at each of `LORA_WEIGHTS`, and the effect's mean share of a picture.

    Args:
        name: outline or sepia.
        weights: model folders; `sdxl` draws.
        file: the LoRA, in either layout.
        pictures: at each weight and by each way.
        ways: by which pictures are drawn.
    """
    effect, stem = EFFECTS[name], LORA_NAMES[name]
    engine = SDXLEngine(load_modules(str(weights / "sdxl"), device="cpu"))
    result: dict[str, GateFigure] = {}
    for way in ways:
        for weight in LORA_WEIGHTS:
            loras = (LoRASpec(path=file, weight=weight),)
            drawn = draw(engine, way, pictures, lambda view: f"{view.caption(1)}, {effect.trigger}", loras)
            found = effect.shares(drawn)
            result[f"{stem}_{way}_at_{weight:g}"] = share(found >= effect.border)
            result[f"{stem}_{way}_strength_at_{weight:g}"] = mean(found)
    return result


def measure_checkpoints(
    names: Sequence[Checkpoint], weights: Path, folder: Path, pictures: int, ways: Sequence[Way] = WAYS
) -> dict[str, GateFigure]:
    """What checkpoints draw, beside the base; v also by its difference to the base, picture by picture.

    Each is written to a file and loaded as anybody's checkpoint.

    Args:
        names: ink, v or both.
        weights: model folders.
        folder: with `checkpoints/`.
        pictures: by each way.
        ways: by which pictures are drawn.
    """
    from transformers import UperNetForSemanticSegmentation

    reader = UperNetForSemanticSegmentation.from_pretrained(weights / "scene_reader", torch_dtype=torch.float32).eval()
    result: dict[str, GateFigure] = {}
    of_base: dict[Way, Scores] = {}
    everyone: list[Checkpoint] = ["base", *names]
    for name in everyone:
        engine = open_checkpoint(name, weights, folder)
        is_v = engine.measured.prediction_type == "v_prediction"
        result[f"checkpoint_{name}_predicts_v"] = GateFigure(float(is_v), float(is_v), float(is_v), 1)
        for way in ways:
            scores = _scores(engine, way, pictures, name, reader)
            for figure, values in scores.items():
                result[f"checkpoint_{name}_{way}_{figure}"] = mean(values)
            if name == "base":
                of_base[way] = scores
            elif name == "v":
                for figure, values in scores.items():
                    result[f"checkpoint_v_less_base_{way}_{figure}"] = mean(values - of_base[way][figure])
    return result


def open_checkpoint(name: Checkpoint, weights: Path, folder: Path) -> SDXLEngine:
    """A checkpoint at work, by way of its file."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / f"{name}.safetensors"
        write_checkpoint(name, weights, file, folder)
        return SDXLEngine(load_modules(str(file), configs=str(weights / "sdxl"), device="cpu"))


def _scores(engine: SDXLEngine, way: Way, pictures: int, name: Checkpoint, reader: Any) -> Scores:
    """Whether the line is there, the shape, colours and ground that were asked for, and the ground's slope."""
    effect = EFFECTS["poster"]

    def caption(view: Scene) -> str:
        # for ink with the tags that its profile puts in front
        return f"{effect.trigger}, {view.caption(1)}" if name == "ink" else view.caption(1)

    drawn = draw(engine, way, pictures, caption)
    read = gates.labels_of(reader, drawn)
    asked = []
    for picture, found, view in zip(drawn, read, views_of(pictures), strict=True):
        asked.append(gates.score_scene(picture, found, view))
    return {
        "line": (effect.shares(drawn) >= effect.border).astype(np.float64),
        "shape": np.array([score.shapes for score in asked]),
        "colours": np.array([score.colours for score in asked]),
        "ground": np.array([score.ground for score in asked]),
        "ground_slope": np.array([ground_slope(picture) for picture in drawn]),
    }


def views_of(count: int) -> list[Scene]:
    """The scenes of the gates, one object each."""
    return [scene(_SCENES + i, 1) for i in range(count)]


def draw(
    engine: SDXLEngine,
    way: Way,
    count: int,
    caption: Callable[[Scene], str],
    loras: Sequence[LoRASpec] = (),
) -> Pictures:
    """Pictures of the gates' scenes, uint8 [N, H, W, 3], drawn by an engine past its guardrails.

    Args:
        engine: of the model.
        way: from words, or from the scenes as they are drawn.
        count: of scenes.
        caption: the prompt for a scene.
        loras: at work in all pictures.
    """
    stated = engine.modules.identity.prediction
    predicts: PredictionType = "v_prediction" if stated and stated.type == "v_prediction" else "epsilon"
    rescale = ZERO_SNR_RESCALE if engine.zero_terminal_snr(predicts) and GUIDANCE[way] > 1 else 0.0
    drawn = []
    for seed, view in enumerate(views_of(count)):
        settings = PictureSettings(
            prompt=caption(view),
            negative_prompt="",
            width=architectures.PICTURE,
            height=architectures.PICTURE,
            steps=STEPS,
            guidance_scale=GUIDANCE[way],
            guidance_rescale=rescale,
            sampler="ddim",
            seed=seed,
            count=1,
            clip_skip=2,
            strength=STRENGTH if way == "contents" else None,
            prediction_type=predicts,
            profile=engine.profile.name,
        )
        image = render(view, None) if way == "contents" else None
        drawn += engine.draw(settings, loras, image).pixels
    return np.stack(drawn)
