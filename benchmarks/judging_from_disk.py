"""Claim: pictures on disk are judged twice as fast as by cleanvision's dark, light, low-information and blur checks.

python benchmarks/judging_from_disk.py [--full] [--json] [--pairs N] [--repeats N]

Both read the same pictures of 512 px, 1,200 of them with --full, from the same paths, once as PNG (450 KB) and once as
JPEG (quality 95), with Pillow as decoder, with one process and with two; repeats by turns, each in a process of its
own, files in the page cache, imports not timed, worker processes' start timed. The median counts.

Ours (`bottega.quality.scan.scan`) includes all that a user waits for but CLIP: the target, its content (a JPEG of
640 x 480) and its style (a JPEG of 768 x 768) decoded and brought to 512 px, all scores, grades, and the file of rows
written and synced. As in a run of the protocol each content has three targets (seeds 0, 1, 2); a style serves
ten pairs. `alone` is the hardest case, told and not part of the claim: one target a content and style.

cleanvision is installed into a temporary folder where it is missing, without torch, for this measurement only.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from common.bench import Arguments, conclude, in_own_process, run, say

FACTOR, PAIRS, SEEDS, STYLE_SERVES, REPEATS = 2.0, 400, 3, 10, 3
PINNED = (
    "cleanvision==0.3.6", "imagehash==4.3.2", "pandas==2.3.3", "python-dateutil==2.9.0.post0", "pytz==2025.2",
    "PyWavelets==1.9.0", "six==1.17.0", "tabulate==0.9.0", "tzdata==2025.2",
)  # fmt: skip
CHECKS = ("dark", "light", "low_information", "blurry")


def write_world(root: Path, pairs: int) -> None:
    """Drawn contents, styles and targets with the grain of a photograph, so that they weigh what SDXL's do."""
    import numpy as np
    from PIL import Image

    from bottega.miniature.world import painter, render, scene

    def save(path: Path, picture: np.ndarray, seed: int, **how: int) -> None:
        grain = np.random.default_rng(seed).normal(0, 4, picture.shape)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(picture + grain, 0, 255).astype(np.uint8)).save(path, **how)

    styles = -(-pairs // STYLE_SERVES)
    for j in range(styles):
        save(root / f"styles/p{j}.jpg", render(scene(900 + j), painter(j), 1, size=768), j, quality=90)
    for first in range(0, pairs, 4):  # one drawing serves four pairs, turned
        view, by = scene(100 + first), painter(first % styles)
        content, truth = render(view, None, size=640)[80:560], render(view, by, 0, size=512)
        for turn in range(min(4, pairs - first)):
            name = f"{first + turn:06d}_p{(first + turn) % styles}"
            mirrored = [p[:: 1 - 2 * (turn & 1), :: 1 - (turn & 2)] for p in (content, truth)]
            save(root / f"contents/{name.split('_')[0]}.jpg", mirrored[0], first + turn, quality=90)
            for seed in range(SEEDS):
                noise = 10_000 + SEEDS * (first + turn) + seed
                save(root / f"png/{name}_seed{seed}.png", mirrored[1], noise, compress_level=4)
                save(root / f"jpeg/{name}_seed{seed}.jpg", mirrored[1], noise, quality=95)


def files(root: Path, kind: str, *, alone: bool) -> list[Path]:
    """The pictures to judge, read once so that they lie in the page cache."""
    found = sorted((root / kind).iterdir())
    found = [file for file in found if "_seed0" in file.name] if alone else found
    for file in (*found, *(root / "contents").iterdir(), *(root / "styles").iterdir()):
        file.read_bytes()
    return found


def own(root: Path, kind: str, processes: int, *, alone: bool) -> float:
    """Pictures a second of bottega."""
    from bottega.quality.config import Thresholds
    from bottega.quality.scan import scan
    from bottega.quality.scorer import Job

    jobs = []
    for number, file in enumerate(files(root, kind, alone=alone)):
        content, style, _ = file.stem.split("_")
        path = str(root / f"styles/{style}.jpg")
        if alone:  # one style under as many names as there are pictures
            path = str(root / f"alone/{number}.jpg")
            Path(path).parent.mkdir(exist_ok=True)
            if not Path(path).exists():
                os.link(root / f"styles/{style}.jpg", path)
        jobs.append(Job(file.name, str(file), str(root / f"contents/{content}.jpg"), path))
    begun = time.perf_counter()
    told = scan(jobs, Thresholds(), root / f"{kind}.jsonl", processes=processes)
    seconds = time.perf_counter() - begun
    if told["unreadable"] or told["pictures"] != len(jobs):
        raise SystemExit(f"not every picture was judged: {told}")
    return len(jobs) / seconds


def peer(root: Path, kind: str, processes: int, *, alone: bool) -> float:
    """Pictures a second of cleanvision."""
    from cleanvision import Imagelab

    found = files(root, kind, alone=alone)
    with contextlib.redirect_stdout(sys.stderr):
        lab = Imagelab(filepaths=[str(file) for file in found])
        begun = time.perf_counter()
        lab.find_issues({check: {} for check in CHECKS}, n_jobs=processes, verbose=False)
        seconds = time.perf_counter() - begun
    if len(lab.issues) != len(found):
        raise SystemExit(f"cleanvision judged {len(lab.issues)} of {len(found)} pictures")
    return len(found) / seconds


def measured(method: str, root: Path, kind: str, processes: int, site: Path, *, alone: bool = False) -> float:
    """One measurement in a process of its own."""
    words = [__file__, "--method", method, "--root", str(root), "--kind", kind]
    words += ["--processes", str(processes), *(["--alone"] if alone else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(site)}
    return float(in_own_process(words[0], *words[1:], env=environment))


def install_peer(site: Path) -> None:
    """cleanvision and what it needs beyond bottega's own dependencies; nothing else is looked up."""
    if importlib.util.find_spec("cleanvision") is None:
        words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), *PINNED]
        run(words, check=True, stdout=sys.stderr)


