"""Model folders as people have them: links to the miniature's weights, and small files of the same shapes.

Each builder writes a recipe beside the model that names it, and `bottega models verify` reads both.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from tests.field.case import Build, Expectation, FieldCase

from bottega.models.names import resolve

WEIGHTS = resolve("bottega:miniature/weights")
SCHEDULER = "scheduler/scheduler_config.json"
VERIFY = ("models", "verify", "{input}/recipe.yaml")
RUN = ("run", "{input}/recipe.yaml", "--directory", "{output}")
WHOLE = Expectation(says=("verdict: no fault found",))


def write_recipe(given: Path, **models: Path) -> None:
    """A recipe that names these models by their roles, and no other."""
    lines = [f"  {role}: {json.dumps(str(place))}" for role, place in models.items()]
    (given / "recipe.yaml").write_text("\n".join(["name: field", "models:", *lines, ""]), encoding="utf-8")


def link_all(source: Path, target: Path, *, without: tuple[str, ...] = ()) -> Path:
    """Links to every file of a folder, but for some; the folder that they are in."""
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if path.is_file() and name.as_posix() not in without:
            link(path, target / name)
    return target


def link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source)


def changed_json(source: Path, target: Path, change: Mapping[str, Any], remove: tuple[str, ...] = ()) -> None:
    """A copy of a JSON file with other values."""
    content = {**json.loads(source.read_text(encoding="utf-8")), **change}
    for name in remove:
        content.pop(name, None)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(content, indent=2), encoding="utf-8")


# --- other forms of a model -----------------------------------------------------------------------------------------

_ONE_FILE = (
    "model.diffusion_model.input_blocks.0.0.weight",
    "first_stage_model.decoder.conv_in.weight",
    "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight",
)


def one_file(given: Path, *, named: str) -> None:
    """A checkpoint of Civitai's kind, of which a few tensors are enough to know it by."""
    file = given / "sd_xl_base_1.0.safetensors"
    save_file({name: np.zeros((4, 4), np.float16) for name in _ONE_FILE}, file)
    write_recipe(given, sdxl=given / named)


def authors_pixart(given: Path) -> None:
    """The authors' release: the transformer pickled, T5 and the autoencoder in folders of their own."""
    place = given / "pixart"
    place.mkdir()
    (place / "PixArt-XL-2-512x512.pth").write_bytes(b"PK\x03\x04" + bytes(400))
    link_all(WEIGHTS / "pixart" / "text_encoder", place / "t5_ckpts" / "t5-v1_1-xxl")
    link_all(WEIGHTS / "pixart" / "vae", place / "sd-vae-ft-ema")
    write_recipe(given, pixart=place)


def comfy(given: Path, *, named: str) -> None:
    """ComfyUI's folders: adapter and encoder apart, the encoder without its configuration."""
    models = given / "ComfyUI" / "models"
    adapter = WEIGHTS / "ip_adapter" / "ip_adapter.safetensors"
    encoder = WEIGHTS / "ip_adapter" / "image_encoder" / "model.safetensors"
    link(adapter, models / "ipadapter" / "ip-adapter_sdxl.safetensors")
    link(encoder, models / "clip_vision" / "CLIP-ViT-bigG-14.safetensors")
    write_recipe(given, ip_adapter=given / "ComfyUI" / named)


def adapters_repository(given: Path, *, named: str) -> None:
    """The whole repository of the adapters, with pickled twins and the models of other families."""
    place = given / "IP-Adapter"
    for name in ("ip-adapter_sdxl", "ip-adapter_sdxl_vit-h"):
        link(WEIGHTS / "ip_adapter" / "ip_adapter.safetensors", place / "sdxl_models" / f"{name}.safetensors")
        (place / "sdxl_models" / f"{name}.bin").write_bytes(b"PK\x03\x04")
    for folder in ("models", "sdxl_models"):
        link_all(WEIGHTS / "ip_adapter" / "image_encoder", place / folder / "image_encoder")
    (place / "models" / "ip-adapter_sd15.bin").write_bytes(b"PK\x03\x04")
    write_recipe(given, ip_adapter=place / named)


