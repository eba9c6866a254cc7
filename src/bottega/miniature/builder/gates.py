"""What the miniature's models can do, measured on scenes and painters held out from their training.

Each gate is one function from models to numbers. Pictures are uint8 [N, H, W, 3].
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from bottega.miniature.builder.corpus import Corpus
from bottega.miniature.builder.encoding import to_clip
from bottega.miniature.painters import KINDS
from bottega.miniature.scenes import BACKGROUNDS, COLOURS, SHAPES, Scene, label_map, scene
from bottega.visual.pictures import Picture, Pictures, from_signed, to_signed, to_uint8

BARS = {
    "vae_psnr_plain": 29.0,
    "vae_psnr_painted": 23.5,
    "classifier_kept": 0.95,
    "clip_probe": 0.95,
    "pixart_shape": 0.80,
    "pixart_colours": 0.95,
    "teacher_style_gap": 0.50,
    "teacher_in_place": 0.85,
    "teacher_at_protocol_style_gap": 0.50,
    "teacher_at_protocol_in_place": 0.85,
    "words_shape": 0.80,
    "words_colours": 0.90,
    "words_style": 0.80,
    "ink_outline_words_at_1": 0.90,
    "ink_outline_contents_at_1": 0.90,
    "sepia_tone_words_at_1": 0.90,
    "sepia_tone_contents_at_1": 0.90,
    "checkpoint_ink_words_line": 0.90,
    "checkpoint_ink_contents_line": 0.90,
    "checkpoint_v_predicts_v": 1.0,
}
AT_MOST = {
    "teacher_distance": 2.5,
    "teacher_at_protocol_distance": 2.5,
    "ink_outline_words_at_0": 0.05,
    "ink_outline_contents_at_0": 0.05,
    "sepia_tone_words_at_0": 0.05,
    "sepia_tone_contents_at_0": 0.05,
    "checkpoint_base_words_line": 0.05,
    "checkpoint_base_contents_line": 0.05,
    "checkpoint_base_predicts_v": 0.0,
}
PRESERVED_IOU = 0.5  # an object counts as preserved from here up, as in COCO's AP50

Labels = npt.NDArray[np.uint8]  # [H, W] or [N, H, W], 0 is ground, k + 1 is SHAPES[k]


# --- reading pictures -------------------------------------------------------------------------------------------------


def psnr(a: Pictures, b: Pictures) -> npt.NDArray[np.float64]:
    """Peak signal-to-noise ratio of each picture in dB, [N]."""
    mse = np.square(a.astype(np.float64) - b).mean((1, 2, 3))
    return np.asarray(10 * np.log10(255**2 / np.maximum(mse, 1e-9)))


@torch.no_grad()
def reconstruct(vae: Any, pictures: Pictures) -> Pictures:
    """There and back through the autoencoder."""
    parts = []
    for batch in _batches(pictures, 16):
        parts.append(vae.decode(vae.encode(to_signed(batch)).latents).sample)
    return to_pictures(torch.cat(parts))


def to_pictures(decoded: torch.Tensor) -> Pictures:
    """float [N, 3, H, W] in -1..1 -> uint8 [N, H, W, 3]."""
    return to_uint8(from_signed(decoded))


@torch.no_grad()
def kinds_of(classifier: Any, pictures: Pictures) -> npt.NDArray[np.int64]:
    """The kind of painter that the classifier sees, [N]."""
    parts = []
    for batch in _batches(pictures):
        parts.append(classifier(pixel_values=to_clip(batch)).logits.argmax(-1).numpy())
    return np.concatenate(parts)


@torch.no_grad()
def labels_of(reader: Any, pictures: Pictures) -> Labels:
    """The class of each pixel that the scene reader sees, [N, H, W]."""
    parts = []
    for batch in _batches(pictures):
        logits = reader(pixel_values=to_clip(batch)).logits
        full = torch.nn.functional.interpolate(logits, size=batch.shape[1:3], mode="bilinear")
        parts.append(full.argmax(1).byte().numpy())
    return np.concatenate(parts)


def object_overlaps(found: Labels, view: Scene) -> list[float]:
    """IoU of each object of the scene with what was read as its class."""
    truth = label_map(view)
    overlaps = []
    for item in view.objects:
        label = SHAPES.index(item.shape) + 1
        mine, theirs = truth == label, found == label
        overlaps.append(float((mine & theirs).sum() / max(1, (mine | theirs).sum())))
    return overlaps


def colour_named(picture: Picture, mask: npt.NDArray[np.bool_], names: dict[str, tuple[int, int, int]]) -> str:
    """The name nearest in CIE Lab to the median colour under the mask."""
    import cv2

    median = np.median(picture[mask], axis=0)
    swatches = np.array([[median, *names.values()]], np.float32) / 255
    lab = cv2.cvtColor(swatches, cv2.COLOR_RGB2LAB)[0]
    return list(names)[int(np.linalg.norm(lab[1:] - lab[0], axis=1).argmin())]


class SceneScore(NamedTuple):
    """How much of what a caption asked for is in a picture; each in 0..1."""

    shapes: float
    colours: float
    ground: float


def score_scene(picture: Picture, found: Labels, view: Scene) -> SceneScore:
    """Share of the asked shapes that are there, share of their colours that are right, whether the ground is right."""
    areas = {shape: float((found == k + 1).mean()) for k, shape in enumerate(SHAPES)}
    shapes, colours = [], []
    for item in view.objects:
        area = areas[item.shape]
        alone = len(view.objects) > 1 or area >= 0.8 * max(areas.values())
        shapes.append(area > 0.01 and alone)
        mask = found > 0  # a colour may be right where the shape is not
        if area > 0.005:
            mask = found == SHAPES.index(item.shape) + 1
        is_seen = bool(mask.sum() > 20)
        colours.append(is_seen and colour_named(picture, mask, COLOURS) == item.colour)
    ground = found == 0
    is_seen = bool(ground.sum() > 100)
    behind = is_seen and colour_named(picture, ground, BACKGROUNDS) == view.background
    return SceneScore(float(np.mean(shapes)), float(np.mean(colours)), float(behind))


def mean_score(reader: Any, pictures: Pictures, views: Sequence[Scene]) -> SceneScore:
    """The mean over pictures, each of which was drawn from a caption of its scene."""
    shapes, colours, grounds = np.mean(scores(reader, pictures, views), axis=0)
    return SceneScore(float(shapes), float(colours), float(grounds))


def scores(reader: Any, pictures: Pictures, views: Sequence[Scene]) -> list[SceneScore]:
    """Of each picture [N, H, W, 3], which was drawn from a caption of its scene."""
    read = labels_of(reader, pictures)
    found = []
    for picture, labels, view in zip(pictures, read, views, strict=True):
        found.append(score_scene(picture, labels, view))
    return found


# --- gates ------------------------------------------------------------------------------------------------------------


def measure_encoders(
    corpus: Corpus, known: Corpus, vae: Any, clip: Any, classifier: Any, reader: Any
) -> dict[str, float]:
    """Autoencoder, classifier, reader and CLIP on the gate corpus; the probe of CLIP is fitted to the known one."""
    back_plain, back_painted = reconstruct(vae, corpus.plain), reconstruct(vae, corpus.painted)
    kinds = _kinds(corpus, len(corpus))
    accuracy = float((kinds_of(classifier, corpus.painted) == kinds).mean())
    kept = float((kinds_of(classifier, back_painted) == kinds).mean())
    read = labels_of(reader, corpus.painted)
    overlaps: list[float] = []
    for i in range(len(corpus)):
        overlaps += object_overlaps(read[i], scene(corpus.scene_of(i)))
    return {
        "vae_psnr_plain": float(psnr(corpus.plain, back_plain).mean()),
        "vae_psnr_painted": float(psnr(corpus.painted, back_painted).mean()),
        "classifier_accuracy": accuracy,
        "classifier_kept": kept / accuracy,
        "clip_probe": _probe(clip, known, corpus),
        "reader_iou_painted": float(np.mean(overlaps)),
        "reader_found_painted": preserved(overlaps),
    }


def teacher_pipeline(folder: Path, scale: float) -> Any:
    """diffusers' img2img with the IP-Adapter at a scale, from the folders `sdxl` and `ip_adapter`, in float32."""
    from diffusers import DDIMScheduler, StableDiffusionXLImg2ImgPipeline

    pipeline = StableDiffusionXLImg2ImgPipeline.from_pretrained(folder / "sdxl").to(torch.float32)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.load_ip_adapter(
        str(folder / "ip_adapter"),
        subfolder="",
        weight_name="ip_adapter.safetensors",
        image_encoder_folder="image_encoder",
    )
    pipeline.set_ip_adapter_scale(scale)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def style_gaps(seen: npt.NDArray[np.int64], kinds: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Of each picture, [N]: 1 if its kind of stroke is its own painter's, less the share of others' that it equals."""
    swapped = [seen == np.roll(kinds, shift) for shift in range(1, len(KINDS))]
    gaps: npt.NDArray[np.float64] = (seen == kinds).astype(np.float64) - np.mean(swapped, axis=0)
    return gaps


# --- helpers ----------------------------------------------------------------------------------------------------------


def _batches(pictures: Pictures, size: int = 64) -> list[Pictures]:
    return [pictures[i : i + size] for i in range(0, len(pictures), size)]


def _kinds(corpus: Corpus, count: int) -> npt.NDArray[np.int64]:
    return np.array([corpus.painter_of(i) % len(KINDS) for i in range(count)])


def preserved(overlaps: Sequence[float]) -> float:
    """Share of objects that are preserved, from the IoU of each."""
    return float(np.mean(np.array(overlaps) >= PRESERVED_IOU))


def _probe(clip: Any, known: Corpus, corpus: Corpus, most: int = 3000) -> float:
    """Accuracy of a linear probe for the kind: ridge regression on known pictures, judged on held-out painters."""
    fit_to, answers = _probe_inputs(clip, known, known.painted[:most])
    held_out, right = _probe_inputs(clip, corpus, corpus.painted)
    wanted = torch.nn.functional.one_hot(answers, len(KINDS)).double()
    ridge = 1e-3 * torch.eye(fit_to.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(fit_to.T @ fit_to + ridge, fit_to.T @ wanted)
    return float(((held_out @ weights).argmax(1) == right).double().mean())


@torch.no_grad()
def _probe_inputs(clip: Any, corpus: Corpus, pictures: Pictures) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised embeddings with a constant, float64 [N, D + 1], and the kinds of their painters, [N]."""
    parts = []
    for batch in _batches(pictures):
        parts.append(clip.visual_projection(clip.vision_model(pixel_values=to_clip(batch)).pooler_output))
    features = torch.nn.functional.normalize(torch.cat(parts), dim=-1).double()
    constant = torch.ones(len(features), 1, dtype=torch.float64)
    return torch.cat([features, constant], 1), torch.from_numpy(_kinds(corpus, len(pictures)))
