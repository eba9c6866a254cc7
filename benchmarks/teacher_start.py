"""Claim: on 200,000 pairs of which 90 % are done the first picture comes, beyond loading, within three times the
processor's time of a plain reading of list and ledger, and in 300 MB.

python benchmarks/teacher_start.py [--full] [--json] [--pairs N] [--repeats N]

`bottega teach` on the miniature is started on the long list, whose first 180,000 targets stand in the ledger with their
pictures, and on a list of 64 pairs of which none is done: imports, loading and the first picture itself cost both the
same, so the difference of their times until the first new picture is what the length costs. Likewise the memory: the
most that each has held until two seconds later. Both are killed then, and take turns; compared are the medians. 20,000
contents and 2,000 styles are small files. The list and the ledger are made before, by the code of the stage itself. The
peer parses the list, selects the done targets and looks for their pictures, and checks nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
from common.bench import Arguments, conclude, cpu_seconds, run, say, start
from common.world import World, draw
from PIL import Image

RATIO, MEGABYTES = 3.0, 300.0
DONE = 0.9
CONTENTS, STYLES = 20_000, 2_000
SHORT = 64  # pairs of the list that shows the loading
AFTER = 2.0  # seconds of work after the first picture that memory is watched for
LINKS = 50_000  # hard links a file system allows one file, and some to spare
COMMIT = 5_000  # rows a transaction
LONGEST = 600.0
SETTINGS = {"size": 128, "steps": 5, "batch_size": 1, "max_retries": 0}


def write_data(root: Path, count: int) -> list[dict[str, Any]]:
    """Small contents and styles, each its own; the rows of the pair list: content i meets style 7 i + i div 20,000."""
    rng = np.random.default_rng(0)
    for kind, number in (("contents", CONTENTS), ("styles", STYLES)):
        (root / kind).mkdir(parents=True)
        for index in range(number):
            small = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(small).resize((32, 32)).save(root / kind / f"{index:06d}.png")
    return [pair(index) for index in range(count)]


def pair(index: int) -> dict[str, Any]:
    """Row `index` of the list."""
    content, style = index % CONTENTS, (7 * index + index // CONTENTS) % STYLES
    return {
        "pair_id": f"{content:06d}_style-{style:06d}",
        "content_id": f"{content:06d}",
        "content_path": f"contents/{content:06d}.png",
        "style_id": f"style-{style:06d}",
        "style_path": f"styles/{style:06d}.png",
        "style": f"style_{style % 27}",
        "prompt": f"a thing of kind {content % 500} on a table",
        "caption_index": 0,
        "seeds": [0],
        "split": "train",
    }


def fill(world: World, output: Path, pairs: list[dict[str, Any]], done: int) -> None:
    """Enter the first `done` targets in the ledger as the stage entered its first one, each with its picture."""
    from bottega.teacher.ledger import Ledger

    run([*world.teach(output, SETTINGS), "--limit", "1"], check=True, capture_output=True)
    with Ledger(output / "ledger.sqlite", must_exist=True) as ledger:
        [first] = ledger.best()
        picture = (output / str(first.output_path)).read_bytes()
        (output / "images").mkdir(exist_ok=True)
        for start in range(0, done, COMMIT):
            rows = [entered(world, ledger, first, row) for row in pairs[max(start, 1) : min(start + COMMIT, done)]]
            for number, row in enumerate(rows, start):
                link(output / "images", str(row.output_path), number, picture)
            ledger.commit(rows)


def entered(world: World, ledger: Any, first: Any, row: dict[str, Any]) -> Any:
    """The row of a done target."""
    target = f"{row['pair_id']}_seed0"
    names = {key: row[key] for key in ("pair_id", "content_id", "style_id", "style", "content_path", "style_path")}
    hashes = {f"{k}_sha256": ledger.file_hash(row[f"{k}_path"], world.data_root / row[f"{k}_path"]) for k in KINDS}
    graded = {"status": "ok", "grade": "B", "weight": 0.5, "output_path": f"images/{target}.png"}
    return replace(first, target=target, prompt=row["prompt"], **names, **hashes, **graded)


KINDS = ("content", "style")


def link(images: Path, path: str, number: int, picture: bytes) -> None:
    """A done target's picture: the same bytes under each name, a new file for each 50,000."""
    source = images.parent / f".source_{number // LINKS}.png"
    if not source.exists():
        source.write_bytes(picture)
    os.link(source, images.parent / path)


def started(world: World, output: Path, pairs: Path, undone: list[dict[str, Any]]) -> dict[str, float]:
    """Run until its first new picture and a little longer, then kill it.

    Raises:
        RuntimeError: it ended before, or no picture came.
    """
    waiting = [path for path in awaited(output, undone) if not path.exists()][: 2 * SHORT]
    log = output.with_suffix(".log")
    with log.open("w") as stream:
        begun = time.monotonic()
        running = start(world.teach(output, SETTINGS, pairs), stdout=stream, stderr=stream)
        try:
            found = watched(psutil.Process(running.pid), waiting, begun)
        except (psutil.NoSuchProcess, TimeoutError) as error:
            raise RuntimeError(f"no picture came ({error}): {log.read_text()[-2000:]}") from error
        finally:
            running.kill()
            running.wait()
    return found


