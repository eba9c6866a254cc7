"""Claim: an evaluation's memory does not grow with its pictures, and a stopped one measures nothing again.

python benchmarks/evaluation_memory.py [--full] [--json]

Measured are three rows that no network draws (content, style picture, colour transfer) of a crossed grid, by all of
the miniature's judges, in a process of its own: its resident memory after each sixteen pairs. What may grow is the
record of each picture, about 2 kB, from which the tables are made at the end; pictures and features must not stay. The
process is stopped by SIGTERM after a third of the pictures and called again: the lines that it had written stay as they
are, and no picture has two. The peer is the memory itself, after the first fifth.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common.bench import Arguments, bottega, conclude, say, start

from bottega.runtime.errors import Interrupted

RECIPE = Path(__file__).parents[1] / "recipes" / "miniature_quick.yaml"
ROWS = ("content", "style", "colours")
BAR_KB = 4.0
"""Growth a picture: 40 MB for 10 000, where their pixels alone would take 490 MB."""


def measure(run: Path, output: Path) -> None:
    """In the measuring process: measure all pairs, and write the memory after each chunk."""
    from bottega.cli.common import open_pipeline, read_size
    from bottega.data.records import read_pairs
    from bottega.evaluation.grid import Grid
    from bottega.evaluation.networks import load_networks
    from bottega.evaluation.scoring import measure_all
    from bottega.evaluation.sources import Sources
    from bottega.runtime import progress
    from bottega.runtime.memory import rss_mb

    pipeline = open_pipeline(run, None, read_size(None, None), None)
    config = pipeline.recipe.evaluation.model_copy(update={"rows": ROWS})
    memory: list[tuple[int, float]] = []
    plain = progress.Progress.update

    def update(self: progress.Progress, n: int = 1, **counts: float) -> None:
        plain(self, n, **counts)
        memory.append((self.done, rss_mb()))

    progress.Progress.update = update  # type: ignore[method-assign]
    grid = Grid.of(read_pairs(run / "pairs" / "test.jsonl"))
    sources = Sources(pipeline.recipe.data_root(run), 128, 2)
    networks = load_networks(pipeline.recipe.models)
    try:
        measure_all(grid, {}, config, sources, networks, output / "measured.jsonl")
    finally:
        (output / "memory.json").write_text(json.dumps(memory), encoding="utf-8")


def lines_of(file: Path) -> list[bytes]:
    """The lines that were written whole."""
    if not file.is_file():
        return []
    return [line for line in file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def main() -> int:
    """Measure, stop, go on, print, and return 1 where the claim does not hold."""
    if sys.argv[1:2] == ["--measure"]:
        try:
            measure(Path(sys.argv[2]), Path(sys.argv[3]))
        except Interrupted:
            return 1  # as it was asked to
        return 0
    arguments = Arguments(__doc__)
    arguments.add_size("--side", short=24, full=58, help="contents, and styles, of the grid")
    asked = arguments.parse()
    pictures = len(ROWS) * asked.side**2
    with tempfile.TemporaryDirectory(prefix="bottega-bench-") as made:
        folder = Path(made)
        run, output = folder / "run", folder / "out"
        output.mkdir()
        say(f"drawing {asked.side} contents and {asked.side} painters")
        settings = {
            "world.contents_val": 3 * asked.side + 8,
            "world.painters": 4 * asked.side,
            "pairs.crossed": f"[{asked.side}, {asked.side}]",
        }
        words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        bottega("run", str(RECIPE), "--until", "pairs", "--directory", str(run), *words)

        say(f"measuring {pictures} pictures, to be stopped after a third")
        command = [sys.executable, __file__, "--measure", str(run), str(output)]
        kept = output / "measured.jsonl"
        first = start(command)
        while first.poll() is None and len(lines_of(kept)) < pictures / 3:
            time.sleep(0.5)
        first.send_signal(signal.SIGTERM)
        first.wait()
        before = lines_of(kept)
        say(f"stopped with {len(before)} pictures measured; going on")
        second = start(command)
        if second.wait() != 0:
            raise SystemExit(f"measuring ended with {second.returncode}")
        after = lines_of(kept)
        memory = json.loads((output / "memory.json").read_text(encoding="utf-8"))
    records = [json.loads(line) for line in after]
    again = len(records) - len({(record["pair_id"], record["row"]) for record in records})
    resumed = 0 < len(before) < pictures and after[: len(before)] == before and again == 0 and len(after) == pictures
    # Of what the second call itself measured: what it found measured passes in a moment.
    own = [(done * len(ROWS), rss) for done, rss in memory if done * len(ROWS) > len(before)]
    warm = own[len(own) // 5 :]
    measured, rss = np.array(warm).T
    slope_kb = 1024 * float(np.polyfit(measured, rss, 1)[0])
    held = resumed and slope_kb <= BAR_KB
    result = {
        "claim": {"growth_kb_a_picture": BAR_KB, "measured_again": 0},
        "pictures": pictures,
        "stopped_after": len(before),
        "measured_again": again,
        "growth_kb_a_picture": round(slope_kb, 3),
        "rss_mb": {"after_a_fifth": round(float(rss[0]), 1), "at_the_end": round(float(rss[-1]), 1)},
        "held": held,
    }
    lines = [
        f"claim: memory grows by at most {BAR_KB:g} kB a picture, and a stopped evaluation measures nothing again",
        f"{pictures} pictures, stopped after {len(before)}: {again} measured again, earlier lines kept: {resumed}",
        f"memory {rss[0]:.0f} MB after a fifth, {rss[-1]:.0f} MB at the end: {slope_kb:.2f} kB a picture",
    ]
    return conclude(asked, result, lines)


if __name__ == "__main__":
    sys.exit(main())
