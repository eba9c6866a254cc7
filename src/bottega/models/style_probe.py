"""A linear probe as a model folder: style labels from the frozen features of an encoder that is kept elsewhere.

    config.json                what it is: the encoder's name and hash, labels, and how well it does
    model.safetensors          weight [K, D], bias [K], mean [D], deviation [D], temperature [1]
    preprocessor_config.json   the encoder's own

`models.style_classifier` names such a folder as it names any classifier. The encoder must be the one that the probe was
fitted on, to the bit: with other features its labels would mean nothing.

Symbols: N pictures, K labels, D width of a feature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from bottega.models.hashes import model_hash
from bottega.models.names import resolve
from bottega.models.preprocessing import Pictures
from bottega.models.weights import FETCH_AGAIN, read_config
from bottega.runtime.errors import MissingError, RequestError
from bottega.runtime.files import atomic_path, write_json
from bottega.runtime.records import read_record

if TYPE_CHECKING:
    from bottega.models.encoders import ClipEncoder, StructureEncoder

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
MODEL_TYPE = "bottega_style_probe"
"""In config.json, in the place of an architecture's name."""

_FIT_AGAIN = "fit the probe again: bottega evaluate fit-style-probe"


class ProbeAccuracy(TypedDict):
    """How often some pictures' label is the first of a probe's answers, or among the first five, in percent.

    macro: the mean of the styles' own shares, so that a rare style counts as much as a frequent one. by_style: those.
    """

    pictures: int
    top_1: float
    top_5: float
    macro: float
    by_style: dict[str, float]


class Confusion(TypedDict):
    """Pictures of one style that were taken for another, and their share of that style's, in percent."""

    style: str
    taken_for: str
    pictures: int
    share: float


class ProbeFigures(TypedDict):
    """How good a probe is, on pictures that it was not fitted on.

    paintings: of artists, none of whom it was fitted on. photographs: by style the share of plain photographs that are
    taken for it, in percent; absent where there were none.
    """

    paintings: ProbeAccuracy
    confusions: list[Confusion]
    photographs: NotRequired[dict[str, float]]
    photographs_seen: int


class ProbeCounts(TypedDict):
    """Paintings that the probe was fitted on, chosen by and judged by, and those that were left out, by reason."""

    fitted: int
    chosen_by: int
    judged_by: int
    test_split: int
    two_labels: int
    unreadable: int


class ProbeConfig(TypedDict):
    """`config.json` of a probe. `penalty` is the chosen L2 penalty, per picture."""

    model_type: str
    encoder: str
    encoder_hash: str
    feature: str
    id2label: dict[str, str]
    penalty: float
    seed: int
    counts: ProbeCounts
    figures: ProbeFigures


@dataclass(frozen=True, eq=False)
class Linear:
    """Multinomial logistic regression on standardised features.

    weight: [K, D]. bias: [K]. mean, deviation: of the features, [D]. temperature: what the logits are divided by.
    """

    weight: Doubles
    bias: Doubles
    mean: Doubles
    deviation: Doubles
    temperature: float

    def probabilities(self, features: Floats) -> Floats:
        """Softmax over the labels of features [N, D], [N, K]."""
        standard = (features - self.mean) / self.deviation
        logits = (standard @ self.weight.T + self.bias) / self.temperature
        logits -= logits.max(1, keepdims=True)
        shares = np.exp(logits)
        found: Floats = (shares / shares.sum(1, keepdims=True)).astype(np.float32)
        return found


@dataclass(frozen=True, eq=False)
class FrozenEncoder:
    """An encoder whose features a probe reads. `call` gives [N, D] of unit norm; `feature` says what that is."""

    call: Callable[[Pictures], Floats]
    feature: str
    folder: Path


