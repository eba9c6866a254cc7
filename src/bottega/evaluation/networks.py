"""The networks that judge, or the reason why one is absent.

A metric without its network is reported as unavailable with this reason; it never becomes a number.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.evaluation.metrics import NEEDS
from bottega.runtime.files import sha256_file, sha256_json

if TYPE_CHECKING:
    from bottega.models.config import ModelsConfig
    from bottega.models.encoders import ClipEncoder, SceneReader, StructureEncoder, StyleClassifier


@dataclass
class Networks:
    """The networks that are there.

    `absent` says why each other one is not, `identities` which weights they have, `files` where those are.
    """

    clip: ClipEncoder | None = None
    style_classifier: StyleClassifier | None = None
    structure_encoder: StructureEncoder | None = None
    scene_reader: SceneReader | None = None
    absent: dict[str, str] = field(default_factory=dict)
    identities: dict[str, str] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)


def load_networks(models: ModelsConfig) -> Networks:
    """Load what the recipe names and this machine has.

    Raises:
        BottegaError: a model whose files are all there can't be loaded; only an absent one is left out.
    """
    from bottega.models import encoders
    from bottega.models.layout import inspect

    found = Networks()
    kinds: dict[str, type[Any]] = {
        "clip": encoders.ClipEncoder,
        "style_classifier": encoders.StyleClassifier,
        "structure_encoder": encoders.StructureEncoder,
        "scene_reader": encoders.SceneReader,
    }
    statuses = {status.role: status for status in inspect(models, kinds)}
    for role, kind in kinds.items():
        status = statuses.get(role)
        if status is None:
            found.absent[role] = f"no {role} among the recipe's models; needs {NEEDS[role]}"
        elif status.folder is None or status.faults:
            found.absent[role] = status.faults[0]
        else:
            setattr(found, role, kind(status.folder, device=models.device))
            found.files += status.files
            found.identities[role] = identity([*status.files, *status.configurations])
    return found


def identity(files: Iterable[Path]) -> str:
    """One hash over a model's files, whatever their folder is called."""
    return sha256_json([[file.name, sha256_file(file)] for file in sorted(files)])
