"""What a user can see of bottega, written down, so that two versions can be compared.

    python scripts/behaviour.py dump OUT [--checkout DIR] [--runs] [--weights DIR]
    python scripts/behaviour.py record RUN OUT
    python scripts/behaviour.py compare BEFORE AFTER [--renames FILE]

`dump` asks a checkout through its command line, from its own folder and with its own `src`, and writes into OUT:

    help/       text and exit code of --help, of every verb and subcommand
    wrong/      message and exit code of requests that are wrong
    recipes/    every shipped recipe, resolved
    settings/   of every recipe of the pipeline: the settings that each stage is bound to, and the free ones
    weights/    names and shapes of every parameter: student adapters, the miniature's models
    runs/       with --runs (minutes): every file of a miniature_quick and of a red_circle run, and the fingerprint of
                one training step of each recipe that trains from scratch

`--weights` takes the miniature's models from another folder, for a comparison across new weights. `record` writes what
`dump` does of a run, of a run directory that exists: a run begun by an older version and continued by this one is
compared with one that was never stopped.

Times, memory, process ids, dates, the machine and the commit are left out. Structured files are written as sorted lines
`path = value`, so that `compare` shows a renamed key as what it is. FILE lists the renames that are meant, a line
`old -> new` each; whole words are replaced in BEFORE. Values that are sentences may be reworded: they are listed, and
only other differences make the exit code 1.
"""

from __future__ import annotations

import argparse
import csv
import difflib
import hashlib
import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml

TIMES = {"mtime", "seconds", "started", "finished", "time", "when", "created", "updated", "at", "rss", "vram", "pid"}
"""A key with one of these words, between underscores, differs from one run to the next."""

ONLY_NAMED = {"index.sqlite", "provenance.json", "run.lock"}
"""Files that hold little but times and machine facts: that they are there is written, not what is in them."""

WRONG_REQUESTS = (
    "nosuchverb",
    "--nosuchoption",
    "trian style",
    "run",
    "run nosuch.yaml",
    "run recipes/miniature_quik.yaml",
    "run recipes/red_circle.yaml",
    "run recipes/miniature_quick.yaml --set teacher.strenght=1 --dry-run",
    "run recipes/miniature_quick.yaml --set teacher.strength=7 --dry-run",
    "run recipes/miniature_quick.yaml --set teacher --dry-run",
    "run recipes/miniature_quick.yaml --set teacher.size=[ --dry-run",
    "run recipes/miniature_quick.yaml --seeds x --dry-run",
    "run recipes/miniature_quick.yaml --limit 0 --dry-run",
    "run recipes/miniature_quick.yaml --until nosuchstage --directory {tmp}/until",
    "run recipes/sdxl_pixart.yaml --directory {tmp}/sdxl",
    "train",
    "train style",
    "train style --features-dir {tmp}/none --output-dir {tmp}/out",
    "train ldm",
    "train ldm --config recipes/miniature.yaml",
    "train ldm --config recipes/red_circle.yaml --set unet.chanels=3",
    "train ldm --config recipes/red_circle.yaml --set training.steps=0",
    "train ldm --resume {tmp}/none",
    "train ldm --config recipes/red_circle.yaml --verify-resume --replay {tmp}/x",
    "train diagnose {tmp}/none",
    "generate",
    "generate --checkpoint {tmp}/none",
    "stylize",
    "stylize --adapter {tmp}/a.safetensors --content {tmp}/c.png --style {tmp}/s.png --output {tmp}/o.png",
    "teach",
    "features --data-root {tmp}/none --teacher-dir {tmp}/none --output-dir {tmp}/out",
    "qc grade {tmp}/none",
    "qc grade --teacher-dir {tmp}/none",
    "qc score {tmp}/none",
    "qc faults {tmp}/none",
    "evaluate",
    "evaluate {tmp}/none",
    "report {tmp}/none",
    "doctor",
    "doctor training {tmp}/none",
    "models",
    "models verify nosuch.yaml",
    "data coco --source {tmp}/none --output {tmp}/out",
    "data pairs --num-pairs 0",
    "miniature world",
    "stage nosuch {tmp}/none",
)

LDM_ONE_STEP = {
    "epochs": ("training.num_epochs=1", "data.num_samples=200", "training.batch_size=64"),
    "steps": ("training.steps=1",),
}
"""Free settings under which one short training shows a recipe's fingerprint, by what the recipe counts."""

