"""The names that trainers give to a LoRA's tensors, taken apart: which module, which part of its factors.

    kohya       lora_unet_down_blocks_1_attentions_0_…_to_q.lora_down.weight, lora_te1_…, lora_te2_…; .alpha
    lycoris     the same names with hada_…, lokr_…, diff, w_norm, oft_blocks …
    diffusers   unet.….to_q.lora_A.weight, ….lora.down.weight, ….processor.to_q_lora.down.weight (2023), text_encoder.…
    peft        base_model.model.….lora_A.weight, with adapter_config.json beside the file

Names decide nothing about shapes: `module_shape` says what weight the factors belong to. Needs no torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from bottega.generation.lora.architecture import Shape, flat

Layout = Literal["kohya", "lycoris", "diffusers", "diffusers (processors)", "peft", "mixed", "unknown"]
Algorithm = Literal[
    "lora", "locon", "loha", "lokr", "full", "norm", "ia3", "oft", "boft", "glora", "tlora", "incomplete"
]

PAINTER = "painter"
"""The component of a key that means the U-Net or the transformer, whichever the model has."""

_PARTS = (
    (re.compile(r"[._]lora(?:_linear_layer)?\.(down|up)\.weight"), "diffusers"),
    (re.compile(r"\.lora_(down|up|mid)\.weight"), "kohya"),
    (re.compile(r"\.lora_(A|B)(?:\.[\w-]+)?\.weight"), "peft"),
    (re.compile(r"\.(lora_(?:A|B|up|down)(?:\.[\w-]+)?\.bias)"), "bias"),
    (re.compile(r"\.lora_(magnitude_vector)(?:\.[\w-]+)?"), "peft"),
    (re.compile(r"\.(alpha|dora_scale)"), "any"),
    (re.compile(r"\.(hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t[12]))"), "lycoris"),
    (re.compile(r"\.(diff|diff_b|w_norm|b_norm|on_input|oft_blocks|oft_diag|rescale)"), "lycoris"),
    (re.compile(r"\.(lambda_layer|set_weight)"), "lycoris"),
    (re.compile(r"\.(a1|a2|b1|b2|bm|q_layer|p_layer|oft_R)\.weight"), "lycoris"),
    (re.compile(r"\.(ia3_l)(?:\.[\w-]+)?"), "peft"),
)  # fmt: skip
_NAMES = {"A": "down", "B": "up", "magnitude_vector": "magnitude", "dora_scale": "magnitude"}
_KOHYA = {
    "lora_unet_": PAINTER, "lora_transformer_": PAINTER, "lycoris_": PAINTER,
    "lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2", "lora_te_": "text_encoder",
}  # fmt: skip
_DOTTED = {
    "unet.": PAINTER, "transformer.": PAINTER, "diffusion_model.": PAINTER, "model.diffusion_model.": PAINTER,
    "text_encoder.": "text_encoder", "text_encoder_2.": "text_encoder_2",
}  # fmt: skip
_PEFT = "base_model.model."
_PROCESSOR = re.compile(r"\.processor\.|\.self_attn\.to_(?:q|k|v|out)$")


@dataclass
class ModuleKeys:
    """The tensors of one module."""

    stem: str
    """The name as the file has it, without the part."""

    component: str | None
    """PAINTER, text_encoder or text_encoder_2; None where the file does not say."""

    flat_name: str
    layouts: set[str] = field(default_factory=set)
    parts: dict[str, str] = field(default_factory=dict)
    """Part -> key."""

    magnitude_of_peft: bool = False
    """peft's vector counts outputs at position 1 for a convolution; LyCORIS's `dora_scale` at position 0."""

    def algorithm(self, shapes: Mapping[str, Shape]) -> Algorithm:
        """What the parts are factors of; `incomplete` where one is missing."""
        parts = self.parts.keys()
        if {"down", "up"} <= parts:
            return "locon" if len(shapes[self.parts["down"]]) == 4 else "lora"
        if "hada_w1_a" in parts:
            return "loha" if {"hada_w1_b", "hada_w2_a", "hada_w2_b"} <= parts else "incomplete"
        if {"lokr_w1", "lokr_w1_a"} & parts:
            return "lokr" if _whole_lokr(parts) else "incomplete"
        if "oft_blocks" in parts:
            return "boft" if len(shapes[self.parts["oft_blocks"]]) == 4 else "oft"
        return _by_mark(parts)


_MARKS: Mapping[str, Algorithm] = {
    "diff": "full", "set_weight": "full", "w_norm": "norm", "on_input": "ia3", "ia3_l": "ia3", "oft_diag": "oft",
    "oft_R": "oft", "a1": "glora", "lambda_layer": "tlora",
}  # fmt: skip


def _by_mark(parts: Container[str]) -> Algorithm:
    """The algorithm of a module, where one part alone decides it."""
    for part, algorithm in _MARKS.items():
        if part in parts:
            return algorithm
    return "incomplete"


def _whole_lokr(parts: Iterable[str]) -> bool:
    there = set(parts)
    first = "lokr_w1" in there or {"lokr_w1_a", "lokr_w1_b"} <= there
    second = "lokr_w2" in there or {"lokr_w2_a", "lokr_w2_b"} <= there
    return first and second and "lokr_t1" not in there


def group(keys: Iterable[str]) -> tuple[list[ModuleKeys], list[str]]:
    """The modules that a file's keys name, in the file's order, and the keys that name none."""
    modules: dict[str, ModuleKeys] = {}
    unknown = []
    names = set(keys)
    for key in sorted(names):
        split = _split(key, names)
        if split is None:
            unknown.append(key)
            continue
        stem, part, layout = split
        module = modules.get(stem)
        if module is None:
            module = modules[stem] = _module(stem)
        if part in module.parts:  # the same factor under two names: nobody can say which one is meant
            unknown.append(key)
            continue
        module.parts[part] = key
        module.magnitude_of_peft |= part == "magnitude" and layout == "peft"
    return list(modules.values()), unknown


def _split(key: str, names: set[str]) -> tuple[str, str, str] | None:
    for pattern, layout in _PARTS:
        match = re.search(rf"(?:{pattern.pattern})$", key)
        if match is None or match.start() == 0:
            continue
        stem = key[: match.start()]
        part = match[1]
        # `….alpha` beside `….to_q_lora.down.weight` belongs to to_q.
        if part == "alpha":
            stem = stem.removesuffix("_lora").removesuffix(".lora")
        if part.endswith("bias"):
            return stem, "bias", layout
        return stem, _NAMES.get(part, part), layout
    stem = key.removesuffix(".weight")
    if stem != key and f"{stem}.on_input" in names:
        return stem, "weight", "lycoris"
    return None


def _module(stem: str) -> ModuleKeys:
    for prefix, component in _KOHYA.items():
        if stem.startswith(prefix):
            return ModuleKeys(stem, component, flat(stem.removeprefix(prefix)), {"kohya"})
    layouts = set()
    name = stem
    if name.startswith(_PEFT):
        layouts.add("peft")
        name = name.removeprefix(_PEFT)
    else:
        layouts.add("diffusers")
    if _PROCESSOR.search(name):
        layouts.add("diffusers (processors)")
        name = _without_processor(name)
    for prefix, component in _DOTTED.items():
        if name.startswith(prefix):
            return ModuleKeys(stem, component, flat(name.removeprefix(prefix)), layouts)
    return ModuleKeys(stem, None, flat(name), layouts)


def _without_processor(name: str) -> str:
    """`attn1.processor.to_out` is `attn1.to_out.0`, `self_attn.to_q` of a text encoder is `self_attn.q_proj`."""
    name = re.sub(r"\.processor\.to_out$", ".to_out.0", name)
    name = name.replace(".processor.", ".")
    return re.sub(r"\.self_attn\.to_(q|k|v|out)$", r".self_attn.\1_proj", name)


def layout_of(modules: Iterable[ModuleKeys], algorithms: Iterable[str]) -> Layout:
    """The layout of a whole file."""
    modules = list(modules)
    kohya = sum("kohya" in module.layouts and "peft" not in module.layouts for module in modules)
    if not modules:
        return "unknown"
    if kohya == len(modules):
        return "kohya" if set(algorithms) <= {"lora", "locon"} else "lycoris"
    if kohya:
        return "mixed"
    return _dotted_layout(modules)


def _dotted_layout(modules: list[ModuleKeys]) -> Layout:
    """The layout of a file whose modules keep the dots of their names."""
    from_peft = sum(module.stem.startswith(_PEFT) for module in modules)
    if from_peft:
        return "peft" if from_peft == len(modules) else "mixed"
    if any("diffusers (processors)" in module.layouts for module in modules):
        return "diffusers (processors)"
    return "diffusers"


def module_shape(module: ModuleKeys, algorithm: Algorithm, shapes: Mapping[str, Shape]) -> Shape | None:
    """The shape of the weight that the factors belong to; None where they do not say (a rotation, a scale).

    Raises:
        ValueError: the factors do not fit each other, or one of them is empty.
    """
    part = {name: shapes[key] for name, key in module.parts.items()}
    if any(0 in shape for shape in part.values()):
        raise ValueError("a factor is empty")
    if algorithm in ("lora", "locon"):
        return _lora_shape(part)
    if algorithm == "loha":
        return _loha_shape(part)
    if algorithm == "lokr":
        return _lokr_shape(part)
    if algorithm == "full":
        return part.get("diff") or part.get("set_weight")
    if algorithm == "norm":
        return part["w_norm"]
    return None


def _lora_shape(part: Mapping[str, Shape]) -> Shape:
    down, up, mid = part["down"], part["up"], part.get("mid")
    if len(down) not in (2, 4) or len(up) not in (2, 4) or math.prod(up[2:]) != 1:
        raise ValueError(f"down {list(down)} and up {list(up)} are no factors of a linear layer or a convolution")
    if mid is None:
        if up[1] != down[0]:
            raise ValueError(f"down {list(down)} and up {list(up)} differ in rank")
        return (up[0], *down[1:])
    if len(mid) != 4 or (mid[0], mid[1]) != (up[1], down[0]) or math.prod(down[2:]) != 1:
        raise ValueError(f"down {list(down)}, mid {list(mid)} and up {list(up)} do not fit each other")
    return (up[0], down[1], *mid[2:])


def _loha_shape(part: Mapping[str, Shape]) -> Shape:
    halves: list[Shape] = []
    for half in ("1", "2"):
        left, right, core = part[f"hada_w{half}_a"], part[f"hada_w{half}_b"], part.get(f"hada_t{half}")
        if len(left) != 2 or len(right) != 2:
            raise ValueError(f"hada_w{half}: {list(left)} and {list(right)} are no matrices")
        if core is None:
            if left[1] != right[0]:
                raise ValueError(f"hada_w{half}: {list(left)} and {list(right)} differ in rank")
            halves.append((left[0], right[1]))
            continue
        if len(core) != 4 or core[:2] != (left[0], right[0]):
            raise ValueError(f"hada_t{half} {list(core)} does not fit {list(left)} and {list(right)}")
        halves.append((left[1], right[1], *core[2:]))
    if halves[0] != halves[1]:
        raise ValueError(f"the two halves are of shape {list(halves[0])} and {list(halves[1])}")
    return halves[0]


def _lokr_shape(part: Mapping[str, Shape]) -> Shape:
    first = part.get("lokr_w1") or _product(part["lokr_w1_a"], part["lokr_w1_b"], "lokr_w1")
    if "lokr_w2" in part:
        second = part["lokr_w2"]
    elif "lokr_t2" in part:
        left, right, core = part["lokr_w2_a"], part["lokr_w2_b"], part["lokr_t2"]
        if len(core) != 4 or len(left) != 2 or len(right) != 2 or core[:2] != (left[0], right[0]):
            raise ValueError(f"lokr_t2 {list(core)} does not fit {list(left)} and {list(right)}")
        second = (left[1], right[1], *core[2:])
    else:
        second = _product(part["lokr_w2_a"], part["lokr_w2_b"], "lokr_w2")
    if len(first) != 2 or len(second) not in (2, 4):
        raise ValueError(f"lokr_w1 {list(first)} and lokr_w2 {list(second)} are no factors of a weight")
    return (first[0] * second[0], first[1] * second[1], *second[2:])


def _product(left: Shape, right: Shape, name: str) -> Shape:
    if len(left) != 2 or len(right) not in (2, 4) or left[1] != right[0]:
        raise ValueError(f"{name}: {list(left)} and {list(right)} differ in rank")
    return (left[0], *right[1:])


def rank_of(module: ModuleKeys, algorithm: Algorithm, shapes: Mapping[str, Shape]) -> int | None:
    """The rank by which alpha is divided; None for what has none (full matrices)."""
    place = {
        "lora": (("down", 0),), "locon": (("down", 0),), "loha": (("hada_w1_b", 0),),
        "lokr": (("lokr_w1_b", 0), ("lokr_w2_b", 0)),
    }.get(algorithm, ())  # fmt: skip
    for part, axis in place:
        if part in module.parts:
            return shapes[module.parts[part]][axis]
    return None


def fits(shape: Shape, weight: Shape) -> bool:
    """Whether factors of this shape change that weight. A 1 × 1 convolution is a matrix; LyCORIS flattens kernels."""
    if len(shape) < 2 or len(weight) < 2:
        return shape == weight
    if shape[0] != weight[0] or math.prod(shape[1:]) != math.prod(weight[1:]):
        return False
    return len(shape) == 2 or shape[1] == weight[1]


def per_output(shape: Shape, outputs: int, *, of_peft: bool) -> bool:
    """Whether DoRA magnitudes are one per output, rather than one per input.

    LyCORIS writes [outputs, 1, …] or [1, inputs, …]; peft writes [outputs], for a convolution [1, outputs, 1, 1].
    """
    if math.prod(shape) != outputs:
        return False
    return len(shape) == 1 or shape[0] == outputs or (of_peft and len(shape) == 4)
