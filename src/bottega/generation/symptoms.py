"""What a poor picture looks like, what may cause it, and what to do: the one home of that table."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from pydantic import Field

from bottega.generation.profiles import Limit, Profile
from bottega.generation.records import PictureSettings
from bottega.runtime.config import Config, parse
from bottega.runtime.errors import RequestError

FILE = Path(__file__).with_name("symptoms.yaml")

Side = Literal["low", "high", "other"]
"""Where a setting lies, if it is the cause: below what is recommended, above it, or another name than the profile's."""


class Cause(Config):
    """One possible cause of a symptom."""

    cause: str = Field(min_length=3, description="in words")
    cure: str = Field(min_length=3, description="what to do")
    fields: dict[str, Side] = Field(default_factory=dict, description="settings that show it, where some do")


class Symptom(Config):
    """How a picture looks, and its causes, the likeliest first."""

    name: str
    looks: str
    causes: tuple[Cause, ...] = Field(min_length=1)


class _Table(Config):
    symptoms: tuple[Symptom, ...]


@cache
def load_symptoms() -> tuple[Symptom, ...]:
    """All symptoms, in the order of the table."""
    content: Any = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return parse(_Table, {"symptoms": content}, FILE.name).symptoms


class Suspicion(NamedTuple):
    """A cause, and whether a setting of the picture shows it."""

    cause: Cause
    shown: bool


def likely_causes(name: str, settings: PictureSettings | None, profile: Profile | None) -> tuple[Suspicion, ...]:
    """The causes of a symptom; those that the settings of the picture show come first.

    Args:
        name: of the symptom.
        settings: that the picture was made with; None: not known, so that nothing is shown by them.
        profile: of its model; None: not known.

    Raises:
        RequestError: there is no such symptom.
    """
    symptoms = {symptom.name: symptom for symptom in load_symptoms()}
    if name not in symptoms:
        raise RequestError(f"no symptom {name!r}; there are {', '.join(symptoms)}")
    sides: Mapping[str, Side] = {}
    if settings is not None and profile is not None:
        sides = _where_settings_lie(settings, profile)
    found = [Suspicion(cause, _is_shown(cause, sides)) for cause in symptoms[name].causes]
    return tuple(sorted(found, key=lambda suspicion: not suspicion.shown))


def _is_shown(cause: Cause, sides: Mapping[str, Side]) -> bool:
    return any(sides.get(name) == side for name, side in cause.fields.items())


def _where_settings_lie(settings: PictureSettings, profile: Profile) -> dict[str, Side]:
    """On which side of what is recommended each setting lies; settings within it are left out."""
    pixels = profile.pixels
    least, most = pixels.recommended or (pixels.least, pixels.most)
    area = _side((settings.width * settings.height) ** 0.5, least, most)
    found = {"width": area, "height": area}
    for name in ("steps", "guidance_scale"):
        limit: Limit = getattr(profile, name)
        low, high = limit.recommended or limit.allowed
        found[name] = _side(getattr(settings, name), low, high)
    usual = profile.guidance_rescale.default
    found["guidance_rescale"] = _side(settings.guidance_rescale, usual, usual)
    if settings.sampler != profile.sampler.default:
        found["sampler"] = "other"
    if settings.clip_skip != profile.clip_skip.default:
        found["clip_skip"] = "other"
    return {name: side for name, side in found.items() if side is not None}


def _side(value: float, low: float, high: float) -> Side | None:
    if value < low:
        return "low"
    if value > high:
        return "high"
    return None