def name_the_folder_inside(given: Path) -> None:
    write_recipe(given, ip_adapter=given / "IP-Adapter" / "sdxl_models")


def name_the_twin(given: Path) -> None:
    write_recipe(given, ip_adapter=given / "IP-Adapter" / "sdxl_models" / "ip-adapter_sdxl.safetensors")


def without_lfs(given: Path, *, file: str, cloned: bool) -> None:
    """A clone in which git-lfs was not installed: the pointer of a large file in its place."""
    place = link_all(WEIGHTS / "sdxl", given / "sdxl", without=(file,))
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'1' * 64}\nsize 5135149760\n"
    (place / file).write_text(pointer)
    if cloned:
        (place / ".git").mkdir()
    write_recipe(given, sdxl=place)


def get_the_large_file(given: Path) -> None:
    name = "unet/diffusion_pytorch_model.safetensors"
    (given / "sdxl" / name).unlink()
    link(WEIGHTS / "sdxl" / name, given / "sdxl" / name)


def one_too_high(given: Path) -> None:
    link_all(WEIGHTS / "pixart", given / "downloads" / "PixArt-XL-2-512x512")
    write_recipe(given, pixart=given / "downloads")


def name_the_model(given: Path) -> None:
    write_recipe(given, pixart=given / "downloads" / "PixArt-XL-2-512x512")


# --- schedulers and configurations ------------------------------------------------------------------------------------


def scheduler(given: Path, *, remove: tuple[str, ...] = (), name: str = "sdxl", **change: Any) -> None:
    """The teacher with another scheduler; `_class` stands for `_class_name`."""
    place = link_all(WEIGHTS / "sdxl", given / name, without=(SCHEDULER,))
    if "class_name" in change:
        change["_class_name"] = change.pop("class_name")
    changed_json(WEIGHTS / "sdxl" / SCHEDULER, place / SCHEDULER, change, remove)
    write_recipe(given, sdxl=place)


def base_scheduler(given: Path, **change: Any) -> None:
    """The student's base with another scheduler."""
    place = link_all(WEIGHTS / "pixart", given / "pixart", without=(SCHEDULER,))
    changed_json(WEIGHTS / "pixart" / SCHEDULER, place / SCHEDULER, change)
    write_recipe(given, pixart=place)


def configuration(given: Path, *, model: str, part: str, remove: tuple[str, ...] = (), **change: Any) -> None:
    """A model whose configuration is of other weights."""
    file = f"{part}/config.json"
    place = link_all(WEIGHTS / model, given / model, without=(file,))
    changed_json(WEIGHTS / model / file, place / file, change, remove)
    write_recipe(given, **{model: place})


_OF_2023 = {
    "_class_name": "Transformer2DModel",
    "_diffusers_version": "0.22.0.dev0",
    "double_self_attention": False,
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "use_linear_projection": False,
}


def more_weights(given: Path) -> None:
    """PixArt for 1024 pixels by its weights, for 512 by its configuration."""
    file = "transformer/diffusion_pytorch_model.safetensors"
    place = link_all(WEIGHTS / "pixart", given / "pixart", without=(file,))
    tensors = load_file(WEIGHTS / "pixart" / file)
    for part in ("resolution_embedder", "aspect_ratio_embedder"):
        for layer in ("linear_1", "linear_2"):
            tensors[f"adaln_single.emb.{part}.{layer}.weight"] = np.zeros((8, 8), np.float16)
    save_file(tensors, place / file, metadata={"format": "pt"})
    write_recipe(given, pixart=place)


