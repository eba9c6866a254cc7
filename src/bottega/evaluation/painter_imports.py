"""Imports what painters of a student need: done once before several processes are forked, it takes none of them time.

It takes three to six seconds of a core.
"""

from __future__ import annotations

import importlib

from bottega.models.libraries import prepare

_MODULES = (
    "bottega.generation.style",
    "bottega.student.inference",
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.autoencoders.autoencoder_tiny",
    "diffusers.models.transformers.pixart_transformer_2d",
    "transformers.models.clip.modeling_clip",
    "transformers.models.t5.modeling_t5",
)


def import_painters() -> None:
    """Import them; nothing is computed."""
    prepare()
    for module in _MODULES:
        importlib.import_module(module)
