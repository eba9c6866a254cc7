"""What a LoRA file is, and whether it fits a model: a report made before the model is touched. Needs no torch.

A file that is not safetensors, or damaged, raises. Everything else is reported; `LoRAReport.problem` says why
`read_lora` would refuse the file, and is None where it would not.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bottega.generation.lora.architecture import CROSS_WIDTHS, PAINTERS, Architecture, Family, Shape
from bottega.generation.lora.file import FLOATS, LoRAFile, open_lora
from bottega.generation.lora.layouts import (
    PAINTER,
    Algorithm,
    Layout,
    ModuleKeys,
    fits,
    group,
    layout_of,
    module_shape,
    per_output,
    rank_of,
)
from bottega.generation.lora.metadata import (
    LoRAMetadata,
    ScaleConfig,
    read_metadata,
    scales_beside,
    scales_in_header,
    tidy,
)
from bottega.runtime.errors import RequestError

MIN_SHARE = 0.9
"""Least share of a file's keys that must match the model by name and shape.

A LoRA made for a model matches it to 100 %. What trainers add beside (an embedding, a bias) is a few keys among
hundreds. In the benchmark's corpus LoRAs for another depth of the same family match 25 to 43 %; diffusers loads a part
of a LoRA without an error.
"""

CONVERTED: frozenset[Algorithm] = frozenset({"lora", "locon", "loha", "lokr", "full"})

_NOT_CONVERTED = {
    "norm": "it changes the weights of norm layers, which low-rank factors can't",
    "ia3": "it scales activations instead of adding to weights (IA³, arXiv 2205.05638)",
    "oft": "it rotates the model's own weights (OFT, arXiv 2306.07280), so its change can't be known from the file",
    "boft": "it rotates the model's own weights (BOFT, arXiv 2311.06243), so its change can't be known from the file",
    "glora": "its change depends on the model's own weights (GLoRA, arXiv 2306.07967)",
    "tlora": "its rank depends on the timestep (T-LoRA, arXiv 2507.05964); save it as a plain LoRA",
}  # fmt: skip
_BEYOND_WEIGHTS = {"bias", "set_weight"}
_SHOWN = 8  # of a list of keys
_STACK = re.compile(r"(?:^|\.)(transformer_blocks|attentions|resnets|layers|block)(?=\.(\d+)\.)")
_DEPTHS = (("transformer_blocks",), ("layers",), ("block",), ("attentions", "resnets"))
"""Stacks whose depths a model's configuration sets together: attentions and ResNets are those of `layers_per_block`."""

_PIXART_WIDTH = 1152

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True)
class ComponentReport:
    """What a file holds for one part of the model."""

    modules: int
    keys: int
    matched_modules: int | None
    """That match the model by name and shape; None where no model was given."""


@dataclass(frozen=True)
class LoRAReport:
    """What a LoRA file is, and whether it fits a model."""

    file: str
    sha256: str
    size: int
    """Bytes."""
    layout: Layout
    algorithms: dict[str, int]
    """Modules by algorithm; with weight decomposition `dora`, or `dora loha` and so on."""
    family: Family
    """The model family that it was made for, by its keys and shapes."""
    ranks: dict[int, int]
    """Rank -> modules."""
    alphas: dict[float, int]
    """Alpha -> modules that say one; the others are used at full scale (alpha = rank)."""
    dtypes: dict[str, int]
    """Number format -> tensors."""
    components: dict[str, ComponentReport]
    keys: int
    matched_keys: int | None
    """Keys that match the model by name and shape; None where no model was given."""
    unmatched: tuple[str, ...]
    """The first keys that are not a LoRA's, or found no place in the model."""
    unmatched_keys: int
    misfits: tuple[str, ...]
    """The first modules whose name is in the model and whose shape is another."""
    not_finite: tuple[str, ...]
    """The first tensors that hold a NaN or an infinity."""
    metadata: LoRAMetadata
    notes: tuple[str, ...] = ()
    problem: str | None = None
    """Why the file can't be used, with what to do; None: it can."""

    @property
    def share(self) -> float | None:
        """Share of the keys that match the model, 0 to 1; None where no model was given."""
        if self.matched_keys is None:
            return None
        return self.matched_keys / max(self.keys, 1)

    def record(self) -> dict[str, Any]:
        """Everything as plain data, for JSON."""
        return {**dataclasses.asdict(self), "share": self.share}