def overflowing(given: Path, *, side: str) -> None:
    """An autoencoder of which one side leaves the range of float16 inside a block and comes back: no fault here."""
    file, config = "vae/diffusion_pytorch_model.safetensors", "vae/config.json"
    place = link_all(WEIGHTS / "sdxl", given / "sdxl", without=(file, config))
    tensors = {name: values.astype(np.float32) for name, values in load_file(WEIGHTS / "sdxl" / file).items()}
    first = min(name for name in tensors if name.startswith(side) and name.endswith("conv.0.weight"))
    for name in (first, first.replace("weight", "bias")):
        tensors[name] *= 2.0**15
    tensors[first.replace("conv.0.", "conv.2.")] /= 2.0**15
    changed_json(WEIGHTS / "sdxl" / config, place / config, {"force_upcast": False})
    save_file(tensors, place / file, metadata={"format": "pt"})
    write_recipe(given, sdxl=place)


def another_encoder(given: Path) -> None:
    """The first text encoder in the place of one of another width."""
    place = link_all(WEIGHTS / "sdxl", given / "sdxl")
    shutil.rmtree(place / "text_encoder_2")
    link_all(WEIGHTS / "pixart" / "text_encoder", place / "text_encoder_2")
    write_recipe(given, sdxl=place)


def without_unet(given: Path) -> None:
    """A copy that broke off before the U-Net; its index names one."""
    place = link_all(WEIGHTS / "sdxl", given / "sdxl")
    for path in (place / "unet").iterdir():
        os.unlink(path)
    write_recipe(given, sdxl=place)


# --- the cases --------------------------------------------------------------------------------------------------------


def refused(name: str, build: Build, *says: str, mend: Build | None = None) -> FieldCase:
    """A model of which `verify` names the fault."""
    never = ("fetch it again", "put the model")
    return FieldCase(f"model_{name}", build, VERIFY, 1, Expectation(says=says, never=never), mend)


def taken(name: str, build: Build, *says: str) -> FieldCase:
    """A model that can be used."""
    return FieldCase(f"model_{name}", build, VERIFY, 0, Expectation(says=says) if says else WHOLE)


def before_the_work(name: str, build: Build, *says: str) -> FieldCase:
    """A model for which `run` refuses to begin."""

    def nothing_made(given: Path, made: Path) -> None:
        assert not [path for path in made.rglob("*") if path.is_file() and path.name != ".lock"]

    return FieldCase(f"run_{name}", build, RUN, 2, Expectation(says=says, check=nothing_made))


def _class(name: str, **change: Any) -> Callable[[Path], None]:
    return partial(scheduler, class_name=name, **change)


EDM = _class("EDMDPMSolverMultistepScheduler", sigma_data=0.5, sigma_min=0.002, sigma_max=80.0)
_ALL_SIZES = partial(configuration, model="pixart", part="transformer", sample_size=128, use_additional_conditions=True)
_LFS_FILE = "unet/diffusion_pytorch_model.safetensors"

