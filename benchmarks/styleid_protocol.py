"""Claim: `bottega evaluate protocol styleid-800` finds what StyleID's own scripts find, to 1e-6 of each number.

python benchmarks/styleid_protocol.py [--full] [--json] [--peers DIR] [--styleid CHECKOUT]

Both judge the same folder of outputs with the same networks, of random weights made by a formula: nothing is
downloaded, and the arithmetic is what is compared: ArtFID, FID, LPIPS, grey LPIPS, CFSD, and the histogram loss. The
scripts run unchanged in a process of their own, on contents and styles that are copied for them as they ask;
torchvision and scikit-learn are not needed (`common/peer_torchvision.py`). They need the package lpips and a checkout:

    python -m pip install --no-deps --target .peers lpips==0.1.4
    git clone https://github.com/jiwoogit/StyleID .styleid

Without them nothing is compared, and the benchmark says so. The short form has 6 × 8 pairs of 96 pixels, which FID and
LPIPS see at 512; --full has the 20 × 40 pictures of the checkout, outputs that mix them, and CFSD at 512 pixels, which
takes the script 5 GB. The script's FID takes the root of a singular matrix by `scipy.linalg.sqrtm`, whose rounding is
what is left of that difference.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from common.bench import Arguments, conclude, in_own_process, say, verdict
from common.random_networks import picture, write_all
from PIL import Image
from safetensors.torch import load_file

from bottega.evaluation.protocol import ProtocolRequest, run_protocol
from bottega.evaluation.protocol_records import ProtocolSummary
from bottega.models.config import ModelsConfig

HERE = Path(__file__).parent
BAR = 1e-6
SIDE = 96


def draw_inputs(root: Path, contents: int, styles: int) -> None:
    """Made contents and styles."""
    for kind, count, first in (("cnt", contents, 0), ("sty", styles, 50)):
        (root / kind).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(picture(first + number, SIDE, SIDE)).save(root / kind / f"{number:02d}.png")


def draw_outputs(data: Path, folder: Path) -> None:
    """What a method might draw: the content, darker, with something of the style."""
    folder.mkdir()
    for content in sorted((data / "cnt").iterdir()):
        one = np.asarray(Image.open(content).convert("RGB"), dtype=np.float64)
        for style in sorted((data / "sty").iterdir()):
            other = np.asarray(Image.open(style).convert("RGB").resize((one.shape[1], one.shape[0])), dtype=np.float64)
            mixed = (0.35 * one + 0.3 * other).astype(np.uint8)
            Image.fromarray(mixed).save(folder / f"{content.stem}_stylized_{style.stem}.png")


def copy_inputs(data: Path, folder: Path) -> None:
    """Contents and styles once a pair, as the scripts want them (StyleID's util/copy_inputs.py)."""
    for name in ("cnt_eval", "sty_eval"):
        (folder / name).mkdir()
    for content in sorted((data / "cnt").iterdir()):
        for style in sorted((data / "sty").iterdir()):
            name = f"{content.stem}_stylized_{style.stem}.png"
            os.link(content, folder / "cnt_eval" / name)
            os.link(style, folder / "sty_eval" / name)


def write_weights(folder: Path) -> None:
    """Random networks, and ArtFID's Inception where the script looks for it before it downloads."""
    import torch

    write_all(folder / "weights", [picture(100 + number, 160, 160) for number in range(8)])
    (folder / "art_fid").mkdir()
    torch.save(load_file(folder / "weights" / "art_inception.safetensors"), folder / "art_fid" / "art_inception.pth")


def ask(work: Path, peers: Path, styleid: Path, task: str, points: int) -> dict[str, float | list[float]]:
    """What a script finds."""
    environment = {**os.environ, "PYTHONPATH": str(HERE), "POINTS": str(points)}
    script = str(HERE / "common" / "peer_metrics.py")
    found: dict[str, float | list[float]] = in_own_process(
        script, str(peers), str(styleid), str(work), task, env=environment
    )
    return found


def own_numbers(work: Path) -> ProtocolSummary:
    """What bottega finds."""
    weights = work / "weights"
    models = ModelsConfig(
        lpips=str(weights),
        inception=str(weights / "art_inception.safetensors"),
        vgg19=str(weights / "vgg19.safetensors"),
        device="cpu",
    )
    request = ProtocolRequest(work / "protocol" / "output", work / "data", rows=("output",))
    return run_protocol("styleid-800", request, models, work / "judged")


def main() -> int:
    """Judge by both, print, and return 1 where a number differs."""
    arguments = Arguments(__doc__)
    arguments.add_argument("--peers", default=".peers", help="folder with the package lpips")
    arguments.add_argument("--styleid", default=".styleid", help="checkout of jiwoogit/StyleID")
    arguments.add_size("--points", short=1, full=8, help="points of the script's FID∞, its --num_workers")
    asked = arguments.parse()
    peers, styleid = Path(asked.peers).resolve(), Path(asked.styleid).resolve()
    lines = [f"claim: each number of the protocol is the script's, to {BAR:g} of it"]
    absent = [
        str(place) for place in (peers / "lpips", styleid / "evaluation" / "eval_artfid.py") if not place.exists()
    ]
    if absent:
        lines.append(
            f"nothing was compared: {', '.join(absent)} is not there; the head of this script says how to get it"
        )
        return conclude(asked, {"absent": absent, "held": None}, lines)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_weights(work)
        if asked.full:
            shutil.copytree(styleid / "data", work / "data")
        else:
            draw_inputs(work / "data", 6, 8)
        (work / "protocol").mkdir()
        draw_outputs(work / "data", work / "protocol" / "output")
        copy_inputs(work / "data", work / "protocol")
        ask(work, peers, styleid, "export_linear", asked.points)  # the script takes those of the package
        say("own")
        own = own_numbers(work)
        say("the script, eval_artfid.py")
        theirs = ask(work, peers, styleid, "styleid", asked.points)
        say("the script, eval_histogan.py")
        theirs["histogram"] = float(np.mean(ask(work, peers, styleid, "histogan", asked.points)["histogram"]))
    found: dict[str, dict[str, float]] = {}
    for name, cell in own["rows"]["output"]["metrics"].items():
        value, other = cell["value"], float(np.squeeze(theirs[name]))
        found[name] = {"own": value, "script": other, "difference": abs(value - other) / abs(other)}
        held = found[name]["difference"] <= BAR
        lines.append(f"{name:11} {value:14.7f} script {other:14.7f}: {found[name]['difference']:.1e}, {verdict(held)}")
    result = {
        "claim": {"relative_difference": BAR},
        "pairs": own["pairs"],
        "numbers": found,
        "held": all(one["difference"] <= BAR for one in found.values()),
    }
    return conclude(asked, result, lines)


if __name__ == "__main__":
    sys.exit(main())
