"""Of what is published, one set of weights in safetensors is chosen, with the small files beside it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bottega.models.published import choose
from bottega.runtime.errors import MissingError, RequestError

MB, GB = 10**6, 10**9
_CLIP_TOKENIZER = ("merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json")
_CLIP_MODEL = ("config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json", *_CLIP_TOKENIZER)
_T5_TOKENIZER = ("added_tokens.json", "special_tokens_map.json", "spiece.model", "tokenizer_config.json")
_NOISE = {".gitattributes": 1, "README.md": 1}


def _clip_part(folder: str, size: int) -> dict[str, int]:
    names = ("model.safetensors", "model.fp16.safetensors", "model.onnx", "flax_model.msgpack")
    return {f"{folder}/config.json": 1, **{f"{folder}/{n}": size // (2 if "fp16" in n else 1) for n in names}}


def _diffusers_part(folder: str, size: int) -> dict[str, int]:
    names = {"diffusion_pytorch_model.safetensors": size, "diffusion_pytorch_model.fp16.safetensors": size // 2}
    return {f"{folder}/config.json": 1, f"{folder}/model.onnx": size, **{f"{folder}/{n}": s for n, s in names.items()}}


def _tokenizer(folder: str, names: tuple[str, ...]) -> dict[str, int]:
    return {f"{folder}/{name}": 1 for name in names}


# What the repositories of the full recipe hold, as far as it bears on the choice; sizes roughly.
SDXL = {
    **_NOISE, "model_index.json": 1, "sd_xl_base_1.0.safetensors": 7 * GB,
    "sd_xl_offset_example-lora_1.0.safetensors": 50 * MB, "scheduler/scheduler_config.json": 1,
    **_clip_part("text_encoder", 492 * MB), **_clip_part("text_encoder_2", 2779 * MB),
    **_tokenizer("tokenizer", _CLIP_TOKENIZER), **_tokenizer("tokenizer_2", _CLIP_TOKENIZER),
    **_diffusers_part("unet", 10270 * MB), **_diffusers_part("vae", 335 * MB), **_diffusers_part("vae_1_0", 335 * MB),
    "vae_decoder/config.json": 1, "vae_decoder/model.onnx": 198 * MB,
}  # fmt: skip
ENCODERS = {
    f"{folder}/image_encoder/{name}": size
    for folder, size in (("sdxl_models", 3690 * MB), ("models", 2530 * MB))
    for name in ("config.json", "model.safetensors", "pytorch_model.bin")
}
ADAPTERS = {
    **_NOISE, **ENCODERS, "models/ip-adapter_sd15.safetensors": 45 * MB, "sdxl_models/ip-adapter_sdxl.bin": 703 * MB,
    "sdxl_models/ip-adapter_sdxl.safetensors": 703 * MB, "sdxl_models/ip-adapter_sdxl_vit-h.safetensors": 698 * MB,
    "sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors": 848 * MB,
}  # fmt: skip
PIXART = {
    **_NOISE, "model_index.json": 1, "scheduler/scheduler_config.json": 1, **_tokenizer("tokenizer", _T5_TOKENIZER),
    "text_encoder/config.json": 1, "text_encoder/model.safetensors.index.json": 1,
    "text_encoder/model-00001-of-00002.safetensors": 9990 * MB,
    "text_encoder/model-00002-of-00002.safetensors": 9060 * MB, "transformer/config.json": 1,
    "transformer/diffusion_pytorch_model.safetensors": 2440 * MB, "vae/config.json": 1,
    "vae/diffusion_pytorch_model.safetensors": 335 * MB,
}  # fmt: skip
VAE = {
    **_NOISE, "config.json": 1, "diffusion_pytorch_model.bin": 335 * MB,
    "diffusion_pytorch_model.safetensors": 335 * MB, "sdxl.vae.safetensors": 335 * MB, "sdxl_vae.safetensors": 335 * MB,
}  # fmt: skip
CLIP = {**_NOISE, **dict.fromkeys(_CLIP_MODEL, 1), "pytorch_model.bin": 1710 * MB, "tf_model.h5": 1710 * MB}
DINO = {
    **_NOISE, "config.json": 1, "model.safetensors": 343 * MB, "preprocessor_config.json": 1, "pytorch_model.bin": 1,
}  # fmt: skip

READ = {
    "stabilityai/stable-diffusion-xl-base-1.0": (SDXL, "", {
        "model_index.json", "scheduler/scheduler_config.json",
        *(f"{part}/{name}" for part in ("tokenizer", "tokenizer_2") for name in _CLIP_TOKENIZER),
        *(f"{part}/{name}" for part in ("text_encoder", "text_encoder_2")
          for name in ("config.json", "model.fp16.safetensors")),
        *(f"{part}/{name}" for part in ("unet", "vae")
          for name in ("config.json", "diffusion_pytorch_model.fp16.safetensors")),
    }),
    "h94/IP-Adapter": (ADAPTERS, "sdxl_models", {
        "sdxl_models/ip-adapter_sdxl.safetensors", "sdxl_models/image_encoder/config.json",
        "sdxl_models/image_encoder/model.safetensors",
    }),
    "PixArt-alpha/PixArt-XL-2-512x512": (PIXART, "", set(PIXART) - set(_NOISE)),
    "madebyollin/sdxl-vae-fp16-fix": (VAE, "", {"config.json", "diffusion_pytorch_model.safetensors"}),
    "openai/clip-vit-large-patch14": (CLIP, "", set(_CLIP_MODEL)),
    "facebook/dino-vitb8": (DINO, "", {"config.json", "model.safetensors", "preprocessor_config.json"}),
}  # fmt: skip


@pytest.mark.parametrize("repository", READ)
def test_exactly_the_files_that_are_read_are_chosen(repository: str) -> None:
    sizes, inside, read = READ[repository]
    assert set(choose(repository, inside, sizes).files) == read


@pytest.mark.parametrize("repository", READ)
def test_the_docs_second_way_fetches_the_same_files(repository: str) -> None:
    """`hf download`, for those who prefer the hub's own tool."""
    text = (Path(__file__).parents[2] / "docs" / "models-and-licences.md").read_text("utf-8").replace("\\\n", " ")
    command = re.search(rf"^hf download {repository} (.*)$", text, flags=re.MULTILINE)
    assert command is not None
    assert set(command[1].split()) == READ[repository][2]


