"""What a file says of how its picture was made, whichever tool wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Tool = Literal["bottega", "A1111", "Forge", "SD.Next", "ComfyUI", "InvokeAI", "Fooocus", "NovelAI", "unknown"]
"""Who wrote the metadata. A1111 stands for its format too: many tools write it and name themselves nowhere."""


@dataclass(frozen=True)
class LoRAMention:
    """A LoRA as a file names it. weight: on the U-Net; None where the file does not say."""

    name: str
    weight: float | None = None
    hash: str = ""


@dataclass(frozen=True)
class PictureMetadata:
    """What a picture's file says of how it was made; None and "" where it says nothing.

    Everything here comes from a file that anyone may have written: the values have the right types and lie in sane
    ranges, but they may be untrue.
    """

    tool: Tool = "unknown"
    version: str = ""
    """Of the tool, as it writes it."""
    prompt: str | None = None
    negative_prompt: str | None = None
    sampler: str = ""
    """As the file spells it."""
    schedule: str = ""
    """Schedule type of A1111, scheduler of ComfyUI: how the noise levels are spaced."""
    our_sampler: str | None = None
    """The same by bottega's name; None where there is none."""
    steps: int | None = None
    guidance_scale: float | None = None
    guidance_rescale: float | None = None
    seed: int | None = None
    width: int | None = None
    """Pixels that were asked for; an upscaled picture has more."""
    height: int | None = None
    model: str = ""
    model_hash: str = ""
    loras: tuple[LoRAMention, ...] = ()
    clip_skip: int | None = None
    """As AUTOMATIC1111 counts: 1 the last layer."""
    strength: float | None = None
    """Share of the timesteps that were drawn again; None: text to image."""
    prediction_type: str | None = None
    passes: int = 1
    """Sampling passes; from 2 on, the values above are those of the first."""
    other: Mapping[str, str] = field(default_factory=dict)
    """What else the file says, by the tool's own names."""
    notes: tuple[str, ...] = ()
    """What was there and could not be read, or was left out, and why."""

    @property
    def is_empty(self) -> bool:
        """Whether the file says nothing of how its picture was made."""
        return self.tool == "unknown" and self.prompt is None and self.steps is None and not self.model
