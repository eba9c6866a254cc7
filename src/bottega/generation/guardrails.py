"""Guardrails: from what a person asks to what a model can draw well, with every change named.

`resolve` fills what is left open, from the preset and then from the profile, and brings values within the profile's
limits. A value that differs from the one asked for always comes with a `Correction`; a value that is allowed but not
recommended gets a sentence from `advise`, and stays.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from bottega.generation.profiles import Limit, Pixels, Profile, ProfilePreset, QualityTags, choose_profile
from bottega.generation.records import Correction, GenerationRequest, LoRASpec, PictureSettings, PredictionType
from bottega.runtime.errors import RequestError

__all__ = ["advise", "choose_profile", "resolve", "used_loras"]

SEEDS = 2**32
"""Seeds are drawn below this: AUTOMATIC1111's interface takes no larger ones."""

_WEIGHTS = ("weight", "unet", "text_encoder", "text_encoder_2")


def resolve(
    request: GenerationRequest,
    profile: Profile,
    *,
    prediction_type: PredictionType,
    image_size: tuple[int, int] | None = None,
) -> tuple[PictureSettings, list[Correction]]:
    """What a picture is drawn with, and all that differs from what was asked.

    Args:
        request: with its mode: correct, strict or off.
        profile: of the model.
        prediction_type: what the network predicts, as measured or stated; the request may say otherwise.
        image_size: width and height of the picture to start from, which sides that are left open follow.

    Raises:
        RequestError: the preset is unknown. In every mode: a shape so long that no correction could keep it, LoRAs
            for a model that takes none. In `strict`: anything that `correct` would change, all of it in the message. In
            `off`: what the model cannot do at all.
    """
    found = _Findings()
    preset = _preset(request, profile)
    width, height = _sides(request, profile.pixels, preset, image_size, found)
    settings = PictureSettings(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        width=width,
        height=height,
        steps=int(_number("steps", request.steps, preset.steps, profile.steps, found)),
        guidance_scale=_number(
            "guidance_scale", request.guidance_scale, preset.guidance_scale, profile.guidance_scale, found
        ),
        guidance_rescale=_number("guidance_rescale", request.guidance_rescale, None, profile.guidance_rescale, found),
        sampler=_sampler(request, preset, profile, found),
        seed=secrets.randbelow(SEEDS) if request.seed is None else request.seed,
        count=request.count,
        clip_skip=_clip_skip(request, profile, found),
        strength=_strength(request, profile, found),
        prediction_type=prediction_type if request.prediction_type == "auto" else request.prediction_type,
        profile=profile.name,
    )
    _correct_loras(request, profile, found)
    if request.guardrails == "correct":
        return _with_tags(settings, request, profile, found), found.corrections
    found.refuse(request.guardrails)
    # Off, and nothing refused: the values stand as they were asked for.
    return _as_asked(settings, request, _asked_sides(request, preset, image_size)), []


@dataclass
class _Findings:
    """What would be changed; `impossible` names the fields that the model cannot draw with as they were asked."""

    corrections: list[Correction] = field(default_factory=list)
    impossible: set[str] = field(default_factory=set)

    def add(self, correction: Correction, *, impossible: bool = False) -> None:
        self.corrections.append(correction)
        if impossible:
            self.impossible.add(correction.field)

    def refuse(self, mode: str) -> None:
        """Raise RequestError for all that a mode does not let pass."""
        refused = [each for each in self.corrections if mode == "strict" or each.field in self.impossible]
        if refused:
            listed = "; ".join(map(str, refused))
            rule = "outside the profile's limits" if mode == "strict" else "impossible for this model"
            raise RequestError(
                f"guardrails {mode}: {len(refused)} values are {rule}: {listed}; take the values after the arrows, or "
                "let the guardrails correct them"
            )


def _preset(request: GenerationRequest, profile: Profile) -> ProfilePreset:
    if request.preset is None:
        return ProfilePreset(mark="official", source="no preset")
    preset = profile.presets.get(request.preset)
    if preset is None:
        known = ", ".join(profile.presets) or "none"
        raise RequestError(f"the profile {profile.name} has no preset {request.preset!r}; it has {known}")
    return preset


# --- numbers -----------------------------------------------------------------------------------------------------


def _number(name: str, asked: float | None, preset: float | None, limit: Limit, found: _Findings) -> float:
    if asked is None:
        return limit.default if preset is None else preset
    used = limit.correct(asked)
    if used != asked:
        whole = int(used) if isinstance(asked, int) and used == int(used) else used
        found.add(Correction(name, asked, whole, _outside(limit)))
        return whole
    return asked