@dataclass(frozen=True)
class PlacedModule:
    """One module of a file with what it means, and its place in the model where it has one."""

    keys: ModuleKeys
    algorithm: Algorithm
    component: str
    """unet, transformer, text_encoder or text_encoder_2."""
    shape: Shape | None
    """Of the weight that the factors belong to; None where they do not say."""
    rank: int | None
    alpha: float | None
    """None where the file says none."""
    fault: str | None
    """Why the factors can't belong together."""
    module: str | None = None
    """The model's own name of the module; None where it has none of this name and shape."""
    misfit: str | None = None
    """Set where the name is in the model and the shape is another."""

    @property
    def label(self) -> str:
        """The algorithm, with `dora` where it comes with magnitudes."""
        if "magnitude" not in self.keys.parts:
            return self.algorithm
        return "dora" if self.algorithm in ("lora", "locon") else f"dora {self.algorithm}"


@dataclass(frozen=True)
class Inspected:
    """A file, its modules placed in a model, and the report: what `read_lora` goes on from."""

    file: LoRAFile
    modules: tuple[PlacedModule, ...]
    report: LoRAReport


def inspect_lora(path: Path, architecture: Architecture | None = None, *, partial_depth: bool = False) -> LoRAReport:
    """Say what a LoRA file is and, where a model is given, whether it fits.

    Args:
        path: the file; its content decides what it is, never its name.
        architecture: of the model; None: nothing is said about fitting.
        partial_depth: accept a file that covers only the first blocks of each stack, as for a shallower model.

    Raises:
        MissingError: there is no such file.
        RequestError: it is not safetensors; a pickle is never opened.
        StorageError: it is incomplete or damaged.
    """
    return examine(open_lora(path), architecture, partial_depth=partial_depth).report


def examine(file: LoRAFile, architecture: Architecture | None, *, partial_depth: bool = False) -> Inspected:
    """As `inspect_lora`, for a file that is open; with the modules."""
    shapes = {key: tensor.shape for key, tensor in file.header.tensors.items()}
    grouped, unknown = group(shapes)
    scales = _Scales.of(file)
    modules = tuple(_place(keys, shapes, file, scales, architecture) for keys in grouped)
    not_finite = file.not_finite()
    report = _report(file, modules, unknown, not_finite, scales.notes(modules), architecture)
    problem = _problem(file, modules, report, not_finite, architecture, partial_depth=partial_depth)
    return Inspected(file, modules, dataclasses.replace(report, problem=problem))


# --- modules --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scales:
    """Where alpha is taken from when there is no tensor for it."""

    beside: ScaleConfig | None
    header: Mapping[str, ScaleConfig]

    @classmethod
    def of(cls, file: LoRAFile) -> _Scales:
        return cls(scales_beside(file.path), scales_in_header(file.header.metadata, str(file.path)))

    def alpha(self, component: str, flat_name: str, rank: int) -> float | None:
        config = self.header.get(component, self.beside)
        if config is None:
            return None
        return config.alpha_of(flat_name, rank)

    def notes(self, modules: Iterable[PlacedModule]) -> tuple[str, ...]:
        if self.beside is not None:
            return ("alpha is taken from adapter_config.json beside the file",)
        if self.header:
            return ("alpha is taken from the header, where diffusers writes it",)
        silent = any(module.keys.stem.startswith("base_model.") and module.alpha is None for module in modules)
        if silent:
            return (
                "peft keeps alpha in adapter_config.json, which is not beside the file (adapter_model.safetensors): "
                "the scale is taken as 1",
            )
        return ()