SETTINGS = """
import json, sys
from pathlib import Path
try:
    from bottega.pipeline import Pipeline
except ImportError:  # its name in versions before 0.1
    from bottega.workshop import Workshop as Pipeline
from bottega.miniature.config import TruthConfig, WorldConfig
from bottega.recipe import load_recipe
path = Path(sys.argv[1])
recipe = load_recipe(path, sys.argv[2:], {"world": lambda: WorldConfig, "truth": lambda: TruthConfig})
pipeline = Pipeline(recipe, Path("runs") / recipe.name)
found = {}
for stage in pipeline.stages():
    bound, free = pipeline.settings(stage, {})
    found[stage.name] = {"bound": bound, "free": free}
print(json.dumps(found))
"""

ADAPTERS = """
import json
from bottega.student.adapter import Geometry, StyleAdapter
from bottega.student.config import AdapterConfig
geometry = Geometry(6, 48, 48, 4, 2, 4, 1000, 32, 5, 24)
found = {}
for mode in ("sdedit", "paired", "latent"):
    for arm, more in {
        "pooled": {}, "patch": {"token_source": "patch", "purification": "none"},
        "pooled_full": {"own_query": True, "place_octaves": 3, "out_projection": "full", "token_hidden": 16,
                        "content_hidden": 16, "scene_removal": "projection", "layers": "all"},
        "pooled_low_rank": {"out_projection": "low_rank", "query_norm": "layer", "scene_removal": "gated_subtraction"},
    }.items():
        adapter = StyleAdapter(AdapterConfig(content_mode=mode, **more), geometry)
        found[f"{mode} {arm}"] = {name: list(value.shape) for name, value in adapter.state_dict().items()}
print(json.dumps(found))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(dest="job", required=True)
    dump_job = jobs.add_parser("dump", help="write what a checkout does")
    dump_job.add_argument("out", type=Path)
    dump_job.add_argument("--checkout", type=Path, default=Path())
    dump_job.add_argument("--runs", action="store_true", help="also run recipes (minutes)")
    dump_job.add_argument("--weights", type=Path, help="the miniature's models, from here")
    record_job = jobs.add_parser("record", help="write what a run directory holds")
    record_job.add_argument("run", type=Path)
    record_job.add_argument("out", type=Path)
    record_job.add_argument("--checkout", type=Path, help="whose recipe the run was made of")
    compare_job = jobs.add_parser("compare", help="show how two dumps differ")
    compare_job.add_argument("before", type=Path)
    compare_job.add_argument("after", type=Path)
    compare_job.add_argument("--renames", type=Path, help="the renames that are meant, a line `old -> new` each")
    options = parser.parse_args()
    if options.job == "compare":
        return compare(options.before, options.after, read_renames(options.renames))
    if options.job == "record":
        record(options.run.resolve(), options.out, options.checkout and options.checkout.resolve())
        return 0
    Dump(options.checkout.resolve(), options.out, options.weights).write(runs=options.runs)
    return 0


class Dump:
    """Asks one checkout and writes its answers."""

    def __init__(self, checkout: Path, out: Path, weights: Path | None) -> None:
        self.checkout = checkout
        self.out = out
        self.weights = weights

    def write(self, *, runs: bool) -> None:
        """Everything; the runs, which take minutes, only if asked for."""
        with tempfile.TemporaryDirectory(prefix="behaviour_") as folder:
            self.tmp = Path(folder)
            self.help()
            self.wrong_requests()
            self.recipes()
            self.parameters()
            if runs:
                self.quick_run()
                self.red_circle()
                self.ldm_fingerprints()

    # --- what takes seconds ------------------------------------------------------------------------------------------

    def help(self) -> None:
        """Of bottega, of its verbs, and of their subcommands."""
        said = self.ask("--help")
        self.put("help/bottega.txt", said)
        for verb in [*re.findall(r"^  (\w+) ", said, re.MULTILINE), "stage"]:
            said = self.ask(verb, "--help")
            self.put(f"help/{verb}.txt", said)
            commands = said.partition("─ Commands")[2]
            for name in re.findall(r"^│ ([\w-]+) ", commands, re.MULTILINE):
                self.put(f"help/{verb}_{name}.txt", self.ask(verb, name, "--help"))

    def wrong_requests(self) -> None:
        """The message and the exit code of each."""
        for number, request in enumerate(WRONG_REQUESTS):
            words = request.replace("{tmp}", str(self.tmp)).split()
            self.put(f"wrong/{number:02d}.txt", f"$ bottega {request}\n{self.ask(*words)}")

    def recipes(self) -> None:
        """Each shipped recipe with every default, and what the stages of the pipeline make of it."""
        for path in sorted((self.checkout / "recipes").glob("*.yaml")):
            recipe = f"recipes/{path.name}"
            if _trains_from_scratch(path):
                said = self.ask("train", "ldm", "--config", recipe, "--dry-run")
            else:
                said = self.ask("run", recipe, "--dry-run", "--directory", str(self.tmp / "dry"))
                settings = json.loads(self.python(SETTINGS, recipe, *self.model_sets()))
                self.put(f"settings/{path.stem}.flat", lines(settings))
            self.put(f"recipes/{path.name}", said)

    def parameters(self) -> None:
        """Names and shapes of everything that is saved in a file of weights."""
        self.put("weights/adapters.flat", lines(json.loads(self.python(ADAPTERS))))
        folder = self.weights or self.checkout / "src/bottega/miniature/weights"
        for path in sorted(folder.rglob("*.safetensors")):
            name = str(path.relative_to(folder)).replace("/", "_")
            self.put(f"weights/{name}.flat", "\n".join(_tensors(path, digests=False)))

    # --- what takes minutes ------------------------------------------------------------------------------------------

    def quick_run(self) -> None:
        """The pipeline at its smallest, and again, when nothing is left to do."""
        directory = self.tmp / "miniature_quick"
        sets = [word for each in self.model_sets() for word in ("--set", each)]
        words = ["run", "recipes/miniature_quick.yaml", "--directory", str(directory), *sets]
        self.put("runs/miniature_quick.txt", self.ask(*words))
        record(directory, self.out / "runs/miniature_quick", self.checkout)
        self.put("runs/miniature_quick_again.txt", self.ask(*words))
        self.put("runs/miniature_quick_diagnose.txt", self.ask("train", "diagnose", str(directory / "training")))
        self.put("runs/miniature_quick_refused.txt", self.ask(*words, "--set", "teacher.strength=0.9"))

    def red_circle(self) -> None:
        """A training from scratch, its pictures and the doctor's verdict."""
        directory = self.tmp / "red_circle"
        words = ["train", "ldm", "--config", "recipes/red_circle.yaml", "--output-dir", str(directory)]
        self.put("runs/red_circle.txt", self.ask(*words))
        record(directory, self.out / "runs/red_circle", self.checkout)
        self.put("runs/red_circle_refused.txt", self.ask(*words, "--set", "unet.channels=[16, 32, 32]"))
        self.put("runs/red_circle_doctor.txt", self.ask("doctor", "training", str(directory)))
        drawn = self.tmp / "red_circle_drawn"
        self.put(
            "runs/red_circle_generate.txt",
            self.ask("generate", "--checkpoint", str(directory), "--output-dir", str(drawn), "--statistics"),
        )
        record(drawn, self.out / "runs/red_circle_drawn")

    def ldm_fingerprints(self) -> None:
        """The checkpoint of one short training of each recipe that trains from scratch."""
        for path in sorted((self.checkout / "recipes").glob("*.yaml")):
            if not _trains_from_scratch(path):
                continue
            training = yaml.safe_load(path.read_text())["training"]
            short = LDM_ONE_STEP["epochs" if "num_epochs" in training else "steps"]
            sets = [word for each in (*short, "validation.samples=0") for word in ("--set", each)]
            directory = self.tmp / f"short_{path.stem}"
            self.ask("train", "ldm", "--config", f"recipes/{path.name}", "--output-dir", str(directory), *sets)
            record(directory, self.out / "runs/one_step" / path.stem, self.checkout)

    # --- how to ask --------------------------------------------------------------------------------------------------

    def model_sets(self) -> list[str]:
        """Overrides that take the miniature's models from `--weights`."""
        if self.weights is None:
            return []
        folders = sorted(path.name for path in self.weights.iterdir() if path.is_dir())
        known = ("sdxl", "ip_adapter", "pixart", "clip", "style_classifier", "structure_encoder", "scene_reader")
        return [f"models.{name}={self.weights / name}" for name in known if name in folders]

    def ask(self, *words: str) -> str:
        """What bottega prints, without times, and its exit code."""
        done = self.run("-m", "bottega", *words)
        text = f"{done.stdout}{done.stderr}exit code {done.returncode}\n"
        return without_times(text.replace(str(self.tmp), "TMP").replace(str(self.checkout), "CHECKOUT"))

    def python(self, code: str, *words: str) -> str:
        """What a program prints under the checkout's own bottega."""
        done = self.run("-c", code, *words)
        if done.returncode:
            raise SystemExit(f"the checkout's bottega has other names than this script knows:\n{done.stderr[-1500:]}")
        return done.stdout

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        env = {
            **os.environ,
            "PYTHONPATH": str(self.checkout / "src"),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "100",
            "NO_COLOR": "1",
            "TERM": "dumb",
            "HF_HUB_OFFLINE": "1",
        }
        return subprocess.run(
            [sys.executable, *words], cwd=self.checkout, env=env, capture_output=True, text=True, check=False
        )

    def put(self, name: str, text: str) -> None:
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _trains_from_scratch(recipe: Path) -> bool:
    return "unet" in yaml.safe_load(recipe.read_text())


