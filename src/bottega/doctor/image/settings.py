"""The settings that a picture's file says, against those that its model's family is drawn with."""

from __future__ import annotations

import math
import re

from bottega.doctor.answer import DoctorFinding, Draft
from bottega.generation.metadata import PictureMetadata
from bottega.generation.profiles import ORDER, Limit, Profile, load_profile, profile_names
from bottega.runtime.findings import Severity

_DISTILLED = re.compile(r"lightning|turbo|\blcm\b|hyper|dmd|schnell|distill", re.IGNORECASE)
"""Models and LoRAs that are drawn with in few steps and hardly any guidance."""

_V_PREDICTION = re.compile(r"v[-_ ]?pred", re.IGNORECASE)
# PixArt first: its own name goes on with XL.
_FAMILY_NAMES = (
    ("pixart_512", r"pixart.*512"),
    ("pixart_1024", r"pixart"),
    ("sdxl_base", r"sd[-_ ]?xl|xl(?![a-z])"),
)
_FAR = 1.25  # beyond a limit by this factor it is a fault, up to there a warning
_LEAST_STEPS = 4  # that img2img draws with, so that the content is not left blurred


def is_v_by_name(model: str) -> bool:
    """Whether a model's name says that it predicts v."""
    return _V_PREDICTION.search(model) is not None


# --- the family ------------------------------------------------------------------------------------------------------


def family_profile(metadata: PictureMetadata) -> Profile | None:
    """The profile of our own record, else by the model's name; None where neither says."""
    if metadata.is_empty:
        return None
    own = metadata.other.get("Profile", "")
    if own in profile_names():
        return load_profile(own)
    return _finetune_profile(metadata) or _architecture_profile(metadata)


def _finetune_profile(metadata: PictureMetadata) -> Profile | None:
    """The profile that names the model; one for v-prediction only where something says that v was predicted."""
    is_v = metadata.prediction_type == "v_prediction" or is_v_by_name(metadata.model)
    for profile in map(load_profile, ORDER):
        is_named = any(re.search(pattern, metadata.model, re.IGNORECASE) for pattern in profile.names)
        if is_named and (is_v or profile.prediction_types != ("v_prediction",)):
            return profile
    return None


def _architecture_profile(metadata: PictureMetadata) -> Profile | None:
    """The plain profile of the architecture that the model's name, or that of its base, has in it."""
    text = f"{metadata.model} {metadata.other.get('base', '')}"
    for name, pattern in _FAMILY_NAMES:
        if re.search(pattern, text, re.IGNORECASE):
            return load_profile(name)
    return None


# --- the settings ----------------------------------------------------------------------------------------------------


def judge_settings(metadata: PictureMetadata, profile: Profile | None, draft: Draft) -> list[DoctorFinding]:
    """Settings outside of what the model's family is drawn with.

    Args:
        metadata: of the picture.
        profile: of the family, as `family_profile` found it.
        draft: what could not be judged is noted there; the findings are not.
    """
    if metadata.is_empty:
        draft.leave_out("settings", "the file says nothing of how it was made")
        return []
    if profile is None:
        why = "no model named"
        if metadata.model:
            why = f"the model {metadata.model!r} is of no family known by its name"
        draft.leave_out("settings", why)
        return []
    found = [_size(metadata, profile), _sampler(metadata, profile), _prediction(metadata, profile)]
    if _is_distilled(metadata):
        draft.leave_out("guidance and steps", "a distilled model or LoRA has limits of its own")
    else:
        found += [_guidance(metadata, profile), _steps(metadata, profile)]
    found.append(_img2img_steps(metadata))
    return [finding for finding in found if finding is not None]


def _is_distilled(metadata: PictureMetadata) -> bool:
    """Whether the model, its sampler or a LoRA is named as what draws in few steps."""
    names = [metadata.model, metadata.our_sampler or ""]
    names += [lora.name for lora in metadata.loras]
    return any(map(_DISTILLED.search, names))


