"""The student: a StyleAdapter on a frozen PixArt-α transformer, with its features, its training and its sampling.

Read `stage.run` first, then `objective.StyleWorkload`.

    features.py     the stage `features`: latents, text and CLIP embeddings, computed once
    stage.py        the stage `student`: features -> training/adapter.safetensors
    adapter.py      StyleAdapter: style tokens, keys and values of its own, gates
    backbone.py     the frozen transformer: a no-grad prefix, and a suffix with the adapter
    objective.py    the loss of a step; trajectory.py: how a picture is noised
    validation.py   the paired grid; samples.py: pictures during training
    inference.py    contents × styles -> pictures, in batches; sampler.py: one batch
    export.py       an adapter's file; pipeline.py: the adapter in diffusers.PixArtAlphaPipeline
    config.py       the recipe's sections
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bottega.runtime.lazy import importer

if TYPE_CHECKING:
    from bottega.student.adapter import StyleAdapter
    from bottega.student.config import AdapterConfig, FeaturesConfig, SamplingConfig, StudentConfig
    from bottega.student.export import load_adapter, save_adapter
    from bottega.student.inference import load_parts, stylize
    from bottega.student.pipeline import styled

_HOMES = {
    "AdapterConfig": "config",
    "FeaturesConfig": "config",
    "SamplingConfig": "config",
    "StudentConfig": "config",
    "StyleAdapter": "adapter",
    "load_adapter": "export",
    "load_parts": "inference",
    "save_adapter": "export",
    "styled": "pipeline",
    "stylize": "inference",
}
__all__ = [
    "AdapterConfig",
    "FeaturesConfig",
    "SamplingConfig",
    "StudentConfig",
    "StyleAdapter",
    "load_adapter",
    "load_parts",
    "save_adapter",
    "styled",
    "stylize",
]

__getattr__ = importer(__name__, _HOMES)
