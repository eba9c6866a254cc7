"""Importing this imports what the networks that judge need, so that a server can do it once for several processes.

See `painter_imports`.
"""

from __future__ import annotations

import importlib

from bottega.models.libraries import prepare

_MODULES = (
    "bottega.evaluation.scoring",
    "bottega.models.encoders",
    "cv2",
    "transformers.models.clip.modeling_clip",
    "transformers.models.vit.modeling_vit",
)

prepare()
for _module in _MODULES:
    importlib.import_module(_module)
