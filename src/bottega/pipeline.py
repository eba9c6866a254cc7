"""The pipeline: the stages of a recipe in order, each in a process of its own, each skipped when nothing changed.

    world ─ data ─ pairs ─ truth ─ quality ─ teacher ─ features ─ student ─ evaluation

The page is built between stages, once a minute at most, and when the run ends, fails or is stopped.

What a stage depends on is its settings and those of all stages before it that it uses. They fall in two kinds:
*bound* settings make its fingerprint, and changing one in a run that was started is refused by name; *free* ones, which
their fields mark as `Resumable`, are sizes, places and speed: with other ones a stage that is done is continued, and
redoes nothing. `settings.json` in a stage's folder is written before its first work, `error.json` when it fails,
`stage.json` after its last.

What a stage reads of others is held against the hashes that were recorded when it was written (`runtime.trust`): what
is damaged is set aside and made again first. Whether a stage is done is asked by size and time of its files alone.

This module never imports torch: the memory of a stage is given back when its process ends.
"""

from __future__ import annotations

import importlib
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, NotRequired, TypedDict

from pydantic import BaseModel, Field

from bottega.evaluation.config import KeptCheckpoints
from bottega.models.layout import ROLES, inspect
from bottega.models.recorded import PROVENANCE, FileFacts, ModelWeights, random_weights, recorded_weights
from bottega.models.rehearsal.marker import rehearsed_roles
from bottega.recipe import Recipe, missing, missing_models, model_cautions, portable
from bottega.runtime import trust
from bottega.runtime.children import as_argument, run_child
from bottega.runtime.config import Config, as_yaml
from bottega.runtime.errors import FingerprintError, Interrupted, MissingError, RequestError, StartAfresh, WorkError
from bottega.runtime.escape import escaped_lines
from bottega.runtime.files import sha256_file, sha256_json, write_json, write_text
from bottega.runtime.fingerprint import (
    Settings,
    changes,
    divide,
    fingerprint,
    flatten,
    recorded_then,
    resumable_settings,
    without_resumable,
)
from bottega.runtime.locks import LOCK, STAGE_LOCK, device_lock, lock
from bottega.runtime.memory import peak_rss_mb, peak_vram_mb
from bottega.runtime.provenance import describe, torch_facts
from bottega.runtime.records import read_record, to_record
from bottega.runtime.threads import settle_threads

LOGGER = logging.getLogger(__name__)
QUALITY_MODELS = ("clip",)
TEACHER_MODELS = ("sdxl", "sdxl_vae", "ip_adapter", *QUALITY_MODELS)
STUDENT_MODELS = ("pixart", "clip")


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline.

    Args:
        name: its section in the recipe and its name on the command line.
        function: where its `run(config, directory, …)` is, as `module:name`; empty if the caller provides it.
        folder: its folder in the run directory.
        uses: the stages whose results it reads.
        models: the models it loads, by their names in the section `models`.
        version: raised when the stage's code makes other results from the same settings.
    """

    name: str
    function: str
    folder: str
    uses: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    version: int = 1


STAGES: tuple[Stage, ...] = (
    Stage("world", "", "data/raw"),
    Stage("data", "bottega.data.stage:run", "data", uses=("world",)),
    Stage("pairs", "bottega.data.pairs:run", "pairs", uses=("data",)),
    Stage("truth", "", "data/truth", uses=("pairs",)),
    Stage("quality", "bottega.quality.stage:run", "quality", uses=("pairs", "truth"), models=QUALITY_MODELS, version=2),
    Stage(
        "teacher", "bottega.teacher.stage:run", "teacher", uses=("pairs", "quality"), models=TEACHER_MODELS, version=2
    ),
    Stage("features", "bottega.student.features:run", "features", uses=("teacher",), models=STUDENT_MODELS),
    Stage("student", "bottega.student.stage:run", "training", uses=("features",), models=STUDENT_MODELS),
    Stage("evaluation", "bottega.evaluation.stage:run", "evaluation", uses=("student", "truth"), models=ROLES),
)
BY_NAME: dict[str, Stage] = {stage.name: stage for stage in STAGES}
REPORT = "bottega.report.page:run"

_CONFIGURATION = " configuration"
"""After a model's name: the setting with the hash of its small files, which earlier versions did not record."""

