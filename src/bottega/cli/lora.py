"""`bottega lora`: what a LoRA file is, whether it fits a model, and what it does there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bottega.cli.common import print_json
from bottega.cli.model_options import (
    ConfigsOption,
    DeviceOption,
    DTypeOption,
    LoRAFileArgument,
    ModelCacheOption,
    SeedOption,
    VAEOption,
)
from bottega.doctor.lora import counts_text
from bottega.runtime.errors import RequestError

if TYPE_CHECKING:
    from bottega.generation.lora import LoRAReport
    from bottega.generation.lora.metadata import LoRAMetadata
    from bottega.generation.lora_trial import LoRATrial, Remains

app = typer.Typer(no_args_is_help=True, help="What a LoRA file is, whether it fits a model, and what it does there.")

PROMPT = "a house by a lake"
"""Drawn by `test` where neither a prompt is given nor the file names trigger words."""


@app.callback()
def _group() -> None:
    """What a LoRA file is, whether it fits a model, and what it does there."""


@app.command()
def inspect(
    file: LoRAFileArgument,
    model: Annotated[
        str | None,
        typer.Option(help="also say whether it fits this model: a diffusers folder, or org/name in the cache"),
    ] = None,
    configs: ConfigsOption = None,
    model_cache: ModelCacheOption = None,
    json_: Annotated[bool, typer.Option("--json", help="print JSON on stdout")] = False,
) -> None:
    """Say what a LoRA file is; no model is loaded. Exit code 2 where it can't be used."""
    from bottega.generation.lora import inspect_lora
    from bottega.generation.lora.named import architecture_of

    architecture = None
    if model is not None:
        cache = None if model_cache is None else str(model_cache)
        architecture = architecture_of(model, configs=configs, cache=cache)
    report = inspect_lora(file, architecture)
    if json_:
        print_json(report.record())
    else:
        typer.echo("\n".join(_lines(report, model)))
    if report.problem is not None:
        raise RequestError(f"{file}: {report.problem}")


def _lines(report: LoRAReport, model: str | None) -> list[str]:
    """The report for people: a line for each thing that there is to say."""
    rows = [
        ("file", f"{report.file}, {report.size / 1e6:.1f} MB, sha256 {report.sha256[:12]}…"),
        *_network_rows(report),
        *_header_rows(report.metadata),
    ]
    if report.share is not None:
        rows.append(("fits", f"{report.matched_keys} of {report.keys} keys match {model} ({report.share:.1%})"))
    for key in report.unmatched:
        rows.append(("no place for", key))
    for misfit in report.misfits:
        rows.append(("other shape", misfit))
    for note in report.notes:
        rows.append(("note", note))
    return [f"{title:<13}  {text}" for title, text in rows if text]


def _network_rows(report: LoRAReport) -> list[tuple[str, str]]:
    """What the tensors are."""
    family: str = report.family
    if report.metadata.base_model:
        family += f" (it says {report.metadata.base_model!r})"
    parts = [f"{name} {part.modules}" for name, part in report.components.items()]
    return [
        ("made for", family),
        ("layout", report.layout),
        ("modules", counts_text(report.algorithms)),
        ("rank", counts_text(report.ranks)),
        ("alpha", counts_text(report.alphas) or "none given: full scale"),
        ("numbers", counts_text(report.dtypes)),
        ("parts", ", ".join(parts)),
    ]


def _header_rows(metadata: LoRAMetadata) -> list[tuple[str, str]]:
    """What the file's header says."""
    tags = [tag for tag, _ in metadata.top_tags]
    return [
        ("name", metadata.name),
        ("trigger words", ", ".join(metadata.trigger_words)),
        ("frequent tags", ", ".join(tags)),
    ]


