"""The sentences of the drawn world: what its captions say, and how they name a style."""

from __future__ import annotations

from collections.abc import Iterator

from bottega.data.circles import COLOUR_NAMES, circle_prompt
from bottega.miniature.painters import painter
from bottega.miniature.scenes import scene

STYLE_PHRASE = "in the style of"


def sentences() -> Iterator[str]:
    """Every word the world uses, in the sentences it uses them in."""
    for index in range(2000):
        yield scene(index).caption(index)
        yield f"{STYLE_PHRASE} {painter(index).words}"
    for name in COLOUR_NAMES:
        yield circle_prompt(name, "white")
    yield "a painting, a picture, a photograph, a drawing of"