def _place(
    keys: ModuleKeys,
    shapes: Mapping[str, Shape],
    file: LoRAFile,
    scales: _Scales,
    architecture: Architecture | None,
) -> PlacedModule:
    algorithm = keys.algorithm(shapes)
    shape: Shape | None = None
    fault = "a factor is missing" if algorithm == "incomplete" else None
    if fault is None:
        try:
            shape = module_shape(keys, algorithm, shapes)
        except ValueError as error:
            fault = str(error)
    rank = rank_of(keys, algorithm, shapes) if fault is None else None
    component = _component(keys, architecture)
    if rank is None and algorithm == "lokr" and scales.beside is not None:
        rank = scales.beside.r  # peft divides by it even where both matrices are whole; LyCORIS then does not
    alpha = _alpha(keys, file, scales, component, rank)
    placed = PlacedModule(keys, algorithm, component, shape, rank, alpha, fault)
    if architecture is None or fault is not None:
        return placed
    return _find(placed, architecture)


def _component(keys: ModuleKeys, architecture: Architecture | None) -> str:
    """The part of the model that a module belongs to: what the key says, or the first part that has its name."""
    if keys.component == PAINTER:
        return _painter(keys, architecture)
    if keys.component is not None:
        return keys.component
    if architecture is not None:
        for name in architecture.components:
            if architecture.find(name, keys.flat_name) is not None:
                return name
    if re.match(r"encoder_(layers|block)_|text_projection", keys.flat_name):
        return "text_encoder"
    return _painter(keys, architecture)


def _painter(keys: ModuleKeys, architecture: Architecture | None) -> str:
    """`unet` or `transformer`: what the model has, or what the module's name looks like."""
    if architecture is not None and any(name in architecture.components for name in PAINTERS):
        return architecture.painter
    if re.match(r"(single_)?transformer_blocks_|double_blocks_|single_blocks_", keys.flat_name):
        return "transformer"
    return "unet"


def _alpha(keys: ModuleKeys, file: LoRAFile, scales: _Scales, component: str, rank: int | None) -> float | None:
    key = keys.parts.get("alpha")
    if key is None:
        if rank is None:
            return None
        return scales.alpha(component, keys.flat_name, rank)
    if math.prod(file.header.tensors[key].shape) != 1:
        raise RequestError(
            f"{file.path}: alpha is one number, received {key!r} of another shape; leave this LoRA out, or save it "
            "again with its trainer"
        )
    return float(file.values(key)[0])


def _find(placed: PlacedModule, architecture: Architecture) -> PlacedModule:
    module = architecture.find(placed.component, placed.keys.flat_name)
    if module is None:
        return placed
    weight = architecture.components[placed.component][module]
    if placed.shape is not None and not fits(placed.shape, weight):
        misfit = f"{placed.keys.stem}: made for {list(placed.shape)}, the model has {list(weight)}"
        return dataclasses.replace(placed, misfit=tidy(misfit))
    return dataclasses.replace(placed, module=module)


# --- report ---------------------------------------------------------------------------------------------------------


def _report(
    file: LoRAFile,
    modules: tuple[PlacedModule, ...],
    unknown: list[str],
    not_finite: list[str],
    notes: tuple[str, ...],
    architecture: Architecture | None,
) -> LoRAReport:
    labels = [module.label for module in modules]
    unmatched = list(unknown)
    matched: int | None = None
    if architecture is not None:
        unmatched += _keys_without_place(modules)
        matched = len(file.header.tensors) - len(unmatched)
    return LoRAReport(
        file=file.path.name,
        sha256=file.sha256,
        size=file.size,
        layout=layout_of([module.keys for module in modules], labels),
        algorithms=dict(Counter(labels)),
        family=_family(modules, architecture, matched, len(file.header.tensors)),
        ranks=_counts(module.rank for module in modules),
        alphas=_counts(module.alpha for module in modules),
        dtypes=dict(Counter(tensor.dtype for tensor in file.header.tensors.values())),
        components=_components(modules, architecture),
        keys=len(file.header.tensors),
        matched_keys=matched,
        unmatched=tuple(map(tidy, unmatched[:_SHOWN])),
        unmatched_keys=len(unmatched),
        misfits=tuple(_misfits(modules)[:_SHOWN]),
        not_finite=tuple(map(tidy, not_finite[:_SHOWN])),
        metadata=read_metadata(file.header.metadata),
        notes=notes,
    )


