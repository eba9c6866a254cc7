"""Claim: changing one warm LoRA for another is at least 5 times as fast as diffusers' unload and load from disk.

python benchmarks/lora_swap.py [--full] [--json]

Two random LoRAs of every attention projection, of the U-Net and both text encoders of the miniature's SDXL, take turns.
Ours: `LoRAManager.apply` of the other one, both files known. The peer, on modules of its own:
`unload_lora_weights`, then `load_lora_weights` of the other file, which is in the page cache. They take turns; what is
compared is the ratio of the medians of CPU time. At the end both must draw the same picture, to 1/255, with each LoRA.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common.bench import Arguments, conclude, cpu_seconds, say, verdict
from common.engines import SETTINGS, open_miniature, write_loras

from bottega.generation.engine import Pixels, SDXLEngine
from bottega.generation.records import LoRASpec
from bottega.generation.samplers import make_scheduler

BAR = 5.0


def swap_by_diffusers(pipeline: Any, file: Path) -> None:
    """Out with the old one, in with the new one."""
    pipeline.unload_lora_weights()
    pipeline.load_lora_weights(str(file), adapter_name="one")


def picture_by_diffusers(engine: SDXLEngine) -> Pixels:
    """What diffusers' pipeline draws with what is loaded."""
    engine.txt2img.scheduler = make_scheduler(SETTINGS.sampler, engine.modules.scheduler_config, "epsilon")
    drawn = engine.txt2img(
        prompt=SETTINGS.prompt,
        width=SETTINGS.width,
        height=SETTINGS.height,
        num_inference_steps=SETTINGS.steps,
        guidance_scale=SETTINGS.guidance_scale,
        generator=torch.Generator().manual_seed(SETTINGS.seed),
        output_type="np",
    ).images[0]
    pixels: Pixels = (drawn * 255).round().astype(np.uint8)
    return pixels


def main() -> int:
    """Measure both in turns; exit code 1 where ours is less than 5 times as fast."""
    parser = Arguments(__doc__)
    parser.add_size("--swaps", short=30, full=200, help="by each")
    parser.add_size("--rank", short=16, full=16, help="of both LoRAs")
    asked = parser.parse()
    with tempfile.TemporaryDirectory(prefix="bottega-lora-swap-") as folder:
        engine, peer = open_miniature(), open_miniature()
        files = write_loras(engine.modules, Path(folder), (asked.rank, asked.rank))
        for file in files:
            engine.loras.apply([LoRASpec(path=file)])
        peer.txt2img.load_lora_weights(str(files[1]), adapter_name="one")

        ours, theirs = [], []
        for number in range(asked.swaps):
            file = files[number % 2]
            ours.append(cpu_seconds(lambda file=file: engine.loras.apply([LoRASpec(path=file)])))
            theirs.append(cpu_seconds(lambda file=file: swap_by_diffusers(peer.txt2img, file)))
            if number % 10 == 0:
                say(f"swap {number} of {asked.swaps}")

        worst = 0
        drawn = []
        for file in files:
            swap_by_diffusers(peer.txt2img, file)
            drawn.append(engine.draw(SETTINGS, [LoRASpec(path=file)]).pixels[0])
            worst = max(worst, int(np.abs(drawn[-1].astype(int) - picture_by_diffusers(peer).astype(int)).max()))
        differ = not np.array_equal(drawn[0], drawn[1])

    own, other = statistics.median(ours), statistics.median(theirs)
    ratio = other / own
    held = ratio >= BAR and worst <= 1 and differ
    result = {
        "held": held,
        "ratio": round(ratio, 1),
        "ours_ms": round(1000 * own, 2),
        "diffusers_ms": round(1000 * other, 2),
        "largest_difference": worst,
        "the_two_draw_differently": differ,
        "swaps": asked.swaps,
    }
    lines = [
        f"a swap: ours {1000 * own:.1f} ms of CPU, diffusers' unload and load {1000 * other:.1f} ms",
        f"{ratio:.1f} times as fast; at least {BAR:g}  {verdict(ratio >= BAR)}",
        f"pictures differ by {worst}/255 at most; 1 is allowed  {verdict(worst <= 1 and differ)}",
    ]
    return conclude(asked, result, lines)


if __name__ == "__main__":
    sys.exit(main())
