"""The change that a LoRA makes to a model's weights, as one kind of factors whatever the file's layout.

Legend: O outputs, I inputs, K kernel positions (height · width; 1 for a linear layer), R rank.
ΔW [O, I, K] = (alpha / R) · up [O, R] @ down [R, I, K]

    LoRA, LoCon   as it is; a Tucker core goes into down, exactly                  arXiv 2106.09685, 2309.14859
    LoHa          (A₁B₁) ⊙ (A₂B₂): rank r₁·r₂ by row-wise and column-wise Kronecker products, exactly   2108.06098
    LoKr          w₁ ⊗ w₂ of factored w: (A₁ ⊗ A₂)(B₁ ⊗ B₂), exactly up to MAX_RANK, else cut           2309.14859
    full          the change itself, cut to MAX_RANK by its singular values
    DoRA          the above with a magnitude per output                                                 2402.09353

Cut factors keep the largest singular values (the best of that rank, Eckart and Young 1936), and the share of ΔW that is
lost is in the result. Above MAX_ERROR the file is refused.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from bottega.generation.lora.architecture import Architecture, Shape
from bottega.generation.lora.file import LoRAFile, open_lora
from bottega.generation.lora.inspection import LoRAReport, PlacedModule, examine
from bottega.runtime.caching import get_or_compute
from bottega.runtime.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor

MAX_RANK = 256
"""Largest rank of converted factors. Factors of that rank take 22 % (10,240 × 1,280) to 80 % (640 × 640) of the memory
of SDXL's own weights, and beyond it soon more. A LoHa of rank 16 is still converted exactly."""

MAX_ERROR = 0.05
"""Largest relative error ‖ΔW − factors‖ / ‖ΔW‖ (Frobenius, over all modules) of a conversion. People set a LoRA's
weight in steps of 0.05: what is lost is then no more than the smallest step they make."""

ROUNDING = 1e-6
"""Relative size below which the singular values of a float32 matrix are its rounding."""

CACHE_BYTES = 2 << 30
"""Of the cache of parsed files: a few LoRAs of SDXL at rank 128 in float16, of 0.8 GB each."""


@dataclass(frozen=True)
class Factors:
    """The change of one weight: ΔW = (alpha / rank) · up @ down."""

    down: Tensor
    """[R, I], or [R, I, height, width] for a convolution."""
    up: Tensor
    """[O, R], or [O, R, 1, 1]."""
    alpha: float
    magnitude: Tensor | None = None
    """[O]: DoRA's length of each output's weights, float32; None without weight decomposition."""
    error: float = 0.0
    """‖ΔW − factors‖ / ‖ΔW‖ of the conversion; 0 where nothing was cut, so that it is exact but for rounding."""

    @property
    def rank(self) -> int:
        """R."""
        return int(self.down.shape[0])

    def delta(self) -> Tensor:
        """ΔW in float32, in the shape of the weight. With a magnitude this is the change before its rescaling."""
        change = self.up.float().flatten(1) @ self.down.float().flatten(1)
        return (change * (self.alpha / self.rank)).reshape(self.up.shape[0], *self.down.shape[1:])

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        size = self.down.nbytes + self.up.nbytes
        if self.magnitude is not None:
            size += self.magnitude.nbytes
        return size


@dataclass(frozen=True)
class LoRAWeights:
    """A LoRA in canonical form. The tensors are shared with a cache: whoever changes them must copy them first."""

    components: Mapping[str, Mapping[str, Factors]]
    """Component -> the model's own name of a module -> its factors."""
    report: LoRAReport
    error: float
    """Relative error of the conversion over all modules."""

    def delta(self, module: str, component: str | None = None) -> Tensor:
        """ΔW of one module in float32.

        Args:
            module: the model's name of it; `component.module` where `component` is None.
            component: unet, transformer, text_encoder or text_encoder_2.
        """
        if component is None:
            component, _, module = module.partition(".")
        return self.components[component][module].delta()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(factors.nbytes for factors in _all_factors(self.components))


