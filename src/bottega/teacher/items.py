"""What the teacher is asked for: one item a picture, with the settings of this try."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypedDict

import numpy as np

from bottega.runtime.seeds import derive
from bottega.teacher.config import Protocol as TeacherProtocol
from bottega.teacher.protocol import unet_calls
from bottega.visual.pictures import FloatPicture, Picture


@dataclass(frozen=True)
class Settings:
    """The parameters of one try. `noise` counts fresh draws of noise: retries that change parameters keep it."""

    steps: int
    strength: float
    guidance_scale: float
    ip_adapter_scale: float
    noise: int = 0

    @classmethod
    def of(cls, protocol: TeacherProtocol) -> Settings:
        """The protocol's own settings."""
        return cls(protocol.steps, protocol.strength, protocol.guidance_scale, protocol.ip_adapter_scale)

    @property
    def effective(self) -> tuple[int, int, float, float]:
        """What the sampler makes of them: strength counts in whole steps, so different strengths can be one try."""
        return (
            self.steps,
            unet_calls(self.steps, self.strength),
            round(self.guidance_scale, 4),
            round(self.ip_adapter_scale, 4),
        )

    def with_(self, **changes: Any) -> Settings:
        """A copy with some values changed."""
        return replace(self, **changes)


@dataclass(frozen=True, eq=False)
class Item:
    """One picture to make: content and style as uint8 squares of the protocol's size, a prompt, a protocol seed.

    `content_key` and `style_key` name the pictures in caches (their file's hash); left empty, the pixels' own hash is
    taken.
    """

    pair_id: str
    content_id: str
    style_id: str
    prompt: str
    seed: int
    content: Picture
    style: Picture
    content_key: str = ""
    style_key: str = ""
    settings: Settings | None = None

    @property
    def noise_index(self) -> int:
        """How often the noise was drawn afresh before this try."""
        return self.settings.noise if self.settings is not None else 0

    @property
    def noise_seed(self) -> int:
        """The seed of this try's noise, from what the picture is and never from its position in a run."""
        return derive("teacher noise", self.seed, self.content_id, self.style_id, self.noise_index)

    @property
    def keys(self) -> tuple[str, str]:
        """Names of content and style for caches."""
        return self.content_key or pixel_hash(self.content), self.style_key or pixel_hash(self.style)


class Facts(TypedDict, total=False):
    """How a picture came out; the oracle, which encodes and decodes nothing, states `batch` alone.

    Attributes:
        content_finite, style_finite, text_finite: share of the values that are finite, 0..1, of the content's latent,
            of the style's embedding and of the prompt's states; only where it is below 1: then the encoder failed, and
            not the U-Net that was handed them.
        latents_finite: the same of the latent that the picture was decoded from.
        decode_dtype: the precision of the decoding that counted.
        decoded_again: whether that was the second one, in fp32.
        batch: how many pictures went through the U-Net at once.
    """

    content_finite: float
    style_finite: float
    text_finite: float
    latents_finite: float
    decode_dtype: str
    decoded_again: bool
    batch: int


FiniteShare = Literal["content_finite", "style_finite", "text_finite", "latents_finite"]

INPUTS_FINITE: tuple[FiniteShare, ...] = ("content_finite", "style_finite", "text_finite")
"""The facts of what a picture is made from."""

FINITE: tuple[FiniteShare, ...] = (*INPUTS_FINITE, "latents_finite")
"""The facts that become scores: grading tells by them why a picture is not finite."""


@dataclass(frozen=True, eq=False)
class Made:
    """A picture as it came out, NaN where generation failed, and how."""

    picture: FloatPicture
    facts: Facts = field(default_factory=Facts)


class Teacher(Protocol):
    """What the runner needs of a teacher: SDXL or the oracle.

    `encode`, then `denoise` are called by the thread that runs; `finish` and `round_trip` by one other thread, while
    the next items are denoised.
    """

    def encode(self, items: Sequence[Item]) -> None:
        """Compute and keep what the items' denoising needs of their pictures and prompts."""

    def denoise(self, items: Sequence[Item], batch: int) -> list[Any]:
        """What `finish` needs of each item, in their order; at most `batch` of them go through the U-Net at once."""

    def finish(self, items: Sequence[Item], latents: Sequence[Any]) -> list[Made]:
        """A picture for each item, float32 [H, W, 3] in 0..1; values that are not finite are left as they came out."""

    def round_trip(self, item: Item) -> Picture | None:
        """The item's content after the autoencoder alone, uint8; None where the teacher has none."""

    def parameters(self, settings: Settings) -> Mapping[str, object]:
        """What is recorded of a try with these settings: all that shaped its picture, nothing that did not."""


def target_name(content_id: str, style_id: str, seed: int) -> str:
    """File stem of a target: `{content_id}_{style_id}_seed{seed}`; ids hold no underscore, so it can be read back."""
    return f"{content_id}_{style_id}_seed{seed}"


def pixel_hash(picture: Picture) -> str:
    """Hash of a picture's pixels and shape, for caches."""
    pixels = np.ascontiguousarray(picture).tobytes()
    return hashlib.sha256(repr(picture.shape).encode() + pixels).hexdigest()
