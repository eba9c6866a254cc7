"""Claim: no single damage to a run gives another result in silence: each is harmless, mended or named.

python benchmarks/damaged_runs.py [--full] [--json] [--damages 200] [--seed 0] [--workers 1]
                                   [--state FOLDER] [--recipe recipes/miniature_quick.yaml]

A finished run and one that ended with its features are copied. In each copy one file, drawn at random, gets one damage,
drawn at random too: a flipped bit, a cut, the content of another file of its kind, an edited or a lost line, or it is
deleted; every other time it keeps its time of change. In a finished run the stage after it is forgotten, so that
somebody reads the file; then the same command is run again, and at last `bottega doctor run --all`. The peer is the run
that nobody damaged: all results are compared to the byte, times left out. Where all that an evaluation reads is equal,
it is not made. A copy is whole, no link into the peer.

A damage depends on the seed and its number alone. With `--state` the peers and the cases that are done are kept there,
so that the same command resumes: 200 damages take two hours of a core.

It also measures what the hashes cost: to hash every file of the run twice, as it is written and as it is read, against
the time that the run takes. Bar: 2 %.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import bench
from common.bench import Arguments, conclude, say
from killed_anywhere import content, is_result, timeless

from bottega.runtime.files import sha256_bytes, sha256_json
from bottega.runtime.trust import KEPT, LIST, hash_file

SETS = ("--set", "teacher.source=oracle")
"""In so few steps the miniature's own teacher paints nothing that the learned eye accepts."""

READ_BY = {
    "data/raw": "data/coco",
    "data/coco": "pairs",
    "data/wikiart": "pairs",
    "data/fill50k": "features",
    "data/truth": "quality",
    "pairs": "features",
    "quality": "features",
    "teacher": "features",
    "features": "training",
    "training": "evaluation",
}
"""The folder of a stage that reads the files of another; longer names first."""

SUMMARIES = ("summary.json", "stage.json", "training.json")
WORK = {"drawn", "encoded", "resumed_from"}
COST_BAR = 0.02
TEXT = {".jsonl", ".json", ".csv", ".txt", ".yaml", ".md"}


@dataclass(frozen=True)
class Case:
    """One damage and what came of it."""

    run: str
    file: str
    damage: str
    keeps_time: bool
    outcome: str
    said: str