class LoRACache:
    """Parsed files by the hash of their content and the model's architecture, within a bound on memory.

    A file that was edited under the same name is another file, and one under two names is one.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        from cachetools import LRUCache

        self._kept: LRUCache[tuple[str, str, bool], LoRAWeights] = LRUCache(limit, getsizeof=lambda kept: kept.nbytes)
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors that are kept."""
        return int(self._kept.currsize)

    def read(self, path: Path, architecture: Architecture, *, partial_depth: bool = False) -> LoRAWeights:
        """As `read_lora`, from memory where the same content was read for the same architecture."""
        file = open_lora(path)
        # A file of peft's depends on the configuration beside it, so it is read each time.
        if path.name == "adapter_model.safetensors":
            return _convert(file, architecture, partial_depth=partial_depth)
        return get_or_compute(
            self._kept,
            (file.sha256, architecture.digest, partial_depth),
            lambda: _convert(file, architecture, partial_depth=partial_depth),
            lock=self._lock,
        )


def read_lora(path: Path, architecture: Architecture, *, partial_depth: bool = False) -> LoRAWeights:
    """The change that a file makes to a model, in canonical form.

    Args:
        path: the file.
        architecture: of the model, from its live modules, for module names are taken from it.
        partial_depth: see `inspect_lora`.

    Raises:
        MissingError: there is no such file.
        RequestError: it can't be used with this model; the message is `LoRAReport.problem`.
        StorageError: it is incomplete or damaged.
    """
    return _convert(open_lora(path), architecture, partial_depth=partial_depth)


def _convert(file: LoRAFile, architecture: Architecture, *, partial_depth: bool) -> LoRAWeights:
    from safetensors import safe_open

    inspected = examine(file, architecture, partial_depth=partial_depth)
    if inspected.report.problem is not None:
        raise RequestError(f"{file.path}: {inspected.report.problem}")
    components: dict[str, dict[str, Factors]] = {}
    with safe_open(file.path, framework="pt") as opened:
        for placed in inspected.modules:
            if placed.module is None:
                continue  # named in the report; MIN_SHARE bounds how many there can be
            weight = architecture.components[placed.component][placed.module]
            parts = {part: _usable(opened.get_tensor(key)) for part, key in placed.keys.parts.items()}
            components.setdefault(placed.component, {})[placed.module] = _factors(placed, parts, weight)
    file.require_unchanged()
    error = _whole_error(components)
    if error > MAX_ERROR:
        raise RequestError(
            f"{file.path}: at most {MAX_ERROR:.0%} of a change may be lost when it is converted; factors of rank "
            f"{MAX_RANK} would lose {error:.0%} of this one ({', '.join(sorted(inspected.report.algorithms))}); merge "
            "it into its model with the trainer's tools, or extract a LoRA from it"
        )
    return LoRAWeights(components, inspected.report, error)


def _whole_error(components: Mapping[str, Mapping[str, Factors]]) -> float:
    """‖ΔW − factors‖ / ‖ΔW‖ over all modules."""
    everything = _all_factors(components)
    if not any(factors.error for factors in everything):
        return 0.0
    lost = whole = 0.0
    for factors in everything:
        kept = float(factors.delta().norm()) ** 2
        # The cut is orthogonal to what is kept: ‖ΔW‖² = ‖kept‖² + ‖lost‖².
        own = kept / (1 - min(factors.error, 0.999999) ** 2)
        whole += own
        if factors.error:
            lost += own - kept
    if not whole:
        return 0.0
    return math.sqrt(lost / whole)


def _all_factors(components: Mapping[str, Mapping[str, Factors]]) -> list[Factors]:
    found: list[Factors] = []
    for modules in components.values():
        found += modules.values()
    return found


# --- one module -----------------------------------------------------------------------------------------------------


class _Pair(NamedTuple):
    """up [O, R] @ down [R, I·K], and the relative error of a cut."""

    up: Tensor
    down: Tensor
    error: float = 0.0


def _usable(tensor: Tensor) -> Tensor:
    """A copy, for the file behind the tensor may change; formats that a model does not compute in as float32."""
    import torch

    if tensor.dtype in (torch.float16, torch.bfloat16, torch.float32):
        return tensor.clone()
    return tensor.to(torch.float32)


def _factors(placed: PlacedModule, parts: Mapping[str, Tensor], weight: Shape) -> Factors:
    if placed.algorithm in ("lora", "locon"):
        pair = _lora(parts)
    elif placed.algorithm == "loha":
        pair = _loha(parts)
    elif placed.algorithm == "lokr":
        pair = _lokr(parts)
    else:
        pair = _cut_full(parts["diff"].float().flatten(1))
    rank = pair.up.shape[1]
    scale = 1.0
    # Trainers read an alpha of 0 as "none given".
    if placed.alpha and placed.rank:
        scale = placed.alpha / placed.rank
    magnitude = parts.get("magnitude")
    if magnitude is not None:
        magnitude = magnitude.float().flatten().contiguous()
    return Factors(
        down=pair.down.reshape(rank, *weight[1:]).contiguous(),
        up=pair.up.reshape(weight[0], rank, *[1] * (len(weight) - 2)).contiguous(),
        alpha=scale * rank,
        magnitude=magnitude,
        error=pair.error,
    )


