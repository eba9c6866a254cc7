"""LoRA layers in one module tree: attach, weigh, detach, and prove that nothing is left.

peft's own layers carry the factors. They are put in and taken out one module at a time instead of through diffusers'
`load_lora_weights`, which leaves a half-loaded LoRA behind where the text encoder's part of a file is broken, keeps its
wrappers after `delete_adapters`, and takes accelerate's offload hooks off for good when a load fails (diffusers 0.42.1,
measured). PixArt's transformer has no LoRA loader there at all.

A LoRA's factors are made into modules once (`prepare`) and kept while it is out of the model, so that changing from one
LoRA to another moves references and copies nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from bottega.runtime.errors import WorkError

if TYPE_CHECKING:
    from bottega.generation.lora.conversion import Factors

_SEED = "seed"  # the adapter that peft needs to build a wrapper; it is taken out at once


@dataclass(frozen=True, eq=False)
class Piece:
    """One module's factors, ready to be attached.

    down: [r, in] or [r, in, kh, kw] as a Linear or Conv2d. up: the other one. alpha: ΔW = alpha / r · up · down.
    magnitude: DoRA's layer with the length of each output's weights; None for a plain LoRA.
    """

    down: torch.nn.Module
    up: torch.nn.Module
    rank: int
    alpha: float
    magnitude: torch.nn.Module | None = None


@dataclass(frozen=True, eq=False)
class Prepared:
    """A LoRA's part for one component: pieces by module path, on the device and in the dtype of the model."""

    pieces: Mapping[str, Piece] = field(default_factory=dict)

    def num_bytes(self) -> int:
        """Memory that the factors take."""
        total = 0
        for piece in self.pieces.values():
            for parameter in (*piece.down.parameters(), *piece.up.parameters()):
                total += parameter.numel() * parameter.element_size()
        return total


