"""InceptionV3 up to its pooled features, as FID takes them: two published variants in the key layout that both share.

`art`: the network of ArtFID (Wright and Ommer 2022), trained on artworks; plain InceptionV3 (Szegedy et al. 2016), and
pictures come in 0…1 as they are. `fid`: the network of FID (Heusel et al. 2017) as pytorch-fid ports it from
TensorFlow: average pooling leaves the border out, the last block pools by the maximum, and pictures are resized to 299
and shifted to -1…1. Their features, and so their distances, can't be compared with each other.

Legend: N pictures, C channels, H, W pixels, D = 2048 features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn
from typing_extensions import TypedDict

from bottega.models.loading import choose_device
from bottega.models.plain_weights import WeightsRecord, read_plain_weights, wanted
from bottega.models.weights import read_header
from bottega.runtime.errors import PictureError, RequestError

InceptionVariant = Literal["art", "fid"]
Pool = Callable[[torch.Tensor], torch.Tensor]
FEATURES = 2048
_LEAST_SIDE = 75  # pixels; below, the last reduction of the `art` variant has no place left
_FID_SIDE = 299
_COUNTER = ".num_batches_tracked"  # of training steps; some published files lack it, and nothing here reads it


class InceptionRecord(TypedDict):
    """Which Inception made the features, as JSON."""

    variant: str
    weights: WeightsRecord


class InceptionFeatures:
    """Pooled features of pictures, in float32.

    Args:
        file: safetensors with `Conv2d_1a_3x3.conv.weight` … `Mixed_7c.branch_pool.bn.running_var`. What else is in it
            says which variant it is: `fc.weight` the one of FID, `AuxLogits1…` the one of ArtFID.
        device: where to compute.
        variant: for a file that holds neither.

    Raises:
        MissingError: there is no such file; the message names the published one and its SHA-256.
        RequestError: it is a pickle, holds other tensors, or does not say which variant it is.
    """

    def __init__(self, file: Path, device: str = "auto", variant: InceptionVariant | None = None) -> None:
        self.variant: InceptionVariant = variant or _variant_of(file)
        # Without numbers first: random ones must never be mistaken for weights.
        with torch.device("meta"):
            network = InceptionNetwork(self.variant)
        needed: dict[str, tuple[int, ...]] = {}
        counters: dict[str, torch.Tensor] = {}
        for name, tensor in network.state_dict().items():
            if name.endswith(_COUNTER):
                counters[name] = torch.zeros_like(tensor, device="cpu")
            else:
                needed[name] = tuple(tensor.shape)
        weights = read_plain_weights(file, f"{self.variant} inception", needed)
        network.load_state_dict({**weights.tensors, **counters}, assign=True)
        self.device = choose_device(device)
        self._network = network.to(self.device).eval().requires_grad_(False)
        self.record: InceptionRecord = {"variant": self.variant, "weights": weights.record}

    @property
    def identity(self) -> list[str]:
        """What decides its numbers beside the pictures."""
        return ["inception", self.variant, self.record["weights"]["tensors"]]

    def __call__(self, pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 [N, H, W, 3] -> features [N, D]."""
        if min(pictures.shape[1:3]) < _LEAST_SIDE and self.variant == "art":
            height, width = pictures.shape[1:3]
            raise PictureError(
                f"the Inception of ArtFID sees pictures from {_LEAST_SIDE} pixels a side on, received {width} × "
                f"{height}; resize them"
            )
        with torch.inference_mode():
            pixels = torch.from_numpy(np.array(pictures)).to(self.device)
            # Channels first in memory too, as the published scripts have them: else the convolutions sum in another
            # order, and random weights make 2e-4 of that.
            maps = pixels.permute(0, 3, 1, 2).contiguous().float() / 255  # [N, 3, H, W]
            if self.variant == "fid":
                maps = F.interpolate(maps, size=(_FID_SIDE, _FID_SIDE), mode="bilinear", align_corners=False)
                maps = 2 * maps - 1
            return np.asarray(self._network(maps).cpu().numpy())


def _variant_of(file: Path) -> InceptionVariant:
    if not file.is_file() or file.suffix != ".safetensors":
        return "art"  # reading it says what is wrong, and names the file of the published protocol
    names: Mapping[str, object] = read_header(file).tensors
    if "fc.weight" in names:
        return "fid"
    if any(name.startswith("AuxLogits1.") for name in names):
        return "art"
    raise RequestError(
        f"{file}: an Inception is recognised by fc.weight (FID's) or AuxLogits1… (ArtFID's), and it holds neither; "
        f"convert the whole published file, such as {wanted('art inception')}"
    )


# --- the network, under the names of the published files --------------------------------------------------------------


