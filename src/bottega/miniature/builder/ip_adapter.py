"""An IP-Adapter in SDXL's U-Net: put in with fresh weights for training, taken out in the published key layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bottega.miniature.builder import architectures
from bottega.runtime.errors import RequestError


def add_ip_adapter(unet: Any) -> None:
    """Give the U-Net a fresh IP-Adapter: its keys and values start as those of the text."""
    width = unet.config.cross_attention_dim
    tokens = architectures.IP_TOKENS
    projection = {
        "proj.weight": torch.randn(tokens * width, architectures.WIDTH) * architectures.WIDTH**-0.5,
        "proj.bias": torch.zeros(tokens * width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    attention = {}
    for number, name in _cross_attention(unet):
        module = unet.get_submodule(name.removesuffix(".processor"))
        attention[f"{number}.to_k_ip.weight"] = module.to_k.weight.detach().clone()
        attention[f"{number}.to_v_ip.weight"] = module.to_v.weight.detach().clone()
    unet._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": attention}], low_cpu_mem_usage=False)


def split_unet(unet: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """U-Net with IP-Adapter -> (stock U-Net, the adapter's tensors in float16 under their published names)."""
    stock = stock_unet(unet)
    projection = unet.encoder_hid_proj.image_projection_layers[0].state_dict()
    adapter = {
        "image_proj.proj.weight": projection["image_embeds.weight"],
        "image_proj.proj.bias": projection["image_embeds.bias"],
        "image_proj.norm.weight": projection["norm.weight"],
        "image_proj.norm.bias": projection["norm.bias"],
    }
    for number, name in _cross_attention(unet):
        processor = unet.attn_processors[name]
        adapter[f"ip_adapter.{number}.to_k_ip.weight"] = processor.to_k_ip[0].weight
        adapter[f"ip_adapter.{number}.to_v_ip.weight"] = processor.to_v_ip[0].weight
    return stock, {name: tensor.detach().half().contiguous() for name, tensor in adapter.items()}


def write_unet(unet: Any, folder: Path) -> None:
    """Write the U-Net and its IP-Adapter into `sdxl/unet` and `ip_adapter` under `folder`, in float16."""
    from safetensors.torch import save_file

    stock, adapter = split_unet(unet)
    stock.half().save_pretrained(folder / "sdxl" / "unet")
    save_file(adapter, folder / "ip_adapter" / "ip_adapter.safetensors", metadata={"format": "pt"})


@torch.no_grad()
def read_unet(unet: Any, folder: Path) -> None:
    """Load into a U-Net with IP-Adapter what `write_unet` wrote; the opposite of it but for the rounding to float16.

    Raises:
        RequestError: the folder holds another architecture.
    """
    from safetensors.torch import load_file

    path = folder / "sdxl" / "unet" / "diffusion_pytorch_model.safetensors"
    adapter_path = folder / "ip_adapter" / "ip_adapter.safetensors"
    stored, adapter = load_file(path), load_file(adapter_path)
    projection = unet.encoder_hid_proj.image_projection_layers[0]
    targets = {
        "image_proj.proj.weight": projection.image_embeds.weight,
        "image_proj.proj.bias": projection.image_embeds.bias,
        "image_proj.norm.weight": projection.norm.weight,
        "image_proj.norm.bias": projection.norm.bias,
    }
    for number, name in _cross_attention(unet):
        processor = unet.attn_processors[name]
        targets[f"ip_adapter.{number}.to_k_ip.weight"] = processor.to_k_ip[0].weight
        targets[f"ip_adapter.{number}.to_v_ip.weight"] = processor.to_v_ip[0].weight
    whole = unet.state_dict()
    stock = {name: whole[name] for name in stock_unet(unet).state_dict()}
    _require_same_shapes(path, stored, stock)
    _require_same_shapes(adapter_path, adapter, targets)
    for name, tensor in stock.items():
        tensor.copy_(stored[name])
    for name, tensor in targets.items():
        tensor.copy_(adapter[name])


def _require_same_shapes(file: Path, found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    """Raise RequestError where a file's tensors are not those of the architecture in training."""
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    right = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
    if shapes == right:
        return
    differing = sorted(name for name in shapes.keys() | right.keys() if shapes.get(name) != right.get(name))
    raise RequestError(
        f"{file} must hold the architecture that is trained, but {differing[0]} differs; "
        "give folders that `bottega miniature export` wrote, or train from random weights."
    )


def stock_unet(unet: Any) -> Any:
    """A copy of the U-Net without its IP-Adapter."""
    config = dict(unet.config)
    if config.get("encoder_hid_dim_type") == "ip_image_proj":  # written by the loading of an IP-Adapter
        config["encoder_hid_dim_type"] = None
    stock = type(unet).from_config(config)
    whole = unet.state_dict()
    stock.load_state_dict({name: whole[name] for name in stock.state_dict()})
    return stock


def _cross_attention(unet: Any) -> list[tuple[int, str]]:
    """Number in the published layout, which counts self-attention too, and name of each cross-attention."""
    names = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    return [(2 * place + 1, name) for place, name in enumerate(names)]
