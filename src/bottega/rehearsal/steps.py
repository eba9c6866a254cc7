"""The steps of a rehearsal, in order: the stages of the pipeline, and the commands that no stage runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bottega.data.records import read_pairs
from bottega.runtime.errors import MissingError

if TYPE_CHECKING:
    from bottega.recipe import Recipe
    from bottega.rehearsal.settings import RehearsalRequest

GENERATED_SIDE = 768
"""Pixels of what `generate` draws: another size than the teacher's, which a layout may not survive."""

_FLOAT32 = "must run in bfloat16 or float16"
"""Of the refusal to run a network of full size in float32."""


@dataclass(frozen=True)
class RehearsalStep:
    """One step, which is one process that is measured.

    Args:
        name: as the table shows it.
        what: what it does, for people.
        needs: the steps without which it cannot be done.
        until: the stage of the pipeline that it runs; empty for a command.
        sets: overrides that hold for this step alone.
        arguments: of its command, after `bottega`; made when its turn comes, for it names files of earlier steps.
        refused: a part of the refusal that is the right answer; empty where it must succeed.
        forecast: name of the forecast that it is held against; empty: none.
        unet_calls: calls of the teacher's U-Net, a batch of both halves of guidance counting once.
        train_steps: optimizer steps.
    """

    name: str
    what: str
    needs: tuple[str, ...] = ()
    until: str = ""
    sets: tuple[str, ...] = ()
    arguments: Callable[[], list[str]] | None = None
    refused: str = ""
    forecast: str = ""
    unet_calls: int = 0
    train_steps: int = 0


def all_steps(recipe: Recipe, request: RehearsalRequest, has_gpu: bool, is_full_size: bool) -> list[RehearsalStep]:
    """The steps for a recipe that has the rehearsal's overrides already."""
    calls = int(recipe.teacher.steps * recipe.teacher.strength)
    painted = request.pairs + 1  # the validation pair too
    half = request.train_steps // 2
    return [
        RehearsalStep("world", "draw contents, styles and circles", until="world"),
        RehearsalStep("data", "read the data sets", ("world",), until="data"),
        RehearsalStep("pairs", "choose pairs", ("data",), until="pairs"),
        RehearsalStep("quality", "set the limits", ("pairs",), until="quality"),
        RehearsalStep(
            "teacher",
            "paint and grade",
            ("quality",),
            until="teacher",
            forecast="teacher",
            unet_calls=painted * calls,
        ),
        *_teacher_options(recipe, request, has_gpu, is_full_size, calls),
        RehearsalStep(
            "features",
            "latents, T5's states, CLIP's embeddings",
            ("teacher",),
            until="features",
            forecast="features",
        ),
        RehearsalStep(
            "student",
            "train, with a checkpoint",
            ("features",),
            until="student",
            sets=(f"student.loop.steps={half}",),
            forecast="student",
            train_steps=half,
        ),
        RehearsalStep(
            "student resumed",
            "resume from the checkpoint",
            ("student",),
            until="student",
            forecast="student",
            train_steps=request.train_steps - half,
        ),
        _checkpointed(request),
        _stylize(recipe, request),
        _generate(recipe, request, "generate", recipe.models.sdxl),
        *_single_file(recipe, request),
        RehearsalStep(
            "evaluation",
            "draw and measure the test pairs",
            ("student resumed",),
            until="evaluation",
            forecast="evaluation",
            unet_calls=calls,
        ),
        RehearsalStep(
            "report", "build the page", ("evaluation",), arguments=lambda: ["report", _argument(request.directory)]
        ),
    ]


def _teacher_options(
    recipe: Recipe, request: RehearsalRequest, has_gpu: bool, is_full_size: bool, calls: int
) -> list[RehearsalStep]:
    """The teacher with the precisions and memory options that this device allows, on one picture each."""
    used = "bfloat16" if recipe.models.dtype == "auto" else recipe.models.dtype
    chosen: dict[str, list[str]] = {"two at once": ["--batch-size", "2"]}
    if has_gpu:
        # On the CPU float16 is left out: torch computes its convolutions so slowly that a picture takes minutes.
        for dtype in ("bfloat16", "float16"):
            if dtype != used:
                chosen[dtype] = ["--set", f"models.dtype={dtype}"]
        chosen["low vram"] = ["--low-vram"]
        chosen["float16, decoded in float16"] = ["--set", "models.dtype=float16", "--set", "teacher.upcast_vae=false"]
    steps = [_teach(request, name, options, calls) for name, options in chosen.items()]
    if is_full_size:
        steps.append(_teach(request, "float32", ["--set", "models.dtype=float32"], 0, refused=_FLOAT32))
    return steps


