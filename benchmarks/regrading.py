"""Claim: 100 000 tries are graded again in three quarters of the processor's time of a plain script for one table of
limits, and with their grades and lists written in no more than it takes; no GPU or picture, 100 MB above ten tries.

python benchmarks/regrading.py [--full] [--json] [--tries N]

A ledger of tries is entered through `bottega.teacher.ledger.Ledger` (not timed), with scores drawn around those of a
good run, one target in eight retried. Timed is `bottega qc grade`, from the start of the process to its end: once
without `--write` (the counts alone), once with it, which also enters the grades and writes `metadata.jsonl` and
`qc_overrides.jsonl`. The peer is the script that one would write for it with sqlite3 and json alone: it selects all
rows, parses their scores, compares each with a limit or two, and with `--write` updates the grades and writes the
accepted rows as JSON lines. It neither picks the best of a target's tries nor syncs, and knows no reasons. Each is run
several times by turns; medians of the processor's time count, less those of the same command on a ledger of ten tries:
what is left is the work. Measured are 0.5 and 0.75; the bars are as strict as the 10 s that they replace. Most memory
is that of the process; the limit is above that of ten tries.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from common.bench import Arguments, conclude, mortal, say

from bottega.quality.config import Thresholds

if TYPE_CHECKING:
    from bottega.teacher.ledger import TryRow

TRIES, REPEATS = 100_000, 3
RATIOS, MEGABYTES = {"counts": 0.75, "counts written": 1.0}, 100.0
LIMITS = {
    "finite": (1.0, 1.0), "edge_64": (0.3, 9.0), "edge_128": (0.2, 9.0), "content_sim": (0.3, 9.0),
    "change": (0.02, 9.0), "bright": (0.5, 9.0), "spread": (0.05, 9.0), "clipped": (-9.0, 0.1),
    "noise": (-9.0, 2.0), "ghosting": (-9.0, 0.3),
}  # fmt: skip
"""Of the plain script: about ours; its work does not depend on them."""

LADDER = ("structure 1", "structure 2")
CENTRES = {
    "edge_64": (0.55, 0.16), "edge_128": (0.45, 0.14), "content_sim": (0.62, 0.14), "style_sim": (0.55, 0.1),
    "style_gain": (0.12, 0.08), "change": (0.12, 0.04), "bright": (0.85, 0.1), "spread": (0.22, 0.05),
    "clipped": (0.02, 0.01), "clipped_excess": (0.0, 0.03), "vivid": (0.25, 0.08), "vivid_excess": (-0.02, 0.08),
    "latents_finite": (1.0, 0.0), "structure": (0.62, 0.12), "vigour": (0.9, 0.15), "sharpness": (0.85, 0.15),
    "mesh": (-0.2, 0.9), "noise": (-0.3, 0.6), "blocking": (0.0, 0.1), "blocking_share": (0.0, 0.05),
    "ghosting": (0.08, 0.05),
}  # fmt: skip


def drawn_scores(rng: random.Random, names: list[str]) -> dict[str, float]:
    """Scores as a good run has them."""
    scores = {name: round(rng.gauss(*CENTRES[name]), 6) for name in names}
    return scores | {"finite": 1.0, "hf_ratio": round(rng.lognormvariate(-0.1, 0.4), 6)}


def rows(tries: int) -> list[list[TryRow]]:
    """Targets with their tries in order, as a run enters them."""
    from bottega.quality.grading import CHECKS, grade
    from bottega.teacher.ledger import TryRow

    rng, limits = random.Random(0), Thresholds()
    names = sorted({*CENTRES, *(check.score for check in CHECKS)} - {"finite", "hf_ratio"})
    made: list[list[TryRow]] = []
    count = 0
    while count < tries:
        number, target = len(made), []
        for index in range(min(1 if rng.random() > 1 / 8 else rng.choice((2, 3)), tries - count)):
            scores = drawn_scores(rng, names)
            judged = grade(scores, limits)
            pair = f"{number // 3:012d}_painter-{number % 997}-{number}"
            name = f"{pair}_seed{number % 3}"
            target.append(
                TryRow(
                    target=name,
                    pair_id=pair,
                    content_id=pair.split("_")[0],
                    style_id=pair.split("_")[1],
                    seed=number % 3,
                    try_index=index,
                    rung=("first", *LADDER)[index],
                    status="ok",
                    grade=judged.letter,
                    weight=judged.weight,
                    reasons=judged.reasons,
                    scores=scores,
                    parameters={
                        "steps": 25,
                        "strength": 0.4 - 0.08 * min(index, 1),
                        "guidance_scale": 3.5 - 0.3 * index,
                        "ip_adapter_scale": 0.3,
                        "noise": 0,
                        "unet_calls": 10 - 2 * min(index, 1),
                        "first_timestep": 361,
                        "last_timestep": 1,
                        "first_snr": 0.62,
                        "dtype": "float16",
                        "device": "cuda:0",
                        "batch": 1,
                        "sampler": "ddim",
                        "protocol": "stabilised",
                    },
                    noise_seed=rng.getrandbits(63),
                    prompt="a man riding on the back of a brown horse next to a small table",
                    style="Post_Impressionism",
                    split="train",
                    content_path=f"raw/coco/train2017/{number // 3:012d}.jpg",
                    style_path=f"wikiart/images/painter-{number % 997}-{number}.jpg",
                    content_sha256=f"{number // 3:064x}",
                    style_sha256=f"{number:064x}",
                    output_path=f"images/{name}.png" if index == 0 else f"tries/{name}_try{index}.png",
                    output_sha256=f"{rng.getrandbits(256):064x}",
                    seconds=1.25,
                    created_at="2026-01-01T00:00:00+00:00",
                    fingerprint="0" * 64,
                )
            )
        made.append(target)
        count += len(target)
    return made


def write_run(folder: Path, tries: int) -> None:
    """A teacher's folder with a ledger and nothing else."""
    from bottega.teacher.config import Ladder
    from bottega.teacher.ledger import Ledger

    made = rows(tries)
    with Ledger(folder / "ledger.sqlite") as ledger:
        teacher = {"ladder": Ladder().model_dump(mode="json")}
        ledger.require_fingerprint("0" * 64, {"teacher": teacher, "thresholds": Thresholds().model_dump(mode="json")})
        for start in range(0, len(made), 1000):
            ledger.commit([row for target in made[start : start + 1000] for row in target])


