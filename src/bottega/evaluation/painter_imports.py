"""Importing this imports what painters of a student need, so that a server can do it once for several processes.

It takes three to six seconds of a core; see `workers.Workers.imports`.
"""

from __future__ import annotations

import importlib

from bottega.models.libraries import prepare

_MODULES = (
    "bottega.evaluation.painters",
    "bottega.generation.style",
    "bottega.student.inference",
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.autoencoders.autoencoder_tiny",
    "diffusers.models.transformers.pixart_transformer_2d",
    "transformers.models.clip.modeling_clip",
    "transformers.models.t5.modeling_t5",
)

prepare()
for _module in _MODULES:
    importlib.import_module(_module)
