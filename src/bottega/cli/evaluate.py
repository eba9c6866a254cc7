"""`bottega evaluate`: measure an adapter on held-out contents and styles, beside its controls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from bottega.cli.common import locked, open_pipeline, print_json, read_size
from bottega.cli.evaluate_compare import COMPARE, PLAN, compare, plan
from bottega.cli.evaluate_protocol import PROTOCOL, as_sub_verb, protocol
from bottega.cli.main import explain
from bottega.runtime.children import attached

if TYPE_CHECKING:
    from typer._click.core import Context


MEASURE = "measure"


class _MeasureByDefault(TyperGroup):
    """`bottega evaluate RUN` measures: what is no sub-verb is an argument of `measure`, and `--protocol` of its own."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Name the sub-verb that was left out."""
        named = bool(args) and (args[0] in self.commands or args[0] == "--help")
        if not named:
            args = as_sub_verb(args) or [MEASURE, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_MeasureByDefault, help="Measure an adapter on held-out contents and styles, beside its controls."
)


@app.callback()
def _group() -> None:
    """Measure an adapter on held-out contents and styles; `bottega evaluate RUN` is `bottega evaluate measure RUN`."""


app.command(PROTOCOL)(protocol)
app.command(COMPARE)(compare)
app.command(PLAN)(plan)


@app.command(MEASURE)
def measure(
    recipe: Annotated[Path | None, typer.Argument(help="run directory, or a recipe (YAML) with its models")] = None,
    adapter: Annotated[Path | None, typer.Option(help="adapter  [default: the run's own]")] = None,
    pairs: Annotated[Path | None, typer.Option(help="test pairs, JSON lines  [default: the run's own]")] = None,
    data_root: Annotated[Path | None, typer.Option(help="what the pairs' paths are relative to")] = None,
    output: Annotated[Path | None, typer.Option(help="folder to write to  [default: RUN/evaluation]")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="override, such as evaluation.draws=4000")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="at most so many pairs")] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="leave out pairs that any method lacks, out of all methods")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="print summary.json on stdout")] = False,
    draw: Annotated[Path | None, typer.Option(hidden=True)] = None,
    parent: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Draw the test pairs with the adapter and with the methods beside it, and measure all of them."""
    if draw is not None:
        with attached(parent, explain):
            from bottega.evaluation.drawing import draw_from

            draw_from(draw)
        return
    from bottega.data.given import require_file, require_folder, require_room_for_folder
    from bottega.evaluation.stage import run
    from bottega.runtime.errors import RequestError

    if recipe is None:
        raise RequestError("evaluate needs a run directory or a recipe, received neither; try runs/miniature")
    pipeline = open_pipeline(recipe, None, read_size(None, None), set_)
    found, directory = pipeline.recipe, pipeline.directory
    output = output or directory / "evaluation"
    require_file("--adapter", adapter)
    require_file("--pairs", pairs)
    require_folder("--data-root", data_root)
    require_room_for_folder("--output", output)
    changes: dict[str, object] = {}
    if limit is not None:
        changes["limit"] = limit
    if allow_missing:
        changes["allow_missing"] = True
    with locked(found.models.device, output, "evaluate"):
        summary = run(
            found.evaluation.model_copy(update=changes),
            output,
            pairs=pairs or directory / "pairs" / "test.jsonl",
            data_root=data_root or found.data_root(directory),
            adapter=adapter or directory / "training" / "adapter.safetensors",
            models=found.models,
            teacher=found.teacher,
        )
    if json_:
        print_json(summary)
    else:
        typer.echo(f"{output / 'table.md'}")


@app.command("checkpoints")
def checkpoints(
    recipe: Annotated[Path, typer.Argument(help="run directory, or a recipe (YAML)", show_default=False)],
    training: Annotated[Path | None, typer.Option(help="folder of the training  [default: RUN/training]")] = None,
    pairs: Annotated[Path | None, typer.Option(help="validation pairs, JSON lines  [default: the run's own]")] = None,
    data_root: Annotated[Path | None, typer.Option(help="what the pairs' paths are relative to")] = None,
    output: Annotated[Path | None, typer.Option(help="folder to write to  [default: RUN/evaluation]")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="override, such as evaluation.seed=1")] = None,
    limit: Annotated[
        int | None, typer.Option(min=4, help="pairs that each checkpoint draws  [default: the recipe's, 64]")
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="metric that decides, such as truth or kind_gain  [default: style and content]")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="print checkpoints.json on stdout")] = False,
) -> None:
    """Compare the checkpoints that a training kept (student.loop.keep_best) by the pictures that they draw of held-out
    validation pairs: which is best, how surely, and does training longer still pay?"""
    from bottega.data.given import require_file, require_folder, require_room_for_folder
    from bottega.evaluation.checkpoints import TABLE, run

    pipeline = open_pipeline(recipe, None, read_size(None, None), set_)
    found, directory = pipeline.recipe, pipeline.directory
    output = output or directory / "evaluation"
    require_folder("--training", training)
    require_file("--pairs", pairs)
    require_folder("--data-root", data_root)
    require_room_for_folder("--output", output)
    config = found.evaluation
    with locked(found.models.device, output, "evaluate checkpoints"):
        record = run(
            config if limit is None else config.model_copy(update={"checkpoint_pairs": limit}),
            output,
            training=training or directory / "training",
            pairs=pairs or directory / "pairs" / "val.jsonl",
            data_root=data_root or found.data_root(directory),
            models=found.models,
            by=by,
        )
    if json_:
        print_json(record)
        return
    for sentence in record["sentences"]:
        typer.echo(sentence)
    typer.echo(f"{output / TABLE}")


@app.command("fit-style-probe")
def fit_style_probe(
    recipe: Annotated[Path, typer.Argument(help="run directory, or a recipe (YAML) with its models")],
    encoder: Annotated[str, typer.Option(help="a CLIP or a ViT (DINO, DINOv2), as a recipe names models")],
    output: Annotated[Path, typer.Option(help="the probe's folder, for models.style_classifier")],
    data_root: Annotated[Path | None, typer.Option(help="holds wikiart/ and coco/  [default: the run's own]")] = None,
    size: Annotated[int, typer.Option(min=16, help="side in pixels to which pictures are cut")] = 512,
    photographs: Annotated[int, typer.Option(min=0, help="contents that are shown to it, at most")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="of the split by artist")] = 0,
    set_: Annotated[list[str] | None, typer.Option("--set", help="override, such as models.device=cpu")] = None,
    json_: Annotated[bool, typer.Option("--json", help="print the probe's config.json on stdout")] = False,
) -> None:
    """Fit a classifier of styles on the paintings' own labels, and say how good it is on other artists' paintings."""
    from bottega.data.given import require_folder, require_room_for_folder
    from bottega.evaluation.style_probe import describe_probe, fit

    pipeline = open_pipeline(recipe, None, read_size(None, None), set_)
    require_folder("--data-root", data_root)
    require_room_for_folder("--output", output)
    found = pipeline.recipe
    root = data_root or found.data_root(pipeline.directory)
    with locked(found.models.device, output, "evaluate fit-style-probe"):
        config = fit(root, encoder, output, found.models, size=size, photographs=photographs, seed=seed)
    if json_:
        print_json(config)
    else:
        typer.echo("\n".join(describe_probe(config)))
        typer.echo(f"{output}: name it as models.style_classifier")