def main() -> int:
    """Damage, run again, compare, and return 1 where something else came out in silence."""
    arguments = Arguments(__doc__)
    arguments.add_size("--damages", short=6, full=200)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--recipe", type=Path, default=Path("recipes/miniature_quick.yaml"))
    arguments.add_argument("--workers", type=int, default=1, help="damages that are tried at once")
    arguments.add_argument("--state", type=Path, help="keep peers and cases there, and resume from them")
    asked = arguments.parse()
    with tempfile.TemporaryDirectory() as folder:
        place = asked.state or Path(folder)
        seconds = make_peers(asked.recipe, place)
        cost = cost_of_hashes(place / "finished") / seconds
        cases = try_all(asked, place)
    counts = Counter(case.outcome for case in cases)
    silent = [case for case in cases if case.outcome == "SILENT"]
    result = {
        "seconds_of_a_run": round(seconds, 1),
        "hashing_share": round(cost, 4),
        "outcomes": dict(counts),
        "cases": [asdict(case) for case in cases],
    }
    lines = [f"{case.run}: {case.damage} of {case.file} gave another result in silence" for case in silent]
    lines.append(f"{len(cases)} damages: " + ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    lines.append(f"hashing every file twice takes {100 * cost:.2f} % of the run; bar {100 * COST_BAR:.0f} %")
    return conclude(asked, {**result, "held": not silent and cost < COST_BAR}, lines)


def make_peers(recipe: Path, place: Path) -> float:
    """A run that ends with its features, and the same to its end; the seconds that both took."""
    record = place / "seconds.json"
    if not record.is_file():
        place.mkdir(parents=True, exist_ok=True)
        half, whole = place / "half-finished", place / "finished"
        for left in (half, whole):
            shutil.rmtree(left, ignore_errors=True)
        say("a run that ends with its features, and the same to its end")
        began = time.monotonic()
        run(recipe, half, "--until", "features").check_returncode()
        shutil.copytree(half, whole, symlinks=True)
        run(recipe, whole).check_returncode()
        record.write_text(json.dumps(time.monotonic() - began), encoding="utf-8")
    seconds: float = json.loads(record.read_text(encoding="utf-8"))
    return seconds


def try_all(asked: argparse.Namespace, place: Path) -> list[Case]:
    """Every damage, by number; those that the state holds are not tried again."""
    expected = results(place / "finished")
    done: dict[int, Case] = {}
    kept = place / f"cases-{asked.seed}.jsonl"
    if kept.is_file():
        for line in kept.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            number = row.pop("number")
            done[number] = Case(**row)
    missing = [number for number in range(asked.damages) if number not in done]

    def try_number(number: int) -> tuple[int, Case]:
        name = ("finished", "half-finished")[number % 2]
        rng = random.Random(f"{asked.seed} {number}")
        copy = place / f"copy-{number}"
        case = try_one(asked.recipe, name, place / name, copy, expected, rng)
        shutil.rmtree(copy)
        return number, case

    with ThreadPoolExecutor(asked.workers) as pool, kept.open("a", encoding="utf-8") as stream:
        for number, case in pool.map(try_number, missing):
            done[number] = case
            stream.write(json.dumps({"number": number, **asdict(case)}) + "\n")
            stream.flush()
            say(f"{len(done)} of {asked.damages}: {case.run}, {case.file}, {case.damage}: {case.outcome}")
    return [done[number] for number in range(asked.damages)]


def run(recipe: Path, directory: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bottega", "run", str(recipe), "--directory", str(directory), *SETS, *more]
    return bench.run(command, capture_output=True, text=True)


def cost_of_hashes(directory: Path) -> float:
    """Seconds to hash every file twice."""
    began = time.monotonic()
    for _ in range(2):
        for path in files(directory):
            hash_file(path)
    return time.monotonic() - began


def results(directory: Path) -> dict[str, str]:
    """Digest of every result by path; without the lists of hashes, and without what was set aside."""
    found: dict[str, str] = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_file() and is_result(path.name) and not name.endswith((KEPT, LIST)):
            found[name] = digest_of(path)
    return found


def digest_of(path: Path) -> str:
    """Of a file without its times; of all its bytes where the damage is still in it."""
    try:
        if path.name in SUMMARIES:
            return sha256_json(without_work(timeless(json.loads(path.read_text(encoding="utf-8")))))
        return sha256_bytes(content(path))
    except (ValueError, sqlite3.DatabaseError):
        return sha256_bytes(path.read_bytes())


def without_work(value: Any) -> Any:
    """A summary without the counts of what the last call did: made again, a stage finds most of it there."""
    if isinstance(value, dict):
        return {key: without_work(item) for key, item in value.items() if key not in WORK}
    return [without_work(item) for item in value] if isinstance(value, list) else value


def files(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink() and not path.name.endswith(".lock"):
            yield path


def try_one(recipe: Path, name: str, peer: Path, copy: Path, expected: dict[str, str], rng: random.Random) -> Case:
    """Damage a copy, run again, and judge."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(peer, copy, symlinks=True)
    path = rng.choice(list(files(copy)))
    file = str(path.relative_to(copy))
    keeps_time = rng.random() < 0.5
    damage = damage_file(path, keeps_time, rng)
    if name == "finished":
        forget_reader(copy, file)
    said = ""
    if name == "half-finished":
        done = run(recipe, copy, "--until", "student")
        said = done.stderr
        if done.returncode == 0 and up_to_evaluation(results(copy)) == up_to_evaluation(expected):
            # All that the evaluation reads is equal to the byte, so it need not be made to know what comes out.
            return Case(name, file, damage, keeps_time, *what_was_said(path, said, "mended", "harmless"))
    done = run(recipe, copy)
    said += done.stderr
    if done.returncode == 0 and results(copy) == expected:
        return Case(name, file, damage, keeps_time, *what_was_said(path, said, "mended", "harmless"))
    if path.name not in said:
        said = doctor(copy)
    return Case(name, file, damage, keeps_time, *what_was_said(path, said, "named", "SILENT"))


def up_to_evaluation(found: dict[str, str]) -> dict[str, str]:
    """The results that are there when the adapter is trained; without the summary of the whole run."""
    return {name: digest for name, digest in found.items() if "/" in name and not name.startswith("evaluation/")}


def what_was_said(path: Path, said: str, where_named: str, else_: str) -> tuple[str, str]:
    """The outcome, by whether the damaged file was named, and the last line that names it."""
    lines = said.splitlines()
    naming = [line for line in lines if path.name in line]
    last = (naming or lines or [""])[-1]
    # Without the folder of this machine: results are kept.
    return where_named if naming else else_, re.sub(r"\S*/(?=copy-\d+/)", "", last)[:300]


def forget_reader(directory: Path, file: str) -> None:
    """Delete the folder of the stage that reads a file, so that it is read again."""
    for folder in sorted(READ_BY, key=len, reverse=True):
        if file.startswith(f"{folder}/"):
            shutil.rmtree(directory / READ_BY[folder], ignore_errors=True)
            if READ_BY[folder].startswith("data/"):
                (directory / "data" / "stage.json").unlink(missing_ok=True)
            return


def doctor(directory: Path) -> str:
    command = [sys.executable, "-m", "bottega", "doctor", "run", str(directory), "--all", "--json"]
    done = bench.run(command, capture_output=True, text=True)
    return str(done.stdout + done.stderr)


def damage_file(path: Path, keeps_time: bool, rng: random.Random) -> str:
    """One damage to a file; what it was."""
    stat = path.stat()
    data = path.read_bytes()
    kinds = ["bit", "cut", "other", "deleted"] if data else ["deleted"]
    if path.suffix in TEXT and data.count(b"\n") > 1:
        kinds += ["edited line", "lost line"]
    kind = rng.choice(kinds)
    if kind == "deleted":
        path.unlink()
        return kind
    path.write_bytes(damaged(path, data, kind, rng))
    if keeps_time:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return kind


def damaged(path: Path, data: bytes, kind: str, rng: random.Random) -> bytes:
    if kind == "cut":
        return data[: rng.randrange(len(data))]
    if kind == "other":
        others = [other for other in sorted(path.parent.glob(f"*{path.suffix}")) if other != path and other.is_file()]
        return rng.choice(others).read_bytes() if others else data[::-1]
    if kind == "bit":
        at = rng.randrange(len(data))
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    lines = data.splitlines(keepends=True)
    number = rng.randrange(len(lines))
    if kind == "lost line":
        del lines[number]
    else:
        at = rng.randrange(len(lines[number]))
        lines[number] = lines[number][:at] + b"7" + lines[number][at + 1 :]
    return b"".join(lines)


if __name__ == "__main__":
    sys.exit(main())