# --- a run directory as text -----------------------------------------------------------------------------------------


def record(run: Path, out: Path, checkout: Path | None = None) -> None:
    """Each file of a run as a text file of the same name in `out`; pictures and tensors as digests.

    checkout: whose recipe it is; a path into it, which a run holds relative to itself, is written as CHECKOUT.
    """
    places = {str(run): "RUN"} | ({os.path.relpath(checkout, run): "CHECKOUT"} if checkout is not None else {})
    for path in sorted(run.rglob("*")):
        name = re.sub(r"tfevents\..*", "tfevents", str(path.relative_to(run)))
        if not path.is_file() or name.endswith(("-wal", "-shm")):
            continue
        place = out / f"{name}.flat"
        place.parent.mkdir(parents=True, exist_ok=True)
        text = _content(path)
        for written, name in places.items():
            text = text.replace(written, name)
        place.write_text(text)


def _content(path: Path) -> str:  # noqa: C901 (one branch per file format, each of two lines)
    """What a file says, without times. One branch for each format that a run is made of."""
    kind = path.suffix
    if path.name in ONLY_NAMED or path.name.endswith(".lock"):
        return ""
    if kind == ".safetensors":
        return "\n".join(_tensors(path, digests=True))
    if kind == ".png":
        return "\n".join(_picture(path))
    if kind == ".sqlite":
        return lines(_database(path))
    if kind == ".parquet":
        from pyarrow import parquet

        return lines(parquet.read_table(path).to_pylist())
    if kind == ".csv":
        with path.open(newline="") as file:
            return lines(list(csv.DictReader(file)))
    if kind == ".jsonl" or path.name == "prompt.json":  # Fill50K's is one of lines, too
        return lines([json.loads(line) for line in path.read_text().splitlines()])
    if kind == ".json":
        return lines(json.loads(path.read_text()))
    if kind == ".yaml":
        return lines(yaml.safe_load(path.read_text()))
    if "tfevents" in path.name:
        return "\n".join(_events(path))
    if kind == ".html":
        text = re.sub(r"<(style|script).*?</\1>|<[^>]*>", "\n", path.read_text(), flags=re.DOTALL)
        return without_times("\n".join(line.strip() for line in text.splitlines() if line.strip()))
    if kind in (".log", ".md", ".txt"):
        return without_times(path.read_text())
    return f"sha256 = {hashlib.sha256(path.read_bytes()).hexdigest()}"


