"""Claim: every LoRA file of a corpus loads right or is refused with its reason; no pickle runs.

python benchmarks/lora_corpus.py [--full] [--json]

The files are built in `common/lora_files.py`: layouts, ranks, algorithms, number formats, families, depths and widths,
NaN, torn and hostile headers, pickles under five names. A file that loads is compared three times: ΔW with the formula
of its paper, worked out in float64 by NumPy alone; the output of every layer into which real peft puts the factors with
the output of that layer with the weight W + ΔW (with DoRA its rescaled form); and the module names and shares with what
was written. A cut must state the error that the singular values give. What is refused must be so by one of bottega's
errors, with the words of its cause, and the report must say the same. The peer is `load_lora_weights` of diffusers on
the same files (SDXL): how many of those that must be refused it loads, and how many of those that load it does not load
or loads otherwise. `--full` takes five seeds in place of one.
"""

from __future__ import annotations

import copy
import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common.bench import Arguments, conclude, say, verdict
from common.lora_files import Case, build, canary_path, merged, read_weights, wide_weights

import bottega
from bottega.generation.lora import Architecture, LoRAWeights, inspect_lora, read_lora, to_peft
from bottega.runtime.errors import BottegaError, RequestError, StorageError

MODELS = Path(bottega.__file__).parent / "miniature/weights"
EXACT = 2e-6
"""Largest relative error of a conversion that cuts nothing: float32's rounding of products and sums of some hundred
terms. float16 and bfloat16 files are no worse, for their factors are not rounded again."""

OUTPUT = 1e-4
"""Largest difference of a layer's outputs, relative to the largest output: float32 in another order of sums."""


@dataclass
class World:
    """The models that the corpus is made for."""

    weights: Mapping[str, Mapping[str, Mapping[str, Any]]]
    architectures: Mapping[str, Architecture]
    live: dict[str, dict[str, torch.nn.Module]] = field(default_factory=dict)


def open_world(*, live: bool = True) -> World:
    """The miniature's SDXL and PixArt, and a model of two wide layers."""
    weights = {
        "sdxl": read_weights(MODELS / "sdxl", ("unet", "text_encoder", "text_encoder_2")),
        "pixart": read_weights(MODELS / "pixart", ("transformer", "text_encoder")),
        "wide": wide_weights(),
    }
    shapes = {
        component: {name: values.shape for name, values in own.items()} for component, own in weights["wide"].items()
    }
    architectures = {name: Architecture.of_folder(MODELS / name) for name in ("sdxl", "pixart")}
    return World(weights, {**architectures, "wide": Architecture(shapes)}, _live() if live else {})


def _live() -> dict[str, dict[str, torch.nn.Module]]:
    from diffusers import PixArtTransformer2DModel, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, T5EncoderModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    options = {"local_files_only": True}
    sdxl, pixart = MODELS / "sdxl", MODELS / "pixart"
    single = {"dtype": torch.float32, **options}
    return {
        "sdxl": {
            "unet": UNet2DConditionModel.from_pretrained(sdxl / "unet", **options),
            "text_encoder": CLIPTextModel.from_pretrained(sdxl / "text_encoder", **single),
            "text_encoder_2": CLIPTextModelWithProjection.from_pretrained(sdxl / "text_encoder_2", **single),
        },
        "pixart": {
            "transformer": PixArtTransformer2DModel.from_pretrained(pixart / "transformer", **options),
            "text_encoder": T5EncoderModel.from_pretrained(pixart / "text_encoder", **single),
        },
    }


# --- one case -------------------------------------------------------------------------------------------------------


def faults(case: Case, world: World) -> list[str]:
    """What is wrong with the outcome of a case; empty where it is right."""
    architecture = world.architectures[case.model]
    try:
        weights = read_lora(case.file, architecture)
    except BottegaError as error:
        return _refused(case, architecture, error)
    if case.refused is not None:
        return ["it was loaded"]
    found = _report_faults(case, weights)
    found += _delta_faults(case, weights)
    if case.model in world.live:
        found += peft_faults(case, weights, world)
    return found