class AdaptedModel:
    """A U-Net, transformer or text encoder whose modules may carry adapters."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self._places: dict[str, tuple[torch.nn.Module, str]] = {}
        for path, module in model.named_modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
                parent, _, child = path.rpartition(".")
                self._places[path] = (model.get_submodule(parent), child)
        self._checksum = checksum(model)

    def prepare(self, factors: Mapping[str, Factors]) -> Prepared:
        """Copies of the factors as modules; the file's own tensors stay as they are."""
        pieces = {}
        for path, factor in factors.items():
            base = self._base(path)
            pieces[path] = Piece(
                down=_carrier(base, factor.down, spatial=True),
                up=_carrier(base, factor.up, spatial=False),
                rank=factor.rank,
                alpha=factor.alpha,
                magnitude=None if factor.magnitude is None else _magnitude(base, factor.magnitude),
            )
        return Prepared(pieces)

    def attach(self, name: str, prepared: Prepared, weight: float) -> None:
        """Add an adapter; it is at work at once, beside those that are there.

        Args:
            name: of the adapter, new to this model.
            prepared: its factors.
            weight: factor on the whole adapter.

        Raises:
            WorkError: an adapter of this name is there already.
        """
        for path, piece in prepared.pieces.items():
            layer = self._layer(path)
            if name in layer.lora_A:
                raise WorkError(f"an adapter's name must be new, {name} is in {path} already; unload it first")
            _insert(layer, name, piece, weight)

    def detach(self, name: str) -> None:
        """Take an adapter out of all modules; the wrappers stay until `sweep`."""
        for _, layer in self.layers():
            _remove(layer, name)

    def set_weight(self, name: str, weight: float) -> None:
        """Change the factor on an adapter that is attached."""
        for _, layer in self.layers():
            if name in layer.lora_A:
                _weigh(layer, name, weight)

    def order(self, names: Sequence[str]) -> None:
        """Let adapters add to a layer's output in this order, whichever came first: sums of floats depend on it."""
        for _, layer in self.layers():
            layer._active_adapter = [name for name in names if name in layer.lora_A]

    def sweep(self) -> None:
        """Give every module without an adapter its own layer back."""
        for path, layer in self.layers():
            if not layer.lora_A:
                self._put(path, layer.get_base_layer())

    def detach_all(self) -> None:
        """Take every adapter out, whatever state a failure left it in."""
        for path, layer in self.layers():
            self._put(path, layer.get_base_layer())

    def layers(self) -> list[tuple[str, Any]]:
        """Every wrapped module, with its path."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        found = []
        for path, (parent, child) in self._places.items():
            module = getattr(parent, child)
            if isinstance(module, BaseTunerLayer):
                found.append((path, module))
        return found

    def adapters(self) -> dict[str, int]:
        """How many modules each adapter is at work in; one that is switched off is not counted."""
        found: dict[str, int] = {}
        for _, layer in self.layers():
            for name in layer.active_adapters:
                if name in layer.lora_A:
                    found[name] = found.get(name, 0) + 1
        return found

    def residue(self) -> str | None:
        """What is left of adapters, or None: wrappers anywhere in the tree, their parameters, changed base weights."""
        wrapped = [path for path, module in self.model.named_modules() if hasattr(module, "lora_A")]
        if wrapped:
            return f"{len(wrapped)} LoRA layers are left, first {wrapped[0]}"
        parameters = [name for name, _ in self.model.named_parameters() if "lora_" in name]
        if parameters:
            return f"{len(parameters)} LoRA parameters are left, first {parameters[0]}"
        if checksum(self.model) != self._checksum:
            return "the base weights are not those that were loaded"
        return None

    def is_intact(self) -> bool:
        """Whether the base weights are those that were loaded; adapters may be attached."""
        return checksum(self.model) == self._checksum

    def _base(self, path: str) -> torch.nn.Module:
        parent, child = self._places[path]
        module = getattr(parent, child)
        base: torch.nn.Module = module.get_base_layer() if hasattr(module, "get_base_layer") else module
        return base

    def _layer(self, path: str) -> Any:
        """The wrapper at a path, made where there is none."""
        parent, child = self._places[path]
        module = getattr(parent, child)
        if not hasattr(module, "lora_A"):
            module = _wrapper(module)
            self._put(path, module)
        return module

    def _put(self, path: str, module: torch.nn.Module) -> None:
        parent, child = self._places[path]
        setattr(parent, child, module)


def _wrapper(module: torch.nn.Module) -> Any:
    """peft's layer around a module, without any adapter."""
    from peft import LoraConfig
    from peft.tuners.lora.layer import Conv2d, Linear

    kind = Conv2d if isinstance(module, torch.nn.Conv2d) else Linear
    # Nothing of a file's metadata comes in here: peft's configuration has fields that name modules to import.
    config = LoraConfig(r=1, lora_alpha=1, init_lora_weights=False)
    # On the meta device peft's random first values come out of no generator, so that a picture's noise does not
    # depend on which LoRAs were loaded before it.
    with torch.device("meta"):
        layer = kind(module, _SEED, config=config, r=1, lora_alpha=1)
    _remove(layer, _SEED)
    layer.eval()
    return layer


def _insert(layer: Any, name: str, piece: Piece, weight: float) -> None:
    layer.r[name] = piece.rank
    layer.lora_alpha[name] = piece.alpha
    layer.lora_dropout[name] = _IDENTITY
    layer.lora_A[name] = piece.down
    layer.lora_B[name] = piece.up
    layer.lora_bias[name] = False
    layer.use_rslora[name] = False
    layer.use_dora[name] = piece.magnitude is not None
    if piece.magnitude is not None:
        _insert_magnitude(layer, name, piece.magnitude)
    _weigh(layer, name, weight)
    layer._active_adapter = list(layer.lora_A)


def _insert_magnitude(layer: Any, name: str, magnitude: torch.nn.Module) -> None:
    # As peft's own DoRA variant does at its `init`, which would compute the magnitude instead of taking the file's.
    if "lora_magnitude_vector" not in layer.adapter_layer_names:
        layer.adapter_layer_names = (*layer.adapter_layer_names, "lora_magnitude_vector")
    layer.lora_magnitude_vector[name] = magnitude
    layer.lora_variant[name] = _WeightedDoRA()


