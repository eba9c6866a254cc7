"""LPIPS, CFSD and Inception's features: equal to their reference packages, and what files they are read from.

Known answers come from the reference packages, with weights and pictures that a formula makes again:
known_distances.json says by which command.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.random_weights import random_networks

from bottega.models import plain_weights
from bottega.models.inception import FEATURES, InceptionFeatures
from bottega.models.perceptual import LINEAR, TRUNK, Lpips, Vgg19Structure
from bottega.models.plain_weights import PUBLISHED, PublishedFile, read_plain_weights
from bottega.runtime.errors import MissingError, PictureError, RequestError
from bottega.runtime.files import sha256_file

KNOWN = json.loads(Path(__file__).with_name("known_distances.json").read_text(encoding="utf-8"))
SIZES = ((64, 64), (96, 80), (224, 320))
PAIRS = [
    (random_networks.picture(number, *size), random_networks.picture(number + 10, *size))
    for number, size in enumerate(SIZES)
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("networks") / "weights"
    random_networks.write_all(folder, [random_networks.picture(100 + number, 160, 160) for number in range(8)])
    return folder


@pytest.fixture(scope="module")
def lpips(weights: Path) -> Lpips:
    return Lpips(weights, "cpu")


@pytest.fixture(scope="module")
def structure(weights: Path) -> Vgg19Structure:
    return Vgg19Structure(weights / "vgg19.safetensors", "cpu")


@pytest.mark.parametrize("number", range(3))
def test_lpips_equals_the_reference_package(lpips: Lpips, number: int) -> None:
    first, second = PAIRS[number]
    assert abs(float(lpips(first[None], second[None])[0]) - KNOWN["lpips"][number]) < 1e-6


@pytest.mark.parametrize("number", range(3))
def test_cfsd_equals_the_published_script(structure: Vgg19Structure, number: int) -> None:
    first, second = PAIRS[number]
    assert structure(first, second) == pytest.approx(KNOWN["cfsd"][number], rel=1e-4)


def test_features_of_fid_equal_the_reference_package(weights: Path) -> None:
    network = InceptionFeatures(weights / "fid_inception.safetensors", "cpu")
    features = np.concatenate([network(random_networks.picture(k, 96, 96)[None]) for k in range(6)]).ravel()
    taken = features[:: len(features) // 40]
    assert np.abs(taken - KNOWN["fid_features"]).max() < 1e-4 * np.abs(taken).max()


def test_a_picture_is_at_no_distance_from_itself_and_order_does_not_matter(
    lpips: Lpips, structure: Vgg19Structure
) -> None:
    first, second = PAIRS[1]
    assert float(lpips(first[None], first[None])[0]) == 0
    assert abs(structure(first, first)) < 1e-5  # rounding in float32, as in the published script
    there, back = float(lpips(first[None], second[None])[0]), float(lpips(second[None], first[None])[0])
    assert there == pytest.approx(back, abs=1e-7) and there > 0.05
    # A divergence has a direction: the content is the one that is weighed by.
    assert structure(first, second) > 0 and structure(second, first) > 0


def test_what_a_picture_is_batched_with_does_not_matter(lpips: Lpips, weights: Path) -> None:
    first = np.stack([random_networks.picture(k, 96, 96) for k in range(4)])
    second = np.stack([random_networks.picture(k + 20, 96, 96) for k in range(4)])
    alone = np.concatenate([lpips(first[k : k + 1], second[k : k + 1]) for k in range(4)])
    assert np.abs(lpips(first, second) - alone).max() < 1e-6
    network = InceptionFeatures(weights / "art_inception.safetensors", "cpu")
    alone = np.concatenate([network(first[k : k + 1]) for k in range(4)])
    together = network(first)
    assert together.shape == (4, FEATURES)
    assert np.abs(together - alone).max() < 1e-4 * np.abs(alone).max()


def test_a_grey_picture_is_compared_as_three_equal_channels(lpips: Lpips) -> None:
    first, second = (torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    grey = lpips.distances(first, second)
    three = lpips.distances(first.expand(1, 3, 64, 64), second.expand(1, 3, 64, 64))
    assert torch.equal(grey, three)


def test_the_structure_is_summed_by_rows_as_by_one_matrix(
    structure: Vgg19Structure, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = PAIRS[1]
    whole = structure(first, second)
    monkeypatch.setattr("bottega.models.perceptual._PLACES_AT_ONCE", 100)
    assert structure(first, second) == pytest.approx(whole, rel=1e-4)


def test_the_variants_of_inception_are_told_by_their_files_and_differ(weights: Path) -> None:
    art = InceptionFeatures(weights / "art_inception.safetensors", "cpu")
    fid = InceptionFeatures(weights / "fid_inception.safetensors", "cpu")
    assert (art.variant, fid.variant) == ("art", "fid")
    other = InceptionFeatures(weights / "fid_inception.safetensors", "cpu", variant="art")
    picture = random_networks.picture(3, 299, 299)[None]
    # Of the same size and weights: only pooling and the range of the pixels are left to differ in.
    assert np.abs(other(picture) - fid(picture)).max() > 0.01


def test_pictures_of_different_or_too_small_size_are_refused(lpips: Lpips, weights: Path) -> None:
    with pytest.raises(PictureError, match="64 × 64 and 80 × 64"):
        lpips(np.zeros((1, 64, 64, 3), np.uint8), np.zeros((1, 64, 80, 3), np.uint8))
    with pytest.raises(PictureError, match="32 pixels"):
        lpips(np.zeros((1, 16, 16, 3), np.uint8), np.zeros((1, 16, 16, 3), np.uint8))
    with pytest.raises(PictureError, match="75 pixels"):
        InceptionFeatures(weights / "art_inception.safetensors", "cpu")(np.zeros((1, 64, 64, 3), np.uint8))


# --- the files --------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_named_with_what_is_published_and_never_replaced(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=f"alexnet-owt-7be5be79.pth.*{PUBLISHED['alexnet'].sha256}"):
        Lpips(tmp_path, "cpu")
    with pytest.raises(MissingError, match=r"art_inception\.pth"):
        InceptionFeatures(tmp_path / "inception.safetensors", "cpu")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda tensors: tensors.pop("features.3.bias"), "features.3.bias"),
        (lambda tensors: tensors.update({"features.3.bias": torch.zeros(5)}), r"\[192\], received \[5\]"),
        (lambda tensors: tensors["features.0.weight"].fill_(float("nan")), "NaN"),
    ],
)
def test_wrong_tensors_are_refused_by_name(
    weights: Path, tmp_path: Path, spoil: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    tensors = load_file(weights / TRUNK)
    spoil(tensors)
    save_file(tensors, tmp_path / TRUNK)
    save_file(load_file(weights / LINEAR), tmp_path / LINEAR)
    with pytest.raises(RequestError, match=message):
        Lpips(tmp_path, "cpu")


def test_a_pickle_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "vgg19.pth").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(RequestError, match="only safetensors"):
        Vgg19Structure(tmp_path / "vgg19.pth", "cpu")


def test_an_inception_that_does_not_say_which_it_is_is_refused(weights: Path, tmp_path: Path) -> None:
    tensors = load_file(weights / "art_inception.safetensors")
    del tensors["AuxLogits1.conv0.conv.weight"]
    save_file(tensors, tmp_path / "inception.safetensors")
    with pytest.raises(RequestError, match=r"fc\.weight"):
        InceptionFeatures(tmp_path / "inception.safetensors", "cpu")
    assert InceptionFeatures(tmp_path / "inception.safetensors", "cpu", variant="art").variant == "art"


def test_weights_are_known_as_published_only_beside_the_published_file_that_holds_them(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = load_file(weights / LINEAR)
    file = tmp_path / LINEAR
    save_file(tensors, file)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    original = tmp_path / "alex.pth"

    def difference() -> str:
        record = read_plain_weights(file, "lpips linear layers", shapes).record
        assert bool(record["published"]) != bool(record["difference"])
        return record["difference"]

    assert "alex.pth is not beside" in difference()
    torch.save(tensors, original)
    assert PUBLISHED["lpips linear layers"].sha256 in difference()
    known = PublishedFile("alex.pth", sha256_file(original), "a test")
    monkeypatch.setattr(plain_weights, "PUBLISHED", {"lpips linear layers": known})
    assert difference() == ""
    # One bit of one number: the file beside it is still the published one, and these are not its tensors.
    tensors["lin2.model.1.weight"].view(torch.int32)[0, 5] ^= 1
    save_file(tensors, file)
    assert "lin2.model.1.weight does not stand in alex.pth" in difference()