def _teach(request: RehearsalRequest, name: str, options: list[str], calls: int, refused: str = "") -> RehearsalStep:
    directory = request.directory

    def arguments() -> list[str]:
        folder = directory / "options" / name.replace(" ", "_").replace(",", "")
        pairs = 2 if name == "two at once" else 1
        return [
            "teach",
            *("--pairs", str(directory / "pairs" / "train.jsonl")),
            *("--data-root", str(directory / "data")),
            *("--output-dir", str(folder)),
            *("--recipe", str(directory / "recipe.yaml")),
            *("--thresholds", str(directory / "quality" / "thresholds.json")),
            *("--limit", str(pairs), "--seeds", "0"),
            *options,
        ]

    return RehearsalStep(
        f"teacher: {name}",
        "refused before anything is loaded" if refused else "paint with this option",
        ("quality",),
        arguments=arguments,
        refused=refused,
        forecast="" if refused else f"teacher: {name}",
        unet_calls=calls,
    )


def _checkpointed(request: RehearsalRequest) -> RehearsalStep:
    directory = request.directory

    def arguments() -> list[str]:
        return [
            *("train", "style"),
            *("--features-dir", str(directory / "features")),
            *("--output-dir", str(directory / "options" / "checkpointing")),
            *("--recipe", str(directory / "recipe.yaml")),
            *("--set", "student.gradient_checkpointing=on"),
            *("--set", "student.loop.steps=1", "--set", "student.validation.samples=0"),
        ]

    return RehearsalStep(
        "student: checkpointing",
        "train with gradient checkpointing",
        ("features",),
        arguments=arguments,
        forecast="student: checkpointing",
        train_steps=1,
    )


def _stylize(recipe: Recipe, request: RehearsalRequest) -> RehearsalStep:
    directory = request.directory

    def arguments() -> list[str]:
        pair = next(iter(read_pairs(directory / "pairs" / "test.jsonl")), None)
        if pair is None:
            raise MissingError(f"{directory}: the rehearsal has no test pair to stylise; run it again from its start")
        data = directory / "data"
        return [
            *("stylize", str(data / pair.content_path), str(data / pair.style_path)),
            *("--adapter", str(directory / "training" / "adapter.safetensors")),
            *("--output", str(directory / "stylised" / "picture.png")),
            *("--prompt", pair.prompt),
            *_models_of(recipe, "pixart", "clip"),
            *("--dtype", recipe.models.dtype, "--device", recipe.models.device),
            *_cache(recipe),
        ]

    return RehearsalStep(
        "stylize", "draw a content with the adapter", ("student resumed",), arguments=arguments, forecast="stylize"
    )


def _single_file(recipe: Recipe, request: RehearsalRequest) -> list[RehearsalStep]:
    """Drawing with an SDXL in one file, where the models have one."""
    if request.checkpoint is None:
        return []
    return [_generate(recipe, request, "generate: one file", str(request.checkpoint))]


def _generate(recipe: Recipe, request: RehearsalRequest, name: str, model: str | None) -> RehearsalStep:
    side = str(GENERATED_SIDE)

    def arguments() -> list[str]:
        if model is None:
            raise MissingError("models.sdxl: generating needs it and the recipe names none; set models.sdxl")
        lora = [] if request.lora is None else ["--lora", str(request.lora)]
        return [
            *("generate", "--model", model),
            *("--prompt", "a house beside a lake", "--seed", "0"),
            *("--width", side, "--height", side),
            *("--num-inference-steps", str(request.unet_calls)),
            # Else the guardrails would raise so few steps to ten, and the prediction type be measured by further calls.
            *("--guardrails", "off", "--prediction-type", "epsilon"),
            *("--dtype", recipe.models.dtype, "--device", recipe.models.device),
            *("--output-dir", str(request.directory / "generated")),
            *_cache(recipe),
            *lora,
        ]

    with_lora = "without a LoRA" if request.lora is None else "with a LoRA"
    return RehearsalStep(
        name,
        f"draw a prompt at {side} px {with_lora}",
        arguments=arguments,
        forecast="generate",
        unet_calls=request.unet_calls,
    )


def _models_of(recipe: Recipe, *roles: str) -> list[str]:
    options: list[str] = []
    for role in roles:
        name = getattr(recipe.models, role)
        if name is not None:
            options += [f"--{role}", name]
    return options


def _cache(recipe: Recipe) -> list[str]:
    return [] if recipe.models.cache is None else ["--model-cache", recipe.models.cache]


def _argument(path: Path) -> str:
    """A path as a command's argument: one that begins with a dash is no option."""
    return f"./{path}" if str(path).startswith("-") else str(path)
