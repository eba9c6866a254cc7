"""Damage by family: what quality control is trained on and measured with."""

from bottega.quality.damage import light, place, texture
from bottega.quality.damage.common import CAUSES, Cause, Family, Subject

FAMILIES: dict[str, Family] = {family.name: family for family in (*light.FAMILIES, *texture.FAMILIES, *place.FAMILIES)}

__all__ = ["CAUSES", "FAMILIES", "Cause", "Family", "Subject"]
