"""The networks that judge, or the reason why one is absent.

A metric without its network is reported as unavailable with this reason; it never becomes a number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.evaluation.metrics import NEEDS, Floats
from bottega.models.style_probe import StyleProbe, is_probe, probe_encoder, read_probe
from bottega.runtime.errors import MissingError
from bottega.runtime.files import sha256_file, sha256_json
from bottega.visual.pictures import Pictures

if TYPE_CHECKING:
    from bottega.models.config import ModelsConfig
    from bottega.models.encoders import ClipEncoder, SceneReader, StructureEncoder, StyleClassifier, StyleEncoder


@dataclass
class FoundNetworks:
    """The networks that are on this machine, none of them loaded.

    Attributes:
        folders: by role.
        absent: why each other one is not there, by role.
        identities: which weights they have, by role.
        files: of their weights.
    """

    folders: dict[str, Path] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    identities: dict[str, str] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)


@dataclass
class Networks(FoundNetworks):
    """The same, loaded."""

    clip: ClipEncoder | None = None
    style_classifier: StyleClassifier | StyleProbe | None = None
    structure_encoder: StructureEncoder | None = None
    scene_reader: SceneReader | None = None
    style_encoder: StyleEncoder | None = None


_JUDGES = ("clip", "style_classifier", "structure_encoder", "scene_reader", "style_encoder")


def find_networks(models: ModelsConfig) -> FoundNetworks:
    """What the recipe names and this machine has; reads headers and hashes files."""
    from bottega.models.layout import inspect

    found = FoundNetworks()
    statuses = {status.role: status for status in inspect(models, _JUDGES)}
    for role in _JUDGES:
        status = statuses.get(role)
        if status is None:
            found.absent[role] = f"no {role} among the recipe's models; needs {NEEDS[role]}"
            continue
        if status.folder is None or status.faults:
            found.absent[role] = status.faults[0]
            continue
        if role == "style_classifier" and is_probe(status.folder):
            try:
                probe_encoder(status.folder, read_probe(status.folder), models.cache)
            except MissingError as error:  # a model of its own
                found.absent[role] = str(error)
                continue
        found.folders[role] = status.folder
        found.files += status.files
        found.identities[role] = identity([*status.files, *status.configurations])
    return found


def load_networks(models: ModelsConfig, found: FoundNetworks | None = None) -> Networks:
    """Load what the recipe names and this machine has.

    Args:
        models: the recipe's section.
        found: what `find_networks` gave for it; None: it is called here.

    Raises:
        BottegaError: a model whose files are all there can't be loaded; only an absent one is left out.
    """
    from bottega.models import encoders

    kinds: dict[str, type[Any]] = {
        "clip": encoders.ClipEncoder,
        "style_classifier": encoders.StyleClassifier,
        "structure_encoder": encoders.StructureEncoder,
        "scene_reader": encoders.SceneReader,
        "style_encoder": encoders.StyleEncoder,
    }
    networks = Networks(**vars(found or find_networks(models)))
    for role, folder in networks.folders.items():
        setattr(networks, role, _load(kinds[role], role, folder, models))
    return networks


def _load(kind: type[Any], role: str, folder: Path, models: ModelsConfig) -> Any:
    """The network in a role's folder."""
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
