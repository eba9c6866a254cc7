"""The files of the miniature's variants: LoRAs in two layouts, differences, and the checkpoints made of them.

    loras/ink_outline.safetensors         diffusers' layout
    loras/ink_outline.kohya.safetensors   the same LoRA as kohya's trainer writes it
    checkpoints/ink.safetensors           a difference to `sdxl/`; `write_checkpoint` merges it into a whole checkpoint

A difference holds tensors as `builder.variants.train_variant` returns them. Its header names the base by its hash: on
other weights it would draw rubbish, so it is refused there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file

import bottega
from bottega.generation.lora.architecture import Architecture, flat, original_names
from bottega.generation.single_file import save_single_file
from bottega.miniature.builder import architectures
from bottega.miniature.builder.variants import NETWORKS, PLANS, SCENES_FROM, Variant, VariantPlan, load_base
from bottega.miniature.effects import EFFECTS, Effect
from bottega.miniature.scenes import scene
from bottega.models.hashes import file_hash
from bottega.models.weights import find_weights
from bottega.runtime.errors import MissingError, RequestError
from bottega.runtime.files import atomic_path, sha256_json, write_text

Checkpoint = Literal["base", "ink", "v"]

LORA_NAMES: Mapping[str, str] = {"outline": "ink_outline", "sepia": "sepia_tone"}
_PREFIXES = {"unet": "lora_unet", "text_encoder": "lora_te1_text_model", "text_encoder_2": "lora_te2_text_model"}
_TITLES: Mapping[Checkpoint, str] = {
    "base": "Miniature SDXL",
    "ink": "Miniature anime, ink and flat colour",
    "v": "Miniature SDXL, v-prediction",
}
_MARKERS: Mapping[Checkpoint, tuple[str, ...]] = {"base": (), "ink": (), "v": ("v_pred", "ztsnr")}

Tensors = dict[str, torch.Tensor]


def base_digest(weights: Path) -> str:
    """A hash of the networks under `weights/sdxl` that a variant is a difference to."""
    found = {}
    for name in NETWORKS:
        for file in find_weights(weights / "sdxl" / name).files:
            found[f"{name}/{file.name}"] = file_hash(file)
    return sha256_json(found)


def write_variant(
    name: Variant, tensors: Tensors, weights: Path, output: Path, plan: VariantPlan | None = None
) -> list[Path]:
    """Write a variant's files under `output`; returns them.

    Args:
        name: which one.
        tensors: its difference.
        weights: model folders that it was trained on.
        output: folder that `loras/` or `checkpoints/` is written into.
        plan: how it was trained; None: `PLANS`.
    """
    plan = plan or PLANS[name]
    digest = base_digest(weights)
    if name in LORA_NAMES:
        modules = Architecture.of_folder(weights / "sdxl").components["unet"]
        return _write_lora(EFFECTS[name], tensors, digest, plan, output / "loras", modules)
    folder = output / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    header = {"format": "pt", "bottega.difference": name, "bottega.base": digest, "bottega.rank": str(plan.rank)}
    _save(path, tensors, header)
    write_text(folder / "README.md", _CHECKPOINTS_CARD)
    return [path]


# --- LoRAs ------------------------------------------------------------------------------------------------------------


def _write_lora(
    effect: Effect, tensors: Tensors, digest: str, plan: VariantPlan, folder: Path, modules: Iterable[str]
) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    name = LORA_NAMES[effect.name]
    header = lora_metadata(effect, digest, plan)
    in_diffusers, in_kohya = folder / f"{name}.safetensors", folder / f"{name}.kohya.safetensors"
    _save(in_diffusers, tensors, header)
    _save(in_kohya, kohya(tensors, plan.rank, modules), header)
    write_text(folder / "README.md", _LORAS_CARD)
    return [in_diffusers, in_kohya]


def kohya(tensors: Mapping[str, torch.Tensor], alpha: float, modules: Iterable[str]) -> Tensors:
    """A LoRA in diffusers' layout -> the names that kohya's SDXL trainer gives, the U-Net's after the original code.

    Args:
        tensors: the LoRA.
        alpha: the same for all of its modules.
        modules: all of the U-Net, for the original code counts its blocks.
    """
    stems = {key.removesuffix(".lora_A.weight") for key in tensors if key.endswith(".lora_A.weight")}
    original = original_names(modules)
    found: Tensors = {}
    for stem in sorted(stems):
        component, _, module = stem.partition(".")
        name = original.get(module, module) if component == "unet" else module
        key = f"{_PREFIXES[component]}_{flat(name)}"
        found[f"{key}.lora_down.weight"] = tensors[f"{stem}.lora_A.weight"]
        found[f"{key}.lora_up.weight"] = tensors[f"{stem}.lora_B.weight"]
        found[f"{key}.alpha"] = torch.tensor(float(alpha), dtype=torch.float16)
    return found


def lora_metadata(effect: Effect, digest: str, plan: VariantPlan) -> dict[str, str]:
    """A header as kohya's trainer fills it in, with the parts of the model specification that describe a LoRA."""
    name = LORA_NAMES[effect.name]
    tags = Counter({effect.trigger: plan.scenes})
    for row in range(SCENES_FROM, SCENES_FROM + plan.scenes):
        tags.update(tag.strip() for tag in scene(row).caption(row).split(","))
    side = architectures.PICTURE
    return {
        "format": "pt",
        "ss_output_name": name,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(plan.rank),
        "ss_network_alpha": str(float(plan.rank)),
        "ss_network_args": json.dumps({"conv_dim": str(plan.rank), "conv_alpha": str(float(plan.rank))}),
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_sd_model_name": "bottega miniature sdxl",
        "ss_sd_model_hash": digest,
        "ss_resolution": f"({side}, {side})",
        "ss_num_train_images": str(plan.scenes),
        "ss_max_train_steps": str(plan.steps),
        "ss_learning_rate": str(plan.learning_rate),
        "ss_mixed_precision": "bf16",
        "ss_tag_frequency": json.dumps({f"1_{effect.trigger}": dict(tags.most_common(100))}),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.title": f"Miniature {effect.trigger}",
        "modelspec.author": f"bottega {bottega.__version__}",
        "modelspec.license": "Apache-2.0",
        "modelspec.resolution": f"{side}x{side}",
        "modelspec.prediction_type": "epsilon",
        "modelspec.trigger_phrase": effect.trigger,
    }


