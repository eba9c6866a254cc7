"""LPIPS, the perceptual distance of two pictures, and VGG19's features for the structure of a picture.

LPIPS (Zhang et al. 2018, "The unreasonable effectiveness of deep features as a perceptual metric", equation 1) is here
the version 0.1 with AlexNet, which StyleID and ArtFID use. Version 0.0 lacks the scaling of the input, and other trunks
give other numbers: results of different ones can't be compared, so every result says which it was.

CFSD (Chung et al. 2024, "Style injection in diffusion", section 5.1): how much each place of one picture resembles
every other place of it, compared between two pictures.

Legend: N pictures, C channels, H, W pixels, P = H · W places of a feature map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from typing_extensions import TypedDict

from bottega.models.loading import choose_device
from bottega.models.plain_weights import WeightsRecord, read_plain_weights
from bottega.runtime.errors import PictureError

if TYPE_CHECKING:
    import torch

Pictures = npt.NDArray[np.uint8]  # [N, H, W, 3]
Floats = npt.NDArray[np.float32]

TRUNK, LINEAR = "alexnet.safetensors", "lpips_linear.safetensors"
"""The two files of a folder that LPIPS is read from."""

_ALEXNET = (
    ("features.0", (64, 3, 11, 11)),
    ("features.3", (192, 64, 5, 5)),
    ("features.6", (384, 192, 3, 3)),
    ("features.8", (256, 384, 3, 3)),
    ("features.10", (256, 256, 3, 3)),
)
_VGG19 = (
    ("features.0", (64, 3, 3, 3)),
    ("features.2", (64, 64, 3, 3)),
    ("features.5", (128, 64, 3, 3)),
    ("features.7", (128, 128, 3, 3)),
    ("features.10", (256, 128, 3, 3)),
)
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pictures in -1…1, from the reference package
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, for pictures in 0…1
_EPSILON = 1e-10
_LEAST_SIDE = 32  # pixels; the trunk's last map of a smaller picture has no place left
_PLACES_AT_ONCE = 1024  # rows of the P × P matrix: 64 MB each of the four that are held at 512 pixels


class LpipsRecord(TypedDict):
    """What an LPIPS is made of, as JSON."""

    net: str
    version: str
    trunk: WeightsRecord
    linear: WeightsRecord


class Lpips:
    """LPIPS 0.1 on AlexNet in float32. Read from a folder with `alexnet.safetensors` and `lpips_linear.safetensors`.

    Args:
        folder: the first in torchvision's key layout (`features.0.weight` …; the classifier is left out), the second
            with the 1 152 numbers of the reference package's `weights/v0.1/alex.pth` under their names there.
        device: where to compute.

    Raises:
        MissingError: a file is absent; the message names the published one and its SHA-256.
        RequestError: a file is a pickle, or holds other tensors.
    """

    def __init__(self, folder: Path, device: str = "auto") -> None:
        trunk = read_plain_weights(folder / TRUNK, "alexnet", _convolution_shapes(_ALEXNET))
        linear_shapes: dict[str, tuple[int, ...]] = {}
        for number, (_, shape) in enumerate(_ALEXNET):
            linear_shapes[_linear_name(number)] = (1, shape[0], 1, 1)
        linear = read_plain_weights(folder / LINEAR, "lpips linear layers", linear_shapes)
        self.device = choose_device(device)
        self.record: LpipsRecord = {"net": "alex", "version": "0.1", "trunk": trunk.record, "linear": linear.record}
        self._trunk = {name: tensor.to(self.device) for name, tensor in trunk.tensors.items()}
        self._linear = [linear.tensors[name].to(self.device) for name in linear_shapes]

    @property
    def identity(self) -> list[str]:
        """What decides its numbers beside the pictures."""
        return ["lpips", "alex", "0.1", self.record["trunk"]["tensors"], self.record["linear"]["tensors"]]

    def __call__(self, first: Pictures, second: Pictures) -> Floats:
        """The distance of each picture of `first` to that of `second`, [N].

        Args:
            first, second: uint8 [N, H, W, 3] of one size, 32 pixels or more a side.
        """
        import torch

        with torch.inference_mode():
            return self.distances(_to_unit(first, self.device), _to_unit(second, self.device)).cpu().numpy()

    def distances(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """The same of pictures in 0…1, float32 [N, 3, H, W], or [N, 1, H, W] for grey ones -> [N]."""
        import torch
        import torch.nn.functional as F

        _require_same_size(first, second)
        total = torch.zeros(len(first), device=self.device)  # [N]
        for one, two, weight in zip(self._features(first), self._features(second), self._linear, strict=True):
            gap = (_unit(one) - _unit(two)) ** 2  # [N, C, h, w]
            total = total + F.conv2d(gap, weight).mean(dim=(1, 2, 3))
        return total

    def _features(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        """The five activations of the trunk, each after its ReLU, [N, C, h, w]."""
        import torch.nn.functional as F

        shift = pictures.new_tensor(_SHIFT)[None, :, None, None]
        scale = pictures.new_tensor(_SCALE)[None, :, None, None]
        maps = (2 * pictures - 1 - shift) / scale  # a grey picture becomes three channels here
        found: list[torch.Tensor] = []
        for number, (name, _) in enumerate(_ALEXNET):
            if number in (1, 2):
                maps = F.max_pool2d(maps, kernel_size=3, stride=2)
            weight, bias = self._trunk[f"{name}.weight"], self._trunk[f"{name}.bias"]
            stride, padding = (4, 2) if number == 0 else (1, weight.shape[-1] // 2)
            maps = F.relu(F.conv2d(maps, weight, bias, stride=stride, padding=padding))
            found.append(maps)
        return found


class Vgg19Structure:
    """CFSD on VGG19's relu3_1 in float32, from a safetensors file in torchvision's key layout.

    Pictures are not resized: the value is a sum over places and grows with the size, so only pictures of one size can
    be compared with each other, or with a published table.

    Args:
        file: `features.0.weight` … `features.10.bias`; other tensors are left there.
        device: where to compute.
    """

    def __init__(self, file: Path, device: str = "auto") -> None:
        weights = read_plain_weights(file, "vgg19", _convolution_shapes(_VGG19))
        self.device = choose_device(device)
        self.record: WeightsRecord = weights.record
        self._weights = {name: tensor.to(self.device) for name, tensor in weights.tensors.items()}

    @property
    def identity(self) -> list[str]:
        """What decides its numbers beside the pictures."""
        return ["cfsd", "vgg19 relu3_1", self.record["tensors"]]

    def __call__(self, picture: Pictures, content: Pictures) -> float:
        """CFSD of a picture to its content; both uint8 [H, W, 3], of one size."""
        import torch

        with torch.inference_mode():
            first = _to_unit(picture[None], self.device)
            second = _to_unit(content[None], self.device)
            _require_same_size(first, second)
            return self._divergence(self._places(first), self._places(second))

    def _places(self, pictures: torch.Tensor) -> torch.Tensor:
        """The features of each place of a picture [1, 3, H, W], divided by their number, [P, C]."""
        import torch.nn.functional as F

        mean = pictures.new_tensor(_MEAN)[None, :, None, None]
        deviation = pictures.new_tensor(_DEVIATION)[None, :, None, None]
        maps = (pictures - mean) / deviation
        for number, (name, _) in enumerate(_VGG19):
            if number in (2, 4):
                maps = F.max_pool2d(maps, kernel_size=2, stride=2)
            maps = F.relu(F.conv2d(maps, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"], padding=1))
        channels = maps.shape[1]
        # Column by column, as the reference does: the order decides the last bits of a sum in float32.
        return maps.transpose(1, 3).reshape(-1, channels).div(channels)  # [1, C, h, w] -> [P, C]

    def _divergence(self, picture: torch.Tensor, content: torch.Tensor) -> float:
        """Kullback-Leibler divergence of the similarities of a content's places from those of a picture's, summed.

        By rows of the P × P matrices: at 512 pixels one of them takes 1 GB, and the reference holds several.
        """
        import torch.nn.functional as F

        total = 0.0
        for start in range(0, len(picture), _PLACES_AT_ONCE):
            rows = slice(start, start + _PLACES_AT_ONCE)
            drawn = F.log_softmax(picture[rows] @ picture.T, dim=-1)
            wanted = F.softmax(content[rows] @ content.T, dim=-1)
            total += float(F.kl_div(drawn, wanted, reduction="sum"))
        return total


def _convolution_shapes(layers: Sequence[tuple[str, tuple[int, int, int, int]]]) -> Mapping[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in layers:
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = shape[:1]
    return shapes


def _linear_name(number: int) -> str:
    return f"lin{number}.model.1.weight"


def _unit(maps: torch.Tensor) -> torch.Tensor:
    """Features of unit length at each place, [N, C, h, w]; the small number keeps a place without any finite."""
    length = (maps**2).sum(dim=1, keepdim=True).sqrt()
    return maps / (length + _EPSILON)


def _to_unit(pictures: Pictures, device: torch.device) -> torch.Tensor:
    """uint8 [N, H, W, C] -> float32 [N, C, H, W] in 0…1."""
    import torch

    # A copy: what Pillow decoded is not writable, which torch warns of.
    return torch.from_numpy(np.array(pictures)).to(device).permute(0, 3, 1, 2).contiguous().float() / 255


def _require_same_size(first: torch.Tensor, second: torch.Tensor) -> None:
    if first.shape != second.shape:
        raise PictureError(
            f"two pictures are compared at one size, received {_size(first)} and {_size(second)}; resize one of them"
        )
    if min(first.shape[-2:]) < _LEAST_SIDE:
        raise PictureError(f"pictures are compared from {_LEAST_SIDE} pixels a side on, received {_size(first)}")


def _size(pictures: torch.Tensor) -> str:
    height, width = pictures.shape[-2:]
    return f"{width} × {height}"