_PAGE_EVERY_S = 60.0
"""To build the page takes 2 s of a processor. The demo's first stages are short: five pages took a tenth of the time
until its first graded pictures."""

_SHOWN_CHANGES = 3
"""Changed settings that a refusal names; the others are counted."""


@dataclass(frozen=True)
class Size:
    """How much of a run to do now: at most `limit` pairs, and only these target seeds. None: all."""

    limit: int | None = None
    seeds: tuple[int, ...] | None = None

    def options(self) -> list[str]:
        """The command line options that say the same."""
        options: list[str] = []
        if self.limit is not None:
            options += ["--limit", str(self.limit)]
        if self.seeds is not None:
            options += ["--seeds", ",".join(map(str, self.seeds))]
        return options


class StageRecord(BaseModel):
    """What stage.json holds: written after a stage's last work.

    size: the free settings that it was done with. seconds, peak_rss_mb, peak_vram_mb: of all processes that worked on
    it, whose times add up. summary: what the stage's function returned. outputs: one hash over its results. inputs:
    that of each stage that it uses. Earlier versions recorded neither.
    """

    fingerprint: str = ""
    size: dict[str, object] = Field(default_factory=dict)
    seconds: float = 0.0
    peak_rss_mb: float = 0.0
    peak_vram_mb: float = 0.0
    machine: Any = None
    summary: Any = None
    outputs: str = ""
    inputs: dict[str, str] = Field(default_factory=dict)


class StageSummary(TypedDict):
    """What summary.json says of a stage."""

    seconds: float
    peak_rss_mb: float
    summary: Any


class RunSummary(TypedDict):
    """What summary.json holds: time and memory of the whole run, and every finished stage.

    random_weights: the models of a rehearsal; its figures and pictures are no results.
    """

    name: str
    seconds: float
    peak_rss_mb: float
    stages: dict[str, StageSummary]
    random_weights: NotRequired[list[str]]


