"""How a model of a rehearsal is known again: by a file in its folder, and by the header of each of its weight files.

The folder's file tells a person. The header goes with the weights wherever they are copied, so that it is what the
stages ask.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bottega.models.config import ModelsConfig
from bottega.models.layout import ROLES, inspect
from bottega.models.weights import read_header
from bottega.runtime.errors import BottegaError
from bottega.runtime.findings import Finding

MARKER = "REHEARSAL.json"
KEY = "bottega.rehearsal"
"""In a weight file's header; its value is the format of these files."""

NOTE = "made with random weights of a rehearsal: noise, no result"
"""What a picture and a run say of themselves."""


RANDOM_WEIGHTS = Finding("random weights", f"the picture was {NOTE}", "name the real model")
"""What a generated picture's record says."""


@dataclass(frozen=True)
class RehearsalMarker:
    """What REHEARSAL.json holds. made: date and time in UTC, ISO 8601. scale: full or reduced."""

    what: str
    made: str
    bottega: str
    seed: int
    scale: str


def header(seed: int, version: str, scale: str) -> dict[str, str]:
    """The metadata of a weight file of a rehearsal."""
    return {
        "format": "pt",
        KEY: "1",
        "bottega.note": "random weights for a rehearsal; what they draw is noise",
        "bottega.seed": str(seed),
        "bottega.scale": scale,
        "bottega.version": version,
    }


def is_rehearsal(metadata: Mapping[str, str]) -> bool:
    """Whether a weight file's metadata says that its weights are random."""
    return KEY in metadata


def has_random_weights(files: Iterable[Path]) -> bool:
    """Whether any of these weight files is of a rehearsal; reads headers alone. What can't be read is none."""
    for file in files:
        try:
            if is_rehearsal(read_header(file).metadata):
                return True
        except BottegaError:
            continue
    return False


def picture_text(roles: Sequence[str]) -> dict[str, str]:
    """What a PNG says of itself where models with random weights took part in it; nothing where none did."""
    return {"Disclaimer": f"{NOTE} ({', '.join(roles)})"} if roles else {}


def rehearsed_roles(models: ModelsConfig, roles: Iterable[str] = ROLES, base: Path | None = None) -> list[str]:
    """The roles of a recipe whose model has random weights; reads headers alone.

    Args:
        models: the recipe's section.
        roles: those to ask.
        base: where relative folders are looked for first.
    """
    return [status.role for status in inspect(models, roles, base) if has_random_weights(status.files)]
