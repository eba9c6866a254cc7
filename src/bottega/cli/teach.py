"""`bottega teach`: the teacher's targets, judged and entered in the ledger."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from bottega.models.config import ModelsConfig
    from bottega.teacher.config import TeacherConfig


def command(
    pairs: Annotated[list[Path], typer.Option(help="pair list (JSON lines); give it again for a second list")],
    data_root: Annotated[Path, typer.Option(help="folder that the pairs' paths are relative to")],
    output_dir: Annotated[Path, typer.Option(help="folder of images/, ledger.sqlite and lists; a stopped run goes on")],
    recipe: Annotated[Path | None, typer.Option(help="recipe whose sections teacher, quality and models hold")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="override, such as teacher.strength=0.35")] = None,
    thresholds: Annotated[Path | None, typer.Option(help="limits of the grades; without it the recipe's own")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="only the first so many pairs of each list")] = None,
    seeds: Annotated[str | None, typer.Option(help="only these seeds, such as 0 or 0,1")] = None,
    oracle: Annotated[bool, typer.Option("--oracle", help="return the data set's drawn truths instead")] = False,
    pilot: Annotated[int | None, typer.Option(min=1, help="make this many pairs in a grid of settings first")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done, and what is missing")] = False,
    batch_size: Annotated[str | None, typer.Option(help="targets at once through the U-Net: a number, or auto")] = None,
    quality_filter: Annotated[bool | None, typer.Option(help="retry what is graded C (on)")] = None,
    max_retries: Annotated[int | None, typer.Option(min=0, help="further tries for a target graded C (2)")] = None,
    keep_tries: Annotated[str | None, typer.Option(help="pictures kept of several tries: best or all")] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="make again what gave no picture: failed and broken ones")
    ] = False,
    upcast_vae: Annotated[bool | None, typer.Option(help="autoencoder in fp32 (on where its weights are fp16)")] = None,
    low_vram: Annotated[bool | None, typer.Option("--low-vram", help="for GPUs of 8 to 12 GB: see docs")] = None,
    gc_interval: Annotated[int | None, typer.Option(min=0, help="hand memory back each so many pictures (10)")] = None,
    model_cache: Annotated[str | None, typer.Option(help="the Hugging Face cache that the models lie in")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="make certain that nothing asks the network")] = False,
) -> None:
    """Make the targets that are not made yet; the same command goes on after a stop, a kill or a power cut."""
    from bottega.cli.train import locked, read_section
    from bottega.models.config import ModelsConfig
    from bottega.quality.config import QualityConfig
    from bottega.runtime.errors import StartAfresh
    from bottega.runtime.files import write_json
    from bottega.teacher.config import TeacherConfig

    flags = {
        "source": "oracle" if oracle else None,
        "batch_size": batch_size,
        "quality_filter": quality_filter,
        "max_retries": max_retries,
        "keep_tries": keep_tries,
        "upcast_vae": upcast_vae,
        "low_vram": low_vram,
        "gc_interval": gc_interval,
    }
    sets = [*(set_ or []), *(f"teacher.{name}={_yaml(value)}" for name, value in flags.items() if value is not None)]
    sets += [f"models.cache={model_cache}"] if model_cache is not None else []
    config = read_section(TeacherConfig, "teacher", recipe, sets)
    models = read_section(ModelsConfig, "models", recipe, sets)
    chosen = _numbers(seeds)
    if offline:
        from bottega.models.libraries import go_offline

        go_offline()
    if low_vram:
        typer.echo(
            "--low-vram: diffusers' sequential offload leaves tensors without data (`meta`) once an IP-Adapter is "
            "loaded, so it is not used. Instead the encoders leave the GPU when they are not at work, the autoencoder "
            "works in tiles, and the batch is what --batch-size says (1).",
            err=True,
        )
    if dry_run:
        typer.echo(_plan(config, models, pairs, output_dir, limit, chosen))
        return
    where: dict[str, Any] = {"pairs": pairs, "data_root": data_root, "models": models}
    with locked(models.device, output_dir, f"teach {recipe or ''}".strip()):
        if thresholds is None:
            thresholds = output_dir / "thresholds.json"
            if not thresholds.is_file():
                limits = read_section(QualityConfig, "quality", recipe, sets).thresholds
                write_json(thresholds, limits.model_dump(mode="json"))
        try:
            if pilot is not None:
                _pilot(config, output_dir / "pilot", {**where, "thresholds": thresholds, "count": pilot})
                return
            from bottega.teacher.stage import run

            where |= {"thresholds": thresholds, "limit": limit, "seeds": chosen, "retry_failed": retry_failed}
            _tell(output_dir, run(config, output_dir, **where))
            return
        except StartAfresh as error:
            typer.echo(f"bottega: {error}", err=True)
    sys.stderr.flush()
    os.execv(sys.executable, sys.orig_argv)  # the same command in a fresh process; the locks were given up above


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _numbers(seeds: str | None) -> list[int] | None:
    from bottega.runtime.errors import RecipeError

    try:
        return [int(seed) for seed in seeds.split(",")] if seeds is not None else None
    except ValueError:
        raise RecipeError(
            f"--seeds wants numbers separated by commas, received {seeds!r}; for instance 0,1,2"
        ) from None


def _tell(output_dir: Path, done: dict[str, Any]) -> None:
    grades = ", ".join(f"{count} {letter}" for letter, count in done["grades"].items())
    oracle = "oracle: drawn truths, nothing was painted; " if done["source"] == "oracle" else ""
    typer.echo(
        f"{output_dir}: {oracle}{done['accepted']} of {done['targets']} targets accepted ({grades}; "
        f"{done['broken']} broken), "
        f"{done['tries_per_accepted'] or 0:.2f} tries each, {done['seconds_per_accepted'] or 0:.2f} s each"
    )


def _pilot(config: TeacherConfig, directory: Path, request: dict[str, Any]) -> None:
    from bottega.teacher.pilot import Cell, pilot, table

    told = pilot(config, directory, **request)
    typer.echo(table(told))
    for words in told["warnings"]:
        typer.echo(f"warning: {words}")
    best = told["proposed"]
    if best is not None:
        typer.echo(
            f"nearest to the styles among those that keep enough: {Cell(**best).name}. Look at "
            f"{directory / 'contact_sheet.png'}; to take other values than the protocol's, say so: "
            f"--set teacher.strength={best['strength']:g} --set teacher.ip_adapter_scale={best['ip_adapter_scale']:g}"
        )


def _plan(
    config: TeacherConfig,
    models: ModelsConfig,
    pairs: list[Path],
    output_dir: Path,
    limit: int | None,
    seeds: list[int] | None,
) -> str:
    """What a run would do, in words; loads no model and makes no picture."""
    from bottega.models.layout import missing
    from bottega.teacher.protocol import cautions, schedule
    from bottega.teacher.stage import PairLists, progress_of

    wanted = list(config.seeds) if seeds is None else seeds
    total = PairLists(pairs, limit).count() * len(wanted)
    known = progress_of(output_dir)
    if config.source == "oracle":
        made = [f"oracle: drawn truths of {config.size} px stand in for the teacher; no protocol is run"]
    else:
        steps = schedule(config.steps, config.strength, config.sampler)
        made = [
            f"protocol {config.name}: {config.sampler}, {steps['unet_calls']} U-Net calls from t = "
            f"{steps['first_timestep']} (SNR {steps['first_snr']:.3g}), guidance_scale {config.guidance_scale:g}, "
            f"ip_adapter_scale {config.ip_adapter_scale:g}, {config.size} px",
            *cautions(config),
        ]
    lines = [
        *made,
        f"{total} targets ({len(wanted)} seeds), {known['targets']} in the ledger of {output_dir}; about "
        f"{total * config.size**2 * 1.8 / 1e9:.1f} GB of PNG",
    ]
    if known["seconds_each"]:
        hours = max(0, total - known["targets"]) * known["seconds_each"] / 3600
        lines.append(f"{known['seconds_each']:.2f} s each so far: {hours:.1f} h for the rest")
    roles = ("clip",) if config.source == "oracle" else ("sdxl", "sdxl_vae", "ip_adapter", "clip")
    return "\n".join([*lines, *(f"missing: {line}" for line in missing(models, roles))])
