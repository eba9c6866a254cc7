"""LoRA files of every layout and algorithm, built here, each with the change of the weights worked out independently.

Nothing of bottega's reader is used. The change is computed in float64 with NumPy from the formulas of the papers, in
the plainest form, from the numbers as they were rounded into the file; names of modules in other layouts are written
by their trainers' rules, those of the original Stable Diffusion code as a list. Files are serialised here too, so that
hostile headers can be.

    cases = build(folder, models)       # models: bottega's miniature/weights
    case.file, case.model, case.deltas, case.refused
"""

from __future__ import annotations

import io
import json
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Array = NDArray[Any]
Parts = dict[str, Array]
Deltas = dict[tuple[str, str], Array]
Names = Callable[[str, str, str], str]
"""(component, module, part of the factors) -> key."""

WIDE = {"unet": {"down_blocks.0.attentions.0.proj_in": (640, 512), "down_blocks.0.resnets.0.conv1": (320, 320, 3, 3)}}
"""A model whose layers are wider than the rank that conversions are cut to."""

ATTENTION = re.compile(r"attn[12]\.to_(q|k|v|out\.0)$|self_attn\.(q|k|v|out)_proj$")
ENCODERS = re.compile(r"self_attn\.(q|k|v|out)_proj$|mlp\.fc[12]$")
CONVOLUTIONS = re.compile(r"resnets\.\d+\.conv[12]$|samplers\.0\.conv$|conv_shortcut$")
EVERYTHING = re.compile(r"(?!.*(norm|embeddings|shared|relative_attention_bias))")

ORIGINAL = {
    "time_embedding.linear_1": "time_embed.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "down_blocks.0.resnets.0.conv1": "input_blocks.1.0.in_layers.2",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0.conv_shortcut": "input_blocks.3.0.skip_connection",
    "down_blocks.1.attentions.0.proj_in": "input_blocks.3.1.proj_in",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": "input_blocks.3.1.transformer_blocks.0.attn1.to_q",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k": "input_blocks.3.1.transformer_blocks.0.attn2.to_k",
    "down_blocks.1.downsamplers.0.conv": "input_blocks.4.0.op",
    "down_blocks.2.resnets.0.time_emb_proj": "input_blocks.5.0.emb_layers.1",
    "down_blocks.2.attentions.0.transformer_blocks.0.ff.net.0.proj": (
        "input_blocks.5.1.transformer_blocks.0.ff.net.0.proj"
    ),
    "mid_block.resnets.0.conv2": "middle_block.0.out_layers.3",
    "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0": "middle_block.1.transformer_blocks.0.attn1.to_out.0",
    "mid_block.resnets.1.conv1": "middle_block.2.in_layers.2",
    "up_blocks.0.attentions.0.transformer_blocks.0.attn1.to_v": "output_blocks.0.1.transformer_blocks.0.attn1.to_v",
    "up_blocks.0.attentions.1.transformer_blocks.0.attn2.to_q": "output_blocks.1.1.transformer_blocks.0.attn2.to_q",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.1.2.conv",
    "up_blocks.1.attentions.0.proj_out": "output_blocks.2.1.proj_out",
    "up_blocks.1.attentions.1.proj_out": "output_blocks.3.1.proj_out",
    "up_blocks.1.upsamplers.0.conv": "output_blocks.3.2.conv",
    "up_blocks.2.resnets.1.conv2": "output_blocks.5.0.out_layers.3",
}
"""Some of the miniature's modules (one ResNet a block) and what the original code calls them."""


@dataclass(frozen=True)
class Case:
    """One file, and what must come of it."""

    name: str
    file: Path
    model: str
    """sdxl, pixart or wide."""
    deltas: Deltas = field(default_factory=dict)
    """(component, module) -> ΔW in float64, before a magnitude's rescaling; empty where the file is refused."""
    magnitudes: Deltas = field(default_factory=dict)
    """DoRA: length per output, [O]."""
    refused: str | None = None
    """Words that the reason holds; None: the file loads."""
    cut: bool = False
    """Whether the change is of a higher rank than is kept; else the conversion must be exact."""
    share: float = 1.0
    """Share of the keys that matches."""
    algorithm: str | None = None
    layout: str | None = None


# --- serialising ----------------------------------------------------------------------------------------------------

_DTYPES = {"float16": "F16", "float32": "F32", "float64": "F64", "int64": "I64", "int8": "I8"}


def bfloat16(values: Array) -> Array:
    """Rounded to bfloat16 (to even), in float32."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)


def serialise(tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None, *, bf16: bool = False) -> bytes:
    """A safetensors file. With `bf16` float32 arrays, which must be rounded already, are written as bfloat16."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    data = io.BytesIO()
    for name, values in tensors.items():
        begin = data.tell()
        values = np.ascontiguousarray(values).reshape(np.shape(values))
        dtype = _DTYPES[values.dtype.name]
        if bf16 and dtype == "F32":
            dtype = "BF16"
            data.write((values.view(np.uint32) >> 16).astype("<u2").tobytes())
        else:
            data.write(values.tobytes())
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [begin, data.tell()]}
    return with_header(header, data.getvalue())


