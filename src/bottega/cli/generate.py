"""`bottega generate`: prompts -> PNG files, with a model that was trained from scratch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bottega.runtime.errors import RequestError

if TYPE_CHECKING:
    from bottega.diffusion.sampling import StepStatistics


def command(
    checkpoint: Annotated[Path, typer.Option(help="runs/NAME/checkpoints/epoch-118, or runs/NAME for the newest")],
    prompt: Annotated[list[str] | None, typer.Option(help="what to draw; may be given several times")] = None,
    subject: Annotated[str, typer.Option(help="prompt helper: what is to be seen, such as 'orange circle'")] = "",
    details: Annotated[str, typer.Option(help="prompt helper: what it looks like")] = "",
    setting: Annotated[str, typer.Option(help="prompt helper: where it is, such as 'teal background'")] = "",
    style: Annotated[str, typer.Option(help="prompt helper: style and quality")] = "",
    output_dir: Annotated[Path, typer.Option(help="folder of the PNG files")] = Path("outputs"),
    num_images: Annotated[int, typer.Option(min=1, help="pictures a prompt, with seeds that follow each other")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="of the first picture's noise")] = 0,
    num_inference_steps: Annotated[
        int | None, typer.Option(min=1, help="sampling steps  [default: the model's]")
    ] = None,
    scheduler: Annotated[str | None, typer.Option(help="ddpm, ddim or dpmsolver++  [default: the model's]")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="guidance on the prompt; 1: none")] = None,
    eta: Annotated[float | None, typer.Option(help="ddim: share of the posterior's noise")] = None,
    spacing: Annotated[str | None, typer.Option(help="of the timesteps: trailing, leading or linspace")] = None,
    thresholding: Annotated[str | None, typer.Option(help="of the clean estimate: off, static or dynamic")] = None,
    statistics: Annotated[bool, typer.Option("--statistics", help="show the latents' range at every step")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = "auto",
) -> None:
    """Draw prompts with a model that `bottega train ldm` made."""
    from bottega.ldm.generate import generate
    from bottega.ldm.prompts import compose

    prompts = list(prompt or [])
    if any((subject, details, setting, style)):
        if prompts:
            raise RequestError(
                "a prompt is either whole or made of parts, received --prompt and parts; give one of them"
            )
        prompts = [compose(subject, details, setting, style)]
        typer.echo(f"prompt: {prompts[0]}")
    rows = generate(
        checkpoint,
        prompts or [""],
        output_dir,
        seed=seed,
        num_images=num_images,
        device=device,
        watch=_print_statistics if statistics else None,
        steps=num_inference_steps,
        scheduler=scheduler,
        guidance_scale=guidance_scale,
        eta=eta,
        spacing=spacing,
        thresholding=thresholding,
    )
    for row in rows:
        typer.echo(
            f"{row['file']}: seed {row['seed']}, {row['scheduler']} in {row['steps']} steps, guidance "
            f"{row['guidance_scale']:g}, {row['seconds']:.1f} s"
        )


def _print_statistics(seen: StepStatistics) -> None:
    x, clean = seen.x, seen.clean
    typer.echo(
        f"step {seen.step:4d}  t {seen.timestep:4d}  x {x.min:+9.3f} … {x.max:+9.3f} std {x.std:8.3f}  "
        f"x̂_0 {clean.min:+9.3f} … {clean.max:+9.3f} std {clean.std:8.3f}  clamped {seen.clamped:4.0%}"
    )
