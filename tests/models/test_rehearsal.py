"""Models with random weights: sized as published to the byte, loadable, finite, resumable, never among real ones."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from bottega.cli.models import app
from bottega.generation.rehearsal import FILES
from bottega.models.config import ModelsConfig
from bottega.models.layout import inspect, locate
from bottega.models.loading import load_pixart_parts, load_teacher_pipeline, refused_parts
from bottega.models.rehearsal import catalogue
from bottega.models.rehearsal.build import RandomModelsRequest, build, discard, read_marker
from bottega.models.rehearsal.marker import MARKER, has_random_weights, rehearsed_roles
from bottega.models.rehearsal.noise import NoiseSource, fill_of
from bottega.models.rehearsal.writing import WeightFile
from bottega.models.weights import TensorInfo, find_weights, read_header
from bottega.runtime.errors import RequestError, StorageError, WorkError

PUBLISHED_BYTES = {
    "unet/diffusion_pytorch_model.fp16.safetensors": 5_135_149_760,
    "text_encoder/model.fp16.safetensors": 246_144_152,
    "text_encoder_2/model.fp16.safetensors": 1_389_382_176,
    "vae/diffusion_pytorch_model.fp16.safetensors": 167_335_342,
    "sdxl_models/ip-adapter_sdxl.safetensors": 702_585_376,
    "sdxl_models/image_encoder/model.safetensors": 3_689_912_664,
    "sdxl_models/ip-adapter_sdxl_vit-h.safetensors": 698_391_064,
    "models/image_encoder/model.safetensors": 2_528_373_448,
    "model.safetensors": 1_710_540_580,
}
"""Sizes of the published files, as lists of downloads state them: with every name and shape right, ours are equal."""

ROLES = ("sdxl", "ip_adapter", "pixart", "clip", "structure_encoder")
RECIPE = {
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
    "ip_adapter": "h94/IP-Adapter/sdxl_models",
    "pixart": "PixArt-alpha/PixArt-XL-2-512x512",
    "clip": "openai/clip-vit-large-patch14",
    "structure_encoder": "facebook/dino-vitb8",
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All models at reduced width."""
    folder = tmp_path_factory.mktemp("rehearsal") / "models"
    build(RandomModelsRequest(folder, scale="reduced"), FILES)
    return folder


def config(cache: Path, **names: str) -> ModelsConfig:
    return ModelsConfig.model_validate({**RECIPE, "cache": str(cache), **names})


# --- as published -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sdxl", "ip_adapter", "ip_adapter_vit_h", "clip"])
def test_full_files_have_the_published_sizes_to_the_byte(name: str) -> None:
    # Without bottega's own words in the header, which the published files lack.
    sizes = {}
    for file in catalogue.PLANS[name]("full", {"format": "pt"}).contents:
        if isinstance(file, WeightFile):
            # The adapters were published without any metadata.
            plain = replace(file, metadata={}) if "ip-adapter" in file.path else file
            sizes[file.path] = plain.size
    assert sizes
    assert sizes == {path: PUBLISHED_BYTES[path] for path in sizes}


def test_t5_lies_in_two_shards_of_10_and_9_gigabytes() -> None:
    contents = catalogue.PLANS["pixart"]("full", {"format": "pt"}).contents
    shards = [file for file in contents if isinstance(file, WeightFile) and "text_encoder" in file.path]
    assert [round(shard.size / 1e9, 2) for shard in shards] == [9.99, 9.06]


def test_another_number_of_parameters_than_published_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    text = catalogue.sdxl_networks("full")[1]
    with pytest.raises(WorkError, match="123060481 parameters by its published configuration, received 123060480"):
        catalogue.tensors_of(replace(text, parameters=text.parameters + 1), "full")


def test_reduced_files_have_the_published_names_and_tensors(cache: Path) -> None:
    unet = read_header(locate(config(cache), "sdxl") / "unet" / "diffusion_pytorch_model.fp16.safetensors").tensors
    full = catalogue.tensors_of(catalogue.sdxl_networks("full")[0], "full")
    assert unet.keys() == full.keys()
    assert len(find_weights(locate(config(cache), "pixart") / "text_encoder").files) == 2


# --- used -------------------------------------------------------------------------------------------------------------


def test_the_recipes_own_names_find_them_whole_and_fitting(cache: Path) -> None:
    found = inspect(config(cache))
    assert [status.role for status in found] == list(ROLES)
    for status in found:
        assert status.faults == ()
        assert status.folder is not None
        assert refused_parts(status.role, status.folder) == []