def _lora(parts: Mapping[str, Tensor]) -> _Pair:
    up, down, mid = parts["up"], parts["down"], parts.get("mid")
    if mid is None:
        return _Pair(up.flatten(1), down.flatten(1))  # in the file's own format, without rounding
    # ΔW[o, i, k] = Σ up[o, p] mid[p, q, k] down[q, i]: mid and down make one factor of the same rank.
    return _Pair(up.float().flatten(1), _core(mid, down.float().flatten(1)))


def _core(core: Tensor, right: Tensor) -> Tensor:
    """A Tucker core [P, Q, height, width] times [Q, I] → [P, I·K]."""
    from torch import einsum

    return einsum("pqhw,qi->pihw", core.float(), right.float()).flatten(1)


def _loha(parts: Mapping[str, Tensor]) -> _Pair:
    """Row o of (A₁B₁) ⊙ (A₂B₂) is (a₁ ⊗ a₂)(B₁ ∗ B₂), with ⊗ of the rows of A and ∗ of the columns of B."""
    ups, downs = [], []
    for half in ("1", "2"):
        left, right = parts[f"hada_w{half}_a"].float(), parts[f"hada_w{half}_b"].float()
        core = parts.get(f"hada_t{half}")
        if core is not None:
            left, right = left.T, _core(core, right)  # with a core, A is stored [R, O]
        ups.append(left)
        downs.append(right)
    up = (ups[0][:, :, None] * ups[1][:, None, :]).flatten(1)
    down = (downs[0][:, None, :] * downs[1][None, :, :]).flatten(0, 1)
    return _cut_product(up, down)


def _lokr(parts: Mapping[str, Tensor]) -> _Pair:
    """w₁ ⊗ w₂ with w₁ = A₁B₁ and w₂ = A₂B₂; the kernel's positions are w₂'s innermost, so its flat form serves."""
    from torch import kron

    first = _lokr_half(parts, "lokr_w1")
    second = _lokr_half(parts, "lokr_w2")
    outputs = first.up.shape[0] * second.up.shape[0]
    inputs = first.down.shape[1] * second.down.shape[1]
    rank = first.up.shape[1] * second.up.shape[1]
    if rank <= min(MAX_RANK, outputs, inputs):
        return _Pair(kron(first.up, second.up), kron(first.down, second.down))
    if min(outputs, inputs) <= MAX_RANK:
        return _with_identity(kron(first.up @ first.down, second.up @ second.down))
    return _cut_kron(first.up @ first.down, second.up @ second.down)


def _lokr_half(parts: Mapping[str, Tensor], name: str) -> _Pair:
    if name in parts:
        return _with_identity(parts[name].float().flatten(1))
    left, right = parts[f"{name}_a"].float(), parts[f"{name}_b"].float()
    if name == "lokr_w2" and "lokr_t2" in parts:
        return _Pair(left.T.contiguous(), _core(parts["lokr_t2"], right))
    return _Pair(left, right.flatten(1))


def _with_identity(matrix: Tensor) -> _Pair:
    """A matrix as a product with the identity, on its shorter side: exact to the bit."""
    from torch import eye

    outputs, inputs = matrix.shape
    if outputs <= inputs:
        return _Pair(eye(outputs), matrix)
    return _Pair(matrix, eye(inputs))


# --- cutting to MAX_RANK --------------------------------------------------------------------------------------------


def _cut_product(up: Tensor, down: Tensor) -> _Pair:
    """up @ down as it is where its rank is small enough, else cut."""
    from torch import linalg

    shorter = min(up.shape[0], down.shape[1])
    if up.shape[1] <= min(MAX_RANK, shorter):
        return _Pair(up, down)
    if shorter <= MAX_RANK or up.shape[1] >= shorter:
        return _cut_full(up @ down)
    # Of a thin product the singular values are those of a small matrix: with up = Q₁R₁ and downᵀ = Q₂R₂, of R₁R₂ᵀ.
    left, upper = linalg.qr(up)
    right, lower = linalg.qr(down.T)
    core = _cut_full(upper @ lower.T)
    return _Pair(left @ core.up, core.down @ right.T, core.error)


