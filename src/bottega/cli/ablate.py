"""`bottega ablate`: which choice of a recipe is worth what: variants trained together, compared on the same pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bottega.cli.common import locked, open_pipeline, print_json, read_numbers, read_size, stay_offline
from bottega.cli.main import explain
from bottega.runtime.children import attached

if TYPE_CHECKING:
    from bottega.ablation.plan import AblationPlan, Budget
    from bottega.ablation.stage import Ground
    from bottega.pipeline import Pipeline

_SEEDS = 3
"""Training seeds, where none are named: training again moves the numbers more than other test pairs do."""


def command(
    recipe: Annotated[Path | None, typer.Argument(help="recipe (YAML), or the run directory of one")] = None,
    factors: Annotated[
        str | None,
        typer.Option(help="which to vary, such as layers,purification  [default: all that the recipe has]"),
    ] = None,
    grid: Annotated[bool, typer.Option("--grid", help="every combination of levels, not one factor at a time")] = False,
    seeds: Annotated[
        str | None,
        typer.Option(help="training seeds of each variant, such as 0,1,2  [default: its own and 2 more]"),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="optimizer steps of each training  [default: the recipe's]")
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="test pairs, a crossed grid of the run's")] = 64,
    rate: Annotated[
        list[str] | None, typer.Option("--rate", help="learning rate of a number of blocks, such as 8=1e-4 or all=5e-5")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="processes side by side  [default: one a processor; one on a GPU]")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="override, such as student.batch_size=4")] = None,
    directory: Annotated[Path | None, typer.Option(help="run directory  [default: runs/NAME]")] = None,
    output: Annotated[Path | None, typer.Option(help="folder to write to  [default: RUN/ablation]")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the variants and the budget; train nothing")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="make certain that nothing asks the network")] = False,
    json_: Annotated[bool, typer.Option("--json", help="print summary.json, or the plan, on stdout")] = False,
    work: Annotated[Path | None, typer.Option(hidden=True)] = None,
    parent: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Train variants of a recipe together, evaluate them on the same pairs with the same noise, and say what differs.

    Data, targets and features are those of the run; what of them is not there is made first. The same command continues
    an ablation that was stopped, and adds factors or seeds to one that is done.
    """
    if work is not None:
        with attached(parent, explain):
            from bottega.ablation.work import work_from

            work_from(work)
        return
    from bottega.ablation.stage import Ground, run
    from bottega.ablation.variants import FACTORS
    from bottega.report.page import run as write_page
    from bottega.runtime.errors import RequestError

    stay_offline(offline)
    if recipe is None:
        raise RequestError("ablate needs a recipe or a run directory, received neither; try recipes/miniature.yaml")
    pipeline = open_pipeline(recipe, directory, read_size(None, None), set_)
    found = pipeline.recipe
    plan = _plan(
        pipeline,
        list(FACTORS) if factors is None else factors.split(","),
        grid=grid,
        seeds=range(found.student.seed, found.student.seed + _SEEDS) if seeds is None else read_numbers("seeds", seeds),
        steps=steps,
        rates=_read_rates(rate or []),
    )
    ground = Ground(
        name=found.name,
        models=found.models,
        features=pipeline.directory / "features",
        pairs=pipeline.directory / "pairs" / "test.jsonl",
        data_root=found.data_root(pipeline.directory),
    )
    count = processes or _processes(found.models.device)
    if dry_run:
        _print_plan(plan, ground, count, json_)
        return
    pipeline.run("features")
    output = output or pipeline.directory / "ablation"
    # What is measured of one adapter beside the pairs would be measured again for each.
    beside = {"timed_pictures": 0, "fill50k_pictures": 0, "checkpoints": False}
    evaluation = found.evaluation.model_copy(update={"limit": pairs, **beside})
    with locked(found.models.device, output, "ablate", threads=1):
        summary = run(plan, evaluation, output, ground=ground, processes=count)
        page = write_page(output)
    if json_:
        print_json(summary)
    else:
        typer.echo(f"{page}, {output / 'table.md'}")


def _plan(
    pipeline: Pipeline,
    factors: list[str],
    *,
    grid: bool,
    seeds: range | list[int],
    steps: int | None,
    rates: dict[str, float],
) -> AblationPlan:
    from bottega.ablation.plan import AblationPlan, blocks_of, budgeted
    from bottega.ablation.variants import full_grid, one_factor
    from bottega.models.layout import locate

    recipe = pipeline.recipe
    blocks = blocks_of(locate(recipe.models, "pixart"))
    base = budgeted(recipe.student, steps)
    make = full_grid if grid else one_factor
    variants = make(base, factors, blocks, rates)
    return AblationPlan("full grid" if grid else "one factor", variants, tuple(dict.fromkeys(seeds)), base, blocks)


def _read_rates(words: list[str]) -> dict[str, float]:
    """The option --rate: level of `layers` to learning rate."""
    from bottega.runtime.errors import RequestError

    rates: dict[str, float] = {}
    for word in words:
        level, _, text = word.partition("=")
        try:
            rates[level] = float(text)
        except ValueError as error:
            raise RequestError(f"--rate wants BLOCKS=RATE, received {word!r}; for instance --rate all=5e-5") from error
    return rates


def _processes(device: str) -> int:
    """As many as there are processors, for a small network computes with one thread; a GPU is not shared."""
    from bottega.models.loading import choose_device
    from bottega.runtime.threads import processors

    return processors() if choose_device(device).type == "cpu" else 1


def _print_plan(plan: AblationPlan, ground: Ground, processes: int, as_json: bool) -> None:
    """The variants with their settings and rates, what is left out, and the budget."""
    from dataclasses import asdict

    from bottega.ablation.plan import budget_of
    from bottega.ablation.work import seconds_a_step

    a_step = None
    if (ground.features / "samples.jsonl").is_file():
        a_step = seconds_a_step(plan.base, ground.features, ground.models)
    budget = budget_of(plan, processes, a_step)
    if as_json:
        variants = {variant.name: dict(variant.changes) for variant in plan.variants.chosen}
        left_out = dict(plan.variants.left_out)
        print_json({"variants": variants, "left_out": left_out, "seeds": plan.seeds, "budget": asdict(budget)})
        return
    for variant in plan.variants.chosen:
        changed = ", ".join(f"{name}={value}" for name, value in variant.changes.items()) or "the recipe itself"
        typer.echo(f"{variant.name}: {changed}; learning rate {budget.rates[variant.name]:g}")
    for name, why in plan.variants.left_out.items():
        typer.echo(f"left out: {name}: {why}")
    for line in _budget_lines(budget, plan, processes):
        typer.echo(line)


def _budget_lines(budget: Budget, plan: AblationPlan, processes: int) -> list[str]:
    ratio = budget.alone / budget.together
    lines = [
        f"{budget.trainings} trainings: {len(plan.variants.chosen)} variants x {len(plan.seeds)} seeds "
        f"({', '.join(map(str, plan.seeds))}), {budget.steps} steps ({budget.samples} samples) each",
        f"together {ratio:.2f} x less work than one after another, in {processes} processes of one thread",
    ]
    if budget.minutes is None:
        lines.append("minutes of training: not known before the features are there (bottega run --until features)")
    else:
        lines.append(f"about {budget.minutes:.0f} minutes of training, on processors that do nothing else")
    return lines
