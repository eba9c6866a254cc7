"""`bottega miniature`: build the miniature's models, write its drawn world, draw its truths."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bottega.runtime.locks import writing

if TYPE_CHECKING:
    from bottega.miniature.builder.measured import GateFigure
    from bottega.training.processes import Processes

app = typer.Typer(help="The drawn world and its models.", no_args_is_help=True)


class Model(StrEnum):
    """What `train` trains."""

    sdxl = "sdxl"
    clip = "clip"
    pixart = "pixart"


class Focus(StrEnum):
    """What most samples of a step of SDXL show."""

    teacher = "teacher"
    words = "words"
    both = "both"
    shapes = "shapes"


class Variant(StrEnum):
    """What `train-variants` trains."""

    outline = "outline"
    sepia = "sepia"
    ink = "ink"
    v = "v"


class CheckpointName(StrEnum):
    """What `checkpoint` writes."""

    base = "base"
    ink = "ink"
    v = "v"


class Way(StrEnum):
    """How `gate-variants` draws."""

    words = "words"
    contents = "contents"


_SHIPPED = Path(__file__).resolve().parents[1] / "miniature" / "weights"


@app.command()
def build(
    work: Annotated[Path, typer.Option(help="Folder for the corpus, the states and the logs.")] = Path(
        "build/miniature"
    ),
    output: Annotated[Path, typer.Option(help="Folder for the model folders.")] = Path("build/miniature/weights"),
    quick: Annotated[
        bool, typer.Option("--quick", help="A few steps each: tests the procedure, not the models.")
    ] = False,
) -> None:
    """Train every model of the miniature from scratch; the same command resumes after a stop."""
    from bottega.miniature.builder.build import QUICK, Plan
    from bottega.miniature.builder.build import build as run
    from bottega.miniature.builder.final_gates import verdict

    with writing(work, "bottega miniature build"):
        report = run(work, output, QUICK if quick else Plan())
    for name, value in report.gates.items():
        typer.echo(f"{name:32} {value:8.3f}   {verdict(name, value) or ''}".rstrip())
    typer.echo(f"wrote {output}")


@app.command()
def gates(
    weights: Annotated[Path | None, typer.Option(help="Model folders to measure; default: the shipped ones.")] = None,
    pictures: Annotated[int, typer.Option(help="Pictures of each gate.", min=8)] = 320,
    write: Annotated[bool, typer.Option("--write", help="Write the figures into `gates.json` there.")] = False,
) -> None:
    """Measure SDXL with its IP-Adapter, and PixArt, on scenes and painters held out, with 95 % intervals."""
    from bottega.miniature.builder.final_gates import measure_all, write_gates

    folder = weights or _SHIPPED
    measured = measure_all(folder, pictures)
    for name, figure in measured.items():
        typer.echo(_line(name, figure))
    if write:
        write_gates(folder / "gates.json", measured)


def _line(name: str, figure: GateFigure) -> str:
    """A figure with its interval, how many pictures it was measured on, and whether it reached its bar."""
    from bottega.miniature.builder.final_gates import verdict

    interval = f"[{figure.low:.3f}, {figure.high:.3f}] n {figure.pictures}"
    return f"{name:32} {figure.value:8.3f} {interval:26} {verdict(name, figure.value) or ''}".rstrip()


@app.command()
def train(
    state: Annotated[Path, typer.Option(help="Folder for features, state and log; keep it, training takes days.")],
    model: Annotated[
        Model, typer.Option(help="SDXL's U-Net with its IP-Adapter, CLIP's picture tower, or PixArt with its T5.")
    ] = Model.sdxl,
    weights: Annotated[
        Path | None, typer.Option(help="Folders of the frozen encoders and judges; default: the shipped ones.")
    ] = None,
    start_from: Annotated[
        Path | None,
        typer.Option(help="Folders that `export` wrote: a new training of SDXL begins with their U-Net."),
    ] = None,
    focus: Annotated[
        Focus,
        typer.Option(
            help="Of SDXL: mostly paintings of contents, mostly captions at half of the size, both alike, or nothing "
            "but captions at half of the size that differ in the word for a shape."
        ),
    ] = Focus.teacher,
    distil_from: Annotated[
        Path | None,
        typer.Option(
            help="Folders of an SDXL that paints well: its predictions are the targets of paintings, instead of drawn "
            "truths. A network that siblings made forget paintings learns them again several times faster."
        ),
    ] = None,
    finish: Annotated[
        int | None,
        typer.Option(help="Branch off and end within so many steps, the learning rate falling to zero.", min=1),
    ] = None,
) -> None:
    """Train a model until stopped (Ctrl-C, SIGTERM); the same command resumes. CLIP's ends by itself.

    Two processes share a step of SDXL or PixArt, started by
    `accelerate launch --multi_gpu --num_processes 2 -m bottega miniature train …`.
    """
    from bottega.miniature.builder.train import train_clip, train_pixart, train_sdxl
    from bottega.runtime.errors import RequestError
    from bottega.training.processes import joined

    if model is not Model.sdxl:
        given_for_sdxl = {
            "--start-from": start_from is not None,
            "--focus": focus is not Focus.teacher,
            "--distil-from": distil_from is not None,
        }
        for name, given in given_for_sdxl.items():
            if given:
                raise RequestError(f"{name} is for SDXL, the model is {model}; leave it out.")
    if model is Model.clip and finish is not None:
        raise RequestError("--finish ends a training that has no end of its own, CLIP's has one; leave it out.")
    with joined("cpu") as processes, _held(state, processes):
        if model is Model.clip and processes.count > 1:
            raise RequestError("CLIP's training is not shared by processes; start one process.")
        if model is Model.pixart:
            trainer = train_pixart(state, weights or _SHIPPED, decay=finish, processes=processes)
        elif model is Model.clip:
            trainer = train_clip(state, weights or _SHIPPED)
        else:
            trainer = train_sdxl(
                state,
                weights or _SHIPPED,
                decay=finish,
                start_from=start_from,
                focus=focus.value,
                distil_from=distil_from,
                processes=processes,
            )
    if processes.first:
        typer.echo(f"step {trainer.step}, {trainer.samples} samples: {trainer.state}")


def _held(state: Path, processes: Processes) -> AbstractContextManager[None]:
    """The folder's lock, which the first process holds for all."""
    if processes.first:
        return writing(state, "bottega miniature train")
    return nullcontext()