CASES: tuple[FieldCase, ...] = (
    refused("one_file", partial(one_file, named="sd_xl_base_1.0.safetensors"), "a single-file checkpoint", "convert"),
    refused("folder_of_one_file", partial(one_file, named=""), "a single-file checkpoint", "bottega models convert"),
    refused("authors_pixart", authors_pixart, "own release of PixArt", "fetch PixArt-alpha/PixArt-XL-2-512x512"),
    refused("comfy_root", partial(comfy, named=""), "ComfyUI", "fetch h94/IP-Adapter/sdxl_models"),
    refused(
        "comfy_file", partial(comfy, named="models/ipadapter/ip-adapter_sdxl.safetensors"), "without its image encoder"
    ),
    refused(
        "adapters_root",
        partial(adapters_repository, named=""),
        "the whole repository",
        "IP-Adapter/sdxl_models",
        mend=name_the_folder_inside,
    ),
    refused(
        "adapters_pickled",
        partial(adapters_repository, named="sdxl_models/ip-adapter_sdxl.bin"),
        "lies beside it: name ",
        "ip-adapter_sdxl.safetensors",
        mend=name_the_twin,
    ),
    taken("adapters_folder", partial(adapters_repository, named="sdxl_models")),
    refused("one_too_high", one_too_high, "name the folder inside it", "PixArt-XL-2-512x512", mend=name_the_model),
    refused(
        "lfs_clone",
        partial(without_lfs, file=_LFS_FILE, cloned=True),
        "a git-lfs pointer in place of the file of 5.14 GB",
        "lfs pull",
        mend=get_the_large_file,
    ),
    refused("lfs_copy", partial(without_lfs, file=_LFS_FILE, cloned=False), "bottega models fetch ORG/NAME"),
    refused("lfs_config", partial(without_lfs, file="unet/config.json", cloned=True), "a git-lfs pointer"),
    taken("scheduler_leading", _class("EulerDiscreteScheduler", timestep_spacing="leading", use_karras_sigmas=False)),
    taken("scheduler_trailing", _class("EulerAncestralDiscreteScheduler", timestep_spacing="trailing")),
    taken("scheduler_v", partial(scheduler, prediction_type="v_prediction")),
    taken(
        "scheduler_zero_snr",
        partial(scheduler, prediction_type="v_prediction", rescale_betas_zero_snr=True),
        "zero terminal SNR",
        "1 warning",
    ),
    taken("scheduler_other_betas", partial(scheduler, beta_schedule="linear", beta_end=0.02), "wrong noise levels"),
    taken("scheduler_distilled", _class("LCMScheduler"), "distilled to a few steps"),
    taken("named_v", partial(scheduler, name="noob-vpred"), "it predicts v_prediction, its scheduler says epsilon"),
    refused("scheduler_edm", EDM, "a model of EDM", "would draw noise"),
    refused("scheduler_edm_euler", _class("EDMEulerScheduler"), "a model of EDM"),
    refused("scheduler_flow", _class("FlowMatchEulerDiscreteScheduler", shift=3.0), "rectified flow"),
    refused("scheduler_flow_sigmas", partial(scheduler, use_flow_sigmas=True), "rectified flow"),
    refused("scheduler_flow_prediction", partial(scheduler, prediction_type="flow_prediction"), "rectified flow"),
    refused("scheduler_continuous", partial(scheduler, timestep_type="continuous"), "continuous noise levels"),
    refused("base_of_flow", partial(base_scheduler, _class_name="FlowMatchEulerDiscreteScheduler"), "rectified flow"),
    refused("base_of_zero_snr", partial(base_scheduler, rescale_betas_zero_snr=True), "not supported"),
    refused("pixart_1024_by_config", _ALL_SIZES, "embedders of size and aspect", "the weights have no such embedders"),
    refused(
        "pixart_128",
        partial(
            configuration,
            model="pixart",
            part="transformer",
            sample_size=128,
            remove=("use_additional_conditions",),
        ),
        "embedders of size and aspect",
    ),
    refused("pixart_1024_by_weights", more_weights, "no embedders of size"),
    refused(
        "pixart_deeper",
        partial(configuration, model="pixart", part="transformer", num_layers=28),
        "28 blocks (num_layers), the weights have 12",
    ),
    taken(
        "pixart_of_2023",
        partial(configuration, model="pixart", part="transformer", remove=("interpolation_scale",), **_OF_2023),
    ),
    refused(
        "unet_wider",
        partial(configuration, model="sdxl", part="unet", block_out_channels=[96, 128, 192]),
        "config.json and weights don't make a UNet2DConditionModel",
    ),
    refused(
        "unet_without_sizes",
        partial(configuration, model="sdxl", part="unet", addition_embed_type=None),
        "no place for by config.json",
    ),
    refused(
        "vae_of_16_channels",
        partial(configuration, model="sdxl", part="vae", latent_channels=16),
        "latent_channels 16, the weights have 4",
    ),
    refused("another_text_encoder", another_encoder, "text_encoder_2"),
    refused("unet_missing", without_unet, "sdxl/unet: no weights"),
    taken("decoder_overflows", partial(overflowing, side="decoder.")),
    taken("encoder_overflows", partial(overflowing, side="encoder.")),
    before_the_work("scheduler_edm", EDM, "a model of EDM"),
    before_the_work("pixart_1024_by_config", _ALL_SIZES, "the weights have no such embedders"),
    before_the_work("one_file", partial(one_file, named=""), "bottega models convert"),
)
