"""What a run directory holds, as far as it has come. All may be absent; what is there and can't be read is named.

A page is drawn while a run is under way, after it failed, and from copies of old runs: so each file is read on its own,
and a torn or foreign one leaves a sentence in `problems` instead of no page.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from bottega.runtime.errors import BottegaError, MissingError
from bottega.runtime.files import read_json, read_jsonl

T = TypeVar("T")

STAGES: Mapping[str, str] = {
    "world": "draws the miniature's world",
    "data": "reads contents, styles and Fill50K",
    "pairs": "decides which content meets which style",
    "truth": "draws the right answers",
    "quality": "sets the limits of the judge",
    "teacher": "makes and grades the targets",
    "features": "computes latents and tokens once",
    "student": "trains the adapter",
    "evaluation": "measures it on held-out pairs",
}
"""Stages in the order of a run, with what each does."""

_FOLDERS = {"world": "data/raw", "truth": "data/truth", "student": "training"}
"""Where a stage works, if not in the folder of its name."""


@dataclass(frozen=True)
class Stage:
    """How far one stage is. `state`: done, failed, begun or pending; seconds and memory are known of a done one."""

    name: str
    does: str
    state: str
    seconds: float | None = None
    peak_rss_mb: float | None = None
    peak_vram_mb: float | None = None
    error: str = ""
    summary: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Run:
    """A run directory, read leniently. `problems` collects what is there and could not be read."""

    directory: Path
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.recipe.get("name") or self.directory.resolve().name)

    def __post_init__(self) -> None:
        self.recipe: Mapping[str, Any] = self._recipe()
        self.provenance: Mapping[str, Any] = self.json("provenance.json") or {}
        self.summary: Mapping[str, Any] = self.json("summary.json") or {}
        self.stages: list[Stage] = self._stages()

    @property
    def data_root(self) -> Path:
        """The folder that the pictures' paths are relative to."""
        section = self.recipe.get("data")
        root = section.get("root") if isinstance(section, Mapping) else None
        return Path(os.path.normpath(self.directory / str(root))) if root else self.directory / "data"

    def stage(self, name: str) -> Stage:
        """The stage of that name; a pending one where the run has none."""
        return next((s for s in self.stages if s.name == name), Stage(name, STAGES.get(name, ""), "pending"))

    def attempt(self, what: str, read: Callable[[], T]) -> T | None:
        """What `read` returns; None with a sentence in `problems` where the file is not what it must be."""
        try:
            return read()
        except MissingError:
            return None
        except (BottegaError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            told = (
                f"{type(error).__name__}: {error}"
                if isinstance(error, KeyError | TypeError | AttributeError)
                else str(error)
            )
            self.problems.append(f"{what}: {' '.join(told.replace(str(self.directory), '.').split())}")
            return None

    def json(self, name: str) -> dict[str, Any] | None:
        """A JSON object by its path in the run directory; None where there is none."""

        def read() -> dict[str, Any]:
            value = read_json(self.directory / name)
            if not isinstance(value, dict):
                raise ValueError(f"an object was expected, received {type(value).__name__}")
            return value

        return self.attempt(name, read)

    def jsonl(self, name: str) -> list[dict[str, Any]]:
        """The objects of a JSON lines file by its path in the run directory; empty where there is none."""
        return self.attempt(name, lambda: list(read_jsonl(self.directory / name))) or []

    def _recipe(self) -> Mapping[str, Any]:
        from bottega.runtime.config import load_yaml

        path = self.directory / "recipe.yaml"
        return (self.attempt("recipe.yaml", lambda: load_yaml(path)) if path.is_file() else None) or {}

    def _stages(self) -> list[Stage]:
        """The stages of this run: one without a world or drawn truths has no such stage."""
        stages = [self._stage(name, does) for name, does in STAGES.items()]
        optional = {"world", "truth"}
        return [
            s for s in stages if s.name not in optional or s.state != "pending" or self.recipe.get(s.name) is not None
        ]

    def _stage(self, name: str, does: str) -> Stage:
        """`settings.json` is there from a stage's first work on, `error.json` if it failed, `stage.json` when done."""
        folder = _FOLDERS.get(name, name)
        if (failure := self.json(f"{folder}/error.json")) is not None:
            return Stage(name, does, "failed", error=as_text(failure.get("error", "no reason was recorded")))
        record = self.json(f"{folder}/stage.json")
        if record is None:
            begun = (self.directory / folder / "settings.json").is_file()
            return Stage(name, does, "begun" if begun else "pending")
        summary, machine = record.get("summary"), record.get("machine")
        return Stage(
            name,
            does,
            "done",
            number(record.get("seconds")),
            number(record.get("peak_rss_mb")),
            number(record.get("peak_vram_mb")),
            summary=summary if isinstance(summary, Mapping) else {},
            machine=machine if isinstance(machine, Mapping) else {},
        )


def number(value: Any) -> float | None:
    """A finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def as_text(value: Any) -> str:
    """A value of a JSON file as a person reads it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