def _tensors(path: Path, *, digests: bool) -> Iterator[str]:
    """Name, type and shape of each tensor, the metadata, and with `digests` a digest of the numbers."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    metadata = header.pop("__metadata__", {})
    for name, facts in sorted(header.items()):
        first, last = facts["data_offsets"]
        digest = hashlib.sha256(content[end + first : end + last]).hexdigest()[:16] if digests else ""
        yield f"{name} = {facts['dtype']} {facts['shape']} {digest}".rstrip()
    for key, text in sorted(metadata.items()):
        yield lines({f"metadata {key}": _parsed(text)})


def _picture(path: Path) -> Iterator[str]:
    from PIL import Image

    with Image.open(path) as picture:
        yield f"pixels = {picture.mode} {picture.size} {hashlib.sha256(picture.tobytes()).hexdigest()[:16]}"
        for key, text in sorted(picture.info.items()):
            yield lines({f"info {key}": _parsed(text) if isinstance(text, str) else str(text)})


def _database(path: Path) -> dict[str, Any]:
    """The rows of each table, in the order of their content."""
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        names = [row[0] for row in tables]
        found = {}
        for name in names:
            rows = [dict(row) for row in database.execute(f"SELECT * FROM {name}")]
            parsed = [{key: _parsed(value) for key, value in row.items()} for row in rows]
            found[name] = sorted(parsed, key=repr)
    return found


def _events(path: Path) -> Iterator[str]:
    """Tag, step and value of each point of a TensorBoard file."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    for event in EventFileLoader(str(path)).Load():
        for value in event.summary.value:
            if not TIMES & set(re.split(r"[_/]", value.tag)):
                yield f"{value.tag} {event.step} = {list(value.tensor.float_val) or value.simple_value}"