def with_header(header: object, data: bytes) -> bytes:
    """A file with this header, right or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


# --- factors, and what they mean ------------------------------------------------------------------------------------


class Maker:
    """Draws factors and works out their change, in float64."""

    def __init__(self, seed: int, store: Callable[[Array], Array] = lambda values: values.astype(np.float32)) -> None:
        self._rng = np.random.default_rng(seed)
        self._store = store

    def draw(self, *shape: int, size: float = 0.1) -> Array:
        """Numbers as the file will hold them."""
        return self._store(self._rng.standard_normal(shape) * size)

    def lora(self, weight: tuple[int, ...], rank: int, alpha: float | None = None) -> tuple[Parts, Array]:
        """LoRA (arXiv 2106.09685): ΔW = (α/r) B A. Of a convolution A has the kernel (LoCon)."""
        down = self.draw(rank, *weight[1:])
        up = self.draw(weight[0], rank, *[1] * (len(weight) - 2))
        change = wide(up).reshape(weight[0], rank) @ wide(down).reshape(rank, -1)
        parts = {"lora_down.weight": down, "lora_up.weight": up, **self.alpha(alpha)}
        return parts, change.reshape(weight) * (1.0 if alpha is None else alpha / rank)

    def tucker(self, weight: tuple[int, ...], rank: int, alpha: float) -> tuple[Parts, Array]:
        """LoCon with a Tucker core (arXiv 2309.14859): ΔW[o, i, k] = (α/r) Σ_pq B[o, p] C[p, q, k] A[q, i]."""
        down, up = self.draw(rank, weight[1], 1, 1), self.draw(weight[0], rank, 1, 1)
        core = self.draw(rank, rank, *weight[2:])
        change = np.zeros(weight)
        for p in range(rank):
            for q in range(rank):
                outer = np.outer(wide(up)[:, p, 0, 0], wide(down)[q, :, 0, 0])
                change += outer[:, :, None, None] * wide(core)[p, q]
        parts = {"lora_down.weight": down, "lora_up.weight": up, "lora_mid.weight": core, **self.alpha(alpha)}
        return parts, change * alpha / rank

    def loha(
        self, weight: tuple[int, ...], rank: int, alpha: float | None = None, *, core: bool = False
    ) -> tuple[Parts, Array]:
        """LoHa (FedPara, arXiv 2108.06098): ΔW = (α/r) (A₁B₁) ⊙ (A₂B₂); proposition 3 with cores for convolutions."""
        parts: Parts = {}
        change = np.ones(weight)
        for half in "12":
            if core:
                left, right = self.draw(rank, weight[0], size=0.3), self.draw(rank, weight[1], size=0.3)
                middle = self.draw(rank, rank, *weight[2:], size=0.3)
                parts[f"hada_t{half}"] = middle
                own = np.zeros(weight)
                for p in range(rank):
                    for q in range(rank):
                        outer = np.outer(wide(left)[p], wide(right)[q])
                        own += outer[:, :, None, None] * wide(middle)[p, q]
            else:
                left, right = self.draw(weight[0], rank), self.draw(rank, int(np.prod(weight[1:])))
                own = (wide(left) @ wide(right)).reshape(weight)
            parts[f"hada_w{half}_a"], parts[f"hada_w{half}_b"] = left, right
            change *= own
        return {**parts, **self.alpha(alpha)}, change * (1.0 if alpha is None else alpha / rank)

    def lokr(
        self,
        weight: tuple[int, ...],
        rank: int,
        alpha: float | None = None,
        *,
        factor: int = 4,
        first: bool = False,
        second: bool = True,
        core: bool = False,
    ) -> tuple[Parts, Array]:
        """LoKr (LyCORIS, arXiv 2309.14859): ΔW = (α/r) w₁ ⊗ w₂; `first` and `second`: which one is a product."""
        small = (factor, factor)
        large = (weight[0] // factor, weight[1] // factor, *weight[2:])
        parts: Parts = {}
        one, parts_one = self._half("lokr_w1", small, rank if first else None)
        if core:
            left, right = self.draw(rank, large[0], size=0.3), self.draw(rank, large[1], size=0.3)
            middle = self.draw(rank, rank, *weight[2:], size=0.3)
            two = np.einsum("pqhw,po,qi->oihw", wide(middle), wide(left), wide(right))
            parts_two = {"lokr_w2_a": left, "lokr_w2_b": right, "lokr_t2": middle}
        else:
            two, parts_two = self._half("lokr_w2", large, rank if second else None)
        parts = {**parts_one, **parts_two, **self.alpha(alpha)}
        change = np.zeros(weight)
        for row in range(small[0]):
            for column in range(small[1]):
                rows = slice(row * large[0], (row + 1) * large[0])
                columns = slice(column * large[1], (column + 1) * large[1])
                change[rows, columns] = one[row, column] * two
        scaled = alpha is not None and (first or second or core)  # two whole matrices have no rank: the scale is 1
        return parts, change * (alpha / rank if scaled and alpha is not None else 1.0)

    def _half(self, name: str, shape: tuple[int, ...], rank: int | None) -> tuple[Array, Parts]:
        if rank is None:
            whole = self.draw(*shape)
            return wide(whole), {name: whole}
        left, right = self.draw(shape[0], rank, size=0.3), self.draw(rank, *shape[1:], size=0.3)
        product = (wide(left) @ wide(right).reshape(rank, -1)).reshape(shape)
        return product, {f"{name}_a": left, f"{name}_b": right}

    def full(self, weight: tuple[int, ...], rank: int | None = None) -> tuple[Parts, Array]:
        """The change itself, of a given rank or full."""
        if rank is None:
            change = self.draw(*weight)
        else:
            left, right = self._rng.standard_normal((weight[0], rank)), self._rng.standard_normal((rank, weight[1]))
            change = self._store(0.01 * left @ right)
        return {"diff": change}, wide(change)

    def alpha(self, alpha: float | None) -> Parts:
        """The number by itself, as kohya stores it."""
        return {} if alpha is None else {"alpha": self._store(np.array(alpha))}


def wide(values: Array) -> Array:
    """In float64."""
    return values.astype(np.float64)


def merged(weight: Array, delta: Array, magnitude: Array | None) -> Array:
    """W + ΔW; with a magnitude m (DoRA, arXiv 2402.09353, one length per output) m (W + ΔW) / ‖W + ΔW‖."""
    changed = wide(weight) + delta
    if magnitude is None:
        return changed
    lengths = np.sqrt((changed.reshape(len(changed), -1) ** 2).sum(axis=1))
    return changed * (magnitude / lengths).reshape(-1, *[1] * (changed.ndim - 1))


# --- names ----------------------------------------------------------------------------------------------------------


def as_trained(component: str, module: str) -> str:
    """The module's name as trainers know it: a CLIP text encoder's with `text_model`."""
    encoder = component.startswith("text_encoder") and not module.startswith(
        ("text_model.", "text_projection", "encoder.block")
    )
    return f"text_model.{module}" if encoder else module


def kohya(component: str, module: str, part: str) -> str:
    """kohya's sd-scripts and LyCORIS."""
    prefix = {"text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}.get(component, "lora_unet")
    return f"{prefix}_{as_trained(component, module).replace('.', '_')}.{part}"


def onetrainer(component: str, module: str, part: str) -> str:
    """OneTrainer's names for PixArt: kohya's, with another prefix."""
    prefix = {"text_encoder": "lora_te"}.get(component, "lora_transformer")
    return f"{prefix}_{module.replace('.', '_')}.{part}"


def original(component: str, module: str, part: str) -> str:
    """kohya's sd-scripts for SDXL, whose U-Net is that of the original code."""
    return kohya(component, ORIGINAL.get(module, module), part)


_PEFT_PARTS = {
    "lora_down.weight": "lora_A.weight",
    "lora_up.weight": "lora_B.weight",
    "magnitude": "lora_magnitude_vector",
}
_OLD_PARTS = {"lora_down.weight": "lora.down.weight", "lora_up.weight": "lora.up.weight"}


def diffusers(component: str, module: str, part: str) -> str:
    """diffusers today: `unet.….lora_A.weight`."""
    return f"{component}.{as_trained(component, module)}.{_PEFT_PARTS.get(part, part)}"


def diffusers_old(component: str, module: str, part: str) -> str:
    """diffusers 0.22 to 0.26: `unet.….lora.down.weight`, text encoders with `lora_linear_layer`."""
    old = _OLD_PARTS.get(part, part)
    if component.startswith("text_encoder"):
        old = old.replace("lora.", "lora_linear_layer.")
    return f"{component}.{as_trained(component, module)}.{old}"


def processors(component: str, module: str, part: str) -> str:
    """diffusers in 2023: `….attn1.processor.to_q_lora.down.weight`."""
    name = as_trained(component, module)
    direction = {"lora_down.weight": "down.weight", "lora_up.weight": "up.weight"}[part]
    if component.startswith("text_encoder"):
        layer = re.sub(r"\.(q|k|v|out)_proj$", r".to_\1", name)
        return f"{component}.{layer}_lora.{direction}"
    block, layer = re.split(r"\.(?=to_)", name)
    return f"{component}.{block}.processor.{layer.removesuffix('.0')}_lora.{direction}"


def attn_procs(component: str, module: str, part: str) -> str:
    """As `processors`, of a U-Net saved by itself."""
    return processors(component, module, part).removeprefix(f"{component}.")


def peft(component: str, module: str, part: str) -> str:
    """peft's `save_pretrained` of one component."""
    return f"base_model.model.{module}.{_PEFT_PARTS.get(part, part)}"


def peft_named(component: str, module: str, part: str) -> str:
    """As `peft`, where the adapter's name was left in."""
    return peft(component, module, part).replace(".weight", ".default.weight")


# --- the corpus -----------------------------------------------------------------------------------------------------

Make = Callable[[Maker, tuple[int, ...]], tuple[Parts, Array]]


class Builder:
    """Writes the files of the corpus into a folder."""

    def __init__(self, folder: Path, models: Path, seed: int) -> None:
        self.folder = folder
        self.seed = seed
        self.weights = {
            "sdxl": read_weights(models / "sdxl", ("unet", "text_encoder", "text_encoder_2")),
            "pixart": read_weights(models / "pixart", ("transformer", "text_encoder")),
            "wide": wide_weights(),
        }
        self.cases: list[Case] = []

    def chosen(self, model: str, **patterns: re.Pattern[str]) -> list[tuple[str, str]]:
        """(component, module) of a model whose names the component's pattern finds."""
        found = []
        for component, pattern in patterns.items():
            names = self.weights[model][component]
            found += [(component, name) for name, weight in names.items() if weight.ndim > 1 and pattern.search(name)]
        return found

    def file(self, name: str, content: bytes, file_name: str | None = None) -> Path:
        """A file of its own folder."""
        path = self.folder / name / (file_name or f"{name}.safetensors")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def refuse(
        self, name: str, content: bytes, words: str, *, model: str = "sdxl", file_name: str | None = None
    ) -> None:
        """A file that must be refused with these words."""
        self.cases.append(Case(name, self.file(name, content, file_name), model, refused=words))

    def add(  # noqa: PLR0913 (a knob for each thing that differs between files)
        self,
        name: str,
        make: Make | list[Make],
        names: Names = kohya,
        *,
        where: list[tuple[str, str]] | None = None,
        model: str = "sdxl",
        store: str = "float32",
        metadata: Mapping[str, str] | None = None,
        extra: Mapping[str, Array] | None = None,
        file_name: str | None = None,
        beside: Mapping[str, Any] | None = None,
        scale: float = 1.0,
        **expected: Any,
    ) -> Case:
        """A file made of one kind of factors, or of several kinds by turns, for the given modules.

        Args:
            name: of the case.
            make: draws the factors of one module.
            names: the layout.
            where: modules; the attention layers of all components where None.
            model: whose modules.
            store: float16, bfloat16, float32 or float64.
            metadata: of the header.
            extra: further tensors.
            file_name: where the name matters.
            beside: adapter_config.json in the same folder.
            scale: factor on the change that stands elsewhere than in the tensors.
            expected: fields of the case.
        """
        where = where or self.attention()
        maker = Maker(1000 * self.seed + len(self.cases), STORES[store])
        makes = make if isinstance(make, list) else [make]
        tensors: dict[str, Array] = {}
        deltas: Deltas = {}
        magnitudes: Deltas = {}
        for number, (component, module) in enumerate(where):
            weight = self.weights[model][component][module]
            parts, change = makes[number % len(makes)](maker, weight.shape)
            for part, values in parts.items():
                tensors[names(component, module, part)] = values
                if part in ("dora_scale", "magnitude"):
                    magnitudes[component, module] = wide(values).reshape(-1)
            deltas[component, module] = change * scale
        content = serialise({**tensors, **(extra or {})}, metadata, bf16=store == "bfloat16")
        path = self.file(name, content, file_name)
        if beside is not None:
            path.with_name("adapter_config.json").write_text(json.dumps(beside))
        if "refused" in expected:
            deltas, magnitudes = {}, {}
        case = Case(name, path, model, deltas, magnitudes, **expected)
        self.cases.append(case)
        return case

    def attention(self) -> list[tuple[str, str]]:
        """The attention layers of SDXL's three parts."""
        return self.chosen("sdxl", unet=ATTENTION, text_encoder=ATTENTION, text_encoder_2=ATTENTION)

    def dora(self, make: Make, component_weights: str = "sdxl", *, of_peft: bool = False) -> Make:
        """Factors with magnitudes near the lengths of some weights of that size; they need not be the module's own."""

        def decomposed(maker: Maker, weight: tuple[int, ...]) -> tuple[Parts, Array]:
            parts, change = make(maker, weight)
            ones = [1] * (len(weight) - 2) if of_peft else [1] * (len(weight) - 1)
            shape = (
                (weight[0],)
                if of_peft and len(weight) == 2
                else (1, weight[0], *ones)
                if of_peft
                else (weight[0], *ones)
            )
            magnitude = np.abs(maker.draw(*shape, size=0.2)) + np.float32(0.5)
            return {**parts, "magnitude" if of_peft else "dora_scale": magnitude.astype(np.float32)}, change

        return decomposed


STORES: dict[str, Callable[[Array], Array]] = {
    "float16": lambda values: np.asarray(values).astype(np.float16),
    "bfloat16": lambda values: bfloat16(np.asarray(values, np.float32)).reshape(np.shape(values)),
    "float32": lambda values: np.asarray(values).astype(np.float32),
    "float64": lambda values: np.asarray(values).astype(np.float64),
}


def read_weights(folder: Path, components: Iterable[str]) -> dict[str, dict[str, Array]]:
    """Component -> module -> weight in float32 of a diffusers folder."""
    found: dict[str, dict[str, Array]] = {}
    for component in components:
        tensors = load_file(next((folder / component).glob("*.safetensors")))
        found[component] = {
            name.removesuffix(".weight"): values.astype(np.float32)
            for name, values in tensors.items()
            if name.endswith(".weight")
        }
    return found


def wide_weights() -> dict[str, dict[str, Array]]:
    """Of the model WIDE."""
    rng = np.random.default_rng(1)
    return {
        component: {name: (0.05 * rng.standard_normal(shape)).astype(np.float32) for name, shape in modules.items()}
        for component, modules in WIDE.items()
    }


def lora(rank: int, alpha: float | None = None) -> Make:
    """For `Builder.add`."""
    return lambda maker, weight: maker.lora(weight, rank, alpha)


def loha(rank: int, alpha: float | None = None, *, core: bool = False) -> Make:
    """For `Builder.add`; the core only where there is a kernel."""
    return lambda maker, weight: maker.loha(weight, rank, alpha, core=core and len(weight) == 4 and weight[2] > 1)


def lokr(rank: int, alpha: float | None = None, **options: Any) -> Make:
    """For `Builder.add`."""
    return lambda maker, weight: maker.lokr(weight, rank, alpha, **options)


def build(folder: Path, models: Path, seed: int = 0) -> list[Case]:
    """Write the whole corpus and return its cases.

    Args:
        folder: where the files go.
        models: bottega's `miniature/weights`.
        seed: of the factors' numbers.
    """
    builder = Builder(folder, models, seed)
    _layouts(builder)
    _convolutions(builder)
    _lycoris(builder)
    _magnitudes(builder)
    _cut(builder)
    _pixart(builder)
    _not_convertible(builder)
    _misplaced(builder)
    _damaged_numbers(builder)
    _hostile(builder)
    _pickles(builder)
    return builder.cases


def _layouts(builder: Builder) -> None:
    for rank in (1, 4, 16):
        builder.add(f"kohya-rank{rank}", lora(rank, rank / 2), layout="kohya", algorithm="lora")
    for store in ("float16", "bfloat16", "float64"):
        builder.add(f"kohya-{store}", lora(4, 3.0), store=store)
    builder.add("kohya-mixed-ranks", [lora(2, 2.0), lora(4, 1.0), lora(8, 16.0)])
    builder.add("kohya-no-alpha", lora(4))
    builder.add("kohya-mixed-ranks-no-alpha", [lora(2), lora(8)])
    builder.add("kohya-alpha-zero", lambda maker, weight: _with_alpha_zero(maker.lora(weight, 4)))
    builder.add("kohya-whole-alpha", lambda maker, weight: _with_whole_alpha(maker.lora(weight, 4, 2.0)))
    encoders = builder.chosen("sdxl", text_encoder=ENCODERS, text_encoder_2=ENCODERS)
    builder.add("kohya-text-encoders-only", lora(4, 2.0), where=encoders)
    builder.add(
        "kohya-text-encoder-2-only", lora(4, 2.0), where=[place for place in encoders if place[0].endswith("2")]
    )
    builder.add("kohya-unet-only", lora(4, 2.0), where=builder.chosen("sdxl", unet=ATTENTION))
    one_block = re.compile(r"^up_blocks\.0\.attentions\.0\..*attn")
    builder.add("kohya-one-block-only", lora(4, 2.0), where=builder.chosen("sdxl", unet=one_block))
    named = [("unet", name) for name in ORIGINAL]
    builder.add("kohya-original-blocks", lora(4, 2.0), original, where=named)
    builder.add("kohya-original-blocks-and-encoders", lora(4, 2.0), original, where=named + encoders)
    tagged = {"ss_output_name": "ink", "ss_tag_frequency": json.dumps({"10_inkwash girl": {"ink": 30, "girl": 12}})}
    builder.add("kohya-metadata", lora(4, 2.0), metadata=tagged)
    own_keys = 3 * len(builder.attention())  # up, down and alpha of each layer
    builder.add("kohya-few-foreign-keys", lora(4, 2.0), extra=_foreign(8), share=own_keys / (own_keys + 8))
    builder.add("diffusers-rank4", lora(4), diffusers, layout="diffusers")
    builder.add("diffusers-mixed-ranks", [lora(2), lora(8)], diffusers)
    builder.add("diffusers-down-up", lora(4), diffusers_old, layout="diffusers")
    builder.add("diffusers-alpha-keys", lora(4, 2.0), diffusers)
    builder.add("diffusers-processors", lora(4), processors, layout="diffusers (processors)")
    builder.add("diffusers-attn-procs", lora(4), attn_procs, where=builder.chosen("sdxl", unet=ATTENTION))
    scales = {f"{component}.lora_alpha": 8 for component in ("unet", "text_encoder", "text_encoder_2")}
    header = {"lora_adapter_metadata": json.dumps({**scales, "unet.r": 4, "unet.target_modules": ["evil"]})}
    builder.add("diffusers-alpha-in-header", lora(4), diffusers, metadata=header, scale=2.0)
    unet = builder.chosen("sdxl", unet=ATTENTION)
    builder.add("peft-alone", lora(4), peft, where=unet, layout="peft")
    builder.add("peft-adapter-name", lora(4), peft_named, where=unet)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 12, "target_modules": ["to_q"], "auto_mapping": None}
    saved = "adapter_model.safetensors"
    builder.add("peft-config", lora(4), peft, where=unet, file_name=saved, beside=config, scale=3.0)
    stabilised = {**config, "use_rslora": True}
    builder.add("peft-rslora", lora(4), peft, where=unet, file_name=saved, beside=stabilised, scale=6.0)
    pattern = {**config, "lora_alpha": 4, "alpha_pattern": {"(a+)+$": 1}}
    builder.add(
        "peft-hostile-pattern", lora(4), peft, where=unet, file_name=saved, beside=pattern, refused="alpha_pattern"
    )
    second = builder.chosen("sdxl", text_encoder_2=ATTENTION)
    builder.add("peft-which-encoder", lora(4), peft, where=second, refused="which text encoder")