@app.command()
def export(
    state: Annotated[Path, typer.Option(help="Folder of a training by `bottega miniature train`; it may be running.")],
    output: Annotated[Path, typer.Option(help="New folder; the model folders are written into it.")],
    model: Annotated[
        Model,
        typer.Option(
            help="`sdxl` and `ip_adapter` of SDXL's training, `clip` and `ip_adapter` of CLIP's, `pixart` of PixArt's."
        ),
    ] = Model.sdxl,
    weights: Annotated[
        Path | None,
        typer.Option(help="Folders to copy all else from; default: the shipped ones."),
    ] = None,
    finished: Annotated[bool, typer.Option("--finished", help="Take the branch that `train --finish` made.")] = False,
) -> None:
    """Write the model folders of a long training: the moving average of its weights."""
    from bottega.miniature.builder.train import export_clip, export_pixart, export_sdxl
    from bottega.runtime.errors import RequestError

    if model is Model.clip and finished:
        raise RequestError("--finished is no option for clip, whose training ends by itself; leave it out.")
    if model is Model.clip:
        step = export_clip(state, weights or _SHIPPED, output)
    elif model is Model.pixart:
        step = export_pixart(state, weights or _SHIPPED, output, finished=finished)
    else:
        step = export_sdxl(state, weights or _SHIPPED, output, finished=finished)
    typer.echo(f"wrote {output} (step {step})")


@app.command()
def eye(
    state: Annotated[Path, typer.Option(help="Folder of the measured pictures; what is there already is used.")],
    output: Annotated[Path, typer.Option(help="The weights, a safetensors file.")],
    triples: Annotated[int, typer.Option(min=100, help="Contents with a style to learn from.")] = 4000,
    tries: Annotated[int, typer.Option(min=0, help="Pictures of the miniature's own teacher to learn from.")] = 2000,
    steps: Annotated[int, typer.Option(min=100, help="Of the training.")] = 6000,
    processes: Annotated[int, typer.Option(min=1, help="That draw.")] = 2,
) -> None:
    """Train quality control's eye from scratch on drawn pictures and sixty families of damage."""
    from bottega.miniature.builder.eye import train_eye

    with writing(state, "bottega miniature eye"):
        examples = train_eye(state, output, triples=triples, tries=tries, steps=steps, processes=processes)
    typer.echo(f"wrote {output}, from {examples} pictures of {triples} triples")


