"""Profiles of model families: what a family can draw with, what it should be drawn with, and who says so.

Each YAML file in `profiles/` is one. Every group of facts carries a mark, `official` (the model's authors or its
library say so) or `community` (widely used, said by others), and its source. `choose_profile` picks one by the
checkpoint.
"""

from __future__ import annotations

import difflib
import re
from functools import cache
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from bottega.generation.records import PredictionType
from bottega.models.identify import CheckpointIdentity
from bottega.runtime.config import Config, load_yaml, parse
from bottega.runtime.errors import RequestError

FOLDER = Path(__file__).with_name("profiles")
ORDER = ("noobai_v", "noobai_eps", "pony", "animagine", "illustrious", "anime")
"""In which order names are compared: a mix often names its ancestors too, and the most particular one decides."""

_DEFAULTS = {"sdxl": "sdxl_base", "ldm": "ldm"}
_MINIATURES = {"sdxl": "miniature_sdxl", "pixart": "miniature_pixart"}


class Fact(Config):
    """Something that is said of a family."""

    mark: Literal["official", "community"] = Field(description="official: its authors or its library say so")
    source: str = Field(min_length=3, description="where it is said")


class Note(Fact):
    """A fact that no number holds."""

    text: str = Field(min_length=3, description="the fact, in a sentence")


class Limit(Fact):
    """A number: its default, what is allowed, what is recommended, and what takes the place of a value outside."""

    default: float = Field(description="taken where a request leaves it open")
    allowed: tuple[float, float] = Field(description="least and most")
    below: float | None = Field(None, description="in place of a value below `allowed`; none: the least allowed")
    above: float | None = Field(None, description="in place of a value above `allowed`; none: the most allowed")
    recommended: tuple[float, float] | None = Field(None, description="a value outside, but allowed, gets a note")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        low, high = self.allowed
        inner = self.recommended or self.allowed
        if not low <= inner[0] <= inner[1] <= high:
            raise ValueError(f"allowed holds recommended, got {self.allowed} and {self.recommended}")
        for name in ("default", "below", "above"):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name} lies in allowed {low:g} … {high:g}, got {value:g}")
        return self

    def correct(self, value: float) -> float:
        """The value itself where it is allowed, else what takes its place."""
        low, high = self.allowed
        if value < low:
            return low if self.below is None else self.below
        if value > high:
            return high if self.above is None else self.above
        return value


class Pixels(Fact):
    """Sizes of a picture. Areas are given by the side of the square that has them."""

    default: tuple[int, int] = Field(description="width and height where a request leaves them open")
    multiple: int = Field(ge=1, description="sides are multiples of it; the model can draw no others")
    least: int = Field(ge=8, description="side of the square with the smallest area")
    most: int = Field(ge=8, description="side of the square with the largest area")
    below: int | None = Field(None, description="side of the square to which a smaller area is brought; none: least")
    short_side: int | None = Field(None, description="the shorter side is at least this")
    aspect: float = Field(ge=1, description="longer side by shorter side, at most")
    recommended: tuple[int, int] | None = Field(None, description="areas outside, but allowed, get a note")
    fitted: bool = Field(False, description="follow the side that the checkpoint itself names")

    @model_validator(mode="after")
    def _works(self) -> Self:
        if not self.least <= (self.below or self.least) <= self.most:
            raise ValueError(f"least ≤ below ≤ most, got {self.least}, {self.below}, {self.most}")
        if any(side % self.multiple for side in self.default):
            raise ValueError(f"the default's sides are multiples of {self.multiple}, got {self.default}")
        return self

    def fit(self, side: int) -> Pixels:
        """The same in proportion for a model that draws squares of another side."""
        scale = side / self.default[0]

        def scaled(value: int) -> int:
            return max(self.multiple, round(value * scale))

        return self.model_copy(
            update={
                "default": (side, side),
                "least": scaled(self.least),
                "most": scaled(self.most),
                "below": None if self.below is None else scaled(self.below),
                "short_side": None if self.short_side is None else scaled(self.short_side),
                "recommended": None if self.recommended is None else tuple(map(scaled, self.recommended)),
            }
        )


class Samplers(Fact):
    """Which samplers a family is drawn with."""

    default: str = Field(description="taken where a request leaves it open")
    allowed: tuple[str, ...] | None = Field(None, description="none: every one")

    @model_validator(mode="after")
    def _has_default(self) -> Self:
        if self.allowed is not None and self.default not in self.allowed:
            raise ValueError(f"the default is one of the allowed, got {self.default}")
        return self


class ClipSkip(Fact):
    """Which layer of the text encoder is read, as AUTOMATIC1111 counts: 1 the last. Others cannot be read at all."""

    default: int = Field(ge=1, description="taken where a request leaves it open")
    allowed: tuple[int, int] = Field(description="least and most")
    why: str = Field(min_length=3, description="why no others can be read")


class QualityTags(Fact):
    """Tags that named the quality of a family's training pictures."""

    place: Literal["front", "end"] = Field(description="of the prompt")
    prompt: tuple[str, ...] = Field(description="in the order that the family wants")
    negative: tuple[str, ...] = Field((), description="for a negative prompt that is empty")
    ratings: tuple[str, ...] = Field((), description="of these a prompt has one at most: a tag of its own is kept")


class ProfilePreset(Fact):
    """Values for what a request leaves open."""

    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None