def _with_alpha_zero(made: tuple[Parts, Array]) -> tuple[Parts, Array]:
    return {**made[0], "alpha": np.array(0, np.float32)}, made[1]


def _with_whole_alpha(made: tuple[Parts, Array]) -> tuple[Parts, Array]:
    return {**made[0], "alpha": np.array(2, np.int64)}, made[1]


def _foreign(count: int) -> dict[str, Array]:
    return {f"bundle_emb.word.string_to_param.{number}": np.zeros((1, 4), np.float32) for number in range(count)}


def _convolutions(builder: Builder) -> None:
    kernels = builder.chosen("sdxl", unet=CONVOLUTIONS)
    everything = builder.chosen("sdxl", unet=EVERYTHING)
    builder.add("locon", lora(4, 2.0), where=kernels, algorithm="locon")
    builder.add("locon-everything", [lora(8, 4.0), lora(4, 1.0)], where=everything)
    builder.add("locon-tucker", lambda maker, weight: _tucker(maker, weight), where=kernels)
    builder.add("locon-diffusers", lora(4), diffusers, where=everything)
    kernel_1 = re.compile(r"proj_(in|out)$")
    builder.add("one-by-one-kernels", _as_kernels, where=builder.chosen("sdxl", unet=kernel_1))


def _tucker(maker: Maker, weight: tuple[int, ...]) -> tuple[Parts, Array]:
    return maker.tucker(weight, 4, 2.0) if weight[2] > 1 else maker.lora(weight, 4, 2.0)