def _refused(case: Case, architecture: Architecture, error: BottegaError) -> list[str]:
    if case.refused is None:
        return [f"it was refused: {error}"]
    found = []
    if not isinstance(error, RequestError | StorageError):
        found.append(f"it was refused by a {type(error).__name__}")
    if case.refused not in str(error):
        found.append(f"the reason is another: {error}")
    if ";" not in str(error):
        found.append(f"the reason has no cure: {error}")
    try:
        problem = inspect_lora(case.file, architecture).problem
    except BottegaError as again:
        problem = str(again)
    if "may be lost" not in str(error) and (problem is None or problem not in str(error)):
        found.append(f"the report says {problem!r}, the reader {error}")
    return found


def _report_faults(case: Case, weights: LoRAWeights) -> list[str]:
    report, found = weights.report, []
    if report.share is None or abs(report.share - case.share) > 0.001:
        found.append(f"share {report.share}")
    if case.layout is not None and report.layout != case.layout:
        found.append(f"layout {report.layout}")
    if case.algorithm is not None and set(report.algorithms) != {case.algorithm}:
        found.append(f"algorithms {report.algorithms}")
    return found


def _delta_faults(case: Case, weights: LoRAWeights) -> list[str]:
    read = {(component, module) for component, modules in weights.components.items() for module in modules}
    if read != set(case.deltas):
        return [f"modules differ: {sorted(read ^ set(case.deltas))[:3]}"]
    found = []
    lost = whole = 0.0
    for (component, module), expected in case.deltas.items():
        factors = weights.components[component][module]
        difference = float(np.linalg.norm(factors.delta().double().numpy() - expected))
        norm = float(np.linalg.norm(expected))
        lost, whole = lost + difference**2, whole + norm**2
        bound = EXACT * norm
        if case.cut:
            values = np.linalg.svd(expected.reshape(len(expected), -1), compute_uv=False)
            bound = 1.01 * float(np.sqrt((values[factors.rank :] ** 2).sum()))
        if not difference <= bound:
            found.append(f"{module}: ΔW differs by {difference / norm:.1e} of its norm")
        magnitude = case.magnitudes.get((component, module))
        if (magnitude is None) != (factors.magnitude is None):
            found.append(f"{module}: magnitude {factors.magnitude}")
    stated = float(np.sqrt(lost / whole))
    if case.cut and not 0.99 * stated <= weights.error <= 1.01 * stated:
        found.append(f"error {weights.error:.4f} is stated, {stated:.4f} is lost")
    if not case.cut and weights.error != 0:
        found.append(f"error {weights.error:.1e} is stated where nothing is cut")
    return found


def peft_faults(case: Case, weights: LoRAWeights, world: World) -> list[str]:
    """What is wrong with the outputs of the layers into which peft puts the factors."""
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    found = []
    for component, adapter in to_peft(weights).items():
        model = copy.deepcopy(world.live[case.model][component])
        inject_adapter_in_model(LoraConfig(**adapter.arguments), model, "a0", state_dict=adapter.state_dict)
        result = set_peft_model_state_dict(model, adapter.state_dict, "a0")
        if result.unexpected_keys:
            found.append(f"{component}: peft knows no {result.unexpected_keys[0]}")
        model.eval()
        modules = [module for of, module in case.deltas if of == component]
        wrapped = [name for name, layer in model.named_modules() if hasattr(layer, "base_layer")]
        if sorted(wrapped) != sorted(modules):
            found.append(f"{component}: peft wraps {sorted(set(wrapped) ^ set(modules))[:3]}")
            continue
        for module in modules:
            base = world.weights[case.model][component][module]
            target = merged(base, case.deltas[component, module], case.magnitudes.get((component, module)))
            difference = _output_difference(model.get_submodule(module), target)
            if not difference <= OUTPUT:
                found.append(f"{component}.{module}: peft's output differs by {difference:.1e}")
    return found


@torch.no_grad()
def _output_difference(layer: torch.nn.Module, target: Any) -> float:
    """Largest difference between a layer's outputs and those of its base with another weight, by the largest output."""
    base = copy.deepcopy(layer.base_layer)
    base.weight = torch.nn.Parameter(torch.from_numpy(target).float())
    generator = torch.Generator().manual_seed(0)
    linear = base.weight.ndim == 2
    shape = (5, base.weight.shape[1]) if linear else (2, base.weight.shape[1], 8, 8)
    values = torch.randn(shape, generator=generator)
    expected = base(values)
    return float((layer(values) - expected).abs().max() / expected.abs().max())


