"""Claim: no request crashes, nothing is changed in silence, no picture has other values than its metadata says.

python benchmarks/fuzzed_requests.py [--full] [--json]

`common/fuzz.py` makes random requests: fields left out, at their borders, beyond them, of wrong types, NaN; prompts
with brackets, LoRA tags, lines that look like metadata, control and foreign characters; files that are broken or
absent. All go through validation and the guardrails of a random profile into a PNG and are read back, from both of its
chunks. Some, small ones, go through the engine of the miniature's SDXL too: their pictures are made again from their
own files, and must be the same bit for bit. A refusal by one of bottega's errors is right; any other error, any value
that differs from the one asked for without a correction that says both, and any value in the file that was not used, is
a fault. There is no peer.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from common.bench import Arguments, conclude, say, verdict
from common.fuzz import fuzzed, open_world, try_drawing, try_request

from bottega.runtime.seeds import numpy_rng


def main() -> int:
    """Try all requests; exit code 1 where one is treated wrong."""
    parser = Arguments(__doc__)
    parser.add_size("--requests", short=1_000, full=10_000)
    parser.add_size("--drawn", short=40, full=400, help="further requests, which are drawn")
    asked = parser.parse()
    wrong: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory(prefix="bottega-fuzzed-") as temporary:
        folder = Path(temporary)
        world = open_world(folder / "files")
        for number in range(asked.requests):
            rng = numpy_rng("fuzzed request", number)
            raw = fuzzed(rng, world)
            profile = world.profiles[int(rng.integers(len(world.profiles)))]
            found = try_request(raw, world, folder / "picture.png", profile)
            if found:
                wrong[f"request {number} ({profile.name}): {raw}"] = found
            if number % 500 == 0:
                say(f"{number} of {asked.requests} requests, {len(wrong)} wrong")
        for number in range(asked.drawn):
            raw = fuzzed(numpy_rng("fuzzed drawing", number), world, small=True)
            found = try_drawing(raw, world, folder / "drawn.png")
            if found:
                wrong[f"drawing {number}: {raw}"] = found
            if number % 20 == 0:
                say(f"{number} of {asked.drawn} drawings, {len(wrong)} wrong")

    total = asked.requests + asked.drawn
    refused = sum(count for what, count in world.done.items() if "refused" in what)
    drawn = world.done.get("drawn", 0)
    lines = [f"{found[0]}\n    {raw[:300]}" for raw, found in list(wrong.items())[:20]]
    lines += [
        f"{total} requests, {refused} refused, {drawn} pictures drawn and made again from their files",
        f"{len(wrong)} treated wrong  {verdict(not wrong)}",
    ]
    result = {"held": not wrong, "requests": total, "done": world.done, "wrong": wrong}
    return conclude(asked, result, lines)


if __name__ == "__main__":
    sys.exit(main())
