"""Claim: every input as people have it, of data sets, models and logs, ends in the right result or is refused with exit
status 2 and a cure that works; no input leads to an unexpected error, nothing is deleted, and nothing outside the
command's own folders is written.

python benchmarks/field_inputs.py [--full] [--json] [--rounds N] [--only NAME]

The inputs are built by rule (`tests/field`): layouts, encodings, slips and damages, in drawn pictures, links to the
miniature's weights and made-up losses. Each goes through the documented command, and where the command refuses it, its
advice is followed. Files around each case's folders, and the input itself, are compared before and after. There is no
peer: no other tool reads all of these.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from common.bench import Arguments, conclude, say

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.field import data, logs, models
from tests.field.case import FieldCase, run_case

KINDS: dict[str, tuple[FieldCase, ...]] = {"data": data.CASES, "models": models.CASES, "logs": logs.CASES}


def main() -> int:
    """Run every case, print what was wrong, and return 1 where anything was."""
    arguments = Arguments(__doc__)
    arguments.add_size("--rounds", short=1, full=3, help="how often each case is built and run")
    arguments.add_argument("--only", help="cases whose names hold this text")
    asked = arguments.parse()
    faults: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["HF_HUB_CACHE"] = str(Path(temporary) / "hub")  # a machine's own models must not help
        for kind, cases in KINDS.items():
            chosen = [case for case in cases if asked.only is None or asked.only in case.name]
            counts[kind] = len(chosen)
            for number in range(asked.rounds):
                for case in chosen:
                    found = run_case(case, Path(temporary) / f"{kind}-{number}-{case.name}")
                    if found:
                        faults[f"{kind}/{case.name}"] = found
                say(f"{kind}: {len(chosen)} cases, round {number + 1}")
    lines = [f"{sum(counts.values())} cases, {counts}, {asked.rounds} rounds: {len(faults)} wrong"]
    for name, found in faults.items():
        lines += [f"  {name}: {fault}" for fault in found]
    return conclude(asked, {"cases": counts, "rounds": asked.rounds, "faults": faults, "held": not faults}, lines)


if __name__ == "__main__":
    sys.exit(main())
