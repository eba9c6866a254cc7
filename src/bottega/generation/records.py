"""What is asked of the engine, what it uses, and what it answers.

A `GenerationRequest` holds what a person asked; a field of None leaves the choice to the model's profile. Guardrails
turn it into `PictureSettings`, where nothing is left open, and a list of `Correction`. The `Result` carries the
settings that were used, and the pictures' metadata says the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from bottega.runtime.config import Config
from bottega.runtime.findings import Finding

PredictionType = Literal["epsilon", "v_prediction", "flow", "sample"]
"""What the network predicts: the noise, v = α ε − σ x₀ (arXiv 2202.00512), the velocity ε − x₀ of rectified flow, or
the clean picture x₀ itself, as some models do that were trained from scratch."""

GuardrailMode = Literal["correct", "strict", "off"]
"""Values outside the profile's limits: correct them and say so, refuse the request, or leave them alone."""

MAX_PROMPT = 20_000  # characters; a longer text is a file that was pasted by mistake


class LoRASpec(Config):
    """One LoRA of a request."""

    path: Path = Field(description="the .safetensors file")
    weight: float = Field(1.0, ge=-4, le=4, description="factor on the whole LoRA; negative ones turn a slider around")
    unet: float | None = Field(None, ge=-4, le=4, description="factor on the U-Net or transformer in place of weight")
    text_encoder: float | None = Field(None, ge=-4, le=4, description="factor on the first text encoder")
    text_encoder_2: float | None = Field(None, ge=-4, le=4, description="factor on the second text encoder")

    def weight_of(self, component: str) -> float:
        """The factor on one component: `unet` (also a transformer), `text_encoder` or `text_encoder_2`."""
        own: float | None = getattr(self, component)
        return self.weight if own is None else own


class GenerationRequest(Config):
    """What a person asks for; None leaves a value to the profile of the model."""

    prompt: str = Field("", max_length=MAX_PROMPT, description="what to draw")
    negative_prompt: str = Field("", max_length=MAX_PROMPT, description="what to keep out")
    width: int | None = Field(None, ge=8, le=16_384, description="pixels")
    height: int | None = Field(None, ge=8, le=16_384, description="pixels")
    steps: int | None = Field(None, ge=1, le=1_000, description="sampling steps")
    guidance_scale: float | None = Field(None, ge=0, le=100, description="classifier-free guidance (CFG); 1: none")
    guidance_rescale: float | None = Field(
        None, ge=0, le=1, description="share of arXiv 2305.08891's rescaled guidance"
    )
    sampler: str | None = Field(None, max_length=40, description="such as euler_a or dpmpp_2m_karras")
    seed: int | None = Field(None, ge=0, lt=2**63, description="of the first picture; None: drawn, and reported")
    count: int = Field(1, ge=1, le=10_000, description="pictures, with seeds that follow each other")
    clip_skip: int | None = Field(
        None, ge=1, le=12, description="as AUTOMATIC1111 counts: 1 the last layer, 2 the one before"
    )
    image: Path | None = Field(None, description="picture to start from (img2img)")
    strength: float | None = Field(None, ge=0, le=1, description="img2img: share of the timesteps that are drawn again")
    loras: tuple[LoRASpec, ...] = Field((), max_length=16, description="LoRAs, all at work at once")
    prediction_type: Literal["auto", "epsilon", "v_prediction", "flow", "sample"] = Field(
        "auto", description="what the network predicts; auto: as measured"
    )
    preset: str | None = Field(None, max_length=40, description="of the profile: values for fields that are not given")
    quality_tags: bool = Field(
        True, description="add the tags that the profile's family wants; only where guardrails correct"
    )
    guardrails: GuardrailMode = Field("correct", description="what to do with values outside the profile's limits")

    @model_validator(mode="after")
    def _every_seed_can_be_asked_for(self) -> Self:
        # The last picture's metadata would hold a seed that no request may have.
        if self.seed is not None and self.seed + self.count > 2**63:
            raise ValueError(f"the last picture's seed is below 2^63, got seed {self.seed} and count {self.count}")
        return self

    @field_validator("prompt", "negative_prompt")
    @classmethod
    def _no_control_characters(cls, text: str) -> str:
        # A NUL ends the text of a PNG chunk, so that the metadata would say another prompt than the one drawn.
        if "\x00" in text:
            raise ValueError("a text holds no NUL character")
        return text


