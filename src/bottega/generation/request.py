"""One content and one style file -> one picture that says how it was made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from bottega.runtime.errors import RequestError, StorageError

if TYPE_CHECKING:
    from bottega.generation.drawing import DrawProgress
    from bottega.generation.records import Result
    from bottega.models.config import ModelsConfig


class Stylized(TypedDict):
    """What `stylize_file` drew; sha256 is the file's, strength and steps are those that were used."""

    output: str
    sha256: str
    seed: int
    strength: float
    steps: int
    seconds: float
    result: Result


def stylize_file(  # noqa: PLR0913 (one keyword for each option of `bottega stylize`)
    adapter: Path,
    content: Path | None,
    style: Path,
    output: Path,
    *,
    prompt: str = "",
    style_caption: str = "",
    seed: int = 0,
    strength: float | None = None,
    steps: int | None = None,
    style_scale: float | None = None,
    text_guidance: float | None = None,
    style_guidance: float | None = None,
    models: ModelsConfig | None = None,
    on_progress: Callable[[DrawProgress], None] | None = None,
) -> Stylized:
    """Draw `content` in the style of `style` with an adapter file and write a picture, whole or not at all.

    The picture holds the `parameters` text that other tools read, and as a PNG a record; the same record is in a JSON
    file beside it, unless that name is taken by a file of another kind. `StyleEngine.generate` says how it is drawn.
    All that was named is looked at before a model is loaded.

    Args:
        adapter: the adapter's file.
        content: a picture file, or None.
        style: a picture file.
        output: the picture, in the format that it ends in: .png, .jpg, .jpeg or .webp.
        prompt: what the picture shows.
        style_caption: what the style picture shows, for an adapter that takes it out of the style; empty: not known.
        seed: of the noise.
        strength: img2img strength; None, here and below: as the adapter was trained.
        steps: of the sampler.
        style_scale: factor on the style.
        text_guidance: classifier-free guidance on the prompt.
        style_guidance: classifier-free guidance on the style.
        models: where PixArt and CLIP are, if not where the header says; a model with other weights than the adapter
            was trained with is refused.
        on_progress: called after each step.

    Raises:
        RequestError: neither content nor prompt, a picture cannot be read or written under its name, or settings that
            the adapter was not trained for.
        MissingError: a file or a model is absent.
        MemoryPressureError: it does not fit into memory.
        NonFiniteError: before a broken picture would be written.
    """
    import time

    _require_given(adapter, content, style, output, prompt)
    from bottega.generation.drawing import Observer
    from bottega.generation.metadata import write_picture
    from bottega.generation.records import StylizeRequest
    from bottega.generation.style import StyleEngine
    from bottega.runtime.config import parse

    began = time.monotonic()
    request = parse(
        StylizeRequest,
        {
            "content": content,
            "style": style,
            "prompt": prompt,
            "style_caption": style_caption,
            "seed": seed,
            "strength": strength,
            "steps": steps,
            "style_scale": style_scale,
            "text_guidance": text_guidance,
            "style_guidance": style_guidance,
        },
        "stylize",
    )
    drawn = StyleEngine(adapter, models).generate(request, Observer(on_progress=on_progress))
    result = drawn.result
    sha256 = write_picture(output, drawn.pixels[0], result, result.pictures[0], beside=_may_write(output))
    used = result.settings
    return {
        "output": str(output),
        "sha256": sha256,
        "seed": used.seed,
        "strength": 1.0 if used.strength is None else used.strength,
        "steps": used.steps,
        "seconds": time.monotonic() - began,
        "result": result,
    }


def _require_given(adapter: Path, content: Path | None, style: Path, output: Path, prompt: str) -> None:
    """Refuse what is wrong with the files and the request by itself: the models take a quarter of a minute to load."""
    from bottega.data.given import require_file, require_picture, require_room_for_folder
    from bottega.runtime.files import require_picture_ending

    require_picture_ending(output)
    require_room_for_folder("--output", output.parent)
    require_file("--adapter", adapter)
    require_picture("--content", content)
    require_picture("--style", style)
    if content is None and not prompt.strip():
        raise RequestError("something must say what to draw, received neither a content nor a prompt; give one of them")


def _may_write(output: Path) -> bool:
    """Whether the JSON file beside a picture is absent, or a record of ours that the new picture replaces."""
    from bottega.runtime.files import read_json

    path = output.with_suffix(".json")
    if path == output:
        return False
    if not path.exists():
        return True
    try:
        found: Any = read_json(path)
    except StorageError:  # no JSON at all
        return False
    return isinstance(found, dict) and {"format", "version", "settings", "sha256"} <= found.keys()
