"""Weights for the networks that measure, made by a formula: what the arithmetic is compared with, never a result.

The numbers come from PCG64's raw output, which NumPy promises to keep, so that known answers hold on any machine.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from bottega.models.inception import InceptionNetwork

Shapes = Mapping[str, Sequence[int]]
_ALEXNET = (
    (0, (64, 3, 11, 11)),
    (3, (192, 64, 5, 5)),
    (6, (384, 192, 3, 3)),
    (8, (256, 384, 3, 3)),
    (10, (256, 256, 3, 3)),
)
_VGG19 = ((0, (64, 3, 3, 3)), (2, (64, 64, 3, 3)), (5, (128, 64, 3, 3)), (7, (128, 128, 3, 3)), (10, (256, 128, 3, 3)))
_LINEAR = (64, 192, 384, 256, 256)
_VGG19_CONTRAST = 8
"""How much more the last convolution amplifies than the others. CFSD compares softmaxes of products of its features.
With a factor of 1 they are nearly uniform, and float32 rounds CFSD by up to 3 %, differently on each processor; with 8
by 1e-6.
"""


def uniform(name: str, shape: Sequence[int]) -> torch.Tensor:
    """Numbers in -1…1 that the name decides, float32."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    raw = np.random.PCG64(seed).random_raw(math.prod(shape))
    return torch.from_numpy(((raw >> 11) * 2.0**-52 - 1).astype(np.float32)).reshape(tuple(shape))


def _convolution(name: str, shape: Sequence[int]) -> torch.Tensor:
    """Weights that keep the spread of what they are given through a ReLU (He et al. 2015)."""
    return uniform(name, shape) * math.sqrt(6 / math.prod(shape[1:]))


def _trunk(layers: Sequence[tuple[int, Sequence[int]]], what: str) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for number, shape in layers:
        name = f"features.{number}"
        tensors[f"{name}.weight"] = _convolution(f"{what} {name}.weight", shape)
        tensors[f"{name}.bias"] = 0.1 * uniform(f"{what} {name}.bias", shape[:1])
    return tensors


def alexnet() -> dict[str, torch.Tensor]:
    """AlexNet's convolutions in torchvision's layout."""
    return _trunk(_ALEXNET, "alexnet")


def vgg19() -> dict[str, torch.Tensor]:
    """VGG19's first five convolutions in torchvision's layout."""
    tensors = _trunk(_VGG19, "vgg19")
    last = _VGG19[-1][0]
    for name in (f"features.{last}.weight", f"features.{last}.bias"):
        tensors[name] = tensors[name] * _VGG19_CONTRAST
    return tensors


def lpips_linear() -> dict[str, torch.Tensor]:
    """LPIPS's linear layers, none negative, as the trained ones are."""
    tensors: dict[str, torch.Tensor] = {}
    for number, channels in enumerate(_LINEAR):
        name = f"lin{number}.model.1.weight"
        tensors[name] = uniform(f"lpips {name}", (1, channels, 1, 1)).abs()
    return tensors


def inception(variant: Literal["art", "fid"], calibration: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
    """An Inception whose batch normalisation has the statistics of some pictures, so that features have a spread.

    Args:
        variant: see `bottega.models.inception`.
        calibration: uint8 [H, W, 3] of one size.
    """
    network = InceptionNetwork(variant)
    state = network.state_dict()
    for name, tensor in state.items():
        if name.endswith("conv.weight"):
            state[name] = _convolution(f"inception {name}", tensor.shape)
        elif name.endswith("bn.weight"):
            state[name] = 1 + 0.3 * uniform(f"inception {name}", tensor.shape)
        elif name.endswith("bn.bias"):
            state[name] = 0.3 * uniform(f"inception {name}", tensor.shape)
    network.load_state_dict(state)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # the statistics of the pictures alone
    batch = torch.from_numpy(np.stack(calibration)).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        network.train()(batch if variant == "art" else 2 * batch - 1)
    tensors = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    # What tells the variants apart in the published files; neither reads it for its features.
    if variant == "fid":
        tensors["fc.weight"], tensors["fc.bias"] = torch.zeros(1008, 2048), torch.zeros(1008)
    else:
        tensors["AuxLogits1.conv0.conv.weight"] = torch.zeros(128, 768, 1, 1)
    return tensors


def write_all(folder: Path, calibration: Sequence[np.ndarray]) -> None:
    """Every network as safetensors in a folder, and ArtFID's also where StyleID's script looks for it."""
    folder.mkdir(parents=True)
    save_file(alexnet(), folder / "alexnet.safetensors")
    save_file(vgg19(), folder / "vgg19.safetensors")
    save_file(lpips_linear(), folder / "lpips_linear.safetensors")
    for variant in ("art", "fid"):
        save_file(inception(variant, calibration), folder / f"{variant}_inception.safetensors")


def picture(number: int, width: int, height: int) -> np.ndarray:
    """A smooth coloured picture with edges, uint8 [H, W, 3], that its number decides to the bit.

    Whole numbers all the way: sines differ in their last bits between machines.
    """
    cells = uniform(f"picture {number}", (5, 5, 3)).numpy()
    coarse = Image.fromarray((127.5 * (cells + 1)).astype(np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BILINEAR), dtype=np.int64)
    rows, columns = np.mgrid[:height, :width]
    step = 7 + number % 9
    stripes = ((rows * (1 + number % 3) + columns * (1 + number % 2)) // step % 2) * 48 - 24
    return np.clip(smooth + stripes[..., None], 0, 255).astype(np.uint8)