@dataclass
class Pipeline:
    """One run: a recipe in its directory.

    Args:
        recipe: the whole recipe, as written.
        directory: the run directory.
        size: how much of it to do now.
        functions: `module:name` of the stages that this floor does not know (`world`, `truth`).
        say: called with one line after each stage.
    """

    recipe: Recipe
    directory: Path
    size: Size = field(default_factory=Size)
    functions: Mapping[str, str] = field(default_factory=dict)
    say: Callable[[str], None] = lambda line: print(escaped_lines(line), file=sys.stderr, flush=True)
    _verified: set[str] = field(default_factory=set, init=False)
    """Stages whose files this process has held against their hashes."""
    _page_due: float = field(default_factory=lambda: time.monotonic() + _PAGE_EVERY_S, init=False)
    """Time from which the page may be built again between two stages."""

    def run(self, until: str | None = None) -> RunSummary:
        """Run all stages that are not done, and return `summary.json`.

        Args:
            until: the last stage to run; None: all.

        Raises:
            FingerprintError: a value that finished work depends on was changed; nothing has been done then.
            MissingError: a model is not on this machine.
            LockedError: another process works on this run directory.
            BottegaError: the error of the stage that failed; the stages before it stay done.
        """
        with lock(self.directory / LOCK, f"run {self.recipe.name}"):
            weights = self._weights()
            wanted = self._until(until)
            states = self.states(weights)
            self._require_models([stage for stage in wanted if states[stage.name] != "done"])
            self._write_head(weights)
            has_work = any(states[stage.name] != "done" for stage in wanted)
            if has_work:
                self._settle_threads()
            self._work_through(wanted, states, weights)
            if has_work or self._page_is_behind():
                self._report()
            return self.summary()

    def stages(self) -> list[Stage]:
        """The stages of this recipe: `world` and `truth` only where it has their sections."""
        return [stage for stage in STAGES if getattr(self.recipe, stage.name) is not None]

    def states(self, weights: Mapping[str, ModelWeights] | None = None) -> dict[str, str]:
        """The state of each stage, see `state`."""
        known = self._weights() if weights is None else weights
        return {stage.name: self.state(stage, known) for stage in self.stages()}

    def state(self, stage: Stage, weights: Mapping[str, ModelWeights]) -> str:
        """`done`, `to do`, or `to be continued`.

        Raises:
            FingerprintError: if the stage was started with other bound settings.
        """
        settings_file = self.directory / stage.folder / "settings.json"
        bound, free = self.settings(stage, weights)
        was_started = settings_file.exists()
        record = self._record(stage)
        if record is None:
            if not was_started:
                return "to do"
            self._refuse_other_settings(stage, settings_file, bound)
            return "to be continued"
        if record.fingerprint in _fingerprints(bound):
            # settings.json may be gone or damaged: the stage's own record says that these are its settings.
            is_right = was_started and self._is_settings_of(record, settings_file)
        else:
            self._refuse_other_settings(stage, settings_file, bound)
            is_right = True
        is_done = is_right and record.size == free and self._has_its_inputs(record) and self._is_whole(stage)
        return "done" if is_done else "to be continued"

    def settings(
        self, stage: Stage, weights: Mapping[str, ModelWeights]
    ) -> tuple[dict[str, object], dict[str, object]]:
        """(bound, free) settings of a stage and of all that it uses, as flat names such as `teacher.strength`."""
        recipe = portable(self._limited, self.directory, self._limited.settings())
        resumable = resumable_settings(self._limited, "run")
        bound: dict[str, object] = {}
        free: dict[str, object] = {}
        for used in self._with_all_it_uses(stage):
            bound_here, free_here = divide(flatten(recipe[used.name], used.name), resumable)
            bound |= bound_here
            bound[f"{used.name} version"] = used.version
            for role in used.models:
                if role in weights:
                    bound[f"models.{role}"] = weights[role]["sha256"]
                    if "configuration" in weights[role]:
                        bound[f"models.{role}{_CONFIGURATION}"] = weights[role]["configuration"]
            free |= free_here
            if used.name == "teacher" and self.size.seeds is not None:
                free["teacher.seeds"] = list(self.size.seeds)
        return bound, free

    def summary(self) -> RunSummary:
        """What every finished stage found, with its time and memory; also written to `summary.json`."""
        stages: dict[str, StageSummary] = {}
        for stage in self.stages():
            record = self._record(stage)
            if record is not None:
                stages[stage.name] = {
                    "seconds": record.seconds,
                    "peak_rss_mb": record.peak_rss_mb,
                    "summary": record.summary,
                }
        result: RunSummary = {
            "name": self.recipe.name,
            "seconds": round(sum(stage["seconds"] for stage in stages.values()), 2),
            "peak_rss_mb": max((stage["peak_rss_mb"] for stage in stages.values()), default=0.0),
            "stages": stages,
        }
        random_roles = random_weights(self.directory)
        if random_roles:
            result["random_weights"] = random_roles
        write_json(self.directory / "summary.json", result)
        return result

    def missing(self) -> list[str]:
        """What this recipe needs and this machine lacks: weights, data, a GPU; each with how to get it."""
        return missing(self.recipe, _roles(self.stages()), self.directory)

    # --- in the process of a stage: `bottega stage` ------------------------------------------------------------------

    def perform(self, stage: Stage) -> StageRecord:
        """Do one stage in this process; what `bottega stage` calls. Returns its record, `stage.json`."""
        folder = self.directory / stage.folder
        config, output = self._request(stage)
        who = f"stage {stage.name}"
        # The stage's own folder too: a data root may be shared by several runs, and commands work on it alone.
        with (
            lock(self.directory / STAGE_LOCK, who),
            lock(output / LOCK, who),
            self._device(stage),
        ):
            bound, free = self.settings(stage, recorded_weights(self.directory))
            # Before any work: whatever a kill leaves behind, it is known with which settings it was begun.
            write_json(folder / "settings.json", bound)
            # The page would show the error of an earlier try as long as this one runs.
            (folder / "error.json").unlink(missing_ok=True)
            before = self._record(stage) or StageRecord()
            start = time.monotonic()
            function = _load(stage.function or self.functions[stage.name])
            summary = function(config, output, **self._inputs(stage))
            record = StageRecord(
                fingerprint=fingerprint(bound),
                size=free,
                seconds=round(time.monotonic() - start + before.seconds, 2),
                peak_rss_mb=round(max(peak_rss_mb(), before.peak_rss_mb), 1),
                peak_vram_mb=round(max(peak_vram_mb(), before.peak_vram_mb), 1),
                machine=torch_facts(),
                summary=summary,
                outputs=self._outputs(stage),
                inputs={used.name: self._outputs(used) for used in self._with_all_it_uses(stage) if used != stage},
            )
            # After the last work: a stage without this file is continued.
            write_json(folder / "stage.json", trust.with_check(record.model_dump(mode="json")))
        return record

    def perform_report(self) -> Path:
        """Build the page of the run directory in this process."""
        page: Path = _load(REPORT)(self.directory)
        return page

    def _request(self, stage: Stage) -> tuple[Config, Path]:
        """A stage's configuration and the folder that it writes to."""
        root = self.recipe.data_root(self.directory)
        places = {"world": root, "data": root, "truth": root / "truth"}
        config: Config = getattr(self._limited, stage.name)
        return config, places.get(stage.name, self.directory / stage.folder)

    def _inputs(self, stage: Stage) -> Mapping[str, object]:
        """What a stage reads of the others: every hand-over between stages is here."""
        at = self.directory
        recipe = self._limited
        train, val, test = (at / "pairs" / f"{split}.jsonl" for split in ("train", "val", "test"))
        root: dict[str, object] = {"data_root": recipe.data_root(at)}
        root_and_models = {**root, "models": recipe.models}
        inputs: dict[str, Mapping[str, object]] = {
            "world": {},
            "data": {},
            "pairs": root,
            "truth": {**root, "pairs": [train, val, test]},
            "quality": {**root_and_models, "pairs": [train, val, test]},
            "teacher": {
                **root_and_models,
                "pairs": [train, val],
                "thresholds": at / "quality" / "thresholds.json",
                "limit": None,
                "seeds": None if self.size.seeds is None else list(self.size.seeds),
            },
            "features": {**root_and_models, "teacher_dir": at / "teacher"},
            "student": {"models": recipe.models, "features_dir": at / "features"},
            "evaluation": {
                **root_and_models,
                "pairs": test,
                "adapter": at / "training" / "adapter.safetensors",
                "teacher": recipe.teacher,
                "kept": KeptCheckpoints(at / "training", val),
            },
        }
        return inputs[stage.name]

    def _device(self, stage: Stage) -> AbstractContextManager[None]:
        """The lock of the GPU that the stage works on; nothing on the CPU."""
        if not stage.models or self.recipe.models.device == "cpu":
            return nullcontext()
        from bottega.models.loading import choose_device

        return device_lock(str(choose_device(self.recipe.models.device)), f"{stage.name} of {self.recipe.name}")

    # --- in the process of the run -----------------------------------------------------------------------------------

    def _until(self, until: str | None) -> list[Stage]:
        """The stages up to `until`, in order."""
        wanted = self.stages()
        if until is not None:
            names = [stage.name for stage in wanted]
            if until not in names:
                raise MissingError(f"--until {until}: this recipe has no such stage; it has {', '.join(names)}")
            wanted = wanted[: names.index(until) + 1]
        return wanted

    def _work_through(
        self, wanted: Sequence[Stage], states: dict[str, str], weights: Mapping[str, ModelWeights]
    ) -> None:
        """Run the stages that are not done, each after what it reads was found whole or made again."""
        while True:
            todo = [stage for stage in wanted if states[stage.name] != "done"]
            if not todo:
                return
            stage = todo[0]
            again = self._set_aside_damaged(stage)
            if again:
                # They come before this one. Whatever uses them is asked again once they are done.
                states |= dict.fromkeys((other.name for other in again if other != stage), "to be continued")
                continue
            self._run_stage(stage)
            self._verified.add(stage.name)
            states[stage.name] = "done"
            for other in self._users(stage):
                if states[other.name] == "done":
                    states[other.name] = self.state(other, weights)

    # --- files against their hashes ----------------------------------------------------------------------------------

    def _set_aside_damaged(self, stage: Stage) -> list[Stage]:
        """Set aside the damaged files of a stage and of all that it uses; returns the stages that must make some again.

        Raises:
            DamagedError: a file that cannot simply be made again.
        """
        again: list[Stage] = []
        for used in self._with_all_it_uses(stage):
            if used.name in self._verified:
                continue
            self._verified.add(used.name)
            found = [fault for folder in self._folders(used) for fault in trust.faults(folder, trust.Depth.WHOLE)]
            if found:
                self._make_again(used, found)
                again.append(used)
            elif used != stage and not any(trust.read_list(folder) for folder in self._folders(used)):
                self.say(f"{used.name}: no hashes of its files are recorded, as by earlier versions: they are believed")
        return again

    def _make_again(self, stage: Stage, found: Sequence[trust.FileFault]) -> None:
        """Set damaged files aside, so that the stage makes them again, and say so."""
        for fault in found:
            if fault.role == "kept":
                raise trust.damaged(
                    fault.path,
                    fault.reason,
                    "put a copy back, or move the whole folder away, and the same command makes all of it again",
                )
        for fault in found:
            if fault.role != "source":
                trust.set_aside(fault.path)
        shown = ", ".join(str(fault) for fault in found[:_SHOWN_CHANGES])
        more = f" and {len(found) - _SHOWN_CHANGES} more" if len(found) > _SHOWN_CHANGES else ""
        self.say(f"{stage.name}: {shown}{more}: made again; what was there is kept as …{trust.KEPT}")

    def _is_whole(self, stage: Stage) -> bool:
        """Whether all files of a stage that it can make again are those that were recorded, by size and time."""
        for folder in self._folders(stage):
            # What is kept is looked at when a stage is about to read it: until then it stands in nobody's way.
            if any(fault.role != "kept" for fault in trust.faults(folder, trust.Depth.QUICK)):
                return False
        return True

    def _has_its_inputs(self, record: StageRecord) -> bool:
        """Whether a stage was done with what the stages that it uses have made since."""
        for name, was in record.inputs.items():
            now = self._outputs(BY_NAME[name]) if name in BY_NAME else ""
            if was and now and was != now:
                return False
        return True

    def _outputs(self, stage: Stage) -> str:
        """One hash over the results of a stage, by its lists; empty where it has none."""
        hashes = [trust.contents_hash(folder) for folder in self._folders(stage)]
        return trust.hash_json(hashes) if any(hashes) else ""

    def _folders(self, stage: Stage) -> list[Path]:
        """The folders whose lists name the files of a stage."""
        root = self.recipe.data_root(self.directory)
        folders = {
            "world": [root / "raw"],
            "data": [root / "coco", root / "wikiart", root / "fill50k"],
            "truth": [root / "truth"],
        }
        return folders.get(stage.name, [self.directory / stage.folder])

    def _require_models(self, todo: Sequence[Stage]) -> None:
        faults = missing_models(self.recipe, _roles(todo))
        if faults:
            more = f" (and {len(faults) - 1} more: bottega run --dry-run lists all)" if len(faults) > 1 else ""
            raise MissingError(faults[0] + more)
        for caution in model_cautions(self.recipe, _roles(todo)):
            self.say(caution)

    def _write_head(self, weights: Mapping[str, ModelWeights]) -> None:
        """Write what the run is made of: the recipe, versions, machine and the hashes of all weights."""
        write_text(self.directory / "recipe.yaml", as_yaml(portable(self.recipe, self.directory)))
        content: dict[str, object] = {**describe(), "weights": weights}
        random_roles = rehearsed_roles(self.recipe.models)
        if random_roles:
            content["random_weights"] = random_roles
            self.say(f"models with random weights ({', '.join(random_roles)}): a rehearsal; no picture is a result")
        write_json(self.directory / PROVENANCE, trust.with_check(content))

    def _settle_threads(self) -> None:
        """Decide with how many threads the stages compute, and say it where that is new."""
        before: int | None = None
        for stage in self.stages():  # a run of an earlier version has no record but this
            record = self._record(stage)
            if before is None and record is not None and isinstance(record.machine, dict):
                before = record.machine.get("threads")
        threads = settle_threads(self.directory, before)
        if threads.worth_saying:
            self.say(str(threads))

    def _run_stage(self, stage: Stage) -> None:
        """The page of the stages before, where it is due; then one stage in a process of its own."""
        if time.monotonic() >= self._page_due and self._page_is_behind():
            self._report()
        # A process of its own: its memory is given back whole, and a crash of a library takes no other stage along.
        try:
            while not self._ran_to_its_end(stage):
                pass  # a fresh process continues after what is saved
        except (RequestError, WorkError) as error:
            write_json(self.directory / stage.folder / "error.json", {"error": str(error)})
            self._report()
            raise
        except Interrupted:
            if self._page_is_behind():
                self._report()
            raise
        record = self.summary()["stages"][stage.name]
        self.say(f"{stage.name:<10} {record['seconds']:7.1f} s {record['peak_rss_mb']:6.0f} MB")

    def _ran_to_its_end(self, stage: Stage) -> bool:
        """Run a stage's process; False where it grew too large and stopped in order, with all saved."""
        try:
            run_child(["stage", stage.name, as_argument(self.directory), *self.size.options()], f"stage {stage.name}")
        except StartAfresh as error:
            self.say(f"{stage.name}: {error}")
            return False
        return True

    def _report(self) -> None:
        """Build the page; one that fails is reported and hides nothing: the results are in the run directory."""
        try:
            run_child(["stage", "report", as_argument(self.directory)], "report")
            trust.seal(self.directory, {self.directory / "report.html": "view"})
        except (RequestError, WorkError) as error:
            LOGGER.warning("no page of this state of the run: %s", error)
        self._page_due = time.monotonic() + _PAGE_EVERY_S

    def _page_is_behind(self) -> bool:
        """Whether the page is missing, damaged or older than a finished stage, such as one before a kill."""
        page = self.directory / "report.html"
        if not trust.is_intact(page, trust.Depth.QUICK):
            return True
        built = page.stat().st_mtime_ns
        for stage in self.stages():
            record = self.directory / stage.folder / "stage.json"
            if record.exists() and record.stat().st_mtime_ns > built:
                return True
        return False

    def _refuse_other_settings(self, stage: Stage, settings_file: Path, bound: Settings) -> None:
        """Raise FingerprintError where a stage was started with other bound settings, or nobody can tell which."""
        if not settings_file.exists():
            self._refuse_unknown_settings(stage, settings_file)
        cure = "delete it and stage.json beside it: the stage is done again"
        self._refuse_changes(stage, read_record(settings_file, dict[str, object], cure), bound)

    def _refuse_changes(self, stage: Stage, recorded: Settings, bound: Settings) -> None:
        """Raise FingerprintError where a stage was started with other bound settings, with the folders to delete."""
        # A model that is not on this machine cannot be compared; a stage that must load it says so itself.
        comparable: dict[str, object] = {}
        for name, value in recorded.items():
            if name in bound or not name.startswith("models."):
                comparable[name] = value
        resumable = resumable_settings(self._limited, "run")
        # What earlier versions did not record of the models cannot be compared.
        later = [name for name in bound if name.endswith(_CONFIGURATION)]
        now = recorded_then(bound, recorded, later)
        changed = [str(change) for change in without_resumable(changes(comparable, now), resumable)]
        if not changed:
            return
        folders = self._folders_to_redo(stage)
        shown = "; ".join(changed[:_SHOWN_CHANGES])
        more = f" (and {len(changed) - _SHOWN_CHANGES} more)" if len(changed) > _SHOWN_CHANGES else ""
        raise FingerprintError(
            f"{self.directory} was started with other values: {shown}{more}. "
            f"Set them back, give another --directory, or delete {' '.join(folders)} to redo from there"
        )

    def _is_settings_of(self, record: StageRecord, settings_file: Path) -> bool:
        try:
            return fingerprint(read_record(settings_file, dict[str, object])) == record.fingerprint
        except (RequestError, WorkError):
            return False

    def _refuse_unknown_settings(self, stage: Stage, settings_file: Path) -> NoReturn:
        """FingerprintError: nobody can tell the settings of a finished stage, only that they were others."""
        folders = self._folders_to_redo(stage)
        raise FingerprintError(
            f"{settings_file} is gone, and stage.json beside it was written with other values than these: set them "
            f"back, give another --directory, or delete {' '.join(folders)} to redo from there"
        )

    def _folders_to_redo(self, stage: Stage) -> list[str]:
        """The folders of a stage and of all that use it."""
        folders: list[str] = []
        for other in (stage, *self._users(stage)):
            folder = self.directory / other.folder
            if folder.exists():
                folders.append(str(folder))
        return folders

    # --- what both know ----------------------------------------------------------------------------------------------

    @property
    def _limited(self) -> Recipe:
        return self.recipe.limited(self.size.limit)

    def _with_all_it_uses(self, stage: Stage) -> list[Stage]:
        """The stage and all that it uses, directly or not, in the order of the pipeline."""
        names = {stage.name}
        for other in reversed(STAGES):
            if other.name in names:
                names.update(other.uses)
        return [other for other in self.stages() if other.name in names]

    def _users(self, stage: Stage) -> list[Stage]:
        """The stages that use a stage, directly or not, in the order of the pipeline."""
        others = [other for other in self.stages() if other != stage]
        return [other for other in others if stage in self._with_all_it_uses(other)]

    def _record(self, stage: Stage) -> StageRecord | None:
        """What a finished stage recorded; None where it is not finished."""
        path = self.directory / stage.folder / "stage.json"
        if not path.exists():
            return None
        cure = "delete it, and the stage continues"
        content = read_record(path, dict[str, object], cure)
        if not trust.holds(content):
            LOGGER.warning("%s has another content than was written: the stage continues, and writes it again", path)
            return None
        return to_record(StageRecord, content, str(path), cure)

    def _weights(self) -> dict[str, ModelWeights]:
        """Hash of each model on this machine; files of unchanged size and time are not read again."""
        known = recorded_weights(self.directory)
        result: dict[str, ModelWeights] = {}
        for found in inspect(self.recipe.models):
            if found.folder is None or found.faults:
                continue
            base = found.folder if found.folder.is_dir() else found.folder.parent
            before = known.get(found.role)
            files = _facts(found.files, base, before["files"] if before else {})
            small = _facts(found.configurations, base, before.get("configuration_files", {}) if before else {})
            result[found.role] = {
                "sha256": _hash_of(files),
                "files": files,
                "configuration": _hash_of(small),
                "configuration_files": small,
            }
        return result


