"""Limits of the checks and the options of the quality stage."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, model_validator

from bottega.runtime.config import Added, Config, added_later


def rounded_outward(value: float, limit: str) -> float:
    """A limit rounded to 4 decimals, away from the good pictures, so that one that lies at the limit stays inside.

    Args:
        limit: its name; `…_max` bounds a score from above, any other from below.
    """
    rounded = math.ceil if limit.endswith("_max") else math.floor
    return rounded(value * 1e4) / 1e4


RETIRED = ("haze_max",)
"""Limits that an earlier version wrote and whose score is measured no more: `veil` stands in for `haze`."""

EYE_OFF = 1000.0
"""A limit of `damage` that no picture reaches: such limits do without the learned eye."""


class Thresholds(Config):
    """Every limit that a grade depends on; `bottega.quality.measuring` defines the scores that they bound.

    The defaults belong to ordinary photographs and paintings at 512 px and to one CLIP; `calibrate` sets them for
    others.
    """

    black_level: float = Field(
        default=0.04, ge=0, le=1, description="the brightest 1 % of the pixels (luminance, 0..1) must exceed this"
    )
    spread_min: float = Field(
        default=0.02, ge=0, le=1, description="standard deviation of the channel with the largest one (0..1), at least"
    )
    clipped_excess_max: float = Field(
        default=0.35,
        ge=0,
        le=1,
        description="share of channel values within 2 of 0 or 255, above that of content and style",
    )
    vivid_excess_max: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="(max - min channel) in 0..1, mean and 98th percentile, above that of content and style",
    )
    vigour_min: float = Field(
        default=0.45, ge=0, description="contrast and colour relative to content and style, at least (grey wash)"
    )
    veil_max: Annotated[float, Added(before=1000.0)] = Field(
        default=6.0,
        ge=0,
        description="levels by which the darkest parts are lighter than content's and style's, by the shares of range "
        "and of vigour that are lost, at most (a pale veil)",
    )
    structure_min: float = Field(
        default=0.30,
        ge=-1,
        le=1,
        description="correlation of coarse tones or of coarse edges with the content, the better of both, at least",
    )
    edge_64_c: float = Field(
        default=0.20, ge=-1, le=1, description="edge similarity at 64 px below which a picture is C"
    )
    edge_64_a: float = Field(
        default=0.25, ge=-1, le=1, description="edge similarity at 64 px from which a picture may be A"
    )
    edge_128_c: float = Field(
        default=0.20, ge=-1, le=1, description="edge similarity at 128 px below which a picture is C"
    )
    edge_128_a: float = Field(
        default=0.25, ge=-1, le=1, description="edge similarity at 128 px from which a picture may be A"
    )
    hf_ratio_min: float = Field(
        default=0.01, ge=0, description="Sobel energy relative to the stronger of content and style, at least (blur)"
    )
    hf_ratio_max: float = Field(
        default=2.5,
        gt=0,
        description="Sobel energy relative to the stronger of content and style, at most (mesh, noise)",
    )
    sharpness_min: float = Field(
        default=0.45,
        ge=0,
        description="steepest slope over contrast, relative to the softer of content and style, at least (blur)",
    )
    mesh_max: float = Field(
        default=3.0, description="rise of the strongest fine wave beyond content and style, ln of power, at most"
    )
    noise_max: float = Field(
        default=2.5, ge=0, description="colour noise beyond content and style, levels at half size, at most"
    )
    blocking_max: float = Field(
        default=0.35, ge=0, description="steps along a grid of 8 px beyond content and style, levels, at most"
    )
    blocking_share_max: float = Field(
        default=0.2, description="share of steps along that grid beyond content and style (8/3: all), at most"
    )
    ghosting_max: float = Field(
        default=0.25, ge=0, description="weight of a second, moved copy beyond content and style, at most"
    )
    damage_max: Annotated[float, Added(before=EYE_OFF)] = Field(
        default=2.6, description="logit of being damaged, by the learned eye, at most"
    )
    damage_confirm: Annotated[float, Added(before=-EYE_OFF)] = Field(
        default=1.5, description="the same, from which a detector that fails makes a C alone"
    )
    damage_a: Annotated[float, Added(before=EYE_OFF)] = Field(
        default=0.5, description="the same, up to which a picture may be A"
    )
    distance_a: Annotated[float, Added(before=EYE_OFF)] = Field(
        default=EYE_OFF,
        gt=0,
        description="estimated distance to what the painter would have made, by the learned eye, up to which a picture "
        "may be A; 1 separates two drawings with other strokes; 1000: not asked, until drawn truths set it",
    )
    distance_c: Annotated[float, Added(before=EYE_OFF)] = Field(
        default=EYE_OFF, gt=0, description="the same, above which a picture is C; 1000: not asked"
    )
    content_sim_c: float = Field(
        default=0.30, ge=-1, le=1, description="CLIP cosine to the content below which a picture is C"
    )
    content_sim_a: float = Field(
        default=0.34, ge=-1, le=1, description="CLIP cosine to the content from which a picture may be A"
    )
    change_min: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description="mean absolute difference from the content (0..1), at least (untouched copy)",
    )
    coarse_change_min: Annotated[float, Added(before=0.0)] = Field(
        default=0.007,
        ge=0,
        le=1,
        description="mean absolute difference from the content at 32 px (0..1), at least (an encoded copy)",
    )
    style_gain_min: float = Field(
        default=0.0,
        ge=-2,
        le=2,
        description="CLIP cosine to the style minus the content's own, below which a picture is no A",
    )
    weight_a: float = Field(default=1.0, ge=0, le=1, description="training weight of an A")
    weight_b: float = Field(default=0.5, ge=0, le=1, description="training weight of a B")
    weight_c: float = Field(default=0.0, ge=0, le=1, description="training weight of a C")

    @model_validator(mode="before")
    @classmethod
    def _read_as_written(cls, data: object) -> object:
        """Limits that an earlier version wrote in full stand, where they have none, at what was done before.

        So a run that was begun without the learned eye goes on without it. A limit of RETIRED is left out there; in a
        recipe it is refused like any other unknown one.
        """
        later = added_later(cls)
        if not isinstance(data, Mapping) or not set(data) >= set(cls.model_fields) - set(later):
            return data
        read = {**later, **data}
        for name in RETIRED:
            read.pop(name, None)
        return read

    @property
    def uses_eye(self) -> bool:
        """Whether the learned eye decides."""
        return self.damage_max < EYE_OFF

    @model_validator(mode="after")
    def _ordered(self) -> Thresholds:
        for name in ("edge_64", "edge_128", "content_sim"):
            low, high = getattr(self, f"{name}_c"), getattr(self, f"{name}_a")
            if low > high:
                raise ValueError(
                    f"{name}_a is the limit of the better grade and must be at least {name}_c, received "
                    f"{name}_a={high}, {name}_c={low}"
                )
        if not self.damage_a <= self.damage_max or not self.damage_confirm <= self.damage_max:
            raise ValueError(
                "damage_a and damage_confirm must be at most damage_max, received "
                f"{self.damage_a}, {self.damage_confirm} and {self.damage_max}"
            )
        if self.hf_ratio_min >= self.hf_ratio_max:
            raise ValueError(
                f"hf_ratio_min must be below hf_ratio_max, received {self.hf_ratio_min} and {self.hf_ratio_max}"
            )
        return self


class QualityConfig(Config):
    """The quality stage: whether the limits are calibrated on drawn truths before the first grade."""

    size: int = Field(
        default=512, ge=16, le=4096, description="side of the judged pictures, pixels; the teacher's size"
    )
    calibrate: bool = Field(
        default=True, description="set the limits from the data set's drawn truths where it has them"
    )
    sample: int = Field(
        default=512, ge=8, le=20000, description="pairs with a drawn truth that the calibration measures"
    )
    keep_good: float = Field(
        default=0.98, ge=0.5, lt=1, description="share of the drawn truths that must not be graded C"
    )
    thresholds: Thresholds = Field(
        default_factory=Thresholds, description="the limits, or what the calibration starts from"
    )
