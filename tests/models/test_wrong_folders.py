"""What people put in a model's place by mistake, in the published layouts: each is named by headers alone, with a cure.

The models are those of a rehearsal at reduced width, whose files, shards and tensors have their published names.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from safetensors.torch import load_file, save_file

from bottega.models import weights
from bottega.models.config import ModelsConfig
from bottega.models.layout import inspect, locate
from bottega.models.rehearsal.build import RandomModelsRequest, build
from bottega.recipe import load_recipe, with_size_cautions

NAMES = {
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
    "ip_adapter": "h94/IP-Adapter/sdxl_models",
    "pixart": "PixArt-alpha/PixArt-XL-2-512x512",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SDXL with both adapters and PixArt; not to be changed."""
    folder = tmp_path_factory.mktemp("whole") / "models"
    build(RandomModelsRequest(folder, ("sdxl", "ip_adapter", "ip_adapter_vit_h", "pixart"), "reduced"))
    return folder


@pytest.fixture
def cache(whole: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    shutil.copytree(whole, tmp_path / "models")
    return tmp_path / "models"


def models(cache: Path, **names: str) -> ModelsConfig:
    return ModelsConfig.model_validate({**NAMES, "cache": str(cache), **names})


def folder(cache: Path, role: str, part: str = "") -> Path:
    return locate(models(cache), role) / part


def configure(path: Path, **changes: object) -> None:
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | changes))


class _Counted:
    """A file that counts the bytes which are read of it."""

    def __init__(self, stream: IO[bytes], counts: dict[str, int], name: str) -> None:
        self.stream, self.counts, self.name = stream, counts, name

    def read(self, size: int = -1) -> bytes:
        content = self.stream.read(size)
        self.counts[self.name] = self.counts.get(self.name, 0) + len(content)
        return content


