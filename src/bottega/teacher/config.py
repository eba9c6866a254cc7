"""The teacher's protocols by name, and the options of its stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypedDict

from pydantic import Field, field_validator, model_validator

from bottega.runtime.config import Config, Resumable

NO_EFFECT = Resumable("no effect on the targets")
OTHER_GROUPS = Resumable("targets made from here on go together in other groups")
ROUNDINGS = Resumable("targets made from here on differ by roundings", within="stage")

ORACLE = "oracle (drawn truth)"
"""What every label calls the oracle, so that nobody takes its pictures for those of a network."""

ORACLE_MEANING = "drawn truths in the teacher's place: nothing was painted, so it is a ceiling"

SDXL = "SDXL with the IP-Adapter"
"""What every label calls the teacher that paints."""

AUTO_BATCH = 8  # the most that `batch_size: auto` puts together


class Preset(TypedDict):
    """The values of a named protocol, see `Protocol`."""

    steps: int
    guidance_scale: float
    strength: float
    ip_adapter_scale: float
    sampler: str
    size: int


PRESETS: Mapping[str, Preset] = {
    "stabilised": {
        "steps": 25,
        "guidance_scale": 3.5,
        "strength": 0.40,
        "ip_adapter_scale": 0.30,
        "sampler": "ddim",
        "size": 512,
    },
    "published": {
        "steps": 25,
        "guidance_scale": 3.8,
        "strength": 0.45,
        "ip_adapter_scale": 0.30,
        "sampler": "ddim",
        "size": 512,
    },
}


class Departure(TypedDict):
    """A value that is not the named protocol's: the protocol's, and the one here."""

    protocol: Any
    here: Any


class Protocol(Config):
    """How a target is made. `name` gives the values that are not stated; stating others departs from the protocol,
    and is recorded.
    """

    name: Literal["stabilised", "published"] = Field(
        default="stabilised", description="the protocol that the values below start from"
    )
    steps: int = Field(
        default=25, ge=1, le=1000, description="DDIM steps of the full schedule; steps x strength of them are made"
    )
    guidance_scale: float = Field(default=3.5, ge=1, le=30, description="classifier-free guidance; 1 is none")
    strength: float = Field(default=0.40, gt=0, le=1, description="share of the schedule that the content is noised by")
    ip_adapter_scale: float = Field(default=0.30, ge=0, le=2, description="weight of the style picture's attention")
    seeds: Annotated[tuple[int, ...], Resumable("targets are made for the seeds that are new")] = Field(
        default=(0, 1, 2),
        min_length=1,
        description="targets a pair, one for each seed; done in this order, all pairs first",
    )
    sampler: Literal["ddim", "euler", "euler_ancestral", "dpmpp_2m"] = Field(
        default="ddim", description="the sampler; its whole configuration is pinned; others than ddim depart"
    )
    size: int = Field(default=512, ge=32, le=2048, multiple_of=8, description="side of a target, pixels")

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("name", "stabilised") in PRESETS:
            return {**PRESETS[values.get("name", "stabilised")], **values}
        return values

    @model_validator(mode="after")
    def _sound(self) -> Protocol:
        if int(self.steps * self.strength) < 1:
            raise ValueError(
                f"steps x strength must be 1 or more, received {self.steps} x {self.strength}: no step would be "
                f"made; raise strength to {1 / self.steps:.3f}"
            )
        if len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds must be different and not negative, received {list(self.seeds)}")
        return self

    def departures(self) -> dict[str, Departure]:
        """Field -> {protocol, here} for each value that is not the named protocol's."""
        found: dict[str, Departure] = {}
        for name, value in PRESETS[self.name].items():
            here = getattr(self, name)
            if here != value:
                found[name] = {"protocol": value, "here": here}
        return found