def _size(metadata: PictureMetadata, profile: Profile) -> DoctorFinding | None:
    if metadata.width is None or metadata.height is None:
        return None
    side = math.sqrt(metadata.width * metadata.height)
    size = f"{metadata.width}x{metadata.height}"
    least, most = profile.pixels.least, profile.pixels.most
    if side < least:
        severity = Severity.ERROR if side * _FAR < least else Severity.WARNING
        evidence = f"{size} was asked for, and {profile.title} draw from {least}² on: below, objects fall apart"
        width, height = profile.pixels.default
        return DoctorFinding("too small", severity, evidence, f"ask for {width}x{height}, and scale down afterwards")
    if side > most:
        evidence = f"{size} was asked for, and {profile.title} draw up to {most}²: beyond, objects repeat"
        return DoctorFinding("too large", Severity.WARNING, evidence, f"draw at {most}² at most, then upscale")
    return None


def _guidance(metadata: PictureMetadata, profile: Profile) -> DoctorFinding | None:
    value = metadata.guidance_scale
    limit = profile.guidance_scale
    if value is None:
        return None
    is_far = value > limit.allowed[1] * _FAR
    return _outside(
        "guidance", value, limit, profile.title, "burns colours", "leaves the prompt out", is_far_above=is_far
    )


def _steps(metadata: PictureMetadata, profile: Profile) -> DoctorFinding | None:
    if metadata.steps is None:
        return None
    # More steps than needed are no fault, however many.
    return _outside(
        "steps",
        metadata.steps,
        profile.steps,
        profile.title,
        "costs time and gains nothing",
        "leaves it unfinished",
        is_far_above=False,
    )


def _outside(
    what: str, value: float, limit: Limit, title: str, too_high: str, too_low: str, *, is_far_above: bool
) -> DoctorFinding | None:
    """A number outside of its limit, with what comes of it. is_far_above: it is so high that this is a fault."""
    low, high = limit.allowed
    if low <= value <= high:
        return None
    evidence = f"{what} {value:g}, and {title} are drawn with {low:g} to {high:g}"
    is_far = is_far_above or value * _FAR < low
    severity = Severity.ERROR if is_far else Severity.WARNING
    cure = f"{what} {limit.correct(value):g}"
    if value > high:
        return DoctorFinding(f"{what} too high", severity, f"{evidence}: {too_high}", cure)
    return DoctorFinding(f"{what} too low", severity, f"{evidence}: {too_low}", cure)


def _sampler(metadata: PictureMetadata, profile: Profile) -> DoctorFinding | None:
    sampler = metadata.our_sampler
    allowed = profile.sampler.allowed
    if sampler is None:
        return None
    if allowed is not None and sampler not in allowed:
        evidence = f"sampler {sampler}, and {profile.title} are drawn with {', '.join(allowed)}"
        return DoctorFinding("other sampler", Severity.WARNING, evidence, f"sampler {profile.sampler.default}")
    is_v = profile.prediction_types == ("v_prediction",) or metadata.prediction_type == "v_prediction"
    if is_v and sampler.endswith(("_karras", "euler_a")):
        evidence = (
            f"sampler {sampler} with a v-prediction model, whose noise goes on to zero signal: Karras's "
            "spacing and added noise leave blotches there"
        )
        return DoctorFinding("other sampler", Severity.WARNING, evidence, "sampler euler, rescale 0.7")
    return None


def _prediction(metadata: PictureMetadata, profile: Profile) -> DoctorFinding | None:
    said, kinds = metadata.prediction_type, profile.prediction_types
    if said is not None and kinds and said not in kinds:
        evidence = f"sampled as {said}, and {profile.title} predict {' or '.join(kinds)}"
        return DoctorFinding("other prediction type", Severity.ERROR, evidence, f"--prediction-type {kinds[0]}")
    if said == "epsilon" and is_v_by_name(metadata.model):
        evidence = f"sampled as epsilon, and the model's name {metadata.model!r} says v-prediction"
        return DoctorFinding("other prediction type", Severity.ERROR, evidence, "--prediction-type v_prediction")
    return None


def _img2img_steps(metadata: PictureMetadata) -> DoctorFinding | None:
    if metadata.strength is None or metadata.steps is None:
        return None
    run = round(metadata.steps * metadata.strength)
    if run >= _LEAST_STEPS:
        return None
    evidence = (
        f"strength {metadata.strength:g} of {metadata.steps} steps leaves {run} to draw with: "
        "the content comes back blurred"
    )
    return DoctorFinding("too few steps", Severity.WARNING, evidence, "more steps, or a higher strength")
