"""`bottega teach`: the teacher's targets, judged and entered in the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bottega.cli.common import locked, print_warnings, read_models, read_numbers, read_section, stay_offline

if TYPE_CHECKING:
    from bottega.models.config import ModelsConfig
    from bottega.teacher.config import TeacherConfig
    from bottega.teacher.summary import TeacherSummary

_LOW_VRAM = (
    "--low-vram: diffusers' sequential offload leaves tensors without data (`meta`) once an IP-Adapter is loaded, so "
    "it is not used. Instead the encoders leave the GPU when they are not at work, and the batch is what --batch-size "
    "says (1)."
)


def command(
    pairs: Annotated[list[Path], typer.Option(help="pair list (JSON lines); give it again for a second list")],
    data_root: Annotated[Path, typer.Option(help="folder that the pairs' paths are relative to")],
    output_dir: Annotated[Path, typer.Option(help="folder of images/, ledger.sqlite and lists; a stopped run resumes")],
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
    upcast_vae: Annotated[bool | None, typer.Option(help="decode in fp32 (on where the weights are fp16)")] = None,
    low_vram: Annotated[bool | None, typer.Option("--low-vram", help="for GPUs of 8 to 12 GB: see docs")] = None,
    gc_interval: Annotated[int | None, typer.Option(min=0, help="hand memory back each so many pictures (10)")] = None,
    model_cache: Annotated[str | None, typer.Option(help="the Hugging Face cache that the models lie in")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="make certain that nothing asks the network")] = False,
) -> None:
    """Make the targets that are not made yet; the same command resumes after a stop, a kill or a power cut."""
    from bottega.runtime.children import restart_command
    from bottega.runtime.errors import StartAfresh
    from bottega.runtime.escape import one_line
    from bottega.teacher.config import TeacherConfig
    from bottega.teacher.plan import describe_plan
    from bottega.teacher.stage import run

    named = {
        "source": "oracle" if oracle else None,
        "batch_size": batch_size,
        "quality_filter": quality_filter,
        "max_retries": max_retries,
        "keep_tries": keep_tries,
        "upcast_vae": upcast_vae,
        "low_vram": low_vram,
        "gc_interval": gc_interval,
    }
    sets = [*(set_ or []), *_overrides("teacher", named), *_overrides("models", {"cache": model_cache})]
    config = read_section(TeacherConfig, "teacher", recipe, sets)
    models = read_models(recipe, sets)
    chosen = None if seeds is None else read_numbers("seeds", seeds)
    _require_places(pairs, data_root, thresholds, output_dir)
    stay_offline(offline)
    if low_vram:
        typer.echo(_LOW_VRAM, err=True)
    if dry_run:
        typer.echo(describe_plan(config, models, output_dir, pairs=pairs, limit=limit, seeds=chosen))
        return
    holder = "teach" if recipe is None else f"teach {recipe}"
    with locked(models.device, output_dir, holder):
        limits = _own_limits(output_dir, recipe, sets) if thresholds is None else thresholds
        try:
            if pilot is not None:
                _pilot(
                    config,
                    output_dir / "pilot",
                    pairs=pairs,
                    data_root=data_root,
                    models=models,
                    thresholds=limits,
                    count=pilot,
                )
                return
            summary = run(
                config,
                output_dir,
                pairs=pairs,
                data_root=data_root,
                models=models,
                thresholds=limits,
                limit=limit,
                seeds=chosen,
                retry_failed=retry_failed,
            )
            _print(output_dir, summary)
            return
        except StartAfresh as error:
            typer.echo(f"bottega: {one_line(str(error))}", err=True)
    restart_command()  # the locks were given up above


def _require_places(pairs: Sequence[Path], data_root: Path, thresholds: Path | None, output_dir: Path) -> None:
    """Refuse an option whose path is not there, or is of the wrong kind."""
    from bottega.data.given import require_file, require_folder, require_room_for_folder

    for file in pairs:
        require_file("--pairs", file)
    require_folder("--data-root", data_root)
    require_file("--thresholds", thresholds)
    require_room_for_folder("--output-dir", output_dir)


def _own_limits(output_dir: Path, recipe: Path | None, sets: Sequence[str]) -> Path:
    """The limits file in the output folder; where there is none yet, the recipe's limits are written there."""
    from bottega.quality.config import QualityConfig
    from bottega.teacher.stage import own_thresholds

    quality = read_section(QualityConfig, "quality", recipe, sets)
    return own_thresholds(output_dir, quality.thresholds)


def _overrides(section: str, values: Mapping[str, object]) -> list[str]:
    """Options that were given, as `--set` would have them."""
    sets = []
    for name, value in values.items():
        if value is not None:
            text = str(value).lower() if isinstance(value, bool) else str(value)  # YAML's true, not Python's True
            sets.append(f"{section}.{name}={text}")
    return sets


def _print(output_dir: Path, done: TeacherSummary) -> None:
    grades = ", ".join(f"{count} {letter}" for letter, count in done["grades"].items())
    oracle = "oracle: drawn truths, nothing was painted; " if done["source"] == "oracle" else ""
    # None where nothing was accepted
    tries = done["tries_per_accepted"] or 0
    seconds = done["seconds_per_accepted"] or 0
    typer.echo(
        f"{output_dir}: {oracle}{done['accepted']} of {done['targets']} targets accepted ({grades}; "
        f"{done['broken']} broken), {tries:.2f} tries and {seconds:.2f} s for each accepted"
    )


def _pilot(
    config: TeacherConfig,
    directory: Path,
    *,
    pairs: list[Path],
    data_root: Path,
    models: ModelsConfig,
    thresholds: Path,
    count: int,
) -> None:
    from bottega.teacher.pilot import advice, pilot, table

    found = pilot(
        config, directory, pairs=pairs, data_root=data_root, models=models, thresholds=thresholds, count=count
    )
    typer.echo(table(found))
    print_warnings(found.warnings)
    proposal = advice(found, directory)
    if proposal:
        typer.echo(proposal)