# --- diffusers ------------------------------------------------------------------------------------------------------


def diffusers_outcome(case: Case, world: World, pipeline: Any) -> str:
    """What `load_lora_weights` does with a file: right, refused, wrong (another change, or a part of it) or nothing."""
    before = {name: copy.deepcopy(module) for name, module in world.live["sdxl"].items()}
    pipe = pipeline(**before)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pipe.load_lora_weights(case.file.parent, weight_name=case.file.name, adapter_name="a0")
    except Exception:  # noqa: BLE001 (any error of the library is a refusal)
        return "refused"
    layers = {
        (component, name): layer
        for component, module in before.items()
        for name, layer in module.named_modules()
        if hasattr(layer, "base_layer")
    }
    if not layers:
        return "nothing"
    if set(layers) != set(case.deltas):
        return "wrong"
    for (component, name), layer in layers.items():
        base = world.weights["sdxl"][component][name]
        target = merged(base, case.deltas[component, name], case.magnitudes.get((component, name)))
        if not _output_difference(layer.eval(), target) <= OUTPUT:
            return "wrong"
    return "right"


def _peer(cases: list[Case], world: World) -> dict[str, dict[str, int]]:
    """Outcome of diffusers' loader -> count, for the files that load and for those that must be refused."""
    import logging

    from diffusers import DDIMScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTokenizer

    logging.disable(logging.CRITICAL)
    parts = {
        "vae": None,
        "tokenizer": CLIPTokenizer.from_pretrained(MODELS / "sdxl/tokenizer"),
        "tokenizer_2": CLIPTokenizer.from_pretrained(MODELS / "sdxl/tokenizer_2"),
        "scheduler": DDIMScheduler.from_pretrained(MODELS / "sdxl/scheduler"),
    }
    counts: dict[str, dict[str, int]] = {"must load": {}, "must be refused": {}}
    for case in cases:
        # A pickle is not given to it: its loader might run one.
        if case.model != "sdxl" or case.name.startswith(("pickle", "archive")):
            continue
        outcome = diffusers_outcome(case, world, lambda **modules: StableDiffusionXLPipeline(**parts, **modules))
        of = counts["must load" if case.refused is None else "must be refused"]
        of[outcome] = of.get(outcome, 0) + 1
    logging.disable(logging.NOTSET)
    return counts


def main() -> int:
    arguments = Arguments(__doc__)
    arguments.add_size("--seeds", short=1, full=5, help="draws of the whole corpus")
    asked = arguments.parse()
    world = open_world()
    wrong: dict[str, list[str]] = {}
    ran = False
    total = 0
    for seed in range(asked.seeds):
        with tempfile.TemporaryDirectory() as folder:
            cases = build(Path(folder), MODELS, seed)
            total += len(cases)
            for case in cases:
                found = faults(case, world)
                if found:
                    wrong[f"{case.name} (seed {seed})"] = found
            ran |= canary_path(Path(folder)).exists()
            say(f"seed {seed}: {len(cases)} files, {len(wrong)} wrong so far")
            if seed == 0:
                refused = sum(case.refused is not None for case in cases)
                peer = _peer(cases, world)
    held = not wrong and not ran and total >= 60 * asked.seeds
    lines = [f"{name}: {'; '.join(found[:2])}" for name, found in wrong.items()]
    lines += [
        f"{total} files: {total - len(wrong)} right ({refused} of each {len(cases)} to be refused)  {verdict(held)}",
        f"a pickle ran: {'yes' if ran else 'no'}",
        f"diffusers, the same files: of those that load {peer['must load']}",
        f"                           of those to be refused {peer['must be refused']}",
    ]
    return conclude(asked, {"held": held, "files": total, "wrong": wrong, "pickle_ran": ran, "diffusers": peer}, lines)


if __name__ == "__main__":
    sys.exit(main())