def load_encoder(folder: Path, device: str = "auto") -> FrozenEncoder:
    """A CLIP or a ViT (DINO, DINOv2) as a probe's encoder.

    Raises:
        RequestError: the folder holds neither.
    """
    from bottega.models.encoders import ClipEncoder, StructureEncoder

    kind = str(read_config(folder / "config.json").get("model_type", ""))
    if kind == "clip":
        clip: ClipEncoder = ClipEncoder(folder, device)
        return FrozenEncoder(clip.image, "CLIP's picture embedding", folder)
    if kind in ("vit", "dinov2", "dinov2_with_registers"):
        vit: StructureEncoder = StructureEncoder(folder, device)
        return FrozenEncoder(vit.embedding, "class token", folder)
    raise RequestError(f"{folder}: a probe reads the features of a CLIP or a ViT (DINO, DINOv2), received {kind!r}")


def is_probe(folder: Path) -> bool:
    """Whether a model folder holds a probe and not a whole classifier."""
    config = folder / "config.json"
    return config.is_file() and read_config(config).get("model_type") == MODEL_TYPE


def read_probe(folder: Path) -> ProbeConfig:
    """What a probe's folder says of it."""
    return read_record(folder / "config.json", ProbeConfig, _FIT_AGAIN)


def save_probe(folder: Path, linear: Linear, config: ProbeConfig, encoder: Path) -> None:
    """Write a probe's folder; the configuration comes last, for it says that the folder is whole."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors: Mapping[str, Doubles] = {
        "weight": linear.weight,
        "bias": linear.bias,
        "mean": linear.mean,
        "deviation": linear.deviation,
        "temperature": np.array([linear.temperature]),
    }
    with atomic_path(folder / "model.safetensors") as temporary:
        save_file({name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()}, temporary)
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (encoder / name).is_file():
            write_json(folder / name, dict(read_config(encoder / name)))
    write_json(folder / "config.json", config)


class StyleProbe:
    """A probe with its encoder, as a classifier of styles.

    Args:
        folder: of the probe.
        device: that the encoder runs on.
        cache: the Hugging Face cache, where the encoder may be.

    Raises:
        MissingError: the encoder is not on this machine, or has other weights than the probe was fitted on.
    """

    def __init__(self, folder: Path, device: str = "auto", cache: str | None = None) -> None:
        self.folder = folder
        self.config = read_probe(folder)
        self.labels = [self.config["id2label"][str(number)] for number in range(len(self.config["id2label"]))]
        self._linear = _read_linear(folder, len(self.labels))
        self._encoder = load_encoder(probe_encoder(folder, self.config, cache), device)

    def probabilities(self, pictures: Pictures) -> Floats:
        """Softmax over the labels, [N, K]."""
        return self._linear.probabilities(self._encoder.call(pictures))


def probe_encoder(folder: Path, config: ProbeConfig, cache: str | None) -> Path:
    """The folder of a probe's encoder. Raises MissingError, as `StyleProbe` does."""
    try:
        encoder = resolve(config["encoder"], None, cache=cache)
    except MissingError as error:
        raise MissingError(f"{folder}: the probe reads an encoder that is absent: {error}") from error
    found = model_hash(encoder)
    if found != config["encoder_hash"]:
        raise MissingError(
            f"{folder}: the probe was fitted on other weights of {config['encoder']} (hash "
            f"{config['encoder_hash'][:12]}…, here {found[:12]}…); {_FIT_AGAIN}, or put those weights back"
        )
    return encoder


def _read_linear(folder: Path, labels: int) -> Linear:
    from safetensors.numpy import load_file

    from bottega.models.weights import read_headers

    file = folder / "model.safetensors"
    read_headers((file,))  # a damaged file is named here, and not by the library
    tensors = {name: tensor.astype(np.float64) for name, tensor in load_file(file).items()}
    wanted = {"weight", "bias", "mean", "deviation", "temperature"}
    if set(tensors) != wanted or len(tensors["weight"]) != labels:
        raise RequestError(f"{file}: not the weights of a probe of {labels} labels; {_FIT_AGAIN}")
    if not all(bool(np.isfinite(tensor).all()) for tensor in tensors.values()):
        raise RequestError(f"{file}: a weight is NaN or infinite; {_FIT_AGAIN}, or {FETCH_AGAIN}")
    temperature = float(tensors["temperature"][0])
    return Linear(tensors["weight"], tensors["bias"], tensors["mean"], tensors["deviation"], temperature)
