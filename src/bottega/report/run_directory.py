"""What a run directory holds, as far as it has come. All may be absent; what is there and can't be read is named.

A page is drawn while a run is under way, after it failed, and from copies of old runs: so each file is read on its own,
and a torn or foreign one leaves a sentence in `problems` instead of no page.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from bottega.report.format import Number, as_text
from bottega.runtime.errors import BottegaError, MissingError
from bottega.runtime.files import read_json
from bottega.runtime.records import read_records, to_record

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

_FOLDERS = {"world": "data/raw", "truth": "data/truth", "student": "training"}  # if not the folder of the stage's name
_OPTIONAL = {"world", "truth"}  # a run on real data has neither


@dataclass(frozen=True)
class CompletedStage:
    """A stage's `stage.json`, which it writes when it is done. size: settings that may change when a run is continued,
    as they were. outputs: one hash over its results."""

    seconds: Number = None
    peak_rss_mb: Number = None
    peak_vram_mb: Number = None
    summary: Mapping[str, Any] = field(default_factory=dict)
    size: Mapping[str, Any] = field(default_factory=dict)
    outputs: str = ""
    machine: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StageStatus:
    """How far one stage is. `state`: done, failed, begun or pending; only a done one has a record."""

    name: str
    does: str
    state: str
    error: str = ""
    record: CompletedStage = CompletedStage()


class RunDirectory:
    """A run directory, read leniently. `problems` collects what is there and could not be read."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.problems: list[str] = []
        self.recipe: Mapping[str, Any] = self._recipe()
        self.provenance: Mapping[str, Any] = self.json("provenance.json") or {}
        self.summary: Mapping[str, Any] = self.json("summary.json") or {}
        self.stages = self._stages()

    @property
    def name(self) -> str:
        return str(self.recipe.get("name") or self.directory.resolve().name)

    @property
    def data_root(self) -> Path:
        """The folder that the pictures' paths are relative to."""
        section = self.recipe.get("data")
        root = section.get("root") if isinstance(section, Mapping) else None
        if not root:
            return self.directory / "data"
        return Path(os.path.normpath(self.directory / str(root)))

    @property
    def is_oracle(self) -> bool:
        """Whether the teacher was the oracle, which returns drawn truths: its numbers are then a ceiling."""
        painted = self.stage("teacher").record.summary.get("source")
        if painted is not None:  # what was done goes before what the recipe asks for
            return bool(painted == "oracle")
        teacher = self.recipe.get("teacher")
        return isinstance(teacher, Mapping) and teacher.get("source") == "oracle"

    @property
    def random_weights(self) -> list[str]:
        """The models with random weights, of a rehearsal: nothing of such a run is a result."""
        roles = self.provenance.get("random_weights")
        return [str(role) for role in roles] if isinstance(roles, list) else []

    def stage(self, name: str) -> StageStatus:
        """The stage of that name; a pending one where the run has none."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        return StageStatus(name, STAGES.get(name, ""), "pending")

    def effective(self, stage: str) -> Mapping[str, Any]:
        """The settings that a stage was done with, and those of the stages that it uses, by flat names; empty where
        none are recorded."""
        bound = self.json(f"{_FOLDERS.get(stage, stage)}/settings.json") or {}
        return {**bound, **self.stage(stage).record.size}

    def attempt(self, what: str, read: Callable[[], T]) -> T | None:
        """What `read` returns; None with a sentence in `problems` where the file is not what it must be."""
        try:
            return read()
        except MissingError:
            return None
        except (BottegaError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            text = str(error)
            if isinstance(error, KeyError | TypeError | AttributeError):  # its message alone says too little
                text = f"{type(error).__name__}: {text}"
            # a page is passed on: it names no folder of the machine, and a problem takes one line
            text = " ".join(text.replace(str(self.directory), ".").split())
            if not text.startswith(what):
                text = f"{what}: {text}"
            self.problems.append(text)
            return None

    def json(self, name: str) -> Mapping[str, Any] | None:
        """A JSON object by its path in the run directory; None where there is none."""
        return self.attempt(name, lambda: self._object(name))

    def record(self, name: str, kind: type[T]) -> T | None:
        """A JSON object as a record, by its path in the run directory; None where there is none."""
        return self.attempt(name, lambda: to_record(kind, self._object(name), name))

    def records(self, name: str, kind: type[T]) -> list[T]:
        """The records of a JSON lines file, by its path in the run directory; empty where there is none."""
        return self.attempt(name, lambda: list(read_records(self.directory / name, kind))) or []

    def _object(self, name: str) -> Mapping[str, Any]:
        value = read_json(self.directory / name)
        if not isinstance(value, dict):
            raise ValueError(f"an object was expected, received {type(value).__name__}")
        return value

    def _recipe(self) -> Mapping[str, Any]:
        from bottega.runtime.config import load_yaml

        path = self.directory / "recipe.yaml"
        if not path.is_file():
            return {}
        return self.attempt("recipe.yaml", lambda: load_yaml(path)) or {}

    def _stages(self) -> list[StageStatus]:
        """The stages of this run: one without a world or drawn truths has no such stage."""
        stages = []
        for name, does in STAGES.items():
            stage = self._stage(name, does)
            is_expected = name not in _OPTIONAL or self.recipe.get(name) is not None
            if is_expected or stage.state != "pending":
                stages.append(stage)
        return stages

    def _stage(self, name: str, does: str) -> StageStatus:
        """`settings.json` is there from a stage's first work on, `error.json` if it failed, `stage.json` when done."""
        folder = _FOLDERS.get(name, name)
        # the failure first: a stage that was done before and failed when it was run again has both files
        failure = self.json(f"{folder}/error.json")
        if failure is not None:
            error = as_text(failure.get("error", "no reason was recorded"))
            return StageStatus(name, does, "failed", error)
        record = self.record(f"{folder}/stage.json", CompletedStage)
        if record is not None:
            return StageStatus(name, does, "done", record=record)
        has_begun = (self.directory / folder / "settings.json").is_file()
        return StageStatus(name, does, "begun" if has_begun else "pending")
