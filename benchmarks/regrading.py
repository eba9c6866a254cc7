"""Claim: 100 000 tries are graded again in 10 s, whole process, no GPU or picture, within 100 MB above a run of ten.

python benchmarks/regrading.py [--json] [--tries N]

A ledger of 100 000 tries is entered through `bottega.teacher.ledger.Ledger` (not timed), with scores drawn around those
of a good run, one target in eight retried. Timed is `bottega qc grade`, from the start of the process to its end: once
without `--write` (the counts alone), once with it, which also enters the grades and writes `metadata.jsonl` and
`qc_overrides.jsonl`. Each is run several times by turns, the median counts. The same command on a ledger of 10 tries is
the peer: what is left is the work. Most memory is that of the process; the limit is above the peer's.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bottega.teacher.ledger import Row

TRIES, REPEATS = 100_000, 3
SECONDS, MEGABYTES = 10.0, 100.0
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


def rows(tries: int) -> list[list[Row]]:
    """Targets with their tries in order, as a run enters them."""
    from bottega.quality.config import Thresholds
    from bottega.quality.grade import CHECKS, grade
    from bottega.teacher.ledger import Row

    rng, limits = random.Random(0), Thresholds()
    names = sorted({*CENTRES, *(check.score for check in CHECKS)} - {"finite", "hf_ratio"})
    made: list[list[Row]] = []
    count = 0
    while count < tries:
        number, target = len(made), []
        for index in range(min(1 if rng.random() > 1 / 8 else rng.choice((2, 3)), tries - count)):
            scores = drawn_scores(rng, names)
            judged = grade(scores, limits)
            pair = f"{number // 3:012d}_painter-{number % 997}-{number}"
            name = f"{pair}_seed{number % 3}"
            target.append(
                Row(
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
    from bottega.quality.config import Thresholds
    from bottega.teacher.config import Ladder
    from bottega.teacher.ledger import Ledger

    made = rows(tries)
    with Ledger(folder / "ledger.sqlite") as ledger:
        teacher = {"ladder": Ladder().model_dump(mode="json")}
        ledger.hold_to("0" * 64, {"teacher": teacher, "thresholds": Thresholds().model_dump(mode="json")})
        for start in range(0, len(made), 1000):
            ledger.commit([row for target in made[start : start + 1000] for row in target])


def measured(words: list[str]) -> dict[str, float]:
    """One command as a whole process: seconds of the clock and of the processor, most megabytes, what it said."""
    begun = time.perf_counter()
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "bottega", *words],
        {**os.environ, "OMP_NUM_THREADS": "1"},
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, used = os.wait4(pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"bottega {' '.join(words)} ended with {os.waitstatus_to_exitcode(status)}")
    return {
        "seconds": time.perf_counter() - begun,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "megabytes": used.ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024),
    }


def commands(root: Path) -> dict[str, list[str]]:
    """What is timed: the command on the long and on the short ledger, with and without writing."""
    words = {
        name: ["qc", "grade", "--teacher-dir", str(root / name), "--thresholds", str(root / "limits.json")]
        for name in ("counts", "peer")
    }
    return {**words, "written": [*words["counts"], "--write"], "peer_written": [*words["peer"], "--write"]}


def main() -> int:
    """Measure, print, and return 1 where the claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--tries", type=int, default=TRIES, help="rows of the ledger")
    options = parser.parse_args()
    from bottega.quality.config import Thresholds

    runs: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, tries in (("kept", options.tries), ("peer", 10)):
            maker = get_context("spawn").Process(target=write_run, args=(root / name, tries))
            maker.start()  # a process of its own: a child's peak begins at what its parent holds
            maker.join()
            if maker.exitcode:
                raise SystemExit("the ledger could not be made")
        for repeat in range(REPEATS):
            shutil.copytree(root / "kept", root / "counts", dirs_exist_ok=True)  # each time from the same grades
            limits = Thresholds(edge_64_a=0.35 + 0.01 * repeat, content_sim_c=0.32)
            (root / "limits.json").write_text(limits.model_dump_json(), encoding="utf-8")
            for name, words in commands(root).items():
                runs.setdefault(name, []).append(measured(words))
    found = {name: {what: statistics.median(run[what] for run in of) for what in of[0]} for name, of in runs.items()}
    more = max(
        found[a]["megabytes"] - found[b]["megabytes"] for a, b in (("counts", "peer"), ("written", "peer_written"))
    )
    held = max(found["counts"]["seconds"], found["written"]["seconds"]) <= SECONDS and more <= MEGABYTES
    result: dict[str, Any] = {
        "claim": {"tries": options.tries, "seconds": SECONDS, "megabytes_above_peer": MEGABYTES},
        **found,
        "ratio": {
            n: found[n]["seconds"] / found[p]["seconds"] for n, p in (("counts", "peer"), ("written", "peer_written"))
        },
        "megabytes_above_peer": more,
        "held": held,
    }
    if options.json:
        print(json.dumps(result, indent=2))
        return 0 if held else 1
    print(
        f"claim: {options.tries:,} tries in {SECONDS:g} s and {MEGABYTES:g} MB above 10 tries, with and without --write"
    )
    for name, took in found.items():
        print(f"{name:13} {took['seconds']:6.2f} s ({took['cpu_seconds']:.2f} s of CPU) {took['megabytes']:6.0f} MB")
    ratio = result["ratio"]
    print(f"ratio to 10 tries: {ratio['counts']:.1f}, written {ratio['written']:.1f}; {more:.0f} MB more")
    print("held" if held else "MISSED")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