def _as_kernels(maker: Maker, weight: tuple[int, ...]) -> tuple[Parts, Array]:
    """Factors as 1 × 1 convolutions for a linear layer, as trainers wrote them for proj_in."""
    parts, change = maker.lora(weight, 4, 2.0)
    shaped = {name: part[:, :, None, None] if part.ndim == 2 else part for name, part in parts.items()}
    return shaped, change


def _lycoris(builder: Builder) -> None:
    kernels = builder.chosen("sdxl", unet=CONVOLUTIONS)
    for rank in (2, 4, 12):  # 12² is more than the narrowest layer is wide
        builder.add(f"loha-rank{rank}", loha(rank, 1.0), layout="lycoris", algorithm="loha")
    builder.add("loha-no-alpha", loha(4))
    builder.add("loha-kernels", loha(4, 2.0), where=kernels)
    builder.add("loha-tucker", loha(3, 2.0, core=True), where=kernels)
    builder.add("loha-float16", loha(4, 2.0), store="float16")
    builder.add("loha-one-by-one", lambda maker, weight: maker.loha(weight, 1, 1.0))
    builder.add("lokr-second-product", lokr(4, 2.0), layout="lycoris", algorithm="lokr")
    builder.add("lokr-both-whole", lokr(4, 2.0, second=False))
    builder.add("lokr-both-products", lokr(2, 1.0, first=True))
    builder.add("lokr-first-product", lokr(2, 1.0, first=True, second=False))
    builder.add("lokr-no-alpha", lokr(4))
    builder.add("lokr-factor-8", lokr(4, 2.0, factor=8))
    builder.add("lokr-kernels", lokr(4, 2.0), where=kernels)
    builder.add("lokr-kernels-whole", lokr(4, 2.0, second=False), where=kernels)
    threes = [place for place in kernels if not place[1].endswith("conv_shortcut")]
    builder.add("lokr-tucker", lokr(3, 2.0, core=True), where=threes)
    builder.add("lycoris-mixed", [lora(4, 2.0), loha(3, 1.0), lokr(4, 2.0)])
    builder.add("full", lambda maker, weight: maker.full(weight), algorithm="full")
    builder.add("full-kernels", lambda maker, weight: maker.full(weight), where=kernels)
    zero_bias = {kohya("unet", "conv_in", "diff_b"): np.zeros(48, np.float32)}
    place = [("unet", "conv_in")]
    builder.add("full-zero-bias", lambda maker, weight: maker.full(weight), where=place, extra=zero_bias)


