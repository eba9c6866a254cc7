"""Bad pictures are caught by what they show, and explained by where their numbers went wrong.

`check_picture` judges pixels alone. `NumericTrail` holds what the engine saw on the way to them, and `explain_black`
turns it into one finding with cause and cure. Without a picture to compare with, only what no good picture shows is
called a fault; what paper, night, ink and flat colour show as well is left to comparison (`bottega.quality`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bottega.runtime.findings import Finding

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from bottega.quality.alone import Alone

# Limits measured on 45 painted, plain and hand-drawn scenes, nights, line art, flat drawings and 21 photographs of
# scikit-image, against the same with faults put in (docs/bad-pictures.md has the table): each lies between the highest
# value of the good ones and the median of the faulty.
_TONES_EMPTY = 0.15  # stars in a thousandth of a night sky, or strokes on paper, span more
_TONES_DULL = 0.19  # good: 0.33 and more; under a grey veil: 0.15 and less
_VIVID_DULL = 0.15  # one flat strong colour in few tones is no veil
_VIVID_MAX = 0.55  # good, with texture: 0.45 at most; over-saturated: 0.65
_TEXTURED = 0.3  # flat drawings have less, whose colours are pure because somebody chose them
_BURNT_MAX = 0.08  # good: 0.05 at most, a test chart aside; burnt: 0.12
_NOISE_MAX = 8.0  # levels; good: 3.1 at most; noise: 10.5 and more
_COARSE_NOISE = 0.05  # photographs of grass and gravel keep 0.11; noise 0.02
_COARSE_COLOURED = 0.2  # with colours in all directions, which grass and gravel have not
_HUES = 10.0  # levels
_CHANNEL_OFF, _CHANNEL_ON = 0.1, 0.3


def check_picture(pixels: npt.NDArray[Any]) -> tuple[Finding, ...]:
    """What is wrong with a picture, by its pixels alone; the gravest first, empty where nothing is.

    Args:
        pixels: uint8, or float in 0…1, [H, W, 3].
    """
    from bottega.quality.alone import measure_alone
    from bottega.visual.pictures import finite_share, to_uint8

    share = finite_share(pixels)
    if share < 1:
        return (_not_finite(pixels, share),)
    if min(pixels.shape[:2]) < 16:
        size = f"{pixels.shape[1]}x{pixels.shape[0]}"
        return (Finding("not enough to tell", f"{size} pixels; a picture is judged from 16 a side on"),)
    picture = to_uint8(pixels)
    seen = measure_alone(picture)
    dark = _black(picture, seen)
    if dark is not None:
        return (dark,)  # of a black picture nothing else can be said
    found = (_one_colour(seen), _noise(seen), _one_channel(seen), _burnt(seen), _over_saturated(seen), _dull(seen))
    return tuple(finding for finding in found if finding is not None)


def _not_finite(pixels: npt.NDArray[Any], share: float) -> Finding:
    import numpy as np

    bad = np.argwhere(~np.isfinite(pixels).all(axis=-1))
    row, column = bad[0]
    kind = "NaN" if np.isnan(pixels).any() else "infinite"
    where = "the whole picture" if len(bad) == pixels[..., 0].size else f"first at row {row}, column {column}"
    return Finding(
        "not finite",
        f"{1 - share:.2%} of the values are {kind}, {where}",
        "decode again in fp32; if the latents were not finite, run the network in bf16 or fp32 and test each LoRA",
    )


def _black(picture: npt.NDArray[np.uint8], seen: Alone) -> Finding | None:
    limits = _limits()
    has_lights = seen.tones > _TONES_EMPTY or seen.spread >= limits.spread_min
    if seen.bright > limits.black_level or has_lights:
        return None
    if not picture.any():
        return Finding(
            "black",
            "every value is 0, as a cast makes of NaN",
            "decode in fp32 (an SDXL autoencoder overflows in fp16), or use an autoencoder mended for fp16",
        )
    return Finding(
        "black",
        f"the brightest 1 % reaches {seen.bright:.3f} of white (a picture has more than {limits.black_level:g})",
        "a prompt for darkness, a strength of LoRA far too high, or a wrong prediction type: try without LoRA first",
    )


def _one_colour(seen: Alone) -> Finding | None:
    limit = _limits().spread_min
    if seen.spread >= limit or seen.tones > _TONES_EMPTY:
        return None
    return Finding(
        "one colour",
        f"the values deviate by {seen.spread:.4f} of white (a picture has at least {limit:g})",
        "check latents and prediction type; grey comes of latents near 0, as after no step at all",
    )


def _noise(seen: Alone) -> Finding | None:
    advice = "check the prediction type (a v-prediction model sampled as epsilon gives noise), then steps and scheduler"
    if seen.colour_noise > _NOISE_MAX:
        return Finding(
            "noise", f"fine colour noise of {seen.colour_noise:.1f} levels (at most {_NOISE_MAX:g} is usual)", advice
        )
    is_structureless = seen.coarse < _COARSE_NOISE or (seen.coarse < _COARSE_COLOURED and seen.hues > _HUES)
    # A line drawing has as little in the large, but most of its pixels are paper.
    if is_structureless and seen.textured > 0.9:
        return Finding("noise", f"only {seen.coarse:.1%} of what varies is larger than a 32nd of the side", advice)
    return None


def _one_channel(seen: Alone) -> Finding | None:
    for name, own in zip(("red", "green", "blue"), seen.channels, strict=True):
        others = sorted(seen.channels)[:2]
        if own >= _CHANNEL_ON and max(others) <= _CHANNEL_OFF:
            levels = ", ".join(f"{value:.2f}" for value in seen.channels)
            return Finding(
                "one channel",
                f"nearly all light is {name}: the 98th percentiles of red, green and blue are {levels}",
                "check the autoencoder (of another family, or its scale and shift), and the order of the channels",
            )
    return None


def _burnt(seen: Alone) -> Finding | None:
    if seen.burnt <= _BURNT_MAX:
        return None
    return Finding(
        "burnt",
        f"in {seen.burnt:.0%} of the picture a channel is at its limit while the others go on varying "
        f"(at most {_BURNT_MAX:.0%} is usual)",
        "lower the guidance (CFG) or raise its rescale to 0.7; lower the LoRA's weight",
    )


def _over_saturated(seen: Alone) -> Finding | None:
    if seen.vivid <= _VIVID_MAX or seen.textured < _TEXTURED:
        return None
    return Finding(
        "over-saturated",
        f"largest and smallest channel differ by {seen.vivid:.2f} on average (at most {_VIVID_MAX:g} is usual)",
        "lower the guidance (CFG) or raise its rescale; lower the LoRA's weight",
    )


def _dull(seen: Alone) -> Finding | None:
    if seen.tones >= _TONES_DULL or seen.vivid >= _VIVID_DULL or seen.spread < _limits().spread_min:
        return None
    return Finding(
        "dull",
        f"its tones span {seen.tones:.2f} of black to white (at least {_TONES_DULL:g} is usual)",
        "raise the guidance (CFG) or the steps; check that the autoencoder belongs to the model",
    )


def _limits() -> Any:
    """Quality's own limits of what is black and what is one colour."""
    from bottega.quality.config import Thresholds

    return Thresholds()