class Ladder(Config):
    """What a retry changes, relative to the protocol; rung 1 is the first retry. See `bottega.teacher.retry`."""

    strength_down: float = Field(
        default=0.8, gt=0, lt=1, description="structure lost: strength is multiplied by this from rung 1 on"
    )
    guidance_down: tuple[float, float] = Field(
        default=(0.3, 0.5),
        description="structure lost: guidance_scale is lowered by this on rung 1, and from rung 2 on",
    )
    ip_down: float = Field(
        default=0.8334, gt=0, lt=1, description="structure lost: ip_adapter_scale is multiplied by this from rung 2 on"
    )
    rung_weight: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="training weight of a target from rung n of this ladder is multiplied by this to the power n: "
        "each rung buys structure with style",
    )


class TeacherConfig(Protocol):
    """The protocol, and how the stage runs it."""

    source: Literal["sdxl", "oracle"] = Field(
        default="sdxl", description="sdxl paints; oracle returns the data set's drawn truths (fixture, ceiling)"
    )
    batch_size: Annotated[int | Literal["auto"], OTHER_GROUPS] = Field(
        default=1,
        description="targets that go through the U-Net at once, 1 to 256; auto: up to 8, as memory allows. Which ones "
        "go together is fixed by the work list",
    )
    quality_filter: Annotated[bool, Resumable("counts as max_retries: 0 where it is false", within="stage")] = Field(
        default=True, description="retry what is graded C; without it each target has one try"
    )
    max_retries: int = Field(default=2, ge=0, le=8, description="further tries for a target graded C")
    ladder: Ladder = Field(default_factory=Ladder, description="what a retry changes")
    keep_tries: Annotated[Literal["best", "all"], Resumable("holds for targets made from here on")] = Field(
        default="all", description="pictures kept of a target with several tries; rows and scores are kept of all"
    )
    upcast_vae: Annotated[bool | None, ROUNDINGS] = Field(
        default=None,
        description="decode in fp32; null: where the autoencoder's weights are fp16 and it says that it overflows "
        "there. Contents are encoded in fp32 always",
    )
    low_vram: Annotated[bool, NO_EFFECT] = Field(
        default=False, description="encoders leave the GPU when they are not at work"
    )
    memory_limit: Annotated[float, NO_EFFECT] = Field(
        default=0.85, gt=0, le=1, description="share of RAM and of GPU memory above which the run takes less"
    )
    gc_interval: Annotated[int, NO_EFFECT] = Field(
        default=10, ge=0, description="pictures after which freed memory is handed back to the system; 0: never"
    )
    sheet_after: Annotated[int, NO_EFFECT] = Field(
        default=24,
        ge=0,
        le=240,
        description="draw the first contact sheet when this many targets are graded; 0: only at the end",
    )

    @field_validator("batch_size")
    @classmethod
    def _batch(cls, value: int | str) -> int | str:
        if isinstance(value, int) and not 1 <= value <= 256:
            raise ValueError(f"batch_size must be auto or a number from 1 to 256, received {value}")
        return value

    @property
    def chunk(self) -> int:
        """Targets that are written and entered together."""
        return AUTO_BATCH if self.batch_size == "auto" else int(self.batch_size)

    @property
    def title(self) -> str:
        """What a label calls the teacher."""
        return ORACLE if self.source == "oracle" else "teacher"

    @property
    def painter(self) -> str:
        """Who makes the pictures, in words."""
        return f"{ORACLE}: {ORACLE_MEANING}" if self.source == "oracle" else SDXL

    def departures(self) -> dict[str, Departure]:
        """As of `Protocol`; the oracle departs from all of it, so that its source alone is named."""
        if self.source == "oracle":
            return {"source": {"protocol": "sdxl", "here": "oracle"}}
        return super().departures()

    @property
    def model_roles(self) -> tuple[str, ...]:
        """The models that a run loads, by their names in the recipe: the judge's, and the teacher's own."""
        return ("clip",) if self.source == "oracle" else ("sdxl", "sdxl_vae", "ip_adapter", "clip")

    def protocol(self) -> Mapping[str, object]:
        """The values that decide how a target looks, and nothing about how many there are or in what batches."""
        return {key: getattr(self, key) for key in Protocol.model_fields if key != "seeds"}
