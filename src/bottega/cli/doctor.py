"""`bottega doctor`: what is wrong, and what to do first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from bottega.cli.model_options import (
    ConfigsOption,
    DeviceOption,
    DTypeOption,
    LoRAFileArgument,
    ModelCacheOption,
    SeedOption,
    VAEOption,
)

if TYPE_CHECKING:
    from bottega.doctor.answer import Answer

app = typer.Typer(help="Say what is wrong, and what to do first.", add_completion=False)


@app.callback(invoke_without_command=True)
def _group(
    context: typer.Context, json: Annotated[bool, typer.Option("--json", help="print the answer as JSON")] = False
) -> None:
    """Say what is wrong, and what to do first.

    Without a verb: this machine, the model cache, the newest run under runs/ and its training, in one answer.
    """
    if context.invoked_subcommand is not None:
        return
    from bottega.cli.doctor_requests import recipe_needs, run_request
    from bottega.doctor.everything import RUNS, examine_everything, newest_run

    run = newest_run(Path())
    request = None if run is None else run_request(run, check_all=False)
    _tell(examine_everything(recipe_needs(), request, RUNS), json)


@app.command()
def training(
    run: Annotated[
        Path, typer.Argument(help="a run directory, a metrics.jsonl, or what any trainer printed", metavar="RUN_OR_LOG")
    ],
    html: Annotated[Path | None, typer.Option(help="write one offline page there, too")] = None,
    json: Annotated[bool, typer.Option("--json", help="print the verdict as JSON")] = False,
    prediction_type: Annotated[
        str | None, typer.Option(help="epsilon, v_prediction, flow_prediction or sample, where the log does not say")
    ] = None,
    one_picture: Annotated[
        bool, typer.Option("--one-picture", help="a single picture is learned: its loss has a meaning by itself")
    ] = False,
) -> None:
    """Whether a training goes well, what level it has reached, and what to do; it may still be running."""
    import shutil
    from json import dumps

    from bottega.doctor import examine
    from bottega.doctor.levels import require_prediction_type
    from bottega.doctor.page import render_page
    from bottega.doctor.text import as_text
    from bottega.runtime.files import write_text

    verdict = examine(run, prediction_type=require_prediction_type(prediction_type), one_picture=one_picture)
    if html is not None:
        write_text(html, render_page(verdict))
    if json:
        typer.echo(dumps(verdict.record(), ensure_ascii=False, indent=2))
    else:
        typer.echo(as_text(verdict, shutil.get_terminal_size().columns))


@app.command()
def cache(
    model_cache: ModelCacheOption = None,
    hash_: Annotated[
        bool, typer.Option("--hash", help="read each file whole and compare its hash with its name")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="print the answer as JSON")] = False,
) -> None:
    """Whether the models in the cache are whole: links, references, headers, sizes, permissions, hashes.

    Each fault comes with the command that mends it; nothing is changed, and no network is asked.
    """
    from bottega.doctor.cache import examine
    from bottega.models.cache import CacheRequest
    from bottega.models.names import hub_cache

    named = None if model_cache is None else str(model_cache)
    _tell(examine(CacheRequest(hub_cache(named), is_named=named is not None, hash_files=hash_)), json)


@app.command()
def model(
    model: Annotated[
        str, typer.Argument(help="a .safetensors file, a model's folder, or a name as in a recipe", metavar="MODEL")
    ],
    profile: Annotated[
        str | None, typer.Option(help="show this profile's limits in place of the one that is chosen")
    ] = None,
    model_cache: ModelCacheOption = None,
    json: Annotated[bool, typer.Option("--json", help="print the answer as JSON")] = False,
) -> None:
    """What a checkpoint is: family, precision, prediction type and where it says so, what lacks, what is foreign.

    And the guardrails that it would be drawn with. Headers alone are read: no weight is loaded, no network is asked.
    """
    from bottega.doctor.model import examine_model

    _tell(examine_model(model, profile=profile, model_cache=None if model_cache is None else str(model_cache)), json)


@app.command()
def lora(
    file: LoRAFileArgument,
    model: Annotated[
        str | None,
        typer.Option(help="also say whether it fits this model: a diffusers folder, or a name as in a recipe"),
    ] = None,
    configs: ConfigsOption = None,
    model_cache: ModelCacheOption = None,
    json: Annotated[bool, typer.Option("--json", help="print the answer as JSON")] = False,
) -> None:
    """What a LoRA file is, whether it can be used, and which share of it fits a model. No model is loaded."""
    from bottega.doctor.lora import examine_lora

    cache = None if model_cache is None else str(model_cache)
    _tell(examine_lora(file, model, configs=configs, model_cache=cache), json)


@app.command()
def generation(
    model: Annotated[str, typer.Option(help="a diffusers folder, a .safetensors checkpoint, or a name as in a recipe")],
    lora: Annotated[
        list[Path] | None, typer.Option(help="a LoRA's file; several times  [default: two of random numbers]")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="folder for a sheet of all pictures, generation.png")] = None,
    seed: SeedOption = 0,
    profile: Annotated[str | None, typer.Option(help="guardrails of a model family  [default: found]")] = None,
    configs: ConfigsOption = None,
    vae: VAEOption = None,
    device: DeviceOption = "auto",
    dtype: DTypeOption = "auto",
    model_cache: ModelCacheOption = None,
    json: Annotated[bool, typer.Option("--json", help="print the answer as JSON")] = False,
) -> None:
    """Draw with bad and corrected parameters, load, swap, break and unload LoRAs, and say what passed.

    The one verb that loads a model: about a minute for the miniature on a CPU.
    """
    from bottega.doctor.generation import GenerationCheck, examine_generation
    from bottega.generation.files import EngineOptions
    from bottega.runtime.escape import one_line

    options = EngineOptions(
        model=model,
        profile=profile,
        vae=vae,
        configs=configs,
        cache=None if model_cache is None else str(model_cache),
        device=device,
        dtype=dtype,
    )
    check = GenerationCheck(options, tuple(lora or ()), output, seed)
    _tell(examine_generation(check, lambda line: typer.echo(one_line(line), err=True)), json)


@app.command()
def image(
    file: Annotated[Path, typer.Argument(help="a picture, of any tool")],
    content: Annotated[Path | None, typer.Option(help="what it was drawn from: was its structure kept?")] = None,
    style: Annotated[Path | None, typer.Option(help="the style picture: was its style taken over?")] = None,
    clip: Annotated[str | None, typer.Option(help="CLIP's folder or name, for its likeness to both")] = None,
    symptom: Annotated[
        str | None, typer.Option(help="what you see: blurred, lacking detail, over-saturated, dull, LoRA too weak …")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print the answer as JSON")] = False,
) -> None:
    """Which fault a picture has, its likely cause, and the cure; reads the metadata of A1111, ComfyUI and others."""
    from bottega.doctor.image import ImageRequest, examine

    encoder = None
    if clip is not None:
        from bottega.cli.common import read_models
        from bottega.models.encoders import ClipEncoder
        from bottega.models.loading import locate

        encoder = ClipEncoder(locate(read_models(None, [], clip=clip), "clip")).image
    _tell(examine(ImageRequest(file, content, style, encoder, symptom)), json)


@app.command()
def env(json: Annotated[bool, typer.Option("--json", help="print the answer as JSON")] = False) -> None:
    """What this machine has and lacks: Python, torch, GPU, memory, disks, versions, and what each recipe needs.

    No model is loaded, and no GPU is needed or used.
    """
    from bottega.cli.doctor_requests import recipe_needs
    from bottega.doctor.environment import examine, read_machine
    from bottega.doctor.everything import RUNS
    from bottega.models.names import hub_cache

    _tell(examine(read_machine(hub_cache(), RUNS), recipe_needs()), json)


@app.command()
def run(
    directory: Annotated[Path, typer.Argument(help="a run directory, such as runs/miniature", metavar="DIR")],
    all_: Annotated[bool, typer.Option("--all", help="compare every hash, not those of a sample")] = False,
    json: Annotated[bool, typer.Option("--json", help="print the answer as JSON")] = False,
) -> None:
    """Whether a run directory is whole: hashes, ledger, stages, torn files, locks, what a killed process left.

    Each fault comes with the command that mends it; nothing is changed.
    """
    from bottega.cli.doctor_requests import run_request
    from bottega.doctor.run_directory import examine

    _tell(examine(run_request(directory, all_)), json)


def _tell(answer: Answer, as_json: bool) -> NoReturn:
    """Print an answer; the process ends with its exit code."""
    typer.echo(answer.as_json() if as_json else answer.as_text())
    raise typer.Exit(answer.exit_code)