def _parsed(value: Any) -> Any:
    """JSON inside a text, as what it says."""
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, str) and value[:1] in "[{":
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def lines(value: Any) -> str:
    """A structure as sorted lines `path = value`, without what tells times."""
    return "\n".join(sorted(_flat(value, ""))) + "\n"


def _flat(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if not TIMES & set(str(key).split("_")) and key not in ("machine", "commit"):
                yield from _flat(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for number, inner in enumerate(value):
            yield from _flat(inner, f"{path}[{number}]")
    else:
        text = json.dumps(value, ensure_ascii=False, default=str)
        yield f"{path} = {without_times(text)}"


def without_times(text: str) -> str:
    """A text without durations, rates, sizes in memory, dates, process ids, and lines that tell what is left to do."""
    text = re.sub(r"^.*\d+/\d+ .*\bleft\b.*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?Z?)?", "DATE", text)
    text = re.sub(r"\b\d\d:\d\d:\d\d\b", "TIME", text)
    text = re.sub(
        r" *\b\d[\d.,]*(e[+-]?\d+)? ?(?:ms|s|min|h|MB|GB|MiB|GiB|it/s|steps/s|/s|/min)(?![\w])", " AMOUNT", text
    )
    text = re.sub(r"[\d.]+ a second|AMOUNT(?: AMOUNT)+", "AMOUNT", text)
    return re.sub(r"\bpid \d+", "pid N", text)


# --- comparison ------------------------------------------------------------------------------------------------------


def read_renames(path: Path | None) -> list[tuple[str, str]]:
    """Lines `old -> new`; empty ones and those that begin with # are passed over."""
    renames = []
    for line in path.read_text().splitlines() if path is not None else ():
        if line.strip() and not line.startswith("#"):
            old, arrow, new = line.partition(" -> ")
            if not arrow:
                raise SystemExit(f"{path}: a rename is written `old -> new`, received {line!r}")
            renames.append((old.strip(), new.strip()))
    return renames


def compare(before: Path, after: Path, renames: Sequence[tuple[str, str]]) -> int:
    """Print what differs. 1 where anything but the wording of sentences does."""
    old = {_renamed(name, renames): path for name, path in _texts(before).items()}
    new = _texts(after)
    behaviour, wording = 0, 0
    for name in sorted(old.keys() | new.keys()):
        if name not in old or name not in new:
            print(f"--- {name}: only in {after if name in new else before}")
            behaviour += 1
            continue
        first, second = _renamed(old[name].read_text(), renames).splitlines(), new[name].read_text().splitlines()
        if name.endswith(".flat"):
            first, second = sorted(first), sorted(second)
        changed = [
            line for line in difflib.unified_diff(first, second, n=0, lineterm="") if line[:2] not in ("--", "++", "@@")
        ]
        if not changed:
            continue
        only_wording = all(_is_sentence(name, line) for line in changed)
        print(f"--- {name}{': wording' if only_wording else ''}")
        print("\n".join(changed[:40]) + (f"\n… and {len(changed) - 40} lines more" if len(changed) > 40 else ""))
        behaviour, wording = behaviour + (not only_wording), wording + only_wording
    print(f"{len(new)} texts compared: {behaviour} differ in what is done, {wording} in wording alone")
    return 1 if behaviour else 0


def _texts(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


def _renamed(text: str, renames: Sequence[tuple[str, str]]) -> str:
    for old, new in renames:
        text = re.sub(rf"(?<![\w]){re.escape(old)}(?![\w])", new, text)
    return text


def _is_sentence(name: str, line: str) -> bool:
    """Whether a changed line is prose: help, a message, a log line, a value that is a sentence."""
    if re.search(r"exit code", line):
        return False
    if not name.endswith(".flat"):
        return not name.startswith("recipes/")
    if name.endswith((".log.flat", ".md.flat", ".txt.flat", ".html.flat")):
        return True
    _, _, value = line.partition(" = ")
    return value.startswith('"') and value.count(" ") >= 2


if __name__ == "__main__":
    sys.exit(main())
