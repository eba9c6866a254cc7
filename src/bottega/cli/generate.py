"""`bottega generate`: prompts -> PNG files, with SDXL, PixArt, or a model that was trained from scratch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bottega.runtime.errors import RequestError
from bottega.runtime.escape import one_line

if TYPE_CHECKING:
    from bottega.diffusion.sampling import StepStatistics
    from bottega.generation.files import EngineOptions, Generated
    from bottega.generation.metadata import RequestAgain
    from bottega.generation.records import GeneratedPicture, GenerationRequest, LoRASpec

_SCRATCH = "Model trained from scratch"
_ENGINE = "SDXL and PixArt"


def command(
    model: Annotated[
        str | None,
        typer.Option(help="a diffusers folder, org/name of the model cache, bottega:…, or a .safetensors checkpoint"),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="of `bottega train ldm`: runs/NAME/checkpoints/epoch-118, or runs/NAME for the newest",
            rich_help_panel=_SCRATCH,
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="what to draw; several times with a model trained from scratch")
    ] = None,
    output_dir: Annotated[Path, typer.Option(help="folder of the PNG files")] = Path("outputs"),
    num_images: Annotated[int | None, typer.Option(min=1, help="pictures, with seeds that follow each other")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="of the first picture's noise  [default: drawn, and shown]")
    ] = None,
    num_inference_steps: Annotated[
        int | None, typer.Option(min=1, help="sampling steps  [default: the model's]")
    ] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="guidance on the prompt (CFG); 1: none")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = "auto",
    negative_prompt: Annotated[
        str | None, typer.Option(help="what to keep out of the picture", rich_help_panel=_ENGINE)
    ] = None,
    width: Annotated[int | None, typer.Option(help="pixels", rich_help_panel=_ENGINE)] = None,
    height: Annotated[int | None, typer.Option(help="pixels", rich_help_panel=_ENGINE)] = None,
    sampler: Annotated[
        str | None, typer.Option(help="euler_a, dpmpp_2m_karras, ddim, unipc, lcm …", rich_help_panel=_ENGINE)
    ] = None,
    image: Annotated[Path | None, typer.Option(help="picture to start from (img2img)", rich_help_panel=_ENGINE)] = None,
    strength: Annotated[
        float | None, typer.Option(help="img2img: how much is redrawn, 0 to 1", rich_help_panel=_ENGINE)
    ] = None,
    lora: Annotated[
        list[str] | None, typer.Option(help="FILE or FILE:WEIGHT; several times", rich_help_panel=_ENGINE)
    ] = None,
    clip_skip: Annotated[
        int | None, typer.Option(help="as AUTOMATIC1111 counts; 2 is SDXL's own", rich_help_panel=_ENGINE)
    ] = None,
    guidance_rescale: Annotated[
        float | None, typer.Option(help="share of rescaled guidance, 0 to 1", rich_help_panel=_ENGINE)
    ] = None,
    prediction_type: Annotated[
        str | None,
        typer.Option(help="epsilon, v_prediction or flow  [default: as measured]", rich_help_panel=_ENGINE),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(help="guardrails of a model family, such as anime  [default: found]", rich_help_panel=_ENGINE),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="of the profile, such as quality", rich_help_panel=_ENGINE)] = None,
    guardrails: Annotated[
        str | None, typer.Option(help="correct, strict or off  [default: correct]", rich_help_panel=_ENGINE)
    ] = None,
    quality_tags: Annotated[
        bool, typer.Option(help="add the tags that the model's family wants", rich_help_panel=_ENGINE)
    ] = True,
    from_picture: Annotated[
        Path | None,
        typer.Option("--from", help="make the picture in this file again, by its metadata", rich_help_panel=_ENGINE),
    ] = None,
    lora_folder: Annotated[
        list[Path] | None,
        typer.Option(help="where --from looks for LoRAs, by content; several times", rich_help_panel=_ENGINE),
    ] = None,
    vae: Annotated[str | None, typer.Option(help="another autoencoder's folder", rich_help_panel=_ENGINE)] = None,
    configs: Annotated[
        str | None,
        typer.Option(help="folder with the configuration of a single-file checkpoint", rich_help_panel=_ENGINE),
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16", rich_help_panel=_ENGINE)] = "auto",
    offload: Annotated[
        bool, typer.Option("--offload", help="keep on the GPU only what computes", rich_help_panel=_ENGINE)
    ] = False,
    model_cache: Annotated[
        str | None, typer.Option(help="the Hugging Face cache  [default: HF_HUB_CACHE's]", rich_help_panel=_ENGINE)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="the result as JSON", rich_help_panel=_ENGINE)] = False,
    subject: Annotated[str, typer.Option(help="prompt helper: what is to be seen", rich_help_panel=_SCRATCH)] = "",
    details: Annotated[str, typer.Option(help="prompt helper: what it looks like", rich_help_panel=_SCRATCH)] = "",
    setting: Annotated[
        str, typer.Option(help="prompt helper: where it is, such as 'teal background'", rich_help_panel=_SCRATCH)
    ] = "",
    style: Annotated[str, typer.Option(help="prompt helper: style and quality", rich_help_panel=_SCRATCH)] = "",
    scheduler: Annotated[
        str | None,
        typer.Option(help="ddpm, ddim or dpmsolver++  [default: the model's]", rich_help_panel=_SCRATCH),
    ] = None,
    eta: Annotated[
        float | None, typer.Option(help="ddim: share of the posterior's noise", rich_help_panel=_SCRATCH)
    ] = None,
    spacing: Annotated[
        str | None,
        typer.Option(help="of the timesteps: trailing, leading or linspace", rich_help_panel=_SCRATCH),
    ] = None,
    thresholding: Annotated[
        str | None, typer.Option(help="of the clean estimate: off, static or dynamic", rich_help_panel=_SCRATCH)
    ] = None,
    statistics: Annotated[
        bool, typer.Option("--statistics", help="show the latents' range at every step", rich_help_panel=_SCRATCH)
    ] = False,
) -> None:
    """Draw prompts: with SDXL or PixArt (--model), or with a model that `bottega train ldm` made (--checkpoint)."""
    engine_only: dict[str, Any] = {
        "negative_prompt": negative_prompt,
        "width": width,
        "height": height,
        "sampler": sampler,
        "image": image,
        "strength": strength,
        "clip_skip": clip_skip,
        "guidance_rescale": guidance_rescale,
        "prediction_type": prediction_type,
        "preset": preset,
        "guardrails": guardrails,
    }
    scratch_only: dict[str, Any] = {
        "scheduler": scheduler,
        "eta": eta,
        "spacing": spacing,
        "thresholding": thresholding,
    }
    prompts = _prompts(prompt, subject, details, setting, style)

    # A model trained from scratch.
    if checkpoint is not None:
        _refuse("--checkpoint", {"model": model, "lora": lora, "from": from_picture, **engine_only})
        _draw_from_scratch(
            checkpoint,
            prompts,
            output_dir,
            seed=seed or 0,
            num_images=num_images or 1,
            device=device,
            statistics=statistics,
            steps=num_inference_steps,
            guidance_scale=guidance_scale,
            **scratch_only,
        )
        return

    # SDXL and PixArt: what a picture's file says, then what the options say.
    _refuse("--model", {"statistics": statistics or None, **scratch_only})
    again = _again(from_picture, lora_folder or [])
    name = _model_name(model, again)
    given = {
        "prompt": _only_prompt(prompts),
        "seed": seed,
        "count": num_images,
        "steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "quality_tags": None if quality_tags else False,
        "loras": _loras(lora),
        **engine_only,
    }
    from bottega.generation.files import EngineOptions

    options = EngineOptions(
        model=name,
        profile=profile,
        vae=vae,
        configs=configs,
        cache=model_cache,
        device=device,
        dtype=dtype,
        offload=offload,
    )
    _draw_with_engine(options, _request(given, again), output_dir, again, as_json=as_json)


# --- SDXL and PixArt --------------------------------------------------------------------------------------------------


def read_lora_option(text: str) -> LoRASpec:
    """FILE or FILE:WEIGHT; a FILE that begins with `bottega:` lies in the package.

    Raises:
        RequestError: the weight is no number, or out of range.
        MissingError: the package has no such file.
    """
    from bottega.generation.records import LoRASpec
    from bottega.models.names import PACKAGE, resolve
    from bottega.runtime.config import parse

    file, colon, weight = text.rpartition(":")
    values: dict[str, object] = {"path": text}
    if colon and _is_number(weight):
        values = {"path": file, "weight": float(weight)}
    if text.startswith(PACKAGE):
        values["path"] = str(resolve(str(values["path"])))
    return parse(LoRASpec, values, f"--lora {text}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _loras(options: list[str] | None) -> list[LoRASpec] | None:
    if not options:
        return None
    return [read_lora_option(text) for text in options]


def _only_prompt(prompts: list[str]) -> str | None:
    if len(prompts) > 1:
        raise RequestError(f"--model draws one prompt, received {len(prompts)}; use --num-images for several pictures")
    return prompts[0] if prompts else None


def _model_name(named: str | None, again: RequestAgain | None) -> str:
    """The model that an option names, else the one of the picture that is made again."""
    if named:
        return named
    if again is not None and again.model:
        return again.model
    raise RequestError("something must say which model draws, received neither --model nor --checkpoint; give one")


def _again(picture: Path | None, folders: list[Path]) -> RequestAgain | None:
    if picture is None:
        return None
    from bottega.generation.metadata import request_from

    again = request_from(picture, folders)
    for left_out in again.left_out:
        typer.echo(one_line(f"not taken over from {picture.name}: {left_out}"), err=True)
    return again


def _request(given: dict[str, Any], again: RequestAgain | None) -> GenerationRequest:
    from bottega.generation.records import GenerationRequest
    from bottega.runtime.config import parse

    values: dict[str, object] = {}
    if again is not None:
        values = again.request.model_dump(exclude_unset=True)
    for name, value in given.items():
        if value is not None:
            values[name] = value
    return parse(GenerationRequest, values, "generate")


def _draw_with_engine(
    options: EngineOptions, request: GenerationRequest, folder: Path, again: RequestAgain | None, *, as_json: bool
) -> None:
    from dataclasses import asdict

    from bottega.cli.common import drawing_bar, print_json
    from bottega.generation.files import generate_files

    def on_file(path: Path, picture: GeneratedPicture) -> None:
        if not as_json:
            typer.echo(f"{path}: seed {picture.seed}")

    with drawing_bar(request.count) as on_progress:
        done = generate_files(options, request, folder, on_progress=on_progress, on_file=on_file)
    if as_json:
        print_json({**asdict(done.result), "files": [str(file) for file in done.files]})
        return
    _tell(done, again)


def _tell(done: Generated, again: RequestAgain | None) -> None:
    """What was used, every change and its reason, and what was found."""
    from bottega.cli.common import remarks

    result = done.result
    used = result.settings
    typer.echo(
        f"{used.width} x {used.height}, {used.sampler} in {used.steps} steps, guidance {used.guidance_scale:g}, "
        f"{used.prediction_type}; profile {used.profile} ({done.why_profile}); {sum(result.seconds.values()):.1f} s"
    )
    for line in remarks(result):
        typer.echo(f"  {line}")
    if again is not None and again.pixels_sha256:
        is_same = result.pictures[0].sha256 == again.pixels_sha256
        typer.echo("the same picture, bit for bit" if is_same else "another picture than the one in the file")


# --- trained from scratch ---------------------------------------------------------------------------------------------


def _prompts(whole: list[str] | None, subject: str, details: str, setting: str, style: str) -> list[str]:
    """The prompts as they were given, or the one that is made of parts."""
    if not any((subject, details, setting, style)):
        return list(whole or [])
    from bottega.ldm.prompts import compose

    if whole:
        raise RequestError("a prompt is either whole or made of parts, received --prompt and parts; give one of them")
    prompt = compose(subject, details, setting, style)
    typer.echo(f"prompt: {prompt}")
    return [prompt]


def _refuse(mode: str, options: dict[str, Any]) -> None:
    """Refuse options of the other kind of model: they would change nothing."""
    given = []
    for name, value in options.items():
        if value is not None and value != []:
            given.append(f"--{name.replace('_', '-')}")
    if given:
        raise RequestError(f"{mode} does not take {', '.join(given)}; leave them out, or name the other kind of model")


def _draw_from_scratch(checkpoint: Path, prompts: list[str], folder: Path, *, statistics: bool, **options: Any) -> None:
    from bottega.generation.scratch import generate

    watch = _print_statistics if statistics else None
    for row in generate(checkpoint, prompts or [""], folder, watch=watch, **options):
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