@pytest.fixture
def headers_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails where anything but the header of a weight file is read, or a library opens one."""
    counts: dict[str, int] = {}
    real = weights.open_file

    @contextmanager
    def counted(path: Path) -> Iterator[Any]:
        with real(path) as stream:
            yield _Counted(stream, counts, str(path))

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError(f"weights are opened: {arguments}")

    monkeypatch.setattr(weights, "open_file", counted)
    monkeypatch.setattr("safetensors.safe_open", refuse)
    monkeypatch.setattr("safetensors.torch.load_file", refuse)
    yield
    monkeypatch.setattr(weights, "open_file", real)
    files = {name: size for name, size in counts.items() if name.endswith(".safetensors")}
    assert files, "at least one header was read"
    for name, count in files.items():
        with Path(name).open("rb") as stream:
            length = 8 + int.from_bytes(stream.read(8), "little")
        # Each look at a model reads a header three times, and a test looks up to three times.
        assert count <= 9 * length


def faults(cache: Path, role: str, **names: str) -> str:
    [status] = inspect(models(cache, **names), [role])
    return "\n".join(status.faults)


# --- names and files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "old", "new", "words"),
    [
        ("sdxl", "text_encoder_2", "text_encoder2", ("text_encoder_2: the folder is missing", "is text_encoder2")),
        ("sdxl", "unet", "u-net", ("unet: the folder is missing", "there is u-net: rename it")),
        ("sdxl", "tokenizer_2", "tokeniser_2", ("tokenizer_2: no tokenizer in it",)),
        (
            "sdxl", "unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_model.fp16.safetensors",
            ("unet: no weights", "there is diffusion_model.fp16.safetensors, a name that nothing reads: rename it"),
        ),
        ("sdxl", "vae/config.json", "vae/config (1).json", ("vae/config.json: missing",)),
        ("pixart", "tokenizer/spiece.model", "tokenizer/spm.model", ("tokenizer: no tokenizer in it",)),
        ("ip_adapter", "image_encoder", "image_encoders", ()),
    ],
)  # fmt: skip
def test_one_wrong_name_is_told(
    cache: Path, headers_only: None, role: str, old: str, new: str, words: tuple[str, ...]
) -> None:
    place = folder(cache, role)
    (place / old).rename(place / new)
    told = faults(cache, role)
    for word in words:
        assert word in told
    assert "bottega models fetch" in told or role == "ip_adapter"


def test_an_adapter_without_its_own_encoder_is_not_paired_with_the_other(cache: Path) -> None:
    shutil.rmtree(folder(cache, "ip_adapter") / "image_encoder")
    told = faults(cache, "ip_adapter")
    assert "needs an image encoder of projection_dim 64" in told
    assert "has 48" in told


def test_a_missing_shard_is_named(cache: Path, headers_only: None) -> None:
    text = folder(cache, "pixart", "text_encoder")
    (text / "model-00002-of-00002.safetensors").unlink()
    # The other shard's header is not needed for that: SDXL's are read, so that the fixture sees some.
    inspect(models(cache), ["sdxl"])
    told = faults(cache, "pixart")
    assert "1 of 2 shards are missing, first model-00002-of-00002.safetensors" in told
    assert "bottega models fetch PixArt-alpha/PixArt-XL-2-512x512" in told


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"])
def test_a_truncated_shard_is_named(cache: Path, headers_only: None, name: str) -> None:
    shard = folder(cache, "pixart", "text_encoder") / name
    with shard.open("r+b") as stream:
        stream.truncate(shard.stat().st_size - 4096)
    told = faults(cache, "pixart")
    assert f"{name}: not a whole safetensors file" in told
    assert "bottega models fetch" in told


# --- models that don't belong together --------------------------------------------------------------------------------


def test_an_adapter_of_the_other_encoder_is_refused(cache: Path, headers_only: None) -> None:
    place = folder(cache, "ip_adapter")
    # As after a download of both into one folder: the adapter for ViT-H under the name of that for ViT-bigG.
    (place / "ip-adapter_sdxl_vit-h.safetensors").replace(place / "ip-adapter_sdxl.safetensors")
    shutil.rmtree(place.parent / "models")
    told = faults(cache, "ip_adapter")
    assert "the adapter (plain layout) needs an image encoder of projection_dim 48" in told
    assert "name an adapter made for this encoder" in told


def test_a_t5_of_another_size_is_refused(cache: Path, whole: Path, headers_only: None) -> None:
    configure(folder(cache, "pixart", "text_encoder") / "config.json", d_model=32)
    assert "config.json says d_model 32, the weights have 64" in faults(cache, "pixart")


def test_a_whole_t5_that_the_transformer_does_not_read_is_refused(cache: Path) -> None:
    import torch

    text = folder(cache, "pixart", "text_encoder")
    for file in text.glob("*.safetensors"):
        tensors = {name: tensor[..., :32].contiguous() for name, tensor in load_file(file).items()}
        save_file(tensors, file)
        assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    configure(text / "config.json", d_model=32)
    told = faults(cache, "pixart")
    assert "reads text states 64 wide" in told
    assert "gives 32; take all parts from one repository" in told


def test_the_pixart_for_1024_in_place_of_that_for_512_is_told(cache: Path, headers_only: None) -> None:
    recipe = load_recipe(Path("recipes/sdxl_pixart.yaml"))
    [status] = with_size_cautions(recipe, inspect(models(cache), ["pixart"]))
    assert status.cautions == ()
    # A configuration for 1024 asks for embedders of size, which the weights for 512 lack: a fault by itself.
    transformer = folder(cache, "pixart", "transformer") / "config.json"
    configure(transformer, sample_size=128)
    assert "embedders of size and aspect, the weights have no such embedders" in faults(cache, "pixart")
    # Whole, it is another model that works, at four times the cost.
    configure(transformer, sample_size=128, use_additional_conditions=False)
    [status] = with_size_cautions(recipe, inspect(models(cache), ["pixart"]))
    assert status.faults == ()
    [told] = status.cautions
    assert "draws pictures of 1024 px" in told
    assert "targets are 512 px (teacher.size)" in told
    assert "4 times as much; name the model for 512 px" in told


def test_weights_of_32_bits_under_a_name_of_16_are_told(cache: Path) -> None:
    file = folder(cache, "sdxl", "unet") / "diffusion_pytorch_model.fp16.safetensors"
    save_file({name: tensor.float() for name, tensor in load_file(file).items()}, file)
    [status] = inspect(models(cache), ["sdxl"])
    assert status.faults == ()
    [told] = status.cautions
    assert "named as weights of 16 bits, and 15 million of its numbers are float32" in told


def test_a_unet_of_full_size_in_32_bits_is_told(tmp_path: Path) -> None:
    from bottega.models.agreement import precision_cautions
    from bottega.models.rehearsal.writing import WeightFile, _header_bytes
    from bottega.models.weights import TensorInfo

    # The header of 2 GB, and nothing behind it that takes disk.
    file = WeightFile("x", {"a.weight": TensorInfo("F32", (25_000, 25_000))}, {})
    place = tmp_path / "diffusion_pytorch_model.safetensors"
    place.write_bytes(_header_bytes(file))
    with place.open("r+b") as stream:
        stream.truncate(file.size)
    [told] = precision_cautions("sdxl", [place])
    assert "2.5 GB of float32 weights, which run in 16 bits" in told
    assert precision_cautions("pixart", [place]) == []


# --- at the door of a run ---------------------------------------------------------------------------------------------


def test_a_run_stops_before_it_begins(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bottega.pipeline import BY_NAME, Pipeline
    from bottega.runtime.errors import MissingError

    (folder(cache, "pixart", "text_encoder") / "model-00002-of-00002.safetensors").unlink()
    recipe = load_recipe(Path("recipes/sdxl_pixart.yaml"))
    recipe = recipe.model_copy(update={"models": models(cache)})
    said: list[str] = []
    pipeline = Pipeline(recipe, tmp_path / "run", say=said.append)
    with pytest.raises(MissingError, match="1 of 2 shards are missing"):
        pipeline._require_models([BY_NAME["features"]])


def test_verify_names_them_all(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from bottega.cli.main import main

    (folder(cache, "pixart", "text_encoder") / "model-00002-of-00002.safetensors").unlink()
    unet = folder(cache, "sdxl", "unet")
    unet.rename(unet.with_name("u-net"))
    arguments = ["models", "verify", "recipes/sdxl_pixart.yaml", "--set", f"models.cache={cache}"]
    assert main([*arguments, "--set", "models.clip=null", "--set", "models.structure_encoder=null"]) == 1
    told = capsys.readouterr().out
    assert "absent shard" in told
    assert "model_index.json names unet, and no file of it is here" in told