class _Convolution(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(self, taken: int, made: int, size: int | tuple[int, int], stride: int = 1, pad: bool = False) -> None:
        super().__init__()
        height, width = (size, size) if isinstance(size, int) else size
        padding = (height // 2, width // 2) if pad else (0, 0)
        self.conv = nn.Conv2d(taken, made, (height, width), stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(made, eps=0.001)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(maps)))


def _average(count_border: bool) -> Pool:
    def pool(maps: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(maps, kernel_size=3, stride=1, padding=1, count_include_pad=count_border)

    return pool


def _largest(maps: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(maps, kernel_size=3, stride=1, padding=1)


def _reduced(maps: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(maps, kernel_size=3, stride=2)


class _BlockA(nn.Module):
    def __init__(self, taken: int, pooled: int, pool: Pool) -> None:
        super().__init__()
        self.branch1x1 = _Convolution(taken, 64, 1)
        self.branch5x5_1 = _Convolution(taken, 48, 1)
        self.branch5x5_2 = _Convolution(48, 64, 5, pad=True)
        self.branch3x3dbl_1 = _Convolution(taken, 64, 1)
        self.branch3x3dbl_2 = _Convolution(64, 96, 3, pad=True)
        self.branch3x3dbl_3 = _Convolution(96, 96, 3, pad=True)
        self.branch_pool = _Convolution(taken, pooled, 1)
        self.pool = pool

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        wide = self.branch5x5_2(self.branch5x5_1(maps))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(maps)))
        return torch.cat([self.branch1x1(maps), wide, double, self.branch_pool(self.pool(maps))], 1)


class _BlockB(nn.Module):
    """Halves the map."""

    def __init__(self, taken: int) -> None:
        super().__init__()
        self.branch3x3 = _Convolution(taken, 384, 3, stride=2)
        self.branch3x3dbl_1 = _Convolution(taken, 64, 1)
        self.branch3x3dbl_2 = _Convolution(64, 96, 3, pad=True)
        self.branch3x3dbl_3 = _Convolution(96, 96, 3, stride=2)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(maps)))
        return torch.cat([self.branch3x3(maps), double, _reduced(maps)], 1)


class _BlockC(nn.Module):
    def __init__(self, taken: int, inner: int, pool: Pool) -> None:
        super().__init__()
        self.branch1x1 = _Convolution(taken, 192, 1)
        self.branch7x7_1 = _Convolution(taken, inner, 1)
        self.branch7x7_2 = _Convolution(inner, inner, (1, 7), pad=True)
        self.branch7x7_3 = _Convolution(inner, 192, (7, 1), pad=True)
        self.branch7x7dbl_1 = _Convolution(taken, inner, 1)
        self.branch7x7dbl_2 = _Convolution(inner, inner, (7, 1), pad=True)
        self.branch7x7dbl_3 = _Convolution(inner, inner, (1, 7), pad=True)
        self.branch7x7dbl_4 = _Convolution(inner, inner, (7, 1), pad=True)
        self.branch7x7dbl_5 = _Convolution(inner, 192, (1, 7), pad=True)
        self.branch_pool = _Convolution(taken, 192, 1)
        self.pool = pool

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(maps)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(maps)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(maps), single, double, self.branch_pool(self.pool(maps))], 1)


class _BlockD(nn.Module):
    """Halves the map."""

    def __init__(self, taken: int) -> None:
        super().__init__()
        self.branch3x3_1 = _Convolution(taken, 192, 1)
        self.branch3x3_2 = _Convolution(192, 320, 3, stride=2)
        self.branch7x7x3_1 = _Convolution(taken, 192, 1)
        self.branch7x7x3_2 = _Convolution(192, 192, (1, 7), pad=True)
        self.branch7x7x3_3 = _Convolution(192, 192, (7, 1), pad=True)
        self.branch7x7x3_4 = _Convolution(192, 192, 3, stride=2)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        single = self.branch3x3_2(self.branch3x3_1(maps))
        long = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(maps))))
        return torch.cat([single, long, _reduced(maps)], 1)


class _BlockE(nn.Module):
    def __init__(self, taken: int, pool: Pool) -> None:
        super().__init__()
        self.branch1x1 = _Convolution(taken, 320, 1)
        self.branch3x3_1 = _Convolution(taken, 384, 1)
        self.branch3x3_2a = _Convolution(384, 384, (1, 3), pad=True)
        self.branch3x3_2b = _Convolution(384, 384, (3, 1), pad=True)
        self.branch3x3dbl_1 = _Convolution(taken, 448, 1)
        self.branch3x3dbl_2 = _Convolution(448, 384, 3, pad=True)
        self.branch3x3dbl_3a = _Convolution(384, 384, (1, 3), pad=True)
        self.branch3x3dbl_3b = _Convolution(384, 384, (3, 1), pad=True)
        self.branch_pool = _Convolution(taken, 192, 1)
        self.pool = pool

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        single = self.branch3x3_1(maps)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(maps))
        parts = [self.branch1x1(maps), self.branch3x3_2a(single), self.branch3x3_2b(single)]
        parts += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([*parts, self.branch_pool(self.pool(maps))], 1)


class InceptionNetwork(nn.Module):
    """Pictures [N, 3, H, W] -> pooled features [N, D]."""

    def __init__(self, variant: InceptionVariant) -> None:
        super().__init__()
        average = _average(count_border=variant == "art")
        last = average if variant == "art" else _largest
        self.Conv2d_1a_3x3 = _Convolution(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = _Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = _Convolution(32, 64, 3, pad=True)
        self.Conv2d_3b_1x1 = _Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = _Convolution(80, 192, 3)
        self.Mixed_5b = _BlockA(192, 32, average)
        self.Mixed_5c = _BlockA(256, 64, average)
        self.Mixed_5d = _BlockA(288, 64, average)
        self.Mixed_6a = _BlockB(288)
        self.Mixed_6b = _BlockC(768, 128, average)
        self.Mixed_6c = _BlockC(768, 160, average)
        self.Mixed_6d = _BlockC(768, 160, average)
        self.Mixed_6e = _BlockC(768, 192, average)
        self.Mixed_7a = _BlockD(768)
        self.Mixed_7b = _BlockE(1280, average)
        self.Mixed_7c = _BlockE(2048, last)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        maps = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(maps)))
        maps = _reduced(maps)
        maps = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(maps))
        maps = _reduced(maps)
        maps = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(maps)))
        maps = self.Mixed_6a(maps)
        maps = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(maps))))
        maps = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(maps)))
        return F.adaptive_avg_pool2d(maps, (1, 1)).flatten(1)
