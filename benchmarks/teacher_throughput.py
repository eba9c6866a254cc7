"""Claim: the teacher makes twice the accepted pictures per second of a plain loop over diffusers' pipeline.

python benchmarks/teacher_throughput.py [--full] [--json] [--pairs N] [--repeats N] [--batch-size 16] [--threads N]

The miniature on the CPU: SDXL's image-to-image pipeline with an IP-Adapter at a thousandth of the size, 128 px, 25
steps, strength 0.40, DDIM, and the guidance and IP-Adapter scale that recipes/miniature.yaml found for it (1.0 and
1.0; at the full models' 3.5 and 0.30 half of its pictures are rejected). Pairs as a recipe lists them: 48 of 32
contents and about as many paintings.

The peer is the loop that a competent person writes: open both pictures, call the pipeline with prompt, picture, style
picture and a generator of the picture's own, save the PNG. It is judged afterwards, by the same judge and limits. Our
side is the stage as a user runs it: its judging, retries, ledger, lists and contact sheet are in its time. Loading is
in neither. They take turns in one process; compared are the medians.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from common.bench import Arguments, conclude, say
from common.peer import plain_loop
from common.world import MINIATURE, World, draw

BAR = 2.0
WARM_UP = 8  # pairs, before anything is timed
CONTENTS, PAINTINGS = 32, 48


def own(world: World, folder: Path, batch_size: int, count: int) -> dict[str, float]:
    """The teacher stage, from the pair list to its contact sheet; what it says of itself."""
    from bottega.models.config import ModelsConfig
    from bottega.runtime.config import load_yaml
    from bottega.teacher.config import TeacherConfig
    from bottega.teacher.models import TeacherModels
    from bottega.teacher.stage import run

    config = TeacherConfig.model_validate({**MINIATURE, "seeds": [0], "batch_size": batch_size})
    models = ModelsConfig.model_validate(load_yaml(world.recipe)["models"])
    inputs = {"pairs": world.pairs, "data_root": world.data_root, "models": models, "thresholds": world.thresholds}
    loaded = TeacherModels(config, world.data_root, models)  # a new one each time: its caches know nothing
    for part in ("teacher", "judge"):
        getattr(loaded, part)  # loads it
    begun = time.perf_counter(), time.process_time()
    summary = run(config, folder, **inputs, limit=count, loaded=loaded)
    seconds, cpu = time.perf_counter() - begun[0], time.process_time() - begun[1]
    counts = {"pictures": summary["targets"], "tries": summary["tries"], "accepted": summary["accepted"]}
    return {"seconds": seconds, "cpu_seconds": cpu, **counts}


class Peer:
    """The plain loop, with its pipeline loaded once."""

    def __init__(self, world: World) -> None:
        from bottega.models.config import ModelsConfig
        from bottega.models.layout import locate
        from bottega.models.loading import load_teacher_pipeline
        from bottega.quality.measuring import Judge
        from bottega.quality.stage import load_encoder, load_thresholds
        from bottega.runtime.config import load_yaml
        from bottega.teacher.protocol import pin

        models = ModelsConfig.model_validate(load_yaml(world.recipe)["models"])
        self.world, self.limits = world, load_thresholds(world.thresholds)
        self.pipeline = load_teacher_pipeline(locate(models, "sdxl"), locate(models, "ip_adapter"), device="cpu")
        pin(self.pipeline)  # the same sampler, so that the same work is compared
        self.judge = Judge(load_encoder(models))

    def run(self, folder: Path, count: int) -> dict[str, float]:
        """Make `count` pictures, then judge them."""
        pairs = self.world.read_pairs(count)
        begun = time.perf_counter(), time.process_time()
        plain_loop(self.pipeline, pairs, self.world.data_root, folder, MINIATURE)
        seconds, cpu = time.perf_counter() - begun[0], time.process_time() - begun[1]
        accepted = sum(self.accepted(pair, folder) for pair in pairs)
        return {"seconds": seconds, "cpu_seconds": cpu, "pictures": len(pairs), "accepted": accepted}

    def accepted(self, pair: dict[str, Any], folder: Path) -> bool:
        """Whether the judge lets a picture pass."""
        from bottega.data.pictures import load_square
        from bottega.quality.grading import grade

        paths = (folder / f"{pair['pair_id']}_seed0.png", *(self.world.data_root / pair[k] for k in INPUTS))
        picture, content, style = (load_square(path, int(MINIATURE["size"])) for path in paths)
        scores = self.judge.measure([picture], [content], [style], round_trips=[self.round_trip(content)])[0]
        return grade(scores, self.limits).letter != "C"

    def round_trip(self, content: Any) -> Any:
        """The content after the autoencoder alone: the judge compares with it what changed."""
        import numpy as np
        import torch

        vae = self.pipeline.vae
        pixels = torch.from_numpy(content.astype(np.float32) / 255).permute(2, 0, 1)[None] * 2 - 1  # [1, 3, H, W]
        with torch.no_grad():
            decoded = vae.decode(vae.encode(pixels).latents).sample[0] * 0.5 + 0.5
        return np.rint(decoded.clamp(0, 1).permute(1, 2, 0).numpy() * 255).astype(np.uint8)


INPUTS = ("content_path", "style_path")


def measured(world: World, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Both in turn, `--repeats` times."""
    peer, runs = Peer(world), {"own": [], "peer": []}
    for number in range(options.repeats + 1):
        count = options.pairs if number else WARM_UP
        made = own(world, folder / f"own_{number}", options.batch_size, count)
        theirs = peer.run(folder / f"peer_{number}", count)
        if number:
            runs["own"].append(made)
            runs["peer"].append(theirs)
            say(f"turn {number} of {options.repeats}: {rate(made):.2f} and {rate(theirs):.2f} accepted/s")
    return {name: {key: median(run[key] for run in made) for key in made[0]} for name, made in runs.items()} | {
        "rates": {name: [round(rate(run), 3) for run in made] for name, made in runs.items()}
    }