def _magnitudes(builder: Builder) -> None:
    kernels = builder.chosen("sdxl", unet=CONVOLUTIONS)
    builder.add("dora", builder.dora(lora(4, 2.0)), algorithm="dora")
    builder.add("dora-kernels", builder.dora(lora(4, 2.0)), where=kernels)
    builder.add("dora-mixed-ranks", [builder.dora(lora(2, 2.0)), builder.dora(lora(8, 4.0))])
    builder.add("dora-loha", builder.dora(loha(3, 2.0)), algorithm="dora loha")
    builder.add("dora-lokr", builder.dora(lokr(4, 2.0)))
    unet = builder.chosen("sdxl", unet=ATTENTION)
    builder.add("dora-peft", builder.dora(lora(4), of_peft=True), peft, where=unet)
    builder.add("dora-peft-kernels", builder.dora(lora(4), of_peft=True), peft, where=kernels)
    builder.add("dora-diffusers", builder.dora(lora(4), of_peft=True), diffusers)
    builder.add("dora-per-input", _per_input, refused="per input")
    builder.add("dora-in-part", [builder.dora(lora(4)), lora(4)], refused="have no DoRA magnitude")


def _per_input(maker: Maker, weight: tuple[int, ...]) -> tuple[Parts, Array]:
    parts, change = maker.lora(weight, 4, 2.0)
    return {**parts, "dora_scale": np.ones((1, weight[1]), np.float32)}, change