def _keys_without_place(modules: Iterable[PlacedModule]) -> list[str]:
    found: list[str] = []
    for module in modules:
        if module.module is None:
            found += sorted(module.keys.parts.values())
    return found


def _misfits(modules: Iterable[PlacedModule]) -> list[str]:
    return [module.misfit for module in modules if module.misfit is not None]


def _counts(values: Iterable[_Number | None]) -> dict[_Number, int]:
    """How often each value occurs, in ascending order; None is not counted."""
    counts: Counter[_Number] = Counter()
    for value in values:
        if value is not None:
            counts[value] += 1
    return dict(sorted(counts.items()))


def _components(modules: tuple[PlacedModule, ...], architecture: Architecture | None) -> dict[str, ComponentReport]:
    found = {}
    for component in sorted({module.component for module in modules}):
        own = [module for module in modules if module.component == component]
        num_keys = sum(len(module.keys.parts) for module in own)
        matched = None if architecture is None else _num_placed(own)
        found[component] = ComponentReport(len(own), num_keys, matched)
    return found


def _num_placed(modules: Iterable[PlacedModule]) -> int:
    return sum(module.module is not None for module in modules)


def _family(
    modules: tuple[PlacedModule, ...], architecture: Architecture | None, matched: int | None, keys: int
) -> Family:
    """The family by names and shapes alone; where they don't say it, that of the model which the file matches."""
    family = _family_of_transformer(modules) or _family_of_unet(modules)
    if family is None and architecture is not None and matched is not None and matched >= MIN_SHARE * max(keys, 1):
        return architecture.family
    return family or "unknown"


def _family_of_transformer(modules: tuple[PlacedModule, ...]) -> Family | None:
    names = [module.keys.flat_name for module in modules if module.component in PAINTERS]
    if _any_begins(names, "double_blocks_", "single_blocks_", "single_transformer_blocks_"):
        return "flux"
    if not _any_begins(names, "transformer_blocks_"):
        return None
    return "pixart" if _input_widths(modules, "attn1_to_q") == {_PIXART_WIDTH} else None


def _family_of_unet(modules: tuple[PlacedModule, ...]) -> Family | None:
    names = [module.keys.flat_name for module in modules if module.component == "unet"]
    if _any_begins(names, "transformer_blocks_"):
        return None
    widths = _input_widths(modules, "attn2_to_k") | _input_widths(modules, "attn2_to_v")
    if len(widths) == 1 and widths <= CROSS_WIDTHS.keys():
        return CROSS_WIDTHS[widths.pop()]
    # Only SDXL has a second text encoder, and an embedding of the picture's size.
    if any(module.component == "text_encoder_2" for module in modules):
        return "sdxl"
    if _any_begins(names, "add_embedding_", "label_emb_"):
        return "sdxl"
    return None


def _any_begins(names: Iterable[str], *prefixes: str) -> bool:
    return any(name.startswith(prefixes) for name in names)


def _input_widths(modules: tuple[PlacedModule, ...], ending: str) -> set[int]:
    found = set()
    for module in modules:
        if module.component in PAINTERS and module.keys.flat_name.endswith(ending) and module.shape is not None:
            found.add(module.shape[1])
    return found


# --- judgement ------------------------------------------------------------------------------------------------------


def _problem(
    file: LoRAFile,
    modules: tuple[PlacedModule, ...],
    report: LoRAReport,
    not_finite: list[str],
    architecture: Architecture | None,
    *,
    partial_depth: bool,
) -> str | None:
    """Why the file can't be used, the cause before its consequences; None where it can."""
    problem = _problem_of_content(file, modules, report, not_finite)
    if problem is None and architecture is not None:
        problem = _problem_of_place(modules, report, architecture)
    if problem is None:
        problem = _problem_of_conversion(file, modules)
    if problem is None and architecture is not None and not partial_depth:
        problem = _shallower(modules, architecture)
    return problem