class Profile(Config):
    """All that is known of drawing with a family of models."""

    name: str = Field(description="of the file, too")
    title: str = Field(description="for people")
    families: tuple[str, ...] = Field(min_length=1, description="architectures, as `models.identify` tells them")
    names: tuple[str, ...] = Field((), description="patterns of titles and file names by which it is chosen")
    prediction_types: tuple[PredictionType, ...] = Field((), description="what the family predicts; none named: any")
    pixels: Pixels
    steps: Limit
    guidance_scale: Limit
    guidance_rescale: Limit
    strength: Limit
    sampler: Samplers
    clip_skip: ClipSkip
    lora_weight: Limit | None = Field(None, description="of each LoRA, by its absolute value; none: it takes no LoRAs")
    quality_tags: QualityTags | None = None
    presets: dict[str, ProfilePreset] = Field(default_factory=dict)
    notes: tuple[Note, ...] = ()

    @field_validator("names")
    @classmethod
    def _patterns(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            re.compile(name)
        return names


def profile_names() -> list[str]:
    """Names of all profiles, sorted."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


@cache
def load_profile(name: str) -> Profile:
    """The profile of that name.

    Raises:
        RequestError: there is none.
    """
    known = profile_names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        cure = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise RequestError(f"no profile {name!r}; {cure}")
    return parse(Profile, load_yaml(FOLDER / f"{name}.yaml"), f"profiles/{name}.yaml")


def choose_profile(
    identity: CheckpointIdentity, override: str | None = None, *, prediction_type: PredictionType | None = None
) -> tuple[Profile, str]:
    """The profile of a checkpoint, and why it is this one.

    By the architecture; then, for SDXL's many descendants, by the names in the metadata, and by the file's name last.

    Args:
        identity: what the checkpoint is.
        override: name of the profile to take instead.
        prediction_type: as measured; None: as the checkpoint says.

    Raises:
        RequestError: no profile of that name, or of another architecture; or nothing can be drawn with the checkpoint.
    """
    if override is not None:
        chosen, why = load_profile(override), "asked for"
        if identity.family not in chosen.families:
            raise RequestError(
                f"the profile {override} is for {' and '.join(chosen.families)}, received a checkpoint of the family "
                f"{identity.family}; leave --profile out, or name another"
            )
    else:
        chosen, why = _by_identity(identity, prediction_type)
    if chosen.pixels.fitted and identity.native_side is not None:
        chosen = chosen.model_copy(update={"pixels": chosen.pixels.fit(identity.native_side)})
    return chosen, why


def _by_identity(identity: CheckpointIdentity, prediction_type: PredictionType | None) -> tuple[Profile, str]:
    family = identity.family
    if family not in ("sdxl", "pixart", "ldm"):
        raise RequestError(
            f"{identity.path}: pictures are drawn with checkpoints of sdxl, pixart and ldm, received one of the family "
            f"{family} ({identity.why}); name another checkpoint"
        )
    if identity.miniature and family in _MINIATURES:
        return _of_miniature(identity, prediction_type)
    if family == "pixart":
        return _by_side(identity)
    if family == "sdxl":
        by_name = _by_name(identity, prediction_type)
        if by_name is not None:
            return by_name
    return load_profile(_DEFAULTS[family]), f"the architecture is {family}, and no name says more"


def _of_miniature(identity: CheckpointIdentity, prediction_type: PredictionType | None) -> tuple[Profile, str]:
    """A miniature's own profile; where its name is that of a family of checkpoints, that family's in the small size."""
    small = load_profile(_MINIATURES[identity.family])
    why = f"a miniature of {identity.family}, {identity.width} wide"
    by_name = _by_name(identity, prediction_type) if identity.family == "sdxl" else None
    if by_name is None:
        return small, why
    family, named = by_name
    # How large its pictures are and how many layers its text encoder has follow from its size, all else from its kind.
    fitted = {"pixels": small.pixels, "clip_skip": small.clip_skip, "presets": small.presets}
    return family.model_copy(update=fitted), f"{named}; sizes of {why}"


def _by_side(identity: CheckpointIdentity) -> tuple[Profile, str]:
    side = identity.native_side
    if side is None:
        return load_profile("pixart_512"), "the architecture is pixart, and nothing says for which side; 512 is safe"
    return load_profile("pixart_1024" if side > 724 else "pixart_512"), f"pixart, made for {side} pixels"


def _by_name(identity: CheckpointIdentity, prediction_type: PredictionType | None) -> tuple[Profile, str] | None:
    predicts: str | None = prediction_type
    if predicts is None and identity.prediction is not None:
        predicts = identity.prediction.type
    for where, name in identity.names:
        for profile in map(load_profile, ORDER):
            if _bears(profile, name) and _suits(profile, predicts):
                return profile, f"{where} is {name!r}"
    return None


def _bears(profile: Profile, name: str) -> bool:
    """Whether a checkpoint's name is one of those by which a profile is chosen."""
    return any(re.search(pattern, name, re.IGNORECASE) for pattern in profile.names)


def _suits(profile: Profile, predicts: str | None) -> bool:
    """Whether a profile is for a network that predicts this; None: nothing says what it predicts.

    NoobAI's two kinds share their names: what the network predicts distinguishes them. Where that is
    unknown, it is not taken for v-prediction, the rarer of the two.
    """
    if predicts is None:
        return profile.prediction_types != ("v_prediction",)
    return not profile.prediction_types or predicts in profile.prediction_types
