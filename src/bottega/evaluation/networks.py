"""The networks that judge, or the reason why one is absent.

A metric without its network is reported as unavailable with this reason; it never becomes a number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.evaluation.metrics import NEEDS, Floats
from bottega.models.style_probe import StyleProbe, is_probe
from bottega.runtime.errors import MissingError
from bottega.runtime.files import sha256_file, sha256_json
from bottega.visual.pictures import Pictures

if TYPE_CHECKING:
    from bottega.models.config import ModelsConfig
    from bottega.models.encoders import ClipEncoder, SceneReader, StructureEncoder, StyleClassifier, StyleEncoder


@dataclass
class Networks:
    """The networks that are there.

    `absent` says why each other one is not, `identities` which weights they have, `files` where those are.
    """

    clip: ClipEncoder | None = None
    style_classifier: StyleClassifier | StyleProbe | None = None
    structure_encoder: StructureEncoder | None = None
    scene_reader: SceneReader | None = None
    style_encoder: StyleEncoder | None = None
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
        "style_encoder": encoders.StyleEncoder,
    }
    statuses = {status.role: status for status in inspect(models, kinds)}
    for role, kind in kinds.items():
        status = statuses.get(role)
        if status is None:
            found.absent[role] = f"no {role} among the recipe's models; needs {NEEDS[role]}"
        elif status.folder is None or status.faults:
            found.absent[role] = status.faults[0]
        else:
            try:
                setattr(found, role, _load(kind, role, status.folder, models))
            except MissingError as error:  # a probe's encoder, which is a model of its own
                found.absent[role] = str(error)
                continue
            found.files += status.files
            found.identities[role] = identity([*status.files, *status.configurations])
    return found


def _load(kind: type[Any], role: str, folder: Path, models: ModelsConfig) -> Any:
    """The network in a role's folder. Raises MissingError where a probe's encoder can't be used."""
    if role == "style_classifier" and is_probe(folder):
        return StyleProbe(folder, models.device, models.cache)
    return kind(folder, device=models.device)


def style_embeddings(networks: Networks) -> dict[str, Callable[[Pictures], Floats]]:
    """By metric the embedding whose cosine to the style picture it is; of the networks that are there."""
    found: dict[str, Callable[[Pictures], Floats]] = {}
    if networks.clip is not None:
        found["style_clip"] = networks.clip.image
    if networks.style_encoder is not None:
        found["style_csd"] = networks.style_encoder.embedding
    return found


def identity(files: Iterable[Path]) -> str:
    """One hash over a model's files, whatever their folder is called."""
    return sha256_json([[file.name, sha256_file(file)] for file in sorted(files)])
