"""`bottega stylize`: one content and one style picture -> one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bottega.cli.common import drawing_bar, remarks
from bottega.runtime.errors import RequestError


def command(
    adapter: Annotated[Path, typer.Option(help="adapter.safetensors, made by `bottega train style`")],
    output: Annotated[Path, typer.Option(help="picture to write: .png, .jpg, .jpeg or .webp")],
    pictures: Annotated[
        list[Path] | None, typer.Argument(metavar="[CONTENT] STYLE", help="the two pictures, in place of the options")
    ] = None,
    content: Annotated[Path | None, typer.Option(help="picture to draw; without one the prompt says what")] = None,
    style: Annotated[Path | None, typer.Option(help="picture whose style to draw it in")] = None,
    prompt: Annotated[str, typer.Option(help="what the content shows, or what to draw")] = "",
    style_caption: Annotated[
        str, typer.Option(help="what the style picture shows, for an adapter that takes it out of the style")
    ] = "",
    seed: Annotated[int, typer.Option(help="of the noise")] = 0,
    strength: Annotated[
        float | None, typer.Option(help="how much is redrawn, 0 to 1  [default: the adapter's]")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="sampling steps  [default: the adapter's]")] = None,
    style_scale: Annotated[float | None, typer.Option(help="factor on the style; 0: none  [default: 1]")] = None,
    text_guidance: Annotated[float | None, typer.Option(help="guidance on the prompt; 1: none")] = None,
    style_guidance: Annotated[float | None, typer.Option(help="guidance on the style; 1: none")] = None,
    pixart: Annotated[str | None, typer.Option(help="PixArt's folder or name  [default: as the adapter says]")] = None,
    clip: Annotated[str | None, typer.Option(help="CLIP's folder or name  [default: as the adapter says]")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16")] = "auto",
    model_cache: Annotated[
        str | None, typer.Option(help="the Hugging Face cache  [default: HF_HUB_CACHE, HF_HOME]")
    ] = None,
) -> None:
    """Draw a content, or what a prompt says, in the style of a picture with a trained adapter."""
    from bottega.generation.request import stylize_file
    from bottega.models.config import ModelsConfig
    from bottega.runtime.config import parse

    named = {"pixart": pixart, "clip": clip, "device": device, "dtype": dtype, "cache": model_cache}
    models = parse(ModelsConfig, named, "stylize")
    with drawing_bar(1) as on_progress:
        done = stylize_file(
            adapter,
            *content_and_style(pictures or [], content, style),
            output,
            prompt=prompt,
            style_caption=style_caption,
            seed=seed,
            strength=strength,
            steps=steps,
            style_scale=style_scale,
            text_guidance=text_guidance,
            style_guidance=style_guidance,
            models=models,
            on_progress=on_progress,
        )
    typer.echo(
        f"{done['output']}: seed {done['seed']}, strength {done['strength']:g}, {done['steps']} steps, "
        f"{done['seconds']:.1f} s"
    )
    for remark in remarks(done["result"]):
        typer.echo(f"  {remark}")


def content_and_style(pictures: list[Path], content: Path | None, style: Path | None) -> tuple[Path | None, Path]:
    """Which picture is which: CONTENT STYLE, or STYLE alone, or the options. RequestError for anything else."""
    named = [path for path in (content, style) if path is not None]
    if len(pictures) in (1, 2) and not named:
        return (pictures[0] if len(pictures) == 2 else None), pictures[-1]
    if pictures or style is None:
        raise RequestError(
            f"stylize wants CONTENT STYLE, or STYLE alone with a --prompt, received "
            f"{' '.join(map(str, (*pictures, *named))) or 'no picture'}; name each once, or use --content and --style"
        )
    return content, style