def test_an_adapter_named_vit_h_comes_with_the_encoder_of_the_other_folder() -> None:
    name = "sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors"
    chosen = choose("h94/IP-Adapter", name, ADAPTERS)
    assert chosen.kind == "ip_adapter"
    assert set(chosen.files) == {
        name, "models/image_encoder/config.json", "models/image_encoder/model.safetensors",
    }  # fmt: skip


def test_several_adapters_without_a_known_name_must_be_told_apart() -> None:
    two = {f"ip-adapter-{x}.safetensors": 1 for x in "ab"} | {"image_encoder/config.json": 1}
    with pytest.raises(RequestError, match=r"holds 2 IP-Adapters; name one of them, such as o/n/ip-adapter-a"):
        choose("o/n", "", two)


def test_a_light_pipeline_is_taken_in_its_plain_precision_and_a_heavy_one_in_half() -> None:
    index = {"model_index.json": 1}
    for size, ending in ((1 * GB, ".safetensors"), (5 * GB, ".fp16.safetensors")):
        chosen = choose("o/n", "", index | _diffusers_part("unet", size)).files
        assert [f for f in chosen if f.endswith(".safetensors")] == [f"unet/diffusion_pytorch_model{ending}"]


def test_weights_that_are_here_already_are_taken_before_a_smaller_variant() -> None:
    plain = [f"{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "vae")]
    plain += [f"{part}/model.safetensors" for part in ("text_encoder", "text_encoder_2")]
    assert set(choose("o/n", "", SDXL, already_here=set(plain)).files) >= set(plain)
    assert not set(choose("o/n", "", SDXL, already_here=set(plain)).files) & {p.replace(".s", ".fp16.s") for p in plain}


def test_shards_are_taken_with_their_index_and_refused_where_one_is_absent() -> None:
    shards = {f"model-0000{i}-of-00003.safetensors": 1 for i in (1, 2, 3)}
    sizes = {"config.json": 1, "model.safetensors.index.json": 1, **shards}
    assert set(choose("o/n", "", sizes).files) == set(sizes)
    del sizes["model-00002-of-00003.safetensors"]
    with pytest.raises(MissingError, match="lacks shards of its weights"):
        choose("o/n", "", sizes)


@pytest.mark.parametrize(
    "sizes",
    [
        {"config.json": 1, "pytorch_model.bin": 1},
        {"model_index.json": 1, "unet/config.json": 1, "unet/diffusion_pytorch_model.bin": 1},
        {"ip-adapter.bin": 1, "image_encoder/config.json": 1},
    ],
)
def test_what_is_published_pickled_only_is_refused_for_what_it_is(sizes: dict[str, int]) -> None:
    with pytest.raises(RequestError, match="has only pickled ones"):
        choose("o/n", "", sizes)


def test_a_repository_without_a_known_layout_says_what_was_looked_for() -> None:
    with pytest.raises(MissingError, match=r"neither a pipeline \(model_index\.json\), a model"):
        choose("o/n", "", {"README.md": 1, "weights/model.safetensors": 1})