def awaited(output: Path, undone: list[dict[str, Any]]) -> Iterator[Path]:
    """Where the next targets' pictures will stand."""
    for row in undone:
        for folder in ("images", "rejected"):
            yield output / folder / f"{row['pair_id']}_seed0.png"


def watched(process: psutil.Process, waiting: list[Path], begun: float) -> dict[str, float]:
    """Seconds, also of CPU, until the first of `waiting` is there, and the most MB held until a little later.

    CPU time tells a slow start from a busy machine.
    """
    peak, found = 0.0, {}
    while not found or time.monotonic() - begun < found["seconds"] + AFTER:
        peak = max(peak, process.memory_info().rss / 2**20)
        if process.status() == psutil.STATUS_ZOMBIE and not found:
            raise TimeoutError("it ended")
        if not found and any(path.exists() for path in waiting):
            spent = process.cpu_times()
            found = {"seconds": time.monotonic() - begun, "cpu_seconds": spent.user + spent.system}
        if time.monotonic() - begun > LONGEST:
            raise TimeoutError(f"after {LONGEST:g} s")
        time.sleep(0.02)
    return {**found, "megabytes": peak}


def measured(folder: Path, options: argparse.Namespace) -> tuple[dict[str, list[dict[str, float]]], float]:
    """Short list and long list in turn; and the CPU seconds of the peer."""
    say(f"{options.pairs:,} pairs")
    data = folder / "data"
    rows = write_data(data, options.pairs)
    small = draw(folder / "world", pairs=16, contents=32, paintings=48, truths=16)
    world = World(data, folder / "long.jsonl", small.thresholds, others=small.others)
    for path, part in ((world.pairs, rows), (folder / "short.jsonl", rows[-SHORT:])):
        path.write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    done = int(DONE * options.pairs)
    fill(world, folder / "long", rows, done)
    say(f"{done:,} targets entered")
    found: dict[str, list[dict[str, float]]] = {"short": [], "long": []}
    for number in range(options.repeats):
        short = started(world, folder / f"short_{number}", folder / "short.jsonl", rows[-SHORT:])
        long = started(world, folder / "long", world.pairs, rows[done:])
        say(f"turn {number + 1} of {options.repeats}: {short} {long}")
        found["short"].append(short)
        found["long"].append(long)
    peer = median(cpu_seconds(lambda: plain_reading(world, folder / "long")) for _ in range(3))
    return found, peer


def plain_reading(world: World, output: Path) -> None:
    """The peer: what a script must read before it knows what is left to do."""
    rows = [json.loads(line) for line in world.pairs.read_text(encoding="utf-8").splitlines()]
    with closing(sqlite3.connect(output / "ledger.sqlite")) as database:
        done = dict(database.execute("SELECT target, output_path FROM tries WHERE current"))
    there = {target for target, path in done.items() if path is not None and (output / path).is_file()}
    left = [row for row in rows if f"{row['pair_id']}_seed0" not in there]
    assert len(rows) > len(left) > 0


def main() -> int:
    """Measure both, print, and return 1 where the claim does not hold."""
    arguments = Arguments(__doc__)
    arguments.add_size("--pairs", short=40_000, full=200_000)
    arguments.add_size("--repeats", short=2, full=3)
    asked = arguments.parse()
    with tempfile.TemporaryDirectory() as temporary:
        runs, peer = measured(Path(temporary), asked)
    middle = {name: {k: round(median(run[k] for run in made), 2) for k in made[0]} for name, made in runs.items()}
    beyond = {key: round(middle["long"][key] - middle["short"][key], 2) for key in middle["long"]}
    ratio = beyond["cpu_seconds"] / peer
    held = ratio <= RATIO and beyond["megabytes"] <= MEGABYTES
    claim = {"pairs": asked.pairs, "done": DONE, "ratio": RATIO, "megabytes": MEGABYTES}
    result = {"claim": claim, **middle, "beyond": beyond, "peer_cpu_seconds": peer, "ratio": ratio, "runs": runs}
    lines = [
        f"claim: {asked.pairs:,} pairs, {DONE:.0%} done: beyond loading {RATIO:g} times a plain reading and "
        f"{MEGABYTES:g} MB"
    ]
    for name, took in (*middle.items(), ("beyond", beyond)):
        lines.append(
            f"{name:6} {took['seconds']:7.2f} s until the first picture ({took['cpu_seconds']:.2f} s of CPU), "
            f"{took['megabytes']:7.1f} MB"
        )
    lines.append(f"plain reading: {peer:.2f} s of CPU; ratio {ratio:.2f}")
    return conclude(asked, {**result, "held": held}, lines)


if __name__ == "__main__":
    sys.exit(main())