def _cut(builder: Builder) -> None:
    linear = [("unet", "down_blocks.0.attentions.0.proj_in")]
    kernel = [("unet", "down_blocks.0.resnets.0.conv1")]
    both = linear + kernel
    wide_ = {"model": "wide"}
    builder.add("wide-lora", lora(8, 4.0), where=both, **wide_)
    builder.add("wide-loha-exact", loha(16, 2.0), where=both, **wide_)
    builder.add("wide-full-low-rank", lambda maker, weight: maker.full(weight, 40), where=linear, **wide_)
    builder.add("wide-full", lambda maker, weight: maker.full(weight), where=both, refused="may be lost", **wide_)
    fading = _fading(0.985)
    builder.add("wide-full-fading", fading, where=linear, cut=True, **wide_)
    builder.add("wide-full-slow", _fading(0.995), where=linear, refused="may be lost", **wide_)
    builder.add("wide-lokr-exact", lokr(16, 4.0, factor=8), where=both, **wide_)
    builder.add("wide-lokr-cut", _fading_lokr, where=linear, cut=True, **wide_)
    builder.add("wide-lokr-full", lokr(4, 4.0, second=False), where=linear, refused="may be lost", **wide_)
    builder.add("wide-loha-full", loha(24, 4.0), where=linear, refused="may be lost", **wide_)


def _fading(ratio: float) -> Make:
    """A change whose singular values fall by `ratio` each, so that those beyond the n-th are ratio**n of the norm."""

    def make(maker: Maker, weight: tuple[int, ...]) -> tuple[Parts, Array]:
        left, _ = np.linalg.qr(wide(maker.draw(weight[0], min(weight))))
        right, _ = np.linalg.qr(wide(maker.draw(weight[1], min(weight))))
        change = ((left * ratio ** np.arange(min(weight))) @ right.T).astype(np.float32)
        return {"diff": change}, wide(change)

    return make