def _outside(limit: Limit) -> str:
    low, high = limit.allowed
    text = f"{low:g} to {high:g} is allowed"
    if limit.recommended is not None and limit.recommended != limit.allowed:
        text += f", {limit.recommended[0]:g} to {limit.recommended[1]:g} recommended"
    return f"{text} ({limit.mark}: {limit.source})"


def _strength(request: GenerationRequest, profile: Profile, found: _Findings) -> float | None:
    if request.image is None:
        if request.strength is not None:
            why = "a picture that begins with noise has no strength"
            found.add(Correction("strength", request.strength, None, why), impossible=True)
        return None
    return _number("strength", request.strength, None, profile.strength, found)


def used_loras(request: GenerationRequest, profile: Profile) -> tuple[LoRASpec, ...]:
    """The LoRAs of a request with the weights that are used; `resolve` says what differs.

    Raises:
        RequestError: the model takes no LoRAs.
    """
    if request.guardrails == "off":
        return request.loras
    return _correct_loras(request, profile, _Findings())


def _correct_loras(request: GenerationRequest, profile: Profile, found: _Findings) -> tuple[LoRASpec, ...]:
    limit = profile.lora_weight
    if not request.loras:
        return ()
    if limit is None:
        raise RequestError(
            f"a model of the profile {profile.name} takes no LoRAs, received {len(request.loras)}; leave them out"
        )
    used = []
    for number, lora in enumerate(request.loras):
        changes: dict[str, float] = {}
        for name in _WEIGHTS:
            asked: float | None = getattr(lora, name)
            if asked is None:
                continue
            weight = _lora_weight(asked, limit)
            if weight != asked:
                found.add(Correction(f"loras[{number}].{name}", asked, weight, _outside(limit)))
                changes[name] = weight
        used.append(lora.model_copy(update=changes))
    return tuple(used)


def _lora_weight(asked: float, limit: Limit) -> float:
    """A weight within the limits. The sign stays, for a slider is turned around by it, and 0 switches a part off."""
    if asked == 0:
        return asked
    return math.copysign(limit.correct(abs(asked)), asked)


# --- names -------------------------------------------------------------------------------------------------------


def _sampler(request: GenerationRequest, preset: ProfilePreset, profile: Profile, found: _Findings) -> str:
    rule = profile.sampler
    if request.sampler is None:
        return preset.sampler or rule.default
    if rule.allowed is not None and request.sampler not in rule.allowed:
        why = f"the family is drawn with {', '.join(rule.allowed)} only ({rule.mark}: {rule.source})"
        found.add(Correction("sampler", request.sampler, rule.default, why))
        return rule.default
    return request.sampler


def _clip_skip(request: GenerationRequest, profile: Profile, found: _Findings) -> int:
    rule = profile.clip_skip
    if request.clip_skip is None:
        return rule.default
    low, high = rule.allowed
    used = min(max(request.clip_skip, low), high)
    if used != request.clip_skip:
        found.add(Correction("clip_skip", request.clip_skip, used, rule.why), impossible=True)
    return used


# --- sides -------------------------------------------------------------------------------------------------------


def _sides(
    request: GenerationRequest,
    pixels: Pixels,
    preset: ProfilePreset,
    image_size: tuple[int, int] | None,
    found: _Findings,
) -> tuple[int, int]:
    asked = _asked_sides(request, preset, image_size)
    if asked is None:
        return pixels.default
    width, height = asked
    if request.guardrails == "off":
        pixels = pixels.model_copy(update=_ANY_AREA)
    elif max(asked) > pixels.aspect * min(asked):
        raise RequestError(
            f"{width} × {height}: the longer side is at most {pixels.aspect:g} times the shorter for this model "
            f"({pixels.mark}: {pixels.source}); ask for a less long shape"
        )
    used = fit_sides(width, height, pixels)
    why = _why_other_sides(width, height, pixels)
    impossible = width % pixels.multiple != 0 or height % pixels.multiple != 0
    for name, before, after in (("width", width, used[0]), ("height", height, used[1])):
        if before != after:
            found.add(Correction(name, before, after, why), impossible=impossible)
    return used


_ANY_AREA = {"least": 1, "below": None, "most": 2**20, "short_side": None}
"""What `off` leaves of the limits: the multiple alone."""


def _asked_sides(
    request: GenerationRequest, preset: ProfilePreset, image_size: tuple[int, int] | None
) -> tuple[int, int] | None:
    """The sides that a request means; None where it leaves both open. One side alone means a square."""
    if request.width is not None or request.height is not None:
        one = request.width or request.height
        assert one is not None
        return request.width or one, request.height or one
    if image_size is not None:
        return image_size
    if preset.width is not None and preset.height is not None:
        return preset.width, preset.height
    return None