def _problem_of_content(
    file: LoRAFile, modules: tuple[PlacedModule, ...], report: LoRAReport, not_finite: list[str]
) -> str | None:
    if not file.header.tensors:
        return "a LoRA holds tensors, this file holds none; name the file that its trainer saved"
    if not modules:
        first = tidy(next(iter(file.header.tensors)))
        return (
            f"no key is a LoRA's, the first is {first!r}; if the file is a whole model or an embedding, use it as one"
        )
    if not_finite:
        return (
            f"every number must be finite; {len(not_finite)} of {report.keys} tensors hold a NaN or an infinity, first "
            f"{tidy(not_finite[0])!r}; pictures would be black; take an earlier epoch of the training"
        )
    unread = _not_floats(file, modules)
    if unread is not None:
        return unread
    broken = next((module for module in modules if module.fault is not None), None)
    if broken is not None:
        return f"{tidy(broken.keys.stem)}: {broken.fault}; leave this LoRA out, or save it again with its trainer"
    return None


def _not_floats(file: LoRAFile, modules: Iterable[PlacedModule]) -> str | None:
    """A problem where a factor is in a format that isn't read."""
    for module in modules:
        for part, key in module.keys.parts.items():
            dtype = file.header.tensors[key].dtype
            if dtype not in FLOATS and part not in ("alpha", "on_input"):
                return (
                    f"factors are read as {', '.join(FLOATS)}; {tidy(key)!r} is {tidy(dtype)}; save the LoRA in "
                    "float32, float16 or bfloat16"
                )
    return None


def _problem_of_place(modules: tuple[PlacedModule, ...], report: LoRAReport, architecture: Architecture) -> str | None:
    known = "unknown" not in (report.family, architecture.family)
    if known and report.family != architecture.family:
        return (
            f"the LoRA is made for {report.family}, by its keys and shapes, the model is {architecture.family}; use a "
            f"model of the family {report.family}, or a LoRA for {architecture.family}"
        )
    if report.share is None or report.share >= MIN_SHARE:
        return _which_encoder(modules, architecture)
    return _too_few_matches(modules, report, report.share, architecture)


def _too_few_matches(
    modules: tuple[PlacedModule, ...], report: LoRAReport, share: float, architecture: Architecture
) -> str:
    """Why most of a file has no place in the model: another width, another part, another depth, or none of these."""
    matched = f"{report.matched_keys} of {report.keys} keys match the model ({share:.0%}); at least {MIN_SHARE:.0%}"
    placed = _num_placed(modules)
    misfits = _misfits(modules)
    if misfits and (not placed or len(misfits) > (len(modules) - placed) / 2):
        return f"{matched} must: it is made for a model of another width ({misfits[0]}); use the model it was made for"
    absent = sorted({module.component for module in modules} - set(architecture.components))
    if len(absent) == len(report.components):
        return f"{matched} must: the model has no {' or '.join(absent)}; use the model it was made for"
    first = report.unmatched[0]
    if placed and not misfits:
        return f"{matched} must: it is made for another depth (no {first!r} here); use the model it was made for"
    return f"{matched} must (no {first!r} here); use the model it was made for"


def _which_encoder(modules: tuple[PlacedModule, ...], architecture: Architecture) -> str | None:
    """A problem where keys without a prefix fit both text encoders."""
    for module in modules:
        if module.keys.component is not None or module.component != "text_encoder":
            continue
        other = architecture.find("text_encoder_2", module.keys.flat_name)
        if other is None or module.shape is None:
            continue
        if fits(module.shape, architecture.components["text_encoder_2"][other]):
            return (
                f"a key must say which text encoder it belongs to; {tidy(module.keys.stem)!r} fits both; save the LoRA "
                "in diffusers' layout (text_encoder.…, text_encoder_2.…)"
            )
    return None


def _problem_of_conversion(file: LoRAFile, modules: tuple[PlacedModule, ...]) -> str | None:
    for module in modules:
        if module.algorithm not in CONVERTED:
            count = sum(other.algorithm == module.algorithm for other in modules)
            return (
                f"{count} of {len(modules)} modules are {module.algorithm}: {_NOT_CONVERTED[module.algorithm]}; "
                "merge it into its model with the trainer's tools, or train a LoRA"
            )
        bias = module.keys.parts.get("diff_b")
        if _BEYOND_WEIGHTS & module.keys.parts.keys() or (bias is not None and file.values(bias).any()):
            return (
                f"only changes of weights are added; {tidy(module.keys.stem)!r} also changes a bias or replaces a "
                "weight; merge it into its model with the trainer's tools"
            )
    return _problem_of_magnitudes(file, modules)