def _fading_lokr(maker: Maker, weight: tuple[int, ...]) -> tuple[Parts, Array]:
    """Whole w₁ and w₂ of which w₂'s singular values fall fast."""
    first = maker.draw(4, 4)
    second, _ = _fading(0.945)(maker, (weight[0] // 4, weight[1] // 4))
    return {"lokr_w1": first, "lokr_w2": second["diff"]}, np.kron(wide(first), wide(second["diff"]))


def _pixart(builder: Builder) -> None:
    blocks = builder.chosen("pixart", transformer=ATTENTION)
    everything = builder.chosen("pixart", transformer=EVERYTHING)
    pixart = {"model": "pixart"}
    builder.add("pixart-diffusers", lora(4), diffusers, where=blocks, **pixart)
    builder.add("pixart-peft", lora(4), peft, where=blocks, **pixart)
    builder.add("pixart-kohya", lora(4, 2.0), where=blocks, **pixart)
    builder.add("pixart-onetrainer", lora(4, 2.0), onetrainer, where=blocks, **pixart)
    builder.add("pixart-everything", lora(4), diffusers, where=everything, **pixart)
    encoder = re.compile(r"SelfAttention\.[qkvo]$")
    builder.add("pixart-t5", lora(4, 2.0), onetrainer, where=builder.chosen("pixart", text_encoder=encoder), **pixart)
    builder.add("pixart-dora", builder.dora(lora(4), of_peft=True), peft, where=blocks, **pixart)
    builder.add("pixart-loha", loha(3, 1.0), where=blocks, **pixart)
    first_8 = [place for place in blocks if int(place[1].split(".")[1]) < 8]
    builder.add("pixart-shallower", lora(4), diffusers, where=first_8, refused="shallower", **pixart)
    own = builder.weights["pixart"]["transformer"]["transformer_blocks.0.attn1.to_q"].shape
    deeper = serialise(_made_up(diffusers, "transformer", "transformer_blocks.{}.attn1.to_q", 28, own))
    builder.refuse("pixart-deeper", deeper, "another depth", model="pixart")
    full = serialise(_made_up(diffusers, "transformer", "transformer_blocks.{}.attn1.to_q", 28, (1152, 1152)))
    builder.refuse("pixart-full-size", full, "another width", model="pixart")


def _made_up(names: Names, component: str, module: str, count: int, weight: tuple[int, ...]) -> dict[str, Array]:
    """Plain factors for modules of a model that is not here."""
    maker = Maker(count)
    tensors = {}
    for number in range(count):
        parts, _ = maker.lora(weight, 2)
        tensors |= {names(component, module.format(number), part): values for part, values in parts.items()}
    return tensors


def _not_convertible(builder: Builder) -> None:
    ones = np.ones
    stem = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
    files: dict[str, tuple[Parts, str]] = {
        "oft": ({"oft_blocks": ones((8, 8, 8)), "alpha": ones(())}, "rotates"),
        "oft-rescaled": ({"oft_blocks": ones((8, 8, 8)), "rescale": ones((64, 1))}, "rotates"),
        "oft-2": ({"oft_R.weight": ones((8, 28))}, "rotates"),
        "boft": ({"oft_blocks": ones((3, 8, 8, 8)), "alpha": ones(())}, "BOFT"),
        "glora": ({f"{part}.weight": ones((4, 4)) for part in ("a1", "a2", "b1", "b2")}, "GLoRA"),
        "ia3": ({"weight": ones((1, 64)), "on_input": np.array(1, np.int8)}, "scales activations"),
        "tlora": (
            {"q_layer.weight": ones((4, 64)), "p_layer.weight": ones((64, 4)), "lambda_layer": ones((1, 4))},
            "T-LoRA",
        ),
        "bias": (
            {"lora_down.weight": ones((2, 64)), "lora_up.weight": ones((64, 2)), "lora_up.bias": ones(64)},
            "bias",
        ),
    }
    for name, (parts, words) in files.items():
        stored = {
            f"{stem}.{part}": values if values.dtype == np.int8 else values.astype(np.float32)
            for part, values in parts.items()
        }
        builder.refuse(name, serialise(stored), words)
    norm = {
        "lora_unet_conv_norm_out.w_norm": ones(48, np.float32),
        "lora_unet_conv_norm_out.b_norm": ones(48, np.float32),
    }
    builder.refuse("norm", serialise(norm), "norm layers")
    bias = {kohya("unet", "conv_in", "diff_b"): ones(48, np.float32)}
    builder.add(
        "full-bias", lambda maker, weight: maker.full(weight), where=[("unet", "conv_in")], extra=bias, refused="bias"
    )


def _misplaced(builder: Builder) -> None:
    attention = "down_blocks.1.attentions.{}.transformer_blocks.0.attn2.to_k"
    for family, width in (("sd1", 768), ("sd2", 1024)):
        content = serialise(_made_up(kohya, "unet", attention, 2, (320, width)))
        builder.refuse(f"family-{family}", content, f"made for {family}")
    content = serialise(_made_up(kohya, "unet", attention, 2, (640, 2048)))
    builder.refuse("width-full-sdxl", content, "another width")
    flux = _made_up(diffusers, "transformer", "single_transformer_blocks.{}.attn.to_q", 3, (3072, 3072))
    builder.refuse("family-flux", serialise(flux), "made for flux")
    pixart = _made_up(diffusers, "transformer", "transformer_blocks.{}.attn1.to_q", 3, (1152, 1152))
    builder.refuse("family-pixart", serialise(pixart), "made for pixart")
    sdxl = _made_up(kohya, "unet", attention, 2, (640, 2048))
    builder.refuse("family-sdxl", serialise(sdxl), "made for sdxl", model="pixart")
    deeper = _made_up(kohya, "text_encoder", "encoder.layers.{}.self_attn.q_proj", 12, (128, 128))
    builder.refuse("depth-text-encoder", serialise(deeper), "another depth")
    first_2 = re.compile(r"layers\.[01]\.self_attn")
    shallow = builder.chosen("sdxl", text_encoder=first_2, text_encoder_2=first_2)
    builder.add("depth-shallower-encoders", lora(4), where=shallow, refused="shallower")
    one_of_two = re.compile(r"(down_blocks\.\d|mid_block|up_blocks\.\d)\.attentions\.0.*attn")
    builder.add("depth-shallower-unet", lora(4), where=builder.chosen("sdxl", unet=one_of_two), refused="shallower")
    unet = builder.chosen("sdxl", unet=ATTENTION)
    other = {
        kohya("unet", module, part): values
        for _, module in unet
        for part, values in Maker(3).lora((96, 96), 2)[0].items()
    }
    builder.refuse("width-other", serialise(other), "another width")
    builder.add("half-foreign-keys", lora(4), extra=_foreign(150), refused="keys match")
    builder.refuse("empty", serialise({}), "holds none")
    builder.refuse("empty-with-metadata", serialise({}, {"ss_output_name": "x"}), "holds none")
    whole = {"model.diffusion_model.input_blocks.0.0.weight": np.zeros((4, 4, 3, 3), np.float32)}
    builder.refuse("whole-model", serialise(whole), "no key is a LoRA's")
    builder.refuse("embedding", serialise({"clip_l": np.zeros((2, 128), np.float32)}), "no key is a LoRA's")


def _damaged_numbers(builder: Builder) -> None:
    for store in ("float16", "bfloat16", "float32"):
        for name, value in (("nan", np.nan), ("infinite", -np.inf)):
            builder.add(f"{name}-{store}", _spoilt("lora_up.weight", value), store=store, refused="NaN or an infinity")
    builder.add("nan-alpha", _spoilt("alpha", np.nan), refused="NaN or an infinity")
    places = {"up-missing": ("lora_up.weight", None), "down-missing": ("lora_down.weight", None)}
    for name, (part, _) in places.items():
        builder.add(name, _without(part), refused="a factor is missing")
    stem = "lora_unet_conv_in"
    zeros = np.zeros
    odd = {
        "ranks-differ": (zeros((4, 4, 3, 3), np.float32), zeros((48, 5, 1, 1), np.float32), "differ in rank"),
        "zero-size": (zeros((0, 4, 3, 3), np.float32), zeros((48, 0, 1, 1), np.float32), "empty"),
        "whole-numbers": (zeros((4, 4, 3, 3), np.int8), zeros((48, 4, 1, 1), np.int8), "float16"),
        "three-dimensions": (zeros((4, 4, 9), np.float32), zeros((48, 4, 1), np.float32), "no factors"),
    }
    for name, (down, up, words) in odd.items():
        builder.refuse(name, serialise({f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}), words)


def _spoilt(part: str, value: float) -> Make:
    def make(maker: Maker, weight: tuple[int, ...]) -> tuple[Parts, Array]:
        parts, change = maker.lora(weight, 2, 1.0)
        parts[part].reshape(-1)[-1:] = value
        return parts, change

    return make


def _without(part: str) -> Make:
    def make(maker: Maker, weight: tuple[int, ...]) -> tuple[Parts, Array]:
        parts, change = maker.lora(weight, 2, 1.0)
        del parts[part]
        return parts, change

    return make


def _hostile(builder: Builder) -> None:
    whole = serialise(_made_up(kohya, "unet", "conv_in", 1, (48, 4, 3, 3)))
    data = bytes(32)

    def entry(begin: int, end: int, shape: list[Any] | None = None, dtype: str = "F32") -> dict[str, Any]:
        return {"dtype": dtype, "shape": shape if shape is not None else [4], "data_offsets": [begin, end]}

    alpha, change = "lora_unet_conv_in.alpha", "lora_unet_conv_in.diff"
    torn = "not a whole safetensors file"
    first, second = json.dumps({"a": entry(0, 16)}), json.dumps({"a": entry(16, 32)})
    twice = f"{first[:-1]},{second[1:]}".encode()
    files: dict[str, tuple[bytes, str]] = {
        "truncated": (whole[: len(whole) // 2], torn),
        "truncated-header": (whole[:40], torn),
        "appended": (whole + b"x", torn),
        "nothing": (b"", "empty (0 bytes)"),
        "seven-bytes": (bytes(7), torn),
        "length-bomb": (struct.pack("<Q", 2**63) + b"{}", torn),
        "long-header": (with_header(b"{" + b" " * (33 << 20) + b"}", b""), "are read"),
        "repeated-key": (with_header(twice, data), "the key 'a' twice"),
        "overlap": (with_header({"a": entry(0, 16), "b": entry(8, 24), "c": entry(24, 32, [2])}, data), "two tensors"),
        "hole": (with_header({"a": entry(0, 16), "b": entry(24, 32, [2])}, data), "no tensor"),
        "beyond-the-end": (with_header({"a": entry(0, 4000, [1000])}, data), torn),
        "offsets-negative": (with_header({"a": entry(-16, 0)}, data), torn),
        "offsets-reversed": (with_header({"a": entry(16, 0)}, data), torn),
        "offsets-fraction": (with_header({"a": {**entry(0, 16), "data_offsets": [0.0, 16.0]}}, data), torn),
        "shape-negative": (with_header({"a": entry(0, 16, [-2, -2])}, data), torn),
        "shape-text": (with_header({"a": entry(0, 16, ["4"])}, data), torn),
        "shape-huge": (with_header({"a": entry(0, 16, [2**62, 2**62])}, data), torn),
        "no-json": (with_header(b"\xff\xfe not json", data), torn),
        "json-list": (with_header([1, 2], data), torn),
        "json-deep": (with_header(b"[" * 200_000, data), torn),
        "json-number-bomb": (with_header(b'{"a":' + b"9" * 10_000 + b"}", data), torn),
        "metadata-list": (with_header({"__metadata__": [1], "a": entry(0, 32, [8])}, data), torn),
        "unknown-format": (with_header({change: entry(0, 32, [48, 4, 3, 3], "Q4_K")}, data), "Q4_K"),
        "alpha-of-eight": (with_header({alpha: entry(0, 32, [8])}, data), "alpha is one number"),
        "web-page": (b"<!DOCTYPE html><html><title>Log in</title></html>", "a web page"),
        "lfs-pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
    }
    for case, (content, words) in files.items():
        builder.refuse(f"hostile-{case}", content, words)


class Canary:
    """An object whose unpickling writes a file, as an attacker's would run a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "the pickle ran")


PICKLE_NAMES = ("lora.safetensors", "lora.SafeTensors", "lora.ckpt", "lora.pt", "lora.bin")


def canary_path(folder: Path) -> Path:
    """The file that exists once a pickle of the corpus has run."""
    return folder / "canary"


def _pickles(builder: Builder) -> None:
    canary = Canary(canary_path(builder.folder))
    for number, name in enumerate(PICKLE_NAMES):
        protocol = (2, 4, 5, 0, 3)[number]
        builder.refuse(f"pickle-{name}", pickle.dumps(canary, protocol), "safetensors only", file_name=name)
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("archive/data.pkl", pickle.dumps(canary))
        builder.refuse(f"archive-{name}", archive.getvalue(), "safetensors only", file_name=name)