# --- checkpoints ------------------------------------------------------------------------------------------------------


def write_checkpoint(name: Checkpoint, weights: Path, output: Path, differences: Path | None = None) -> None:
    """Write a whole checkpoint of SDXL as one file in the original key layout.

    Args:
        name: `base`, or a difference under `checkpoints` that is merged into it.
        weights: model folders.
        output: the new `.safetensors` file.
        differences: folder that holds `checkpoints/`; None: `weights`.

    Raises:
        MissingError: there is no such difference.
        RequestError: the difference was made for other weights, or the file is there.
    """
    if output.exists():
        raise RequestError(f"a checkpoint is written to a new file, {output} is there; name another")
    base = load_base(weights)
    if name != "base":
        apply_difference(base.networks(), read_difference(differences or weights, name, base_digest(weights)))
    header = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-xl-v1-base",
        "modelspec.title": _TITLES[name],
        "modelspec.author": f"bottega {bottega.__version__}",
        "modelspec.license": "Apache-2.0",
        "modelspec.resolution": f"{architectures.PICTURE}x{architectures.PICTURE}",
        "modelspec.prediction_type": "v" if name == "v" else "epsilon",
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    save_single_file(output, {**base.networks(), "vae": base.vae}, metadata=header, markers=_MARKERS[name])


def read_difference(folder: Path, name: str, base: str) -> Tensors:
    """The difference of that name to the weights of the digest `base`; errors as of `write_checkpoint`."""
    path = folder / "checkpoints" / f"{name}.safetensors"
    command = f"bottega miniature train-variants {name} --output {folder}"
    if not path.exists():
        raise MissingError(f"{path}: there is no such difference; make it: {command}")
    with safe_open(path, "pt") as file:
        header = file.metadata() or {}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (the file is no dict)
    if header.get("bottega.base") != base:
        raise RequestError(
            f"{path}: a difference belongs to the weights it was trained on, those in use are others; make it again: "
            f"{command} --weights WEIGHTS"
        )
    return tensors


@torch.no_grad()
def apply_difference(networks: Mapping[str, torch.nn.Module], tensors: Mapping[str, torch.Tensor]) -> None:
    """Add a difference to the networks' weights."""
    parameters: dict[str, torch.Tensor] = {}
    for network, module in networks.items():
        for name, parameter in module.named_parameters():
            parameters[f"{network}.{name}"] = parameter
    for key, value in tensors.items():
        if key.endswith(".diff"):
            parameters[key.removesuffix(".diff")].add_(value.float())
        elif key.endswith(".lora_B.weight"):
            stem = key.removesuffix(".lora_B.weight")
            down = tensors[f"{stem}.lora_A.weight"].float()
            weight = parameters[f"{stem}.weight"]
            weight.add_((value.float().flatten(1) @ down.flatten(1)).view(weight.shape))


def _save(path: Path, tensors: Tensors, header: Mapping[str, str]) -> None:
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=dict(header))


_LORAS_CARD = """---
license: apache-2.0
library_name: diffusers
---
# LoRAs of the miniature SDXL

Two LoRAs of U-Net and both text encoders, each in diffusers' layout and in kohya's: `ink_outline` draws a line around
every object, `sepia_tone` draws everything in brown. Trained with peft by `bottega miniature train-variants` on drawn
truths (`bottega.miniature.effects`), judged by `bottega miniature gate-variants` on scenes held out; the figures stand
in `gates.json`. Of use with the weights in `sdxl` only, whose hash is in the header.
"""

_CHECKPOINTS_CARD = """---
license: apache-2.0
library_name: diffusers
---
# Differences to the miniature SDXL

`ink.safetensors` is a low-rank difference that draws ink lines and flat colours; `v.safetensors` makes the network
predict v under a schedule with zero terminal SNR. `bottega miniature checkpoint ink --output FILE` merges one into the
weights in `sdxl` and writes a whole checkpoint in the original key layout. Trained by `bottega miniature
train-variants`, judged by `bottega miniature gate-variants`; the figures stand in `gates.json`.
"""