# --- where the numbers went wrong ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NumericTrail:
    """What was seen of the numbers on the way to one picture; None: not looked at.

    The fields stand in the order in which the numbers arise: the first that is not finite is the cause of the rest.
    """

    loras_finite: bool | None = None
    """Of all values of the LoRA files."""
    text_finite: bool | None = None
    """Of the text embeddings."""
    start_finite: bool | None = None
    """Of the latents before the first step: noise, or an encoded picture with noise."""
    steps: int = 0
    """Steps whose latents were looked at."""
    first_bad_step: int | None = None
    """The first step, from 1, after which the latents were not finite."""
    timestep: float | None = None
    """Of that step."""
    decoded_finite: bool | None = None
    """Of the first decoding."""
    decoded_in: str = ""
    """Its dtype, such as float16."""
    fp32_finite: bool | None = None
    """Of a second decoding, in float32; None: there was none."""
    network_in: str = ""
    """dtype of the U-Net or transformer."""

    @property
    def latents_finite(self) -> bool | None:
        """Of the latents after the last step."""
        if self.first_bad_step is not None:
            return False
        if self.steps:
            return True
        return None

    @property
    def cured(self) -> bool:
        """Whether a second decoding in fp32 gave a finite picture."""
        return self.decoded_finite is False and self.fp32_finite is True


