"""Claim: the memory that `bottega plan` forecasts for a GPU is within 15 % of what a rehearsal measures there.

python benchmarks/gpu/rehearsal.py --models DIR [--json]        DIR is made by `bottega models rehearse --output DIR`
python benchmarks/gpu/rehearsal.py --models DIR --scale reduced  (the same way without a GPU: proves the script)

Walks recipes/sdxl_pixart.yaml with `bottega rehearse`: every precision and memory option of the teacher, features with
T5-XXL, training with a resume and with checkpointing, stylise, generate, evaluation. For each step the largest GPU
memory beyond what was in use before, CUDA's context included, is compared with the forecast. No peer exists. The result
is written, dated, to benchmarks/results/. It has not been run on a GPU yet.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "sdxl_pixart.yaml"
RESULTS = Path(__file__).parents[1] / "results"
BAR = 0.15
"""Largest difference of a forecast from what was measured, a share of that."""


def main() -> int:
    """Rehearse, compare, write; 1 where a step failed or a forecast is too far off."""
    options = _options()
    if not options.models.is_dir():
        _bottega("models", "rehearse", "--output", str(options.models), "--scale", options.scale)
    with tempfile.TemporaryDirectory(prefix="bottega-") as folder:
        directory = Path(folder) / "run"
        _bottega("rehearse", str(RECIPE), "--directory", str(directory), "--models", str(options.models), failing=True)
        found = json.loads((directory / "rehearsal.json").read_text(encoding="utf-8"))
    rows = [_row(step) for step in found["steps"]]
    result = {"claim": __doc__.splitlines()[0], "steps": rows, "machine": found["machine"], "bar": BAR}
    passed = all(row["status"] in ("done", "refused") for row in rows)
    passed = passed and all(abs(row["off"]) <= BAR for row in rows if row["off"] is not None)
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        for row in rows:
            print(f"{row['name']:<34} {row['status']:<8} {row['measured_mb']!s:>9} MiB of {row['forecast_mb']!s:>9}")
    if options.scale == "full" and any(row["measured_mb"] for row in rows):
        name = f"{datetime.now(UTC):%Y-%m-%d}-gpu-rehearsal.json"
        (RESULTS / name).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0 if passed else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True, help="folder of the models; made where it is absent")
    parser.add_argument("--scale", choices=("full", "reduced"), default="full", help="of models that are made")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser.parse_args()


def _bottega(*words: str, failing: bool = False) -> None:
    """Run a command; one that may fail leaves its result, which says what failed."""
    done = subprocess.run([sys.executable, "-m", "bottega", *words], stdout=sys.stderr, check=not failing)
    if done.returncode not in (0, 1):
        raise SystemExit(done.returncode)


def _row(step: dict[str, object]) -> dict[str, object]:
    """A step: GPU memory where there is a GPU, else the process's own."""
    kind = "vram" if step["peak_vram_mb"] is not None else "rss"
    measured, forecast = step[f"peak_{kind}_mb"], step[f"forecast_{kind}_mb"]
    off = None
    if step["status"] == "done" and isinstance(measured, float) and isinstance(forecast, float) and measured:
        off = round(forecast / measured - 1, 3)
    return {
        "name": step["name"],
        "status": step["status"],
        "error": step["error"],
        "seconds": step["seconds"],
        "measured_mb": measured,
        "forecast_mb": forecast,
        "off": off,
    }


if __name__ == "__main__":
    sys.exit(main())