def _cut_full(matrix: Tensor) -> _Pair:
    from torch import linalg

    if min(matrix.shape) <= MAX_RANK:
        return _with_identity(matrix)
    left, values, right = linalg.svd(matrix, full_matrices=False)
    squares = values.double().square()
    # beyond[r] is what a cut to rank r loses; where that is rounding, the matrix has rank r.
    beyond = squares.flip(0).cumsum(0).flip(0)
    rank = max(1, int((beyond > ROUNDING**2 * beyond[0]).sum()))
    error = 0.0
    if rank > MAX_RANK:
        rank = MAX_RANK
        error = math.sqrt(float(beyond[rank] / beyond[0]))
    root = values[:rank].sqrt()  # half to each side, so that neither leaves float16's range
    return _Pair(left[:, :rank] * root, root[:, None] * right[:rank], error)


def _cut_kron(first: Tensor, second: Tensor) -> _Pair:
    """The singular values of a Kronecker product are the products of the two matrices' own (Van Loan 2000)."""
    from torch import linalg

    left_1, values_1, right_1 = linalg.svd(first, full_matrices=False)
    left_2, values_2, right_2 = linalg.svd(second, full_matrices=False)
    products = (values_1[:, None].double() * values_2[None, :].double()).flatten()
    whole = float(products.square().sum())
    best = products.argsort(descending=True, stable=True)[:MAX_RANK]
    one, two = best // len(values_2), best % len(values_2)
    root = products[best].sqrt().float()
    up = (left_1[:, None, one] * left_2[None, :, two]).flatten(0, 1)
    down = (right_1[one][:, :, None] * right_2[two][:, None, :]).flatten(1)
    kept = float(products[best].square().sum())
    error = math.sqrt(max(whole - kept, 0.0) / whole) if whole else 0.0
    return _Pair(up * root, root[:, None] * down, error)


# --- peft -----------------------------------------------------------------------------------------------------------


class PeftArguments(TypedDict):
    """Arguments of `peft.LoraConfig`: computed from the tensors, never copied from a file."""

    r: int
    lora_alpha: float
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, float]
    target_modules: list[str]
    use_dora: bool


@dataclass(frozen=True)
class PeftAdapter:
    """What peft needs to put a LoRA into one component.

    config = peft.LoraConfig(**adapter.arguments)
    peft.inject_adapter_in_model(config, model, name, state_dict=adapter.state_dict)
    peft.set_peft_model_state_dict(model, adapter.state_dict, name)
    """

    arguments: PeftArguments
    state_dict: dict[str, Tensor]


def to_peft(weights: LoRAWeights) -> dict[str, PeftAdapter]:
    """Component -> configuration and state dict for peft.

    The tensors are copies: peft may take them as its own and change them, which must not reach a cache.
    """
    return {component: _peft(modules) for component, modules in weights.components.items()}


def _peft(modules: Mapping[str, Factors]) -> PeftAdapter:
    import re

    # peft looks every module up in the patterns, one regular expression each: only the exceptions go there.
    rank = Counter(factors.rank for factors in modules.values()).most_common(1)[0][0]
    alpha = Counter(factors.alpha for factors in modules.values()).most_common(1)[0][0]
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    tensors: dict[str, Tensor] = {}
    for name, factors in modules.items():
        pattern = f"^{re.escape(name)}"
        if factors.rank != rank:
            ranks[pattern] = factors.rank
        if factors.alpha != alpha:
            alphas[pattern] = factors.alpha
        tensors[f"{name}.lora_A.weight"] = factors.down.clone()
        tensors[f"{name}.lora_B.weight"] = factors.up.clone()
        if factors.magnitude is not None:
            shape = (-1,) if factors.down.ndim == 2 else (1, -1, 1, 1)
            tensors[f"{name}.lora_magnitude_vector"] = factors.magnitude.clone().reshape(shape)
    arguments = PeftArguments(
        r=rank,
        lora_alpha=alpha,
        rank_pattern=ranks,
        alpha_pattern=alphas,
        target_modules=list(modules),
        use_dora=any(factors.magnitude is not None for factors in modules.values()),
    )
    return PeftAdapter(arguments, tensors)
