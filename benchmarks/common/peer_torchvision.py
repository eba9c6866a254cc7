"""What the published measuring scripts ask of torchvision, scikit-learn and others, made at run time from what is here.

torchvision is no part of this project and must not come into its environment: pip would replace the pinned torch. The
scripts use little of it: three transforms, which call Pillow, and two stacks of convolutions, whose weights the
benchmark supplies as files. Each stands here as the library does it; networks of the scripts' own stay theirs.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

_ALEXNET = ((64, 11, 4, 2), "pool", (192, 5, 1, 2), "pool", (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1), "pool")
_VGG19 = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, 256, "pool", *[512] * 4, "pool", *[512] * 4, "pool")


# --- transforms -------------------------------------------------------------------------------------------------------


class Compose:
    """One transform after the other."""

    def __init__(self, steps: Sequence[Callable[[Any], Any]]) -> None:
        self.steps = steps

    def __call__(self, value: Any) -> Any:
        for step in self.steps:
            value = step(value)
        return value


class Resize:
    """The short side to `size` by Pillow's bilinear filter, which antialiases; the long one cut to a whole number."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        short, long = min(width, height), max(width, height)
        if short == self.size:
            return image
        other = int(self.size * long / short)
        shape = (self.size, other) if width <= height else (other, self.size)
        return image.resize(shape, Image.Resampling.BILINEAR)


class Grayscale:
    """One channel."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.convert("L")


class ToTensor:
    """[C, H, W] in 0…1."""

    def __call__(self, image: Image.Image) -> torch.Tensor:
        array = np.array(image, dtype=np.uint8)
        array = array[:, :, None] if array.ndim == 2 else array
        return torch.from_numpy(array).permute(2, 0, 1).contiguous().to(torch.float32).div(255)


def normalize(tensor: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """(tensor - mean) / std, channel by channel."""
    as_channels = (-1, 1, 1)
    return (tensor - torch.tensor(mean).view(as_channels)) / torch.tensor(std).view(as_channels)


class Absent:
    """A part that the scripts import and never call."""

    def __init__(self, *given: Any, **named: Any) -> None:
        raise RuntimeError("a script calls a part of torchvision that it was seen only to import; add it here")


# --- networks ---------------------------------------------------------------------------------------------------------


def _alexnet_features() -> torch.nn.Sequential:
    layers: list[torch.nn.Module] = []
    channels = 3
    for entry in _ALEXNET:
        if isinstance(entry, str):
            layers.append(torch.nn.MaxPool2d(kernel_size=3, stride=2))
            continue
        made, size, stride, padding = entry
        layers += [torch.nn.Conv2d(channels, made, size, stride=stride, padding=padding), torch.nn.ReLU(inplace=True)]
        channels = made
    return torch.nn.Sequential(*layers)


def _vgg19_features() -> torch.nn.Sequential:
    layers: list[torch.nn.Module] = []
    channels = 3
    for entry in _VGG19:
        if isinstance(entry, str):
            layers.append(torch.nn.MaxPool2d(kernel_size=2, stride=2))
            continue
        layers += [torch.nn.Conv2d(channels, entry, 3, padding=1), torch.nn.ReLU(inplace=True)]
        channels = entry
    return torch.nn.Sequential(*layers)


def _with_weights(features: torch.nn.Sequential, file: Path) -> SimpleNamespace:
    """What `torchvision.models.alexnet(pretrained=True)` is to the scripts: something with `features`."""
    from safetensors.torch import load_file

    state = load_file(file)
    own = {name.removeprefix("features."): tensor for name, tensor in state.items() if name.startswith("features.")}
    kept = {name: own[name] for name in features.state_dict() if name in own}
    missing, _ = features.load_state_dict(kept, strict=False)
    # A trunk that stops early, as the benchmark's files do, leaves its later layers as they were: none of them is read.
    first_missing = min((int(name.split(".")[0]) for name in missing), default=len(features))
    last_given = max(int(name.split(".")[0]) for name in kept)
    if first_missing <= last_given:
        raise SystemExit(f"{file}: the weights have a hole before layer {last_given}")
    return SimpleNamespace(features=features.eval())


def _inception(styleid: Path) -> tuple[ModuleType, Callable[..., torch.nn.Module]]:
    """StyleID's copy of torchvision's Inception, and `inception_v3` made of its blocks."""
    spec = importlib.util.spec_from_file_location("torchvision.models.inception", styleid / "inception.py")
    if spec is None or spec.loader is None:
        raise SystemExit(f"{styleid}: no inception.py in it; --styleid wants a checkout of jiwoogit/StyleID")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def inception_v3(num_classes: int = 1000, **_: Any) -> torch.nn.Module:
        network = module.Inception3(aux_logits=False, init_weights=False)
        del network.fc1, network.fc2
        network.fc = torch.nn.Linear(2048, num_classes)
        network.maxpool = torch.nn.MaxPool2d(kernel_size=3, stride=2)
        return network

    return module, inception_v3


class LinearRegression:
    """Least squares with an intercept, as scikit-learn's: of equal targets the line is flat."""

    def fit(self, inputs: np.ndarray, targets: np.ndarray) -> LinearRegression:
        """Centred, then the solution of least norm."""
        self._input_mean, self._target_mean = inputs.mean(0), targets.mean(0)
        self._slope = np.linalg.lstsq(inputs - self._input_mean, targets - self._target_mean, rcond=None)[0]
        return self

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """The line's value."""
        return (inputs - self._input_mean) @ self._slope + self._target_mean


# --- modules ----------------------------------------------------------------------------------------------------------


def install(alexnet: Path, vgg19: Path | None, styleid: Path) -> None:
    """Put the modules where the scripts import them from.

    Args:
        alexnet, vgg19: safetensors with the trunks' weights in torchvision's layout.
        styleid: the folder `evaluation` of a checkout of jiwoogit/StyleID, whose Inception is torchvision's.
    """
    torchvision = ModuleType("torchvision")
    torchvision.__version__ = "0.20.0"
    torchvision.__spec__ = None
    transforms = ModuleType("torchvision.transforms")
    for part in (Compose, Resize, Grayscale, ToTensor):
        setattr(transforms, part.__name__, part)
    transforms.CenterCrop = transforms.Normalize = transforms.ToPILImage = Absent
    transforms.ToPILImage = lambda: None
    transforms.functional = SimpleNamespace(normalize=normalize)
    models = ModuleType("torchvision.models")
    models.alexnet = lambda **_: _with_weights(_alexnet_features(), alexnet)
    if vgg19 is not None:
        models.vgg19 = lambda **_: _with_weights(_vgg19_features(), vgg19)
    sys.modules |= {
        "torchvision": torchvision,
        "torchvision.transforms": transforms,
        "torchvision.models": models,
    }
    torchvision.transforms, torchvision.models = transforms, models
    models.inception, models.inception_v3 = _inception(styleid)
    sys.modules["torchvision.models.inception"] = models.inception
    linear = ModuleType("sklearn.linear_model")
    linear.LinearRegression = LinearRegression
    sys.modules |= {"sklearn": ModuleType("sklearn"), "sklearn.linear_model": linear}