class _Candidate(NamedTuple):
    """A pair of sides, and how far it is from what was wanted; the least in this order is taken."""

    outside: bool
    aspect_error: float
    size_error: float
    width: int
    height: int


def fit_sides(width: int, height: int, pixels: Pixels) -> tuple[int, int]:
    """The sides with which a model draws a picture of that shape.

    Both sides are scaled alike, so that the shape stays; then the multiples around them are compared, first for being
    within the limits, then for the shape, then for the size.

    Args:
        width: asked for, in pixels.
        height: likewise.
        pixels: the limits.
    """
    scale = _scale(width, height, pixels)
    wanted_width, wanted_height = width * scale, height * scale
    if scale == 1.0 and width % pixels.multiple == 0 and height % pixels.multiple == 0:
        return width, height
    candidates = []
    for across in _multiples(wanted_width, pixels.multiple):
        for down in _multiples(wanted_height, pixels.multiple):
            candidates.append(
                _Candidate(
                    outside=_scale(across, down, pixels) != 1.0,
                    aspect_error=abs(math.log(across * height / (down * width))),
                    size_error=abs(math.log(across * down / (wanted_width * wanted_height))),
                    width=across,
                    height=down,
                )
            )
    best = min(candidates)
    return best.width, best.height


def _scale(width: int, height: int, pixels: Pixels) -> float:
    """The factor on both sides that brings a picture within the limits; exactly 1 where it is."""
    area = width * height
    short = min(width, height)
    if area < pixels.least**2 or (pixels.short_side is not None and short < pixels.short_side):
        scale = (pixels.below or pixels.least) / math.sqrt(area)
        if pixels.short_side is not None:
            scale = max(scale, pixels.short_side / short)
        # A long shape may need more for its short side than its area may have: the area, which is memory, wins.
        return min(scale, pixels.most / math.sqrt(area))
    if area > pixels.most**2:
        return pixels.most / math.sqrt(area)
    return 1.0


def _multiples(wanted: float, multiple: int) -> list[int]:
    """The multiples around a side, two on each side of it."""
    below = math.floor(wanted / multiple)
    numbers = range(max(1, below - 1), below + 3)
    return [number * multiple for number in numbers]


def _why_other_sides(width: int, height: int, pixels: Pixels) -> str:
    scale = _scale(width, height, pixels)
    if scale == 1.0:
        return f"sides are multiples of {pixels.multiple}"
    if scale < 1.0:
        rule = f"at most the area of {pixels.most}² pixels"
    elif pixels.short_side is not None:
        rule = f"the shorter side has at least {pixels.short_side} pixels"
    else:
        rule = f"at least the area of {pixels.least}² pixels"
    return f"{rule}; both sides are scaled alike ({pixels.mark}: {pixels.source})"


# --- tags --------------------------------------------------------------------------------------------------------


def _with_tags(
    settings: PictureSettings, request: GenerationRequest, profile: Profile, found: _Findings
) -> PictureSettings:
    tags = profile.quality_tags
    if tags is None or not request.quality_tags:
        return settings
    why = f"quality tags of the family, at the {tags.place} ({tags.mark}: {tags.source})"
    prompt = add_tags(request.prompt, tags)
    if prompt != request.prompt:
        found.add(Correction("prompt", request.prompt, prompt, why))
    negative = request.negative_prompt
    if tags.negative and not negative.strip():
        negative = ", ".join(tags.negative)
        found.add(
            Correction("negative_prompt", request.negative_prompt, negative, "the family's own, as none was given")
        )
    return replace(settings, prompt=prompt, negative_prompt=negative)


def add_tags(prompt: str, tags: QualityTags) -> str:
    """A prompt with the tags that it lacks, in the family's order and place; a tag that is there is never doubled.

    Tags that already lead (or end) the prompt are put in order with the new ones; all other text stays as it is.
    """
    lacking = _lacking_tags(prompt, tags)
    if not lacking:
        return prompt
    segments = split_prompt(prompt)
    order = [_plain_tag(tag) for tag in tags.prompt]

    # 1. The tags that stand at the family's place already, and the rest of the prompt.
    if tags.place == "front":
        begin, end = 0, _run_of_tags(segments, order)
        rest = segments[end:]
    else:
        begin, end = len(segments) - _run_of_tags(segments[::-1], order), len(segments)
        rest = segments[:begin]
    own = [text.strip() for text in segments[begin:end]]

    # 2. Both together again. The rest is joined with the comma that it was parted by: inside, a person's text keeps its
    # spaces and its lines.
    block = ", ".join(sorted([*own, *lacking], key=lambda text: order.index(_plain_tag(text))))
    body = ",".join(rest).strip().strip(",").strip()
    if not body:
        return block
    return f"{block}, {body}" if tags.place == "front" else f"{body}, {block}"