def main() -> int:
    """Measure both, print, and return 1 where the claim does not hold."""
    arguments = Arguments(__doc__)
    arguments.add_size("--pairs", short=80, full=400, help="contents, with three targets each")
    arguments.add_size("--repeats", short=2, full=3)
    arguments.add_argument("--method", choices=("own", "peer"), help=argparse.SUPPRESS)
    arguments.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    arguments.add_argument("--kind", help=argparse.SUPPRESS)
    arguments.add_argument("--processes", type=int, help=argparse.SUPPRESS)
    arguments.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    asked = arguments.parse()
    if asked.method:
        work = {"own": own, "peer": peer}[asked.method]
        print(work(asked.root, asked.kind, asked.processes, alone=asked.alone))
        return 0
    cases = [(kind, n, False) for kind in ("png", "jpeg") for n in (1, 2)] + [("png", 1, True)]
    rates: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as site:
        install_peer(Path(site))
        say(f"drawing {SEEDS * asked.pairs:,} pictures, twice")
        write_world(Path(folder), asked.pairs)
        for _ in range(asked.repeats):
            for kind, n, alone in cases:
                case = f"{kind}, {n} process{'es' if n > 1 else ''}{', alone' if alone else ''}"
                for method in ("own", "peer"):
                    rate = measured(method, Path(folder), kind, n, Path(site), alone=alone)
                    say(f"{case}: {method} {rate:.1f} pictures a second")
                    rates.setdefault(case, {}).setdefault(method, []).append(rate)
    found = {case: {method: statistics.median(of) for method, of in both.items()} for case, both in rates.items()}
    ratios = {case: both["own"] / both["peer"] for case, both in found.items()}
    held = min(ratio for case, ratio in ratios.items() if "alone" not in case) >= FACTOR
    claim = {"ratio": FACTOR, "pictures": SEEDS * asked.pairs}
    lines = [f"claim: {FACTOR:g} times the pictures a second of cleanvision's {', '.join(CHECKS)}"]
    for case, both in found.items():
        lines.append(f"{case:22} own {both['own']:6.1f}/s  peer {both['peer']:6.1f}/s  ratio {ratios[case]:.2f}")
    return conclude(asked, {"claim": claim, "pictures_a_second": found, "ratio": ratios, "held": held}, lines)


if __name__ == "__main__":
    sys.exit(main())