def measured(words: list[str]) -> dict[str, float]:
    """One command as a whole process: seconds of the clock and of the processor, and most megabytes."""
    begun = time.perf_counter()
    command = mortal(words)
    pid = os.posix_spawn(  # a fork's peak would begin at what this process holds
        command[0],
        command,
        {**os.environ, "OMP_NUM_THREADS": "1"},
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, used = os.wait4(pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"{' '.join(words)} ended with {os.waitstatus_to_exitcode(status)}")
    return {
        "seconds": time.perf_counter() - begun,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "megabytes": used.ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024),
    }


def plain_script(folder: Path, write: bool) -> None:
    """The peer: every row's scores against one table of limits."""
    database = sqlite3.connect(folder / "ledger.sqlite")
    database.row_factory = sqlite3.Row
    counts: dict[str, int] = {}
    changed, accepted = [], []
    for row in database.execute("SELECT * FROM tries"):
        scores = json.loads(row["scores"])
        worst = "A"
        for name, value in scores.items():
            low, high = LIMITS.get(name, (-1e9, 1e9))
            if not low <= value <= high:
                worst = "C"
        counts[worst] = counts.get(worst, 0) + 1
        changed.append((worst, 1.0 if worst == "A" else 0.0, row["id"]))
        if write and worst == "A":
            accepted.append(json.dumps(dict(row) | {"scores": scores, "grade": worst}))
    if write:
        database.executemany("UPDATE tries SET grade = ?, weight = ? WHERE id = ?", changed)
        database.commit()
        (folder / "plain.jsonl").write_text("\n".join(accepted), encoding="utf-8")
    print(counts)


def commands(root: Path) -> dict[str, list[str]]:
    """What is timed: bottega on the long and on the short ledger, and the plain script, with and without writing."""
    bottega = [sys.executable, "-m", "bottega", "qc", "grade"]
    script = [sys.executable, __file__, "--plain", str(root / "plain")]
    words = {
        name: [*bottega, "--teacher-dir", str(root / name), "--thresholds", str(root / "limits.json")]
        for name in ("counts", "ten")
    } | {"plain": script}
    return words | {f"{name} written": [*command, "--write"] for name, command in words.items()}


def main() -> int:
    """Measure, print, and return 1 where the claim does not hold."""
    arguments = Arguments(__doc__)
    arguments.add_size("--tries", short=20_000, full=100_000, help="rows of the ledger")
    arguments.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    arguments.add_argument("--write", action="store_true", help=argparse.SUPPRESS)
    asked = arguments.parse()
    if asked.plain:
        plain_script(asked.plain, asked.write)
        return 0
    runs: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, tries in (("kept", asked.tries), ("ten", 10)):
            say(f"a ledger of {tries:,} tries")
            maker = get_context("spawn").Process(target=write_run, args=(root / name, tries), daemon=True)
            maker.start()
            maker.join()
            if maker.exitcode:
                raise SystemExit("the ledger could not be made")
        for repeat in range(REPEATS):
            say(f"turn {repeat + 1} of {REPEATS}")
            for name in ("counts", "plain"):
                shutil.copytree(root / "kept", root / name, dirs_exist_ok=True)  # each time from the same grades
            limits = Thresholds(edge_64_a=0.35 + 0.01 * repeat, content_sim_c=0.32)
            (root / "limits.json").write_text(limits.model_dump_json(), encoding="utf-8")
            for name, words in commands(root).items():
                runs.setdefault(name, []).append(measured(words))
    found = {name: {what: statistics.median(run[what] for run in of) for what in of[0]} for name, of in runs.items()}
    more = max(found[f"counts{w}"]["megabytes"] - found[f"ten{w}"]["megabytes"] for w in ("", " written"))
    work = {w: found[f"counts{w}"]["cpu_seconds"] - found[f"ten{w}"]["cpu_seconds"] for w in ("", " written")}
    ratio = {f"counts{w}": work[w] / found[f"plain{w}"]["cpu_seconds"] for w in ("", " written")}
    held = more <= MEGABYTES and all(ratio[name] <= bar for name, bar in RATIOS.items())
    claim = {"tries": asked.tries, "ratio": RATIOS, "megabytes_above_ten": MEGABYTES}
    lines = [f"claim: {asked.tries:,} tries in {RATIOS} times a plain script's CPU time, {MEGABYTES:g} MB above ten"]
    for name, took in found.items():
        seconds = f"{took['seconds']:6.2f} s ({took['cpu_seconds']:.2f} s of CPU)"
        lines.append(f"{name:15} {seconds} {took['megabytes']:6.0f} MB")
    lines.append(f"ratio {ratio['counts']:.2f}, written {ratio['counts written']:.2f}; {more:.0f} MB more")
    result = {"claim": claim, **found, "ratio": ratio, "megabytes_above_ten": more, "held": held}
    return conclude(asked, result, lines)


if __name__ == "__main__":
    sys.exit(main())
