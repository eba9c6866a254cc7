"""Claim: each metric equals its reference package to 1e-6, with the same weights, on the same pictures, in one run.

python benchmarks/metric_references.py [--full] [--json] [--peers DIR] [--styleid CHECKOUT] [--known FILE]

The references are no dependency of bottega, and what they depend on would replace the pinned torch, so they are
installed without it; torchvision is not needed (`common/peer_torchvision.py`):

    python -m pip install --no-deps --target .peers lpips==0.1.4 pytorch-fid==0.3.0
    git clone https://github.com/jiwoogit/StyleID .styleid

A reference that is absent leaves its metric out, and the benchmark says so. Weights are random ones made by a formula,
but for LPIPS's linear layers, which lie in its package: nothing is downloaded, and the arithmetic is what is compared.

`metrics()` lists what is compared: to add one, write a function that takes the prepared folder and returns its
`Comparison`s. FID's reference takes the root of a singular matrix by `scipy.linalg.sqrtm`, whose rounding is what is
left of that difference; `frechet_distance` says more.

--known writes the references' values with random linear layers: tests/models/known_distances.json.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from common.bench import Arguments, conclude, in_own_process, say, verdict
from common.random_networks import picture, write_all
from PIL import Image

from bottega.evaluation.frechet import FeatureMoments, frechet_distance
from bottega.models.inception import InceptionFeatures
from bottega.models.perceptual import Lpips, Vgg19Structure
from bottega.runtime.files import write_json

HERE = Path(__file__).parent
BAR = 1e-6
SIZES = ((64, 64), (96, 80), (224, 320))
FID_PICTURES = 6


@dataclass(frozen=True)
class Prepared:
    """Where pictures and weights lie, and where the references are."""

    work: Path
    peers: Path
    styleid: Path

    def ask(self, task: str) -> dict[str, list[float]]:
        """What a reference finds, in a process of its own; a single number comes as a list of one."""
        words = [str(self.peers), str(self.styleid), str(self.work), task]
        found = in_own_process(str(HERE / "common" / "peer_metrics.py"), *words, env=peer_environment())
        return {name: value if isinstance(value, list) else [value] for name, value in found.items()}

    def pairs(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pictures of two folders by name, uint8 [H, W, 3]."""
        for file in sorted((self.work / "pairs" / "first").iterdir()):
            yield _read(file), _read(self.work / "pairs" / "second" / file.name)


@dataclass(frozen=True)
class Comparison:
    """Values of a metric and its reference's. `relative`: the difference is a share of the largest reference value."""

    metric: str
    own: Sequence[float]
    reference: Sequence[float]
    relative: bool = False

    @property
    def difference(self) -> float:
        """The largest one."""
        gaps = np.abs(np.asarray(self.own) - np.asarray(self.reference))
        scale = float(np.abs(self.reference).max()) if self.relative else 1.0
        return float(gaps.max()) / scale


def peer_environment() -> dict[str, str]:
    """Of a reference's process: it finds `common` here, and bottega nowhere."""
    import os

    return {**os.environ, "PYTHONPATH": str(HERE)}


def _read(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file))


def lpips(prepared: Prepared) -> list[Comparison]:
    """The package lpips with its own linear layers."""
    prepared.ask("export_linear")
    reference = prepared.ask("lpips")["lpips"]
    network = Lpips(prepared.work / "weights", "cpu")
    own = [float(network(one[None], two[None])[0]) for one, two in prepared.pairs()]
    return [Comparison("lpips", own, reference)]


def cfsd(prepared: Prepared) -> list[Comparison]:
    """StyleID's PatchSimi."""
    reference = prepared.ask("cfsd")["cfsd"]
    network = Vgg19Structure(prepared.work / "weights" / "vgg19.safetensors", "cpu")
    own = [network(one, two) for one, two in prepared.pairs()]
    return [Comparison("cfsd", own, reference, relative=True)]


def fid(prepared: Prepared) -> list[Comparison]:
    """The package pytorch-fid: its features, and the distance of two folders."""
    reference = prepared.ask("fid")
    network = InceptionFeatures(prepared.work / "weights" / "fid_inception.safetensors", "cpu")
    features: list[np.ndarray] = []
    for name in ("first", "second"):
        files = sorted((prepared.work / "fid" / name).iterdir())
        features.append(np.concatenate([network(_read(file)[None]) for file in files]))
    distance = frechet_distance(FeatureMoments.of(features[0]), FeatureMoments.of(features[1]))
    return [
        Comparison("inception features", features[0].ravel().tolist(), reference["features"], relative=True),
        Comparison("fid", [distance], reference["fid"], relative=True),
    ]


