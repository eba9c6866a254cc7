"""What is published as single files, for a rehearsal: SDXL's checkpoint, a LoRA of it, and LPIPS.

They are written as the models' folders are (`models.rehearsal`): random values, tensor by tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from bottega.generation.lora.architecture import original_names
from bottega.generation.single_file import original_shapes
from bottega.models.rehearsal.build import FilePlan
from bottega.models.rehearsal.catalogue import Contents, Header, Tensors, sdxl_networks, tensors_of
from bottega.models.rehearsal.configurations import Scale
from bottega.models.rehearsal.writing import WeightFile
from bottega.models.weights import TensorInfo

CHECKPOINT = "checkpoints/sd_xl_base_1.0.safetensors"
LORA = "loras/rehearsal_rank16.safetensors"
LPIPS = "lpips"
RANK = 16

_LORA_PREFIXES = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
_LORA_LAYERS: Mapping[str, re.Pattern[str]] = {
    "unet": re.compile(r".*\.attentions\..*"),
    "text_encoder": re.compile(r".*encoder\.layers\..*"),
    "text_encoder_2": re.compile(r".*encoder\.layers\..*"),
}
"""Where kohya's `networks.lora` puts its matrices by default: all that multiply within attention blocks and layers."""

_SAVED_BESIDE: Tensors = {
    "conditioner.embedders.0.transformer.text_model.embeddings.position_ids": TensorInfo("I64", (1, 77)),
    "conditioner.embedders.1.model.logit_scale": TensorInfo("F32", ()),
}
"""What the original code saved and no picture depends on."""


def _checkpoint(scale: Scale, header: Header) -> Contents:
    """sd_xl_base_1.0.safetensors: all four networks in one file, in fp16."""
    found: Tensors = dict(_SAVED_BESIDE)
    for network in sdxl_networks(scale):
        shapes = {name: tensor.shape for name, tensor in tensors_of(network, scale).items()}
        for name, shape in original_shapes(network.folder, shapes).items():
            found[name] = TensorInfo("F16", shape)
    metadata = {
        **header,
        "modelspec.architecture": "stable-diffusion-xl-v1-base",
        "modelspec.prediction_type": "epsilon",
    }
    return [WeightFile(CHECKPOINT, found, metadata)]


def _lora(scale: Scale, header: Header) -> Contents:
    """A LoRA of the U-Net and both text encoders as kohya's trainer writes it, in fp16."""
    found: Tensors = {}
    for network in sdxl_networks(scale):
        if network.folder in _LORA_PREFIXES:
            found |= _lora_tensors(network.folder, tensors_of(network, scale))
    metadata = {
        **header,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(RANK),
        "ss_network_alpha": str(RANK),
        "ss_base_model_version": "sdxl_base_v1-0",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
    }
    return [WeightFile(LORA, found, metadata)]


def _lora_tensors(part: str, tensors: Tensors) -> Tensors:
    layers = {name.removesuffix(".weight"): tensor.shape for name, tensor in tensors.items() if _is_layer(part, name)}
    original = original_names(_modules(tensors)) if part == "unet" else {}
    found: Tensors = {}
    for layer, shape in layers.items():
        # kohya names a text encoder's modules after CLIPTextModel, within which `text_model` is the first.
        name = original.get(layer, layer)
        key = f"{_LORA_PREFIXES[part]}_{name.replace('.', '_')}"
        found[f"{key}.alpha"] = TensorInfo("F16", ())
        found[f"{key}.lora_down.weight"] = TensorInfo("F16", (RANK, *shape[1:]))
        found[f"{key}.lora_up.weight"] = TensorInfo("F16", (shape[0], RANK, *(1 for _ in shape[2:])))
    return found


def _is_layer(part: str, name: str) -> bool:
    """Whether a tensor is the matrix of a layer that is adapted; norms have a weight too, of one axis."""
    is_matrix = name.endswith(".weight") and "norm" not in name
    return is_matrix and _LORA_LAYERS[part].fullmatch(name) is not None


def _modules(tensors: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name.rpartition(".")[0] for name in tensors))


_ALEXNET: Mapping[int, tuple[int, ...]] = {
    0: (64, 3, 11, 11),
    3: (192, 64, 5, 5),
    6: (384, 192, 3, 3),
    8: (256, 384, 3, 3),
    10: (256, 256, 3, 3),
}
"""torchvision's AlexNet (Krizhevsky, arXiv 1404.5997): the number of each convolution in `features`, and its shape."""


def _lpips(scale: Scale, header: Header) -> Contents:
    """LPIPS 0.1: AlexNet's convolutions under torchvision's names, and the linear layers under LPIPS' own, in float32.

    It has 2.5 million numbers, so that it is small at any scale.
    """
    del scale
    linear: Tensors = {}
    for place, shape in enumerate(_ALEXNET.values()):
        linear[f"lin{place}.model.1.weight"] = TensorInfo("F32", (1, shape[0], 1, 1))
    found: Tensors = {}
    for number, shape in _ALEXNET.items():
        found[f"features.{number}.weight"] = TensorInfo("F32", shape)
        found[f"features.{number}.bias"] = TensorInfo("F32", shape[:1])
    return [
        WeightFile(f"{LPIPS}/alexnet.safetensors", found, header),
        WeightFile(f"{LPIPS}/lpips_linear.safetensors", linear, header),
    ]


FILES: Mapping[str, FilePlan] = {"lpips": _lpips, "lora": _lora, "checkpoint": _checkpoint}
"""Name -> what makes its plan."""
