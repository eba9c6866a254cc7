"""A request to PNG files: loads the model, draws, writes each picture with its metadata as soon as it is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bottega.generation.file_names import free_path
from bottega.generation.records import GeneratedPicture, GenerationRequest, Result
from bottega.runtime.config import Config
from bottega.runtime.errors import RequestError

if TYPE_CHECKING:
    from bottega.generation.engine import DrawProgress, PixArtEngine, Pixels, SDXLEngine
    from bottega.generation.scratch import ScratchEngine


class EngineOptions(Config):
    """Which model draws, and how it is held in memory."""

    model: str
    profile: str | None = None
    vae: str | None = None
    configs: str | None = None
    cache: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    batch: int | None = None
    offload: bool = False


@dataclass
class Generated:
    """What was drawn: the result without its pictures' pixels, and the files in order."""

    result: Result
    files: list[Path] = field(default_factory=list)
    why_profile: str = ""


def load_engine(options: EngineOptions) -> SDXLEngine | PixArtEngine | ScratchEngine:
    """Load a model and open the engine of its family.

    Raises:
        BottegaError: the model is absent, damaged, or none that can generate.
    """
    from bottega.generation.engine import open_engine
    from bottega.generation.modules import load_modules
    from bottega.models.names import resolve

    path = resolve(options.model, cache=options.cache)
    if _is_from_scratch(path):
        return _open_scratch(options, path)
    modules = load_modules(
        options.model,
        device=options.device,
        dtype=options.dtype,
        vae=options.vae,
        configs=options.configs,
        cache=options.cache,
    )
    return open_engine(modules, profile=options.profile, batch=options.batch, offload=options.offload)


def _is_from_scratch(path: Path) -> bool:
    """Whether it is a run, or a checkpoint, of `bottega train ldm`."""
    from bottega.models.identify import identify

    return path.is_dir() and not (path / "model_index.json").exists() and identify(path).family == "ldm"


def _open_scratch(options: EngineOptions, path: Path) -> ScratchEngine:
    from bottega.generation.scratch import ScratchEngine
    from bottega.ldm.checkpoint import open_trained

    standard = EngineOptions(model=options.model)
    for name in ("vae", "configs", "dtype", "offload"):
        if getattr(options, name) != getattr(standard, name):
            raise RequestError(
                f"a model of `bottega train ldm` has its own autoencoder, configuration and precision, received "
                f"--{name}; leave it out"
            )
    return ScratchEngine(
        open_trained(path, options.device), name=options.model, profile=options.profile, batch=options.batch
    )


def generate_files(
    options: EngineOptions,
    request: GenerationRequest,
    folder: Path,
    *,
    on_progress: Callable[[DrawProgress], None] | None = None,
    on_file: Callable[[Path, GeneratedPicture], None] | None = None,
) -> Generated:
    """Draw a request and write its pictures.

    Args:
        options: the model.
        request: what to draw.
        folder: of the PNG files, each with a JSON file of the same name beside it; made where it is absent.
        on_progress: called after each step.
        on_file: called after each file.

    Raises:
        BottegaError: as `Engine.generate`, or the model cannot be loaded. Files that were written stay.
    """
    from bottega.generation.engine import Observer
    from bottega.generation.metadata import write_picture

    _require_given(options, request, folder)
    engine = load_engine(options)
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []

    def write(result: Result, picture: GeneratedPicture, pixels: Pixels) -> None:
        path = free_path(folder, result.settings.prompt, picture)
        write_picture(path, pixels, result, picture)
        files.append(path)
        if on_file is not None:
            on_file(path, picture)

    answer = engine.generate(request, Observer(on_progress=on_progress, on_picture=write))
    return Generated(answer.result, files, engine.why_profile)


def _require_given(options: EngineOptions, request: GenerationRequest, folder: Path) -> None:
    """Refuse what is wrong with the request by itself, before a model is loaded."""
    from bottega.data.given import require_picture, require_room_for_folder
    from bottega.generation.lora.inspection import inspect_lora
    from bottega.generation.profiles import load_profile
    from bottega.models.loading import choose_device, choose_dtype

    require_room_for_folder("--output-dir", folder)
    require_picture("--image", request.image)
    for lora in request.loras:
        inspect_lora(lora.path)
    if options.profile is not None:
        load_profile(options.profile)
    choose_dtype(options.dtype, choose_device(options.device))