class _WeightedDoRA:
    """peft's DoRA with a factor: base + weight · (DoRA − base), so that weight 0 is the base and 1 the whole DoRA.

    peft's scaling reaches only the low-rank part: at 0 it would still rescale each output to DoRA's magnitude.
    """

    def __init__(self) -> None:
        self.weight = 1.0

    def forward(
        self, layer: Any, active_adapter: str, x: torch.Tensor, result: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        """What peft's layer calls in place of the plain LoRA; shapes as of the layer's output."""
        extra: torch.Tensor = layer.lora_magnitude_vector[active_adapter](
            x,
            lora_A=layer.lora_A[active_adapter],
            lora_B=layer.lora_B[active_adapter],
            scaling=layer.scaling[active_adapter],
            base_layer=layer.get_base_layer(),
            base_result=layer.get_base_layer()(x),
            adapter_name=active_adapter,
        )
        return result + self.weight * extra


def _weigh(layer: Any, name: str, weight: float) -> None:
    scaling = layer.lora_alpha[name] / layer.r[name]
    if layer.use_dora[name]:
        layer.lora_variant[name].weight = weight
    else:
        scaling *= weight
    layer.scaling[name] = scaling


def _magnitude(base: torch.nn.Module, values: torch.Tensor) -> torch.nn.Module:
    """DoRA's layer of peft with the file's magnitude, [O] or for a convolution [1, O, 1, 1]."""
    from peft.tuners.lora.dora import DoraConv2dLayer, DoraLinearLayer

    convolution = isinstance(base, torch.nn.Conv2d)
    layer: torch.nn.Module = (DoraConv2dLayer if convolution else DoraLinearLayer)(fan_in_fan_out=False)
    weight = base.weight
    assert isinstance(weight, torch.Tensor)
    placed = values.to(device=weight.device, dtype=weight.dtype, copy=True)
    layer.weight = torch.nn.Parameter(placed.view(1, -1, 1, 1) if convolution else placed, requires_grad=False)
    return layer.eval()


_IDENTITY = torch.nn.Identity()


def _remove(layer: Any, name: str) -> None:
    for holder in (*layer.adapter_layer_names, *layer.other_param_names):
        values = getattr(layer, holder)
        if name in values:
            del values[name]
    layer.lora_variant.pop(name, None)
    layer._active_adapter = list(layer.lora_A)


def _carrier(base: torch.nn.Module, factor: torch.Tensor, *, spatial: bool) -> torch.nn.Module:
    """A Linear or Conv2d with a copy of the factor as its weight; where spatial, with the base's kernel and stride."""
    with torch.device("meta"):  # no random first values
        if isinstance(base, torch.nn.Conv2d):
            out, inside = int(factor.shape[0]), int(factor.shape[1])
            shape: dict[str, Any] = {"kernel_size": 1}
            if spatial:
                shape = {"kernel_size": base.kernel_size, "stride": base.stride, "padding": base.padding}
            carrier: torch.nn.Module = torch.nn.Conv2d(inside, out, bias=False, **shape)
        else:
            carrier = torch.nn.Linear(int(factor.shape[1]), int(factor.shape[0]), bias=False)
    weight = base.weight
    assert isinstance(weight, torch.Tensor)
    values = factor.to(device=weight.device, dtype=weight.dtype, copy=True).reshape(carrier.weight.shape)  # type: ignore[arg-type]
    carrier.weight = torch.nn.Parameter(values, requires_grad=False)
    return carrier.eval()


def checksum(model: torch.nn.Module) -> int:
    """A checksum of all base weights and buffers, the same with and without adapters attached.

    Sums of the weights' bits, each tensor's times its place in the list: any single changed bit changes it. A model of
    5 GB takes a GPU some hundredths of a second, where a cryptographic hash would need the weights on the CPU.
    """
    total = 0
    for place, tensor in enumerate(_base_tensors(model), start=1):
        total += (2 * place + 1) * _sum_of_bits(tensor)
    return total % (1 << 63)


def _base_tensors(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    found = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if ".lora_" not in name:
            found[name.replace(".base_layer.", ".")] = tensor.detach()
    for name in sorted(found):
        yield found[name]


def _sum_of_bits(tensor: torch.Tensor) -> int:
    if tensor.is_meta or tensor.numel() == 0:
        return 0
    as_integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = tensor.contiguous().view(
        as_integers[tensor.element_size()]
    )  # channels-last ones can't be viewed as they are
    return int(bits.sum(dtype=torch.int64))
