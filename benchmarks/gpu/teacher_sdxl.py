"""Claim: on a GPU, SDXL at full size, the teacher makes 3 x the pictures per second of a plain loop over diffusers.

python benchmarks/gpu/teacher_sdxl.py [--json] [--pictures 96] [--repeats 2] [--batch-size 8] [--dtypes bfloat16]
python benchmarks/gpu/teacher_sdxl.py --tiny        (the same way on the CPU with the miniature: proves the script)

SDXL base, a plain IP-Adapter with ViT-bigG, the autoencoder and the judge's CLIP have their published sizes and random
weights, which serve for speed: 512 px, the protocol `stabilised` (10 U-Net calls with guidance). Ours is the stage as a
user runs it, with judging, ledger, lists and contact sheet, but without retries, for random weights make no picture
that passes. The peer is a loop that calls the pipeline picture by picture in the same dtype, with SDPA, and saves PNGs;
it judges nothing. Loading is in neither time, and a warm-up with other pictures comes
before both. Each measurement is a process of its own; they
take turns, and medians are compared. Beside it: peak memory of the device, and the share of the time that the U-Net
runs. The result is written, dated, to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from common.peer import plain_loop
from common.world import STABILISED, at, draw

BAR = 3.0
WARM_UP = 12  # pictures of other contents and styles than those that count
RESULTS = Path(__file__).parents[1] / "results"
WEIGHTS = "bottega:miniature/weights"


class Clock:
    """How long the U-Net ran, and how many rows it was given; by the device's own clock where there is one."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.spans: list[list[Any]] = []
        self.rows = 0

    def reset(self) -> Clock:
        """Forget what was counted, and go on watching."""
        self.spans, self.rows = [], 0
        return self

    def watch(self, unet: Any) -> None:
        """Time each call."""

        def begin(_: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
            self.rows += len(args[0] if args else options["sample"])
            self.spans.append([self._now()])

        unet.register_forward_pre_hook(begin, with_kwargs=True)
        unet.register_forward_hook(lambda *_: self.spans[-1].append(self._now()))

    def seconds(self) -> float:
        """In all calls."""
        import torch

        if self.device == "cpu":
            return float(sum(end - start for start, end in self.spans))
        torch.cuda.synchronize()
        return float(sum(start.elapsed_time(end) for start, end in self.spans)) / 1000

    def _now(self) -> Any:
        import torch

        if self.device == "cpu":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class Bench:
    """Measurements in one dtype, in this process."""

    def __init__(self, options: argparse.Namespace) -> None:
        import torch

        from bottega.models.loading import load_teacher_pipeline

        self.options, self.tiny, self.folder = options, options.tiny, Path(options.folder)
        self.world = at(self.folder / "world")
        self.device = "cpu" if self.tiny else "cuda"
        self.dtype: Any = getattr(torch, options.dtypes)
        self.settings = {**STABILISED, "size": 128 if self.tiny else 512}
        self.clock = Clock(self.device)
        self._load = load_teacher_pipeline  # before it is replaced
        self._models: Any = None
        self._pipeline: Any = None

    def pipeline(self, *_: Any, **__: Any) -> Any:
        """A new pipeline, the clock on its U-Net; takes the place of `load_teacher_pipeline`."""
        import torch

        from bottega.models.names import resolve

        torch.manual_seed(0)
        weights = resolve(WEIGHTS)
        if self.tiny:
            made = self._load(weights / "sdxl", weights / "ip_adapter", dtype=self.dtype, device=self.device)
        else:
            from common import random_sdxl

            made = random_sdxl.pipeline(self.device, self.dtype, weights / "sdxl")
        self.clock.watch(made.unet)
        return made

    def own(self, name: str, pairs: Path, count: int) -> float:
        """Seconds that the stage takes for `count` pairs; teacher and judge are loaded once."""
        from bottega.models import loading
        from bottega.models.config import ModelsConfig
        from bottega.teacher.config import TeacherConfig
        from bottega.teacher.models import TeacherModels
        from bottega.teacher.stage import run

        batch = self.options.batch_size
        kept = {"seeds": [0], "quality_filter": False, "batch_size": int(batch) if batch.isdigit() else batch}
        config = TeacherConfig.model_validate({**self.settings, **kept})
        models = ModelsConfig(
            sdxl=f"{WEIGHTS}/sdxl",  # for the fingerprint alone: what is loaded is `pipeline`
            ip_adapter=f"{WEIGHTS}/ip_adapter",
            clip=f"{WEIGHTS}/clip" if self.tiny else str(self.folder / "judge"),
            device=self.device,
            dtype=self.options.dtypes,
        )
        if self._models is None:
            loading.load_teacher_pipeline = self.pipeline
            self._models = TeacherModels(config, self.world.data_root, models)
            for part in ("teacher", "judge"):
                getattr(self._models, part)  # loads it
        inputs = {"pairs": pairs, "data_root": self.world.data_root, "thresholds": self.world.thresholds}
        begun = time.perf_counter()
        summary = run(config, self.folder / name, **inputs, models=models, limit=count, loaded=self._models)
        seconds = time.perf_counter() - begun
        if summary["tries"] != count or summary["made"] + summary["failed"] != count:
            raise RuntimeError(f"{count} pictures were asked for, the stage says {summary}")
        return seconds

    def peer(self, name: str, pairs: Path, count: int) -> float:
        """Seconds that the plain loop takes for them; the pipeline is loaded once."""
        from bottega.teacher.protocol import pin

        if self._pipeline is None:
            self._pipeline = self.pipeline()
            pin(self._pipeline)
        rows = replace(self.world, pairs=pairs).read_pairs(count)
        begun = time.perf_counter()
        plain_loop(self._pipeline, rows, self.world.data_root, self.folder / name, self.settings)
        return time.perf_counter() - begun

    def measured(self, method: str) -> dict[str, float]:
        """One method, after a warm-up."""
        import torch

        run, name = {"own": self.own, "peer": self.peer}[method], tempfile.mkdtemp(dir=self.folder)
        run(f"{name}/warm_up", self.world.others, WARM_UP)
        gc.collect()
        if self.device != "cpu":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        self.clock.reset()
        seconds, count = run(f"{name}/run", self.world.pairs, self.options.pictures), self.options.pictures
        peak = torch.cuda.max_memory_allocated() / 2**20 if self.device != "cpu" else 0.0
        return {
            "seconds": seconds,
            "pictures_per_second": count / seconds,
            "unet_share": self.clock.seconds() / seconds,
            "unet_rows_per_picture": self.clock.rows / count,
            "peak_device_mb": peak,
        }


def in_turn(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """dtype -> method -> medians over the repeats, and their ratio; each measurement in a process of its own."""
    found: dict[str, Any] = {}
    for dtype in options.dtypes.split(","):
        runs: dict[str, list[dict[str, float]]] = {"own": [], "peer": []}
        for _ in range(options.repeats):
            for method, made in runs.items():
                words = [sys.executable, __file__, "--method", method, "--folder", str(folder), "--dtypes", dtype]
                words += ["--tiny"] * options.tiny + ["--batch-size", options.batch_size]
                words += ["--pictures", str(options.pictures)]
                answer = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
                made.append(json.loads(answer.splitlines()[-1]))
                print(f"{dtype} {method}: {made[-1]}", file=sys.stderr)
        middle = {name: {key: median(run[key] for run in made) for key in made[0]} for name, made in runs.items()}
        rows = [middle[name]["unet_rows_per_picture"] for name in ("own", "peer")]
        if rows[0] != rows[1]:
            raise RuntimeError(f"the two did different work: {rows} rows of the U-Net a picture")
        ratio = middle["own"]["pictures_per_second"] / middle["peer"]["pictures_per_second"]
        found[dtype] = {**middle, "ratio": ratio, "held": ratio >= BAR}
    return found


def machine() -> dict[str, Any]:
    """What this ran on."""
    import diffusers
    import torch
    import transformers

    libraries = {module.__name__: module.__version__ for module in (torch, diffusers, transformers)}
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"device": name, **libraries}


def arguments() -> argparse.Namespace:
    """The command line; `--tiny` has sizes of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--tiny", action="store_true", help="the miniature on the CPU; nothing is claimed or written")
    parser.add_argument("--pictures", type=int)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--batch-size", default="8", help="of our side; the peer calls picture by picture")
    parser.add_argument("--dtypes", help="in which it is measured, separated by commas")
    parser.add_argument("--method", choices=("own", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = {"pictures": (96, 8), "repeats": (2, 1), "dtypes": ("bfloat16,float16", "float32")}
    for key, (full, tiny) in sizes.items():
        if getattr(options, key) is None:
            setattr(options, key, tiny if options.tiny else full)
    return options


def prepared(folder: Path, options: argparse.Namespace) -> None:
    """Draw the world and write the judge."""
    draw(folder / "world", pairs=options.pictures, contents=64, paintings=72, truths=16)
    if not options.tiny:
        from common.random_sdxl import write_judge

        from bottega.models.names import resolve

        write_judge(folder / "judge", resolve(f"{WEIGHTS}/clip"), "cuda")


def main() -> int:
    """Measure, print, write, and return 1 where the claim does not hold."""
    options = arguments()
    if options.method:
        print(json.dumps(Bench(options).measured(options.method)))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        prepared(Path(temporary), options)
        found = in_turn(Path(temporary), options)
    held = all(one["held"] for one in found.values())
    setting = {"pictures": options.pictures, "repeats": options.repeats, "batch_size": options.batch_size}
    result = {"claim": {"ratio": BAR}, "machine": machine(), **setting, "dtypes": found, "held": held}
    text = json.dumps(result, indent=2)
    if not options.tiny:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-teacher_sdxl.json").write_text(text + "\n", encoding="utf-8")
    if options.json:
        print(text)
        return 0 if held or options.tiny else 1
    print(f"claim: {BAR:g} x the pictures per second of a plain loop; {result['machine']}, {setting}")
    for dtype, one in found.items():
        for name in ("own", "peer"):
            took = one[name]
            print(
                f"{dtype} {name:5} {took['pictures_per_second']:6.2f} pictures/s, U-Net {took['unet_share']:.0%} of "
                f"the time, at most {took['peak_device_mb']:.0f} MB on the device"
            )
        print(f"{dtype} ratio {one['ratio']:6.2f}: {'held' if one['held'] else 'MISSED'}")
    return 0 if held or options.tiny else 1


if __name__ == "__main__":
    sys.exit(main())