def _problem_of_magnitudes(file: LoRAFile, modules: tuple[PlacedModule, ...]) -> str | None:
    """DoRA is applied as peft does it: one length per output, for all modules of a component."""
    with_magnitude = [module for module in modules if "magnitude" in module.keys.parts]
    for component in sorted({module.component for module in with_magnitude}):
        own = [module for module in modules if module.component == component]
        without = [module for module in own if "magnitude" not in module.keys.parts]
        if without:
            return (
                f"{component}: {len(without)} of {len(own)} modules have no DoRA magnitude, first "
                f"{tidy(without[0].keys.stem)!r}; all must or none; save the LoRA again with its trainer"
            )
    return _problem_of_lengths(file, with_magnitude)


def _problem_of_lengths(file: LoRAFile, with_magnitude: Iterable[PlacedModule]) -> str | None:
    for module in with_magnitude:
        shape = file.header.tensors[module.keys.parts["magnitude"]].shape
        if module.shape is None or per_output(shape, module.shape[0], of_peft=module.keys.magnitude_of_peft):
            continue
        return (
            f"DoRA is applied with one length per output, {module.shape[0]} for {tidy(module.keys.stem)!r}; "
            f"received {list(shape)}, per input; train it with wd_on_out=True (LyCORIS), or merge it into its model"
        )
    return None


def _shallower(modules: tuple[PlacedModule, ...], architecture: Architecture) -> str | None:
    """A problem where the file covers the first blocks of most stacks and the rest of none.

    Names and shapes of a LoRA for a shallower model of the same family all match (an SDXL with fewer transformer
    blocks), and the picture is rubbish. A LoRA for chosen blocks touches few stacks, or the whole of those it touches.
    """
    for component, shapes in architecture.components.items():
        own = [module.module for module in modules if module.component == component and module.module is not None]
        there, touched = _stacks(shapes), _stacks(own)
        for kinds in _DEPTHS:
            stack = _cut_stack(kinds, there, touched)
            if stack is not None:
                kind, prefix = stack
                return (
                    f"{component}: it covers blocks 0 to {len(touched[stack]) - 1} of {len(there[stack])} in "
                    f"{prefix}{kind}, and likewise everywhere: it is made for a shallower model; use that one"
                )
    return None


_Stacks = dict[tuple[str, str], set[int]]
"""(kind, prefix) of every stack of like blocks -> numbers of its blocks."""


def _cut_stack(kinds: tuple[str, ...], there: _Stacks, touched: _Stacks) -> tuple[str, str] | None:
    """One of the stacks of these kinds, if most of them are touched and each only in its first blocks; else None."""
    deep = _deep(kinds, there)
    used = sorted(deep & touched.keys())
    touched_kinds = {kind for kind, _ in used}
    alike = sum(1 for kind, _ in deep if kind in touched_kinds)
    if not used or 2 * len(used) <= alike:
        return None
    if all(_only_first(touched[stack], there[stack]) for stack in used):
        return used[0]
    return None


def _deep(kinds: tuple[str, ...], stacks: _Stacks) -> set[tuple[str, str]]:
    """The stacks of these kinds that have more than one block."""
    found = set()
    for stack, blocks in stacks.items():
        if stack[0] in kinds and len(blocks) > 1:
            found.add(stack)
    return found


def _only_first(blocks: set[int], of_all: set[int]) -> bool:
    """Whether these are the first blocks of a stack, and not all."""
    return blocks != of_all and blocks == set(range(len(blocks)))


def _stacks(names: Iterable[str]) -> _Stacks:
    found: _Stacks = {}
    for name in names:
        for match in _STACK.finditer(name):
            found.setdefault((match[1], name[: match.start(1)]), set()).add(int(match[2]))
    return found