def rate(run: dict[str, float]) -> float:
    """Accepted pictures per second."""
    return run["accepted"] / run["seconds"]


def main() -> int:
    """Measure both, print, and return 1 where the claim does not hold."""
    arguments = Arguments(__doc__)
    arguments.add_size("--pairs", short=24, full=48)
    arguments.add_size("--repeats", short=3, full=5)
    arguments.add_argument("--batch-size", type=int, default=16, help="of our side; the peer calls picture by picture")
    arguments.add_argument("--threads", type=int, help="of torch, on both sides; without it torch's own choice")
    asked = arguments.parse()
    import torch

    if asked.threads:
        torch.set_num_threads(asked.threads)
    logging.disable(logging.WARNING)  # the miniature's grades are not what is asked here
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        say("drawing the world")
        world = draw(folder / "world", pairs=asked.pairs, contents=CONTENTS, paintings=PAINTINGS, truths=48)
        found = measured(world, folder, asked)
    rates = {name: median(values) for name, values in found["rates"].items()}
    ratio = rates["own"] / rates["peer"]
    setting = {"pairs": asked.pairs, "batch_size": asked.batch_size, "threads": torch.get_num_threads()}
    result = {"claim": {"ratio": BAR}, **setting, **found, "ratio": ratio, "held": ratio >= BAR}
    lines = [f"claim: {BAR:g} x the accepted pictures per second of a plain loop; {setting}"]
    for name in ("own", "peer"):
        took = found[name]
        lines.append(
            f"{name:5} {rates[name]:6.2f} accepted/s: {took['accepted']:.0f} of {took['pictures']:.0f} in "
            f"{took['seconds']:.2f} s ({took['cpu_seconds']:.2f} s of CPU)"
        )
    return conclude(asked, result, [*lines, f"ratio {ratio:6.2f}"])


if __name__ == "__main__":
    sys.exit(main())