def explain_black(trail: NumericTrail) -> Finding:
    """Why a picture is black or not finite: where its numbers first went wrong, with the cure.

    Args:
        trail: what was seen; of what was not looked at, nothing is claimed.
    """
    for look in _STAGES:
        cause = look(trail)
        if cause is not None:
            return cause
    seen = []
    if trail.text_finite:
        seen.append("text embeddings")
    if trail.latents_finite:
        seen.append("latents")
    if trail.decoded_finite:
        seen.append("the decoded picture")
    if not seen:
        return Finding("unknown", "nothing was looked at on the way to the picture", "make it again with the checks on")
    return Finding(
        "black",
        f"all that was looked at is finite ({', '.join(seen)}): the model itself drew it dark",
        "look at prompt and LoRA; a safety filter also paints pictures black",
    )


def _if_not_finite(finite: bool | None, cause: str, cure: str) -> Finding | None:
    """A finding where something was looked at and held NaN or infinity."""
    if finite is not False:
        return None
    return Finding("not finite", cause, cure)


def _by_loras(trail: NumericTrail) -> Finding | None:
    return _if_not_finite(
        trail.loras_finite,
        "a LoRA's file holds NaN or infinity",
        "leave that LoRA out, or save it again with its trainer",
    )


def _by_text(trail: NumericTrail) -> Finding | None:
    return _if_not_finite(
        trail.text_finite,
        "the text embeddings hold NaN or infinity, before any step",
        "run the text encoders in fp32 or bf16, without LoRA first, and verify their weights",
    )


def _by_start(trail: NumericTrail) -> Finding | None:
    return _if_not_finite(
        trail.start_finite,
        "the latents hold NaN or infinity before the first step: the autoencoder overflowed while encoding",
        "encode in fp32 or bf16",
    )


def _by_network(trail: NumericTrail) -> Finding | None:
    if trail.first_bad_step is None:
        return None
    at = "" if trail.timestep is None else f" (timestep {trail.timestep:g})"
    since = f"from step {trail.first_bad_step}{at} on"
    if trail.first_bad_step == 1:
        since = "from the first step on"
    network = f" in {trail.network_in}" if trail.network_in else ""
    return Finding(
        "not finite",
        f"the latents hold NaN or infinity {since}, the text embeddings do not: the network overflowed{network}",
        "run the network in bf16 or fp32; lower the guidance and the LoRA's weight; check the prediction type",
    )


def _by_decoding(trail: NumericTrail) -> Finding | None:
    if trail.decoded_finite is not False:
        return None
    overflowed = f"the latents were finite, the autoencoder overflowed in {trail.decoded_in or 'its dtype'}"
    if trail.cured:
        return Finding(
            "decoded again",
            f"{overflowed}; decoded again in fp32, the picture is whole",
            "use an autoencoder mended for fp16, or bf16, to save the second decoding",
        )
    if trail.fp32_finite is False:
        return Finding(
            "not finite",
            f"{overflowed}, and in fp32 again: its weights are damaged",
            "verify the autoencoder's weights (bottega models verify)",
        )
    return Finding("not finite", overflowed, "decode again in fp32")


_STAGES = (_by_loras, _by_text, _by_start, _by_network, _by_decoding)
"""In the order in which the numbers arise: the first that is not finite is the cause of the rest."""