class StylizeRequest(Config):
    """A picture in the style of another; None leaves a value to the adapter."""

    style: Path = Field(description="picture whose style to draw in")
    content: Path | None = Field(None, description="picture to draw; without one the prompt says what")
    prompt: str = Field("", description="what the content shows, or what to draw")
    style_caption: str = Field("", description="what the style picture shows, for an adapter with scene_removal")
    seed: int = Field(0, description="of the first picture's noise")
    count: int = Field(1, ge=1, le=10_000, description="pictures, with seeds that follow each other")
    strength: float | None = Field(None, description="share of the timesteps that are drawn again")
    steps: int | None = Field(None, description="sampling steps")
    style_scale: float | None = Field(None, description="factor on the style; 0: none")
    text_guidance: float | None = Field(None, description="guidance on the prompt; 1: none")
    style_guidance: float | None = Field(None, description="guidance on the style; 1: none")


@dataclass(frozen=True)
class PictureSettings:
    """The values that a picture is made with: nothing is left open."""

    prompt: str
    negative_prompt: str
    width: int
    height: int
    steps: int
    guidance_scale: float
    guidance_rescale: float
    sampler: str
    seed: int
    count: int
    clip_skip: int
    """As AUTOMATIC1111 counts; diffusers' `clip_skip` for SDXL is this minus 2, and None for 2."""
    strength: float | None
    """None: text to image."""
    prediction_type: PredictionType
    profile: str


@dataclass(frozen=True)
class Correction:
    """One value that the guardrails changed, as the JSON of an answer has it."""

    field: str
    requested: str | int | float | None
    used: str | int | float | None
    reason: str

    def __str__(self) -> str:
        return f"{self.field}: {self.requested} → {self.used} ({self.reason})"


@dataclass(frozen=True)
class LoRAUse:
    """A LoRA as it was applied."""

    name: str
    """The file's name without its ending."""
    sha256: str
    weights: dict[str, float]
    """By component: unet, text_encoder, text_encoder_2."""
    matched: float
    """Share of the file's keys that found their place in the model, 0 to 1."""
    format: str
    trigger_words: tuple[str, ...] = ()


@dataclass(frozen=True)
class StyleUse:
    """A StyleAdapter as it was applied, and what it was given."""

    adapter: str
    """The file's name without its ending."""
    adapter_sha256: str
    style_sha256: str
    """Of the style picture's file."""
    style_caption: str
    style_scale: float
    style_guidance: float
    content: Literal["picture", "noise", "drawn by the base"]
    """What the drawing began from; `Result.image_sha256` is the hash of a picture's file."""


@dataclass(frozen=True)
class GeneratedPicture:
    """One picture of a result."""

    index: int
    seed: int
    sha256: str
    """Of the pixels as the PNG holds them, uint8 [H, W, 3] row by row."""
    path: Path | None = None
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Result:
    """The answer to a request."""

    settings: PictureSettings
    pictures: tuple[GeneratedPicture, ...]
    corrections: tuple[Correction, ...] = ()
    loras: tuple[LoRAUse, ...] = ()
    findings: tuple[Finding, ...] = ()
    """About the whole request: a mislabelled prediction type, a tainted model."""
    notes: tuple[str, ...] = ()
    """Values that are allowed but not recommended, a sentence each."""
    model: str = ""
    model_sha256: str = ""
    image_sha256: str = ""
    """Of the file that img2img began with; empty: text to image."""
    style: StyleUse | None = None
    """None: no StyleAdapter."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By phase: encode, denoise, decode."""
