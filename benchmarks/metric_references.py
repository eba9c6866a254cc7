"""Claim: each metric equals its reference package to 1e-6, with the same weights, on the same pictures, in one run.

python benchmarks/metric_references.py [--full] [--json] [--peers DIR] [--styleid CHECKOUT] [--only METRIC]
    [--known FILE]

The references are no dependency of bottega, and what they depend on would replace the pinned torch, so they are
installed without it; torchvision is not needed (`common/peer_torchvision.py`):

    python -m pip install --no-deps --target .peers lpips==0.1.4 pytorch-fid==0.3.0
    git clone https://github.com/jiwoogit/StyleID .styleid

DINO, CLIPScore and the style similarities are compared with transformers' own models, on the miniature's weights. A
reference that is absent leaves its metric out, and the benchmark says so. Weights are random ones made by a formula,
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
from bottega.evaluation.metrics import cosine, structure_distance, text_scores
from bottega.models.encoders import ClipEncoder, StructureEncoder, StyleEncoder
from bottega.models.inception import FEATURES, InceptionFeatures
from bottega.models.names import resolve
from bottega.models.perceptual import Lpips, Vgg19Structure
from bottega.runtime.files import write_json

HERE = Path(__file__).parent
BAR = 1e-6
SIZES = ((64, 64), (96, 80), (224, 320))
FID_PICTURES = 12
KNOWN_PICTURES = 6  # whose features the tests know
LIBRARY = ("dino", "clip")
"""Metrics whose reference is transformers itself, on the miniature's weights: no package is needed."""
PROMPT = "a small triangle at the bottom"


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

    def squares(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pictures for encoders that read squares."""
        for number in range(len(SIZES)):
            yield picture(number, 128, 128), picture(number + 10, 128, 128)


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


def dino(prepared: Prepared) -> list[Comparison]:
    """transformers' ViT: the class tokens' cosine, and Splice's structure distance with keys taken by hand, a pair of
    tokens at a time."""
    import torch
    from transformers import ViTModel
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    folder = resolve("bottega:miniature/weights/structure_encoder")
    network = StructureEncoder(folder, "cpu")
    model = ViTModel.from_pretrained(folder, dtype=torch.float32, add_pooling_layer=False).eval()
    processor = ViTImageProcessorPil.from_pretrained(folder)
    modules = dict(model.named_modules())
    last = model.config.num_hidden_layers - 1
    norm, key = modules[f"layers.{last}.layernorm_before"], modules[f"layers.{last}.attention.k_proj"]
    found: dict[str, tuple[list[float], list[float]]] = {"dino": ([], []), "structure": ([], [])}
    for one, two in prepared.squares():
        features = [network.keys_and_embedding(picture[None])[0] for picture in (one, two)]
        found["dino"][0].append(cosine(features[0][-1], features[1][-1]))
        found["structure"][0].append(structure_distance(features[0][:-1], features[1][:-1]))
        with torch.no_grad():
            pixels = processor(images=[one, two], return_tensors="pt")["pixel_values"]
            answer = model(pixel_values=pixels, output_hidden_states=True)
            tokens = answer.last_hidden_state[:, 0].double()
            keys = key(norm(answer.hidden_states[last])).double()  # [2, T, D]
        found["dino"][1].append(100 * float(torch.nn.functional.cosine_similarity(tokens[:1], tokens[1:])[0]))
        gaps: list[float] = []
        for i in range(keys.shape[1]):
            similar = [torch.nn.functional.cosine_similarity(each[i][None], each) for each in keys]
            gaps += ((similar[0] - similar[1]) ** 2).tolist()
        found["structure"][1].append(1000 * float(np.mean(gaps)))
    return [Comparison(name, *values, relative=True) for name, values in found.items()]


def clip(prepared: Prepared) -> list[Comparison]:
    """transformers' CLIPModel: its logits without their scale are CLIPScore, the cosine of two pictures' embeddings the
    style similarity; and the picture tower's pooled output times a matrix is the style descriptor."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoTokenizer, CLIPModel, CLIPVisionModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    folder = resolve("bottega:miniature/weights/clip")
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = AutoTokenizer.from_pretrained(folder)([PROMPT], return_tensors="pt")
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    csd = prepared.work / "csd"
    tower = CLIPVisionModel.from_pretrained(folder, dtype=torch.float32)
    tower.save_pretrained(csd)
    matrix = torch.randn(tower.config.hidden_size, 24, generator=torch.Generator().manual_seed(5))
    save_file({"style": matrix}, csd / "style_projection.safetensors")
    (csd / "preprocessor_config.json").write_bytes((folder / "preprocessor_config.json").read_bytes())

    encoder, descriptors = ClipEncoder(folder, "cpu"), StyleEncoder(csd, "cpu")
    text = encoder.text([PROMPT])[0]
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in ("text", "style_clip", "style_csd")}
    for one, two in prepared.squares():
        first, second = encoder.image(one[None])[0], encoder.image(two[None])[0]
        found["text"][0].append(float(text_scores(first[None], text[None])[0]))
        found["style_clip"][0].append(cosine(first, second))
        found["style_csd"][0].append(cosine(descriptors.embedding(one[None])[0], descriptors.embedding(two[None])[0]))
        with torch.no_grad():
            pixels = processor(images=[one, two], return_tensors="pt")["pixel_values"]
            answer = model(input_ids=tokens["input_ids"], pixel_values=pixels)
            pooled = model.vision_model(pixel_values=pixels).pooler_output.double()
            scale = float(model.logit_scale.detach().exp())
        embedded = answer.image_embeds.double()
        styles = pooled @ matrix.double()
        similar = torch.nn.functional.cosine_similarity
        found["text"][1].append(100 * float(answer.logits_per_image[0, 0]) / scale)
        found["style_clip"][1].append(100 * float(similar(embedded[:1], embedded[1:])[0]))
        found["style_csd"][1].append(100 * float(similar(styles[:1], styles[1:])[0]))
    return [Comparison(name, *values, relative=True) for name, values in found.items()]


def metrics() -> dict[str, Callable[[Prepared], list[Comparison]]]:
    """What is compared, by name."""
    return {"lpips": lpips, "cfsd": cfsd, "fid": fid, "dino": dino, "clip": clip}


def needed(prepared: Prepared, metric: str) -> str:
    """What a metric's reference needs and is not there; "" where it is."""
    if metric in LIBRARY:
        return ""
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
        # Darker, as outputs differ from styles: of sets alike, the rounding of the reference is a larger share.
        _write(work / "fid" / "second" / f"{number:03d}.png", picture(number + 200, 96, 96) // 4)


def _write(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def write_known(prepared: Prepared, file: Path) -> None:
    """The references' values for the pictures and weights that a test can make again."""
    values = {"lpips": prepared.ask("lpips")["lpips"], "cfsd": prepared.ask("cfsd")["cfsd"]}
    features = prepared.ask("fid")["features"][: KNOWN_PICTURES * FEATURES]
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
    arguments.add_argument("--only", help="compare this metric alone")
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
            if asked.only not in (None, name):
                continue
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