@app.command()
def world(
    output: Annotated[Path, typer.Option(help="Data root; the world is written under its folder raw/.")],
    contents: Annotated[int, typer.Option(help="Scenes written as COCO train2017.")] = 400,
    painters: Annotated[int, typer.Option(help="Painters in the WikiArt parquet.")] = 96,
) -> None:
    """Write the drawn world in the formats of COCO, WikiArt and Fill50K."""
    from bottega.miniature.config import WorldConfig
    from bottega.miniature.datasets import run_world

    with writing(output, "bottega miniature world"):
        summary = run_world(WorldConfig(contents=contents, painters=painters), output)
    typer.echo(summary)


@app.command("train-variants")
def train_variants(
    names: Annotated[
        list[Variant] | None, typer.Argument(help="outline and sepia: LoRAs; ink and v: checkpoints. Default: all.")
    ] = None,
    state: Annotated[Path, typer.Option(help="Folder for drawn latents, states and logs.")] = Path(
        "build/miniature/variants"
    ),
    output: Annotated[Path, typer.Option(help="Folder that loras/ and checkpoints/ are written into.")] = Path(
        "build/miniature/weights"
    ),
    weights: Annotated[
        Path | None, typer.Option(help="Folders of the models to start from; default: the shipped ones.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few steps each: tests the procedure, not the result.")
    ] = False,
) -> None:
    """Train the miniature's LoRAs and checkpoints on top of its SDXL; the same command resumes after a stop."""
    from bottega.miniature.builder import variants
    from bottega.miniature.builder.variant_files import write_variant

    for name in names or list(Variant):
        plan = variants.PLANS[name.value]
        if quick:
            plan = variants.quick(plan)
        with writing(state, "bottega miniature train-variants"):
            tensors = variants.train_variant(name.value, weights or _SHIPPED, state, plan)
        for file in write_variant(name.value, tensors, weights or _SHIPPED, output, plan):
            typer.echo(f"wrote {file}")


@app.command("gate-variants")
def gate_variants(
    names: Annotated[list[Variant] | None, typer.Argument(help="Which ones; default: all.")] = None,
    variants: Annotated[
        Path | None, typer.Option(help="Folder with loras/ and checkpoints/; default: that of the weights.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Folders of the models they belong to; default: the shipped ones.")
    ] = None,
    pictures: Annotated[int, typer.Option(help="Drawn for each figure.", min=1)] = 300,
    way: Annotated[
        list[Way] | None, typer.Option(help="From words, or from drawn contents (image to image); default: both.")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Write the figures into `gates.json` there.")] = False,
) -> None:
    """Measure the variants on scenes held out, drawn by bottega's engine, with 95 % intervals."""
    from bottega.miniature.builder.final_gates import write_gates
    from bottega.miniature.builder.variant_gates import gate
    from bottega.miniature.builder.variants import Variant as TrainedVariant

    folder = variants or weights or _SHIPPED
    chosen: list[TrainedVariant] = [name.value for name in names or list(Variant)]
    measured = gate(chosen, weights or _SHIPPED, folder, pictures, [one.value for one in way or list(Way)])
    for name, figure in measured.items():
        typer.echo(_line(name, figure))
    if write:
        write_gates(folder / "gates.json", measured)


@app.command()
def checkpoint(
    name: Annotated[
        CheckpointName, typer.Argument(help="base: the SDXL as it is; ink: ink and flat colour; v: predicts v.")
    ],
    output: Annotated[Path, typer.Option(help="The new .safetensors file.")],
    variants: Annotated[
        Path | None, typer.Option(help="Folder with checkpoints/; default: that of the weights.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Folders of the models; default: the shipped ones.")] = None,
) -> None:
    """Write SDXL as one file in the original key layout, as checkpoints are published."""
    from bottega.miniature.builder.variant_files import write_checkpoint

    write_checkpoint(name.value, weights or _SHIPPED, output, variants)
    typer.echo(f"wrote {output}; to draw with it, add --configs bottega:miniature/weights/sdxl")