def test_the_adapter_of_the_other_encoder_is_whole_too(cache: Path) -> None:
    adapter = locate(config(cache), "ip_adapter") / "ip-adapter_sdxl_vit-h.safetensors"
    [status] = inspect(config(cache, ip_adapter=str(adapter)), ["ip_adapter"])
    assert status.faults == ()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_teacher_stays_finite(cache: Path, dtype: str) -> None:
    import torch

    models = config(cache)
    pipeline = load_teacher_pipeline(locate(models, "sdxl"), locate(models, "ip_adapter"), dtype, "cpu")
    kind = getattr(torch, dtype)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).to(kind)
    with torch.no_grad():
        text, _, pooled, _ = pipeline.encode_prompt("a photo of a dog", do_classifier_free_guidance=False)
        image = pipeline.image_encoder(torch.ones(1, 3, 224, 224, dtype=kind)).image_embeds
        size = torch.tensor([[512, 512, 0, 0, 512, 512]], dtype=kind)
        added = {"text_embeds": pooled, "time_ids": size, "image_embeds": [image[:, None]]}
        drawn = pipeline.unet(noise, 500, encoder_hidden_states=text, added_cond_kwargs=added).sample
        picture = pipeline.vae.decode(drawn).sample
    assert torch.isfinite(picture).all()
    # As much noise as a trained U-Net predicts, within a factor of three.
    assert 0.3 < drawn.float().std() < 3


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_student_stays_finite(cache: Path, dtype: str) -> None:
    import torch

    parts = load_pixart_parts(locate(config(cache), "pixart"), dtype=dtype, device="cpu")
    kind = getattr(torch, dtype)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).to(kind)
    tokens = parts["tokenizer"]("a photo of a zebra", return_tensors="pt").input_ids
    with torch.no_grad():
        states = parts["text_encoder"](tokens).last_hidden_state
        drawn = parts["transformer"](
            noise,
            encoder_hidden_states=states,
            timestep=torch.tensor([500]),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample
    assert torch.isfinite(states).all()
    assert 0.3 < drawn[:, :4].float().std() < 3


def test_texts_end_where_the_encoders_look(cache: Path) -> None:
    from bottega.models.loading import load_tokenizer

    sdxl = locate(config(cache), "sdxl")
    for folder, padding in (("tokenizer", 49407), ("tokenizer_2", 0)):
        tokenizer = load_tokenizer(sdxl / folder)
        numbers = tokenizer("a zebra, ä", padding="max_length", max_length=77).input_ids
        assert len(numbers) == 77
        assert numbers[0] == 49406
        assert max(numbers) == 49407
        assert numbers[-1] == padding
    t5 = load_tokenizer(locate(config(cache), "pixart") / "tokenizer")
    assert t5("a dog").input_ids[-1] == t5.eos_token_id == 1
    assert t5.pad_token_id == 0


def test_the_single_file_and_the_lora_are_what_they_are_published_as(cache: Path) -> None:
    from bottega.generation.single_file import read_architecture
    from bottega.models.identify import identify

    checkpoint = cache / "checkpoints" / "sd_xl_base_1.0.safetensors"
    assert identify(checkpoint).family == "sdxl"
    # It has every tensor that the folder's configurations ask for, in its shape.
    architecture = read_architecture(checkpoint, locate(config(cache), "sdxl"))
    lora = read_header(cache / "loras" / "rehearsal_rank16.safetensors").tensors
    modules = {name.split(".")[0] for name in lora}
    parts = Counter("_".join(name.split("_")[:2]) for name in modules)
    # As kohya's trainer prints for SDXL: U-Net 722, text encoders 72 and 192.
    assert parts == {"lora_unet": 722, "lora_te1": 72, "lora_te2": 192}
    prefixes = {"lora_unet_": "unet", "lora_te1_text_model_": "text_encoder", "lora_te2_text_model_": "text_encoder_2"}
    for prefix, component in prefixes.items():
        for module in modules:
            if module.startswith(prefix):
                assert architecture.find(component, module.removeprefix(prefix))


def test_lpips_reads_its_folder(cache: Path) -> None:
    from bottega.models.perceptual import Lpips

    network = Lpips(cache / "lpips", "cpu")
    picture = np.zeros((1, 64, 64, 3), np.uint8)
    assert network(picture, picture)[0] == 0
    assert network(picture, picture + 200)[0] > 0


# --- values -----------------------------------------------------------------------------------------------------------


def test_values_follow_from_the_name_and_the_seed() -> None:
    import torch

    def values(seed: int, name: str) -> torch.Tensor:
        fill = fill_of(name, (64, 64))
        return torch.cat(list(NoiseSource(seed).pieces(name, 4096, fill, torch.float32)))

    assert torch.equal(values(0, "a.weight"), values(0, "a.weight"))
    assert not torch.equal(values(0, "a.weight"), values(0, "b.weight"))
    assert not torch.equal(values(0, "a.weight"), values(1, "a.weight"))
    assert abs(float(values(0, "a.weight").std()) * math.sqrt(64) - 1) < 0.05


def test_a_tensor_longer_than_the_block_of_noise_has_all_its_numbers_and_no_two_equal_rows() -> None:
    import torch

    shape = (2200, 4096)
    pieces = NoiseSource(0).pieces("x.weight", math.prod(shape), fill_of("x.weight", shape), torch.float16)
    matrix = torch.cat(list(pieces)).view(shape)
    assert len(torch.unique(matrix[:, :8], dim=0)) == shape[0]


# --- writing ----------------------------------------------------------------------------------------------------------


def test_what_is_whole_is_kept_and_what_is_torn_is_written_again(cache: Path, tmp_path: Path) -> None:
    request = RandomModelsRequest(tmp_path / "models", ("pixart",), "reduced")
    build(request)
    first, second = find_weights(locate(config(request.output), "pixart") / "text_encoder").files
    before = first.stat().st_mtime_ns
    content = second.read_bytes()
    second.write_bytes(content[:-1])
    report = build(request)
    assert report.written == len(content)
    assert report.kept > 0
    assert second.read_bytes() == content
    assert first.stat().st_mtime_ns == before
    # And two builds are equal to the byte.
    other = find_weights(locate(config(cache), "pixart") / "text_encoder").files
    assert [file.read_bytes() for file in other] == [first.read_bytes(), content]


def test_random_weights_never_come_among_other_files(tmp_path: Path) -> None:
    real = tmp_path / "hub" / "models--stabilityai--stable-diffusion-xl-base-1.0"
    real.mkdir(parents=True)
    request = RandomModelsRequest(tmp_path / "hub", ("clip",), "reduced")
    with pytest.raises(RequestError, match=r"an empty folder, or one with a rehearsal in it; this one has models--"):
        build(request)
    with pytest.raises(RequestError, match="no rehearsal to delete"):
        discard(tmp_path / "hub")
    assert real.is_dir()


def test_another_scale_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    build(RandomModelsRequest(tmp_path, ("structure_encoder",), "reduced"))
    with pytest.raises(RequestError, match="holds a rehearsal of scale reduced and seed 0, asked for are full and 0"):
        build(RandomModelsRequest(tmp_path, ("structure_encoder",), "full"))


def test_a_disk_that_is_too_small_is_found_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
    with pytest.raises(StorageError, match=r"are to be written and 0\.0 GB are free"):
        build(RandomModelsRequest(tmp_path / "new", ("structure_encoder",), "reduced"))
    assert not list((tmp_path / "new").glob("*.json"))


def test_real_weights_are_not_fetched_among_random_ones(cache: Path) -> None:
    from bottega.models.fetch import plan

    with pytest.raises(RequestError, match="holds models with random weights"):
        plan([], cache, [])


def test_deleting_takes_what_was_made_and_leaves_the_rest(tmp_path: Path) -> None:
    made = tmp_path / "models"
    build(RandomModelsRequest(made, ("structure_encoder", "lpips"), "reduced"), FILES)
    (made / "notes.txt").write_text("mine")
    linked = tmp_path / "real"
    linked.mkdir()
    (linked / "weights").write_text("real")
    (made / "models--linked--model").symlink_to(linked)
    assert discard(made) > 0
    assert sorted(path.name for path in made.iterdir()) == ["models--linked--model", "notes.txt"]
    assert (linked / "weights").read_text() == "real"


# --- known again ------------------------------------------------------------------------------------------------------


def test_every_file_and_folder_says_what_it_is(cache: Path) -> None:
    assert read_marker(cache).scale == "reduced"
    files = sorted(cache.rglob("*.safetensors"))
    assert files
    for file in files:
        assert has_random_weights([file])
    for snapshot in cache.glob("models--*/snapshots/*"):
        assert "noise" in json.loads((snapshot / MARKER).read_text())["what"]


def test_a_recipe_is_asked_which_of_its_models_are_random(cache: Path, published: Path) -> None:
    names: Mapping[str, str] = {"clip": str(published / "clip")}
    assert rehearsed_roles(config(cache, **names)) == ["sdxl", "ip_adapter", "pixart", "structure_encoder"]


def test_a_damaged_file_is_no_rehearsals(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 8)
    assert not has_random_weights([tmp_path / "model.safetensors"])


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_writes_says_what_and_deletes(tmp_path: Path) -> None:
    made = str(tmp_path / "models")
    arguments = ["rehearse", "--output", made, "--scale", "reduced", "--only", "structure_encoder,lpips"]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0
    row = json.loads(done.stdout)
    assert list(row["models"]) == ["structure_encoder", "lpips"]
    assert row["bytes_written"] > 9_000_000
    assert "were there" in CliRunner().invoke(app, arguments).stdout
    assert CliRunner().invoke(app, ["rehearse", "--output", made, "--discard"]).exit_code == 0
    assert not Path(made).exists()


def test_an_unknown_model_is_named_with_those_there_are(tmp_path: Path) -> None:
    from bottega.cli.main import main

    assert main(["models", "rehearse", "--output", str(tmp_path / "x"), "--only", "sdxxl"]) == 2
    assert not (tmp_path / "x").exists()
    with pytest.raises(RequestError, match="'sdxxl': no model of that name; there are sdxl, ip_adapter"):
        build(RandomModelsRequest(tmp_path / "x", ("sdxxl",)))


def test_the_tensors_of_an_adapter_are_numbered_as_published() -> None:
    unet = {"down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight": TensorInfo("F16", (8, 16))}
    tensors = catalogue.adapter_tensors(unet, {"projection_dim": 4})
    assert tensors["ip_adapter.1.to_k_ip.weight"].shape == (8, 16)
    assert tensors["image_proj.proj.weight"].shape == (64, 4)