def metrics() -> dict[str, Callable[[Prepared], list[Comparison]]]:
    """What is compared, by name."""
    return {"lpips": lpips, "cfsd": cfsd, "fid": fid}


def needed(prepared: Prepared, metric: str) -> str:
    """What a metric's reference needs and is not there; "" where it is."""
    if not (prepared.styleid / "evaluation" / "inception.py").is_file():
        return f"no checkout of StyleID at {prepared.styleid}"
    package = {"lpips": "lpips", "fid": "pytorch_fid"}.get(metric)
    if package is not None and not (prepared.peers / package).is_dir():
        return f"no package {package} in {prepared.peers}"
    return ""


def prepare(work: Path, fid_pictures: int) -> None:
    """Weights, pairs of pictures in three sizes, and two folders for FID."""
    write_all(work / "weights", [picture(100 + number, 160, 160) for number in range(8)])
    for number, (width, height) in enumerate(SIZES):
        _write(work / "pairs" / "first" / f"{number}.png", picture(number, width, height))
        _write(work / "pairs" / "second" / f"{number}.png", picture(number + 10, width, height))
    for number in range(fid_pictures):
        _write(work / "fid" / "first" / f"{number:03d}.png", picture(number, 96, 96))
        _write(work / "fid" / "second" / f"{number:03d}.png", picture(number + 200, 96, 96))


def _write(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def write_known(prepared: Prepared, file: Path) -> None:
    """The references' values for the pictures and weights that a test can make again."""
    values = {"lpips": prepared.ask("lpips")["lpips"], "cfsd": prepared.ask("cfsd")["cfsd"]}
    features = prepared.ask("fid")["features"]
    values["fid_features"] = features[:: len(features) // 40]
    how = "python benchmarks/metric_references.py --known FILE, with lpips 0.1.4, pytorch-fid 0.3.0, StyleID d4ea655"
    write_json(file, {"how": how, **values})


def _absolute(asked: argparse.Namespace) -> tuple[Path, Path]:
    return Path(asked.peers).resolve(), Path(asked.styleid).resolve()


def main() -> int:
    """Compare, print, and return 1 where a metric differs from its reference."""
    arguments = Arguments(__doc__)
    arguments.add_argument("--peers", default=".peers", help="folder with the packages lpips and pytorch-fid")
    arguments.add_argument("--styleid", default=".styleid", help="checkout of jiwoogit/StyleID")
    arguments.add_argument("--known", type=Path, help="write known answers for the tests to this file")
    arguments.add_size("--fid-pictures", short=FID_PICTURES, full=64, help="pictures a folder for FID")
    asked = arguments.parse()
    with tempfile.TemporaryDirectory() as folder:
        prepared = Prepared(Path(folder), *_absolute(asked))
        prepare(prepared.work, asked.fid_pictures)
        if asked.known is not None:
            write_known(prepared, asked.known)
        compared: list[Comparison] = []
        absent: dict[str, str] = {}
        for name, compare in metrics().items():
            lacking = needed(prepared, name)
            if lacking:
                absent[name] = lacking
                continue
            say(f"{name}: own and reference")
            compared += compare(prepared)
    held = all(one.difference <= BAR for one in compared) if compared else None
    lines = [f"claim: each metric equals its reference to {BAR:g}"]
    for one in compared:
        kind = "of the largest value" if one.relative else "absolute"
        lines.append(f"{one.metric:20} {one.difference:9.2e} {kind}: {verdict(one.difference <= BAR)}")
    lines += [f"{name:20} not compared: {why}" for name, why in absent.items()]
    shown = [one for one in compared if len(one.own) < 40]
    result = {
        "claim": {"largest_difference": BAR},
        "differences": {one.metric: one.difference for one in compared},
        "values": [asdict(one) for one in shown],
        "absent": absent,
        "held": held,
    }
    return conclude(asked, result, lines)


if __name__ == "__main__":
    sys.exit(main())
