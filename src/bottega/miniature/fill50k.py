"""Fill50K of the drawn world: the outline of a circle, the filled circle, and a prompt with two colour names."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bottega.data.circles import COLOUR_NAMES, circle_prompt, draw_circle, place_circle
from bottega.runtime.seeds import numpy_rng


def fill50k_example(index: int, size: int = 128) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], str]:
    """Example number `index`: (source outline, filled target, prompt); pictures are sRGB uint8 [size, size, 3]."""
    rng = numpy_rng("fill50k", index)
    inside, outside = (str(name) for name in rng.choice(list(COLOUR_NAMES), size=2, replace=False))
    x, y, radius = place_circle(rng)
    source, target = draw_circle(x, y, radius, inside, outside, size)
    return source, target, circle_prompt(inside, outside)