def _lacking_tags(prompt: str, tags: QualityTags) -> list[str]:
    """The family's tags that a prompt lacks; a rating is not lacking where the prompt has one of its own."""
    # Looked for inside brackets too: `(masterpiece, best quality:1.2)` has both.
    there = {_plain_tag(piece) for piece in re.split(r"[,\n]", prompt)}
    lacking = []
    for tag in tags.prompt:
        if _plain_tag(tag) not in there and not _rated_otherwise(tag, there, tags):
            lacking.append(tag)
    return lacking


def _rated_otherwise(tag: str, there: set[str], tags: QualityTags) -> bool:
    """Whether a tag is a rating and the prompt has one of its own."""
    ratings = {_plain_tag(rating) for rating in tags.ratings}
    return _plain_tag(tag) in ratings and bool(ratings & there)


def _run_of_tags(segments: list[str], order: list[str]) -> int:
    """How many segments from the beginning are quality tags."""
    count = 0
    for segment in segments:
        if _plain_tag(segment) not in order:
            break
        count += 1
    return count


def split_prompt(prompt: str) -> list[str]:
    """A prompt's parts between commas, except for commas inside brackets; a bracket after a backslash is plain text."""
    parts: list[str] = []
    start = depth = 0
    escaped = False
    for place, letter in enumerate(prompt):
        if escaped:
            escaped = False
            continue
        escaped = letter == "\\"
        depth += (letter in "([") - (letter in ")]" and depth > 0)
        if letter == "," and depth == 0:
            parts.append(prompt[start:place])
            start = place + 1
    parts.append(prompt[start:])
    return parts if prompt.strip() else []


def _plain_tag(text: str) -> str:
    """A tag without its brackets and weight: `(Best_Quality:1.2)` is `best quality`."""
    bare = text.strip().strip("()[]{}").strip()
    name, colon, weight = bare.rpartition(":")
    if colon and weight.strip().replace(".", "", 1).isdigit():
        bare = name
    return " ".join(bare.lower().replace("_", " ").split())


# --- off, and advice ---------------------------------------------------------------------------------------------


def _as_asked(settings: PictureSettings, request: GenerationRequest, sides: tuple[int, int] | None) -> PictureSettings:
    """The settings with every value that a request names, uncorrected."""
    named = ("steps", "guidance_scale", "guidance_rescale", "sampler", "clip_skip")
    given = {name: getattr(request, name) for name in named if getattr(request, name) is not None}
    if request.image is not None and request.strength is not None:
        given["strength"] = request.strength
    if sides is not None:
        given["width"], given["height"] = sides
    return replace(settings, **given)


def advise(settings: PictureSettings, profile: Profile, loras: Iterable[LoRASpec] = ()) -> list[str]:
    """A sentence for each value that is allowed but not recommended, and for a prediction type that does not fit."""
    values: list[tuple[str, float | None, Limit | None]] = [
        ("steps", settings.steps, profile.steps),
        ("guidance_scale", settings.guidance_scale, profile.guidance_scale),
        ("guidance_rescale", settings.guidance_rescale, profile.guidance_rescale),
        ("strength", settings.strength, profile.strength),
    ]
    for lora in loras:
        values.append((f"the weight of {lora.path.name}", abs(lora.weight), profile.lora_weight))
    notes = []
    for name, value, limit in values:
        if value is not None and limit is not None:
            notes += _not_recommended(name, value, limit)
    sides = profile.pixels.recommended
    if sides is not None and not sides[0] ** 2 <= settings.width * settings.height <= sides[1] ** 2:
        notes.append(
            f"{settings.width} × {settings.height}: an area from {sides[0]}² to {sides[1]}² is recommended "
            f"({profile.pixels.mark}: {profile.pixels.source})"
        )
    if profile.prediction_types and settings.prediction_type not in profile.prediction_types:
        notes.append(
            f"the profile {profile.name} is for {' or '.join(profile.prediction_types)}, the model predicts "
            f"{settings.prediction_type}; name another with --profile"
        )
    return notes


def _not_recommended(name: str, value: float, limit: Limit) -> list[str]:
    """A sentence where a value is outside of what is recommended."""
    if limit.recommended is None:
        return []
    low, high = limit.recommended
    if low <= value <= high:
        return []
    return [f"{name} {value:g}: {low:g} to {high:g} is recommended ({limit.mark}: {limit.source})"]