def _roles(stages: Sequence[Stage]) -> list[str]:
    """The models that stages load, in the order of the section `models`."""
    return [role for role in ROLES if any(role in stage.models for stage in stages)]


def _load(function: str) -> Callable[..., Any]:
    """The function that `module:name` names."""
    module, _, name = function.partition(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return loaded


def _facts(files: Sequence[Path], base: Path, known: Mapping[str, FileFacts]) -> dict[str, FileFacts]:
    """The facts of files by their names within a model's folder."""
    found: dict[str, FileFacts] = {}
    for file in files:
        name = _name_within(file, base)
        found[name] = _hashed(file, known.get(name))
    return found


def _fingerprints(bound: Settings) -> set[str]:
    """The fingerprint of settings, and the one that a version gave them which did not know the models' small files."""
    earlier = {name: value for name, value in bound.items() if not name.endswith(_CONFIGURATION)}
    return {fingerprint(bound), fingerprint(earlier)}


def _hash_of(files: Mapping[str, FileFacts]) -> str:
    return sha256_json({name: facts["sha256"] for name, facts in sorted(files.items())})


def _name_within(file: Path, base: Path) -> str:
    return file.relative_to(base).as_posix() if file.is_relative_to(base) else file.name


def _hashed(file: Path, known: FileFacts | None) -> FileFacts:
    """Hash, size and time of a weight file; the known hash where size and time are the known ones."""
    facts = file.stat()
    if known is not None and known["bytes"] == facts.st_size and known["mtime_ns"] == facts.st_mtime_ns:
        return known
    return {"sha256": sha256_file(file), "bytes": facts.st_size, "mtime_ns": facts.st_mtime_ns}