@app.command("test")
def try_out(
    file: Annotated[Path, typer.Argument(help="the LoRA's .safetensors file")],
    model: Annotated[str, typer.Option(help="a diffusers folder, a .safetensors checkpoint, or org/name in the cache")],
    prompt: Annotated[str | None, typer.Option(help="what to draw  [default: the file's trigger words]")] = None,
    seed: SeedOption = 0,
    steps: Annotated[int | None, typer.Option(help="sampling steps  [default: the profile's]")] = None,
    output: Annotated[Path | None, typer.Option(help="write all pictures on one sheet there: .png, .jpg …")] = None,
    configs: ConfigsOption = None,
    vae: VAEOption = None,
    device: DeviceOption = "auto",
    dtype: DTypeOption = "auto",
    model_cache: ModelCacheOption = None,
    json_: Annotated[bool, typer.Option("--json", help="print JSON on stdout")] = False,
) -> None:
    """Draw without a LoRA, with it at weights 0, 0.5 and 1, and after it; prove that nothing of it is left.

    Exit code 1 where something is left, or weight 0 changes the picture; 2 where the file does not fit.
    """
    from bottega.generation.engine import open_engine
    from bottega.generation.lora.inspection import inspect_lora
    from bottega.generation.lora_trial import try_lora
    from bottega.generation.modules import load_modules
    from bottega.generation.records import GenerationRequest
    from bottega.runtime.config import parse
    from bottega.runtime.files import require_picture_ending

    if output is not None:
        require_picture_ending(output)
    metadata = inspect_lora(file).metadata  # a pickle or a torn file is refused before a model is loaded
    words = prompt if prompt is not None else ", ".join(metadata.trigger_words) or PROMPT
    request = parse(GenerationRequest, {"prompt": words, "seed": seed, "steps": steps}, "command line")
    cache = None if model_cache is None else str(model_cache)
    modules = load_modules(model, device=device, dtype=dtype, vae=vae, configs=configs, cache=cache)
    trial = try_lora(open_engine(modules), file, request)
    if output is not None:
        _draw_sheet(trial, output)
    if json_:
        print_json(trial.record())
    else:
        typer.echo("\n".join(_trial_lines(trial)))
    if not trial.passed:
        raise typer.Exit(1)


def _draw_sheet(trial: LoRATrial, output: Path) -> None:
    from bottega.visual.contact_sheet import draw_grid

    heads, labels = ["without"], [""]
    for change in trial.changes:
        heads.append(f"at {change.weight:g}")
        labels.append(f"{change.mean:.1f} levels")
    heads.append("after")
    labels.append("")
    heads = heads[: len(trial.pictures)]
    draw_grid(heads, [list(zip(trial.pictures, labels, strict=False))], output)


def _trial_lines(trial: LoRATrial) -> list[str]:
    settings = trial.settings
    size = f"{settings.width} × {settings.height}"
    lines = [
        f"{trial.use.name}: {trial.use.matched:.1%} of its keys match, in {', '.join(trial.use.weights)}",
        f"drawn: {settings.prompt!r}, seed {settings.seed}, {size}, {settings.steps} steps, {settings.sampler}",
        "",
        "weight  mean change  largest  pixels changed",
    ]
    for change in trial.changes:
        lines.append(f"{change.weight:6g}  {change.mean:11.2f}  {change.most:7d}  {change.pixels:14.1%}")
    lines += ["", *_remains_lines(trial.remains)]
    if trial.changes_nothing:
        lines.append("note: the LoRA changes nothing at any weight, as one that was never trained")
    lines.append("passed" if trial.passed else "failed")
    return lines


def _remains_lines(remains: Remains) -> list[str]:
    """What was left of the LoRA after it was taken out."""
    left = [f"{count} in {name}" for name, count in remains.layers.items() if count]
    changed = [name for name, kept in remains.checksums_kept.items() if not kept]
    weights = "the same checksums"
    if changed:
        weights = f"changed in {', '.join(changed)}"
    picture = "the same, bit for bit" if remains.same_picture else "not the same"
    lines = [
        "after it was taken out:",
        f"  LoRA layers   {', '.join(left) or 'none'}",
        f"  base weights  {weights}",
        f"  picture       {picture}",
    ]
    if remains.refused:
        lines.append(f"  {remains.refused}")
    return lines
